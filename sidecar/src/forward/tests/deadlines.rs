//! Deadlines and exhaustion that travel along a trace.

use super::{
    retries::{Script, asked, with_retries},
    *,
};

const TRACE: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A sidecar with both ports, to its application and to `upstream`, and one of a caller; and where they listen.
async fn both_ways(app: SocketAddr, upstream: &Script) -> ([Sidecar; 2], SocketAddr, SocketAddr) {
    both_ways_with(app, upstream, |_| {}).await
}

/// `change`: of the caller's route.
async fn both_ways_with(
    app: SocketAddr,
    upstream: &Script,
    change: impl FnOnce(&mut Route),
) -> ([Sidecar; 2], SocketAddr, SocketAddr) {
    let authority = Authority::new();
    let endpoints = vec![upstream.endpoint()];
    let (mut sidecar, proxy) = Sidecar::outbound(
        &config(),
        Some(authority.identity("reviews")),
        cluster("reviews"),
        endpoints,
        |route| route.retry = asked("5xx"),
    )
    .await;
    let inbound = sidecar.open_inbound(app).await;
    let mut caller = cluster("caller");
    caller.tls = mtls(&["reviews"]);
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(inbound, true)];
    let (client, entrance) =
        Sidecar::outbound(&config(), identity, caller, endpoints, change).await;
    ([sidecar, client], proxy, entrance)
}

/// An application that calls `proxy` for each request, in the same trace, and answers what it was answered.
async fn relay(listener: TcpListener, proxy: SocketAddr) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            loop {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else {
                        return;
                    };
                    head.push(byte);
                }
                let mut out = Raw::to(proxy).await;
                out.send(&format!(
                    "GET /next HTTP/1.1\r\nHost: reviews\r\n{TRACE}\r\n\r\n"
                ))
                .await;
                let answer = out.answer().await.unwrap();
                let text = format!(
                    "HTTP/1.1 {} x\r\nContent-Length: {}\r\n\r\n{}",
                    answer.status,
                    answer.body.len(),
                    answer.body
                );
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
    }
}

#[tokio::test]
async fn a_deadline_travels_with_its_trace_and_cuts_the_next_hop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Script::of(&["hang"]).await;
    let (_sidecars, proxy, entrance) = both_ways(listener.local_addr().unwrap(), &upstream).await;
    tokio::spawn(relay(listener, proxy));
    let mut caller = Raw::to(entrance).await;
    caller
        .send(&format!(
            "GET / HTTP/1.1\r\nHost: reviews\r\n{TRACE}\r\nx-envoy-expected-rq-timeout-ms: 300\r\n\r\n"
        ))
        .await;
    let answer = caller.answer().await.unwrap();
    assert_eq!(answer.status, 504);
    assert!(answer.body.contains("deadline_exceeded"), "{}", answer.body);
    let head = upstream.last_head();
    let left = head
        .lines()
        .find_map(|line| line.strip_prefix("x-envoy-expected-rq-timeout-ms: "));
    let left: u64 = left.expect(&head).parse().unwrap();
    assert!((1..=300).contains(&left), "{left}");
}

#[tokio::test]
async fn exhaustion_below_is_told_to_the_hop_above() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Script::of(&["503"]).await;
    let retries = |route: &mut Route| route.retry = asked("5xx");
    let app = listener.local_addr().unwrap();
    let (_sidecars, proxy, entrance) = both_ways_with(app, &upstream, retries).await;
    tokio::spawn(relay(listener, proxy));
    let mut caller = Raw::to(entrance).await;
    caller
        .send(&format!(
            "GET / HTTP/1.1\r\nHost: reviews\r\n{TRACE}\r\n\r\n"
        ))
        .await;
    let answer = caller.answer().await.unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-outrigger-retries"), Some("exhausted"));
    assert_eq!(upstream.count(), 3, "the hop above has not tried again");
}

#[tokio::test]
async fn exhaustion_belongs_to_its_trace() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Script::of(&["503"]).await;
    let (_sidecars, proxy, entrance) = both_ways(listener.local_addr().unwrap(), &upstream).await;
    tokio::spawn(relay(listener, proxy));
    let mut caller = Raw::to(entrance).await;
    for (trace, told) in [
        (TRACE.to_owned(), Some("exhausted")),
        (TRACE.replace("4736", "4737"), None),
    ] {
        caller
            .send(&format!(
                "GET / HTTP/1.1\r\nHost: reviews\r\n{trace}\r\n\r\n"
            ))
            .await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.header("x-outrigger-retries"), told);
    }
}

