//! What is sent again, where to, and what is not.

use std::sync::{Arc, Mutex};

use outrigger_core::{Features, Positions, RetryOn, RetryPolicy};

use super::*;

/// Answers each request with the next of its answers, and with the last one from then on.
pub(super) struct Script {
    pub(super) address: SocketAddr,
    /// Heads and bodies.
    pub(super) seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Script {
    /// An answer is `200`, `503 name: value`, `close` or `hang`.
    pub(super) async fn of(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer_all(stream, answers, Arc::clone(&shared)));
            }
        });
        Self { address, seen }
    }

    pub(super) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(super) fn endpoint(&self) -> EndpointConfig {
        endpoint(self.address, false)
    }

    pub(super) fn last_head(&self) -> String {
        self.seen.lock().unwrap().last().unwrap().0.to_lowercase()
    }
}

async fn answer_all(
    mut stream: TcpStream,
    answers: &[&str],
    seen: Arc<Mutex<Vec<(String, String)>>>,
) {
    while let Some(request) = read_request(&mut stream).await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request);
            seen.len()
        };
        let answer = answers[(number - 1).min(answers.len() - 1)];
        match answer.split_once(' ').unwrap_or((answer, "x-none: 1")) {
            ("close", _) => return,
            ("hang", _) => std::future::pending().await,
            (status, header) => {
                let text =
                    format!("HTTP/1.1 {status} x\r\n{header}\r\nContent-Length: 4\r\n\r\nbody");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

/// As a document with this `retryOn` and two retries asks for.
pub(super) fn asked(on: &str) -> RetryPolicy {
    RetryPolicy {
        attempts: 3,
        on: RetryOn::parse(on).unwrap(),
        codes: vec![503],
        same_host_at_last: true,
        base_interval: Duration::from_millis(1),
        ..RetryPolicy::default()
    }
}

pub(super) async fn with_retries(scripts: &[&Script], retry: RetryPolicy) -> (Sidecar, SocketAddr) {
    let endpoints = scripts.iter().map(|script| script.endpoint()).collect();
    Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, |route| {
        route.retry = retry;
    })
    .await
}

async fn posted(proxy: SocketAddr, body: &str) -> crate::testing::app::Answer {
    let mut caller = Raw::to(proxy).await;
    caller.send(&post(body)).await;
    caller.answer().await.unwrap()
}

#[tokio::test]
async fn what_the_document_names_is_sent_again_elsewhere_whatever_the_method() {
    for (on, answers) in [
        ("5xx", &["500"][..]),
        ("gateway-error", &["502"]),
        ("retriable-status-codes", &["503"]),
        ("unavailable", &["200 grpc-status: 14"]),
        ("reset", &["close"]),
    ] {
        let (bad, good) = (Script::of(answers).await, Script::of(&["200"]).await);
        let (sidecar, proxy) = with_retries(&[&bad, &good], asked(on)).await;
        for _ in 0..2 {
            let answer = posted(proxy, "order").await;
            assert_eq!(answer.status, 200, "{on}: {}", answer.body);
            assert_eq!(answer.header("grpc-status"), None, "{on}");
        }
        // The rotation may begin with either.
        assert!(bad.count() >= 1 && good.count() == 2, "{on}");
        let bodies: Vec<_> = good
            .seen
            .lock()
            .unwrap()
            .iter()
            .map(|s| s.1.clone())
            .collect();
        assert_eq!(bodies, ["order", "order"]);
        let again = sidecar.metric("outrigger_retries_total{outcome=\"again\"}");
        assert_eq!(again, bad.count() as f64, "{on}");
    }
}

#[tokio::test]
async fn conditions_that_nobody_wrote_leave_a_post_alone() {
    let (bad, good) = (Script::of(&["503"]).await, Script::of(&["200"]).await);
    let implied = RetryPolicy {
        implied: true,
        ..asked("retriable-status-codes,unavailable")
    };
    let (sidecar, proxy) = with_retries(&[&bad, &good], implied).await;
    let mut statuses = vec![
        posted(proxy, "a").await.status,
        posted(proxy, "b").await.status,
    ];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
    for _ in 0..2 {
        assert_eq!(get(proxy, "/").await.status, 200);
    }
    assert_eq!(
        sidecar.metric("outrigger_retries_total{outcome=\"not_idempotent\"}"),
        1.0
    );
    assert!(sidecar.metric("outrigger_retries_total{outcome=\"again\"}") >= 1.0);
}

#[tokio::test]
async fn switched_off_nothing_is_sent_twice_not_even_what_is_unsent() {
    let (nobody, good) = (Nobody::at_home(), Script::of(&["200"]).await);
    let endpoints = vec![endpoint(nobody.address(), false), good.endpoint()];
    let off = |route: &mut Route| route.retry.attempts = 1;
    let (sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, off).await;
    let mut statuses = vec![get(proxy, "/").await.status, get(proxy, "/").await.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
    assert_eq!(
        sidecar.metric("outrigger_retries_total{outcome=\"off\"}"),
        1.0
    );
}

#[tokio::test]
async fn without_another_endpoint_the_same_one_is_tried_if_the_document_asks() {
    let flaky = Script::of(&["503", "503", "200"]).await;
    let (_sidecar, proxy) = with_retries(&[&flaky], asked("5xx")).await;
    assert_eq!(posted(proxy, "order").await.status, 200);
    assert_eq!(flaky.count(), 3);
}

#[tokio::test]
async fn the_last_answer_is_passed_on_and_says_that_retries_are_exhausted() {
    let (a, b) = (Script::of(&["503"]).await, Script::of(&["503"]).await);
    let (_sidecar, proxy) = with_retries(&[&a, &b], asked("5xx")).await;
    let answer = posted(proxy, "order").await;
    assert_eq!((answer.status, &*answer.body), (503, "body"));
    assert_eq!(answer.header("x-outrigger-retries"), Some("exhausted"));
    assert_eq!(answer.header("x-outrigger-reason"), None, "not ours");
    assert_eq!(a.count() + b.count(), 3);
}

#[tokio::test]
async fn only_a_sidecar_is_believed_that_retries_are_exhausted() {
    let below = Script::of(&["503 X-Outrigger-Retries: exhausted"]).await;
    let other = Script::of(&["503 X-Outrigger-Retries: exhausted"]).await;
    let (sidecar, proxy) = with_retries(&[&below, &other], asked("5xx")).await;
    let answer = posted(proxy, "order").await;
    assert_eq!(answer.status, 503);
    assert_eq!(below.count() + other.count(), 3);
    assert_eq!(
        sidecar.metric("outrigger_retries_total{outcome=\"exhausted_below\"}"),
        0.0
    );
}

#[tokio::test]
async fn one_try_may_last_only_so_long() {
    let positions = Positions {
        retries: Some("canary.yaml:20:7".into()),
        ..Positions::default()
    };
    for (on, status) in [("5xx", 200), ("retriable-status-codes", 504)] {
        let (slow, good) = (Script::of(&["hang"]).await, Script::of(&["200"]).await);
        let endpoints = vec![slow.endpoint(), good.endpoint()];
        let change = |route: &mut Route| {
            route.retry = RetryPolicy {
                per_try_timeout: Some(Duration::from_millis(100)),
                ..asked(on)
            };
            route.features = Some(Arc::new(Features {
                positions: positions.clone(),
                ..Features::default()
            }));
        };
        let (_sidecar, proxy) =
            Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, change).await;
        let answers = [posted(proxy, "a").await, posted(proxy, "b").await];
        let worst = answers.iter().max_by_key(|answer| answer.status).unwrap();
        assert_eq!(worst.status, status, "{on}");
        assert!(slow.count() >= 1, "{on}");
        if status == 504 {
            assert_eq!(worst.header("x-outrigger-reason"), Some("per_try_timeout"));
            assert!(worst.body.contains("canary.yaml:20:7"), "{}", worst.body);
        }
        assert!(
            slow.last_head()
                .contains("x-envoy-expected-rq-timeout-ms: 100")
        );
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_kept_is_sent_once() {
    let (a, b) = (Script::of(&["503"]).await, Script::of(&["503"]).await);
    let (sidecar, proxy) = with_retries(&[&a, &b], asked("5xx")).await;
    let answer = posted(proxy, &"x".repeat(200_000)).await;
    assert_eq!(answer.status, 503);
    assert_eq!(a.count() + b.count(), 1);
    assert_eq!(
        sidecar.metric("outrigger_retries_total{outcome=\"body\"}"),
        1.0
    );
}

#[tokio::test]
async fn repeats_are_limited_over_ten_seconds_and_what_is_refused_is_counted() {
    let (a, b) = (Script::of(&["503"]).await, Script::of(&["503"]).await);
    let (sidecar, proxy) = with_retries(&[&a, &b], asked("5xx")).await;
    for _ in 0..20 {
        assert_eq!(posted(proxy, "order").await.status, 503);
    }
    // A fifth of twenty.
    assert_eq!(a.count() + b.count(), 24);
    assert!(sidecar.metric("outrigger_retries_total{outcome=\"budget_window\"}") >= 1.0);
}

#[tokio::test]
async fn an_own_answer_says_which_limit_stood_against_another_try() {
    let (a, b) = (Script::of(&["close"]).await, Script::of(&["close"]).await);
    let (_sidecar, proxy) = with_retries(&[&a, &b], asked("reset")).await;
    for round in 0..4 {
        let answer = posted(proxy, "order").await;
        assert_eq!(answer.header("x-outrigger-reason"), Some("upstream_closed"));
        let says = answer.body.contains("not sent again: budget_window");
        assert_eq!(says, round > 0, "{}", answer.body);
    }
}

#[tokio::test]
async fn a_budget_that_a_document_asks_for_has_no_window() {
    let (a, b) = (Script::of(&["503"]).await, Script::of(&["503"]).await);
    let mut reviews = cluster("reviews");
    reviews.retry_share.written = true;
    let endpoints = vec![a.endpoint(), b.endpoint()];
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |route| {
        route.retry = asked("5xx");
    })
    .await;
    for _ in 0..20 {
        assert_eq!(posted(proxy, "order").await.status, 503);
    }
    assert_eq!(a.count() + b.count(), 60);
}

#[tokio::test]
async fn attempts_are_told_to_whom_the_virtual_host_says() {
    let (bad, good) = (Script::of(&["503"]).await, Script::of(&["200"]).await);
    let endpoints = vec![bad.endpoint(), good.endpoint()];
    let change = |route: &mut Route| {
        route.retry = asked("5xx");
        (route.tells_attempts, route.answers_attempts) = (true, true);
    };
    let (_sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, change).await;
    let answers = [get(proxy, "/").await, get(proxy, "/").await];
    let most = answers
        .iter()
        .filter_map(|answer| answer.header("x-envoy-attempt-count"))
        .max();
    assert_eq!(most, Some("2"));
    assert!(bad.last_head().contains("x-envoy-attempt-count: 1"));
}

#[tokio::test]
async fn a_retry_may_go_to_another_priority_first() {
    let (a, b) = (Script::of(&["503"]).await, Script::of(&["503"]).await);
    let below = Script::of(&["200"]).await;
    let mut endpoints = vec![a.endpoint(), b.endpoint(), below.endpoint()];
    endpoints[2].priority = 1;
    let change = |route: &mut Route| {
        route.retry = RetryPolicy {
            attempts: 2,
            other_priority_every: Some(1),
            ..asked("5xx")
        };
    };
    let (_sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, change).await;
    for _ in 0..3 {
        assert_eq!(posted(proxy, "order").await.status, 200);
    }
    assert_eq!((a.count() + b.count(), below.count()), (3, 3));
}

#[tokio::test]
async fn an_answer_that_is_retried_leaves_its_connection_usable() {
    let (flaky, connections) = counted(&["503", "503", "200"]).await;
    let (sidecar, proxy) = with_retries(&[&flaky], asked("5xx")).await;
    assert_eq!(posted(proxy, "order").await.status, 200);
    assert_eq!(flaky.count(), 3);
    // The next try may begin while an answer is still being read: then it has a connection of its own.
    let opened = connections.load(std::sync::atomic::Ordering::SeqCst);
    let all_idle = async {
        let idle = || {
            sidecar
                .workers
                .pools()
                .iter()
                .map(|pool| pool.idle)
                .sum::<u32>()
        };
        while usize::try_from(idle()).unwrap() < opened {
            tokio::task::yield_now().await;
        }
    };
    let within = Duration::from_secs(20);
    tokio::time::timeout(within, all_idle).await.unwrap();
}

/// With the number of its connections.
async fn counted(
    answers: &'static [&'static str],
) -> (Script, Arc<std::sync::atomic::AtomicUsize>) {
    let inner = Script::of(answers).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::<std::sync::atomic::AtomicUsize>::default();
    let counted = Arc::clone(&connections);
    let to = inner.address;
    tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    let seen = Arc::clone(&inner.seen);
    (Script { address, seen }, connections)
}
