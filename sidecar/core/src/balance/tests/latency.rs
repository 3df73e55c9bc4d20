//! Peak EWMA: the quick get more, the slow are asked again, and nobody is forgotten.

use super::*;
use crate::{Moment, Outcome, PickContext, Picked};

fn pick(cluster: &Cluster, rng: &mut fastrand::Rng, now: Moment) -> Picked {
    let mut context = PickContext {
        hash: None,
        tried: &[],
        previous_priorities: &[],
        now,
        rng,
    };
    cluster.pick(&mut context).unwrap()
}

fn port(picked: &Picked) -> u16 {
    picked.endpoint.config.address.port()
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn every_endpoint_is_measured_before_any_is_preferred() {
    let cluster = cluster(EWMA, 1..=20);
    let mut rng = seeded(1);
    let mut seen = BTreeSet::new();
    let mut held = Vec::new();
    for _ in 0..20 {
        let picked = pick(&cluster, &mut rng, secs(1));
        seen.insert(port(&picked));
        held.push(picked.endpoint.begin());
    }
    assert_eq!(seen.len(), 20, "each once, though none has answered yet");
}

#[test]
fn an_endpoint_that_joins_is_asked_next() {
    let old = cluster(EWMA, 1..=9);
    for port in 1..=9 {
        old.observe(&old.picked(port), millis(1), secs(1));
    }
    let all = (1..=10).map(endpoint).collect();
    let cluster = Cluster::new(config(EWMA), all, Some(&old));
    let mut rng = seeded(2);
    let first_two = [(); 2].map(|()| port(&pick(&cluster, &mut rng, secs(2))));
    assert!(first_two.contains(&10), "{first_two:?}");
}

#[test]
fn the_slow_are_spared_at_once_and_asked_again_later() {
    let cluster = cluster(EWMA, 1..=2);
    cluster.observe(&cluster.picked(1), millis(10), secs(1));
    cluster.observe(&cluster.picked(2), millis(10), secs(1));
    cluster.observe(&cluster.picked(2), millis(500), secs(1));
    let mut rng = seeded(3);
    assert!((0..100).all(|_| port(&pick(&cluster, &mut rng, secs(1))) == 1));
    // 1 goes on answering in 10 ms; what is known of 2 decays.
    let mut now = 1;
    while port(&pick(&cluster, &mut rng, secs(now))) == 1 {
        cluster.observe(&cluster.picked(1), millis(10), secs(now));
        now += 1;
    }
    assert!((30..60).contains(&now), "after {now} s");
}

#[test]
fn one_slow_answer_counts_at_once_and_fast_ones_by_and_by() {
    let cluster = cluster(EWMA, 1..=1);
    let expected = |now| {
        let state = &cluster.by_port(1).state;
        state.expected_micros(Duration::from_secs(10), now).unwrap() / 1000.0
    };
    let near = |found: f32, want: f32| assert!((found - want).abs() < want / 50.0, "{found}");
    cluster.observe(&cluster.picked(1), millis(10), secs(1));
    near(expected(secs(1)), 10.0);
    cluster.observe(&cluster.picked(1), millis(200), secs(1));
    near(expected(secs(1)), 200.0);
    cluster.observe(&cluster.picked(1), millis(10), secs(11));
    // 37 % of the old, 63 % of the new.
    near(expected(secs(11)), 200.0 * 0.368 + 10.0 * 0.632);
}

#[test]
fn what_refuses_quickly_does_not_look_quick() {
    let cluster = cluster(EWMA, 1..=2);
    cluster.observe(&cluster.picked(1), millis(50), secs(1));
    for _ in 0..3 {
        cluster.report(&cluster.picked(2), Outcome::LocalError, secs(1));
    }
    let mut rng = seeded(4);
    assert!((0..100).all(|_| port(&pick(&cluster, &mut rng, secs(1))) == 1));
}

#[test]
fn load_goes_where_time_times_queue_is_least() {
    // Closed loop of 30 requests over servers of 10, 20 and 40 ms each, a queue at each one.
    let cluster = cluster(EWMA, 1..=3);
    let mut rng = seeded(5);
    let mut busy: Vec<(u64, u64, Picked, crate::InFlight)> = Vec::new();
    let (mut counts, mut free) = ([0_u32; 3], [0_u64; 3]);
    for turn in 0..6000_u64 {
        let now = if busy.len() < 30 {
            turn
        } else {
            busy.sort_by_key(|one| std::cmp::Reverse(one.0));
            let (end, began, picked, _) = busy.pop().unwrap();
            cluster.observe(&picked, millis(end - began), Moment(end));
            end
        };
        let picked = pick(&cluster, &mut rng, Moment(now));
        let at = usize::from(port(&picked)) - 1;
        counts[at] += 1;
        free[at] = free[at].max(now) + (10 << at);
        let guard = picked.endpoint.begin();
        busy.push((free[at], now, picked, guard));
    }
    // Capacity is 4 : 2 : 1.
    let part = |at: usize| f64::from(counts[at]) / 6000.0;
    assert!(
        part(0) > 0.5 && part(1) > 0.2 && part(2) > 0.08,
        "{counts:?}"
    );
}
