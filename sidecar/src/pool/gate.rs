//! Who may have a connection to a cluster next, over all workers.
//!
//! Below `maxConnections` this is one shared counter and nobody waits. At the limit, requests queue here in the order
//! they came, `http1MaxPendingRequests` at most:
//! ```text
//! connection closed ──► its slot goes to the head of the queue, which connects
//! response complete ──► connection goes to a waiter of the same worker and endpoint, or is closed for the head
//! idle elsewhere    ──► its worker is told to shed it
//! HTTP/2 in use     ──► takes no new streams for a moment; closed if its last one ends
//! ```
//! The mutex is taken only while somebody waits.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering, fence},
    },
};

use outrigger_core::{ClusterSlot, EndpointId, Limits, Permit};
use tokio::sync::{mpsc, oneshot};

use super::Protocol;
use crate::worker::Command;

/// A waiter may be passed by this many others that could use a ready connection before one is closed for it.
const PASSED_AT_MOST: u32 = 32;
/// Connections that workers are told to close at once, after a limit was lowered.
const SHED_AT_ONCE: u32 = 64;

/// One cluster's gate.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) slot: ClusterSlot,
    pub(crate) name: String,
    pub(crate) limits: Arc<Limits>,
    waiting: AtomicU32,
    workers_have: Box<[Has]>,
    workers: Arc<[mpsc::Sender<Command>]>,
    queue: Mutex<Queue>,
}

/// What one worker has pooled.
#[derive(Debug, Default)]
struct Has {
    /// Connections that nobody uses.
    spare: AtomicU32,
    /// HTTP/2 connections in use: they could take no new streams for a moment.
    busy: AtomicU32,
    /// Connections that it was asked to give up, and has not looked at yet: one message for all of them.
    asked: AtomicU32,
}

impl Has {
    fn spare(&self) -> u32 {
        self.spare.load(Ordering::SeqCst)
    }

    fn busy(&self) -> u32 {
        self.busy.load(Ordering::SeqCst)
    }
}

/// In which of a gate's counts a pooled HTTP/2 connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Not pooled (any more).
    #[default]
    Not,
    Spare,
    Busy,
}

/// Who waits, in the order of their numbers.
#[derive(Debug, Default)]
struct Queue {
    next: u64,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    worker: usize,
    endpoint: EndpointId,
    protocol: Protocol,
    passed: u32,
    grant: oneshot::Sender<Grant>,
}

impl Waiter {
    fn is(&self, worker: usize, endpoint: EndpointId, protocol: Protocol) -> bool {
        self.worker == worker && self.endpoint == endpoint && self.protocol == protocol
    }
}

/// What a waiter gets.
#[derive(Debug)]
pub(crate) enum Grant {
    /// The right to open a connection.
    Slot(Slot),
    /// A ready connection lies under its number in its worker's hand-over table.
    Handed,
}

/// The right to one connection, given on when dropped. Lives until the connection is closed.
#[derive(Debug)]
pub(crate) struct Slot {
    permit: Option<Permit>,
    gate: Arc<Gate>,
}

/// What to do with a connection that has become free.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Nobody waits.
    Keep,
    /// Close it; the head of the queue gets its slot.
    Close,
    /// Give it to this waiter of this worker.
    Give(u64, oneshot::Sender<Grant>),
}

impl Gate {
    pub(crate) fn new(
        slot: ClusterSlot,
        name: &str,
        limits: &Arc<Limits>,
        workers: &Arc<[mpsc::Sender<Command>]>,
    ) -> Self {
        Self {
            slot,
            name: name.to_owned(),
            limits: Arc::clone(limits),
            waiting: AtomicU32::new(0),
            workers_have: workers.iter().map(|_| Has::default()).collect(),
            workers: Arc::clone(workers),
            queue: Mutex::new(Queue::default()),
        }
    }

