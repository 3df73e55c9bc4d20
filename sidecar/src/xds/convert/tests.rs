mod features;

use std::time::Duration;

use outrigger_core::{
    Action, ClusterSlot, Direction, HashPolicy, Health, LimitsScope, SnapshotBuilder, StringMatch,
    UpstreamProtocol, balance::LbPolicy,
};
use outrigger_proto::envoy::{
    config::{
        cluster::v3::{self as cds, OutlierDetection, cluster::LbConfig},
        core::v3 as core,
        endpoint::v3 as eds,
        listener::v3 as lds,
        route::v3::{self as rds, route_action},
    },
    extensions::{
        filters::network::http_connection_manager::v3 as hcm,
        transport_sockets::tls::v3::{self as tls_proto, secret},
        upstreams::http::v3 as upstreams,
    },
    r#type::matcher::v3 as matcher,
};
use prost::Message;

mod clusters;

use super::{cluster::EndpointSource, listener::ParsedRoutes, *};
use crate::xds::testing::*;

#[test]
fn a_duration_is_no_longer_than_protobuf_says() {
    let of = |seconds| prost_types::Duration { seconds, nanos: 0 };
    assert!(duration("timeout", &of(315_576_000_000)).is_ok());
    for seconds in [-1, 315_576_000_001, i64::MAX] {
        let refused = duration("timeout", &of(seconds)).unwrap_err();
        assert_eq!(refused.path, "timeout");
    }
}

fn slots() -> impl FnMut(&str) -> ClusterSlot {
    let mut builder = SnapshotBuilder::default();
    move |name| builder.cluster_slot(name)
}

/// The whole way of a resource: field check, then conversion.
fn take<M: Message + Default, T>(
    name: &str,
    message: &M,
    convert: impl FnOnce(&M) -> Converted<T>,
) -> Converted<T> {
    let any = any(name, message);
    fields::check(&any)?;
    convert(&unpack(&any, name)?)
}

fn cluster_of(message: &cds::Cluster) -> Converted<cluster::ParsedCluster> {
    take("envoy.config.cluster.v3.Cluster", message, cluster::convert)
}

fn endpoints_of(
    message: &eds::ClusterLoadAssignment,
) -> Converted<Vec<outrigger_core::EndpointConfig>> {
    take(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        message,
        endpoint::convert,
    )
}

fn listener_of(message: &lds::Listener) -> Converted<listener::ParsedListener> {
    take("envoy.config.listener.v3.Listener", message, |m| {
        listener::convert(m, &mut slots())
    })
}

fn routes_of(message: &rds::RouteConfiguration) -> Converted<outrigger_core::RouteTable> {
    take("envoy.config.route.v3.RouteConfiguration", message, |m| {
        route::convert(m, &mut slots())
    })
}

