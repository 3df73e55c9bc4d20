//! What a caller sees for who and where it is.

use std::time::Duration;

use outrigger_policy::{
    Balancer, ExportTo, HashAlgorithm, HashKey, LoadBalancer, LocalitySetting, OutlierDetection,
};

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
    let bytes = |seen: &Seen, kind, name: &str| seen.0.of(kind).get(name).unwrap();
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

fn from(namespace: &str, labels: &[(&str, &str)]) -> NodeInfo {
    let labels = labels.iter();
    NodeInfo {
        namespace: namespace.into(),
        labels: labels
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..node()
    }
}

/// The clusters that the routes to `reviews` lead to.
fn leading_to(given: &Given, node: &NodeInfo) -> Vec<String> {
    let seen = given.seen_by(node);
    let routes = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
    let cluster = |route: &Value| route["route"]["cluster"].as_str().unwrap().to_owned();
    routes.iter().map(cluster).collect()
}

#[test]
fn a_match_on_the_source_is_for_that_source() {
    let given = given_routes(
        "  - match: [{sourceLabels: {app: frontend, tier: a}, uri: {prefix: /a}}]
    route: [{destination: {host: ratings}}]
  - match: [{sourceNamespace: shop}]
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: reviews}}]
",
    );
    let ratings = "outbound|7070||ratings.default.svc.cluster.local";
    let table: &[(NodeInfo, &[&str])] = &[
        (
            from("default", &[("app", "frontend"), ("tier", "a"), ("x", "y")]),
            &[ratings, REVIEWS],
        ),
        (from("default", &[("app", "frontend")]), &[REVIEWS]),
        (from("shop", &[]), &[ratings, REVIEWS]),
        (
            from("shop", &[("app", "frontend"), ("tier", "a")]),
            &[ratings, ratings, REVIEWS],
        ),
    ];
    for (node, expected) in table {
        assert_eq!(
            leading_to(&given, node),
            *expected,
            "{} {:?}",
            node.namespace,
            node.labels
        );
    }
    envoy::accepts(&given);
}

#[test]
fn labels_that_nobody_asks_for_make_no_difference() {
    let given = given_routes(
        "  - match: [{sourceLabels: {tier: a}}]
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: reviews}}]
",
    );
    let shared = given.shared();
    let routes = |node: &NodeInfo| {
        let seen = shared.snapshot(node, &NodeResources::of(node));
        Arc::clone(&seen.routes.shared)
    };
    let one = routes(&from("default", &[("tier", "a"), ("pod", "1")]));
    let other = routes(&from("default", &[("tier", "a"), ("pod", "2")]));
    let without = routes(&from("default", &[("pod", "1")]));
    assert!(Arc::ptr_eq(&one, &other));
    assert!(!Arc::ptr_eq(&one, &without));
}

fn virtual_service(name: &str, host: &str, rest: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{host}]
  {rest}
"
    )
}

#[test]
fn a_document_is_for_the_namespaces_that_it_is_exported_to() {
    let rest = "exportTo: [shop]\n  http: [{route: [{destination: {host: ratings}}]}]";
    let given = reviews()
        .instance("ratings", 7070, "v1", "10.0.0.3:15006")
        .policy("vs.yaml", &virtual_service("reviews", "reviews", rest))
        .policy(
            "alias.yaml",
            &virtual_service("alias", "books.example", rest),
        );
    let ratings = "outbound|7070||ratings.default.svc.cluster.local";
    assert_eq!(leading_to(&given, &from("shop", &[])), [ratings]);
    assert_eq!(leading_to(&given, &node()), [REVIEWS]);
    let alias = "books.example:80".to_owned();
    let knows = |node: &NodeInfo| {
        given
            .seen_by(node)
            .domains("http_proxy")
            .contains_key(&alias)
    };
    assert!(knows(&from("shop", &[])));
    assert!(!knows(&node()), "nobody serves it for others");
}

/// Two rules for `reviews`: RANDOM for the frontend of `default`, and another.
fn two_rules(other: impl Fn(&mut outrigger_policy::DestinationRule)) -> Given {
    let selecting = reviews().destination_rule("reviews", |rule| {
        let labels = [("app".to_owned(), "frontend".to_owned())];
        rule.workload_selector = Some(at(2, labels.into()));
        balance(rule, Balancer::Random);
    });
    selecting.destination_rule("reviews", other)
}

fn balance(rule: &mut outrigger_policy::DestinationRule, algorithm: Balancer) {
    let balancer = LoadBalancer {
        algorithm,
        ..LoadBalancer::default()
    };
    rule.traffic_policy.load_balancer = Some(at(3, balancer));
}

/// The balancer of the cluster of `reviews`.
fn balancer(given: &Given, node: &NodeInfo) -> String {
    let cluster = given.seen_by(node).json(Cluster, REVIEWS);
    let policy = cluster["lbPolicy"].as_str();
    policy.unwrap_or("ROUND_ROBIN").to_owned()
}

