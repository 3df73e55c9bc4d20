//! What a cluster says about balancing, limits, breakers and connections, and how it is refused.

use outrigger_core::{
    BreakerConfig, ClusterConfig, LocalityPolicy, RetryShare, SlowStart, TcpKeepalive,
};
use outrigger_proto::envoy::{
    config::cluster::v3::{
        LoadBalancingPolicy, UpstreamConnectionOptions,
        circuit_breakers::thresholds::RetryBudget,
        cluster::{
            CommonLbConfig, LbPolicy as Lb, LeastRequestLbConfig, RoundRobinLbConfig,
            SlowStartConfig,
            common_lb_config::{ConsistentHashingLbConfig, LocalityConfigSpecifier},
        },
        load_balancing_policy::Policy,
    },
    extensions::load_balancing_policies::{
        common::v3 as common, ring_hash::v3::RingHash, round_robin::v3::RoundRobin,
        wrr_locality::v3::WrrLocality,
    },
    r#type::v3::Percent,
};
use prost_types::value::Kind;

use super::*;

fn config_of(change: impl FnOnce(&mut cds::Cluster)) -> ClusterConfig {
    let mut message = cluster(CLUSTER);
    change(&mut message);
    match cluster_of(&message) {
        Ok(found) => found.config,
        Err(error) => panic!("refused: {error}"),
    }
}

fn number(value: f64) -> Kind {
    Kind::NumberValue(value)
}

fn text(value: &str) -> Kind {
    Kind::StringValue(value.to_owned())
}

/// Puts a struct called `key` into our part of the metadata.
fn ours(cluster: &mut cds::Cluster, key: &str, fields: &[(&str, Kind)]) {
    let value = |kind: Kind| Value { kind: Some(kind) };
    let fields = fields
        .iter()
        .map(|(name, kind)| ((*name).to_owned(), value(kind.clone())));
    let inner = Struct {
        fields: fields.collect(),
    };
    let metadata = &mut cluster.metadata.as_mut().unwrap().filter_metadata;
    let own = metadata.get_mut("outrigger").unwrap();
    own.fields
        .insert(key.to_owned(), value(Kind::StructValue(inner)));
}

fn slow(window: i64, aggression: f64, percent: f64) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(seconds(window)),
        aggression: Some(core::RuntimeDouble {
            default_value: aggression,
            runtime_key: "outrigger".to_owned(),
        }),
        min_weight_percent: Some(Percent { value: percent }),
    }
}

fn least_request(slow_start: SlowStartConfig) -> Option<LbConfig> {
    Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
        slow_start_config: Some(slow_start),
        ..LeastRequestLbConfig::default()
    }))
}

fn weighted() -> Option<LocalityConfigSpecifier> {
    Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
        Default::default(),
    ))
}

fn common(cluster: &mut cds::Cluster) -> &mut CommonLbConfig {
    cluster.common_lb_config.as_mut().unwrap()
}

fn bounded(percent: u32) -> Option<ConsistentHashingLbConfig> {
    Some(ConsistentHashingLbConfig {
        hash_balance_factor: Some(percent),
        ..Default::default()
    })
}

#[test]
fn warmup_comes_with_round_robin_and_least_request() {
    let want = SlowStart {
        window: Duration::from_secs(60),
        aggression: 2.0,
        min_weight_percent: 5.0,
    };
    let found = config_of(|c| c.lb_config = least_request(slow(60, 2.0, 5.0)));
    assert_eq!(found.slow_start, Some(want));
    let found = config_of(|c| {
        c.lb_policy = Lb::RoundRobin as i32;
        c.lb_config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
            slow_start_config: Some(slow(60, 2.0, 5.0)),
        }));
    });
    assert_eq!(
        (found.slow_start, found.lb),
        (Some(want), LbPolicy::RoundRobin)
    );
    let found = config_of(|c| {
        c.lb_config = least_request(SlowStartConfig {
            slow_start_window: Some(seconds(60)),
            ..Default::default()
        });
    });
    let slow_start = found.slow_start.unwrap();
    assert_eq!(
        (slow_start.aggression, slow_start.min_weight_percent),
        (1.0, 10.0)
    );
}

