//! Header fields that end here: hop-by-hop ones. What senders say about themselves is in `claims`.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, PROXY_AUTHENTICATE, TE, TRANSFER_ENCODING, UPGRADE,
    },
};

pub(crate) mod claims;

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

/// Takes out what belongs to one connection only (RFC 9110 section 7.6.1), from requests and responses alike.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let mut named: Vec<HeaderName> = Vec::new();
        for value in headers.get_all(CONNECTION) {
            for token in value.as_bytes().split(|b| *b == b',') {
                if let Ok(name) = HeaderName::from_bytes(token.trim_ascii()) {
                    // Framing, routing, and what others rely on, are not the peer's to take away.
                    if !claims::is_kept(name.as_str()) {
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
                    (
                        "connection",
                        "host, content-length, x-forwarded-client-cert, X-Forwarded-For",
                    ),
                    ("host", "x"),
                    ("content-length", "1"),
                    ("x-forwarded-client-cert", "URI=x"),
                    ("x-forwarded-for", "10.0.0.1"),
                ],
                &[
                    "content-length",
                    "host",
                    "x-forwarded-client-cert",
                    "x-forwarded-for",
                ],
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
