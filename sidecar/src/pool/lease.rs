//! Connections, and a request's hold on one.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    rc::{Rc, Weak},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use outrigger_core::{Cluster, Moment};
use tokio::{
    sync::oneshot,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    ClusterPool, Pools, Protocol,
    about::{About, millis},
    acquire::http2::Driver,
    endpoint::{EndpointPool, Judge},
    exclusive::Under,
    gate::{Claim, Counted, Gate, Grant},
};
use crate::http::{
    io::{Io, Transport},
    replay::{UpBody, Upload},
};

/// Streams on one HTTP/2 connection from which on another one is opened, if it may be: the least that servers
/// should allow (RFC 9113 section 6.5.2). The peer's own limit is never exceeded: hyper would keep streams waiting,
/// with no limit and no answer.
const ROOMY_STREAMS: u32 = 100;
/// How long a busy connection takes no new streams for a waiter elsewhere: short streams end within it.
const YIELD_MS: u64 = 500;
/// A connection whose streams did not end within [`YIELD_MS`] is left alone for so long.
const YIELD_AGAIN_MS: u64 = 10_000;

/// How often a new connection is asked whether its server's settings are here.
const SETTINGS_EVERY: Duration = Duration::from_millis(2);
/// How long a connection whose response is complete may stand still before it is closed.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// The connection that hyper drives, alive until it is closed.
pub(super) type Driven = RefCell<http2::Connection<TokioIo<Io>, UpBody, Driver>>;

/// An HTTP/1.1 connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    sender: http1::SendRequest<UpBody>,
    /// The task that drives it.
    driver: AbortHandle,
    about: About,
    switch: Switch,
    /// Tells the task that drives it when nobody uses it any more.
    _used: oneshot::Sender<Infallible>,
}

/// The other protocol that a connection of HTTP/1.1 may go on in.
#[derive(Debug)]
pub(super) struct Switch {
    /// A request has asked for it, and was not answered otherwise: for the task that drives the connection.
    pub(super) asked: Rc<Cell<bool>>,
    /// Where that task leaves the bytes then.
    pub(super) left: oneshot::Receiver<Io>,
}

/// The upstream side of a request that has switched: bytes, once hyper lets go of them.
#[derive(Debug)]
pub(crate) struct Up {
    kind: UpKind,
    under: Under,
}

#[derive(Debug)]
enum UpKind {
    Http1(Box<Http1>),
    /// The lease is the stream's place.
    Http2(OnUpgrade, Box<Lease>),
}

impl Up {
    /// None = the connection was lost meanwhile.
    pub(crate) async fn io(self) -> Option<(UpIo, Under)> {
        let (io, lease) = match self.kind {
            // What tells the driver that nobody uses it is kept until it is done.
            UpKind::Http1(connection) => {
                let Http1 { switch, _used, .. } = *connection;
                (switch.left.await.ok()?, None)
            }
            UpKind::Http2(stream, lease) => {
                let stream = Transport::Stream(Box::new(TokioIo::new(stream.await.ok()?)));
                (Io::new(stream), Some(lease))
            }
        };
        Some((UpIo { io, _lease: lease }, self.under))
    }
}

/// Bytes of an upstream, and the place of the stream that they are in.
#[derive(Debug)]
pub(crate) struct UpIo {
    pub(crate) io: Io,
    _lease: Option<Box<Lease>>,
}

impl Http1 {
    pub(super) fn new(
        sender: http1::SendRequest<UpBody>,
        driver: AbortHandle,
        about: About,
        switch: Switch,
        used: oneshot::Sender<Infallible>,
    ) -> Self {
        Self {
            sender,
            driver,
            about,
            switch,
            _used: used,
        }
    }

