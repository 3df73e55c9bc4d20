//! Sidecars of a model, joined with the allocator by connections that delay and lose.

use std::collections::VecDeque;

use fastrand::Rng;

use super::*;

/// A connection: what is on its way, in both directions. Each end may believe it open while the other does not.
#[derive(Debug, Default)]
struct Wire {
    /// As the allocator knows it.
    stream: Option<u64>,
    up: VecDeque<LeaseRequest>,
    down: VecDeque<Grant>,
    broken: bool,
}

/// What a sidecar does, without sockets.
#[derive(Debug)]
struct Sidecar {
    id: SidecarId,
    wire: Option<usize>,
    sequence: u64,
    applied: u64,
    /// When each request was sent.
    sent: Vec<Instant>,
    share: u32,
    fallback: u32,
    /// Of the lease; None = never had one.
    until: Option<Instant>,
    last_grant: Instant,
    renewed: Instant,
    used: u32,
    demand: u32,
    began: Instant,
    /// It helped itself to one, as no grant came in time, and what is in use has not been within the limit since.
    helped_itself: bool,
}

/// After so long without a first grant a sidecar takes one.
const GRACE: Duration = Duration::from_secs(2);

impl Sidecar {
    fn new(name: &str, process: u64, now: Instant) -> Self {
        Self {
            id: SidecarId {
                node: name.into(),
                process,
            },
            wire: None,
            sequence: 0,
            applied: 0,
            sent: Vec::new(),
            share: 0,
            fallback: 0,
            until: None,
            last_grant: now,
            renewed: now,
            used: 0,
            demand: 0,
            began: now,
            helped_itself: false,
        }
    }

    fn limit(&self, now: Instant) -> u32 {
        match self.until {
            None => u32::from(now >= self.began + GRACE),
            Some(until) if now < until => self.share,
            Some(_) if now < self.last_grant + 3 * TTL => self.share.min(self.fallback),
            Some(_) => self.fallback,
        }
    }

    /// Uses what it may and wants; what is in use above its limit ends now and then.
    fn work(&mut self, now: Instant, rng: &mut Rng) {
        let limit = self.limit(now);
        if self.used > limit || self.used > self.demand {
            self.used -= u32::from(rng.bool());
        }
        if self.used < limit {
            self.used = self.demand.min(limit).max(self.used);
        }
    }

    fn report(&self, now: Instant) -> Report {
        // To begin a stream after its lease, it says what it comes to by itself.
        let over = self.sequence == 1 && self.until.is_some_and(|until| now >= until);
        let own = if over { self.fallback } else { 0 };
        Report {
            in_use: self.used,
            wanted: self.demand,
            held: self.limit(now).max(self.used).max(own),
            fallback: self.fallback,
            first: self.until.is_none(),
        }
    }
}

#[derive(Debug)]
struct World {
    start: Instant,
    now: Instant,
    limit: u32,
    allocator: Allocator,
    sidecars: Vec<Sidecar>,
    wires: Vec<Wire>,
    inherited: bool,
}

fn key() -> PoolKey {
    PoolKey {
        cluster: "outbound|80||reviews".into(),
        rule: "DestinationRule default/reviews".into(),
        kind: Kind::Requests,
    }
}

