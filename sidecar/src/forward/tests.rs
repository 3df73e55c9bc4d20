//! Tries, timeouts, own answers, and what never crosses a sidecar.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Frame, client::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_core::{Action, ClusterChoice, EndpointConfig, HeaderEdits, LbPolicy, Route};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
};

use crate::{
    Config,
    testing::{
        Authority, Sidecar,
        app::{App, Raw, get},
        cluster, config, endpoint, mtls,
    },
};

mod balancing;
mod bodies;
mod breaker;
mod chaos;
mod deadlines;
mod ejection;
mod features;
mod filters;
mod forms;
mod on_demand;
mod retries;
mod upgrades;
mod uploads;

async fn plain(endpoints: Vec<EndpointConfig>) -> (Sidecar, SocketAddr) {
    Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, |_| {}).await
}

/// A port on which nobody listens, held so that nobody else will.
struct Nobody(TcpSocket);

impl Nobody {
    fn at_home() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

fn post(body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_post_goes_to_another_endpoint_if_the_first_takes_no_connection() {
    let app = App::start("reviews").await;
    let nobody = Nobody::at_home();
    let dead = endpoint(nobody.address(), false);
    let (sidecar, proxy) = plain(vec![dead, endpoint(app.address, false)]).await;
    let mut caller = Raw::to(proxy).await;
    for round in 0..4 {
        caller.send(&post("order 1")).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "order 1"), "{round}");
    }
    assert_eq!(app.heads.lock().unwrap().len(), 4, "each exactly once");
    assert!(sidecar.metric("outrigger_retries_total{outcome=\"again\"}") >= 1.0);
}

#[tokio::test]
async fn a_sidecar_whose_application_is_down_sends_the_request_back_unsent() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (_good, alive) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let nobody = Nobody::at_home();
    let (_bad, dead) = Sidecar::inbound(authority.identity("reviews"), nobody.address()).await;
    for endpoints in [vec![(dead, true), (alive, true)], vec![(dead, true)]] {
        let mut reviews = cluster("reviews");
        reviews.tls = mtls(&["reviews"]);
        let only_dead = endpoints.len() == 1;
        let endpoints = endpoints
            .into_iter()
            .map(|(at, mtls)| endpoint(at, mtls))
            .collect();
        let identity = Some(authority.identity("frontend"));
        let (_client, proxy) =
            Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
        let mut caller = Raw::to(proxy).await;
        for _ in 0..4 {
            caller.send(&post(&"x".repeat(60_000))).await;
            let answer = caller.answer().await.unwrap();
            assert_eq!(answer.header("x-outrigger-unsent"), None);
            if only_dead {
                assert_eq!(answer.status, 503);
                assert!(
                    answer.body.contains("\"hop\":\"inbound\""),
                    "{}",
                    answer.body
                );
                assert!(answer.body.contains("connect_failed"), "{}", answer.body);
            } else {
                assert_eq!((answer.status, answer.body.len()), (200, 60_000));
            }
        }
    }
}

/// Takes each request and closes without an answer; says how many came.
async fn takes_and_closes() -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = [0; 1024];
            if stream.read(&mut seen).await.unwrap() > 0 {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_request_that_may_have_reached_the_application_is_not_sent_again() {
    let (a, seen_a) = takes_and_closes().await;
    let (b, seen_b) = takes_and_closes().await;
    let (_sidecar, proxy) = plain(vec![endpoint(a, false), endpoint(b, false)]).await;
    let mut caller = Raw::to(proxy).await;
    caller.send(&post("order 1")).await;
    let answer = caller.answer().await.unwrap();
    assert_eq!(
        answer.header("x-outrigger-reason"),
        Some("upstream_closed"),
        "{answer:?}"
    );
    let seen = |n: &std::sync::atomic::AtomicUsize| n.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(seen(&seen_a) + seen(&seen_b), 1);
}

/// Answers one request a connection, and closes when the second arrives.
async fn answers_once() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut seen = [0; 1024];
                assert!(stream.read(&mut seen).await.unwrap() > 0);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
                assert!(stream.read(&mut seen).await.is_ok());
            });
        }
    });
    address
}

