//! What a proxy has whose application's connections are redirected to it, beside its ports for services ([`ports`]).
//!
//! ```text
//! redirected ─► virtualOutbound ─┬─ a listener of that address, or of that port ([`ports`])
//!                                ├─ to this very port: BlackHoleCluster
//!                                └─ anything else: PassthroughCluster, or BlackHoleCluster
//! ```
//! Names and shapes are Istio's, so that its tools read them and stock Envoy does the same behind the same rules.

pub(super) mod ports;

use std::{net::SocketAddr, sync::Arc};

use outrigger_policy::{Mesh, OutboundTrafficPolicy, ServiceEntry, Sidecar};
use outrigger_proto::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy},
        },
        core::v3::{BindConfig, SocketAddress, TrafficDirection, socket_address::PortSpecifier},
        listener::v3::{
            AdditionalAddress, FilterChain, FilterChainMatch, Listener, ListenerFilter,
            listener_filter::ConfigType,
        },
        route::v3::{
            DirectResponseAction, Route, RouteAction, route::Action, route_action::ClusterSpecifier,
        },
    },
    extensions::filters::listener::original_dst::v3::OriginalDst,
};

use super::{
    any::{OUTRIGGER, address, any, duration, list, metadata, object, text},
    cluster, layer4,
    matching::everything,
    node::{Capture, Dialect, NodeInfo},
};
use crate::{
    snapshot::{ResourceBytes, ResourceType},
    world::World,
};

/// The port that connections are redirected to.
const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// Where connections go that are nobody's here: to where they were going to.
pub(super) const PASSTHROUGH: &str = "PassthroughCluster";
/// Where they end.
pub(super) const BLACK_HOLE: &str = "BlackHoleCluster";
/// The application's own ports, those that it is not registered with.
pub(super) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// Where Istio's proxies call their own application from, so that rules tell it from other calls.
const INBOUND_SOURCE: &str = "127.0.0.6";

/// Where connections go that are for no service.
pub(super) const fn elsewhere(policy: OutboundTrafficPolicy) -> &'static str {
    match policy {
        OutboundTrafficPolicy::AllowAny => PASSTHROUGH,
        OutboundTrafficPolicy::RegistryOnly => BLACK_HOLE,
    }
}

/// What holds under a Sidecar document: what it says, or the mesh.
pub(super) fn policy(world: &World, sidecar: Option<&Sidecar>) -> OutboundTrafficPolicy {
    let said = sidecar.and_then(|sidecar| sidecar.outbound_traffic_policy);
    said.unwrap_or(world.outbound_traffic_policy)
}

/// What becomes of requests that are for no service: name and routes of a virtual host (Istio's).
pub(super) fn requests_elsewhere(policy: OutboundTrafficPolicy) -> (&'static str, Vec<Route>) {
    let (name, action) = match policy {
        OutboundTrafficPolicy::AllowAny => {
            let to = RouteAction {
                cluster_specifier: Some(ClusterSpecifier::Cluster(PASSTHROUGH.to_owned())),
                // 0 = no limit: nobody knows what it is.
                timeout: Some(prost_types::Duration::default()),
                ..RouteAction::default()
            };
            ("allow_any", Action::Route(to))
        }
        OutboundTrafficPolicy::RegistryOnly => {
            let answer = DirectResponseAction {
                status: 502,
                ..DirectResponseAction::default()
            };
            ("block_all", Action::DirectResponse(answer))
        }
    };
    let route = Route {
        name: name.to_owned(),
        r#match: Some(everything()),
        action: Some(action),
        ..Route::default()
    };
    (name, vec![route])
}

