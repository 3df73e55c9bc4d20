//! What signs: a key, its certificate, and the chain from there to a root.
//!
//! Of a request only the key is used; the identity is the credential's. A certificate never outlives what signed it.
//! Source: SPIFFE X.509-SVID, sections 4 and 5.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{BACKDATED, hex, serial, sha256};
use crate::spiffe::SpiffeId;

/// Certificates between a leaf and its root.
const MAX_INTERMEDIATES: usize = 6;
/// Roots that one signer may bring.
const MAX_ROOTS: usize = 16;

/// A checked key with its chain.
#[derive(Debug)]
pub(crate) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    material: Material,
    /// The first end of anything in the chain.
    not_after: OffsetDateTime,
    root_life: (OffsetDateTime, OffsetDateTime),
    root_sha256: String,
    /// DER of the signing certificate's name.
    subject: Vec<u8>,
}

/// What a signer is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Material {
    /// The signing certificate and what leads from it to the root, without the root. Empty: the root itself signs.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The root that the chain leads to; then others that are to be trusted as well.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// PKCS#8, or what else rcgen reads.
    pub(crate) key_der: Vec<u8>,
}

/// A leaf and what its holder wants to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) serial: String,
    pub(crate) not_after: OffsetDateTime,
}

impl Signer {
    /// Checks everything that a peer will check: it signs a certificate for nobody and verifies it.
    pub(crate) fn new(
        mut material: Material,
        trust_domain: &str,
        now: OffsetDateTime,
    ) -> Result<Self, String> {
        if material.chain.len() > MAX_INTERMEDIATES || material.roots.len() > MAX_ROOTS {
            return Err(format!(
                "{} certificates in the chain and {} roots are too many; at most {MAX_INTERMEDIATES} and {MAX_ROOTS}",
                material.chain.len(),
                material.roots.len()
            ));
        }
        let root = material.roots.first().ok_or("there is no root")?;
        let signing = material.chain.first().unwrap_or(root);
        let key = key_pair(&material.key_der)?;
        check_signing(signing, &key, now)?;
        let all = material.chain.iter().chain(&material.roots);
        for certificate in all.clone() {
            check_names(certificate, trust_domain)?;
        }
        let subject = parse_x509_certificate(signing)
            .map_err(|error| error.to_string())?
            .1
            .subject()
            .as_raw()
            .to_vec();
        let issuer = Issuer::from_ca_cert_der(signing, key).map_err(|error| error.to_string())?;
        let trial = trial(&issuer, trust_domain, now).map_err(|error| error.to_string())?;
        let at = leading_root(&trial, &material, now)?;
        material.roots.swap(0, at);
        let root = material.roots.first().ok_or("there is no root")?;
        let root_life = life(root)?;
        let mut not_after = root_life.1;
        for certificate in &material.chain {
            not_after = not_after.min(life(certificate)?.1);
        }
        Ok(Self {
            issuer,
            root_sha256: hex(&sha256(root)),
            not_after,
            root_life,
            material,
            subject,
        })
    }

    /// Signs a leaf for `id`, with further names beside it (the control plane's own has some).
    pub(crate) fn sign(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        names: Vec<SanType>,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<Leaf, rcgen::Error> {
        let not_after = (now + ttl).min(self.not_after);
        let mut params = leaf_params(id.uri(), names, now)?;
        params.not_after = not_after;
        let number = serial()?;
        let text = hex(&number.to_bytes());
        params.serial_number = Some(number);
        let der = params.signed_by(key, &self.issuer)?.into();
        Ok(Leaf {
            der,
            serial: text,
            not_after,
        })
    }

    /// `leaf` with what leads from it to the root, without the root.
    pub(crate) fn chain_of(&self, leaf: &Leaf) -> Vec<CertificateDer<'static>> {
        let leaf = std::iter::once(&leaf.der);
        leaf.chain(&self.material.chain).cloned().collect()
    }

    pub(crate) const fn material(&self) -> &Material {
        &self.material
    }

