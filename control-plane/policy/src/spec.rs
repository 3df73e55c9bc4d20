//! The typed content of each kind: what Istio's reference says, as far as it is effective here.
//! Source: Istio's networking API reference, v1. A field that is missing here is refused by `parse`.

use std::{collections::BTreeMap, time::Duration};

use crate::Position;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub position: Position,
}

/// Content of a document.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is documented at its type")]
pub enum Spec {
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(WorkloadEntry),
    Sidecar(Sidecar),
}

/// Routing of requests to `hosts`.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualService {
    /// Hosts as written: short, full, or `*.suffix`.
    pub hosts: Vec<At<String>>,
    /// Tried in order; the first match wins.
    pub http: Vec<HttpRoute>,
}

/// One rule of a [`VirtualService`].
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// Where the rule stands: what `why` and the span's `outrigger.policy` name.
    pub position: Position,
    /// `name`, for logs and metrics.
    pub name: Option<String>,
    /// Any of these; empty = every request.
    pub matches: Vec<HttpMatch>,
    /// What to do.
    pub action: HttpAction,
    /// Time for the whole request. None = unlimited. Never zero.
    pub timeout: Option<Duration>,
    /// Header edits on the way there and back.
    pub headers: HeaderEdits,
    /// `rewrite`.
    pub rewrite: Option<Rewrite>,
}

/// What a rule does with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpAction {
    /// `route`: weighted destinations; weights sum to more than 0. One without `weight` counts 100 if
    /// alone; 0 if beside others (Istio).
    Route(Vec<WeightedDestination>),
    /// `redirect`.
    Redirect(Redirect),
    /// `directResponse`.
    DirectResponse {
        /// 200 to 599.
        status: u16,
        /// Body as text, possibly empty.
        body: String,
    },
}

/// One destination of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedDestination {
    /// Where it stands.
    pub position: Position,
    /// Host as written.
    pub host: At<String>,
    /// Subset of the host's DestinationRule.
    pub subset: Option<At<String>>,
    /// Port; None = the request's, or the service's only one.
    pub port: Option<u16>,
    /// Share of the sum.
    pub weight: u32,
    /// Header edits for this destination, after the route's.
    pub headers: HeaderEdits,
}

/// All parts must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    /// `name`.
    pub name: Option<String>,
    /// Path without the query.
    pub uri: Option<StringMatch>,
    /// Compare `uri` (exact, prefix) without case.
    pub ignore_uri_case: bool,
    /// `:scheme`.
    pub scheme: Option<StringMatch>,
    /// Method.
    pub method: Option<StringMatch>,
    /// Host header.
    pub authority: Option<StringMatch>,
    /// Each must match. [`StringMatch::Present`] = the header only has to be there.
    pub headers: BTreeMap<String, StringMatch>,
    /// None may match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Each must match.
    pub query_params: BTreeMap<String, StringMatch>,
    /// The port that the request was addressed to.
    pub port: Option<u16>,
}

/// Istio's `StringMatch`.
#[derive(Clone, Debug, PartialEq)]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// Matches as a whole; RE2 syntax, checked by `parse`.
    Regex(String),
    /// `{}`: anything, as long as it is there.
    Present,
}

/// `headers`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// On the way to the destination.
    pub request: HeaderOps,
    /// On the way back.
    pub response: HeaderOps,
}

/// `remove`, then `set`, then `add` (Envoy's order).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderOps {
    /// Overwrite.
    pub set: BTreeMap<String, String>,
    /// Append.
    pub add: BTreeMap<String, String>,
    /// Remove.
    pub remove: Vec<String>,
}

/// `rewrite`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// Replaces the matched prefix, or the whole path of an exact match.
    pub uri: Option<String>,
    /// Replaces the Host header.
    pub authority: Option<String>,
}

/// `redirect`.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// New path.
    pub uri: Option<String>,
    /// New host.
    pub authority: Option<String>,
    /// New port.
    pub port: Option<u16>,
    /// New scheme.
    pub scheme: Option<String>,
    /// 301 (default), 302, 303, 307, 308.
    pub redirect_code: u16,
}

/// Policy for traffic to one host.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// Host as written.
    pub host: At<String>,
    /// For all of the host.
    pub traffic_policy: TrafficPolicy,
    /// Named parts of it.
    pub subsets: Vec<Subset>,
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
    /// `tls.mode`.
    pub tls: Option<At<TlsMode>>,
}

/// `loadBalancer`.
#[derive(Clone, Debug, PartialEq)]
pub enum LoadBalancer {
    /// LEAST_REQUEST, LEAST_CONN (its old name), UNSPECIFIED (the default).
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
}

/// `tls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Mesh mTLS (the default to endpoints that have it).
    IstioMutual,
    /// Plain text.
    Disable,
}

/// A service and, with STATIC resolution, its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    /// Hosts as written.
    pub hosts: Vec<At<String>>,
    /// At least one.
    pub ports: Vec<ServicePort>,
    /// Given here (resolution STATIC).
    pub endpoints: Vec<WorkloadEntry>,
    /// Registered instances and WorkloadEntries of the namespace with all of these labels, if set.
    pub workload_selector: Option<BTreeMap<String, String>>,
    /// `MESH_INTERNAL` endpoints may have mTLS; `MESH_EXTERNAL` (default) ones are plain.
    pub mesh_internal: bool,
}

/// `ports[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// 1 to 65535.
    pub number: u16,
    /// Unique in the entry.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// `targetPort`, default `number`.
    pub target_port: Option<u16>,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.1 (`HTTP`).
    Http,
    /// HTTP/2 with prior knowledge (`HTTP2`).
    Http2,
    /// gRPC: HTTP/2 (`GRPC`).
    Grpc,
}

/// One instance. As a document of its own it also joins every service whose selector matches.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadEntry {
    /// Where it stands.
    pub position: Position,
    /// IP address.
    pub address: At<String>,
    /// Port name to number.
    pub ports: BTreeMap<String, u16>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `region/zone/sub_zone`.
    pub locality: Option<String>,
    /// Weight, default 1, never 0.
    pub weight: u32,
    /// `serviceAccount`; set = expect mesh mTLS with this identity.
    pub service_account: Option<String>,
}

/// What the selected workloads see.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// None = every workload of the namespace.
    pub workload_selector: Option<BTreeMap<String, String>>,
    /// At least one.
    pub egress: Vec<EgressListener>,
}

/// One group of callable hosts, with or without a local port of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressListener {
    /// Where it stands.
    pub position: Position,
    /// Local port; None = the hosts are callable through the HTTP proxy port.
    pub port: Option<ServicePort>,
    /// Address to bind, default 127.0.0.1 when `port` is set.
    pub bind: Option<String>,
    /// `namespace/dnsName`, each part possibly `*`; `./` = own namespace, `~/` = none.
    pub hosts: Vec<At<EgressHost>>,
}

/// `namespace/dnsName`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressHost {
    /// `*`, `.`, `~` or a name.
    pub namespace: String,
    /// `*`, `*.suffix`, or a host.
    pub host: String,
}
