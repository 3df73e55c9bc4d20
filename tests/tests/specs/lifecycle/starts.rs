//! Starts: nobody has to try again because its sidecar was not there yet.

use std::{
    env,
    process::{Command, Stdio},
    time::Instant,
};

use outrigger_tests::{Mesh, TestApp, ended, free_port, outrigger};

/// `OUTRIGGER_STARTS=1000` for the figure.
fn starts() -> usize {
    let said = env::var("OUTRIGGER_STARTS").ok();
    said.map_or(24, |said| said.parse().expect("a number of starts"))
}

/// At a time: each is a process with its threads, and a shell beside it.
const TOGETHER: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn every_application_that_dials_at_its_start_is_answered() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("v1").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let (all, mut succeeded) = (starts(), 0);
    let begun = Instant::now();
    let dial = ["curl", "-sf", "-o", "/dev/null", "http://reviews:9080/"];
    for first in (0..all).step_by(TOGETHER) {
        let jobs = (first..all.min(first + TOGETHER)).map(|_| mesh.run("shopper").spawn(&dial));
        for mut job in jobs.collect::<Vec<_>>() {
            let code = ended(&mut job).await;
            if code == 0 {
                succeeded += 1;
                if succeeded % 100 == 0 {
                    eprintln!("{succeeded} after {:?}", begun.elapsed());
                }
            } else {
                eprintln!("exit code {code}: {}", job.log());
            }
        }
    }
    let took = begun.elapsed();
    eprintln!("{succeeded} of {all} starts were answered, in {took:?}");
    assert_eq!(succeeded, all);
    assert_eq!(app.received().len(), all);
}

fn wait(readiness: &str, more: &[&str]) -> Command {
    let mut command = Command::new(outrigger());
    command
        .args(["wait", "--readiness", readiness])
        .args(more)
        .stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_started_first_waits_for_its_sidecar() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("v1").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let (readiness, outbound) = (free_port(), free_port());
    let at = |port| format!("127.0.0.1:{port}");
    let url = format!("http://{}", at(outbound));
    let dial = ["--", "curl", "-sf", "-x", &url, "http://reviews:9080/"];
    let waiting = wait(&at(readiness), &dial)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The sidecar has an application that is not there: who waits may be it.
    let shopper = mesh
        .run("shopper")
        .flag("--readiness", &at(readiness))
        .flag("--outbound", &at(outbound))
        .flag("--app", &at(free_port()));
    let _shopper = shopper.spawn(&["cat"]);
    let output = tokio::task::spawn_blocking(|| waiting.wait_with_output().unwrap());
    let output = output.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(r#""name":"v1""#), "{text}");
    // Asked for the application as well, it says what is missing.
    let output = wait(&at(readiness), &["--app", "--timeout", "1s"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("application has not answered yet"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_is_told_so() {
    let port = format!("127.0.0.1:{}", free_port());
    let output = wait(&port, &["--timeout", "200ms", "--", "echo", "started"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("is not ready after 200ms"), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    assert_eq!(output.stdout, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_starts_again_has_its_ports_at_once() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("v1").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let ports: Vec<String> = (0..4)
        .map(|_| format!("127.0.0.1:{}", free_port()))
        .collect();
    let start = || {
        let mut shopper = mesh.service("shopper");
        let names = ["--outbound", "--admin", "--metrics", "--readiness"];
        for (name, at) in names.into_iter().zip(&ports) {
            shopper = shopper.flag(name, at);
        }
        shopper.start()
    };
    let mut sidecar = start().await;
    for kill in [true, false] {
        let caller = sidecar.caller();
        assert_eq!(caller.get("reviews:9080", "/").await.status, 200);
        if kill {
            sidecar.process().kill();
        } else {
            sidecar.process().terminate();
            assert_eq!(sidecar.ended().await, 0);
        }
        // The application beside it is refused, at once, until it is back.
        let refused = outrigger_tests::Caller::through(sidecar.outbound);
        let request = http::Request::get("/")
            .header("host", "reviews:9080")
            .body(http_body_util::Full::default())
            .unwrap();
        let error = refused.try_send(request).await.unwrap_err();
        assert!(error.contains("refused"), "{error}");
        sidecar = start().await;
    }
    let caller = sidecar.caller();
    assert_eq!(caller.get("reviews:9080", "/").await.status, 200);
}
