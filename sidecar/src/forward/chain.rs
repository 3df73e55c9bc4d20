//! What requests of one trace have to know of each other while they pass this process: until when the caller waits, and
//! that an outbound call has used up its retries, so that hops above do not multiply them.
//!
//! Bounded, by trace id. What is remembered is only ever written for requests that carry a deadline or have failed; all
//! others see one atomic that says "empty", and count themselves. Shards have a lock each, held for a lookup.
//!
//! To which of several inbound requests of a trace an outbound call belongs, nobody can tell from headers. So a deadline
//! holds only while all of them have one, and exhaustion is told to all of them.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU32, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

const SHARDS: usize = 16;
/// Traces in one shard.
const ROOM: usize = 1024;
/// For a trace whose inbound request never ends here, because there is none.
const EXHAUSTION_LASTS: Duration = Duration::from_secs(30);
/// Counters of requests by trace; two traces may share one, which makes it count too many and never too few.
const COUNTERS: usize = 4096;

/// The memory of the process.
#[derive(Debug)]
pub(crate) struct Chains {
    used: AtomicUsize,
    shards: [Mutex<BTreeMap<u128, Entry>>; SHARDS],
    /// Inbound requests that are here.
    inbound: Box<[AtomicU32]>,
    /// Of these, those whose callers wait for ever, or for nobody knows how long.
    unlimited: Box<[AtomicU32]>,
}

#[derive(Debug)]
struct Entry {
    /// The latest of those of the inbound requests.
    deadline: Option<Instant>,
    exhausted: bool,
    /// Inbound requests that wrote it and have not ended.
    holders: u32,
    /// The exhaustion is forgotten from here on.
    until: Instant,
}

/// An inbound request's place in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Its deadline is known.
    Limited,
    /// It has none, as far as anybody knows.
    Unlimited,
}

impl Default for Chains {
    fn default() -> Self {
        let counters = || (0..COUNTERS).map(|_| AtomicU32::new(0)).collect();
        Self {
            used: AtomicUsize::new(0),
            shards: <[Mutex<BTreeMap<u128, Entry>>; SHARDS]>::default(),
            inbound: counters(),
            unlimited: counters(),
        }
    }
}

impl Chains {
    /// Nothing is remembered: the usual case.
    pub(crate) fn is_empty(&self) -> bool {
        self.used.load(Relaxed) == 0
    }

    /// An inbound request whose caller waits until `deadline`; None = for ever. [`Self::end`] has to follow, with what
    /// this returns: of a deadline for which there is no room, the trace's outbound calls will not know.
    pub(crate) fn begin(&self, trace: u128, deadline: Option<Instant>, now: Instant) -> Held {
        one_more(&self.inbound, trace);
        one_more(&self.unlimited, trace);
        match deadline {
            Some(deadline) => self.limit(trace, Held::Unlimited, deadline, now),
            None => Held::Unlimited,
        }
    }

    /// The deadline of a request that had none until now.
    pub(crate) fn limit(&self, trace: u128, held: Held, deadline: Instant, now: Instant) -> Held {
        if held == Held::Limited {
            return held;
        }
        let room = self.write(trace, now, |entry| {
            entry.deadline = entry.deadline.max(Some(deadline));
            entry.holders += 1;
        });
        if !room {
            return Held::Unlimited;
        }
        one_less(&self.unlimited, trace);
        Held::Limited
    }

    /// An outbound call of this trace has failed and may not be tried again. False: no room.
    pub(crate) fn exhaust(&self, trace: u128, now: Instant) -> bool {
        self.write(trace, now, |entry| {
            entry.exhausted = true;
            entry.until = now + EXHAUSTION_LASTS;
        })
    }

    /// Until when the callers of this trace wait, if that is known of all of them: whose request an outbound call
    /// belongs to is not.
    pub(crate) fn deadline(&self, trace: u128) -> Option<Instant> {
        if count(&self.unlimited, trace) > 0 {
            return None;
        }
        self.shard(trace).get(&trace)?.deadline
    }

    /// An outbound call of this trace has used up its retries.
    pub(crate) fn is_exhausted(&self, trace: u128, now: Instant) -> bool {
        let shard = self.shard(trace);
        let exhausted = |entry: &Entry| entry.exhausted && now < entry.until;
        shard.get(&trace).is_some_and(exhausted)
    }

