//! A private key, what is asked for it, and whether what was given for it can be used.

use std::sync::Arc;

use outrigger_proto::outrigger::v1::IssueCertificateResponse;
use rcgen::{CertificateParams, KeyPair};
use rustls::{RootCertStore, crypto::aws_lc_rs::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::{IssueError, unix_now};
use crate::agent::files::Material;

/// Certificates in a bundle that we take.
const MAX_ROOTS: usize = 64;
/// A chain is a leaf and a few intermediates.
const MAX_CHAIN: usize = 8;

/// A private key and the request for its certificate.
pub(super) struct Key {
    pair: KeyPair,
    pub(super) csr_der: Vec<u8>,
}

/// A usable certificate.
pub(crate) struct Issued {
    pub(crate) spiffe_id: Arc<str>,
    pub(crate) certified_key: Arc<CertifiedKey>,
    pub(crate) roots: Arc<RootCertStore>,
    /// The same, as they came.
    pub(crate) roots_der: Vec<CertificateDer<'static>>,
    /// Seconds since the Unix epoch.
    pub(crate) not_after: u64,
}

impl Key {
    pub(super) fn generate() -> Result<Self, IssueError> {
        let make = || -> Result<Self, rcgen::Error> {
            let pair = KeyPair::generate()?;
            let csr = CertificateParams::default().serialize_request(&pair)?;
            let csr_der = csr.der().to_vec();
            Ok(Self { pair, csr_der })
        };
        make().map_err(|error| IssueError::Unusable(format!("no key could be made: {error}")))
    }

    /// For somebody else's eyes: the application that the certificate is for.
    pub(super) fn material(&self, issued: &Issued) -> Material {
        Material::new(
            &issued.certified_key.cert,
            self.pair.serialize_pem(),
            &issued.roots_der,
        )
    }

    /// Checks what was issued as strictly as a peer would.
    pub(super) fn usable(&self, response: IssueCertificateResponse) -> Result<Issued, IssueError> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.pair.serialize_der()));
        let not_after = response.not_after.map_or(0, |time| time.seconds);
        let ders = |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect();
        checked(
            ders(response.chain_der),
            ders(response.roots_der),
            &key,
            &response.spiffe_id,
            u64::try_from(not_after).unwrap_or(0),
        )
    }
}

/// A key (PKCS#8, DER) as PEM.
pub(super) fn pem(der: &[u8]) -> String {
    crate::agent::files::armoured("PRIVATE KEY", der)
}

/// A certificate for `key` that leads to one of `roots_der` and says that we are `spiffe_id`, and nobody else.
///
/// # Errors
/// [`IssueError::Unusable`].
pub(crate) fn checked(
    chain: Vec<CertificateDer<'static>>,
    roots_der: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
    spiffe_id: &str,
    not_after: u64,
) -> Result<Issued, IssueError> {
    let unusable = |why: String| IssueError::Unusable(why);
    if chain.len() > MAX_CHAIN || roots_der.len() > MAX_ROOTS {
        return Err(unusable("chain or bundle is too long".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for root in &roots_der {
        roots
            .add(root.clone())
            .map_err(|error| unusable(format!("a root of the bundle: {error}")))?;
    }
    let signer = any_supported_type(key).map_err(|error| unusable(error.to_string()))?;
    if not_after <= unix_now() {
        return Err(unusable(format!(
            "it ended at {not_after} s after the epoch; is the clock right?"
        )));
    }
    let Some((leaf_der, intermediates)) = chain.split_first() else {
        return Err(unusable("the chain is empty".to_owned()));
    };
    let leaf = EndEntityCert::try_from(leaf_der).map_err(|error| unusable(error.to_string()))?;
    leaf.verify_for_usage(
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all,
        &roots.roots,
        intermediates,
        UnixTime::now(),
        KeyUsage::client_auth(),
        None,
        None,
    )
    .map_err(|error| unusable(format!("it does not lead to the bundle: {error}")))?;
    let ids: Vec<&str> = leaf.valid_uri_names().collect();
    if ids != [spiffe_id] {
        return Err(unusable(format!(
            "it names {ids:?} instead of {spiffe_id:?}"
        )));
    }
    let certified_key = CertifiedKey::new(chain, signer);
    certified_key
        .keys_match()
        .map_err(|error| unusable(format!("it is for another key: {error}")))?;
    Ok(Issued {
        spiffe_id: spiffe_id.into(),
        certified_key: Arc::new(certified_key),
        roots: Arc::new(roots),
        roots_der,
        not_after,
    })
}
