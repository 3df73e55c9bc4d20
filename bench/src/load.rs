//! The load generator: keep-alive HTTP/1.1 connections, closed loop or a fixed rate.
//!
//! ```text
//! connect all ─► warm up ─► "start" ─► measured window ─► "end" ─► one JSON line of figures
//! ```
//! With a rate, a request's latency counts from when it was due, not from when a connection was free
//! (no coordinated omission). An answer other than a complete 200 of the right length is an error.

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::backend::head_end;

/// One load; `clap` reads it in the load generator's process, [`Options::arguments`] writes it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to connect.
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// Host header.
    #[arg(long)]
    pub(crate) host: String,
    /// Response bytes to ask for.
    #[arg(long, default_value_t = 100)]
    pub(crate) bytes: usize,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: usize,
    /// Requests a second over all connections; absent = as fast as answers come.
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// Milliseconds before the measured window.
    #[arg(long, default_value_t = 500)]
    pub(crate) warm_up_ms: u64,
    /// Milliseconds that are measured.
    #[arg(long, default_value_t = 4000)]
    pub(crate) window_ms: u64,
}

/// What the last line says.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Figures {
    /// Complete answers inside the window.
    pub(crate) requests: u64,
    /// Everything that was not, warm-up included.
    pub(crate) errors: u64,
    /// The first error's words.
    pub(crate) first_error: Option<String>,
    /// Answers a second.
    pub(crate) requests_per_second: f64,
    /// Median latency, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, microseconds.
    pub(crate) p99_us: f64,
}

impl Options {
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--address={}", self.address),
            format!("--host={}", self.host),
            format!("--bytes={}", self.bytes),
            format!("--connections={}", self.connections),
            format!("--warm-up-ms={}", self.warm_up_ms),
            format!("--window-ms={}", self.window_ms),
        ];
        arguments.extend(self.rate.map(|rate| format!("--rate={rate}")));
        arguments
    }
}

/// How long an answer may take before the run is called stuck.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let request: Arc<str> = format!(
        "GET /bytes/{} HTTP/1.1\r\nhost: {}\r\nuser-agent: outrigger-bench\r\naccept: */*\r\n\r\n",
        options.bytes, options.host
    )
    .into();
    let mut streams = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        streams.push(connect(options.address).await?);
    }
    let start = Instant::now() + Duration::from_millis(options.warm_up_ms);
    let end = start + Duration::from_millis(options.window_ms);
    let due = options.rate.map(|rate| pace(rate, end));

    let mut tasks = JoinSet::new();
    for stream in streams {
        let connection = Connection {
            stream,
            address: options.address,
            request: Arc::clone(&request),
            bytes: options.bytes,
            input: Vec::with_capacity(options.bytes.clamp(4096, 256 * 1024)),
        };
        tasks.spawn(drive(connection, due.clone(), start, end));
    }

    tokio::time::sleep_until(start.into()).await;
    say("start")?;
    tokio::time::sleep_until(end.into()).await;
    say("end")?;
    let figures = collect(tasks, options.window_ms).await;
    say(&serde_json::to_string(&figures)?)
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Moments at which requests are due, for whichever connection is free. Bounded: a subject that falls
/// a second behind blocks the pacer, and the latencies already show it.
type Due = Arc<Mutex<mpsc::Receiver<Instant>>>;

fn pace(rate: u32, end: Instant) -> Due {
    let (sender, receiver) = mpsc::channel(rate as usize);
    std::thread::spawn(move || {
        let gap = Duration::from_secs(1) / rate;
        let mut next = Instant::now();
        while next < end {
            #[expect(
                clippy::disallowed_methods,
                reason = "a thread of its own; the runtime's timers are a millisecond coarse"
            )]
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            if sender.blocking_send(next).is_err() {
                break;
            }
            next += gap;
        }
    });
    Arc::new(Mutex::new(receiver))
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    latencies_ns: Vec<u64>,
    errors: u64,
    first_error: Option<String>,
}

async fn drive(mut connection: Connection, due: Option<Due>, start: Instant, end: Instant) -> Seen {
    let mut seen = Seen::default();
    loop {
        let began = match &due {
            None => Instant::now(),
            Some(due) => match due.lock().await.recv().await {
                Some(moment) => moment,
                None => return seen,
            },
        };
        if began >= end {
            return seen;
        }
        match connection.exchange().await {
            Ok(()) => {
                let now = Instant::now();
                if now >= start && now < end {
                    let elapsed = now.saturating_duration_since(began).as_nanos();
                    seen.latencies_ns
                        .push(u64::try_from(elapsed).unwrap_or(u64::MAX));
                }
            }
            Err(error) => {
                seen.errors += 1;
                seen.first_error.get_or_insert_with(|| format!("{error:#}"));
                // A moment's rest, so that a dead subject does not become a connect storm.
                tokio::time::sleep(Duration::from_millis(20)).await;
                if let Ok(stream) = connect(connection.address).await {
                    connection.stream = stream;
                    connection.input.clear();
                }
            }
        }
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    request: Arc<str>,
    bytes: usize,
    input: Vec<u8>,
}

impl Connection {
    async fn exchange(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(self.request.as_bytes()).await?;
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
        while self.input.len() < head + self.bytes {
            self.read().await?;
        }
        anyhow::ensure!(
            self.input.len() == head + self.bytes,
            "more bytes than the answer has"
        );
        Ok(())
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.input).await?;
        anyhow::ensure!(read > 0, "connection closed in the middle of an answer");
        Ok(())
    }
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    })
}

async fn collect(mut tasks: JoinSet<Seen>, window_ms: u64) -> Figures {
    let mut all = Seen::default();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !tasks.is_empty() {
        let Ok(Some(done)) = tokio::time::timeout_at(deadline, tasks.join_next()).await else {
            all.errors += tasks.len() as u64;
            all.first_error
                .get_or_insert_with(|| format!("no answer within {PATIENCE:?}"));
            break;
        };
        let seen = done.unwrap_or_else(|error| Seen {
            errors: 1,
            first_error: Some(error.to_string()),
            ..Seen::default()
        });
        all.latencies_ns.extend(seen.latencies_ns);
        all.errors += seen.errors;
        all.first_error = all.first_error.or(seen.first_error);
    }
    all.latencies_ns.sort_unstable();
    let requests = all.latencies_ns.len() as u64;
    Figures {
        requests,
        errors: all.errors,
        first_error: all.first_error,
        requests_per_second: requests as f64 * 1000.0 / window_ms as f64,
        p50_us: percentile_us(&all.latencies_ns, 50),
        p99_us: percentile_us(&all.latencies_ns, 99),
    }
}

/// Of sorted nanoseconds; 0 of none.
fn percentile_us(sorted: &[u64], percent: usize) -> f64 {
    let rank = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(rank).map_or(0.0, |ns| *ns as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let sorted: Vec<u64> = (1..=100).map(|n| n * 1000).collect();
        assert_eq!(percentile_us(&sorted, 50), 50.0);
        assert_eq!(percentile_us(&sorted, 99), 99.0);
        assert_eq!(percentile_us(&[], 99), 0.0);
    }

    #[test]
    fn the_length_is_found_in_any_letter_case() {
        assert_eq!(
            content_length("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n"),
            Some(7)
        );
        assert_eq!(content_length("HTTP/1.1 200 OK\r\nx: 7\r\n"), None);
    }
}
