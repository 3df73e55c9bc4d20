//! Asks the servers of this machine, so that nobody else can answer for them.
//!
//! ```text
//! same bytes under way ──► join it
//! else ──► UDP from a port and with an id that nobody can guess ──(1.5 s)──► the next server, the first one still heard
//!              └─ cut off ──► TCP to the same server
//! ```
//! Every answer is held against server, id and question. One question is asked once at a time: asking it many times at
//! once is what makes guessing an id easy (RFC 5452 section 9.2), and what a circle of servers would do.

use std::{
    collections::BTreeMap,
    future::Future,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{Shared, WeakShared},
    stream::FuturesUnordered,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use super::{
    message::{self, MAX_UDP, Query},
    metrics::{Asked, Counters},
    ports::Ports,
    servers::Servers,
};
use crate::listen::caps::Seldom;

/// A server that is silent for so long is not waited for alone.
const NEXT_AFTER: Duration = Duration::from_millis(1_500);
/// What clients wait for an answer before they ask again.
const WITHIN: Duration = Duration::from_secs(5);
/// Questions for one query, over all servers.
const MAX_TRIES: usize = 6;
/// The same name and type at a time, in different bytes.
const MAX_SAME: usize = 8;
/// Datagrams to one port that are no answer, before it is given up.
const MAX_MISMATCHED: usize = 64;
/// Ports that are tried for one that no application used lately.
const MAX_PORTS: usize = 8;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NoServers,
    NoAnswer,
    /// As many of the same are under way as may be.
    Often,
}

type Flight = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;

/// Asks.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub(super) servers: Arc<Servers>,
    pub(super) ports: Ports,
    counters: Arc<Counters>,
    flights: Mutex<Flights>,
    /// The server that answered last, by its place.
    best: AtomicUsize,
    warned: Seldom,
}

#[derive(Debug, Default)]
struct Flights {
    /// By all bytes but the id, and whether the whole answer is wanted.
    under_way: BTreeMap<(Box<[u8]>, bool), WeakShared<Flight>>,
    /// By question.
    same: BTreeMap<Box<[u8]>, usize>,
}

/// One that is under way, until dropped.
struct UnderWay {
    forwarder: Arc<Forwarder>,
    key: (Box<[u8]>, bool),
    question: Box<[u8]>,
}

impl Forwarder {
    pub(super) fn new(servers: Arc<Servers>, counters: Arc<Counters>) -> Self {
        Self {
            servers,
            ports: Ports::new(),
            counters,
            flights: Mutex::default(),
            best: AtomicUsize::new(0),
            warned: Seldom::default(),
        }
    }

    /// Whether we sent this ourselves: it was led back here.
    pub(super) fn sent(&self, from: u16, bytes: &[u8]) -> bool {
        let id = bytes.first_chunk::<2>();
        let is_own = id.is_some_and(|id| self.ports.is_own(from, *id));
        if is_own && self.warned.now() {
            tracing::warn!(
                port = from,
                "a DNS query of this sidecar was led back to it: does the redirect leave out the sidecar's own user?"
            );
        }
        is_own
    }

    /// An answer, under some id. `whole`: not cut off if that can be helped.
    pub(super) async fn ask(
        self: &Arc<Self>,
        query: &Query<'_>,
        whole: bool,
    ) -> Result<Bytes, Failure> {
        let flight = self.join(query, whole)?;
        flight.await
    }

    fn join(self: &Arc<Self>, query: &Query<'_>, whole: bool) -> Result<Shared<Flight>, Failure> {
        let key: (Box<[u8]>, bool) = (query.rest().into(), whole);
        let mut flights = self.flights();
        if let Some(flight) = flights.under_way.get(&key).and_then(WeakShared::upgrade) {
            return Ok(flight);
        }
        let question: Box<[u8]> = query.question().to_ascii_lowercase().into();
        let same = flights.same.entry(question.clone()).or_insert(0);
        if *same >= MAX_SAME {
            drop(flights);
            if self.warned.now() {
                tracing::warn!(name = ?query.name, "the same DNS question is under way {MAX_SAME} times: do the DNS servers of this machine ask this sidecar? Leave their user out of the redirect, or name other servers with --dns-upstream");
            }
            return Err(Failure::Often);
        }
        *same += 1;
        let under_way = UnderWay {
            forwarder: Arc::clone(self),
            key: key.clone(),
            question,
        };
        let query = query.bytes.to_vec();
        let flight: Flight = Box::pin(async move {
            let forwarder = Arc::clone(&under_way.forwarder);
            let answer = forwarder.fly(&query, whole).await;
            drop(under_way);
            answer
        });
        let flight = flight.shared();
        if let Some(weak) = flight.downgrade() {
            flights.under_way.insert(key, weak);
        }
        Ok(flight)
    }

    async fn fly(&self, bytes: &[u8], whole: bool) -> Result<Bytes, Failure> {
        // It was read before.
        let Ok(query) = Query::read(bytes) else {
            return Err(Failure::NoAnswer);
        };
        let servers = self.servers.now();
        if servers.is_empty() {
            return Err(Failure::NoServers);
        }
        let mut worst = None;
        let good = timeout(WITHIN, self.try_all(&query, &servers, whole, &mut worst)).await;
        match (good, worst) {
            (Ok(Some(answer)), _) | (_, Some(answer)) => Ok(answer),
            (Ok(None) | Err(_), None) => Err(Failure::NoAnswer),
        }
    }

