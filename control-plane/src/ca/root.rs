//! Makes roots, reads those that others made, and keeps private files private.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use time::OffsetDateTime;

use super::{seal::SealError, signer::Material, state::OpenError};
use crate::store::StoreError;

/// The trust bundle in the data directory.
pub(crate) const CERT_FILE: &str = "root.pem";
/// Where older versions kept the root's key.
pub(crate) const KEY_FILE: &str = "root-key.pem";
/// A file of certificates or of a key.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    /// Reading or writing.
    #[error("{doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// One of the two is missing.
    #[error(
        "{found} is there but neither the store nor {missing} has its key; restore the one that was lost, or move the first away to get a new root"
    )]
    Half { found: PathBuf, missing: PathBuf },
    /// `--root-cert` without `--root-key`, or beside `--ca-dir`.
    #[error(
        "--root-cert and --root-key belong together, and --ca-dir takes the place of both; give the pair, the directory, or neither"
    )]
    Pair,
    /// Not what it has to be.
    #[error("{path}: {problem}")]
    Unfit { path: PathBuf, problem: String },
    /// What the store has cannot be used.
    #[error(transparent)]
    Stored(#[from] OpenError),
    /// The encryption key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store.
    #[error("keeping the root in the store")]
    Store(#[from] StoreError),
    /// Making one failed.
    #[error("making a root certificate")]
    Make(#[source] rcgen::Error),
}

/// A new root. May sign one level of intermediates: who looks at path lengths of roots must not stumble later.
pub(crate) fn make(
    trust_domain: &str,
    life: Duration,
    now: OffsetDateTime,
) -> Result<Material, RootError> {
    let key = KeyPair::generate().map_err(RootError::Make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Outrigger");
    let serial = super::serial().map_err(RootError::Make)?;
    // Two roots of one mesh have different names, so that a chain is never tried with the wrong one.
    let tag: String = super::hex(&serial.to_bytes()).chars().take(8).collect();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{trust_domain} root {tag}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - super::BACKDATED;
    params.not_after = now + life;
    params.serial_number = Some(serial);
    let uri = format!("spiffe://{trust_domain}")
        .try_into()
        .map_err(RootError::Make)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let root = params.self_signed(&key).map_err(RootError::Make)?;
    Ok(Material {
        chain: Vec::new(),
        roots: vec![root.into()],
        key_der: key.serialize_der(),
    })
}

/// All certificates of a PEM file, of which there is one at least.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RootError> {
    let text = text(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unfit(path, "no PEM certificate in it".to_owned())),
        Err(error) => Err(unfit(path, format!("not PEM: {error}"))),
    }
}

/// The private key of a PEM file.
pub(crate) fn private_key(path: &Path) -> Result<Vec<u8>, RootError> {
    let key = PrivateKeyDer::from_pem_slice(&text(path)?).map_err(|error| {
        unfit(
            path,
            format!("no unencrypted private key in PEM in it: {error}"),
        )
    })?;
    Ok(key.secret_der().to_vec())
}

pub(crate) fn unfit(path: &Path, problem: String) -> RootError {
    RootError::Unfit {
        path: path.to_owned(),
        problem,
    }
}

fn text(path: &Path) -> Result<Vec<u8>, RootError> {
    let read = || {
        let mut text = Vec::new();
        let file = fs::File::open(path)?;
        io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE_BYTES), &mut text)?;
        Ok(text)
    };
    read().map_err(|source| RootError::File {
        doing: "reading",
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), RootError> {
    let write = || {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        // `mode` does not touch a file that was left over.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        match path.parent() {
            Some(dir) => fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| RootError::File {
        doing: "writing",
        path: path.to_owned(),
        source,
    })
}
