//! Which part priorities, localities and zones get.

use super::*;
use crate::{
    ClusterConfig, Locality, LocalityPolicy, OutlierConfig, PickContext, fixture::outlier,
};

const PICKS: usize = 20_000;

fn locality(zone: &str) -> Locality {
    Locality {
        region: "eu".to_owned(),
        zone: zone.to_owned(),
        sub_zone: String::new(),
    }
}

fn at(port: u16, zone: &str, weight: u32, health: Health) -> EndpointConfig {
    EndpointConfig {
        locality: locality(zone),
        locality_weight: weight,
        health,
        ..endpoint(port)
    }
}

fn healthy(out: bool) -> Health {
    if out {
        Health::Unhealthy
    } else {
        Health::Healthy
    }
}

/// Shares of ports below and from 100 on.
fn below_100(cluster: &Cluster) -> f64 {
    let counts = cluster.spread(&mut seeded(1), PICKS);
    let low: usize = counts
        .iter()
        .filter(|(port, _)| **port < 100)
        .map(|(_, n)| n)
        .sum();
    share(low, PICKS)
}

/// Ten endpoints of priority 0 from port 1, ten of priority 1 from 101, so many of each out.
fn two_priorities(policy: LbPolicy, first_out: u16, second_out: u16) -> Cluster {
    let endpoints = (0..10).flat_map(|n| {
        let with = |port, priority, health| EndpointConfig {
            priority,
            health,
            ..endpoint(port)
        };
        [
            with(1 + n, 0, healthy(n < first_out)),
            with(101 + n, 1, healthy(n < second_out)),
        ]
    });
    Cluster::new(config(policy), endpoints.collect(), None)
}

#[test]
fn a_priority_spills_what_it_cannot_bear_with_140_percent() {
    // Envoy's table: healthy of 10 in each, and what the first gets.
    for (first_out, second_out, first) in [
        (0, 0, 1.0),
        (2, 0, 1.0),
        (3, 0, 0.98),
        (5, 0, 0.7),
        (5, 10, 1.0),
        (8, 0, 0.28),
        (8, 8, 0.5),
        (10, 0, 0.0),
    ] {
        for policy in [
            LbPolicy::LeastRequest,
            LbPolicy::RoundRobin,
            LbPolicy::Random,
            EWMA,
        ] {
            let found = below_100(&two_priorities(policy.clone(), first_out, second_out));
            assert!(
                (found - first).abs() < 0.015,
                "{policy:?} {first_out} {second_out}: {found}"
            );
        }
    }
}

#[test]
fn keys_spill_as_much_and_those_of_endpoints_in_service_stay() {
    for policy in [RING, MAGLEV] {
        let all = keys(&two_priorities(policy.clone(), 0, 0), 10_000);
        assert!(all.iter().all(|port| *port < 100));
        for (out, first) in [(3_u16, 0.98), (5, 0.7), (8, 0.28), (10, 0.0)] {
            let left = keys(&two_priorities(policy.clone(), out, 0), 10_000);
            let low = left.iter().filter(|port| **port < 100).count();
            assert!(
                (share(low, 10_000) - first).abs() < 0.05,
                "{policy:?} {out}: {low}"
            );
            for (old, new) in all.iter().zip(left) {
                assert!(*old == new || *old <= out, "{old} -> {new}");
            }
        }
    }
}