    /// The first good answer. `worst` is one that says that a server cannot help.
    async fn try_all(
        &self,
        query: &Query<'_>,
        servers: &[SocketAddr],
        whole: bool,
        worst: &mut Option<Bytes>,
    ) -> Option<Bytes> {
        let best = self.best.load(Relaxed);
        // Twice round: a datagram may be lost.
        let order = (0..servers.len() * 2).map(|place| (best + place) % servers.len());
        let mut tries = order.take(MAX_TRIES);
        let mut asked = FuturesUnordered::new();
        loop {
            let next = tries.next();
            if let Some((place, server)) = next.and_then(|at| Some((at, *servers.get(at)?))) {
                asked.push(async move { (place, self.ask_one(query, server, whole).await) });
            } else if asked.is_empty() {
                return None;
            }
            let is_last = tries.len() == 0;
            let mut patience = std::pin::pin!(sleep(NEXT_AFTER));
            tokio::select! {
                Some((place, answer)) = asked.next() => match answer {
                    Some(answer) if is_good(&answer) => {
                        self.best.store(place, Relaxed);
                        return Some(answer);
                    }
                    // Nothing more is to be had from it: the next one, at once.
                    answer => *worst = answer.or_else(|| worst.take()),
                },
                () = &mut patience, if !is_last => {}
                else => return None,
            }
        }
    }

    /// One server, once. None = no answer.
    async fn ask_one(&self, query: &Query<'_>, server: SocketAddr, whole: bool) -> Option<Bytes> {
        let silent = Silent::until_said(&self.counters);
        let answer = match self.udp(query, server).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return None,
            Err(error) => {
                tracing::debug!(%server, %error, "a DNS server could not be asked");
                silent.said(Asked::Unreachable);
                return None;
            }
        };
        if !whole || !message::is_truncated(&answer) {
            silent.said(match is_good(&answer) {
                true => Asked::Answered,
                false => Asked::Failed,
            });
            return Some(answer);
        }
        silent.said(Asked::Truncated);
        let silent = Silent::until_said(&self.counters);
        match timeout(NEXT_AFTER, self.tcp(query, server)).await {
            Ok(Ok(whole)) => {
                silent.said(Asked::Answered);
                Some(whole)
            }
            Ok(Err(error)) => {
                tracing::debug!(%server, %error, "a DNS server could not be asked over TCP");
                silent.said(Asked::Unreachable);
                Some(answer)
            }
            // Who asks sees that it is cut off.
            Err(_elapsed) => Some(answer),
        }
    }

    /// None = too much that is no answer.
    async fn udp(&self, query: &Query<'_>, server: SocketAddr) -> std::io::Result<Option<Bytes>> {
        let id = unguessable()?;
        let socket = self.socket(server).await?;
        // The kernel then passes on what comes from there, and nothing else.
        socket.connect(server).await?;
        let _own = self.ports.own(socket.local_addr()?.port(), id);
        socket.send(&query.to_forward(id)).await?;
        let mut buffer = vec![0; MAX_UDP];
        for _ in 0..MAX_MISMATCHED {
            let length = socket.recv(&mut buffer).await?;
            let answer = buffer.get(..length).unwrap_or_default();
            if query.is_answered_by(id, answer) {
                return Ok(Some(Bytes::copy_from_slice(answer)));
            }
            self.counters.asked(Asked::Mismatched);
        }
        if self.warned.now() {
            tracing::warn!(%server, "what comes from a DNS server is no answer to what it was asked: is somebody forging them?");
        }
        Ok(None)
    }

    /// On a port of the kernel's choice, which is a random one.
    async fn socket(&self, server: SocketAddr) -> std::io::Result<UdpSocket> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let mut socket = UdpSocket::bind(any).await?;
        // Each is held until the next one has another port.
        for _ in 1..MAX_PORTS {
            if !self.ports.is_tracked(socket.local_addr()?.port()) {
                break;
            }
            socket = UdpSocket::bind(any).await?;
        }
        Ok(socket)
    }

    async fn tcp(&self, query: &Query<'_>, server: SocketAddr) -> std::io::Result<Bytes> {
        let id = unguessable()?;
        let mut stream = TcpStream::connect(server).await?;
        let message = query.to_forward(id);
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&message);
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await?;
        if !query.is_answered_by(id, &answer) {
            self.counters.asked(Asked::Mismatched);
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        Ok(answer.into())
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut flights = self.forwarder.flights();
        flights.under_way.remove(&self.key);
        if let Some(same) = flights.same.get_mut(&self.question) {
            *same -= 1;
            if *same == 0 {
                flights.same.remove(&self.question);
            }
        }
    }
}

/// Counts a server as silent, unless something else is said of it.
struct Silent<'a>(Option<&'a Counters>);

impl<'a> Silent<'a> {
    fn until_said(counters: &'a Counters) -> Self {
        Self(Some(counters))
    }

    fn said(mut self, outcome: Asked) {
        if let Some(counters) = self.0.take() {
            counters.asked(outcome);
        }
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        if let Some(counters) = self.0 {
            counters.asked(Asked::Silent);
        }
    }
}

/// It says something of the name: not that the server cannot, or does not want to.
fn is_good(answer: &[u8]) -> bool {
    matches!(message::code_of(answer), 0 | 3)
}

fn unguessable() -> std::io::Result<u16> {
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id)
        .map_err(|_unspecified| std::io::Error::other("no random numbers"))?;
    Ok(u16::from_be_bytes(id))
}