#[tokio::test]
async fn a_get_on_a_stale_connection_is_repeated_and_a_post_is_not() {
    let (_sidecar, proxy) = plain(vec![endpoint(answers_once().await, false)]).await;
    let mut caller = Raw::to(proxy).await;
    for _ in 0..3 {
        assert_eq!(caller.get("/").await.status, 200);
    }
    caller.send(&post("order 1")).await;
    let answer = caller.answer().await.unwrap();
    assert_eq!(answer.header("x-outrigger-reason"), Some("upstream_closed"));
}

#[tokio::test]
async fn the_routes_timeout_is_answered_with_504() {
    let app = App::start("reviews").await;
    app.hold();
    let endpoints = vec![endpoint(app.address, false)];
    let limit = |route: &mut Route| route.timeout = Some(Duration::from_millis(50));
    let (_sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, limit).await;
    let answer = get(proxy, "/").await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.header("x-outrigger-reason"), Some("timeout"));
    assert!(answer.body.contains("50ms"), "{}", answer.body);
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_the_request_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_sidecar, proxy) = plain(vec![endpoint(address, false)]).await;
    let mut caller = Raw::to(proxy).await;
    caller.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut seen = [0; 1024];
    assert!(upstream.read(&mut seen).await.unwrap() > 0);
    drop(caller);
    assert_eq!(
        upstream.read(&mut seen).await.unwrap(),
        0,
        "the connection was closed"
    );
}

#[tokio::test]
async fn hosts_that_nobody_configured_are_not_proxied() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = plain(vec![endpoint(app.address, false)]).await;
    let elsewhere = format!(
        "GET http://{}/ HTTP/1.1\r\nHost: reviews\r\n\r\n",
        app.address
    );
    for (request, status, reason) in [
        (
            "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
            404,
            "no_route_host",
        ),
        (&*elsewhere, 404, "no_route_host"),
        (
            "GET http://reviews/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
            200,
            "-",
        ),
        (
            "GET / HTTP/1.1\r\nHost: reviews\r\nHost: reviews\r\n\r\n",
            400,
            "bad_request",
        ),
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (
            "GET / HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: tn3270\r\n\r\n",
            403,
            "upgrade_not_allowed",
        ),
    ] {
        // One that is malformed ends its connection.
        let mut caller = Raw::to(proxy).await;
        caller.send(request).await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.status, status, "{request}");
        assert_eq!(
            answer.header("x-outrigger-reason").unwrap_or("-"),
            reason,
            "{request}"
        );
    }
    let mut caller = Raw::to(proxy).await;
    caller
        .send("CONNECT reviews:80 HTTP/1.1\r\nHost: reviews:80\r\n\r\n")
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 501);
    assert_eq!(app.heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn of_two_edits_of_a_header_the_routes_has_the_last_word() {
    let app = App::start("reviews").await;
    let endpoints = vec![endpoint(app.address, false)];
    let set = |value: &'static str| HeaderEdits {
        set: vec![(
            HeaderName::from_static("x-level"),
            HeaderValue::from_static(value).into(),
        )],
        ..HeaderEdits::default()
    };
    let levels = |route: &mut Route| {
        (route.request_headers, route.response_headers) = (set("route"), set("route"));
        let Action::Forward(choice) = &route.action else {
            panic!("{:?}", route.action);
        };
        let mut weighted = choice.clusters.clone();
        weighted[0].request_headers = set("destination");
        weighted[0].response_headers = set("destination");
        route.action = Action::Forward(ClusterChoice::new(weighted).unwrap());
    };
    let cluster = cluster("reviews");
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, cluster, endpoints, levels).await;
    let answer = get(proxy, "/").await;
    assert_eq!(answer.header("x-level"), Some("route"));
    assert_eq!(app.last_headers()["x-level"], "route");
}

