//! An endpoint that could not be connected to is left alone for a moment, as its requests would only have to be sent again:
//! with few endpoints more of them than retries are for.
//!
//! ```text
//!   reachable --(connection failed)--> left alone (100 ms, twice as long each time, 5 s at most) --> one request tries
//!       ^------------------------------------(an answer)-----------------------------------------------'
//! ```
//! Less than an ejection: nothing is counted or configured, health and localities stay as they are, and where nothing else
//! is left it is used all the same. Source: what gRPC does with subchannels in backoff.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::Moment;

/// The first pause.
const FIRST_MS: u64 = 100;
/// No pause is longer.
const LONGEST_MS: u64 = 5_000;
/// How long after the last pause it is looked at endpoints at all.
const TROUBLE_MS: u64 = 60_000;

/// What is known of connecting to one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// 0 = it can be connected to, as far as is known.
    failures: AtomicU32,
    /// Until then it is left alone.
    until: AtomicU64,
}

impl Reach {
    /// A connection failed. Gives the moment until which anything is to be looked at.
    pub(crate) fn failed(&self, now: Moment) -> Moment {
        let until = self.until.load(Relaxed);
        // Of several that were under way at once one counts.
        if until <= now.0 || self.failures.load(Relaxed) == 0 {
            let failures = self.failures.load(Relaxed);
            let next = now.0.saturating_add(pause_ms(failures));
            if self
                .until
                .compare_exchange(until, next, Relaxed, Relaxed)
                .is_ok()
            {
                self.failures.store(failures.saturating_add(1), Relaxed);
            }
        }
        Moment(now.0.saturating_add(LONGEST_MS + TROUBLE_MS))
    }

    /// It answered.
    pub(crate) fn answered(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.until.store(0, Relaxed);
        }
    }

    pub(crate) fn is_left_alone(&self, now: Moment) -> bool {
        self.until.load(Relaxed) > now.0
    }

    /// Whether a request may go there: once a pause is over, one at a time.
    pub(crate) fn may_try(&self, now: Moment) -> bool {
        let failures = self.failures.load(Relaxed);
        if failures == 0 {
            return true;
        }
        let until = self.until.load(Relaxed);
        let next = now.0.saturating_add(pause_ms(failures));
        until <= now.0
            && self
                .until
                .compare_exchange(until, next, Relaxed, Relaxed)
                .is_ok()
    }
}

fn pause_ms(failures: u32) -> u64 {
    FIRST_MS
        .checked_shl(failures)
        .map_or(LONGEST_MS, |ms| ms.min(LONGEST_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds_and_an_answer_ends_them() {
        let reach = Reach::default();
        let mut now = Moment(1_000);
        for pause in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            reach.failed(now);
            assert!(reach.is_left_alone(Moment(now.0 + pause - 1)), "{pause}");
            assert!(!reach.is_left_alone(Moment(now.0 + pause)), "{pause}");
            now = Moment(now.0 + pause);
        }
        reach.answered();
        assert!(reach.may_try(now) && !reach.is_left_alone(now));
    }

    #[test]
    fn connections_that_fail_at_once_are_one_failure() {
        let reach = Reach::default();
        for _ in 0..50 {
            reach.failed(Moment(1_000));
        }
        assert!(reach.is_left_alone(Moment(1_099)));
        assert!(!reach.is_left_alone(Moment(1_100)));
    }

    #[test]
    fn after_a_pause_one_request_tries() {
        let reach = Reach::default();
        reach.failed(Moment(1_000));
        assert!(!reach.may_try(Moment(1_099)));
        assert!(reach.may_try(Moment(1_100)));
        assert!(!reach.may_try(Moment(1_100)));
        // Which was given up: the next one.
        assert!(reach.may_try(Moment(1_300)));
    }
}