fn refusal<T>(result: Converted<T>) -> String {
    match result {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_cluster_of_our_control_plane_becomes_what_it_says() {
    let found = cluster_of(&cluster(CLUSTER)).unwrap();
    let config = found.config;
    assert_eq!(found.source, EndpointSource::Eds(CLUSTER.to_owned()));
    assert!(!found.always_tls);
    assert_eq!(config.service, "reviews.default.svc.cluster.local");
    assert_eq!(config.subset, "v1");
    assert_eq!(config.position.as_deref(), Some("dr.yaml:3:1"));
    assert_eq!(config.lb, LbPolicy::LeastRequest);
    assert_eq!(config.protocol, UpstreamProtocol::AsDownstream);
    assert_eq!(config.thresholds.max_connections, 100);
    assert_eq!(config.thresholds.max_requests, u32::MAX);
    let tls = config.tls.unwrap();
    assert_eq!(tls.subject_alt_names, [SPIFFE]);
    assert_eq!(
        (tls.certificate.as_str(), tls.validation.as_str()),
        ("default", "ROOTCA")
    );
}

#[test]
fn service_and_subset_are_in_the_name_where_the_metadata_is_silent() {
    let found = cluster_of(&cds::Cluster {
        metadata: None,
        ..cluster(CLUSTER)
    })
    .unwrap();
    assert_eq!(found.config.service, "reviews.default.svc.cluster.local");
    assert_eq!(found.config.subset, "v1");
}

#[test]
fn the_scope_of_limits_is_in_the_metadata() {
    let scope_of = |scope: Option<&str>| {
        let mut message = cluster(CLUSTER);
        let metadata = message.metadata.get_or_insert_default();
        let ours = metadata.filter_metadata.entry("outrigger".to_owned());
        let fields = &mut ours.or_default().fields;
        if let Some(scope) = scope {
            fields.insert("limits_scope".to_owned(), text_value(scope));
        }
        cluster_of(&message).map(|found| found.config.limits_scope)
    };
    assert_eq!(scope_of(None).unwrap(), LimitsScope::Proxy);
    assert_eq!(scope_of(Some("PROXY")).unwrap(), LimitsScope::Proxy);
    assert_eq!(scope_of(Some("SERVICE")).unwrap(), LimitsScope::Service);
    assert_eq!(
        refusal(scope_of(Some("MESH"))),
        "metadata.filter_metadata[\"outrigger\"].limits_scope: \"MESH\"; PROXY or SERVICE"
    );
}

#[test]
fn a_static_cluster_brings_its_endpoints() {
    let message = cds::Cluster {
        cluster_discovery_type: None,
        eds_cluster_config: None,
        load_assignment: Some(assignment("inbound|9080||", &[("127.0.0.1", 9080)])),
        transport_socket_matches: Vec::new(),
        ..cluster("inbound|9080||")
    };
    let found = cluster_of(&message).unwrap();
    let EndpointSource::Static(endpoints) = found.source else {
        panic!("not static")
    };
    assert_eq!(endpoints[0].address.to_string(), "127.0.0.1:9080");
    assert_eq!(found.config.tls, None);
}

#[test]
fn a_transport_socket_without_matches_is_for_every_endpoint() {
    let message = cds::Cluster {
        transport_socket: Some(upstream_tls()),
        transport_socket_matches: Vec::new(),
        ..cluster(CLUSTER)
    };
    let found = cluster_of(&message).unwrap();
    assert!(found.always_tls && found.config.tls.is_some());
}

#[test]
fn outlier_detection_takes_istios_fields() {
    let message = cds::Cluster {
        outlier_detection: Some(OutlierDetection {
            consecutive_5xx: Some(7),
            enforcing_consecutive_5xx: Some(100),
            enforcing_success_rate: Some(0),
            base_ejection_time: Some(seconds(400)),
            ..OutlierDetection::default()
        }),
        common_lb_config: Some(cds::cluster::CommonLbConfig {
            healthy_panic_threshold: Some(outrigger_proto::envoy::r#type::v3::Percent {
                value: 50.0,
            }),
            ..Default::default()
        }),
        ..cluster(CLUSTER)
    };
    let outlier = cluster_of(&message).unwrap().config.outlier.unwrap();
    assert_eq!(
        (outlier.consecutive_5xx, outlier.consecutive_gateway_failure),
        (7, 0)
    );
    assert_eq!(outlier.max_ejection_time, Duration::from_secs(400));
    assert_eq!(
        (outlier.max_ejection_percent, outlier.min_health_percent),
        (10, 50)
    );
}

#[test]
fn a_cluster_is_refused_by_the_name_of_the_field() {
    type Change = fn(&mut cds::Cluster);
    let table: [(Change, &str); 20] = [
        (
            |c| c.health_checks = vec![core::HealthCheck::default()],
            "health_checks: not supported yet",
        ),
        (
            |c| c.alt_stat_name = "x".into(),
            "alt_stat_name: not supported yet",
        ),
        (
            |c| c.connect_timeout = Some(seconds(0)),
            "connect_timeout: 0s",
        ),
        (
            |c| c.connect_timeout = Some(seconds(-1)),
            "connect_timeout: -1",
        ),
        (
            |c| c.eds_cluster_config = None,
            "eds_cluster_config: missing",
        ),
        (
            |c| c.eds_cluster_config.as_mut().unwrap().eds_config = None,
            "eds_cluster_config.eds_config: missing",
        ),
        (
            |c| c.cluster_discovery_type = Some(cds::cluster::ClusterDiscoveryType::Type(4)),
            "eds_cluster_config: has no effect on a cluster of type ORIGINAL_DST",
        ),
        (|c| c.lb_policy = 6, "lb_policy: CLUSTER_PROVIDED"),
        (|c| c.lb_policy = 99, "lb_policy: 99 is unknown"),
        (
            |c| c.lb_policy = cds::cluster::LbPolicy::RingHash as i32,
            "lb_config: belongs to another policy",
        ),
        (
            |c| {
                c.lb_policy = cds::cluster::LbPolicy::RingHash as i32;
                c.lb_config = Some(LbConfig::RingHashLbConfig(cds::cluster::RingHashLbConfig {
                    maximum_ring_size: Some(9_000_000),
                    ..Default::default()
                }));
            },
            "ring_hash_lb_config.maximum_ring_size: 9000000",
        ),
        (
            |c| {
                c.lb_policy = cds::cluster::LbPolicy::RingHash as i32;
                c.lb_config = Some(LbConfig::RingHashLbConfig(cds::cluster::RingHashLbConfig {
                    hash_function: 1,
                    ..Default::default()
                }));
            },
            "ring_hash_lb_config.hash_function: must be XX_HASH",
        ),
        (
            |c| {
                c.lb_policy = cds::cluster::LbPolicy::Maglev as i32;
                c.lb_config = Some(LbConfig::MaglevLbConfig(cds::cluster::MaglevLbConfig {
                    table_size: Some(1000),
                }));
            },
            "maglev_lb_config.table_size: 1000; must be a prime",
        ),
        (
            |c| c.circuit_breakers.as_mut().unwrap().thresholds[0].priority = 1,
            "circuit_breakers.thresholds[0].priority: HIGH",
        ),
        (
            |c| {
                c.outlier_detection = Some(OutlierDetection {
                    max_ejection_percent: Some(101),
                    ..Default::default()
                });
            },
            "outlier_detection.max_ejection_percent: 101",
        ),
        (
            |c| {
                c.outlier_detection = Some(OutlierDetection {
                    enforcing_success_rate: Some(100),
                    ..Default::default()
                });
            },
            "outlier_detection.enforcing_success_rate: not supported yet",
        ),
        (
            |c| {
                c.outlier_detection = Some(OutlierDetection {
                    consecutive_gateway_failure: Some(3),
                    ..Default::default()
                });
            },
            "outlier_detection.consecutive_gateway_failure: has no effect",
        ),
        (
            |c| {
                c.outlier_detection = Some(OutlierDetection {
                    failure_percentage_threshold: Some(3),
                    ..Default::default()
                });
            },
            "outlier_detection.failure_percentage_threshold: not supported yet",
        ),
        (
            |c| c.transport_socket_matches.reverse(),
            "transport_socket_matches[1]: not supported yet",
        ),
        (
            |c| {
                let options = upstreams::HttpProtocolOptions {
                    upstream_protocol_options: Some(
                        upstreams::http_protocol_options::UpstreamProtocolOptions::AutoConfig(
                            Default::default(),
                        ),
                    ),
                    ..Default::default()
                };
                c.typed_extension_protocol_options = http_options(&options);
            },
            "typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"].auto_config: not supported yet",
        ),
    ];
    for (change, expected) in table {
        let mut message = cluster(CLUSTER);
        change(&mut message);
        let found = refusal(cluster_of(&message));
        assert!(
            found.starts_with(expected),
            "expected {expected:?}, found {found:?}"
        );
    }
}