impl World {
    fn new(limit: u32) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            limit,
            allocator: Allocator::new(start),
            sidecars: Vec::new(),
            wires: Vec::new(),
            inherited: false,
        }
    }

    fn with(limit: u32, count: usize) -> Self {
        let mut world = Self::new(limit);
        for n in 0..count {
            world.join(&format!("s{n:02}"), n as u64);
        }
        world.settle();
        world
    }

    fn join(&mut self, name: &str, process: u64) {
        self.sidecars.push(Sidecar::new(name, process, self.now));
        self.connect(self.sidecars.len() - 1);
    }

    /// A new connection; what the sidecar had is not read any more.
    fn connect(&mut self, of: usize) {
        self.wires.push(Wire::default());
        let sidecar = &mut self.sidecars[of];
        sidecar.wire = Some(self.wires.len() - 1);
        (sidecar.sequence, sidecar.applied) = (0, 0);
        sidecar.sent.clear();
        self.send(of, true);
    }

    fn send(&mut self, of: usize, renew: bool) {
        let sidecar = &mut self.sidecars[of];
        let Some(wire) = sidecar.wire else { return };
        sidecar.sequence += 1;
        sidecar.sent.push(self.now);
        if renew {
            sidecar.renewed = self.now;
        }
        let request = LeaseRequest {
            sequence: sidecar.sequence,
            applied: sidecar.applied,
            renew,
            uses: vec![(key(), sidecar.report(self.now))],
            released: Vec::new(),
        };
        self.wires[wire].up.push_back(request);
    }

    /// The control plane reads one request of a wire.
    fn read(&mut self, wire: usize, of: &SidecarId) {
        let Some(request) = self.wires[wire].up.pop_front() else {
            return;
        };
        let stream = match self.wires[wire].stream {
            Some(stream) => stream,
            None => self.allocator.open(of, self.now),
        };
        self.wires[wire].stream = Some(stream);
        self.allocator.set_limit(&key(), self.limit, self.inherited);
        let read = self.allocator.request(of, stream, request, self.now);
        self.wires[wire].broken |= read.is_err();
        self.answer();
    }

    fn answer(&mut self) {
        for id in self.allocator.advance(self.now) {
            for wire in &mut self.wires {
                let grant = wire
                    .stream
                    .and_then(|stream| self.allocator.grant(&id, stream, self.now));
                wire.down.extend(grant);
            }
        }
    }

    /// A sidecar reads one grant.
    fn apply(&mut self, of: usize) {
        let sidecar = &mut self.sidecars[of];
        let Some(wire) = sidecar.wire else { return };
        let Some(grant) = self.wires[wire].down.pop_front() else {
            return;
        };
        sidecar.applied = grant.sequence;
        sidecar.last_grant = self.now;
        let sent = sidecar.sent[usize::try_from(grant.answers).unwrap() - 1];
        let until = sidecar
            .until
            .map_or(sent + TTL, |until| until.max(sent + TTL));
        sidecar.until = Some(until);
        for (_, share) in grant.shares {
            (sidecar.share, sidecar.fallback) = (share.share, share.fallback);
        }
        self.send(of, false);
    }

    /// What every sidecar does by itself as time goes by.
    fn pass(&mut self, time: Duration, rng: &mut Rng) {
        self.now += time;
        for of in 0..self.sidecars.len() {
            let now = self.now;
            let sidecar = &mut self.sidecars[of];
            let before = sidecar.used;
            sidecar.work(now, rng);
            let freed = sidecar.used < before;
            if sidecar.wire.is_some() && now >= sidecar.renewed + TTL / 2 {
                self.send(of, true);
            } else if freed {
                self.send(of, false);
            }
        }
    }

    /// Delivers everything until nothing happens any more.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut quiet = true;
            for of in 0..self.sidecars.len() {
                let Some(wire) = self.sidecars[of].wire else {
                    continue;
                };
                let id = self.sidecars[of].id.clone();
                while !self.wires[wire].up.is_empty() {
                    quiet = false;
                    self.read(wire, &id);
                }
            }
            self.answer();
            for of in 0..self.sidecars.len() {
                while self.sidecars[of]
                    .wire
                    .is_some_and(|wire| !self.wires[wire].down.is_empty())
                {
                    quiet = false;
                    self.apply(of);
                }
            }
            if quiet {
                return;
            }
        }
        panic!("never at rest: {}", self.picture());
    }

    /// Everything delivered, time passing, demand told.
    fn run(&mut self, rounds: usize) {
        let mut rng = Rng::with_seed(1);
        for _ in 0..rounds {
            self.pass(Duration::from_millis(500), &mut rng);
            for of in 0..self.sidecars.len() {
                self.send(of, true);
            }
            self.settle();
        }
    }

    fn shares(&self) -> Vec<u32> {
        self.sidecars.iter().map(|s| s.limit(self.now)).collect()
    }

    fn believed(&self) -> u32 {
        self.shares().iter().sum()
    }

    /// How much `held` may exceed the limit: by one for each new sidecar that waited for its first grant for too long,
    /// until all of that was given back once.
    fn excess(&mut self, held: u64) -> u64 {
        let limit = u64::from(self.limit);
        for sidecar in &mut self.sidecars {
            let waits = sidecar.until.is_none();
            let helps = waits && sidecar.limit(self.now) > 0;
            sidecar.helped_itself |= helps;
            if held <= limit {
                sidecar.helped_itself &= waits;
            }
        }
        let helped = self.sidecars.iter().filter(|s| s.helped_itself).count();
        u64::try_from(helped).unwrap()
    }

    fn picture(&self) -> String {
        let since = |at: Instant| at.duration_since(self.start).as_secs_f64();
        let mut lines = format!("now {:.1}\n", since(self.now));
        for sidecar in &self.sidecars {
            lines += &format!(
                "{:?} limit {} share {} fallback {} until {:?} last grant {:.1} wire {:?}\n",
                sidecar.id,
                sidecar.limit(self.now),
                sidecar.share,
                sidecar.fallback,
                sidecar.until.map(since),
                since(sidecar.last_grant),
                sidecar.wire,
            );
        }
        for (id, session) in &self.allocator.sessions {
            let member = self.allocator.pools.get(&key());
            let member = member.and_then(|pool| pool.members.get(id));
            lines += &format!(
                "{id:?} expires {:.1} lost {} open {} outstanding {} {member:?}\n",
                since(session.expires),
                session.lost,
                session.open,
                session.outstanding
            );
        }
        lines
    }

    fn restart(&mut self) {
        self.allocator = Allocator::new(self.now);
        self.inherited = true;
        for wire in &mut self.wires {
            *wire = Wire {
                broken: true,
                ..Wire::default()
            };
        }
    }
}

