//! `DestinationRule`: subsets, balancing, limits, ejection and TLS of one host.
//! Source: Istio `networking/v1` DestinationRule.

use std::{collections::BTreeMap, time::Duration};

use super::{At, ExportTo};

/// Policy for traffic to one host.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// Host as written.
    pub host: At<String>,
    /// For all of the host.
    pub traffic_policy: TrafficPolicy,
    /// Named parts of it.
    pub subsets: Vec<Subset>,
    /// Whose workloads it is for.
    pub export_to: ExportTo,
    /// `workloadSelector`: labels that the calling workload must have, in the document's own namespace. None = all.
    pub workload_selector: Option<At<BTreeMap<String, String>>>,
}

/// Endpoints whose labels include `labels`.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// Unique in the rule.
    pub name: At<String>,
    /// All must be equal on the endpoint.
    pub labels: BTreeMap<String, String>,
    /// What is set here replaces the host's, field by field at the first level (Istio).
    pub traffic_policy: TrafficPolicy,
}

/// `trafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficPolicy {
    /// `loadBalancer`.
    pub load_balancer: Option<At<LoadBalancer>>,
    /// `connectionPool`.
    pub connection_pool: Option<At<ConnectionPool>>,
    /// `outlierDetection`.
    pub outlier_detection: Option<At<OutlierDetection>>,
    /// `tls`.
    pub tls: Option<At<ClientTls>>,
    /// `retryBudget`.
    pub retry_budget: Option<At<RetryBudget>>,
    /// `proxyProtocol`.
    pub proxy_protocol: Option<At<ProxyProtocol>>,
    /// `portLevelSettings`: what is set there takes the place of all of the above for that port; what is not is the
    /// default, not the host's (Istio). Its values have no `ports` of their own.
    pub ports: BTreeMap<u16, PortPolicy>,
}

/// One of `portLevelSettings`.
#[derive(Clone, Debug, PartialEq)]
pub struct PortPolicy {
    /// Its place in the list.
    pub index: usize,
    /// What holds for the port.
    pub policy: TrafficPolicy,
}

/// `proxyProtocol`: connections begin with a header that tells for whom they are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// `V1`: a line of text. The default.
    V1,
    /// `V2`: binary.
    V2,
}

/// `retryBudget`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// `percent`: retries in flight as a share of requests in flight, 0 to 100. Default 20.
    pub percent: f64,
    /// `minRetryConcurrency`: retries that may always be in flight. Default 3.
    pub min_retry_concurrency: u32,
}

/// `loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadBalancer {
    /// `simple` or `consistentHash`.
    pub algorithm: Balancer,
    /// `localityLbSetting`.
    pub locality: Option<LocalitySetting>,
    /// `warmup`, or `warmupDurationSecs`.
    pub warmup: Option<Warmup>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Balancer {
    /// LEAST_REQUEST, LEAST_CONN (its old name), UNSPECIFIED (the default).
    #[default]
    LeastRequest,
    /// ROUND_ROBIN.
    RoundRobin,
    /// RANDOM.
    Random,
    /// `consistentHash`.
    ConsistentHash {
        /// What is hashed.
        key: HashKey,
        /// How.
        algorithm: HashAlgorithm,
    },
}

/// `localityLbSetting`. At most one of `distribute`, `failover`, `failover_priority` says something, but `failover`
/// may stand beside `failover_priority`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalitySetting {
    /// `enabled`, default true.
    pub enabled: bool,
    /// `distribute`: of callers in `from`, which percentage goes where.
    pub distribute: Vec<Distribute>,
    /// `failover`: where callers of region `from` go when their own is not healthy.
    pub failover: Vec<(String, String)>,
    /// `failoverPriority`: label names (`label` or `label=value`), the most important first.
    pub failover_priority: Vec<String>,
}

/// One entry of `distribute`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribute {
    /// `region/zone/sub_zone`; later parts may be `*` or missing.
    pub from: String,
    /// The same, with percentages of 1 to 100 that sum to 100.
    pub to: BTreeMap<String, u32>,
}

/// `warmup`: a new endpoint's share grows over `duration`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    /// Never zero.
    pub duration: Duration,
    /// `minimumPercent`: of its weight, at the beginning. 0 to 100, default 10.
    pub minimum_percent: f64,
    /// `aggression`: above 1 grows faster at the beginning. At least 1, default 1.
    pub aggression: f64,
}

/// What a consistent hash is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum HashKey {
    /// `httpHeaderName`.
    Header(String),
    /// `httpCookie`; a TTL makes the sidecar set the cookie where it is missing.
    Cookie {
        /// Name.
        name: String,
        /// Path attribute.
        path: String,
        /// Lifetime; None = never generated; zero = session cookie.
        ttl: Option<Duration>,
        /// `attributes`: further ones, name and possibly empty value, as written.
        attributes: Vec<(String, String)>,
    },
    /// `useSourceIp`.
    SourceIp,
    /// `httpQueryParameterName`.
    QueryParameter(String),
}

