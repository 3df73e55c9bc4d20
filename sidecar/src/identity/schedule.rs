//! When a certificate is renewed: at half of its life, by whichever clock gets there first.
//!
//! The machine's clock may be set, and the steady one stands still while a machine sleeps: either alone would be late.
//! Pure: the caller passes both. What a control plane or a peer thinks of the time is not known here.
//! Source: Istio's and ztunnel's renewal at half life; the spread keeps a fleet that started together apart.

use std::time::Duration;

/// Share of the life after which it is renewed: from here, over ...
const FROM: f64 = 0.45;
/// ... this much.
const SPREAD: f64 = 0.1;
/// Tries that fit into what is left of a life, at least.
const LEAST_TRIES: u32 = 10;
/// A try is not repeated sooner.
const SHORTEST: Duration = Duration::from_secs(1);

/// Of one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Since the Unix epoch.
    due_at: Duration,
    /// Since the schedule was made.
    due_after: Duration,
}

impl Schedule {
    /// For a certificate that ends at `not_after`; `chance` is from 0 to 1.
    pub(crate) fn new(now: Duration, not_after: Duration, chance: f64) -> Self {
        let left = not_after.saturating_sub(now);
        let due_after = left.mul_f64(FROM + SPREAD * chance.clamp(0.0, 1.0));
        Self {
            due_at: now + due_after,
            due_after,
        }
    }

    /// Whether it is time. `elapsed` is steady, since [`Self::new`].
    pub(crate) fn is_due(&self, now: Duration, elapsed: Duration) -> bool {
        now >= self.due_at || elapsed >= self.due_after
    }
}

/// How long to wait after a try that failed: `backoff`, but often enough for what is left. After the end as often as at
/// the end: a control plane that was away may still take the certificate.
pub(crate) fn retry_after(backoff: Duration, now: Duration, not_after: Duration) -> Duration {
    let left = not_after.saturating_sub(now);
    if left.is_zero() {
        return backoff.min(SHORTEST * LEAST_TRIES);
    }
    backoff.min((left / LEAST_TRIES).max(SHORTEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn renewal_is_due_at_half_of_the_lifetime_give_or_take_a_twentieth() {
        for (chance, due) in [(0.0, 1620), (0.5, 1800), (1.0, 1980)] {
            let schedule = Schedule::new(NOW, NOW + HOUR, chance);
            let due = Duration::from_secs(due);
            let second = Duration::from_secs(1);
            assert!(
                !schedule.is_due(NOW + due - second, due - second),
                "{chance}"
            );
            assert!(schedule.is_due(NOW + due, due), "{chance}");
        }
    }

    #[test]
    fn a_clock_that_jumps_forward_or_a_machine_that_slept_makes_it_due() {
        let schedule = Schedule::new(NOW, NOW + HOUR, 0.5);
        assert!(schedule.is_due(NOW + HOUR / 2, Duration::from_secs(1)));
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_put_it_off() {
        let schedule = Schedule::new(NOW, NOW + HOUR, 0.5);
        assert!(schedule.is_due(NOW - 10 * HOUR, HOUR / 2));
    }

    #[test]
    fn a_certificate_that_has_ended_is_due_at_once() {
        assert!(Schedule::new(NOW, NOW - HOUR, 0.0).is_due(NOW, Duration::ZERO));
    }

    #[test]
    fn tries_are_as_frequent_as_what_is_left_demands() {
        let minute = Duration::from_secs(60);
        for (left, pause) in [(1000, 60), (100, 10), (5, 1), (0, 10)] {
            let end = NOW + Duration::from_secs(left);
            let pause = Duration::from_secs(pause);
            assert_eq!(retry_after(minute, NOW, end), pause, "{left}");
        }
        let soon = Duration::from_millis(500);
        assert_eq!(retry_after(soon, NOW, NOW + HOUR), soon);
    }
}
