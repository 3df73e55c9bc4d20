//! A request that has become a connection of bytes (an upgrade, CONNECT): what it holds, and how it ends.
//!
//! ```text
//! answer 101 ──► the worker takes the downstream connection out of hyper (or the HTTP/2 stream), the pool the upstream's
//!            ──► copied as connections of bytes are: age, certificates, drain, policy ──► counted and told as one request
//! ```
//! What it had as a request it keeps to its end: the place under the cluster's limits, the connection's slot, the
//! endpoint's count of requests in flight. Nothing of it is ever sent twice.

use std::{
    cell::Cell,
    rc::{Rc, Weak},
};

use http::{HeaderValue, request::Parts};
use hyper_util::rt::TokioIo;
use outrigger_core::{Direction, FilterChain, RouteSource, Snapshot};
use tokio::sync::Notify;

use super::{call::Call, filters, finish::Exchange, view};
use crate::{
    http::{
        io::{Io, Transport},
        serve,
    },
    pool::lease::Up,
    tcp::{
        self,
        copy::{self, Counts, End, Ends, Limits},
        upstream::Upstream,
    },
    telemetry::Handles,
    worker::{
        connection::{ActiveRequest, Connection, Server},
        downstream::first_bytes,
    },
};

/// A request that has switched, with its upstream side.
#[derive(Debug)]
pub(crate) struct Tunnel {
    call: Rc<Call>,
    far: Far,
    /// Keeps the downstream connection busy.
    active: Option<ActiveRequest>,
    counts: Counts,
}

/// What is at the other end.
#[derive(Debug)]
enum Far {
    /// An upstream that has switched. The exchange is None once it is told.
    Switched(Option<Up>, Option<Box<Exchange>>),
    /// An endpoint that speaks bytes.
    Connected(Box<Upstream>, Rc<Handles>),
    /// Nobody: requests follow.
    Requests,
}

/// What a changed policy looks at of a request that has switched.
#[derive(Debug)]
pub(crate) struct Switched {
    call: Weak<Call>,
    head: Parts,
    authority: HeaderValue,
    is_cut: Cell<bool>,
    cut: Notify,
}

impl Switched {
    pub(crate) fn new(call: &Rc<Call>, head: &Parts, authority: &HeaderValue) -> Rc<Self> {
        Rc::new(Self {
            call: Rc::downgrade(call),
            head: head.clone(),
            authority: authority.clone(),
            is_cut: Cell::new(false),
            cut: Notify::new(),
        })
    }

    /// Whether access rules of now would let its request in.
    pub(crate) fn is_denied(&self, snapshot: &Snapshot, chain: &FilterChain) -> bool {
        let Some(call) = self.call.upgrade() else {
            return false;
        };
        let table = match &chain.routes {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Named(slot) => snapshot.routes(*slot),
            RouteSource::Connection(_) => None,
        };
        let request = view(&self.head, &self.authority);
        let found = table.and_then(|table| table.find(&request).ok());
        filters::is_denied(
            &call,
            chain,
            found.map(|(_, route)| route),
            &self.head,
            &self.authority,
        )
    }

    /// Ends it.
    pub(crate) fn cut(&self) {
        self.is_cut.set(true);
        self.cut.notify_one();
    }

    async fn was_cut(&self) {
        while !self.is_cut.get() {
            self.cut.notified().await;
        }
    }
}

impl Tunnel {
    pub(crate) fn switched(call: &Rc<Call>, up: Up, exchange: Box<Exchange>) -> Self {
        Self::new(call, Far::Switched(Some(up), Some(exchange)))
    }

    pub(super) fn connected(call: &Rc<Call>, upstream: Upstream, handles: Rc<Handles>) -> Self {
        Self::new(call, Far::Connected(Box::new(upstream), handles))
    }

    pub(super) fn of_requests(call: &Rc<Call>) -> Self {
        Self::new(call, Far::Requests)
    }

    fn new(call: &Rc<Call>, far: Far) -> Self {
        Self {
            call: Rc::clone(call),
            far,
            active: None,
            counts: Counts::default(),
        }
    }

    /// Its answer is on its way down. One of HTTP/2 begins beside it; one of HTTP/1.1 when its connection is its own.
    pub(crate) fn answered(mut self: Box<Self>, active: ActiveRequest) {
        self.active = Some(active);
        let call = Rc::clone(&self.call);
        let stream = call.wanted.as_ref().and_then(|wanted| wanted.stream());
        let Some(stream) = stream.cloned() else {
            *call.connection.tunnel.borrow_mut() = Some(self);
            return;
        };
        tokio::task::spawn_local(async move {
            // Its connection has ended otherwise: dropped, it tells so.
            if let Ok(stream) = stream.await {
                let stream = Transport::Stream(Box::new(TokioIo::new(stream)));
                self.run(Io::new(stream)).await;
            }
        });
    }

