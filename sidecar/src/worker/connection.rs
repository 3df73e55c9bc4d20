//! A downstream connection as its worker watches it: one coarse tick a second looks at all of them, so that no
//! request and no connection needs a timer of its own.
//!
//! ```text
//! tick ──► head or frame begun 10 s ago, not complete; nothing taken of what is written for 5 min ──► cut
//!      ──► idle too long | certificate ends | listener closed | draining ──► graceful end
//! ```

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use outrigger_core::{
    Caller, ConnectionSettings, Direction, FilterChain, FilterChains, Greeting, InUse, Moment,
    PeerNames,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;

use crate::{
    forward::tunnel::{Switched, Tunnel},
    http::frames::{Budget, Exceeded},
    listen::Bound,
    proxy_protocol::header::Ends,
    tls::Svid,
};

/// A header must be complete this long after its first byte.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any upstream pool of a peer keeps an idle connection (1 h), so that it is the peer who ends it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75 * 60);

/// How long requests in flight may outlast the certificate of their connection.
const EXPIRED_GRACE_S: u64 = 60;

/// What a connection was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Go on.
    Serve,
    /// End after the response in flight.
    EndGracefully,
    /// End now.
    Cut,
}

/// Who is at the other end, once TLS has said so.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) svid: Svid,
    /// Leaf first; verified again when the trust bundle changes.
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
}

/// Who is at the other end of the upstream connection that belongs to one of bytes.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Leaf first; verified again when the trust bundle changes.
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
    /// SPIFFE ids that it may have.
    pub(crate) expected: Arc<[String]>,
}

/// A downstream connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) bound: Arc<Bound>,
    pub(crate) remote: std::net::SocketAddr,
    /// Where it was accepted; of one that was redirected, where it was going.
    pub(crate) local: Option<std::net::SocketAddr>,
    /// Where it was going before it was redirected; None = it was not.
    pub(crate) destination: Option<std::net::SocketAddr>,
    /// Set if it was handed over to a listener that is not bound.
    pub(crate) handed: Option<InUse>,
    pub(crate) peer: Option<Peer>,
    /// What its TLS asked for, wherever that ends.
    pub(crate) server_name: Option<Box<str>>,
    /// What its first bytes were; None = they were not looked at.
    pub(crate) greeting: Option<Greeting>,
    /// It carries bytes, not requests.
    pub(crate) is_bytes: Cell<bool>,
    /// Our own SPIFFE id on this connection.
    pub(crate) own_id: Option<Arc<str>>,
    /// Unix seconds of the earlier end of both certificates.
    pub(crate) expires: Option<u64>,
    /// Of a connection of bytes whose upstream is under mTLS.
    pub(crate) server: RefCell<Option<Server>>,
    /// What it becomes once its answer is out, of HTTP/1.1.
    pub(crate) tunnel: RefCell<Option<Box<Tunnel>>>,
    /// Requests of it that have become bytes.
    pub(crate) switched: RefCell<Vec<Weak<Switched>>>,
    /// CONNECT has led to requests.
    pub(crate) serves_connect: Cell<bool>,
    order: Cell<Order>,
    /// It ends after its next response.
    leaving: Cell<bool>,
    changed: Notify,
    /// When it ends even if something is still under way.
    cut_at: Cell<Option<Moment>>,
    active: Cell<u32>,
    now: Rc<Cell<Moment>>,
    idle_since: Cell<Moment>,
    opened: Moment,
    /// Requests so far, where there may be so many only.
    requests: Cell<u32>,
    /// It has brought a request.
    served: Cell<bool>,
    /// What its listener says about its end.
    pub(crate) settings: ConnectionSettings,
    head_since: Cell<Option<Moment>>,
    /// Since when its other end takes nothing of what is written.
    blocked_since: Cell<Option<Moment>>,
    /// Of HTTP/2: answers of which it was given a part and has not asked for the next, and when one of them moved last.
    stalled: Cell<u32>,
    moved: Cell<Moment>,
    /// What its frames may still cost, and who has had enough of it.
    pub(crate) frames: Budget,
    /// The limit for which it ends.
    pub(crate) went_beyond: Cell<Option<Exceeded>>,
    /// HTTP/2 sends bytes without a request in them.
    http2: Cell<bool>,
}

