//! What a sidecar holds follows what its application calls.

use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use outrigger_tests::{Load, Mesh, Operator, Sidecar, TestApp, eventually};
use serde_json::Value;

use super::istio_documents::{all, service_entry};

/// Names and states of what the sidecar knows of one type.
async fn known(sidecar: &Sidecar, kind: &str) -> Vec<(String, String)> {
    let dump = sidecar
        .admin(&format!("/config_dump?resource={kind}"))
        .await;
    let dump: Value = serde_json::from_str(&dump).unwrap();
    let text = |of: &Value| of.as_str().unwrap().to_owned();
    let resources = dump["generic_xds_configs"].as_array().unwrap();
    resources
        .iter()
        .map(|one| (text(&one["name"]), text(&one["client_status"])))
        .collect()
}

/// The value of one series, by the start of its line.
async fn metric(sidecar: &Sidecar, series: &str) -> u64 {
    let text = sidecar.admin("/stats/prometheus").await;
    let line = text.lines().find(|line| line.starts_with(series));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_holds_what_its_application_has_called_and_nothing_else() {
    let mesh = Mesh::start().await;
    let (orders, stock) = (
        TestApp::start("orders").await,
        TestApp::start("stock").await,
    );
    mesh.apply(&all(&[
        &service_entry("orders", &[(&orders, "v1")]),
        &service_entry("stock", &[(&stock, "v1")]),
    ]));
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    assert_eq!(known(&shopper, "cluster").await, []);
    assert_eq!(known(&shopper, "virtual_host").await, []);

    // The very first request is answered, and what it needs is fetched once.
    let began = Instant::now();
    let reply = caller.get("orders", "/").await;
    eprintln!("the first request took {:?}", began.elapsed());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let acked = |name: &str| vec![(name.to_owned(), "ACKED".to_owned())];
    let cluster = "outbound|80||orders.default.svc.cluster.local";
    assert_eq!(known(&shopper, "cluster").await, acked(cluster));
    assert_eq!(known(&shopper, "endpoint").await, acked(cluster));
    assert_eq!(
        known(&shopper, "virtual_host").await,
        acked("http_proxy/orders")
    );
    for _ in 0..10 {
        assert_eq!(caller.get("orders", "/").await.status, 200);
    }
    let came = "outrigger_on_demand_requests_total{outcome=\"came\"}";
    assert_eq!(metric(&shopper, came).await, 1);

    // Each way to write the host is a name of its own, and leads to the same.
    for host in ["orders.default", "ORDERS.default.svc:80", "orders:80"] {
        let reply = caller.get(host, "/").await;
        assert_eq!(reply.status, 200, "{host}: {}", reply.text());
    }
    assert_eq!(known(&shopper, "cluster").await, acked(cluster));
    assert_eq!(known(&shopper, "virtual_host").await.len(), 4);
    assert_eq!(stock.received().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_called_before_it_exists_serves_when_it_does_and_ends_when_it_ends() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("late").await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    let reply = caller.get("late", "/").await;
    assert_eq!(reply.status, 404, "{}", reply.text());
    assert_eq!(reply.reason(), Some("no_route_host"));
    assert_eq!(
        known(&shopper, "virtual_host").await,
        [("http_proxy/late".to_owned(), "DOES_NOT_EXIST".to_owned())]
    );

    mesh.apply(&service_entry("late", &[(&app, "v1")]));
    eventually("it serves", async || match caller.get("late", "/").await {
        reply if reply.status == 200 => Ok(()),
        reply => Err(reply.text()),
    })
    .await;

    assert_eq!(mesh.cli(&["delete", "ServiceEntry", "late"]).status, 0);
    eventually("it has ended", async || {
        let reply = caller.get("late", "/").await;
        match reply.reason() {
            Some("no_route_host") => Ok(()),
            _ => Err(format!("{} {}", reply.status, reply.text())),
        }
    })
    .await;
    eventually("nothing of it is held", async || {
        match known(&shopper, "cluster").await.as_slice() {
            [] => Ok(()),
            held => Err(format!("{held:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_made_up_hosts_stay_bounded_and_cost_others_nothing() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("orders").await;
    mesh.apply(&service_entry("orders", &[(&app, "v1")]));
    let shopper = mesh.service("shopper").start().await;
    let innocent = shopper.caller();
    assert_eq!(innocent.get("orders", "/").await.status, 200);

    let load = Load::get(&innocent, 100, "orders");
    let stranger = shopper.caller();
    let mut answers = stream::iter(0..10_000)
        .map(|number| {
            let stranger = stranger.clone();
            async move { stranger.get(&format!("nobody-{number}"), "/").await }
        })
        .buffer_unordered(64);
    while let Some(reply) = answers.next().await {
        // On a machine that is busy otherwise, some of so many may have to wait for longer than they do.
        let reasons = ["no_route_host", "no_route_yet", "overflow_on_demand"];
        let reason = reply.reason().unwrap_or_default();
        assert!(reasons.contains(&reason), "{}", reply.text());
    }
    let report = load.finish().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let absent = "outrigger_on_demand_hosts{state=\"absent\"}";
    let remembered = metric(&shopper, absent).await;
    assert!(remembered <= 1_024, "{remembered}");
    let held = known(&shopper, "virtual_host").await.len();
    assert!(held <= 1_025, "{held}");
    let given_back = metric(&shopper, "outrigger_on_demand_given_back_total").await;
    assert!(given_back > 0, "{given_back}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_hosts_that_were_called_go_on_and_others_say_why_not() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("orders").await;
    mesh.apply(&all(&[
        &service_entry("orders", &[(&app, "v1")]),
        &service_entry("stock", &[(&app, "v1")]),
    ]));
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    assert_eq!(caller.get("orders", "/").await.status, 200);
    mesh.kill_control_plane();

    let reply = caller.get("stock", "/").await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.reason(), Some("no_route_yet"));
    let text = reply.text();
    assert!(text.contains("the control plane is away"), "{text}");
    assert_eq!(caller.get("orders", "/").await.status, 200);

    mesh.restart_control_plane().await;
    eventually("the other one serves", async || {
        match caller.get("stock", "/").await {
            reply if reply.status == 200 => Ok(()),
            reply => Err(reply.text()),
        }
    })
    .await;
}

/// Where a request to `orders` goes, in percent.
fn weights(blue: u32) -> String {
    format!(
        "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: orders}}
spec:
  host: orders
  subsets: [{{name: blue, labels: {{version: v1}}}}, {{name: green, labels: {{version: v2}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: orders}}
spec:
  hosts: [orders]
  http:
  - route:
    - {{destination: {{host: orders, subset: blue}}, weight: {blue}}}
    - {{destination: {{host: orders, subset: green}}, weight: {}}}
",
        100 - blue
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_walk_from_one_subset_to_the_other_cost_no_request() {
    let mesh = Mesh::start().await;
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    mesh.apply(&service_entry("orders", &[(&v1, "v1"), (&v2, "v2")]));
    let shopper = mesh.service("shopper").start().await;
    let load = Load::get(&shopper.caller(), 200, "orders");
    let mut operator = Operator::of(&mesh).await;
    for blue in (0..=10).rev().map(|tenths| tenths * 10) {
        operator.apply(&weights(blue)).await;
        mesh.synced().await;
    }
    let report = load.finish().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    let before = v1.received().len();
    for _ in 0..50 {
        assert_eq!(shopper.caller().get("orders", "/").await.status, 200);
    }
    assert_eq!(v1.received().len(), before, "all go to the second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_document_has_everything_it_names_there_before_the_first_request() {
    let mesh = Mesh::start().await;
    let (orders, stock) = (
        TestApp::start("orders").await,
        TestApp::start("stock").await,
    );
    mesh.apply(&all(&[
        &service_entry("orders", &[(&orders, "v1")]),
        &service_entry("stock", &[(&stock, "v1")]),
        "\
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: shopper}
spec:
  egress: [{hosts: [./orders.default.svc.cluster.local]}]
",
    ]));
    let shopper = mesh.service("shopper").start().await;
    let clusters = known(&shopper, "cluster").await;
    let cluster = "outbound|80||orders.default.svc.cluster.local".to_owned();
    assert_eq!(clusters, [(cluster, "ACKED".to_owned())]);
    mesh.kill_control_plane();
    let caller = shopper.caller();
    assert_eq!(caller.get("orders", "/").await.status, 200);
    let reply = caller.get("stock", "/").await;
    assert_eq!(reply.reason(), Some("no_route_host"), "{}", reply.text());
    assert_eq!(known(&shopper, "virtual_host").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_all_has_all_before_the_first_request() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("orders").await;
    mesh.apply(&service_entry("orders", &[(&app, "v1")]));
    for flag in [("--discovery", "all"), ("--xds-protocol", "sotw")] {
        let shopper = mesh.service("shopper").flag(flag.0, flag.1).start().await;
        let clusters = known(&shopper, "cluster").await;
        assert!(!clusters.is_empty(), "{flag:?}");
        assert_eq!(known(&shopper, "virtual_host").await, []);
        assert_eq!(shopper.caller().get("orders", "/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_to_a_new_host_all_go_on() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("orders").await;
    mesh.apply(&service_entry("orders", &[(&app, "v1")]));
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    let mut answers = stream::iter(0..200)
        .map(|_| {
            let caller = caller.clone();
            async move { caller.get("orders", "/").await }
        })
        .buffer_unordered(200);
    while let Some(reply) = answers.next().await {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let asked = known(&shopper, "virtual_host").await;
    assert_eq!(asked.len(), 1, "{asked:?}");
}
