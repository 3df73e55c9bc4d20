//! The connections of one worker to one endpoint.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use outrigger_core::{Cluster, Endpoint, EndpointId, EndpointState, Moment};
use tokio::sync::Notify;

use crate::proxy_protocol::header::Ends;

use super::{
    Policy,
    acquire::http2::Opening,
    gate::Gate,
    lease::{Http1, Http2},
    turns::Turns,
};

/// Connections to one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointPool {
    pub(crate) id: EndpointId,
    /// What all workers know of it.
    state: Arc<EndpointState>,
    /// The endpoint is gone: nothing is pooled any more.
    closed: Cell<bool>,
    /// Last in, first out: what is not needed ages and is retired.
    idle: RefCell<Vec<Http1>>,
    shared: RefCell<Vec<Rc<Http2>>>,
    /// How many HTTP/1.1 connections are being opened.
    pub(super) turns: Turns,
    /// The HTTP/2 connection that one request opens and others wait for; None = nobody opens one.
    pub(super) opening: RefCell<Option<Rc<Opening>>>,
    /// An HTTP/2 connection has room for one more stream than before.
    pub(super) room: Notify,
}

/// What a pooled connection is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) policy: &'a Rc<Policy>,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) now: Moment,
    pub(crate) generation: Option<u64>,
    /// For whom.
    pub(crate) ends: Option<Ends>,
}

impl EndpointPool {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self {
            id: endpoint.id,
            state: Arc::clone(&endpoint.state),
            closed: Cell::new(false),
            idle: RefCell::new(Vec::new()),
            shared: RefCell::new(Vec::new()),
            turns: Turns::default(),
            opening: RefCell::new(None),
            room: Notify::new(),
        }
    }

    /// A connection that is fit for one more request.
    pub(crate) fn take_idle(&self, gate: &Gate, worker: usize, judge: Judge<'_>) -> Option<Http1> {
        loop {
            if judge.cluster.config.proxy_protocol.is_some() {
                self.foremost(judge)?;
            }
            let connection = self.idle.borrow_mut().pop()?;
            if connection.only_watched(judge) && gate.has_room() {
                // And so are all those below it. What becomes of it shows how long this server keeps connections.
                self.idle.borrow_mut().push(connection);
                return None;
            }
            gate.not_spare(worker);
            if connection.fit(judge) {
                return Some(connection);
            }
        }
    }

    /// Brings the last one that was opened for the same to where it is taken from; None if there is none.
    fn foremost(&self, judge: Judge<'_>) -> Option<()> {
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().rposition(|one| one.is_for(judge))?;
        let one = idle.remove(at);
        idle.push(one);
        Some(())
    }

    /// Pools a connection. Gives it back if somebody waits, or if the endpoint is gone.
    pub(crate) fn put_idle(&self, gate: &Gate, worker: usize, connection: Http1) -> Option<Http1> {
        if self.closed.get() {
            drop(connection);
            return None;
        }
        self.idle.borrow_mut().push(connection);
        if !gate.now_spare(worker) {
            self.turns.came_back();
            return None;
        }
        let back = self.idle.borrow_mut().pop()?;
        gate.not_spare(worker);
        Some(back)
    }

    /// The HTTP/2 connection with most room. None if all are full, or busy enough for another one to be opened.
    pub(crate) fn shared(&self, gate: &Gate, worker: usize, judge: Judge<'_>) -> Option<Rc<Http2>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| {
            let fit = connection.fit(judge);
            if !fit {
                connection.leaves(gate, worker);
            }
            fit
        });
        let least = shared
            .iter()
            .filter(|connection| connection.is_for(judge) && connection.has_room(judge))
            .min_by_key(|connection| connection.streams())?;
        let another = !least.is_roomy() && self.opening.borrow().is_none() && gate.has_room();
        (!another).then(|| Rc::clone(least))
    }

    pub(crate) fn put_shared(&self, gate: &Gate, worker: usize, connection: Rc<Http2>) {
        if self.closed.get() {
            return;
        }
        // Waiters elsewhere will ask for it.
        connection.joins(gate, worker);
        self.shared.borrow_mut().push(connection);
    }

    /// Closes what is idle for too long, at its certificates' end, or of an old identity.
    pub(crate) fn retire(
        &self,
        gate: &Gate,
        worker: usize,
        now: Moment,
        unix_now: u64,
        generation: Option<u64>,
    ) {
        let usable_ms = self.state.keep_alive.usable_ms();
        // From the one that has been idle longest.
        let mut watched = false;
        self.idle.borrow_mut().retain(|connection| {
            let mut keep = connection.worth_keeping(now, unix_now, generation);
            let idle_ms = connection.idle_ms(now);
            if keep && idle_ms >= usable_ms {
                keep = !std::mem::replace(&mut watched, true);
                self.state.keep_alive.survived(idle_ms);
            }
            if !keep {
                gate.not_spare(worker);
            }
            keep
        });
        let mut again = false;
        self.shared.borrow_mut().retain(|connection| {
            let keep = connection.worth_keeping(now, unix_now, generation);
            if !keep {
                connection.leaves(gate, worker);
            }
            again |= connection.ends_yield(now);
            keep
        });
        if again {
            self.room.notify_waiters();
        }
    }

    /// Closes one idle connection.
    pub(crate) fn shed_idle(&self, gate: &Gate, worker: usize) -> bool {
        // One that its server has closed already frees nothing: the next, then.
        let mut freed = false;
        let mut idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.retain(|connection| {
            if freed {
                return true;
            }
            gate.not_spare(worker);
            freed = connection.is_open();
            false
        });
        *self.idle.borrow_mut() = idle;
        if freed {
            return true;
        }
        let unused = {
            let mut shared = self.shared.borrow_mut();
            let at = shared.iter().position(|c| c.streams() == 0);
            at.map(|at| shared.swap_remove(at))
        };
        if let Some(unused) = &unused {
            unused.leaves(gate, worker);
        }
        unused.is_some()
    }

    /// Lets one busy HTTP/2 connection take no new streams for a moment, see [`Http2::yields`].
    pub(crate) fn shed_shared(&self, now: Moment, connect_timeout: Duration) -> bool {
        self.shared
            .borrow()
            .iter()
            .any(|connection| connection.yields(now, connect_timeout))
    }

    /// How many HTTP/2 connections take no new streams now.
    pub(crate) fn yielding(&self, now: Moment) -> usize {
        let shared = self.shared.borrow();
        shared.iter().filter(|one| one.is_yielding(now)).count()
    }

    pub(crate) fn close(&self, gate: &Gate, worker: usize) {
        self.closed.set(true);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let shared = std::mem::take(&mut *self.shared.borrow_mut());
        for _ in idle {
            gate.not_spare(worker);
        }
        for connection in shared {
            connection.leaves(gate, worker);
        }
    }
}
