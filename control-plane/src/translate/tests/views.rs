//! What a caller sees for who and where it is.

use std::time::Duration;

use outrigger_policy::{LoadBalancer, LocalitySetting, OutlierDetection};

use super::*;

fn ejecting() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx_errors: 5,
        consecutive_gateway_errors: 0,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 10,
        min_health_percent: 0,
        split_external_local_origin_errors: false,
        consecutive_local_origin_failures: 5,
    }
}

fn at_place(locality: &str) -> NodeInfo {
    let mut parts = locality.split('/').map(str::to_owned);
    NodeInfo {
        locality: Some(std::array::from_fn(|_| parts.next().unwrap_or_default())),
        ..node()
    }
}

/// Endpoints of `reviews` in two regions; those of `ratings` in one.
fn spread() -> Given {
    reviews()
        .located("reviews", "10.0.0.1:15006", "eu/a/1")
        .located("reviews", "10.0.0.2:15006", "us/a/1")
        .instance("ratings", 7070, "v1", "10.0.0.3:15006")
        .located("ratings", "10.0.0.3:15006", "us/a/1")
}

fn failing_over() -> Given {
    let ejecting = |rule: &mut outrigger_policy::DestinationRule| {
        rule.traffic_policy.outlier_detection = Some(at(2, ejecting()));
    };
    spread()
        .destination_rule("reviews", ejecting)
        .destination_rule("ratings", ejecting)
}

/// `region:priority` of an assignment.
fn priorities(seen: &Seen, cluster: &str) -> Vec<String> {
    let all = seen.json(Endpoint, cluster);
    let groups = all["endpoints"].as_array().unwrap().iter();
    groups
        .map(|group| {
            let region = group["locality"]["region"].as_str().unwrap();
            format!("{region}:{}", group["priority"].as_u64().unwrap_or(0))
        })
        .collect()
}

#[test]
fn callers_prefer_what_is_near_where_endpoints_are_ejected() {
    let given = failing_over();
    let table: &[(NodeInfo, &[&str])] = &[
        (at_place("eu/a/1"), &["eu:0", "us:1"]),
        (at_place("us/b/1"), &["us:0", "eu:1"]),
        (at_place("asia/a/1"), &["eu:0", "us:0"]),
        (node(), &["eu:0", "us:0"]),
    ];
    for (node, expected) in table {
        let seen = given.seen_by(node);
        assert_eq!(priorities(&seen, REVIEWS), *expected, "{:?}", node.locality);
    }
    let plain = spread().seen_by(&at_place("eu/a/1"));
    assert_eq!(
        priorities(&plain, REVIEWS),
        ["eu:0", "us:0"],
        "nobody would notice failures"
    );
    envoy::accepts(&given);
}

#[test]
fn failover_can_be_switched_off() {
    let given = spread().destination_rule("reviews", |rule| {
        rule.traffic_policy.outlier_detection = Some(at(2, ejecting()));
        let balancer = LoadBalancer {
            locality: Some(LocalitySetting::default()),
            ..LoadBalancer::default()
        };
        rule.traffic_policy.load_balancer = Some(at(3, balancer));
    });
    let seen = given.seen_by(&at_place("eu/a/1"));
    assert_eq!(priorities(&seen, REVIEWS), ["eu:0", "us:0"]);
}

#[test]
fn shares_are_weights_that_the_cluster_heeds() {
    let given = spread().destination_rule("reviews", |rule| {
        let to = [("eu".to_owned(), 70), ("us".to_owned(), 30)];
        let locality = LocalitySetting {
            enabled: true,
            distribute: vec![outrigger_policy::Distribute {
                from: "eu/*".into(),
                to: to.into(),
            }],
            ..LocalitySetting::default()
        };
        let balancer = LoadBalancer {
            locality: Some(locality),
            ..LoadBalancer::default()
        };
        rule.traffic_policy.load_balancer = Some(at(3, balancer));
    });
    let seen = given.seen_by(&at_place("eu/a/1"));
    let weighted = &seen.json(Cluster, REVIEWS)["commonLbConfig"]["localityWeightedLbConfig"];
    assert_eq!(*weighted, json!({}));
    let groups = seen.json(Endpoint, REVIEWS);
    let weight = |index: usize| groups["endpoints"][index]["loadBalancingWeight"].clone();
    assert_eq!([weight(0), weight(1)], [json!(70_000), json!(30_000)]);
    envoy::accepts(&given);
}

