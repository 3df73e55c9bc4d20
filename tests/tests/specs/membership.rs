//! Who takes traffic: instances come within a second, go when their lease ends, and an application that is killed
//! costs no more than the requests that were in it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use outrigger_tests::{HttpRegistry, Load, Mesh, Process, TestApp, eventually, within};
use serde_json::{Value, json};

fn instance(app: &TestApp, ttl: u64) -> Value {
    json!({
        "address": "127.0.0.1",
        "port": 9080,
        "target_port": app.address().port(),
        "ttl": ttl,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_registers_takes_traffic_within_a_second() {
    let mesh = Mesh::start().await;
    let registry = HttpRegistry::of(&mesh);
    let (old, new) = (TestApp::start("old").await, TestApp::start("new").await);
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    let path = "/v1/services/reviews/instances";

    let reply = registry
        .call(Method::PUT, &format!("{path}/old"), &instance(&old, 60))
        .await;
    assert!(reply.status.is_success(), "{}", reply.text());
    within(
        Duration::from_secs(1),
        "the first instance answers",
        async || {
            let reply = caller.get("reviews:9080", "/").await;
            if reply.name() == "old" {
                Ok(())
            } else {
                Err(reply.text())
            }
        },
    )
    .await;

    registry
        .call(Method::PUT, &format!("{path}/new"), &instance(&new, 60))
        .await;
    within(
        Duration::from_secs(1),
        "the second instance answers",
        async || {
            let reply = caller.get("reviews:9080", "/").await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            if reply.name() == "new" {
                Ok(())
            } else {
                Err(reply.text())
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_heartbeats_leaves_after_its_lease_and_one_with_them_stays() {
    const LEASE: Duration = Duration::from_secs(2);
    let mesh = Mesh::start().await;
    let registry = HttpRegistry::of(&mesh);
    let (silent, alive) = (
        TestApp::start("silent").await,
        TestApp::start("alive").await,
    );
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    let path = "/v1/services/reviews/instances";

    registry
        .call(
            Method::PUT,
            &format!("{path}/alive"),
            &instance(&alive, LEASE.as_secs()),
        )
        .await;
    registry
        .call(
            Method::PUT,
            &format!("{path}/silent"),
            &instance(&silent, LEASE.as_secs()),
        )
        .await;
    let registered = Instant::now();
    eventually("both answer", async || {
        caller.get("reviews:9080", "/").await;
        let seen = (silent.received().len(), alive.received().len());
        if seen.0 > 0 && seen.1 > 0 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;

    // The lease is over for who says nothing, and for nobody else.
    within(
        LEASE + Duration::from_secs(2),
        "the silent instance is gone",
        async || {
            let beat = format!("{path}/alive/heartbeat");
            let reply = registry.call(Method::POST, &beat, &json!({})).await;
            assert!(reply.status.is_success(), "{}", reply.text());
            match mesh.healthy("reviews") {
                1 => Ok(()),
                healthy => Err(format!("{healthy} healthy instances")),
            }
        },
    )
    .await;
    assert!(
        registered.elapsed() >= LEASE,
        "gone after {:?} already",
        registered.elapsed()
    );
    mesh.synced().await;
    silent.forget();
    for _ in 0..20 {
        assert_eq!(caller.get("reviews:9080", "/").await.name(), "alive");
    }
    assert!(silent.received().is_empty());
}

/// One copy of the shop's `ratings`, as a process that can be killed.
async fn ratings(name: &str) -> Process {
    let args = [
        "demo-app",
        "ratings",
        "--instance",
        name,
        "--listen",
        "127.0.0.1:0",
        "--delay-ms",
        "20",
    ];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.push("--exit-with-parent".to_owned());
    Process::start(name, &args, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_an_application_costs_no_more_than_the_requests_in_it() {
    const RATE: u32 = 500;
    let mesh = Mesh::start().await;
    let (mut killed, stays) = (ratings("killed").await, ratings("stays").await);
    let listen = |app: &Process| app.ready_text("listen").parse().unwrap();
    let _of_killed = mesh
        .service("ratings")
        .app_at(listen(&killed))
        .start()
        .await;
    let _of_stays = mesh.service("ratings").app_at(listen(&stays)).start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    eventually("ratings answer", async || {
        let reply = caller.get("ratings:9080", "/").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;

    // POST: nothing may be sent a second time on the mesh's own account once the application has it.
    let load = Load::start(&caller, RATE, || {
        Request::post("/")
            .header("host", "ratings:9080")
            .body(Full::<Bytes>::default())
            .unwrap()
    });
    eventually("the load runs", async || match load.succeeded() {
        200.. => Ok(()),
        succeeded => Err(format!("{succeeded} so far")),
    })
    .await;
    assert_eq!(load.failed(), 0);
    let begun = || load.succeeded() + load.failed() + load.in_flight();
    let (before, begun_before) = (load.in_flight(), begun());
    killed.kill();
    // Those that were under way at some moment of it.
    let in_it = before + begun().saturating_sub(begun_before);
    let then = load.succeeded();
    eventually("the load goes on", async || match load.succeeded() - then {
        500.. => Ok(()),
        more => Err(format!(
            "{more} more, {} failed: {:#?}",
            load.failed(),
            load.failures()
        )),
    })
    .await;

    let report = load.finish().await;
    assert!(
        report.failed <= in_it,
        "{} failed, {in_it} in flight: {:#?}",
        report.failed,
        report.failures
    );
    eventually("the killed one is no longer healthy", async || {
        match mesh.healthy("ratings") {
            1 => Ok(()),
            healthy => Err(format!("{healthy} healthy instances")),
        }
    })
    .await;
}
