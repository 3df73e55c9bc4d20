//! Certificates that the operator has put into files: roots, and our own for servers outside of the mesh. Read when a
//! configuration names them, looked at every few seconds, read again when one has changed. Never on the request path.
//!
//! ```text
//! CDS ─ names a file below --tls-files? ─► snapshot ─ follow ─► read ─► what connections use
//!            └─ no: NACK                     every 3 s ─┘         └─ cannot be read: the last good goes on, a warning
//! ```
//! What the control plane may name is bounded by the operator of this process: only files below the directories of
//! `--tls-files`, links followed.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read as _,
    path::{Component, Path, PathBuf},
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use outrigger_core::{OutsideTls, Snapshot};
use rustls::{RootCertStore, crypto::aws_lc_rs::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _,
};
use webpki::{CertRevocationList, OwnedCertRevocationList};

/// How often files are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often it is looked whether another is done with reading.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long a new configuration waits for its files: it comes into force without those that are not read by then.
pub(crate) const READ_WITHIN: Duration = Duration::from_millis(500);
/// A distribution's bundle of roots has about 250 KiB.
const MAX_FILE: u64 = 4 << 20;
/// Where distributions keep the roots; the first one that is there is the system's.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a connection to a server outside of the mesh is made with.
#[derive(Debug)]
pub(crate) struct Material {
    /// Rises with every change.
    pub(crate) generation: u64,
    pub(crate) roots: Arc<RootCertStore>,
    /// Where the roots come from, for messages.
    pub(crate) roots_from: PathBuf,
    pub(crate) revoked: Arc<[CertRevocationList<'static>]>,
    pub(crate) key: Option<Arc<CertifiedKey>>,
}

/// Directories from which files may be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed(Arc<[PathBuf]>);

/// All that is read.
#[derive(Debug, Default)]
pub(crate) struct TlsFiles {
    allowed: Allowed,
    read: ArcSwap<BTreeMap<Arc<OutsideTls>, Entry>>,
    generation: AtomicU64,
    following: Mutex<()>,
}

#[derive(Clone, Debug)]
struct Entry {
    stamps: Vec<Option<Stamp>>,
    /// The last good, or why there is none.
    material: Result<Arc<Material>, Arc<str>>,
    /// Why the files as they are now cannot be used: they are read again at every look. The reason may pass without any
    /// of them changing (no descriptors left, a disk's error, a directory's mode).
    failed: Option<String>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
    /// A file's mode and owner change this alone.
    status_changed: (i64, i64),
}

impl Allowed {
    pub(crate) fn new(directories: &[PathBuf]) -> Self {
        Self(directories.into())
    }

    /// What is wrong with a file's name, if anything. Nothing is read.
    pub(crate) fn objection(&self, path: &Path) -> Option<String> {
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.is_absolute() || !path.components().all(plain) {
            return Some(format!(
                "{} must be an absolute path without ..",
                path.display()
            ));
        }
        if self.0.iter().any(|directory| path.starts_with(directory)) {
            return None;
        }
        let message = match &*self.0 {
            [] => "this sidecar was started without --tls-files DIR, which says where such files may be".to_owned(),
            some => {
                let some: Vec<_> = some.iter().map(|one| one.display().to_string()).collect();
                format!("this sidecar reads files below {} only (--tls-files)", some.join(", "))
            }
        };
        Some(format!("{}: {message}", path.display()))
    }

    /// Reads a file that is below one of the directories, links followed.
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        let real = fs::canonicalize(path).map_err(|error| cannot_read(path, &error))?;
        let below = |directory: &PathBuf| {
            fs::canonicalize(directory).is_ok_and(|directory| real.starts_with(directory))
        };
        if !self.0.iter().any(below) {
            return Err(format!(
                "{} leads to {}, which is not below a directory of --tls-files",
                path.display(),
                real.display()
            ));
        }
        read(&real)
    }
}

impl TlsFiles {
    pub(crate) fn new(allowed: Allowed) -> Self {
        Self {
            allowed,
            ..Self::default()
        }
    }

