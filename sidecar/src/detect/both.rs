//! Finds out what a connection speaks whose protocol nobody has declared, by looking at both sides.
//!
//! ```text
//! client speaks ──► what its bytes are; undecided as long as they may become HTTP
//! client silent ──► the upstream is connected to, as for bytes ──► server speaks ──► bytes, at once
//!                                                              └─► both silent ──► nobody is kept waiting
//! ```
//! No timeout decides anything: a client that is slow is asked for nothing less than one that is fast. What has begun and
//! never becomes anything, is closed.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use outrigger_core::{ConnectionRoute, Direction, Greeting, HTTP1, HTTP2, Inspect};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::{
    memory::Known,
    sniff::{self, Client, Server},
};
use crate::{
    hello::{
        MAX_BYTES,
        peek::{self, NoHello},
    },
    tcp::early::{self, Early, Failed},
    worker::{Worker, connection::Connection},
};

/// A client that speaks first has done so by then, on the same host; a server that speaks first is asked after it.
const GRACE: Duration = Duration::from_millis(2);
/// The same where clients have spoken HTTP before.
const GRACE_OF_HTTP: Duration = Duration::from_millis(500);
/// What has begun has to become something.
const UNDECIDED_FOR: Duration = Duration::from_secs(10);
/// The least that a ClientHello has that has begun.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// A server's bytes that might be HTTP's are not.
const SERVER_UNDECIDED_FOR: Duration = Duration::from_millis(50);
/// A client says something by then, if there is no server that could.
const ALONE_FOR: Duration = Duration::from_secs(1);
/// Without an upstream, whoever says nothing leaves.
const SILENT_FOR: Duration = Duration::from_secs(10);
const FIRST_READ: usize = 4096;

/// What was found out.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) greeting: Greeting,
    /// What the client has said.
    pub(crate) first: Bytes,
    /// The upstream of a connection of bytes, which is there already, or not to be had.
    pub(crate) early: Option<Result<Early, Failed>>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Tls,
    Http1,
    Http2,
    Other,
}

impl Told {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Other => "tcp",
        }
    }
}

/// Where connections of bytes lead to that begin here, if any may.
pub(crate) type Bytewise = Option<Arc<ConnectionRoute>>;

type Opening<'a> = Pin<Box<dyn Future<Output = Result<Early, Failed>> + 'a>>;

/// The upstream before it is known whether there is need of it.
enum Upstream<'a> {
    Not,
    Opening(Opening<'a>),
    Open(Early, BytesMut),
    /// Not to be had, since.
    Failed(Failed, Instant),
}

/// Looks at both sides.
pub(crate) async fn look(
    worker: &Worker,
    connection: &Connection,
    stream: &mut TcpStream,
    inspect: Inspect,
    bytewise: Bytewise,
) -> Result<Seen, NoHello> {
    let began = Instant::now();
    let memory = &worker.shared.protocols;
    let destination = connection.local;
    let known = destination.and_then(|to| memory.of(to, began.into_std()));
    let may_speak = bytewise.filter(|route| early::is_allowed(connection, route));
    let mut asks_at = may_speak.is_some().then(|| {
        let grace = match known {
            Some(Known::ServerFirst | Known::ClientFirst) => Duration::ZERO,
            None => GRACE,
            Some(Known::Http) => GRACE_OF_HTTP,
        };
        began + grace
    });
    let silence_ends = match &may_speak {
        None => Some(began + SILENT_FOR),
        Some(route) => route.idle_timeout.map(|idle| began + idle),
    };
    let mut bytes = BytesMut::new();
    let mut first_at = None;
    let mut server_at = None;
    let mut up = Upstream::Not;
    let (told, by) = loop {
        match decide(&bytes, inspect) {
            Client::Undecided => {}
            Client::Tls => break (Told::Tls, "client"),
            Client::Http1 => break (Told::Http1, "client"),
            Client::Http2 => break (Told::Http2, "client"),
            Client::Other => break (Told::Other, "client"),
        }
        let failed_since = match &up {
            Upstream::Failed(_, since) if bytes.is_empty() => Some(*since + ALONE_FOR),
            _ => None,
        };
        let undecided = first_at.map(|at: Instant| at + UNDECIDED_FOR);
        let silence = silence_ends.filter(|_| bytes.is_empty());
        let ends_at = [failed_since, undecided, silence];
        let ends_at = ends_at.into_iter().flatten().min();
        let server_ends = server_at.map(|at: Instant| at + SERVER_UNDECIDED_FOR);
        tokio::select! {
            biased;
            read = read(stream, &mut bytes) => {
                if matches!(read, Ok(0) | Err(_)) {
                    if bytes.is_empty() || read.is_err() {
                        return Err(NoHello::Gone);
                    }
                    // All that will ever come: its end is as good as that of a line.
                    let whole = [&bytes[..], b"\r\n"].concat();
                    break match decide(&whole, inspect) {
                        Client::Http1 => (Told::Http1, "client"),
                        _ => (Told::Other, "client"),
                    };
                }
                first_at.get_or_insert_with(Instant::now);
            }
            event = up.next() => match event {
                Event::Opened(Ok(early)) => up = Upstream::Open(early, BytesMut::new()),
                Event::Opened(Err(failed)) => up = Upstream::Failed(failed, Instant::now()),
                Event::Said => {
                    server_at.get_or_insert_with(Instant::now);
                    match up.heard() {
                        Server::Undecided => {}
                        Server::Http1 => break (Told::Http1, "server"),
                        Server::Http2 => break (Told::Http2, "server"),
                        Server::Other => break (Told::Other, "server"),
                    }
                }
                // It has nothing to say, and neither has a client to it.
                Event::Closed => break (Told::Other, "closed"),
                Event::Torn => {
                    early::reset(stream);
                    return Err(NoHello::Gone);
                }
            },
            () = at(server_ends) => break (Told::Other, "server"),
            () = at(asks_at) => {
                asks_at = None;
                if let Some(route) = &may_speak {
                    let opening = early::open(worker, connection, Arc::clone(route));
                    up = Upstream::Opening(Box::pin(opening));
                }
            }
            () = at(ends_at) => {
                if let Upstream::Failed(..) = up && bytes.is_empty() {
                    break (Told::Other, "silence");
                }
                if inspect.silence_is_plain && !inspect.http && bytes.is_empty() {
                    break (Told::Other, "silence");
                }
                if bytes.is_empty() {
                    return Err(NoHello::Gone);
                }
                return Err(NoHello::Undecided(UNDECIDED_FOR));
            }
        }
    };
    let metrics = &worker.telemetry.metrics;
    metrics.detected(hop(connection), told.as_str(), by);
    if let Some(to) = destination {
        let found = match (told, by) {
            (Told::Other, "server") => Some(Known::ServerFirst),
            (Told::Other, "client") => Some(Known::ClientFirst),
            (Told::Http1 | Told::Http2, _) => Some(Known::Http),
            _ => None,
        };
        if let Some(found) = found.filter(|found| Some(*found) != known) {
            memory.learn(to, found, Instant::now().into_std());
        }
    }
    let was_opened = matches!(up, Upstream::Opening(_) | Upstream::Open(..));
    let early = match told {
        Told::Other => up.finish().await,
        Told::Tls | Told::Http1 | Told::Http2 => None,
    };
    match &early {
        Some(Ok(_)) => metrics.early_connection("used"),
        Some(Err(_)) => metrics.early_connection("failed"),
        None if was_opened => metrics.early_connection("unused"),
        None => {}
    }
    let greeting = match told {
        Told::Http1 => Greeting::plain(HTTP1),
        Told::Http2 => Greeting::plain(HTTP2),
        Told::Other => Greeting::default(),
        Told::Tls => return tls(worker, connection, stream, inspect, bytes).await,
    };
    Ok(Seen {
        greeting,
        first: bytes.freeze(),
        early,
    })
}

