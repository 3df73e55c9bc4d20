//! LDS: the HTTP proxy port, a port for every egress listener of a `Sidecar` document, the inbound mTLS port.
//! For HTTP each has one filter chain, and in it one connection manager whose last filter is the router; the chains of
//! other protocols are `layer4`'s.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use outrigger_policy::Protocol;
use outrigger_proto::envoy::{
    config::{
        core::v3::{Http1ProtocolOptions, Http2ProtocolOptions, TrafficDirection},
        listener::v3::{Filter, FilterChain, Listener, ListenerFilter, filter, listener_filter},
        route::v3::{
            Route, RouteAction, RouteConfiguration, VirtualHost, route::Action,
            route_action::ClusterSpecifier,
        },
    },
    extensions::filters::{
        http::{
            cors::v3::Cors,
            fault::v3::HttpFault,
            on_demand::v3::{OnDemand, OnDemandCds},
            router::v3::Router,
        },
        listener::{http_inspector::v3::HttpInspector, tls_inspector::v3::TlsInspector},
        network::http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter, Rds,
            http_connection_manager::{
                ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
                SetCurrentClientCertDetails, UpgradeConfig,
            },
            http_filter,
        },
    },
};

use prost_types::Any;

use super::{
    any::{OUTRIGGER, address, ads, any, duration, metadata, object, text},
    authz::{self, Workload},
    capture::{
        self,
        ports::{DETECTION, plain_http},
    },
    inbound,
    layer4::connect::CONNECT,
    matching::everything,
    node::{Inbound, NodeInfo},
};
use crate::{
    config::PathNormalization,
    snapshot::{ResourceBytes, ResourceType},
};

/// Listener and route configuration of the explicit proxy port.
pub(super) const HTTP_PROXY: &str = "http_proxy";
/// The filter that a route's `corsPolicy` is for.
pub(super) const CORS: &str = "envoy.filters.http.cors";
/// The filter that a route's `fault` is for.
pub(super) const FAULT: &str = "envoy.filters.http.fault";
/// Type of its configuration, in the listener and in a route.
pub(super) const HTTP_FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
const ON_DEMAND: &str = "envoy.filters.http.on_demand";
/// For a cluster that a request needs to arrive and be warm: Envoy's default.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(5);
const INBOUND: &str = "virtualInbound";
/// For a connection to say its server name.
pub(super) const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// A port for the application's outgoing calls; routes come by RDS.
pub(super) fn outbound(name: &str, listen: SocketAddr, routes: &str) -> Arc<ResourceBytes> {
    outbound_with(name, listen, routes, None)
}

/// The same; a request to a host without routes waits until these were asked for, and if `clusters` are not there
/// unless asked for, for its cluster, too.
pub(super) fn on_demand(
    name: &str,
    listen: SocketAddr,
    routes: &str,
    clusters: bool,
) -> Arc<ResourceBytes> {
    let demand = if clusters {
        Demand::Clusters
    } else {
        Demand::VirtualHosts
    };
    outbound_with(name, listen, routes, Some(on_demand_filter(demand)))
}

fn on_demand_filter(demand: Demand) -> HttpFilter {
    let odcds = (demand == Demand::Clusters).then(|| OnDemandCds {
        source: Some(ads()),
        timeout: Some(duration(CLUSTER_TIMEOUT)),
        ..OnDemandCds::default()
    });
    let config = any(
        "envoy.extensions.filters.http.on_demand.v3.OnDemand",
        &OnDemand { odcds },
    );
    filter(ON_DEMAND, config)
}

fn outbound_with(
    name: &str,
    listen: SocketAddr,
    routes: &str,
    first: Option<HttpFilter>,
) -> Arc<ResourceBytes> {
    let manager = outbound_manager(name, routes, first);
    listener(name, listen, TrafficDirection::Outbound, &manager)
}

fn outbound_manager(name: &str, routes: &str, first: Option<HttpFilter>) -> HttpConnectionManager {
    let rds = Rds {
        config_source: Some(ads()),
        route_config_name: routes.to_owned(),
    };
    // Istio's order. Without a route that asks for them, these two do nothing.
    let before = [
        filter(
            CORS,
            any("envoy.extensions.filters.http.cors.v3.Cors", &Cors {}),
        ),
        filter(FAULT, any(HTTP_FAULT, &HttpFault::default())),
    ];
    let manager = HttpConnectionManager {
        stat_prefix: format!("outbound_{name}"),
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..manager(first.into_iter().chain(before))
    };
    if name == HTTP_PROXY {
        taking_connect(manager)
    } else {
        manager
    }
}

/// What takes requests of the application, wherever they come in: routes come by RDS, and virtual hosts of these as
/// `demand` says.
pub(super) fn requests(name: &str, routes: &str, demand: Option<Demand>) -> Filter {
    connection_manager(&outbound_manager(
        name,
        routes,
        demand.map(on_demand_filter),
    ))
}

/// What is asked for when a request needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Demand {
    /// Virtual hosts.
    VirtualHosts,
    /// And clusters.
    Clusters,
}

/// A proxy's port: for connections, too.
fn taking_connect(mut manager: HttpConnectionManager) -> HttpConnectionManager {
    manager.upgrade_configs.push(UpgradeConfig {
        upgrade_type: CONNECT.to_owned(),
        ..UpgradeConfig::default()
    });
    manager
}

