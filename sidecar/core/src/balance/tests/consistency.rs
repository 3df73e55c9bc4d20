//! Keys stay where they are: whatever leaves, fails, or is tried moves its own keys and nobody else's.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::{EndpointId, OutlierConfig, fixture::outlier};

/// So many endpoints of small weights; their common divisor does not hang on one of them.
fn some(rng: &mut fastrand::Rng, count: u16) -> Vec<EndpointConfig> {
    let weights: Vec<(u16, u32)> = (1..=count)
        .map(|port| (port, if port < 3 { 1 } else { rng.u32(1..=4) }))
        .collect();
    weighted(&weights)
}

#[test]
fn an_endpoint_that_leaves_the_ring_moves_no_key_of_another() {
    let mut rng = seeded(seed());
    for _ in 0..30 {
        let count = rng.u16(4..40);
        let all = some(&mut rng, count);
        let gone = rng.u16(3..=count);
        let left = all.iter().filter(|one| one.address.port() != gone);
        let before = Cluster::new(config(RING), all.clone(), None);
        let after = Cluster::new(config(RING), left.cloned().collect(), Some(&before));
        for (old, new) in keys(&before, 2000).into_iter().zip(keys(&after, 2000)) {
            assert!(
                old == new || old == gone,
                "{old} -> {new}, {gone} left {count}"
            );
        }
    }
}

#[test]
fn one_nth_and_two_percent_of_keys_move_at_most_when_one_of_n_leaves() {
    for policy in [RING, MAGLEV] {
        for count in [3, 10, 50] {
            let before = cluster(policy.clone(), 1..=count);
            let after = cluster(policy.clone(), (1..=count).filter(|port| *port != 2));
            let pairs = keys(&before, 20_000).into_iter().zip(keys(&after, 20_000));
            let moved = share(pairs.filter(|(old, new)| old != new).count(), 20_000);
            let most = 1.0 / f64::from(count) + 0.02;
            assert!(moved <= most, "{policy:?}: {moved} of {count}");
        }
    }
}

#[test]
fn a_ring_follows_its_sizes() {
    use crate::balance::ring::{Keyed, Ring};
    let endpoints = |count: u32, weight: u32| -> Vec<Keyed> {
        (0..count)
            .map(|place| Keyed {
                place,
                address: format!("10.0.0.1:{place}"),
                weight,
            })
            .collect()
    };
    let places = |count, weight, minimum, maximum| {
        let ring = Ring::new(endpoints(count, weight), weight, minimum, maximum);
        ring.owners.len()
    };
    const MAX: u64 = 8 << 20;
    // Half the minimum for each, however many there are and whatever their common weight is.
    for count in [1, 2, 10, 1000] {
        for weight in [1, 100, u32::MAX] {
            assert_eq!(places(count, weight, 1024, MAX), count as usize * 512);
        }
    }
    assert_eq!(places(10, 1, 4096, MAX), 20_480);
    // Halved until they fit, and one for each at least.
    assert_eq!(places(100, 1, 1024, 20_000), 12_800);
    assert_eq!(places(100, 1, 12, 12), 100);
    assert_eq!(places(3000, 1, 1024, MAX), 3000 * 256);
}

#[test]
fn what_is_ejected_moves_its_own_keys_and_gets_them_back() {
    let mut rng = seeded(seed());
    let half = OutlierConfig {
        max_ejection_percent: 50,
        ..outlier()
    };
    for policy in [RING, MAGLEV] {
        let config = crate::ClusterConfig {
            outlier: Some(half),
            ..config(policy)
        };
        let cluster = Cluster::new(config, (1..=12).map(endpoint).collect(), None);
        let before = keys(&cluster, 3000);
        let mut out = BTreeSet::new();
        while out.len() < 6 {
            let port = rng.u16(1..=12);
            if out.insert(port) {
                assert!(cluster.fail(port, 5, secs(0)));
            }
        }
        for (old, new) in before.iter().zip(keys(&cluster, 3000)) {
            assert!(*old == new || out.contains(old));
            assert!(!out.contains(&new));
        }
        // Long after, every probe has succeeded.
        for port in &out {
            let own = before.iter().position(|one| one == port).unwrap();
            let key = xxhash_rust::xxh64::xxh64(&(own as u64).to_le_bytes(), 0);
            let mut context = crate::PickContext {
                hash: Some(key),
                tried: &[],
                previous_priorities: &[],
                now: secs(1000),
                rng: &mut rng,
            };
            let probe = cluster.pick(&mut context).unwrap();
            assert_eq!(probe.endpoint.config.address.port(), *port);
            cluster.report(&probe, crate::fixture::OK, secs(1000));
        }
        assert_eq!(keys(&cluster, 3000), before);
    }
}

#[test]
fn retries_of_a_key_go_around_the_ring_in_one_order_everywhere() {
    let order = |cluster: &Cluster, seed| {
        let (mut tried, mut ports): (Vec<EndpointId>, Vec<u16>) = (Vec::new(), Vec::new());
        while let Ok(port) = cluster.pick_with(&mut seeded(seed), Some(99), &tried, secs(1)) {
            tried.push(cluster.by_port(port).id);
            ports.push(port);
        }
        ports
    };
    for policy in [RING, MAGLEV] {
        let (one, other) = (cluster(policy.clone(), 1..=6), cluster(policy, 1..=6));
        let found = order(&one, 1);
        assert_eq!(found, order(&other, 2));
        assert_eq!(found.len(), 6);
    }
}

#[test]
fn with_bounded_load_no_endpoint_has_more_than_its_part() {
    for policy in [RING, MAGLEV] {
        let bounded = crate::ClusterConfig {
            hash_balance_percent: Some(125),
            ..config(policy)
        };
        let cluster = Cluster::new(bounded, weighted(&[(1, 1), (2, 1), (3, 2)]), None);
        let mut held = Vec::new();
        for _ in 0..400 {
            // All for one endpoint.
            let limit = cluster.limits.requests.try_acquire(true).unwrap();
            let port = cluster.for_key(7);
            held.push((limit, cluster.by_port(port).begin()));
        }
        for (port, most) in [(1, 125), (2, 125), (3, 250)] {
            let active = cluster.by_port(port).state.active_requests.load(Relaxed);
            assert!(active <= most, "{port}: {active}");
        }
    }
}

#[test]
fn a_bound_counts_connections_where_there_are_no_requests() {
    let bounded = crate::ClusterConfig {
        hash_balance_percent: Some(200),
        ..config(RING)
    };
    let cluster = Cluster::new(bounded, (1..=4).map(endpoint).collect(), None);
    let mut held = Vec::new();
    for _ in 0..40 {
        let connection = cluster.limits.connections.try_acquire(true).unwrap();
        let port = cluster.for_key(7);
        held.push((connection, cluster.by_port(port).begin()));
    }
    let active = |port| cluster.by_port(port).state.active_requests.load(Relaxed);
    let mut found = [1, 2, 3, 4].map(active);
    found.sort_unstable();
    assert_eq!(
        found,
        [0, 0, 20, 20],
        "twice the average of 10, on the first two"
    );
}

#[test]
fn without_load_a_bound_changes_nothing() {
    let bounded = crate::ClusterConfig {
        hash_balance_percent: Some(101),
        ..config(RING)
    };
    let with = Cluster::new(bounded, (1..=9).map(endpoint).collect(), None);
    let without = cluster(RING, 1..=9);
    assert_eq!(keys(&with, 2000), keys(&without, 2000));
}
