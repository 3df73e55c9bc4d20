//! Limits with scope SERVICE hold for all sidecars together, with the control plane and without it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use outrigger_tests::{Caller, Mesh, Sidecar, eventually, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const SIDECARS: usize = 20;
const LIMIT: usize = 100;
/// A connection may be closed here later than there.
const AT_MOST: usize = 102;
/// How long the backend works on a request.
const WORK: Duration = Duration::from_millis(300);
/// How long a caller waits that was refused.
const PAUSE: Duration = Duration::from_millis(150);
/// Clients of one sidecar: more than its fair share of 5.
const CLIENTS: usize = 7;

/// Counts what it has at once.
#[derive(Debug, Default)]
struct Count {
    now: AtomicUsize,
    /// Since [`Self::forget`].
    most: AtomicUsize,
    /// Ever.
    peak: AtomicUsize,
}

impl Count {
    fn add(&self) {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        self.peak.fetch_max(now, SeqCst);
    }

    fn sub(&self) {
        self.now.fetch_sub(1, SeqCst);
    }

    fn forget(&self) {
        self.most.store(self.now.load(SeqCst), SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(SeqCst)
    }
}

/// A slow HTTP/1.1 server.
#[derive(Debug, Default)]
struct Backend {
    requests: Count,
    connections: Count,
}

impl Backend {
    async fn start() -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let backend = Arc::new(Self::default());
        let state = Arc::clone(&backend);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    state.connections.add();
                    state.serve(stream).await;
                    state.connections.sub();
                });
            }
        });
        (backend, address)
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut head = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut bytes).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => head.extend_from_slice(&bytes[..count]),
                }
            }
            head.clear();
            self.requests.add();
            tokio::time::sleep(WORK).await;
            self.requests.sub();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

fn documents(backend: SocketAddr, pool: &str) -> String {
    format!(
        "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: orders }}
spec:
  hosts: [orders.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{ number: 80, name: http, protocol: HTTP }}]
  endpoints: [{{ address: 127.0.0.1, ports: {{ http: {} }} }}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: orders }}
spec:
  host: orders
  trafficPolicy: {{ connectionPool: {{ {pool} }} }}
---
apiVersion: outrigger.dev/v1
kind: DestinationPolicy
metadata: {{ name: orders }}
spec:
  host: orders
  limits: {{ scope: SERVICE }}
",
        backend.port()
    )
}

async fn sidecars(mesh: &Mesh) -> Vec<Sidecar> {
    let names: Vec<String> = (0..SIDECARS).map(|n| format!("caller-{n:02}")).collect();
    let mut sidecars = Vec::new();
    // A few at a time: each makes keys and gets a certificate.
    for names in names.chunks(4) {
        let started = names
            .iter()
            .map(|name| mesh.service(name).flag("--workers", "1").start());
        sidecars.extend(join_all(started).await);
    }
    sidecars
}

