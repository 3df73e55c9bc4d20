//! A named set of endpoints with its policy, and the choice of one of them.
//!
//! An endpoint is used if it is healthy, not ejected, its circuit breaker is not open, and this request has not tried
//! it. A lower priority (a higher number) gets what those above it cannot bear: see [`LocalityPolicy`] for localities of
//! one priority. One that EDS calls unhealthy or draining is never used: panic routing is off. Ejection, which is only our guess, is overruled where it would leave
//! nothing: see [`Cluster::pick`].

mod build;
mod pick;
mod policy;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use pick::Verdict;
pub use policy::{LocalityPolicy, RetryShare, TcpKeepalive};

use crate::{
    ClusterSlot, KeepAlive, Limits, LimitsScope, Moment, OutlierConfig, ProxyVersion, RetryBudget,
    Thresholds,
    balance::{Ewma, LbPolicy, Leave, Priorities, SlowStart},
    breaker::{Breaker, BreakerConfig, Breakers, Trial},
    capture::Destinations,
    outlier::{Ejector, Heeds},
    reach::Reach,
};

/// Identifies an endpoint of a cluster in this process; never reused. The key of connection pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

/// What the upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge or ALPN.
    Http2,
    /// As the request came in (h2 stays h2); what ordinary HTTP ports of the mesh use.
    AsDownstream,
}

/// TLS towards the endpoints that have it: the mesh's mutual TLS, or with [`Self::outside`] that of other servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// SDS name of our certificate, e.g. `default`.
    pub certificate: String,
    /// SDS name of the trust bundle, e.g. `ROOTCA`.
    pub validation: String,
    /// SPIFFE ids the server may have; empty = refuse every server (never "any"). Of a server outside of the mesh:
    /// DNS names of which it must have one; empty = [`Self::sni`].
    pub subject_alt_names: Vec<String>,
    /// Server name; within the mesh for observability only.
    pub sni: String,
    /// What a connection that is not HTTP offers as its application protocols.
    pub alpn: Vec<String>,
    /// The server is not one of the mesh.
    pub outside: Option<Arc<OutsideTls>>,
}

/// What TLS to a server outside of the mesh is made of. Files are read, and read again, by the sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutsideTls {
    /// PEM file of roots; None = the system's.
    pub roots: Option<PathBuf>,
    /// PEM files of our certificate's chain and its key; None = we show none.
    pub client: Option<(PathBuf, PathBuf)>,
    /// PEM file of revocation lists; None = nothing is revoked.
    pub revoked: Option<PathBuf>,
    /// TLS 1.2 will do.
    pub tls12: bool,
    /// Any server is taken for the right one (`insecureSkipVerify`).
    pub unverified: bool,
}

/// Policy of a cluster, as CDS gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// `outbound|9080|v1|reviews.default.svc.cluster.local`
    pub name: String,
    /// Service host, e.g. `reviews.default.svc.cluster.local`; for telemetry.
    pub service: String,
    /// Subset, possibly empty; for telemetry.
    pub subset: String,
    /// Balancing.
    pub lb: LbPolicy,
    /// None = new endpoints get their whole share at once.
    pub slow_start: Option<SlowStart>,
    /// Shares of localities.
    pub localities: LocalityPolicy,
    /// Where this sidecar runs, for [`LocalityPolicy::ZoneAware`].
    pub own_locality: Locality,
    /// Of a consistent hash: percentage of the average load that an endpoint may have before its keys go to the next
    /// one; above 100. None = unbounded.
    pub hash_balance_percent: Option<u32>,
    /// None = no circuit breaker.
    pub breaker: Option<BreakerConfig>,
    /// Limits.
    pub thresholds: Thresholds,
    /// Over what they hold.
    pub limits_scope: LimitsScope,
    /// Retries that may be in flight.
    pub retry_share: RetryShare,
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// Idle pooled connections live this long. Default 1 h.
    pub idle_timeout: Duration,
    /// None = unlimited.
    pub max_requests_per_connection: Option<u32>,
    /// None = a connection may serve for ever; else it takes no new requests after so long.
    pub max_connection_duration: Option<Duration>,
    /// Streams at once on an HTTP/2 connection; the peer's own limit holds as well. None = only that.
    pub max_concurrent_streams: Option<u32>,
    /// Keep-alive probes of the operating system.
    pub tcp_keepalive: TcpKeepalive,
    /// Connections begin with a header that tells for whom they are opened, and serve nobody else. None = they do not.
    pub proxy_protocol: Option<ProxyVersion>,
    /// None = endpoints are never ejected.
    pub outlier: Option<OutlierConfig>,
    /// Protocol.
    pub protocol: UpstreamProtocol,
    /// None = plain text to all; else mTLS to endpoints with [`EndpointConfig::mtls`].
    pub tls: Option<UpstreamTls>,
    /// The line of YAML behind the policy, if a document set it.
    pub position: Option<Arc<str>>,
    /// It has no endpoints of its own: connections go where they were going (`ORIGINAL_DST`).
    pub original_dst: bool,
    /// Of an aggregate: the clusters that it stands for, the most wanted first; see [`crate::Snapshot::serving`].
    pub members: Vec<ClusterSlot>,
}

