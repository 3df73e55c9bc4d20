//! What a connection knows of itself: what it was opened under, and how long it has been idle.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use outrigger_core::{Cluster, EndpointState, Moment};

use super::{Policy, endpoint::Judge};
use crate::{http::io::Heard, proxy_protocol::header::Ends, shared::Shared};

/// How long an idle connection is kept that can serve one caller only.
const TOLD_IDLE_MS: u64 = 60_000;

/// What both protocols' connections know.
#[derive(Debug)]
pub(crate) struct About {
    /// Policy that it was opened under. Not the whole cluster: with that, an idle connection would keep all that a
    /// snapshot held for as long as itself.
    policy: Rc<Policy>,
    /// For whom it was opened, if it has told that.
    served: Option<Ends>,
    pub(super) mtls: bool,
    /// Identity that it was opened under; None = plain text.
    pub(super) generation: Option<u64>,
    /// Unix seconds.
    pub(super) expires: u64,
    /// The reading of TLS files that it was opened under, and that of now.
    files: (Option<u64>, Rc<Cell<Option<u64>>>),
    /// From then on it takes no new requests.
    pub(super) ends: Moment,
    state: Arc<EndpointState>,
    pub(super) idle_since: Cell<Moment>,
    rest: Rc<Rest>,
    /// How long it was idle before its last request.
    idle_before_ms: Cell<u64>,
    /// The cluster's idle timeout, or less if the peer said so.
    idle_limit_ms: Cell<u64>,
    pub(super) requests: Cell<u32>,
    /// Bytes have come since the last request was sent.
    pub(super) heard: Rc<Heard>,
}

/// Since when a connection has been idle, for the task that drives it; None while it is in use, or given up by us.
#[derive(Debug, Default)]
struct Rest(Cell<Option<Moment>>);

impl Drop for About {
    fn drop(&mut self) {
        // Its end is our doing then.
        self.rest.0.set(None);
    }
}

impl About {
    /// `encrypted`: generation of the identity, and the Unix second at which the certificates end. `files`: the reading of
    /// TLS files that it was opened under, and where the newest is told.
    pub(crate) fn new(
        cluster: &Cluster,
        state: &Arc<EndpointState>,
        policy: Rc<Policy>,
        encrypted: Option<(u64, u64)>,
        files: (Option<u64>, &Rc<Cell<Option<u64>>>),
        now: Moment,
    ) -> Self {
        let most = policy.max_duration.map_or(u64::MAX, millis);
        Self {
            policy,
            served: None,
            mtls: encrypted.is_some(),
            generation: encrypted.map(|(generation, _)| generation),
            expires: encrypted.map_or(u64::MAX, |(_, expires)| expires),
            files: (files.0, Rc::clone(files.1)),
            ends: Moment(now.0.saturating_add(most)),
            state: Arc::clone(state),
            idle_since: Cell::new(now),
            rest: Rc::default(),
            idle_before_ms: Cell::new(0),
            idle_limit_ms: Cell::new(millis(cluster.config.idle_timeout)),
            requests: Cell::new(0),
            heard: Rc::default(),
        }
    }

    pub(super) fn opened_for(mut self, served: Option<Ends>) -> Self {
        self.served = served;
        if self.tells() {
            // Once its caller has left, it is of no use to anybody.
            let most = self.idle_limit_ms.get().min(TOLD_IDLE_MS);
            self.idle_limit_ms.set(most);
        }
        self
    }

    /// Whether it has told a server for whom it was opened.
    pub(super) fn tells(&self) -> bool {
        self.policy.proxy_protocol.is_some()
    }

    /// It was opened for the same, or for everybody.
    pub(super) fn is_for(&self, judge: Judge<'_>) -> bool {
        !self.tells() || self.served == judge.ends
    }

    /// The policy of now is the one that it was opened under.
    pub(super) fn fits(&self, judge: Judge<'_>) -> bool {
        let wants_mtls = judge.cluster.config.mesh_tls().is_some() && judge.endpoint.config.mtls;
        if self.is_of_old_files()
            || wants_mtls != self.mtls
            || (self.mtls && self.generation != judge.generation)
        {
            return false;
        }
        Rc::ptr_eq(&self.policy, judge.policy) || self.policy == *judge.policy
    }

    /// Roots, our certificate or revocation lists have changed since.
    pub(super) fn is_of_old_files(&self) -> bool {
        self.files.0 != self.files.1.get()
    }

    pub(super) fn used_up(&self, cluster: &Cluster, now: Moment) -> bool {
        let most = cluster.config.max_requests_per_connection;
        now >= self.ends || most.is_some_and(|most| self.requests.get() >= most.max(1))
    }

    pub(super) fn idle_ms(&self, now: Moment) -> u64 {
        now.0.saturating_sub(self.idle_since.get().0)
    }

    /// For the end of the task that drives the connection: if it was idle then, its server has closed it.
    pub(crate) fn ended(&self, shared: &Arc<Shared>) -> impl FnOnce() + 'static {
        let (rest, state, shared) = (
            Rc::clone(&self.rest),
            Arc::clone(&self.state),
            Arc::clone(shared),
        );
        move || {
            if let Some(since) = rest.0.get() {
                let idle_ms = shared.now().0.saturating_sub(since.0);
                state.keep_alive.closed_after(idle_ms);
            }
        }
    }

    pub(super) fn begins_rest(&self, now: Moment) {
        self.idle_since.set(now);
        self.rest.0.set(Some(now));
    }

    /// Its server had closed it when the last request came.
    pub(super) fn was_closed(&self) {
        self.state
            .keep_alive
            .closed_after(self.idle_before_ms.get());
    }

    pub(super) fn is_old(&self, now: Moment) -> bool {
        self.idle_ms(now) >= self.idle_limit_ms.get()
    }

    /// The peer said how long it keeps idle connections; ours is retired a second (or half of it) before.
    pub(crate) fn peer_keeps_for(&self, seconds: u64) {
        let theirs = seconds.saturating_mul(1000);
        self.state.keep_alive.promised(theirs);
        let ours = if theirs > 2000 {
            theirs - 1000
        } else {
            theirs / 2
        };
        self.idle_limit_ms.set(self.idle_limit_ms.get().min(ours));
    }

    /// For the transport to set.
    pub(crate) fn heard(&self) -> &Rc<Heard> {
        &self.heard
    }

    pub(super) fn one_more(&self, now: Moment) {
        self.idle_before_ms.set(self.idle_ms(now));
        self.rest.0.set(None);
        self.requests.set(self.requests.get().saturating_add(1));
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
