//! Stops calling what keeps failing, and asks once in a while whether it is back.
//! ```text
//!   closed --(n failures in a row)--> open --(reset_timeout)--> half-open: one request is the probe
//!     ^                                ^                            |  |
//!     |                                +---------- it fails --------+  |
//!     +--------------------------- it succeeds -------------------------+
//! ```
//! One for each endpoint, one for all endpoints of a cluster together, or both. Unlike outlier ejection it has no
//! percentage and overrules nothing: what is open is refused, even if nothing else is left. Unlike a limit it looks at
//! answers, not at what is in flight.
//!
//! Pure, and exact over all workers: the whole state is one atomic word, so two requests cannot both be the probe, and a
//! failure that is reported while the breaker is open counts for nothing (its request began before).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::Moment;

/// When it opens, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// 5xx answers and local errors in a row that open it: 1 or more, default 5.
    pub consecutive_failures: u32,
    /// How long it stays open before a probe. Default 30 s, never zero. A probe that does not report for as long leaves
    /// its place to the next.
    pub reset_timeout: Duration,
    /// One for each endpoint.
    pub for_endpoints: bool,
    /// One for all endpoints of the cluster together.
    pub for_service: bool,
    /// The line of YAML behind it.
    pub position: Option<Arc<str>>,
}

/// Where a breaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything passes.
    Closed {
        /// In a row, until now.
        failures: u32,
    },
    /// Nothing passes; from `until` on, the next request is the probe.
    Open {
        /// End of the reset timeout.
        until: Moment,
    },
    /// The probe is on its way.
    HalfOpen {
        /// If it does not report by then, another may try.
        until: Moment,
    },
}

/// A circuit breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Two bits of state, and failures or milliseconds. Zero is closed.
    word: AtomicU64,
}

/// A request that decides whether a breaker closes: the word that it set, which no later probe has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial(u64);

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Opened,
    Closed,
}

/// The breaker of a cluster's service, and what became of all its breakers; kept over snapshots.
#[derive(Debug, Default)]
pub struct Breakers {
    /// For all endpoints together.
    pub service: Breaker,
    /// Of the service.
    pub service_counts: BreakerCounts,
    /// Of all endpoints.
    pub endpoint_counts: BreakerCounts,
}

/// Since start.
#[derive(Debug, Default)]
pub struct BreakerCounts {
    /// Times that a breaker opened, failed probes included.
    pub opened: AtomicU64,
    /// Requests that were answered `breaker_open`.
    pub refused: AtomicU64,
}

const OPEN: u64 = 1 << 62;
const HALF_OPEN: u64 = 2 << 62;
const VALUE: u64 = OPEN - 1;

impl BreakerConfig {
    pub(crate) fn reset_ms(&self) -> u64 {
        u64::try_from(self.reset_timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// After this one more failure in a row.
    fn opens_at(&self, failures: u64) -> bool {
        failures >= u64::from(self.consecutive_failures.max(1))
    }
}

impl Breaker {
    /// Where it is. Open since long, it stays [`BreakerState::Open`] until a request comes.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        let word = self.word.load(Relaxed);
        let value = word & VALUE;
        match word & !VALUE {
            0 => BreakerState::Closed {
                failures: u32::try_from(value).unwrap_or(u32::MAX),
            },
            OPEN => BreakerState::Open {
                until: Moment(value),
            },
            _ => BreakerState::HalfOpen {
                until: Moment(value),
            },
        }
    }

    /// Until when a request would be refused; None = it may pass.
    #[must_use]
    pub fn refuses_until(&self, now: Moment) -> Option<Moment> {
        let word = self.word.load(Relaxed);
        (word > VALUE && now.0 < word & VALUE).then_some(Moment(word & VALUE))
    }

    /// Leave for one request, which is the probe if it holds a [`Trial`].
    pub(crate) fn pass(
        &self,
        config: &BreakerConfig,
        now: Moment,
    ) -> Result<Option<Trial>, Moment> {
        let mut word = self.word.load(Relaxed);
        loop {
            if word <= VALUE {
                return Ok(None);
            }
            if now.0 < word & VALUE {
                return Err(Moment(word & VALUE));
            }
            let trial = HALF_OPEN | later(now, config);
            let taken = self.word.compare_exchange(word, trial, Relaxed, Relaxed);
            match taken {
                Ok(_) => return Ok(Some(Trial(trial))),
                // Another is the probe, or has even closed it.
                Err(found) => word = found,
            }
        }
    }

    /// How a request that was let through ended.
    pub(crate) fn report(
        &self,
        config: &BreakerConfig,
        trial: Option<Trial>,
        failed: bool,
        now: Moment,
    ) -> Change {
        let open = OPEN | later(now, config);
        if let Some(Trial(word)) = trial {
            let next = if failed { open } else { 0 };
            let decided = self.word.compare_exchange(word, next, Relaxed, Relaxed);
            return match (decided, failed) {
                (Ok(_), true) => Change::Opened,
                (Ok(_), false) => Change::Closed,
                // It took too long, and another was sent.
                (Err(_), _) => Change::None,
            };
        }
        let next = |word: u64| match (word, failed) {
            // Open, or nothing to forget.
            (OPEN.., _) | (0, false) => None,
            (_, false) => Some(0),
            (failures, true) if config.opens_at(failures + 1) => Some(open),
            (failures, true) => Some(failures + 1),
        };
        match self.word.fetch_update(Relaxed, Relaxed, next) {
            Ok(failures) if failed && config.opens_at(failures + 1) => Change::Opened,
            Ok(_) | Err(_) => Change::None,
        }
    }

    /// The probe was not sent after all: the next request is one.
    pub(crate) fn unused(&self, trial: Trial, now: Moment) {
        let due = OPEN | (now.0 & VALUE);
        // If it is the probe no longer, there is nothing to give back.
        self.word
            .compare_exchange(trial.0, due, Relaxed, Relaxed)
            .ok();
    }
}

fn later(now: Moment, config: &BreakerConfig) -> u64 {
    now.0.saturating_add(config.reset_ms()).min(VALUE)
}

#[cfg(test)]
mod tests;
