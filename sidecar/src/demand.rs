//! Where requests to hosts that are not in the snapshot meet the xDS client: they leave the name and wait for what
//! becomes of it.
//!
//! ```text
//! worker: come(name) ──waits──► wanted ──► xDS client ──► engine ──► snapshot published
//!             ▲                                                            │
//!             └──────── here | absent | refused ◄── settle ◄───────────────┘
//! ```
//! The lock is taken by requests to hosts that are not there, and by nobody else. What the server said of a name that has
//! no virtual host is remembered for as long as the engine remembers it, so that such requests are answered at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::xds::asked::Answer;

/// How long a request waits for its virtual host, and how long after the stream was lost one may wait for its return.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Requests that wait.
pub(crate) const MAX_WAITING: usize = 4_096;
/// Names that they wait for.
pub(crate) const MAX_NAMES: usize = 1_024;

/// Why no virtual host came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The control plane says that there is none.
    Absent,
    /// What it sent cannot be used: why.
    Refused(Arc<str>),
    /// There was no answer in time.
    Late(Duration),
    /// There is no connection to it.
    Away,
    /// As many requests or names wait, or hosts are in use, as may.
    Overflow(&'static str),
}

/// One per process.
#[derive(Debug)]
pub(crate) struct Demand {
    inner: Mutex<Inner>,
    wanted: Notify,
    pub(crate) counts: Counts,
}

/// For the metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests by what came of it: see [`OUTCOMES`].
    pub(crate) outcomes: [AtomicU64; OUTCOMES.len()],
    pub(crate) waiting: AtomicUsize,
    /// Names by state: see [`STATES`].
    pub(crate) names: [AtomicUsize; STATES.len()],
    /// Names that were given back.
    pub(crate) given_back: AtomicU64,
}

/// What comes of asking.
pub(crate) const OUTCOMES: [&str; 6] = ["came", "absent", "refused", "late", "away", "overflow"];
/// Of names, as [`crate::xds::engine::Engine::asked`] counts them.
pub(crate) const STATES: [&str; 3] = ["held", "absent", "pending"];

#[derive(Debug, Default)]
struct Inner {
    pending: BTreeMap<String, Pending>,
    /// Of these, not yet taken by the client.
    fresh: BTreeSet<String>,
    /// Names that have no virtual host, and whether a request asked since the client last looked.
    known: BTreeMap<String, (Denied, bool)>,
    waiting: usize,
    /// Since when the stream is lost; None = it is open.
    lost: Option<Instant>,
}

#[derive(Debug)]
struct Pending {
    entry: Arc<Entry>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Entry {
    settled: Notify,
    answer: OnceLock<Answer>,
}

/// A request's place among those that wait.
struct Place<'a> {
    demand: &'a Demand,
    name: &'a str,
    entry: Arc<Entry>,
    until: Instant,
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                lost: Some(Instant::now()),
                ..Inner::default()
            }),
            wanted: Notify::new(),
            counts: Counts::default(),
        }
    }
}

impl Demand {
    /// Waits until the virtual host of `name` (`<route configuration>/<authority>`) is in the snapshot, for `most` and
    /// [`PATIENCE`] at most.
    pub(crate) async fn come(&self, name: &str, most: Duration) -> Result<(), Denied> {
        let result = match self.enter(name, most) {
            Ok(place) => place.wait().await,
            Err(denied) => Err(denied),
        };
        let outcome = match &result {
            Ok(()) => 0,
            Err(Denied::Absent) => 1,
            Err(Denied::Refused(_)) => 2,
            Err(Denied::Late(_)) => 3,
            Err(Denied::Away) => 4,
            Err(Denied::Overflow(_)) => 5,
        };
        if let Some(counter) = self.counts.outcomes.get(outcome) {
            counter.fetch_add(1, Relaxed);
        }
        result
    }

