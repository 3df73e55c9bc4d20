//! What is not HTTP: bytes between sidecars under mTLS, TLS that is passed through by its server name, shares of
//! connections, and TLS that a sidecar begins for an application that does not.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use outrigger_tests::{Mesh, Sidecar, eventually};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{ClientConfig, RootCertStore, ServerConfig},
};

const AT_MOST: Duration = Duration::from_secs(20);

/// A port of localhost that was free a moment ago: documents name theirs.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Says its name first, then everything that it is told.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(name: &str, mut stream: S) {
    if stream.write_all(name.as_bytes()).await.is_ok() {
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.ok();
        write.shutdown().await.ok();
    }
}

/// An application that speaks bytes.
async fn echo_app(name: &'static str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(echo(name, stream));
        }
    });
    address
}

/// A server with TLS and this name: it echoes, or answers HTTP.
async fn tls_server(name: &'static str, speaks_http: bool) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                if !speaks_http {
                    echo(name, stream).await;
                    return;
                }
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let answer =
                    "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\npaid";
                stream.write_all(answer.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            });
        }
    });
    (address, cert.pem())
}

/// What comes back of `said` over a connection of its own; empty if it was closed.
async fn tell(to: SocketAddr, said: &str) -> String {
    let heard = tell_bytes(to, said).await;
    String::from_utf8_lossy(&heard).into_owned()
}

async fn tell_bytes(to: SocketAddr, said: &str) -> Vec<u8> {
    let told = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        stream.write_all(said.as_bytes()).await.ok()?;
        stream.shutdown().await.ok()?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.ok()?;
        Some(heard)
    };
    let heard = timeout(AT_MOST, told).await.expect("the connection ends");
    heard.unwrap_or_default()
}

async fn until_heard(to: SocketAddr, said: &str, expected: &str) {
    eventually(&format!("{to} answers {expected:?}"), async || {
        let heard = tell(to, said).await;
        if heard == expected {
            Ok(())
        } else {
            Err(heard)
        }
    })
    .await;
}

