//! Istio documents as they are found in the wild, applied without a change, change live traffic as they say.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_tests::{Mesh, Sidecar, TestApp, eventually};

/// From a tutorial on service discovery: consistent hashing on a header, a small connection pool, two subsets.
pub(crate) const ORDER_DESTINATION_RULE: &str = "\
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: order-service
spec:
  host: order-service
  trafficPolicy:
    loadBalancer:
      consistentHash:
        httpHeaderName: user-id
    connectionPool:
      tcp:
        maxConnections: 100
      http:
        http1MaxPendingRequests: 50
        maxRequestsPerConnection: 2
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
";

/// From a tutorial on load balancing, with its comment.
const ORDER_VIRTUAL_SERVICE: &str = "\
# Istio automatically handles service discovery
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: order-service
spec:
  hosts:
  - order-service
  http:
  - route:
    - destination:
        host: order-service
        subset: v1
      weight: 90
    - destination:
        host: order-service
        subset: v2
      weight: 10  # Canary deployment
";

const PRODUCT_DESTINATION_RULE: &str = "\
# destination-rule.yaml
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: product-service
spec:
  host: product-service
  trafficPolicy:
    loadBalancer:
      simple: LEAST_CONN
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
";

const PRODUCT_VIRTUAL_SERVICE: &str = "\
# virtual-service.yaml
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: product-service
spec:
  hosts:
  - product-service
  http:
  - match:
    - headers:
        canary:
          exact: \"true\"
    route:
    - destination:
        host: product-service
        subset: v2
      weight: 100
  - route:
    - destination:
        host: product-service
        subset: v1
      weight: 90
    - destination:
        host: product-service
        subset: v2
      weight: 10
";

/// The `ServiceEntry` that the documents need where no Kubernetes tells who runs where.
pub(crate) fn service_entry(service: &str, endpoints: &[(&TestApp, &str)]) -> String {
    let mut yaml = format!(
        "\
apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata:
  name: {service}
spec:
  hosts:
  - {service}.default.svc.cluster.local
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - number: 80
    name: http
    protocol: HTTP
  endpoints:
"
    );
    for (app, version) in endpoints {
        let port = app.address().port();
        yaml += &format!(
            "  - address: 127.0.0.1\n    ports:\n      http: {port}\n    labels:\n      version: {version}\n"
        );
    }
    yaml
}

pub(crate) fn all(documents: &[&str]) -> String {
    documents.join("---\n")
}

/// Who answered how often.
async fn answers(
    sidecar: &Sidecar,
    host: &str,
    requests: usize,
    header: Option<(&str, &str)>,
) -> BTreeMap<String, usize> {
    const AT_A_TIME: usize = 16;
    let mut counts = BTreeMap::new();
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..AT_A_TIME {
        let caller = sidecar.caller();
        let host = host.to_owned();
        let header = header.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let share = requests / AT_A_TIME + usize::from(n < requests % AT_A_TIME);
        callers.spawn(async move {
            let mut names = Vec::new();
            for _ in 0..share {
                let reply = match &header {
                    Some((name, value)) => caller.get_with(&host, name, value).await,
                    None => caller.get(&host, "/").await,
                };
                assert_eq!(reply.status, 200, "{}", reply.text());
                names.push(reply.name());
            }
            names
        });
    }
    for name in callers.join_all().await.into_iter().flatten() {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_split_90_to_10_within_a_point() {
    let mesh = Mesh::start().await;
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    let shopper = mesh.service("shopper").start().await;
    let entry = service_entry("order-service", &[(&v1, "v1"), (&v2, "v2")]);
    mesh.apply(&all(&[
        &entry,
        ORDER_DESTINATION_RULE,
        ORDER_VIRTUAL_SERVICE,
    ]));
    mesh.synced().await;

    let counts = answers(&shopper, "order-service", 10_000, None).await;

    assert!((900..=1_100).contains(&counts["v2"]), "{counts:?}");
    assert_eq!(counts["v1"] + counts["v2"], 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_the_canary_header_reaches_v2_every_time() {
    let mesh = Mesh::start().await;
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    let shopper = mesh.service("shopper").start().await;
    let entry = service_entry("product-service", &[(&v1, "v1"), (&v2, "v2")]);
    mesh.apply(&all(&[
        &entry,
        PRODUCT_DESTINATION_RULE,
        PRODUCT_VIRTUAL_SERVICE,
    ]));
    mesh.synced().await;

    let with = answers(&shopper, "product-service", 500, Some(("canary", "true"))).await;
    let without = answers(&shopper, "product-service", 2_000, None).await;
    let other = answers(&shopper, "product-service", 500, Some(("canary", "TRUE"))).await;

    assert_eq!(with, BTreeMap::from([("v2".to_owned(), 500)]));
    assert!((140..=260).contains(&without["v2"]), "{without:?}");
    assert!(other["v1"] > 400, "an exact match is exact: {other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn least_conn_leaves_a_busy_endpoint_alone() {
    let mesh = Mesh::start().await;
    let (slow, fast) = (TestApp::start("slow").await, TestApp::start("fast").await);
    let shopper = mesh.service("shopper").start().await;
    let entry = service_entry("product-service", &[(&slow, "v1"), (&fast, "v1")]);
    mesh.apply(&all(&[&entry, PRODUCT_DESTINATION_RULE]));
    mesh.synced().await;

    // The slow one never answers, so that what reaches it stays there.
    slow.hold();
    // One after the other, so that nothing else is in flight when one waits there.
    let held = loop {
        let caller = shopper.caller();
        let get = async move { caller.get("product-service", "/").await.name() };
        let mut held = tokio::spawn(get);
        let mut tries = 0;
        let reached = eventually(
            "the request is answered, or waits in the slow endpoint",
            async || {
                tries += 1;
                match (slow.waiting() > 0, held.is_finished()) {
                    (true, _) => Ok(true),
                    (_, true) => Ok(false),
                    _ => Err(format!("neither, after {tries} looks")),
                }
            },
        );
        if reached.await {
            break held;
        }
        assert_eq!((&mut held).await.expect("answered"), "fast");
    };

    // One at a time: the fast one is idle whenever a request chooses, the slow one never.
    let caller = shopper.caller();
    for _ in 0..100 {
        assert_eq!(caller.get("product-service", "/").await.name(), "fast");
    }
    slow.release();
    assert_eq!(held.await.expect("answered"), "slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_user_reaches_the_same_endpoint_through_every_sidecar() {
    let mesh = Mesh::start().await;
    let mut apps = Vec::new();
    for name in ["a", "b", "c", "d"] {
        apps.push(TestApp::start(name).await);
    }
    let (one, other) = (
        mesh.service("shopper").start().await,
        mesh.service("clerk").start().await,
    );
    let endpoints: Vec<(&TestApp, &str)> = apps.iter().map(|app| (app, "v1")).collect();
    mesh.apply(&all(&[
        &service_entry("order-service", &endpoints),
        ORDER_DESTINATION_RULE,
    ]));
    mesh.synced().await;

    let mut reached = BTreeSet::new();
    for user in 0..40 {
        let user = format!("user-{user}");
        let mut names = BTreeSet::new();
        for sidecar in [&one, &other] {
            for _ in 0..3 {
                let reply = sidecar
                    .caller()
                    .get_with("order-service", "user-id", &user)
                    .await;
                names.insert(reply.name());
            }
        }
        assert_eq!(names.len(), 1, "{user} reached {names:?}");
        reached.extend(names);
    }
    assert_eq!(
        reached.len(),
        4,
        "40 users should spread over all of a, b, c, d: {reached:?}"
    );
}
