//! Bodies that stall, and connections that end in the middle.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use outrigger_core::ClusterConfig;
use tokio::{sync::mpsc, time::Instant};

use super::*;

/// Answers a request with a body without end; tells when that one was cut off.
async fn endless() -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut seen = [0; 1024];
                assert!(stream.read(&mut seen).await.unwrap() > 0);
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
                stream.write_all(head).await.unwrap();
                while stream.write_all(&[0; 65536]).await.is_ok() {}
                tell.send(()).await.ok();
            });
        }
    });
    (address, told)
}

#[tokio::test]
async fn a_caller_that_stops_reading_holds_nothing_beyond_the_routes_timeout() {
    let (address, mut cut_off) = endless().await;
    let mut reviews = cluster("reviews");
    reviews.thresholds.max_requests = 1;
    reviews.thresholds.max_connections = 1;
    let endpoints = vec![endpoint(address, false)];
    let limit = |route: &mut Route| route.timeout = Some(Duration::from_millis(100));
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, limit).await;
    for round in 0..2 {
        let mut stalled = Raw::to(proxy).await;
        stalled
            .send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n")
            .await;
        let mut head = [0; 15];
        stalled.stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK", "{round}");
        let within = Duration::from_secs(20);
        tokio::time::timeout(within, cut_off.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_over_http2_that_stops_reading_holds_nothing_either() {
    let (address, mut cut_off) = endless().await;
    let reviews = ClusterConfig {
        protocol: outrigger_core::UpstreamProtocol::Http1,
        ..cluster("reviews")
    };
    let endpoints = vec![endpoint(address, false)];
    let limit = |route: &mut Route| route.timeout = Some(Duration::from_millis(100));
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, limit).await;
    let stream = TcpStream::connect(proxy).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://reviews/").body(Full::new(Bytes::new()));
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    let within = Duration::from_secs(20);
    tokio::time::timeout(within, cut_off.recv()).await.unwrap();
}

#[tokio::test]
async fn the_routes_timeout_ends_a_body_that_stalls_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = vec![endpoint(listener.local_addr().unwrap(), false)];
    let limit = |route: &mut Route| route.timeout = Some(Duration::from_millis(100));
    let (sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), endpoints, limit).await;
    let mut caller = Raw::to(proxy).await;
    caller.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut seen = [0; 1024];
    assert!(upstream.read(&mut seen).await.unwrap() > 0);
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    upstream.write_all(half).await.unwrap();
    assert!(caller.answer().await.is_none(), "cut off");
    let timeouts = "istio_requests_total{";
    sidecar.until_metric(timeouts, 1.0).await;
    assert_eq!(upstream.read(&mut seen).await.unwrap(), 0, "given up");
}

#[tokio::test]
async fn a_request_whose_answer_had_begun_is_not_repeated() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = [0; 1024];
            for answer in [
                &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..],
                b"HTTP/1.1 200 OK\r\nContent-",
            ] {
                assert!(stream.read(&mut seen).await.unwrap() > 0);
                counted.fetch_add(1, SeqCst);
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    let (_sidecar, proxy) = plain(vec![endpoint(address, false)]).await;
    let mut caller = Raw::to(proxy).await;
    assert_eq!(caller.get("/").await.status, 200);
    let answer = caller.get("/").await;
    assert_eq!(answer.header("x-outrigger-reason"), Some("upstream_closed"));
    assert_eq!(requests.load(SeqCst), 2, "{}", answer.body);
}

#[tokio::test]
async fn a_streaming_caller_over_http2_is_refused_at_once() {
    let (_sidecar, proxy) = plain(Vec::new()).await;
    let stream = TcpStream::connect(proxy).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let first = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"first of many")));
        let frames = tokio_stream::StreamExt::chain(
            tokio_stream::once(first),
            tokio_stream::pending::<Result<Frame<Bytes>, Infallible>>(),
        );
        let request = Request::post("http://reviews/").body(StreamBody::new(frames));
        let begun = Instant::now();
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 503);
        fastest = fastest.min(begun.elapsed());
    }
    // Not after the second in which a body would be read for nothing.
    assert!(fastest < Duration::from_millis(900), "{fastest:?}");
}

#[tokio::test]
async fn credentials_for_the_proxy_end_at_the_proxy() {
    let app = App::start("reviews").await;
    let (_sidecar, proxy) = plain(vec![endpoint(app.address, false)]).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send(
            "GET http://reviews/ HTTP/1.1\r\nHost: reviews\r\nAuthorization: Basic YQ==\r\n\
             Proxy-Authorization: Basic YTpi\r\n\r\n",
        )
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 200);
    let seen = app.last_headers();
    assert!(!seen.contains_key("proxy-authorization"), "{seen:?}");
    assert_eq!(seen["authorization"], "Basic YQ==");
}
