//! `retries`: how often, when, and to whom a request is sent again.
//! Source: Istio `networking/v1` HTTPRetry and its validation; Envoy's conditions of `x-envoy-retry-on`.

use crate::{
    Retries, RetryOn,
    decode::{
        Decoder, Fields, Item, Shape, boolean, filled_text, integer32, positive_duration,
        unknown_word,
    },
};

pub(super) const RETRIES: Shape = Shape {
    what: "retries",
    fields: &[
        "attempts",
        "perTryTimeout",
        "retryOn",
        "retryRemoteLocalities",
        "retryIgnorePreviousHosts",
        "backoff",
    ],
    not_yet: &[],
};

const CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "envoy-ratelimited",
    "retriable-4xx",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Ours; what sidecars take.
const MOST_ATTEMPTS: u32 = 100;

pub(super) fn decode(d: &mut Decoder, item: Item<'_>) -> Option<Retries> {
    let fields = Fields::open(d, item, &RETRIES)?;
    let attempts = fields.required(
        d,
        "attempts",
        "how often to try again; 0 = never",
        |d, item| integer32(d, item, 0..=MOST_ATTEMPTS),
    );
    if attempts == Some(0) {
        for name in RETRIES.fields.iter().filter(|name| **name != "attempts") {
            fields.refuse_if_present(d, name, "has no effect with attempts: 0; remove it");
        }
    }
    Some(Retries {
        per_try_timeout: fields.optional(d, "perTryTimeout", positive_duration),
        retry_on: fields.optional(d, "retryOn", retry_on),
        retry_remote_localities: fields
            .optional(d, "retryRemoteLocalities", boolean)
            .unwrap_or(false),
        retry_ignore_previous_hosts: fields
            .optional(d, "retryIgnorePreviousHosts", boolean)
            .unwrap_or(true),
        backoff: fields.optional(d, "backoff", positive_duration),
        attempts: attempts?,
    })
}

/// Conditions and status codes, with commas between them.
fn retry_on(d: &mut Decoder, item: Item<'_>) -> Option<RetryOn> {
    let text = filled_text(d, item)?;
    let mut found = RetryOn::default();
    for word in text.split(',').map(str::trim) {
        if word.bytes().all(|b| b.is_ascii_digit()) && !word.is_empty() {
            match word.parse::<u16>() {
                Ok(code) if (100..=599).contains(&code) => {
                    if !found.status_codes.contains(&code) {
                        found.status_codes.push(code);
                    }
                }
                _ => d.refuse(item, format!("found {word}, want a status from 100 to 599")),
            }
        } else if CONDITIONS.contains(&word) {
            if !found.conditions.iter().any(|known| known == word) {
                found.conditions.push(word.to_owned());
            }
        } else {
            let what = "a condition or a status code";
            d.refuse(item, unknown_word(word, what, &CONDITIONS));
        }
    }
    Some(found)
}
