//! Callers that break off, are slow, or get their answer before they have said all.

use std::sync::{Arc, Mutex};

use outrigger_core::RetryPolicy;
use tokio::{sync::mpsc, time::Instant};

use super::{ejection::ejecting_after, retries::asked, *};

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n";

/// Answers a GET; of all else it only remembers what came, by connection.
struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    /// A part has come (false), or a connection has ended (true).
    news: mpsc::Receiver<bool>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (tell, news) = mpsc::channel(64);
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (shared, tell) = (Arc::clone(&shared), tell.clone());
                tokio::spawn(async move {
                    let number = {
                        let mut all = shared.lock().unwrap();
                        all.push(Vec::new());
                        all.len() - 1
                    };
                    let mut part = [0; 4096];
                    while let Ok(n @ 1..) = stream.read(&mut part).await {
                        shared.lock().unwrap()[number].extend(&part[..n]);
                        if part.starts_with(b"GET") {
                            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                            stream.write_all(answer).await.unwrap();
                        }
                        tell.send(false).await.ok();
                    }
                    tell.send(true).await.ok();
                });
            }
        });
        Self {
            address,
            seen,
            news,
        }
    }

    async fn until_seen(&mut self, part: &[u8]) {
        let is_there = |seen: &Vec<u8>| seen.windows(part.len()).any(|window| window == part);
        while !self.seen.lock().unwrap().iter().any(is_there) {
            self.news.recv().await.unwrap();
        }
    }

    async fn until_closed(&mut self) {
        while !self.news.recv().await.unwrap() {}
    }
}

#[tokio::test]
async fn an_upload_that_its_caller_breaks_off_is_nobodys_whole_request_and_nobodys_fault() {
    let sized = "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 10\r\n";
    for (head, part, then) in [
        (CHUNKED, "3\r\nabc\r\n", Some("zz\r\n")),
        (CHUNKED, "3\r\nabc\r\n", None),
        (sized, "abc", None),
    ] {
        for retry in [asked("5xx"), RetryPolicy::default()] {
            let mut upstream = Recorder::start().await;
            let endpoints = vec![endpoint(upstream.address, false)];
            let change = |route: &mut Route| route.retry = retry;
            let (sidecar, proxy) =
                Sidecar::outbound(&config(), None, ejecting_after(1), endpoints, change).await;
            let mut caller = Raw::to(proxy).await;
            caller.send(&format!("{head}\r\n{part}")).await;
            upstream.until_seen(b"abc").await;
            match then {
                Some(bad) => {
                    caller.send(bad).await;
                    let answer = caller.answer().await.unwrap();
                    assert_eq!(answer.status, 400, "{}", answer.body);
                    assert_eq!(answer.header("x-outrigger-reason"), Some("bad_request"));
                    assert_eq!(answer.header("x-outrigger-retries"), None);
                }
                None => caller.stream.shutdown().await.unwrap(),
            }
            upstream.until_closed().await;
            drop(caller);
            // In service still.
            assert_eq!(get(proxy, "/").await.status, 200);
            assert_eq!(
                sidecar.metric("outrigger_retries_total{outcome=\"again\"}"),
                0.0
            );
            let seen = upstream.seen.lock().unwrap();
            assert_eq!(seen.len(), 2, "the upload, and what came after it");
            assert!(!seen[0].ends_with(b"0\r\n\r\n"), "{:?}", seen[0]);
        }
    }
}

#[tokio::test]
async fn a_caller_that_breaks_off_after_the_answer_has_begun_is_not_the_endpoints_fault() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = vec![endpoint(listener.local_addr().unwrap(), false)];
    let (_sidecar, proxy) =
        Sidecar::outbound(&config(), None, ejecting_after(1), endpoints, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    caller.send(&format!("{CHUNKED}\r\n3\r\nabc\r\n")).await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut part = [0; 4096];
    assert!(upstream.read(&mut part).await.unwrap() > 0);
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    upstream.write_all(half).await.unwrap();
    let mut begun = [0; 15];
    caller.stream.read_exact(&mut begun).await.unwrap();
    caller.send("zz\r\n").await;
    while upstream.read(&mut part).await.is_ok_and(|n| n > 0) {}
    let next = tokio::spawn(async move { get(proxy, "/").await });
    let (mut upstream, _) = listener.accept().await.unwrap();
    assert!(upstream.read(&mut part).await.unwrap() > 0);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    upstream.write_all(answer).await.unwrap();
    assert_eq!(next.await.unwrap().status, 200);
}

