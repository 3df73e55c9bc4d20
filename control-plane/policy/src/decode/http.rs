//! What HTTP adds: names and values of headers, and the patterns that requests are matched by.
//! Source: RFC 9110; RE2 as the `regex` crate understands it; Istio's bound on a pattern.

use super::{Decoder, Item, Key, filled_text, text};
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

/// What a header is set to.
pub(crate) fn check_header_value(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let text = text(d, item)?;
    let fault = if text.chars().any(|c| c.is_control() && c != '\t') {
        Some("a header's value has no line break or control character")
    } else if text.contains('%') {
        // Envoy replaces %…% and refuses a single %; passing it through would mean two things.
        Some("substitutions (%) are not supported yet in header values")
    } else if text.trim() != text {
        Some("spaces around a header's value do not arrive; remove them")
    } else {
        None
    };
    match fault {
        None => Some(text),
        Some(fault) => {
            d.refuse(item, format!("found {}: {fault}", quoted(&text)));
            None
        }
    }
}

/// Different regular expressions in one file. Compiling one may take a millisecond.
const MAX_REGEXES: usize = 500;
/// Characters of one (Istio's limit).
const LONGEST_REGEX: usize = 1_024;

/// An RE2 expression that compiles.
pub(crate) fn regex(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let pattern = filled_text(d, item)?;
    let fault = match d.regexes.get(&pattern) {
        Some(checked) => checked.clone().err(),
        None if pattern.len() > LONGEST_REGEX => Some(format!(
            "has {} bytes; at most {LONGEST_REGEX} are allowed",
            pattern.len()
        )),
        None if d.regexes.len() >= MAX_REGEXES => Some(format!(
            "more than {MAX_REGEXES} regular expressions in one file; split it"
        )),
        None => {
            let checked = compile(&pattern);
            d.regexes.insert(pattern.clone(), checked.clone());
            checked.err()
        }
    };
    match fault {
        None => Some(pattern),
        Some(fault) => {
            d.refuse(
                item,
                format!("the regular expression {} {fault}", quoted(&pattern)),
            );
            None
        }
    }
}

fn compile(pattern: &str) -> Result<(), String> {
    regex::RegexBuilder::new(pattern)
        .size_limit(256 << 10)
        .nest_limit(64)
        .build()
        .map(|_| ())
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                "needs too much memory; repeat less in it".to_owned()
            }
            // The crate draws the pattern over several lines; its last line says what is wrong.
            other => {
                let drawn = other.to_string();
                let last = drawn.lines().last().unwrap_or_default();
                let reason = last.trim_start_matches("error: ");
                format!("is not RE2: {reason}")
            }
        })
}
