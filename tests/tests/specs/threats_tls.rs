//! What may be tried with connections: plain text where certificates are asked for, and TLS that does what it should
//! not. Applications of these tests count what reaches them.

use std::time::Duration;

use outrigger_tests::{
    Caller, Mesh, TestApp, WorkloadIdentity, echo_app, eventually, say, say_plainly, tell,
    tls_client, tls_connect,
};
use rustls::{HandshakeKind, client::Resumption};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(30);

fn mode(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: default}}
spec: {{mtls: {{mode: {mode}}}}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_to_a_strict_port_reaches_no_application_whatever_it_says() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("secret").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let db = echo_app("db ").await;
    let bytes = mesh.service("db").tcp_app_at(db).start().await;
    app.forget();
    let before = app.requests_by_connection().len();
    for said in [
        REQUEST,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16GET / HTTP/1.1\r\n\r\n",
        b"\x00",
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    ] {
        for port in [reviews.inbound.unwrap(), bytes.inbound.unwrap()] {
            let heard = say_plainly(port, said).await;
            assert!(!heard.contains("HTTP/"), "{said:?}: {heard}");
            assert!(!heard.contains("db"), "{said:?}: {heard}");
        }
    }
    assert_eq!(app.requests_by_connection().len(), before);
    // The end of a connection is heard before it is counted.
    for sidecar in [&reviews, &bytes] {
        eventually("each refusal is counted", async || {
            let counted = sidecar.metric("outrigger_tls_refusals_total").await;
            (counted >= 6.0)
                .then_some(())
                .ok_or_else(|| counted.to_string())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_permissive_takes_both_and_ends_plain_text_when_it_becomes_strict() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    mesh.apply(&mode("PERMISSIVE"));
    let reviews = mesh.service("reviews").app(&app).start().await;
    let inbound = reviews.inbound.unwrap();
    let shopper = WorkloadIdentity::join(&mesh, "shopper").await;
    let over_tls = async || {
        let stream = tls_connect(tls_client(Some(&shopper), &["http/1.1"]), inbound).await;
        say(stream.unwrap(), REQUEST).await
    };
    let heard = say_plainly(inbound, REQUEST).await;
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    assert!(over_tls().await.starts_with("HTTP/1.1 200"));
    let received = app.received();
    let named = |n: usize| received[n].headers.contains_key("x-forwarded-client-cert");
    let of_tests = received.len() - 2;
    assert!(!named(of_tests), "plain text has no name");
    assert!(named(of_tests + 1));

    // What might be TLS is not plain text, and no certificate is no certificate.
    let mut undecided = TcpStream::connect(inbound).await.unwrap();
    undecided.write_all(&[22]).await.unwrap();
    let mut heard = Vec::new();
    let end = undecided.read_to_end(&mut heard);
    timeout(PATIENCE, end).await.expect("it is closed").ok();
    assert_eq!(heard, b"");
    let nobody = tls_connect(tls_client(None, &["http/1.1"]), inbound).await;
    if let Ok(stream) = nobody {
        let heard = say(stream, REQUEST).await;
        assert!(!heard.contains("HTTP/"), "{heard}");
    }

    // One connection in plain text is open while the port becomes strict.
    let open = Caller::through(inbound);
    assert_eq!(open.get("reviews", "/").await.status, 200);
    let mut kept = TcpStream::connect(inbound).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    kept.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    mesh.apply(&mode("STRICT"));
    let mut rest = Vec::new();
    let closed = kept.read_to_end(&mut rest);
    timeout(PATIENCE, closed).await.expect("it is closed").ok();
    app.forget();
    let heard = say_plainly(inbound, REQUEST).await;
    assert!(!heard.contains("HTTP/"), "{heard}");
    assert!(over_tls().await.starts_with("HTTP/1.1 200"));
    assert!(
        reviews
            .metric("outrigger_connections_ended_by_policy_total")
            .await
            >= 1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_a_permissive_port_come_in_plain_and_go_when_it_becomes_strict() {
    let mesh = Mesh::start().await;
    let db = echo_app("db ").await;
    mesh.apply(&mode("PERMISSIVE"));
    let sidecar = mesh.service("db").tcp_app_at(db).start().await;
    let inbound = sidecar.inbound.unwrap();
    assert_eq!(tell(inbound, "hello").await, "db hello");
    let mut kept = TcpStream::connect(inbound).await.unwrap();
    kept.write_all(b"hello").await.unwrap();
    let mut greeting = [0; 3];
    kept.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"db ");
    mesh.apply(&mode("STRICT"));
    let mut rest = Vec::new();
    let closed = kept.read_to_end(&mut rest);
    timeout(PATIENCE, closed).await.expect("it is closed").ok();
    eventually("plain text gets nothing", async || {
        let heard = say_plainly(inbound, b"hello").await;
        if heard.contains("db") {
            Err(heard)
        } else {
            Ok(())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_key_updates_ends_its_connection_and_disturbs_nobody() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let inbound = reviews.inbound.unwrap();
    let shopper = WorkloadIdentity::join(&mesh, "shopper").await;
    let client = || tls_client(Some(&shopper), &["http/1.1"]);
    let mut stream = tls_connect(client(), inbound).await.unwrap();
    let flood = async {
        for count in 0..100_000 {
            let session = stream.get_mut().1;
            if session.refresh_traffic_keys().is_err() || stream.flush().await.is_err() {
                return count;
            }
            // Reads what is answered, so that it is not our window that stops the flood.
            let mut none = [0; 1];
            tokio::select! {
                biased;
                read = stream.read(&mut none) => if !matches!(read, Ok(1..)) { return count; },
                () = std::future::ready(()) => {}
            }
        }
        100_000
    };
    let count = timeout(PATIENCE, flood).await.expect("it ends");
    assert!(count < 100_000, "{count} updates were taken");
    let heard = say(tls_connect(client(), inbound).await.unwrap(), REQUEST).await;
    assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_before_the_handshake_and_no_session_is_resumed() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = WorkloadIdentity::join(&mesh, "shopper").await;
    let mut config = tls_client(Some(&shopper), &["http/1.1"]);
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    for _ in 0..3 {
        let stream = tls_connect(config.clone(), reviews.inbound.unwrap())
            .await
            .unwrap();
        let session = stream.get_ref().1;
        assert!(!session.is_early_data_accepted());
        assert_ne!(session.handshake_kind(), Some(HandshakeKind::Resumed));
        let heard = say(stream, REQUEST).await;
        assert!(heard.starts_with("HTTP/1.1 200"), "{heard}");
    }
}
