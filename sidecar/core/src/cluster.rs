//! A named set of endpoints with its policy, and the choice of one of them.
//!
//! An endpoint is used if it is healthy, not ejected and not tried by this request, and no endpoint of a
//! higher priority (a lower number) is left to use. One that EDS calls unhealthy or draining is never
//! used: panic routing is off. Ejection, which is only our guess, is overruled where it would leave
//! nothing: see [`Cluster::pick`].

mod build;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    Limits, Moment, Outcome, OutlierConfig, RetryBudget, Thresholds,
    balance::{Candidates, LbPolicy, Tier},
    outlier::{Ejector, Probe, Standing},
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

/// A choice: one request's leave to use an endpoint.
#[derive(Debug)]
pub struct Picked {
    /// Where the request goes.
    pub endpoint: Arc<Endpoint>,
    /// The request decides whether the endpoint, which was ejected, comes back.
    pub(crate) probe: Option<Probe>,
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
    /// Highest priority first.
    tiers: Vec<Tier>,
    /// Of the rotation; kept over snapshots, or else every change would favour the first endpoint.
    turns: Arc<AtomicU64>,
    ejector: Arc<Ejector>,
}

impl Cluster {
    /// Chooses an endpoint; healthy, not ejected, not tried.
    ///
    /// Ejection is ignored while less than `min_health_percent` of the endpoints are in service, and when
    /// all healthy endpoints are ejected although `max_ejection_percent` is below 100 (others have left
    /// since). With 100 the operator asked for an open breaker: [`NoEndpoint::Unhealthy`] at once, one
    /// probe each time an ejection ends.
    ///
    /// # Errors
    /// [`NoEndpoint`].
    pub fn pick(&self, context: &mut PickContext<'_>) -> Result<Picked, NoEndpoint> {
        let mut candidates = Candidates {
            endpoints: &self.endpoints,
            tried: context.tried,
            now: context.now,
            heed_ejection: self.heeds_ejection(context.now),
            probe_ms: self.config.outlier.map_or(0, |outlier| outlier.probe_ms()),
            probe: Cell::new(None),
        };
        if let Some(picked) = self.pick_from(&candidates, context) {
            return Ok(picked);
        }
        let untried = Candidates {
            tried: &[],
            probe: Cell::new(None),
            ..candidates
        };
        if self.tiers.iter().any(|tier| tier.any_usable(&untried)) {
            return Err(NoEndpoint::Exhausted);
        }
        let fails_fast = self
            .config
            .outlier
            .is_none_or(|outlier| outlier.max_ejection_percent >= 100);
        if candidates.heed_ejection && !fails_fast {
            candidates.heed_ejection = false;
            if let Some(picked) = self.pick_from(&candidates, context) {
                return Ok(picked);
            }
        }
        Err(if self.endpoints.is_empty() {
            NoEndpoint::Empty
        } else {
            NoEndpoint::Unhealthy
        })
    }

    /// Tells the ejection rules how a request to the endpoint it was given ended. True if that ejected it.
    pub fn report(&self, picked: &Picked, outcome: Outcome, now: Moment) -> bool {
        if outcome.is_failure() {
            picked.endpoint.state.total_failures.fetch_add(1, Relaxed);
        }
        self.config.outlier.is_some_and(|config| {
            self.ejector
                .report(&config, &self.endpoints, picked, outcome, now)
        })
    }

    /// Says that a request will not use the endpoint it was given (the client left, a limit was hit), so
    /// that there is no outcome. If it was the probe of an ejected endpoint, the next request is.
    pub fn unused(&self, picked: &Picked, now: Moment) {
        if let Some(probe) = picked.probe {
            picked.endpoint.state.return_probe(probe, now);
        }
    }

    /// Forgives endpoints that were good for an interval. To be called about once a second. (An endpoint
    /// whose ejection is over needs no call: [`Self::pick`] sees that and sends its probe.)
    pub fn sweep(&self, now: Moment) {
        if let Some(config) = &self.config.outlier {
            self.ejector.sweep(config, &self.endpoints, now);
        }
    }

    /// Endpoints that take traffic now: healthy and not ejected.
    pub fn in_service(&self, now: Moment) -> impl Iterator<Item = &Arc<Endpoint>> {
        let ejects = self.config.outlier.is_some();
        self.endpoints.iter().filter(move |endpoint| {
            endpoint.config.health == Health::Healthy
                && (!ejects || endpoint.state.standing(now) == Standing::InService)
        })
    }

    fn pick_from(
        &self,
        candidates: &Candidates<'_>,
        context: &mut PickContext<'_>,
    ) -> Option<Picked> {
        let place = self
            .tiers
            .iter()
            .find_map(|tier| tier.pick(candidates, context.hash, &self.turns, context.rng))?;
        let endpoint = self.endpoints.get(usize::try_from(place).ok()?)?;
        Some(Picked {
            endpoint: Arc::clone(endpoint),
            probe: candidates.probe.get(),
        })
    }

    fn heeds_ejection(&self, now: Moment) -> bool {
        self.config.outlier.is_some_and(|config| {
            let percent = usize::try_from(config.min_health_percent).unwrap_or(100);
            percent == 0 || self.in_service(now).count() * 100 >= percent * self.endpoints.len()
        })
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
