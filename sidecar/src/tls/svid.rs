//! The SPIFFE X.509-SVID rules, on certificates whose chain webpki has already verified.
//!
//! Source: SPIFFE X.509-SVID and SPIFFE-ID specifications. webpki checks chain, time, key sizes and usage;
//! what it does not know is here: exactly one URI, its form, its trust domain, and what a leaf may not be.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::{Refusal, subject};

/// Who a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Svid {
    /// `spiffe://cluster.local/ns/default/sa/reviews`
    pub(crate) id: Arc<str>,
    /// Seconds since the Unix epoch at which its certificate ends.
    pub(crate) not_after: u64,
    /// DNS names of its certificate.
    pub(crate) dns: Arc<[Box<str>]>,
    /// Subject of its certificate, see [`super::subject`].
    pub(crate) subject: Arc<str>,
}

impl Svid {
    fn of(leaf: &X509Certificate<'_>, id: &str) -> Self {
        let names = leaf.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let dns = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(Box::from(*name)),
            _ => None,
        });
        Self {
            id: id.into(),
            not_after: u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0),
            dns: dns.collect(),
            subject: subject::rfc2253(leaf.subject()).into(),
        }
    }
}

const MAX_ID: usize = 2048; // SPIFFE-ID 2.3
const MAX_TRUST_DOMAIN: usize = 255;

/// Splits a SPIFFE id into trust domain and path (which starts with `/`, or is empty).
///
/// # Errors
/// The rule that was broken.
pub(crate) fn parse_id(id: &str) -> Result<(&str, &str), &'static str> {
    if id.len() > MAX_ID {
        return Err("the id is longer than 2048 bytes");
    }
    let rest = id
        .strip_prefix("spiffe://")
        .ok_or("the URI's scheme is not spiffe")?;
    let (domain, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if domain.is_empty() || domain.len() > MAX_TRUST_DOMAIN {
        return Err("the trust domain is empty or longer than 255 bytes");
    }
    let in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    if !domain.bytes().all(in_domain) {
        return Err("the trust domain has a character other than a-z, 0-9, dot, dash, underscore");
    }
    for segment in path.split('/').skip(1) {
        if segment.is_empty() || segment == "." || segment == ".." {
            return Err("the path has an empty or relative segment");
        }
        let in_path = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if !segment.bytes().all(in_path) {
            return Err("the path has a character that SPIFFE ids do not have");
        }
    }
    Ok((domain, path))
}

/// Checks a leaf and says who it is.
pub(crate) fn check_leaf(der: &CertificateDer<'_>, trust_domain: &str) -> Result<Svid, Refusal> {
    let (rest, leaf) = X509Certificate::from_der(der)
        .map_err(|_parse| Refusal::NotAnSvid("the certificate does not parse"))?;
    if !rest.is_empty() {
        return Err(Refusal::NotAnSvid("bytes follow the certificate"));
    }
    check_usage(&leaf)?;
    let id = single_uri(&leaf)?;
    let (domain, path) = parse_id(id).map_err(Refusal::NotAnSvid)?;
    if path.is_empty() {
        return Err(Refusal::NotAnSvid("the id has no path"));
    }
    if domain != trust_domain {
        return Err(Refusal::TrustDomain(id.to_owned()));
    }
    Ok(Svid::of(&leaf, id))
}

/// Who a leaf is that a verifier of ours has already let pass.
pub(crate) fn reread(der: &CertificateDer<'_>) -> Result<Svid, Refusal> {
    let (_, leaf) = X509Certificate::from_der(der)
        .map_err(|_parse| Refusal::NotAnSvid("the certificate does not parse"))?;
    Ok(Svid::of(&leaf, single_uri(&leaf)?))
}

