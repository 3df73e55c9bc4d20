//! A named set of endpoints with its policy, and the choice of one of them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{Limits, Moment, Outcome, OutlierConfig, Permit, Thresholds, balance::LbPolicy};

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

/// mTLS towards the endpoints that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// SDS name of our certificate, e.g. `default`.
    pub certificate: String,
    /// SDS name of the trust bundle, e.g. `ROOTCA`.
    pub validation: String,
    /// SPIFFE ids the server may have; empty = refuse every server (never "any").
    pub subject_alt_names: Vec<String>,
    /// Server name, for observability only.
    pub sni: String,
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
    /// Limits.
    pub thresholds: Thresholds,
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// Idle pooled connections live this long. Default 1 h.
    pub idle_timeout: Duration,
    /// None = unlimited.
    pub max_requests_per_connection: Option<u32>,
    /// None = endpoints are never ejected.
    pub outlier: Option<OutlierConfig>,
    /// Protocol.
    pub protocol: UpstreamProtocol,
    /// None = plain text to all; else mTLS to endpoints with [`EndpointConfig::mtls`].
    pub tls: Option<UpstreamTls>,
    /// The line of YAML behind the policy, if a document set it.
    pub position: Option<Arc<str>>,
}

/// Health as EDS reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Takes traffic.
    #[default]
    Healthy,
    /// Used only while none is healthy... never, by default (panic routing is off).
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
    /// Speaks mesh mTLS.
    pub mtls: bool,
    /// Labels, for telemetry (`version`, ...).
    pub labels: BTreeMap<String, String>,
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
    /// Moment until which it is ejected; 0 = in service.
    pub ejected_until: AtomicU64,
    // helper C: consecutive counters, ejection count
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
}

/// What a choice depends on.
#[derive(Debug)]
pub struct PickContext<'a> {
    /// From [`crate::Route::hash`].
    pub hash: Option<u64>,
    /// Endpoints that this request has tried.
    pub tried: &'a [EndpointId],
    /// Now.
    pub now: Moment,
    /// Chance.
    pub rng: &'a mut fastrand::Rng,
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
    // helper C: compiled balancer
}

impl Cluster {
    /// Compiles a cluster; endpoints that `previous` had keep their id and state, limits their counts.
    #[must_use]
    pub fn new(
        config: ClusterConfig,
        endpoints: Vec<EndpointConfig>,
        previous: Option<&Self>,
    ) -> Self {
        let _ = (endpoints, previous);
        let limits = Arc::new(Limits::new(config.thresholds));
        Self {
            config,
            endpoints: Vec::new(),
            limits,
        }
    }

    /// Chooses an endpoint; healthy, not ejected, not tried.
    ///
    /// # Errors
    /// [`NoEndpoint`].
    pub fn pick(&self, _context: &mut PickContext<'_>) -> Result<Arc<Endpoint>, NoEndpoint> {
        Err(NoEndpoint::Empty)
    }

    /// Tells the ejection rules how a request to `endpoint` ended. True if that ejected it.
    pub fn report(&self, _endpoint: &Endpoint, _outcome: Outcome, _now: Moment) -> bool {
        false
    }

    /// Lets endpoints back whose time is over. To be called about once a second.
    pub fn sweep(&self, _now: Moment) {}
}

impl Endpoint {
    /// Counts a request as in flight until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.state.active_requests.fetch_add(1, Ordering::Relaxed);
        self.state.total_requests.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// One request in flight on an endpoint.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state.active_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[expect(dead_code, reason = "keeps the import honest until the pool uses it")]
type RequestPermit = Permit;
