//! How long to wait before the next try: exponential, with full jitter, so that a fleet does not come back at once.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            next: base,
        }
    }

    /// Between half of the current step and all of it; steps double up to the cap.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.cap);
        step.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_double_up_to_the_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        for step in [100, 200, 400, 400] {
            let wait = backoff.next();
            assert!(wait >= Duration::from_millis(step / 2) && wait <= Duration::from_millis(step));
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }
}