    fn enter<'a>(&'a self, name: &'a str, most: Duration) -> Result<Place<'a>, Denied> {
        let now = Instant::now();
        let mut inner = self.lock();
        if let Some((denied, used)) = inner.known.get_mut(name) {
            *used = true;
            return Err(denied.clone());
        }
        if inner.waiting >= MAX_WAITING {
            return Err(Denied::Overflow("requests wait for routes"));
        }
        if inner.pending.len() >= MAX_NAMES && !inner.pending.contains_key(name) {
            return Err(Denied::Overflow("hosts are being asked for"));
        }
        let patience = inner.lost.map_or(now, |lost| lost.min(now)) + PATIENCE;
        if patience <= now {
            return Err(Denied::Away);
        }
        let entry = match inner.pending.get_mut(name) {
            Some(pending) => {
                pending.waiting += 1;
                Arc::clone(&pending.entry)
            }
            None => {
                let entry = Arc::<Entry>::default();
                let pending = Pending {
                    entry: Arc::clone(&entry),
                    waiting: 1,
                };
                inner.pending.insert(name.to_owned(), pending);
                inner.fresh.insert(name.to_owned());
                self.wanted.notify_one();
                entry
            }
        };
        inner.waiting += 1;
        self.counts.waiting.store(inner.waiting, Relaxed);
        Ok(Place {
            demand: self,
            name,
            entry,
            until: patience.min(now + most),
        })
    }

    /// Until there are names for [`Self::take_wanted`].
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Names that are new since the last call.
    pub(crate) fn take_wanted(&self) -> Vec<String> {
        let fresh = std::mem::take(&mut self.lock().fresh);
        fresh.into_iter().collect()
    }

    /// Names without a virtual host that requests have asked for since the last call.
    pub(crate) fn take_used(&self) -> Vec<String> {
        let mut inner = self.lock();
        let used = inner.known.iter_mut().filter(|(_, (_, used))| *used);
        used.map(|(name, (_, used))| {
            *used = false;
            name.clone()
        })
        .collect()
    }

    /// Passes on what became of names. What is here must have been published before.
    pub(crate) fn settle(&self, answers: Vec<(String, Answer)>, names: [usize; STATES.len()]) {
        for (shown, count) in self.counts.names.iter().zip(names) {
            shown.store(count, Relaxed);
        }
        if answers.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for (name, answer) in answers {
            let denied = match &answer {
                Answer::Absent => Some(Denied::Absent),
                Answer::Refused(why) => Some(Denied::Refused(Arc::clone(why))),
                Answer::Here | Answer::NoRoom | Answer::Forgotten => None,
            };
            if answer == Answer::Forgotten {
                self.counts.given_back.fetch_add(1, Relaxed);
            }
            match denied {
                Some(denied) => drop(inner.known.insert(name.clone(), (denied, false))),
                None => drop(inner.known.remove(&name)),
            }
            inner.fresh.remove(&name);
            if let Some(pending) = inner.pending.remove(&name) {
                // A new entry has no answer yet.
                pending.entry.answer.get_or_init(|| answer);
                pending.entry.settled.notify_waiters();
            }
        }
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        let mut inner = self.lock();
        inner.lost = if connected {
            None
        } else {
            inner.lost.or_else(|| Some(Instant::now()))
        };
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    async fn wait(self) -> Result<(), Denied> {
        let began = Instant::now();
        loop {
            let settled = self.entry.settled.notified();
            tokio::pin!(settled);
            // From here on no word is missed.
            settled.as_mut().enable();
            match self.entry.answer.get() {
                None => {}
                Some(Answer::Here) => return Ok(()),
                Some(Answer::Absent) => return Err(Denied::Absent),
                Some(Answer::Refused(why)) => return Err(Denied::Refused(Arc::clone(why))),
                Some(Answer::NoRoom) => return Err(Denied::Overflow("hosts are in use")),
                Some(Answer::Forgotten) => return Err(Denied::Late(began.elapsed())),
            }
            if timeout_at(self.until, settled).await.is_err() {
                return Err(if self.demand.lock().lost.is_some() {
                    Denied::Away
                } else {
                    Denied::Late(began.elapsed())
                });
            }
        }
    }
}

/// Also where the caller has gone.
impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut inner = self.demand.lock();
        inner.waiting = inner.waiting.saturating_sub(1);
        self.demand.counts.waiting.store(inner.waiting, Relaxed);
        let Some(pending) = inner.pending.get_mut(self.name) else {
            return;
        };
        if !Arc::ptr_eq(&pending.entry, &self.entry) {
            return;
        }
        pending.waiting -= 1;
        if pending.waiting == 0 {
            inner.pending.remove(self.name);
            inner.fresh.remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests;