/// A caller's sidecar for which alone the document `Sidecar` of the test is.
async fn shopper(mesh: &Mesh, egress: &str) -> Sidecar {
    mesh.apply(&format!(
        "\
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata:
  name: shopper
spec:
  workloadSelector:
    labels: {{app: shopper}}
  egress:
{egress}"
    ));
    let shopper = mesh.service("shopper").label("app", "shopper");
    shopper.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_travel_under_mtls_from_a_port_of_localhost() {
    let mesh = Mesh::start().await;
    let app = echo_app("db ").await;
    let db = mesh.service("db").tcp_app_at(app).start().await;
    let port = free_port();
    let egress = format!(
        "  - port: {{number: {port}, protocol: TCP, name: sql}}\n    hosts: [./db.default.svc.cluster.local]\n"
    );
    let shopper = shopper(&mesh, &egress).await;
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    until_heard(local, "select 1", "db select 1").await;

    // Both sides count the connection and its bytes, and say that it was under mTLS.
    for sidecar in [&shopper, &db] {
        eventually("both sides count", async || {
            let opened = sidecar.metric("istio_tcp_connections_opened_total").await;
            let closed = sidecar.metric("istio_tcp_connections_closed_total").await;
            if opened >= 1.0 && closed >= 1.0 {
                Ok(())
            } else {
                Err(format!("{opened} opened, {closed} closed"))
            }
        })
        .await;
        assert!(sidecar.metric("istio_tcp_received_bytes_total").await >= 8.0);
        assert!(sidecar.metric("istio_tcp_sent_bytes_total").await >= 11.0);
    }
    // Without a sidecar's certificate nothing gets in.
    let inbound = db.inbound.unwrap();
    let heard = tell_bytes(inbound, "select 1").await;
    assert!(
        heard.len() < 10 && !heard.starts_with(b"db"),
        "an alert of TLS at most"
    );

    // A server whose sidecar is gone: a close for the caller, the reason in the log and in a counter.
    drop(db);
    eventually("connections are refused", async || {
        let heard = tell(local, "select 1").await;
        if heard.is_empty() { Ok(()) } else { Err(heard) }
    })
    .await;
    eventually("the refusal is counted and logged", async || {
        let counted = shopper.metric("outrigger_refusals_total").await;
        let log = shopper.process().log();
        let said = log.contains("connection refused")
            && log.contains("db.default.svc.cluster.local")
            && (log.contains("connect_failed") || log.contains("no_"));
        if counted >= 1.0 && said {
            Ok(())
        } else {
            Err(format!("{counted} refused\n{log}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_led_by_its_server_name() {
    let mesh = Mesh::start().await;
    let (a, a_pem) = tls_server("a.example.com", false).await;
    let (b, b_pem) = tls_server("b.example.com", false).await;
    let mut roots = RootCertStore::empty();
    for pem in [&a_pem, &b_pem] {
        let certificate = rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes());
        let certificate: CertificateDer<'static> = certificate.unwrap();
        roots.add(certificate).unwrap();
    }
    for (name, address) in [("a", a), ("b", b)] {
        mesh.apply(&format!(
            "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{name}.example.com]
  ports: [{{number: 443, name: tls, protocol: TLS, targetPort: {}}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1}}]
",
            address.port()
        ));
    }
    // A third name is led to the second server by a document.
    mesh.apply(
        "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b}
spec:
  hosts: ['b.example.com']
  tls:
  - match: [{sniHosts: ['b.example.com'], port: 443}]
    route: [{destination: {host: b.example.com, port: {number: 443}}}]
",
    );
    let port = free_port();
    let egress =
        format!("  - port: {{number: {port}, protocol: TLS, name: tls}}\n    hosts: ['*/*']\n");
    let shopper = shopper(&mesh, &egress).await;
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let call = async |name: &'static str| {
        let stream = TcpStream::connect(local).await.map_err(|e| e.to_string())?;
        let name = ServerName::try_from(name).unwrap();
        // The certificate is the server's own: nobody in between has opened the connection.
        let connected = connector.connect(name, stream).await;
        let mut stream = connected.map_err(|error| error.to_string())?;
        stream.write_all(b"!").await.map_err(|e| e.to_string())?;
        stream.shutdown().await.map_err(|e| e.to_string())?;
        let mut heard = String::new();
        stream
            .read_to_string(&mut heard)
            .await
            .map_err(|e| e.to_string())?;
        Ok::<_, String>(heard)
    };
    for name in ["a.example.com", "b.example.com"] {
        eventually("the server's own certificate answers", async || {
            let heard = timeout(AT_MOST, call(name)).await.unwrap()?;
            if heard == format!("{name}!") {
                Ok(())
            } else {
                Err(heard)
            }
        })
        .await;
    }
    assert!(
        timeout(AT_MOST, call("c.example.com"))
            .await
            .unwrap()
            .is_err()
    );
    assert_eq!(tell(local, "GET / HTTP/1.1\r\n\r\n").await, "");
    eventually("both refusals are counted and logged", async || {
        let counted = shopper.metric("outrigger_refusals_total").await;
        let log = shopper.process().log();
        let said = log.contains("no_route_connection")
            && log.contains("c.example.com")
            && log.contains("client_hello_invalid");
        if counted == 2.0 && said {
            Ok(())
        } else {
            Err(format!("{counted} refused\n{log}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_shared_out_by_weight() {
    let mesh = Mesh::start().await;
    let (v1, v2) = (echo_app("v1").await, echo_app("v2").await);
    let start = async |version: &str, app| {
        let service = mesh.service("db").label("version", version);
        service.tcp_app_at(app).start().await
    };
    let _v1 = start("v1", v1).await;
    let _v2 = start("v2", v2).await;
    mesh.apply(
        "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db}
spec:
  host: db
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db]
  tcp:
  - match: [{port: 1}]
    route: [{destination: {host: db, subset: v2}}]
  - match: [{port: 9080}]
    route:
    - {destination: {host: db, subset: v1}, weight: 75}
    - {destination: {host: db, subset: v2}, weight: 25}
",
    );
    let port = free_port();
    let egress =
        format!("  - port: {{number: {port}, protocol: TCP, name: sql}}\n    hosts: [./db]\n");
    let _shopper = shopper(&mesh, &egress).await;
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the port leads somewhere", async || {
        let heard = tell(local, "").await;
        if heard.starts_with('v') {
            Ok(())
        } else {
            Err(heard)
        }
    })
    .await;
    mesh.synced().await;
    let mut heard: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..128 {
        *heard.entry(tell(local, "").await).or_default() += 1;
    }
    let of = |version: &str| heard.get(version).copied().unwrap_or(0);
    assert_eq!(of("v1") + of("v2"), 128, "{heard:?}");
    assert!((30..=34).contains(&of("v2")), "{heard:?}");
}