#[test]
fn localities_bounds_and_zones_are_taken_as_they_come() {
    let found = config_of(|c| common(c).locality_config_specifier = weighted());
    assert_eq!(found.localities, LocalityPolicy::Weighted);
    let found = config_of(|c| {
        c.lb_policy = Lb::RingHash as i32;
        c.lb_config = None;
        common(c).consistent_hashing_lb_config = bounded(150);
    });
    assert_eq!(found.hash_balance_percent, Some(150));
    let found = config_of(|c| ours(c, "zone_aware", &[("minimum_endpoints", number(3.0))]));
    let zones = LocalityPolicy::ZoneAware {
        minimum_endpoints: 3,
    };
    assert_eq!(found.localities, zones);
}

#[test]
fn what_xds_has_no_field_for_comes_in_our_metadata() {
    let found = config_of(|c| {
        let fields = [("type", text("PEAK_EWMA")), ("decay_ms", number(5000.0))];
        ours(c, "balancer", &fields);
        let fields = [
            ("consecutive_failures", number(3.0)),
            ("reset_timeout_ms", number(60_000.0)),
            ("scope", text("BOTH")),
            ("position", text("dp.yaml:9:3")),
        ];
        ours(c, "circuit_breaker", &fields);
    });
    let decay = Duration::from_secs(5);
    assert_eq!(found.lb, LbPolicy::PeakEwma { decay });
    let breaker = BreakerConfig {
        consecutive_failures: 3,
        reset_timeout: Duration::from_secs(60),
        for_endpoints: true,
        for_service: true,
        position: Some("dp.yaml:9:3".into()),
    };
    assert_eq!(found.breaker, Some(breaker));
    let found = config_of(|c| ours(c, "circuit_breaker", &[("scope", text("SERVICE"))]));
    let breaker = found.breaker.unwrap();
    assert_eq!(breaker.consecutive_failures, 5);
    assert_eq!(breaker.reset_timeout, Duration::from_secs(30));
    assert!(breaker.for_service && !breaker.for_endpoints);
}

#[test]
fn a_retry_budget_takes_the_place_of_max_retries() {
    let found = config_of(|c| {
        let thresholds = &mut c.circuit_breakers.as_mut().unwrap().thresholds[0];
        thresholds.max_retries = Some(7);
        thresholds.retry_budget = Some(RetryBudget {
            budget_percent: Some(Percent { value: 12.5 }),
            min_retry_concurrency: Some(10),
        });
    });
    let share = RetryShare {
        percent: 12.5,
        least: 10,
        written: true,
    };
    assert_eq!(found.retry_share, share);
    assert_eq!(found.thresholds.max_retries, u32::MAX);
}

#[test]
fn connections_have_their_ages_streams_and_keepalive() {
    let found = config_of(|c| {
        let http2 = core::Http2ProtocolOptions {
            max_concurrent_streams: Some(50),
            ..Default::default()
        };
        let explicit = upstreams::http_protocol_options::ExplicitHttpConfig {
            protocol_config: Some(
                upstreams::http_protocol_options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2),
            ),
        };
        let options = upstreams::HttpProtocolOptions {
            upstream_protocol_options: Some(
                upstreams::http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig(
                    explicit,
                ),
            ),
            common_http_protocol_options: Some(core::HttpProtocolOptions {
                max_connection_duration: Some(seconds(300)),
                ..Default::default()
            }),
            ..Default::default()
        };
        c.typed_extension_protocol_options = http_options(&options);
        c.upstream_connection_options = Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(core::TcpKeepalive {
                keepalive_probes: Some(3),
                keepalive_time: Some(30),
                keepalive_interval: None,
            }),
            ..Default::default()
        });
    });
    assert_eq!(found.protocol, UpstreamProtocol::Http2);
    assert_eq!(found.max_concurrent_streams, Some(50));
    assert_eq!(
        found.max_connection_duration,
        Some(Duration::from_secs(300))
    );
    let keepalive = TcpKeepalive {
        probes: 3,
        time: Duration::from_secs(30),
        interval: Duration::from_secs(10),
    };
    assert_eq!(found.tcp_keepalive, keepalive);
}

#[test]
fn an_explicit_protocol_is_spoken_whatever_came_in() {
    use upstreams::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    for (explicit, want) in [
        (
            ProtocolConfig::HttpProtocolOptions(Default::default()),
            UpstreamProtocol::Http1,
        ),
        (
            ProtocolConfig::Http2ProtocolOptions(Default::default()),
            UpstreamProtocol::Http2,
        ),
    ] {
        let options = upstreams::HttpProtocolOptions {
            upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
                ExplicitHttpConfig {
                    protocol_config: Some(explicit),
                },
            )),
            ..Default::default()
        };
        let found = config_of(|c| c.typed_extension_protocol_options = http_options(&options));
        assert_eq!(found.protocol, want);
    }
}

