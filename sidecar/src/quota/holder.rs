//! What this sidecar has of each shared limit. A state machine: clusters, grants and the time come in, the gauges'
//! shares and requests go out.
//!
//! ```text
//! no grant yet ──(GRACE)──► 1
//! granted ──► share ──lease over──► the smaller of share and fallback ──3 leases after the last grant──► fallback
//!               ▲                                │                                                         │
//!               └────────────── grant ───────────┴─────────────────────────────────────────────────────────┘
//! ```
//! A lease is counted from when the request was sent that the grant answers, so that it ends here before it ends at the
//! control plane. The wait before a fallback that is larger than the share is for those who have borrowed it: they have
//! returned it by then, or have lost their leases as well.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_core::{LimitsScope, Snapshot, limits::Gauge};
use outrigger_proto::{
    envoy::config::core::v3::Node,
    outrigger::v1::{LeaseGrant, LeaseRequest, Limit, Limited, Use},
};

/// Clusters whose limits one sidecar leases.
const MAX_CLUSTERS: usize = 256;
/// How long a limit without any word from the control plane is as it was.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// How long what was used or wanted once counts as wanted.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Peaks are kept for steps of this length.
const STEP: Duration = Duration::from_millis(500);
/// A smaller wish is told no sooner than this after the last.
const PATIENCE: Duration = Duration::from_secs(1);
/// Lease of a grant that does not say how long it lasts.
const TTL: Duration = Duration::from_secs(10);
/// Requests whose time of sending is remembered: far more than are ever unanswered.
const SENT: usize = 4096;

/// Cluster and `Limit`.
type Key = (Arc<str>, i32);

/// What has happened since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) grants: u64,
    /// Shares that a grant lowered.
    pub(crate) callbacks: u64,
    /// Leases that ran out.
    pub(crate) expired: u64,
}

#[derive(Debug)]
struct Held {
    gauge: Arc<Gauge>,
    /// Who waits for a connection.
    waiting: Option<Arc<Gauge>>,
    since: Instant,
    /// As granted.
    share: Option<u32>,
    fallback: u32,
    overflows: u64,
    /// The most that was wanted in each step.
    peaks: VecDeque<(Instant, u32)>,
    told: Option<(Instant, Use)>,
    /// Its cluster is gone, and not yet all that was in use: nothing more may be.
    leaving: bool,
}

/// All shares of this process.
#[derive(Debug)]
pub(crate) struct Holder {
    held: BTreeMap<Key, Held>,
    /// Clusters beyond [`MAX_CLUSTERS`].
    pub(crate) beyond: usize,
    /// Of gauges of connections: how many of these are not in use.
    spare: Vec<(Arc<Gauge>, u32)>,
    released: Vec<Limited>,
    sequence: u64,
    applied: u64,
    sent: VecDeque<(u64, Instant)>,
    renewed: Option<Instant>,
    ttl: Duration,
    until: Option<Instant>,
    last_grant: Option<Instant>,
    expired: bool,
    counts: Counts,
}

impl Holder {
    pub(crate) fn new() -> Self {
        Self {
            held: BTreeMap::new(),
            beyond: 0,
            spare: Vec::new(),
            released: Vec::new(),
            sequence: 0,
            applied: 0,
            sent: VecDeque::new(),
            renewed: None,
            ttl: TTL,
            until: None,
            last_grant: None,
            expired: false,
            counts: Counts::default(),
        }
    }