/// What the client's bytes are, as far as the listener wants to know.
fn decide(bytes: &[u8], inspect: Inspect) -> Client {
    match sniff::client(bytes) {
        Client::Tls if !inspect.tls => Client::Other,
        Client::Http1 | Client::Http2 if !inspect.http => Client::Other,
        // Whatever becomes of it, it is no TLS.
        Client::Undecided if !inspect.http && bytes.first().is_some_and(|first| *first != 22) => {
            Client::Other
        }
        decided => decided,
    }
}

/// The whole ClientHello.
async fn tls(
    worker: &Worker,
    connection: &Connection,
    stream: &mut TcpStream,
    inspect: Inspect,
    bytes: BytesMut,
) -> Result<Seen, NoHello> {
    let Some(_going_on) = worker.handshakes.begin() else {
        return Err(NoHello::TooMany);
    };
    // That much may be lost on its way, whatever others have to say who they are.
    let within = inspect.within.max(HELLO_WITHIN);
    let inspect = Inspect { within, ..inspect };
    let begun = bytes.clone();
    match peek::greeting_after(stream, inspect, bytes).await {
        Ok((greeting, first)) => Ok(Seen {
            greeting,
            first,
            early: None,
        }),
        // A protocol of the application's that begins as TLS does; of what others send, TLS alone may begin so.
        Err(NoHello::Not(_))
            if connection.bound.direction == Direction::Outbound && inspect.http =>
        {
            Ok(Seen {
                greeting: Greeting::default(),
                first: begun.freeze(),
                early: None,
            })
        }
        Err(no) => Err(no),
    }
}

/// What comes of the upstream.
#[expect(clippy::large_enum_variant, reason = "made and taken apart at once")]
enum Event {
    Opened(Result<Early, Failed>),
    Said,
    Closed,
    Torn,
}

impl Upstream<'_> {
    async fn next(&mut self) -> Event {
        match self {
            Self::Not | Self::Failed(..) => std::future::pending().await,
            Self::Opening(opening) => Event::Opened(opening.await),
            Self::Open(early, said) => match early.io().read_buf(said).await {
                Ok(0) => Event::Closed,
                Ok(_) => Event::Said,
                Err(_torn) => Event::Torn,
            },
        }
    }

    fn heard(&self) -> Server {
        match self {
            Self::Open(_, said) => sniff::server(said),
            _ => Server::Undecided,
        }
    }

    /// For a connection of bytes.
    async fn finish(self) -> Option<Result<Early, Failed>> {
        match self {
            Self::Not => None,
            Self::Opening(opening) => Some(opening.await),
            Self::Open(early, said) => Some(Ok(early.saying(said.freeze()))),
            Self::Failed(failed, _) => Some(Err(failed)),
        }
    }
}

async fn read(stream: &mut TcpStream, bytes: &mut BytesMut) -> io::Result<usize> {
    if bytes.capacity() == bytes.len() {
        bytes.reserve(FIRST_READ);
    }
    let room = MAX_BYTES.saturating_sub(bytes.len());
    stream
        .read_buf(&mut bytes::BufMut::limit(bytes, room))
        .await
}

fn hop(connection: &Connection) -> &'static str {
    match connection.bound.direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
