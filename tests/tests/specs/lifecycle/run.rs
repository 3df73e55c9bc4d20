//! `outrigger run`: one job, whose exit code, signals, standard input and output are the application's.

use std::{
    fs,
    time::{Duration, Instant},
};

use outrigger_tests::{Mesh, TestApp, ended, eventually, free_port};

const NOWHERE: &str = "https://127.0.0.1:1";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_calls_the_mesh_from_its_first_moment_on_and_its_exit_code_is_kept() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("v1").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let call = "curl -s http://reviews:9080/ | grep -o '\"name\":\"[a-z0-9]*\"'; exit 7";
    let mut job = mesh.run("shopper").spawn(&["sh", "-c", call]);
    assert_eq!(job.line().await, r#""name":"v1""#);
    assert_eq!(ended(&mut job).await, 7);
    assert_eq!(job.log(), "", "standard error is the application's");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_told_where_its_sidecar_is_and_none_of_its_secrets() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ready.json");
    let tell = "echo $http_proxy; echo $NO_PROXY; echo $https_proxy.; echo \"[$OUTRIGGER_JOIN_TOKEN]\"; ulimit -n; cat";
    let mut job = mesh
        .run("shopper")
        .env("no_proxy", ".corp")
        .flag("--ready-file", &file.display().to_string())
        .spawn(&["sh", "-c", &format!("ulimit -n 256; {tell}")]);
    let ready: serde_json::Value = {
        let proxy = job.line().await;
        let ready = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let ready: serde_json::Value = ready;
        assert_eq!(
            proxy,
            format!("http://{}", ready["outbound"].as_str().unwrap())
        );
        ready
    };
    assert!(ready["readiness"].is_string(), "{ready}");
    assert_eq!(job.line().await, ".corp,localhost,127.0.0.1,::1");
    assert_eq!(job.line().await, ".");
    assert_eq!(job.line().await, "[]");
    assert_eq!(job.line().await, "256");
    // Its standard input is ours.
    job.tell("hello");
    assert_eq!(job.line().await, "hello");
    job.terminate();
    assert_eq!(ended(&mut job).await, 128 + 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_passed_on_and_the_way_it_ends_is_its_own() {
    let mesh = Mesh::start().await;
    let heeds = "trap 'echo hup' HUP; trap 'echo usr1' USR1; trap 'echo winch' WINCH; trap 'echo term; exit 3' TERM; \
                 exec 3<&0; cat <&3 >/dev/null & cat=$!; echo here; while kill -0 $cat 2>/dev/null; do wait $cat; done";
    let mut job = mesh.run("shopper").spawn(&["sh", "-c", heeds]);
    assert_eq!(job.line().await, "here");
    for signal in ["HUP", "USR1", "WINCH", "TERM"] {
        job.signal(signal);
        assert_eq!(job.line().await, signal.to_lowercase());
    }
    assert_eq!(ended(&mut job).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_heed_is_killed_when_its_time_is_over() {
    let mesh = Mesh::start().await;
    let stubborn = "trap '' TERM; echo here; exec cat";
    let job = mesh.run("shopper").flag("--drain-timeout", "1s");
    let mut job = job.spawn(&["sh", "-c", stubborn]);
    assert_eq!(job.line().await, "here");
    job.terminate();
    assert_eq!(ended(&mut job).await, 128 + 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_or_cannot_be_run_is_named_as_a_shell_would() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app");
    fs::write(&file, "no program").unwrap();
    for (program, code) in [("./no-such-program", 127), (file.to_str().unwrap(), 126)] {
        let mut job = mesh.run("shopper").spawn(&[program]);
        assert_eq!(ended(&mut job).await, code, "{}", job.log());
        let log = job.log();
        let expected = format!("cannot start the command {program:?}");
        assert!(log.contains(&expected), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_control_plane_nothing_is_started_and_the_reason_is_said() {
    let mesh = Mesh::start().await;
    let job = mesh.run("shopper").control_plane(NOWHERE);
    let mut job = job
        .flag("--start-timeout", "1s")
        .spawn(&["echo", "started"]);
    assert_eq!(ended(&mut job).await, 1);
    let log = job.log();
    for part in ["--start-timeout", "no certificate yet", NOWHERE] {
        assert!(log.contains(part), "{log}");
    }
    assert_eq!(job.next_line().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_ended_before_its_application_was_started_is_no_success() {
    let mesh = Mesh::start().await;
    let job = mesh.run("shopper").control_plane(NOWHERE);
    let mut job = job.flag("--log", "info").spawn(&["echo", "started"]);
    eventually("it has begun", async || {
        let log = job.log();
        log.contains("trying again").then_some(()).ok_or(log)
    })
    .await;
    job.terminate();
    assert_eq!(ended(&mut job).await, 128 + 15);
    assert_eq!(job.next_line().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_waits_for_nobody() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("v1").await;
    app.hold();
    let reviews = mesh
        .service("reviews")
        .app(&app)
        .flag("--drain-time", "1h")
        .flag("--drain-timeout", "1h");
    let reviews = reviews.start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    let held = tokio::spawn(async move { caller.get("reviews:9080", "/").await });
    eventually("a request is there", async || match app.waiting() {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    })
    .await;
    let begun = Instant::now();
    reviews.process().terminate();
    eventually("it drains", async || {
        let page = reviews.admin("/ready").await;
        page.contains("draining").then_some(()).ok_or(page)
    })
    .await;
    reviews.process().terminate();
    assert_eq!(reviews.ended().await, 0);
    assert!(begun.elapsed() < Duration::from_secs(600));
    let answer = held.await.unwrap();
    let reason = answer.reason().unwrap_or_default();
    assert!(reason.starts_with("upstream_"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_application_leaves_behind_in_a_container_is_taken_up() {
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let allowed = std::process::Command::new("unshare")
        .args(unshare)
        .arg("true")
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no process namespaces for us here");
        return;
    }
    let mesh = Mesh::start().await;
    // The one in the middle ends before its child, which then is process 1's.
    let orphan = "sh -c 'sleep 0.2 & exec true'; echo orphan; \
                  while [ \"$(ps -o stat= --ppid 1 | grep -c '[SZ]')\" -gt 1 ]; do :; done; \
                  ps -o stat= --ppid 1 | grep -c Z; echo 1 is $(cat /proc/1/comm)";
    let run = mesh.run("shopper");
    let (args, env) = run.arguments(&["sh", "-c", orphan]);
    let mut words: Vec<String> = unshare.map(str::to_owned).to_vec();
    words.push(outrigger_tests::outrigger().display().to_string());
    words.extend(args);
    let env: Vec<_> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let mut job = outrigger_tests::Process::spawn_other("container", "unshare", &words, &env);
    assert_eq!(job.line().await, "orphan");
    assert_eq!(job.line().await, "0");
    let first = job.line().await;
    assert!(first.starts_with("1 is outrigger"), "{first}");
    assert_eq!(ended(&mut job).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_answers_others_and_is_gone_with_its_application() {
    let mesh = Mesh::start().await;
    let program = outrigger_tests::outrigger().display().to_string();
    let serve = format!(
        "exec {program} demo-app reviews --instance here --listen 127.0.0.1:$PORT --exit-with-parent"
    );
    let job = mesh.run("reviews").app().flag("--ready-path", "/healthz");
    let mut job = job.spawn(&["sh", "-c", &serve]);
    mesh.has_healthy("reviews", 1).await;
    let shopper = mesh.service("shopper").start().await;
    let reply = shopper.caller().get("reviews:9080", "/").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    job.terminate();
    assert_eq!(ended(&mut job).await, 128 + 15);
    assert_eq!(mesh.healthy("reviews"), 0);
    let listed = mesh.status()["services"].to_string();
    assert!(!listed.contains("127.0.0.1:"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_port_of_the_application_needs_one_that_others_call() {
    let mesh = Mesh::start().await;
    let job = mesh.run("reviews").flag("--app", "127.0.0.1:0");
    let mut job = job.spawn(&["true"]);
    assert_eq!(ended(&mut job).await, 2);
    assert!(job.log().contains("--port"), "{}", job.log());
    let port = free_port().to_string();
    let job = mesh
        .run("reviews")
        .flag("--app", &format!("127.0.0.1:{port}"));
    let mut job = job.spawn(&["sh", "-c", "echo \"[$PORT]\""]);
    assert_eq!(job.line().await, "[]");
    assert_eq!(ended(&mut job).await, 0);
}