#[test]
fn sidecars_without_demand_have_fair_shares_and_the_first_the_remainder() {
    let world = World::with(10, 3);
    assert_eq!(world.shares(), [4, 3, 3]);
    let fallbacks: Vec<u32> = world.sidecars.iter().map(|s| s.fallback).collect();
    assert_eq!(fallbacks, [4, 3, 3]);
}

#[test]
fn who_alone_has_demand_gets_everything_but_what_the_idle_keep_in_two_rounds() {
    let mut world = World::with(100, 20);
    world.sidecars[3].demand = u32::MAX;
    world.send(3, true);
    let id = world.sidecars[3].id.clone();
    // The first round calls back.
    world.read(world.sidecars[3].wire.unwrap(), &id);
    world.answer();
    for of in 0..20 {
        world.apply(of);
    }
    assert_eq!(world.shares()[3], 5);
    // The second gives.
    for of in 0..20 {
        let id = world.sidecars[of].id.clone();
        world.read(world.sidecars[of].wire.unwrap(), &id);
    }
    world.settle();
    assert_eq!(world.shares()[3], 81);
    assert_eq!(world.believed(), 100);
}

#[test]
fn what_was_lent_comes_back_when_its_owner_wants_it() {
    let mut world = World::with(100, 4);
    world.sidecars[0].demand = 1000;
    world.run(3);
    assert_eq!(world.shares(), [85, 5, 5, 5]);
    world.sidecars[2].demand = 1000;
    world.run(100);
    assert_eq!(world.shares(), [45, 5, 45, 5]);
    world.sidecars[0].demand = 0;
    world.sidecars[1].demand = 1000;
    world.run(200);
    assert_eq!(world.shares()[1], 45);
    assert_eq!(world.shares()[2], 45);
}

