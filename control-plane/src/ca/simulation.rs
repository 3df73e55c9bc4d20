//! Ten years of a mesh in seconds: roots and leaves come and go, the control plane and the workloads crash, messages are
//! late or lost, and no handshake may fail. What decides is the real thing: authority, store, keeper, own certificate,
//! and the checks that rustls makes of chains (webpki, at simulated time).
//!
//! `OUTRIGGER_SIM_SEEDS` (default 1) and `OUTRIGGER_SIM_SEED` (the first) choose the seeds; a failure names its own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fastrand::Rng;
use rcgen::{KeyPair, PublicKeyData as _, SubjectPublicKeyInfo};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use time::OffsetDateTime;

use super::{
    Authority, MAX_TTL, hex,
    keeper::{Keeper, Wish},
    metrics::AuthorityMetrics,
    rotation::Step,
    server_cert::ServerCert,
    sha256, unix_ms,
};
use crate::{
    clients::{Client, ClientHandle, Clients},
    config::Config,
    server::tls::{identity, verify_chain},
    spiffe::SpiffeId,
    store::{
        testing::Disk,
        tokens::{self, Token},
    },
    translate,
};

const YEARS: u32 = 10;
const WORKLOADS: usize = 3;
/// One rotation every 170 days.
const ROOT_TTL: Duration = Duration::from_secs(200 * 86_400);
const LEAF: Duration = MAX_TTL;
/// Nobody is away for longer: less than half of a leaf's life.
const AWAY: Duration = Duration::from_secs(4 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

/// A rule that is broken on purpose, to show that the simulation would see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Signs with the new root at once.
    Publish,
    /// Takes the old root away at once.
    Sign,
    /// Counts what was sent as accepted.
    Acks,
}

/// A control plane that runs.
struct Running {
    authority: Arc<Authority>,
    keeper: Keeper,
    own: ServerCert,
    clients: Arc<Clients>,
}

struct Workload {
    id: SpiffeId,
    key: SubjectPublicKeyInfo,
    chain: Vec<CertificateDer<'static>>,
    not_after: OffsetDateTime,
    renew_at: OffsetDateTime,
    /// Trusted now.
    roots: RootCertStore,
    /// The bundle that is on its way, and when it is there.
    coming: Option<(Arc<str>, OffsetDateTime)>,
    /// The last bundle that is in force and said to be.
    held: Arc<str>,
    stream: Option<ClientHandle>,
    away_until: OffsetDateTime,
    /// Knows of roots by configuration only, as an Envoy does, and is slow.
    is_envoy: bool,
}

struct World {
    rng: Rng,
    broken: Broken,
    disk: Disk,
    config: Config,
    now: OffsetDateTime,
    running: Option<Running>,
    starts_at: OffsetDateTime,
    workloads: Vec<Workload>,
    /// Pins of join tokens, and until when they hold.
    tokens: Vec<(String, OffsetDateTime)>,
    tally: BTreeMap<&'static str, u64>,
    failures: Vec<String>,
}

