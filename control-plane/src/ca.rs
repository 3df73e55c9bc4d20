//! The certificate authority: signs identities, for whoever proved to have one, with the mesh's root.
//!
//! ```text
//! CSR ─csr─► public key ─┐
//! credential ─► SpiffeId ─┴─► issue ─► X.509-SVID
//! ```
//! Of a request only the key is used; the identity is the credential's. Keys of workloads are never seen here.
//! Source: SPIFFE X.509-SVID, sections 4 and 5.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{digest, rand};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tonic::Code;

use crate::{refusal::Refusal, spiffe::SpiffeId};

pub(crate) mod csr;
pub(crate) mod grpc;
pub(crate) mod kubernetes;
pub(crate) mod limit;
pub(crate) mod root;
pub(crate) mod server_cert;
pub(crate) mod service;
pub(crate) mod tokens;

/// Life of a certificate that asks for none.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(60 * 60);
/// Longest life.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest life: below, renewal at half-life would not keep up.
pub(crate) const MIN_TTL: Duration = Duration::from_secs(10);
/// Certificates begin this much earlier, for clocks that are behind.
pub(crate) const BACKDATED: Duration = Duration::from_secs(60);

/// Signs with the root.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_pem: Arc<str>,
    root_sha256: String,
    not_after: OffsetDateTime,
    trust_domain: Arc<str>,
}

/// A certificate and what its holder wants to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    /// The leaf; the root signed it.
    pub(crate) leaf: CertificateDer<'static>,
    /// When it ends.
    pub(crate) not_after: OffsetDateTime,
}

impl Authority {
    /// `root` has been checked by [`root`].
    fn new(
        root: CertificateDer<'static>,
        root_pem: Arc<str>,
        key: KeyPair,
        not_after: OffsetDateTime,
        trust_domain: &str,
    ) -> Result<Self, rcgen::Error> {
        let sha256 = digest::digest(&digest::SHA256, &root);
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&root, key)?,
            root_sha256: hex(sha256.as_ref()),
            root,
            root_pem,
            not_after,
            trust_domain: trust_domain.into(),
        })
    }

    /// Signs an X.509-SVID for `id` and the key of `csr_der`.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        csr_der: &[u8],
        ttl: Option<Duration>,
        now: OffsetDateTime,
    ) -> Result<Issued, Refusal> {
        let key = csr::public_key(csr_der)?;
        self.issue_key(id, &key, ttl, now)
    }

    /// As [`Self::issue`], for a key that [`csr::public_key`] has already accepted.
    pub(crate) fn issue_key(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        ttl: Option<Duration>,
        now: OffsetDateTime,
    ) -> Result<Issued, Refusal> {
        let ttl = checked_ttl(ttl)?;
        self.sign(key, id, Vec::new(), ttl, now)
            .map_err(|error| Refusal::new(Code::Internal, format!("signing failed: {error}")))
    }

    /// Signs a leaf for `id`, with further names beside it (the server certificate has some).
    fn sign(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        names: Vec<SanType>,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, rcgen::Error> {
        let not_after = (now + ttl).min(self.not_after);
        let mut params = CertificateParams::default();
        // No subject: the SAN is critical then, and the identity stands in one place only.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params
            .subject_alt_names
            .push(SanType::URI(id.uri().to_string().try_into()?));
        params.not_before = now - BACKDATED;
        params.not_after = not_after;
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer)?;
        Ok(Issued {
            leaf: leaf.into(),
            not_after,
        })
    }

    /// The trust bundle: one root.
    pub(crate) const fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The trust bundle as PEM.
    pub(crate) const fn root_pem(&self) -> &Arc<str> {
        &self.root_pem
    }

    /// Hex SHA-256 of the root's DER: what a join token pins.
    pub(crate) fn root_sha256(&self) -> &str {
        &self.root_sha256
    }

    /// When the root ends.
    pub(crate) const fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// e.g. `cluster.local`
    pub(crate) const fn trust_domain(&self) -> &Arc<str> {
        &self.trust_domain
    }
}

/// The default for none or zero; refuses what is out of range.
fn checked_ttl(ttl: Option<Duration>) -> Result<Duration, Refusal> {
    match ttl {
        None | Some(Duration::ZERO) => Ok(DEFAULT_TTL),
        Some(ttl) if (MIN_TTL..=MAX_TTL).contains(&ttl) => Ok(ttl),
        Some(ttl) => Err(Refusal::invalid(
            "ttl",
            format!(
                "{} s is out of range; use {} s to {} s, or 0 for {} s",
                ttl.as_secs_f64(),
                MIN_TTL.as_secs(),
                MAX_TTL.as_secs(),
                DEFAULT_TTL.as_secs()
            ),
        )),
    }
}

/// 16 random bytes, positive (RFC 5280: at most 20, CA/B: at least 64 bits of randomness).
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_unspecified| rcgen::Error::RingUnspecified)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(digit)
        .collect()
}

fn digit(nibble: u8) -> Option<char> {
    char::from_digit(nibble.into(), 16)
}

#[cfg(test)]
mod tests;
