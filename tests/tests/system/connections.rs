//! Connections that are not HTTP, and TLS that begins in the proxy: the same documents through our sidecar and Envoy.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use outrigger_tests::{
    Caller, Envoy, Mesh, echo_app, eventually, free_port, mutual_tls_server, tell, tls_server,
};
use rcgen::generate_simple_self_signed;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};

const AT_MOST: Duration = Duration::from_secs(20);

/// A proxy's ports of localhost, by what they are for.
#[derive(Clone, Copy)]
struct Ports {
    shares: u16,
    source: u16,
    refused: u16,
    tls: u16,
}

impl Ports {
    fn free() -> Self {
        Self {
            shares: free_port(),
            source: free_port(),
            refused: free_port(),
            tls: free_port(),
        }
    }

    /// The document that opens them for workloads with this label.
    fn yaml(self, app: &str) -> String {
        let port = |number: u16, protocol: &str, name: &str, hosts: &str| {
            format!(
                "  - {{port: {{number: {number}, protocol: {protocol}, name: {name}}}, hosts: [{hosts}]}}\n"
            )
        };
        let internal = |name: &str| format!("./{name}.default.svc.cluster.local");
        let egress = [
            port(self.shares, "TCP", "shares", &internal("shares")),
            port(self.source, "TCP", "source", &internal("source")),
            port(self.refused, "TCP", "refused", &internal("refused")),
            port(self.tls, "TLS", "tls", "'*/*'"),
            "  - hosts: ['*/*']\n".to_owned(),
        ]
        .concat();
        format!(
            "\
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {app}}}
spec:
  workloadSelector: {{labels: {{app: {app}}}}}
  egress:
{egress}"
        )
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A host with one endpoint for each of these, labelled by its place: `v1`, `v2`, ...
fn entry(host: &str, protocol: &str, number: u16, apps: &[SocketAddr]) -> String {
    let endpoints: String = (1..)
        .zip(apps)
        .map(|(n, app)| {
            format!(
                "  - {{address: 127.0.0.1, labels: {{version: v{n}}}, ports: {{main: {}}}}}\n",
                app.port()
            )
        })
        .collect();
    let name = host.replace('.', "-");
    format!(
        "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec:
  hosts: [{host}]
  resolution: STATIC
  ports: [{{number: {number}, name: main, protocol: {protocol}}}]
  endpoints:
{endpoints}"
    )
}

/// What one proxy makes of it all, in words.
async fn told(ports: Ports, http: Caller, roots: RootCertStore) -> Vec<String> {
    let mut told = Vec::new();
    eventually("the ports are open", async || {
        match tell(at(ports.source), "x").await {
            heard if heard.ends_with('x') => Ok(()),
            heard => Err(heard),
        }
    })
    .await;
    let first = tell(at(ports.source), "").await;
    let mut same = true;
    for _ in 0..10 {
        same &= tell(at(ports.source), "").await == first;
    }
    told.push(format!("one source, one endpoint: {same}"));

    let mut heard: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..200 {
        *heard.entry(tell(at(ports.shares), "").await).or_default() += 1;
    }
    let of = |name: &str| heard.get(name).copied().unwrap_or(0);
    let all = of("one") + of("two") == 200;
    let fair = (110..=170).contains(&of("one"));
    told.push(format!("70 of 100 to the first: {}", all && fair));
    told.push(format!(
        "an endpoint that refuses: {:?}",
        tell(at(ports.refused), "x").await
    ));

    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    for name in [
        "a.example.com",
        "b.example.com",
        "c.example.com",
        "d.example.com",
    ] {
        let call = async {
            let stream = TcpStream::connect(at(ports.tls)).await.ok()?;
            let name = ServerName::try_from(name).unwrap();
            let mut stream = connector.connect(name, stream).await.ok()?;
            stream.write_all(b"!").await.ok()?;
            stream.shutdown().await.ok()?;
            let mut heard = String::new();
            stream.read_to_string(&mut heard).await.ok()?;
            Some(heard)
        };
        let heard = timeout(AT_MOST, call).await.unwrap();
        told.push(format!("TLS for {name}: {heard:?}"));
    }
    told.push(format!(
        "no TLS there: {:?}",
        tell(at(ports.tls), "GET / HTTP/1.1\r\n\r\n").await
    ));

    for host in [
        "simple.example.com",
        "stranger.example.com",
        "mutual.example.com",
        "unknown.example.com",
    ] {
        let reply = http.get(host, "/").await;
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        let body = if reply.status == 200 { &body } else { "" };
        told.push(format!(
            "plain HTTP for {host}: {} {body}",
            reply.status.as_u16()
        ));
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_tls_go_where_envoy_leads_them() {
    let mesh = Mesh::start().await;
    let (one, two) = (echo_app("one").await, echo_app("two").await);
    let (a, a_pem) = tls_server("a.example.com", false).await;
    let (b, b_pem) = tls_server("b.example.com", false).await;
    let (simple, simple_pem) = tls_server("simple.example.com", true).await;
    let mut roots = RootCertStore::empty();
    for pem in [&a_pem, &b_pem] {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        roots.add(certificate).unwrap();
    }
    let files = tempfile::tempdir().unwrap();
    let ca = files.path().join("ca.pem");
    std::fs::write(&ca, simple_pem).unwrap();
    let client = generate_simple_self_signed(["shopper".to_owned()]).unwrap();
    let (mutual, mutual_pem) = mutual_tls_server("mutual.example.com", &client.cert.pem()).await;
    let stranger = generate_simple_self_signed(["stranger".to_owned()]).unwrap();
    for (name, text) in [
        ("mutual.pem", mutual_pem),
        ("client.pem", client.cert.pem()),
        ("client.key", client.signing_key.serialize_pem()),
        ("stranger.pem", stranger.cert.pem()),
        ("stranger.key", stranger.signing_key.serialize_pem()),
    ] {
        std::fs::write(files.path().join(name), text).unwrap();
    }
    let tls_rule = |host: &str, tls: &str| {
        format!(
            "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec:
  host: {host}
  trafficPolicy: {{tls: {{{tls}}}}}
",
            name = host.replace('.', "-"),
        )
    };
    let mutual_rule = |host: &str, client: &str| {
        let dir = files.path().display();
        let tls = format!(
            "mode: MUTUAL, caCertificates: {dir}/mutual.pem, clientCertificate: {dir}/{client}.pem, \
             privateKey: {dir}/{client}.key, sni: mutual.example.com, subjectAltNames: [mutual.example.com]"
        );
        tls_rule(host, &tls)
    };
    let simple_rule = |host: &str| {
        let ca = ca.display();
        let tls =
            format!("mode: SIMPLE, caCertificates: {ca}, sni: {host}, subjectAltNames: [{host}]");
        tls_rule(host, &tls)
    };
    let refuses = at(free_port());
    let (ours, envoys) = (Ports::free(), Ports::free());
    let documents = [
        entry("shares.default.svc.cluster.local", "TCP", 9000, &[one, two]),
        entry("source.default.svc.cluster.local", "TCP", 9001, &[one, two]),
        entry("refused.default.svc.cluster.local", "TCP", 9002, &[refuses]),
        entry("a.example.com", "TLS", 443, &[a]),
        entry("b.example.com", "TLS", 443, &[b]),
        entry("c.example.com", "TLS", 443, &[a]),
        entry("simple.example.com", "HTTP", 80, &[simple]),
        entry("stranger.example.com", "HTTP", 80, &[simple]),
        entry("mutual.example.com", "HTTP", 80, &[mutual]),
        entry("unknown.example.com", "HTTP", 80, &[mutual]),
        mutual_rule("mutual.example.com", "client"),
        mutual_rule("unknown.example.com", "stranger"),
        simple_rule("simple.example.com"),
        // The same server, but it is not whom this one wants.
        simple_rule("stranger.example.com"),
        "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shares}
spec:
  host: shares
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shares}
spec:
  hosts: [shares]
  tcp:
  - match: [{port: 9999}]
    route: [{destination: {host: source}}]
  - route:
    - {destination: {host: shares, subset: v1}, weight: 70}
    - {destination: {host: shares, subset: v2}, weight: 30}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: source}
spec:
  host: source
  trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: c}
spec:
  hosts: [c.example.com]
  tls:
  - match: [{sniHosts: [c.example.com], port: 443}]
    route: [{destination: {host: b.example.com, port: {number: 443}}}]
"
        .to_owned(),
        ours.yaml("ours"),
        envoys.yaml("envoys"),
    ];
    mesh.apply(&documents.join("---\n"));
    let directory = files.path().display().to_string();
    let shopper = mesh.service("shopper").label("app", "ours");
    let shopper = shopper.flag("--tls-files", &directory).start().await;
    let envoy = Envoy::start(&mesh, "shopper", &[("app", "envoys")]).await;
    mesh.synced().await;

    let seen = told(ours, shopper.caller(), roots.clone()).await;
    let expected = [
        "one source, one endpoint: true",
        "70 of 100 to the first: true",
        "an endpoint that refuses: \"\"",
        "TLS for a.example.com: Some(\"a.example.com!\")",
        "TLS for b.example.com: Some(\"b.example.com!\")",
        // Led to the other server, whose certificate is not for this name.
        "TLS for c.example.com: None",
        "TLS for d.example.com: None",
        "no TLS there: \"\"",
        "plain HTTP for simple.example.com: 200 paid",
        "plain HTTP for stranger.example.com: 503 ",
        "plain HTTP for mutual.example.com: 200 paid",
        "plain HTTP for unknown.example.com: 503 ",
    ];
    assert_eq!(seen, expected);
    if let Some(envoy) = &envoy {
        let seen = told(envoys, envoy.caller(), roots).await;
        assert_eq!(seen, expected, "Envoy\n{}", envoy.log());
    }
}
