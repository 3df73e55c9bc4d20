//! What a request must be like to get in. hyper has already refused broken framing and syntax; this is the rest.

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    request::Parts,
    uri::PathAndQuery,
};

use super::path;

/// Why a request is not let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// 400.
    Bad(String),
    /// 431.
    TooLarge(String),
    /// 501.
    NotSupported(&'static str),
}

/// Checks a request and leaves it in one form: `uri` is path and query only, `Host` is there exactly once, and its
/// body ends in one way. `local`: where it came in; `most_fields`: of its head. Returns the authority.
pub(crate) fn admit(
    parts: &mut Parts,
    local: Option<SocketAddr>,
    most_fields: usize,
) -> Result<HeaderValue, Refused> {
    if parts.headers.len() > most_fields {
        let found = parts.headers.len();
        return Err(Refused::TooLarge(format!(
            "{found} header fields; at most {most_fields} are taken (max_headers_count)"
        )));
    }
    check_coding(&mut parts.headers)?;
    one_form_of_length(&mut parts.headers);
    if parts.method == Method::CONNECT {
        return connection(parts);
    }
    if parts.version == Version::HTTP_10 {
        name_own_host(parts, local);
    }
    let authority = authority(parts)?;
    check_host(authority.as_bytes()).map_err(|rule| {
        let shown = String::from_utf8_lossy(authority.as_bytes());
        Refused::Bad(format!("Host {shown:?}: {rule}; expected host[:port]"))
    })?;
    check_target(parts)?;
    if parts.headers.get(HOST) != Some(&authority) {
        parts.headers.insert(HOST, authority.clone());
    }
    Ok(authority)
}

/// HTTP/1.0 has no Host: what a caller of HTTP/1.1 would have sent who knows nothing but the address.
fn name_own_host(parts: &mut Parts, local: Option<SocketAddr>) {
    if let Some(local) = local
        && parts.uri.authority().is_none()
        && !parts.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(&local.to_string())
    {
        parts.headers.insert(HOST, host);
    }
}

/// CONNECT: its target is a host with a port, and nothing else (RFC 9112 section 3.2.3).
fn connection(parts: &mut Parts) -> Result<HeaderValue, Refused> {
    let bad = |rule: &str| Refused::Bad(rule.to_owned());
    let target = parts
        .uri
        .authority()
        .ok_or_else(|| bad("CONNECT without a target"))?;
    let authority = HeaderValue::from_str(target.as_str())
        .map_err(|_bytes| bad("the target has odd characters"))?;
    check_host(authority.as_bytes())
        .map_err(|rule| Refused::Bad(format!("CONNECT {target}: {rule}; expected host:port")))?;
    if target.port_u16().is_none() {
        return Err(Refused::Bad(format!(
            "CONNECT {target}: no port; expected host:port"
        )));
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_bytes());
    if !hosts.next().is_none_or(same) || hosts.next().is_some() {
        return Err(bad("the target of CONNECT and Host differ"));
    }
    parts.uri = Uri::from_static("/");
    parts.headers.insert(HOST, authority.clone());
    Ok(authority)
}

/// `0003` is three to us; to who reads C's way it is octal.
fn one_form_of_length(headers: &mut HeaderMap) {
    let odd = |value: &HeaderValue| matches!(value.as_bytes(), [b'0', _, ..]);
    if let Some(length) = headers.get(CONTENT_LENGTH).filter(|value| odd(value))
        && let Ok(text) = length.to_str()
        && let Ok(number) = text.parse::<u64>()
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(number));
    }
}

/// hyper takes whatever ends in `chunked`. What comes before it nobody here undoes, and some read `chunked` twice in
/// another way than others (RFC 9112 section 6.1). A length beside it is gone already.
fn check_coding(headers: &mut HeaderMap) -> Result<(), Refused> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    if codings.next().is_some() {
        return Err(Refused::Bad(
            "Transfer-Encoding occurs more than once".to_owned(),
        ));
    }
    if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Refused::NotSupported(
            "a Transfer-Encoding other than chunked alone",
        ));
    }
    // It may be passed on as it was said, and not everybody reads capitals.
    if coding != "chunked" {
        let chunked = HeaderValue::from_static("chunked");
        headers.insert(TRANSFER_ENCODING, chunked);
    }
    Ok(())
}

