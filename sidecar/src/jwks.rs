//! Keys of issuers that are fetched: when, and who waits for them.
//!
//! ```text
//! named by a listener ─► fetched ──(cache_duration)──► again      a token with a key that is not among them ─► again
//!                           └─ failed ─► tried again ever later   (3 at once, then one every 10 s)
//! ```
//! The last good set serves while its server is away, for a day; then tokens are refused, because a key that was taken
//! back would hold for ever. Fetching is done beside the requests, which wait no longer than one fetch may take.

mod fetch;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outrigger_core::jwt::{RemoteKeys, RemoteName};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{backoff::Backoff, shared::Shared, telemetry::Telemetry, worker::unix_now};

/// Sets of keys of one sidecar.
const MAX_SETS: usize = 256;
/// Requests that wait for keys.
const MAX_WAITING: usize = 1024;
/// How long keys serve whose server is away.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Fetches that requests may ask for beyond those that are due, at once.
const BURST: u32 = 3;
/// How often they may ask for one more.
const REFILL: Duration = Duration::from_secs(10);
/// Between fetches that fail.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// All sets of keys that are fetched.
#[derive(Debug)]
pub(crate) struct Jwks {
    sets: Mutex<Sets>,
    /// There is a new one.
    added: Notify,
    /// A fetch has ended, for whom listeners wait.
    came: Notify,
    /// Fetches that have ended, of all sets.
    ended: watch::Sender<u64>,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Sets {
    known: BTreeMap<RemoteName, Set>,
    added: Vec<Arc<RemoteKeys>>,
}

#[derive(Debug)]
struct Set {
    keys: Weak<RemoteKeys>,
    /// A request asks for a fetch.
    wanted: Arc<Notify>,
    is_wanted: bool,
    /// Fetches that were begun.
    begun: u64,
    /// Fetches that requests may still ask for, and when that was.
    left: u32,
    filled: Instant,
}

impl Default for Jwks {
    fn default() -> Self {
        Self {
            sets: Mutex::default(),
            added: Notify::new(),
            came: Notify::new(),
            ended: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Jwks {
    /// Fetches these from now on, for as long as somebody has them.
    pub(crate) fn fetch(&self, new: Vec<Arc<RemoteKeys>>) {
        if new.is_empty() {
            return;
        }
        let mut sets = self.lock();
        sets.known.retain(|_, set| set.keys.strong_count() > 0);
        for keys in new {
            if sets.known.len() >= MAX_SETS {
                tracing::warn!(uri = %keys.name.uri, most = MAX_SETS, "too many sets of keys; these are not fetched");
                continue;
            }
            let set = Set {
                keys: Arc::downgrade(&keys),
                wanted: Arc::default(),
                is_wanted: false,
                begun: 0,
                left: BURST,
                filled: Instant::now(),
            };
            sets.known.insert(keys.name.clone(), set);
            sets.added.push(keys);
        }
        drop(sets);
        self.added.notify_one();
    }

    /// Ends when a fetch has ended since the last call.
    pub(crate) async fn came(&self) {
        self.came.notified().await;
    }

    /// Waits for a fetch that is begun after this call, for `most` and its own timeout at most. At once, if there is to be none.
    pub(crate) async fn refreshed(&self, keys: &Arc<RemoteKeys>, most: Duration) {
        let mut ended = self.ended.subscribe();
        let had_none = keys.current.load().is_none();
        let Some(after) = self.want(keys, had_none) else {
            return;
        };
        let Some(_place) = Place::take(&self.waiting) else {
            return;
        };
        let is_over = || {
            let came = had_none && keys.current.load().is_some();
            came || keys.attempts.load(Ordering::Acquire) > after
        };
        let over = async { while !is_over() && ended.changed().await.is_ok() {} };
        // What is there then decides.
        drop(timeout(most.min(keys.name.timeout), over).await);
    }

    /// How many fetches have to have ended; None = there is to be none.
    fn want(&self, keys: &Arc<RemoteKeys>, had_none: bool) -> Option<u64> {
        let mut sets = self.lock();
        let set = sets.known.get_mut(&keys.name)?;
        let under_way = set.begun > keys.attempts.load(Ordering::Acquire);
        // The first keys that come are the newest; and nobody hurries what was not tried yet.
        if had_none && (under_way || set.begun == 0) {
            return Some(set.begun.saturating_sub(u64::from(under_way)));
        }
        if !set.is_wanted {
            if !set.spend(Instant::now()) {
                return None;
            }
            set.is_wanted = true;
            set.wanted.notify_one();
        }
        Some(set.begun)
    }

    fn lock(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &RemoteName) {
        if let Some(set) = self.lock().known.get_mut(name) {
            set.begun += 1;
            set.is_wanted = false;
        }
    }

    fn end(&self, keys: &RemoteKeys) {
        keys.attempts.fetch_add(1, Ordering::Release);
        self.ended.send_modify(|ended| *ended += 1);
        self.came.notify_one();
    }
}

impl Set {
    fn spend(&mut self, now: Instant) -> bool {
        while self.left < BURST && now.duration_since(self.filled) >= REFILL {
            self.left += 1;
            self.filled += REFILL;
        }
        if self.left == BURST {
            self.filled = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        true
    }
}

/// A request's place among those that wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// For ever: each set has a task of its own.
pub(crate) async fn run(shared: Arc<Shared>, telemetry: Arc<Telemetry>) {
    let mut tasks = JoinSet::new();
    loop {
        let added = std::mem::take(&mut shared.jwks.lock().added);
        for keys in added {
            let (shared, telemetry) = (Arc::clone(&shared), Arc::clone(&telemetry));
            tasks.spawn(keep(
                Arc::downgrade(&keys),
                keys.name.clone(),
                shared,
                telemetry,
            ));
        }
        tokio::select! {
            () = shared.jwks.added.notified() => {}
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    tracing::warn!(%error, "keys are not fetched any more");
                }
            }
        }
    }
}

/// Keeps one set new, until nobody has it any more.
async fn keep(
    keys: Weak<RemoteKeys>,
    name: RemoteName,
    shared: Arc<Shared>,
    telemetry: Arc<Telemetry>,
) {
    let Some(wanted) = shared
        .jwks
        .lock()
        .known
        .get(&name)
        .map(|set| Arc::clone(&set.wanted))
    else {
        return;
    };
    let metrics = &telemetry.metrics;
    let count = |outcome| {
        if let Ok(counter) = metrics
            .jwks_fetches
            .get_metric_with_label_values(&[outcome])
        {
            counter.inc();
        }
    };
    let mut backoff = Backoff::new(name.retry_after, LONGEST_RETRY.max(name.retry_after));
    let mut was_good = true;
    let mut good_at: Option<Instant> = None;
    while let Some(held) = keys.upgrade() {
        shared.jwks.begin(&name);
        let fetched = timeout(name.timeout, fetch::fetch(&shared, &held)).await;
        let fetched =
            fetched.unwrap_or_else(|_elapsed| Err(format!("no answer within {:?}", name.timeout)));
        let now = Instant::now();
        let next = match fetched {
            Ok(set) => {
                for why in set.unusable() {
                    tracing::debug!(uri = %name.uri, %why, "a key is not used");
                }
                if !std::mem::replace(&mut was_good, true) || good_at.is_none() {
                    tracing::info!(uri = %name.uri, keys = set.len(), "keys fetched");
                }
                replace(&held, set);
                count("fetched");
                backoff.reset();
                good_at = Some(now);
                if let Ok(gauge) = metrics
                    .jwks_fetched
                    .get_metric_with_label_values(&[&name.uri])
                {
                    #[expect(clippy::cast_precision_loss, reason = "Prometheus has doubles")]
                    gauge.set(unix_now() as f64);
                }
                now + jittered(name.cache_duration)
            }
            Err(reason) => {
                count("failed");
                if std::mem::replace(&mut was_good, false) {
                    tracing::warn!(uri = %name.uri, %reason, in_use = good_at.is_some(), "keys cannot be fetched; trying again");
                }
                if good_at.is_some_and(|at| now.duration_since(at) >= STALE) {
                    tracing::warn!(uri = %name.uri, "keys are a day old and not used any more");
                    held.current.store(None);
                    good_at = None;
                }
                now + backoff.next()
            }
        };
        shared.jwks.end(&held);
        drop(held);
        tokio::select! {
            () = sleep_until(next) => {}
            () = wanted.notified() => {}
        }
    }
    // A set of this URL that came in its place has fetched already, or will.
    let still_fetched = shared
        .jwks
        .lock()
        .known
        .iter()
        .any(|(other, set)| other.uri == name.uri && set.keys.strong_count() > 0);
    if !still_fetched {
        // It may not have had one.
        metrics.jwks_fetched.remove_label_values(&[&name.uri]).ok();
    }
}

/// The same keys stay the same object: what was verified with them is remembered.
fn replace(keys: &RemoteKeys, set: outrigger_core::jwt::KeySet) {
    let is_same = keys
        .current
        .load()
        .as_ref()
        .is_some_and(|old| old.is_same(&set));
    if !is_same {
        keys.current.store(Some(Arc::new(set)));
    }
}

/// 80 to 90 % of it, so that keys are new before they are old, and sidecars do not ask all at once.
fn jittered(cache: Duration) -> Duration {
    cache.mul_f64(0.8 + 0.1 * fastrand::f64())
}
