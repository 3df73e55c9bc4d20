//! A bucket of tokens that all workers share: exact, one atomic, no timer.
//!
//! It is the time at which the bucket would have been empty: a token more is a token's time later, and what is never
//! taken does not reach further back than a full bucket. Tokens come evenly, as Envoy's do, and not `tokens_per_fill`
//! at once. Pure: the caller passes `now`. Source: Envoy `AtomicTokenBucketImpl`; GCRA.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::Moment;

/// See the module.
#[derive(Debug)]
pub struct TokenBucket {
    most: u32,
    /// Nanoseconds until the next token comes.
    each: u64,
    /// Nanoseconds until an empty one is full: what times are counted from, so that it is full at the caller's zero.
    span: u64,
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket of `most` tokens, into which `per_fill` come in each `interval`. None if one of them is zero, or
    /// if it takes longer than a century to be full.
    #[must_use]
    pub fn new(most: u32, per_fill: u32, interval: Duration) -> Option<Self> {
        const CENTURY: u64 = 100 * 366 * 24 * 3600 * NANOS;
        let interval = u64::try_from(interval.as_nanos()).ok()?;
        if most == 0 || interval == 0 {
            return None;
        }
        // Rounded down: at a million tokens a second, at most one in a thousand too many.
        let each = interval.checked_div(per_fill.into())?.max(1);
        let span = each
            .checked_mul(most.into())
            .filter(|span| *span <= CENTURY)?;
        Some(Self {
            most,
            each,
            span,
            empty_at: AtomicU64::new(0),
        })
    }

    /// Takes a token; false = there is none.
    pub fn take(&self, now: Moment) -> bool {
        let (full, now) = self.times(now);
        let taken = self.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| {
            let next = empty_at.max(full).saturating_add(self.each);
            (next <= now).then_some(next)
        });
        taken.is_ok()
    }

    /// Tokens that it holds when it is full.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Tokens in it.
    #[must_use]
    pub fn left(&self, now: Moment) -> u32 {
        let (full, now) = self.times(now);
        let filled = now.saturating_sub(self.empty_at.load(Relaxed).max(full));
        u32::try_from(filled / self.each)
            .unwrap_or(self.most)
            .min(self.most)
    }

    /// How long until there is a token; zero if there is one.
    #[must_use]
    pub fn next(&self, now: Moment) -> Duration {
        let (full, now) = self.times(now);
        let next = self
            .empty_at
            .load(Relaxed)
            .max(full)
            .saturating_add(self.each);
        Duration::from_nanos(next.saturating_sub(now))
    }

    /// Since when a full one would have been filled, and now.
    fn times(&self, now: Moment) -> (u64, u64) {
        let since_zero = now.0.saturating_mul(NANOS / 1000);
        (since_zero, since_zero.saturating_add(self.span))
    }
}

const NANOS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &TokenBucket, at_ms: u64, tries: u32) -> usize {
        (0..tries).filter(|_| bucket.take(Moment(at_ms))).count()
    }

    #[test]
    fn a_full_bucket_gives_what_it_holds_and_then_what_comes() {
        let bucket = TokenBucket::new(3, 2, Duration::from_secs(1)).unwrap();
        assert_eq!(
            (bucket.left(Moment(0)), bucket.next(Moment(0))),
            (3, Duration::ZERO)
        );
        assert_eq!(taken(&bucket, 0, 5), 3);
        assert_eq!(bucket.left(Moment(0)), 0);
        assert_eq!(bucket.next(Moment(100)), Duration::from_millis(400));
        assert_eq!(taken(&bucket, 499, 5), 0);
        assert_eq!(taken(&bucket, 500, 5), 1);
        assert_eq!(taken(&bucket, 1_500, 5), 2);
    }

    #[test]
    fn a_bucket_never_holds_more_than_it_can() {
        let bucket = TokenBucket::new(3, 1, Duration::from_millis(50)).unwrap();
        assert_eq!(taken(&bucket, 1_000_000, 9), 3);
        assert_eq!(taken(&bucket, 2_000_000, 9), 3);
        assert_eq!(bucket.left(Moment(9_000_000)), 3);
    }

    #[test]
    fn several_threads_take_no_more_than_there_are() {
        let bucket = TokenBucket::new(1000, 1, Duration::from_secs(3600)).unwrap();
        let taken: usize = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(|| taken(&bucket, 5, 600)));
            let taken = threads.into_iter().map(|thread| thread.join().unwrap());
            taken.sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn what_cannot_be_counted_is_no_bucket() {
        let second = Duration::from_secs(1);
        assert!(TokenBucket::new(0, 1, second).is_none());
        assert!(TokenBucket::new(1, 0, second).is_none());
        assert!(TokenBucket::new(1, 1, Duration::ZERO).is_none());
        assert!(TokenBucket::new(u32::MAX, 1, Duration::from_secs(3600)).is_none());
        assert!(TokenBucket::new(u32::MAX, u32::MAX, Duration::from_millis(50)).is_some());
    }
}
