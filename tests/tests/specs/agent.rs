//! `outrigger agent` as a process: its files, its life, the command that it runs.

use std::{fs, os::unix::fs::PermissionsExt as _};

use outrigger_tests::{Mesh, ended, eventually, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn its_files_are_one_issue_and_the_key_is_its_owners_alone() {
    let mesh = Mesh::start().await;
    let agent = mesh.agent("reviews").start().await;
    let dir = agent.bootstrap.parent().unwrap();
    let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("key.pem"), mode("cert.pem")), (0o600, 0o644));
    assert_eq!(
        fs::read_to_string(dir.join("root.pem")).unwrap().trim(),
        fs::read_to_string(mesh.data_dir().join("root.pem"))
            .unwrap()
            .trim()
    );
    let bootstrap: serde_json::Value =
        serde_json::from_slice(&fs::read(&agent.bootstrap).unwrap()).unwrap();
    let provider = &bootstrap["certificate_providers"]["default"]["config"];
    for (field, name) in [
        ("certificate_file", "cert.pem"),
        ("private_key_file", "key.pem"),
        ("ca_certificate_file", "root.pem"),
    ] {
        let path = dir.canonicalize().unwrap().join(name);
        assert_eq!(provider[field], path.display().to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_started_again_goes_on_without_a_new_token() {
    let mesh = Mesh::start().await;
    let mut first = mesh.agent("reviews").start().await;
    first.process.kill();
    let certificate = || fs::read(first.bootstrap.with_file_name("cert.pem")).unwrap();
    let before = certificate();
    let ttl = ("--certificate-ttl", "10s");
    let again = mesh.agent("reviews").resuming(&first).flag(ttl.0, ttl.1);
    let _again = again.start().await;
    assert_eq!(certificate(), before);

    // What it goes on with is renewed like any other.
    let mut short = mesh.agent("ratings").flag(ttl.0, ttl.1).start().await;
    short.process.kill();
    let again = mesh.agent("ratings").resuming(&short).flag(ttl.0, ttl.1);
    let again = again.start().await;
    eventually("it is renewed", async || {
        let renewed = again.metric("outrigger_certificate_requests_total").await;
        (renewed >= 1.0)
            .then_some(())
            .ok_or_else(|| "not yet".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_services_files_are_not_taken_for_its_own() {
    let mesh = Mesh::start().await;
    let first = mesh.agent("reviews").start().await;
    let (mut other, _dir) = mesh.agent("ratings").resuming(&first).run(&["true"]);
    assert_eq!(ended(&mut other).await, 2);
    assert!(other.log().contains("somebody else's"), "{}", other.log());
    assert!(
        other.log().contains("a join token is needed"),
        "{}",
        other.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_its_bootstrap_file_and_its_exit_code_is_kept() {
    let mesh = Mesh::start().await;
    let tell = "cat $GRPC_XDS_BOOTSTRAP | grep -c file_watcher; exit 7";
    let (mut process, _dir) = mesh.agent("shopper").run(&["sh", "-c", tell]);
    assert_eq!(process.line().await, "1");
    assert_eq!(ended(&mut process).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_started_is_named() {
    let mesh = Mesh::start().await;
    let (mut process, _dir) = mesh.agent("shopper").run(&["./no-such-program"]);
    assert_eq!(ended(&mut process).await, 127);
    let log = process.log();
    assert!(
        log.contains("cannot start the command \"./no-such-program\""),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_passed_on_and_a_command_that_does_not_end_is_killed() {
    let mesh = Mesh::start().await;
    // It ends with its standard input, which is the test's.
    let stubborn = "trap 'echo hup' HUP; trap 'echo term' TERM; exec 3<&0; cat <&3 >/dev/null & cat=$!; echo here; \
                    while kill -0 $cat 2>/dev/null; do wait $cat; done";
    let agent = mesh.agent("shopper").flag("--drain-timeout", "3s");
    let (mut process, _dir) = agent.run(&["sh", "-c", stubborn]);
    assert_eq!(process.line().await, "here");
    process.signal("HUP");
    assert_eq!(process.line().await, "hup");
    process.terminate();
    assert_eq!(process.line().await, "term");
    assert_eq!(ended(&mut process).await, 128 + 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_listed_while_it_answers_and_its_agent_runs() {
    let mesh = Mesh::start().await;
    let port = free_port();
    let agent = mesh
        .agent("reviews")
        .app(port)
        .flag("--ready-interval", "100ms");
    let mut agent = agent.start().await;
    eventually("it is listed, and not healthy", async || {
        let status = mesh.status();
        let text = status["services"].to_string();
        text.contains("UNHEALTHY").then_some(()).ok_or(text)
    })
    .await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .unwrap();
    mesh.has_healthy("reviews", 1).await;
    drop(listener);
    mesh.has_healthy("reviews", 0).await;
    agent.process.terminate();
    assert_eq!(agent.ended().await, 0);
    let status = mesh.status();
    assert!(
        !status["services"].to_string().contains("127.0.0.1:"),
        "{status}"
    );
}