/// Whether an answer of HTTP/1.1 ends in one way only, so that nobody behind us can read it in another: `chunked`
/// alone, or one length, which is left in one form (RFC 9112 section 6.3).
pub(crate) fn admit_answer(headers: &mut HeaderMap) -> Result<(), &'static str> {
    if let Some(coding) = headers.get(TRANSFER_ENCODING) {
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
            || headers.get_all(TRANSFER_ENCODING).iter().count() > 1
        {
            return Err("a Transfer-Encoding other than chunked alone");
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err("both Transfer-Encoding and Content-Length");
        }
        return Ok(());
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else {
        return Ok(());
    };
    if lengths.next().is_none() && first.as_bytes().iter().all(u8::is_ascii_digit) {
        return Ok(());
    }
    // The same one several times, as hyper has seen.
    let mut parts = first.as_bytes().split(|b| *b == b',');
    let one = parts.next().unwrap_or_default().trim_ascii();
    let one = HeaderValue::from_bytes(one).map_err(|_bytes| "a malformed Content-Length")?;
    headers.insert(CONTENT_LENGTH, one);
    Ok(())
}

fn authority(parts: &Parts) -> Result<HeaderValue, Refused> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refused::Bad("Host occurs more than once".to_owned()));
    }
    let in_uri = parts.uri.authority().map(http::uri::Authority::as_str);
    match (in_uri, host) {
        (Some(in_uri), Some(host)) if parts.version == Version::HTTP_2 => {
            check_scheme(parts)?;
            if !host.as_bytes().eq_ignore_ascii_case(in_uri.as_bytes()) {
                return Err(Refused::Bad(":authority and host differ".to_owned()));
            }
            Ok(host.clone())
        }
        // The absolute form replaces Host (RFC 9112 section 3.2.2).
        (Some(in_uri), _) => {
            check_scheme(parts)?;
            if parts.version != Version::HTTP_2 && parts.uri.scheme_str() != Some("http") {
                let scheme = parts.uri.scheme_str().unwrap_or_default();
                return Err(Refused::Bad(format!(
                    "absolute form with scheme {scheme:?}; expected http: the mesh encrypts by itself"
                )));
            }
            // Replaced or not, it has to be there, and to be one (RFC 9112 section 3.2).
            match host {
                None if parts.version == Version::HTTP_11 => {
                    return Err(Refused::Bad("Host is missing".to_owned()));
                }
                Some(host) => check_host(host.as_bytes()).map_err(|rule| {
                    let shown = String::from_utf8_lossy(host.as_bytes());
                    Refused::Bad(format!("Host {shown:?}: {rule}; expected host[:port]"))
                })?,
                None => {}
            }
            HeaderValue::from_str(in_uri)
                .map_err(|_bytes| Refused::Bad("the authority has odd characters".to_owned()))
        }
        (None, Some(host)) => Ok(host.clone()),
        (None, None) => Err(Refused::Bad("Host is missing".to_owned())),
    }
}

/// HTTP/2 says one with every request, and nobody here speaks another.
fn check_scheme(parts: &Parts) -> Result<(), Refused> {
    match parts.uri.scheme_str() {
        None | Some("http" | "https") => Ok(()),
        Some(other) => Err(Refused::Bad(format!(
            "the scheme {other:?}; expected http or https"
        ))),
    }
}

fn check_host(host: &[u8]) -> Result<(), &'static str> {
    let (name, port) = match host {
        [b'[', ..] => {
            let end = host
                .iter()
                .position(|b| *b == b']')
                .ok_or("the bracket is not closed")?;
            let (name, rest) = host.split_at(end + 1);
            let inner = name.get(1..end).unwrap_or_default();
            let address = std::str::from_utf8(inner).ok();
            if address.is_none_or(|a| a.parse::<std::net::Ipv6Addr>().is_err()) {
                return Err("not an IPv6 address in brackets");
            }
            (&b"v6"[..], rest)
        }
        _ => match host.iter().position(|b| *b == b':') {
            Some(at) => host.split_at(at),
            None => (host, &b""[..]),
        },
    };
    if name.is_empty() {
        return Err("the name is empty");
    }
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(b);
    if !name.iter().all(allowed) {
        return Err("a character that names do not have");
    }
    match port {
        [] => Ok(()),
        [b':', digits @ ..] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let number = std::str::from_utf8(digits)
                .ok()
                .and_then(|d| d.parse::<u16>().ok());
            number.map(|_| ()).ok_or("the port is above 65535")
        }
        _ => Err("the port is not a number"),
    }
}

