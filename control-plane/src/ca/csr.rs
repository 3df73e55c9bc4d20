//! Takes the public key out of a certificate signing request, if the sender owns it and it is strong enough.
//!
//! Everything else in the request (subject, names, CA:TRUE, key usages) is not looked at and so cannot
//! get into a certificate.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
        OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
    },
    prelude::FromDer as _,
    public_key::PublicKey,
    x509,
};

use crate::refusal::Refusal;

/// Largest request. One with an RSA-8192 key and some names has 3 KiB.
pub(crate) const MAX_CSR_BYTES: usize = 16 * 1024;
/// RSA moduli, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Checks the size, the form, the key and the signature, in this order: the cheap ones first.
pub(crate) fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, Refusal> {
    if der.len() > MAX_CSR_BYTES {
        return Err(refuse(format!(
            "{} bytes are too many; at most {MAX_CSR_BYTES}",
            der.len()
        )));
    }
    let (rest, csr) = X509CertificationRequest::from_der(der)
        .map_err(|error| refuse(format!("is not a PKCS#10 request in DER: {error}")))?;
    if !rest.is_empty() {
        return Err(refuse(format!("has {} bytes after its end", rest.len())));
    }
    let key = &csr.certification_request_info.subject_pki;
    check_key(key)?;
    let signed_with = &csr.signature_algorithm.algorithm;
    let known = [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
    ];
    if !known.contains(signed_with) {
        return Err(refuse(format!(
            "is signed with {signed_with}; use SHA-256 or stronger (ECDSA, Ed25519, RSA PKCS#1)"
        )));
    }
    csr.verify_signature()
        .map_err(|_invalid| refuse("its signature is not by its key".to_owned()))?;
    SubjectPublicKeyInfo::from_der(key.raw)
        .map_err(|error| refuse(format!("its key cannot be used: {error}")))
}

fn check_key(key: &x509::SubjectPublicKeyInfo<'_>) -> Result<(), Refusal> {
    let wrong = |found: String| {
        Err(refuse(format!(
            "its key is {found}; use P-256, P-384, Ed25519 or RSA of 2048 bits or more"
        )))
    };
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|any| any.as_oid().ok());
        return match curve {
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
            Some(curve) => wrong(format!("on the curve {curve}")),
            None => wrong("on a curve without a name".to_owned()),
        };
    }
    if *algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if RSA_BITS.contains(&rsa.key_size()) => Ok(()),
            Ok(PublicKey::RSA(rsa)) => wrong(format!("RSA of {} bits", rsa.key_size())),
            _ => wrong("malformed RSA".to_owned()),
        };
    }
    wrong(format!("of type {algorithm}"))
}

fn refuse(message: String) -> Refusal {
    Refusal::invalid("csr_der", message)
}
