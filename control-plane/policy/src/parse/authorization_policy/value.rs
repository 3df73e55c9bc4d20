//! What a value may be: a text with a star at one of its ends, a path by segments, a network, a port, an account.

use std::net::IpAddr;

use crate::{
    ClauseValue, TextMatch,
    decode::{Decoder, Item, dns_fault, filled_text},
    yaml::quoted,
};

/// `abc`, `abc*`, `*abc` or `*`; a star anywhere else would be taken for itself, and hardly is meant so.
pub(super) fn textual(d: &mut Decoder, item: Item<'_>) -> Option<ClauseValue> {
    let found = filled_text(d, item)?;
    plain_stars(d, item, &found)?;
    Some(ClauseValue::Text(TextMatch::of(&found)))
}

fn plain_stars(d: &mut Decoder, item: Item<'_>, found: &str) -> Option<()> {
    let inner = found.strip_prefix('*').unwrap_or(found);
    let inner = match found.starts_with('*') {
        true => inner,
        false => inner.strip_suffix('*').unwrap_or(inner),
    };
    if !inner.contains('*') {
        return Some(());
    }
    let message = format!(
        "found {}; a star stands for any text at the end or at the beginning, and nowhere else; write abc*, *abc or *",
        quoted(found)
    );
    d.refuse(item, message);
    None
}

/// A header's value may have any star in it; only those at its ends mean something (Istio).
pub(super) fn text(d: &mut Decoder, item: Item<'_>) -> Option<ClauseValue> {
    let found = filled_text(d, item)?;
    Some(ClauseValue::Text(TextMatch::of(&found)))
}

/// `<trust domain>/ns/<namespace>/sa/<service account>`, without `spiffe://` (Istio).
pub(super) fn principal(d: &mut Decoder, item: Item<'_>) -> Option<ClauseValue> {
    let found = filled_text(d, item)?;
    if let Some(rest) = found.strip_prefix("spiffe://") {
        let message = format!(
            "found {}; a principal is written without spiffe://: write {}",
            quoted(&found),
            quoted(rest)
        );
        d.refuse(item, message);
        return None;
    }
    plain_stars(d, item, &found)?;
    Some(ClauseValue::Text(TextMatch::of(&found)))
}

/// A path, exact or with a star at one end, or one by segments: `/users/{*}/orders/{**}`.
pub(super) fn path(d: &mut Decoder, item: Item<'_>) -> Option<ClauseValue> {
    let found = filled_text(d, item)?;
    if !found.contains(['{', '}']) {
        plain_stars(d, item, &found)?;
        if !found.starts_with(['/', '*']) {
            let message = format!(
                "found {}, which matches nothing: a path starts with /; write {} or a star first",
                quoted(&found),
                quoted(&format!("/{found}"))
            );
            d.refuse(item, message);
            return None;
        }
        return Some(ClauseValue::Text(TextMatch::of(&found)));
    }
    match template(&found) {
        Ok(template) => Some(ClauseValue::Template(template)),
        Err(fault) => {
            d.refuse(item, format!("found {}: {fault}", quoted(&found)));
            None
        }
    }
}

/// Segments between slashes, each a literal, `{*}` or, last but for literals (Envoy), `{**}`.
fn template(found: &str) -> Result<String, String> {
    let Some(rest) = found.strip_prefix('/') else {
        return Err("a path template starts with /".to_owned());
    };
    let mut words = Vec::new();
    let mut rest_taken = false;
    for segment in rest.split('/') {
        let word = match segment {
            "{*}" => "*",
            "{**}" => {
                if rest_taken {
                    return Err("{**} can be there once".to_owned());
                }
                rest_taken = true;
                words.push("**");
                continue;
            }
            literal if literal.contains(['{', '}', '*']) => {
                return Err(format!(
                    "{} is no segment of a path template; want a text, {{*}} for one segment or {{**}} for any number of them",
                    quoted(literal)
                ));
            }
            literal => literal,
        };
        if rest_taken && word == "*" {
            return Err("{*} cannot stand behind {**}".to_owned());
        }
        words.push(word);
    }
    let is_literal = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=*/".contains(c);
    let template = format!("/{}", words.join("/"));
    match template.chars().find(|c| !is_literal(*c)) {
        Some(c) => Err(format!("{c:?} cannot be in a path template")),
        None if words.iter().rev().skip(1).any(|word| word.is_empty()) => {
            Err("a segment between two slashes is empty".to_owned())
        }
        None => Ok(template),
    }
}

/// An address, or a network such as `10.0.0.0/8`.
pub(super) fn network(d: &mut Decoder, item: Item<'_>) -> Option<ClauseValue> {
    let found = filled_text(d, item)?;
    let (address, bits) = match found.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (found.as_str(), None),
    };
    let parsed = address.parse::<IpAddr>().ok().and_then(|address| {
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => all,
            Some(bits) => bits.parse::<u8>().ok().filter(|bits| *bits <= all)?,
        };
        Some(ClauseValue::Network(masked(address, bits), bits))
    });
    if parsed.is_none() {
        let message = format!(
            "found {}, want an IP address or a network such as 10.0.0.0/8",
            quoted(&found)
        );
        d.refuse(item, message);
    }
    parsed
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// `"8080"`: a text, as Istio has it.
pub(super) fn port(d: &mut Decoder, item: Item<'_>) -> Option<ClauseValue> {
    let found = filled_text(d, item)?;
    let port = found.parse::<u16>().ok().filter(|port| *port > 0);
    if port.is_none() {
        let message = format!(
            "found {}, want a port from 1 to 65535 in quotes",
            quoted(&found)
        );
        d.refuse(item, message);
    }
    port.map(ClauseValue::Port)
}

/// `namespace/name`, or the name of one of the document's namespace.
pub(super) fn account(d: &mut Decoder, item: Item<'_>, own: &str) -> Option<ClauseValue> {
    let found = filled_text(d, item)?;
    match account_of(&found, own) {
        Ok((namespace, name)) => Some(ClauseValue::Account { namespace, name }),
        Err(fault) => {
            d.refuse(item, format!("found {}: {fault}", quoted(&found)));
            None
        }
    }
}

/// Namespace and name.
fn account_of(text: &str, own: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').unwrap_or((own, text));
    if text.contains('*') {
        return Err(
            "a service account has no star; write namespaces, or principals with a star at one end"
                .to_owned(),
        );
    }
    let fault = if namespace.contains('.') {
        Some("a namespace has no dot".to_owned())
    } else {
        dns_fault(namespace).or_else(|| dns_fault(name))
    };
    match fault {
        Some(fault) => Err(format!("want namespace/name or name: {fault}")),
        None => Ok((namespace.to_owned(), name.to_owned())),
    }
}