impl Connection {
    pub(crate) fn new(
        bound: Arc<Bound>,
        remote: std::net::SocketAddr,
        now: Rc<Cell<Moment>>,
    ) -> Self {
        Self {
            bound,
            remote,
            local: None,
            destination: None,
            handed: None,
            peer: None,
            server_name: None,
            greeting: None,
            is_bytes: Cell::new(false),
            own_id: None,
            expires: None,
            server: RefCell::new(None),
            tunnel: RefCell::new(None),
            switched: RefCell::default(),
            serves_connect: Cell::new(false),
            order: Cell::new(Order::Serve),
            leaving: Cell::new(false),
            changed: Notify::new(),
            cut_at: Cell::new(None),
            active: Cell::new(0),
            idle_since: Cell::new(now.get()),
            opened: now.get(),
            requests: Cell::new(0),
            served: Cell::new(false),
            settings: ConnectionSettings::default(),
            head_since: Cell::new(None),
            blocked_since: Cell::new(None),
            stalled: Cell::new(0),
            moved: Cell::new(now.get()),
            frames: Budget::default(),
            went_beyond: Cell::new(None),
            http2: Cell::new(false),
            now,
        }
    }

    /// Who is at the other end, for access rules.
    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller {
            remote: self.remote.ip(),
            local: self.local,
            peer: self.peer.as_ref().map(|peer| PeerNames {
                uri: &peer.svid.id,
                dns: &peer.svid.dns,
                subject: &peer.svid.subject,
            }),
            server_name: self.server_name.as_deref().unwrap_or_default(),
        }
    }

    /// For whom connections are opened for it.
    pub(crate) fn ends(&self) -> Option<Ends> {
        self.local.map(|destination| Ends {
            source: self.remote,
            destination,
        })
    }

    /// The chain that it has, or would have, among `chains`, which may be others than when it came; None = it would
    /// not be let in, or not without the certificate that it has not shown.
    pub(crate) fn chain<'a>(&self, chains: &'a FilterChains) -> Option<&'a FilterChain> {
        let has_tls = self.peer.is_some();
        let chain = match (chains.only(), &self.greeting) {
            (Some(only), _) => only,
            (None, Some(greeting)) => chains.find_for(greeting, self.local)?,
            // From before first bytes were looked at.
            (None, None) => {
                let greeting = Greeting {
                    tls: has_tls,
                    server_name: self.server_name.clone(),
                    ..Greeting::default()
                };
                chains.find_for(&greeting, self.local)?
            }
        };
        (chain.tls.is_some() == has_tls).then_some(chain)
    }

    /// Ends after what is under way, which has until `at`.
    pub(crate) fn end_by(&self, at: Moment) {
        self.cut_at.set(Some(at));
        self.order(Order::EndGracefully);
    }

    /// Of others, which are to go elsewhere: ends after the response in flight or else the next one. An idle connection of
    /// HTTP/1.1 is not closed, as a request may be on its way; HTTP/2 says which requests it took.
    pub(crate) fn leave(&self) {
        if self.bound.direction != Direction::Inbound || self.is_bytes.get() {
            return;
        }
        self.leaving.set(true);
        if self.active.get() > 0 || (self.http2.get() && self.served.get()) {
            self.order(Order::EndGracefully);
        }
    }

    pub(crate) fn speaks_http2(&self) {
        self.http2.set(true);
    }

    /// Orders only ever become stricter.
    pub(crate) fn order(&self, order: Order) {
        if order > self.order.get() {
            self.order.set(order);
            // Each stream that carries bytes waits, beside the connection itself.
            self.changed.notify_waiters();
        }
    }

    /// Waits for an order stricter than `known`.
    pub(crate) async fn ordered(&self, known: Order) -> Order {
        while self.order.get() <= known {
            self.changed.notified().await;
        }
        self.order.get()
    }

    /// What is written finds no room.
    pub(crate) fn write_blocked(&self) {
        if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(self.now.get()));
        }
    }

    pub(crate) fn wrote(&self) {
        self.blocked_since.set(None);
    }

    /// It was given a part of an answer; until the guard is dropped, it does not ask for the next.
    pub(crate) fn given(self: &Rc<Self>) -> Given {
        self.stalled.set(self.stalled.get() + 1);
        self.moved.set(self.now.get());
        Given(Rc::clone(self))
    }

    /// By the worker's coarse clock.
    pub(crate) fn now(&self) -> Moment {
        self.now.get()
    }

    pub(crate) fn bytes_arrived(&self) {
        if self.active.get() == 0 && !self.http2.get() && self.head_since.get().is_none() {
            self.head_since.set(Some(self.now.get()));
        }
    }

    /// Of HTTP/2: a frame or header block has begun that is not whole yet, or is.
    pub(crate) fn is_within_head(&self, within: bool) {
        match (within, self.head_since.get()) {
            (true, None) => self.head_since.set(Some(self.now.get())),
            (false, Some(_)) => self.head_since.set(None),
            _ => {}
        }
    }

    /// Marks the connection as busy until the guard is dropped.
    pub(crate) fn begin(self: &Rc<Self>) -> ActiveRequest {
        self.active.set(self.active.get() + 1);
        self.served.set(true);
        if self.leaving.get() {
            self.order(Order::EndGracefully);
        }
        if self.http2.get() {
            self.frames.began();
        } else {
            self.head_since.set(None);
        }
        if let Some(most) = self.settings.max_requests {
            self.requests.set(self.requests.get().saturating_add(1));
            if self.requests.get() >= most {
                self.order(Order::EndGracefully);
            }
        }
        ActiveRequest(Rc::clone(self))
    }

    /// The tick. `write_idle`: how long its other end may take nothing of what is written; zero = for ever. Says which
    /// limit has cut it.
    pub(crate) fn check(
        &self,
        now: Moment,
        unix_now: u64,
        write_idle: Duration,
    ) -> Option<&'static str> {
        let idle = self.active.get() == 0;
        let since = |moment: Moment| now.0.saturating_sub(moment.0);
        let head_timeout = self.settings.head_timeout.unwrap_or(HEAD_TIMEOUT);
        if (idle || self.http2.get())
            && !head_timeout.is_zero()
            && let Some(begun) = self.head_since.get()
            && since(begun) >= millis(head_timeout)
        {
            return self.cut("head_timeout");
        }
        let takes_nothing = self
            .blocked_since
            .get()
            .or_else(|| (self.stalled.get() > 0).then(|| self.moved.get()));
        if !write_idle.is_zero()
            && takes_nothing.is_some_and(|blocked| since(blocked) >= millis(write_idle))
        {
            return self.cut("write_idle");
        }
        let ends = &self.settings;
        let idle_timeout = ends.idle_timeout.unwrap_or(IDLE_TIMEOUT);
        if (idle && !idle_timeout.is_zero() && since(self.idle_since.get()) >= millis(idle_timeout))
            || ends
                .max_age
                .is_some_and(|age| since(self.opened) >= millis(age))
            || self.expires.is_some_and(|end| unix_now >= end)
            || self.bound.is_closing()
        {
            self.order(Order::EndGracefully);
        }
        if self.cut_at.get().is_some_and(|at| now >= at) {
            self.order(Order::Cut);
        }
        // A stream that never ends must not carry an identity beyond its time.
        if self
            .expires
            .is_some_and(|end| unix_now >= end.saturating_add(EXPIRED_GRACE_S))
        {
            self.order(Order::Cut);
        }
        None
    }

    /// Once.
    fn cut(&self, limit: &'static str) -> Option<&'static str> {
        let first = self.order.get() != Order::Cut;
        self.order(Order::Cut);
        first.then_some(limit)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A part of an answer over HTTP/2 that waits for room in the caller's windows.
#[derive(Debug)]
pub(crate) struct Given(Rc<Connection>);

impl Drop for Given {
    fn drop(&mut self) {
        let connection = &self.0;
        connection
            .stalled
            .set(connection.stalled.get().saturating_sub(1));
        connection.moved.set(connection.now.get());
    }
}

/// A request between its head and the end of its response.
#[derive(Debug)]
pub(crate) struct ActiveRequest(Rc<Connection>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let connection = &self.0;
        connection
            .active
            .set(connection.active.get().saturating_sub(1));
        connection.idle_since.set(connection.now.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock(Rc<Cell<Moment>>);

    fn connection() -> (Rc<Connection>, Clock) {
        let now = Rc::new(Cell::new(Moment(0)));
        let bound = Arc::new(Bound::new("http_proxy", Direction::Outbound));
        let remote = "127.0.0.1:1".parse().unwrap();
        let connection = Connection::new(bound, remote, Rc::clone(&now));
        (Rc::new(connection), Clock(now))
    }

    impl Clock {
        fn tick(&self, connection: &Connection, at_ms: u64) -> Order {
            self.0.set(Moment(at_ms));
            connection.check(Moment(at_ms), at_ms / 1000, Duration::from_secs(60));
            connection.order.get()
        }
    }

    #[test]
    fn a_head_that_is_not_complete_in_ten_seconds_is_cut() {
        let (slow, clock) = connection();
        slow.bytes_arrived();
        assert_eq!(clock.tick(&slow, 9_999), Order::Serve);
        slow.bytes_arrived();
        assert_eq!(clock.tick(&slow, 10_000), Order::Cut);
    }

    #[test]
    fn a_caller_that_opens_no_window_is_cut_unless_another_answer_moves() {
        let (stalled, clock) = connection();
        let _active = stalled.begin();
        let _given = stalled.given();
        assert_eq!(clock.tick(&stalled, 59_999), Order::Serve);
        drop(stalled.given());
        assert_eq!(clock.tick(&stalled, 119_998), Order::Serve);
        assert_eq!(clock.tick(&stalled, 119_999), Order::Cut);
    }

    #[test]
    fn a_caller_that_takes_nothing_for_a_minute_is_cut() {
        let (stalled, clock) = connection();
        let _active = stalled.begin();
        stalled.write_blocked();
        assert_eq!(clock.tick(&stalled, 59_999), Order::Serve);
        stalled.wrote();
        stalled.write_blocked();
        assert_eq!(clock.tick(&stalled, 60_000), Order::Serve);
        stalled.write_blocked();
        assert_eq!(clock.tick(&stalled, 119_999), Order::Cut);
    }

    #[test]
    fn a_long_request_and_an_idle_connection_are_left_alone() {
        let (busy, clock) = connection();
        busy.bytes_arrived();
        let active = busy.begin();
        assert_eq!(clock.tick(&busy, 3_600_000), Order::Serve);
        drop(active);
        assert_eq!(clock.tick(&busy, 3_700_000), Order::Serve);
        assert_eq!(
            clock.tick(&busy, 3_600_000 + millis(IDLE_TIMEOUT)),
            Order::EndGracefully
        );
    }

    /// A connection whose listener says this.
    fn with(settings: ConnectionSettings) -> (Rc<Connection>, Clock) {
        let (connection, clock) = connection();
        let mut connection = Rc::into_inner(connection).unwrap();
        connection.settings = settings;
        (Rc::new(connection), clock)
    }

    #[test]
    fn a_listener_says_how_long_a_connection_may_be_idle_and_how_old_it_may_be() {
        let (idle, clock) = with(ConnectionSettings {
            idle_timeout: Some(Duration::from_secs(2)),
            ..ConnectionSettings::default()
        });
        assert_eq!(clock.tick(&idle, 1_999), Order::Serve);
        assert_eq!(clock.tick(&idle, 2_000), Order::EndGracefully);
        let (patient, clock) = with(ConnectionSettings {
            idle_timeout: Some(Duration::ZERO),
            ..ConnectionSettings::default()
        });
        assert_eq!(clock.tick(&patient, u64::MAX / 2), Order::Serve);
        let (old, clock) = with(ConnectionSettings {
            max_age: Some(Duration::from_secs(2)),
            ..ConnectionSettings::default()
        });
        let _busy = old.begin();
        assert_eq!(clock.tick(&old, 1_999), Order::Serve);
        assert_eq!(clock.tick(&old, 2_000), Order::EndGracefully);
    }

    #[test]
    fn a_connection_ends_after_as_many_requests_as_its_listener_says() {
        let (connection, _clock) = with(ConnectionSettings {
            max_requests: Some(2),
            ..ConnectionSettings::default()
        });
        drop(connection.begin());
        assert_eq!(connection.order.get(), Order::Serve);
        drop(connection.begin());
        assert_eq!(connection.order.get(), Order::EndGracefully);
    }

    #[test]
    fn a_connection_ends_with_the_earlier_certificate() {
        let (connection, clock) = connection();
        let mut connection = Rc::into_inner(connection).unwrap();
        connection.expires = Some(100);
        let connection = Rc::new(connection);
        let _stream = connection.begin();
        assert_eq!(clock.tick(&connection, 99_999), Order::Serve);
        assert_eq!(clock.tick(&connection, 100_000), Order::EndGracefully);
        assert_eq!(clock.tick(&connection, 160_000), Order::Cut);
    }
}
