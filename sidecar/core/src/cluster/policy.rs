//! Smaller parts of a cluster's policy.

use std::time::Duration;

use super::Locality;

/// Whether localities of one priority have shares of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalityPolicy {
    /// No: endpoints only count by their own weight.
    #[default]
    Ignored,
    /// By [`super::EndpointConfig::locality_weight`], less if fewer than 72 % of its endpoints are in service. A
    /// locality without a weight gets nothing (Envoy).
    Weighted,
    /// This sidecar's zone first, as far as it can bear it: its part of the endpoints' weight times the number of zones;
    /// the rest goes to the other zones in proportion. Not for consistent hashing, whose keys have one endpoint.
    ZoneAware {
        /// With fewer endpoints in service, all zones are used alike. Default 6 (Envoy).
        minimum_endpoints: u32,
    },
}

/// Probes of the operating system on idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes without an answer after which the connection is dead.
    pub probes: u32,
    /// Idle time before the first.
    pub time: Duration,
    /// Between probes.
    pub interval: Duration,
}

impl Default for TcpKeepalive {
    /// A dead peer is noticed after two minutes.
    fn default() -> Self {
        Self {
            probes: 6,
            time: Duration::from_secs(60),
            interval: Duration::from_secs(10),
        }
    }
}

/// How many retries may be in flight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryShare {
    /// Of the requests in flight: 0 to 100.
    pub percent: f64,
    /// So many always may.
    pub least: u32,
    /// A document asks for it. What nobody wrote is limited over ten seconds as well; see
    /// [`RetryBudget`](crate::RetryBudget).
    pub written: bool,
}

impl Default for RetryShare {
    /// Envoy's.
    fn default() -> Self {
        Self {
            percent: 20.0,
            least: 3,
            written: false,
        }
    }
}

impl Locality {
    /// Region and zone of it.
    #[must_use]
    pub fn zone(&self) -> Self {
        Self {
            region: self.region.clone(),
            zone: self.zone.clone(),
            sub_zone: String::new(),
        }
    }

    /// Nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }
}
