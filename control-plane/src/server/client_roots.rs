//! Roots of somebody else's that clients' certificates may lead to beside our own: SPIRE's, from a file that it keeps.
//!
//! They are for clients of this control plane only: what sidecars trust among themselves is not changed by them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use webpki::{EndEntityCert, KeyUsage};

/// How often the file is read.
const READ_EVERY: Duration = Duration::from_secs(10);
/// A bundle in rotation has two or three.
const MAX_ROOTS: usize = 64;

/// The file, and the roots that were in it last.
#[derive(Debug)]
pub(crate) struct ClientRoots {
    path: PathBuf,
    roots: ArcSwap<RootCertStore>,
}

impl ClientRoots {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(path: PathBuf) -> Result<Arc<Self>, String> {
        let pem = std::fs::read(&path).map_err(|error| error.to_string())?;
        let roots = ArcSwap::from_pointee(parse(&pem)?);
        Ok(Arc::new(Self { path, roots }))
    }

    /// Reads it again and again; goes on with the last good roots.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(READ_EVERY).await;
            let read = tokio::fs::read(&self.path).await;
            let read = read.map_err(|error| error.to_string());
            match read.and_then(|pem| parse(&pem)) {
                Ok(roots) if roots.roots == self.roots.load().roots => said.clear(),
                Ok(roots) => {
                    tracing::info!(path = %self.path.display(), roots = roots.len(), "clients' roots have changed");
                    self.roots.store(Arc::new(roots));
                }
                Err(error) if error != said => {
                    tracing::warn!(path = %self.path.display(), error, "clients' roots cannot be read; the last good ones are used");
                    said = error;
                }
                Err(_same) => {}
            }
        }
    }

    /// Whether a client's chain leads to one of them.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        EndEntityCert::try_from(leaf)?.verify_for_usage(
            algorithms.all,
            &self.roots.load().roots,
            intermediates,
            now,
            KeyUsage::client_auth(),
            None,
            None,
        )?;
        Ok(())
    }
}

fn parse(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        if roots.len() == MAX_ROOTS {
            return Err(format!("holds more than {MAX_ROOTS} certificates"));
        }
        roots
            .add(certificate)
            .map_err(|error| format!("certificate {}: {error}", roots.len() + 1))?;
    }
    if roots.is_empty() {
        return Err("holds no PEM certificate".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn root() -> String {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::default();
        params.self_signed(&key).unwrap().pem()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_and_a_bad_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        assert!(ClientRoots::read(path.clone()).is_err());
        std::fs::write(&path, root()).unwrap();
        let roots = ClientRoots::read(path.clone()).unwrap();
        let following = tokio::spawn(Arc::clone(&roots).follow());
        let count = || roots.roots.load().len();
        std::fs::write(&path, "nothing").unwrap();
        tokio::time::sleep(READ_EVERY * 3).await;
        assert_eq!(count(), 1);
        std::fs::write(&path, root() + &root()).unwrap();
        while count() == 1 {
            tokio::time::sleep(READ_EVERY).await;
        }
        assert_eq!(count(), 2);
        following.abort();
    }
}
