//! Keep-alive HTTP/1.1 connections, one request at a time on each.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

use super::{Options, Seen, Window, connect, pace};
use crate::backend::head_end;

/// What is read at a time of an answer.
const LARGEST_READ: usize = 64 * 1024; // bytes

/// Behind the rate; longer, and it is not one that this machine can take.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// What is said then.
pub(crate) const TOO_SLOW: &str = "too slow for the rate";

pub(super) async fn open(options: &Options) -> anyhow::Result<Vec<Connection<TcpStream>>> {
    let request = request(options);
    let mut connections = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        let stream = connect(options.address).await?;
        connections.push(Connection::new(stream, &request, options.bytes));
    }
    Ok(connections)
}

pub(super) fn request(options: &Options) -> Arc<str> {
    format!(
        "GET /bytes/{} HTTP/1.1\r\nhost: {}\r\nuser-agent: outrigger-bench\r\naccept: */*\r\n\r\n",
        options.bytes, options.host
    )
    .into()
}

pub(super) fn start(
    tasks: &mut JoinSet<Seen>,
    connections: Vec<Connection<TcpStream>>,
    options: &Options,
    window: Window,
) -> anyhow::Result<()> {
    let address = options.address;
    match options.rate {
        None => {
            for connection in connections {
                tasks.spawn(closed(connection, address, window));
            }
        }
        Some(rate) => {
            let due = pace::start(rate, connections.len(), window.end)?;
            for (connection, due) in connections.into_iter().zip(due) {
                tasks.spawn(paced(connection, due, address, window));
            }
        }
    }
    Ok(())
}

/// Asks again as soon as it is answered.
async fn closed(
    mut connection: Connection<TcpStream>,
    address: SocketAddr,
    window: Window,
) -> Seen {
    let mut seen = Seen::default();
    while !window.over() {
        let began = Instant::now();
        match connection.exchange().await {
            Ok(()) => seen.done(began, window),
            Err(error) => connection.renew(&mut seen, &error, address).await,
        }
    }
    seen
}

/// Asks when it is due. What falls due in the window is waited for, however long it takes.
async fn paced(
    mut connection: Connection<TcpStream>,
    mut due: mpsc::Receiver<Instant>,
    address: SocketAddr,
    window: Window,
) -> Seen {
    let mut seen = Seen::default();
    let mut last = Instant::now();
    while let Some(moment) = due.recv().await {
        last = moment;
        if moment.elapsed() > LONGEST_WAIT {
            seen.failed(&anyhow::anyhow!("{TOO_SLOW}, {LONGEST_WAIT:?} behind"));
            return seen;
        }
        match connection.exchange().await {
            Ok(()) if moment >= window.start => seen.took(moment.elapsed()),
            Ok(()) => {}
            Err(error) => connection.renew(&mut seen, &error, address).await,
        }
    }
    // The pacer ends early only if it found a connection too far behind.
    if last + Duration::from_secs(1) < window.end {
        seen.failed(&anyhow::anyhow!("{TOO_SLOW}, too many requests behind"));
    }
    seen
}

pub(super) struct Connection<S> {
    stream: S,
    request: Arc<str>,
    bytes: usize,
    input: Vec<u8>,
}

impl Connection<TcpStream> {
    async fn renew(&mut self, seen: &mut Seen, error: &anyhow::Error, address: SocketAddr) {
        seen.failed(error);
        // A moment's rest, so that a dead subject does not become a connect storm.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Ok(stream) = connect(address).await {
            self.stream = stream;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, request: &Arc<str>, bytes: usize) -> Self {
        Self {
            stream,
            request: Arc::clone(request),
            bytes,
            input: Vec::with_capacity((bytes + 1024).min(LARGEST_READ)),
        }
    }

    pub(super) async fn exchange(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(self.request.as_bytes()).await?;
        self.stream.flush().await?;
        self.input.clear();
        let head = loop {
            self.read().await?;
            if let Some(head) = head_end(&self.input) {
                break head;
            }
        };
        let text = std::str::from_utf8(self.input.get(..head).unwrap_or_default())?;
        anyhow::ensure!(
            text.starts_with("HTTP/1.1 200"),
            "status line {:?}",
            text.lines().next()
        );
        let length = content_length(text);
        anyhow::ensure!(
            length == Some(self.bytes),
            "content-length {length:?}, not {}",
            self.bytes
        );
        let mut body = self.input.len() - head;
        while body < self.bytes {
            self.input.clear();
            body += self.read().await?;
        }
        anyhow::ensure!(body == self.bytes, "more bytes than the answer has");
        Ok(())
    }

    async fn read(&mut self) -> anyhow::Result<usize> {
        let read = self.stream.read_buf(&mut self.input).await?;
        anyhow::ensure!(read > 0, "connection closed in the middle of an answer");
        Ok(read)
    }
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_found_in_any_letter_case() {
        assert_eq!(
            content_length("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n"),
            Some(7)
        );
        assert_eq!(content_length("HTTP/1.1 200 OK\r\nx: 7\r\n"), None);
    }
}
