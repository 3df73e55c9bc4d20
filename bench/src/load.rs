//! The load generator: one thread, closed loop or a fixed rate; a process of its own.
//!
//! ```text
//! connect all ─► warm up ─► "start" ─► measured window ─► "end" ─► one JSON line of figures
//! idle:  open N ─► ask once on each ─► "held N" ─► wait for a line ─► … ─► ask once more on each ─► figures
//! ```
//! An answer other than a complete one of the right length is an error, and errors are counted, never retried.
//! Lean, because it shares the machine with the proxies: [`http`] and [`grpc`] read no more than they must to be sure.

use std::{io::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

mod bytes;
mod grpc;
mod http;
mod idle;
mod pace;

pub(crate) use http::TOO_SLOW;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Answers over keep-alive HTTP/1.1 connections.
    Http,
    /// gRPC calls, several at a time on each connection.
    Grpc,
    /// One connection's bytes, as many as come.
    Bulk,
    /// Connections: each is opened, gets one byte, and is closed.
    Connections,
    /// Connections that do nothing after their first request.
    Idle,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Bulk => "bulk",
            Self::Connections => "connections",
            Self::Idle => "idle",
        }
    }
}

/// One load; `clap` reads it in the load generator's process, [`Options::arguments`] writes it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// What is asked for
    #[arg(value_enum)]
    pub(crate) kind: Kind,
    /// Where to connect
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// Host header
    #[arg(long, default_value = "server")]
    pub(crate) host: String,
    /// Response bytes to ask for
    #[arg(long, default_value_t = 100)]
    pub(crate) bytes: usize,
    /// Connections
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: usize,
    /// Calls at a time on each connection
    #[arg(long, default_value_t = 1)]
    pub(crate) streams: usize,
    /// Requests a second over all connections; absent = as fast as answers come
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// Milliseconds before the measured window
    #[arg(long, default_value_t = 500)]
    pub(crate) warm_up_ms: u64,
    /// Milliseconds that are measured
    #[arg(long, default_value_t = 4000)]
    pub(crate) window_ms: u64,
    /// Idle: how many are held, one after the other
    #[arg(long, value_delimiter = ',')]
    pub(crate) steps: Vec<usize>,
    /// Idle: directory with client.pem and client.key, for mutual TLS
    #[arg(long)]
    pub(crate) tls: Option<PathBuf>,
    /// Idle: HTTP/2 instead of HTTP/1.1
    #[arg(long)]
    pub(crate) h2: bool,
}

impl Options {
    /// Of this kind, with what the command line would default to.
    pub(crate) fn new(kind: Kind, address: SocketAddr, host: &str) -> Self {
        Self {
            kind,
            address,
            host: host.to_owned(),
            bytes: 100,
            connections: 64,
            streams: 1,
            rate: None,
            warm_up_ms: 500,
            window_ms: 4000,
            steps: Vec::new(),
            tls: None,
            h2: false,
        }
    }

    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            self.kind.name().to_owned(),
            format!("--address={}", self.address),
            format!("--host={}", self.host),
            format!("--bytes={}", self.bytes),
            format!("--connections={}", self.connections),
            format!("--streams={}", self.streams),
            format!("--warm-up-ms={}", self.warm_up_ms),
            format!("--window-ms={}", self.window_ms),
        ];
        arguments.extend(self.rate.map(|rate| format!("--rate={rate}")));
        arguments.extend(self.steps.iter().map(|step| format!("--steps={step}")));
        let tls = self.tls.as_ref();
        arguments.extend(tls.map(|dir| format!("--tls={}", dir.display())));
        arguments.extend(self.h2.then(|| "--h2".to_owned()));
        arguments
    }

    /// Of both the warm-up and the measured part.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_millis(self.warm_up_ms + self.window_ms)
    }
}

