//! Certificates that must not open anything, tried against running sidecars on both sides: shown to an inbound port, and
//! shown by who answers at an endpoint. They are signed with the mesh's own root key where a thief of it, or a careless
//! authority, could sign such a thing.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_tests::{
    Mesh, MeshRoot, Shown, TestApp, TlsImpostor, ask_over_tls, credulous, eventually, free_port,
    leaf, tool,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use rustls_pki_types::ServerName;

const VICTIM: &str = "spiffe://cluster.local/ns/default/sa/victim";

async fn mesh_of(root: &MeshRoot) -> Mesh {
    let flags = root.flags();
    Mesh::start_with(&flags.each_ref().map(String::as_str)).await
}

/// A leaf that names the victim, but for one thing.
fn but(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf(&[VICTIM]);
    change(&mut params);
    params
}

fn signer() -> CertificateParams {
    let mut params = leaf(&["spiffe://cluster.local"]);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages.clear();
    params
}

/// What is wrong with each, and what it is.
fn unfit(ours: &MeshRoot) -> Vec<(&'static str, Shown)> {
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let ids = |uris: &[&str]| ours.sign(&leaf(uris));
    vec![
        ("another root", MeshRoot::new().sign(&leaf(&[VICTIM]))),
        (
            "expired",
            ours.sign(&but(|leaf| {
                leaf.not_before = (now - 2 * hour).into();
                leaf.not_after = (now - hour).into();
            })),
        ),
        (
            "not yet valid",
            ours.sign(&but(|leaf| leaf.not_before = (now + hour / 2).into())),
        ),
        (
            "for signing code",
            ours.sign(&but(|leaf| {
                leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            })),
        ),
        (
            "for one side only",
            ours.sign(&but(|leaf| {
                leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            })),
        ),
        (
            "a CA as leaf",
            ours.sign(&but(|leaf| {
                leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            })),
        ),
        (
            "may sign certificates",
            ours.sign(&but(|leaf| {
                leaf.key_usages.push(KeyUsagePurpose::KeyCertSign);
            })),
        ),
        (
            "signed by a leaf",
            ours.sign_below(leaf(&[VICTIM]), &leaf(&[VICTIM])),
        ),
        (
            "signed by an intermediate that names a workload",
            ours.sign_below(
                {
                    let mut signer = signer();
                    signer.subject_alt_names = leaf(&[VICTIM]).subject_alt_names;
                    signer
                },
                &leaf(&[VICTIM]),
            ),
        ),
        (
            "another trust domain, by our own authority",
            ids(&["spiffe://evil.example/ns/default/sa/victim"]),
        ),
        (
            "another trust domain, by its own authority",
            MeshRoot::new().sign(&leaf(&["spiffe://evil.example/ns/default/sa/victim"])),
        ),
        ("no URI", ids(&[])),
        (
            "two URIs",
            ids(&[VICTIM, "spiffe://cluster.local/ns/default/sa/other"]),
        ),
        (
            "a relative path",
            ids(&["spiffe://cluster.local/ns/default/sa/../sa/victim"]),
        ),
        (
            "upper case",
            ids(&["spiffe://Cluster.Local/ns/default/sa/victim"]),
        ),
        (
            "user information",
            ids(&["spiffe://root@cluster.local/ns/default/sa/victim"]),
        ),
        (
            "a port",
            ids(&["spiffe://cluster.local:443/ns/default/sa/victim"]),
        ),
        (
            "a query",
            ids(&["spiffe://cluster.local/ns/default/sa/victim?admin"]),
        ),
        (
            "another scheme",
            ids(&["https://cluster.local/ns/default/sa/victim"]),
        ),
        ("no path", ids(&["spiffe://cluster.local"])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_unfit_client_certificate_reaches_the_application() {
    let ours = MeshRoot::new();
    let mesh = mesh_of(&ours).await;
    let app = TestApp::start("secret").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let inbound = reviews.inbound.unwrap();

    for (fit, shown) in [
        ("of the root", ours.sign(&leaf(&[VICTIM]))),
        (
            "of an intermediate",
            ours.sign_below(signer(), &leaf(&[VICTIM])),
        ),
    ] {
        let answer = ask_over_tls(inbound, credulous(Some(shown))).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{fit}: {answer:?}");
    }
    app.forget();
    let mut let_in = Vec::new();
    let unfit = unfit(&ours);
    let tried = u32::try_from(unfit.len() + 1).unwrap();
    for (what, shown) in unfit {
        let answer = ask_over_tls(inbound, credulous(Some(shown))).await;
        if !answer.is_empty() {
            let_in.push((what, answer));
        }
    }
    assert_eq!(
        ask_over_tls(inbound, credulous(None)).await,
        "",
        "no certificate"
    );
    assert!(let_in.is_empty(), "{let_in:?}");
    assert!(app.received().is_empty(), "{:?}", app.received());
    // The alert reaches the client before the sidecar counts.
    eventually("each refusal is counted", async || {
        let counted = reviews.metric("outrigger_tls_refusals_total").await;
        if counted >= f64::from(tried) {
            Ok(())
        } else {
            Err(format!("{counted} of {tried}"))
        }
    })
    .await;
}

/// `host` has one endpoint, behind which `account` should answer.
fn entry(host: &str, at: SocketAddr, account: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {host}}}\nspec:\n  \
         hosts: [{host}.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: http, protocol: HTTP}}]\n  endpoints:\n  \
         - {{address: 127.0.0.1, ports: {{http: {}}}{account}}}\n---\n",
        at.port()
    )
}

