//! Requests that become connections of bytes: through two sidecars, and refused.

use std::sync::Arc;

use hyper::ext::Protocol as H2Protocol;
use outrigger_core::{
    Condition, Features, Filter, FilterChains, HttpFilter, HttpSettings, PathMatch, Policy, Rbac,
    RbacAction, RouteMatch, Rules, StringMatch, Upgrades, UpstreamProtocol,
};

use super::*;
use crate::{
    http::answer::Code,
    testing::{route, spiffe, table},
};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: reviews\r\nConnection: keep-alive, Upgrade\r\nUPGRADE: WebSocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Go Ahead\r\nUPGRADE: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An application that answers each connection's first head with `answer`, in one piece, and then echoes to the end;
/// after it, says `bye`.
async fn switching(answer: &'static str) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, seen) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let heads = heads.clone();
            tokio::spawn(async move {
                let (head, rest) = head_of(&mut stream).await;
                heads.try_send(head).unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.write_all(&rest).await.unwrap();
                let (mut from, mut to) = stream.split();
                if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                    to.write_all(b"bye").await.ok();
                    to.shutdown().await.ok();
                }
            });
        }
    });
    (address, seen)
}

/// A head, and what came with it.
pub(super) async fn head_of(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return (String::from_utf8(bytes).unwrap(), rest);
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "{bytes:?}");
    }
}

pub(super) async fn read_all(stream: &mut TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

async fn until(mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap();
}

/// Two sidecars with mutual TLS before an application.
pub(super) async fn two_sidecars(app: SocketAddr) -> (Sidecar, Sidecar, SocketAddr) {
    two_sidecars_with(app, UpstreamProtocol::Http1).await
}

/// The same, which speak this to each other.
async fn two_sidecars_with(
    app: SocketAddr,
    protocol: UpstreamProtocol,
) -> (Sidecar, Sidecar, SocketAddr) {
    let authority = Authority::new();
    let (mut server, inbound) = Sidecar::inbound(authority.identity("reviews"), app).await;
    let mut own = cluster("app");
    own.name = "inbound|80||".to_owned();
    own.protocol = UpstreamProtocol::Http1;
    server.set_cluster(own, vec![endpoint(app, false)]);
    server.publish("virtualInbound").await;
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    reviews.protocol = protocol;
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(inbound, true)];
    let (client, proxy) = Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
    (client, server, proxy)
}

#[tokio::test]
async fn a_websocket_goes_through_two_sidecars_with_every_byte_and_both_ends() {
    let (app, mut seen) = switching(
        "HTTP/1.1 101 Go Ahead\r\nUPGRADE: websocket\r\nConnection: Upgrade\r\n\r\nhello",
    )
    .await;
    let (client, server, proxy) = two_sidecars(app).await;
    let mut caller = TcpStream::connect(proxy).await.unwrap();
    // What comes with the head is not lost, on either way.
    caller
        .write_all(format!("{ASK}early").as_bytes())
        .await
        .unwrap();
    let (answer, mut rest) = head_of(&mut caller).await;
    assert_eq!(
        answer,
        "HTTP/1.1 101 Go Ahead\r\nUPGRADE: websocket\r\nConnection: Upgrade\r\n\r\n"
    );
    let head = seen.recv().await.unwrap();
    for line in [
        "GET /chat HTTP/1.1\r\n",
        "\r\nConnection: Upgrade\r\n",
        "\r\nUPGRADE: WebSocket\r\n",
    ] {
        assert!(head.contains(line), "{line:?} in {head:?}");
    }
    while rest.len() < "helloearly".len() {
        caller.read_buf(&mut rest).await.unwrap();
    }
    assert_eq!(rest, b"helloearly");
    // The caller says no more; the application still answers.
    caller.write_all(b" and late").await.unwrap();
    caller.shutdown().await.unwrap();
    assert_eq!(read_all(&mut caller).await, " and latebye");
    for sidecar in [&client, &server] {
        until(|| sidecar.metric("istio_requests_total") >= 1.0).await;
    }
}