#[test]
fn a_field_outside_our_schema_is_refused_by_its_number() {
    // Field 9 of Cluster (`max_requests_per_connection`, deprecated) is not in our schema.
    let mut any = any("envoy.config.cluster.v3.Cluster", &cluster(CLUSTER));
    any.value.extend([0x4a, 0x00]);
    let found = refusal(fields::check(&any));
    assert_eq!(
        found,
        "field 9 of envoy.config.cluster.v3.Cluster is not supported yet"
    );
}

#[test]
fn messages_inside_each_other_without_end_are_refused() {
    let mut nested = any("envoy.config.cluster.v3.Cluster", &cluster(CLUSTER));
    for _ in 0..10_000 {
        nested = any("google.protobuf.Any", &nested);
    }
    let found = refusal(fields::check(&nested));
    assert!(
        found.contains("more than 64 messages inside each other"),
        "{found}"
    );
}

#[test]
fn an_assignment_becomes_endpoints() {
    let found = endpoints_of(&assignment(
        CLUSTER,
        &[("10.0.0.1", 15006), ("10.0.0.2", 15006)],
    ))
    .unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].address.to_string(), "10.0.0.1:15006");
    assert_eq!((found[0].weight, found[0].priority), (3, 0));
    assert_eq!(found[0].health, Health::Healthy);
    assert!(found[0].mtls);
    assert_eq!(found[0].locality.zone, "a");
}

