use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{
    authority::{Authority, Issued},
    root::RootError,
    *,
};
use crate::{
    config::{Config, Hidden, RootEncryption},
    server::tls,
    spiffe::SpiffeId,
    store::{Store, testing::Disk},
};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType,
};
use tonic::Code;

/// As a process that is started with what the one before left.
async fn open(
    disk: &mut Disk,
    config: &Config,
    at: OffsetDateTime,
) -> Result<Authority, RootError> {
    *disk = disk.after_crash();
    Authority::open(disk.open(), config, at).await
}

/// With a root made just now.
async fn authority() -> Authority {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::for_tests(dir.path());
    open(&mut Disk::default(), &config, now()).await.unwrap()
}

impl Issued {
    fn leaf(&self) -> &CertificateDer<'static> {
        self.chain.first().unwrap()
    }
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

async fn refusal(csr: &[u8]) -> String {
    let authority = authority().await;
    let refusal = authority
        .issue(&id(), csr, None, None, now())
        .await
        .unwrap_err();
    assert_eq!(
        (refusal.code, refusal.field),
        (Code::InvalidArgument, Some("csr_der"))
    );
    refusal.message
}

#[tokio::test]
async fn a_certificate_is_an_x509_svid() {
    let issued = authority()
        .await
        .issue(&id(), &plain_request(), None, None, now())
        .await
        .unwrap();
    assert_eq!(tls::identity(issued.leaf()).unwrap().id, id());
    let (_, cert) = parse_x509_certificate(issued.leaf()).unwrap();
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

#[tokio::test]
async fn a_certificate_begins_a_minute_ago_and_lasts_an_hour() {
    let issued = authority()
        .await
        .issue(&id(), &plain_request(), None, None, now())
        .await
        .unwrap();
    let (_, cert) = parse_x509_certificate(issued.leaf()).unwrap();
    assert_eq!(cert.validity().not_before.to_datetime(), now() - BACKDATED);
    assert_eq!(cert.validity().not_after.to_datetime(), now() + DEFAULT_TTL);
    assert_eq!(issued.not_after, now() + DEFAULT_TTL);
}

#[tokio::test]
async fn a_life_out_of_range_is_refused_and_the_longest_is_a_day() {
    let (authority, csr) = (authority().await, plain_request());
    let longest = authority
        .issue(&id(), &csr, Some(MAX_TTL), None, now())
        .await
        .unwrap();
    assert_eq!(longest.not_after, now() + MAX_TTL);
    for ttl in [MAX_TTL + Duration::from_secs(1), Duration::from_secs(1)] {
        let refusal = authority
            .issue(&id(), &csr, Some(ttl), None, now())
            .await
            .unwrap_err();
        assert_eq!(refusal.field, Some("ttl"));
    }
}

#[tokio::test]
async fn no_certificate_outlives_the_root() {
    let authority = authority().await;
    let late = authority.in_force().active.not_after() - Duration::from_secs(60);
    let issued = authority
        .issue(&id(), &plain_request(), None, None, late)
        .await
        .unwrap();
    assert_eq!(issued.not_after, authority.in_force().active.not_after());
}

#[tokio::test]
async fn two_certificates_have_different_serials() {
    let authority = authority().await;
    let issue = || async {
        let csr = plain_request();
        let issued = authority.issue(&id(), &csr, None, None, now()).await;
        issued.unwrap().leaf().clone()
    };
    let (one, two) = (issue().await, issue().await);
    let serial = |der| parse_x509_certificate(der).unwrap().1.raw_serial().to_vec();
    assert_ne!(serial(&one), serial(&two));
}

#[tokio::test]
async fn nothing_but_the_key_of_a_request_gets_into_the_certificate() {
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
        .await
        .issue(&id(), &request(&params, &key), None, None, now())
        .await
        .unwrap();
    let (_, cert) = parse_x509_certificate(issued.leaf()).unwrap();
    assert_eq!(cert.public_key().raw, key.subject_public_key_info());
    assert_eq!(tls::identity(issued.leaf()).unwrap().id, id());
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

#[tokio::test]
async fn each_strong_kind_of_key_is_taken() {
    let authority = authority().await;
    let keys = [
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
    ];
    for key in keys {
        let csr = request(&CertificateParams::default(), &key);
        let issued = authority
            .issue(&id(), &csr, None, None, now())
            .await
            .unwrap();
        let (_, cert) = parse_x509_certificate(issued.leaf()).unwrap();
        assert_eq!(cert.public_key().raw, key.subject_public_key_info());
    }
}

#[tokio::test]
async fn a_request_signed_by_another_key_is_refused() {
    let mut csr = plain_request().to_vec();
    // The last byte is of the signature.
    *csr.last_mut().unwrap() ^= 1;
    assert!(refusal(&csr).await.contains("signature"));
}

#[tokio::test]
async fn a_request_whose_key_was_exchanged_is_refused() {
    let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut csr = request(&CertificateParams::default(), &one).to_vec();
    let raw = one.public_key_raw();
    let at = csr
        .windows(raw.len())
        .position(|window| window == raw)
        .unwrap();
    csr[at..at + raw.len()].copy_from_slice(two.public_key_raw());
    assert!(refusal(&csr).await.contains("signature"));
}

#[tokio::test]
async fn a_weak_key_is_refused() {
    for (csr, found) in [(RSA_1024, "RSA of 1024 bits"), (P_521, "1.3.132.0.35")] {
        let csr = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap();
        let message = refusal(&csr).await;
        assert!(
            message.contains(found) && message.contains("2048"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_or_no_request_is_refused() {
    assert!(
        refusal(&vec![0x30; csr::MAX_CSR_BYTES + 1])
            .await
            .contains("too many")
    );
    assert!(refusal(&[]).await.contains("PKCS#10"));
    assert!(
        refusal(b"-----BEGIN CERTIFICATE REQUEST-----")
            .await
            .contains("PKCS#10")
    );
    let mut longer = plain_request().to_vec();
    longer.push(0);
    assert!(refusal(&longer).await.contains("after its end"));
}

fn root_of(authority: &Authority) -> String {
    authority.in_force().active.root_sha256().to_owned()
}

/// A data directory as versions before this one left it.
fn older_data_dir(dir: &std::path::Path) -> KeyPair {
    let life = Duration::from_secs(3650 * 86_400);
    let made = root::make("cluster.local", life, now()).unwrap();
    let key = signer::key_pair(&made.key_der).unwrap();
    std::fs::write(dir.join("root.pem"), pem_text(&made.roots[0])).unwrap();
    std::fs::write(dir.join("root-key.pem"), key.serialize_pem()).unwrap();
    key
}

#[tokio::test]
async fn a_root_is_made_once_and_then_kept_in_the_store() {
    let (dir, mut disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let config = Config::for_tests(dir.path());
    let first = root_of(&open(&mut disk, &config, now()).await.unwrap());
    let again = open(&mut disk, &config, now()).await.unwrap();
    assert_eq!(root_of(&again), first);
    let published = std::fs::read_to_string(dir.path().join("root.pem")).unwrap();
    assert_eq!(published, *again.in_force().bundle.pem);
    assert!(!dir.path().join("root-key.pem").exists());
}

#[tokio::test]
async fn the_root_of_an_older_data_directory_is_taken_over_and_its_key_file_goes() {
    let (dir, mut disk) = (tempfile::tempdir().unwrap(), Disk::default());
    older_data_dir(dir.path());
    let before = std::fs::read_to_string(dir.path().join("root.pem")).unwrap();
    let config = Config::for_tests(dir.path());
    let authority = open(&mut disk, &config, now()).await.unwrap();
    assert_eq!(*authority.in_force().bundle.pem, before);
    assert!(!dir.path().join("root-key.pem").exists());
    assert_eq!(
        root_of(&open(&mut disk, &config, now()).await.unwrap()),
        root_of(&authority)
    );
}

#[tokio::test]
async fn a_takeover_that_does_not_reach_the_store_leaves_the_key_file() {
    let (dir, mut disk) = (tempfile::tempdir().unwrap(), Disk::default());
    older_data_dir(dir.path());
    let config = Config::for_tests(dir.path());
    let store = disk.open();
    disk.fill(true);
    assert!(Authority::open(store, &config, now()).await.is_err());
    assert!(dir.path().join("root-key.pem").exists());
    disk.fill(false);
    assert!(open(&mut disk, &config, now()).await.is_ok());
    assert!(!dir.path().join("root-key.pem").exists());
}

#[tokio::test]
async fn a_wrong_or_missing_encryption_key_stops_the_start_and_changes_nothing() {
    let (dir, mut disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let config = Config::for_tests(dir.path());
    let root = root_of(&open(&mut disk, &config, now()).await.unwrap());
    let file = dir.path().join(seal::FILE);
    let kept = std::fs::read(&file).unwrap();

    std::fs::remove_file(&file).unwrap();
    let error = open(&mut disk, &config, now())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("root-encryption.key"), "{error}");
    assert!(!file.exists(), "no other key is made in its place");

    std::fs::write(&file, "11".repeat(32)).unwrap();
    let error = open(&mut disk, &config, now())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("encrypted with the key") && error.contains("nothing was changed"),
        "{error}"
    );
    std::fs::write(&file, kept).unwrap();
    assert_eq!(
        root_of(&open(&mut disk, &config, now()).await.unwrap()),
        root
    );
}

#[tokio::test]
async fn an_encryption_key_is_exchanged_by_giving_the_new_one_before_the_old_one() {
    let (dir, mut disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let with = |text: String| Config {
        root_encryption: RootEncryption::Key(Hidden::new(text)),
        ..Config::for_tests(dir.path())
    };
    let (old, new) = ("11".repeat(32), "22".repeat(32));
    let root = root_of(&open(&mut disk, &with(old.clone()), now()).await.unwrap());
    assert!(open(&mut disk, &with(new.clone()), now()).await.is_err());
    open(&mut disk, &with(format!("{new}\n{old}")), now())
        .await
        .unwrap();
    assert_eq!(
        root_of(&open(&mut disk, &with(new), now()).await.unwrap()),
        root
    );
    assert!(open(&mut disk, &with(old), now()).await.is_err());
}

#[tokio::test]
async fn the_root_key_is_nowhere_on_disk_in_plain() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::for_tests(dir.path());
    let metrics = crate::metrics::Metrics::new().unwrap();
    let (store, _writer) = Store::open(dir.path(), metrics.store_write_seconds).unwrap();
    let authority = Authority::open(store, &config, now()).await.unwrap();
    let in_force = authority.in_force();
    let key = &in_force.active.material().key_der;
    let pair = signer::key_pair(key).unwrap();
    let pem = pair.serialize_pem();
    let base64 = pem.lines().nth(1).unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|at| at == needle);
        assert!(!holds(key) && !holds(base64.as_bytes()));
    }
}

#[tokio::test]
async fn a_root_that_does_not_fit_stops_the_start() {
    let (dir, mut disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let config = Config::for_tests(dir.path());
    open(&mut disk, &config, now()).await.unwrap();
    let error = |config: Config, at| {
        let mut disk = disk.clone();
        async move { open(&mut disk, &config, at).await.unwrap_err().to_string() }
    };
    let other = Config {
        trust_domain: "other.example".into(),
        ..config.clone()
    };
    let message = error(other, now()).await;
    assert!(
        message.contains("trust domain is \"cluster.local\""),
        "{message}"
    );
    let eleven_years = now() + Duration::from_secs(11 * 365 * 86_400);
    let message = error(config, eleven_years).await;
    assert!(message.contains("expired"), "{message}");
}

#[tokio::test]
async fn half_of_an_older_root_stops_the_start() {
    for (lost, kept) in [("root.pem", "root-key.pem"), ("root-key.pem", "root.pem")] {
        let dir = tempfile::tempdir().unwrap();
        older_data_dir(dir.path());
        std::fs::remove_file(dir.path().join(lost)).unwrap();
        let config = Config::for_tests(dir.path());
        let error = open(&mut Disk::default(), &config, now())
            .await
            .unwrap_err();
        assert!(matches!(error, RootError::Half { .. }), "{error}");
        assert!(dir.path().join(kept).exists());
    }
}

#[tokio::test]
async fn a_leaf_is_no_root_and_another_key_no_root_of_this_one() {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default().self_signed(&key).unwrap();
    for (cert, private, wrong) in [
        (leaf.pem(), key.serialize_pem(), "not a CA certificate"),
        (
            given_root(),
            KeyPair::generate().unwrap().serialize_pem(),
            "not this certificate's",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("root.pem"), cert).unwrap();
        std::fs::write(dir.path().join("root-key.pem"), private).unwrap();
        let config = Config::for_tests(dir.path());
        let error = open(&mut Disk::default(), &config, now())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
    }
}

fn given_root() -> String {
    let life = Duration::from_secs(3650 * 86_400);
    pem_text(&root::make("cluster.local", life, now()).unwrap().roots[0])
}

#[tokio::test]
async fn a_certificate_is_in_the_store_by_its_end_before_it_is_handed_out() {
    let (dir, mut disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let config = Config::for_tests(dir.path());
    let authority = open(&mut disk, &config, now()).await.unwrap();
    let issued = authority
        .issue(&id(), &plain_request(), None, None, now())
        .await
        .unwrap();
    let later = open(&mut disk, &config, now()).await.unwrap();
    assert!(later.in_force().state.horizon_ms() >= unix_ms(issued.not_after));
}

#[tokio::test]
async fn a_disk_that_fails_does_not_end_the_mesh() {
    let (dir, mut disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let config = Config::for_tests(dir.path());
    let authority = open(&mut disk, &config, now()).await.unwrap();
    disk.fill(true);
    let csr = plain_request();
    let issued = authority.issue(&id(), &csr, None, None, now()).await;
    assert!(issued.is_ok());
    let rotated = authority.rotate(rotation::Why::Operator, now()).await;
    assert!(rotated.is_err(), "what cannot be written is not begun");
    assert!(authority.in_force().state.rotation.is_none());
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
