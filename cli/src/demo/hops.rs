//! What one answer of the shop proves: who answered, over which identities, in which trace.

use serde_json::Value;

/// One request's way through the shop, as the answers tell it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hops {
    /// `v1` or `v2`: which reviews answered.
    pub(super) reviews: Option<String>,
    /// Every service was called by the identity of the service before it, as its sidecar verified it.
    pub(super) mutual_tls: bool,
    /// Every service saw the trace that we started.
    pub(super) traced: bool,
}

impl Hops {
    /// A new trace, sampled.
    pub(super) fn new_traceparent() -> String {
        let (high, low, span) = (random(), random(), random());
        format!("00-{high:016x}{low:016x}-{span:016x}-01")
    }

    /// Reads the frontend's answer.
    pub(super) fn read(answer: &Value, traceparent: &str) -> Self {
        let trace_id = traceparent.split('-').nth(1);
        let mut hops = Self {
            reviews: None,
            mutual_tls: true,
            traced: true,
        };
        // The frontend is called through its own sidecar.
        let mut caller = "frontend";
        let mut at = Some(("frontend", answer));
        while let Some((service, answer)) = at {
            let text = |field| answer.get(field).and_then(Value::as_str);
            let account = format!("/sa/{caller}");
            hops.mutual_tls &= text("client").is_some_and(|client| {
                client.starts_with("spiffe://") && client.ends_with(&account)
            });
            hops.traced &= text("trace_id") == trace_id;
            if service == "reviews" {
                hops.reviews = text("version").map(str::to_owned);
            }
            caller = service;
            at = answer
                .get("upstreams")
                .and_then(Value::as_object)
                .and_then(|upstreams| upstreams.iter().next())
                .map(|(name, answer)| (name.as_str(), answer));
        }
        hops
    }
}

/// Unique enough for an identifier, without a generator of our own: the standard library seeds its hashers
/// randomly for each process and counts them on.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    // Zero is not a valid identifier.
    RandomState::new()
        .hash_one(std::time::Instant::now())
        .max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TRACE: &str = "00-aaaa-bbbb-01";

    fn answer(client: &str, trace_id: &str) -> Value {
        json!({
            "service": "frontend", "trace_id": trace_id, "client": "spiffe://c/ns/n/sa/frontend",
            "upstreams": { "productpage": {
                "trace_id": trace_id, "client": client,
                "upstreams": { "reviews": {
                    "version": "v2", "trace_id": trace_id, "client": "spiffe://c/ns/n/sa/productpage",
                }},
            }},
        })
    }

    #[test]
    fn a_way_over_verified_identities_in_one_trace_is_recognised() {
        let hops = Hops::read(&answer("spiffe://c/ns/n/sa/frontend", "aaaa"), TRACE);
        let expected = Hops {
            reviews: Some("v2".to_owned()),
            mutual_tls: true,
            traced: true,
        };
        assert_eq!(hops, expected);
    }

    #[test]
    fn one_hop_without_the_right_identity_is_no_mutual_tls() {
        assert!(!Hops::read(&answer("spiffe://c/ns/n/sa/ratings", "aaaa"), TRACE).mutual_tls);
        assert!(!Hops::read(&answer("", "aaaa"), TRACE).mutual_tls);
    }

    #[test]
    fn a_lost_trace_is_noticed() {
        assert!(!Hops::read(&answer("spiffe://c/ns/n/sa/frontend", "cccc"), TRACE).traced);
    }
}