#[test]
fn health_decides_who_takes_traffic() {
    use core::HealthStatus;
    let table = [
        (HealthStatus::Unknown, Health::Healthy),
        (HealthStatus::Unhealthy, Health::Unhealthy),
        (HealthStatus::Timeout, Health::Unhealthy),
        (HealthStatus::Draining, Health::Draining),
    ];
    for (status, expected) in table {
        let mut message = assignment(CLUSTER, &[("10.0.0.1", 1)]);
        message.endpoints[0].lb_endpoints[0].health_status = status as i32;
        assert_eq!(endpoints_of(&message).unwrap()[0].health, expected);
    }
}

#[test]
fn an_assignment_is_refused_by_the_name_of_the_field() {
    type Change = fn(&mut eds::ClusterLoadAssignment);
    let table: [(Change, &str); 7] = [
        (
            |a| a.endpoints[0].lb_endpoints[0].load_balancing_weight = Some(0),
            "endpoints[0].lb_endpoints[0].load_balancing_weight: 0",
        ),
        (
            |a| a.endpoints[0].lb_endpoints[0] = endpoint("reviews.example", 80),
            "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \"reviews.example\" is not an IP",
        ),
        (
            |a| a.endpoints[0].lb_endpoints[0] = endpoint("10.0.0.1", 70_000),
            "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: 70000",
        ),
        (
            |a| a.endpoints[0].lb_endpoints.push(endpoint("10.0.0.1", 1)),
            "endpoints: 10.0.0.1:1 is there twice",
        ),
        (
            |a| a.endpoints[0].priority = 129,
            "endpoints[0].priority: 129",
        ),
        (
            |a| a.endpoints[0].lb_endpoints[0].health_status = 5,
            "endpoints[0].lb_endpoints[0].health_status: DEGRADED",
        ),
        (
            |a| {
                a.policy = Some(eds::cluster_load_assignment::Policy {
                    drop_overloads: vec![Default::default()],
                    ..Default::default()
                });
            },
            "policy.drop_overloads: not supported yet",
        ),
    ];
    for (change, expected) in table {
        let mut message = assignment(CLUSTER, &[("10.0.0.1", 1)]);
        change(&mut message);
        let found = refusal(endpoints_of(&message));
        assert!(
            found.starts_with(expected),
            "expected {expected:?}, found {found:?}"
        );
    }
}

#[test]
fn an_outbound_listener_names_its_routes() {
    let mut found = listener_of(&outbound("127.0.0.1_9080", "9080")).unwrap();
    assert_eq!(found.direction, Direction::Outbound);
    assert_eq!(found.address.to_string(), "127.0.0.1:9080");
    let chain = found.chains.pop().unwrap();
    assert!(matches!(chain.routes, ParsedRoutes::Named(name) if name == "9080"));
    assert_eq!(chain.tls, None);
}

#[test]
fn an_inbound_listener_demands_certificates_and_has_its_routes_inside() {
    let mut found = listener_of(&inbound("virtualInbound")).unwrap();
    assert_eq!(found.direction, Direction::Inbound);
    let chain = found.chains.pop().unwrap();
    assert_eq!(chain.tls.unwrap().alpn, ["h2", "http/1.1"]);
    assert!(matches!(chain.routes, ParsedRoutes::Inline(table) if table.virtual_hosts.len() == 1));
}

