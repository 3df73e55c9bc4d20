//! What comes out of an inbound port, as a tool that is not ours sees it.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use outrigger_tests::{ForeignRoot, Mesh, TestApp, WorkloadIdentity, tool};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";

/// `openssl s_client`, which shows a certificate or none, and sends a request.
fn s_client(
    openssl: &Path,
    address: SocketAddr,
    identity: Option<&WorkloadIdentity>,
    root: &Path,
) -> String {
    let mut command = Command::new(openssl);
    command
        .args([
            "s_client",
            "-ign_eof",
            "-showcerts",
            "-alpn",
            "http/1.1",
            "-connect",
        ])
        .arg(address.to_string())
        .arg("-CAfile")
        .arg(root);
    if let Some(identity) = identity {
        command
            .arg("-cert")
            .arg(&identity.certificate)
            .arg("-key")
            .arg(&identity.key);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended already, with the handshake.
    child
        .stdin
        .take()
        .unwrap()
        .write_all(REQUEST.as_bytes())
        .ok();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// The names in a certificate, in OpenSSL's words.
fn names(openssl: &Path, s_client: &str) -> String {
    let from = s_client.find("-----BEGIN CERTIFICATE-----").unwrap();
    let mut child = Command::new(openssl)
        .args(["x509", "-noout", "-ext", "subjectAltName"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&s_client.as_bytes()[from..])
        .unwrap();
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbound_port_speaks_to_workloads_of_the_mesh_and_to_nobody_else() {
    let Some(openssl) = tool("openssl", "apt-get install openssl") else {
        return;
    };
    let mesh = Mesh::start().await;
    let app = TestApp::start("secret").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let inbound = reviews.inbound.unwrap();
    let root = mesh.data_dir().join("root.pem");

    let nobody = s_client(&openssl, inbound, None, &root);
    let foreign = ForeignRoot::new().issue("spiffe://cluster.local/ns/default/sa/shopper");
    let stranger = s_client(&openssl, inbound, Some(&foreign), &root);
    for (who, seen) in [("no certificate", &nobody), ("another root", &stranger)] {
        assert!(!seen.contains("HTTP/1.1"), "{who}: {seen}");
        assert!(!seen.contains("secret"), "{who}: {seen}");
    }
    assert!(app.received().is_empty(), "{:?}", app.received());

    let shopper = WorkloadIdentity::join(&mesh, "shopper").await;
    let seen = s_client(&openssl, inbound, Some(&shopper), &root);
    assert!(seen.contains("HTTP/1.1 200"), "{seen}");
    assert!(seen.contains("TLSv1.3"), "{seen}");
    assert!(seen.contains("Verify return code: 0 (ok)"), "{seen}");
    let names = names(&openssl, &seen);
    assert!(
        names.contains("URI:spiffe://cluster.local/ns/default/sa/reviews"),
        "{names}"
    );
    let received = app.received();
    let client = received[0].headers["x-forwarded-client-cert"]
        .to_str()
        .unwrap();
    assert!(
        client.contains(&format!("URI={}", shopper.spiffe_id)),
        "{client}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_gets_nothing_out_of_an_inbound_port() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("secret").await;
    let reviews = mesh.service("reviews").app(&app).start().await;

    let mut stream = tokio::net::TcpStream::connect(reviews.inbound.unwrap())
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, REQUEST.as_bytes())
        .await
        .unwrap();
    let mut seen = Vec::new();
    // A reset is as good as an end.
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut seen)
        .await
        .ok();

    assert!(
        !seen.starts_with(b"HTTP"),
        "{}",
        String::from_utf8_lossy(&seen)
    );
    assert!(app.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cannot_claim_to_be_another() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    outrigger_tests::eventually("reviews answer", async || {
        let reply = caller.get("reviews:9080", "/").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;
    app.forget();

    let forged = "URI=spiffe://cluster.local/ns/default/sa/admin";
    caller
        .get_with("reviews:9080", "X-Forwarded-Client-Cert", forged)
        .await;

    let received = app.received();
    let all: Vec<_> = received[0]
        .headers
        .get_all("x-forwarded-client-cert")
        .iter()
        .collect();
    assert_eq!(all.len(), 1);
    let client = all[0].to_str().unwrap();
    assert!(
        client.contains("URI=spiffe://cluster.local/ns/default/sa/shopper"),
        "{client}"
    );
    assert!(!client.contains("admin"), "{client}");
}