#[test]
fn labels_of_the_caller_may_decide_too() {
    let given = spread().destination_rule("reviews", |rule| {
        rule.traffic_policy.outlier_detection = Some(at(2, ejecting()));
        let locality = LocalitySetting {
            enabled: true,
            failover_priority: vec!["version".into()],
            ..LocalitySetting::default()
        };
        let balancer = LoadBalancer {
            locality: Some(locality),
            ..LoadBalancer::default()
        };
        rule.traffic_policy.load_balancer = Some(at(3, balancer));
    });
    for (version, expected) in [("v1", ["eu:0", "us:1"]), ("v2", ["us:0", "eu:1"])] {
        let mut node = node();
        node.labels.insert("version".into(), version.into());
        assert_eq!(
            priorities(&given.seen_by(&node), REVIEWS),
            expected,
            "{version}"
        );
    }
}

#[test]
fn callers_that_see_the_same_share_it() {
    let shared = failing_over().shared();
    let seen = |node: &NodeInfo| Seen(shared.snapshot(node, &NodeResources::of(node)));
    let bytes = |seen: &Seen, kind, name: &str| Arc::clone(seen.0.of(kind).get(name).unwrap());
    let (eu, us) = (seen(&at_place("eu/a/1")), seen(&at_place("us/a/1")));
    let elsewhere = NodeInfo {
        namespace: "shop".into(),
        ..at_place("eu/a/1")
    };
    let elsewhere = seen(&elsewhere);
    let ratings = "outbound|7070||ratings.default.svc.cluster.local";
    let same = |a, b, kind, name| Arc::ptr_eq(&bytes(a, kind, name), &bytes(b, kind, name));
    assert!(!same(&eu, &us, Endpoint, REVIEWS), "they prefer others");
    assert!(
        same(&eu, &us, Endpoint, ratings),
        "there is one locality only"
    );
    assert!(same(&eu, &us, Cluster, REVIEWS));
    assert!(same(&eu, &us, Route, "http_proxy"));
    assert!(
        same(&eu, &elsewhere, Endpoint, REVIEWS),
        "from another namespace"
    );
}

#[test]
fn a_mesh_that_asks_nobody_where_he_is_has_one_view_for_all() {
    let shared = spread().shared();
    let maps = |node: &NodeInfo| {
        let seen = shared.snapshot(node, &NodeResources::of(node));
        ResourceType::ALL.map(|kind| Arc::clone(&seen.of(kind).shared))
    };
    let mut labelled = at_place("us/a/1");
    labelled.labels.insert("version".into(), "v7".into());
    for (a, b) in maps(&node()).iter().zip(maps(&labelled)) {
        assert!(Arc::ptr_eq(a, &b));
    }
}

#[test]
fn a_new_endpoint_is_the_only_thing_that_is_new_to_a_caller_with_preferences() {
    let before = failing_over();
    let after = before
        .clone()
        .instance("reviews", 9080, "v3", "10.0.0.6:15006")
        .located("reviews", "10.0.0.6:15006", "us/a/2");
    let found = reuse::changes_for(&at_place("eu/a/1"), &before, &after);
    let v1 = "outbound|9080|v1|reviews.default.svc.cluster.local";
    assert_eq!(
        found,
        [(Endpoint, vec![REVIEWS.to_owned()])],
        "and not {v1}"
    );
}