#[test]
fn a_destination_rule_is_for_the_callers_that_it_names() {
    let given = two_rules(|rule| {
        rule.export_to = ExportTo::Only(["shop".to_owned()].into());
        let key = HashKey::SourceIp;
        let algorithm = HashAlgorithm::Maglev { table_size: 65_537 };
        balance(rule, Balancer::ConsistentHash { key, algorithm });
    });
    let table = [
        (from("default", &[("app", "frontend")]), "RANDOM"),
        (from("default", &[]), "LEAST_REQUEST"),
        (from("shop", &[("app", "frontend")]), "MAGLEV"),
    ];
    for (node, expected) in &table {
        let found = balancer(&given, node);
        assert_eq!(found, *expected, "{} {:?}", node.namespace, node.labels);
        let seen = given.seen_by(node);
        let routes = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
        let hashes = !routes[0]["route"]["hashPolicy"].is_null();
        assert_eq!(
            hashes,
            *expected == "MAGLEV",
            "the routes say what is hashed"
        );
    }
}

#[test]
fn callers_under_one_rule_share_its_clusters() {
    let given = two_rules(|rule| balance(rule, Balancer::RoundRobin));
    let shared = given.shared();
    let cluster = |node: &NodeInfo| {
        let seen = shared.snapshot(node, &NodeResources::of(node));
        seen.clusters.get(REVIEWS).unwrap()
    };
    let (one, other) = (cluster(&from("default", &[])), cluster(&from("shop", &[])));
    assert!(Arc::ptr_eq(&one, &other));
    let selected = cluster(&from("default", &[("app", "frontend")]));
    assert!(!Arc::ptr_eq(&one, &selected));
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    let version = if kind == "DestinationPolicy" {
        "outrigger.dev/v1"
    } else {
        "networking.istio.io/v1"
    };
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn of_namespace(namespace: &str) -> NodeInfo {
    NodeInfo {
        namespace: namespace.to_owned(),
        ..node()
    }
}

#[test]
fn a_destination_policy_of_a_third_namespace_is_for_its_own_calls() {
    let policy = |name: &str, failures: u32, percent: u32| {
        let spec = format!(
            "{{host: reviews.default.svc.cluster.local, circuitBreaker: {{consecutiveFailures: {failures}}}, hedging: {{after: 1s, budgetPercent: {percent}}}}}"
        );
        document("DestinationPolicy", name, &spec)
    };
    let given = reviews()
        .policy("a", &policy("aaa/theirs", 1, 1))
        .policy("b", &policy("default/ours", 7, 7));
    for (namespace, expected) in [("aaa", 1), ("default", 7), ("zzz", 7)] {
        let seen = given.seen_by(&of_namespace(namespace));
        let cluster = seen.json(Cluster, REVIEWS);
        let own = &cluster["metadata"]["filterMetadata"]["outrigger"];
        let breaker = &own["circuit_breaker"];
        assert_eq!(
            breaker["consecutive_failures"],
            json!(f64::from(expected)),
            "{namespace}"
        );
        let routes = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
        let hedge = &routes[0]["metadata"]["filterMetadata"]["outrigger"]["hedge"];
        assert_eq!(
            hedge["budget_percent"],
            json!(f64::from(expected)),
            "{namespace}"
        );
    }
}

#[test]
fn who_sees_none_of_a_hosts_connection_rules_has_the_wildcards_routes() {
    let exact =
        "{hosts: [reviews], exportTo: ['.'], tcp: [{route: [{destination: {host: reviews}}]}]}";
    let wild = "{hosts: ['*.default.svc.cluster.local'], exportTo: [zzz], http: [{directResponse: {status: 418}}]}";
    let given = reviews()
        .policy("a", &document("VirtualService", "default/exact", exact))
        .policy("b", &document("VirtualService", "default/wild", wild));
    for (namespace, expected) in [("zzz", true), ("default", false), ("other", false)] {
        let seen = given.seen_by(&of_namespace(namespace));
        let routes = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
        let teapot = routes[0]["directResponse"]["status"] == 418;
        assert_eq!(teapot, expected, "{namespace}: {routes:?}");
    }
}

#[test]
fn a_name_of_the_outside_is_verified_as_it_is_written_whatever_namespaces_there_are() {
    let entry = "{hosts: [pkg.dev], ports: [{number: 443, name: http, protocol: HTTP}], resolution: STATIC, endpoints: \
                 [{address: 10.0.0.7}]}";
    let rule = "{host: pkg.dev, trafficPolicy: {tls: {mode: SIMPLE}}}";
    let given = reviews()
        .policy("a", &document("ServiceEntry", "default/pkg", entry))
        .policy("b", &document("DestinationRule", "default/pkg", rule))
        .policy(
            "c",
            &document("Sidecar", "dev/other", "{egress: [{hosts: ['./*']}]}"),
        );
    let cluster = given
        .seen_by(&node())
        .json(Cluster, "outbound|443||pkg.dev");
    assert_eq!(cluster["transportSocket"]["typedConfig"]["sni"], "pkg.dev");
}
