//! What HTTP adds: names and values of headers, authorities and paths.
//! Source: RFC 9110; RFC 3986 for what a path and an authority are made of.

use super::{
    Decoder, Item, Key,
    command::{Way, substitution_fault},
    filled_text, text,
};
use crate::yaml::quoted;

/// A header's name in a match, in lower case. Reports pseudo-headers and what HTTP does not allow.
pub(crate) fn header_name(d: &mut Decoder, key: Key<'_>) -> Option<String> {
    let lower = key.text.to_ascii_lowercase();
    // Istio ignores these in silence; a match has its own fields for them.
    if matches!(lower.as_str(), "uri" | "scheme" | "method" | "authority") {
        key.refuse(
            d,
            format!("is no header here; write the match's own field {lower:?}"),
        );
        return None;
    }
    check_header_name(d, key).then_some(lower)
}

pub(crate) fn check_header_name(d: &mut Decoder, key: Key<'_>) -> bool {
    match header_name_fault(key.text) {
        None => true,
        Some(fault) => {
            key.refuse(d, fault);
            false
        }
    }
}

pub(crate) fn header_name_fault(name: &str) -> Option<String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.starts_with(':') {
        return Some(format!(
            "{} is a pseudo-header; use the fields uri, method, scheme or authority",
            quoted(name)
        ));
    }
    (name.is_empty() || name.len() > 256 || !name.bytes().all(token)).then(|| {
        format!(
            "{} is no header name: letters, digits and - are",
            quoted(name)
        )
    })
}

/// What a header is set to; substitutions in it stay as they are written.
pub(crate) fn check_header_value(d: &mut Decoder, item: Item<'_>, way: Way) -> Option<String> {
    let text = text(d, item)?;
    let fault = if text.chars().any(|c| c.is_control() && c != '\t') {
        Some("a header's value has no line break or control character".to_owned())
    } else if text.trim() != text {
        Some("spaces around a header's value do not arrive; remove them".to_owned())
    } else {
        substitution_fault(&text, way)
    };
    match fault {
        None => Some(text),
        Some(fault) => {
            d.refuse(item, format!("found {}: {fault}", quoted(&text)));
            None
        }
    }
}

/// Headers that are about one connection, or say where a message ends (RFC 9110 section 7.6.1, RFC 9112
/// section 6): a proxy writes them itself.
const OF_THE_CONNECTION: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why a header cannot be edited, if so.
pub(crate) fn edit_fault(name: &str) -> Option<String> {
    if name.eq_ignore_ascii_case("host") {
        return Some("the Host header is changed by rewrite.authority".to_owned());
    }
    OF_THE_CONNECTION
        .iter()
        .any(|each| name.eq_ignore_ascii_case(each))
        .then(|| {
            format!(
                "{} is about one connection; each proxy writes its own",
                quoted(name)
            )
        })
}

/// A host, with a port or without, that a request or a redirect is sent to.
pub(crate) fn authority(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let text = filled_text(d, item)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b);
    if text.bytes().all(allowed) {
        return Some(text);
    }
    let message = format!(
        "found {}, want a host such as orders.example.com or orders.example.com:8080",
        quoted(&text)
    );
    d.refuse(item, message);
    None
}

/// What a path has besides letters and digits (RFC 3986 section 3.3).
const OF_A_PATH: &[u8] = b"/-._~!$&'()*+,;=:@%";

/// A path of a new request.
pub(crate) fn path(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let text = filled_text(d, item)?;
    if !text.starts_with('/') {
        let message = format!("found {}, want a path that starts with /", quoted(&text));
        d.refuse(item, message);
        return None;
    }
    if let Some(found) = text.chars().find(|c| !is_of_a_path(*c)) {
        let mut utf8 = [0; 4];
        let encoded: String = found
            .encode_utf8(&mut utf8)
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        let message = format!(
            "found {}; a path has no {found:?}; write {encoded}",
            quoted(&text)
        );
        d.refuse(item, message);
        return None;
    }
    Some(text)
}

pub(super) fn is_of_a_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || u8::try_from(c).is_ok_and(|byte| OF_A_PATH.contains(&byte))
}
