//! Resources as our control plane sends them, for tests.

use std::collections::BTreeMap;

use outrigger_proto::envoy::{
    config::{
        cluster::v3::{
            CircuitBreakers, Cluster,
            circuit_breakers::Thresholds,
            cluster::{
                ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbConfig,
                LbPolicy, LeastRequestLbConfig, TransportSocketMatch,
            },
        },
        core::v3::{
            Address, AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, HealthStatus,
            Http1ProtocolOptions, Http2ProtocolOptions, Locality, Metadata, SocketAddress,
            TrafficDirection, TransportSocket, address, config_source::ConfigSourceSpecifier,
            data_source, socket_address::PortSpecifier, transport_socket,
        },
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
            lb_endpoint::HostIdentifier,
        },
        listener::v3::{Filter, FilterChain, Listener, filter},
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
            route_action::ClusterSpecifier, route_match::PathSpecifier,
        },
    },
    extensions::{
        filters::{
            http::router::v3::Router,
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, Rds,
                http_connection_manager::{
                    ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails,
                    UpgradeConfig,
                },
                http_filter,
            },
        },
        transport_sockets::{
            raw_buffer::v3::RawBuffer,
            tls::v3::{
                CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
                SdsSecretConfig, Secret, SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
                common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
                secret,
                subject_alt_name_matcher::SanType,
                tls_parameters::TlsProtocol,
            },
        },
        upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig},
        },
    },
    r#type::{
        matcher::v3::{StringMatcher, string_matcher::MatchPattern},
        v3::Percent,
    },
};
use prost::Message;
use prost_types::{Any, Duration, Struct, Value, value::Kind as ValueKind};

pub(crate) const CLUSTER: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
pub(crate) const SPIFFE: &str = "spiffe://cluster.local/ns/default/sa/reviews";

pub(crate) fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3 as i32,
        ..ConfigSource::default()
    }
}

pub(crate) fn address(ip: &str, port: u32) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    }
}

pub(crate) fn metadata(filter: &str, fields: &[(&str, &str)]) -> Metadata {
    let fields = fields
        .iter()
        .map(|(key, text)| ((*key).to_owned(), text_value(text)))
        .collect();
    Metadata {
        filter_metadata: BTreeMap::from([(filter.to_owned(), Struct { fields })]),
        ..Metadata::default()
    }
}

pub(crate) fn text_value(text: &str) -> Value {
    Value {
        kind: Some(ValueKind::StringValue(text.to_owned())),
    }
}

fn socket(name: &str, message: &impl Message) -> TransportSocket {
    TransportSocket {
        name: "tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(
            name, message,
        ))),
    }
}

fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

fn common_tls(validation: ValidationContextType) -> CommonTlsContext {
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: vec![sds("default")],
        validation_context_type: Some(validation),
        ..CommonTlsContext::default()
    }
}

pub(crate) fn upstream_tls() -> TransportSocket {
    let name = SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(SPIFFE.to_owned())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: vec![name],
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(sds("ROOTCA")),
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(common_tls(
            ValidationContextType::CombinedValidationContext(combined),
        )),
        sni: "outbound_.9080_.v1_.reviews".to_owned(),
        ..UpstreamTlsContext::default()
    };
    socket(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        &context,
    )
}

pub(crate) fn raw_buffer() -> TransportSocket {
    socket(
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        &RawBuffer {},
    )
}

pub(crate) fn downstream_tls() -> TransportSocket {
    let common = CommonTlsContext {
        alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ..common_tls(ValidationContextType::ValidationContextSdsSecretConfig(
            sds("ROOTCA"),
        ))
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(true),
        ..DownstreamTlsContext::default()
    };
    socket(
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        &context,
    )
}

pub(crate) fn http_options(options: &HttpProtocolOptions) -> BTreeMap<String, Any> {
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    BTreeMap::from([(NAME.to_owned(), any(NAME, options))])
}

