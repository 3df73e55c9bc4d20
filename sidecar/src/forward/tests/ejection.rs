//! What counts against an endpoint, and what does not.

use outrigger_core::{ClusterConfig, OutlierConfig};

use super::*;
use crate::testing::{route, table};

/// Ejects even the last endpoint, for longer than any test: refused at once is what a test then sees.
pub(super) fn ejecting_after(failures: u32) -> ClusterConfig {
    let long = Duration::from_secs(300);
    ClusterConfig {
        outlier: Some(OutlierConfig {
            consecutive_5xx: failures,
            consecutive_gateway_failure: 0,
            split_local: None,
            interval: long,
            base_ejection_time: long,
            max_ejection_time: long,
            max_ejection_percent: 100,
            min_health_percent: 0,
        }),
        ..cluster("reviews")
    }
}

/// Callers, and the sidecar of an endpoint whose application takes no connections.
async fn application_down(failures: u32) -> (Nobody, Sidecar, Sidecar, SocketAddr) {
    let authority = Authority::new();
    let nobody = Nobody::at_home();
    let identity = authority.identity("reviews");
    let (server, inbound) = Sidecar::inbound(identity, nobody.address()).await;
    let reviews = ClusterConfig {
        tls: mtls(&["reviews"]),
        ..ejecting_after(failures)
    };
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(inbound, true)];
    let (client, proxy) = Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
    (nobody, server, client, proxy)
}

#[tokio::test]
async fn an_endpoint_whose_application_is_down_is_ejected_by_grpc_calls() {
    let (_nobody, _server, _client, proxy) = application_down(3).await;
    let mut reasons = Vec::new();
    for _ in 0..4 {
        let (_, headers, ..) = grpc_call(proxy, "reviews").await;
        assert_eq!(headers["grpc-status"], "14");
        reasons.push(headers["x-outrigger-reason"].clone());
    }
    let (down, out) = ("connect_failed", "no_healthy_endpoints");
    assert_eq!(reasons, [down, down, down, out]);
}

#[tokio::test]
async fn an_unsent_answer_counts_once() {
    let (_nobody, _server, _client, proxy) = application_down(3).await;
    let mut reasons = Vec::new();
    for _ in 0..4 {
        reasons.push(reason(&get(proxy, "/").await));
    }
    let (down, out) = ("connect_failed", "no_healthy_endpoints");
    assert_eq!(reasons, [down, down, down, out]);
}

fn reason(answer: &crate::testing::app::Answer) -> String {
    answer
        .header("x-outrigger-reason")
        .unwrap_or("-")
        .to_owned()
}

/// Answers every request with the same bytes, and closes.
async fn says_and_closes(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = [0; 1024];
            assert!(stream.read(&mut seen).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn an_endpoint_that_breaks_every_body_is_ejected() {
    let breaks = says_and_closes("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    let whole = says_and_closes("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull").await;
    let refuses = says_and_closes("HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\nhalf").await;
    for (address, ejected_by) in [(breaks, Some(3)), (whole, None), (refuses, Some(3))] {
        let endpoints = vec![endpoint(address, false)];
        let (_sidecar, proxy) =
            Sidecar::outbound(&config(), None, ejecting_after(3), endpoints, |_| {}).await;
        let mut ejected = None;
        for made in 0..5 {
            let mut caller = Raw::to(proxy).await;
            caller.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
            let answer = caller.answer().await;
            if answer.is_some_and(|answer| reason(&answer) == "no_healthy_endpoints") {
                ejected = ejected.or(Some(made));
            }
        }
        assert_eq!(ejected, ejected_by);
    }
}

#[tokio::test]
async fn a_timeout_in_our_own_queue_is_not_the_endpoints_fault() {
    let app = App::start("reviews").await;
    app.hold();
    let mut reviews = ejecting_after(1);
    reviews.thresholds.max_connections = 1;
    let name = reviews.name.clone();
    let endpoints = vec![endpoint(app.address, false)];
    let (mut sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await;
    let mut long = Raw::to(proxy).await;
    long.send("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
    app.until_requests(1).await;
    let mut limited = route(&mut sidecar.builder, &name);
    limited.timeout = Some(Duration::from_millis(50));
    let table = table("http_proxy", vec![("reviews", vec![limited])]);
    let table = Some(std::sync::Arc::new(table));
    sidecar.builder.set_routes("http_proxy", table);
    sidecar.publish("http_proxy").await;
    for _ in 0..3 {
        assert_eq!(reason(&get(proxy, "/").await), "timeout");
    }
    app.let_go();
    assert_eq!(long.answer().await.unwrap().status, 200);
    assert_eq!(get(proxy, "/").await.status, 200, "still in service");
}

#[tokio::test]
async fn a_timeout_while_connecting_is_the_endpoints_fault() {
    let authority = Authority::new();
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reviews = ClusterConfig {
        tls: mtls(&["reviews"]),
        ..ejecting_after(2)
    };
    let endpoints = vec![endpoint(silent.local_addr().unwrap(), true)];
    let identity = Some(authority.identity("frontend"));
    let limit = |route: &mut Route| route.timeout = Some(Duration::from_millis(50));
    let (_sidecar, proxy) = Sidecar::outbound(&config(), identity, reviews, endpoints, limit).await;
    let mut reasons = Vec::new();
    for _ in 0..3 {
        reasons.push(reason(&get(proxy, "/").await));
    }
    assert_eq!(reasons, ["timeout", "timeout", "no_healthy_endpoints"]);
}
