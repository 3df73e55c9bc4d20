//! CDS: one cluster a port and subset of every host, and the cluster of the node's own application.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use outrigger_policy::{
    Balancer, ConnectionPool, HashAlgorithm, MergedDestinationRule, OutlierDetection, Protocol,
    Subset,
};
use outrigger_proto::envoy::{
    config::{
        cluster::v3::{
            CircuitBreakers, Cluster, OutlierDetection as XdsOutlierDetection,
            circuit_breakers::Thresholds,
            cluster::{
                ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbConfig,
                LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig,
                RoundRobinLbConfig, ring_hash_lb_config::HashFunction,
            },
        },
        core::v3::{Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
            lb_endpoint::HostIdentifier,
        },
    },
    extensions::upstreams::http::v3::{
        HttpProtocolOptions as UpstreamOptions,
        http_protocol_options::{
            ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
            explicit_http_config::ProtocolConfig,
        },
    },
    r#type::v3::Percent,
};
use prost_types::Any;

use super::{
    any::{OUTRIGGER, address, ads, any, decided_by, duration, metadata, object, text},
    endpoint::assignment,
    model::{Host, Port},
    node::Inbound,
    policy::{Effective, origin},
    tls,
};
use crate::snapshot::{ResourceBytes, ResourceType};

/// Istio's default, where `connectTimeout` is not set.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Envoy's own default for an absent limit is 1024; Istio's, and ours, is none.
const UNLIMITED: u32 = u32::MAX;

/// `outbound|<port>|<subset>|<host>`
pub(super) fn name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// Every cluster of `host` with its assignment.
pub(super) fn of_host(
    host: &Host,
    rule: Option<&MergedDestinationRule>,
    trust_domain: &str,
) -> (Vec<Arc<ResourceBytes>>, Vec<Arc<ResourceBytes>>) {
    let subsets = rule.map_or(&[][..], |rule| rule.rule.subsets.as_slice());
    let (mut clusters, mut assignments) = (Vec::new(), Vec::new());
    for (&number, port) in &host.ports {
        for subset in std::iter::once(None).chain(subsets.iter().map(Some)) {
            let cluster = outbound(host, (number, port), rule, subset, trust_domain);
            assignments.push(assignment(&cluster.name, port, subset));
            clusters.push(ResourceBytes::new(
                ResourceType::Cluster,
                &cluster.name,
                &cluster,
            ));
        }
    }
    (clusters, assignments)
}

fn outbound(
    host: &Host,
    (number, port): (u16, &Port),
    rule: Option<&MergedDestinationRule>,
    subset: Option<&Subset>,
    trust_domain: &str,
) -> Cluster {
    let subset_name = subset.map_or("", |subset| subset.name.value.as_str());
    let policy = Effective::of(rule, subset, number);
    let pool = policy.connection_pool.map(|at| &at.value);
    let outlier = policy.outlier_detection.map(|at| &at.value);
    let tls = policy.tls.map(|at| at.value.mode);
    let service = host.name.as_str();
    let sni = format!("outbound_.{number}_.{subset_name}_.{service}");
    let (lb_policy, lb_config) = balancing(policy.load_balancer.map(|at| &at.value.algorithm));
    let decided = rule.and_then(|rule| origin(rule, subset));
    let decided = decided.map(|(position, document)| decided_by(position, document));
    let own = [("service", text(service)), ("subset", text(subset_name))];
    let own = object(own.into_iter().chain(decided.into_iter().flatten()));
    let connect_timeout = pool.and_then(|pool| pool.connect_timeout);
    Cluster {
        name: name(number, subset_name, service),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        }),
        connect_timeout: Some(duration(connect_timeout.unwrap_or(CONNECT_TIMEOUT))),
        lb_policy: lb_policy as i32,
        lb_config,
        common_lb_config: Some(CommonLbConfig {
            // 0 = no panic routing: unhealthy endpoints are not used while one healthy is left.
            healthy_panic_threshold: Some(Percent {
                value: outlier.map_or(0.0, |outlier| outlier.min_health_percent.into()),
            }),
            ..CommonLbConfig::default()
        }),
        circuit_breakers: Some(circuit_breakers(pool)),
        outlier_detection: outlier.map(outlier_detection),
        typed_extension_protocol_options: http_options(port.protocol, pool),
        transport_socket_matches: tls::matches(tls, &sni, host.identities(), trust_domain),
        metadata: Some(metadata([(OUTRIGGER, own)])),
        ..Cluster::default()
    }
}