/// Changes the connection manager inside a listener.
fn with_manager(change: impl FnOnce(&mut hcm::HttpConnectionManager)) -> lds::Listener {
    let rds = hcm::Rds {
        config_source: Some(ads()),
        route_config_name: "9080".to_owned(),
    };
    let mut inner = manager(hcm::http_connection_manager::RouteSpecifier::Rds(rds));
    change(&mut inner);
    listener_with("127.0.0.1_9080", &inner, None)
}

#[test]
fn an_unknown_filter_is_left_out_only_if_it_is_optional() {
    let foreign = |is_optional| hcm::HttpFilter {
        name: "istio.stats".to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.wasm.PluginConfig".to_owned(),
            value: vec![0x0a, 0x00],
        })),
        is_optional,
        ..hcm::HttpFilter::default()
    };
    let accepted = with_manager(|manager| manager.http_filters.insert(0, foreign(true)));
    assert!(listener_of(&accepted).is_ok());
    let refused = with_manager(|manager| manager.http_filters.insert(0, foreign(false)));
    assert_eq!(
        refusal(listener_of(&refused)),
        "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config: type \"envoy.wasm.PluginConfig\" is not supported yet"
    );
}

#[test]
fn a_listener_is_refused_by_the_name_of_the_field() {
    type Manager = fn(&mut hcm::HttpConnectionManager);
    let inside: [(Manager, &str); 7] = [
        (
            |m| m.http_filters.clear(),
            "http_filters: the last filter must be the router",
        ),
        (
            |m| m.http_filters.push(router()),
            "http_filters[0]: the router must be the last filter",
        ),
        (|m| m.codec_type = 2, "codec_type: must be AUTO"),
        (
            |m| m.add_user_agent = Some(true),
            "add_user_agent: not supported yet",
        ),
        (
            |m| m.stream_idle_timeout = Some(seconds(1)),
            "stream_idle_timeout: 1s is not supported yet",
        ),
        (
            |m| m.upgrade_configs = vec![Default::default()],
            "upgrade_configs[0].upgrade_type: \"\" is not the name of a protocol",
        ),
        (
            |m| m.forward_client_cert_details = 2,
            "forward_client_cert_details: APPEND_FORWARD",
        ),
    ];
    for (change, expected) in inside {
        let found = refusal(listener_of(&with_manager(change)));
        let expected = format!("filter_chains[0].filters[0].typed_config.{expected}");
        assert!(
            found.starts_with(&expected),
            "expected {expected:?}, found {found:?}"
        );
    }
    type Change = fn(&mut lds::Listener);
    let outside: [(Change, &str); 9] = [
        (
            |l| {
                l.use_original_dst = Some(true);
                l.bind_to_port = Some(false);
            },
            "use_original_dst: has no effect on a listener that is not bound",
        ),
        (
            |l| {
                l.transparent = Some(true);
                l.bind_to_port = Some(false);
            },
            "transparent: has no effect on a listener that is not bound",
        ),
        (
            |l| l.listener_filters = vec![Default::default()],
            "listener_filters[0].typed_config: missing",
        ),
        (
            |l| l.address = Some(address("0.0.0.0", 9080)),
            "address.socket_address.address: 0.0.0.0 is not a loopback",
        ),
        (
            |l| l.filter_chains.push(Default::default()),
            "filter_chains[1].filter_chain_match: the same connections are another chain's already",
        ),
        (
            |l| {
                l.filter_chains[0].filter_chain_match = Some(lds::FilterChainMatch {
                    destination_port: Some(65_536),
                    ..Default::default()
                });
            },
            "filter_chains[0].filter_chain_match.destination_port: 65536; must be 1 to 65535",
        ),
        (
            |l| {
                l.default_filter_chain = Some(lds::FilterChain {
                    filter_chain_match: Some(Default::default()),
                    ..l.filter_chains[0].clone()
                });
            },
            "default_filter_chain.filter_chain_match: has no effect",
        ),
        (
            |l| {
                l.additional_addresses = vec![lds::AdditionalAddress {
                    address: Some(address("0.0.0.0", 9080)),
                    ..Default::default()
                }];
            },
            "address.socket_address.address: 0.0.0.0 is not a loopback",
        ),
        (
            |l| {
                l.traffic_direction = TrafficDirection::Inbound as i32;
                l.address = Some(address("0.0.0.0", 15006));
            },
            "filter_chains[0].transport_socket: missing",
        ),
    ];
    for (change, expected) in outside {
        let mut message = outbound("127.0.0.1_9080", "9080");
        change(&mut message);
        let found = refusal(listener_of(&message));
        assert!(
            found.starts_with(expected),
            "expected {expected:?}, found {found:?}"
        );
    }
}