    /// See [`About::is_for`].
    pub(crate) fn is_for(&self, judge: Judge<'_>) -> bool {
        self.about.is_for(judge)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    pub(crate) fn fit(&self, judge: Judge<'_>) -> bool {
        self.only_watched_or_fit(judge) && !self.is_risky(judge)
    }

    /// It would be fit, but has been idle for so long that its server may be closing it.
    pub(crate) fn only_watched(&self, judge: Judge<'_>) -> bool {
        self.is_risky(judge) && self.only_watched_or_fit(judge)
    }

    fn is_risky(&self, judge: Judge<'_>) -> bool {
        self.about.idle_ms(judge.now) >= judge.endpoint.state.keep_alive.usable_ms()
    }

    fn only_watched_or_fit(&self, judge: Judge<'_>) -> bool {
        self.sender.is_ready()
            && self.about.fits(judge)
            && !self.about.is_old(judge.now)
            && judge.now < self.about.ends
    }

    pub(crate) fn idle_ms(&self, now: Moment) -> u64 {
        self.about.idle_ms(now)
    }

    pub(crate) fn worth_keeping(&self, now: Moment, unix: u64, generation: Option<u64>) -> bool {
        !self.sender.is_closed()
            && !self.about.is_old(now)
            && now < self.about.ends
            && unix < self.about.expires
            && !self.about.is_of_old_files()
            && (self.about.generation.is_none() || self.about.generation == generation)
    }
}

/// An HTTP/2 connection, shared by streams.
#[derive(Debug)]
pub(crate) struct Http2 {
    sender: RefCell<http2::SendRequest<UpBody>>,
    driven: Weak<Driven>,
    about: About,
    streams: Cell<u32>,
    /// By its cluster's gate.
    counted: Cell<Counted>,
    /// Until when it takes no new streams, or took none the last time.
    yields_until: Cell<Option<Moment>>,
    yielding: Cell<bool>,
}

impl Http2 {
    pub(super) fn new(
        sender: http2::SendRequest<UpBody>,
        driven: Weak<Driven>,
        about: About,
    ) -> Self {
        Self {
            sender: RefCell::new(sender),
            driven,
            about,
            streams: Cell::new(0),
            counted: Cell::default(),
            yields_until: Cell::new(None),
            yielding: Cell::new(false),
        }
    }

    /// It is pooled.
    pub(super) fn joins(&self, gate: &Gate, worker: usize) {
        self.count(gate, worker, Counted::Spare);
        self.recount(gate, worker);
    }

    /// It is pooled no longer; its streams go on.
    pub(super) fn leaves(&self, gate: &Gate, worker: usize) {
        self.count(gate, worker, Counted::Not);
    }

    /// Its first stream has begun, or its last one has ended.
    fn recount(&self, gate: &Gate, worker: usize) {
        match self.counted.get() {
            Counted::Not => {}
            _ if self.streams.get() > 0 => self.count(gate, worker, Counted::Busy),
            _ => self.count(gate, worker, Counted::Spare),
        }
    }

    fn count(&self, gate: &Gate, worker: usize, next: Counted) {
        gate.count_shared(worker, self.counted.replace(next), next);
    }

    pub(crate) fn streams(&self) -> u32 {
        self.streams.get()
    }

    pub(crate) fn is_roomy(&self) -> bool {
        self.streams.get() < ROOMY_STREAMS
    }

    /// See [`About::is_for`].
    pub(crate) fn is_for(&self, judge: Judge<'_>) -> bool {
        self.about.is_for(judge)
    }

    /// One more stream is within what the cluster and the peer allow, and is not held back for a waiter elsewhere.
    pub(crate) fn has_room(&self, judge: Judge<'_>) -> bool {
        let most = judge.cluster.config.max_concurrent_streams;
        if self.is_yielding(judge.now) || most.is_some_and(|most| self.streams.get() >= most) {
            return false;
        }
        let Some(driven) = self.driven.upgrade() else {
            return true;
        };
        // Asked from inside hyper, of which nobody knows a case: let it keep the stream.
        let Ok(driven) = driven.try_borrow() else {
            return true;
        };
        // A peer that allows none for now gets one, which waits for it to change its mind.
        usize::try_from(self.streams.get())
            .is_ok_and(|n| n < driven.current_max_send_streams().max(1))
    }

    /// Takes no new streams for a moment, so that a waiter elsewhere gets its slot once the last one has ended. A
    /// stream that lasts must not stop everybody here as well, so the moment passes. False if it was tried lately.
    pub(crate) fn yields(&self, now: Moment, connect_timeout: Duration) -> bool {
        let lately = |until: Moment| now.0 < until.0.saturating_add(YIELD_AGAIN_MS);
        if self.yields_until.get().is_some_and(lately) {
            return false;
        }
        // Who waits here meanwhile waits as long as the connect timeout, and gets a stream after all.
        let moment = YIELD_MS.min(millis(connect_timeout) / 2);
        let until = Moment(now.0.saturating_add(moment));
        self.yields_until.set(Some(until));
        self.yielding.set(true);
        true
    }