/// Which consistent hash.
#[derive(Clone, Debug, PartialEq)]
pub enum HashAlgorithm {
    /// Ring of at least this many entries (default 1024, at most 8,388,608).
    RingHash {
        /// `minimumRingSize`.
        minimum_ring_size: u64,
    },
    /// Table of this prime size (default 65,537).
    Maglev {
        /// `tableSize`.
        table_size: u64,
    },
}

/// `connectionPool`; None = unlimited or the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectionPool {
    /// `tcp.maxConnections`.
    pub max_connections: Option<u32>,
    /// `tcp.connectTimeout`, default 10 s.
    pub connect_timeout: Option<Duration>,
    /// `http.http1MaxPendingRequests`.
    pub http1_max_pending_requests: Option<u32>,
    /// `http.http2MaxRequests`: requests in flight, whatever the HTTP version.
    pub http2_max_requests: Option<u32>,
    /// `http.maxRequestsPerConnection`; 0 = unlimited (None here).
    pub max_requests_per_connection: Option<u32>,
    /// `http.maxRetries`.
    pub max_retries: Option<u32>,
    /// `http.idleTimeout`, default 1 h.
    pub idle_timeout: Option<Duration>,
    /// `http.maxConcurrentStreams`: on one HTTP/2 connection. None = as the server allows.
    pub max_concurrent_streams: Option<u32>,
    /// `http.useClientProtocol` or `http.h2UpgradePolicy`; None = as the port says.
    pub upstream_protocol: Option<UpstreamProtocol>,
    /// `tcp.tcpKeepalive`.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `tcp.maxConnectionDuration`: a connection takes no new requests after so long. None = unlimited.
    pub max_connection_duration: Option<Duration>,
    /// `tcp.idleTimeout`: ends a connection of another protocol than HTTP on which nothing moves. Default 1 h; zero = never.
    pub tcp_idle_timeout: Option<Duration>,
}

/// What the upstream of an `HTTP` port is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// `useClientProtocol`: HTTP/2 if the request came by it.
    AsDownstream,
    /// `h2UpgradePolicy: UPGRADE`.
    Http2,
    /// `h2UpgradePolicy: DO_NOT_UPGRADE`.
    Http1,
}

/// `tcpKeepalive`; None = the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Unanswered probes until the connection is dead.
    pub probes: Option<u32>,
    /// Idle until the first probe; whole seconds, at least 1.
    pub time: Option<Duration>,
    /// Between probes; whole seconds, at least 1.
    pub interval: Option<Duration>,
}

/// `outlierDetection`. Defaults as Istio's.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierDetection {
    /// `consecutive5xxErrors`, default 5; 0 = off.
    pub consecutive_5xx_errors: u32,
    /// `consecutiveGatewayErrors`, default off (0).
    pub consecutive_gateway_errors: u32,
    /// `interval`, default 10 s.
    pub interval: Duration,
    /// `baseEjectionTime`, default 30 s.
    pub base_ejection_time: Duration,
    /// `maxEjectionPercent`, 0 to 100, default 10.
    pub max_ejection_percent: u32,
    /// `minHealthPercent`, 0 to 100, default 0.
    pub min_health_percent: u32,
    /// `splitExternalLocalOriginErrors`: connect failures, resets and timeouts count apart from answers.
    pub split_external_local_origin_errors: bool,
    /// `consecutiveLocalOriginFailures`, default 5, 0 = off; counts only with the split.
    pub consecutive_local_origin_failures: u32,
}

/// `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Mode.
    pub mode: TlsMode,
    /// `clientCertificate`: file of the calling sidecar; with MUTUAL.
    pub client_certificate: Option<String>,
    /// `privateKey`: file; with MUTUAL.
    pub private_key: Option<String>,
    /// `caCertificates`: file; None or `system` = the system's roots.
    pub ca_certificates: Option<String>,
    /// `caCrl`: file.
    pub ca_crl: Option<String>,
    /// `subjectAltNames`: names of which the server must have one; empty = the name that was called (SIMPLE, MUTUAL), or
    /// the identities that are registered (ISTIO_MUTUAL).
    pub subject_alt_names: Vec<String>,
    /// `sni`: default the host (SIMPLE, MUTUAL).
    pub sni: Option<String>,
    /// `insecureSkipVerify`.
    pub insecure_skip_verify: bool,
}

/// `tls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Mesh mTLS (the default to endpoints that have it).
    IstioMutual,
    /// TLS with a client certificate from files.
    Mutual,
    /// TLS.
    Simple,
    /// Plain text.
    Disable,
}
