//! What a DestinationPolicy asks of a cluster, in metadata and in xDS' own fields.

use std::time::Duration;

use outrigger_policy::{
    Balancer, BreakerScope, CircuitBreaker, DestinationPolicy, Distribute, HashAlgorithm, HashKey,
    Hedging, LoadBalancer, LocalitySetting, OwnBalancer, ServiceLimits, ZoneAware,
};

use super::*;
use crate::translate::{Dialect, unsupported::unsupported_by};

fn with(edit: impl Fn(&mut DestinationPolicy)) -> Given {
    reviews().destination_policy("reviews", "", edit)
}

fn cluster(given: &Given) -> Value {
    given.seen_by(&node()).json(Cluster, REVIEWS)
}

fn own(cluster: &Value) -> &Value {
    &cluster["metadata"]["filterMetadata"]["outrigger"]
}

fn hashed() -> LoadBalancer {
    LoadBalancer {
        algorithm: Balancer::ConsistentHash {
            key: HashKey::SourceIp,
            algorithm: HashAlgorithm::Maglev { table_size: 65_537 },
        },
        ..LoadBalancer::default()
    }
}

#[test]
fn everything_of_our_own_is_in_the_metadata() {
    let given = with(|policy| {
        policy.balancer = Some(at(
            2,
            OwnBalancer::PeakEwma {
                decay: Duration::from_secs(10),
            },
        ));
        policy.zone_aware = Some(at(
            3,
            ZoneAware {
                minimum_endpoints: 6,
            },
        ));
        policy.circuit_breaker = Some(at(
            4,
            CircuitBreaker {
                consecutive_failures: 5,
                reset_timeout: Duration::from_secs(30),
                scope: BreakerScope::Both,
            },
        ));
        policy.service_limits = Some(at(5, ServiceLimits));
    });
    let found = cluster(&given);
    assert_eq!(
        found["lbPolicy"], "LEAST_REQUEST",
        "for those who do not read it"
    );
    let expected = json!({
        "service": "reviews.default.svc.cluster.local",
        "subset": "",
        "balancer": {"type": "PEAK_EWMA", "decay_ms": 10_000.0},
        "zone_aware": {"minimum_endpoints": 6.0},
        "circuit_breaker": {
            "consecutive_failures": 5.0, "reset_timeout_ms": 30_000.0, "scope": "BOTH", "position": "f.yaml:4:5",
        },
        "limits_scope": "SERVICE",
    });
    assert_eq!(*own(&found), expected);
    envoy::accepts(&given);
}

#[test]
fn a_load_bound_is_for_consistent_hashes() {
    for (balancer, expected) in [
        (Some(hashed()), json!({"hashBalanceFactor": 150})),
        (None, Value::Null),
    ] {
        let given = with(|policy| policy.bounded_load = Some(at(2, 150)));
        let given = given.destination_rule("reviews", move |rule| {
            rule.traffic_policy.load_balancer = balancer.clone().map(|balancer| at(3, balancer));
        });
        let found = &cluster(&given)["commonLbConfig"]["consistentHashingLbConfig"];
        assert_eq!(*found, expected);
        envoy::accepts(&given);
    }
}

#[test]
fn zones_do_not_correct_a_hash_or_shares_that_were_written() {
    let to = Distribute {
        from: "eu".into(),
        to: [("eu".to_owned(), 100)].into(),
    };
    let distributed = LoadBalancer {
        locality: Some(LocalitySetting {
            enabled: true,
            distribute: vec![to],
            ..LocalitySetting::default()
        }),
        ..LoadBalancer::default()
    };
    for (balancer, expected) in [
        (hashed(), None),
        (distributed, None),
        (LoadBalancer::default(), Some(6.0)),
    ] {
        let given = with(|policy| {
            policy.zone_aware = Some(at(
                2,
                ZoneAware {
                    minimum_endpoints: 6,
                },
            ));
        });
        let given = given.destination_rule("reviews", |rule| {
            rule.traffic_policy.load_balancer = Some(at(3, balancer.clone()));
        });
        let found = cluster(&given);
        let found = &own(&found)["zone_aware"]["minimum_endpoints"];
        assert_eq!(found.as_f64(), expected);
    }
}

#[test]
fn a_subset_has_its_own_policy_or_the_hosts() {
    let zones = |minimum_endpoints| Some(at(2, ZoneAware { minimum_endpoints }));
    let host = with(move |policy| policy.zone_aware = zones(1)).destination_rule("reviews", |_| {});
    let v1 = "outbound|9080|v1|reviews.default.svc.cluster.local";
    let found = |given: &Given, name: &str| {
        let cluster = given.seen_by(&node()).json(Cluster, name);
        own(&cluster)["zone_aware"]["minimum_endpoints"].as_f64()
    };
    assert_eq!(found(&host, v1), Some(1.0));
    let both = host.destination_policy("reviews", "v1", move |policy| policy.zone_aware = zones(2));
    assert_eq!(found(&both, v1), Some(2.0));
    assert_eq!(found(&both, REVIEWS), Some(1.0));
}

#[test]
fn envoy_is_known_not_to_follow_what_it_has_no_word_for() {
    let given = with(|policy| {
        policy.hedging = Some(at(
            9,
            Hedging {
                after: Duration::from_millis(20),
                budget_percent: 10.0,
            },
        ));
        policy.zone_aware = Some(at(
            3,
            ZoneAware {
                minimum_endpoints: 6,
            },
        ));
        policy.bounded_load = Some(at(4, 150));
    });
    let mesh = given.mesh();
    let found = unsupported_by(Dialect::Envoy, &mesh);
    let found: Vec<_> = found
        .iter()
        .map(|one| format!("{} {}: {}", one.position, one.path, one.instead))
        .collect();
    assert_eq!(
        found,
        [
            "f.yaml:3:5 spec.zoneAware: uses endpoints of all zones alike",
            "f.yaml:9:5 spec.hedging: sends one copy and waits",
        ],
        "a bounded load is Envoy's own"
    );
    assert_eq!(unsupported_by(Dialect::Outrigger, &mesh), []);
}