#[test]
fn what_is_called_back_is_given_to_others_only_once_it_is_not_in_use() {
    let mut world = World::with(10, 2);
    world.sidecars[0].demand = 10;
    world.run(3);
    assert_eq!((world.shares(), world.sidecars[0].used), (vec![9, 1], 9));
    world.sidecars[1].demand = 10;
    world.send(1, true);
    world.settle();
    assert_eq!(world.shares(), [5, 1], "9 are still in use");
    world.sidecars[0].used = 6;
    world.send(0, false);
    world.settle();
    assert_eq!(world.shares(), [5, 4]);
}

#[test]
fn a_silent_sidecars_share_is_free_when_its_lease_is_over_and_its_fallback_when_it_is_forgotten() {
    let mut world = World::with(100, 2);
    world.sidecars[0].demand = 1000;
    world.sidecars[1].demand = 1000;
    world.run(2);
    assert_eq!(world.shares(), [50, 50]);
    world.sidecars[1].demand = 0;
    world.run(200);
    assert_eq!(world.shares(), [90, 10]);
    // The second falls silent: its fallback of 50 is kept for it.
    world.sidecars[1].wire = None;
    world.run(25);
    assert_eq!(world.shares()[0], 50);
    assert_eq!(world.allocator.counts().expired, 1);
    world.run(150);
    assert_eq!(world.shares()[0], 100);
}

#[test]
fn a_goodbye_frees_everything_at_once() {
    let mut world = World::with(100, 2);
    world.sidecars[0].demand = 1000;
    let gone = world.sidecars.pop().unwrap();
    let stream = world.wires[gone.wire.unwrap()].stream.unwrap();
    world.allocator.close(&gone.id, stream, true);
    world.run(1);
    assert_eq!(world.shares(), [100]);
}

#[test]
fn a_new_process_of_a_node_takes_the_place_of_the_old_one() {
    let mut world = World::with(100, 2);
    world.sidecars[0].demand = 1000;
    let dead = world.sidecars.pop().unwrap();
    let stream = world.wires[dead.wire.unwrap()].stream.unwrap();
    world.allocator.close(&dead.id, stream, false);
    world.join("s01", 77);
    world.settle();
    world.run(2);
    assert_eq!(world.shares(), [90, 10]);
}

#[test]
fn without_the_control_plane_everybody_falls_back_and_the_sum_never_exceeds_the_limit() {
    let mut world = World::with(100, 20);
    world.sidecars[7].demand = 1000;
    world.run(3);
    assert_eq!(world.shares()[7], 81);
    for sidecar in &mut world.sidecars {
        sidecar.wire = None;
    }
    let mut rng = Rng::with_seed(3);
    for _ in 0..80 {
        world.pass(Duration::from_millis(500), &mut rng);
        assert!(world.believed() <= 100, "{:?}", world.shares());
    }
    assert_eq!(world.shares(), [5; 20]);
}

#[test]
fn a_restarted_control_plane_takes_over_what_there_is_and_changes_it_when_old_leases_are_over() {
    let mut world = World::with(100, 4);
    world.sidecars[0].demand = 1000;
    world.run(3);
    world.restart();
    for of in 0..4 {
        world.connect(of);
    }
    world.settle();
    assert_eq!(
        world.shares(),
        [25, 5, 5, 5],
        "what was borrowed is returned"
    );
    world.sidecars[1].demand = 1000;
    world.run(10);
    assert_eq!(
        world.shares(),
        [25, 5, 5, 5],
        "somebody else may hold a lease"
    );
    world.run(200);
    assert_eq!(world.shares(), [45, 45, 5, 5]);
}

