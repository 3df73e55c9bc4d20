use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::*;
use crate::{config::Config, server::tls};

fn config(dir: &std::path::Path) -> Config {
    Config {
        grpc: ([127, 0, 0, 1], 0).into(),
        plaintext: None,
        http: ([127, 0, 0, 1], 0).into(),
        data_dir: dir.to_owned(),
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
    }
}

fn authority() -> Authority {
    let dir = tempfile::tempdir().unwrap();
    root::load(&config(dir.path()), now()).unwrap()
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::new("cluster.local", "default", "reviews").unwrap()
}

fn request(params: &CertificateParams, key: &KeyPair) -> CertificateSigningRequestDer<'static> {
    params.serialize_request(key).unwrap().into()
}

fn plain_request() -> CertificateSigningRequestDer<'static> {
    request(&CertificateParams::default(), &KeyPair::generate().unwrap())
}

fn refusal(csr: &[u8]) -> String {
    let refusal = authority().issue(&id(), csr, None, now()).unwrap_err();
    assert_eq!(
        (refusal.code, refusal.field),
        (Code::InvalidArgument, Some("csr_der"))
    );
    refusal.message
}

#[test]
fn a_certificate_is_an_x509_svid() {
    let issued = authority()
        .issue(&id(), &plain_request(), None, now())
        .unwrap();
    assert_eq!(tls::identity(&issued.leaf).unwrap().id, id());
    let (_, cert) = parse_x509_certificate(&issued.leaf).unwrap();
    let names = cert.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "the subject is empty");
    assert_eq!(names.value.general_names, [GeneralName::URI(id().uri())]);
    let constraints = cert.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca);
    let usage = cert.key_usage().unwrap().unwrap();
    assert!(
        usage.critical && usage.value.flags == 1,
        "digitalSignature alone"
    );
    let purposes = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth);
    assert_eq!(cert.subject().iter().count(), 0);
    assert!(cert.serial.bits() <= 127 && cert.serial.bits() > 64);
}

#[test]
fn a_certificate_begins_a_minute_ago_and_lasts_an_hour() {
    let issued = authority()
        .issue(&id(), &plain_request(), None, now())
        .unwrap();
    let (_, cert) = parse_x509_certificate(&issued.leaf).unwrap();
    assert_eq!(cert.validity().not_before.to_datetime(), now() - BACKDATED);
    assert_eq!(cert.validity().not_after.to_datetime(), now() + DEFAULT_TTL);
    assert_eq!(issued.not_after, now() + DEFAULT_TTL);
}

#[test]
fn a_life_out_of_range_is_refused_and_the_longest_is_a_day() {
    let (authority, csr) = (authority(), plain_request());
    let longest = authority.issue(&id(), &csr, Some(MAX_TTL), now()).unwrap();
    assert_eq!(longest.not_after, now() + MAX_TTL);
    for ttl in [MAX_TTL + Duration::from_secs(1), Duration::from_secs(1)] {
        let refusal = authority.issue(&id(), &csr, Some(ttl), now()).unwrap_err();
        assert_eq!(refusal.field, Some("ttl"));
    }
}

#[test]
fn no_certificate_outlives_the_root() {
    let authority = authority();
    let late = authority.not_after() - Duration::from_secs(60);
    let issued = authority
        .issue(&id(), &plain_request(), None, late)
        .unwrap();
    assert_eq!(issued.not_after, authority.not_after());
}

#[test]
fn two_certificates_have_different_serials() {
    let authority = authority();
    let issue = || {
        authority
            .issue(&id(), &plain_request(), None, now())
            .unwrap()
            .leaf
    };
    let (one, two) = (issue(), issue());
    let serial = |der| parse_x509_certificate(der).unwrap().1.raw_serial().to_vec();
    assert_ne!(serial(&one), serial(&two));
}

