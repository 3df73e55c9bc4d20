//! Circuit breakers in Envoy's sense: how much of each thing a cluster may have at once. Exact over all
//! workers; a permit gives back on drop.
//!
//! Pure: it counts and refuses. Who waits, and how long, is the connection pool's business.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
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
#[must_use = "a dropped permit is given back at once"]
pub struct Permit(Arc<Gauge>);

impl Limits {
    /// Fresh gauges.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            connections: Gauge::new(thresholds.max_connections),
            pending: Gauge::new(thresholds.max_pending_requests),
            requests: Gauge::new(thresholds.max_requests),
            retries: Gauge::new(thresholds.max_retries),
        }
    }

    /// Changes the limits; what is in use stays in use, even above a lowered limit.
    pub fn set(&self, thresholds: Thresholds) {
        let pairs = [
            (&self.connections, thresholds.max_connections),
            (&self.pending, thresholds.max_pending_requests),
            (&self.requests, thresholds.max_requests),
            (&self.retries, thresholds.max_retries),
        ];
        for (gauge, limit) in pairs {
            gauge.limit.store(limit, Relaxed);
        }
    }
}

impl Gauge {
    fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicU32::new(limit),
            used: AtomicU32::new(0),
            overflows: AtomicU64::new(0),
        })
    }

    /// One more, or None at the limit (`count_overflow` says whether that counts as a refusal).
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, count_overflow: bool) -> Option<Permit> {
        // Compare and exchange, not add and roll back: in between, the sum would be too high for
        // others, who would then be refused although there was room.
        let mut used = self.used.load(Relaxed);
        while used < self.limit.load(Relaxed) {
            match self
                .used
                .compare_exchange_weak(used, used + 1, Relaxed, Relaxed)
            {
                Ok(_) => return Some(Permit(Arc::clone(self))),
                Err(now) => used = now,
            }
        }
        if count_overflow {
            self.overflows.fetch_add(1, Relaxed);
        }
        None
    }

    /// In use now.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Limit.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Refusals since start.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.0.used.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "a permit was given back twice");
    }
}

#[cfg(test)]
mod tests;