fn with_tls(change: impl FnOnce(&mut tls_proto::DownstreamTlsContext)) -> lds::Listener {
    let mut message = inbound("virtualInbound");
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = message.filter_chains[0]
        .transport_socket
        .as_mut()
        .unwrap()
        .config_type
        .as_mut()
    else {
        panic!("no typed config")
    };
    let mut context = tls_proto::DownstreamTlsContext::decode(any.value.as_slice()).unwrap();
    change(&mut context);
    any.value = context.encode_to_vec();
    message
}

#[test]
fn tls_that_is_not_mutual_is_refused() {
    let message = with_tls(|context| context.require_client_certificate = Some(false));
    let found = refusal(listener_of(&message));
    assert!(found.starts_with(
        "filter_chains[0].transport_socket.typed_config.require_client_certificate: must be true"
    ), "{found}");
}

#[test]
fn how_long_a_secret_may_take_is_taken_because_nobody_waits_for_one() {
    let waiting = |time| {
        with_tls(|context| {
            let common = context.common_tls_context.as_mut().unwrap();
            let secret = &mut common.tls_certificate_sds_secret_configs[0];
            secret.sds_config.as_mut().unwrap().initial_fetch_timeout = Some(time);
        })
    };
    assert!(listener_of(&waiting(seconds(1))).is_ok());
    let found = refusal(listener_of(&waiting(seconds(-1))));
    assert!(
        found
            .contains("tls_certificate_sds_secret_configs[0].sds_config.initial_fetch_timeout: -1"),
        "{found}"
    );
}

#[test]
fn how_long_endpoints_and_routes_may_take_is_refused() {
    let mut message = cluster(CLUSTER);
    let eds = message.eds_cluster_config.as_mut().unwrap();
    eds.eds_config.as_mut().unwrap().initial_fetch_timeout = Some(seconds(1));
    assert_eq!(
        refusal(cluster_of(&message)),
        "eds_cluster_config.eds_config.initial_fetch_timeout: not supported yet"
    );
    let message = with_manager(|manager| {
        let Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) =
            manager.route_specifier.as_mut()
        else {
            panic!("no RDS")
        };
        rds.config_source.as_mut().unwrap().initial_fetch_timeout = Some(seconds(1));
    });
    let found = refusal(listener_of(&message));
    assert!(
        found.ends_with("rds.config_source.initial_fetch_timeout: not supported yet"),
        "{found}"
    );
}

fn one_route(change: impl FnOnce(&mut rds::Route)) -> rds::RouteConfiguration {
    let mut message = routes("9080", CLUSTER);
    change(&mut message.virtual_hosts[0].routes[0]);
    message
}

fn action(route: &mut rds::Route) -> &mut rds::RouteAction {
    match &mut route.action {
        Some(rds::route::Action::Route(action)) => action,
        _ => panic!("not a forward"),
    }
}

#[test]
fn a_route_keeps_its_name_and_the_line_that_decided() {
    let table = routes_of(&routes("9080", CLUSTER)).unwrap();
    let route = &table.virtual_hosts[0].routes[0];
    assert_eq!(route.position.as_deref(), Some("canary.yaml:12:5"));
    assert!(
        matches!(&route.action, Action::Forward(choice) if &*choice.clusters[0].name == CLUSTER)
    );
}

