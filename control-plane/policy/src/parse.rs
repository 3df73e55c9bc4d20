//! YAML text in, typed objects out, or every error in it with its position.
//! ```text
//! text ─yaml─► nodes ─envelope─► kind, name ─┬─ virtual_service ─┐
//!                                           ├─ destination_rule ┼─► Object
//!                                           └─ ... ─────────────┘
//! ```
//! Knows Istio's fields: those that work here, those that do not yet, and so what is a typing error.
//! Whether documents fit each other is `mesh`'s business.

mod authorization_policy;
mod client_tls;
mod connection_pool;
mod consistent_hash;
mod destination;
mod destination_policy;
mod destination_rule;
mod envelope;
mod extension_provider;
mod http_answer;
mod http_cors;
mod http_fault;
mod http_headers;
mod http_match;
mod http_mirror;
mod http_retries;
mod http_route;
mod key_set;
mod layer4;
mod load_balancer;
mod outlier_detection;
mod peer_authentication;
mod request_authentication;
mod selector;
mod service_entry;
mod share;
mod sidecar;
#[cfg(test)]
mod tests;
mod virtual_service;
mod visibility;

use std::collections::BTreeMap;

use crate::{
    Diagnostic, Object, ObjectKey, Position,
    decode::{Decoder, Item, Path},
    report::{Mark, Report},
    yaml,
};

/// Bounds on what one call may cost. A text past a bound is refused before it is built.
#[derive(Clone, Copy, Debug)]
pub struct ParseLimits {
    /// Bytes of text in one file. Default 1 MiB.
    pub max_bytes: usize,
    /// Documents in one file. Default 1,000.
    pub max_documents: usize,
    /// Nesting. Default 64.
    pub max_depth: usize,
    /// Nodes after aliases are expanded. Default 250,000.
    pub max_nodes: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 20,
            max_documents: 1_000,
            max_depth: 64,
            max_nodes: 250_000,
        }
    }
}

/// Reads all documents of one file. Empty documents are skipped.
///
/// # Errors
/// Every error found (at most 50), sorted by position: syntax, duplicate key, unknown field ("did you mean"),
/// wrong type, value out of range, kind or field "not supported yet".
pub fn parse(
    file: &str,
    text: &str,
    default_namespace: &str,
    limits: &ParseLimits,
) -> Result<Vec<Object>, Vec<Diagnostic>> {
    parse_at(
        file,
        Mark { line: 1, column: 1 },
        text,
        default_namespace,
        limits,
    )
}

/// As [`parse`], for bytes that may not be UTF-8.
///
/// # Errors
/// As [`parse`]; bytes that are not UTF-8 are one error with their line and column.
pub fn parse_bytes(
    file: &str,
    bytes: &[u8],
    default_namespace: &str,
    limits: &ParseLimits,
) -> Result<Vec<Object>, Vec<Diagnostic>> {
    // The size first: what is too large is not worth a look at its characters.
    let checked = bytes
        .get(..limits.max_bytes.saturating_add(1))
        .unwrap_or(bytes);
    let fault = match std::str::from_utf8(checked) {
        Ok(text) if checked.len() == bytes.len() => {
            return parse(file, text, default_namespace, limits);
        }
        // Cut in the middle of a character by ourselves.
        Err(error) if error.error_len().is_some() || checked.len() == bytes.len() => Some(error),
        _ => None,
    };
    let mut report = Report::new(file, Mark { line: 1, column: 1 });
    match fault {
        Some(error) => {
            let offset = error.valid_up_to();
            let byte = bytes.get(offset).copied().unwrap_or(0);
            let message = format!("found the byte 0x{byte:02x}, want UTF-8 text");
            report.error(Mark::at_byte(bytes, offset), String::new(), message);
        }
        None => yaml::too_long(bytes, limits, &mut report),
    }
    Err(report.into_errors())
}

/// As [`parse`], for the [`Object::yaml`] of one document: positions come out as they were in the
/// operator's file. `start` is that object's [`Object::text_position`].
///
/// # Errors
/// As [`parse`].
pub fn parse_again(
    start: &Position,
    yaml: &str,
    default_namespace: &str,
    limits: &ParseLimits,
) -> Result<Vec<Object>, Vec<Diagnostic>> {
    let origin = Mark {
        line: start.line,
        column: start.column,
    };
    parse_at(&start.file, origin, yaml, default_namespace, limits)
}

fn parse_at(
    file: &str,
    origin: Mark,
    text: &str,
    default_namespace: &str,
    limits: &ParseLimits,
) -> Result<Vec<Object>, Vec<Diagnostic>> {
    let mut report = Report::new(file, origin);
    let documents = yaml::read(text, limits, &mut report);
    let mut d = Decoder::new(report);
    let mut objects = Vec::new();
    let mut seen: BTreeMap<ObjectKey, Position> = BTreeMap::new();
    for document in &documents {
        if d.report.full() {
            break;
        }
        let root = Item {
            node: &document.root,
            path: &Path::ROOT,
        };
        let Some(header) = envelope::header(&mut d, root, default_namespace) else {
            continue;
        };
        if let Some(key) = &header.key {
            if let Some(first) = seen.get(key) {
                let message = format!(
                    "{key} is in this file twice, first in line {}, column {}; keep one, or rename one",
                    first.line, first.column
                );
                d.refuse(root, message);
            } else {
                seen.insert(key.clone(), d.position(root));
            }
        }
        let yaml = text.get(document.text.clone()).unwrap_or_default();
        let text_position = d.report.position(document.start);
        objects.extend(envelope::object(
            &mut d,
            root,
            header,
            yaml.into(),
            text_position,
        ));
    }
    if d.report.is_clean() {
        Ok(objects)
    } else {
        Err(d.report.into_errors())
    }
}
