//! What a DestinationRule asks of a cluster, for all of a host, one port, one subset.

use std::time::Duration;

use outrigger_policy::{
    Balancer, ConnectionPool, DestinationRule, HashAlgorithm, HashKey, LoadBalancer,
    OutlierDetection, PortPolicy, Protocol, RetryBudget, TcpKeepalive, TrafficPolicy,
    UpstreamProtocol, Warmup,
};

use super::*;

const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";

fn with(edit: impl Fn(&mut DestinationRule)) -> Given {
    reviews().destination_rule("reviews", edit)
}

fn cluster(given: &Given, name: &str) -> Value {
    given.seen_by(&node()).json(Cluster, name)
}

fn with_pool(pool: ConnectionPool) -> Given {
    with(move |rule| rule.traffic_policy.connection_pool = Some(at(2, pool.clone())))
}

fn http(cluster: &Value) -> &Value {
    &cluster["typedExtensionProtocolOptions"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
}

fn balanced(algorithm: Balancer, warmup: Option<Warmup>) -> LoadBalancer {
    LoadBalancer {
        algorithm,
        locality: None,
        warmup,
    }
}

#[test]
fn a_new_endpoint_warms_up_under_the_balancers_that_can() {
    let warmup = Warmup {
        duration: Duration::from_secs(45),
        minimum_percent: 15.0,
        aggression: 1.5,
    };
    let expected = json!({
        "slowStartWindow": "45s",
        "aggression": {"defaultValue": 1.5, "runtimeKey": "outrigger"},
        "minWeightPercent": {"value": 15.0},
    });
    let table = [
        (Balancer::RoundRobin, "roundRobinLbConfig", expected.clone()),
        (Balancer::LeastRequest, "leastRequestLbConfig", expected),
        (Balancer::Random, "randomLbConfig", Value::Null),
    ];
    for (algorithm, config, expected) in table {
        let balancer = balanced(algorithm, Some(warmup));
        let given = with(move |rule| {
            rule.traffic_policy.load_balancer = Some(at(2, balancer.clone()));
        });
        let found = cluster(&given, REVIEWS);
        assert_eq!(found[config]["slowStartConfig"], expected, "{config}");
        envoy::accepts(&given);
    }
}

#[test]
fn errors_of_our_own_making_count_apart_if_asked_for() {
    let outlier = |split, failures| OutlierDetection {
        consecutive_5xx_errors: 5,
        consecutive_gateway_errors: 0,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 10,
        min_health_percent: 40,
        split_external_local_origin_errors: split,
        consecutive_local_origin_failures: failures,
    };
    let table = [
        (
            outlier(false, 7),
            [Value::Null, Value::Null, Value::Null, Value::Null],
        ),
        (
            outlier(true, 7),
            [json!(true), json!(7), json!(100), json!(0)],
        ),
        (
            outlier(true, 0),
            [json!(true), Value::Null, json!(0), json!(0)],
        ),
    ];
    for (outlier, expected) in table {
        let given = with(move |rule| {
            rule.traffic_policy.outlier_detection = Some(at(2, outlier.clone()));
        });
        let found = cluster(&given, REVIEWS);
        let of = |field: &str| found["outlierDetection"][field].clone();
        let found_all = [
            of("splitExternalLocalOriginErrors"),
            of("consecutiveLocalOriginFailure"),
            of("enforcingConsecutiveLocalOriginFailure"),
            of("enforcingLocalOriginSuccessRate"),
        ];
        assert_eq!(found_all, expected);
        let panic = &found["commonLbConfig"]["healthyPanicThreshold"];
        assert_eq!(*panic, json!({"value": 40.0}));
        envoy::accepts(&given);
    }
}

#[test]
fn a_retry_budget_stands_beside_the_limits() {
    let given = with(|rule| {
        let budget = RetryBudget {
            percent: 12.5,
            min_retry_concurrency: 7,
        };
        rule.traffic_policy = connections(7);
        rule.traffic_policy.retry_budget = Some(at(2, budget));
    });
    let found = cluster(&given, REVIEWS);
    assert_eq!(told(&found).0, 7);
    let expected = json!({"budgetPercent": {"value": 12.5}, "minRetryConcurrency": 7});
    assert_eq!(
        found["circuitBreakers"]["thresholds"][0]["retryBudget"],
        expected
    );
    envoy::accepts(&given);
}

#[test]
fn connections_live_as_the_pool_says() {
    let given = with_pool(ConnectionPool {
        tcp_keepalive: Some(TcpKeepalive {
            probes: Some(3),
            time: Some(Duration::from_secs(7200)),
            interval: Some(Duration::from_secs(75)),
        }),
        max_connection_duration: Some(Duration::from_secs(600)),
        max_concurrent_streams: Some(50),
        idle_timeout: Some(Duration::from_secs(60)),
        ..ConnectionPool::default()
    });
    let found = cluster(&given, REVIEWS);
    let keepalive = json!({"keepaliveProbes": 3, "keepaliveTime": 7200, "keepaliveInterval": 75});
    assert_eq!(
        found["upstreamConnectionOptions"]["tcpKeepalive"],
        keepalive
    );
    let common = json!({"idleTimeout": "60s", "maxConnectionDuration": "600s"});
    assert_eq!(http(&found)["commonHttpProtocolOptions"], common);
    let http2 = &http(&found)["useDownstreamProtocolConfig"]["http2ProtocolOptions"];
    assert_eq!(
        *http2,
        json!({"maxConcurrentStreams": 50, "allowConnect": true})
    );
    envoy::accepts(&given);
}

#[test]
fn the_upstream_is_spoken_to_as_asked() {
    let downstream = json!({"useDownstreamProtocolConfig": {"httpProtocolOptions": {}, "http2ProtocolOptions": {"allowConnect": true}}});
    let http1 = json!({"explicitHttpConfig": {"httpProtocolOptions": {}}});
    let http2 = json!({"explicitHttpConfig": {"http2ProtocolOptions": {"allowConnect": true}}});
    let table = [
        (Protocol::Http, None, &downstream),
        (
            Protocol::Http,
            Some(UpstreamProtocol::AsDownstream),
            &downstream,
        ),
        (Protocol::Http, Some(UpstreamProtocol::Http1), &http1),
        (Protocol::Http, Some(UpstreamProtocol::Http2), &http2),
        (Protocol::Grpc, None, &http2),
        (
            Protocol::Grpc,
            Some(UpstreamProtocol::AsDownstream),
            &downstream,
        ),
        (Protocol::Http2, Some(UpstreamProtocol::Http1), &http2),
    ];
    for (port, asked, expected) in table {
        let pool = ConnectionPool {
            upstream_protocol: asked,
            ..ConnectionPool::default()
        };
        let given = with_pool(pool).speaking("reviews", 9080, port);
        let found = cluster(&given, REVIEWS);
        let mut options = http(&found).clone();
        if let Value::Object(fields) = &mut options {
            fields.remove("@type");
            fields.remove("commonHttpProtocolOptions");
        }
        assert_eq!(options, *expected, "{port:?} {asked:?}");
        envoy::accepts(&given);
    }
}

#[test]
fn a_hash_of_a_cookie_has_its_attributes() {
    let given = with(|rule| {
        let key = HashKey::Cookie {
            name: "session".into(),
            path: "/a".into(),
            ttl: Some(Duration::ZERO),
            attributes: vec![
                ("SameSite".into(), "Strict".into()),
                ("Secure".into(), String::new()),
            ],
        };
        let algorithm = HashAlgorithm::RingHash {
            minimum_ring_size: 1024,
        };
        let balancer = balanced(Balancer::ConsistentHash { key, algorithm }, None);
        rule.traffic_policy.load_balancer = Some(at(2, balancer));
    });
    let seen = given.seen_by(&node());
    let found = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
    let expected = json!({
        "name": "session", "path": "/a", "ttl": "0s",
        "attributes": [{"name": "SameSite", "value": "Strict"}, {"name": "Secure"}],
    });
    assert_eq!(found[0]["route"]["hashPolicy"][0]["cookie"], expected);
    envoy::accepts(&given);
}

/// A policy that can be told by its `maxConnections`, and one by its balancer.
fn connections(count: u32) -> TrafficPolicy {
    let pool = ConnectionPool {
        max_connections: Some(count),
        ..ConnectionPool::default()
    };
    TrafficPolicy {
        connection_pool: Some(at(2, pool)),
        ..TrafficPolicy::default()
    }
}

fn random() -> TrafficPolicy {
    TrafficPolicy {
        load_balancer: Some(at(3, balanced(Balancer::Random, None))),
        ..TrafficPolicy::default()
    }
}

/// `maxConnections` and balancer.
fn told(cluster: &Value) -> (u64, String) {
    let limit = &cluster["circuitBreakers"]["thresholds"][0]["maxConnections"];
    let policy = cluster["lbPolicy"].as_str().unwrap_or("ROUND_ROBIN");
    (limit.as_u64().unwrap(), policy.to_owned())
}

#[test]
fn a_ports_settings_inherit_nothing_and_a_subset_overrides_part_by_part() {
    let unlimited = u64::from(u32::MAX);
    // Of the host, of its port, of the subset, of the subset's port; what the host's cluster is, and the subset's.
    let table = [
        (
            (connections(1), None, random(), None),
            (1, "LEAST_REQUEST"),
            (1, "RANDOM"),
        ),
        (
            (
                connections(1),
                Some(random()),
                TrafficPolicy::default(),
                None,
            ),
            (unlimited, "RANDOM"),
            (unlimited, "RANDOM"),
        ),
        (
            (random(), Some(connections(2)), random(), None),
            (2, "LEAST_REQUEST"),
            (2, "RANDOM"),
        ),
        (
            (connections(1), None, connections(3), Some(random())),
            (1, "LEAST_REQUEST"),
            (unlimited, "RANDOM"),
        ),
    ];
    for ((host, port, subset, subset_port), of_host, of_subset) in table {
        let given = with(move |rule| {
            let ports = |policy: &Option<TrafficPolicy>| {
                policy.clone().map(|policy| (9080, of_port(policy)))
            };
            rule.traffic_policy = host.clone();
            rule.traffic_policy.ports = ports(&port).into_iter().collect();
            rule.subsets[0].traffic_policy = subset.clone();
            rule.subsets[0].traffic_policy.ports = ports(&subset_port).into_iter().collect();
        });
        let expected = |(limit, policy): (u64, &str)| (limit, policy.to_owned());
        assert_eq!(told(&cluster(&given, REVIEWS)), expected(of_host));
        assert_eq!(told(&cluster(&given, V1)), expected(of_subset));
    }
}

fn of_port(policy: TrafficPolicy) -> PortPolicy {
    PortPolicy { index: 0, policy }
}

#[test]
fn another_port_keeps_the_hosts_settings() {
    let given = with(|rule| {
        rule.traffic_policy = connections(1);
        rule.traffic_policy.ports = [(80, of_port(connections(2)))].into();
    });
    let given = given.instance("reviews", 80, "v1", "10.0.0.1:80");
    let other = "outbound|80||reviews.default.svc.cluster.local";
    assert_eq!(told(&cluster(&given, REVIEWS)).0, 1);
    assert_eq!(told(&cluster(&given, other)).0, 2);
}
