//! Response times of an endpoint: a decaying average that a slow answer raises at once.
//!
//! Shared by all workers: value and time are one atomic word. Without answers it decays as well, so that an endpoint that
//! was slow once is asked again. Source: Finagle's `PeakEwma`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Moment;

/// Peak EWMA; zero = never measured.
#[derive(Debug, Default)]
pub(crate) struct Ewma {
    /// Microseconds as `f32` bits, and the low half of the moment in milliseconds.
    word: AtomicU64,
}

/// A failed answer counts as one that took this part of the decay time, if it was faster: what refuses quickly must
/// not look quick.
const FAILED: f32 = 0.1;

/// By how much readings of the clock may be out of order. What is older by nearly 2^32 ms is taken for it once in 50 days.
const OLDER_MS: u32 = 60_000;

impl Ewma {
    pub(crate) fn is_measured(&self) -> bool {
        self.word.load(Relaxed) != 0
    }

    pub(crate) fn observe(&self, micros: f32, decay_ms: f32, now: Moment) {
        let sample = micros.max(1.0);
        let next = |word: u64| {
            let (value, left) = aged(word, decay_ms, now);
            let risen = word == 0 || sample >= value;
            let value = if risen {
                sample
            } else {
                value * left + sample * (1.0 - left)
            };
            Some(pack(value, now))
        };
        self.word.fetch_update(Relaxed, Relaxed, next).ok();
    }

    pub(crate) fn observe_failure(&self, decay_ms: f32, now: Moment) {
        self.observe(decay_ms * 1000.0 * FAILED, decay_ms, now);
    }

    /// Microseconds that an answer is expected to take; None = never measured.
    pub(crate) fn expected(&self, decay_ms: f32, now: Moment) -> Option<f32> {
        let word = self.word.load(Relaxed);
        if word == 0 {
            return None;
        }
        let (value, left) = aged(word, decay_ms, now);
        Some(value * left)
    }
}

/// The value as it was, and how much of it is left.
fn aged(word: u64, decay_ms: f32, now: Moment) -> (f32, f32) {
    let value = f32::from_bits(high(word));
    let passed = low(now.0).wrapping_sub(low(word));
    // Another worker's clock reading may be a little older than what is stored.
    let passed = if passed > u32::MAX - OLDER_MS {
        0
    } else {
        passed
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "an average needs no last millisecond"
    )]
    let passed = passed as f32;
    (value, (-passed / decay_ms.max(1.0)).exp())
}

fn pack(value: f32, now: Moment) -> u64 {
    u64::from(value.to_bits()) << 32 | u64::from(low(now.0))
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low(word: u64) -> u32 {
    word as u32
}

fn high(word: u64) -> u32 {
    low(word >> 32)
}
