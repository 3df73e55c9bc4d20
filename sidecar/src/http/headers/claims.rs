//! What senders must not be able to say about themselves, or about a hop: names that carry identity, framing or a
//! sidecar's word, in every spelling.
//!
//! ```text
//! request  from others         everything below ends here; who they are is then written from TLS
//!          from the own app    the same: an application does not speak for a hop (but for what counts hops)
//! response from an app         x-outrigger-*, which is a sidecar's word, ends at the application's own sidecar
//!          over mutual TLS     stays, but for `x-outrigger-unsent`, which was for us
//! trailers of either           nothing of all that is ever in trailers
//! ```
//! Many servers read `X_Forwarded_Client_Cert` as the same name (CGI, WSGI), some `x.forwarded.client.cert` too: a name
//! with a character that is neither letter, digit nor `-` counts as if it had `-` there, and if that is a name of this
//! list, it ends here as well.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{XFCC, remove_in_order};

/// How many sidecars a request has left, as the last one counted.
pub(crate) const HOPS: HeaderName = HeaderName::from_static("x-outrigger-hops");
/// A request that has left so many sidecars goes round in circles. Chains of proxies that are meant are far shorter.
pub(crate) const MOST_HOPS: u8 = 32;
/// What all that names begin with that only sidecars may say.
const OWN: &str = "x-outrigger-";
/// Larger ones are not passed on (W3C Baggage section 3.3.2: at least so much has to be).
const MOST_BAGGAGE: usize = 8192;
/// The same (W3C Trace Context section 3.3.1.5).
const MOST_TRACE_STATE: usize = 512;

/// Framing, routing and addresses: no peer takes them away by `Connection`, and no other spelling of them passes.
const KEPT: [&str; 15] = [
    "host",
    "content-length",
    "transfer-encoding",
    "te",
    "upgrade",
    "connection",
    "trailer",
    "keep-alive",
    "proxy-connection",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-request-id",
];

/// Who a caller is, as proxies tell applications. Ours to say.
const IDENTITY: [&str; 4] = [
    "x-forwarded-client-cert",
    // What Istio's sidecars exchange about each other.
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-original-dst-host",
];

/// What a proxy at the edge says about where a request comes from: believed from callers with an identity only.
const OF_THE_EDGE: [&str; 2] = ["x-envoy-internal", "x-envoy-external-address"];

/// What was in a request's headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// It may have something to say to its proxy, see [`crate::forward`].
    pub(crate) steers: bool,
    /// Headers that did not pass, though nobody's word forbids that they are there: too large ones.
    pub(crate) dropped: bool,
}

/// A name that `Connection` cannot take away.
pub(super) fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || IDENTITY.contains(&name) || name.starts_with(OWN)
}

/// Takes out of a request what its sender must not say. `has_identity` = TLS has said who that is.
pub(crate) fn strip_request(headers: &mut HeaderMap, has_identity: bool) -> Found {
    let mut found = Found::default();
    let mut any = false;
    for name in headers.keys() {
        match judge(name.as_str(), has_identity) {
            Verdict::Passes => {}
            Verdict::Steers => found.steers = true,
            // Nearly nobody sends one: the way is not slower for everybody else.
            Verdict::Ends | Verdict::Limited => any = true,
        }
    }
    if !any {
        return found;
    }
    let size = |headers: &HeaderMap, name: &HeaderName| -> usize {
        headers.get_all(name).iter().map(HeaderValue::len).sum()
    };
    let names: Vec<HeaderName> = headers.keys().cloned().collect();
    let mut gone = Vec::new();
    for name in names {
        let ends = match judge(name.as_str(), has_identity) {
            Verdict::Passes | Verdict::Steers => false,
            Verdict::Ends => true,
            Verdict::Limited => {
                let most = if name == "baggage" {
                    MOST_BAGGAGE
                } else {
                    MOST_TRACE_STATE
                };
                let too_large = size(headers, &name) > most;
                found.dropped |= too_large;
                too_large
            }
        };
        if ends {
            gone.push(name);
        }
    }
    remove_in_order(headers, &gone);
    found
}

/// Takes out of a response what only a sidecar may say, where no sidecar has answered.
pub(crate) fn strip_response(headers: &mut HeaderMap) {
    let ends = |name: &str| name.starts_with(OWN) || is_twin(name);
    if !headers.keys().any(|name| ends(name.as_str())) {
        return;
    }
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| ends(name.as_str()))
        .cloned()
        .collect();
    remove_in_order(headers, &names);
}

/// Takes out of trailers what would be taken for headers by whoever puts both together.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    let ends = |name: &str| is_kept(name) || is_twin(name) || name.starts_with(':');
    if !trailers.keys().any(|name| ends(name.as_str())) {
        return;
    }
    let names: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| ends(name.as_str()))
        .cloned()
        .collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Takes the count of hops out of a request from the own application. 0 if it says none; what is no number is as good
/// as too many.
pub(crate) fn take_hops(headers: &mut HeaderMap) -> u8 {
    if !headers.contains_key(HOPS) {
        return 0;
    }
    let only = {
        let mut all = headers.get_all(HOPS).iter();
        all.next().filter(|_| all.next().is_none()).cloned()
    };
    remove_in_order(headers, &[HOPS]);
    let count = only.and_then(|value| value.to_str().ok()?.parse().ok());
    count.unwrap_or(MOST_HOPS)
}

