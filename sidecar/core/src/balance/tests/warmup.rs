//! Slow start: what is new gets its share little by little, and never keeps others waiting.

use super::*;
use crate::{ClusterConfig, Moment, SlowStart};

const PICKS: usize = 40_000;

fn warming(policy: LbPolicy, aggression: f64) -> ClusterConfig {
    ClusterConfig {
        slow_start: Some(SlowStart {
            window: Duration::from_secs(100),
            aggression,
            min_weight_percent: 10.0,
        }),
        ..config(policy)
    }
}

fn counts(cluster: &Cluster, now: Moment) -> BTreeMap<u16, usize> {
    let mut rng = seeded(11);
    let mut counts = BTreeMap::new();
    for _ in 0..PICKS {
        let port = cluster.pick_with(&mut rng, None, &[], now).unwrap();
        *counts.entry(port).or_default() += 1;
    }
    counts
}

/// Ports 1 to 3 are there since second 1, port 4 since `new`.
fn with_a_new_one(config: ClusterConfig, new: u64) -> Cluster {
    let old = Cluster::new(config, (1..=3).map(endpoint).collect(), None);
    old.sweep(secs(1));
    let all = (1..=4).map(endpoint).collect();
    let cluster = Cluster::new(old.config.clone(), all, Some(&old));
    cluster.sweep(secs(new));
    cluster
}

#[test]
fn a_new_endpoint_gets_its_share_by_age() {
    for policy in [LbPolicy::LeastRequest, LbPolicy::RoundRobin] {
        // At 1000 s the others are warm.
        for (age, aggression, warmth) in [
            (0, 1.0, 0.1),
            (5, 1.0, 0.1),
            (50, 1.0, 0.5),
            (25, 2.0, 0.5),
            (100, 1.0, 1.0),
            (500, 1.0, 1.0),
        ] {
            let cluster = with_a_new_one(warming(policy.clone(), aggression), 1000);
            let found = counts(&cluster, secs(1000 + age));
            let got = share(found.get(&4).copied().unwrap_or(0), PICKS);
            let want = warmth / (3.0 + warmth);
            // Least request compares two of four, drawn without replacement.
            assert!(
                (got - want).abs() < 0.03,
                "{policy:?} {age} s: {got}, not {want}"
            );
        }
    }
}

#[test]
fn a_cluster_of_new_endpoints_is_spread_evenly_at_once() {
    for policy in [LbPolicy::LeastRequest, LbPolicy::RoundRobin, EWMA] {
        let all = (1..=4).map(endpoint).collect();
        let cluster = Cluster::new(warming(policy.clone(), 1.0), all, None);
        for (port, count) in counts(&cluster, secs(7)) {
            let got = share(count, PICKS);
            assert!((got - 0.25).abs() < 0.01, "{policy:?} {port}: {got}");
        }
    }
}

#[test]
fn one_old_among_many_new_gets_ten_times_their_share() {
    let old = Cluster::new(warming(LbPolicy::RoundRobin, 1.0), vec![endpoint(1)], None);
    old.sweep(secs(1));
    let all = (1..=50).map(endpoint).collect();
    let cluster = Cluster::new(old.config.clone(), all, Some(&old));
    let found = counts(&cluster, secs(1000));
    let got = share(found[&1], PICKS);
    assert!((got - 1.0 / 5.9).abs() < 0.02, "{got}");
    assert_eq!(found.len(), 50);
}

#[test]
fn an_endpoint_that_was_unhealthy_warms_up_again() {
    let cluster = with_a_new_one(warming(LbPolicy::RoundRobin, 1.0), 1);
    let sick = EndpointConfig {
        health: Health::Unhealthy,
        ..endpoint(4)
    };
    let all = |last: EndpointConfig| (1..=3).map(endpoint).chain([last]).collect();
    let without = Cluster::new(cluster.config.clone(), all(sick), Some(&cluster));
    without.sweep(secs(900));
    let back = Cluster::new(cluster.config, all(endpoint(4)), Some(&without));
    let got = share(counts(&back, secs(1000))[&4], PICKS);
    assert!((got - 0.1 / 3.1).abs() < 0.01, "{got}");
    let got = share(counts(&back, secs(1100))[&4], PICKS);
    assert!((got - 0.25).abs() < 0.01, "{got}");
}
