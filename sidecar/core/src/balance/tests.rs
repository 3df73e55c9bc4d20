use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

mod consistency;
mod latency;
mod localities;
mod statistics;
mod warmup;

use super::LbPolicy;
use crate::{
    Cluster, EndpointConfig, Health, NoEndpoint,
    fixture::{cluster, config, endpoint, secs, weighted},
};

const POLICIES: [LbPolicy; 6] = [
    LbPolicy::LeastRequest,
    LbPolicy::RoundRobin,
    LbPolicy::Random,
    EWMA,
    RING,
    MAGLEV,
];
const RING: LbPolicy = LbPolicy::RingHash {
    minimum_ring_size: 1024,
    maximum_ring_size: 8 << 20,
};
const EWMA: LbPolicy = LbPolicy::PeakEwma {
    decay: Duration::from_secs(10),
};
const MAGLEV: LbPolicy = LbPolicy::Maglev { table_size: 65_537 };

fn seeded(seed: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed)
}

/// Another in every run, shown if the test fails.
#[expect(clippy::print_stdout, reason = "to run the same again")]
fn seed() -> u64 {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    seed
}

/// Where each of `n` keys goes.
fn keys(cluster: &Cluster, n: u64) -> Vec<u16> {
    (0..n)
        .map(|key| cluster.for_key(xxhash_rust::xxh64::xxh64(&key.to_le_bytes(), 0)))
        .collect()
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn round_robin_gives_weights_3_2_1_in_every_window_of_6() {
    let cluster = Cluster::new(
        config(LbPolicy::RoundRobin),
        weighted(&[(1, 3), (2, 2), (3, 1)]),
        None,
    );
    let mut rng = seeded(1);
    let picks: Vec<u16> = (0..60).map(|_| cluster.next(&mut rng)).collect();
    for window in picks.windows(6) {
        let count = |port| window.iter().filter(|one| **one == port).count();
        assert_eq!((count(1), count(2), count(3)), (3, 2, 1), "{window:?}");
    }
}

#[test]
fn round_robin_is_one_rotation_for_all_workers() {
    let cluster = cluster(LbPolicy::RoundRobin, 1..=4);
    let mut workers = [seeded(1), seeded(2), seeded(3)];
    let mut picks: Vec<u16> = (0..12)
        .map(|turn| cluster.next(&mut workers[turn % 3]))
        .collect();
    picks.sort_unstable();
    assert_eq!(picks, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
}

#[test]
fn round_robin_goes_on_where_it_was_when_endpoints_change() {
    let mut rng = seeded(4);
    let mut cluster = cluster(LbPolicy::RoundRobin, 1..=3);
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    for _ in 0..300 {
        *counts.entry(cluster.next(&mut rng)).or_default() += 1;
        let endpoints = (1..=3).map(endpoint).collect();
        cluster = Cluster::new(config(LbPolicy::RoundRobin), endpoints, Some(&cluster));
    }
    assert_eq!(counts, BTreeMap::from([(1, 100), (2, 100), (3, 100)]));
}

#[test]
fn round_robin_keeps_weights_too_large_to_write_down() {
    let cluster = Cluster::new(
        config(LbPolicy::RoundRobin),
        weighted(&[(1, 1_000_003), (2, 2_000_003), (3, 7)]),
        None,
    );
    let counts = cluster.spread(&mut seeded(5), 3000);
    assert!(counts[&1].abs_diff(1000) <= 5, "{counts:?}");
    assert!(counts[&2].abs_diff(2000) <= 5, "{counts:?}");
}

#[test]
fn two_fresh_sidecars_do_not_begin_with_the_same_endpoint() {
    let first: BTreeSet<u16> = (0..20)
        .map(|seed| cluster(LbPolicy::RoundRobin, 1..=8).next(&mut seeded(seed)))
        .collect();
    assert!(first.len() > 3, "{first:?}");
}

#[test]
fn idle_endpoints_get_their_weights_under_every_policy() {
    for policy in POLICIES {
        let cluster = Cluster::new(
            config(policy.clone()),
            weighted(&[(1, 1), (2, 3), (3, 6)]),
            None,
        );
        let counts = cluster.spread(&mut seeded(6), 20_000);
        // Two draws without replacement pull least request a little towards even; a ring of 1024 places
        // is uneven by itself.
        let tolerance = match policy {
            LbPolicy::RingHash { .. } => 0.06,
            _ => 0.02,
        };
        for (port, want) in [(1, 0.1), (2, 0.3), (3, 0.6)] {
            let got = share(counts[&port], 20_000);
            assert!((got - want).abs() < tolerance, "{policy:?} {counts:?}");
        }
    }
}

#[test]
fn least_request_spares_a_slow_endpoint() {
    let cluster = cluster(LbPolicy::LeastRequest, 1..=4);
    let mut rng = seeded(7);
    // Port 1 never answers, the others at once.
    let mut stuck = Vec::new();
    let mut others = 0;
    for _ in 0..1000 {
        match cluster.next(&mut rng) {
            1 => stuck.push(cluster.by_port(1).begin()),
            _ => others += 1,
        }
    }
    assert_eq!(stuck.len(), 1, "only the first can look idle");
    assert_eq!(others, 999);
}

#[test]
fn least_request_fills_endpoints_by_weight() {
    let cluster = Cluster::new(
        config(LbPolicy::LeastRequest),
        weighted(&[(1, 1), (2, 2), (3, 5)]),
        None,
    );
    let mut rng = seeded(8);
    let held: Vec<_> = (0..800)
        .map(|_| {
            let port = cluster.next(&mut rng);
            cluster.by_port(port).begin()
        })
        .collect();
    for (port, want) in [(1, 100), (2, 200), (3, 500)] {
        let count = held
            .iter()
            .filter(|one| one.endpoint().config.address.port() == port)
            .count();
        assert!(count.abs_diff(want) <= 12, "{port}: {count}");
    }
}

#[test]
fn the_maglev_table_is_envoys() {
    // From Envoy's own tests: 7 places over six endpoints, 17 over two with weights 1 and 2.
    let even = cluster(LbPolicy::Maglev { table_size: 7 }, 90..=95);
    let got: Vec<u16> = (0..14).map(|key| even.for_key(key)).collect();
    let once = [92, 94, 90, 91, 95, 90, 93];
    assert_eq!(got, [once, once].concat());

    let uneven = Cluster::new(
        config(LbPolicy::Maglev { table_size: 17 }),
        weighted(&[(90, 1), (91, 2)]),
        None,
    );
    let got: Vec<u16> = (0..17).map(|key| uneven.for_key(key)).collect();
    let want = [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1].map(|place| 90 + place);
    assert_eq!(got, want);
}

#[test]
fn sidecars_agree_on_keys_whatever_order_endpoints_came_in() {
    for policy in [RING, MAGLEV] {
        let mut endpoints: Vec<EndpointConfig> =
            weighted(&[(1, 1), (2, 2), (3, 1), (4, 7), (5, 1), (6, 3)]);
        let one = Cluster::new(config(policy.clone()), endpoints.clone(), None);
        seeded(9).shuffle(&mut endpoints);
        let other = Cluster::new(config(policy), endpoints, None);
        assert_eq!(keys(&one, 2000), keys(&other, 2000));
    }
}

#[test]
fn an_endpoint_that_fails_moves_its_own_keys_and_no_other() {
    let unhealthy = |port: u16, gone: u16| EndpointConfig {
        health: if port == gone {
            Health::Unhealthy
        } else {
            Health::Healthy
        },
        ..endpoint(port)
    };
    for policy in [RING, MAGLEV] {
        let before = cluster(policy.clone(), 1..=10);
        let after = Cluster::new(
            config(policy),
            (1..=10).map(|port| unhealthy(port, 3)).collect(),
            Some(&before),
        );
        let mut heirs = BTreeSet::new();
        for (old, new) in keys(&before, 5000).into_iter().zip(keys(&after, 5000)) {
            if old == 3 {
                heirs.insert(new);
            } else {
                assert_eq!(old, new);
            }
        }
        assert!(heirs.len() >= 8, "spread over the others: {heirs:?}");
        assert!(!heirs.contains(&3));
    }
}

#[test]
fn a_retry_of_a_key_goes_to_one_other_endpoint_everywhere() {
    for policy in [RING, MAGLEV] {
        let second = |seed| {
            let cluster = cluster(policy.clone(), 1..=5);
            let first = cluster.for_key(77);
            let tried = [cluster.by_port(first).id];
            let second = cluster.pick_with(&mut seeded(seed), Some(77), &tried, secs(1));
            assert_ne!(second, Ok(first));
            second
        };
        assert_eq!(second(1), second(2));
    }
}

#[test]
fn no_policy_uses_what_is_tried_unhealthy_or_draining() {
    for policy in POLICIES {
        let mut endpoints: Vec<_> = (1..=20).map(endpoint).collect();
        for (at, one) in endpoints.iter_mut().enumerate() {
            one.health = match at % 3 {
                0 => Health::Healthy,
                1 => Health::Unhealthy,
                _ => Health::Draining,
            };
        }
        let cluster = Cluster::new(config(policy.clone()), endpoints, None);
        // Healthy are 1, 4, .., 19; one after the other is tried.
        let mut rng = seeded(10);
        let (mut tried, mut ports) = (Vec::new(), Vec::new());
        let end = loop {
            match cluster.pick_with(&mut rng, Some(5), &tried, secs(1)) {
                Ok(port) => {
                    tried.push(cluster.by_port(port).id);
                    ports.push(port);
                }
                Err(error) => break error,
            }
        };
        ports.sort_unstable();
        assert_eq!(ports, [1, 4, 7, 10, 13, 16, 19], "{policy:?}");
        assert_eq!(end, NoEndpoint::Exhausted);
    }
}

#[test]
fn no_size_or_weight_hangs_or_breaks_a_table() {
    let sizes = [0, 1, 2, 4, 100, 65_536];
    for size in sizes {
        for policy in [
            LbPolicy::Maglev { table_size: size },
            LbPolicy::RingHash {
                minimum_ring_size: size,
                maximum_ring_size: size / 2,
            },
        ] {
            let endpoints = weighted(&[(1, u32::MAX), (2, 1), (3, 0)]);
            let cluster = Cluster::new(config(policy.clone()), endpoints, None);
            cluster.for_key(3);
            let none = Cluster::new(config(policy), Vec::new(), None);
            let picked = none.pick_with(&mut seeded(1), Some(1), &[], secs(1));
            assert_eq!(picked, Err(NoEndpoint::Empty));
        }
    }
}
