//! `DestinationPolicy` (`outrigger.dev/v1`): what Istio's DestinationRule has no word for. Names follow those of gRPC and
//! Finagle where they have one.

use std::time::Duration;

use super::At;

/// Further policy for traffic to one host, beside its DestinationRule.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationPolicy {
    /// Host as written; no wildcard.
    pub host: At<String>,
    /// One subset of it; None = all clusters of the host that have no policy of their own.
    pub subset: Option<At<String>>,
    /// `balancer`, in place of the DestinationRule's `loadBalancer.simple`.
    pub balancer: Option<At<OwnBalancer>>,
    /// `zoneAware`.
    pub zone_aware: Option<At<ZoneAware>>,
    /// `boundedLoad.percent`: of a consistent hash, how much of the average load an endpoint may have before its keys go
    /// to the next on the ring; above 100.
    pub bounded_load: Option<At<u32>>,
    /// `circuitBreaker`.
    pub circuit_breaker: Option<At<CircuitBreaker>>,
    /// `limits.scope: SERVICE`: the limits of the DestinationRule's `connectionPool` hold for all sidecars together.
    pub service_limits: Option<At<ServiceLimits>>,
    /// `hedging`.
    pub hedging: Option<At<Hedging>>,
}

/// `balancer`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OwnBalancer {
    /// `peakEwma`: least expected latency: a decaying average that a slow answer raises at once, times requests in flight.
    PeakEwma {
        /// Time in which old measurements lose 63 % of their weight. Default 10 s (Finagle).
        decay: Duration,
    },
}

/// `zoneAware`: endpoints of the caller's zone first, as far as they can bear it; the rest spills in proportion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneAware {
    /// `minimumEndpoints`: with fewer healthy ones, all zones are used alike. Default 6 (Envoy).
    pub minimum_endpoints: u32,
}

/// `circuitBreaker`: closed, open, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// `consecutiveFailures` that open it: 1 or more, default 5.
    pub consecutive_failures: u32,
    /// `resetTimeout` after which one probe is let through. Default 30 s, never zero.
    pub reset_timeout: Duration,
    /// `scope`: of what.
    pub scope: BreakerScope,
}

/// What a circuit breaker opens for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerScope {
    /// `ENDPOINT` (default): others take over.
    Endpoint,
    /// `SERVICE`: the whole cluster; requests are refused at once.
    Service,
    /// `BOTH`.
    Both,
}

/// `limits` with `scope: SERVICE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceLimits;

/// `hedging`: a second copy of a slow idempotent request, to another endpoint; the first answer wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedging {
    /// `after` this time without an answer. Never zero.
    pub after: Duration,
    /// `budgetPercent`: copies as a share of requests, above 0 to 100. Default 10.
    pub budget_percent: f64,
}