#[tokio::test]
async fn a_subset_without_endpoints_is_named() {
    let mut reviews = cluster("reviews");
    reviews.subset = "v2".to_owned();
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, Vec::new(), |_| {}).await;
    let answer = get(proxy, "/").await;
    assert_eq!(answer.header("x-outrigger-reason"), Some("no_endpoints"));
    assert!(
        answer.body.contains(r#"in subset \"v2\" has no endpoints"#),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn what_belongs_to_a_connection_or_names_a_caller_ends_at_the_sidecar() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (_server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(inbound, true)];
    let (_client, proxy) = Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send(
            "GET / HTTP/1.1\r\nHost: reviews\r\nX-Mixed-Case: 1\r\n\
             Connection: keep-alive, x-drop, x-forwarded-client-cert\r\nKeep-Alive: timeout=5\r\n\
             X-Drop: 1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nTE: gzip\r\n\
             X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/default/sa/admin\r\n\
             X_Forwarded_Client_Cert: URI=spiffe://cluster.local/ns/default/sa/admin\r\n\r\n",
        )
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 200);
    let seen = app.last_headers();
    for gone in [
        "connection",
        "keep-alive",
        "x-drop",
        "upgrade",
        "http2-settings",
        "te",
        "x_forwarded_client_cert",
    ] {
        assert!(!seen.contains_key(gone), "{gone}: {seen:?}");
    }
    assert_eq!(seen["x-mixed-case"], "1");
    let said: Vec<_> = seen.get_all("x-forwarded-client-cert").iter().collect();
    assert_eq!(said.len(), 1);
    assert!(
        said[0].to_str().unwrap().ends_with("sa/frontend"),
        "{said:?}"
    );
}

#[tokio::test]
async fn the_letter_case_of_headers_survives_two_sidecars() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let (_server, inbound) = Sidecar::inbound(authority.identity("reviews"), app).await;
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(inbound, true)];
    let (_client, proxy) = Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send("GET / HTTP/1.1\r\nHost: reviews\r\nX-MiXed: 1\r\n\r\n")
        .await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut seen = [0; 2048];
    let n = stream.read(&mut seen).await.unwrap();
    let seen = String::from_utf8_lossy(&seen[..n]).into_owned();
    assert!(seen.contains("X-MiXed: 1\r\n"), "{seen}");
    assert!(seen.contains("Host: reviews\r\n"), "{seen}");
    let answer = b"HTTP/1.1 200 OK\r\nX-BaCk: 1\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(answer).await.unwrap();
    let answer = caller.answer().await.unwrap();
    assert!(answer.head.contains("X-BaCk: 1"), "{}", answer.head);
}

#[tokio::test]
async fn heads_beyond_the_limits_are_refused() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = plain(vec![endpoint(app.address, false)]).await;
    let many = "X-A: 1\r\n".repeat(101);
    let large = format!("X-A: {}\r\n", "a".repeat(61 * 1024));
    for (name, headers) in [("many", many), ("large", large)] {
        let mut caller = Raw::to(proxy).await;
        caller
            .send(&format!("GET / HTTP/1.1\r\nHost: reviews\r\n{headers}\r\n"))
            .await;
        assert_eq!(caller.answer().await.map(|a| a.status), Some(431), "{name}");
    }
    assert!(app.heads.lock().unwrap().is_empty());
}

/// A gRPC server in miniature: echoes, and says how it went in trailers.
async fn grpc_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: Request<hyper::body::Incoming>| async {
                assert_eq!(request.headers()["te"], "trailers");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "7".parse().unwrap());
                let frames = [Frame::data(body), Frame::trailers(trailers)];
                let frames = frames.map(Ok::<_, Infallible>);
                let body = StreamBody::new(tokio_stream::iter(frames));
                let response = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(response.body(body).unwrap())
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn grpc_call(proxy: SocketAddr, host: &str) -> (StatusCode, HeaderMap, HeaderMap, Bytes) {
    let stream = TcpStream::connect(proxy).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://{host}/shop.Reviews/Get"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"hello")))
        .unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (head.status, head.headers, trailers, body.to_bytes())
}

