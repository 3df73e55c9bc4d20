//! Floods against a running sidecar, with an innocent caller beside them: it never fails, the sidecar lives, and what
//! the floods took is given back. Each is bounded in time and number, and stays on this machine. With `--nocapture` a
//! table says what each did to the innocent caller's time and to the sidecar's memory.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use outrigger_tests::{
    Caller, Mesh, Sidecar, WorkloadIdentity, eventually, h2_bytes::H2Talk, tls_client, tls_connect,
    within,
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::client::TlsStream;

mod http1;
mod http2;
mod transport;

/// How long a flood lasts, if nobody ends it before.
const LASTS: Duration = Duration::from_millis(1_200);
/// What may be left of a flood in the sidecar's memory: allocators keep some for themselves.
const LEFT: u64 = 64 * 1024;
/// Of an answer that nobody reads.
const LARGE: usize = 1024 * 1024;

/// A flood.
struct Flood {
    name: &'static str,
    /// Connections at a time.
    connections: usize,
    run: fn(Target) -> JoinHandle<()>,
    /// Most that the sidecar's memory may grow while it lasts, in KiB.
    most: u64,
}

/// Whom to flood.
#[derive(Clone)]
struct Target {
    inbound: SocketAddr,
    identity: Arc<WorkloadIdentity>,
    until: Instant,
}

impl Target {
    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.inbound).await.expect("it listens")
    }

    /// As a member of the mesh; None if it was not let in.
    async fn tls(&self, alpn: &str) -> Option<TlsStream<TcpStream>> {
        let client = tls_client(Some(&self.identity), &[alpn]);
        tls_connect(client, self.inbound).await.ok()
    }

    async fn http1(&self) -> Option<TlsStream<TcpStream>> {
        self.tls("http/1.1").await
    }

    async fn http2(&self) -> Option<H2Talk<TlsStream<TcpStream>>> {
        let mut talk = H2Talk::new(self.tls("h2").await?, LASTS);
        talk.greet().await;
        Some(talk)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Until the flood is over.
    async fn rest(&self) {
        tokio::time::sleep_until(self.until.into()).await;
    }

    /// Says it again and again until the other end has had enough, or the flood is over.
    async fn repeat(&self, stream: &mut (impl AsyncWrite + Unpin), said: &[u8]) {
        while !self.is_over() {
            match timeout(LASTS, stream.write_all(said)).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }

    /// One byte ten times a second.
    async fn drip(&self, stream: &mut (impl AsyncWrite + Unpin), byte: &[u8]) {
        let mut often = tokio::time::interval(Duration::from_millis(100));
        while !self.is_over() {
            often.tick().await;
            if stream.write_all(byte).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}

/// How long a request took, and what went wrong.
type Took = (Duration, Option<String>);

/// The innocent caller: one request after the other, and how long each took.
struct Innocent {
    took: Arc<Mutex<Vec<Took>>>,
    task: JoinHandle<()>,
}

impl Innocent {
    fn start(caller: Caller) -> Self {
        let took = Arc::<Mutex<Vec<_>>>::default();
        let notes = Arc::clone(&took);
        let task = tokio::spawn(async move {
            loop {
                let begun = Instant::now();
                let reply = caller.get("reviews:9080", "/").await;
                let failed = (reply.status != 200).then(|| reply.text());
                notes.lock().unwrap().push((begun.elapsed(), failed));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { took, task }
    }

    /// Since the last time: median, 99th percentile, and what failed.
    fn note(&self) -> (Duration, Duration, Vec<String>) {
        let notes = std::mem::take(&mut *self.took.lock().unwrap());
        let mut took: Vec<_> = notes.iter().map(|(took, _)| *took).collect();
        took.sort_unstable();
        let at =
            |share: usize| took.get((took.len() * share / 100).min(took.len().saturating_sub(1)));
        let failed = notes.iter().filter_map(|(_, failed)| failed.clone());
        (
            at(50).copied().unwrap_or_default(),
            at(99).copied().unwrap_or_default(),
            failed.collect(),
        )
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `/large` is a mebibyte, everything else is fine.
async fn app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let large = Bytes::from(vec![b'x'; LARGE]);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let large = large.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let body = match request.uri().path() {
                        "/large" => large.clone(),
                        _ => Bytes::from("fine"),
                    };
                    async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                server
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    address
}

fn rss_kib(sidecar: &Sidecar) -> u64 {
    let pid = sidecar.process().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    number.expect("a figure")
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_harm_no_innocent_caller_and_leave_nothing_behind() {
    let mut floods = transport::floods();
    floods.extend(http1::floods());
    floods.extend(http2::floods());
    assert!(floods.len() >= 30, "{}", floods.len());
    let mesh = Mesh::start().await;
    let reviews = mesh.service("reviews").app_at(app().await).start().await;
    let shopper = mesh.service("shopper").start().await;
    eventually("reviews answers", async || {
        let reply = shopper.caller().get("reviews:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
    let identity = Arc::new(WorkloadIdentity::join(&mesh, "flooder").await);
    let innocent = Innocent::start(shopper.caller());
    tokio::time::sleep(LASTS).await;
    let (p50, p99, failed) = innocent.note();
    assert!(failed.is_empty(), "before the floods: {failed:?}");
    eprintln!(
        "{:<44} {:>9} {:>9} {:>10} {:>10}",
        "flood", "p50", "p99", "grew", "left"
    );
    eprintln!("{:<44} {p50:>9.1?} {p99:>9.1?}", "none");
    let mut wrong = Vec::new();
    let before_all = rss_kib(&reviews);
    for flood in &floods {
        let before = rss_kib(&reviews);
        let target = Target {
            inbound: reviews.inbound.unwrap(),
            identity: Arc::clone(&identity),
            until: Instant::now() + LASTS,
        };
        let mut connections = JoinSet::new();
        for _ in 0..flood.connections {
            let run = flood.run;
            let target = target.clone();
            connections.spawn(async move { run(target).await });
        }
        let mut peak = before;
        while connections.join_next().await.is_some() {
            peak = peak.max(rss_kib(&reviews));
        }
        let (p50, p99, failed) = innocent.note();
        let (grew, left) = (peak - before, rss_kib(&reviews).saturating_sub(before));
        eprintln!(
            "{:<44} {p50:>9.1?} {p99:>9.1?} {grew:>6} KiB {left:>6} KiB",
            flood.name
        );
        if !failed.is_empty() {
            wrong.push(format!(
                "{}: the innocent caller met {failed:?}",
                flood.name
            ));
        }
        if grew > flood.most {
            wrong.push(format!("{}: the sidecar grew by {grew} KiB", flood.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    within(Duration::from_secs(30), "memory returns", async || {
        let left = rss_kib(&reviews).saturating_sub(before_all);
        if left <= LEFT {
            Ok(())
        } else {
            Err(format!("{left} KiB are left"))
        }
    })
    .await;
    let reply = shopper.caller().get("reviews:9080", "/").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}
