//! Header fields that end here: hop-by-hop ones. What senders say about themselves is in `claims`.

use std::cell::RefCell;

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

/// Takes out what belongs to one connection only (RFC 9110 section 7.6.1), from requests and responses alike. What stays
/// keeps its order. `switches`: the connection becomes one of another protocol, and two fields say so.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, switches: bool) {
    let mut ends: Vec<HeaderName> = Vec::new();
    if headers.contains_key(CONNECTION) {
        for value in headers.get_all(CONNECTION) {
            for token in value.as_bytes().split(|b| *b == b',') {
                if let Ok(name) = HeaderName::from_bytes(token.trim_ascii()) {
                    // Framing, routing, and what others rely on, are not the peer's to take away.
                    if !claims::is_kept(name.as_str()) && headers.contains_key(&name) {
                        ends.push(name);
                    }
                }
            }
        }
        if switches {
            keep_upgrade_only(headers);
        } else {
            ends.push(CONNECTION);
        }
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        // One framing a message: chunked won when it was read.
        if headers.contains_key(CONTENT_LENGTH) {
            ends.push(CONTENT_LENGTH);
        }
        if !is_chunked_only(headers) {
            ends.push(TRANSFER_ENCODING);
        }
    }
    if let Some(te) = headers.get(TE) {
        let trailers = te
            .as_bytes()
            .split(|b| *b == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            ends.push(TE);
        }
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        PROXY_AUTHENTICATE,
    ] {
        if headers.contains_key(&name) {
            ends.push(name);
        }
    }
    if !switches && headers.contains_key(UPGRADE) {
        ends.push(UPGRADE);
    }
    remove_in_order(headers, &ends);
}

/// Chunks as HTTP/1.1 has them: whoever writes the message in HTTP/1.1 again needs not move the field.
fn is_chunked_only(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(TRANSFER_ENCODING).iter();
    let only = all.next().filter(|_| all.next().is_none());
    only.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Leaves of `Connection` what the next one has to know, in the letters in which it came.
fn keep_upgrade_only(headers: &mut HeaderMap) {
    let all = headers.get_all(CONNECTION).iter();
    let mut tokens = all.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let upgrade = tokens.find(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    let upgrade = upgrade.and_then(|token| HeaderValue::from_bytes(token.trim_ascii()).ok());
    let upgrade = upgrade.unwrap_or(HeaderValue::from_static("Upgrade"));
    headers.insert(CONNECTION, upgrade);
}

thread_local! {
    /// Where headers are written anew: empty, but for its memory.
    static SCRATCH: RefCell<HeaderMap> = RefCell::default();
}

/// Takes fields out. [`HeaderMap::remove`] puts the last field into the gap; here the others keep their order, as
/// receivers may tell programs by it.
pub(crate) fn remove_in_order(headers: &mut HeaderMap, ends: &[HeaderName]) {
    match ends {
        [] => return,
        [only] if headers.keys().last() == Some(only) => {
            headers.remove(only);
            return;
        }
        _ => {}
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let mut name: Option<HeaderName> = None;
        for (next, value) in headers.drain() {
            name = next.or(name);
            if let Some(name) = &name
                && !ends.contains(name)
            {
                scratch.append(name, value);
            }
        }
        // Both are left without what the other had, and with memory for the next.
        std::mem::swap(headers, scratch);
    });
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
                &["transfer-encoding"],
            ),
            (&[("transfer-encoding", "gzip, chunked")], &[]),
        ] {
            let mut headers = map(given);
            strip_hop_by_hop(&mut headers, false);
            assert_eq!(names(&headers), left, "{given:?}");
        }
    }

    #[test]
    fn what_stays_keeps_its_order() {
        let mut headers = map(&[
            ("host", "x"),
            ("connection", "keep-alive, b"),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("a", "4"),
            ("keep-alive", "5"),
            ("d", "6"),
        ]);
        strip_hop_by_hop(&mut headers, false);
        let left: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_bytes()))
            .collect();
        let expected: [(&str, &[u8]); 5] = [
            ("host", b"x"),
            ("a", b"1"),
            ("a", b"4"),
            ("c", b"3"),
            ("d", b"6"),
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn a_switch_of_protocols_is_told_to_the_next_and_nothing_else_of_the_connection() {
        let mut headers = map(&[
            ("upgrade", "websocket"),
            ("connection", "keep-alive, UPGRADE, x"),
            ("x", "1"),
            ("keep-alive", "timeout=5"),
        ]);
        strip_hop_by_hop(&mut headers, true);
        assert_eq!(names(&headers), ["connection", "upgrade"]);
        assert_eq!(headers[CONNECTION], "UPGRADE");
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
