//! Who gets the requests, over all workers and connections.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_core::{BreakerConfig, ClusterConfig, LocalityPolicy, SlowStart};
use tokio::sync::Semaphore;

use super::*;

const ENDPOINTS: usize = 10;
/// So many that chance plays no part: callers that go on as soon as they have their answer keep endpoints in
/// step for some thousand requests, and within those the one that is busy stays so.
const REQUESTS: usize = 30_000;

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

/// All that may be said about the choice of an endpoint, one after the other.
fn policies() -> Vec<ClusterConfig> {
    let second = Duration::from_secs(1);
    let ring = LbPolicy::RingHash {
        minimum_ring_size: 64,
        maximum_ring_size: 1024,
    };
    let of = |lb| ClusterConfig {
        lb,
        ..cluster("reviews")
    };
    vec![
        of(LbPolicy::LeastRequest),
        of(LbPolicy::Random),
        of(LbPolicy::PeakEwma { decay: second }),
        of(LbPolicy::Maglev { table_size: 101 }),
        ClusterConfig {
            hash_balance_percent: Some(110),
            ..of(ring)
        },
        ClusterConfig {
            localities: LocalityPolicy::Weighted,
            slow_start: Some(SlowStart {
                window: second,
                aggression: 1.0,
                min_weight_percent: 10.0,
            }),
            ..of(LbPolicy::RoundRobin)
        },
        ClusterConfig {
            localities: LocalityPolicy::ZoneAware {
                minimum_endpoints: 1,
            },
            breaker: Some(BreakerConfig {
                consecutive_failures: 1,
                reset_timeout: second,
                for_endpoints: true,
                for_service: true,
                position: None,
            }),
            ..of(LbPolicy::LeastRequest)
        },
    ]
}

#[tokio::test]
async fn policies_and_endpoints_change_under_load_and_no_request_fails() {
    const CALLERS: usize = 8;
    let apps = [
        App::start("a").await,
        App::start("b").await,
        App::start("c").await,
    ];
    let own = |at: usize, change: u32| EndpointConfig {
        weight: 1 + change % 3,
        priority: (change / 2 + u32::try_from(at).unwrap()) % 2,
        locality_weight: 1,
        ..endpoint(apps[at].address, false)
    };
    let mut all = policies().into_iter().cycle();
    let (mut sidecar, proxy) =
        Sidecar::outbound(&config(), None, cluster("reviews"), vec![own(0, 0)], |_| {}).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut caller = Raw::to(proxy).await;
                let mut answers = 0_u32;
                while !*stopped.borrow() {
                    let answer = caller.get("/").await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    let total = || apps.iter().map(|app| *app.requests.borrow()).sum::<usize>();
    // One of the three is missing each time.
    for (change, missing) in (0..210).zip((0..3).cycle()) {
        let left = (0..3).filter(|at| *at != missing);
        let endpoints = left.map(|at| own(at, change));
        sidecar.set_cluster(all.next().unwrap(), endpoints.collect());
        sidecar.publish("http_proxy").await;
        let before = total();
        while total() < before + 5 {
            tokio::task::yield_now().await;
        }
    }
    stop.send_replace(true);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
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
        endpoint(slow(Duration::from_secs(1)).await, false),
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
