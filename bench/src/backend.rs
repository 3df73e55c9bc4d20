//! The application that every subject proxies to: one thread, answers any request at once.
//!
//! One port for HTTP: `GET /bytes/N` gets N bytes, `GET /received` how many bytes of gRPC messages have come, anything
//! else 100; with HTTP/2's preface any stream is a gRPC call, whose message says in its first four bytes how long the
//! answer is to be. One port for bytes: eight of them say how many are wanted, again and again. Lean on purpose, because
//! what it costs is taken from the proxies it shares the machine with. Understands HTTP/1.1 requests without a body only.
//!
//! As a collector (`--collector`) it takes spans by OTLP: every call is answered with an empty message.

use std::{
    cell::Cell, collections::VecDeque, io::Write as _, net::SocketAddr, rc::Rc, sync::LazyLock,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

use crate::{
    h2::{Event, Field, Head, Link, PREFACE},
    process::{Process, this_program},
};

const SMALL: usize = 100; // bytes, a short JSON answer
const LARGEST: usize = 16 * 1024 * 1024; // bytes
const LARGEST_REQUEST: usize = 64 * 1024; // bytes
/// What is written at a time of a stream of bytes.
const CHUNK: usize = 256 * 1024; // bytes
/// Answers that wait for the other side's window, on one connection.
const LONGEST_QUEUE: usize = 10_000;

/// How it is started.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Options {
    /// Answers gRPC calls with an empty message
    #[arg(long)]
    collector: bool,
}

#[derive(Clone)]
struct Answers {
    collector: bool,
    received: Rc<Cell<u64>>,
}

/// Serves until standard input ends, after one line `ready {"http": …, "tcp": …}`.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let http = TcpListener::bind("127.0.0.1:0").await?;
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let ready = serde_json::json!({
        "http": http.local_addr()?.to_string(),
        "tcp": tcp.local_addr()?.to_string(),
    });
    writeln!(std::io::stdout(), "ready {ready}")?;
    let answers = Answers {
        collector: options.collector,
        received: Rc::default(),
    };
    let tasks = LocalSet::new();
    let serve = tasks.run_until(async {
        loop {
            // A connection that breaks is the load generator's to count.
            tokio::select! {
                accepted = http.accept() => {
                    let (stream, _) = accepted?;
                    let answers = answers.clone();
                    tokio::task::spawn_local(async move { drop(connection(stream, answers).await) });
                }
                accepted = tcp.accept() => {
                    let (stream, _) = accepted?;
                    tokio::task::spawn_local(async move { drop(bytes(stream).await) });
                }
            }
        }
    });
    tokio::select! {
        result = serve => result,
        () = crate::process::parent_gone() => Ok(()),
    }
}

async fn connection(mut stream: TcpStream, answers: Answers) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::with_capacity(4096);
    let mut prepared = (SMALL, answer(SMALL, None));
    loop {
        if input.starts_with(PREFACE.get(..4).unwrap_or_default()) {
            return calls(stream, input, answers).await;
        }
        while let Some(end) = head_end(&input) {
            let head = input.get(..end).unwrap_or_default();
            if head.starts_with(b"GET /received ") {
                let body = answers.received.get().to_string();
                stream.write_all(&answer(body.len(), Some(&body))).await?;
            } else {
                let wanted = wanted_bytes(head);
                if wanted != prepared.0 {
                    prepared = (wanted, answer(wanted, None));
                }
                stream.write_all(&prepared.1).await?;
            }
            input.drain(..end);
        }
        anyhow::ensure!(input.len() < LARGEST_REQUEST, "request head too large");
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

fn wanted_bytes(head: &[u8]) -> usize {
    let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    path.strip_prefix(b"/bytes/")
        .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok())
        .unwrap_or(SMALL)
        .min(LARGEST)
}

fn answer(bytes: usize, body: Option<&str>) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {bytes}\r\n\r\n")
            .into_bytes();
    match body {
        Some(body) => answer.extend_from_slice(body.as_bytes()),
        None => answer.resize(answer.len() + bytes, b'x'),
    }
    answer
}

/// Where the head that `input` starts with ends, blank line included.
pub(crate) fn head_end(input: &[u8]) -> Option<usize> {
    Some(input.windows(4).position(|four| four == b"\r\n\r\n")? + 4)
}

