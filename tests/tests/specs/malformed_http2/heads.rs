//! Fields and pseudo-fields of requests (RFC 9113 section 8, RFC 8441), and what they would be in HTTP/1.1.

use outrigger_tests::h2_bytes::literal;

use super::{Case, Expected::*, *};

const BAD: &[u32] = &[PROTOCOL_ERROR];

/// A request of these fields alone.
fn only(fields: &[(&str, &str)]) -> Vec<u8> {
    of(1, fields, true)
}

/// The usual ones, and one of any bytes.
fn odd(name: &[u8], value: &[u8]) -> Vec<u8> {
    let usual = block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a"),
        (":authority", "reviews:9080"),
    ]);
    frame(kind::HEADERS, 5, 1, &[usual, literal(name, value)].concat())
}

/// The usual ones with another value of one of them.
fn other(name: &str, value: &[u8]) -> Vec<u8> {
    let usual = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a"),
        (":authority", "reviews:9080"),
    ];
    let block: Vec<u8> = usual
        .iter()
        .flat_map(|(known, usual)| {
            literal(
                known.as_bytes(),
                if *known == name {
                    value
                } else {
                    usual.as_bytes()
                },
            )
        })
        .collect();
    frame(kind::HEADERS, 5, 1, &block)
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = pseudo();
    all.extend(fields());
    all.extend(values());
    all
}

fn pseudo() -> Vec<Case> {
    let (method, scheme, path, authority) = (
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a"),
        (":authority", "reviews:9080"),
    );
    vec![
        Case::new("no method", only(&[scheme, path, authority]), Stream(BAD)),
        Case::new("no scheme", only(&[method, path, authority]), Stream(BAD)),
        Case::new("no path", only(&[method, scheme, authority]), Stream(BAD)),
        Case::new("no authority", only(&[method, scheme, path]), Refused(400)),
        Case::new(
            "a host in place of an authority",
            only(&[method, scheme, path, ("host", "reviews:9080")]),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a host like its authority",
            only(&[method, scheme, path, authority, ("host", "reviews:9080")]),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a host unlike its authority",
            only(&[method, scheme, path, authority, ("host", "other")]),
            Refused(400),
        ),
        Case::new(
            "two hosts",
            only(&[
                method,
                scheme,
                path,
                authority,
                ("host", "reviews:9080"),
                ("host", "other"),
            ]),
            Refused(400),
        ),
        Case::new(
            "two methods",
            only(&[method, (":method", "POST"), scheme, path, authority]),
            Stream(BAD),
        ),
        Case::new(
            "two paths",
            only(&[method, scheme, path, (":path", "/b"), authority]),
            Stream(BAD),
        ),
        Case::new(
            "two schemes",
            only(&[method, scheme, (":scheme", "https"), path, authority]),
            Stream(BAD),
        ),
        Case::new(
            "two authorities",
            only(&[method, scheme, path, authority, (":authority", "other")]),
            Stream(BAD),
        ),
        Case::new(
            "an unknown pseudo-field",
            only(&[method, scheme, path, authority, (":unknown", "1")]),
            Stream(BAD),
        ),
        Case::new(
            "a status",
            only(&[method, scheme, path, authority, (":status", "200")]),
            Stream(BAD),
        ),
        Case::new(
            "a pseudo-field after a field",
            only(&[method, scheme, path, ("x-a", "1"), authority]),
            Stream(BAD),
        ),
        Case::new("an empty path", other(":path", b""), Stream(BAD)),
        Case::new("an empty method", other(":method", b""), Stream(BAD)),
        Case::new(
            "a scheme of another protocol",
            other(":scheme", b"ftp"),
            NotPassed,
        ),
        Case::new(
            "a protocol that was not settled",
            only(&[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                scheme,
                path,
                authority,
            ]),
            NotPassed,
        ),
        Case::new(
            "CONNECT with a path",
            only(&[(":method", "CONNECT"), scheme, path, authority]),
            NotPassed,
        ),
        Case::new("a star", other(":path", b"*"), Refused(400)),
        Case::new("a path without a slash", other(":path", b"a"), NotPassed),
        Case::new(
            "a whole address as a path",
            other(":path", b"http://other/a"),
            NotPassed,
        ),
        Case::new(
            "an authority with a user",
            other(":authority", b"other@reviews:9080"),
            NotPassed,
        ),
    ]
}

