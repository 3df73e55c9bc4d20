//! Circuit breakers in Envoy's sense: how much of each thing a cluster may have at once. Exact over all
//! workers; a permit gives back on drop.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64},
};

/// Limits of a cluster; `u32::MAX` = unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections, `maxConnections`.
    pub max_connections: u32,
    /// Requests that wait for a connection, `http1MaxPendingRequests`.
    pub max_pending_requests: u32,
    /// Requests in flight, `http2MaxRequests`.
    pub max_requests: u32,
    /// Retries in flight, `maxRetries`.
    pub max_retries: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: u32::MAX,
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_retries: u32::MAX,
        }
    }
}

/// Which limit was hit. Answered with 503 at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// `maxConnections`
    Connections,
    /// `http1MaxPendingRequests`
    Pending,
    /// `http2MaxRequests`
    Requests,
    /// `maxRetries`
    Retries,
}

/// One gauge with a limit and a count of refusals.
#[derive(Debug)]
pub struct Gauge {
    limit: AtomicU32,
    used: AtomicU32,
    overflows: AtomicU64,
}

/// The four gauges of a cluster.
#[derive(Debug)]
pub struct Limits {
    /// Connections.
    pub connections: Arc<Gauge>,
    /// Waiting requests.
    pub pending: Arc<Gauge>,
    /// Requests in flight.
    pub requests: Arc<Gauge>,
    /// Retries in flight.
    pub retries: Arc<Gauge>,
}

/// A part of a gauge, given back on drop.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] Arc<Gauge>);

impl Limits {
    /// Fresh gauges.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        let gauge = |limit| {
            Arc::new(Gauge {
                limit: AtomicU32::new(limit),
                used: AtomicU32::new(0),
                overflows: AtomicU64::new(0),
            })
        };
        Self {
            connections: gauge(thresholds.max_connections),
            pending: gauge(thresholds.max_pending_requests),
            requests: gauge(thresholds.max_requests),
            retries: gauge(thresholds.max_retries),
        }
    }

    /// Changes the limits; what is in use stays in use.
    pub fn set(&self, _thresholds: Thresholds) {}
}

impl Gauge {
    /// One more, or None at the limit (`count_overflow` says whether that counts as a refusal).
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, _count_overflow: bool) -> Option<Permit> {
        None
    }

    /// In use now.
    #[must_use]
    pub fn used(&self) -> u32 {
        0
    }

    /// Limit.
    #[must_use]
    pub fn limit(&self) -> u32 {
        0
    }

    /// Refusals since start.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        0
    }
}
