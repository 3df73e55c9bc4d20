//! Requests that become connections of bytes, with a control plane and mutual TLS: WebSocket, and CONNECT through the
//! proxy port to services of bytes and of HTTP.

use std::{net::SocketAddr, time::Duration};

use outrigger_tests::{Mesh, TestApp, echo_app, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const AT_MOST: Duration = Duration::from_secs(20);

/// A server that takes any WebSocket, echoes its bytes, and says `bye` when its caller says no more.
async fn websocket_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let asked = head(&mut stream).await?;
                if !asked.to_ascii_lowercase().contains("upgrade: websocket") {
                    // Whether it is healthy.
                    let answer =
                        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    return stream.write_all(answer.as_bytes()).await.ok();
                }
                let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello ";
                stream.write_all(answer.as_bytes()).await.ok()?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok()?;
                to.write_all(b" bye").await.ok()?;
                to.shutdown().await.ok()
            });
        }
    });
    address
}

/// Up to the empty line; None if there is none.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// The answer's head, and what comes after it when `said` has been said (and nothing more, if it is bytes).
async fn tunnel(to: SocketAddr, ask: &str, said: &str) -> Option<(String, String)> {
    let told = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        stream.write_all(ask.as_bytes()).await.ok()?;
        let head = head(&mut stream).await?;
        if !head.contains(" 101 ") && !head.contains(" 200 ") {
            return Some((head, String::new()));
        }
        stream.write_all(said.as_bytes()).await.ok()?;
        // Who asks over HTTP waits for the answer with both ends open.
        if !said.starts_with("GET ") {
            stream.shutdown().await.ok()?;
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok()?;
        Some((head, String::from_utf8_lossy(&rest).into_owned()))
    };
    timeout(AT_MOST, told).await.expect("it ends")
}

/// Waits until it is answered so.
async fn until(to: SocketAddr, ask: &str, said: &str, status: &str, expected: &str) {
    eventually(&format!("{ask:?} is answered {status}"), async || {
        let found = tunnel(to, ask, said).await;
        match &found {
            Some((head, rest)) if head.contains(status) && rest.contains(expected) => Ok(()),
            _ => Err(format!("{found:?}")),
        }
    })
    .await;
}

fn connect(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: chat:9080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_travels_under_mtls_and_its_request_meets_access_rules() {
    let mesh = Mesh::start().await;
    let app = websocket_app().await;
    let chat = mesh.service("chat").label("app", "chat").app_at(app);
    let _chat = chat.start().await;
    let shopper = mesh.service("shopper").start().await;
    until(shopper.outbound, WEBSOCKET, "and", " 101 ", "hello and bye").await;
    let mut open = TcpStream::connect(shopper.outbound).await.unwrap();
    open.write_all(WEBSOCKET.as_bytes()).await.unwrap();
    assert!(head(&mut open).await.unwrap().contains(" 101 "));
    mesh.apply(
        "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-chat}
spec:
  selector: {matchLabels: {app: chat}}
  action: DENY
  rules: [{to: [{operation: {paths: [/chat]}}]}]
",
    );
    // The one that is open ends, and there is no other.
    let mut rest = Vec::new();
    drop(
        timeout(AT_MOST, open.read_to_end(&mut rest))
            .await
            .expect("it ends"),
    );
    assert_eq!(String::from_utf8_lossy(&rest), "hello ");
    until(shopper.outbound, WEBSOCKET, "", " 403 ", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_to_a_service_of_bytes_is_a_connection_under_mtls() {
    let mesh = Mesh::start().await;
    let app = echo_app("db ").await;
    let db = mesh.service("db").tcp_app_at(app).start().await;
    let shopper = mesh.service("shopper").start().await;
    let proxy = shopper.outbound;
    until(
        proxy,
        &connect("db:9080"),
        "select 1",
        " 200 ",
        "db select 1",
    )
    .await;
    for name in ["db.default:9080", "db.default.svc.cluster.local:9080"] {
        let (head, rest) = tunnel(proxy, &connect(name), "select 2").await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(rest, "db select 2", "{name}");
    }
    // Nobody, another port of somebody, and a request that is none.
    for (target, reason) in [
        ("nobody:9080", "no_route_host"),
        ("db:9081", "no_route_host"),
        ("db", "bad_request"),
    ] {
        let (head, _) = tunnel(proxy, &connect(target), "").await.unwrap();
        assert!(
            head.contains(&format!("x-outrigger-reason: {reason}\r\n")),
            "{target}: {head}"
        );
    }
    // What is sent in plain HTTP to a service of bytes is a request that nobody has a route for.
    let (head, _) = tunnel(proxy, "GET / HTTP/1.1\r\nHost: db:9080\r\n\r\n", "")
        .await
        .unwrap();
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    drop(db);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_to_a_service_of_http_meets_its_routes() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("orders").await;
    let _orders = mesh.service("orders").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    mesh.apply(
        "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
  - match: [{uri: {prefix: /fixed}}]
    directResponse: {status: 218}
  - route: [{destination: {host: orders}}]
",
    );
    let request = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: orders:9080\r\nConnection: close\r\n\r\n")
    };
    let ask = connect("orders:9080");
    until(
        shopper.outbound,
        &ask,
        &request("/fixed"),
        " 200 ",
        "HTTP/1.1 218 ",
    )
    .await;
    until(
        shopper.outbound,
        &ask,
        &request("/a"),
        " 200 ",
        "HTTP/1.1 200 OK",
    )
    .await;
    assert_eq!(app.received().last().unwrap().path, "/a");
}