/// gRPC calls of one connection.
async fn calls(mut stream: TcpStream, mut input: Vec<u8>, answers: Answers) -> anyhow::Result<()> {
    while input.len() < PREFACE.len() {
        anyhow::ensure!(stream.read_buf(&mut input).await? > 0, "half a preface");
    }
    anyhow::ensure!(input.starts_with(PREFACE), "no preface");
    input.drain(..PREFACE.len());
    let mut link = Link::new(false);
    let mut head = Head::new(&[Field::Known(8), Field::Named(31, "application/grpc")], 1);
    let mut trailers = Head::new(&[Field::New("grpc-status", "0")], 0);
    // Streams that are being read, with how many bytes are wanted; those whose answer is due.
    let mut open: Vec<(u32, Option<usize>)> = Vec::new();
    let mut due: VecDeque<(u32, usize)> = VecDeque::new();
    let mut message = Vec::new();
    loop {
        let taken = link.read(&input, |_, event| {
            let (stream, end) = match event {
                Event::Headers { stream, end, .. } => {
                    open.push((stream, answers.collector.then_some(0)));
                    (stream, end)
                }
                Event::Data { stream, bytes, end } => {
                    let seen = answers.received.get() + bytes.len() as u64;
                    answers.received.set(seen);
                    let call = open.iter_mut().find(|(open, _)| *open == stream);
                    if let Some((_, wanted @ None)) = call {
                        // Requests are small: a message's beginning comes in one piece.
                        let first = bytes.get(5..).and_then(<[u8]>::first_chunk::<4>);
                        *wanted = first.map(|four| u32::from_be_bytes(*four) as usize);
                    }
                    (stream, end)
                }
                Event::Reset { stream, .. } => {
                    open.retain(|(open, _)| *open != stream);
                    return Ok(());
                }
            };
            if end && let Some(at) = open.iter().position(|(open, _)| *open == stream) {
                let (stream, wanted) = open.swap_remove(at);
                due.push_back((stream, wanted.context("a call that says nothing")?));
            }
            anyhow::ensure!(due.len() + open.len() < LONGEST_QUEUE, "too many calls");
            Ok(())
        })?;
        input.drain(..taken);
        while let Some((stream, wanted)) = due.front().copied() {
            if !link.takes(5 + wanted)? {
                break;
            }
            message.resize(wanted, b'x');
            link.headers(stream, &head, false);
            link.message(stream, &message, false);
            link.headers(stream, &trailers, true);
            (head.sent, trailers.sent) = (true, true);
            due.pop_front();
        }
        stream.write_all(&link.output).await?;
        link.output.clear();
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// As many bytes as are asked for, again and again.
async fn bytes(mut stream: TcpStream) -> anyhow::Result<()> {
    static SOME: LazyLock<Vec<u8>> = LazyLock::new(|| vec![b'x'; CHUNK]);
    stream.set_nodelay(true)?;
    let mut wanted = [0; 8];
    while stream.read_exact(&mut wanted).await.is_ok() {
        let mut left = usize::try_from(u64::from_be_bytes(wanted))?;
        while left > 0 {
            let some = SOME.get(..left.min(CHUNK)).unwrap_or_default();
            stream.write_all(some).await?;
            left -= some.len();
        }
    }
    Ok(())
}

/// A running one.
pub(crate) struct Backend {
    pub(crate) process: Process,
    /// HTTP/1.1 and gRPC.
    pub(crate) http: SocketAddr,
    /// Bytes.
    pub(crate) tcp: SocketAddr,
}

impl Backend {
    /// Starts it as a process of its own.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_as("backend", &[]).await
    }

    /// A collector of spans.
    pub(crate) async fn collector() -> anyhow::Result<Self> {
        Self::start_as("collector", &["--collector"]).await
    }

    async fn start_as(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = this_program()?;
        command.arg("backend").args(arguments);
        let (process, ready) = Process::start_ready(name, command).await?;
        let address = |field| crate::outrigger::address(&ready, field);
        Ok(Self {
            process,
            http: address("http")?,
            tcp: address("tcp")?,
        })
    }

    /// Bytes of messages that a collector has been sent.
    pub(crate) async fn received(&self) -> anyhow::Result<u64> {
        let mut stream = TcpStream::connect(self.http).await?;
        stream
            .write_all(b"GET /received HTTP/1.1\r\nhost: collector\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        loop {
            if let Some(end) = head_end(&answer) {
                let body = answer.get(end..).unwrap_or_default();
                if !body.is_empty() {
                    return Ok(std::str::from_utf8(body)?.parse()?);
                }
            }
            let read = stream.read_buf(&mut answer).await?;
            anyhow::ensure!(read > 0, "the collector is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_says_how_many_bytes() {
        assert_eq!(wanted_bytes(b"GET /bytes/65536 HTTP/1.1\r\n\r\n"), 65_536);
        assert_eq!(wanted_bytes(b"GET / HTTP/1.1\r\n\r\n"), SMALL);
        assert_eq!(wanted_bytes(b"GET /bytes/x HTTP/1.1\r\n\r\n"), SMALL);
        assert_eq!(wanted_bytes(b""), SMALL);
    }
}
