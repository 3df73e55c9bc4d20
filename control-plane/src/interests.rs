//! Which xDS streams a change concerns, so that the others need not look.
//!
//! ```text
//! stream: what it names ──► enters its hosts ──► takes the newest translation ──► waits for its bell
//! push:   translates ──► publishes ──► hosts that changed ──► rings for who entered one of them
//! ```
//! In this order on both sides: a stream that enters a host too late to be rung for takes a translation that has the
//! change already. Who is rung for nothing looks, and finds nothing; nobody is left out. As large as what streams may
//! name, which they limit.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use outrigger_policy::HostName;
use tokio::sync::Notify;

use crate::translate::Changes;

/// What one stream waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Hosts whose clusters or endpoints it names.
    pub(crate) named: BTreeSet<Arc<str>>,
    /// All hosts that it may see, if it asked for everything.
    pub(crate) all_of: Option<Arc<BTreeSet<HostName>>>,
}

/// All streams that wait.
#[derive(Debug, Default)]
pub(crate) struct Interests {
    state: Mutex<State>,
    /// A stream has come further, or has gone.
    progress: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    streams: BTreeMap<u64, Waiting>,
    by_host: HashMap<Arc<str>, BTreeSet<u64>>,
    /// Streams that asked for everything.
    wide: BTreeSet<u64>,
    /// The last translation that was rung for.
    rung: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    bell: Arc<Notify>,
    interest: Interest,
    /// The last translation that it was rung for.
    rung: Option<Instant>,
    /// The last one whose endpoints its client has answered, all of them.
    answered: Option<Instant>,
}

/// One stream's entry, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    all: Arc<Interests>,
    id: u64,
    bell: Arc<Notify>,
}

impl Interests {
    /// Enters a stream that waits for nothing but what concerns everybody.
    pub(crate) fn enter(self: &Arc<Self>) -> Entry {
        let mut state = self.lock();
        state.next += 1;
        let (id, bell) = (state.next, Arc::<Notify>::default());
        let waiting = Waiting {
            bell: Arc::clone(&bell),
            interest: Interest::default(),
            rung: None,
            answered: None,
        };
        state.streams.insert(id, waiting);
        Entry {
            all: Arc::clone(self),
            id,
            bell,
        }
    }

    /// Rings for those whom `changes` of the translation of this moment may concern; gives how many these are.
    pub(crate) fn ring(&self, changes: &Changes, translation: Instant) -> usize {
        let concerned = self.lock().ring(changes, translation);
        self.progress.notify_waiters();
        concerned
    }

