//! How a cluster's endpoints are spoken to: HTTP version, lifetimes, keepalive.

use std::{collections::BTreeMap, time::Duration};

use outrigger_policy::{ConnectionPool, Protocol, TcpKeepalive, UpstreamProtocol};
use outrigger_proto::envoy::{
    config::{
        cluster::v3::UpstreamConnectionOptions,
        core::v3::{
            Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions,
            TcpKeepalive as XdsKeepalive,
        },
    },
    extensions::upstreams::http::v3::{
        HttpProtocolOptions as UpstreamOptions,
        http_protocol_options::{
            ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
            explicit_http_config::ProtocolConfig,
        },
    },
};
use prost_types::Any;

use super::super::any::{any, duration};

/// `typed_extension_protocol_options`; none for what is not HTTP. `outside` = servers that are not of the mesh.
pub(super) fn http_options(
    protocol: Protocol,
    pool: Option<&ConnectionPool>,
    outside: bool,
) -> BTreeMap<String, Any> {
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    if !protocol.may_be_http() {
        return BTreeMap::new();
    }
    let options = UpstreamOptions {
        common_http_protocol_options: pool.map(|pool| HttpProtocolOptions {
            idle_timeout: pool.idle_timeout.map(duration),
            max_connection_duration: pool.max_connection_duration.map(duration),
            max_requests_per_connection: pool.max_requests_per_connection,
            ..HttpProtocolOptions::default()
        }),
        upstream_protocol_options: Some(version(protocol, pool, outside)),
        ..UpstreamOptions::default()
    };
    [(NAME.to_owned(), any(NAME, &options))].into()
}

fn version(
    protocol: Protocol,
    pool: Option<&ConnectionPool>,
    outside: bool,
) -> UpstreamProtocolOptions {
    let asked = pool.and_then(|pool| pool.upstream_protocol);
    // A sidecar takes what the client speaks; of other servers nothing is known but what the port says.
    let asked = asked.or_else(|| outside.then_some(UpstreamProtocol::Http1));
    let http1 = Http1ProtocolOptions::default();
    let http2 = Http2ProtocolOptions {
        max_concurrent_streams: pool.and_then(|pool| pool.max_concurrent_streams),
        // WebSocket over HTTP/2 (RFC 8441).
        allow_connect: true,
        ..Http2ProtocolOptions::default()
    };
    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })
    };
    match (asked, protocol) {
        (Some(UpstreamProtocol::AsDownstream), _) | (None, Protocol::Http | Protocol::Auto) => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(http1),
                http2_protocol_options: Some(http2),
            })
        }
        (Some(UpstreamProtocol::Http1), Protocol::Http | Protocol::Auto) => {
            explicit(ProtocolConfig::HttpProtocolOptions(http1))
        }
        // `h2UpgradePolicy` is for HTTP/1.1 ports only (Istio); these have HTTP/2 already.
        (Some(UpstreamProtocol::Http1 | UpstreamProtocol::Http2) | None, _) => {
            explicit(ProtocolConfig::Http2ProtocolOptions(http2))
        }
    }
}

/// `upstream_connection_options`, where the pool asks for something.
pub(super) fn options(pool: Option<&ConnectionPool>) -> Option<UpstreamConnectionOptions> {
    let keepalive = pool?.tcp_keepalive?;
    Some(UpstreamConnectionOptions {
        tcp_keepalive: Some(tcp_keepalive(keepalive)),
        ..UpstreamConnectionOptions::default()
    })
}

fn tcp_keepalive(keepalive: TcpKeepalive) -> XdsKeepalive {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    XdsKeepalive {
        keepalive_probes: keepalive.probes,
        keepalive_time: keepalive.time.map(seconds),
        keepalive_interval: keepalive.interval.map(seconds),
    }
}
