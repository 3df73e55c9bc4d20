//! How a request comes by an HTTP/2 connection, which it shares with others.
//!
//! ```text
//! room on a connection ──► take it
//! nobody opens one     ──► slot (or queue for one) ──► connect ──► tell those who joined
//! somebody does        ──► join: wait for that one, or for a stream elsewhere to end
//! ```
//! Who waits holds one of `http1MaxPendingRequests`, and waits for others to let go of something as long as a
//! connection may take to open: a stream may last for ever, and with it everything that waits for its connection.

use std::{
    cell::{Cell, OnceCell, RefCell},
    convert::Infallible,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use hyper::client::conn::http2;
use hyper_util::rt::TokioTimer;
use outrigger_core::Permit;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{Farewell, Granted, NoConnection, Target, handshake_failed};
use crate::{
    connect::ConnectError,
    http::{H2_CONNECTION_WINDOW, H2_STREAM_WINDOW, MAX_HEADER_BYTES},
    pool::{
        ClusterPool, Policy, Pools, Protocol,
        endpoint::EndpointPool,
        gate::{Gate, Slot},
        lease::{Http2, Lease},
    },
};

/// HTTP/2 pings on busy connections, and how long an answer may take.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WITHIN: Duration = Duration::from_secs(10);

/// Runs hyper's tasks of one connection. The first, which it begins with its handshake, owns the socket; it goes on
/// after the [`http2::Connection`] has ended, to say goodbye.
#[derive(Clone, Debug)]
pub(in crate::pool) struct Driver(Rc<RefCell<Option<Farewell>>>);

impl Driver {
    fn new(bound: Farewell) -> Self {
        Self(Rc::new(RefCell::new(Some(bound))))
    }
}

impl<F> hyper::rt::Executor<F> for Driver
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let first = self.0.borrow_mut().take();
        match first {
            Some(bound) => drop(tokio::task::spawn_local(bound.drive(future))),
            None => drop(tokio::task::spawn_local(async {
                future.await;
            })),
        }
    }
}

/// How the opening of a shared connection ended.
type End = Result<(), ConnectError>;

/// An opening that others wait for.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    end: OnceCell<End>,
    ended: Notify,
    /// It waits for a slot.
    queued: Cell<bool>,
}

impl Opening {
    async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end.get() {
                return end.clone();
            }
            self.ended.notified().await;
        }
    }
}

/// The one who opens. Tells those who joined, whatever happens to it.
struct Opener<'a> {
    endpoint: &'a EndpointPool,
    opening: Rc<Opening>,
    /// None = nothing is known (cancelled, or refused a slot): those who joined try for themselves.
    failed: Option<ConnectError>,
}

impl<'a> Opener<'a> {
    fn new(endpoint: &'a EndpointPool) -> Self {
        let opening = Rc::new(Opening::default());
        *endpoint.opening.borrow_mut() = Some(Rc::clone(&opening));
        Self {
            endpoint,
            opening,
            failed: None,
        }
    }
}

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        let end = self.failed.take().map_or(Ok(()), Err);
        // Set once: here.
        drop(self.opening.end.set(end));
        self.endpoint.opening.borrow_mut().take();
        self.opening.ended.notify_waiters();
    }
}

/// The leave to wait, and its end.
struct Patience {
    within: Duration,
    begun: Option<(Permit, Instant)>,
}

impl Patience {
    /// The first time, takes one of those who may wait.
    fn begin(&mut self, gate: &Gate) -> Result<(&Permit, Instant), NoConnection> {
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => {
                let permit = gate.may_wait().ok_or(NoConnection::QueueFull)?;
                (permit, Instant::now() + self.within)
            }
        };
        let (permit, until) = self.begun.insert(begun);
        Ok((permit, *until))
    }
}

/// One request that wants a stream.
struct Seeker<'a> {
    pools: &'a Rc<Pools>,
    target: Target<'a>,
    policy: Rc<Policy>,
    cluster: &'a Rc<ClusterPool>,
    endpoint: &'a Rc<EndpointPool>,
}

enum Way {
    Slot(Slot),
    Shared(Rc<Http2>),
}

impl Pools {
    pub(super) async fn acquire_http2(
        self: &Rc<Self>,
        target: Target<'_>,
        cluster: Rc<ClusterPool>,
        endpoint: Rc<EndpointPool>,
    ) -> Result<Lease, NoConnection> {
        let seeker = Seeker {
            pools: self,
            target,
            policy: cluster.policy(target.cluster),
            cluster: &cluster,
            endpoint: &endpoint,
        };
        let connection = seeker.connection().await?;
        Ok(Lease::http2(connection, self, cluster, endpoint))
    }
}