#[tokio::test]
async fn time_stands_still_while_a_caller_uploads_and_counts_from_the_end() {
    let short = Duration::from_millis(50);
    for (timeout, per_try, header, reason) in [
        (Some(short), None, "", "timeout"),
        (None, Some(short), "", "per_try_timeout"),
        (
            None,
            None,
            "x-envoy-expected-rq-timeout-ms: 50\r\n",
            "deadline_exceeded",
        ),
    ] {
        let app = App::start("reviews").await;
        let endpoints = vec![endpoint(app.address, false)];
        let change = |route: &mut Route| {
            route.timeout = timeout;
            route.retry.per_try_timeout = per_try;
        };
        let (_sidecar, proxy) =
            Sidecar::outbound(&config(), None, ejecting_after(1), endpoints, change).await;
        for answers in [true, false] {
            if !answers {
                app.hold();
            }
            let mut caller = Raw::to(proxy).await;
            caller
                .send(&format!("{CHUNKED}{header}\r\n3\r\nabc\r\n"))
                .await;
            tokio::time::timeout(short * 4, caller.answer())
                .await
                .unwrap_err();
            caller.send("3\r\ndef\r\n0\r\n\r\n").await;
            let answer = caller.answer().await.unwrap();
            if answers {
                assert_eq!((answer.status, &*answer.body), (200, "abcdef"), "{reason}");
            } else {
                assert_eq!(answer.header("x-outrigger-reason"), Some(reason));
            }
        }
    }
}

#[tokio::test]
async fn a_caller_that_hardly_waits_is_not_the_endpoints_fault() {
    let app = App::start("reviews").await;
    app.hold();
    let endpoints = vec![endpoint(app.address, false)];
    let (_sidecar, proxy) =
        Sidecar::outbound(&config(), None, ejecting_after(1), endpoints, |_| {}).await;
    for _ in 0..3 {
        let mut caller = Raw::to(proxy).await;
        caller
            .send("GET / HTTP/1.1\r\nHost: reviews\r\nx-envoy-expected-rq-timeout-ms: 20\r\n\r\n")
            .await;
        let answer = caller.answer().await.unwrap();
        assert_eq!(
            answer.header("x-outrigger-reason"),
            Some("deadline_exceeded")
        );
    }
    app.let_go();
    assert_eq!(get(proxy, "/").await.status, 200);
}

/// Answers as soon as a part of the body is there, the first time with `first`; later it waits for all of it. Tells of
/// each connection.
async fn answers_early(first: &'static str) -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel(16);
    tokio::spawn(async move {
        let (mut early, _) = listener.accept().await.unwrap();
        tell.send(()).await.unwrap();
        let mut part = [0; 4096];
        let mut seen = Vec::new();
        while !seen.ends_with(b"abc\r\n") {
            let n = early.read(&mut part).await.unwrap();
            seen.extend(&part[..n]);
        }
        early.write_all(first.as_bytes()).await.unwrap();
        let (mut late, _) = listener.accept().await.unwrap();
        tell.send(()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"0\r\n\r\n") && !seen.starts_with(b"GET") {
            let n = late.read(&mut part).await.unwrap();
            seen.extend(&part[..n]);
        }
        let whole = seen.windows(3).any(|w| w == b"abc") && seen.windows(3).any(|w| w == b"def");
        let status = if whole || seen.starts_with(b"GET") {
            200
        } else {
            500
        };
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
        late.write_all(answer.as_bytes()).await.unwrap();
        // Held until the end of the test.
        while early.read(&mut part).await.is_ok_and(|n| n > 0) {}
        std::future::pending::<()>().await;
    });
    (address, told)
}

