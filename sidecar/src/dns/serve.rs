//! The two transports. Each query is one task's, or none's: what is known is answered where it is read.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf as _, BytesMut};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    answer::Resolver,
    message::MAX_QUERY,
    metrics::{Outcome, Over},
};

/// Connections for queries.
const MAX_CONNECTIONS: usize = 128;
/// Queries of one connection that wait for an answer; the next is read after one of them (RFC 7766 section 6.2.1.1).
const PIPELINED: usize = 16;
/// A connection without a query, and a query that does not come to its end (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// A client that does not take its answer.
const WRITE_WITHIN: Duration = Duration::from_secs(5);
/// Pause after the socket failed for want of something.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves for ever.
pub(super) async fn udp(socket: Arc<UdpSocket>, resolver: Arc<Resolver>) {
    let mut tasks = JoinSet::new();
    // One more than a query may have: what is cut off is none.
    let mut buffer = vec![0; MAX_QUERY + 1];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_ended) = tasks.join_next() => continue,
        };
        let (length, from) = match received {
            Ok(received) => received,
            // A client that went away before its answer came.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(%error, "reading DNS queries failed");
                sleep(PAUSE).await;
                continue;
            }
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        let Some(answer) = datagram(bytes, from, &socket, &resolver, &mut tasks) else {
            continue;
        };
        send(&socket, &answer, from).await;
    }
}

/// What is to be sent at once.
fn datagram(
    bytes: &[u8],
    from: SocketAddr,
    socket: &Arc<UdpSocket>,
    resolver: &Arc<Resolver>,
    tasks: &mut JoinSet<()>,
) -> Option<Vec<u8>> {
    let over = Over::Udp;
    if resolver.forwarder.sent(from.port(), bytes) {
        resolver.counters.query(over, Outcome::Loop);
        return None;
    }
    resolver.forwarder.ports.came_from(from.port());
    let query = match resolver.read(bytes, over)? {
        Ok(query) => query,
        Err(answer) => return Some(answer),
    };
    if let Some((answer, outcome)) = resolver.at_once(&query, over) {
        resolver.counters.query(over, outcome);
        return Some(answer);
    }
    let place = match resolver.place(&query, over) {
        Ok(place) => place,
        Err(answer) => return Some(answer),
    };
    let (bytes, socket, resolver) = (bytes.to_vec(), Arc::clone(socket), Arc::clone(resolver));
    tasks.spawn(async move {
        let _place = place;
        if let Some(answer) = answer(&resolver, &bytes, over).await {
            send(&socket, &answer, from).await;
        }
    });
    None
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%to, %error, "a DNS answer was not sent");
    }
}

/// The answer to what was read once already.
async fn answer(resolver: &Resolver, bytes: &[u8], over: Over) -> Option<Vec<u8>> {
    let query = match resolver.read(bytes, over)? {
        Ok(query) => query,
        Err(answer) => return Some(answer),
    };
    resolver.counters.in_flight.inc();
    let (answer, outcome) = resolver.answer(&query, over).await;
    resolver.counters.in_flight.dec();
    resolver.counters.query(over, outcome);
    Some(answer)
}

/// Serves for ever.
pub(super) async fn tcp(listener: TcpListener, resolver: Arc<Resolver>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = tasks.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _from)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting connections for DNS failed");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            // A closed connection tells its client sooner than a queue would.
            resolver.counters.query(Over::Tcp, Outcome::Overflow);
            continue;
        };
        let resolver = Arc::clone(&resolver);
        tasks.spawn(async move {
            let _slot = slot;
            resolver.counters.connections.inc();
            if let Err(error) = connection(stream, &resolver).await {
                tracing::debug!(%error, "a connection for DNS ended");
            }
            resolver.counters.connections.dec();
        });
    }
}

async fn connection(mut stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    let mut buffer = BytesMut::new();
    let mut waiting = FuturesUnordered::new();
    let mut is_open = true;
    loop {
        while waiting.len() < PIPELINED
            && let Some(query) = message(&mut buffer)?
        {
            waiting.push(served(resolver, query));
        }
        if !is_open && waiting.is_empty() {
            return Ok(());
        }
        tokio::select! {
            Some(answer) = waiting.next() => {
                let Some(answer) = answer else { return Ok(()) };
                let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
                let mut framed = length.to_be_bytes().to_vec();
                framed.extend_from_slice(&answer);
                let written = timeout(WRITE_WITHIN, write.write_all(&framed)).await;
                written.map_err(|_elapsed| io::ErrorKind::TimedOut)??;
            }
            read = timeout(IDLE, read.read_buf(&mut buffer)), if is_open && waiting.len() < PIPELINED => match read {
                Ok(read) => is_open = read? > 0,
                Err(_elapsed) if waiting.is_empty() => return Ok(()),
                Err(_elapsed) => {}
            }
        }
    }
}

/// The first whole query of `buffer`.
fn message(buffer: &mut BytesMut) -> io::Result<Option<Vec<u8>>> {
    let Some(length) = buffer.first_chunk::<2>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > MAX_QUERY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a query of more than 4 KiB",
        ));
    }
    if buffer.len() < 2 + length {
        return Ok(None);
    }
    buffer.advance(2);
    Ok(Some(buffer.split_to(length).to_vec()))
}

/// None = the connection is to be closed.
async fn served(resolver: &Resolver, bytes: Vec<u8>) -> Option<Vec<u8>> {
    let over = Over::Tcp;
    let query = match resolver.read(&bytes, over)? {
        Ok(query) => query,
        Err(answer) => return Some(answer),
    };
    let _place = match resolver.place(&query, over) {
        Ok(place) => place,
        Err(answer) => return Some(answer),
    };
    answer(resolver, &bytes, over).await
}
