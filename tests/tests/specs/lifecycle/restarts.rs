//! Restarts under load: others go elsewhere before an instance ends, so that nobody notices.

use std::env;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use outrigger_tests::{Load, Mesh, Process, TestApp, ended, eventually, outrigger};

/// A second. `OUTRIGGER_RATE` and `OUTRIGGER_ROUNDS` make it more, or less on a busy machine.
fn rate() -> u32 {
    number("OUTRIGGER_RATE").unwrap_or(500)
}

/// How often each backend is restarted.
fn rounds() -> u32 {
    number("OUTRIGGER_ROUNDS").unwrap_or(1)
}

fn number(name: &str) -> Option<u32> {
    let said = env::var(name).ok()?;
    Some(said.parse().expect("a number"))
}

/// One copy of `ratings` with its sidecar. Asked to end, the program ends at once, whatever it is doing.
fn ratings(mesh: &Mesh, name: &str) -> Process {
    let program = outrigger().display().to_string();
    let serve = format!(
        "exec {program} demo-app ratings --instance {name} --delay-ms 5 --listen 127.0.0.1:$PORT --exit-with-parent"
    );
    let job = mesh.run("ratings").app().flag("--ready-path", "/healthz");
    job.spawn(&["sh", "-c", &serve])
}

async fn no_request_is_lost(method: Method) {
    let mesh = Mesh::start().await;
    let mut copies: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| (name, ratings(&mesh, name)))
        .collect();
    mesh.has_healthy("ratings", copies.len()).await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    eventually("ratings answer", async || {
        let reply = caller.get("ratings:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
    let load = Load::start(&caller, rate(), move || {
        Request::builder()
            .method(method.clone())
            .uri("/")
            .header("host", "ratings:9080")
            .body(Full::<Bytes>::default())
            .unwrap()
    });
    let more = async |some: usize| {
        let then = load.succeeded();
        eventually("the load goes on", async || {
            let more = load.succeeded() - then;
            (more >= some)
                .then_some(())
                .ok_or_else(|| format!("{more} more"))
        })
        .await;
    };
    more(200).await;
    let all = copies.len();
    for _ in 0..rounds() {
        for (name, copy) in &mut copies {
            copy.terminate();
            assert_eq!(ended(copy).await, 128 + 15, "{name}");
            *copy = ratings(&mesh, name);
            mesh.has_healthy("ratings", all).await;
            more(50).await;
        }
    }
    let report = load.finish().await;
    eprintln!(
        "{} requests at {}/s over {} restarts, {} failed",
        report.sent,
        rate(),
        all * rounds() as usize,
        report.failed
    );
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_all_backends_one_after_the_other_loses_no_get() {
    no_request_is_lost(Method::GET).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarting_all_backends_one_after_the_other_loses_no_post() {
    no_request_is_lost(Method::POST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_says_so_at_once_and_serves_what_comes_all_the_same() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("v1").await;
    let reviews = mesh.service("reviews").app(&app);
    let reviews = reviews.flag("--drain-delay", "1h").start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    assert_eq!(caller.get("reviews:9080", "/").await.status, 200);
    // From now on the caller hears nothing of the registry.
    mesh.kill_control_plane();
    reviews.process().terminate();
    eventually("readiness says no", async || {
        let page = reviews.admin("/ready").await;
        page.contains("draining").then_some(()).ok_or(page)
    })
    .await;
    for _ in 0..20 {
        let reply = caller.get("reviews:9080", "/").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(reviews.process().ended(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_go_elsewhere_and_has_nowhere_to_go_is_served_on_new_connections() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("v1").await;
    let reviews = mesh.service("reviews").app(&app);
    let reviews = reviews.flag("--drain-time", "1h").start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    assert_eq!(caller.get("reviews:9080", "/").await.status, 200);
    mesh.kill_control_plane();
    reviews.process().terminate();
    let opened = || async { reviews.metric("outrigger_connections_accepted_total").await };
    let before = opened().await;
    eventually("each request has a connection of its own", async || {
        let reply = caller.get("reviews:9080", "/").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let more = opened().await - before;
        (more >= 5.0).then_some(()).ok_or_else(|| more.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_application_calls_while_it_ends_goes_out() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("v1").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let last_words = "trap 'curl -sf -o /dev/null http://reviews:9080/last; echo said $?; exit 0' TERM; \
                      exec 3<&0; cat <&3 >/dev/null & cat=$!; echo here; while kill -0 $cat 2>/dev/null; do wait $cat; done";
    let mut job = mesh.run("shopper").spawn(&["sh", "-c", last_words]);
    assert_eq!(job.line().await, "here");
    job.terminate();
    assert_eq!(job.line().await, "said 0");
    assert_eq!(ended(&mut job).await, 0);
    assert_eq!(app.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backend_costs_what_was_in_it_and_each_failure_has_its_reason() {
    let mesh = Mesh::start().await;
    let (mut killed, _stays) = (ratings(&mesh, "killed"), ratings(&mesh, "stays"));
    mesh.has_healthy("ratings", 2).await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    let load = Load::start(&caller, rate(), || {
        Request::post("/")
            .header("host", "ratings:9080")
            .body(Full::<Bytes>::default())
            .unwrap()
    });
    let succeeded = async |some: usize| {
        eventually("the load runs", async || match load.succeeded() {
            enough if enough >= some => Ok(()),
            so_far => Err(format!("{so_far} so far: {:#?}", load.failures())),
        })
        .await;
    };
    succeeded(200).await;
    let begun = || load.succeeded() + load.failed() + load.in_flight();
    let (before, begun_before) = (load.in_flight(), begun());
    // Its program, which nobody asked to end, goes on alone, and ends with its standard input.
    killed.kill();
    // Those that were under way at some moment of it. Later ones find nobody there, and go elsewhere.
    let in_it = before + begun().saturating_sub(begun_before);
    succeeded(load.succeeded() + 500).await;
    let report = load.finish().await;
    assert!(
        report.failed <= in_it,
        "{} failed, {in_it} in flight: {:#?}",
        report.failed,
        report.failures
    );
    for failure in &report.failures {
        assert!(failure.contains(r#"{"error":{"code":""#), "{failure}");
    }
}
