//! Header fields that end here: hop-by-hop ones, and every spelling of names that carry identity or framing.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
};

/// Who called, as the sidecar in front of the application has verified it.
pub(crate) const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// An inbound sidecar's word that its application has not seen the request.
pub(crate) const UNSENT: HeaderName = HeaderName::from_static("x-outrigger-unsent");
/// Code of an own answer.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-outrigger-reason");
/// Who decided on an own answer whose body does not tell.
pub(crate) const POLICY: HeaderName = HeaderName::from_static("x-outrigger-policy");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Names that others must not be able to spell with `_` (many servers read `X_Forwarded_Client_Cert` as the same name).
const GUARDED: [&str; 9] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "host",
    "te",
    "upgrade",
    "x-forwarded-client-cert",
    "x-outrigger-unsent",
    "x-outrigger-reason",
];

/// Takes out what belongs to one connection only (RFC 9110 section 7.6.1), from requests and responses alike.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let mut named: Vec<HeaderName> = Vec::new();
        for value in headers.get_all(CONNECTION) {
            for token in value.as_bytes().split(|b| *b == b',') {
                if let Ok(name) = HeaderName::from_bytes(token.trim_ascii()) {
                    // Framing and routing are not the peer's to take away.
                    if name != HOST && name != CONTENT_LENGTH && name != TE {
                        named.push(name);
                    }
                }
            }
        }
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(TRANSFER_ENCODING);
        // One framing a message: chunked won when it was read.
        headers.remove(CONTENT_LENGTH);
    }
    if let Some(te) = headers.get(TE) {
        let trailers = te
            .as_bytes()
            .split(|b| *b == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        UPGRADE,
        HTTP2_SETTINGS,
        PROXY_AUTHENTICATE,
    ] {
        if headers.contains_key(&name) {
            headers.remove(name);
        }
    }
}

/// Takes out what a caller must not be able to say about itself. True if it has something to say to its proxy, see
/// [`crate::forward`].
pub(crate) fn strip_identity(headers: &mut HeaderMap) -> bool {
    let shadows = |name: &HeaderName| {
        let name = name.as_str();
        name.contains('_') && {
            let dashed = name.replace('_', "-");
            GUARDED.contains(&dashed.as_str())
        }
    };
    let (mut shadowed, mut steered) = (false, false);
    for name in headers.keys() {
        steered |= name.as_str().starts_with("x-envoy-");
        shadowed |= shadows(name);
    }
    if shadowed {
        let shadowing: Vec<HeaderName> = headers.keys().filter(|n| shadows(n)).cloned().collect();
        for name in shadowing {
            headers.remove(name);
        }
    }
    for name in [XFCC, UNSENT] {
        if headers.contains_key(&name) {
            headers.remove(name);
        }
    }
    steered
}

/// Seconds of a `Keep-Alive: timeout=N` in a response.
pub(crate) fn keep_alive_timeout(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    value.split(',').find_map(|part| {
        let (name, seconds) = part.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("timeout") {
            return None;
        }
        seconds.trim().trim_matches('"').parse().ok()
    })
}

/// HTTP/2 callers may send cookies in pieces; HTTP/1.1 has one field (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap, from: Version) {
    if from != Version::HTTP_2 {
        return;
    }
    let mut all = headers.get_all(COOKIE).iter();
    if all.next().is_none() || all.next().is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        for (given, left) in [
            (&[("connection", "close"), ("a", "1")][..], &["a"][..]),
            (
                &[("connection", "A, b"), ("a", "1"), ("b", "2"), ("c", "3")],
                &["c"],
            ),
            (
                &[
                    ("connection", "host, content-length"),
                    ("host", "x"),
                    ("content-length", "1"),
                ],
                &["content-length", "host"],
            ),
            (
                &[("keep-alive", "timeout=5"), ("proxy-connection", "close")],
                &[],
            ),
            (
                &[("te", "gzip"), ("upgrade", "h2c"), ("http2-settings", "AA")],
                &[],
            ),
            (&[("te", "gzip, trailers")], &["te"]),
            (
                &[("transfer-encoding", "chunked"), ("content-length", "3")],
                &[],
            ),
        ] {
            let mut headers = map(given);
            strip_hop_by_hop(&mut headers);
            assert_eq!(names(&headers), left, "{given:?}");
        }
    }

    #[test]
    fn a_caller_cannot_name_itself_in_any_spelling() {
        let mut headers = map(&[
            ("x-forwarded-client-cert", "URI=spiffe://d/admin"),
            ("X_Forwarded_Client_Cert", "URI=spiffe://d/admin"),
            ("x-forwarded_client-cert", "URI=spiffe://d/admin"),
            ("content_length", "7"),
            ("x_custom", "stays"),
        ]);
        strip_identity(&mut headers);
        assert_eq!(names(&headers), ["x_custom"]);
    }

    #[test]
    fn the_peers_keep_alive_is_read() {
        for (value, seconds) in [
            ("timeout=5", Some(5)),
            ("max=100, Timeout=75", Some(75)),
            ("max=100", None),
            ("timeout=x", None),
        ] {
            assert_eq!(
                keep_alive_timeout(&map(&[("keep-alive", value)])),
                seconds,
                "{value}"
            );
        }
    }

    #[test]
    fn cookies_of_http2_become_one_field() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        join_cookies(&mut headers, Version::HTTP_2);
        assert_eq!(headers[COOKIE], "a=1; b=2");
    }
}