/// Leaves path and query, with dot segments resolved.
fn check_target(parts: &mut Parts) -> Result<(), Refused> {
    let bad = |rule: &str| Refused::Bad(rule.to_owned());
    let path = match parts.uri.path() {
        "" => "/",
        path => path,
    };
    if path == "*" && parts.method != Method::OPTIONS {
        return Err(bad("the target * is for OPTIONS only"));
    }
    if path != "*" && !path.starts_with('/') {
        return Err(bad("the path does not start with /"));
    }
    let normal = path::normalise(path).map_err(bad)?;
    let unchanged = parts.uri.scheme().is_none()
        && parts.uri.authority().is_none()
        && matches!(normal, std::borrow::Cow::Borrowed(_))
        && !parts.uri.path().is_empty();
    if unchanged {
        return Ok(());
    }
    let target = match parts.uri.query() {
        Some(query) => format!("{normal}?{query}"),
        None => normal.into_owned(),
    };
    let target = PathAndQuery::from_maybe_shared(bytes::Bytes::from(target))
        .map_err(|_syntax| bad("the path has characters that paths do not have"))?;
    parts.uri = Uri::from(target);
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn admitted(request: http::request::Builder) -> Result<(String, String), Refused> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let authority = admit(&mut parts, "10.0.0.7:9080".parse().ok(), 100)?;
        assert_eq!(parts.headers.get_all(HOST).iter().count(), 1);
        Ok((
            authority.to_str().unwrap().to_owned(),
            parts.uri.to_string(),
        ))
    }

    fn ok(authority: &str, uri: &str) -> Result<(String, String), Refused> {
        Ok((authority.to_owned(), uri.to_owned()))
    }

    #[test]
    fn every_form_of_target_becomes_one() {
        let get = |uri: &str| Request::builder().uri(uri);
        assert_eq!(
            admitted(get("/a?b").header("host", "x:80")),
            ok("x:80", "/a?b")
        );
        assert_eq!(
            admitted(get("http://y/a").header("host", "x")),
            ok("y", "/a")
        );
        assert_eq!(admitted(get("http://y").header("host", "x")), ok("y", "/"));
        assert_eq!(
            admitted(get("/a/../b?c=../d").header("host", "x")),
            ok("x", "/b?c=../d")
        );
        assert_eq!(
            admitted(get("/").header("host", "[::1]:80")),
            ok("[::1]:80", "/")
        );
        let h2 = |uri: &str| Request::builder().uri(uri).version(Version::HTTP_2);
        assert_eq!(admitted(h2("https://y/a")), ok("y", "/a"));
        assert_eq!(
            admitted(h2("http://y/a").header("host", "Y")),
            ok("Y", "/a")
        );
    }

    #[test]
    fn odd_hosts_and_targets_are_refused() {
        let get = |uri: &str| Request::builder().uri(uri);
        for (request, name) in [
            (get("/"), "no host"),
            (
                get("/").header("host", "a").header("host", "a"),
                "two hosts",
            ),
            (get("/").header("host", ""), "empty"),
            (get("/").header("host", "a@b"), "userinfo"),
            (get("/").header("host", "a/b"), "slash"),
            (get("/").header("host", "a?b"), "query"),
            (get("/").header("host", "a b"), "space"),
            (get("/").header("host", "a%41"), "percent"),
            (get("/").header("host", "a:b"), "port"),
            (get("/").header("host", "a:99999"), "large port"),
            (get("/").header("host", "[::1"), "open bracket"),
            (
                get("http://u@y/").header("host", "x"),
                "userinfo in the target",
            ),
            (get("https://y/").header("host", "x"), "https"),
            (get("/%00").header("host", "x"), "nul"),
            (get("/../a").header("host", "x"), "above the root"),
            (get("*").header("host", "x"), "star"),
            (
                get("http://y/")
                    .version(Version::HTTP_2)
                    .header("host", "x"),
                "authority and host differ",
            ),
        ] {
            assert!(matches!(admitted(request), Err(Refused::Bad(_))), "{name}");
        }
    }

    #[test]
    fn one_coding_is_understood_and_a_number_of_fields_is_the_most() {
        let post = || Request::builder().uri("/").header("host", "x");
        let coded = |coding: &str| admitted(post().header("transfer-encoding", coding));
        assert!(coded("chunked").is_ok());
        let capitals = post().header("transfer-encoding", "CHUNKED");
        let (mut parts, ()) = capitals.body(()).unwrap().into_parts();
        assert!(admit(&mut parts, None, 100).is_ok());
        assert_eq!(parts.headers[TRANSFER_ENCODING], "chunked");
        for odd in [
            "gzip, chunked",
            "chunked, chunked",
            "identity",
            "chunked;q=1",
            "",
        ] {
            assert!(matches!(coded(odd), Err(Refused::NotSupported(_))), "{odd}");
        }
        let twice = post()
            .header("transfer-encoding", "chunked")
            .header("transfer-encoding", "chunked");
        assert!(matches!(admitted(twice), Err(Refused::Bad(_))));
        let fields =
            |count: usize| (1..count).fold(post(), |post, n| post.header(format!("x-{n}"), "1"));
        assert!(admitted(fields(100)).is_ok());
        assert!(matches!(admitted(fields(101)), Err(Refused::TooLarge(_))));
    }

    #[test]
    fn an_answer_ends_in_one_way() {
        let judged = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            admit_answer(&mut headers).map(|()| {
                let lengths = headers.get_all(CONTENT_LENGTH).iter();
                lengths
                    .map(|v| v.to_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
            })
        };
        let length = "content-length";
        assert_eq!(judged(&[]), Ok(vec![]));
        assert_eq!(judged(&[(length, "2")]), Ok(vec!["2".to_owned()]));
        assert_eq!(
            judged(&[(length, "2"), (length, "2")]),
            Ok(vec!["2".to_owned()])
        );
        assert_eq!(judged(&[(length, "2, 2")]), Ok(vec!["2".to_owned()]));
        assert_eq!(judged(&[("transfer-encoding", "chunked")]), Ok(vec![]));
        for odd in ["gzip", "gzip, chunked", "chunked, chunked"] {
            assert!(judged(&[("transfer-encoding", odd)]).is_err(), "{odd}");
        }
        assert!(judged(&[("transfer-encoding", "chunked"), (length, "2")]).is_err());
    }

    #[test]
    fn every_host_that_is_let_in_can_be_said_in_http2() {
        for byte in 0..=255_u8 {
            let host = [b'a', byte, b'b'];
            if check_host(&host).is_ok() {
                let authority = http::uri::Authority::try_from(&host[..]);
                assert!(authority.is_ok(), "{:?}", char::from(byte));
            }
        }
    }

    #[test]
    fn a_connect_has_a_host_and_a_port_and_says_nothing_else() {
        let connect = |uri: &str| Request::builder().method("CONNECT").uri(uri);
        assert_eq!(
            admitted(connect("x:80").header("host", "X:80")),
            ok("x:80", "/")
        );
        assert_eq!(admitted(connect("[::1]:80")), ok("[::1]:80", "/"));
        for (request, name) in [
            (connect("x:80").header("host", "y:80"), "another host"),
            (
                connect("x:80").header("host", "x"),
                "the port missing in Host",
            ),
            (connect("x"), "no port"),
            (connect("u@x:80"), "userinfo"),
            (connect("/x"), "a path"),
        ] {
            assert!(matches!(admitted(request), Err(Refused::Bad(_))), "{name}");
        }
    }

    #[test]
    fn http_1_0_without_a_host_is_for_the_address_that_it_came_to() {
        let old = || Request::builder().uri("/a").version(Version::HTTP_10);
        assert_eq!(admitted(old()), ok("10.0.0.7:9080", "/a"));
        assert_eq!(admitted(old().header("host", "x")), ok("x", "/a"));
    }
}