#[test]
fn after_a_restart_what_late_sidecars_fall_back_to_is_kept_for_them() {
    let mut world = World::with(100, 3);
    world.restart();
    for sidecar in &mut world.sidecars {
        sidecar.wire = None;
        sidecar.demand = u32::MAX;
    }
    world.connect(0);
    world.settle();
    // The two others cannot reach the new process for as long as their leases lasted, and longer.
    let mut rng = Rng::with_seed(1);
    for _ in 0..60 {
        world.pass(Duration::from_millis(500), &mut rng);
        world.settle();
        assert!(world.believed() <= 100, "{}", world.picture());
    }
    assert_eq!(world.shares(), [34, 33, 33]);
    // One comes back, one does not: after a while its part is free.
    world.connect(1);
    world.settle();
    assert_eq!(world.shares(), [34, 33, 33]);
    world.sidecars.pop();
    world.run(200);
    assert_eq!(world.shares(), [50, 50]);
}

#[test]
fn a_control_plane_that_starts_with_the_mesh_keeps_nothing_for_nobody() {
    let mut world = World::new(100);
    world.inherited = true;
    world.join("a", 1);
    world.join("b", 2);
    world.run(25);
    assert_eq!(world.shares(), [50, 50]);
}

#[test]
fn a_sidecar_that_has_forgotten_its_share_is_told_again() {
    let mut world = World::with(100, 2);
    // Its cluster was gone and is back, between two looks: the limit is another object, without a share.
    (world.sidecars[0].until, world.sidecars[0].share) = (None, 0);
    world.sidecars[0].began = world.now;
    world.send(0, false);
    world.settle();
    assert_eq!(world.shares(), [50, 50]);
}

#[test]
fn what_is_released_and_used_again_in_one_word_is_used() {
    let mut world = World::with(100, 2);
    let wire = world.sidecars[0].wire.unwrap();
    world.send(0, false);
    world.wires[wire].up.back_mut().unwrap().released = vec![key()];
    world.settle();
    world.run(1);
    assert_eq!(world.allocator.status()[0].sidecars, 2);
    assert_eq!(world.shares(), [50, 50]);
}

#[test]
fn of_less_than_one_for_each_everybody_has_some_now_and_then() {
    let mut world = World::with(2, 5);
    for sidecar in &mut world.sidecars {
        sidecar.demand = u32::MAX;
    }
    let mut had = [false; 5];
    for _ in 0..30 {
        world.run(5);
        assert!(world.believed() <= 2);
        for (had, share) in had.iter_mut().zip(world.shares()) {
            *had |= share > 0;
        }
    }
    assert_eq!(had, [true; 5]);
}

#[test]
fn a_node_has_two_processes_at_most() {
    let mut world = World::with(100, 1);
    for process in 0..20 {
        world.join("greedy", process);
        world.settle();
    }
    world.run(2);
    assert_eq!(world.allocator.status()[0].sidecars, 3);
    assert_eq!(world.shares()[0], 33);
}