const ACCOUNT: &str = ", serviceAccount: victim";

#[tokio::test(flavor = "multi_thread")]
async fn no_server_with_an_unfit_certificate_gets_a_request() {
    let ours = MeshRoot::new();
    let mesh = mesh_of(&ours).await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    let good = TlsImpostor::start(ours.sign(&leaf(&[VICTIM]))).await;
    let mut documents = entry("good", good.address, ACCOUNT);
    let mut servers = Vec::new();
    for (index, (what, shown)) in unfit(&ours).into_iter().enumerate() {
        let (host, server) = (format!("unfit-{index}"), TlsImpostor::start(shown).await);
        documents += &entry(&host, server.address, ACCOUNT);
        servers.push((what, host, server));
    }
    mesh.apply(&documents);
    eventually("who should answer does", async || {
        let reply = caller.get("good", "/").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;

    let mut wrong = Vec::new();
    for (what, host, server) in &servers {
        let reply = caller.get(host, "/").await;
        let refused = reply.status == 503 && reply.reason() == Some("tls_failed");
        if !refused || server.requests() > 0 {
            wrong.push((what, reply.text(), server.requests()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_in_anothers_place_gets_no_request() {
    let ours = MeshRoot::new();
    let mesh = mesh_of(&ours).await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    // A workload of the mesh, certified by its authority, at an address that is said to be another's.
    let other = "spiffe://cluster.local/ns/default/sa/other";
    let server = TlsImpostor::start(ours.sign(&leaf(&[other]))).await;
    let unnamed = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: unnamed}\n\
                   spec: {host: unnamed, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}\n";
    let documents = entry("spoofed", server.address, ACCOUNT)
        + &entry("right", server.address, ", serviceAccount: other")
        + &entry("unnamed", server.address, "")
        + unnamed;
    mesh.apply(&documents);
    eventually("the one who is expected is answered", async || {
        let reply = caller.get("right", "/").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;
    let answered = server.requests();

    for (host, expected) in [("spoofed", VICTIM), ("unnamed", "nobody")] {
        let reply = caller.get(host, "/").await;
        assert_eq!(reply.status, 503, "{host}: {}", reply.text());
        assert_eq!(reply.reason(), Some("tls_failed"), "{host}");
        let text = reply.text();
        assert!(text.contains(other), "{host}: names who was found: {text}");
        assert!(
            text.contains(expected),
            "{host}: names who was expected: {text}"
        );
    }
    assert_eq!(server.requests(), answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_resumes_a_session_or_sends_early_data() {
    let ours = MeshRoot::new();
    let mesh = mesh_of(&ours).await;
    let app = TestApp::start("secret").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let inbound = reviews.inbound.unwrap();
    // Hands out tickets and lets data come early, so that the client has both to try with.
    let generous = TlsImpostor::start(ours.sign(&leaf(&[VICTIM]))).await;
    let mut config = credulous(Some(ours.sign(&leaf(&[VICTIM]))));
    config.enable_early_data = true;
    let config = Arc::new(config);

    // Once, and again: what the first handshake left, the second has to try with.
    for (to, turn, resumes, early) in [
        (generous.address, "first", false, false),
        (generous.address, "again", true, false),
        (inbound, "with the other's ticket", false, true),
        (inbound, "with another of them", false, true),
    ] {
        let config = Arc::clone(&config);
        let talked = tokio::task::spawn_blocking(move || talk(to, config, early));
        let talked = talked.await.unwrap();
        assert!(
            talked.heard.starts_with("HTTP/1.1 200"),
            "{turn}: {talked:?}"
        );
        let resumed = talked.kind == Some(HandshakeKind::Resumed);
        assert_eq!(resumed, resumes, "{turn}: {talked:?}");
        assert_eq!(talked.sent_early, early, "{turn}: {talked:?}");
        assert!(!(early && talked.accepted), "{turn}: {talked:?}");
    }
    let paths: Vec<_> = app.received().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/late", "/late"]);
}

/// How a client fared that resumes what it can.
#[derive(Debug)]
struct Talked {
    heard: String,
    kind: Option<HandshakeKind>,
    sent_early: bool,
    accepted: bool,
}

/// By hand, because early data has to be written before the handshake.
fn talk(to: SocketAddr, config: Arc<ClientConfig>, early: bool) -> Talked {
    let name = ServerName::try_from("reviews").unwrap();
    let mut session = ClientConnection::new(config, name).unwrap();
    let mut socket = std::net::TcpStream::connect(to).unwrap();
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n");
    let writes = if early { session.early_data() } else { None };
    let sent_early = writes.is_some_and(|mut writes| {
        writes.write_all(request("/early").as_bytes()).unwrap();
        true
    });
    session.complete_io(&mut socket).unwrap();
    let accepted = session.is_early_data_accepted();
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    stream.write_all(request("/late").as_bytes()).unwrap();
    let mut heard = Vec::new();
    // Some end without a word of TLS.
    stream.read_to_end(&mut heard).ok();
    Talked {
        heard: String::from_utf8_lossy(&heard).into_owned(),
        kind: session.handshake_kind(),
        sent_early,
        accepted,
    }
}

/// A key of 1024 bits and a certificate for it by the mesh's own root, which rcgen and rustls would not make.
fn short_key(openssl: &Path, root: &MeshRoot, dir: &Path) {
    let extensions = format!(
        "subjectAltName=URI:{VICTIM}\nkeyUsage=critical,digitalSignature\n\
         extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n"
    );
    fs::write(dir.join("extensions"), extensions).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(openssl)
            .args(args)
            .current_dir(dir)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
    };
    run(&["genrsa", "-out", "key.pem", "1024"]);
    run(&[
        "req",
        "-new",
        "-key",
        "key.pem",
        "-subj",
        "/CN=short",
        "-out",
        "csr.pem",
    ]);
    let (certificate, key) = (root.certificate(), root.key());
    run(&[
        "x509",
        "-req",
        "-in",
        "csr.pem",
        "-CA",
        certificate.to_str().unwrap(),
        "-CAkey",
        key.to_str().unwrap(),
        "-set_serial",
        "7",
        "-days",
        "1",
        "-extfile",
        "extensions",
        "-out",
        "certificate.pem",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_1024_bits_open_nothing_on_either_side() {
    let Some(openssl) = tool("openssl", "apt-get install openssl") else {
        return;
    };
    let ours = MeshRoot::new();
    let dir = tempfile::tempdir().unwrap();
    short_key(&openssl, &ours, dir.path());
    let mesh = mesh_of(&ours).await;
    let app = TestApp::start("secret").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    let weak = ["-cipher", "DEFAULT@SECLEVEL=0", "-tls1_3"];

    let mut child = Command::new(&openssl)
        .args(["s_client", "-ign_eof", "-alpn", "http/1.1", "-connect"])
        .arg(reviews.inbound.unwrap().to_string())
        .args(["-cert", "certificate.pem", "-key", "key.pem"])
        .args(weak)
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";
    // It may have ended already, with the handshake.
    child.stdin.take().unwrap().write_all(request).ok();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("HTTP/1.1"), "{said}");
    assert!(app.received().is_empty(), "{:?}", app.received());
    eventually("it was refused", async || {
        match reviews.metric("outrigger_tls_refusals_total").await {
            0.0 => Err("nothing is counted".to_owned()),
            _ => Ok(()),
        }
    })
    .await;

    let port = free_port();
    let mut server = Command::new(&openssl)
        .args(["s_server", "-quiet", "-www", "-alpn", "http/1.1", "-accept"])
        .arg(format!("127.0.0.1:{port}"))
        .args(["-cert", "certificate.pem", "-key", "key.pem"])
        .args(weak)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    mesh.apply(&entry("short", at, ACCOUNT));
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    eventually("the server is refused for its key", async || {
        let reply = caller.get("short", "/").await;
        if reply.reason() == Some("tls_failed") {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;
    server.kill().unwrap();
    server.wait().unwrap();
}
