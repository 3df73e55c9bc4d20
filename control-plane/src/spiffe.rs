//! The one shape of identity there is here: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! Read once where a certificate or a request enters; past this type nobody checks again.
//! Source: SPIFFE-ID specification; the path is Istio's convention.

use std::{fmt, sync::Arc};

/// A workload's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SpiffeId {
    uri: Arc<str>,
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Whole identity, in bytes (SPIFFE-ID, section 2.3).
const MAX_URI_BYTES: usize = 2048;
/// Trust domain, in bytes (SPIFFE-ID, section 2.3).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

impl SpiffeId {
    /// Puts the parts together. Says what is wrong with one that is not a DNS label.
    pub(crate) fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, String> {
        check_trust_domain(trust_domain)?;
        check_label("namespace", namespace)?;
        check_label("service account", service_account)?;
        let uri = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}");
        Ok(Self {
            uri: uri.into(),
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    /// Reads a URI. Refuses everything that `new` could not have made.
    pub(crate) fn parse(uri: &str) -> Result<Self, String> {
        if uri.len() > MAX_URI_BYTES {
            return Err(format!(
                "a SPIFFE id of {} bytes; at most {MAX_URI_BYTES}",
                uri.len()
            ));
        }
        let parts = uri
            .strip_prefix("spiffe://")
            .map(|rest| rest.split('/').collect::<Vec<_>>());
        match parts.as_deref() {
            Some([trust_domain, "ns", namespace, "sa", service_account]) => {
                Self::new(trust_domain, namespace, service_account)
            }
            _ => Err(format!(
                "{uri:?} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
            )),
        }
    }

    /// `spiffe://…`
    pub(crate) fn uri(&self) -> &Arc<str> {
        &self.uri
    }

    /// e.g. `cluster.local`
    pub(crate) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// e.g. `default`
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// e.g. `reviews`
    pub(crate) fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// Lower-case letters, digits, `.`, `-`, `_`; 1 to 255 bytes; no empty label.
pub(crate) fn check_trust_domain(text: &str) -> Result<(), String> {
    let good = (1..=MAX_TRUST_DOMAIN_BYTES).contains(&text.len())
        && text.split('.').all(|label| !label.is_empty())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    if good {
        Ok(())
    } else {
        Err(format!(
            "trust domain {text:?}: use 1 to 255 lower-case letters, digits, '.', '-', '_', e.g. cluster.local"
        ))
    }
}

/// A DNS label as Kubernetes and Istio use it for names: RFC 1123.
pub(crate) fn check_label(what: &str, text: &str) -> Result<(), String> {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let good = match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            bytes.len() <= 63
                && edge(first)
                && edge(last)
                && bytes.iter().all(|&b| edge(b) || b == b'-')
        }
        _ => false,
    };
    if good {
        Ok(())
    } else {
        Err(format!(
            "{what} {text:?}: use 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_a_round_trip() {
        let id = SpiffeId::new("cluster.local", "shop", "reviews").unwrap();
        assert_eq!(&**id.uri(), "spiffe://cluster.local/ns/shop/sa/reviews");
        assert_eq!(SpiffeId::parse(id.uri()).unwrap(), id);
    }

    #[test]
    fn malformed_identities_are_refused() {
        for bad in [
            "",
            "https://cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe://cluster.local/ns/a",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:1/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b?c",
            "spiffe://cluster.local/ns/a/sa/b#c",
            "spiffe://cluster.local/ns/a/sa/%62",
            "spiffe:///ns/a/sa/b",
            "spiffe://a..b/ns/a/sa/b",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
        let long = format!("spiffe://cluster.local/ns/a/sa/{}", "b".repeat(64));
        assert!(SpiffeId::parse(&long).is_err());
    }
}