fn check_usage(leaf: &X509Certificate<'_>) -> Result<(), Refusal> {
    let constraints = leaf
        .basic_constraints()
        .map_err(|_twice| Refusal::NotAnSvid("basic constraints occur twice"))?;
    if constraints.is_some_and(|c| c.value.ca) {
        return Err(Refusal::NotAnSvid("it is a CA certificate"));
    }
    let usage = leaf
        .key_usage()
        .map_err(|_twice| Refusal::NotAnSvid("key usage occurs twice"))?
        .ok_or(Refusal::NotAnSvid("key usage is missing"))?;
    if !usage.critical {
        return Err(Refusal::NotAnSvid("key usage is not critical"));
    }
    if !usage.value.digital_signature() {
        return Err(Refusal::NotAnSvid("key usage lacks digitalSignature"));
    }
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(Refusal::NotAnSvid("key usage allows signing certificates"));
    }
    let extended = leaf
        .extended_key_usage()
        .map_err(|_twice| Refusal::NotAnSvid("extended key usage occurs twice"))?;
    if extended.is_some_and(|e| !(e.value.client_auth && e.value.server_auth)) {
        return Err(Refusal::NotAnSvid(
            "extended key usage lacks clientAuth or serverAuth",
        ));
    }
    Ok(())
}

/// The one URI among the subject's alternative names.
fn single_uri<'a>(leaf: &'a X509Certificate<'_>) -> Result<&'a str, Refusal> {
    let mut uris = Vec::new();
    let mut extensions = 0;
    for extension in leaf.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            extensions += 1;
            if leaf.subject().as_raw() == EMPTY_NAME && !extension.critical {
                return Err(Refusal::NotAnSvid(
                    "the subject is empty and its alternative names are not critical",
                ));
            }
            uris.extend(names.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            }));
        }
    }
    match uris.as_slice() {
        [uri] if extensions == 1 => Ok(uri),
        [] => Err(Refusal::NotAnSvid("it has no URI")),
        _ => Err(Refusal::NotAnSvid("it has more than one URI")),
    }
}

/// A signing certificate names at most our trust domain, never a workload.
pub(crate) fn check_signer(der: &CertificateDer<'_>, trust_domain: &str) -> Result<(), Refusal> {
    let (_, signer) = X509Certificate::from_der(der)
        .map_err(|_parse| Refusal::NotAnSvid("an intermediate certificate does not parse"))?;
    let names = signer
        .subject_alternative_name()
        .map_err(|_twice| Refusal::NotAnSvid("an intermediate's names occur twice"))?;
    for name in names.iter().flat_map(|n| &n.value.general_names) {
        if let GeneralName::URI(uri) = name {
            match parse_id(uri) {
                Ok((domain, "")) if domain == trust_domain => {}
                _ => {
                    return Err(Refusal::NotAnSvid(
                        "an intermediate names something other than our trust domain",
                    ));
                }
            }
        }
    }
    Ok(())
}

/// DER of a subject without any part.
const EMPTY_NAME: &[u8] = &[0x30, 0x00];

#[cfg(test)]
mod tests {
    use super::parse_id;

    #[test]
    fn ids_follow_the_spiffe_rules() {
        let good = [
            (
                "spiffe://cluster.local/ns/default/sa/reviews",
                "/ns/default/sa/reviews",
            ),
            ("spiffe://cluster.local", ""),
            ("spiffe://a-b_c.d/X.Y", "/X.Y"),
        ];
        for (id, path) in good {
            assert_eq!(parse_id(id).map(|(_, p)| p), Ok(path), "{id}");
        }
        for id in [
            "https://cluster.local/ns/a",
            "SPIFFE://cluster.local/ns/a",
            "spiffe:///ns/a",
            "spiffe://Cluster.local/ns/a",
            "spiffe://user@cluster.local/ns/a",
            "spiffe://cluster.local:1/ns/a",
            "spiffe://cluster.local/",
            "spiffe://cluster.local//a",
            "spiffe://cluster.local/a/",
            "spiffe://cluster.local/a/../b",
            "spiffe://cluster.local/a/./b",
            "spiffe://cluster.local/a?b",
            "spiffe://cluster.local/a#b",
            "spiffe://cluster.local/%41",
            "spiffe://cluster.local/ä",
        ] {
            assert!(parse_id(id).is_err(), "{id}");
        }
        assert!(parse_id(&format!("spiffe://d/{}", "a".repeat(2048))).is_err());
    }
}