impl Default for ClusterConfig {
    /// Without a name, and with the defaults of each field.
    fn default() -> Self {
        Self {
            name: String::new(),
            service: String::new(),
            subset: String::new(),
            lb: LbPolicy::default(),
            slow_start: None,
            localities: LocalityPolicy::default(),
            own_locality: Locality::default(),
            hash_balance_percent: None,
            breaker: None,
            thresholds: Thresholds::default(),
            limits_scope: LimitsScope::default(),
            retry_share: RetryShare::default(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            max_requests_per_connection: None,
            max_connection_duration: None,
            max_concurrent_streams: None,
            tcp_keepalive: TcpKeepalive::default(),
            proxy_protocol: None,
            outlier: None,
            protocol: UpstreamProtocol::AsDownstream,
            tls: None,
            position: None,
            original_dst: false,
            members: Vec::new(),
        }
    }
}

impl ClusterConfig {
    /// TLS of the mesh: mutual, between identities.
    #[must_use]
    pub fn mesh_tls(&self) -> Option<&UpstreamTls> {
        self.tls.as_ref().filter(|tls| tls.outside.is_none())
    }
}

/// Health as EDS reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Takes traffic.
    #[default]
    Healthy,
    /// Takes none, even if no other is left (panic routing is off).
    Unhealthy,
    /// Finishes what it has; takes nothing new.
    Draining,
}

/// Region, zone, sub-zone; each possibly empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Sub-zone.
    pub sub_zone: String,
}

/// One endpoint, as EDS gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointConfig {
    /// Where to connect.
    pub address: SocketAddr,
    /// 1 or more.
    pub weight: u32,
    /// Health.
    pub health: Health,
    /// 0 = highest.
    pub priority: u32,
    /// Where it runs.
    pub locality: Locality,
    /// Weight of that locality among those of its priority; 0 = none was given.
    pub locality_weight: u32,
    /// Speaks mesh mTLS.
    pub mtls: bool,
    /// Labels, for telemetry (`version`, ...).
    pub labels: BTreeMap<String, String>,
}

impl EndpointConfig {
    /// A healthy one in plain text.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            weight: 1,
            health: Health::Healthy,
            priority: 0,
            locality: Locality::default(),
            locality_weight: 0,
            mtls: false,
            labels: BTreeMap::new(),
        }
    }
}

/// An endpoint of a cluster with the state that all workers share.
#[derive(Debug)]
pub struct Endpoint {
    /// Identity.
    pub id: EndpointId,
    /// Configuration.
    pub config: EndpointConfig,
    /// Counters; the same object in the next snapshot if the address stays.
    pub state: Arc<EndpointState>,
}

