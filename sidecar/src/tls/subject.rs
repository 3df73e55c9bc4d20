//! A certificate's subject as text: what access rules call a principal that has no other name.
//!
//! Source: RFC 2253 as OpenSSL's `XN_FLAG_RFC2253` writes it, which is what Envoy compares with: the last part first,
//! and bytes outside of ASCII escaped.

use std::fmt::Write as _;

use x509_parser::{
    objects::{oid_registry, oid2abbrev},
    x509::{AttributeTypeAndValue, X509Name},
};

/// `CN=reviews,O=Example`; empty if it has no parts.
pub(super) fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(from: &AttributeTypeAndValue<'_>) -> String {
    let kind = from.attr_type();
    let kind =
        oid2abbrev(kind, oid_registry()).map_or_else(|_unknown| kind.to_id_string(), str::to_owned);
    match from.as_str() {
        Ok(value) => format!("{kind}={}", escaped(value)),
        Err(_not_text) => {
            let mut hex = format!("{kind}=#");
            for byte in from.as_slice() {
                // Into a string nothing fails.
                write!(hex, "{byte:02X}").unwrap_or_default();
            }
            hex
        }
    }
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let is_special = b",+\"\\<>;".contains(&byte)
            || (at == 0 && byte == b'#')
            || (byte == b' ' && (at == 0 || at == last));
        match byte {
            byte if is_special => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            byte => write!(out, "\\{byte:02X}").unwrap_or_default(),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::DnType;
    use rustls_pki_types::CertificateDer;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::rfc2253;
    use crate::testing::{Authority, Leaf};

    #[test]
    fn a_subject_is_written_from_its_end_and_escaped() {
        let leaf = Leaf::of("spiffe://cluster.local/ns/a/sa/b").and(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::CommonName, "a,b ");
            name.push(DnType::OrganizationName, "\u{e4}");
        });
        let key = Authority::new().sign(&leaf);
        let der: &CertificateDer<'_> = &key.cert[0];
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        assert_eq!(rfc2253(certificate.subject()), r"O=\C3\A4,CN=a\,b\ ");
    }
}