/// `inbound|<port>||`: the application beside the sidecar, in plain text.
pub(super) fn inbound(to: &Inbound, service: Option<&str>) -> Arc<ResourceBytes> {
    let name = inbound_name(to.port);
    let own = service.map(|service| object([("service", text(service))]));
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(to.app)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints {
        lb_endpoints: vec![endpoint],
        ..LocalityLbEndpoints::default()
    };
    let cluster = Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        circuit_breakers: Some(circuit_breakers(None)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![locality],
            ..ClusterLoadAssignment::default()
        }),
        typed_extension_protocol_options: http_options(to.protocol, None),
        metadata: own.map(|own| metadata([(OUTRIGGER, own)])),
        ..Cluster::default()
    };
    ResourceBytes::new(ResourceType::Cluster, &name, &cluster)
}

/// `inbound|<port>||`
pub(super) fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}

fn balancing(balancer: Option<&Balancer>) -> (LbPolicy, Option<LbConfig>) {
    match balancer {
        Some(Balancer::RoundRobin) => {
            let config = RoundRobinLbConfig::default();
            (
                LbPolicy::RoundRobin,
                Some(LbConfig::RoundRobinLbConfig(config)),
            )
        }
        Some(Balancer::Random) => (LbPolicy::Random, None),
        Some(Balancer::ConsistentHash { algorithm, .. }) => match *algorithm {
            HashAlgorithm::RingHash { minimum_ring_size } => {
                let config = RingHashLbConfig {
                    minimum_ring_size: Some(minimum_ring_size),
                    hash_function: HashFunction::XxHash as i32,
                    ..RingHashLbConfig::default()
                };
                (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config)))
            }
            HashAlgorithm::Maglev { table_size } => {
                let config = MaglevLbConfig {
                    table_size: Some(table_size),
                };
                (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config)))
            }
        },
        Some(Balancer::LeastRequest) | None => {
            let config = LeastRequestLbConfig {
                choice_count: Some(2),
                ..LeastRequestLbConfig::default()
            };
            (
                LbPolicy::LeastRequest,
                Some(LbConfig::LeastRequestLbConfig(config)),
            )
        }
    }
}

fn circuit_breakers(pool: Option<&ConnectionPool>) -> CircuitBreakers {
    let limit = |of: fn(&ConnectionPool) -> Option<u32>| pool.and_then(of).or(Some(UNLIMITED));
    let thresholds = Thresholds {
        max_connections: limit(|pool| pool.max_connections),
        max_pending_requests: limit(|pool| pool.http1_max_pending_requests),
        max_requests: limit(|pool| pool.http2_max_requests),
        max_retries: limit(|pool| pool.max_retries),
        ..Thresholds::default()
    };
    CircuitBreakers {
        thresholds: vec![thresholds],
        ..CircuitBreakers::default()
    }
}

fn outlier_detection(outlier: &OutlierDetection) -> XdsOutlierDetection {
    let (errors, gateway) = (
        outlier.consecutive_5xx_errors,
        outlier.consecutive_gateway_errors,
    );
    let enforced = |count: u32| Some(if count > 0 { 100 } else { 0 });
    let count = |count: u32| (count > 0).then_some(count);
    XdsOutlierDetection {
        consecutive_5xx: count(errors),
        enforcing_consecutive_5xx: enforced(errors),
        consecutive_gateway_failure: count(gateway),
        enforcing_consecutive_gateway_failure: enforced(gateway),
        interval: Some(duration(outlier.interval)),
        base_ejection_time: Some(duration(outlier.base_ejection_time)),
        max_ejection_percent: Some(outlier.max_ejection_percent),
        // Istio offers consecutive errors only; Envoy's success-rate sweep is on unless switched off.
        enforcing_success_rate: Some(0),
        ..XdsOutlierDetection::default()
    }
}

fn http_options(protocol: Protocol, pool: Option<&ConnectionPool>) -> BTreeMap<String, Any> {
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let upstream = match protocol {
        Protocol::Http => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
            })
        }
        Protocol::Http2 | Protocol::Grpc | Protocol::Tcp | Protocol::Tls => {
            let http2 = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
            let config = ExplicitHttpConfig {
                protocol_config: Some(http2),
            };
            UpstreamProtocolOptions::ExplicitHttpConfig(config)
        }
    };
    let options = UpstreamOptions {
        common_http_protocol_options: pool.map(|pool| HttpProtocolOptions {
            idle_timeout: pool.idle_timeout.map(duration),
            max_requests_per_connection: pool.max_requests_per_connection,
            ..HttpProtocolOptions::default()
        }),
        upstream_protocol_options: Some(upstream),
        ..UpstreamOptions::default()
    };
    [(NAME.to_owned(), any(NAME, &options))].into()
}