#[tokio::test]
async fn grpc_crosses_two_sidecars_with_its_trailers() {
    let authority = Authority::new();
    let app = grpc_app().await;
    let (server, inbound) = Sidecar::inbound(authority.identity("reviews"), app).await;
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(inbound, true)];
    let (client, proxy) = Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
    let (status, _, trailers, body) = grpc_call(proxy, "reviews").await;
    assert_eq!((status, &*body), (StatusCode::OK, &b"hello"[..]));
    assert_eq!(trailers["grpc-status"], "7");
    for (sidecar, reporter) in [(&client, "source"), (&server, "destination")] {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&sidecar.telemetry.metrics.registry.gather())
            .unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("istio_requests_total"))
            .unwrap();
        for label in [
            &*format!("reporter=\"{reporter}\""),
            "request_protocol=\"grpc\"",
            "grpc_response_status=\"7\"",
            "response_code=\"200\"",
            "connection_security_policy=\"mutual_tls\"",
        ] {
            assert!(line.contains(label), "{label}: {line}");
        }
    }
}

#[tokio::test]
async fn grpc_callers_are_told_in_their_own_way() {
    let nobody = Nobody::at_home();
    let (_sidecar, proxy) = plain(vec![endpoint(nobody.address(), false)]).await;
    for (host, status) in [("reviews", "14"), ("unknown", "12")] {
        let (http, headers, _, _) = grpc_call(proxy, host).await;
        assert_eq!(http, StatusCode::OK);
        assert_eq!(headers["grpc-status"], status, "{host}");
        assert!(headers.contains_key("grpc-message"));
        assert!(headers.contains_key("x-outrigger-reason"));
    }
}

#[tokio::test]
async fn a_service_without_endpoints_says_so() {
    let (_sidecar, proxy) = plain(Vec::new()).await;
    let answer = get(proxy, "/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-outrigger-reason"), Some("no_endpoints"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["error"]["hop"], "outbound");
    assert_eq!(
        body["error"]["service"],
        "reviews.default.svc.cluster.local"
    );
    assert_eq!(body["error"]["policy"], "canary.yaml:12:5");
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_takes_nothing_new() {
    let app = App::start("reviews").await;
    app.hold();
    let one_worker = Config {
        workers: 1,
        ..config()
    };
    let endpoints = vec![endpoint(app.address, false)];
    let (sidecar, proxy) =
        Sidecar::outbound(&one_worker, None, cluster("reviews"), endpoints, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    caller.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
    let mut idle = Raw::to(proxy).await;
    assert_eq!(idle_status(&mut idle, &app).await, 404);
    app.until_requests(1).await;
    let (told, done) = oneshot::channel();
    tokio::spawn(async move {
        told.send(sidecar.workers.drain(Duration::from_secs(10)).await)
            .unwrap();
    });
    assert!(
        idle.answer().await.is_none(),
        "an idle connection is closed at once"
    );
    app.let_go();
    let answer = caller.answer().await.unwrap();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(done.await.unwrap(), 0, "nothing was cut off");
    assert!(TcpStream::connect(proxy).await.is_err());
}

/// Uses a connection without troubling the application.
async fn idle_status(idle: &mut Raw, _app: &App) -> u16 {
    idle.send("GET / HTTP/1.1\r\nHost: unknown\r\n\r\n").await;
    idle.answer().await.unwrap().status
}

#[tokio::test]
async fn an_answered_request_weighs_no_longer_on_its_endpoint() {
    let (slow, fast) = (App::start("slow").await, App::start("fast").await);
    slow.hold();
    let mut reviews = cluster("reviews");
    reviews.lb = LbPolicy::LeastRequest;
    let endpoints = vec![endpoint(slow.address, false), endpoint(fast.address, false)];
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await;
    // One after the other, until one waits in the slow endpoint.
    let mut waiting = tokio::task::JoinSet::new();
    let mut arrived = slow.requests.clone();
    loop {
        waiting.spawn(get(proxy, "/"));
        tokio::select! {
            _ = arrived.changed() => break,
            answer = waiting.join_next() => assert_eq!(answer.unwrap().unwrap().body, "fast"),
        }
    }
    let mut caller = Raw::to(proxy).await;
    for _ in 0..100 {
        assert_eq!(caller.get("/").await.body, "fast");
    }
    slow.let_go();
    waiting.join_all().await;
}