#[test]
fn nothing_but_the_key_of_a_request_gets_into_the_certificate() {
    let mut params = CertificateParams::new(vec!["admin.example.com".to_owned()]).unwrap();
    let foreign = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";
    params
        .subject_alt_names
        .push(SanType::URI(foreign.try_into().unwrap()));
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "admin");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let key = KeyPair::generate().unwrap();
    let issued = authority()
        .issue(&id(), &request(&params, &key), None, now())
        .unwrap();
    let (_, cert) = parse_x509_certificate(&issued.leaf).unwrap();
    assert_eq!(cert.public_key().raw, key.subject_public_key_info());
    assert_eq!(tls::identity(&issued.leaf).unwrap().id, id());
    let names = cert.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI(id().uri())]);
    assert!(!cert.is_ca() && !cert.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert!(
        !cert
            .extended_key_usage()
            .unwrap()
            .unwrap()
            .value
            .code_signing
    );
    assert_eq!(cert.subject().iter().count(), 0);
}

#[test]
fn each_strong_kind_of_key_is_taken() {
    let authority = authority();
    let keys = [
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
    ];
    for key in keys {
        let csr = request(&CertificateParams::default(), &key);
        let issued = authority.issue(&id(), &csr, None, now()).unwrap();
        let (_, cert) = parse_x509_certificate(&issued.leaf).unwrap();
        assert_eq!(cert.public_key().raw, key.subject_public_key_info());
    }
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let mut csr = plain_request().to_vec();
    // The last byte is of the signature.
    *csr.last_mut().unwrap() ^= 1;
    assert!(refusal(&csr).contains("signature"));
}

#[test]
fn a_request_whose_key_was_exchanged_is_refused() {
    let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut csr = request(&CertificateParams::default(), &one).to_vec();
    let raw = one.public_key_raw();
    let at = csr
        .windows(raw.len())
        .position(|window| window == raw)
        .unwrap();
    csr[at..at + raw.len()].copy_from_slice(two.public_key_raw());
    assert!(refusal(&csr).contains("signature"));
}

#[test]
fn a_weak_key_is_refused() {
    for (csr, found) in [(RSA_1024, "RSA of 1024 bits"), (P_521, "1.3.132.0.35")] {
        let csr = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap();
        let message = refusal(&csr);
        assert!(
            message.contains(found) && message.contains("2048"),
            "{message}"
        );
    }
}

#[test]
fn a_request_that_is_too_large_or_no_request_is_refused() {
    assert!(refusal(&vec![0x30; csr::MAX_CSR_BYTES + 1]).contains("too many"));
    assert!(refusal(&[]).contains("PKCS#10"));
    assert!(refusal(b"-----BEGIN CERTIFICATE REQUEST-----").contains("PKCS#10"));
    let mut longer = plain_request().to_vec();
    longer.push(0);
    assert!(refusal(&longer).contains("after its end"));
}

#[test]
fn a_root_is_made_once_and_then_kept() {
    let dir = tempfile::tempdir().unwrap();
    let first = root::load(&config(dir.path()), now()).unwrap();
    let second = root::load(&config(dir.path()), now()).unwrap();
    assert_eq!(first.root_sha256(), second.root_sha256());
}

#[test]
fn a_root_that_does_not_fit_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    root::load(&config, now()).unwrap();
    let error = |config: &Config, at| root::load(config, at).unwrap_err().to_string();
    let other = Config {
        trust_domain: "other.example".into(),
        ..config.clone()
    };
    assert!(error(&other, now()).contains("trust domain is \"cluster.local\""));
    let eleven_years = now() + Duration::from_secs(11 * 365 * 86_400);
    assert!(error(&config, eleven_years).contains("expired"));
    let key = dir.path().join("root-key.pem");
    std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(error(&config, now()).contains("not this certificate's"));
    std::fs::remove_file(&key).unwrap();
    assert!(error(&config, now()).contains("root-key.pem is not"));
}