/// RFC 9113 section 8.2: no field of a connection, no capitals.
fn fields() -> Vec<Case> {
    vec![
        Case::new("a name in capitals", odd(b"X-A", b"1"), Stream(BAD)),
        Case::new("Connection", odd(b"connection", b"close"), Stream(BAD)),
        Case::new(
            "Connection of keep-alive",
            odd(b"connection", b"keep-alive"),
            Stream(BAD),
        ),
        Case::new("Keep-Alive", odd(b"keep-alive", b"timeout=5"), Stream(BAD)),
        Case::new(
            "Proxy-Connection",
            odd(b"proxy-connection", b"close"),
            Stream(BAD),
        ),
        Case::new(
            "Transfer-Encoding",
            odd(b"transfer-encoding", b"chunked"),
            Stream(BAD),
        ),
        Case::new("Upgrade", odd(b"upgrade", b"h2c"), Stream(BAD)),
        Case::new("TE of gzip", odd(b"te", b"gzip"), Stream(BAD)),
        Case::new(
            "TE of trailers",
            odd(b"te", b"trailers"),
            Passes(&["GET /a"]),
        ),
        Case::new("an empty name", odd(b"", b"1"), NotPassed),
        Case::new("a name with a space", odd(b"x a", b"1"), NotPassed),
        Case::new("a name with a colon", odd(b"x:a", b"1"), NotPassed),
        Case::new("a name with a line feed", odd(b"x\na", b"1"), NotPassed),
        Case::new("a name with a NUL", odd(b"x\0a", b"1"), NotPassed),
        Case::new("a name beyond ASCII", odd(b"x-\xc3\xa9", b"1"), NotPassed),
        Case::new(
            "a name that is read as a coding",
            odd(b"transfer_encoding", b"chunked"),
            Passes(&["GET /a"]),
        )
        .without(&["transfer_encoding"]),
        Case::new(
            "a name that is read as an identity",
            odd(b"x_forwarded_client_cert", b"URI=admin"),
            Passes(&["GET /a"]),
        )
        .without(&["x_forwarded_client_cert"]),
        Case::new(
            "cookies in pieces",
            request(1, &[("cookie", "a=1"), ("cookie", "b=2")], true),
            Passes(&["GET /a"]),
        ),
    ]
}

/// What would be another field, or another request, in HTTP/1.1.
fn values() -> Vec<Case> {
    vec![
        Case::new(
            "a line break in a value",
            odd(b"x-a", b"1\r\nx-injected: 1"),
            NotPassed,
        ),
        Case::new(
            "a line feed in a value",
            odd(b"x-a", b"1\nx-injected: 1"),
            NotPassed,
        ),
        Case::new(
            "a carriage return in a value",
            odd(b"x-a", b"1\rx-injected: 1"),
            NotPassed,
        ),
        Case::new("a NUL in a value", odd(b"x-a", b"1\x002"), NotPassed),
        Case::new(
            "a line break in a path",
            other(":path", b"/a HTTP/1.1\r\nx-injected: 1\r\n\r\n"),
            NotPassed,
        ),
        Case::new("a space in a path", other(":path", b"/a b"), NotPassed),
        Case::new("a NUL in a path", other(":path", b"/a\0b"), NotPassed),
        Case::new(
            "an escaped NUL in a path",
            other(":path", b"/a%00b"),
            Refused(400),
        ),
        Case::new(
            "a fragment in a path",
            other(":path", b"/a#b"),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a path above its root",
            other(":path", b"/../a"),
            Refused(400),
        ),
        Case::new(
            "a line break in a method",
            other(":method", b"GET / HTTP/1.1\r\nx-injected: 1\r\n\r\n"),
            NotPassed,
        ),
        Case::new(
            "a space in a method",
            other(":method", b"GET /b"),
            NotPassed,
        ),
        Case::new(
            "a line break in an authority",
            other(":authority", b"reviews:9080\r\nx-injected: 1"),
            NotPassed,
        ),
        Case::new(
            "a space in an authority",
            other(":authority", b"reviews:9080 other"),
            NotPassed,
        ),
        Case::new(
            "a path in an authority",
            other(":authority", b"reviews:9080/b"),
            NotPassed,
        ),
        Case::new(
            "a line break in a scheme",
            other(":scheme", b"http://other/\r\nx-injected: 1"),
            NotPassed,
        ),
        Case::new(
            "a smuggled request in a body",
            [
                post(1, &[]),
                data(
                    1,
                    b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: reviews\r\n\r\n",
                    true,
                ),
            ]
            .concat(),
            Passes(&["POST /a 0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: reviews"]),
        ),
        Case::new("a space before a value", odd(b"x-a", b" 1"), Whatever),
    ]
}
