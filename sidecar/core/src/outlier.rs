//! Takes failing endpoints out of a cluster for a while and lets them back.
//! ```text
//!   in service --(5 failures in a row)--> ejected
//!       ^-------(base_ejection_time x times ejected, capped)--------'
//! ```
//! Source: Envoy `OutlierDetection`.

use std::time::Duration;

/// When and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierConfig {
    /// 5xx answers and local errors in a row; 0 = off. Default 5.
    pub consecutive_5xx: u32,
    /// 502, 503, 504 and local errors in a row; 0 = off. Default 0 (Istio).
    pub consecutive_gateway_failure: u32,
    /// Default 10 s.
    pub interval: Duration,
    /// First ejection; the n-th lasts n times as long. Default 30 s.
    pub base_ejection_time: Duration,
    /// Default 300 s, at least `base_ejection_time`.
    pub max_ejection_time: Duration,
    /// 0 to 100, default 10; at least one endpoint may always be ejected (Envoy).
    pub max_ejection_percent: u32,
    /// Below this share of healthy endpoints ejection is ignored (Istio `minHealthPercent`). Default 0.
    pub min_health_percent: u32,
}

/// How a request to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status.
    Status(u16),
    /// Could not connect, TLS failed, timed out, reset.
    LocalError,
}
