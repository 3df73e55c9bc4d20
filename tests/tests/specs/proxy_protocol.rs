//! PROXY protocol: a sidecar tells a server for whom it connects, and believes a proxy before it that does the same.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use outrigger_proto::envoy::{
    config::listener::v3::{ListenerFilter, listener_filter},
    extensions::filters::listener::proxy_protocol::v3::ProxyProtocol,
};
use outrigger_tests::{
    ForeignServer, Mesh, Process, TestApp, XdsForm, eventually, free_port, packed,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    time::timeout,
};

use super::foreign_server::{
    LDS, RDS, arguments, assignment, bootstrap, cluster, listener, routes,
};

const CDS: &str = "envoy.config.cluster.v3.Cluster";
const EDS: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
const FILTER: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
const AT_MOST: Duration = Duration::from_secs(20);

/// A server of HTTP that remembers all bytes of each connection.
struct Recorder {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let connections = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let all = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let index = {
                    let mut all = all.lock().await;
                    all.push(Vec::new());
                    all.len() - 1
                };
                tokio::spawn(record(stream, Arc::clone(&all), index));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// First lines of the connections that brought a request for this path.
    async fn first_lines(&self, path: &str) -> Vec<String> {
        let all = self.connections.lock().await;
        let texts = all.iter().map(|bytes| String::from_utf8_lossy(bytes));
        let wanted = format!("GET {path} ");
        texts
            .filter(|text| text.contains(&wanted))
            .map(|text| text.lines().next().unwrap_or_default().to_owned())
            .collect()
    }
}

async fn record(mut stream: TcpStream, all: Arc<Mutex<Vec<Vec<u8>>>>, index: usize) {
    let mut buffer = [0; 4_096];
    let mut answered = 0;
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let requests = {
            let mut all = all.lock().await;
            all[index].extend_from_slice(&buffer[..length]);
            all[index]
                .windows(4)
                .filter(|end| end == b"\r\n\r\n")
                .count()
        };
        while answered < requests {
            answered += 1;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

/// One request on a connection of its own; which port that had.
async fn get(proxy: SocketAddr, host: &str, path: &str) -> (TcpStream, u16) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let port = stream.local_addr().unwrap().port();
    again(&mut stream, host, path).await;
    (stream, port)
}

async fn again(stream: &mut TcpStream, host: &str, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 4_096];
    let length = timeout(AT_MOST, stream.read(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_told_for_whom_each_connection_is_and_none_serves_two() {
    let mesh = Mesh::start().await;
    let server = Recorder::start().await;
    let port = server.address.port();
    mesh.apply(&format!(
        "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: legacy}}
spec:
  hosts: [legacy.example.com]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: legacy}}
spec:
  host: legacy.example.com
  trafficPolicy:
    proxyProtocol: {{version: V1}}
"
    ));
    let shopper = mesh.service("shopper").flag("--workers", "1").start().await;
    let out = shopper.outbound;
    let line = |port| format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}", out.port());
    let (mut first, first_port) = get(out, "legacy.example.com", "/first").await;
    let (_second, second_port) = get(out, "legacy.example.com", "/second").await;
    again(&mut first, "legacy.example.com", "/third").await;
    assert_eq!(server.first_lines("/first").await, [line(first_port)]);
    assert_eq!(server.first_lines("/second").await, [line(second_port)]);
    assert_eq!(server.first_lines("/third").await, [line(first_port)]);
    assert_eq!(server.connections.lock().await.len(), 2, "one for each");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_wants_it_sees_who_calls_it() {
    let mesh = Mesh::start().await;
    let app = Recorder::start().await;
    let reviews = mesh.service("reviews").app_at(app.address);
    let reviews = reviews.flag("--app-proxy-protocol", "v1").start().await;
    let shopper = mesh.service("shopper").start().await;
    let reply = shopper.caller().get("reviews:9080", "/called").await;
    assert_eq!(reply.status, 200);
    let lines = app.first_lines("/called").await;
    let inbound = reviews.inbound.unwrap().port();
    let [line] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert!(
        line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ")
            && line.ends_with(&format!(" {inbound}")),
        "{line}"
    );
    // The sidecar's own checks are nobody's.
    let checks = app.first_lines("/healthz").await;
    assert!(
        !checks.is_empty() && checks.iter().all(|line| line == "PROXY UNKNOWN"),
        "{checks:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_who_the_proxy_before_the_sidecar_says() {
    let app = TestApp::start("app").await;
    let mut server = ForeignServer::start().await;
    let bootstrap = bootstrap(XdsForm::Delta, server.address().port(), "");
    let out = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let args = arguments(bootstrap.path(), out);
    let sidecar = tokio::spawn(async move { Process::start("sidecar", &args, &[]).await });
    let mut stream = server.accept().await;
    stream.heard().await;
    let one = [("app", packed(CDS, &cluster("app")))];
    stream.say(CDS, "1", "c1", one.to_vec(), &[]).await;
    stream.answer_to("c1").await;
    let endpoints = packed(EDS, &assignment("app", "127.0.0.1", app.address().port()));
    stream
        .say(EDS, "1", "e1", vec![("app", endpoints)], &[])
        .await;
    stream.answer_to("e1").await;
    let mut proxied = listener(out, "r", Vec::new(), |manager| {
        manager.use_remote_address = Some(true);
    });
    proxied.listener_filters = vec![ListenerFilter {
        name: "envoy.filters.listener.proxy_protocol".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(packed(
            FILTER,
            &ProxyProtocol::default(),
        ))),
        ..ListenerFilter::default()
    }];
    stream
        .say(LDS, "1", "l1", vec![("out", packed(LDS, &proxied))], &[])
        .await;
    assert_eq!(stream.answer_to("l1").await.error, None);
    stream
        .say(
            RDS,
            "1",
            "r1",
            vec![("r", packed(RDS, &routes("r", "app")))],
            &[],
        )
        .await;
    let process = sidecar.await.unwrap();

    let mut caller = TcpStream::connect(out).await.unwrap();
    let said =
        b"PROXY TCP4 203.0.113.9 198.51.100.7 5678 443\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n";
    caller.write_all(said).await.unwrap();
    let mut answer = [0; 4_096];
    let length = timeout(AT_MOST, caller.read(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let received = app.received();
    assert_eq!(received[0].headers["x-forwarded-for"], "203.0.113.9");

    // Whoever does not say so is not let in.
    let mut other = TcpStream::connect(out).await.unwrap();
    other
        .write_all(b"GET /b HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut heard = Vec::new();
    timeout(AT_MOST, other.read_to_end(&mut heard))
        .await
        .unwrap()
        .ok();
    assert!(heard.is_empty());
    assert_eq!(app.received().len(), 1);
    eventually("the refusal is logged", async || {
        let log = process.log();
        match log.contains("it does not begin with a PROXY protocol header") {
            true => Ok(()),
            false => Err(log),
        }
    })
    .await;
}
