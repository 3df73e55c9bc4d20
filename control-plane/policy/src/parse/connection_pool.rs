//! `connectionPool`: limits and times of the connections to a host.
//! Source: Istio `networking/v1` ConnectionPoolSettings and its validation.

use std::time::Duration;

use crate::{
    ConnectionPool, TcpKeepalive, UpstreamProtocol,
    decode::{
        Decoder, Fields, Item, Shape, boolean, duration, enumeration, integer32, positive,
        positive_duration,
    },
};

pub(super) const CONNECTION_POOL: Shape = Shape {
    what: "a connection pool",
    fields: &["tcp", "http"],
    not_yet: &[],
};
pub(super) const TCP: Shape = Shape {
    what: "a connection pool's tcp",
    fields: &[
        "maxConnections",
        "connectTimeout",
        "tcpKeepalive",
        "maxConnectionDuration",
        "idleTimeout",
    ],
    not_yet: &[],
};
pub(super) const HTTP: Shape = Shape {
    what: "a connection pool's http",
    fields: &[
        "http1MaxPendingRequests",
        "http2MaxRequests",
        "maxRequestsPerConnection",
        "maxRetries",
        "idleTimeout",
        "h2UpgradePolicy",
        "useClientProtocol",
        "maxConcurrentStreams",
    ],
    not_yet: &[],
};
pub(super) const KEEPALIVE: Shape = Shape {
    what: "a keepalive",
    fields: &["probes", "time", "interval"],
    not_yet: &[],
};
/// Istio's bound.
const MOST_REQUESTS: u32 = 1 << 29;

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<ConnectionPool> {
    let fields = Fields::open(d, item, &CONNECTION_POOL)?;
    let mut pool = ConnectionPool::default();
    fields.optional(d, "tcp", |d, item| {
        let tcp = Fields::open(d, item, &TCP)?;
        pool.max_connections = tcp.optional(d, "maxConnections", positive);
        pool.connect_timeout = tcp.optional(d, "connectTimeout", positive_duration);
        pool.tcp_keepalive = tcp.optional(d, "tcpKeepalive", keepalive);
        pool.max_connection_duration = tcp.optional(d, "maxConnectionDuration", positive_duration);
        pool.tcp_idle_timeout = tcp.optional(d, "idleTimeout", duration);
        Some(())
    });
    fields.optional(d, "http", |d, item| {
        let http = Fields::open(d, item, &HTTP)?;
        pool.http1_max_pending_requests = http.optional(d, "http1MaxPendingRequests", positive);
        pool.http2_max_requests = http.optional(d, "http2MaxRequests", positive);
        pool.max_requests_per_connection = http
            .optional(d, "maxRequestsPerConnection", |d, item| {
                integer32(d, item, 0..=MOST_REQUESTS)
            })
            .filter(|&most| most > 0);
        pool.max_retries = http.optional(d, "maxRetries", positive);
        pool.idle_timeout = http.optional(d, "idleTimeout", positive_duration);
        pool.max_concurrent_streams = http.optional(d, "maxConcurrentStreams", positive);
        pool.upstream_protocol = upstream_protocol(d, &http);
        Some(())
    });
    Some(pool)
}

/// `h2UpgradePolicy` and `useClientProtocol`, which cannot both decide.
fn upstream_protocol(d: &mut Decoder, http: &Fields<'_>) -> Option<UpstreamProtocol> {
    let words = [
        ("DEFAULT", None),
        ("UPGRADE", Some(UpstreamProtocol::Http2)),
        ("DO_NOT_UPGRADE", Some(UpstreamProtocol::Http1)),
    ];
    let upgrade = http.optional(d, "h2UpgradePolicy", |d, item| {
        enumeration(d, item, "an upgrade policy", &words, &[])
    });
    let upgrade = upgrade.flatten();
    let as_client = http.optional(d, "useClientProtocol", boolean);
    if as_client != Some(true) {
        return upgrade;
    }
    if upgrade.is_some() {
        let message = "found true beside an h2UpgradePolicy, and only one of them can choose the protocol; remove one";
        http.refuse(d, "useClientProtocol", message);
    }
    Some(UpstreamProtocol::AsDownstream)
}

fn keepalive(d: &mut Decoder, item: Item<'_>) -> Option<TcpKeepalive> {
    let fields = Fields::open(d, item, &KEEPALIVE)?;
    Some(TcpKeepalive {
        probes: fields.optional(d, "probes", |d, item| integer32(d, item, 1..=MOST_PROBES)),
        time: fields.optional(d, "time", seconds),
        interval: fields.optional(d, "interval", seconds),
    })
}

/// Linux' bounds.
const MOST_PROBES: u32 = 127;
const MOST_SECONDS: u64 = 32_767;

/// The system counts in seconds.
fn seconds(d: &mut Decoder, item: Item<'_>) -> Option<Duration> {
    let found = positive_duration(d, item)?;
    if found.subsec_nanos() > 0 || found.as_secs() > MOST_SECONDS {
        let message = format!("found {found:?}, want whole seconds, from 1s to {MOST_SECONDS}s");
        d.refuse(item, message);
        return None;
    }
    Some(found)
}
