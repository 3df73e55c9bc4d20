//! A throw-away authority: one root and two workloads with SPIFFE identities, as PEM files.
//! P-256 throughout, as our own authority issues. For peers only; our sidecars get theirs from our
//! control plane.

use std::{fs, path::Path};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Writes `root.pem`, `client.pem`, `client.key`, `server.pem`, `server.key` into `dir`.
pub(crate) fn write(dir: &Path) -> anyhow::Result<()> {
    let mut root = CertificateParams::new(Vec::new())?;
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
    fs::write(dir.join("root.pem"), root.pem())?;
    for name in ["client", "server"] {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(Vec::new())?;
        leaf.subject_alt_names = vec![SanType::URI(identity(name).try_into()?)];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = leaf.signed_by(&key, &root).context("signing")?;
        fs::write(dir.join(name).with_extension("pem"), leaf.pem())?;
        fs::write(dir.join(name).with_extension("key"), key.serialize_pem())?;
    }
    Ok(())
}

/// A root that the control plane may sign with (PEM, its certificate and its key), and, signed with it, a certificate
/// and key for each of `identities`.
pub(crate) fn authority(
    identities: impl IntoIterator<Item = String>,
) -> anyhow::Result<(Pair, Vec<Pair>)> {
    let mut root = CertificateParams::new(Vec::new())?;
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
    let leaves = identities.into_iter().map(|identity| {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(Vec::new())?;
        leaf.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
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

/// The SPIFFE id of `name`'s certificate.
pub(crate) fn identity(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{name}")
}
