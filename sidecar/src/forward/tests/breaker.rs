//! Circuit breakers as a caller and an operator see them.

use outrigger_core::{BreakerConfig, ClusterConfig};

use super::*;

/// Opens at the third failure, for longer than any test.
fn breaking(for_endpoints: bool, for_service: bool) -> ClusterConfig {
    ClusterConfig {
        breaker: Some(BreakerConfig {
            consecutive_failures: 3,
            reset_timeout: Duration::from_secs(300),
            for_endpoints,
            for_service,
            position: Some("dp.yaml:7:3".into()),
        }),
        ..cluster("reviews")
    }
}

#[tokio::test]
async fn the_third_failure_opens_it_and_the_answer_names_its_line() {
    for for_service in [true, false] {
        let nobody = Nobody::at_home();
        let reviews = breaking(!for_service, for_service);
        let endpoints = vec![endpoint(nobody.address(), false)];
        let (sidecar, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await;
        for _ in 0..3 {
            let answer = get(proxy, "/").await;
            assert_eq!(answer.header("x-outrigger-reason"), Some("connect_failed"));
        }
        for _ in 0..2 {
            let answer = get(proxy, "/").await;
            assert_eq!(answer.status, 503);
            assert_eq!(answer.header("x-outrigger-reason"), Some("breaker_open"));
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            let error = &body["error"];
            assert_eq!(error["policy"], "dp.yaml:7:3");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("after 3 failures in a row"), "{message}");
            assert!(message.contains("dp.yaml:7:3"), "{message}");
        }
        let scope = if for_service { "service" } else { "endpoint" };
        let of = |name: &str| {
            sidecar.metric(&format!(
                "{name}{{cluster=\"outbound|80||reviews.default.svc.cluster.local\",scope=\"{scope}\"}}"
            ))
        };
        assert!((of("outrigger_breaker_opened_total") - 1.0).abs() < 0.1);
        assert!((of("outrigger_breaker_refused_total") - 2.0).abs() < 0.1);
        let gauges = [
            ("outrigger_breaker_state{", 2.0),
            ("outrigger_breaker_endpoints_open{", 1.0),
        ];
        let (name, want) = gauges[usize::from(!for_service)];
        assert!((sidecar.metric(name) - want).abs() < 0.1, "{name}");
    }
}

#[tokio::test]
async fn an_endpoint_whose_breaker_is_open_is_left_alone_and_others_serve() {
    let (app, nobody) = (App::start("reviews").await, Nobody::at_home());
    let endpoints = vec![
        endpoint(nobody.address(), false),
        endpoint(app.address, false),
    ];
    let (sidecar, proxy) =
        Sidecar::outbound(&config(), None, breaking(true, false), endpoints, |_| {}).await;
    for _ in 0..20 {
        assert_eq!(get(proxy, "/").await.status, 200);
    }
    // Three of them found out at most; after that nobody was sent there to be sent elsewhere. (One whose connection is
    // refused is left alone for a moment even before.)
    let retried = sidecar.metric("outrigger_retries_total{outcome=\"again\"}");
    assert!((0.9..3.1).contains(&retried), "{retried}");
    assert!(sidecar.metric("outrigger_breaker_refused_total{").abs() < 0.1);
}
