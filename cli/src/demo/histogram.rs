//! Latencies in buckets that are at most 3 % wide, so that a demo of any length needs the same few kilobytes.

use std::time::Duration;

/// Buckets for each doubling.
const STEPS: u64 = 32;
/// Up to 2^36 microseconds: 19 hours.
const BUCKETS: usize = 32 * 32;

#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let index = index(micros).min(BUCKETS - 1);
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket += 1;
            self.count += 1;
        }
    }

    pub(super) fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
    }

    /// The latency that `percent` of the requests did not exceed, in milliseconds.
    pub(super) fn percentile_ms(&self, percent: u64) -> f64 {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, count) in (0_u64..).zip(&self.buckets) {
            seen += count;
            if seen >= rank {
                return milliseconds(largest(index));
            }
        }
        0.0
    }
}

/// Exact below 32 microseconds, then 32 buckets for each doubling.
fn index(micros: u64) -> usize {
    let doublings = micros.checked_ilog2().unwrap_or(0).saturating_sub(5);
    let within = micros >> doublings;
    usize::try_from(u64::from(doublings) * STEPS + within).unwrap_or(usize::MAX)
}

/// The largest value, in microseconds, that falls into a bucket.
const fn largest(index: u64) -> u64 {
    let doublings = (index / STEPS).saturating_sub(1);
    let within = index - doublings * STEPS;
    ((within + 1) << doublings) - 1
}

#[expect(
    clippy::cast_precision_loss,
    reason = "hours of microseconds are exact"
)]
fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_it_says_and_is_at_most_3_percent_wide() {
        for micros in (0..100_000).chain([1 << 20, (1 << 30) + 12_345, (1 << 35) - 1]) {
            let largest = largest(index(micros) as u64);
            assert!(
                largest >= micros,
                "{micros} is in the bucket up to {largest}"
            );
            assert!(
                (largest - micros) * 32 <= micros,
                "{micros} is in the bucket up to {largest}"
            );
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sample() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile_ms(50), 0.0);
        for micros in 1..=1_000 {
            histogram.add(Duration::from_micros(micros));
        }
        assert!(
            (0.50..0.52).contains(&histogram.percentile_ms(50)),
            "{}",
            histogram.percentile_ms(50)
        );
        assert!(
            (0.99..1.03).contains(&histogram.percentile_ms(99)),
            "{}",
            histogram.percentile_ms(99)
        );
    }
}