/// Says that one sidecar more is behind a request that came with `before`.
pub(crate) fn put_hops(headers: &mut HeaderMap, before: u8) {
    // Short, and no other number is ever written.
    let text = COUNTS.get(usize::from(before)).copied();
    headers.insert(HOPS, HeaderValue::from_static(text.unwrap_or("32")));
}

const COUNTS: [&str; MOST_HOPS as usize] = [
    "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17",
    "18", "19", "20", "21", "22", "23", "24", "25", "26", "27", "28", "29", "30", "31", "32",
];

enum Verdict {
    Passes,
    Steers,
    Ends,
    Limited,
}

fn judge(name: &str, has_identity: bool) -> Verdict {
    match name.as_bytes() {
        [b'x', b'-', ..] => {}
        b"baggage" | b"tracestate" => return Verdict::Limited,
        _ if is_twin(name) => return Verdict::Ends,
        _ => return Verdict::Passes,
    }
    if name.starts_with(OWN) {
        return if name == HOPS {
            Verdict::Passes
        } else {
            Verdict::Ends
        };
    }
    if name == XFCC || IDENTITY.contains(&name) || is_twin(name) {
        return Verdict::Ends;
    }
    if name.starts_with("x-envoy-") {
        if !has_identity && OF_THE_EDGE.contains(&name) {
            return Verdict::Ends;
        }
        return Verdict::Steers;
    }
    Verdict::Passes
}

/// Whether a name is another spelling of one that means something.
fn is_twin(name: &str) -> bool {
    // Most names have no such character: this is all that they cost.
    if name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return false;
    }
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    is_kept(&plain) || plain.starts_with("x-envoy-") || plain.starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(names: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for name in names {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_static("forged"));
        }
        map
    }

    fn left(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_caller_cannot_name_itself_in_any_spelling() {
        let mut headers = map(&[
            "x-forwarded-client-cert",
            "X-FORWARDED-CLIENT-CERT",
            "X_Forwarded_Client_Cert",
            "x-forwarded_client-cert",
            "x.forwarded.client.cert",
            "x-forwarded~client-cert",
            "x-outrigger-unsent",
            "x-outrigger-anything",
            "x_outrigger_reason",
            "x_forwarded_for",
            "x-envoy-peer-metadata",
            "content_length",
            "transfer_encoding",
            "x_custom",
            "x-forwarded-for",
            "x-user",
            "cookie",
        ]);
        let found = strip_request(&mut headers, true);
        assert_eq!(
            left(&headers),
            ["cookie", "x-forwarded-for", "x-user", "x_custom"]
        );
        assert_eq!(found, Found::default());
    }

    #[test]
    fn the_edge_is_believed_from_callers_with_an_identity_only() {
        for has_identity in [true, false] {
            let mut headers = map(&["x-envoy-internal", "x-envoy-retry-on"]);
            assert!(strip_request(&mut headers, has_identity).steers);
            assert_eq!(headers.contains_key("x-envoy-internal"), has_identity);
        }
    }

    #[test]
    fn baggage_and_trace_state_pass_up_to_their_limits() {
        for (name, most) in [("baggage", MOST_BAGGAGE), ("tracestate", MOST_TRACE_STATE)] {
            for (pieces, passes) in [(2, true), (3, false)] {
                let mut headers = HeaderMap::new();
                for _ in 0..pieces {
                    let value = "a".repeat(most / 2);
                    headers.append(name, HeaderValue::from_str(&value).unwrap());
                }
                let found = strip_request(&mut headers, true);
                assert_eq!(headers.contains_key(name), passes, "{name}");
                assert_eq!(found.dropped, !passes);
            }
        }
    }

    #[test]
    fn an_application_does_not_speak_for_a_sidecar() {
        let mut headers = map(&[
            "x-outrigger-unsent",
            "x-outrigger-retries",
            "X_Outrigger_Policy",
            "x-a",
        ]);
        strip_response(&mut headers);
        assert_eq!(left(&headers), ["x-a"]);
    }

    #[test]
    fn trailers_carry_neither_identity_nor_framing() {
        let mut trailers = map(&[
            "x-forwarded-client-cert",
            "content-length",
            "host",
            "x_outrigger_reason",
            "grpc-status",
        ]);
        strip_trailers(&mut trailers);
        assert_eq!(left(&trailers), ["grpc-status"]);
    }

    #[test]
    fn hops_are_counted_up_to_their_limit() {
        for (said, taken) in [
            (&[][..], 0),
            (&["1"], 1),
            (&["31"], 31),
            (&["32"], 32),
            (&["999"], MOST_HOPS),
            (&["x"], MOST_HOPS),
            (&["1", "1"], MOST_HOPS),
        ] {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(HOPS, HeaderValue::from_static(value));
            }
            assert_eq!(take_hops(&mut headers), taken, "{said:?}");
            assert!(headers.is_empty());
        }
        let mut headers = HeaderMap::new();
        put_hops(&mut headers, 0);
        assert_eq!(headers[HOPS], "1");
        put_hops(&mut headers, MOST_HOPS - 1);
        assert_eq!(headers[HOPS], "32");
    }
}
