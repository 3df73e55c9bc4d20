//! Circuit breakers in Envoy's sense: how much of each thing a cluster may have at once. Exact over all
//! workers; a permit gives back on drop.
//! ```text
//! scope PROXY:   limit of the policy ───────────────────────► what this proxy may have
//! scope SERVICE: limit of the policy ─┬─ the smaller ───────► what this proxy may have
//!                share of this proxy ─┘   (leased from the control plane, see the sidecar's `quota`)
//! ```
//! Pure: it counts and refuses. Who waits, and how long, is the connection pool's business.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
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

/// Over what a limit holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitsScope {
    /// This proxy alone.
    #[default]
    Proxy,
    /// All sidecars together: this one has a share.
    Service,
}

/// One gauge with a limit and a count of refusals.
#[derive(Debug)]
pub struct Gauge {
    /// The limit in force in the upper half, what is in use in the lower. One word, so that whoever lowers the limit
    /// knows what was in use at that moment: from then on it only falls to the new limit.
    state: AtomicU64,
    overflows: AtomicU64,
    settings: Mutex<Settings>,
}

/// What the limit in force is made of. Not read by requests.
#[derive(Clone, Copy, Debug)]
struct Settings {
    configured: u32,
    share: Option<u32>,
}

impl Settings {
    fn in_force(self) -> u32 {
        self.share
            .map_or(self.configured, |share| share.min(self.configured))
    }
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
        Self::scoped(thresholds, LimitsScope::Proxy)
    }

    /// Fresh gauges. With [`LimitsScope::Service`] nothing may be used of what is limited before the first share.
    #[must_use]
    pub fn scoped(thresholds: Thresholds, scope: LimitsScope) -> Self {
        let gauge = |limit| Gauge::with(limit, is_shared(limit, scope).then_some(0));
        Self {
            connections: gauge(thresholds.max_connections),
            pending: gauge(thresholds.max_pending_requests),
            requests: gauge(thresholds.max_requests),
            retries: gauge(thresholds.max_retries),
        }
    }

    /// Changes the limits; what is in use stays in use, even above a lowered limit.
    pub fn set(&self, thresholds: Thresholds) {
        self.set_scoped(thresholds, LimitsScope::Proxy);
    }

    /// Changes the limits and their scope. A limit that becomes the service's stays in force for this proxy until its
    /// first share comes.
    pub fn set_scoped(&self, thresholds: Thresholds, scope: LimitsScope) {
        let pairs = [
            (&self.connections, thresholds.max_connections),
            (&self.pending, thresholds.max_pending_requests),
            (&self.requests, thresholds.max_requests),
            (&self.retries, thresholds.max_retries),
        ];
        for (gauge, limit) in pairs {
            gauge.change(|settings| {
                let before = settings.in_force();
                settings.configured = limit;
                settings.share = is_shared(limit, scope).then(|| settings.share.unwrap_or(before));
            });
        }
    }
}

/// What has no limit needs no share.
fn is_shared(limit: u32, scope: LimitsScope) -> bool {
    scope == LimitsScope::Service && limit != u32::MAX
}

impl Gauge {
    fn with(configured: u32, share: Option<u32>) -> Arc<Self> {
        let settings = Settings { configured, share };
        Arc::new(Self {
            state: AtomicU64::new(packed(settings.in_force(), 0)),
            overflows: AtomicU64::new(0),
            settings: Mutex::new(settings),
        })
    }

    /// One more, or None at the limit (`count_overflow` says whether that counts as a refusal).
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, count_overflow: bool) -> Option<Permit> {
        // Compare and exchange, not add and roll back: in between, the sum would be too high for
        // others, who would then be refused although there was room.
        let mut state = self.state.load(Relaxed);
        while used_of(state) < limit_of(state) {
            match self
                .state
                .compare_exchange_weak(state, state + 1, Relaxed, Relaxed)
            {
                Ok(_) => return Some(Permit(Arc::clone(self))),
                Err(now) => state = now,
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
        used_of(self.state.load(Relaxed))
    }

    /// What this proxy may have: the limit, or its share of it.
    #[must_use]
    pub fn limit(&self) -> u32 {
        limit_of(self.state.load(Relaxed))
    }

    /// The limit of the policy, of which [`Self::limit`] may be a share.
    #[must_use]
    pub fn configured(&self) -> u32 {
        self.settings().configured
    }

    /// This proxy's share, if the limit is the service's.
    #[must_use]
    pub fn share(&self) -> Option<u32> {
        self.settings().share
    }

    /// Sets this proxy's share of a limit of the service; where the limit is not the service's (any more), it changes
    /// nothing. Gives back what may be in use from now on, as [`Self::held`].
    pub fn set_share(&self, share: u32) -> u32 {
        self.change(|settings| {
            if let Some(held) = &mut settings.share {
                *held = share;
            }
        })
    }

    /// What may be in use from now on: the limit in force, or what is still in use above it.
    #[must_use]
    pub fn held(&self) -> u32 {
        let state = self.state.load(Relaxed);
        limit_of(state).max(used_of(state))
    }

    /// Refusals since start.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) -> u32 {
        let mut settings = self.settings();
        change(&mut settings);
        let limit = settings.in_force();
        let mut state = self.state.load(Relaxed);
        while let Err(now) =
            self.state
                .compare_exchange_weak(state, packed(limit, used_of(state)), Relaxed, Relaxed)
        {
            state = now;
        }
        limit.max(used_of(state))
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn packed(limit: u32, used: u32) -> u64 {
    (limit as u64) << 32 | used as u64
}

const fn limit_of(state: u64) -> u32 {
    (state >> 32) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
const fn used_of(state: u64) -> u32 {
    state as u32
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.0.state.fetch_sub(1, Relaxed);
        debug_assert!(used_of(before) > 0, "a permit was given back twice");
    }
}

#[cfg(test)]
mod tests;