#[test]
fn an_ejection_spills_at_once_and_its_end_takes_back() {
    let most = OutlierConfig {
        max_ejection_percent: 100,
        ..outlier()
    };
    let config = ClusterConfig {
        outlier: Some(most),
        ..config(LbPolicy::Random)
    };
    let endpoints = [1, 2, 101, 102].map(|port| EndpointConfig {
        priority: u32::from(port > 100),
        ..endpoint(port)
    });
    let cluster = Cluster::new(config, endpoints.to_vec(), None);
    assert!((below_100(&cluster) - 1.0).abs() < 0.001);
    cluster.fail(1, 5, secs(1));
    assert!((below_100(&cluster) - 0.7).abs() < 0.02);
    cluster.fail(2, 5, secs(1));
    assert!(below_100(&cluster) < 0.001);
    // Their time is over: both are asked, and answer well.
    let mut rng = seeded(2);
    let mut back = 0;
    while back < 2 {
        let mut context = PickContext {
            hash: None,
            tried: &[],
            previous_priorities: &[],
            now: secs(31),
            rng: &mut rng,
        };
        let picked = cluster.pick(&mut context).unwrap();
        back += u32::from(picked.endpoint.config.priority == 0);
        cluster.report(&picked, crate::fixture::OK, secs(31));
    }
    assert!((below_100(&cluster) - 1.0).abs() < 0.001);
}

#[test]
fn a_retry_leaves_out_previous_priorities_as_long_as_another_can_take_it() {
    let pick = |cluster: &Cluster, previous: &[u32]| {
        let mut rng = seeded(1);
        let mut context = PickContext {
            hash: None,
            tried: &[],
            previous_priorities: previous,
            now: secs(1),
            rng: &mut rng,
        };
        cluster.pick(&mut context).unwrap().endpoint.config.priority
    };
    for policy in [LbPolicy::RoundRobin, RING] {
        let both = two_priorities(policy.clone(), 0, 0);
        assert_eq!(pick(&both, &[]), 0);
        assert_eq!(pick(&both, &[0]), 1);
        assert_eq!(pick(&both, &[0, 1]), 0, "all were tried: as if none was");
        assert_eq!(pick(&two_priorities(policy, 0, 10), &[0]), 0);
    }
}

fn weighted_localities(policy: LbPolicy, out_of_a: u16) -> Cluster {
    let a = (0..10).map(|n| at(1 + n, "a", 3, healthy(n < out_of_a)));
    let b = (0..2).map(|n| at(101 + n, "b", 1, Health::Healthy));
    let none = (0..2).map(|n| at(201 + n, "c", 0, Health::Healthy));
    let config = ClusterConfig {
        localities: LocalityPolicy::Weighted,
        ..config(policy)
    };
    Cluster::new(config, a.chain(b).chain(none).collect(), None)
}

#[test]
fn localities_get_their_weights_whatever_they_consist_of() {
    for policy in [
        LbPolicy::LeastRequest,
        LbPolicy::RoundRobin,
        LbPolicy::Random,
    ] {
        for (out, want) in [
            (0, 0.75),
            (2, 0.75),
            // 3 x 1.4 x 5/10 against 1
            (5, 2.1 / 3.1),
            (9, 0.42 / 1.42),
            (10, 0.0),
        ] {
            let found = below_100(&weighted_localities(policy.clone(), out));
            assert!((found - want).abs() < 0.015, "{policy:?} {out}: {found}");
        }
    }
}

#[test]
fn localities_without_any_weight_count_by_their_endpoints() {
    let config = ClusterConfig {
        localities: LocalityPolicy::Weighted,
        ..config(LbPolicy::Random)
    };
    let a = (0..3).map(|n| at(1 + n, "a", 0, Health::Healthy));
    let b = (0..1).map(|n| at(101 + n, "b", 0, Health::Healthy));
    let found = below_100(&Cluster::new(config, a.chain(b).collect(), None));
    assert!((found - 0.75).abs() < 0.015, "{found}");
}

#[test]
fn keys_of_localities_without_any_weight_count_by_their_endpoints() {
    let of = |localities, policy: &LbPolicy| {
        let config = ClusterConfig {
            localities,
            ..config(policy.clone())
        };
        let heavy = (1..=2).map(|port| EndpointConfig {
            weight: 4,
            ..at(port, "a", 0, Health::Healthy)
        });
        let light = (3..=10).map(|port| at(port, "b", 0, Health::Healthy));
        keys(
            &Cluster::new(config, heavy.chain(light).collect(), None),
            20_000,
        )
    };
    for policy in [RING, MAGLEV] {
        let found = of(LocalityPolicy::Weighted, &policy);
        let heavy = found.iter().filter(|port| **port <= 2).count();
        assert!((share(heavy, 20_000) - 0.5).abs() < 0.05, "{heavy}");
        assert_eq!(found, of(LocalityPolicy::Ignored, &policy));
    }
}

