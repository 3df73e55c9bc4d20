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

/// The SPIFFE id of `name`'s certificate.
pub(crate) fn identity(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{name}")
}