/// What a round of renewals costs. Run it with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn a_round_of_renewals_of_ten_thousand_sidecars() {
    const COUNT: u64 = 10_000;
    let mut world = World::new(100_000);
    for n in 0..COUNT {
        world
            .sidecars
            .push(Sidecar::new(&format!("s{n:05}"), n, world.now));
    }
    let (now, ids) = (world.now, world.sidecars.iter().map(|s| s.id.clone()));
    let ids: Vec<SidecarId> = ids.collect();
    let allocator = &mut world.allocator;
    let begun = Instant::now();
    let streams: Vec<u64> = ids.iter().map(|id| allocator.open(id, now)).collect();
    println!("10,000 streams opened: {:?}", begun.elapsed());
    allocator.set_limit(&key(), 100_000, false);
    let mut applied = vec![0; ids.len()];
    for round in 1..=5_u64 {
        let begun = Instant::now();
        // First all at once, until shares are even; then as many as come within one plan.
        let size = if round <= 3 { ids.len() } else { 20 };
        for (part, of) in ids.chunks(size).zip(0..) {
            for (id, n) in part.iter().zip(of * size..) {
                let report = Report {
                    held: 10,
                    in_use: 3,
                    wanted: 4,
                    fallback: 10,
                    first: false,
                };
                let request = LeaseRequest {
                    sequence: round,
                    applied: applied[n],
                    renew: true,
                    uses: vec![(key(), report)],
                    released: Vec::new(),
                };
                allocator.request(id, streams[n], request, now).unwrap();
            }
            allocator.advance(now);
            for (id, n) in part.iter().zip(of * size..) {
                if let Some(grant) = allocator.grant(id, streams[n], now) {
                    applied[n] = grant.sequence;
                }
            }
        }
        println!("round {round}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_lowered_limit_holds_as_soon_as_everybody_has_heard() {
    let mut world = World::with(100, 4);
    world.limit = 10;
    world.run(2);
    assert_eq!(world.shares(), [3, 3, 2, 2]);
    let fallbacks: Vec<u32> = world.sidecars.iter().map(|s| s.fallback).collect();
    assert_eq!(fallbacks, [3, 3, 2, 2]);
}

#[test]
fn words_of_an_old_stream_do_not_count() {
    let mut world = World::with(10, 1);
    let id = world.sidecars[0].id.clone();
    let old = world.wires[world.sidecars[0].wire.unwrap()].stream.unwrap();
    world.connect(0);
    world.settle();
    let late = world
        .allocator
        .request(&id, old, LeaseRequest::default(), world.now);
    assert_eq!(late, Err(Stale));
    assert_eq!(world.allocator.grant(&id, old, world.now), None);
    world.allocator.close(&id, old, true);
    world.run(1);
    assert_eq!(world.shares(), [10]);
}

/// Nothing is lost: then not even what is in use exceeds the limit.
#[test]
fn what_is_in_use_never_exceeds_the_limit_while_messages_arrive() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(rng.u32(1..60));
        for step in 0..600 {
            match rng.u32(0..40) {
                0 if world.sidecars.len() < 12 => {
                    world.join(&format!("s{}", rng.u32(0..1000)), step);
                }
                1..8 if !world.sidecars.is_empty() => {
                    let of = rng.usize(0..world.sidecars.len());
                    world.sidecars[of].demand = [0, 1, rng.u32(0..100), u32::MAX][rng.usize(0..4)];
                    world.send(of, false);
                }
                8..24 if !world.sidecars.is_empty() => {
                    let of = rng.usize(0..world.sidecars.len());
                    let id = world.sidecars[of].id.clone();
                    world.read(world.sidecars[of].wire.unwrap(), &id);
                }
                24..38 if !world.sidecars.is_empty() => {
                    world.apply(rng.usize(0..world.sidecars.len()));
                }
                38 => world.pass(Duration::from_millis(rng.u64(0..400)), &mut rng),
                39 => world.settle(),
                _ => {}
            }
            for sidecar in &mut world.sidecars {
                sidecar.work(world.now, &mut rng);
            }
            let held: u64 = world
                .sidecars
                .iter()
                .map(|s| u64::from(s.limit(world.now).max(s.used)))
                .sum();
            let excess = world.excess(held);
            assert!(
                held <= u64::from(world.limit) + excess,
                "seed {seed}, step {step}: {world:#?}"
            );
        }
        // Nobody starves: everybody with demand has at least its fair share in the end.
        for sidecar in &mut world.sidecars {
            sidecar.demand = u32::MAX;
        }
        world.run(100);
        let count = u32::try_from(world.sidecars.len()).unwrap().max(1);
        for share in world.shares() {
            assert!(
                share >= world.limit / count,
                "seed {seed}: {:?}",
                world.shares()
            );
        }
    }
}

/// Connections break unnoticed by either side, messages are late, the control plane restarts, processes die.
#[test]
fn the_shares_believed_in_never_exceed_the_limit_whatever_is_lost() {
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(rng.u32(1..60));
        for step in 0..1500_u64 {
            chaos(&mut world, step, &mut rng);
            let believed = u64::from(world.believed());
            let excess = world.excess(believed);
            assert!(
                believed <= u64::from(world.limit) + excess,
                "seed {seed}, step {step} at {:?}: {believed} of {} + {excess}: {}",
                world.now - world.start,
                world.limit,
                world.picture(),
            );
        }
    }
}