/// A port for the application's outgoing connections that are not HTTP, or not to be seen as such.
pub(super) fn connections(
    name: &str,
    listen: SocketAddr,
    protocol: Protocol,
    chains: Vec<FilterChain>,
) -> Arc<ResourceBytes> {
    let mut listener = Listener {
        name: name.to_owned(),
        address: Some(address(listen)),
        filter_chains: chains,
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    if protocol == Protocol::Tls {
        listener.listener_filters = vec![tls_inspector()];
        listener.listener_filters_timeout = Some(duration(CLIENT_HELLO_TIMEOUT));
    }
    ResourceBytes::new(ResourceType::Listener, name, &listener)
}

/// A port for the application's outgoing connections, HTTP or not: what is not goes to `rest`, if it is known where to.
pub(super) fn detected(
    name: &str,
    listen: SocketAddr,
    routes: &str,
    rest: Option<FilterChain>,
) -> Arc<ResourceBytes> {
    let http = FilterChain {
        filter_chain_match: Some(plain_http()),
        filters: vec![requests(name, routes, None)],
        ..FilterChain::default()
    };
    let listener = Listener {
        name: name.to_owned(),
        address: Some(address(listen)),
        listener_filters: vec![tls_inspector(), http_inspector()],
        listener_filters_timeout: Some(duration(DETECTION)),
        continue_on_listener_filters_timeout: true,
        filter_chains: vec![http],
        default_filter_chain: rest,
        metadata: Some(metadata([(OUTRIGGER, object([("detect", text("auto"))]))])),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    ResourceBytes::new(ResourceType::Listener, name, &listener)
}

/// Looks whether the first bytes are HTTP's.
pub(super) fn http_inspector() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.http_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
            &HttpInspector::default(),
        ))),
        ..ListenerFilter::default()
    }
}

pub(super) fn tls_inspector() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            &TlsInspector::default(),
        ))),
        ..ListenerFilter::default()
    }
}

/// The port for calls from other sidecars: by default only a certificate of the mesh gets in.
pub(super) fn inbound(
    inbound: &Inbound,
    node: &NodeInfo,
    workload: &Workload<'_>,
) -> Arc<ResourceBytes> {
    let found = inbound::chains(inbound, workload, node.capture.is_some());
    let listener = Listener {
        name: INBOUND.to_owned(),
        address: Some(address(inbound.listen)),
        additional_addresses: capture::also(inbound.also(node)),
        transparent: node.capture.and_then(|how| capture::transparent(node, how)),
        listener_filters: found.filters,
        listener_filters_timeout: found.timeout.map(duration),
        continue_on_listener_filters_timeout: found.goes_on,
        filter_chains: found.chains,
        metadata: authz::listener_metadata(workload),
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Listener::default()
    };
    ResourceBytes::new(ResourceType::Listener, INBOUND, &listener)
}

/// What takes requests to the application.
pub(super) fn requests_in(name: &str, workload: &Workload<'_>) -> Filter {
    connection_manager(&inbound_manager(name, workload))
}

/// Everything to the application.
fn inbound_manager(name: &str, workload: &Workload<'_>) -> HttpConnectionManager {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_owned())),
        // 0 = no limit: the caller's side has the timeout.
        timeout: Some(prost_types::Duration::default()),
        ..RouteAction::default()
    };
    let route = Route {
        name: "default".to_owned(),
        r#match: Some(everything()),
        action: Some(Action::Route(action)),
        ..Route::default()
    };
    let host = VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    let routes = RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![host],
        validate_clusters: Some(false),
        ..RouteConfiguration::default()
    };
    let normalization = workload.normalization();
    let escaped_slashes = match normalization {
        PathNormalization::RejectEscapedSlashes => PathWithEscapedSlashesAction::RejectRequest,
        PathNormalization::DecodeAndMergeSlashes => {
            PathWithEscapedSlashesAction::UnescapeAndForward
        }
        _ => PathWithEscapedSlashesAction::ImplementationSpecificDefault,
    };
    HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        forward_client_cert_details: ForwardClientCertDetails::SanitizeSet as i32,
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            uri: true,
            ..SetCurrentClientCertDetails::default()
        }),
        merge_slashes: normalization != PathNormalization::Base,
        path_with_escaped_slashes_action: escaped_slashes as i32,
        ..manager(authz::http_filters(workload))
    }
}

pub(super) fn filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

/// One with the router behind the filters `before` it.
fn manager(before: impl IntoIterator<Item = HttpFilter>) -> HttpConnectionManager {
    let router = filter(
        "envoy.filters.http.router",
        any(
            "envoy.extensions.filters.http.router.v3.Router",
            &Router::default(),
        ),
    );
    HttpConnectionManager {
        http_filters: before.into_iter().chain([router]).collect(),
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            ..Http1ProtocolOptions::default()
        }),
        // As Istio's default, and as our sidecar always does: what is matched is what is forwarded.
        normalize_path: Some(true),
        // 0 = off. Envoy would end a quiet stream after 5 minutes; Istio's default is not to.
        stream_idle_timeout: Some(prost_types::Duration::default()),
        // Istio's default.
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        // WebSocket over HTTP/2 (RFC 8441).
        http2_protocol_options: Some(Http2ProtocolOptions {
            allow_connect: true,
            ..Http2ProtocolOptions::default()
        }),
        ..HttpConnectionManager::default()
    }
}

/// A port of HTTP for the application itself, without TLS.
fn listener(
    name: &str,
    listen: SocketAddr,
    direction: TrafficDirection,
    manager: &HttpConnectionManager,
) -> Arc<ResourceBytes> {
    let chain = FilterChain {
        filters: vec![connection_manager(manager)],
        ..FilterChain::default()
    };
    let listener = Listener {
        name: name.to_owned(),
        address: Some(address(listen)),
        filter_chains: vec![chain],
        traffic_direction: direction as i32,
        ..Listener::default()
    };
    ResourceBytes::new(ResourceType::Listener, name, &listener)
}

fn connection_manager(manager: &HttpConnectionManager) -> Filter {
    Filter {
        name: CONNECTION_MANAGER.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            manager,
        ))),
    }
}
