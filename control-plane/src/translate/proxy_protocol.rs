//! PROXY protocol: connections that begin with a header, whatever they go on with.

use outrigger_policy::ProxyProtocol;
use outrigger_proto::envoy::{
    config::{
        cluster::v3::cluster::TransportSocketMatch,
        core::v3::{
            ProxyProtocolConfig, TransportSocket, proxy_protocol_config::Version,
            transport_socket::ConfigType,
        },
    },
    extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport,
};
use prost::Message as _;

use super::{any::any, tls::raw_buffer};

const UPSTREAM: &str =
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// How a cluster's connections are made, as [`super::tls::Peer::sockets`] says it.
pub(super) type Sockets = (Option<TransportSocket>, Vec<TransportSocketMatch>);

/// The same, each beginning with a header (Istio's way).
pub(super) fn around(sockets: Sockets, version: Option<ProxyProtocol>) -> Sockets {
    let Some(version) = version else {
        return sockets;
    };
    let (one, mut matches) = sockets;
    if one.is_none() && matches.is_empty() {
        return (Some(wrapped(raw_buffer(), version)), matches);
    }
    for entry in &mut matches {
        entry.transport_socket = entry
            .transport_socket
            .take()
            .map(|inner| wrapped(inner, version));
    }
    (one.map(|inner| wrapped(inner, version)), matches)
}

fn wrapped(inner: TransportSocket, version: ProxyProtocol) -> TransportSocket {
    let version = match version {
        ProxyProtocol::V1 => Version::V1,
        ProxyProtocol::V2 => Version::V2,
    };
    let config = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig {
            version: version as i32,
            ..ProxyProtocolConfig::default()
        }),
        transport_socket: Some(inner),
    };
    TransportSocket {
        name: "envoy.transport_sockets.upstream_proxy_protocol".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(UPSTREAM, &config))),
    }
}

/// Whether a connection begins with a header.
pub(super) fn is_wrapped(socket: &TransportSocket) -> bool {
    matches!(&socket.config_type, Some(ConfigType::TypedConfig(config)) if config.type_url.ends_with(UPSTREAM))
}

/// Changes what a header stands before; anything else is changed itself.
pub(super) fn inside(socket: &mut TransportSocket, change: fn(&mut TransportSocket)) {
    if !is_wrapped(socket) {
        return change(socket);
    }
    let Some(ConfigType::TypedConfig(config)) = &mut socket.config_type else {
        return;
    };
    // Our own bytes.
    if let Ok(mut wrapper) = ProxyProtocolUpstreamTransport::decode(config.value.as_slice()) {
        wrapper.transport_socket.iter_mut().for_each(change);
        *config = any(UPSTREAM, &wrapper);
    }
}
