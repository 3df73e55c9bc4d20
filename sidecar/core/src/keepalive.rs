//! For how long a server keeps idle connections, as far as we have seen.
//!
//! A request that leaves while the server closes its connection is lost, and one that must not be sent twice is lost for
//! good. So an idle connection is used for no longer than servers are known to keep it:
//! ```text
//!   nothing known ── 4 s, or what one has survived ──► used
//!        ^  one closed after t ──► 80 % of the least t, or t - 1 s if that is more ──► used
//!        +── one survives t by a quarter and a second: the close was a restart, not a timeout
//! ```
//! What survives is seen without risk: a pool leaves one connection open that it does not use any more. Pure, and shared
//! by all workers; a worker that reads an old value is as right as a moment ago.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is known of one endpoint.
#[derive(Debug, Default)]
pub struct KeepAlive {
    /// Least idle time after which the server closed one; 0 = none yet.
    closed_ms: AtomicU64,
    /// Longest idle time that one has survived.
    survived_ms: AtomicU64,
}

/// The least of common defaults is 5 s (Node, Apache, uvicorn).
const UNPROVEN_MS: u64 = 4000;
/// What closes earlier restarts or fails: nobody's idle timeout is that short, and a pool that believed it would open a
/// connection for every request when a server comes back.
const LEAST_MS: u64 = 1000;

impl KeepAlive {
    /// Idle for less, a connection may be used.
    #[must_use]
    pub fn usable_ms(&self) -> u64 {
        match self.closed_ms.load(Relaxed) {
            0 => with_margin(self.survived_ms.load(Relaxed)).max(UNPROVEN_MS),
            closed => with_margin(closed),
        }
    }

    /// The server closed a connection that had been idle so long, or that was used after it.
    pub fn closed_after(&self, idle_ms: u64) {
        if idle_ms < LEAST_MS {
            return;
        }
        let least = |known: u64| (known == 0 || idle_ms < known).then_some(idle_ms);
        self.closed_ms.fetch_update(Relaxed, Relaxed, least).ok();
        self.survived_ms.fetch_min(idle_ms, Relaxed);
    }

    /// The server said that it keeps idle connections so long. Its word is as good as a connection that has lived so
    /// long, but not as good as one that was closed before.
    pub fn promised(&self, ms: u64) {
        if self.closed_ms.load(Relaxed) == 0 && self.survived_ms.load(Relaxed) < ms {
            self.survived_ms.fetch_max(ms, Relaxed);
        }
    }

    /// A connection that has been idle so long is open.
    pub fn survived(&self, idle_ms: u64) {
        let closed = self.closed_ms.load(Relaxed);
        let clear = closed.saturating_add(closed / 4).saturating_add(1000);
        if closed != 0 && idle_ms < clear {
            return;
        }
        if closed != 0 {
            // If another has seen a close meanwhile, that stays.
            self.closed_ms
                .compare_exchange(closed, 0, Relaxed, Relaxed)
                .ok();
        }
        self.survived_ms.fetch_max(idle_ms, Relaxed);
    }
}

/// Before a server closes after `ms`, with time for a request to arrive.
fn with_margin(ms: u64) -> u64 {
    (ms / 5 * 4).max(ms.saturating_sub(1000))
}

#[cfg(test)]
mod tests {
    use super::KeepAlive;

    #[test]
    fn a_connection_is_retired_before_its_server_closes_it() {
        for (closed, usable) in [(1000, 800), (2000, 1600), (5000, 4000), (75_000, 74_000)] {
            let known = KeepAlive::default();
            known.closed_after(closed);
            assert_eq!(known.usable_ms(), usable);
        }
    }

    #[test]
    fn the_least_close_counts_and_nothing_is_trusted_beyond_common_defaults() {
        let known = KeepAlive::default();
        assert_eq!(known.usable_ms(), 4000);
        known.closed_after(60_000);
        known.closed_after(20_000);
        known.closed_after(30_000);
        assert_eq!(known.usable_ms(), 19_000);
    }

    #[test]
    fn what_one_connection_survived_another_may_be_used_for() {
        let known = KeepAlive::default();
        known.survived(3000);
        assert_eq!(known.usable_ms(), 4000);
        known.survived(30_000);
        assert_eq!(known.usable_ms(), 29_000);
        known.closed_after(60_000);
        assert_eq!(known.usable_ms(), 59_000);
    }

    #[test]
    fn a_promise_is_believed_until_it_is_broken() {
        let known = KeepAlive::default();
        known.promised(60_000);
        assert_eq!(known.usable_ms(), 59_000);
        known.closed_after(5000);
        known.promised(60_000);
        assert_eq!(known.usable_ms(), 4000);
    }

    #[test]
    fn a_restart_is_forgotten_as_soon_as_a_connection_outlives_it() {
        let known = KeepAlive::default();
        known.survived(100_000);
        known.closed_after(20);
        assert_eq!(known.usable_ms(), 99_000, "too early for an idle timeout");
        known.closed_after(2000);
        assert_eq!(known.usable_ms(), 1600);
        known.survived(2100);
        known.survived(3400);
        assert_eq!(known.usable_ms(), 1600, "might be chance");
        known.survived(3500);
        assert_eq!(known.usable_ms(), 4000);
        known.survived(20_000);
        assert_eq!(known.usable_ms(), 19_000);
    }
}