    /// Takes over the shared limits of `snapshot`, and lets go of those that it does not have.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, now: Instant) {
        let shared = snapshot.clusters().map(|(_, cluster)| cluster);
        let mut shared: Vec<_> = shared
            .filter(|cluster| cluster.config.limits_scope == LimitsScope::Service)
            .collect();
        shared.sort_unstable_by(|a, b| a.config.name.cmp(&b.config.name));
        self.beyond = shared.len().saturating_sub(MAX_CLUSTERS);
        let mut before = std::mem::take(&mut self.held);
        for (place, cluster) in shared.into_iter().enumerate() {
            let limits = &cluster.limits;
            let name: Arc<str> = cluster.config.name.as_str().into();
            for (limit, gauge, waiting) in [
                (
                    Limit::MaxConnections,
                    &limits.connections,
                    Some(&limits.pending),
                ),
                (Limit::Http1MaxPendingRequests, &limits.pending, None),
                (Limit::Http2MaxRequests, &limits.requests, None),
                (Limit::MaxRetries, &limits.retries, None),
            ] {
                if gauge.share().is_none() {
                    continue;
                }
                let key = (Arc::clone(&name), i32::from(limit));
                let known = before.remove(&key);
                if place >= MAX_CLUSTERS {
                    gauge.set_share(1);
                    let told = known.filter(|held| held.told.is_some());
                    self.released.extend(told.map(|_| limited(&key)));
                    continue;
                }
                let same = known.filter(|held| !held.leaving && Arc::ptr_eq(&held.gauge, gauge));
                let held = same.unwrap_or_else(|| Held {
                    gauge: Arc::clone(gauge),
                    waiting: waiting.cloned(),
                    since: now,
                    share: None,
                    fallback: 0,
                    overflows: gauge.overflows(),
                    peaks: VecDeque::new(),
                    told: None,
                    leaving: false,
                });
                self.held.insert(key, held);
            }
        }
        for (key, mut held) in before {
            // Nothing of it is believed in should the cluster come back: others may have it then.
            held.gauge.set_share(0);
            if held.gauge.share().is_some() {
                (held.leaving, held.fallback) = (true, 0);
                held.peaks.clear();
                self.held.insert(key, held);
            } else if held.told.is_some() {
                self.released.push(limited(&key));
            }
        }
        let held = &self.held;
        self.released.retain(|one| {
            let key = (Arc::from(one.cluster.as_str()), one.limit);
            !held.contains_key(&key)
        });
        self.tick(now);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.released.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Every limit has had a grant, or has waited long enough for one.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        self.held
            .values()
            .all(|held| held.leaving || held.share.is_some() || now >= held.since + GRACE)
    }

    /// Shares are not under lease.
    pub(crate) fn falls_back(&self, now: Instant) -> bool {
        !self.held.is_empty() && self.until.is_none_or(|until| now >= until)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// How many connections are kept without being in use, by their gauge: what [`Self::tick`] looks at.
    pub(crate) fn set_spare(&mut self, spare: Vec<(Arc<Gauge>, u32)>) {
        self.spare = spare;
    }

    /// Looks at what is in use, and ends what is over.
    pub(crate) fn tick(&mut self, now: Instant) {
        let over = self.until.is_some_and(|until| now >= until);
        if over && !std::mem::replace(&mut self.expired, true) {
            self.counts.expired += 1;
        }
        let phase = self.phase(now);
        let released = &mut self.released;
        self.held.retain(|key, held| {
            let done = held.leaving && held.gauge.used() == 0;
            if done && held.told.is_some() {
                released.push(limited(key));
            }
            !done
        });
        let held = self.held.values_mut().filter(|held| !held.leaving);
        for held in held {
            if let Some(share) = held.allowed(phase, now) {
                held.gauge.set_share(share);
            }
            let spare = self.spare.iter();
            let spare = spare.filter(|(gauge, _)| Arc::ptr_eq(gauge, &held.gauge));
            held.look(now, spare.map(|(_, spare)| *spare).sum());
        }
    }

    /// The first request of a new stream; what came of earlier ones is not known.
    pub(crate) fn open(&mut self, node: Node, process: u64, now: Instant) -> LeaseRequest {
        (self.sequence, self.applied) = (0, 0);
        self.sent.clear();
        self.released.clear();
        for held in self.held.values_mut() {
            held.told = None;
        }
        let over = self.until.is_none_or(|until| now >= until);
        let mut request = self.write(now, true);
        if over {
            // It comes to that by itself if no answer comes.
            for used in &mut request.uses {
                used.held = used.held.max(used.fallback);
            }
        }
        request.node = Some(node);
        request.process = process;
        request
    }

    /// What there is to say: a change, or that the lease is to be renewed.
    pub(crate) fn request(&mut self, now: Instant) -> Option<LeaseRequest> {
        let due = self.renewed.is_none_or(|at| now >= at + self.ttl / 2);
        let news = self.held.values().any(|held| held.has_news(now));
        (due || news || !self.released.is_empty()).then(|| self.write(now, due))
    }

    /// Applies a grant. The answer says that it is in force.
    pub(crate) fn apply(&mut self, grant: LeaseGrant, now: Instant) -> LeaseRequest {
        self.counts.grants += 1;
        if let Some(ttl) = grant.ttl.and_then(|ttl| outrigger_proto::length(&ttl)) {
            self.ttl = ttl;
        }
        self.applied = grant.sequence;
        self.last_grant = Some(now);
        while self
            .sent
            .front()
            .is_some_and(|(sequence, _)| *sequence < grant.answers)
        {
            self.sent.pop_front();
        }
        if let Some((_, sent)) = self
            .sent
            .front()
            .filter(|(sequence, _)| *sequence == grant.answers)
        {
            let until = *sent + self.ttl;
            self.until = Some(self.until.map_or(until, |known| known.max(until)));
            self.expired = false;
        }
        for share in grant.shares {
            let named = share.limited.unwrap_or_default();
            let key = (Arc::from(named.cluster), named.limit);
            if let Some(held) = self.held.get_mut(&key) {
                self.counts.callbacks += u64::from(held.share.is_some_and(|had| share.share < had));
                held.share = Some(share.share);
                held.fallback = share.fallback;
                held.told = None;
            }
        }
        self.tick(now);
        self.write(now, false)
    }

    fn phase(&self, now: Instant) -> Phase {
        match (self.until, self.last_grant) {
            (Some(until), _) if now < until => Phase::Leased,
            (Some(_), Some(last)) if now < last + 3 * self.ttl => Phase::Over,
            _ => Phase::Away,
        }
    }

    fn write(&mut self, now: Instant, renew: bool) -> LeaseRequest {
        self.sequence += 1;
        if self.sent.len() >= SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
        if renew {
            self.renewed = Some(now);
        }
        let mut uses = Vec::new();
        for (key, held) in &mut self.held {
            if renew || held.told.is_none() || held.has_news(now) {
                let used = held.used(key);
                held.told = Some((now, used.clone()));
                uses.push(used);
            }
        }
        LeaseRequest {
            sequence: self.sequence,
            applied: self.applied,
            renew,
            uses,
            released: std::mem::take(&mut self.released),
            ..LeaseRequest::default()
        }
    }
}