/// What the last line says.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Figures {
    /// Requests, connections or MiB that were completed in the window.
    pub(crate) done: f64,
    /// Everything that was not as it should be, warm-up included.
    pub(crate) errors: u64,
    /// The first error's words.
    pub(crate) first_error: Option<String>,
    /// [`Self::done`] a second.
    pub(crate) per_second: f64,
    /// Latencies, microseconds.
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// How long an answer may take before the run is called stuck.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    rlimit::increase_nofile_limit(65_536)?;
    if options.kind == Kind::Idle {
        return say(&serde_json::to_string(&idle::run(&options).await?)?);
    }
    let mut tasks = JoinSet::new();
    let prepared = match options.kind {
        Kind::Http => Prepared::Http(http::open(&options).await?),
        Kind::Grpc => Prepared::Grpc(grpc::open(&options).await?),
        Kind::Bulk | Kind::Connections | Kind::Idle => Prepared::None,
    };
    let start = Instant::now() + Duration::from_millis(options.warm_up_ms);
    let end = start + Duration::from_millis(options.window_ms);
    let window = Window { start, end };
    match prepared {
        Prepared::Http(connections) => http::start(&mut tasks, connections, &options, window)?,
        Prepared::Grpc(connections) => {
            for connection in connections {
                tasks.spawn(connection.drive(window));
            }
        }
        Prepared::None if options.kind == Kind::Bulk => {
            tasks.spawn(bytes::bulk(options.address, window));
        }
        Prepared::None => {
            for _ in 0..options.connections {
                tasks.spawn(bytes::connections(options.address, window));
            }
        }
    }
    tokio::time::sleep_until(start).await;
    say("start")?;
    tokio::time::sleep_until(end).await;
    say("end")?;
    let figures = collect(tasks, options.window_ms).await;
    say(&serde_json::to_string(&figures)?)
}

/// One gRPC call, to see whether somebody answers.
pub(crate) async fn one_call(address: SocketAddr, host: &str) -> anyhow::Result<()> {
    let options = Options::new(Kind::Grpc, address, host);
    let call = async {
        let stream = connect(address).await?;
        grpc::Connection::new(stream, &options).await?.call().await
    };
    tokio::time::timeout(PATIENCE, call).await?
}

/// One connection that gets a byte.
pub(crate) async fn one_connection(address: SocketAddr) -> anyhow::Result<()> {
    tokio::time::timeout(PATIENCE, bytes::one(address)).await?
}

enum Prepared {
    Http(Vec<http::Connection<TcpStream>>),
    Grpc(Vec<grpc::Connection<TcpStream>>),
    None,
}

/// The measured part.
#[derive(Clone, Copy, Debug)]
struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    fn over(&self) -> bool {
        Instant::now() >= self.end
    }
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    latencies_ns: Vec<u64>,
    /// Other than latencies: MiB.
    amount: f64,
    errors: u64,
    first_error: Option<String>,
}

impl Seen {
    /// Of something that took from `began` until now: counts if now is in the window.
    fn done(&mut self, began: Instant, window: Window) {
        let now = Instant::now();
        if now >= window.start && now < window.end {
            self.took(now.saturating_duration_since(began));
        }
    }

    fn took(&mut self, elapsed: Duration) {
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.latencies_ns.push(elapsed);
    }

    fn failed(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn collect(mut tasks: JoinSet<Seen>, window_ms: u64) -> Figures {
    let mut all = Seen::default();
    let deadline = Instant::now() + PATIENCE;
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
        all.amount += seen.amount;
        all.errors += seen.errors;
        all.first_error = all.first_error.or(seen.first_error);
    }
    all.latencies_ns.sort_unstable();
    let done = if all.amount > 0.0 {
        all.amount
    } else {
        all.latencies_ns.len() as f64
    };
    let percentile = |share| percentile_us(&all.latencies_ns, share);
    Figures {
        done,
        errors: all.errors,
        first_error: all.first_error,
        per_second: done * 1000.0 / window_ms as f64,
        p50_us: percentile(500),
        p90_us: percentile(900),
        p99_us: percentile(990),
        p999_us: percentile(999),
    }
}

/// Of sorted nanoseconds, in thousandths of them; 0 of none.
fn percentile_us(sorted: &[u64], thousandths: usize) -> f64 {
    let rank = sorted.len().saturating_sub(1) * thousandths / 1000;
    sorted.get(rank).map_or(0.0, |ns| *ns as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let sorted: Vec<u64> = (1..=100).map(|n| n * 1000).collect();
        assert_eq!(percentile_us(&sorted, 500), 50.0);
        assert_eq!(percentile_us(&sorted, 990), 99.0);
        assert_eq!(percentile_us(&[], 990), 0.0);
    }
}