#[tokio::test]
async fn an_early_answer_that_is_retried_gives_its_connection_up() {
    let (address, mut told) = answers_early("HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n").await;
    let mut reviews = cluster("reviews");
    reviews.thresholds.max_connections = 1;
    let endpoints = vec![endpoint(address, false)];
    let change = |route: &mut Route| route.retry = asked("5xx");
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, change).await;
    let mut caller = Raw::to(proxy).await;
    let test = async {
        caller.send(&format!("{CHUNKED}\r\n3\r\nabc\r\n")).await;
        told.recv().await.unwrap();
        // The only connection that may be open is another one now.
        told.recv().await.unwrap();
        caller.send("3\r\ndef\r\n0\r\n\r\n").await;
        assert_eq!(caller.answer().await.unwrap().status, 200);
    };
    let within = Duration::from_secs(20);
    tokio::time::timeout(within, test).await.unwrap();
}

#[tokio::test]
async fn an_answered_upload_that_stands_still_gives_its_connection_up() {
    let (address, _told) = answers_early("HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n").await;
    let mut reviews = cluster("reviews");
    reviews.thresholds.max_connections = 1;
    let endpoints = vec![endpoint(address, false)];
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    let test = async {
        caller.send(&format!("{CHUNKED}\r\n3\r\nabc\r\n")).await;
        assert_eq!(caller.answer().await.unwrap().status, 200);
        assert_eq!(get(proxy, "/").await.status, 200);
    };
    let within = Duration::from_secs(20);
    tokio::time::timeout(within, test).await.unwrap();
}

#[tokio::test]
async fn an_own_answer_does_not_wait_for_the_rest_of_an_upload() {
    let (_sidecar, proxy) = plain(Vec::new()).await;
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let mut caller = Raw::to(proxy).await;
        let begun = Instant::now();
        caller.send(&format!("{CHUNKED}\r\n3\r\nabc\r\n")).await;
        assert_eq!(caller.answer().await.unwrap().status, 503);
        fastest = fastest.min(begun.elapsed());
        // And the connection is good for more.
        caller.send("0\r\n\r\n").await;
        assert_eq!(caller.get("/").await.status, 503);
    }
    assert!(fastest < Duration::from_millis(900), "{fastest:?}");
}

#[tokio::test]
async fn a_direct_response_in_the_middle_of_an_upload_arrives_and_keeps_the_connection() {
    let direct = |route: &mut Route| {
        route.action = Action::DirectResponse {
            status: 403,
            body: b"no".to_vec().into(),
        };
    };
    let cluster = cluster("reviews");
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, cluster, Vec::new(), direct).await;
    let mut caller = Raw::to(proxy).await;
    let body = "x".repeat(200_000);
    let (first, rest) = body.split_at(1_000);
    caller
        .send(&format!(
            "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 200000\r\n\r\n{first}"
        ))
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 403);
    caller.send(rest).await;
    assert_eq!(caller.get("/").await.status, 403);
}

#[tokio::test]
async fn a_caller_that_expects_100_continue_is_told_before_the_application_says_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = vec![endpoint(listener.local_addr().unwrap(), false)];
    let (_sidecar, proxy) = plain(endpoints).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send(
            "POST / HTTP/1.1\r\nHost: reviews\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        )
        .await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    assert_eq!(caller.answer().await.unwrap().status, 100);
    let mut seen = [0; 4096];
    let n = upstream.read(&mut seen).await.unwrap();
    let head = String::from_utf8_lossy(&seen[..n]).to_lowercase();
    assert!(head.contains("expect: 100-continue"), "{head}");
}

#[tokio::test]
async fn a_timeout_that_no_clock_reaches_is_none() {
    let app = App::start("reviews").await;
    let endpoints = vec![endpoint(app.address, false)];
    let change = |route: &mut Route| {
        route.timeout = Some(Duration::MAX);
        route.retry.per_try_timeout = Some(Duration::MAX);
    };
    let (_sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, change).await;
    assert_eq!(get(proxy, "/").await.status, 200);
}
