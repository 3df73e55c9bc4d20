//! Who gets the requests, over all workers and connections.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_core::ClusterConfig;
use tokio::sync::Semaphore;

use super::*;

const ENDPOINTS: usize = 10;
const REQUESTS: usize = 6000;

/// Sends `count` requests over one HTTP/2 connection, some of them at once; counts who answered.
async fn over_one_connection(proxy: SocketAddr, count: usize) -> BTreeMap<Bytes, usize> {
    let stream = TcpStream::connect(proxy).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let at_once = Arc::new(Semaphore::new(8));
    let mut answers = Vec::new();
    for _ in 0..count {
        let leave = Arc::clone(&at_once).acquire_owned().await.unwrap();
        let mut sender = sender.clone();
        answers.push(tokio::spawn(async move {
            let request = Request::get("http://reviews/").body(Full::<Bytes>::default());
            let response = sender.send_request(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            drop(leave);
            body
        }));
    }
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.await.unwrap()).or_default() += 1;
    }
    connection.abort();
    counts
}

#[tokio::test]
async fn two_http2_connections_over_two_workers_are_spread_evenly_over_ten_endpoints() {
    const NAMES: [&str; ENDPOINTS] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let mut endpoints = Vec::new();
    for name in NAMES {
        endpoints.push(endpoint(App::start(name).await.address, false));
    }
    for lb in [LbPolicy::LeastRequest, LbPolicy::RoundRobin] {
        let reviews = ClusterConfig {
            lb: lb.clone(),
            ..cluster("reviews")
        };
        let (_sidecar, proxy) =
            Sidecar::outbound(&config(), None, reviews, endpoints.clone(), |_| {}).await;
        let (one, other) = tokio::join!(
            over_one_connection(proxy, REQUESTS / 2),
            over_one_connection(proxy, REQUESTS / 2)
        );
        for name in NAMES {
            let of = |counts: &BTreeMap<Bytes, usize>| counts.get(name.as_bytes()).copied();
            let count = of(&one).unwrap_or(0) + of(&other).unwrap_or(0);
            let percent = 100.0 * count as f64 / REQUESTS as f64;
            assert!((percent - 10.0).abs() < 2.0, "{lb:?} {name}: {percent} %");
        }
    }
}

/// Answers after a while.
async fn slow(after: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |_: Request<hyper::body::Incoming>| async move {
                tokio::time::sleep(after).await;
                let response = Response::builder().header("x-app", "slow");
                Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
            });
            let server = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(server.await) });
        }
    });
    address
}

#[tokio::test]
async fn peak_ewma_learns_from_answers_who_is_quick() {
    let quick = App::start("quick").await;
    let endpoints = vec![
        endpoint(slow(Duration::from_millis(200)).await, false),
        endpoint(quick.address, false),
    ];
    let reviews = ClusterConfig {
        lb: LbPolicy::PeakEwma {
            decay: Duration::from_secs(10),
        },
        ..cluster("reviews")
    };
    let (_sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await;
    let mut slow = 0;
    for _ in 0..50 {
        let answer = get(proxy, "/").await;
        slow += u32::from(answer.header("x-app") == Some("slow"));
    }
    assert_eq!(slow, 1, "asked once, as it might have been quick");
}