impl Seeker<'_> {
    async fn connection(&self) -> Result<Rc<Http2>, NoConnection> {
        let mut patience = Patience {
            within: self.target.cluster.config.connect_timeout,
            begun: None,
        };
        loop {
            if let Some(shared) = self.shared() {
                return Ok(shared);
            }
            let opening = self.endpoint.opening.borrow().clone();
            let Some(opening) = opening else {
                return self.open(&mut patience).await;
            };
            if let Some(shared) = self.join(&opening, &mut patience).await? {
                return Ok(shared);
            }
        }
    }

    fn shared(&self) -> Option<Rc<Http2>> {
        let judge = self.pools.judge(self.target, &self.policy);
        self.endpoint
            .shared(&self.cluster.gate, self.pools.worker, judge)
    }

    /// Waits for another's opening. None = it ended: look again.
    async fn join(
        &self,
        opening: &Opening,
        patience: &mut Patience,
    ) -> Result<Option<Rc<Http2>>, NoConnection> {
        let within = patience.within;
        let (_, until) = patience.begin(&self.cluster.gate)?;
        let mut ended = pin!(opening.ended());
        let mut late = pin!(sleep_until(until));
        loop {
            tokio::select! {
                biased;
                end = &mut ended => return end.map(|()| None).map_err(NoConnection::Connect),
                () = self.endpoint.room.notified() => {
                    if let Some(shared) = self.shared() {
                        return Ok(Some(shared));
                    }
                }
                () = late.as_mut() => break,
            }
        }
        if let Some(shared) = self.shared() {
            return Ok(Some(shared));
        }
        if opening.queued.get() {
            return Err(NoConnection::NoneFree(within));
        }
        // It connects: that has its own end.
        ended.await.map(|()| None).map_err(NoConnection::Connect)
    }

    async fn open(&self, patience: &mut Patience) -> Result<Rc<Http2>, NoConnection> {
        let mut opener = Opener::new(self.endpoint);
        let slot = match self.slot(&opener.opening, patience).await? {
            Way::Slot(slot) => slot,
            Way::Shared(shared) => return Ok(shared),
        };
        let connection = self.connect(slot).await;
        if let Err(NoConnection::Connect(error)) = &connection {
            opener.failed = Some(error.clone());
        }
        let connection = Rc::new(connection?);
        let (gate, worker) = (&self.cluster.gate, self.pools.worker);
        self.endpoint
            .put_shared(gate, worker, Rc::clone(&connection));
        Ok(connection)
    }

    /// A slot, unless another's stream ends before.
    async fn slot(&self, opening: &Opening, patience: &mut Patience) -> Result<Way, NoConnection> {
        if let Some(slot) = self.cluster.gate.try_slot() {
            return Ok(Way::Slot(slot));
        }
        let within = patience.within;
        let (may_wait, until) = patience.begin(&self.cluster.gate)?;
        let mut queued =
            pin!(
                self.pools
                    .queue(self.cluster, self.endpoint, Protocol::Http2, may_wait)
            );
        let mut late = pin!(sleep_until(until));
        opening.queued.set(true);
        loop {
            tokio::select! {
                biased;
                granted = queued.as_mut() => {
                    opening.queued.set(false);
                    return match granted? {
                        Granted::Slot(slot) => Ok(Way::Slot(slot)),
                        Granted::Connection(_) => Err(NoConnection::QueueFull),
                    };
                }
                () = self.endpoint.room.notified() => {
                    if let Some(shared) = self.shared() {
                        return Ok(Way::Shared(shared));
                    }
                }
                () = late.as_mut() => {
                    let shared = self.shared().map(Way::Shared);
                    return shared.ok_or(NoConnection::NoneFree(within));
                }
            }
        }
    }

    async fn connect(&self, slot: Slot) -> Result<Http2, NoConnection> {
        let opened = self
            .pools
            .open(self.target, &self.policy, self.cluster, slot);
        let (io, about, torn) = opened.await?;
        let (used, unused) = oneshot::channel::<Infallible>();
        let bound = Farewell::new(unused, self.target.cluster, torn);
        let handshake = http2::Builder::new(Driver::new(bound))
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WITHIN)
            .handshake(io);
        let (sender, connection) = handshake
            .await
            .map_err(|error| handshake_failed(self.target, &error))?;
        // Shared with the pool, which asks it how many streams the peer allows; the task alone keeps it alive.
        let driven = Rc::new(RefCell::new(connection));
        let asked = Rc::downgrade(&driven);
        tokio::task::spawn_local(async move {
            let ended =
                std::future::poll_fn(|cx| Pin::new(&mut *driven.borrow_mut()).poll(cx)).await;
            if let Err(error) = ended {
                tracing::debug!(%error, "upstream connection ended");
            }
            drop((driven, used));
        });
        Ok(Http2::new(sender, asked, about))
    }
}
