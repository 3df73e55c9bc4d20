//! Who has which share of which limit. A state machine: requests of sidecars and the time come in, grants go out.
//!
//! It never lets the sum of the shares that sidecars may believe in exceed a limit:
//! - A share is given only of what nobody else may have in use. What is called back counts until the sidecar has said
//!   that it is below, or its lease is over.
//! - A grant is sent only after the one before was applied. So it is known what a sidecar believes, and a lease is not
//!   renewed by requests that were written long ago.
//! - A lease ends [`TTL`] after the request that the last grant answers was read, here; there, earlier: after it was
//!   sent. From then on what the sidecar may fall back to is kept for it. It falls back to that no earlier than three
//!   [`TTL`] after the last grant it got: until then whoever has borrowed from it has given it back, or lost its lease.
//! - A new process of ours does not know who has what. Of limits that were in force before it started it grants nobody
//!   more than he has, nor more than his fallback, until all leases of its predecessor are over: [`TTL`] after its start.
//!   For [`FORGET`] longer it keeps aside what those who have not come back may have to fall back to: what is missing to
//!   the limit of the fallbacks of those who have. (If nobody has, it takes the limit for new.)
//!
//! Exceeded is a limit by what is in use longer than the lease that it was admitted under without a word from its
//! sidecar; by the fallback of one that was out of reach of us, but not of its upstreams, for longer than [`FORGET`];
//! and by one for each new sidecar that we did not answer within 2 s, until others have given that back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use super::pool::Report;
use super::{
    division::is_scarce,
    pool::{Era, Hears, Pool},
};

/// How long a share is leased for.
pub(crate) const TTL: Duration = Duration::from_secs(10);
/// A sidecar that was silent for so long after its lease is gone: what was kept for it is given to others.
const FORGET: Duration = Duration::from_secs(60);
/// How long after its start a process needs the mesh as it was then, to tell which limits were in force before.
pub(crate) const INHERITS: Duration = TTL.saturating_add(FORGET);
/// Sidecars that share one limit.
const MAX_SIDECARS: usize = 10_000;
/// Processes of one node that may have leases: its present one, and the one before, which finishes what it has.
const MAX_PROCESSES: usize = 2;

/// A process of a sidecar. Ordered by name: the first ones get what cannot be divided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SidecarId {
    /// Identity and node id.
    pub(crate) node: Arc<str>,
    /// Random.
    pub(crate) process: u64,
}

/// One limit of one cluster under one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PoolKey {
    /// `outbound|9080||reviews.default.svc.cluster.local`
    pub(crate) cluster: Arc<str>,
    /// The document that set the limit: two callers under different rules do not share.
    pub(crate) rule: Arc<str>,
    /// Which of its limits.
    pub(crate) kind: Kind,
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `maxConnections`
    Connections,
    /// `http1MaxPendingRequests`
    Pending,
    /// `http2MaxRequests`
    Requests,
    /// `maxRetries`
    Retries,
}

/// One request, resolved: what it names are limits that its sidecar sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaseRequest {
    pub(crate) sequence: u64,
    pub(crate) applied: u64,
    pub(crate) renew: bool,
    pub(crate) uses: Vec<(PoolKey, Report)>,
    pub(crate) released: Vec<PoolKey>,
}

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) sequence: u64,
    pub(crate) answers: u64,
    pub(crate) shares: Vec<(PoolKey, Share)>,
}

/// What a sidecar is told of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) share: u32,
    pub(crate) fallback: u32,
    pub(crate) limit: u32,
    pub(crate) sidecars: u32,
}

/// The stream is not the sidecar's present one, or its lease is over: it has to come back with a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stale;

/// For `outrigger status` and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolStatus {
    pub(crate) key: PoolKey,
    pub(crate) limit: u32,
    pub(crate) leased: u32,
    pub(crate) sidecars: u32,
    /// Of these, those whose lease is over.
    pub(crate) lost: u32,
    pub(crate) in_use: u32,
}

/// Events since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Shares called back.
    pub(crate) callbacks: u64,
    /// Leases that ran out.
    pub(crate) expired: u64,
    /// Limits that were not shared with one more sidecar, because too many share it.
    pub(crate) crowded: u64,
}

#[derive(Debug)]
struct Session {
    /// Which of its streams. The others' words do not count.
    stream: u64,
    open: bool,
    read: u64,
    read_at: Instant,
    sent: u64,
    /// The last grant was not applied yet.
    outstanding: bool,
    wants_answer: bool,
    /// Of the lease, or since when it is over.
    expires: Instant,
    lost: bool,
    pools: BTreeSet<PoolKey>,
}