#[tokio::test]
async fn what_may_not_be_switched_to_is_refused_and_h2c_is_as_if_it_were_not_there() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = plain(vec![endpoint(app.address, false)]).await;
    let mut caller = Raw::to(proxy).await;
    for (upgrade, status) in [("tn3270", 403), ("websocket, tn3270", 403), ("h2c", 200)] {
        caller
            .send(&format!(
                "GET / HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
            ))
            .await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, status, "{upgrade}");
        let reason = answer.header("x-outrigger-reason").unwrap_or("-");
        let expected = if status == 200 {
            "-"
        } else {
            Code::UpgradeNotAllowed.as_str()
        };
        assert_eq!(reason, expected, "{upgrade}");
    }
    assert_eq!(app.heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_no_answer() {
    for (ask, done) in [
        ("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n", SWITCH.to_owned()),
        (ASK, SWITCH.replace("websocket", "h2c")),
        (ASK, "HTTP/1.1 101 Go Ahead\r\n\r\n".to_owned()),
    ] {
        let (app, mut seen) = switching(Box::leak(done.into_boxed_str())).await;
        let (sidecar, proxy) = plain(vec![endpoint(app, false)]).await;
        let mut caller = Raw::to(proxy).await;
        caller.send(ask).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("x-outrigger-reason"), Some("upstream_reset"));
        seen.recv().await.unwrap();
        drop(sidecar);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_switch_leaves_both_connections_as_they_are() {
    let app = App::start("reviews").await;
    let (_client, _server, proxy) = two_sidecars(app.address).await;
    let mut caller = Raw::to(proxy).await;
    for _ in 0..3 {
        caller.send(ASK).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "reviews"));
    }
    assert_eq!(app.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn between_sidecars_a_websocket_may_be_a_stream_of_http2() {
    let (app, mut seen) = switching(SWITCH).await;
    let (client, server, proxy) = two_sidecars_with(app, UpstreamProtocol::Http2).await;
    let mut callers = Vec::new();
    for number in 0..3 {
        let mut caller = TcpStream::connect(proxy).await.unwrap();
        caller
            .write_all(format!("{ASK}{number}").as_bytes())
            .await
            .unwrap();
        let (answer, mut rest) = head_of(&mut caller).await;
        let answer = answer.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        for line in [
            "\r\nupgrade: websocket\r\n",
            "\r\nconnection: upgrade\r\n",
            "s3pplmbitxaq9kygzzhzrbk+xoo=",
        ] {
            assert!(answer.contains(line), "{line:?} in {answer:?}");
        }
        let head = seen.recv().await.unwrap();
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
        assert!(
            head.to_ascii_lowercase()
                .contains("\r\nupgrade: websocket\r\n"),
            "{head}"
        );
        while rest.is_empty() {
            caller.read_buf(&mut rest).await.unwrap();
        }
        assert_eq!(rest, number.to_string().as_bytes());
        callers.push(caller);
    }
    // One for each worker that has callers.
    assert!(client.metric("outrigger_upstream_connections_total") <= 2.0);
    for mut caller in callers {
        caller.write_all(b"!").await.unwrap();
        caller.shutdown().await.unwrap();
        assert_eq!(read_all(&mut caller).await, "!bye");
    }
    for sidecar in [&client, &server] {
        until(|| sidecar.metric("istio_requests_total") >= 3.0).await;
        until(|| sidecar.metric("outrigger_tunnels") == 0.0).await;
    }
}

/// A connection of HTTP/2 to a sidecar, and a request over it.
async fn over_http2(
    proxy: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Response<hyper::body::Incoming> {
    let stream = TcpStream::connect(proxy).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn a_caller_of_http2_gets_a_websocket_from_a_server_of_http_1_1() {
    let (app, mut seen) = switching(SWITCH).await;
    for protocol in [UpstreamProtocol::Http2, UpstreamProtocol::Http1] {
        let (_client, _server, proxy) = two_sidecars_with(app, protocol).await;
        let mut request = Request::connect("http://reviews/chat")
            .body(Full::default())
            .unwrap();
        request
            .extensions_mut()
            .insert(H2Protocol::from_static("websocket"));
        let mut response = over_http2(proxy, request).await;
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("upgrade"));
        let head = seen.recv().await.unwrap().to_ascii_lowercase();
        assert!(head.starts_with("get /chat http/1.1\r\n"), "{head}");
        // A server of HTTP/1.1 needs a key, which a caller of HTTP/2 does not send.
        for line in [
            "upgrade: websocket",
            "connection: upgrade",
            "host: reviews",
            "sec-websocket-key: ",
        ] {
            assert!(head.contains(line), "{line:?} in {head:?}");
        }
        let bytes = hyper::upgrade::on(&mut response).await.unwrap();
        let mut bytes = TokioIo::new(bytes);
        bytes.write_all(b"hello").await.unwrap();
        bytes.shutdown().await.unwrap();
        let mut heard = String::new();
        bytes.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hellobye");
    }
}

/// Gives a listener that is open these settings.
async fn set(sidecar: &mut Sidecar, listener: &str, settings: HttpSettings) {
    let mut changed = (*sidecar.shared.snapshot.load().listeners[listener]).clone();
    let mut chain = changed.chains.only().unwrap().clone();
    chain.settings = Some(Arc::new(settings));
    changed.chains = FilterChains::one(chain);
    sidecar.builder.set_listener(listener, Some(changed));
    sidecar.publish(listener).await;
}

#[tokio::test]
async fn a_policy_that_denies_the_request_ends_what_has_become_of_it() {
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let (app, _seen) = switching(SWITCH).await;
        let (_client, mut server, proxy) = two_sidecars_with(app, protocol).await;
        let mut caller = TcpStream::connect(proxy).await.unwrap();
        caller.write_all(ASK.as_bytes()).await.unwrap();
        assert!(head_of(&mut caller).await.0.contains(" 101 "));
        let denies = |account: &str| {
            let who = Condition::Principal(StringMatch::Exact(spiffe(account), false));
            let path = Condition::Path(StringMatch::Prefix("/chat".to_owned(), false));
            let policy = Policy::new("p", vec![path], vec![who]);
            let rules = Rules::new(RbacAction::Deny, vec![policy]);
            let rbac = Rbac {
                rules: Some(rules),
                shadow: None,
                marks: None,
            };
            let filter = HttpFilter {
                name: "it".into(),
                disabled: false,
                filter: Filter::Rbac(Arc::new(rbac)),
            };
            HttpSettings {
                filters: vec![filter],
                upgrades: Upgrades::usual(),
                ..HttpSettings::default()
            }
        };
        // Of somebody else: nothing happens.
        set(&mut server, "virtualInbound", denies("stranger")).await;
        caller.write_all(b"on").await.unwrap();
        let mut two = [0; 2];
        caller.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"on");
        set(&mut server, "virtualInbound", denies("frontend")).await;
        let ended = tokio::time::timeout(Duration::from_secs(20), caller.read(&mut two))
            .await
            .unwrap();
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
        server
            .until_metric("outrigger_connections_ended_by_policy_total", 1.0)
            .await;
    }
}

/// A proxy that takes CONNECT, and leads to a server of bytes (`db:5432`) and one of HTTP (`reviews:80`).
async fn proxy_for_connections(bytes: SocketAddr, http: SocketAddr) -> (Sidecar, SocketAddr) {
    let endpoints = vec![endpoint(http, false)];
    let (mut sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, |_| {}).await;
    let mut db = cluster("db");
    db.name = "outbound|5432||db".to_owned();
    sidecar.set_cluster(db, vec![endpoint(bytes, false)]);
    let mut connect = route(&mut sidecar.builder, "outbound|5432||db");
    connect.matches = RouteMatch {
        path: PathMatch::Connect,
        ..connect.matches
    };
    connect.features = Some(Arc::new(Features {
        upgrades: Upgrades::new([("CONNECT".to_owned(), true)]).unwrap(),
        ..Features::default()
    }));
    let requests = route(&mut sidecar.builder, &cluster("reviews").name);
    let routes = table(
        "http_proxy",
        vec![("db:5432", vec![connect]), ("reviews:80", vec![requests])],
    );
    sidecar
        .builder
        .set_routes("http_proxy", Some(Arc::new(routes)));
    let settings = HttpSettings {
        upgrades: Upgrades::new([("CONNECT".to_owned(), true)]).unwrap(),
        ..HttpSettings::default()
    };
    set(&mut sidecar, "http_proxy", settings).await;
    (sidecar, proxy)
}

/// Says its name first, then everything that it is told.
async fn speaks_first() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(b"db ready\n").await.unwrap();
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await.ok();
                to.shutdown().await.ok();
            });
        }
    });
    address
}