    /// An inbound request of this trace has ended.
    pub(crate) fn end(&self, trace: u128, held: Held) {
        let left = one_less(&self.inbound, trace);
        if held == Held::Unlimited {
            one_less(&self.unlimited, trace);
        }
        if self.is_empty() {
            return;
        }
        let mut shard = self.shard(trace);
        if let Some(entry) = shard.get_mut(&trace) {
            entry.holders -= u32::from(held == Held::Limited).min(entry.holders);
            if entry.holders == 0 {
                entry.deadline = None;
            }
            // What others of the trace may still have to know stays until its time.
            if entry.holders == 0 && (left == 0 || !entry.exhausted) {
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

fn counter(counters: &[AtomicU32], trace: u128) -> Option<&AtomicU32> {
    counters.get(usize::try_from(trace % COUNTERS as u128).unwrap_or_default())
}

fn count(counters: &[AtomicU32], trace: u128) -> u32 {
    counter(counters, trace).map_or(0, |counter| counter.load(SeqCst))
}

fn one_more(counters: &[AtomicU32], trace: u128) {
    if let Some(counter) = counter(counters, trace) {
        counter.fetch_add(1, SeqCst);
    }
}

/// How many are left.
fn one_less(counters: &[AtomicU32], trace: u128) -> u32 {
    counter(counters, trace).map_or(0, |counter| counter.fetch_sub(1, SeqCst).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(now: Instant, seconds: u64) -> Option<Instant> {
        Some(now + Duration::from_secs(seconds))
    }

    #[test]
    fn a_deadline_is_known_while_its_request_is_there() {
        let chains = Chains::default();
        let now = Instant::now();
        assert!(chains.is_empty());
        for seconds in [5, 3] {
            assert_eq!(chains.begin(7, at(now, seconds), now), Held::Limited);
        }
        assert_eq!(chains.deadline(7), at(now, 5), "nobody is cut off early");
        assert_eq!(chains.deadline(8), None);
        chains.end(7, Held::Limited);
        assert_eq!(chains.deadline(7), at(now, 5));
        chains.end(7, Held::Limited);
        assert!(chains.is_empty() && chains.deadline(7).is_none());
    }

    #[test]
    fn a_request_without_a_deadline_is_not_cut_off_by_its_siblings() {
        let now = Instant::now();
        for limited_first in [true, false] {
            let chains = Chains::default();
            let limited = || chains.begin(7, at(now, 1), now);
            if limited_first {
                limited();
            }
            assert_eq!(chains.begin(7, None, now), Held::Unlimited);
            if !limited_first {
                limited();
            }
            assert_eq!(chains.deadline(7), None);
            chains.end(7, Held::Unlimited);
            assert_eq!(chains.deadline(7), at(now, 1));
            chains.end(7, Held::Limited);
            assert!(chains.is_empty());
        }
    }

    #[test]
    fn a_deadline_may_become_known_later() {
        let chains = Chains::default();
        let now = Instant::now();
        let held = chains.begin(7, None, now);
        let held = chains.limit(7, held, now + Duration::from_secs(2), now);
        assert_eq!(chains.deadline(7), at(now, 2));
        chains.end(7, held);
        assert!(chains.is_empty());
        assert_eq!(count(&chains.unlimited, 7), 0);
    }

    #[test]
    fn exhaustion_ends_with_the_last_request_that_it_may_belong_to() {
        let chains = Chains::default();
        let now = Instant::now();
        let one = chains.begin(7, None, now);
        let other = chains.begin(7, at(now, 1), now);
        assert!(chains.exhaust(7, now));
        assert!(chains.is_exhausted(7, now) && !chains.is_exhausted(8, now));
        chains.end(7, other);
        assert!(chains.is_exhausted(7, now), "the other one has to know");
        chains.end(7, one);
        assert!(chains.is_empty());
    }

    #[test]
    fn exhaustion_that_nobody_ends_ends_by_itself() {
        let chains = Chains::default();
        let now = Instant::now();
        assert!(chains.exhaust(7, now));
        assert!(chains.is_exhausted(7, now));
        assert!(!chains.is_exhausted(7, now + EXHAUSTION_LASTS));
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
