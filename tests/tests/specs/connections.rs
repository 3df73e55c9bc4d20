//! What is not HTTP: bytes between sidecars under mTLS, TLS that is passed through by its server name, shares of
//! connections, and TLS that a sidecar begins for an application that does not.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use outrigger_tests::{
    Caller, Mesh, Sidecar, echo_app, eventually, free_port, tell, tell_bytes, tls_server,
    until_heard,
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};

const AT_MOST: Duration = Duration::from_secs(20);

/// The sum of all series of one name; 0 before there is one.
async fn count(sidecar: &Sidecar, name: &str) -> f64 {
    let metrics = Caller::through(sidecar.metrics);
    let host = sidecar.metrics.to_string();
    let reply = metrics.get(&host, "/stats/prometheus").await;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let of_name = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let lines = text.lines().filter(of_name);
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
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
            let opened = count(sidecar, "istio_tcp_connections_opened_total").await;
            let closed = count(sidecar, "istio_tcp_connections_closed_total").await;
            if opened >= 1.0 && closed >= 1.0 {
                Ok(())
            } else {
                Err(format!("{opened} opened, {closed} closed"))
            }
        })
        .await;
        assert!(count(sidecar, "istio_tcp_received_bytes_total").await >= 8.0);
        assert!(count(sidecar, "istio_tcp_sent_bytes_total").await >= 11.0);
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
        let counted = count(&shopper, "outrigger_refusals_total").await;
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
        let counted = count(&shopper, "outrigger_refusals_total").await;
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
    // Each worker keeps the shares; which worker gets how many connections is the kernel's.
    let of = |version: &str| heard.get(version).copied().unwrap_or(0);
    assert_eq!(of("v1") + of("v2"), 128, "{heard:?}");
    assert!((26..=38).contains(&of("v2")), "{heard:?}");
}
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_begins_tls_for_an_application_that_does_not() {
    let mesh = Mesh::start().await;
    let (server, pem) = tls_server("pay.example.com", true).await;
    let certificates = tempfile::tempdir().unwrap();
    let ca = certificates.path().join("ca.pem");
    std::fs::write(&ca, pem).unwrap();
    let rule = |names: &str| {
        format!(
            "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: pay}}
spec:
  host: pay.example.com
  trafficPolicy:
    tls: {{mode: SIMPLE, caCertificates: {}, sni: pay.example.com{names}}}
",
            ca.display()
        )
    };
    mesh.apply(&format!(
        "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: pay}}
spec:
  hosts: [pay.example.com]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {}}}]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1}}]
---
{}",
        server.port(),
        rule("")
    ));
    let directory = certificates.path().display().to_string();
    let shopper = mesh.service("shopper").flag("--tls-files", &directory);
    let shopper = shopper.start().await;
    let caller = shopper.caller();
    eventually("plain HTTP in, TLS out", async || {
        let reply = caller.get("pay.example.com", "/").await;
        if reply.status == 200 && reply.body == "paid" {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;

    mesh.apply(&rule(", subjectAltNames: [somebody.else]"));
    eventually("another name is refused, and both are told", async || {
        let reply = caller.get("pay.example.com", "/").await;
        let text = reply.text();
        let told = text.contains("somebody.else") && text.contains("pay.example.com");
        if reply.reason() == Some("tls_failed") && told {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;

    // A sidecar whose operator has not said so reads no file, and says which field it refuses.
    let careful = mesh.service("careful").start().await;
    let refused = careful.caller().get("pay.example.com", "/").await;
    assert_eq!(
        refused.reason(),
        Some("cluster_unknown"),
        "{}",
        refused.text()
    );
    eventually("the refusal is in the status", async || {
        let status = mesh.status().to_string();
        if status.contains("--tls-files") && status.contains("trusted_ca") {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
}