    /// To its end.
    pub(crate) async fn run(mut self: Box<Self>, down: Io) {
        let call = Rc::clone(&self.call);
        let connection = &call.connection;
        let is_stream = self.is_stream();
        if !is_stream {
            connection.is_bytes.set(!matches!(self.far, Far::Requests));
        }
        if let Some(switched) = call.wanted.as_ref().and_then(|wanted| wanted.switched()) {
            let mut all = connection.switched.borrow_mut();
            all.retain(|one| one.strong_count() > 0);
            all.push(Rc::downgrade(switched));
        }
        let gauge = &call.worker.telemetry.metrics.tunnels;
        gauge.inc();
        match &mut self.far {
            Far::Requests => {
                // As a connection of requests, it may be idle again.
                drop(self.active.take());
                requests(&call, down).await;
            }
            Far::Connected(..) => self.run_connected(down).await,
            Far::Switched(..) => self.run_switched(down).await,
        }
        gauge.dec();
    }

    async fn run_connected(&mut self, mut down: Io) {
        let is_stream = self.is_stream();
        let Far::Connected(upstream, handles) = &mut self.far else {
            return;
        };
        let (worker, connection) = (&self.call.worker, &self.call.connection);
        if !is_stream {
            *connection.server.borrow_mut() = upstream.server.take();
            worker.check_server(connection, upstream.under.generation);
        }
        let report = tcp::Report::begin(handles);
        let (ends, expires) = (
            Ends {
                down: &mut down,
                up: &mut upstream.io,
            },
            upstream.under.expires,
        );
        let end = copied(&self.call, ends, expires, &report.counts, || report.tell()).await;
        report.end(end);
    }

    async fn run_switched(&mut self, mut down: Io) {
        let up = match &mut self.far {
            Far::Switched(up, _) => up.take(),
            Far::Connected(..) | Far::Requests => None,
        };
        let up = match up {
            Some(up) => up.io().await,
            None => None,
        };
        let Some((mut up, under)) = up else {
            down.reset_on_close();
            self.finish(End::UpstreamReset);
            return;
        };
        let (worker, connection) = (&self.call.worker, &self.call.connection);
        if !self.is_stream() && self.call.direction == Direction::Outbound {
            watch_server(&self.call, connection, &up.io);
            worker.check_server(connection, under.generation);
        }
        let ends = Ends {
            down: &mut down,
            up: &mut up.io,
        };
        let end = copied(&self.call, ends, under.expires, &self.counts, || {}).await;
        tracing::debug!(
            listener = %connection.bound.name,
            remote = %connection.remote,
            ?end,
            sent = self.counts.sent.get(),
            received = self.counts.received.get(),
            "a connection that a request has switched ended"
        );
        self.finish(end);
    }

    /// One stream of a connection of HTTP/2, and not all of a connection.
    fn is_stream(&self) -> bool {
        let wanted = self.call.wanted.as_ref();
        wanted.is_some_and(|wanted| wanted.stream().is_some())
    }

    fn finish(&mut self, end: End) {
        if let Far::Switched(_, exchange) = &mut self.far
            && let Some(exchange) = exchange.take()
        {
            exchange.finish_bytes(end, self.counts.received.get(), self.counts.sent.get());
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // The downstream went away before it began, or with its connection.
        self.finish(End::DownstreamReset);
    }
}

/// Copies until one of many reasons ends it.
async fn copied(
    call: &Call,
    ends: Ends<'_>,
    expires: u64,
    counts: &Counts,
    tell: impl Fn(),
) -> End {
    let (worker, connection) = (&call.worker, &call.connection);
    let limits = Limits {
        idle: None,
        age: None,
        drain: worker.drain_timeout,
        until: tcp::until(expires),
    };
    let switched = call.wanted.as_ref().and_then(|wanted| wanted.switched());
    let Some(switched) = switched else {
        return copy::both(ends, &worker.scratch, connection, limits, counts, tell).await;
    };
    let (down, up) = (ends.down, ends.up);
    let end = {
        let ends = Ends {
            down: &mut *down,
            up: &mut *up,
        };
        tokio::select! {
            biased;
            () = switched.was_cut() => None,
            end = copy::both(ends, &worker.scratch, connection, limits, counts, tell) => Some(end),
        }
    };
    end.unwrap_or_else(|| {
        down.reset_on_close();
        up.reset_on_close();
        End::Drained
    })
}

/// Requests that come where CONNECT has led to.
async fn requests(call: &Rc<Call>, mut down: Io) {
    let connection = &call.connection;
    if let Some((wire, first)) = first_bytes(&call.worker, connection, &mut down).await {
        let io = down.rewound(first, connection);
        let serving = serve::serve(&call.worker, connection, io, wire);
        // Boxed, and without its type: it is what this is called by.
        let serving: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(serving);
        serving.await;
    }
}

/// When the trust bundle changes, the server is judged again.
fn watch_server(call: &Call, connection: &Connection, up: &Io) {
    if let (Some(chain), Some(expected)) = (up.peer_chain(), call.expected_ids()) {
        *connection.server.borrow_mut() = Some(Server { chain, expected });
    }
}