    /// Waits until every client that has the endpoints of `host` has answered those of the translation of this moment. Who
    /// asks for the host later is sent them anyway; who goes is not waited for.
    pub(crate) async fn have(&self, host: &HostName, translation: Instant) {
        let mut behind = None;
        loop {
            // Before looking, so that nothing is missed.
            let progress = self.progress.notified();
            {
                let state = self.lock();
                // Not everybody has been rung for before that.
                if behind.is_none() && state.rung >= Some(translation) {
                    behind = Some(state.behind(host));
                }
                if let Some(behind) = &mut behind {
                    behind.retain(|(id, rung)| {
                        let waiting = state.streams.get(id);
                        waiting.is_some_and(|waiting| waiting.answered < Some(*rung))
                    });
                    if behind.is_empty() {
                        return;
                    }
                }
            }
            progress.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn ring(&mut self, translation: Instant) {
        self.rung = Some(translation);
        self.bell.notify_one();
    }

    fn sees(&self, hosts: &[HostName]) -> bool {
        let all = self.interest.all_of.as_ref();
        all.is_some_and(|all| hosts.iter().any(|host| all.contains(host)))
    }
}

impl State {
    fn ring(&mut self, changes: &Changes, translation: Instant) -> usize {
        self.rung = Some(translation);
        let Changes::Hosts(hosts) = changes else {
            let all = self.streams.values_mut();
            all.for_each(|waiting| waiting.ring(translation));
            return self.streams.len();
        };
        let named = hosts
            .iter()
            .filter_map(|host| self.by_host.get(host.as_str()));
        let mut concerned: BTreeSet<u64> = named.flatten().copied().collect();
        concerned.extend(self.wide.iter().filter(|id| {
            let waiting = self.streams.get(id);
            waiting.is_some_and(|waiting| waiting.sees(hosts))
        }));
        for id in &concerned {
            if let Some(waiting) = self.streams.get_mut(id) {
                waiting.ring(translation);
            }
        }
        concerned.len()
    }

    /// Those that have the endpoints of `host`, and what they were last rung for and have not answered.
    fn behind(&self, host: &HostName) -> Vec<(u64, Instant)> {
        let named = self.by_host.get(host.as_str()).into_iter().flatten();
        let hosts = std::slice::from_ref(host);
        let sees = |id: &&u64| {
            let waiting = self.streams.get(id);
            waiting.is_some_and(|waiting| waiting.sees(hosts))
        };
        let all: BTreeSet<u64> = named
            .copied()
            .chain(self.wide.iter().filter(sees).copied())
            .collect();
        let behind = all.into_iter().filter_map(|id| {
            let waiting = self.streams.get(&id)?;
            let rung = waiting.rung?;
            (waiting.answered < Some(rung)).then_some((id, rung))
        });
        behind.collect()
    }

    fn replace(&mut self, id: u64, interest: Interest) {
        let Some(waiting) = self.streams.get_mut(&id) else {
            return;
        };
        if interest.all_of.is_some() {
            self.wide.insert(id);
        } else {
            self.wide.remove(&id);
        }
        let before = std::mem::replace(&mut waiting.interest, interest);
        let now = &waiting.interest.named;
        for host in before.named.difference(now) {
            if let Some(streams) = self.by_host.get_mut(host) {
                streams.remove(&id);
                if streams.is_empty() {
                    self.by_host.remove(host);
                }
            }
        }
        for host in now.difference(&before.named) {
            self.by_host.entry(Arc::clone(host)).or_default().insert(id);
        }
    }
}

impl Entry {
    /// Waits until something changes that may concern the stream; at once if it has since the last time.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// The client has answered all endpoints of the translation of this moment.
    pub(crate) fn answered(&self, translation: Instant) {
        if let Some(waiting) = self.all.lock().streams.get_mut(&self.id) {
            waiting.answered = Some(translation);
        }
        self.all.progress.notify_waiters();
    }

    /// From now on the stream waits for this. Take the newest translation afterwards.
    pub(crate) fn waits_for(&self, interest: Interest) {
        self.all.lock().replace(self.id, interest);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.all.lock();
        state.replace(self.id, Interest::default());
        state.streams.remove(&self.id);
        drop(state);
        self.all.progress.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Vec<HostName> {
        let hosts = names.iter();
        let hosts = hosts.map(|name| HostName::canonical(name, "default", "cluster.local"));
        hosts.collect()
    }

    fn named(names: &[&str]) -> Interest {
        let names = hosts(names);
        Interest {
            named: names.iter().map(|host| host.as_str().into()).collect(),
            all_of: None,
        }
    }

    fn everything_of(names: &[&str]) -> Interest {
        Interest {
            named: BTreeSet::new(),
            all_of: Some(Arc::new(hosts(names).into_iter().collect())),
        }
    }

    #[test]
    fn a_change_concerns_those_only_who_named_the_host_or_see_it_among_all() {
        let all = Arc::new(Interests::default());
        let [one, other, wide, idle] = std::array::from_fn(|_| all.enter());
        one.waits_for(named(&["a", "b"]));
        other.waits_for(named(&["b", "c"]));
        wide.waits_for(everything_of(&["c", "d"]));
        let now = Instant::now();
        let ring = |names: &[&str]| all.ring(&Changes::Hosts(hosts(names)), now);
        assert_eq!(ring(&["a"]), 1);
        assert_eq!(ring(&["b"]), 2);
        assert_eq!(ring(&["a", "b"]), 2);
        assert_eq!(ring(&["c"]), 2);
        assert_eq!(ring(&["d"]), 1);
        assert_eq!(ring(&["e"]), 0);
        assert_eq!(all.ring(&Changes::Everything, now), 4);
        one.waits_for(named(&["a"]));
        assert_eq!(ring(&["b"]), 1);
        drop((one, wide, idle));
        assert_eq!(ring(&["a", "b", "c", "d"]), 1);
        drop(other);
        assert!(all.lock().by_host.is_empty() && all.lock().wide.is_empty());
    }

    #[tokio::test]
    async fn who_has_the_endpoints_of_a_host_is_waited_for_until_it_has_answered_or_is_gone() {
        let all = Arc::new(Interests::default());
        let [named_one, wide, leaves, stranger] = std::array::from_fn(|_| all.enter());
        named_one.waits_for(named(&["a"]));
        wide.waits_for(everything_of(&["a", "b"]));
        leaves.waits_for(named(&["a"]));
        stranger.waits_for(named(&["b"]));
        let a = hosts(&["a"]).remove(0);
        let later = |ms| Instant::now() + std::time::Duration::from_millis(ms);
        let (before, translation, after) = (Instant::now(), later(1000), later(2000));
        let mut have = std::pin::pin!(all.have(&a, translation));
        let mut is_done = || futures_util::FutureExt::now_or_never(have.as_mut()).is_some();
        // It was published, and nobody was told yet.
        assert!(!is_done());
        all.ring(&Changes::Hosts(hosts(&["a"])), translation);
        assert!(!is_done());
        named_one.answered(translation);
        wide.answered(before);
        assert!(!is_done());
        // What is to be answered meanwhile is another's.
        all.ring(&Changes::Hosts(hosts(&["b"])), after);
        wide.answered(translation);
        assert!(!is_done());
        drop(leaves);
        assert!(is_done());
        stranger.answered(before);
    }

    #[tokio::test]
    async fn who_is_busy_while_it_is_rung_for_is_woken_once_afterwards() {
        let all = Arc::new(Interests::default());
        let entry = all.enter();
        entry.waits_for(named(&["a"]));
        all.ring(&Changes::Hosts(hosts(&["a"])), Instant::now());
        all.ring(&Changes::Hosts(hosts(&["a"])), Instant::now());
        entry.rung().await;
        let again = entry.rung();
        assert!(futures_util::FutureExt::now_or_never(again).is_none());
    }
}
