//! Certificates and roots end in time and are replaced in time: nobody notices, and where somebody has to, it is told
//! before.

use std::time::Duration;

use outrigger_tests::{Load, Mesh, Sidecar, TestApp, eventually, within};
use serde_json::Value;

/// Of leaves: twice the shortest that there is.
const TTL: &str = "20s";
const TTL_S: f64 = 20.0;
/// A rotation takes about two and a half lives of a leaf.
const ROTATION: Duration = Duration::from_secs(150);

async fn two(mesh: &Mesh, app: &TestApp) -> (Sidecar, Sidecar) {
    let reviews = mesh.service("reviews").app(app);
    let reviews = reviews.flag("--certificate-ttl", TTL).start().await;
    let shopper = mesh.service("shopper").flag("--certificate-ttl", TTL);
    let shopper = shopper.start().await;
    eventually("reviews answer", async || {
        let reply = shopper.caller().get("reviews:9080", "/").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;
    (reviews, shopper)
}

fn certs(mesh: &Mesh) -> Value {
    let output = mesh.cli(&["certs", "-o", "json"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    serde_json::from_str(&output.stdout).unwrap()
}

fn signing_root(certs: &Value) -> String {
    let roots = certs["roots"].as_array().unwrap();
    let signs = roots.iter().find(|root| root["role"] == "signs").unwrap();
    signs["sha256"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_rotation_under_load_fails_no_request() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let (_reviews, shopper) = two(&mesh, &app).await;
    let before = signing_root(&certs(&mesh));
    let load = Load::get(&shopper.caller(), 50, "reviews:9080");
    let output = mesh.cli(&["certs", "rotate"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    let late_token = mesh.join_token("default", "newcomer");
    assert_eq!(
        late_token.split('.').count(),
        3,
        "pins both roots: {late_token}"
    );
    let mut has_crashed = false;
    within(ROTATION, "the rotation is over", async || {
        let certs = certs(&mesh);
        if certs["rotation"]["step"] == "sign" && !has_crashed {
            has_crashed = true;
            mesh.kill_control_plane();
            mesh.restart_control_plane().await;
        }
        // The token above is not used, and is waited for; its ten minutes are more than this test has.
        let waits = certs["rotation"]["waits"].as_array().cloned();
        let waits: Vec<_> = waits
            .iter()
            .flatten()
            .map(|wait| wait["what"].clone())
            .collect();
        if waits == ["tokens"] {
            let skip = mesh.cli(&["certs", "rotate", "--skip-wait"]);
            assert_eq!(skip.status, 0, "{}", skip.stderr);
        }
        if certs["rotation"].is_null() && !certs["past"].as_array().unwrap().is_empty() {
            return Ok(());
        }
        Err(certs["rotation"].to_string())
    })
    .await;
    assert!(has_crashed, "the control plane was killed in the middle");
    let after = certs(&mesh);
    assert_ne!(signing_root(&after), before);
    assert_eq!(after["roots"].as_array().unwrap().len(), 1);
    eventually("both have certificates of the new root only", async || {
        let certs = certs(&mesh);
        let root = signing_root(&certs);
        let all = certs["certificates"].as_array().unwrap();
        let connected: Vec<_> = all
            .iter()
            .filter(|one| one["state"] == "connected")
            .collect();
        if connected.len() == 2 && connected.iter().all(|one| one["root"] == *root) {
            Ok(())
        } else {
            Err(certs["certificates"].to_string())
        }
    })
    .await;
    let report = load.finish().await;
    assert_eq!(
        report.failed, 0,
        "of {}: {:#?}",
        report.sent, report.failures
    );
    assert!(report.sent > 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_control_plane_traffic_goes_on_to_the_end_of_the_leaf_counted_down_and_heals() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let (reviews, shopper) = two(&mesh, &app).await;
    // Less than half of a life: nothing is lost.
    let load = Load::get(&shopper.caller(), 50, "reviews:9080");
    mesh.kill_control_plane();
    within(Duration::from_secs(60), "six seconds go by", async || {
        if load.succeeded() > 300 {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    })
    .await;
    mesh.restart_control_plane().await;
    mesh.synced().await;
    let report = load.finish().await;
    assert_eq!(
        report.failed, 0,
        "of {}: {:#?}",
        report.sent, report.failures
    );

    // For good: the metric counts down, readiness warns, and in the end requests fail.
    mesh.kill_control_plane();
    let warned = within(Duration::from_secs(60), "readiness warns", async || {
        let left = reviews.metric("outrigger_seconds_to_first_outage").await;
        assert!(left <= TTL_S, "{left}");
        let ready = outrigger_tests::Caller::through(reviews.readiness);
        let ready = ready
            .get(&reviews.readiness.to_string(), "/healthz/ready")
            .await
            .text();
        if ready.contains("certificate was not renewed") {
            return Ok(left);
        }
        Err(format!("{left} s left; {ready}"))
    })
    .await;
    assert!(
        warned <= TTL_S / 5.0 + 1.0,
        "{warned} s left at the warning"
    );
    within(
        Duration::from_secs(60),
        "the certificates have ended",
        async || {
            let reply = shopper.caller().get("reviews:9080", "/").await;
            if reply.status == 503 && reply.reason() == Some("tls_failed") {
                return Ok(());
            }
            Err(reply.text())
        },
    )
    .await;
    assert!(reviews.metric("outrigger_seconds_to_first_outage").await <= 0.0);

    mesh.restart_control_plane().await;
    within(
        Duration::from_secs(60),
        "it heals without a person",
        async || {
            let reply = shopper.caller().get("reviews:9080", "/").await;
            if reply.status == 200 {
                return Ok(());
            }
            Err(reply.text())
        },
    )
    .await;
    assert!(
        mesh.log()
            .contains("a certificate that has ended renews itself")
    );
}
