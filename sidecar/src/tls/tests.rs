//! Who gets in and who does not, with real handshakes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::{
    ClientConfig, RootCertStore,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::testing::{
    Authority, Leaf, Sidecar,
    app::{App, get},
    cluster, config, endpoint, mtls, spiffe,
};

/// A client that believes everything.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn credulous(key: Option<Arc<CertifiedKey>>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    }
}

/// What a request over TLS brings back; empty = nothing.
async fn ask(address: SocketAddr, config: ClientConfig) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("reviews").unwrap();
    let connect = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let mut out = Vec::new();
    if let Ok(mut stream) = connect.await {
        let request = b"GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n";
        if stream.write_all(request).await.is_ok() {
            // An alert shows as an error here; what came before it counts.
            drop(stream.read_to_end(&mut out).await);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[tokio::test]
async fn only_valid_identities_of_the_trust_domain_get_in() {
    let ours = Authority::new();
    let foreign = Authority::new();
    let app = App::start("reviews").await;
    let (server, inbound) = Sidecar::inbound(ours.identity("reviews"), app.address).await;
    let id = spiffe("frontend");
    let good = ask(inbound, credulous(Some(ours.sign(&Leaf::of(&id))))).await;
    assert!(good.starts_with("HTTP/1.1 200"), "{good:?}");

    let hour = Duration::from_secs(3600);
    let now = std::time::SystemTime::now();
    let leaf = |change: fn(&mut CertificateParams)| Leaf::of(&id).and(change);
    let refused = [
        ("no URI", Leaf::with_uris(&[])),
        ("two URIs", Leaf::with_uris(&[&id, &spiffe("admin")])),
        (
            "foreign trust domain",
            Leaf::of("spiffe://evil.example/ns/default/sa/frontend"),
        ),
        (
            "trust domain in upper case",
            Leaf::of("spiffe://Cluster.local/ns/default/sa/a"),
        ),
        (
            "another scheme",
            Leaf::of("https://cluster.local/ns/default/sa/frontend"),
        ),
        (
            "relative path",
            Leaf::of("spiffe://cluster.local/ns/default/../sa/frontend"),
        ),
        ("no path", Leaf::of("spiffe://cluster.local")),
        ("port", Leaf::of("spiffe://cluster.local:1/ns/a")),
        ("query", Leaf::of("spiffe://cluster.local/ns/a?b")),
        (
            "expired",
            Leaf::of(&id).and(|p| p.not_after = (now - hour / 2).into()),
        ),
        (
            "not yet valid",
            Leaf::of(&id).and(|p| p.not_before = (now + hour / 2).into()),
        ),
        (
            "a CA",
            leaf(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "may sign",
            leaf(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
        ("no key usage", leaf(|p| p.key_usages.clear())),
        (
            "for servers only",
            leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
    ];
    for (name, leaf) in refused {
        let answer = ask(inbound, credulous(Some(ours.sign(&leaf)))).await;
        assert_eq!(answer, "", "{name}");
    }
    let foreign = foreign.sign(&Leaf::of(&id));
    assert_eq!(
        ask(inbound, credulous(Some(foreign))).await,
        "",
        "foreign root"
    );
    assert_eq!(ask(inbound, credulous(None)).await, "", "no certificate");
    assert_eq!(
        app.heads.lock().unwrap().len(),
        1,
        "the application saw the good one only"
    );
    // The alert reaches the client before the sidecar counts.
    for (reason, least) in [
        ("not_an_svid", 8.0),
        ("trust_domain", 1.0),
        ("no_certificate", 1.0),
        ("chain", 3.0),
    ] {
        let line = format!("outrigger_tls_refusals_total{{reason=\"{reason}\",side=\"inbound\"}}");
        server.until_metric(&line, least).await;
    }
}

#[tokio::test]
async fn plain_text_to_the_inbound_port_is_closed_without_a_word_of_http() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let mut stream = TcpStream::connect(inbound).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n")
        .await
        .unwrap();
    let mut out = Vec::new();
    drop(stream.read_to_end(&mut out).await);
    assert!(!String::from_utf8_lossy(&out).contains("HTTP"), "{out:?}");
    assert!(app.heads.lock().unwrap().is_empty());
    let line = "outrigger_tls_refusals_total{reason=\"plaintext\"";
    server.until_metric(line, 1.0).await;
}

#[tokio::test]
async fn tls_is_1_3_with_the_hybrid_key_exchange_and_no_tickets() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (_server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    let key = authority.sign(&Leaf::of(&spiffe("frontend")));
    let config = Arc::new(credulous(Some(key)));
    for round in 0..2 {
        let stream = TcpStream::connect(inbound).await.unwrap();
        let name = ServerName::try_from("reviews").unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut out = Vec::new();
        stream.read_to_end(&mut out).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(
            session.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
        let group = session
            .negotiated_key_exchange_group()
            .map(rustls::crypto::SupportedKxGroup::name);
        assert_eq!(group, Some(rustls::NamedGroup::X25519MLKEM768));
        let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
        assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
        let kind = session.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Full), "round {round}");
    }
}

/// A caller's sidecar, with `expected` as the server's identities.
async fn call(authority: &Authority, to: SocketAddr, expected: &[&str]) -> (u16, String) {
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(expected);
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(to, true)];
    let (_client, proxy) = Sidecar::outbound(&config(), identity, reviews, endpoints, |_| {}).await;
    let answer = get(proxy, "/").await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_server_must_be_one_of_the_identities_of_its_service() {
    let ours = Authority::new();
    let app = App::start("reviews").await;
    let (_a, reviews) = Sidecar::inbound(ours.identity("reviews"), app.address).await;
    assert_eq!(call(&ours, reviews, &["other", "reviews"]).await.0, 200);
    for (expected, told) in [(&["ratings"][..], "expected"), (&[], "nobody")] {
        let (status, body) = call(&ours, reviews, expected).await;
        assert_eq!(status, 503, "{expected:?}");
        assert!(body.contains("tls_failed") && body.contains(told), "{body}");
        assert!(
            body.contains(&spiffe("reviews")),
            "names who answered: {body}"
        );
    }
    let foreign = Authority::new();
    let (_b, impostor) = Sidecar::inbound(foreign.identity("reviews"), app.address).await;
    let (status, body) = call(&ours, impostor, &["reviews"]).await;
    assert_eq!(status, 503);
    assert!(body.contains("tls_failed"), "{body}");
    assert_eq!(app.heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_sidecar_without_identity_neither_serves_nor_calls_over_mtls() {
    let authority = Authority::new();
    let app = App::start("reviews").await;
    let (server, inbound) = Sidecar::inbound(authority.identity("reviews"), app.address).await;
    server.shared.identity.store(None);
    let key = authority.sign(&Leaf::of(&spiffe("frontend")));
    assert_eq!(ask(inbound, credulous(Some(key))).await, "");
    let mut reviews = cluster("reviews");
    reviews.tls = mtls(&["reviews"]);
    let endpoints = vec![endpoint(inbound, true)];
    let (_client, proxy) = Sidecar::outbound(&config(), None, reviews, endpoints, |_| {}).await;
    let answer = get(proxy, "/").await;
    assert!(
        answer.body.contains("holds no certificate"),
        "{}",
        answer.body
    );
}

#[test]
fn roots_of_an_old_bundle_do_not_verify_a_peer_any_more() {
    let old = Authority::new();
    let chain = old.sign(&Leaf::of(&spiffe("frontend"))).cert.clone();
    assert!(super::still_trusted(&old.identity("reviews"), &chain).is_ok());
    let mut both = old.identity("reviews");
    let mut roots = RootCertStore::clone(&both.roots);
    roots
        .roots
        .extend(Authority::new().roots().roots.iter().cloned());
    both.roots = Arc::new(roots);
    assert!(
        super::still_trusted(&both, &chain).is_ok(),
        "a bundle of two"
    );
    assert!(super::still_trusted(&Authority::new().identity("reviews"), &chain).is_err());
}