fn moment(at: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(at.unix_timestamp()).unwrap();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn anchors(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    roots
}

impl World {
    fn new(seed: u64, broken: Broken, dir: &std::path::Path) -> Self {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        Self {
            rng: Rng::with_seed(seed),
            broken,
            disk: Disk::default(),
            config: Config {
                root_ttl: ROOT_TTL,
                ..Config::for_tests(dir)
            },
            now,
            running: None,
            starts_at: now,
            workloads: Vec::new(),
            tokens: Vec::new(),
            tally: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.f64())
    }

    async fn start(&mut self) {
        self.disk = self.disk.after_crash();
        let authority = Authority::open(self.disk.open(), &self.config, self.now).await;
        let authority = Arc::new(authority.unwrap());
        let clients = Arc::new(Clients::default());
        let metrics = AuthorityMetrics::new(&prometheus::Registry::new()).unwrap();
        self.running = Some(Running {
            own: ServerCert::new(Arc::clone(&authority), &[], self.now).unwrap(),
            keeper: Keeper::new(Arc::clone(&authority), Arc::clone(&clients), metrics),
            authority,
            clients,
        });
    }

    /// A workload that knows nothing but its join token.
    async fn join(&mut self, n: usize) {
        let running = self.running.as_ref().unwrap();
        let pair = KeyPair::generate().unwrap();
        let key = SubjectPublicKeyInfo::from_der(&pair.subject_public_key_info()).unwrap();
        let id = SpiffeId::new("cluster.local", "default", &format!("w{n}")).unwrap();
        let issued = running
            .authority
            .issue_key(&id, &key, Some(LEAF), None, self.now);
        let issued = issued.await.unwrap();
        let pem = Arc::clone(&issued.in_force.bundle.pem);
        let workload = Workload {
            id,
            key,
            renew_at: self.now
                + (issued.not_after - self.now)
                    .unsigned_abs()
                    .mul_f64(self.half()),
            chain: issued.chain,
            not_after: issued.not_after,
            roots: anchors(&pem),
            coming: None,
            held: pem,
            stream: None,
            away_until: self.now,
            is_envoy: n == 0,
        };
        if n < self.workloads.len() {
            self.workloads[n] = workload;
        } else {
            self.workloads.push(workload);
        }
    }

    /// The sidecar's schedule.
    fn half(&mut self) -> f64 {
        0.45 + 0.1 * self.rng.f64()
    }

    async fn renew(&mut self, n: usize) {
        let half = self.half();
        let Some(running) = &self.running else {
            return;
        };
        let workload = &mut self.workloads[n];
        if workload.renew_at > self.now || workload.away_until > self.now {
            return;
        }
        let serial = identity(&workload.chain[0]).unwrap().serial;
        let issued = running
            .authority
            .issue_key(
                &workload.id,
                &workload.key,
                Some(LEAF),
                Some(&serial),
                self.now,
            )
            .await
            .unwrap();
        workload.renew_at = self.now + (issued.not_after - self.now).unsigned_abs().mul_f64(half);
        workload.chain = issued.chain;
        workload.not_after = issued.not_after;
        // While a stream is open its bundle is the newest. A new certificate opens a new one.
        if workload.stream.take().is_none() && !workload.is_envoy {
            workload.held = Arc::clone(&issued.in_force.bundle.pem);
            workload.roots = anchors(&workload.held);
        }
        self.count("renewals");
    }

    /// Configuration on its way.
    fn configure(&mut self, n: usize) {
        let delay = self.rng.f64();
        let is_lost = self.rng.u8(..10) == 0;
        let Some(running) = &self.running else {
            return;
        };
        let (broken, now) = (self.broken, self.now);
        let workload = &mut self.workloads[n];
        if workload.away_until > now {
            workload.stream = None;
            workload.coming = None;
            return;
        }
        let pem = Arc::clone(&running.authority.in_force().bundle.pem);
        let version = |pem: &str| Arc::clone(&translate::bundle(pem).version);
        let stream = workload.stream.get_or_insert_with(|| {
            let handle = running.clients.connected(Client {
                node_id: workload.id.to_string(),
                metadata: Box::default(),
                identity: Some(Arc::clone(workload.id.uri())),
                peer: None,
                serial: Some(identity(&workload.chain[0]).unwrap().serial),
                protocol: "delta",
                dialect: "outrigger",
                ask: None,
            });
            handle.trusts(Some(Some(version(&workload.held))));
            handle
        });
        if let Some((arrived, at)) = workload.coming.take_if(|(_, at)| *at <= now) {
            if is_lost {
                // The stream breaks, and it comes again.
                workload.stream = None;
                return;
            }
            assert!(at <= now);
            workload.roots = anchors(&arrived);
            stream.trusts(Some(Some(version(&arrived))));
            workload.held = arrived;
        }
        if *workload.held != *pem && workload.coming.is_none() {
            // An Envoy may take days over it: a machine that was suspended, a configuration that it refuses.
            let most = if workload.is_envoy {
                3 * LEAF
            } else {
                LEAF / 8
            };
            let acked = if broken == Broken::Acks {
                &pem
            } else {
                &workload.held
            };
            stream.trusts(Some(Some(version(acked))));
            workload.coming = Some((pem, now + most.mul_f64(delay)));
        }
    }

    /// Somebody has to renew and could not yet. Another misfortune now would make more of two than half of a life.
    fn is_strained(&self) -> bool {
        let mut workloads = self.workloads.iter();
        workloads.any(|workload| workload.renew_at <= self.now)
    }

    async fn crashes(&mut self) {
        let strained = self.is_strained();
        if self.running.is_none() {
            if self.now >= self.starts_at {
                self.start().await;
            }
        } else if !strained && self.rng.u16(..60) == 0 {
            self.running = None;
            for workload in &mut self.workloads {
                workload.stream = None;
                workload.coming = None;
            }
            self.starts_at = self.now + self.up_to(AWAY);
            self.count("control plane crashes");
            return;
        }
        if self.running.is_none() {
            return;
        }
        for n in 0..WORKLOADS {
            match self.rng.u16(..200) {
                0 => {
                    self.join(n).await;
                    self.count("workload crashes");
                }
                1 if !strained => {
                    let away = self.up_to(AWAY);
                    self.workloads[n].away_until = self.now + away;
                    self.count("partitions");
                }
                _ => {}
            }
        }
    }

    async fn keep(&mut self) {
        let (now, broken) = (self.now, self.broken);
        let Some(running) = &self.running else {
            return;
        };
        running.keeper.tick(now).await;
        let rotation = running.authority.in_force().state.rotation.clone();
        let step = rotation.map(|rotation| rotation.step);
        let skips = matches!(
            (broken, step),
            (Broken::Publish, Some(Step::Publish)) | (Broken::Sign, Some(Step::Sign))
        );
        if skips {
            running.keeper.wish(Wish::SkipWait, now).await.unwrap();
        }
        running.own.follow(now).unwrap();
        let past = running.authority.in_force().state.past.len() as u64;
        let before = self.tally.entry("rotations").or_default();
        // The store remembers ten.
        *before = (*before).max(past);
    }

    async fn tokens(&mut self) {
        self.tokens.retain(|(_, until)| *until > self.now);
        if self.rng.u8(..20) != 0 {
            return;
        }
        let until = self.now + self.up_to(MAX_TTL);
        let Some(running) = &self.running else {
            return;
        };
        let token = Token {
            namespace: "default".into(),
            service_account: "new".into(),
            expires_ms: unix_ms(until),
            used_ms: None,
            key_sha256: None,
        };
        let (hash, now_ms) = (self.rng.u128(..).to_be_bytes(), unix_ms(self.now));
        let pins = running.authority.pins();
        let made = running
            .authority
            .store()
            .write(move |txn| tokens::create(txn, &hash, &token, now_ms));
        assert!(made.await.unwrap());
        self.tokens.push((pins, until));
    }

    fn handshakes(&mut self) {
        let at = moment(self.now);
        let mut wrong = Vec::new();
        let n = self.rng.usize(..WORKLOADS);
        let m = (n + self.rng.usize(1..WORKLOADS)) % WORKLOADS;
        let (a, b) = (&self.workloads[n], &self.workloads[m]);
        for (client, server) in [(a, b), (b, a)] {
            let (leaf, chain) = client.chain.split_first().unwrap();
            if let Err(error) = verify_chain(&server.roots, leaf, chain, at) {
                wrong.push(format!("{} refuses {}: {error}", server.id, client.id));
            }
        }
        if let Some(running) = &self.running {
            let own = running.own.current();
            let (leaf, chain) = own.cert.split_first().unwrap();
            if let Err(error) = verify_chain(&a.roots, leaf, chain, at) {
                wrong.push(format!("{} refuses the control plane: {error}", a.id));
            }
            let in_force = running.authority.in_force();
            let (leaf, chain) = a.chain.split_first().unwrap();
            if let Err(error) = verify_chain(&in_force.bundle.anchors, leaf, chain, at) {
                wrong.push(format!("the control plane refuses {}: {error}", a.id));
            }
            let shown: Vec<String> = own.cert.iter().map(|der| hex(&sha256(der))).collect();
            for (pins, _) in &self.tokens {
                if !pins
                    .split('.')
                    .any(|pin| shown.iter().any(|shown| shown == pin))
                {
                    wrong.push("a join token's root is not shown".to_owned());
                }
            }
        }
        *self.tally.entry("handshakes").or_default() += 4;
        let step = self.running.as_ref().map(|running| {
            let in_force = running.authority.in_force();
            in_force
                .state
                .rotation
                .clone()
                .map(|rotation| rotation.step)
        });
        let stamp = format!("{} {step:?}", self.now);
        self.failures
            .extend(wrong.into_iter().map(|wrong| format!("{stamp}: {wrong}")));
    }

    async fn run(&mut self, until: OffsetDateTime) {
        self.start().await;
        for n in 0..WORKLOADS {
            self.join(n).await;
        }
        while self.now < until && self.failures.is_empty() {
            let is_calm = self
                .running
                .as_ref()
                .is_none_or(|running| running.authority.in_force().state.rotation.is_none());
            let most = match (is_calm, self.running.is_none() || self.is_strained()) {
                (_, true) | (false, _) => 40 * MINUTE,
                (true, false) => 360 * MINUTE,
            };
            let step = MINUTE + self.up_to(most);
            self.now += step;
            self.crashes().await;
            for n in 0..WORKLOADS {
                self.renew(n).await;
                self.configure(n);
            }
            self.tokens().await;
            self.keep().await;
            self.handshakes();
        }
    }
}

fn simulate(seed: u64, broken: Broken, years: u32) -> World {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(seed, broken, dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let until = world.now + Duration::from_secs(365 * 86_400) * years;
    runtime.block_on(world.run(until));
    println!("seed {seed}, {broken:?}: {:?}", world.tally);
    world
}

fn seeds() -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("OUTRIGGER_SIM_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let count = number("OUTRIGGER_SIM_SEEDS").unwrap_or(1);
    (0..count).map(move |n| first + n)
}

#[test]
fn ten_years_of_rotations_and_crashes_fail_no_handshake() {
    for seed in seeds() {
        let world = simulate(seed, Broken::Nothing, YEARS);
        assert_eq!(world.failures, Vec::<String>::new(), "seed {seed}");
        assert!(
            world.tally["rotations"] >= 10,
            "seed {seed}: {:?}",
            world.tally
        );
        assert!(world.tally["control plane crashes"] > 100, "seed {seed}");
    }
}

#[test]
fn a_rotation_that_skips_a_wait_is_seen_to_fail_handshakes() {
    for broken in [Broken::Publish, Broken::Sign, Broken::Acks] {
        let found = (0..5).any(|seed| !simulate(seed, broken, 3).failures.is_empty());
        assert!(found, "{broken:?} went unseen");
    }
}
