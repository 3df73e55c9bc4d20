//! Certificates that our own authority's key signed, but that are no identities of this mesh.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::server::ResolvesServerCertUsingSni;
use time::OffsetDateTime;

use super::*;
use crate::{config::Config, store::testing::Disk};

const GOOD: &str = "spiffe://cluster.local/ns/default/sa/reviews";

struct Mesh {
    issuer: Issuer<'static, KeyPair>,
    verifier: SpiffeVerifier,
}

/// With a root that the test has the key of.
fn authority() -> (Issuer<'static, KeyPair>, Arc<Authority>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert, private) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, root.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let config = Config {
        root_cert: Some(cert),
        root_key: Some(private),
        ..Config::for_tests(dir.path())
    };
    let store = Disk::default().open();
    let open = Authority::open(store, &config, OffsetDateTime::now_utc());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let authority = runtime.block_on(open).unwrap();
    (Issuer::new(params, key), Arc::new(authority))
}

impl Mesh {
    fn new() -> Self {
        let (issuer, authority) = authority();
        Self {
            issuer,
            verifier: SpiffeVerifier {
                authority,
                algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
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
fn one_that_has_ended_gets_in_to_renew_itself_and_has_no_time_left() {
    let mesh = Mesh::new();
    let ended = mesh.leaf(&[GOOD], |p| {
        p.not_after = OffsetDateTime::now_utc() - Duration::from_secs(1);
    });
    assert!(mesh.accepts(&ended));
    assert_eq!(identity(&ended).unwrap().left(), Duration::ZERO);
    let foreign = Mesh::new().leaf(&[GOOD], |p| {
        p.not_after = OffsetDateTime::now_utc() - Duration::from_secs(1);
    });
    assert!(!mesh.accepts(&foreign));
}

#[test]
fn sessions_are_never_resumed() {
    let config = server_config(
        &authority().1,
        Arc::new(ResolvesServerCertUsingSni::new()),
        None,
    )
    .unwrap();
    assert_eq!(config.send_tls13_tickets, 0);
    assert!(!config.session_storage.can_cache());
    assert_eq!(config.max_early_data_size, 0);
}
