//! Connections over a pipe in memory, under virtual time.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Empty;
use hyper::client::conn::http2;
use tokio::task::JoinHandle;

use super::*;

/// A served connection: what sends requests on it, its end at the client, its end at the server.
struct Served {
    sender: http2::SendRequest<Empty<Bytes>>,
    client: JoinHandle<()>,
    server: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

async fn served(router: Router, ends: Ends) -> Served {
    served_as(Conn::Http, router, ends).await
}

async fn served_as(caller: Conn, router: Router, ends: Ends) -> Served {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (stop, stopped) = watch::channel(false);
    let connection = Connection {
        peer: ([127, 0, 0, 1], 1).into(),
        caller,
        router,
    };
    let server = tokio::spawn(connection.serve(http().http2_only(), far, (ends, None), stopped));
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(near))
        .await
        .unwrap();
    let client = tokio::spawn(async move { drop(connection.await) });
    Served {
        sender,
        client,
        server,
        stop,
    }
}

fn ok() -> Router {
    Router::new().route("/", axum::routing::get(|| async { "ok" }))
}

/// Answers never, as an xDS stream that has nothing to say.
fn silent() -> Router {
    Router::new().route(
        "/",
        axum::routing::get(std::future::pending::<&'static str>),
    )
}

fn get() -> Request<Empty<Bytes>> {
    Request::get("http://localhost/")
        .body(Empty::new())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_the_clients_certificate_does() {
    let begun = Instant::now();
    let ends = begun + Duration::from_secs(3600);
    let mut served = served(ok(), Ends::Certificate(ends)).await;
    let response = served.sender.send_request(get()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    served.client.await.unwrap();
    served.server.await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(3600));
    assert!(begun.elapsed() < Duration::from_secs(3601));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_on_is_cut_soon_after() {
    let begun = Instant::now();
    let ends = Ends::Certificate(begun + Duration::from_secs(60));
    let mut served = served(silent(), ends).await;
    let answer = tokio::spawn(served.sender.send_request(get()));
    served.server.await.unwrap();
    assert!(answer.await.unwrap().is_err());
    assert!(begun.elapsed() <= Duration::from_secs(61) + DRAIN);
}

/// A connection without a certificate, on which one request was made with that bearer token.
async fn stranger(token: &'static str) -> (Instant, Served) {
    let begun = Instant::now();
    let caller = Conn::Tls(None, Arc::new(Authenticator::new("admin")));
    let mut served = served_as(caller, ok(), Ends::Stranger(begun + STRANGER)).await;
    let mut request = get();
    let value = http::HeaderValue::from_static(token);
    request
        .headers_mut()
        .insert(http::header::AUTHORIZATION, value);
    served.sender.send_request(request).await.unwrap();
    (begun, served)
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_let_go_after_two_minutes() {
    let (begun, served) = stranger("Bearer join").await;
    served.client.await.unwrap();
    served.server.await.unwrap();
    assert!(begun.elapsed() >= STRANGER);
    assert!(begun.elapsed() < STRANGER + DRAIN);
}

#[tokio::test(start_paused = true)]
async fn the_operator_may_stay() {
    let (_, served) = stranger("Bearer admin").await;
    let hour = Duration::from_secs(3600);
    assert!(timeout(hour, served.server).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_connections_end() {
    let served = served(ok(), Ends::Never).await;
    served.stop.send_replace(true);
    served.client.await.unwrap();
    served.server.await.unwrap();
}

#[tokio::test]
async fn a_control_plane_that_cannot_write_is_not_ready_until_it_can() {
    let disk = crate::store::testing::Disk::default();
    let store = disk.open();
    let health = routes::health(routes::Health {
        metrics: Arc::new(Metrics::new().unwrap()),
        ready: Arc::new(true.into()),
        store: store.clone(),
    });
    let status = || async {
        let request = Request::get("/readyz").body(axum::body::Body::empty());
        let answer = health.clone().oneshot(request.unwrap()).await;
        answer.unwrap().status()
    };
    assert_eq!(status().await, StatusCode::OK);
    disk.fill(true);
    store.write(|_| Ok(())).await.unwrap_err();
    assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
    disk.fill(false);
    assert_eq!(status().await, StatusCode::OK);
}

#[test]
fn only_loopback_counts_as_this_machine() {
    for (address, local) in [
        ("127.0.0.1", true),
        ("127.9.9.9", true),
        ("::1", true),
        ("::ffff:127.0.0.1", true),
        ("0.0.0.0", false),
        ("::", false),
        ("10.0.0.1", false),
    ] {
        assert_eq!(is_loopback(address.parse().unwrap()), local, "{address}");
    }
}
