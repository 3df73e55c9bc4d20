//! Stock Envoy under changes, in both protocols: no request fails, and nothing is refused.

use std::time::{Duration, Instant};

use outrigger_tests::{Asks, Envoy, Line, Load, Mesh, TestApp, eventually};

fn service(host: &str, apps: &[&TestApp]) -> String {
    let endpoints: String = apps
        .iter()
        .map(|app| {
            let (port, version) = (app.address().port(), app.name());
            format!("  - {{address: 127.0.0.1, ports: {{http: {port}}}, labels: {{version: {version}}}}}\n")
        })
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}}}\nspec:\n  \
         hosts: [{host}.default.svc.cluster.local]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: http, protocol: HTTP}}]\n  endpoints:\n{endpoints}"
    )
}

/// `version` by a subset called `subset`, which others are not.
fn subset(host: &str, subset: &str, version: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\nspec:\n  \
         host: {host}\n  subsets: [{{name: {subset}, labels: {{version: {version}}}}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {host}}}\nspec:\n  \
         hosts: [{host}]\n  http: [{{route: [{{destination: {{host: {host}, subset: {subset}}}}}]}}]\n"
    )
}

fn nothing_is_refused(mesh: &Mesh) {
    let status = mesh.status();
    let clients = status["sidecars"].as_array().into_iter().flatten();
    for kind in clients.flat_map(|client| client["types"].as_array().into_iter().flatten()) {
        assert_eq!(kind["nacks"], 0, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_of_either_protocol_loses_no_request_while_subsets_are_swapped_and_the_control_plane_restarts()
 {
    let mesh = Mesh::start().await;
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    mesh.apply(&(service("swapped", &[&v1, &v2]) + "---\n" + &subset("swapped", "blue", "v1")));
    let mut envoys = Vec::new();
    for sotw in [false, true] {
        let asks = Asks {
            sotw,
            ..Asks::default()
        };
        match Envoy::start_asking(&mesh, "shopper", &[], asks).await {
            Some(envoy) => envoys.push(envoy),
            None => return,
        }
    }
    for envoy in &envoys {
        eventually("the first request is served", async || {
            let reply = envoy.caller().get("swapped", "/").await;
            (reply.status == 200)
                .then_some(())
                .ok_or_else(|| format!("{}", reply.status))
        })
        .await;
    }
    let loads: Vec<Load> = envoys
        .iter()
        .map(|envoy| Load::get(&envoy.caller(), 50, "swapped"))
        .collect();
    for step in 0..6 {
        // Another version each time, so that its answer shows that the step is in force.
        let (name, version) = (["blue", "green", "red"][step % 3], ["v1", "v2"][step % 2]);
        if step == 4 {
            mesh.kill_control_plane();
            // Before they are back: they missed the change.
            mesh.restart_control_plane().await;
        }
        mesh.apply(&subset("swapped", name, version));
        for envoy in &envoys {
            eventually("the swap is in force", async || {
                let reply = envoy.caller().get("swapped", "/").await;
                let name = reply.name();
                (name == version)
                    .then_some(())
                    .ok_or_else(|| format!("{name} instead of {version}"))
            })
            .await;
        }
    }
    for load in loads {
        let report = load.finish().await;
        assert_eq!(report.failed, 0, "{:?}", report.failures);
        assert!(report.sent > 20, "{} requests", report.sent);
    }
    nothing_is_refused(&mesh);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_of_either_protocol_that_was_away_in_a_swap_loses_no_request() {
    let mesh = Mesh::start().await;
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    mesh.apply(&(service("missed", &[&v1, &v2]) + "---\n" + &subset("missed", "blue", "v1")));
    let line = Line::to(mesh.grpc()).await;
    let mut envoys = Vec::new();
    for sotw in [false, true] {
        let asks = Asks {
            sotw,
            through: Some(line.address()),
            ..Asks::default()
        };
        match Envoy::start_asking(&mesh, "shopper", &[], asks).await {
            Some(envoy) => envoys.push(envoy),
            None => return,
        }
    }
    for envoy in &envoys {
        in_force(envoy, "missed", "v1").await;
    }
    let loads: Vec<Load> = envoys
        .iter()
        .map(|envoy| Load::get(&envoy.caller(), 50, "missed"))
        .collect();
    for step in 1..7 {
        let (name, version) = (["blue", "green", "red"][step % 3], ["v1", "v2"][step % 2]);
        // Away before the swap, or in the middle of it.
        let away = step % 3 != 0;
        if away {
            line.cut();
        }
        mesh.apply(&subset("missed", name, version));
        line.cut();
        line.mend();
        for envoy in &envoys {
            in_force(envoy, "missed", version).await;
        }
    }
    for load in loads {
        let report = load.finish().await;
        assert_eq!(report.failed, 0, "{:?}", report.failures);
        assert!(report.sent > 20, "{} requests", report.sent);
    }
    nothing_is_refused(&mesh);
}

/// Clusters and listeners over a stream each, routes and endpoints over a third one.
#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_with_streams_for_each_type_loses_no_request_while_subsets_are_swapped() {
    let mesh = Mesh::start().await;
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    mesh.apply(&(service("apart", &[&v1, &v2]) + "---\n" + &subset("apart", "blue", "v1")));
    let mut envoys = Vec::new();
    for sotw in [false, true] {
        let asks = Asks {
            sotw,
            apart: true,
            ..Asks::default()
        };
        match Envoy::start_asking(&mesh, "shopper", &[], asks).await {
            Some(envoy) => envoys.push(envoy),
            None => return,
        }
    }
    for envoy in &envoys {
        in_force(envoy, "apart", "v1").await;
    }
    let loads: Vec<Load> = envoys
        .iter()
        .map(|envoy| Load::get(&envoy.caller(), 300, "apart"))
        .collect();
    for step in 1..9 {
        let (name, version) = (["blue", "green", "red"][step % 3], ["v1", "v2"][step % 2]);
        mesh.apply(&subset("apart", name, version));
        for envoy in &envoys {
            in_force(envoy, "apart", version).await;
        }
    }
    for load in loads {
        let report = load.finish().await;
        assert_eq!(report.failed, 0, "{:?}", report.failures);
        assert!(report.sent > 20, "{} requests", report.sent);
    }
    nothing_is_refused(&mesh);
}

/// Waits until `host` is answered by `version`.
async fn in_force(envoy: &Envoy, host: &str, version: &str) {
    eventually("the swap is in force", async || {
        let reply = envoy.caller().get(host, "/").await;
        (reply.name() == version)
            .then_some(())
            .ok_or_else(|| format!("{} {} instead of {version}", reply.status, reply.name()))
    })
    .await;
}

/// The certificate that its clusters name, for mTLS, is not served: it goes on without instead of waiting for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_of_either_protocol_is_ready_without_waiting_for_a_certificate() {
    /// Envoy's, for whatever does not come.
    const PATIENCE: Duration = Duration::from_secs(15);

    let mesh = Mesh::start().await;
    let v1 = TestApp::start("v1").await;
    mesh.apply(&service("called", &[&v1]));
    for sotw in [false, true] {
        let asks = Asks {
            sotw,
            ..Asks::default()
        };
        let started = Instant::now();
        let Some(envoy) = Envoy::start_asking(&mesh, "shopper", &[], asks).await else {
            return;
        };
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        eprintln!("ready after {:?}, SotW: {sotw}", started.elapsed());
        in_force(&envoy, "called", "v1").await;
    }
    nothing_is_refused(&mesh);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_is_sent_virtual_hosts_and_clusters_when_requests_need_them_and_reports_its_load()
{
    let mesh = Mesh::start().await;
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    let services = [
        service("called", &[&v1, &v2]),
        service("other", &[&v1]),
        subset("called", "blue", "v1"),
    ];
    mesh.apply(&services.join("---\n"));
    let asks = Asks {
        on_demand: true,
        ..Asks::default()
    };
    let Some(envoy) = Envoy::start_asking(&mesh, "shopper", &[], asks).await else {
        return;
    };
    let caller = envoy.caller();
    eventually("the first request waits for its routes", async || {
        let reply = caller.get("called", "/").await;
        (reply.name() == "v1")
            .then_some(())
            .ok_or_else(|| format!("{reply:?}"))
    })
    .await;
    let unknown = caller.get("nobody.example", "/").await;
    assert_eq!(unknown.status, 404, "not a wait for what never comes");
    let held = envoy
        .admin("/config_dump?resource=dynamic_route_configs")
        .await;
    assert!(held.contains("outbound|80|blue|called"), "{held}");
    assert!(
        !held.contains("other.default"),
        "nobody has called it: {held}"
    );

    let clusters = envoy.admin("/clusters").await;
    assert!(clusters.contains("outbound|80|blue|called"), "{clusters}");
    assert!(
        !clusters.contains("other.default") && !clusters.contains("outbound|80||"),
        "nobody has called them: {clusters}"
    );

    let load = Load::get(&caller, 50, "called");
    for (name, version) in [("green", "v2"), ("red", "v1"), ("green", "v2")] {
        mesh.apply(&subset("called", name, version));
        in_force(&envoy, "called", version).await;
    }
    let report = load.finish().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    eventually("a cluster that is gone is gone there", async || {
        let clusters = envoy.admin("/clusters").await;
        (!clusters.contains("|blue|")).then_some(()).ok_or(clusters)
    })
    .await;
    let second = caller.get("other", "/").await;
    assert_eq!(
        second.name(),
        "v1",
        "another service, at its first request: {second:?}"
    );
    eventually("its calls are in the registry's view", async || {
        caller.get("called", "/").await;
        let status = mesh.status();
        let services = status["services"].as_array().into_iter().flatten();
        let load = services
            .filter(|one| one["host"] == "called.default.svc.cluster.local")
            .map(|one| one["load"].clone())
            .find(|load| {
                load["succeeded_per_s"]
                    .as_f64()
                    .is_some_and(|rate| rate > 0.0)
            });
        load.map(|_| ())
            .ok_or_else(|| status["services"].to_string())
    })
    .await;
    nothing_is_refused(&mesh);
}
