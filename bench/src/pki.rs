//! A throw-away authority: one root and two workloads with SPIFFE identities, as PEM files.
//! P-256 throughout, as our own authority issues. For peers only; our sidecars get theirs from our
//! control plane.

use std::{fs, path::Path};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// Writes `root`, `client` and `server`, each as `.pem` and `.key`, into `dir`. The server's certificate also has the
/// name `server`, for peers that can verify names only.
pub(crate) fn write(dir: &Path) -> anyhow::Result<()> {
    let (root, leaves) = issue([
        (identity("client"), None),
        (identity("server"), Some("server")),
    ])?;
    let both = ["client", "server"].into_iter().zip(leaves);
    for (name, pair) in both.chain([("root", root)]) {
        fs::write(dir.join(name).with_extension("pem"), &pair.certificate)?;
        fs::write(dir.join(name).with_extension("key"), &pair.key)?;
        // As HAProxy wants it.
        let both = format!("{}{}", pair.certificate, pair.key);
        fs::write(dir.join(name).with_extension("both.pem"), both)?;
    }
    Ok(())
}

/// A root that the control plane may sign with (PEM, its certificate and its key), and, signed with it, a certificate
/// and key for each of `identities`.
pub(crate) fn authority(
    identities: impl IntoIterator<Item = String>,
) -> anyhow::Result<(Pair, Vec<Pair>)> {
    issue(identities.into_iter().map(|identity| (identity, None)))
}

fn issue(
    names: impl IntoIterator<Item = (String, Option<&'static str>)>,
) -> anyhow::Result<(Pair, Vec<Pair>)> {
    let mut root = CertificateParams::new(Vec::new())?;
    root.distinguished_name.push(DnType::CommonName, "root");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    root.subject_alt_names = vec![SanType::URI("spiffe://cluster.local".try_into()?)];
    root.not_before = time::OffsetDateTime::now_utc() - time::Duration::minutes(5);
    root.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(30);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
    let leaves = names.into_iter().map(|(identity, name)| {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(Vec::new())?;
        // Another than the root's: OpenSSL would take it for one that signed itself.
        leaf.distinguished_name
            .push(DnType::CommonName, name.unwrap_or("workload"));
        leaf.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        if let Some(name) = name {
            let name = SanType::DnsName(name.try_into()?);
            leaf.subject_alt_names.push(name);
        }
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        leaf.not_before = time::OffsetDateTime::now_utc() - time::Duration::minutes(5);
        leaf.not_after = time::OffsetDateTime::now_utc() + time::Duration::hours(12);
        let leaf = leaf.signed_by(&key, &root)?;
        Ok(Pair {
            certificate: leaf.pem(),
            key: key.serialize_pem(),
        })
    });
    let leaves = leaves.collect::<anyhow::Result<_>>()?;
    let root = Pair {
        certificate: root.pem(),
        key: root.key().serialize_pem(),
    };
    Ok((root, leaves))
}

/// A certificate and its key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pair {
    /// `NAME.pem` and `NAME.key` of `dir`.
    pub(crate) fn read(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let read = |extension| {
            let file = dir.join(name).with_extension(extension);
            fs::read_to_string(&file).with_context(|| file.display().to_string())
        };
        Ok(Self {
            certificate: read("pem")?,
            key: read("key")?,
        })
    }
}

/// The SPIFFE id of `name`'s certificate.
pub(crate) fn identity(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{name}")
}
