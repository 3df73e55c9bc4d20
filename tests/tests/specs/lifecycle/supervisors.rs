//! What supervisors are told, and tell: systemd's notifications, `outrigger leave`.

use std::{os::unix::net::UnixDatagram, process::Command, time::Duration};

use outrigger_tests::{Mesh, TestApp, ended, eventually, outrigger};

/// The next message that is not one of those that say that it lives, and how many of these came before.
fn heard(socket: &UnixDatagram) -> (String, usize) {
    let mut alive = 0;
    loop {
        let mut bytes = [0; 1024];
        let length = socket.recv(&mut bytes).expect("it says something");
        match String::from_utf8_lossy(&bytes[..length]).as_ref() {
            "WATCHDOG=1" => alive += 1,
            other => return (other.to_owned(), alive),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_a_job_is_ready_alive_and_ends() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let job = mesh
        .run("shopper")
        .env("NOTIFY_SOCKET", &path.display().to_string())
        .env("WATCHDOG_USEC", "30000000");
    let mut job = job.spawn(&[
        "sh",
        "-c",
        "echo \"[$NOTIFY_SOCKET$WATCHDOG_USEC]\"; exec cat",
    ]);
    let (ready, _) = heard(&socket);
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    assert_eq!(job.line().await, "[]", "the application is not asked");
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"WATCHDOG=1");
    job.terminate();
    let (stopping, _) = heard(&socket);
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
    assert_eq!(ended(&mut job).await, 128 + 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_leaves_gets_no_more_requests_and_its_own_calls_go_on() {
    let mesh = Mesh::start().await;
    let (first, second) = (
        TestApp::start("first").await,
        TestApp::start("second").await,
    );
    let leaves = mesh.service("reviews").app(&first).start().await;
    let _stays = mesh.service("reviews").app(&second).start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    eventually("both are called", async || {
        assert_eq!(caller.get("reviews:9080", "/").await.status, 200);
        match (first.received().len(), second.received().len()) {
            (1.., 1..) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    let output = Command::new(outrigger())
        .args(["leave", "--admin", &leaves.admin.to_string()])
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    first.forget();
    for _ in 0..40 {
        assert_eq!(caller.get("reviews:9080", "/").await.name(), "second");
    }
    assert!(first.received().is_empty());
    let info = leaves.admin("/server_info").await;
    assert!(info.contains("\"LEFT\""), "{info}");
    let own = leaves.caller().get("reviews:9080", "/").await;
    assert_eq!(own.status, 200, "{}", own.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_sidecar_that_is_not_there_fails() {
    let port = format!("127.0.0.1:{}", outrigger_tests::free_port());
    let output = Command::new(outrigger())
        .args(["leave", "--admin", &port])
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&port) && text.contains("refused"), "{text}");
}
