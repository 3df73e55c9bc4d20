//! The connections of one worker to one endpoint.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use outrigger_core::{Cluster, Endpoint, EndpointId, Moment};
use tokio::sync::oneshot;

use super::{
    gate::Gate,
    lease::{Http1, Http2},
    turns::Turns,
};
use crate::connect::ConnectError;

/// HTTP/2 connections of one worker to one endpoint, when the peer allows few streams on each.
const HTTP2_CONNECTIONS: usize = 4;

/// Connections to one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointPool {
    pub(crate) id: EndpointId,
    /// The endpoint is gone: nothing is pooled any more.
    closed: Cell<bool>,
    /// Last in, first out: what is not needed ages and is retired.
    idle: RefCell<Vec<Http1>>,
    shared: RefCell<Vec<Rc<Http2>>>,
    /// How many HTTP/1.1 connections are being opened.
    pub(super) turns: Turns,
    /// Requests that wait for the HTTP/2 connection that one of them is opening; None = nobody opens one.
    opening: RefCell<Option<Vec<oneshot::Sender<OpeningEnd>>>>,
}

/// How the opening of a shared connection ended.
pub(crate) type OpeningEnd = Result<(), ConnectError>;

/// What a pooled connection is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) now: Moment,
    pub(crate) generation: Option<u64>,
}

impl EndpointPool {
    pub(crate) fn new(id: EndpointId) -> Self {
        Self {
            id,
            closed: Cell::new(false),
            idle: RefCell::new(Vec::new()),
            shared: RefCell::new(Vec::new()),
            turns: Turns::default(),
            opening: RefCell::new(None),
        }
    }

    /// A connection that is fit for one more request.
    pub(crate) fn take_idle(&self, gate: &Gate, worker: usize, judge: Judge<'_>) -> Option<Http1> {
        loop {
            let connection = self.idle.borrow_mut().pop()?;
            gate.not_spare(worker);
            if connection.fit(judge) {
                return Some(connection);
            }
        }
    }

    /// Pools a connection. Gives it back if somebody waits, or if the endpoint is gone.
    pub(crate) fn put_idle(&self, gate: &Gate, worker: usize, connection: Http1) -> Option<Http1> {
        if self.closed.get() {
            drop(connection);
            return None;
        }
        self.idle.borrow_mut().push(connection);
        if !gate.now_spare(worker) {
            self.turns.pass_on();
            return None;
        }
        let back = self.idle.borrow_mut().pop()?;
        gate.not_spare(worker);
        Some(back)
    }

    /// The HTTP/2 connection with most room.
    pub(crate) fn shared(&self, gate: &Gate, worker: usize, judge: Judge<'_>) -> Option<Rc<Http2>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| {
            let fit = connection.fit(judge);
            if !fit {
                gate.not_spare(worker);
            }
            fit
        });
        let full = shared.iter().all(|connection| connection.is_full());
        if full && !shared.is_empty() && shared.len() < HTTP2_CONNECTIONS && gate.has_room() {
            return None;
        }
        shared
            .iter()
            .min_by_key(|connection| connection.streams())
            .cloned()
    }

    pub(crate) fn put_shared(&self, gate: &Gate, worker: usize, connection: Rc<Http2>) {
        if self.closed.get() {
            return;
        }
        self.shared.borrow_mut().push(connection);
        // Waiters elsewhere will ask for it.
        gate.now_spare(worker);
    }

    /// Joins the opening of an HTTP/2 connection; None = the caller is to open it.
    pub(crate) fn join(&self) -> Option<oneshot::Receiver<OpeningEnd>> {
        let mut opening = self.opening.borrow_mut();
        match opening.as_mut() {
            Some(waiting) => {
                let (tell, told) = oneshot::channel();
                waiting.push(tell);
                Some(told)
            }
            None => {
                *opening = Some(Vec::new());
                None
            }
        }
    }

    /// Ends the opening and tells those who joined.
    pub(crate) fn opened(&self, result: &OpeningEnd) {
        for waiting in self.opening.borrow_mut().take().into_iter().flatten() {
            // One that left does not need to know.
            drop(waiting.send(result.clone()));
        }
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
        self.idle.borrow_mut().retain(|connection| {
            let keep = connection.worth_keeping(now, unix_now, generation);
            if !keep {
                gate.not_spare(worker);
            }
            keep
        });
        self.shared.borrow_mut().retain(|connection| {
            let keep = connection.worth_keeping(now, unix_now, generation);
            if !keep {
                gate.not_spare(worker);
            }
            keep
        });
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
        let found = unused.is_some();
        if found {
            gate.not_spare(worker);
        }
        found
    }

    /// Takes one HTTP/2 connection out of the pool: it closes after the streams it has.
    pub(crate) fn shed_shared(&self, gate: &Gate, worker: usize) -> bool {
        let found = self.shared.borrow_mut().pop().is_some();
        if found {
            gate.not_spare(worker);
        }
        found
    }

    pub(crate) fn close(&self, gate: &Gate, worker: usize) {
        self.closed.set(true);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let shared = std::mem::take(&mut *self.shared.borrow_mut());
        for _ in 0..idle.len() + shared.len() {
            gate.not_spare(worker);
        }
    }
}