    pub(crate) fn is_yielding(&self, now: Moment) -> bool {
        self.yielding.get() && self.yields_until.get().is_some_and(|until| now < until)
    }

    /// True if it has taken no streams until now, and takes them again.
    pub(crate) fn ends_yield(&self, now: Moment) -> bool {
        self.yielding.get() && !self.is_yielding(now) && self.yielding.replace(false)
    }

    pub(crate) fn fit(&self, judge: Judge<'_>) -> bool {
        !self.sender.borrow().is_closed()
            && self.about.fits(judge)
            && !self.about.used_up(judge.cluster, judge.now)
    }

    pub(crate) fn worth_keeping(&self, now: Moment, unix: u64, generation: Option<u64>) -> bool {
        !self.sender.borrow().is_closed()
            && (self.streams.get() > 0 || !self.about.is_old(now))
            && now < self.about.ends
            && unix < self.about.expires
            && !self.about.is_of_old_files()
            && (self.about.generation.is_none() || self.about.generation == generation)
    }
}

/// A request's hold on a connection. Dropping it without [`Self::release`] closes an HTTP/1.1 connection.
#[derive(Debug)]
pub(crate) struct Lease {
    kind: Kind,
    /// It has carried a request before: the peer may have closed it already.
    pub(crate) reused: bool,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the larger one is the common one"
)]
enum Kind {
    Http1 {
        connection: Http1,
        pools: Rc<Pools>,
        cluster: Rc<ClusterPool>,
        endpoint: Rc<EndpointPool>,
    },
    Http2(Stream),
}

#[derive(Debug)]
struct Stream {
    connection: Rc<Http2>,
    pools: Rc<Pools>,
    cluster: Rc<ClusterPool>,
    endpoint: Rc<EndpointPool>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let streams = &self.connection.streams;
        streams.set(streams.get().saturating_sub(1));
        let now = self.pools.shared.now();
        self.connection.about.idle_since.set(now);
        let (gate, worker) = (&self.cluster.gate, self.pools.worker);
        if streams.get() == 0 {
            self.connection.recount(gate, worker);
            if gate.over() > 0 || gate.anyone_elsewhere(worker, self.endpoint.id) {
                self.cluster.shed(worker, now);
            }
        }
        if !self.connection.yielding.get() {
            self.endpoint.room.notify_one();
        }
    }
}

impl Lease {
    pub(crate) fn http1(
        connection: Http1,
        pools: &Rc<Pools>,
        cluster: Rc<ClusterPool>,
        endpoint: Rc<EndpointPool>,
    ) -> Self {
        let reused = connection.about.requests.get() > 0;
        connection.about.one_more(pools.shared.now());
        Self {
            reused,
            kind: Kind::Http1 {
                connection,
                pools: Rc::clone(pools),
                cluster,
                endpoint,
            },
        }
    }

    pub(crate) fn http2(
        connection: Rc<Http2>,
        pools: &Rc<Pools>,
        cluster: Rc<ClusterPool>,
        endpoint: Rc<EndpointPool>,
    ) -> Self {
        let reused = connection.about.requests.get() > 0;
        connection.about.one_more(pools.shared.now());
        connection.streams.set(connection.streams.get() + 1);
        if connection.streams.get() == 1 {
            connection.recount(&cluster.gate, pools.worker);
        }
        Self {
            reused,
            kind: Kind::Http2(Stream {
                connection,
                pools: Rc::clone(pools),
                cluster,
                endpoint,
            }),
        }
    }

    pub(crate) fn about(&self) -> &About {
        match &self.kind {
            Kind::Http1 { connection, .. } => &connection.about,
            Kind::Http2(stream) => &stream.connection.about,
        }
    }

    /// The other end has shown its identity.
    pub(crate) fn is_mtls(&self) -> bool {
        self.about().mtls
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match &self.kind {
            Kind::Http1 { .. } => Protocol::Http1,
            Kind::Http2(_) => Protocol::Http2,
        }
    }

    /// The next request asks to switch protocols, or the last one has, and was answered otherwise.
    pub(crate) fn may_switch(&self, may: bool) {
        if let Kind::Http1 { connection, .. } = &self.kind {
            connection.switch.asked.set(may);
        }
    }