/// How far the lease has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Leased,
    Over,
    Away,
}

impl Held {
    /// What may be in use now; None = as it is.
    fn allowed(&self, phase: Phase, now: Instant) -> Option<u32> {
        match (self.share, phase) {
            (None, _) => (now >= self.since + GRACE).then_some(1),
            (Some(share), Phase::Leased) => Some(share),
            (Some(share), Phase::Over) => Some(share.min(self.fallback)),
            (Some(_), Phase::Away) => Some(self.fallback),
        }
    }

    /// Notes how much is wanted.
    fn look(&mut self, now: Instant, spare: u32) {
        // What is kept for later is not wanted by anybody now; but one connection is, by whoever comes next.
        let all = self.gauge.used();
        let used = all
            .saturating_sub(spare)
            .max(u32::from(all > 0 && spare > 0));
        let overflows = self.gauge.overflows();
        let refused = u32::try_from(overflows - self.overflows).unwrap_or(u32::MAX);
        self.overflows = overflows;
        let waiting = self.waiting.as_ref().map_or(0, |waiting| waiting.used());
        // Who finds no connection waits for one, or is refused: that all are open says nothing yet.
        let is_full = self.waiting.is_none() && used > 0 && used >= self.gauge.limit();
        let wanted = if is_full || refused > 0 || waiting > 0 {
            // As much again: how much more there would be, nobody can tell.
            used.saturating_add(used.max(refused).max(waiting))
                .saturating_add(1)
        } else {
            // One of what is kept stays for whoever comes next.
            (used + used / 4).max(spare.min(1))
        };
        while self
            .peaks
            .front()
            .is_some_and(|(at, _)| now >= *at + REMEMBERED)
        {
            self.peaks.pop_front();
        }
        match self.peaks.back_mut() {
            Some((at, peak)) if now < *at + STEP => *peak = wanted.max(*peak),
            _ => self.peaks.push_back((now, wanted)),
        }
    }

    fn wanted(&self) -> u32 {
        self.peaks.iter().map(|(_, peak)| *peak).max().unwrap_or(0)
    }

    /// Something the control plane should know before the lease is renewed.
    fn has_news(&self, now: Instant) -> bool {
        let Some((at, told)) = &self.told else {
            return true;
        };
        // More than its share is in use still, and less than it said: somebody waits for that.
        let freed = told.held > self.gauge.limit() && self.gauge.held() < told.held;
        let wanted = self.wanted();
        let more = wanted > told.wanted && wanted > self.gauge.limit();
        let less = wanted < told.wanted / 2 && now >= *at + PATIENCE;
        freed || more || less
    }

    fn used(&self, (cluster, limit): &Key) -> Use {
        Use {
            limited: Some(limited(&(Arc::clone(cluster), *limit))),
            in_use: self.gauge.used(),
            wanted: self.wanted(),
            held: self.gauge.held(),
            fallback: self.fallback,
            first: self.share.is_none(),
        }
    }
}

fn limited((cluster, limit): &Key) -> Limited {
    Limited {
        cluster: cluster.to_string(),
        limit: *limit,
    }
}

#[cfg(test)]
mod tests;