/// The port that everything comes to.
pub(super) fn virtual_outbound(
    world: &World,
    node: &NodeInfo,
    capture: Capture,
) -> Arc<ResourceBytes> {
    let to = |name: &str, cluster: &str| FilterChain {
        name: name.to_owned(),
        filters: vec![layer4::plain(cluster, cluster)],
        ..FilterChain::default()
    };
    let trap = FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(capture.listen.port().into()),
            ..FilterChainMatch::default()
        }),
        ..to("virtualOutbound-trap", BLACK_HOLE)
    };
    let document = world.mesh.sidecar_for(&node.namespace, &node.labels);
    let policy = policy(world, document.map(|(_, sidecar)| sidecar));
    let rest = to("virtualOutbound-catchall-tcp", elsewhere(policy));
    let ours = object([("mesh_addresses", mesh_addresses(world))]);
    let listener = Listener {
        name: VIRTUAL_OUTBOUND.to_owned(),
        address: Some(address(capture.listen)),
        additional_addresses: also(capture.also()),
        use_original_dst: Some(true),
        transparent: transparent(node, capture),
        listener_filters: vec![original_dst()],
        filter_chains: vec![trap, rest],
        metadata: Some(metadata([(OUTRIGGER, ours)])),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    ResourceBytes::new(ResourceType::Listener, VIRTUAL_OUTBOUND, &listener)
}

/// Of another family, the same listener.
pub(super) fn also(socket: Option<SocketAddr>) -> Vec<AdditionalAddress> {
    let socket = socket.map(|socket| AdditionalAddress {
        address: Some(address(socket)),
        ..AdditionalAddress::default()
    });
    socket.into_iter().collect()
}

/// Envoy accepts connections to addresses of others only if it is told to; our sidecar knows how it was started.
pub(super) fn transparent(node: &NodeInfo, capture: Capture) -> Option<bool> {
    (capture.transparent && node.dialect == Dialect::Envoy).then_some(true)
}

/// Asks where a connection was going to before it was redirected.
pub(super) fn original_dst() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.original_dst".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
            &OriginalDst::default(),
        ))),
        ..ListenerFilter::default()
    }
}

/// Networks that addresses of services are in: about others there is nothing to ask.
fn mesh_addresses(world: &World) -> prost_types::Value {
    let pools = [world.vip_pools.v4, world.vip_pools.v6].map(|net| net.to_string());
    let mut written: Vec<String> = entries(&world.mesh)
        .flat_map(|entry| &entry.addresses)
        .map(|net| match net.value.single() {
            Some(address) if address.is_ipv4() => format!("{address}/32"),
            Some(address) => format!("{address}/128"),
            None => net.value.to_string(),
        })
        .collect();
    written.sort_unstable();
    written.dedup();
    list(pools.into_iter().chain(written).map(text))
}

fn entries(mesh: &Mesh) -> impl Iterator<Item = &ServiceEntry> {
    let all = mesh.service_entries.values().flatten();
    all.map(|(_, entry)| entry)
}

/// What is the same for every such node, but for where Envoy has to call from.
pub(super) fn clusters(node: &NodeInfo) -> Vec<Arc<ResourceBytes>> {
    let with = |name: &str, kind, lb_policy, bind| {
        let cluster = Cluster {
            name: name.to_owned(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
            connect_timeout: Some(duration(cluster::CONNECT_TIMEOUT)),
            lb_policy: lb_policy as i32,
            circuit_breakers: Some(cluster::unlimited()),
            upstream_bind_config: bind,
            ..Cluster::default()
        };
        ResourceBytes::new(ResourceType::Cluster, name, &cluster)
    };
    let original = DiscoveryType::OriginalDst;
    let provided = LbPolicy::ClusterProvided;
    let own_source = (node.dialect == Dialect::Envoy).then(|| BindConfig {
        source_address: Some(SocketAddress {
            address: INBOUND_SOURCE.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(0)),
            ..SocketAddress::default()
        }),
        ..BindConfig::default()
    });
    vec![
        with(PASSTHROUGH, original, provided, None),
        with(
            BLACK_HOLE,
            DiscoveryType::Static,
            LbPolicy::RoundRobin,
            None,
        ),
        with(INBOUND_PASSTHROUGH, original, provided, own_source),
    ]
}