/// Clients that call again and again until they are told to stop.
struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Clients {
    fn of<'a>(sidecars: impl IntoIterator<Item = &'a Sidecar>, each: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for sidecar in sidecars {
            for _ in 0..each {
                tasks.spawn(call(sidecar.caller(), Arc::clone(&stop)));
            }
        }
        Self { stop, tasks }
    }

    async fn end(mut self) {
        self.stop.store(true, SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

async fn call(caller: Caller, stop: Arc<AtomicBool>) {
    while !stop.load(SeqCst) {
        let reply = caller.get("orders", "/").await;
        if reply.status != 200 {
            let reason = reply.reason();
            assert!(
                reply.status == 503 && reason.is_some_and(|code| code.starts_with("overflow")),
                "{}",
                reply.text()
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn reaches(what: &str, count: &Count, least: usize) {
    count.forget();
    eventually(what, async || match count.most() {
        most if most >= least => Ok(()),
        most => Err(format!("at most {most} at once")),
    })
    .await;
}

/// The limit's row of `outrigger status`.
fn row(mesh: &Mesh, name: &str) -> Option<(u64, u64)> {
    let status = mesh.status();
    let rows = status["service_limits"].as_array()?.clone();
    let row = rows.iter().find(|row| row["name"] == name)?.clone();
    assert_eq!(row["limit"], LIMIT);
    Some((row["sidecars"].as_u64()?, row["shares"].as_u64()?))
}

/// A sidecar has shares of what its application calls.
async fn all_have_called(sidecars: &[Sidecar]) {
    let called = sidecars.iter().map(async |sidecar| {
        let reply = sidecar.caller().get("orders", "/").await;
        assert!(
            reply.status == 200 || reply.status == 503,
            "{}",
            reply.text()
        );
    });
    join_all(called).await;
}

async fn all_share(mesh: &Mesh, name: &str) {
    eventually("all sidecars share the limit", async || {
        match row(mesh, name) {
            // Of what nobody wants, not every last part is given out in advance.
            Some((sidecars, shares)) if sidecars == SIDECARS as u64 && shares >= 90 => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
}

async fn sum_of_shares(sidecars: &[Sidecar], limit: &str) -> u64 {
    let mut sum = 0;
    for sidecar in sidecars {
        let text = sidecar.admin("/clusters?format=json").await;
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let clusters = all["clusters"].as_array().unwrap();
        let orders = clusters
            .iter()
            .find(|cluster| cluster["name"] == "outbound|80||orders.default.svc.cluster.local")
            .unwrap();
        let found = &orders["limits"][limit];
        assert_eq!(
            (&found["scope"], &found["limit"]),
            (&"SERVICE".into(), &LIMIT.into())
        );
        sum += found["share"].as_u64().unwrap();
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sidecars_have_100_requests_in_flight_together_with_and_without_the_control_plane() {
    let (backend, address) = Backend::start().await;
    let mesh = Mesh::start().await;
    let sidecars = sidecars(&mesh).await;
    mesh.apply(&documents(address, "http: { http2MaxRequests: 100 }"));
    mesh.synced().await;
    all_have_called(&sidecars).await;
    all_share(&mesh, "http2MaxRequests").await;
    assert!((90..=LIMIT as u64).contains(&sum_of_shares(&sidecars, "requests").await));

    let everybody = Clients::of(&sidecars, CLIENTS);
    reaches("all together use it up", &backend.requests, 90).await;
    everybody.end().await;

    // Who is alone may have what the others do not use; each keeps one.
    let alone = Clients::of(&sidecars[..1], LIMIT);
    reaches("one uses what all do not", &backend.requests, 75).await;

    mesh.kill_control_plane();
    let everybody = Clients::of(&sidecars, CLIENTS);
    within(Duration::from_secs(30), "every lease is over", async || {
        for sidecar in &sidecars {
            if sidecar.metric("outrigger_quota_fallback_active").await < 1.0 {
                return Err("one is under lease".to_owned());
            }
        }
        Ok(())
    })
    .await;
    alone.end().await;
    within(
        Duration::from_secs(60),
        "all have fallen back",
        async || match sum_of_shares(&sidecars, "requests").await {
            sum if sum == LIMIT as u64 => Ok(()),
            sum => Err(format!("{sum}")),
        },
    )
    .await;
    reaches("fair shares are used up", &backend.requests, 90).await;

    mesh.restart_control_plane().await;
    all_share(&mesh, "http2MaxRequests").await;
    everybody.end().await;
    let alone = Clients::of(&sidecars[1..2], LIMIT);
    within(
        Duration::from_secs(60),
        "shares are lent again",
        async || match backend.requests.now.load(SeqCst) {
            now if now >= 75 => Ok(()),
            now => Err(format!("{now}")),
        },
    )
    .await;
    alone.end().await;

    let most = backend.requests.peak.load(SeqCst);
    assert!(most <= AT_MOST, "{most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sidecars_have_100_connections_together() {
    let (backend, address) = Backend::start().await;
    let mesh = Mesh::start().await;
    let sidecars = sidecars(&mesh).await;
    mesh.apply(&documents(address, "tcp: { maxConnections: 100 }"));
    mesh.synced().await;
    all_have_called(&sidecars).await;
    all_share(&mesh, "maxConnections").await;

    let everybody = Clients::of(&sidecars, CLIENTS);
    reaches("all together use them up", &backend.connections, 90).await;
    everybody.end().await;
    let most = backend.connections.peak.load(SeqCst);
    assert!(most <= AT_MOST, "{most}");
    // The others' connections are idle: they are closed for who needs more.
    let alone = Clients::of(&sidecars[..1], LIMIT);
    reaches("one uses what all do not", &backend.requests, 75).await;
    let everybody = Clients::of(&sidecars[1..], CLIENTS);
    reaches("what was lent is returned", &backend.connections, 90).await;
    alone.end().await;
    everybody.end().await;

    // While connections are closed here and opened there, the backend may accept a new one before it has read the end of
    // the one that made room. A request is on a connection that is open at both ends.
    let most = backend.requests.peak.load(SeqCst);
    assert!(most <= AT_MOST, "{most}");
}