/// What all workers share about an endpoint.
#[derive(Debug, Default)]
pub struct EndpointState {
    /// Requests in flight: what least request compares.
    pub active_requests: AtomicU32,
    /// Requests since start.
    pub total_requests: AtomicU64,
    /// Failures since start (5xx and local errors).
    pub total_failures: AtomicU64,
    /// Moment until which it is ejected or on probation; 0 = in service. Read [`Self::standing`].
    pub ejected_until: AtomicU64,
    /// Ejections since start.
    pub total_ejections: AtomicU64,
    /// A request decides whether the ejected endpoint comes back.
    pub(crate) probing: AtomicBool,
    /// By how much the next ejection is longer.
    pub(crate) ejections: AtomicU32,
    pub(crate) consecutive_5xx: AtomicU32,
    pub(crate) consecutive_gateway: AtomicU32,
    pub(crate) consecutive_local: AtomicU32,
    /// Whether it could be connected to.
    pub(crate) reach: Reach,
    /// Its circuit breaker, if the cluster has one for each endpoint.
    pub breaker: Breaker,
    /// For how long its idle connections may be used.
    pub keep_alive: KeepAlive,
    pub(crate) latency: Ewma,
    /// Moment of its first appearance, or of its return to health; 0 = just now.
    since: AtomicU64,
}

/// Why no endpoint could be chosen. Answered with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// The cluster has none.
    Empty,
    /// It has some, none of them healthy.
    Unhealthy,
    /// All that are left were tried by this request.
    Exhausted,
    /// It is one of type `ORIGINAL_DST`, and the connection was going nowhere else.
    NotRedirected,
    /// It is one of type `ORIGINAL_DST`, and has as many destinations in use as may be.
    TooManyDestinations,
    /// Circuit breakers are open.
    BreakerOpen {
        /// When the next probe is let through.
        until: Moment,
        /// The breaker of the whole service; else those of all its healthy endpoints.
        of_service: bool,
    },
}

/// What a choice depends on.
#[derive(Debug)]
pub struct PickContext<'a> {
    /// From [`crate::Route::hash`].
    pub hash: Option<u64>,
    /// Endpoints that this request has tried.
    pub tried: &'a [EndpointId],
    /// Priorities to leave out if another one can take the request: for a retry under Envoy's `previous_priorities`, those
    /// of the endpoints tried so far. Otherwise empty.
    pub previous_priorities: &'a [u32],
    /// Now.
    pub now: Moment,
    /// Chance.
    pub rng: &'a mut fastrand::Rng,
}

/// A choice: one request's leave to use an endpoint.
#[derive(Debug)]
pub struct Picked {
    /// Where the request goes.
    pub endpoint: Arc<Endpoint>,
    /// What the request decides about the endpoint.
    pub(crate) leave: Leave,
    /// The request decides whether the breaker of the service closes.
    pub(crate) service_trial: Option<Trial>,
}

/// A cluster ready for use.
#[derive(Debug)]
pub struct Cluster {
    /// Policy.
    pub config: ClusterConfig,
    /// All endpoints, sorted by address.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Limits, exact over the proxy; kept over snapshots.
    pub limits: Arc<Limits>,
    /// Retries in flight; kept over snapshots.
    pub retries: Arc<RetryBudget>,
    /// Circuit breakers beside those of the endpoints; kept over snapshots.
    pub breakers: Arc<Breakers>,
    priorities: Priorities,
    /// Kept over snapshots.
    destinations: Arc<Destinations>,
    ejector: Arc<Ejector>,
    heeds: Heeds,
    /// All endpoints are dated.
    arrived: AtomicBool,
}

/// What a cluster leaves to the next of its name, should it come back after it was removed: what still is in use counts
/// against the limits, and what is open stays open.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    limits: Arc<Limits>,
    retries: Arc<RetryBudget>,
    breakers: Arc<Breakers>,
    ejector: Arc<Ejector>,
    destinations: Arc<Destinations>,
}

impl EndpointState {
    /// Moment of its first appearance, in milliseconds.
    pub(crate) fn since(&self) -> u64 {
        self.since.load(Relaxed)
    }

    fn appears(&self, now: Moment) {
        self.since
            .compare_exchange(0, now.0.max(1), Relaxed, Relaxed)
            .ok();
    }

    /// Response time that is expected of it, in microseconds, as measured for peak EWMA.
    #[must_use]
    pub fn expected_micros(&self, decay: Duration, now: Moment) -> Option<f32> {
        self.latency.expected(decay.as_secs_f32() * 1000.0, now)
    }
}

impl Endpoint {
    /// Counts a request as in flight until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.state.active_requests.fetch_add(1, Relaxed);
        self.state.total_requests.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// One request in flight on an endpoint.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state.active_requests.fetch_sub(1, Relaxed);
    }
}
