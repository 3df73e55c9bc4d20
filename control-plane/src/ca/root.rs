//! The root: made at first start and kept beside the store, or given as files.
//!
//! A root that does not fit (not a CA, expired, another's key, another trust domain) stops the start.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::Authority;
use crate::config::Config;

/// Life of a root made here.
const ROOT_LIFE: time::Duration = time::Duration::days(3650);
/// Files in the data directory.
const CERT_FILE: &str = "root.pem";
const KEY_FILE: &str = "root-key.pem";

/// The root cannot be used.
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
        "{found} is there but {missing} is not; restore it, or move the first away to get a new root"
    )]
    Half { found: PathBuf, missing: PathBuf },
    /// `--root-cert` without `--root-key` or the other way round.
    #[error("--root-cert and --root-key belong together; give both or neither")]
    Pair,
    /// Not what a root has to be.
    #[error("{path}: {problem}")]
    Unfit { path: PathBuf, problem: String },
    /// Making one failed.
    #[error("making a root certificate")]
    Make(#[source] rcgen::Error),
}

/// Loads the root of `config`, or makes it at the first start.
pub(crate) fn load(config: &Config, now: OffsetDateTime) -> Result<Authority, RootError> {
    let kept_cert = config.data_dir.join(CERT_FILE);
    let kept_key = config.data_dir.join(KEY_FILE);
    match (&config.root_cert, &config.root_key) {
        (Some(cert), Some(key)) => {
            let authority = read(cert, key, config, now)?;
            if kept_key.exists() {
                return Err(RootError::Unfit {
                    path: kept_key,
                    problem: format!(
                        "is of a root made here, but --root-cert names {}; move root.pem and root-key.pem away, or leave --root-cert out",
                        cert.display()
                    ),
                });
            }
            // Workloads and operators find the bundle in one place, whoever made it.
            write_private(&kept_cert, authority.root_pem().as_bytes())?;
            Ok(authority)
        }
        (None, None) => {
            match (kept_cert.exists(), kept_key.exists()) {
                (true, true) => {}
                (false, false) => make(&kept_cert, &kept_key, &config.trust_domain, now)?,
                (true, false) => {
                    return Err(RootError::Half {
                        found: kept_cert,
                        missing: kept_key,
                    });
                }
                (false, true) => {
                    return Err(RootError::Half {
                        found: kept_key,
                        missing: kept_cert,
                    });
                }
            }
            read(&kept_cert, &kept_key, config, now)
        }
        _ => Err(RootError::Pair),
    }
}

fn make(
    cert_path: &Path,
    key_path: &Path,
    trust_domain: &str,
    now: OffsetDateTime,
) -> Result<(), RootError> {
    let key = KeyPair::generate().map_err(RootError::Make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Outrigger");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{trust_domain} root"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - super::BACKDATED;
    params.not_after = now + ROOT_LIFE;
    params.serial_number = Some(super::serial().map_err(RootError::Make)?);
    let uri = format!("spiffe://{trust_domain}")
        .try_into()
        .map_err(RootError::Make)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let cert = params.self_signed(&key).map_err(RootError::Make)?;
    // The key first: a crash in between leaves a key without a certificate, which no one has trusted yet.
    write_private(key_path, key.serialize_pem().as_bytes())?;
    write_private(cert_path, cert.pem().as_bytes())
}

fn read(
    cert_path: &Path,
    key_path: &Path,
    config: &Config,
    now: OffsetDateTime,
) -> Result<Authority, RootError> {
    let text = |path: &Path| {
        fs::read_to_string(path).map_err(|source| RootError::File {
            doing: "reading",
            path: path.to_owned(),
            source,
        })
    };
    let unfit = |path: &Path, problem: String| RootError::Unfit {
        path: path.to_owned(),
        problem,
    };
    let pem = text(cert_path)?;
    let root = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| unfit(cert_path, format!("no PEM certificate in it: {error}")))?;
    let key = KeyPair::from_pem(&text(key_path)?)
        .map_err(|error| unfit(key_path, format!("no PKCS#8 key in PEM in it: {error}")))?;
    let not_after = check(&root, &key, &config.trust_domain, now)
        .map_err(|problem| unfit(cert_path, problem))?;
    // Again from DER: the file may hold more than the one certificate.
    let encoded = pem_text(&root);
    Authority::new(root, encoded, key, not_after, &config.trust_domain)
        .map_err(|error| unfit(cert_path, error.to_string()))
}

fn check(
    root: &CertificateDer<'_>,
    key: &KeyPair,
    trust_domain: &str,
    now: OffsetDateTime,
) -> Result<OffsetDateTime, String> {
    let (_, cert) = parse_x509_certificate(root).map_err(|error| error.to_string())?;
    if !cert.is_ca() {
        return Err("not a CA certificate (basicConstraints CA:TRUE is missing)".to_owned());
    }
    if let Ok(Some(usage)) = cert.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err("its key usage does not allow to sign certificates".to_owned());
    }
    let not_after = cert.validity().not_after.to_datetime();
    if not_after <= now {
        return Err(format!("expired at {not_after}"));
    }
    if cert.public_key().raw != key.subject_public_key_info() {
        return Err("the key is not this certificate's".to_owned());
    }
    let names = cert.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        let GeneralName::URI(uri) = name else {
            continue;
        };
        if let Some(found) = uri.strip_prefix("spiffe://")
            && found != trust_domain
        {
            return Err(format!(
                "its trust domain is {found:?}, but --trust-domain says {trust_domain:?}; the trust domain of a root is fixed"
            ));
        }
    }
    Ok(not_after)
}

fn pem_text(der: &CertificateDer<'_>) -> Arc<str> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (n, character) in BASE64_STANDARD.encode(der).chars().enumerate() {
        if n > 0 && n % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text.into()
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
