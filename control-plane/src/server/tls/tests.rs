//! Certificates that our own authority's key signed, but that are no identities of this mesh.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::server::ResolvesServerCertUsingSni;
use time::OffsetDateTime;

use super::*;

const GOOD: &str = "spiffe://cluster.local/ns/default/sa/reviews";

struct Mesh {
    issuer: Issuer<'static, KeyPair>,
    verifier: SpiffeVerifier,
}

impl Mesh {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .unwrap();
        Self {
            issuer: Issuer::new(params, key),
            verifier: SpiffeVerifier {
                webpki,
                trust_domain: "cluster.local".into(),
                also: None,
            },
        }
    }

    fn accepts(&self, leaf: &CertificateDer<'_>) -> bool {
        self.verifier
            .verify_client_cert(leaf, &[], UnixTime::now())
            .is_ok()
    }

    fn leaf(
        &self,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::from_secs(60);
        params.not_after = now + Duration::from_secs(60);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        change(&mut params);
        params
            .signed_by(&KeyPair::generate().unwrap(), &self.issuer)
            .unwrap()
            .into()
    }
}

#[test]
fn a_proper_identity_is_accepted() {
    let mesh = Mesh::new();
    assert!(mesh.accepts(&mesh.leaf(&[GOOD], |_| ())));
}

#[test]
fn an_identity_that_breaks_the_rules_is_refused_although_our_key_signed_it() {
    let mesh = Mesh::new();
    for uris in [
        &[][..],
        &[GOOD, GOOD],
        &["spiffe://other.example/ns/default/sa/reviews"],
        &["spiffe://cluster.local"],
        &["spiffe://cluster.local/ns/../sa/reviews"],
        &["spiffe://Cluster.local/ns/default/sa/reviews"],
        &["spiffe://user@cluster.local/ns/default/sa/reviews"],
        &["spiffe://cluster.local:443/ns/default/sa/reviews"],
        &["spiffe://cluster.local/ns/default/sa/reviews?x"],
        &["https://cluster.local/ns/default/sa/reviews"],
    ] {
        assert!(!mesh.accepts(&mesh.leaf(uris, |_| ())), "{uris:?}");
    }
}

#[test]
fn a_certificate_for_other_purposes_is_refused() {
    type Change = fn(&mut CertificateParams);
    let table: &[(&str, Change)] = &[
        ("expired", |p| {
            p.not_after = OffsetDateTime::now_utc() - Duration::from_secs(1);
        }),
        ("not yet", |p| {
            p.not_before = OffsetDateTime::now_utc() + Duration::from_secs(30);
        }),
        ("CA", |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }),
        ("no key usage", |p| p.key_usages.clear()),
        ("signs certificates", |p| {
            p.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }),
        ("signs lists", |p| {
            p.key_usages.push(KeyUsagePurpose::CrlSign);
        }),
        ("only servers", |p| p.extended_key_usages.truncate(1)),
    ];
    let mesh = Mesh::new();
    for (name, change) in table {
        assert!(!mesh.accepts(&mesh.leaf(&[GOOD], change)), "{name}");
    }
}

#[test]
fn an_identity_of_another_root_is_refused() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    assert!(!mesh.accepts(&other.leaf(&[GOOD], |_| ())));
}

#[test]
fn sessions_are_never_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::config::Config {
        grpc: ([127, 0, 0, 1], 0).into(),
        plaintext: None,
        http: ([127, 0, 0, 1], 0).into(),
        data_dir: dir.path().to_owned(),
        trust_domain: "cluster.local".into(),
        domain: "cluster.local".into(),
        root_cert: None,
        root_key: None,
        root_namespace: "istio-system".into(),
        lease_ttl: Duration::from_secs(30),
        heartbeat_interval: Duration::from_secs(10),
        server_names: Vec::new(),
        kubernetes: None,
        spiffe_bundle: None,
    };
    let authority = crate::ca::root::load(&config, OffsetDateTime::now_utc()).unwrap();
    let config = server_config(
        &Arc::new(authority),
        Arc::new(ResolvesServerCertUsingSni::new()),
        None,
    )
    .unwrap();
    assert_eq!(config.send_tls13_tickets, 0);
    assert!(!config.session_storage.can_cache());
    assert_eq!(config.max_early_data_size, 0);
}
