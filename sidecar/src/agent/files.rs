//! Key, certificate and roots where an application reads them, always of one issue.
//!
//! ```text
//! cert.pem ─► ..data/cert.pem     ..data ─► ..1795000000-7     a new directory is filled, then the link is renamed
//! key.pem  ─► ..data/key.pem
//! root.pem ─► ..data/root.pem
//! ```
//! As Kubernetes does with secrets. Who opens one file after the other may still meet the switch in between. grpcio
//! compares the times of the files before and after, Go and Java refuse a pair that does not match and read again at
//! the next interval, grpc-js reads all of them at once and again at the next interval.
//! The directory before the last stays until the next switch, for those who are in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::sync::watch;

use crate::{
    identity::{Issued, checked, unix_now},
    tls::svid,
};

pub(crate) const CERTIFICATE: &str = "cert.pem";
pub(crate) const KEY: &str = "key.pem";
pub(crate) const ROOTS: &str = "root.pem";
/// The link that is switched.
const DATA: &str = "..data";
/// RFC 7468.
const PEM_LINE: usize = 64;
/// Larger files are not ours.
const MAX_FILE: u64 = 1 << 20;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Of the directory, or a file in it.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Somebody else's file, which would be lost.
    #[error(
        "{} is there, and `outrigger agent` has not made it; give a directory of its own",
        path.display()
    )]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
}

impl FilesError {
    /// The task that wrote has ended early.
    pub(crate) fn lost(error: &tokio::task::JoinError) -> Self {
        Self::Write {
            path: PathBuf::from(DATA),
            source: io::Error::other(error.to_string()),
        }
    }
}

/// What of an issue goes into files, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Material {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) roots: String,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").finish_non_exhaustive()
    }
}

