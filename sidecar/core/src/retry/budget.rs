//! How many retries a cluster may have, exact over all workers: a share of what is in flight, and, of what a server may
//! have seen, a share of the last ten seconds. The first keeps a burst of failures from doubling the load, the second
//! keeps it from growing where failures are fast and few are in flight at once.
//!
//! Source: Envoy `RetryBudget` for the first.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use crate::Moment;

/// Retries of a cluster, in flight and lately.
#[derive(Debug)]
pub struct RetryBudget {
    /// Of a million requests in flight.
    per_million: AtomicU32,
    least: AtomicU32,
    /// Somebody wrote the share: then it is what it says it is, and there is no window.
    written: AtomicBool,
    used: AtomicU32,
    total: AtomicU64,
    refused: AtomicU64,
    requests: Window,
    repeats: Window,
    hedges: Window,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            per_million: AtomicU32::new(PER_MILLION),
            least: AtomicU32::new(ALWAYS_ALLOWED),
            written: AtomicBool::new(false),
            used: AtomicU32::new(0),
            total: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            requests: Window::default(),
            repeats: Window::default(),
            hedges: Window::default(),
        }
    }
}

/// One retry in flight; ends on drop.
#[derive(Debug)]
#[must_use = "a dropped permit is given back at once"]
pub struct RetryPermit(Arc<RetryBudget>);

impl RetryBudget {
    /// Whether a document asks for the budget: of what a server may have seen, such a budget limits what is in flight
    /// and nothing else.
    pub fn set_written(&self, written: bool) {
        self.written.store(written, Relaxed);
    }

    /// Changes the budget: a percentage (0 to 100), and so many always. Default 20 % and 3 (Envoy).
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

    fn share_of(&self, total: u64) -> u64 {
        total.saturating_mul(self.per_million.load(Relaxed).into()) / 1_000_000
    }

    /// A request that may be repeated has begun. To be called for those only: it is what [`Self::try_repeat`] takes a
    /// share of.
    pub fn count_request(&self, now: Moment) {
        self.requests.add(now);
    }

    /// One more retry, or None if too many are in flight.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, in_flight: u32) -> Option<RetryPermit> {
        let least = u64::from(self.least.load(Relaxed));
        let allowed = self.share_of(in_flight.into()).max(least);
        let more = |used: u32| (u64::from(used) < allowed).then_some(used + 1);
        if self.used.fetch_update(Relaxed, Relaxed, more).is_err() {
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        Some(RetryPermit(Arc::clone(self)))
    }

    /// Whether one more request that a server may have seen may be repeated: the share of those of the last ten seconds,
    /// but as many as may always be in flight. Always, if a document asks for the budget.
    #[must_use]
    pub fn try_repeat(&self, now: Moment) -> bool {
        if self.written.load(Relaxed) {
            return true;
        }
        let least = u64::from(self.least.load(Relaxed));
        let allowed = self.share_of(self.requests.sum(now)).max(least);
        let ok = self.repeats.try_add(now, allowed);
        if !ok {
            self.refused.fetch_add(1, Relaxed);
        }
        ok
    }

    /// Whether one more request may be sent to two endpoints at once: `percent` of those of the last ten seconds, and one.
    #[must_use]
    pub fn try_hedge(&self, percent: u32, now: Moment) -> bool {
        let allowed = self.requests.sum(now) * u64::from(percent) / 100 + 1;
        self.hedges.try_add(now, allowed)
    }

    /// A retry is sent.
    pub(super) fn count(&self) {
        self.total.fetch_add(1, Relaxed);
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

const PER_MILLION: u32 = 200_000;
const ALWAYS_ALLOWED: u32 = 3;
const SECONDS: usize = 10;

/// Counts by second, of the last ten: the second in the upper half, its count in the lower.
#[derive(Debug, Default)]
struct Window([AtomicU64; SECONDS]);

impl Window {
    fn add(&self, now: Moment) {
        let second = second(now);
        let Some(slot) = self.slot(second) else {
            return;
        };
        let one_more = |packed: u64| {
            let (of, count) = unpack(packed);
            // A worker with an older clock must not empty the slot of a newer second.
            match of.cmp(&second) {
                std::cmp::Ordering::Less => Some(pack(second, 1)),
                std::cmp::Ordering::Equal if count < u32::MAX => Some(packed + 1),
                _ => None,
            }
        };
        slot.fetch_update(Relaxed, Relaxed, one_more).ok();
    }

    /// One more, unless there were `allowed` already.
    fn try_add(&self, now: Moment, allowed: u64) -> bool {
        // Counted first, so that two at once cannot both take the last one.
        self.add(now);
        let ok = self.sum(now) <= allowed;
        if !ok {
            self.take_back(now);
        }
        ok
    }

    fn take_back(&self, now: Moment) {
        let second = second(now);
        let one_less = |packed: u64| {
            let (of, count) = unpack(packed);
            (of == second && count > 0).then(|| packed - 1)
        };
        if let Some(slot) = self.slot(second) {
            slot.fetch_update(Relaxed, Relaxed, one_less).ok();
        }
    }

    fn sum(&self, now: Moment) -> u64 {
        let now = second(now);
        let lately = |slot: &AtomicU64| {
            let (of, count) = unpack(slot.load(Relaxed));
            let age = now.saturating_sub(of) as usize;
            (age < SECONDS).then_some(u64::from(count))
        };
        self.0.iter().filter_map(lately).sum()
    }

    fn slot(&self, second: u32) -> Option<&AtomicU64> {
        self.0.get(second as usize % SECONDS)
    }
}

/// From 1 on: 0 is a slot that was never used.
fn second(now: Moment) -> u32 {
    u32::try_from(now.0 / 1000 + 1).unwrap_or(u32::MAX)
}

fn pack(second: u32, count: u32) -> u64 {
    u64::from(second) << 32 | u64::from(count)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of a 64-bit word"
)]
fn unpack(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}