#[tokio::test]
async fn a_connect_leads_to_a_port_of_bytes_and_nobody_is_told_so_before_there_is_a_connection() {
    let app = App::start("reviews").await;
    let (sidecar, proxy) = proxy_for_connections(speaks_first().await, app.address).await;
    let mut caller = TcpStream::connect(proxy).await.unwrap();
    caller
        .write_all(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\nhello")
        .await
        .unwrap();
    let (answer, rest) = head_of(&mut caller).await;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\n");
    caller.shutdown().await.unwrap();
    let rest = String::from_utf8(rest).unwrap() + &read_all(&mut caller).await;
    assert_eq!(rest, "db ready\nhello");
    until(|| sidecar.metric("istio_tcp_connections_closed_total") == 1.0).await;

    let nobody = Nobody::at_home();
    let (_sidecar, proxy) = proxy_for_connections(nobody.address(), app.address).await;
    let mut caller = Raw::to(proxy).await;
    for (target, status, reason) in [
        ("db:5432", 503, "connect_failed"),
        ("elsewhere:5432", 404, "no_route_host"),
        ("db:5433", 404, "no_route_host"),
        ("db", 400, "bad_request"),
    ] {
        caller
            .send(&format!(
                "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
            ))
            .await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(
            (answer.status, answer.header("x-outrigger-reason")),
            (status, Some(reason)),
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_connect_to_a_port_of_http_goes_on_with_requests_that_meet_their_routes() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = proxy_for_connections(speaks_first().await, app.address).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send("CONNECT reviews:80 HTTP/1.1\r\nHost: reviews:80\r\n\r\n")
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 200);
    for (host, status) in [("reviews:80", 200), ("nobody:80", 404), ("reviews:80", 200)] {
        caller
            .send(&format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        assert_eq!(caller.answer().await.unwrap().status, status, "{host}");
    }
    caller
        .send("CONNECT reviews:80 HTTP/1.1\r\nHost: reviews:80\r\n\r\n")
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 501);
    assert_eq!(app.heads.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_connect_over_http2_is_a_stream() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = proxy_for_connections(speaks_first().await, app.address).await;
    let request = Request::connect("db:5432").body(Full::default()).unwrap();
    let mut response = over_http2(proxy, request).await;
    assert_eq!(response.status(), 200);
    let mut bytes = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    bytes.shutdown().await.unwrap();
    let mut heard = String::new();
    bytes.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "db ready\n");
}