    /// Somebody waits.
    pub(crate) fn contended(&self) -> bool {
        self.waiting() > 0
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Pooled connections that nobody uses.
    pub(crate) fn spare(&self) -> u32 {
        self.workers_have.iter().map(Has::spare).sum()
    }

    /// A slot, unless the limit is reached or others were here before.
    pub(crate) fn try_slot(self: &Arc<Self>) -> Option<Slot> {
        if self.contended() {
            return None;
        }
        Some(self.wrap(self.limits.connections.try_acquire(false)?))
    }

    /// As [`Self::try_slot`], for one that does not wait: a refusal is counted as one of the limit.
    pub(crate) fn try_exclusive(self: &Arc<Self>) -> Option<Slot> {
        if let Some(slot) = self.try_slot() {
            return Some(slot);
        }
        Some(self.wrap(self.limits.connections.try_acquire(true)?))
    }

    fn wrap(self: &Arc<Self>, permit: Permit) -> Slot {
        Slot {
            permit: Some(permit),
            gate: Arc::clone(self),
        }
    }

    /// There is room for another connection now, and nobody waits for it.
    pub(crate) fn has_room(&self) -> bool {
        !self.contended() && self.limits.connections.used() < self.limits.connections.limit()
    }

    /// Leave to wait for a connection, in this queue or for one that somebody opens; None if too many do.
    pub(crate) fn may_wait(&self) -> Option<Permit> {
        self.limits.pending.try_acquire(true)
    }

    /// Queues up for a slot; with HTTP/1.1 for a connection of `worker` to `endpoint` as well.
    pub(crate) fn wait(
        self: &Arc<Self>,
        worker: usize,
        endpoint: EndpointId,
        protocol: Protocol,
        _may_wait: &Permit,
    ) -> Wait {
        let (grant, granted) = oneshot::channel();
        let mut queue = self.lock();
        let number = queue.next;
        queue.next += 1;
        queue.waiters.push_back(Waiter {
            number,
            worker,
            endpoint,
            protocol,
            passed: 0,
            grant,
        });
        self.count(&queue);
        // Pairs with the fences of `Slot::drop` and `now_spare`: either they see us wait, or we see what they gave.
        fence(Ordering::SeqCst);
        drop(queue);
        self.grant();
        self.ask_for_one();
        Wait {
            number,
            granted,
            gate: Arc::clone(self),
            served: false,
        }
    }

    /// How many connections there are above the limit, which was lowered. They go as they become free.
    pub(crate) fn over(&self) -> u32 {
        let connections = &self.limits.connections;
        connections.used().saturating_sub(connections.limit())
    }

    /// After a change of the limit: slots for those who wait, or connections that are not in use are closed.
    pub(crate) fn limit_changed(self: &Arc<Self>) {
        if self.contended() {
            self.grant();
        }
        let mut over = self.over().min(SHED_AT_ONCE);
        for (worker, has) in self.workers_have.iter().enumerate() {
            let part = has.spare().saturating_add(has.busy()).min(over);
            if part > has.asked.load(Ordering::Relaxed) {
                self.ask(worker, has, part);
            }
            over -= part;
        }
    }

    /// Tells the worker that has most to spare, else most that is in use, to shed a connection.
    fn ask_for_one(&self) {
        if !self.contended() {
            return;
        }
        let workers = self.workers_have.iter().enumerate();
        let most = workers.max_by_key(|(_, has)| (has.spare(), has.busy()));
        if let Some((worker, has)) = most
            && has.spare().saturating_add(has.busy()) > 0
        {
            let one_more = has.asked.load(Ordering::Relaxed).saturating_add(1);
            self.ask(worker, has, one_more.min(SHED_AT_ONCE));
        }
    }

    fn ask(&self, worker: usize, has: &Has, count: u32) {
        // One message is on its way already: it is about these as well.
        if has.asked.swap(count, Ordering::SeqCst) > 0 {
            return;
        }
        let told = self.workers.get(worker);
        if told.is_none_or(|worker| worker.try_send(Command::Shed(self.slot)).is_err()) {
            // A full channel loses nothing: the worker's tick looks for waiters as well.
            has.asked.store(0, Ordering::SeqCst);
        }
    }

    /// How many connections `worker` was asked to give up since it looked last.
    pub(crate) fn take_asked(&self, worker: usize) -> u32 {
        let has = self.workers_have.get(worker);
        has.map_or(0, |has| has.asked.swap(0, Ordering::SeqCst))
    }

    /// Gives free slots to the head of the queue.
    pub(crate) fn grant(self: &Arc<Self>) {
        let mut queue = self.lock();
        while let Some(waiter) = queue.waiters.pop_front() {
            let Some(permit) = self.limits.connections.try_acquire(false) else {
                queue.waiters.push_front(waiter);
                break;
            };
            if let Err(Grant::Slot(mut gone)) = waiter.grant.send(Grant::Slot(self.wrap(permit))) {
                // That waiter left. Emptied here, because the drop of a full slot comes back for the lock.
                drop(gone.permit.take());
            }
        }
        self.count(&queue);
    }

    /// How many wait, and the endpoints for whose HTTP/2 connections of `worker` some of them do: a further stream there
    /// would serve those.
    pub(crate) fn waiting_for(&self, worker: usize) -> (usize, Vec<EndpointId>) {
        if !self.contended() {
            return (0, Vec::new());
        }
        let queue = self.lock();
        let here = queue
            .waiters
            .iter()
            .filter(|w| w.worker == worker && w.protocol == Protocol::Http2);
        (queue.waiters.len(), here.map(|w| w.endpoint).collect())
    }

    /// Somebody waits whom a further stream from `worker` to `endpoint` would not serve. (Of those whom it would, one is
    /// in the queue at most: this looks at two.)
    pub(crate) fn anyone_elsewhere(&self, worker: usize, endpoint: EndpointId) -> bool {
        self.contended()
            && self
                .lock()
                .waiters
                .iter()
                .any(|w| !w.is(worker, endpoint, Protocol::Http2))
    }

    /// What to do with a connection of `worker` to `endpoint` that is free for another request.
    pub(crate) fn claim(&self, worker: usize, endpoint: EndpointId) -> Claim {
        if self.over() > 0 {
            return Claim::Close;
        }
        if !self.contended() {
            return Claim::Keep;
        }
        let mut queue = self.lock();
        let fits = |w: &Waiter| w.is(worker, endpoint, Protocol::Http1);
        let place = match queue.waiters.front_mut() {
            None => return Claim::Keep,
            Some(head) if fits(head) => Some(0),
            Some(head) if head.passed >= PASSED_AT_MOST => None,
            Some(head) => {
                head.passed += 1;
                queue.waiters.iter().position(fits)
            }
        };
        let Some(waiter) = place.and_then(|at| queue.waiters.remove(at)) else {
            return Claim::Close;
        };
        self.count(&queue);
        Claim::Give(waiter.number, waiter.grant)
    }

    /// A connection of `worker` lies in its pool. True if somebody waits for it now.
    pub(crate) fn now_spare(&self, worker: usize) -> bool {
        if let Some(has) = self.workers_have.get(worker) {
            has.spare.fetch_add(1, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
        self.contended()
    }

    /// One less.
    pub(crate) fn not_spare(&self, worker: usize) {
        self.count_shared(worker, Counted::Spare, Counted::Not);
    }

    /// A pooled HTTP/2 connection of `worker` has become something else.
    pub(crate) fn count_shared(&self, worker: usize, before: Counted, after: Counted) {
        let Some(has) = self.workers_have.get(worker).filter(|_| before != after) else {
            return;
        };
        match after {
            Counted::Not => {}
            Counted::Spare => drop(has.spare.fetch_add(1, Ordering::SeqCst)),
            Counted::Busy => drop(has.busy.fetch_add(1, Ordering::SeqCst)),
        }
        match before {
            Counted::Not => {}
            Counted::Spare => drop(has.spare.fetch_sub(1, Ordering::SeqCst)),
            Counted::Busy => drop(has.busy.fetch_sub(1, Ordering::SeqCst)),
        }
        fence(Ordering::SeqCst);
    }

    fn leave(&self, number: u64) {
        let mut queue = self.lock();
        let place = queue.waiters.binary_search_by_key(&number, |w| w.number);
        if let Ok(place) = place {
            queue.waiters.remove(place);
        }
        self.count(&queue);
    }

    fn count(&self, queue: &Queue) {
        let waiting = u32::try_from(queue.waiters.len()).unwrap_or(u32::MAX);
        self.waiting.store(waiting, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        drop(permit);
        fence(Ordering::SeqCst);
        if self.gate.contended() {
            self.gate.grant();
        }
    }
}

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) number: u64,
    granted: oneshot::Receiver<Grant>,
    gate: Arc<Gate>,
    /// Granted: it is in the queue no longer.
    served: bool,
}

impl Wait {
    /// Waits; None cannot happen while the gate lives.
    pub(crate) async fn granted(&mut self) -> Option<Grant> {
        let grant = (&mut self.granted).await.ok();
        self.served = true;
        grant
    }

    /// Gives up the place; what was granted meanwhile is returned.
    pub(crate) fn leave(&mut self) -> Option<Grant> {
        if self.served {
            return None;
        }
        self.gate.leave(self.number);
        self.granted.close();
        self.granted.try_recv().ok()
    }
}
