//! Whether a request that failed is sent again, when, and how many may be at once.
//!
//! Only what is provably unsent is: then any method may be, as no server has seen it. The budget keeps
//! retries from multiplying the load of a cluster that is down. Pure: the caller waits and sends.
//! Source: Envoy `RetryPolicy`, `RetryBudget`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No byte of the request can have been processed: connect failed, stream refused (h2
    /// `REFUSED_STREAM`, or above a GOAWAY's last stream), connection closed before the first byte left.
    Unsent,
    /// The server may have seen it. Never sent again on our own account.
    MaybeSent,
}

/// How often and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first one included. Default 2.
    pub attempts: u32,
    /// Upper end of the first wait; doubles with each, up to ten times. Default 25 ms (Envoy).
    pub base_interval: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 2,
            base_interval: Duration::from_millis(25),
        }
    }
}

/// What to do after a failed attempt.
#[derive(Debug)]
pub enum RetryDecision {
    /// Send again, to another endpoint, `after` this time, holding `permit` until the attempt has ended.
    Again {
        /// Between zero and the interval (full jitter), so that callers that failed together part.
        after: Duration,
        /// A share of the budget.
        permit: RetryPermit,
    },
    /// Answer with the error.
    Stop(StopReason),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The server may have seen the request.
    MaybeSent,
    /// All attempts were used.
    Attempts,
    /// Too many retries are in flight already.
    Budget,
}

/// Retries in flight of a cluster, exact over all workers: at most 20 % of the requests in flight, but 3
/// always (Envoy), unless [`Self::set_share`] says otherwise.
#[derive(Debug)]
pub struct RetryBudget {
    /// Of a million requests in flight.
    per_million: AtomicU32,
    least: AtomicU32,
    used: AtomicU32,
    total: AtomicU64,
    refused: AtomicU64,
}

/// One retry in flight; ends on drop.
#[derive(Debug)]
#[must_use = "a dropped permit is given back at once"]
pub struct RetryPermit(Arc<RetryBudget>);

const PER_MILLION: u32 = 200_000;
const ALWAYS_ALLOWED: u32 = 3;
const LARGEST_FACTOR: u32 = 10;

impl RetryPolicy {
    /// Decides after `made` attempts, the last of which came as far as `progress`. `in_flight` counts the
    /// cluster's requests now, this one included.
    pub fn decide(
        &self,
        progress: Progress,
        made: u32,
        budget: &Arc<RetryBudget>,
        in_flight: u32,
        rng: &mut fastrand::Rng,
    ) -> RetryDecision {
        if progress == Progress::MaybeSent {
            return RetryDecision::Stop(StopReason::MaybeSent);
        }
        if made >= self.attempts {
            return RetryDecision::Stop(StopReason::Attempts);
        }
        match budget.try_acquire(in_flight) {
            Some(permit) => RetryDecision::Again {
                after: self.interval(made).mul_f64(rng.f64()),
                permit,
            },
            None => RetryDecision::Stop(StopReason::Budget),
        }
    }

    /// Upper end of the wait after `made` attempts.
    fn interval(&self, made: u32) -> Duration {
        let factor = 1_u32
            .checked_shl(made.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.base_interval
            .saturating_mul(factor.min(LARGEST_FACTOR))
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            per_million: AtomicU32::new(PER_MILLION),
            least: AtomicU32::new(ALWAYS_ALLOWED),
            used: AtomicU32::default(),
            total: AtomicU64::default(),
            refused: AtomicU64::default(),
        }
    }
}

impl RetryBudget {
    /// Changes the budget: a percentage (0 to 100) of the requests in flight, and so many always.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to a million"
    )]
    pub fn set_share(&self, percent: f64, least: u32) {
        let per_million = (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32;
        self.per_million.store(per_million, Relaxed);
        self.least.store(least, Relaxed);
    }

    /// One more retry, or None if the budget is used up.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, in_flight: u32) -> Option<RetryPermit> {
        let share = u64::from(in_flight) * u64::from(self.per_million.load(Relaxed)) / 1_000_000;
        let allowed = share.max(u64::from(self.least.load(Relaxed)));
        let more = |used: u32| (u64::from(used) < allowed).then_some(used + 1);
        if self.used.fetch_update(Relaxed, Relaxed, more).is_err() {
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        self.total.fetch_add(1, Relaxed);
        Some(RetryPermit(Arc::clone(self)))
    }

    /// Retries in flight.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Retries since start.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Refused since start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
