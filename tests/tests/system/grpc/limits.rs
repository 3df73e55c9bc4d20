//! What a gRPC library refuses to call: more at a time than is allowed, and an endpoint that fails.

use outrigger_tests::{GrpcPeer, Mesh, eventually};
use serde_json::json;

use super::scenarios::{TARGET, every_name, service};

/// `http2MaxRequests` calls at a time, and the next fails at once. With `stagger_s` between the beginnings of calls.
pub(super) async fn at_most_so_many_calls(mesh: &Mesh, peer: &mut GrpcPeer, stagger_s: f64) {
    mesh.apply(&service(
        peer,
        "  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 3}}}\n",
    ));
    let ask = |calls: usize| json!({ "target": TARGET, "count": calls, "concurrency": calls, "stagger_s": stagger_s, "metadata": { "x-delay-s": "2" } });
    eventually("of four calls one is refused", async || {
        let seen = peer.call(ask(4)).await;
        (seen.total() == 4 && seen.errors.values().sum::<u64>() == 1)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    let seen = peer.call(ask(4)).await;
    let refused = seen
        .errors
        .iter()
        .next()
        .map(|(why, count)| (why.as_str(), *count));
    let (why, count) = refused.expect("one is refused");
    assert!(why.starts_with("UNAVAILABLE") && count == 1, "{seen:?}");
    assert!(seen.seconds < 10.0, "{seen:?}");
    let seen = peer.call(ask(3)).await;
    assert_eq!((seen.total(), seen.errors.len()), (3, 0), "{seen:?}");
}

/// An endpoint of which every call fails is called no more, until its time is over.
pub(super) async fn an_endpoint_that_fails_is_ejected(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&service(
        peer,
        "  trafficPolicy:\n    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 300s, \
         maxEjectionPercent: 50}\n",
    ));
    let ask = json!({
        "target": TARGET, "count": 40, "concurrency": 4, "metadata": { "x-fail": "v1" }
    });
    let seen = peer.call(ask.clone()).await;
    assert!(!seen.errors.is_empty(), "v1 does fail: {seen:?}");
    eventually("v1 is not called any more", async || {
        let seen = peer.call(ask.clone()).await;
        (seen.percent("v2") == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    for _ in 0..5 {
        let seen = peer.call(ask.clone()).await;
        assert_eq!(seen.percent("v2"), 100, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_calls_are_exact_and_an_endpoint_that_fails_is_called_no_more() {
    let mesh = Mesh::start().await;
    let Some(mut peer) = GrpcPeer::start(&mesh, "shopper", &["v1", "v2"]).await else {
        return;
    };
    mesh.apply(&service(&peer, ""));
    every_name(&mut peer).await;
    at_most_so_many_calls(&mesh, &mut peer, 0.0).await;
    an_endpoint_that_fails_is_ejected(&mesh, &mut peer).await;
}