#[test]
fn a_timeout_of_zero_is_none_and_an_absent_one_is_fifteen_seconds() {
    let table = [
        (Some(seconds(0)), None),
        (Some(seconds(3)), Some(3)),
        (None, Some(15)),
    ];
    for (timeout, expected) in table {
        let found = routes_of(&one_route(|route| action(route).timeout = timeout)).unwrap();
        let expected = expected.map(Duration::from_secs);
        assert_eq!(found.virtual_hosts[0].routes[0].timeout, expected);
    }
}

#[test]
fn weights_are_summed_and_may_not_be_nothing() {
    let weighted = |weights: &[u32]| {
        let clusters = weights
            .iter()
            .map(|weight| rds::weighted_cluster::ClusterWeight {
                name: format!("c{weight}"),
                weight: Some(*weight),
                ..Default::default()
            })
            .collect();
        one_route(|route| {
            let weighted = rds::WeightedCluster {
                clusters,
                ..Default::default()
            };
            action(route).cluster_specifier =
                Some(route_action::ClusterSpecifier::WeightedClusters(weighted));
        })
    };
    let table = routes_of(&weighted(&[90, 10])).unwrap();
    let Action::Forward(choice) = &table.virtual_hosts[0].routes[0].action else {
        panic!("no choice")
    };
    assert_eq!(choice.total_weight, 100);
    assert_eq!(
        refusal(routes_of(&weighted(&[0]))),
        "virtual_hosts[0](\"reviews:9080\").routes[0].route.weighted_clusters.clusters: weights sum to 0; must be 1 to 4294967295"
    );
}

#[test]
fn headers_are_matched_set_and_hashed() {
    let message = one_route(|route| {
        route.r#match.as_mut().unwrap().headers = vec![rds::HeaderMatcher {
            name: "Canary".to_owned(),
            header_match_specifier: Some(rds::header_matcher::HeaderMatchSpecifier::StringMatch(
                matcher::StringMatcher {
                    match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(
                        "true".to_owned(),
                    )),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }];
        route.request_headers_to_add = vec![core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: "X-A".into(),
                value: "100%%".into(),
                ..Default::default()
            }),
            append_action: 2,
            ..Default::default()
        }];
        action(route).hash_policy = vec![route_action::HashPolicy {
            policy_specifier: Some(route_action::hash_policy::PolicySpecifier::Header(
                route_action::hash_policy::Header {
                    header_name: "user-id".into(),
                    ..Default::default()
                },
            )),
            terminal: true,
        }];
    });
    let table = routes_of(&message).unwrap();
    let route = &table.virtual_hosts[0].routes[0];
    assert_eq!(route.matches.headers[0].name, "canary");
    assert!(
        matches!(&route.matches.headers[0].value, StringMatch::Exact(text, false) if text == "true")
    );
    assert!(
        matches!(&route.request_headers.set[0].1, outrigger_core::Edit::Plain(value) if value == "100%")
    );
    assert!(matches!(
        route.hash_policies.as_slice(),
        [HashPolicy::Header(_), HashPolicy::Terminal]
    ));
}

#[test]
fn a_regular_expression_means_the_whole_string_and_cannot_leave_its_group() {
    let path = |regex: &str| {
        one_route(|route| {
            route.r#match.as_mut().unwrap().path_specifier = Some(
                rds::route_match::PathSpecifier::SafeRegex(matcher::RegexMatcher {
                    regex: regex.into(),
                }),
            );
        })
    };
    let table = routes_of(&path("/a|/b")).unwrap();
    let outrigger_core::PathMatch::Regex(regex) = &table.virtual_hosts[0].routes[0].matches.path
    else {
        panic!("not a regex")
    };
    assert!(regex.is_match("/b") && !regex.is_match("/bc") && !regex.is_match("x/b"));
    let found = refusal(routes_of(&path("/a)(/b")));
    assert!(
        found.contains("match.safe_regex.regex: \"/a)(/b\" is not a regular expression"),
        "{found}"
    );
}

