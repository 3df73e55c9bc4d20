//! The control plane may be killed: traffic goes on, and a restarted one knows what it knew.

use outrigger_tests::{Load, Mesh, TestApp, eventually};
use serde_json::Value;

const ROUTE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews]
  http:
  - timeout: 5s
    route:
    - destination:
        host: reviews
";

async fn running(load: &Load, more: usize) {
    let then = load.succeeded();
    eventually("the load goes on", async || match load.succeeded() - then {
        done if done >= more => Ok(()),
        done => Err(format!("{done} more, {} failed", load.failed())),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_and_restarting_the_control_plane_fails_no_request_and_resends_nothing() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    mesh.apply(ROUTE);
    mesh.synced().await;
    let caller = shopper.caller();
    eventually("reviews answer", async || {
        let reply = caller.get("reviews:9080", "/").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;
    let before = mesh.status();

    let load = Load::get(&caller, 200, "reviews:9080");
    running(&load, 200).await;
    mesh.kill_control_plane();
    running(&load, 400).await;
    mesh.restart_control_plane().await;
    eventually("both sidecars are back", async || {
        let sidecars = mesh.status()["sidecars"].as_array().map_or(0, Vec::len);
        if sidecars == 2 {
            Ok(())
        } else {
            Err(format!("{sidecars} sidecars"))
        }
    })
    .await;
    mesh.synced().await;
    running(&load, 400).await;

    let report = load.finish().await;
    assert_eq!(
        report.failed, 0,
        "of {}: {:#?}",
        report.sent, report.failures
    );
    let after = mesh.status();
    assert_eq!(after["revision"], before["revision"], "policies are there");
    let instances = |status: &Value| status["services"][0]["instances"].as_array().map(Vec::len);
    assert_eq!(
        instances(&after),
        instances(&before),
        "registrations are there"
    );
    assert_eq!(mesh.healthy("reviews"), 1);
    let resent = mesh.metric("outrigger_xds_resources_sent_total").await;
    assert_eq!(resent, 0.0, "nothing had changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_after_a_restart_reaches_the_sidecars() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    mesh.kill_control_plane();
    mesh.restart_control_plane().await;

    mesh.apply(
        &ROUTE
            .replace("timeout: 5s", "directResponse: { status: 418 }")
            .replace(
                "    route:\n    - destination:\n        host: reviews\n",
                "",
            ),
    );

    let caller = shopper.caller();
    eventually("the new route is in force", async || {
        let reply = caller.get("reviews:9080", "/").await;
        if reply.status == 418 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;
}