#[tokio::test]
async fn a_request_without_a_deadline_is_not_cut_off_by_another_one_of_its_trace() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Script::of(&["hang"]).await;
    let (_sidecars, proxy, entrance) = both_ways(listener.local_addr().unwrap(), &upstream).await;
    tokio::spawn(relay(listener, proxy));
    let mut quick = Raw::to(entrance).await;
    quick
        .send(&format!(
            "GET /quick HTTP/1.1\r\nHost: reviews\r\n{TRACE}\r\nx-envoy-expected-rq-timeout-ms: 300\r\n\r\n"
        ))
        .await;
    while upstream.count() < 1 {
        tokio::task::yield_now().await;
    }
    let mut report = Raw::to(entrance).await;
    report
        .send(&format!(
            "GET /report HTTP/1.1\r\nHost: reviews\r\n{TRACE}\r\n\r\n"
        ))
        .await;
    assert_eq!(quick.answer().await.unwrap().status, 504);
    tokio::time::timeout(Duration::from_millis(500), report.answer())
        .await
        .unwrap_err();
}

#[tokio::test]
async fn an_application_steers_its_own_sidecar_and_nobody_behind_it() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = plain(vec![endpoint(app.address, false)]).await;
    let steered = "x-envoy-upstream-rq-timeout-ms: 50\r\nx-envoy-max-retries: 1\r\nx-envoy-upstream-alt-stat-name: a";
    for (held, reason) in [(false, None), (true, Some("timeout"))] {
        if held {
            app.hold();
        }
        let mut caller = Raw::to(proxy).await;
        caller
            .send(&format!(
                "GET / HTTP/1.1\r\nHost: reviews\r\n{steered}\r\n\r\n"
            ))
            .await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(answer.header("x-outrigger-reason"), reason);
    }
    let passed_on: Vec<_> = app.last_headers().keys().map(ToString::to_string).collect();
    let ours = "x-envoy-expected-rq-timeout-ms";
    assert!(
        passed_on
            .iter()
            .all(|name| !name.starts_with("x-envoy-") || name == ours),
        "{passed_on:?}"
    );
    let (bad, good) = (Script::of(&["503"]).await, Script::of(&["200"]).await);
    let (_sidecar, proxy) = plain(vec![bad.endpoint(), good.endpoint()]).await;
    for _ in 0..2 {
        let mut caller = Raw::to(proxy).await;
        caller
            .send("POST / HTTP/1.1\r\nHost: reviews\r\nx-envoy-retry-on: 5xx\r\nContent-Length: 1\r\n\r\na")
            .await;
        assert_eq!(caller.answer().await.unwrap().status, 200);
    }
    assert!(bad.count() >= 1);
}

#[tokio::test]
async fn the_routes_timeout_is_told_to_the_next_hop() {
    let app = App::start("reviews").await;
    let endpoints = vec![endpoint(app.address, false)];
    let limit = |route: &mut Route| route.timeout = Some(Duration::from_secs(5));
    let (_sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, limit).await;
    assert_eq!(get(proxy, "/").await.status, 200);
    let told = app.last_headers()["x-envoy-expected-rq-timeout-ms"].clone();
    let told: u64 = told.to_str().unwrap().parse().unwrap();
    assert!((1..=5000).contains(&told), "{told}");
}

#[tokio::test]
async fn a_callers_own_deadline_is_shorter_than_the_routes() {
    let slow = Script::of(&["hang"]).await;
    let (_sidecar, proxy) = with_retries(&[&slow], asked("5xx")).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send("GET / HTTP/1.1\r\nHost: reviews\r\nx-envoy-expected-rq-timeout-ms: 100\r\n\r\n")
        .await;
    let answer = caller.answer().await.unwrap();
    assert_eq!(answer.status, 504);
    assert_eq!(
        answer.header("x-outrigger-reason"),
        Some("deadline_exceeded")
    );
}