#[test]
fn local_errors_are_split_where_it_says_so() {
    let split_local = |detection: OutlierDetection| {
        let found = config_of(|c| c.outlier_detection = Some(detection));
        found.outlier.unwrap().split_local
    };
    let split = OutlierDetection {
        split_external_local_origin_errors: true,
        ..Default::default()
    };
    assert_eq!(split_local(OutlierDetection::default()), None);
    assert_eq!(split_local(split.clone()), Some(5));
    let twice = OutlierDetection {
        consecutive_local_origin_failure: Some(2),
        enforcing_consecutive_local_origin_failure: Some(100),
        // Envoy's sweep is on unless it is switched off.
        enforcing_local_origin_success_rate: Some(0),
        ..split.clone()
    };
    assert_eq!(split_local(twice), Some(2));
    let never = OutlierDetection {
        enforcing_consecutive_local_origin_failure: Some(0),
        ..split
    };
    assert_eq!(split_local(never), Some(0));
}

fn listed<M: Message>(name: &str, policy: &M) -> LoadBalancingPolicy {
    let full = format!("envoy.extensions.load_balancing_policies.{name}");
    LoadBalancingPolicy {
        policies: vec![Policy {
            typed_extension_config: Some(core::TypedExtensionConfig {
                name: name.to_owned(),
                typed_config: Some(any(&full, policy)),
            }),
        }],
    }
}