#[test]
fn a_given_root_is_used_and_copied_to_where_it_is_looked_for() {
    let (made, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = root::load(&config(made.path()), now()).unwrap();
    let given = Config {
        root_cert: Some(made.path().join("root.pem")),
        root_key: Some(made.path().join("root-key.pem")),
        ..config(dir.path())
    };
    assert_eq!(
        root::load(&given, now()).unwrap().root_sha256(),
        first.root_sha256()
    );
    let copy = std::fs::read_to_string(dir.path().join("root.pem")).unwrap();
    assert_eq!(copy, &**first.root_pem());
    assert!(!dir.path().join("root-key.pem").exists());
}

#[test]
fn a_given_root_does_not_overwrite_one_made_here() {
    let (made, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    root::load(&config(made.path()), now()).unwrap();
    let own = root::load(&config(dir.path()), now()).unwrap();
    let given = Config {
        root_cert: Some(made.path().join("root.pem")),
        root_key: Some(made.path().join("root-key.pem")),
        ..config(dir.path())
    };
    assert!(
        root::load(&given, now())
            .unwrap_err()
            .to_string()
            .contains("move root.pem")
    );
    assert_eq!(
        root::load(&config(dir.path()), now())
            .unwrap()
            .root_sha256(),
        own.root_sha256()
    );
}

#[test]
fn a_leaf_is_no_root() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default().self_signed(&key).unwrap();
    std::fs::write(dir.path().join("root.pem"), leaf.pem()).unwrap();
    std::fs::write(dir.path().join("root-key.pem"), key.serialize_pem()).unwrap();
    let message = root::load(&config(dir.path()), now())
        .unwrap_err()
        .to_string();
    assert!(message.contains("not a CA certificate"), "{message}");
}

/// openssl req -new -newkey rsa:1024 -nodes -subj /CN=weak
const RSA_1024: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIIBTjCBuAIBADAPMQ0wCwYDVQQDDAR3ZWFrMIGfMA0GCSqGSIb3DQEBAQUAA4GN
ADCBiQKBgQC2bXLAstgsjgCB0DuMvHwyU+a2L+5uegK5V59jgHn5MqV/lnzuTf+R
3Lyz4ihW8x7LtwQlfDXsSiCMWgJrxQsb0fu1AjjUs8qhx1A6KYn8O4rCBtBwCTv/
kQ8/NGymCQnWTXTtyqRjViwPM7lsJBjvoPA9Kyqdj6Bps2BYOEs97wIDAQABoAAw
DQYJKoZIhvcNAQELBQADgYEADZ0UHWfwoV7wNtzRzsbqmdHGMw9uWP2yofcSPVcX
0oIQnJN1eqGsh0tWG41LeSBPdNl57lzj6sxDswuaUVn7yjJYtM4EcVt7ryH3Jw57
3KLOevJ/gZ1QFAMjgsZ5A19wYjphY9gC7jz35ljmgI5+3Blm22kJltn9/CVwEHqo
5AY=
-----END CERTIFICATE REQUEST-----
";

/// openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes -subj /CN=weak
const P_521: &str = "\
-----BEGIN CERTIFICATE REQUEST-----
MIIBUjCBtAIBADAPMQ0wCwYDVQQDDAR3ZWFrMIGbMBAGByqGSM49AgEGBSuBBAAj
A4GGAAQAClqTrUz6HVnO531jyTY6l7UGN1HN8Hd5O4k7EcAQAQu6bEVi4dIaHtQE
eGsF8sH7PCD1EPwHGGKzL3yUlQKNr7UAjkVDtCgL4iJ/i0rgffSFR0Xlauv7UK5L
DvvvyI/VJDvziIMuzwIuQlqW2AUn20YdzULbxIpXL4Qy90YyX7r9ld2gADAKBggq
hkjOPQQDAgOBjAAwgYgCQgD8aj+mZoGnJJ+8VjmMm6x0D/FiZLW1zBikXa5ihdHc
TdsIg3iWhsm89ijF25Tz8e+XlE85oJNenroKGT7YnyvyHwJCAa6ZMhVuPUY+wZem
4bTPtx5i182PwJkI4dM67tvGfOwD4+cPNkbo2iIk4JLmbr/1LDFpkjnTBZ3Nl+P1
hjkfG+yW
-----END CERTIFICATE REQUEST-----
";