    /// What connections under `tls` use.
    ///
    /// # Errors
    /// Why there is nothing to use.
    pub(crate) fn material(&self, tls: &OutsideTls) -> Result<Arc<Material>, Arc<str>> {
        match self.read.load().get(tls) {
            Some(entry) => entry.material.clone(),
            None => Err("its files have not been read yet".into()),
        }
    }

    /// Whether [`Self::follow`] would have anything to do.
    pub(crate) fn concern(&self, snapshot: &Snapshot) -> bool {
        named(snapshot).next().is_some() || !self.read.load().is_empty()
    }

    /// Reads what `snapshot` names and has changed, and forgets what it does not name. Waits for the disk, but for
    /// another who does no longer than `within`. False if that one has not come to an end.
    pub(crate) fn follow(&self, snapshot: &Snapshot, within: Duration) -> bool {
        if !self.concern(snapshot) {
            return true;
        }
        let until = Instant::now() + within;
        let _one_at_a_time = loop {
            match self.following.try_lock() {
                Ok(guard) => break guard,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return false,
                Err(TryLockError::WouldBlock) => pause(),
            }
        };
        let known = self.read.load_full();
        let mut next: BTreeMap<Arc<OutsideTls>, Entry> = BTreeMap::new();
        let mut changed = false;
        for tls in named(snapshot) {
            if next.contains_key(&tls) {
                continue;
            }
            let before = known.get(&tls);
            let stamps = stamps(&tls);
            let is_same = |before: &&Entry| before.stamps == stamps && before.failed.is_none();
            let entry = match before.filter(is_same) {
                Some(same) => same.clone(),
                None => {
                    changed = true;
                    self.entry(&tls, stamps, before)
                }
            };
            next.insert(tls, entry);
        }
        if changed || next.len() != known.len() {
            self.read.store(Arc::new(next));
        }
        true
    }

    fn entry(&self, tls: &OutsideTls, stamps: Vec<Option<Stamp>>, before: Option<&Entry>) -> Entry {
        match self.load(tls) {
            Ok(material) => Entry {
                stamps,
                material: Ok(Arc::new(material)),
                failed: None,
            },
            Err(error) => {
                let last_good = before.and_then(|before| before.material.as_ref().ok());
                let told = before.and_then(|before| before.failed.as_ref());
                if told != Some(&error) {
                    tracing::warn!(%error, goes_on = last_good.is_some(), "TLS files cannot be used");
                }
                Entry {
                    stamps,
                    material: last_good
                        .map(Arc::clone)
                        .ok_or_else(|| error.as_str().into()),
                    failed: Some(error),
                }
            }
        }
    }

    /// Reads now what `tls` names.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub(crate) fn load(&self, tls: &OutsideTls) -> Result<Material, String> {
        let (roots_from, roots) = match (&tls.roots, tls.unverified) {
            (_, true) => (PathBuf::new(), RootCertStore::empty()),
            (Some(path), false) => (path.clone(), roots(path, &self.allowed.read(path)?)?),
            (None, false) => {
                let path = system_roots()
                    .ok_or("the system has no file of roots; name one in caCertificates")?;
                let roots = roots(&path, &read(&path)?)?;
                (path, roots)
            }
        };
        let revoked = match &tls.revoked {
            Some(path) => {
                let lists = revocations(path, &self.allowed.read(path)?)?;
                warn_of_strange_lists(path, &lists, &roots_from, &roots);
                lists
            }
            None => Vec::new(),
        };
        let key = match &tls.client {
            Some((chain, key)) => Some(Arc::new(self.key(chain, key)?)),
            None => None,
        };
        Ok(Material {
            generation: self.generation.fetch_add(1, Ordering::Relaxed) + 1,
            roots: Arc::new(roots),
            roots_from,
            revoked: revoked.into(),
            key,
        })
    }

    fn key(&self, chain: &Path, key: &Path) -> Result<CertifiedKey, String> {
        let pem = self.allowed.read(chain)?;
        let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| cannot_read(chain, &error))?;
        if certificates.is_empty() {
            return Err(format!("{} holds no certificate in PEM", chain.display()));
        }
        let private = PrivateKeyDer::from_pem_slice(&self.allowed.read(key)?)
            .map_err(|error| cannot_read(key, &error))?;
        let private = any_supported_type(&private).map_err(|error| cannot_read(key, &error))?;
        let certified = CertifiedKey::new(certificates, private);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(certified)
            }
            Err(_other) => Err(format!(
                "the key in {} is not that of the certificate in {}",
                key.display(),
                chain.display()
            )),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "on a thread for work that blocks"
)]
fn pause() {
    std::thread::sleep(LOOK_AGAIN);
}

