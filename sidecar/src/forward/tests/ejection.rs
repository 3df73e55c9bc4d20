//! What counts against an endpoint, and what does not.

use outrigger_core::{ClusterConfig, OutlierConfig};

use super::*;

/// Ejects even the last endpoint, for longer than any test: refused at once is what a test then sees.
fn ejecting_after(failures: u32) -> ClusterConfig {
    let long = Duration::from_secs(300);
    ClusterConfig {
        outlier: Some(OutlierConfig {
            consecutive_5xx: failures,
            consecutive_gateway_failure: 0,
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
