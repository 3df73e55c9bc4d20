//! `match`: which requests a rule is for.

use std::collections::BTreeMap;

use super::visibility::mesh_only;
use crate::{
    HttpMatch, StringMatch,
    decode::{
        Decoder, Fields, Item, Shape, boolean, dns_label, filled_text, header_name, label_map, map,
        port, regex, text,
    },
    yaml::{Value, quoted},
};

pub(super) const MATCH: Shape = Shape {
    what: "a match",
    fields: &[
        "name",
        "uri",
        "ignoreUriCase",
        "scheme",
        "method",
        "authority",
        "headers",
        "withoutHeaders",
        "queryParams",
        "port",
        "gateways",
        "sourceLabels",
        "sourceNamespace",
        "statPrefix",
    ],
    not_yet: &[],
};

pub(super) const STRING_MATCH: Shape = Shape {
    what: "a string match",
    fields: &["exact", "prefix", "regex"],
    not_yet: &[],
};

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<HttpMatch> {
    let fields = Fields::open(d, item, &MATCH)?;
    fields.optional(d, "gateways", mesh_only);
    let uri = fields.optional(d, "uri", path);
    let ignore_uri_case = fields
        .optional(d, "ignoreUriCase", boolean)
        .unwrap_or_default();
    if ignore_uri_case {
        let useless = match &uri {
            Some(StringMatch::Regex(_)) => {
                Some("has no effect on a regex; start the regex with (?i)")
            }
            None if !fields.has("uri") => Some("has no effect without uri; remove it"),
            _ => None,
        };
        if let Some(message) = useless {
            fields.refuse(d, "ignoreUriCase", message);
        }
    }
    Some(HttpMatch {
        name: fields.optional(d, "name", filled_text),
        uri,
        ignore_uri_case,
        scheme: fields.optional(d, "scheme", value),
        method: fields.optional(d, "method", value),
        authority: fields.optional(d, "authority", value),
        headers: fields.optional(d, "headers", headers).unwrap_or_default(),
        without_headers: fields
            .optional(d, "withoutHeaders", headers)
            .unwrap_or_default(),
        query_params: fields
            .optional(d, "queryParams", query_params)
            .unwrap_or_default(),
        port: fields.optional(d, "port", port),
        source_labels: source_labels(d, &fields),
        source_namespace: fields.optional(d, "sourceNamespace", dns_label),
        stat_prefix: fields.optional(d, "statPrefix", stat_prefix),
    })
}

/// `sourceLabels`, empty if absent.
pub(super) fn source_labels(d: &mut Decoder, fields: &Fields<'_>) -> BTreeMap<String, String> {
    fields
        .optional(d, "sourceLabels", label_map)
        .unwrap_or_default()
}

/// It becomes part of metric names.
fn stat_prefix(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let found = filled_text(d, item)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if found.len() > LONGEST_PREFIX || !found.bytes().all(allowed) {
        let message = format!(
            "found {}, want at most {LONGEST_PREFIX} letters, digits, - _ .",
            quoted(&found)
        );
        d.refuse(item, message);
        return None;
    }
    Some(found)
}

const LONGEST_PREFIX: usize = 100;

/// A match of a path, which always starts with a slash.
fn path(d: &mut Decoder, item: Item<'_>) -> Option<StringMatch> {
    let found = value(d, item)?;
    if let StringMatch::Exact(text) | StringMatch::Prefix(text) = &found
        && !text.starts_with('/')
        && text != "*"
    {
        let message = format!("{} matches nothing: a path starts with /", quoted(text));
        d.refuse(item, message);
    }
    Some(found)
}

fn headers(d: &mut Decoder, item: Item<'_>) -> Option<BTreeMap<String, StringMatch>> {
    map(
        d,
        item,
        "header names and string matches",
        |d, key, item| Some((header_name(d, key)?, presence(d, item, false)?)),
    )
}

fn query_params(d: &mut Decoder, item: Item<'_>) -> Option<BTreeMap<String, StringMatch>> {
    map(
        d,
        item,
        "names of parameters and string matches",
        |d, key, item| {
            if key.text.is_empty() {
                key.refuse(d, "a parameter has a name");
            }
            // `exact: ""` is how Istio writes a parameter without a value.
            Some((key.text.to_owned(), presence(d, item, true)?))
        },
    )
}

/// `{}` = it only has to be there.
fn presence(d: &mut Decoder, item: Item<'_>, empty: bool) -> Option<StringMatch> {
    match &item.node.value {
        Value::Mapping(pairs) if pairs.is_empty() => Some(StringMatch::Present),
        _ => string_match(d, item, empty, ", or {} for \"is there\""),
    }
}

/// A match of something that is always there.
pub(super) fn value(d: &mut Decoder, item: Item<'_>) -> Option<StringMatch> {
    string_match(d, item, false, "")
}

fn string_match(d: &mut Decoder, item: Item<'_>, empty: bool, or: &str) -> Option<StringMatch> {
    if !matches!(item.node.value, Value::Mapping(_)) {
        let want = format!("one of exact, prefix, regex under it{or}");
        d.mismatch(item, &want);
        return None;
    }
    let fields = Fields::open(d, item, &STRING_MATCH)?;
    if !fields.exactly_one(d, STRING_MATCH.fields) {
        return None;
    }
    let filled = |d: &mut Decoder, item: Item<'_>| {
        let found = text(d, item)?;
        if found.is_empty() && !empty {
            d.refuse(item, format!("found an empty text, want one{or}"));
            return None;
        }
        Some(found)
    };
    let exact = fields.optional(d, "exact", filled).map(StringMatch::Exact);
    let prefix = fields
        .optional(d, "prefix", filled_text)
        .map(StringMatch::Prefix);
    let regex = fields.optional(d, "regex", regex).map(StringMatch::Regex);
    exact.or(prefix).or(regex)
}
