//! An authority that the operator gives as files: a root, or an intermediate with its chain (Istio's `cacerts`).
//!
//! ```text
//! --root-cert, --root-key      a root that signs itself
//! --ca-dir DIR                 ca-cert.pem, ca-key.pem (signs), cert-chain.pem (up to the root, optional), root-cert.pem
//! ```
//! Read as a whole; what [`Signer::new`](super::signer::Signer::new) does not accept is not used.

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;

use super::{
    root::{self, RootError},
    signer::Material,
};
use crate::config::Config;

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    Root { cert: PathBuf, key: PathBuf },
    Dir(PathBuf),
}

impl Given {
    /// None: the root is made here.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>, RootError> {
        match (&config.root_cert, &config.root_key, &config.ca_dir) {
            (None, None, None) => Ok(None),
            (Some(cert), Some(key), None) => Ok(Some(Self::Root {
                cert: cert.clone(),
                key: key.clone(),
            })),
            (None, None, Some(dir)) => Ok(Some(Self::Dir(dir.clone()))),
            _ => Err(RootError::Pair),
        }
    }

    /// The file that errors name: that of the signing certificate.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Root { cert, .. } => cert.clone(),
            Self::Dir(dir) => dir.join("ca-cert.pem"),
        }
    }

    /// Reads all of it. Whether it fits together is for the signer to find out.
    pub(crate) fn read(&self) -> Result<Material, RootError> {
        match self {
            Self::Root { cert, key } => {
                let mut roots = root::certificates(cert)?;
                roots.truncate(1);
                Ok(Material {
                    chain: Vec::new(),
                    roots,
                    key_der: root::private_key(key)?,
                })
            }
            Self::Dir(dir) => dir_material(dir),
        }
    }
}

fn dir_material(dir: &Path) -> Result<Material, RootError> {
    let roots = root::certificates(&dir.join("root-cert.pem"))?;
    let signing = root::certificates(&dir.join("ca-cert.pem"))?;
    let further = dir.join("cert-chain.pem");
    let further = if further.exists() {
        root::certificates(&further)?
    } else {
        Vec::new()
    };
    // Istio's chain repeats the signing certificate, and may end with the root.
    let mut chain: Vec<CertificateDer<'static>> = Vec::new();
    for certificate in signing.into_iter().chain(further) {
        if !roots.contains(&certificate) && !chain.contains(&certificate) {
            chain.push(certificate);
        }
    }
    Ok(Material {
        chain,
        roots,
        key_der: root::private_key(&dir.join("ca-key.pem"))?,
    })
}
