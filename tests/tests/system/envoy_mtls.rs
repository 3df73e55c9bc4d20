//! Stock Envoy and our sidecar on either end of mTLS, each with a certificate of the mesh: Envoy's by SDS from its agent.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use outrigger_tests::{Caller, EnvoyMember, Load, Mesh, TestApp, eventually, tool, within};

fn id(service: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{service}")
}

async fn answers(caller: &Caller, host: &str) {
    eventually(&format!("{host} answers"), async || {
        let reply = caller.get(host, "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| format!("{}: {}", reply.status, reply.text()))
    })
    .await;
}

/// Who the application was told has called it last.
fn caller_of(app: &TestApp) -> String {
    let received = app.received();
    let last = received.last().unwrap();
    let header = last.headers["x-forwarded-client-cert"].to_str().unwrap();
    header.to_owned()
}

/// Which identity servers of `host` must have.
fn must_be(host: &str, identity: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\nspec:\n  host: {host}\n  \
         trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, subjectAltNames: [\"{identity}\"]}}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_and_a_sidecar_call_each_other_and_each_is_who_it_should_be() {
    let mesh = Mesh::start().await;
    let (of_sidecar, of_envoy) = (
        TestApp::start("reviews").await,
        TestApp::start("ratings").await,
    );
    let Some(envoy) = EnvoyMember::start(&mesh, "ratings", Some(&of_envoy), &[]).await else {
        return;
    };
    let reviews = mesh.service("reviews").app(&of_sidecar).start().await;
    answers(&envoy.caller(), "reviews:9080").await;
    answers(&reviews.caller(), "ratings:9080").await;

    let (seen, expected) = (caller_of(&of_sidecar), format!("URI={}", id("ratings")));
    assert!(seen.contains(&expected), "{seen}");
    let (seen, expected) = (caller_of(&of_envoy), format!("URI={}", id("reviews")));
    assert!(seen.contains(&expected), "{seen}");
    // Over TLS, with both certificates verified.
    assert!(envoy.count("ssl.handshake").await >= 2);
    assert_eq!(envoy.count("ssl.no_certificate").await, 0);

    // The same servers, when somebody else is expected.
    of_sidecar.forget();
    of_envoy.forget();
    mesh.apply(&must_be("reviews", &id("somebody-else")));
    mesh.apply(&must_be("ratings", &id("somebody-else")));
    for (caller, host) in [
        (envoy.caller(), "reviews:9080"),
        (reviews.caller(), "ratings:9080"),
    ] {
        eventually("the wrong server is refused", async || {
            let reply = caller.get(host, "/").await;
            (reply.status == 503)
                .then_some(())
                .ok_or_else(|| reply.status.to_string())
        })
        .await;
    }
    assert!(envoy.count("ssl.fail_verify_san").await > 0);
    let reply = reviews.caller().get("ratings:9080", "/").await;
    let reason = reply.headers["x-outrigger-reason"].to_str().unwrap();
    assert_eq!(reason, "tls_failed");
    of_sidecar.forget();
    of_envoy.forget();
    envoy.caller().get("reviews:9080", "/").await;
    reviews.caller().get("ratings:9080", "/").await;
    assert!(of_sidecar.received().is_empty() && of_envoy.received().is_empty());

    // And again when they are who is expected.
    mesh.apply(&must_be("reviews", &id("reviews")));
    mesh.apply(&must_be("ratings", &id("ratings")));
    answers(&envoy.caller(), "reviews:9080").await;
    answers(&reviews.caller(), "ratings:9080").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_both_are_renewed_under_load_and_no_request_fails() {
    let mesh = Mesh::start().await;
    let (of_sidecar, of_envoy) = (
        TestApp::start("reviews").await,
        TestApp::start("ratings").await,
    );
    let short = [("--certificate-ttl", "10s")];
    let Some(envoy) = EnvoyMember::start(&mesh, "ratings", Some(&of_envoy), &short).await else {
        return;
    };
    let reviews = mesh.service("reviews").app(&of_sidecar);
    let reviews = reviews.flag("--certificate-ttl", "10s").start().await;
    answers(&envoy.caller(), "reviews:9080").await;
    answers(&reviews.caller(), "ratings:9080").await;
    let there = Load::get(&envoy.caller(), 50, "reviews:9080");
    let back = Load::get(&reviews.caller(), 50, "ratings:9080");

    let (before, ours) = (
        envoy.count("sds.default.update_success").await,
        reviews.metric("outrigger_certificate_requests_total").await,
    );
    within(
        Duration::from_secs(90),
        "three certificates later",
        async || {
            let envoys = envoy.count("sds.default.update_success").await - before;
            let sidecars = reviews.metric("outrigger_certificate_requests_total").await - ours;
            (envoys >= 3 && sidecars >= 3.0)
                .then_some(())
                .ok_or_else(|| format!("{envoys} and {sidecars}"))
        },
    )
    .await;
    for (load, log) in [(there, envoy.log()), (back, String::new())] {
        let report = load.finish().await;
        assert_eq!(report.failed, 0, "{:?}\n{log}", report.failures);
        assert!(report.sent > 100, "{} requests", report.sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_is_told_to_end_leaves_first_and_no_request_fails() {
    let mesh = Mesh::start().await;
    let (one, two) = (TestApp::start("one").await, TestApp::start("two").await);
    let Some(mut envoy) = EnvoyMember::start(&mesh, "ratings", Some(&one), &[]).await else {
        return;
    };
    let _other = mesh.service("ratings").app(&two).start().await;
    let shopper = mesh.service("shopper").start().await;
    mesh.has_healthy("ratings", 2).await;
    answers(&shopper.caller(), "ratings:9080").await;
    let load = Load::get(&shopper.caller(), 50, "ratings:9080");
    eventually("both are called", async || {
        let both = !one.received().is_empty() && !two.received().is_empty();
        both.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    envoy.process().terminate();
    outrigger_tests::ended(envoy.process()).await;
    mesh.has_healthy("ratings", 1).await;
    let report = load.finish().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_process_has_no_key_from_an_agents_socket() {
    let Some(curl) = tool("curl", "apt-get install curl") else {
        return;
    };
    let Some(setpriv) = tool("setpriv", "apt-get install util-linux") else {
        return;
    };
    let mesh = Mesh::start().await;
    let Some(envoy) = EnvoyMember::start(&mesh, "shopper", None, &[]).await else {
        return;
    };
    let socket = envoy.dir().join("sds.sock");
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(&envoy.dir()), 0o700);
    assert_eq!(mode(&envoy.dir().join("key.pem")), 0o600);
    // Even where somebody has opened the doors: nothing is said to another user.
    for path in [envoy.dir(), envoy.dir().join("..")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let asked = |user: &[&str]| {
        let output = std::process::Command::new(&setpriv)
            .args(user)
            .arg(&curl)
            .args([
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--http2-prior-knowledge",
                "--unix-socket",
            ])
            .arg(&socket)
            .arg("http://sds/")
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    assert_eq!(asked(&["--nnp"]), "200", "our own user is answered");
    let nobody = asked(&["--reuid", "65534", "--clear-groups"]);
    if nobody.contains("setpriv") {
        eprintln!("*** only root can try to be somebody else ***");
        return;
    }
    assert_eq!(nobody, "000", "another user is not");
}
