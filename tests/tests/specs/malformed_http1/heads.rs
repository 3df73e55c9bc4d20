//! Request lines, field lines, Host, targets, what belongs to one connection, sizes (RFC 9112 sections 2 to 5 and 9, RFC
//! 9110 sections 5, 7 and 9).

use super::{Case, Expected::*};

const BAD: &[u16] = &[400];
/// A name of a method or a version that is not HTTP's.
const NOT_HTTP: &[u16] = &[400, 505];

/// A GET with these lines after its request line.
macro_rules! get {
    ($lines:literal) => {
        concat!("GET /a HTTP/1.1\r\n", $lines, "\r\n").as_bytes()
    };
}

/// A GET with a Host and these fields.
macro_rules! with {
    ($fields:literal) => {
        concat!("GET /a HTTP/1.1\r\nHost: reviews:9080\r\n", $fields, "\r\n").as_bytes()
    };
}

/// A request of this line.
macro_rules! line {
    ($line:literal) => {
        concat!($line, "\r\nHost: reviews:9080\r\n\r\n").as_bytes()
    };
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = lines();
    all.extend(fields());
    all.extend(hosts());
    all.extend(targets());
    all.extend(of_a_connection());
    all.extend(sizes());
    all
}

fn lines() -> Vec<Case> {
    vec![
        Case::new(
            "a method of one's own",
            line!("BREW /a HTTP/1.1"),
            Passes(&["BREW /a"]),
        ),
        Case::new(
            "a method in small letters",
            line!("get /a HTTP/1.1"),
            Passes(&["get /a"]),
        ),
        Case::new("no method", line!(" /a HTTP/1.1"), Refused(BAD)),
        Case::new(
            "a method with a control",
            line!("G\x01T /a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "a method with a bracket",
            line!("GET(x) /a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "a method with a colon",
            line!("GET: /a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "two spaces after the method",
            line!("GET  /a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "a tab after the method",
            line!("GET\t/a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "two spaces before the version",
            line!("GET /a  HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "a space in the target",
            line!("GET /a b HTTP/1.1"),
            Refused(NOT_HTTP),
        ),
        Case::new(
            "a space after the version",
            line!("GET /a HTTP/1.1 "),
            Refused(NOT_HTTP),
        ),
        Case::new("no version", line!("GET /a"), Refused(NOT_HTTP)),
        Case::new("HTTP/0.9", line!("GET /a HTTP/0.9"), Refused(NOT_HTTP)),
        Case::new("HTTP/1.2", line!("GET /a HTTP/1.2"), Refused(NOT_HTTP)),
        Case::new(
            "HTTP/2.0 without its preface",
            line!("GET /a HTTP/2.0"),
            Refused(NOT_HTTP),
        ),
        Case::new("HTTP/11", line!("GET /a HTTP/11"), Refused(NOT_HTTP)),
        Case::new("HTTP/1.10", line!("GET /a HTTP/1.10"), Refused(NOT_HTTP)),
        Case::new(
            "a version in small letters",
            line!("GET /a http/1.1"),
            Refused(NOT_HTTP),
        ),
        Case::new(
            "a version of another protocol",
            line!("GET /a ICAP/1.1"),
            Refused(NOT_HTTP),
        ),
        Case::new(
            "HTTP/1.0",
            &b"GET /a HTTP/1.0\r\nHost: reviews:9080\r\n\r\n"[..],
            PassesAndEnds(&["GET /a"]),
        ),
        Case::new(
            "HTTP/1.0 that is kept",
            &b"GET /a HTTP/1.0\r\nHost: reviews:9080\r\nConnection: keep-alive\r\n\r\n"[..],
            Passes(&["GET /a"]),
        ),
        Case::new(
            "TLS to a plain port",
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
            Refused(BAD),
        ),
        Case::new(
            "a preface that is none",
            &b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..],
            Refused(NOT_HTTP),
        ),
        Case::new(
            "a head that ends early",
            &b"GET /a HTTP/1.1\r\nHost: rev"[..],
            Ends,
        )
        .leaves(),
        Case::new(
            "a carriage return in the target",
            line!("GET /a\rb HTTP/1.1"),
            Refused(BAD),
        ),
    ]
}

fn fields() -> Vec<Case> {
    vec![
        Case::new("a space before a colon", with!("X-A : 1\r\n"), Refused(BAD)),
        Case::new("a tab before a colon", with!("X-A\t: 1\r\n"), Refused(BAD)),
        Case::new("a name with a space", with!("X A: 1\r\n"), Refused(BAD)),
        Case::new("a name with a NUL", with!("X\0A: 1\r\n"), Refused(BAD)),
        Case::new(
            "a name with a control",
            with!("X\x01A: 1\r\n"),
            Refused(BAD),
        ),
        Case::new("a name in brackets", with!("(X): 1\r\n"), Refused(BAD)),
        Case::new(
            "a name beyond ASCII",
            "GET /a HTTP/1.1\r\nHost: reviews:9080\r\nX-\u{e9}: 1\r\n\r\n".as_bytes(),
            Refused(BAD),
        ),
        Case::new("no name", with!(": 1\r\n"), Refused(BAD)),
        Case::new("no colon", with!("X-A\r\n"), Refused(BAD)),
        Case::new("a value with a NUL", with!("X-A: a\0b\r\n"), Refused(BAD)),
        Case::new(
            "a value with a control",
            with!("X-A: a\x01b\r\n"),
            Refused(BAD),
        ),
        Case::new("a value with DEL", with!("X-A: a\x7fb\r\n"), Refused(BAD)),
        Case::new(
            "a value with a carriage return",
            with!("X-A: a\rb\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a value beyond ASCII",
            &b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\nX-A: \xc3\xa9\xff\r\n\r\n"[..],
            Passes(&["GET /a"]),
        ),
        Case::new("an empty value", with!("X-A:\r\n"), Passes(&["GET /a"])).with(&[("x-a", "")]),
        Case::new(
            "spaces around a value",
            with!("X-A: \t 1 \t \r\n"),
            Passes(&["GET /a"]),
        )
        .with(&[("x-a", "1")]),
        Case::new("a folded value", with!("X-A: 1\r\n 2\r\n"), Refused(BAD)),
        Case::new(
            "a value folded by a tab",
            with!("X-A: 1\r\n\t2\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a fold before the first field",
            &b"GET /a HTTP/1.1\r\n Host: reviews:9080\r\n\r\n"[..],
            Refused(BAD),
        ),
        Case::new("a space before a name", with!(" X-A: 1\r\n"), Refused(BAD)),
        Case::new(
            "a field that a carriage return hides",
            with!("X-A: 1\rX-Forwarded-Client-Cert: URI=admin\r\n"),
            Refused(BAD),
        ),
    ]
}

/// RFC 9112 section 3.2: exactly one, and valid.
fn hosts() -> Vec<Case> {
    vec![
        Case::new("no Host", get!(""), Refused(BAD)),
        Case::new("an empty Host", get!("Host:\r\n"), Refused(BAD)),
        Case::new(
            "two Hosts",
            get!("Host: reviews:9080\r\nHost: other\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "the same Host twice",
            get!("Host: reviews:9080\r\nHost: reviews:9080\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "two Hosts in one",
            get!("Host: reviews:9080, other\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with a user",
            get!("Host: other@reviews:9080\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with a path",
            get!("Host: reviews:9080/b\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with a query",
            get!("Host: reviews:9080?b\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with a fragment",
            get!("Host: reviews:9080#b\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with a backslash",
            get!("Host: reviews\\b\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with a space",
            get!("Host: reviews other\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with a tab",
            get!("Host: reviews\tother\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with a NUL",
            get!("Host: reviews\0.other\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with two ports",
            get!("Host: reviews:9080:80\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with no port after its colon",
            get!("Host: reviews:\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host whose port is a name",
            get!("Host: reviews:http\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host whose port is too large",
            get!("Host: reviews:99999\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with an open bracket",
            get!("Host: [::1\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host in other brackets",
            get!("Host: <reviews>\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host beyond ASCII",
            "GET /a HTTP/1.1\r\nHost: r\u{e9}views\r\n\r\n".as_bytes(),
            Refused(BAD),
        ),
        Case::new(
            "a Host that a second name follows",
            get!("Host: reviews:9080\r\nH\u{6f}st: other\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a Host with an underscore in its name",
            get!("Host: reviews:9080\r\nX_Host: other\r\n"),
            Passes(&["GET /a"]),
        ),
    ]
}

/// RFC 9112 section 3.2: the four forms.
fn targets() -> Vec<Case> {
    vec![
        Case::new(
            "an absolute target",
            line!("GET http://reviews:9080/a?b HTTP/1.1"),
            Passes(&["GET /a?b"]),
        )
        .with(&[("host", "reviews:9080")]),
        Case::new(
            "an absolute target of another Host",
            &b"GET http://reviews:9080/a HTTP/1.1\r\nHost: other\r\n\r\n"[..],
            Passes(&["GET /a"]),
        )
        .with(&[("host", "reviews:9080")]),
        Case::new(
            "an absolute target with a user",
            line!("GET http://other@reviews:9080/a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "an absolute target without a host",
            line!("GET http:///a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "an absolute target of a file",
            line!("GET file:///etc/passwd HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "an absolute target of another scheme",
            line!("GET ftp://reviews:9080/a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "an absolute target without a path",
            line!("GET http://reviews:9080 HTTP/1.1"),
            Passes(&["GET /"]),
        ),
        Case::new(
            "an absolute target and two Hosts",
            &b"GET http://reviews:9080/a HTTP/1.1\r\nHost: reviews\r\nHost: other\r\n\r\n"[..],
            Refused(BAD),
        ),
        Case::new(
            "an absolute target without a Host",
            &b"GET http://reviews:9080/a HTTP/1.1\r\n\r\n"[..],
            Refused(BAD),
        ),
        Case::new(
            "an absolute target and a bad Host",
            &b"GET http://reviews:9080/a HTTP/1.1\r\nHost: o/ther\r\n\r\n"[..],
            Refused(BAD),
        ),
        Case::new("a star of a GET", line!("GET * HTTP/1.1"), Refused(BAD)),
        Case::new(
            "a target without a slash",
            line!("GET a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new("an empty target", line!("GET  HTTP/1.1"), Refused(BAD)),
        Case::new(
            "a target of two slashes",
            line!("GET //other/a HTTP/1.1"),
            Passes(&["GET //other/a"]),
        )
        .with(&[("host", "reviews:9080")]),
        Case::new(
            "a target with a backslash",
            line!("GET /a\\..\\b HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "a target with a NUL",
            line!("GET /a\0b HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "a target with an escaped NUL",
            line!("GET /a%00b HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "a target above its root",
            line!("GET /../a HTTP/1.1"),
            Refused(BAD),
        ),
        Case::new(
            "a target with dot segments",
            line!("GET /b/../a HTTP/1.1"),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a target with escaped dot segments",
            line!("GET /b/%2e%2e/a HTTP/1.1"),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a target with a fragment",
            line!("GET /a#b HTTP/1.1"),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a target with line breaks in escapes",
            line!("GET /a%0d%0aX-Injected:%201 HTTP/1.1"),
            Passes(&["GET /a%0d%0aX-Injected:%201"]),
        ),
        Case::new(
            "CONNECT with a path",
            line!("CONNECT /a HTTP/1.1"),
            Refused(&[400, 501]),
        ),
        Case::new(
            "an authority of a GET",
            line!("GET reviews:9080 HTTP/1.1"),
            Refused(BAD),
        ),
    ]
}

/// RFC 9110 sections 7.6.1 and 7.8: fields of one connection end there; nobody switches protocols behind our back.
fn of_a_connection() -> Vec<Case> {
    vec![
        Case::new("a field that Connection names", with!("Connection: x-a\r\nX-A: 1\r\n"), Passes(&["GET /a"])).without(&["x-a", "connection"]),
        Case::new("a Host that Connection names", with!("Connection: host\r\n"), Passes(&["GET /a"])).with(&[("host", "reviews:9080")]),
        Case::new("a length that Connection names", &b"POST /a HTTP/1.1\r\nHost: reviews:9080\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc"[..], Passes(&["POST /a abc"])).with(&[("content-length", "3")]),
        Case::new("an identity that Connection names", with!("Connection: x-forwarded-client-cert\r\nX-Forwarded-Client-Cert: URI=admin\r\n"), Passes(&["GET /a"])),
        Case::new("Keep-Alive and Proxy-Connection", with!("Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n"), Passes(&["GET /a"])).without(&["keep-alive", "proxy-connection"]),
        Case::new("TE of more than trailers", with!("TE: gzip, trailers\r\nConnection: TE\r\n"), Passes(&["GET /a"])).without(&["connection"]),
        Case::new("an upgrade to h2c", with!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"), Passes(&["GET /a"])).without(&["upgrade", "http2-settings", "connection"]),
        Case::new("an upgrade to h2c without Connection", with!("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"), Passes(&["GET /a"])).without(&["upgrade", "http2-settings"]),
        Case::new("an upgrade to h2c that smuggles", with!("Connection: Upgrade\r\nUpgrade: H2C\r\nHTTP2-Settings: AA\r\nX-A: 1\r\n"), Passes(&["GET /a"])).without(&["upgrade", "http2-settings"]),
        Case::new("an identity with an underscore", with!("X_Forwarded_Client_Cert: URI=admin\r\n"), Passes(&["GET /a"])).without(&["x_forwarded_client_cert"]),
        Case::new("the credentials of a proxy", with!("Proxy-Authenticate: Basic\r\n"), Passes(&["GET /a"])).without(&["proxy-authenticate"]),
    ]
}

/// 60 KiB of head, 100 fields.
fn sizes() -> Vec<Case> {
    let head = |fields: usize, size: usize| {
        let mut said = b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\n".to_vec();
        for number in 0..fields {
            said.extend(format!("x-{number}: ").as_bytes());
            said.resize(said.len() + size, b'x');
            said.extend(b"\r\n");
        }
        said.extend(b"\r\n");
        said
    };
    let target = |size: usize| {
        let mut said = b"GET /".to_vec();
        said.resize(said.len() + size, b'a');
        said.extend(b" HTTP/1.1\r\nHost: reviews:9080\r\n\r\n");
        said
    };
    const TOO_LARGE: &[u16] = &[414, 431];
    vec![
        Case::new("a head of 50 KB", head(5, 10_000), Passes(&["GET /a"])),
        Case::new(
            "a head of 70 KB in one field",
            head(1, 70_000),
            Refused(TOO_LARGE),
        ),
        Case::new(
            "a head of 70 KB in many fields",
            head(70, 1000),
            Refused(TOO_LARGE),
        ),
        Case::new("a head of 1 MB", head(1, 1_000_000), Refused(TOO_LARGE)),
        Case::new("80 fields", head(80, 1), Passes(&["GET /a"])),
        Case::new("150 fields", head(150, 1), Refused(TOO_LARGE)),
        Case::new("5,000 fields", head(5000, 1), Refused(TOO_LARGE)),
        Case::new("a target of 70 KB", target(70_000), Refused(TOO_LARGE)),
        Case::new("a target of 1 MB", target(1_000_000), Refused(TOO_LARGE)),
    ]
}
