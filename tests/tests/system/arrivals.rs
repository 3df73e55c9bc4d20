//! What depends on when an endpoint came, and what is only seen in counters: our sidecar beside Envoy.

use std::time::{Duration, Instant};

use outrigger_tests::{Caller, Envoy, Mesh, TestApp, eventually};

const WARMUP: Duration = Duration::from_secs(12);

fn endpoints(apps: &[&TestApp]) -> String {
    let endpoints: String = apps
        .iter()
        .map(|app| {
            format!(
                "  - {{address: 127.0.0.1, ports: {{http: {}}}}}\n",
                app.address().port()
            )
        })
        .collect();
    format!(
        "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: grows}}
spec:
  hosts: [grows.default.svc.cluster.local]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
{endpoints}"
    )
}

/// Who answers how many of 100.
async fn shares(caller: &Caller, names: [&str; 2]) -> [usize; 2] {
    let mut counts = [0; 2];
    for _ in 0..100 {
        let name = caller.get("grows", "/").await.name();
        let at = names.iter().position(|known| *known == name);
        counts[at.unwrap_or_else(|| panic!("answered by {name:?}"))] += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_endpoint_warms_up_and_a_route_has_counters_of_its_own() {
    let mesh = Mesh::start().await;
    let (old, new) = (TestApp::start("old").await, TestApp::start("new").await);
    mesh.apply(&endpoints(&[&old]));
    mesh.apply(
        "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: grows}
spec:
  host: grows
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 12s, minimumPercent: 10}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: grows}
spec:
  hosts: [grows]
  http: [{match: [{uri: {prefix: /}, statPrefix: growing}], route: [{destination: {host: grows}}]}]
",
    );
    let shopper = mesh.service("shopper").start().await;
    let envoy = Envoy::start(&mesh, "shopper", &[]).await;
    mesh.synced().await;
    let came = Instant::now();
    let mut callers = vec![("ours", shopper.caller())];
    callers.extend(envoy.as_ref().map(|envoy| ("Envoy", envoy.caller())));
    // Until the old one is warm.
    while came.elapsed() < WARMUP {
        for (who, caller) in &callers {
            assert_eq!(shares(caller, ["old", "new"]).await, [100, 0], "{who}");
        }
    }

    mesh.apply(&endpoints(&[&old, &new]));
    for (who, caller) in &callers {
        eventually("the new one is asked", async || {
            match caller.get("grows", "/").await.name() {
                name if name == "new" => Ok(()),
                name => Err(name),
            }
        })
        .await;
        let counts = shares(caller, ["old", "new"]).await;
        // 10 of 110 at first, 50 when it is warm.
        assert!((1..40).contains(&counts[1]), "{who}: {counts:?}");
    }
    for (who, caller) in &callers {
        eventually("it is as warm as the old one", async || {
            let counts = shares(caller, ["old", "new"]).await;
            if (45..=55).contains(&counts[1]) {
                Ok(())
            } else {
                Err(format!("{who}: {counts:?}"))
            }
        })
        .await;
    }

    let counted = shopper.admin("/stats/prometheus").await;
    let line = counted
        .lines()
        .find(|line| line.contains("stat_prefix=\"growing\"") && line.contains("\"2xx\""));
    let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(
        count.is_some_and(|count| count >= 300.0),
        "{line:?}\n{counted}"
    );
    if let Some(envoy) = &envoy {
        let counted = envoy.admin("/stats?filter=growing").await;
        let found = counted.contains(".route.growing.upstream_rq_2xx");
        assert!(found, "no counter of Envoy's names the route: {counted}");
    }
}
