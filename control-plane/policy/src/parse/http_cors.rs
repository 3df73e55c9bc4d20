//! `corsPolicy`: which pages of other origins may call.
//! Source: Istio `networking/v1` CorsPolicy and its validation; the Fetch standard.

use std::time::Duration;

use super::http_match::value as string_match;
use crate::{
    CorsPolicy, StringMatch,
    decode::{
        Decoder, Fields, Item, Shape, boolean, duration, enumeration, filled_list, filled_text,
        header_name_fault, list, unknown_word,
    },
};

pub(super) const CORS: Shape = Shape {
    what: "a CORS policy",
    fields: &[
        "allowOrigins",
        "allowOrigin",
        "allowMethods",
        "allowHeaders",
        "exposeHeaders",
        "maxAge",
        "allowCredentials",
        "unmatchedPreflights",
    ],
    not_yet: &[],
};

const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "*",
];

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<CorsPolicy> {
    let fields = Fields::open(d, item, &CORS)?;
    fields.exactly_one(d, &["allowOrigins", "allowOrigin"]);
    let origins = fields.optional(d, "allowOrigins", |d, item| {
        filled_list(d, item, string_match)
    });
    let old = fields.optional(d, "allowOrigin", |d, item| {
        filled_list(d, item, |d, item| {
            filled_text(d, item).map(StringMatch::Exact)
        })
    });
    let words = [("UNSPECIFIED", true), ("FORWARD", true), ("IGNORE", false)];
    let forward = fields.optional(d, "unmatchedPreflights", |d, item| {
        enumeration(d, item, "what to do", &words, &[])
    });
    let mut names = |name: &str| {
        fields
            .optional(d, name, |d, item| list(d, item, header))
            .unwrap_or_default()
    };
    Some(CorsPolicy {
        allow_origins: origins.or(old).unwrap_or_default(),
        allow_headers: names("allowHeaders"),
        expose_headers: names("exposeHeaders"),
        allow_methods: fields
            .optional(d, "allowMethods", |d, item| list(d, item, method))
            .unwrap_or_default(),
        max_age: fields.optional(d, "maxAge", whole_seconds),
        allow_credentials: fields
            .optional(d, "allowCredentials", boolean)
            .unwrap_or(false),
        forward_unmatched_preflights: forward.unwrap_or(true),
    })
}

fn method(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let found = filled_text(d, item)?;
    if METHODS.contains(&found.as_str()) {
        return Some(found);
    }
    d.refuse(item, unknown_word(&found, "a method", &METHODS));
    None
}

fn header(d: &mut Decoder, item: Item<'_>) -> Option<String> {
    let found = filled_text(d, item)?;
    if let Some(fault) = header_name_fault(&found) {
        d.refuse(item, fault);
        return None;
    }
    Some(found)
}

/// `Access-Control-Max-Age` counts in seconds.
pub(super) fn whole_seconds(d: &mut Decoder, item: Item<'_>) -> Option<Duration> {
    let found = duration(d, item)?;
    if found.subsec_nanos() > 0 {
        d.refuse(
            item,
            "is not a whole number of seconds; want one such as 24h",
        );
        return None;
    }
    Some(found)
}
