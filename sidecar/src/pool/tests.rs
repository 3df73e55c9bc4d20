//! Limits that are exact over all workers, and connections that are kept no longer than they may be.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use outrigger_core::{ClusterConfig, Thresholds, UpstreamProtocol};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{
    Config,
    testing::{
        Authority, Sidecar,
        app::{App, Raw, get},
        cluster, config, endpoint, mtls,
    },
};

const UNLIMITED: Thresholds = Thresholds {
    max_connections: u32::MAX,
    max_pending_requests: u32::MAX,
    max_requests: u32::MAX,
    max_retries: u32::MAX,
};

async fn limited(app: &App, thresholds: Thresholds) -> (Sidecar, SocketAddr) {
    let mut reviews = cluster("reviews");
    reviews.thresholds = thresholds;
    let endpoints = vec![endpoint(app.address, false)];
    Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await
}

#[tokio::test]
async fn a_hundred_connections_fifty_waiting_and_the_next_is_refused_at_once() {
    let app = App::start("reviews").await;
    app.hold();
    let (sidecar, proxy) = limited(
        &app,
        Thresholds {
            max_connections: 100,
            max_pending_requests: 50,
            ..UNLIMITED
        },
    )
    .await;
    let mut callers = Vec::new();
    for _ in 0..100 {
        callers.push(tokio::spawn(async move { get(proxy, "/").await }));
    }
    app.until_requests(100).await;
    for _ in 0..50 {
        callers.push(tokio::spawn(async move { get(proxy, "/").await }));
    }
    while sidecar.workers.pools()[0].waiting < 50 {
        tokio::task::yield_now().await;
    }
    let refused = get(proxy, "/").await;
    assert_eq!(refused.status, 503);
    assert_eq!(
        refused.header("x-outrigger-reason"),
        Some("overflow_pending")
    );
    assert!(
        refused.body.contains("\"policy\":\"canary.yaml:12:5\""),
        "{}",
        refused.body
    );
    assert_eq!(app.connections(), 100);
    app.let_go();
    for caller in callers {
        assert_eq!(caller.await.unwrap().status, 200);
    }
    assert_eq!(sidecar.workers.pools()[0].waiting, 0);
    let line = "outrigger_refusals_total{code=\"overflow_pending\",hop=\"outbound\"}";
    assert!((sidecar.metric(line) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn no_more_connections_are_ever_open_than_allowed() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = limited(
        &app,
        Thresholds {
            max_connections: 3,
            ..UNLIMITED
        },
    )
    .await;
    let callers: Vec<_> = (0..40)
        .map(|_| {
            tokio::spawn(async move {
                let mut caller = Raw::to(proxy).await;
                for _ in 0..10 {
                    assert_eq!(caller.get("/").await.status, 200);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let most = app.most.load(std::sync::atomic::Ordering::SeqCst);
    assert!(most <= 3, "{most} at once");
}

#[tokio::test]
async fn an_idle_connection_of_one_worker_does_not_starve_another() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = limited(
        &app,
        Thresholds {
            max_connections: 1,
            max_pending_requests: 1,
            ..UNLIMITED
        },
    )
    .await;
    // Two callers that stay: they sit on different workers, and take turns with the one connection.
    let mut one = Raw::to(proxy).await;
    assert_eq!(one.get("/").await.status, 200);
    let mut two = Raw::to(proxy).await;
    for _ in 0..20 {
        assert_eq!(two.get("/").await.status, 200);
        assert_eq!(one.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn an_idle_connection_to_one_endpoint_does_not_starve_another() {
    let (a, b) = (App::start("a").await, App::start("b").await);
    let mut reviews = cluster("reviews");
    reviews.thresholds = Thresholds {
        max_connections: 1,
        ..UNLIMITED
    };
    let endpoints = vec![endpoint(a.address, false), endpoint(b.address, false)];
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(caller.get("/").await.body);
    }
    seen.sort_unstable();
    assert_eq!(seen, ["a", "a", "a", "b", "b", "b"]);
}

#[tokio::test]
async fn requests_in_flight_have_their_own_limit() {
    let app = App::start("reviews").await;
    app.hold();
    let (_sidecar, proxy) = limited(
        &app,
        Thresholds {
            max_requests: 2,
            ..UNLIMITED
        },
    )
    .await;
    let first = [(); 2].map(|()| tokio::spawn(async move { get(proxy, "/").await }));
    app.until_requests(2).await;
    let refused = get(proxy, "/").await;
    assert_eq!(
        refused.header("x-outrigger-reason"),
        Some("overflow_requests")
    );
    app.let_go();
    for caller in first {
        assert_eq!(caller.await.unwrap().status, 200);
    }
    assert_eq!(
        get(proxy, "/").await.status,
        200,
        "the permits were given back"
    );
}

#[tokio::test]
async fn a_connection_is_closed_after_its_last_request() {
    let app = App::start("reviews").await;
    let mut reviews = cluster("reviews");
    reviews.max_requests_per_connection = Some(2);
    let endpoints = vec![endpoint(app.address, false)];
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await;
    let mut caller = Raw::to(proxy).await;
    for _ in 0..6 {
        assert_eq!(caller.get("/").await.status, 200);
    }
    assert_eq!(app.connections(), 3);
}

#[tokio::test]
async fn a_waiter_that_leaves_gives_its_place_to_the_next() {
    let app = App::start("reviews").await;
    app.hold();
    let (sidecar, proxy) = limited(
        &app,
        Thresholds {
            max_connections: 1,
            max_pending_requests: 1,
            ..UNLIMITED
        },
    )
    .await;
    let first = tokio::spawn(async move { get(proxy, "/").await });
    app.until_requests(1).await;
    let waiting = || sidecar.workers.pools()[0].waiting;
    let mut leaving = Raw::to(proxy).await;
    leaving
        .send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n")
        .await;
    while waiting() == 0 {
        tokio::task::yield_now().await;
    }
    drop(leaving);
    while waiting() == 1 {
        tokio::task::yield_now().await;
    }
    let next = tokio::spawn(async move { get(proxy, "/").await });
    while waiting() == 0 {
        tokio::task::yield_now().await;
    }
    app.let_go();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(next.await.unwrap().status, 200);
}

/// A sidecar with one worker that calls `address` over mTLS, and its port.
async fn over_mtls(authority: &Authority, address: SocketAddr) -> (Sidecar, SocketAddr) {
    let one_worker = Config {
        workers: 1,
        ..config()
    };
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    reviews.connect_timeout = Duration::from_secs(100);
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(address, true)];
    Sidecar::outbound(&one_worker, identity, reviews, endpoints, |_| {}).await
}

async fn until_open(sidecar: &Sidecar, connections: u32) {
    while sidecar
        .workers
        .pools()
        .first()
        .is_none_or(|pool| pool.open < connections)
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn twenty_handshakes_at_a_time_and_their_failure_ends_every_wait() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let (accepted, mut connections) = mpsc::channel(50);
    tokio::spawn(async move {
        while let Ok((stream, _)) = silent.accept().await {
            accepted.send(stream).await.unwrap();
        }
    });
    let (sidecar, proxy) = over_mtls(&Authority::new(), address).await;
    let callers: Vec<_> = (0..50)
        .map(|_| tokio::spawn(async move { get(proxy, "/").await }))
        .collect();
    until_open(&sidecar, 50).await;
    let mut opening = Vec::new();
    for _ in 0..20 {
        opening.push(connections.recv().await.unwrap());
    }
    drop(opening);
    for caller in callers {
        let answer = caller.await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(
            answer.header("x-outrigger-reason"),
            Some("tls_failed"),
            "{answer:?}"
        );
    }
    assert!(connections.try_recv().is_err(), "a twenty-first was opened");
}

#[tokio::test]
async fn a_request_that_waits_for_its_turn_takes_a_connection_that_comes_back() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    app.hold();
    let (_server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    // The first connection gets through, all others hang in their handshake.
    let road = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = road.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut first, _) = road.accept().await.unwrap();
        tokio::spawn(async move {
            let mut server = TcpStream::connect(inbound).await.unwrap();
            copy_bidirectional(&mut first, &mut server).await.ok();
        });
        let mut stuck = Vec::new();
        while let Ok((stream, _)) = road.accept().await {
            stuck.push(stream);
        }
    });
    let (sidecar, proxy) = over_mtls(&authority, address).await;
    let first = tokio::spawn(async move { get(proxy, "/").await });
    app.until_requests(1).await;
    for _ in 0..20 {
        tokio::spawn(async move { get(proxy, "/").await });
    }
    until_open(&sidecar, 21).await;
    let waiting = tokio::spawn(async move { get(proxy, "/").await });
    until_open(&sidecar, 22).await;
    app.let_go();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(app.connections(), 1);
}

/// Endpoints that are spoken to in HTTP/2, and that give up soon.
fn http2(thresholds: Thresholds) -> ClusterConfig {
    ClusterConfig {
        protocol: UpstreamProtocol::Http2,
        connect_timeout: Duration::from_secs(3),
        thresholds,
        ..cluster("reviews")
    }
}

const ONE_CONNECTION: Thresholds = Thresholds {
    max_connections: 1,
    ..UNLIMITED
};

#[tokio::test]
async fn a_stream_that_lasts_stops_no_worker_for_ever() {
    let app = App::start("reviews").await;
    app.hold();
    let endpoints = vec![endpoint(app.address, false)];
    let (sidecar, proxy) =
        Sidecar::outbound(&config(), None, http2(ONE_CONNECTION), endpoints, |_| {}).await;
    // Each caller that stays sits on the worker that has fewest, the first of them if that is not decided.
    let watch = tokio::spawn(async move { get(proxy, "/watch").await });
    app.until_requests(1).await;
    let mut elsewhere = Raw::to(proxy).await;
    let refused = elsewhere.get("/").await;
    assert_eq!(refused.status, 503);
    assert_eq!(
        refused.header("x-outrigger-reason"),
        Some("overflow_pending"),
        "{refused:?}"
    );
    let beside = tokio::spawn(async move { get(proxy, "/").await });
    app.until_requests(2).await;
    app.let_go();
    assert_eq!(watch.await.unwrap().status, 200);
    assert_eq!(beside.await.unwrap().status, 200);
    assert_eq!(app.connections(), 1);
    assert_eq!(elsewhere.get("/").await.status, 200);
    drop(sidecar);
}

#[tokio::test]
async fn short_streams_take_turns_with_the_one_connection() {
    let app = App::start("reviews").await;
    let endpoints = vec![endpoint(app.address, false)];
    let mut reviews = http2(ONE_CONNECTION);
    reviews.connect_timeout = Duration::from_secs(100);
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut caller = Raw::to(proxy).await;
                for _ in 0..20 {
                    let answer = caller.get("/").await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

fn one_worker() -> Config {
    Config {
        workers: 1,
        ..config()
    }
}

#[tokio::test]
async fn as_many_http2_connections_are_opened_as_the_peer_allows_few_streams() {
    let app = App::with_streams("reviews", 1).await;
    let endpoints = vec![endpoint(app.address, false)];
    let (_sidecar, proxy) =
        Sidecar::outbound(&one_worker(), None, http2(UNLIMITED), endpoints, |_| {}).await;
    assert_eq!(get(proxy, "/").await.status, 200);
    app.hold();
    let mut callers = Vec::new();
    for n in 2..10 {
        callers.push(tokio::spawn(async move { get(proxy, "/").await }));
        app.until_requests(n).await;
    }
    assert_eq!(app.connections(), 8);
    app.let_go();
    for caller in callers {
        assert_eq!(caller.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn no_connection_has_more_streams_than_the_cluster_allows() {
    let app = App::start("reviews").await;
    app.hold();
    let mut reviews = http2(UNLIMITED);
    reviews.max_concurrent_streams = Some(3);
    let endpoints = vec![endpoint(app.address, false)];
    let (_sidecar, proxy) =
        Sidecar::outbound(&one_worker(), None, reviews, endpoints, |_| {}).await;
    let mut callers = Vec::new();
    for n in 1..10 {
        callers.push(tokio::spawn(async move { get(proxy, "/").await }));
        app.until_requests(n).await;
    }
    assert_eq!(app.connections(), 3);
    app.let_go();
    for caller in callers {
        assert_eq!(caller.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_request_without_a_stream_waits_for_one_but_not_for_ever() {
    let app = App::with_streams("reviews", 1).await;
    let endpoints = vec![endpoint(app.address, false)];
    let reviews = http2(ONE_CONNECTION);
    let (sidecar, proxy) = Sidecar::outbound(&one_worker(), None, reviews, endpoints, |_| {}).await;
    assert_eq!(get(proxy, "/").await.status, 200);
    app.hold();
    let first = tokio::spawn(async move { get(proxy, "/").await });
    app.until_requests(2).await;
    let refused = get(proxy, "/").await;
    assert_eq!(
        refused.header("x-outrigger-reason"),
        Some("overflow_pending"),
        "{refused:?}"
    );
    let waits = tokio::spawn(async move { get(proxy, "/").await });
    while sidecar.workers.pools()[0].waiting == 0 {
        tokio::task::yield_now().await;
    }
    app.let_go();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(waits.await.unwrap().status, 200);
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn requests_that_wait_for_an_http2_connection_to_open_are_pending() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut reviews = http2(Thresholds {
        max_pending_requests: 1,
        ..UNLIMITED
    });
    reviews.tls = mtls(&["reviews"]);
    reviews.connect_timeout = Duration::from_secs(100);
    let identity = Some(Authority::new().identity("frontend"));
    let endpoints = vec![endpoint(silent.local_addr().unwrap(), true)];
    let (sidecar, proxy) =
        Sidecar::outbound(&one_worker(), identity, reviews, endpoints, |_| {}).await;
    let opener = tokio::spawn(async move { get(proxy, "/").await });
    let (stream, _) = silent.accept().await.unwrap();
    until_open(&sidecar, 1).await;
    let mut joins = tokio::spawn(async move { get(proxy, "/").await });
    let mut too = tokio::spawn(async move { get(proxy, "/").await });
    let (refused, waits) = tokio::select! {
        refused = &mut joins => (refused, too),
        refused = &mut too => (refused, joins),
    };
    let refused = refused.unwrap();
    assert_eq!(
        refused.header("x-outrigger-reason"),
        Some("overflow_pending"),
        "{refused:?}"
    );
    drop(stream);
    for caller in [opener, waits] {
        let answer = caller.await.unwrap();
        assert_eq!(answer.header("x-outrigger-reason"), Some("tls_failed"));
    }
}

#[tokio::test]
async fn a_raised_limit_lets_those_who_wait_through() {
    let app = App::start("reviews").await;
    app.hold();
    let (mut sidecar, proxy) = limited(&app, ONE_CONNECTION).await;
    let callers = [(); 2].map(|()| tokio::spawn(async move { get(proxy, "/").await }));
    app.until_requests(1).await;
    while sidecar.workers.pools()[0].waiting == 0 {
        tokio::task::yield_now().await;
    }
    let mut reviews = cluster("reviews");
    reviews.thresholds.max_connections = 2;
    sidecar.set_cluster(reviews, vec![endpoint(app.address, false)]);
    sidecar.publish("http_proxy").await;
    app.until_requests(2).await;
    app.let_go();
    for caller in callers {
        assert_eq!(caller.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_idle_connection_is_used_under_the_next_snapshot_and_keeps_nothing_of_the_last() {
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let app = App::start("reviews").await;
        let mut reviews = cluster("reviews");
        reviews.protocol = protocol;
        let endpoints = vec![endpoint(app.address, false)];
        let (mut sidecar, proxy) =
            Sidecar::outbound(&config(), None, reviews.clone(), endpoints.clone(), |_| {}).await;
        let mut caller = Raw::to(proxy).await;
        assert_eq!(caller.get("/").await.status, 200);
        let last = Arc::downgrade(sidecar.builder.cluster(&reviews.name).unwrap());
        sidecar.set_cluster(reviews, endpoints);
        sidecar.publish("http_proxy").await;
        while last.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(caller.get("/").await.status, 200);
        assert_eq!(app.connections(), 1);
    }
}

/// An HTTP/2 server that lets its peer send without end, and reads nothing.
async fn deaf() -> (SocketAddr, TcpListener) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    (listener.local_addr().unwrap(), listener)
}

/// SETTINGS with the largest window of a stream, and as much more for the connection.
const ANY_AMOUNT: [u8; 28] = [
    0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff, // SETTINGS_INITIAL_WINDOW_SIZE
    0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xfe, 0xff, 0xff, // WINDOW_UPDATE
];

/// Sockets of ours to that address that are open, as the kernel says.
fn open_sockets_to(address: SocketAddr) -> usize {
    let remote = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace());
    rows.filter(|row| {
        let row: Vec<&str> = row.clone().collect();
        row.get(2) == Some(&remote.as_str()) && row.get(3) == Some(&"01")
    })
    .count()
}

/// Writes until the whole way to the upstream is full.
async fn fill(caller: &mut TcpStream) {
    use tokio::io::AsyncWriteExt;
    let head = "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 1000000000\r\n\r\n";
    caller.write_all(head.as_bytes()).await.unwrap();
    let bytes = vec![0; 1 << 16];
    // Nothing moves for so long: full. (If that is too short, the test shows less than it could, and does not fail.)
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), caller.write(&bytes)).await
    {
        written.unwrap();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_counts_until_its_socket_is_closed_and_no_peer_keeps_it_open() {
    use tokio::io::AsyncWriteExt;
    let (address, listener) = deaf().await;
    let mut reviews = http2(ONE_CONNECTION);
    reviews.connect_timeout = Duration::from_secs(2);
    reviews.idle_timeout = Duration::from_millis(1);
    let endpoints = vec![endpoint(address, false)];
    let (sidecar, proxy) = Sidecar::outbound(&one_worker(), None, reviews, endpoints, |_| {}).await;
    let mut caller = TcpStream::connect(proxy).await.unwrap();
    let (upstream, ()) = tokio::join!(
        async {
            let (mut upstream, _) = listener.accept().await.unwrap();
            upstream.write_all(&ANY_AMOUNT).await.unwrap();
            upstream
        },
        fill(&mut caller)
    );
    assert_eq!(open_sockets_to(address), 1);
    // Nobody needs the connection any more, and it is retired; but its end cannot be said to a peer that does not read.
    drop(caller);
    while sidecar.workers.pools()[0].open > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(open_sockets_to(address), 0, "given back while it is open");
    drop(upstream);
}

#[tokio::test]
async fn an_http2_connection_is_idle_only_while_it_has_no_streams() {
    let app = App::start("reviews").await;
    let endpoints = vec![endpoint(app.address, false)];
    let (sidecar, proxy) =
        Sidecar::outbound(&one_worker(), None, http2(UNLIMITED), endpoints, |_| {}).await;
    let idle = || sidecar.workers.pools()[0].idle;
    assert_eq!(get(proxy, "/").await.status, 200);
    while idle() == 0 {
        tokio::task::yield_now().await;
    }
    app.hold();
    let callers = [(); 2].map(|()| tokio::spawn(async move { get(proxy, "/").await }));
    app.until_requests(3).await;
    assert_eq!((sidecar.workers.pools()[0].open, idle()), (1, 0));
    app.let_go();
    for caller in callers {
        assert_eq!(caller.await.unwrap().status, 200);
    }
    while idle() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_pool_of_a_cluster_that_is_gone_is_forgotten_with_its_last_connection() {
    let app = App::start("reviews").await;
    let (mut sidecar, proxy) = limited(&app, ONE_CONNECTION).await;
    app.hold();
    let request = tokio::spawn(async move { get(proxy, "/").await });
    app.until_requests(1).await;
    let name = cluster("reviews").name;
    let limits = Arc::clone(&sidecar.builder.cluster(&name).unwrap().limits);
    sidecar.builder.set_cluster(&name, None);
    sidecar.publish("http_proxy").await;
    assert_eq!(sidecar.workers.pools().len(), 1);
    // Back before its request has ended: what is open counts.
    let mut reviews = cluster("reviews");
    reviews.thresholds = ONE_CONNECTION;
    sidecar.set_cluster(reviews, vec![endpoint(app.address, false)]);
    sidecar.publish("http_proxy").await;
    assert_eq!(limits.connections.used(), 1);
    let waits = tokio::spawn(async move { get(proxy, "/").await });
    while sidecar.workers.pools()[0].waiting == 0 {
        tokio::task::yield_now().await;
    }
    app.let_go();
    assert_eq!(request.await.unwrap().status, 200);
    assert_eq!(waits.await.unwrap().status, 200);
    sidecar.builder.set_cluster(&name, None);
    sidecar.publish("http_proxy").await;
    while !sidecar.workers.pools().is_empty() {
        tokio::task::yield_now().await;
    }
}