fn named(snapshot: &Snapshot) -> impl Iterator<Item = Arc<OutsideTls>> {
    snapshot.clusters().filter_map(|(_, cluster)| {
        let tls = cluster.config.tls.as_ref()?;
        tls.outside.clone()
    })
}

fn stamps(tls: &OutsideTls) -> Vec<Option<Stamp>> {
    let client = tls.client.iter().flat_map(|(chain, key)| [chain, key]);
    let files = tls.roots.iter().chain(&tls.revoked).chain(client);
    let mut stamps: Vec<_> = files.map(|path| stamp(path)).collect();
    if tls.roots.is_none() && !tls.unverified {
        stamps.push(system_roots().and_then(|path| stamp(&path)));
    }
    stamps
}

#[cfg(unix)]
fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        modified: found.modified().ok(),
        length: found.len(),
        inode: found.ino(),
        status_changed: (found.ctime(), found.ctime_nsec()),
    })
}

fn system_roots() -> Option<PathBuf> {
    let mut known = SYSTEM_ROOTS.iter().map(PathBuf::from);
    known.find(|path| path.is_file())
}

/// Whether a path is how others name the system's roots.
pub(crate) fn is_system_roots(path: &str) -> bool {
    SYSTEM_ROOTS.contains(&path)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    // To open a pipe waits for somebody who writes into it.
    let found = fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
    if !found.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    let file = fs::File::open(path).map_err(|error| cannot_read(path, &error))?;
    let mut most = file.take(MAX_FILE + 1);
    most.read_to_end(&mut bytes)
        .map_err(|error: io::Error| cannot_read(path, &error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{} is longer than 4 MiB", path.display()));
    }
    Ok(bytes)
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| cannot_read(path, &error))?;
        // The system's bundle may have one that webpki does not take; the others count.
        roots.add_parsable_certificates([certificate]);
    }
    if roots.is_empty() {
        return Err(format!(
            "{} holds no root certificate in PEM",
            path.display()
        ));
    }
    Ok(roots)
}

fn revocations(path: &Path, pem: &[u8]) -> Result<Vec<CertRevocationList<'static>>, String> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).map(|list| {
        let list = list.map_err(|error| cannot_read(path, &error))?;
        OwnedCertRevocationList::from_der(&list)
            .map(CertRevocationList::from)
            .map_err(|error| cannot_read(path, &error))
    });
    let lists: Vec<_> = lists.collect::<Result<_, _>>()?;
    if lists.is_empty() {
        return Err(format!(
            "{} holds no revocation list in PEM",
            path.display()
        ));
    }
    Ok(lists)
}

/// What no list is about counts as not revoked. Where none is of a root, that may be a mistake.
fn warn_of_strange_lists(
    path: &Path,
    lists: &[CertRevocationList<'_>],
    roots_from: &Path,
    roots: &RootCertStore,
) {
    let of_a_root = |list: &CertRevocationList<'_>| {
        let mut roots = roots.roots.iter();
        roots.any(|root| root.subject.as_ref() == list.issuer())
    };
    if !lists.iter().any(of_a_root) {
        tracing::warn!(
            lists = %path.display(),
            roots = %roots_from.display(),
            "no revocation list is of one of the roots: none of what they have issued counts as revoked"
        );
    }
}

fn cannot_read(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{} cannot be used: {error}", path.display())
}