    /// Whether the other end takes a stream of HTTP/2 that becomes bytes (RFC 8441). It says so first of all.
    pub(crate) async fn takes_connect(&self, within: Duration) -> bool {
        let Kind::Http2(stream) = &self.kind else {
            return true;
        };
        let connection = &stream.connection;
        let says = || {
            let driven = connection.driven.upgrade();
            driven.is_some_and(|driven| {
                let driven = driven.try_borrow();
                driven.is_ok_and(|driven| driven.is_extended_connect_protocol_enabled())
            })
        };
        let said = async {
            while !says() {
                let heard = connection.about.heard.any();
                sleep(SETTINGS_EVERY).await;
                if heard && !says() {
                    return false;
                }
            }
            true
        };
        timeout(within, said).await.unwrap_or(false)
    }

    /// The last answer has switched.
    pub(crate) fn into_up(self, answer: &mut http::Extensions) -> Option<Up> {
        let under = Under {
            expires: self.about().expires,
            generation: self.about().generation,
        };
        let kind = match self.kind {
            Kind::Http1 { connection, .. } => UpKind::Http1(Box::new(connection)),
            Kind::Http2(_) => UpKind::Http2(answer.remove::<OnUpgrade>()?, Box::new(self)),
        };
        Some(Up { kind, under })
    }

    /// HTTP/1.1: bytes came after the request was sent. (What comes over HTTP/2 may be another stream's.)
    pub(crate) fn heard(&self) -> bool {
        match &self.kind {
            Kind::Http1 { connection, .. } => connection.about.heard.any(),
            Kind::Http2(_) => false,
        }
    }

    /// Sends; an error holds the request if it was not sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<UpBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<UpBody>>> {
        match &mut self.kind {
            Kind::Http1 { connection, .. } => {
                connection.about.heard.listen();
                let sent = connection.sender.try_send_request(request).await;
                connection.about.heard.has_head();
                // A caller that broke off says nothing about how long the server keeps connections.
                let by_server = |error: &TrySendError<_>| !error.error().is_user();
                let broke = sent.as_ref().is_err_and(by_server);
                if broke && self.reused && !connection.about.heard.any() {
                    connection.about.was_closed();
                }
                sent
            }
            Kind::Http2(stream) => {
                let sent = stream
                    .connection
                    .sender
                    .borrow_mut()
                    .try_send_request(request);
                sent.await
            }
        }
    }

    /// The response is complete; what is left of `upload` may still be on its way for as long as it moves.
    pub(crate) fn release(self, policy: &Cluster, upload: &Upload) {
        let Kind::Http1 {
            mut connection,
            pools,
            cluster,
            endpoint,
        } = self.kind
        else {
            return;
        };
        let now = pools.shared.now();
        if connection.about.used_up(policy, now) || connection.sender.is_closed() {
            return;
        }
        if connection.sender.is_ready() {
            give_back(&pools, &cluster, &endpoint, connection);
            return;
        }
        // The last bytes of the response, or of a slow upload, are still on their way through the connection.
        let upload = upload.clone();
        tokio::task::spawn_local(async move {
            loop {
                let before = upload.bytes();
                match timeout(READY_WITHIN, connection.sender.ready()).await {
                    Ok(Ok(())) => {
                        return give_back(&pools, &cluster, &endpoint, connection);
                    }
                    Ok(Err(_closed)) => return,
                    Err(_elapsed) if upload.bytes() > before => {}
                    Err(_elapsed) => {
                        upload.cut();
                        return connection.driver.abort();
                    }
                }
            }
        });
    }
}

/// To a waiter, to the pool, or closed for a waiter elsewhere.
pub(crate) fn give_back(
    pools: &Rc<Pools>,
    cluster: &Rc<ClusterPool>,
    endpoint: &Rc<EndpointPool>,
    connection: Http1,
) {
    if connection.about.tells() && cluster.gate.contended() {
        // Who waits is somebody else: its slot will do.
        return;
    }
    connection.about.begins_rest(pools.shared.now());
    let mut connection = connection;
    loop {
        match cluster.gate.claim(pools.worker, endpoint.id) {
            Claim::Close => return,
            Claim::Keep => match endpoint.put_idle(&cluster.gate, pools.worker, connection) {
                None => return,
                Some(back) => connection = back,
            },
            Claim::Give(number, grant) => {
                let key = (cluster.gate.slot, number);
                pools.handed.borrow_mut().insert(key, connection);
                if grant.send(Grant::Handed).is_ok() {
                    return;
                }
                match pools.handed.borrow_mut().remove(&key) {
                    Some(back) => connection = back,
                    None => return,
                }
            }
        }
    }
}