fn chaos(world: &mut World, step: u64, rng: &mut Rng) {
    let count = world.sidecars.len();
    let any = |rng: &mut Rng| rng.usize(0..count.max(1));
    match rng.u32(0..60) {
        0 if count < 8 => {
            let name = format!("s{}", rng.u32(0..12));
            // Two processes have one name only if the first is dead.
            if !world.sidecars.iter().any(|s| *s.id.node == *name) {
                world.join(&name, step);
            }
        }
        // A process dies; the control plane may notice.
        1 if count > 1 => {
            let dead = world.sidecars.swap_remove(any(rng));
            if let Some(stream) = dead.wire.and_then(|wire| world.wires[wire].stream) {
                match rng.u32(0..3) {
                    0 => world.allocator.close(&dead.id, stream, true),
                    1 => world.allocator.close(&dead.id, stream, false),
                    _ => {}
                }
            }
        }
        2..4 if count > 0 => {
            let of = any(rng);
            world.sidecars[of].demand = [0, 1, rng.u32(0..100), u32::MAX][rng.usize(0..4)];
            world.send(of, false);
        }
        // The sidecar loses its connection; the control plane may notice, and may still read what was sent.
        4 if count > 0 => {
            let of = any(rng);
            if let Some(wire) = world.sidecars[of].wire.take()
                && let (true, Some(stream)) = (rng.bool(), world.wires[wire].stream)
            {
                let id = world.sidecars[of].id.clone();
                world.allocator.close(&id, stream, false);
            }
        }
        5..8 if count > 0 => {
            let of = any(rng);
            if world.sidecars[of].wire.is_none() {
                world.connect(of);
            }
        }
        8 if rng.u32(0..10) == 0 => {
            world.restart();
            // One that has been there before comes back within the time in which nothing is changed, others whenever.
            world.pass(Duration::from_millis(rng.u64(0..7000)), rng);
            for sidecar in &mut world.sidecars {
                sidecar.wire = None;
            }
            let known = world.sidecars.iter().position(|s| s.until.is_some());
            for of in 0..count {
                if known == Some(of) || rng.bool() {
                    world.connect(of);
                }
            }
            world.settle();
        }
        // A connection's words are read even if its sidecar has left it.
        9..28 if !world.wires.is_empty() => {
            let latest = world.wires.len().saturating_sub(24);
            let wire = rng.usize(latest..world.wires.len());
            let of = world.sidecars.iter().find(|s| s.wire == Some(wire));
            if let Some(id) = of.map(|s| s.id.clone()) {
                world.read(wire, &id);
            }
        }
        28..46 if count > 0 => world.apply(any(rng)),
        46..56 => world.pass(Duration::from_millis(rng.u64(0..3000)), rng),
        56..58 => world.answer(),
        58..60 => world.settle(),
        _ => {}
    }
    come_back(world);
}

/// A sidecar leaves a connection on which its lease ran out, and nobody is out of reach for too long.
fn come_back(world: &mut World) {
    for of in 0..world.sidecars.len() {
        let sidecar = &world.sidecars[of];
        let over = sidecar.until.is_some_and(|until| world.now >= until);
        let refused = sidecar.wire.is_some_and(|wire| world.wires[wire].broken);
        if sidecar.wire.is_some() && (over && world.now >= sidecar.renewed + TTL || refused) {
            world.sidecars[of].wire = None;
        }
        let sidecar = &world.sidecars[of];
        if world.now >= sidecar.last_grant + FORGET - TTL {
            world.connect(of);
            let id = world.sidecars[of].id.clone();
            world.read(world.wires.len() - 1, &id);
            world.apply(of);
        }
    }
}