/// All limits and all sidecars.
#[derive(Debug)]
pub(crate) struct Allocator {
    started: Instant,
    pools: BTreeMap<PoolKey, Pool>,
    sessions: BTreeMap<SidecarId, Session>,
    /// Pools in which something has changed.
    dirty: BTreeSet<PoolKey>,
    /// Who may have something to be sent.
    news: BTreeSet<SidecarId>,
    streams: u64,
    counts: Counts,
    /// When the next lease may be over.
    next: Option<Instant>,
    /// Pools of which something is kept for those who have not come back.
    keeping: BTreeSet<PoolKey>,
    /// Pools with less than one for each, and whose turn it is.
    scarce: BTreeSet<PoolKey>,
    turn: u64,
}

impl Allocator {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            pools: BTreeMap::new(),
            sessions: BTreeMap::new(),
            dirty: BTreeSet::new(),
            news: BTreeSet::new(),
            streams: 0,
            counts: Counts::default(),
            next: None,
            keeping: BTreeSet::new(),
            scarce: BTreeSet::new(),
            turn: 0,
        }
    }

    fn era(&self, now: Instant) -> Era {
        if now < self.started + TTL {
            Era::Theirs
        } else if now < self.started + INHERITS {
            Era::Between
        } else {
            Era::Ours
        }
    }

    /// A stream of `id` begins; what comes from its earlier ones is no longer heard.
    pub(crate) fn open(&mut self, id: &SidecarId, now: Instant) -> u64 {
        self.expire(now);
        self.streams += 1;
        let stream = self.streams;
        let of_node = |process| SidecarId {
            node: Arc::clone(&id.node),
            process,
        };
        let others = self.sessions.range(of_node(0)..=of_node(u64::MAX));
        let others = others.filter(|(other, _)| other.process != id.process);
        // A new process has the ports of the old one, which is gone therefore.
        let (open, mut replaced): (Vec<_>, Vec<_>) = others.partition(|(_, session)| session.open);
        // Of more than can be alive, those whose streams are oldest are not.
        let mut open = open;
        open.sort_unstable_by_key(|(_, session)| std::cmp::Reverse(session.stream));
        replaced.extend(open.into_iter().skip(MAX_PROCESSES - 1));
        let replaced: Vec<SidecarId> = replaced.into_iter().map(|(id, _)| id.clone()).collect();
        for other in &replaced {
            self.forget(other);
        }
        let session = self.sessions.entry(id.clone()).or_insert(Session {
            stream,
            open: true,
            read: 0,
            read_at: now,
            sent: 0,
            outstanding: false,
            wants_answer: true,
            expires: now + TTL,
            lost: false,
            pools: BTreeSet::new(),
        });
        session.stream = stream;
        session.open = true;
        (session.read, session.sent) = (0, 0);
        session.outstanding = false;
        if session.lost {
            session.lost = false;
            session.expires = now + TTL;
        }
        self.next = earliest(self.next, session.expires);
        stream
    }

    /// Sets what is to be divided. `inherited`: the limit was in force when this process started.
    pub(crate) fn set_limit(&mut self, key: &PoolKey, limit: u32, inherited: bool) {
        let pool = self
            .pools
            .entry(key.clone())
            .or_insert_with(|| Pool::new(inherited));
        if pool.limit != limit {
            pool.limit = limit;
            self.dirty.insert(key.clone());
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`Stale`]
    pub(crate) fn request(
        &mut self,
        id: &SidecarId,
        stream: u64,
        request: LeaseRequest,
        now: Instant,
    ) -> Result<(), Stale> {
        self.expire(now);
        let session = self.sessions.get_mut(id).ok_or(Stale)?;
        if session.stream != stream || session.lost {
            return Err(Stale);
        }
        let opening = session.read == 0;
        (session.read, session.read_at) = (request.sequence, now);
        session.wants_answer |= request.renew || opening;
        if session.outstanding && request.applied == session.sent {
            session.outstanding = false;
            let pools = &self.pools;
            let waits = |key: &&PoolKey| pools.get(*key).is_some_and(|pool| pool.deferred);
            self.dirty
                .extend(session.pools.iter().filter(waits).cloned());
        }
        let mut released = request.released;
        if opening {
            let named: BTreeSet<&PoolKey> = request.uses.iter().map(|(key, _)| key).collect();
            let unnamed = session.pools.iter().filter(|key| !named.contains(key));
            released.extend(unnamed.cloned());
        }
        self.use_and_release(id, request.uses, released, opening, now);
        Ok(())
    }

    /// What a stream has named before means other limits by now, because policies have changed.
    pub(crate) fn move_to(
        &mut self,
        id: &SidecarId,
        stream: u64,
        uses: Vec<(PoolKey, Report)>,
        released: Vec<PoolKey>,
        now: Instant,
    ) {
        let session = self.sessions.get(id);
        if session.is_some_and(|session| session.stream == stream && !session.lost) {
            self.use_and_release(id, uses, released, false, now);
        }
    }

    fn use_and_release(
        &mut self,
        id: &SidecarId,
        uses: Vec<(PoolKey, Report)>,
        released: Vec<PoolKey>,
        opening: bool,
        now: Instant,
    ) {
        let era = self.era(now);
        // What is named as used again is not given up.
        let used: BTreeSet<&PoolKey> = uses.iter().map(|(key, _)| key).collect();
        let released: Vec<PoolKey> = released
            .into_iter()
            .filter(|key| !used.contains(key))
            .collect();
        for key in released {
            self.leave(id, &key);
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        for (key, report) in uses {
            let Some(pool) = self.pools.get_mut(&key) else {
                continue;
            };
            if pool.members.len() >= MAX_SIDECARS && !pool.members.contains_key(id) {
                self.counts.crowded += 1;
                continue;
            }
            let opening = opening || !session.pools.contains(&key);
            let says_more = pool.report(id, report, opening, era);
            session.pools.insert(key.clone());
            if says_more {
                self.dirty.insert(key);
            }
        }
        self.news.insert(id.clone());
    }

    /// The stream has ended. After a goodbye everything is free at once, else when the lease is over.
    pub(crate) fn close(&mut self, id: &SidecarId, stream: u64, goodbye: bool) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if session.stream != stream {
            return;
        }
        session.open = false;
        if goodbye {
            self.forget(id);
        }
    }

    /// Decides what has become due. Gives back who has something to be sent.
    pub(crate) fn advance(&mut self, now: Instant) -> BTreeSet<SidecarId> {
        self.expire(now);
        self.plan(now);
        let mut news = std::mem::take(&mut self.news);
        news.retain(|id| {
            let session = self.sessions.get(id);
            session.is_some_and(|session| self.has_news(id, session))
        });
        news
    }

    fn plan(&mut self, now: Instant) {
        let (all_ours, all_back) = (self.started + TTL, self.started + INHERITS);
        let era = self.era(now);
        if era == Era::Ours {
            self.dirty.append(&mut self.keeping);
        }
        let turn = now.saturating_duration_since(self.started).as_secs() / TTL.as_secs();
        if turn != self.turn {
            self.turn = turn;
            self.dirty.extend(self.scarce.iter().cloned());
        }
        let mut waiting = BTreeSet::new();
        for key in std::mem::take(&mut self.dirty) {
            let Some(pool) = self.pools.get_mut(&key) else {
                continue;
            };
            // Leases of our predecessor may still hold.
            if pool.inherited && era == Era::Theirs {
                waiting.insert(key);
                continue;
            }
            let sessions = &self.sessions;
            pool.plan(era, turn, |id| match sessions.get(id) {
                Some(session) if session.lost || !session.open => Hears::Never,
                Some(session) if session.outstanding => Hears::Later,
                Some(_) => Hears::Now,
                None => Hears::Never,
            });
            let changed = pool.members.iter().filter(|(_, member)| member.changed);
            self.news.extend(changed.map(|(id, _)| id.clone()));
            if pool.absent(era) > 0 {
                self.keeping.insert(key.clone());
            }
            if is_scarce(pool.limit, pool.members.len()) {
                self.scarce.insert(key);
            } else {
                self.scarce.remove(&key);
            }
        }
        if !waiting.is_empty() {
            self.next = earliest(self.next, all_ours);
        }
        if !self.keeping.is_empty() {
            self.next = earliest(self.next, all_back);
        }
        if !self.scarce.is_empty() {
            let turns = u32::try_from(turn + 1).unwrap_or(u32::MAX);
            self.next = earliest(self.next, self.started + TTL.saturating_mul(turns));
        }
        self.dirty = waiting;
    }

    /// The next grant on a stream, if there is something to say.
    pub(crate) fn grant(&mut self, id: &SidecarId, stream: u64, now: Instant) -> Option<Grant> {
        self.expire(now);
        let session = self.sessions.get(id)?;
        if session.stream != stream || !self.has_news(id, session) {
            return None;
        }
        let session = self.sessions.get_mut(id)?;
        session.sent += 1;
        session.outstanding = true;
        session.wants_answer = false;
        session.expires = session.expires.max(session.read_at + TTL);
        self.next = earliest(self.next, session.expires);
        let mut shares = Vec::new();
        for key in &session.pools {
            let Some(pool) = self.pools.get_mut(key) else {
                continue;
            };
            let sidecars = u32::try_from(pool.members.len()).unwrap_or(u32::MAX);
            let limit = pool.limit;
            if let Some(member) = pool.members.get_mut(id).filter(|member| member.changed) {
                member.changed = false;
                let share = Share {
                    share: member.share,
                    fallback: member.fallback,
                    limit,
                    sidecars,
                };
                shares.push((key.clone(), share));
            }
        }
        Some(Grant {
            sequence: session.sent,
            answers: session.read,
            shares,
        })
    }

    /// When [`Self::advance`] has to be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// All limits that somebody uses.
    pub(crate) fn status(&self) -> Vec<PoolStatus> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let pools = self.pools.iter();
        let used = pools.filter(|(_, pool)| !pool.members.is_empty());
        used.map(|(key, pool)| {
            let (leased, in_use) = pool.leased();
            PoolStatus {
                key: key.clone(),
                limit: pool.limit,
                leased,
                sidecars: count(pool.members.len()),
                lost: count(pool.members.values().filter(|member| member.lost).count()),
                in_use,
            }
        })
        .collect()
    }

    /// How many limits, and shares of them.
    pub(crate) fn size(&self) -> (usize, usize) {
        let members = self.pools.values().map(|pool| pool.members.len());
        (self.pools.len(), members.sum())
    }

    pub(crate) fn counts(&self) -> Counts {
        let callbacks = self.pools.values().map(|pool| pool.callbacks).sum::<u64>();
        Counts {
            callbacks: self.counts.callbacks + callbacks,
            ..self.counts
        }
    }

    fn has_news(&self, id: &SidecarId, session: &Session) -> bool {
        if session.lost || !session.open || session.outstanding || session.read == 0 {
            return false;
        }
        let changed = |key: &PoolKey| {
            let member = self.pools.get(key).and_then(|pool| pool.members.get(id));
            member.is_some_and(|member| member.changed)
        };
        session.wants_answer || session.pools.iter().any(changed)
    }

    /// Ends leases that are over, and forgets who has been silent for long.
    fn expire(&mut self, now: Instant) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        let mut gone = Vec::new();
        let mut next = None;
        for (id, session) in &mut self.sessions {
            if !session.lost && now >= session.expires {
                session.lost = true;
                session.open = false;
                self.counts.expired += 1;
                for key in &session.pools {
                    if let Some(pool) = self.pools.get_mut(key) {
                        pool.lose(id);
                    }
                }
                self.dirty.extend(session.pools.iter().cloned());
            }
            if !session.lost {
                next = earliest(next, session.expires);
            } else if now >= session.expires + FORGET {
                gone.push(id.clone());
            } else {
                next = earliest(next, session.expires + FORGET);
            }
        }
        self.next = next;
        for id in &gone {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: &SidecarId) {
        if let Some(session) = self.sessions.remove(id) {
            for key in &session.pools {
                self.remove(id, key);
            }
        }
    }

    fn leave(&mut self, id: &SidecarId, key: &PoolKey) {
        if let Some(session) = self.sessions.get_mut(id)
            && session.pools.remove(key)
        {
            self.remove(id, key);
        }
    }

    fn remove(&mut self, id: &SidecarId, key: &PoolKey) {
        let Some(pool) = self.pools.get_mut(key) else {
            return;
        };
        pool.members.remove(id);
        if pool.members.is_empty() {
            self.counts.callbacks += pool.callbacks;
            self.pools.remove(key);
            for pools in [&mut self.dirty, &mut self.keeping, &mut self.scarce] {
                pools.remove(key);
            }
        } else {
            self.dirty.insert(key.clone());
        }
    }
}

fn earliest(known: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(known.map_or(other, |known| known.min(other)))
}

#[cfg(test)]
mod tests;
