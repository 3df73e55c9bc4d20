//! What requests of one trace have to know of each other while they pass this process: until when the caller waits, and
//! that an outbound call has used up its retries, so that hops above do not multiply them.
//!
//! Bounded, by trace id, and only ever written for requests that carry a deadline or have failed; all others see one
//! atomic that says "empty". Shards have a lock each, held for a lookup.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const SHARDS: usize = 16;
/// Traces in one shard.
const ROOM: usize = 1024;
/// For a trace whose inbound request never ends here, because there is none.
const EXHAUSTION_LASTS: Duration = Duration::from_secs(30);

/// The memory of the process.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    used: AtomicUsize,
    shards: [Mutex<BTreeMap<u128, Entry>>; SHARDS],
}

#[derive(Debug)]
struct Entry {
    /// The latest of those of the inbound requests.
    deadline: Option<Instant>,
    exhausted: bool,
    /// Inbound requests that wrote it and have not ended.
    holders: u32,
    /// Forgotten from here on, if there is no holder.
    until: Instant,
}

impl Chains {
    /// Nothing is remembered: the usual case.
    pub(crate) fn is_empty(&self) -> bool {
        self.used.load(Relaxed) == 0
    }

    /// An inbound request whose caller waits until `deadline`. False: there is no room, and its outbound calls will not
    /// know. Otherwise [`Self::end`] has to follow.
    pub(crate) fn begin(&self, trace: u128, deadline: Instant, now: Instant) -> bool {
        self.write(trace, now, |entry| {
            entry.deadline = entry.deadline.max(Some(deadline));
            entry.holders += 1;
        })
    }

    /// An outbound call of this trace has failed and may not be tried again. False: no room.
    pub(crate) fn exhaust(&self, trace: u128, now: Instant) -> bool {
        self.write(trace, now, |entry| {
            entry.exhausted = true;
            entry.until = now + EXHAUSTION_LASTS;
        })
    }

    /// Until when the caller of this trace waits.
    pub(crate) fn deadline(&self, trace: u128) -> Option<Instant> {
        self.shard(trace).get(&trace)?.deadline
    }

    /// An outbound call of this trace has used up its retries.
    pub(crate) fn is_exhausted(&self, trace: u128) -> bool {
        let shard = self.shard(trace);
        shard.get(&trace).is_some_and(|entry| entry.exhausted)
    }

    /// An inbound request of this trace has ended; `held`: it began with [`Self::begin`].
    pub(crate) fn end(&self, trace: u128, held: bool) {
        let mut shard = self.shard(trace);
        if let Some(entry) = shard.get_mut(&trace) {
            entry.holders -= u32::from(held).min(entry.holders);
            if entry.holders == 0 {
                shard.remove(&trace);
                self.used.fetch_sub(1, Relaxed);
            }
        }
    }

    fn write(&self, trace: u128, now: Instant, change: impl FnOnce(&mut Entry)) -> bool {
        let mut shard = self.shard(trace);
        if let Some(entry) = shard.get_mut(&trace) {
            change(entry);
            return true;
        }
        if shard.len() >= ROOM {
            let before = shard.len();
            shard.retain(|_, entry| entry.holders > 0 || entry.until > now);
            self.used.fetch_sub(before - shard.len(), Relaxed);
        }
        if shard.len() >= ROOM {
            return false;
        }
        let mut entry = Entry {
            deadline: None,
            exhausted: false,
            holders: 0,
            until: now,
        };
        change(&mut entry);
        shard.insert(trace, entry);
        self.used.fetch_add(1, Relaxed);
        true
    }

    fn shard(&self, trace: u128) -> MutexGuard<'_, BTreeMap<u128, Entry>> {
        // Trace ids are random in their lower half (W3C).
        let at = usize::try_from(trace % SHARDS as u128).unwrap_or_default();
        let [first, ..] = &self.shards;
        let shard = self.shards.get(at).unwrap_or(first);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_known_while_its_request_is_there() {
        let chains = Chains::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(chains.is_empty());
        assert!(chains.begin(7, at(5), now) && chains.begin(7, at(3), now));
        assert_eq!(chains.deadline(7), Some(at(5)), "nobody is cut off early");
        assert_eq!(chains.deadline(8), None);
        chains.end(7, true);
        assert_eq!(chains.deadline(7), Some(at(5)));
        chains.end(7, true);
        assert!(chains.is_empty() && chains.deadline(7).is_none());
    }

    #[test]
    fn exhaustion_ends_with_the_request_that_it_belongs_to() {
        let chains = Chains::default();
        assert!(chains.exhaust(7, Instant::now()));
        assert!(chains.is_exhausted(7) && !chains.is_exhausted(8));
        chains.end(7, false);
        assert!(chains.is_empty());
    }

    #[test]
    fn a_full_memory_forgets_what_is_old_and_refuses_the_rest() {
        let chains = Chains::default();
        let now = Instant::now();
        let of_one_shard = |n: usize| (n * SHARDS) as u128;
        assert!((0..ROOM).all(|n| chains.exhaust(of_one_shard(n), now)));
        assert!(!chains.exhaust(of_one_shard(ROOM), now));
        assert!(chains.exhaust(1, now), "another shard");
        let later = now + EXHAUSTION_LASTS;
        assert!(chains.exhaust(of_one_shard(ROOM), later));
        assert_eq!(chains.used.load(Relaxed), 2);
    }
}