impl Material {
    pub(crate) fn new(
        chain: &[CertificateDer<'_>],
        key: String,
        roots: &[CertificateDer<'_>],
    ) -> Self {
        Self {
            certificate: pem(chain),
            key,
            roots: pem(roots),
        }
    }
}

fn pem(ders: &[CertificateDer<'_>]) -> String {
    ders.iter().map(|der| certificate(der)).collect()
}

/// The directory.
#[derive(Debug)]
pub(crate) struct CertificateFiles {
    /// Absolute: an application may have another working directory.
    dir: PathBuf,
    /// Numbers the directories of this process.
    written: Mutex<u64>,
    /// What is in the files: for those who are told rather than look.
    current: watch::Sender<Option<Arc<Material>>>,
}

impl CertificateFiles {
    /// Makes the directory if there is none, for this user alone.
    ///
    /// # Errors
    /// [`FilesError`].
    pub(crate) fn open(dir: &Path) -> Result<Self, FilesError> {
        let at = |path: &Path, source| FilesError::Write {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| at(dir, error))?;
        let dir = dir.canonicalize().map_err(|error| at(dir, error))?;
        for name in [CERTIFICATE, KEY, ROOTS] {
            let path = dir.join(name);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_symlink() => {}
                Ok(_) => return Err(FilesError::NotOurs { path }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(&path, error)),
            }
        }
        Ok(Self {
            dir,
            written: Mutex::new(0),
            current: watch::Sender::new(None),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Switches to `material` as a whole; after an error the files are as before.
    ///
    /// # Errors
    /// [`FilesError::Write`].
    pub(crate) fn write(&self, material: &Material) -> Result<(), FilesError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_locked(&mut written, material)
    }

    /// The same certificate and key with other roots. Nothing happens if they are the same, or there is no certificate.
    ///
    /// # Errors
    /// [`FilesError::Write`].
    pub(crate) fn write_roots(&self, roots: &[CertificateDer<'_>]) -> Result<(), FilesError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.borrow().clone();
        let Some(current) = current else {
            return Ok(());
        };
        let next = Material {
            roots: pem(roots),
            ..Material::clone(&current)
        };
        if next == *current {
            return Ok(());
        }
        self.write_locked(&mut written, &next)
    }

    /// What is in the files, and what will be.
    pub(super) fn current(&self) -> watch::Receiver<Option<Arc<Material>>> {
        self.current.subscribe()
    }

    fn write_locked(&self, written: &mut u64, material: &Material) -> Result<(), FilesError> {
        *written += 1;
        let name = format!("..{}-{}-{written}", unix_now(), std::process::id());
        let before = fs::read_link(self.dir.join(DATA)).ok();
        let result = self.fill(&name, material);
        if result.is_err() {
            fs::remove_dir_all(self.dir.join(&name)).ok();
            return result;
        }
        self.remove_all_but(&name, before.as_deref());
        self.current.send_replace(Some(Arc::new(material.clone())));
        result
    }

    fn fill(&self, name: &str, material: &Material) -> Result<(), FilesError> {
        let dir = self.dir.join(name);
        let at = |path: &Path, source| FilesError::Write {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .mode(0o755)
            .create(&dir)
            .map_err(|error| at(&dir, error))?;
        for (file, mode, text) in [
            (CERTIFICATE, 0o644, &material.certificate),
            (KEY, 0o600, &material.key),
            (ROOTS, 0o644, &material.roots),
        ] {
            let path = dir.join(file);
            create(&path, mode, text.as_bytes()).map_err(|error| at(&path, error))?;
        }
        self.link(Path::new(name), DATA)?;
        for file in [CERTIFICATE, KEY, ROOTS] {
            if !self.dir.join(file).is_symlink() {
                self.link(&Path::new(DATA).join(file), file)?;
            }
        }
        Ok(())
    }

    /// A link that is there is replaced in one step.
    fn link(&self, target: &Path, name: &str) -> Result<(), FilesError> {
        let path = self.dir.join(name);
        let new = self.dir.join(format!("..new-{}", name.trim_matches('.')));
        // Left by one that was killed.
        fs::remove_file(&new).ok();
        symlink(target, &new)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| FilesError::Write { path, source })
    }

    /// What is older, also of processes before this one.
    fn remove_all_but(&self, now: &str, before: Option<&Path>) {
        let ours = |name: &str| {
            let digits = name.strip_prefix("..").unwrap_or_default();
            digits.starts_with(|c: char| c.is_ascii_digit())
        };
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let old = name.to_str().is_some_and(|name| ours(name) && name != now);
            if old && before != Some(Path::new(&name)) {
                // What stays is removed the next time.
                fs::remove_dir_all(entry.path()).ok();
            }
        }
    }

    /// A file beside the certificates, replaced in one step.
    ///
    /// # Errors
    /// [`FilesError::Write`].
    pub(crate) fn write_beside(&self, name: &str, text: &str) -> Result<PathBuf, FilesError> {
        let path = self.dir.join(name);
        let new = self.dir.join(format!("..new-{name}"));
        fs::remove_file(&new).ok();
        create(&new, 0o644, text.as_bytes())
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| FilesError::Write {
                path: path.clone(),
                source,
            })?;
        Ok(path)
    }

    /// What a process before this one has left. None if there is nothing; otherwise why it is of no use.
    pub(crate) fn kept(&self) -> Option<Result<Issued, String>> {
        let pem = read(&self.path(CERTIFICATE)).ok()?;
        Some(self.kept_for(&pem))
    }

    fn kept_for(&self, pem: &[u8]) -> Result<Issued, String> {
        let file = |name: &str| read(&self.path(name)).map_err(|error| format!("{name}: {error}"));
        let certificates = |pem: &[u8]| -> Vec<CertificateDer<'static>> {
            CertificateDer::pem_slice_iter(pem).flatten().collect()
        };
        let chain = certificates(pem);
        let leaf = chain
            .first()
            .ok_or_else(|| format!("{CERTIFICATE} holds no certificate"))?;
        let svid = svid::reread(leaf).map_err(|error| format!("{CERTIFICATE}: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(&file(KEY)?)
            .map_err(|error| format!("{KEY} holds no private key: {error}"))?;
        let roots = certificates(&file(ROOTS)?);
        checked(chain, roots, &key, &svid.id, svid.not_after).map_err(|error| error.to_string())
    }

    /// Goes on with what [`Self::kept`] has found.
    pub(crate) fn go_on(&self) {
        let file = |name: &str| {
            let bytes = read(&self.path(name)).ok()?;
            String::from_utf8(bytes).ok()
        };
        if let (Some(certificate), Some(key), Some(roots)) =
            (file(CERTIFICATE), file(KEY), file(ROOTS))
        {
            self.current.send_replace(Some(Arc::new(Material {
                certificate,
                key,
                roots,
            })));
        }
    }
}

fn create(path: &Path, mode: u32, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text)?;
    // A machine that goes down now must not come up with a new link to empty files.
    file.sync_all()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, MAX_FILE), &mut bytes)?;
    Ok(bytes)
}

fn certificate(der: &[u8]) -> String {
    armoured("CERTIFICATE", der)
}

/// PEM with this label.
pub(crate) fn armoured(label: &str, der: &[u8]) -> String {
    let encoded = BASE64_STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII.
        let (line, others) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = others;
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

#[cfg(test)]
mod tests;