#[test]
fn a_locality_without_weight_beside_others_gets_no_keys_until_nothing_else_is_left() {
    for policy in [RING, MAGLEV] {
        let cluster = weighted_localities(policy.clone(), 0);
        assert!(keys(&cluster, 20_000).iter().all(|port| *port < 200));
        let config = ClusterConfig {
            localities: LocalityPolicy::Weighted,
            ..config(policy)
        };
        let out = at(1, "a", 3, Health::Unhealthy);
        let none = at(201, "c", 0, Health::Healthy);
        let cluster = Cluster::new(config, vec![out, none], None);
        assert!(keys(&cluster, 100).iter().all(|port| *port == 201));
    }
}

#[test]
fn a_ring_has_places_by_the_weights_of_localities() {
    for policy in [RING, MAGLEV] {
        let cluster = weighted_localities(policy, 0);
        let found = keys(&cluster, 10_000);
        let low = found.iter().filter(|port| **port < 100).count();
        assert!((share(low, 10_000) - 0.75).abs() < 0.05, "{low}");
    }
}

/// Endpoints by zone, seen from zone `a`; with fewer than 6, zones do not count.
fn zones(counts: [u16; 3]) -> Cluster {
    let own = ["a", "b", "c"].into_iter().zip([1, 101, 201]).zip(counts);
    let endpoints = own.flat_map(|((zone, first), count)| {
        (0..count).map(move |n| at(first + n, zone, 0, Health::Healthy))
    });
    let config = ClusterConfig {
        localities: LocalityPolicy::ZoneAware {
            minimum_endpoints: 6,
        },
        own_locality: locality("a"),
        ..config(LbPolicy::LeastRequest)
    };
    Cluster::new(config, endpoints.collect(), None)
}

#[test]
fn the_own_zone_comes_first_and_spills_in_proportion() {
    for (counts, want) in [
        ([4, 4, 4], 1.0),
        ([8, 2, 2], 1.0),
        ([2, 4, 6], 0.5),
        ([1, 4, 4], 1.0 / 3.0),
        ([0, 4, 4], 0.0),
        // Too few: as if there were no zones.
        ([1, 2, 2], 0.2),
        ([6, 0, 0], 1.0),
    ] {
        let found = below_100(&zones(counts));
        assert!((found - want).abs() < 0.015, "{counts:?}: {found}");
    }
    let spread = zones([2, 4, 6]).spread(&mut seeded(1), PICKS);
    let of = |range: std::ops::Range<u16>| -> usize { spread.range(range).map(|(_, n)| n).sum() };
    let (b, c) = (of(101..200), of(201..300));
    assert!((share(c, b) - 1.5).abs() < 0.1, "{b} and {c}");
}

#[test]
fn where_the_own_zone_is_not_known_zones_do_not_count() {
    let one = zones([2, 4, 6]);
    let unknown = ClusterConfig {
        own_locality: Locality::default(),
        ..one.config.clone()
    };
    let endpoints = one.endpoints.iter().map(|one| one.config.clone()).collect();
    let found = below_100(&Cluster::new(unknown, endpoints, None));
    assert!((found - 2.0 / 12.0).abs() < 0.015, "{found}");
}

#[test]
fn a_locality_whose_endpoints_were_tried_hands_over_to_the_others() {
    let cluster = zones([1, 3, 3]);
    let own = [cluster.by_port(1).id];
    for seed in 0..50 {
        let port = cluster
            .pick_with(&mut seeded(seed), None, &own, secs(1))
            .unwrap();
        assert!(port > 100);
    }
}
