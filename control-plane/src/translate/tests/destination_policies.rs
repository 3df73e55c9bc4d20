//! What a DestinationPolicy asks of a cluster, in metadata and in xDS' own fields.

use std::time::Duration;

use outrigger_policy::{
    Balancer, BreakerScope, CircuitBreaker, DestinationPolicy, HashAlgorithm, HashKey,
    LoadBalancer, OwnBalancer, ServiceLimits, ZoneAware,
};

use super::*;

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
fn a_hash_is_not_replaced_by_a_balancer_that_cannot_keep_it() {
    let given = with(|policy| {
        policy.balancer = Some(at(
            2,
            OwnBalancer::PeakEwma {
                decay: Duration::from_secs(1),
            },
        ));
    });
    let given = given.destination_rule("reviews", |rule| {
        rule.traffic_policy.load_balancer = Some(at(3, hashed()));
    });
    let found = cluster(&given);
    assert_eq!(found["lbPolicy"], "MAGLEV");
    assert_eq!(own(&found)["balancer"], Value::Null);
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