    /// DER of the name that it signs with.
    pub(crate) fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// The root that it leads to.
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        // `new` has refused a signer without.
        self.material.roots.first().expect("a signer has a root")
    }

    /// Hex SHA-256 of the root's DER.
    pub(crate) fn root_sha256(&self) -> &str {
        &self.root_sha256
    }

    /// The first end of anything in the chain.
    pub(crate) const fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// From when to when the root is valid.
    pub(crate) const fn root_life(&self) -> (OffsetDateTime, OffsetDateTime) {
        self.root_life
    }
}

pub(crate) fn key_pair(der: &[u8]) -> Result<KeyPair, String> {
    KeyPair::try_from(der).map_err(|error| format!("the key cannot be used: {error}"))
}

fn leaf_params(
    uri: &str,
    names: Vec<SanType>,
    now: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    // No subject: the SAN is critical then, and the identity stands in one place only.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params
        .subject_alt_names
        .push(SanType::URI(uri.to_owned().try_into()?));
    params.not_before = now - BACKDATED;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn check_signing(
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
    now: OffsetDateTime,
) -> Result<(), String> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    if !parsed.is_ca() {
        return Err("not a CA certificate (basicConstraints CA:TRUE is missing)".to_owned());
    }
    if let Ok(Some(usage)) = parsed.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err("its key usage does not allow to sign certificates (keyCertSign)".to_owned());
    }
    let not_after = parsed.validity().not_after.to_datetime();
    if not_after <= now {
        return Err(format!("expired at {not_after}"));
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err("the key is not this certificate's".to_owned());
    }
    Ok(())
}

/// A signing certificate names at most the bare trust domain (X.509-SVID, section 3.2), and the right one.
fn check_names(certificate: &CertificateDer<'_>, trust_domain: &str) -> Result<(), String> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        let GeneralName::URI(uri) = name else {
            continue;
        };
        if let Some(found) = uri.strip_prefix("spiffe://")
            && found != trust_domain
        {
            return Err(format!(
                "{}: its trust domain is {found:?}, but --trust-domain says {trust_domain:?}; the trust domain of a root is fixed",
                parsed.subject()
            ));
        }
    }
    Ok(())
}

/// A certificate for nobody, in the form of all others.
fn trial(
    issuer: &Issuer<'static, KeyPair>,
    trust_domain: &str,
    now: OffsetDateTime,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let key = KeyPair::generate()?;
    let uri = format!("spiffe://{trust_domain}/ns/outrigger-system/sa/trial");
    let mut params = leaf_params(&uri, Vec::new(), now)?;
    params.not_after = now + Duration::from_secs(60);
    params.serial_number = Some(serial()?);
    Ok(params.signed_by(&key, issuer)?.into())
}

/// Which of the roots the chain leads to.
fn leading_root(
    trial: &CertificateDer<'_>,
    material: &Material,
    now: OffsetDateTime,
) -> Result<usize, String> {
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let mut last = String::new();
    for (at, root) in material.roots.iter().enumerate() {
        match verify(trial, &material.chain, root, now) {
            Ok(()) if life(root)?.1.unix_timestamp() > i64::try_from(seconds).unwrap_or(0) => {
                return Ok(at);
            }
            Ok(()) => last = format!("the root expired at {}", life(root)?.1),
            Err(error) => last = error,
        }
    }
    Err(format!(
        "certificates that it signs would not be accepted: {last}; the chain has to lead to a root, in its time, within the path lengths"
    ))
}

fn verify(
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), String> {
    let anchor = webpki::anchor_from_trusted_cert(root).map_err(|error| error.to_string())?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
    let algorithms = rustls::crypto::aws_lc_rs::default_provider()
        .signature_verification_algorithms
        .all;
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        leaf.verify_for_usage(
            algorithms,
            std::slice::from_ref(&anchor),
            chain,
            now,
            usage,
            None,
            None,
        )
        .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// From when to when a certificate is valid.
pub(crate) fn life(
    certificate: &CertificateDer<'_>,
) -> Result<(OffsetDateTime, OffsetDateTime), String> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let validity = parsed.validity();
    Ok((
        validity.not_before.to_datetime(),
        validity.not_after.to_datetime(),
    ))
}