#[test]
fn routes_are_refused_by_the_name_of_the_field() {
    type Change = fn(&mut rds::RouteConfiguration);
    let table: [(Change, &str); 13] = [
        (
            |r| r.vhds = Some(Default::default()),
            "vhds.config_source: missing; must be `ads`",
        ),
        (
            |r| r.virtual_hosts[0].domains.clear(),
            "virtual_hosts[0](\"reviews:9080\").domains: is empty",
        ),
        (
            |r| r.virtual_hosts[0].domains.push("*".into()),
            "virtual_hosts[0](\"reviews:9080\").domains[1]: \"*\" is in two places",
        ),
        (
            |r| r.virtual_hosts[0].domains.push("a*b".into()),
            "virtual_hosts[0](\"reviews:9080\").domains[1]: \"a*b\" is not a domain",
        ),
        (
            |r| r.virtual_hosts[0].retry_policy = Some(Default::default()),
            "virtual_hosts[0].retry_policy: not supported yet",
        ),
        (
            |r| r.virtual_hosts[0].routes[0].r#match = None,
            "virtual_hosts[0](\"reviews:9080\").routes[0].match: missing",
        ),
        (
            |r| r.virtual_hosts[0].routes[0].action = None,
            "virtual_hosts[0](\"reviews:9080\").routes[0].route: missing",
        ),
        (
            |r| action(&mut r.virtual_hosts[0].routes[0]).hedge_policy = Some(Default::default()),
            "virtual_hosts[0].routes[0].route.hedge_policy: not supported yet",
        ),
        (
            |r| {
                action(&mut r.virtual_hosts[0].routes[0]).request_mirror_policies =
                    vec![Default::default()];
            },
            "virtual_hosts[0](\"reviews:9080\").routes[0].route.request_mirror_policies[0].cluster: missing",
        ),
        (
            |r| {
                action(&mut r.virtual_hosts[0].routes[0]).cluster_specifier =
                    Some(route_action::ClusterSpecifier::ClusterHeader("x".into()));
            },
            "virtual_hosts[0].routes[0].route.cluster_header: not supported yet",
        ),
        (
            |r| {
                r.virtual_hosts[0].routes[0].request_headers_to_add =
                    vec![core::HeaderValueOption {
                        header: Some(core::HeaderValue {
                            key: "x".into(),
                            value: "%REQ(y)".into(),
                            ..Default::default()
                        }),
                        ..Default::default()
                    }];
            },
            "virtual_hosts[0](\"reviews:9080\").routes[0].request_headers_to_add[0].header.value: \"%REQ(y)\" has a %",
        ),
        (
            |r| r.virtual_hosts[0].routes[0].request_headers_to_remove = vec!["Host".into()],
            "virtual_hosts[0](\"reviews:9080\").routes[0].request_headers_to_remove[0]: `host` cannot be edited",
        ),
        (
            |r| {
                r.virtual_hosts[0].routes[0].action = Some(rds::route::Action::DirectResponse(
                    rds::DirectResponseAction {
                        status: 200,
                        body: Some(core::DataSource {
                            specifier: Some(core::data_source::Specifier::Filename(
                                "/etc/passwd".into(),
                            )),
                            ..Default::default()
                        }),
                        ..Default::default()
                    },
                ));
            },
            "virtual_hosts[0](\"reviews:9080\").routes[0].direct_response.body.filename: files of this machine may not be named",
        ),
    ];
    for (change, expected) in table {
        let mut message = routes("9080", CLUSTER);
        change(&mut message);
        let found = refusal(routes_of(&message));
        assert!(
            found.starts_with(expected),
            "expected {expected:?}, found {found:?}"
        );
    }
}

#[test]
fn a_secret_holds_a_bundle_and_never_a_key() {
    const NAME: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";
    let secret_of = |message: &tls_proto::Secret| refusal(take(NAME, message, tls::bundle));
    let key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertificateParams::default()
        .self_signed(&key)
        .unwrap();
    assert_eq!(secret_of(&bundle(&root.pem())), "accepted");
    assert_eq!(
        secret_of(&bundle("")),
        "validation_context.trusted_ca: holds no certificate"
    );
    let with_key = tls_proto::Secret {
        name: "default".to_owned(),
        r#type: Some(secret::Type::TlsCertificate(
            tls_proto::TlsCertificate::default(),
        )),
    };
    assert_eq!(secret_of(&with_key), "tls_certificate: not supported yet");
}
