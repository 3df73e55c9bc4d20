//! Policies that change all the time cost no request.
//!
//! `OUTRIGGER_SWAP_SECONDS` says for how long: 10 by default, 60 for the whole claim.

use std::time::{Duration, Instant};

use outrigger_tests::{Load, Mesh, Operator, TestApp};

use super::istio_documents::{all, service_entry};

/// Every step is another subset by another name under another policy, so that clusters come and go.
fn step(n: usize) -> String {
    let (name, version) = [("blue", "v1"), ("green", "v2"), ("red", "v1")][n % 3];
    let balancer = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"][n / 3 % 3];
    let connections = 50 + n % 5;
    format!(
        "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: swapped}}
spec:
  host: swapped
  trafficPolicy:
    loadBalancer: {{simple: {balancer}}}
    connectionPool: {{tcp: {{maxConnections: {connections}}}}}
  subsets: [{{name: {name}, labels: {{version: {version}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: swapped}}
spec:
  hosts: [swapped]
  http: [{{route: [{{destination: {{host: swapped, subset: {name}}}}}]}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subset_and_its_policy_swapped_ten_times_a_second_cost_no_request() {
    let seconds = std::env::var("OUTRIGGER_SWAP_SECONDS");
    let seconds = seconds.map_or(10, |text| text.parse().expect("a number of seconds"));
    let mesh = Mesh::start().await;
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    let shopper = mesh.service("shopper").start().await;
    mesh.apply(&all(&[
        &service_entry("swapped", &[(&v1, "v1"), (&v2, "v2")]),
        &step(0),
    ]));
    mesh.synced().await;

    let mut operator = Operator::of(&mesh).await;
    let load = Load::get(&shopper.caller(), 200, "swapped");
    let started = Instant::now();
    let mut swaps = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while started.elapsed() < Duration::from_secs(seconds) {
        ticks.tick().await;
        swaps += 1;
        operator.apply(&step(swaps)).await;
    }
    mesh.synced().await;
    let report = load.finish().await;

    eprintln!("{swaps} swaps, {} requests", report.sent);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    // What a machine that is busy otherwise falls behind is made up for: ticks that were missed come at once.
    assert!(swaps as u64 >= seconds * 9, "{swaps} swaps");
    let (one, two) = (v1.received().len(), v2.received().len());
    assert!(one > 20 && two > 20, "{one} and {two}");
}