pub(crate) fn cluster(name: &str) -> Cluster {
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
            },
        )),
        ..HttpProtocolOptions::default()
    };
    let mode = Struct {
        fields: BTreeMap::from([("tlsMode".to_owned(), text_value("istio"))]),
    };
    let matches = [
        ("istio", mode, upstream_tls()),
        ("disabled", Struct::default(), raw_buffer()),
    ];
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        }),
        connect_timeout: Some(seconds(10)),
        lb_policy: LbPolicy::LeastRequest as i32,
        lb_config: Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
            choice_count: Some(2),
            ..LeastRequestLbConfig::default()
        })),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..CommonLbConfig::default()
        }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: Some(100),
                ..Thresholds::default()
            }],
            ..CircuitBreakers::default()
        }),
        typed_extension_protocol_options: http_options(&options),
        transport_socket_matches: matches
            .into_iter()
            .map(|(mode, criteria, socket)| TransportSocketMatch {
                name: format!("tlsMode-{mode}"),
                r#match: Some(criteria),
                transport_socket: Some(socket),
            })
            .collect(),
        metadata: Some(metadata(
            "outrigger",
            &[
                ("service", "reviews.default.svc.cluster.local"),
                ("subset", "v1"),
                ("position", "dr.yaml:3:1"),
            ],
        )),
        ..Cluster::default()
    }
}

pub(crate) fn endpoint(ip: &str, port: u32) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(ip, port)),
            ..Endpoint::default()
        })),
        health_status: HealthStatus::Healthy as i32,
        metadata: Some(metadata(
            "envoy.transport_socket_match",
            &[("tlsMode", "istio")],
        )),
        load_balancing_weight: Some(3),
    }
}

pub(crate) fn assignment(name: &str, endpoints: &[(&str, u32)]) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            locality: Some(Locality {
                zone: "a".to_owned(),
                ..Locality::default()
            }),
            lb_endpoints: endpoints
                .iter()
                .map(|(ip, port)| endpoint(ip, *port))
                .collect(),
            load_balancing_weight: Some(1),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

pub(crate) fn route_to(cluster: &str) -> Route {
    Route {
        name: "default".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            timeout: Some(seconds(0)),
            ..RouteAction::default()
        })),
        metadata: Some(metadata("outrigger", &[("position", "canary.yaml:12:5")])),
        ..Route::default()
    }
}

pub(crate) fn routes(name: &str, cluster: &str) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "reviews:9080".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route_to(cluster)],
            ..VirtualHost::default()
        }],
        validate_clusters: Some(false),
        ..RouteConfiguration::default()
    }
}

pub(crate) fn router() -> HttpFilter {
    HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.http.router.v3.Router",
            &Router::default(),
        ))),
        ..HttpFilter::default()
    }
}

pub(crate) fn manager(specifier: RouteSpecifier) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: "test".to_owned(),
        route_specifier: Some(specifier),
        http_filters: vec![router()],
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            ..Http1ProtocolOptions::default()
        }),
        stream_idle_timeout: Some(seconds(0)),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        ..HttpConnectionManager::default()
    }
}

pub(crate) fn listener_with(
    name: &str,
    manager: &HttpConnectionManager,
    transport_socket: Option<TransportSocket>,
) -> Listener {
    let filter = Filter {
        name: "hcm".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            manager,
        ))),
    };
    let direction = if transport_socket.is_some() {
        TrafficDirection::Inbound
    } else {
        TrafficDirection::Outbound
    };
    Listener {
        name: name.to_owned(),
        address: Some(address("127.0.0.1", 9080)),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            transport_socket,
            ..FilterChain::default()
        }],
        traffic_direction: direction as i32,
        ..Listener::default()
    }
}

pub(crate) fn outbound(name: &str, routes: &str) -> Listener {
    let rds = Rds {
        config_source: Some(ads()),
        route_config_name: routes.to_owned(),
    };
    listener_with(name, &manager(RouteSpecifier::Rds(rds)), None)
}

pub(crate) fn inbound(name: &str) -> Listener {
    let inline = routes("inbound|9080||", "inbound|9080||");
    let manager = HttpConnectionManager {
        forward_client_cert_details: ForwardClientCertDetails::SanitizeSet as i32,
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            uri: true,
            ..SetCurrentClientCertDetails::default()
        }),
        ..manager(RouteSpecifier::RouteConfig(inline))
    };
    listener_with(name, &manager, Some(downstream_tls()))
}

pub(crate) fn bundle(pem: &str) -> Secret {
    Secret {
        name: "ROOTCA".to_owned(),
        r#type: Some(secret::Type::ValidationContext(
            CertificateValidationContext {
                trusted_ca: Some(DataSource {
                    specifier: Some(data_source::Specifier::InlineString(pem.to_owned())),
                    ..DataSource::default()
                }),
                ..CertificateValidationContext::default()
            },
        )),
    }
}

pub(crate) fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}