#[test]
fn the_extensions_say_the_same() {
    let found = config_of(|c| {
        c.lb_config = None;
        let inside = RoundRobin {
            slow_start_config: Some(common::SlowStartConfig {
                slow_start_window: Some(seconds(9)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let outer = WrrLocality {
            endpoint_picking_policy: Some(listed("round_robin.v3.RoundRobin", &inside)),
        };
        c.load_balancing_policy = Some(listed("wrr_locality.v3.WrrLocality", &outer));
    });
    assert_eq!(found.lb, LbPolicy::RoundRobin);
    assert_eq!(found.localities, LocalityPolicy::Weighted);
    assert_eq!(found.slow_start.unwrap().window, Duration::from_secs(9));
    let found = config_of(|c| {
        c.lb_config = None;
        let ring = RingHash {
            consistent_hashing_lb_config: Some(common::ConsistentHashingLbConfig {
                hash_balance_factor: Some(120),
                ..Default::default()
            }),
            ..Default::default()
        };
        c.load_balancing_policy = Some(listed("ring_hash.v3.RingHash", &ring));
    });
    assert_eq!(found.hash_balance_percent, Some(120));
    assert_eq!(found.localities, LocalityPolicy::Ignored);
}

#[test]
fn a_locality_brings_its_weight_to_its_endpoints() {
    let mut message = assignment(CLUSTER, &[("10.0.0.1", 80)]);
    message.endpoints[0].load_balancing_weight = Some(70);
    assert_eq!(endpoints_of(&message).unwrap()[0].locality_weight, 70);
    message.endpoints[0].load_balancing_weight = None;
    assert_eq!(endpoints_of(&message).unwrap()[0].locality_weight, 0);
}

#[test]
fn spilling_has_envoys_factor_and_no_other() {
    let with = |percent| {
        let mut message = assignment(CLUSTER, &[("10.0.0.1", 80)]);
        message.policy = Some(eds::cluster_load_assignment::Policy {
            overprovisioning_factor: Some(percent),
            ..Default::default()
        });
        refusal(endpoints_of(&message))
    };
    assert_eq!(with(140), "accepted");
    let refused = "policy.overprovisioning_factor: 200 is not supported yet; must be 140";
    assert_eq!(with(200), refused);
}

#[test]
fn wrong_policy_is_refused_by_the_name_of_the_field() {
    const OURS: &str = "metadata.filter_metadata[\"outrigger\"]";
    type Change = fn(&mut cds::Cluster);
    let table: [(Change, &str); 19] = [
        (
            |c| c.lb_config = least_request(slow(0, 1.0, 10.0)),
            "least_request_lb_config.slow_start_config.slow_start_window: 0s",
        ),
        (
            |c| c.lb_config = least_request(SlowStartConfig::default()),
            "least_request_lb_config.slow_start_config.slow_start_window: missing",
        ),
        (
            |c| c.lb_config = least_request(slow(1, 0.0, 10.0)),
            "least_request_lb_config.slow_start_config.aggression.default_value: 0; must",
        ),
        (
            |c| c.lb_config = least_request(slow(1, 1.0, 101.0)),
            "least_request_lb_config.slow_start_config.min_weight_percent.value: 101; must",
        ),
        (
            |c| common(c).consistent_hashing_lb_config = bounded(150),
            "common_lb_config.consistent_hashing_lb_config.hash_balance_factor: has no effect",
        ),
        (
            |c| {
                c.lb_policy = Lb::Maglev as i32;
                c.lb_config = None;
                common(c).consistent_hashing_lb_config = bounded(99);
            },
            "common_lb_config.consistent_hashing_lb_config.hash_balance_factor: 99; must",
        ),
        (
            |c| {
                common(c).locality_config_specifier = Some(
                    LocalityConfigSpecifier::ZoneAwareLbConfig(Default::default()),
                );
            },
            "common_lb_config.zone_aware_lb_config: not supported yet",
        ),
        (
            |c| {
                ours(c, "zone_aware", &[]);
                common(c).locality_config_specifier = weighted();
            },
            "zone_aware: contradicts locality_weighted_lb_config",
        ),
        (
            |c| {
                ours(c, "zone_aware", &[]);
                c.lb_policy = Lb::RingHash as i32;
                c.lb_config = None;
            },
            "zone_aware: has no effect on a consistent hash",
        ),
        (
            |c| {
                ours(c, "balancer", &[("type", text("PEAK_EWMA"))]);
                c.lb_policy = Lb::Random as i32;
                c.lb_config = None;
            },
            "balancer.type: PEAK_EWMA needs",
        ),
        (
            |c| ours(c, "balancer", &[("type", text("BEST"))]),
            "balancer.type: Some(\"BEST\") is unknown",
        ),
        (
            |c| ours(c, "circuit_breaker", &[]),
            "circuit_breaker.scope: None is unknown",
        ),
        (
            |c| {
                let fields = [
                    ("scope", text("BOTH")),
                    ("consecutive_failures", number(0.0)),
                ];
                ours(c, "circuit_breaker", &fields);
            },
            "circuit_breaker.consecutive_failures: 0; must be a whole number",
        ),
        (
            |c| {
                let fields = [("scope", text("BOTH")), ("reset_timeout_ms", text("30s"))];
                ours(c, "circuit_breaker", &fields);
            },
            "circuit_breaker.reset_timeout_ms: must be a number",
        ),
        (
            |c| {
                c.circuit_breakers.as_mut().unwrap().thresholds[0].retry_budget =
                    Some(RetryBudget {
                        budget_percent: Some(Percent { value: -1.0 }),
                        ..Default::default()
                    });
            },
            "circuit_breakers.thresholds[0].retry_budget.budget_percent.value: -1; must",
        ),
        (
            |c| {
                c.outlier_detection = Some(OutlierDetection {
                    consecutive_local_origin_failure: Some(3),
                    ..Default::default()
                });
            },
            "outlier_detection.consecutive_local_origin_failure: has no effect",
        ),
        (
            |c| {
                c.upstream_connection_options = Some(UpstreamConnectionOptions {
                    tcp_keepalive: Some(core::TcpKeepalive {
                        keepalive_time: Some(0),
                        ..Default::default()
                    }),
                    ..Default::default()
                });
            },
            "upstream_connection_options.tcp_keepalive.keepalive_time: 0; must be 1 to 32767",
        ),
        (
            |c| {
                c.upstream_connection_options = Some(UpstreamConnectionOptions {
                    set_local_interface_name_on_upstream_connections: true,
                    ..Default::default()
                });
            },
            "upstream_connection_options.set_local_interface_name_on_upstream_connections: not supported yet",
        ),
        (
            |c| {
                c.lb_config = None;
                let outer = WrrLocality::default();
                c.load_balancing_policy = Some(listed("wrr_locality.v3.WrrLocality", &outer));
            },
            "load_balancing_policy.policies[0].endpoint_picking_policy: missing",
        ),
    ];
    for (change, expected) in table {
        let mut message = cluster(CLUSTER);
        change(&mut message);
        let found = refusal(cluster_of(&message));
        let own = format!("{OURS}.{expected}");
        assert!(
            found.starts_with(expected) || found.starts_with(&own),
            "expected {expected:?}, found {found:?}"
        );
    }
}
