//! SPIRE as the authority: certificates come from SPIFFE's Workload API, and the control plane accepts them.

use std::time::Duration;

use outrigger_tests::{Load, Mesh, Sidecar, Spire, TestApp, WorkloadSocket, eventually, within};

const HOUR: Duration = Duration::from_secs(3600);

fn id(service: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{service}")
}

async fn mesh(spire: &Spire) -> Mesh {
    let bundle = spire.bundle().display().to_string();
    Mesh::start_with(&["--spiffe-bundle", &bundle]).await
}

async fn joined(
    mesh: &Mesh,
    name: &str,
    socket: &WorkloadSocket,
    app: Option<&TestApp>,
) -> Sidecar {
    let root = mesh.data_dir().join("root.pem").display().to_string();
    let service = mesh
        .service(name)
        .flag("--spiffe-endpoint-socket", &socket.endpoint())
        .flag("--root-ca", &root);
    match app {
        Some(app) => service.app(app).start().await,
        None => service.start().await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_with_spires_certificates_are_members_and_renewals_cost_no_request() {
    let spire = Spire::new();
    let mesh = mesh(&spire).await;
    let short = Duration::from_secs(10);
    // Of several identities, the one that it was started as.
    let reviews = spire.serve("reviews", &[&id("other"), &id("reviews")], short);
    let shopper = spire.serve("shopper", &[&id("shopper")], short);
    let app = TestApp::start("v1").await;
    let server = joined(&mesh, "reviews", &reviews, Some(&app)).await;
    let client = joined(&mesh, "shopper", &shopper, None).await;
    let caller = client.caller();
    eventually("reviews answer", async || {
        let reply = caller.get("reviews:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
    let received = app.received();
    let seen = received.last().unwrap().headers["x-forwarded-client-cert"].to_str();
    assert!(seen.unwrap().contains(&format!("URI={}", id("shopper"))));

    let load = Load::get(&caller, 50, "reviews:9080");
    within(
        Duration::from_secs(90),
        "three renewals later",
        async || {
            let served = shopper.served().min(reviews.served() / 2);
            (served >= 4)
                .then_some(())
                .ok_or_else(|| served.to_string())
        },
    )
    .await;
    let report = load.finish().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    mesh.synced().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_spires_certificates_for_its_application() {
    let spire = Spire::new();
    let mesh = mesh(&spire).await;
    let socket = spire.serve("shopper", &[&id("shopper")], HOUR);
    let root = mesh.data_dir().join("root.pem").display().to_string();
    let agent = mesh
        .agent("shopper")
        .without_token()
        .flag("--spiffe-endpoint-socket", &socket.endpoint())
        .flag("--root-ca", &root)
        .start()
        .await;
    let file = |name: &str| {
        let path = agent.dir.path().join("files").join(name);
        std::fs::read_to_string(path).unwrap()
    };
    assert_eq!(file("cert.pem").matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(
        file("root.pem").trim(),
        std::fs::read_to_string(spire.bundle())
            .unwrap()
            .replace('\r', "")
            .trim()
    );
    assert!(file("key.pem").starts_with("-----BEGIN PRIVATE KEY-----"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_was_not_told_of_spire_refuses_its_certificates() {
    let spire = Spire::new();
    let mesh = Mesh::start().await;
    let socket = spire.serve("shopper", &[&id("shopper")], HOUR);
    let root = mesh.data_dir().join("root.pem").display().to_string();
    let args = [
        "sidecar",
        "--service",
        "shopper",
        "--control-plane",
        &mesh.url(),
        "--root-ca",
        &root,
        "--spiffe-endpoint-socket",
        &socket.endpoint(),
        "--outbound",
        "127.0.0.1:0",
        "--inbound",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--readiness",
        "127.0.0.1:0",
        "--exit-with-parent",
    ]
    .map(str::to_owned);
    let process = outrigger_tests::Process::spawn("sidecar with SPIRE's certificate", &args, &[]);
    eventually("the control plane refuses the handshake", async || {
        let log = process.log();
        let is_refused = log.contains("no configuration from the control plane yet");
        is_refused.then_some(()).ok_or(log)
    })
    .await;
    assert_eq!(mesh.status()["sidecars"].as_array().map(Vec::len), Some(0));
}
