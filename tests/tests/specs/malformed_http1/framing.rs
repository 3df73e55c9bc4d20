//! Where a message ends: Content-Length, Transfer-Encoding, chunks, trailers, what follows (RFC 9112 sections 6 and 7).

use super::{Case, Expected::*};

/// A POST with these fields after Host, and this after the head.
macro_rules! post {
    ($fields:literal, $body:literal) => {
        concat!(
            "POST /a HTTP/1.1\r\nHost: reviews:9080\r\n",
            $fields,
            "\r\n",
            $body
        )
        .as_bytes()
    };
}

/// A chunked POST with this body.
macro_rules! chunked {
    ($body:literal) => {
        post!("Transfer-Encoding: chunked\r\n", $body)
    };
}

const BAD: &[u16] = &[400];

pub(super) fn cases() -> Vec<Case> {
    let mut all = lengths();
    all.extend(codings());
    all.extend(chunks());
    all.extend(trailers());
    all.extend(pipelines());
    all
}

/// RFC 9112 section 6.3, 5: an invalid length is 400, and the connection ends.
fn lengths() -> Vec<Case> {
    vec![
        Case::new(
            "a length",
            post!("Content-Length: 3\r\n", "abc"),
            Passes(&["POST /a abc"]),
        ),
        Case::new("no length and no body", post!("", ""), Passes(&["POST /a"])),
        Case::new(
            "length zero",
            post!("Content-Length: 0\r\n", ""),
            Passes(&["POST /a"]),
        ),
        Case::new(
            "length with zeroes before it",
            post!("Content-Length: 0003\r\n", "abc"),
            Passes(&["POST /a abc"]),
        )
        .with(&[("content-length", "3")]),
        Case::new(
            "the same length twice",
            post!("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
            Passes(&["POST /a abc"]),
        )
        .with(&[("content-length", "3")]),
        Case::new(
            "two lengths",
            post!("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
            Refused(BAD),
        ),
        Case::new(
            "a list of lengths",
            post!("Content-Length: 3, 3\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a list of two lengths",
            post!("Content-Length: 3, 4\r\n", "abcd"),
            Refused(BAD),
        ),
        Case::new(
            "a length with a plus",
            post!("Content-Length: +3\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a negative length",
            post!("Content-Length: -3\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a hexadecimal length",
            post!("Content-Length: 0x3\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a length with a fraction",
            post!("Content-Length: 3.0\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a length with an exponent",
            post!("Content-Length: 3e0\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a length with a space in it",
            post!("Content-Length: 3 3\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a length with an underscore",
            post!("Content-Length: 1_0\r\n", "abcdefghij"),
            Refused(BAD),
        ),
        Case::new(
            "a length in quotes",
            post!("Content-Length: \"3\"\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "an empty length",
            post!("Content-Length:\r\n", ""),
            Refused(BAD),
        ),
        Case::new(
            "a length of letters",
            post!("Content-Length: abc\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a length with a semicolon",
            post!("Content-Length: 3;\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a length of 2^64",
            post!("Content-Length: 18446744073709551616\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a length of 2^64-1",
            post!("Content-Length: 18446744073709551615\r\n", "abc"),
            Refused(&[400, 413, 431]),
        ),
        Case::new(
            "a length of 2^64+3",
            post!("Content-Length: 18446744073709551619\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a length in other digits",
            "POST /a HTTP/1.1\r\nHost: reviews:9080\r\nContent-Length: \u{0663}\r\n\r\nabc"
                .as_bytes(),
            Refused(BAD),
        ),
        Case::new(
            "a length with a vertical tab",
            post!("Content-Length: \x0b3\r\n", "abc"),
            Refused(BAD),
        ),
        Case::new(
            "a body that ends early",
            post!("Content-Length: 10\r\n", "abc"),
            Refused(BAD),
        )
        .leaves(),
        Case::new(
            "a body of a GET",
            &b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\nContent-Length: 3\r\n\r\nabc"[..],
            Passes(&["GET /a abc"]),
        ),
        Case::new(
            "a name that is read as a length",
            post!("Content_Length: 40\r\n", ""),
            Passes(&["POST /a"]),
        )
        .without(&["content_length"]),
    ]
}

/// RFC 9112 sections 6.1 and 6.3, 3 and 4: the last coding is chunked; nothing else is known; with a length beside it, the
/// coding alone counts and the connection ends.
fn codings() -> Vec<Case> {
    const UNKNOWN: &[u16] = &[400, 501];
    vec![
        Case::new("a chunked body", chunked!("3\r\nabc\r\n0\r\n\r\n"), Passes(&["POST /a abc"])),
        Case::new("chunked in capitals", post!("Transfer-Encoding: CHUNKED\r\n", "3\r\nabc\r\n0\r\n\r\n"), Passes(&["POST /a abc"])).with(&[("transfer-encoding", "chunked")]),
        Case::new("a coding after a length", post!("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), PassesAndEnds(&["POST /a abc"])).without(&["content-length"]),
        Case::new("a length after a coding", post!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "3\r\nabc\r\n0\r\n\r\n"), PassesAndEnds(&["POST /a abc"])).without(&["content-length"]),
        Case::new("a smuggled request by CL.TE", post!("Content-Length: 43\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: reviews\r\n\r\n"), PassesAndEnds(&["POST /a"])),
        Case::new("a smuggled request by TE.CL", post!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "2b\r\nGET /smuggled HTTP/1.1\r\nHost: reviews\r\n\r\nab\r\n0\r\n\r\n"), PassesAndEnds(&["POST /a GET /smuggled HTTP/1.1\r\nHost: reviews\r\n\r\nab"])),
        Case::new("an unknown coding", post!("Transfer-Encoding: xchunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("a coding before chunked", post!("Transfer-Encoding: gzip, chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("a coding after chunked", post!("Transfer-Encoding: chunked, gzip\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("identity", post!("Transfer-Encoding: identity\r\nContent-Length: 3\r\n", "abc"), Refused(UNKNOWN)),
        Case::new("identity before chunked", post!("Transfer-Encoding: identity, chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("chunked twice", post!("Transfer-Encoding: chunked, chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("chunked in two fields", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("chunked and identity in two fields", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("identity and chunked in two fields", post!("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("an empty coding", post!("Transfer-Encoding:\r\n", ""), Refused(UNKNOWN)),
        Case::new("a comma before chunked", post!("Transfer-Encoding: ,chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("chunked with a parameter", post!("Transfer-Encoding: chunked;a=b\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("chunked in quotes", post!("Transfer-Encoding: \"chunked\"\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("a vertical tab before chunked", post!("Transfer-Encoding: \x0bchunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(UNKNOWN)),
        Case::new("a tab before chunked", post!("Transfer-Encoding:\tchunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Passes(&["POST /a abc"])).with(&[("transfer-encoding", "chunked")]),
        Case::new("a coding that is folded", post!("Transfer-Encoding:\r\n chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Refused(BAD)),
        Case::new("a space before the coding's colon", post!("Transfer-Encoding : chunked\r\nContent-Length: 3\r\n", "abc"), Refused(BAD)),
        Case::new("a name that is read as a coding", post!("Transfer_Encoding: chunked\r\nContent-Length: 3\r\n", "abc"), Passes(&["POST /a abc"])).without(&["transfer_encoding"]),
        Case::new("a coding in HTTP/1.0", &b"POST /a HTTP/1.0\r\nHost: reviews:9080\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"[..], Refused(BAD)),
    ]
}

/// RFC 9112 section 7.1. A body that turns out malformed is never completed: the application sees no end of it.
fn chunks() -> Vec<Case> {
    let long = |size: usize| {
        let mut said = post!("Transfer-Encoding: chunked\r\n", "").to_vec();
        said.extend(b"3;");
        said.resize(said.len() + size, b'x');
        said.extend(b"\r\nabc\r\n0\r\n\r\n");
        said
    };
    vec![
        Case::new(
            "chunks in both cases",
            chunked!("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
            Passes(&["POST /a 01234567890123456789"]),
        ),
        Case::new(
            "a chunk size with zeroes before it",
            chunked!("0003\r\nabc\r\n000\r\n\r\n"),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "a chunk extension",
            chunked!("3;a=\"b\"\r\nabc\r\n0;c\r\n\r\n"),
            Passes(&["POST /a abc"]),
        ),
        Case::new("chunk extensions without end", long(20_000), Refused(BAD)),
        Case::new(
            "a line feed in a chunk extension",
            chunked!("3;a\nb\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk size that ends with a line feed",
            chunked!("3\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk size that ends with a carriage return",
            chunked!("3\rXabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk that ends with a line feed",
            chunked!("3\r\nabc\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk that does not end",
            chunked!("3\r\nabcd\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk that ends early",
            chunked!("5\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk size with 0x",
            chunked!("0x3\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a negative chunk size",
            chunked!("-3\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk size with a plus",
            chunked!("+3\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk size with an underscore",
            chunked!("1_0\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "no chunk size",
            chunked!("\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk size after a space",
            chunked!(" 3\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk size of letters",
            chunked!("xyz\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk size above 2^64",
            chunked!("10000000000000003\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a chunk size of 2^64-1",
            chunked!("ffffffffffffffff\r\nabc"),
            Refused(BAD),
        )
        .leaves(),
        Case::new(
            "two sizes in a line",
            chunked!("3 3\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a NUL in a chunk size",
            chunked!("3\0\r\nabc\r\n0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a last chunk without its end",
            chunked!("3\r\nabc\r\n0\r\n"),
            Refused(BAD),
        )
        .leaves(),
        Case::new(
            "a smuggled request by a short chunk",
            chunked!("1\r\naGET /smuggled HTTP/1.1\r\nHost: reviews\r\n\r\n"),
            Refused(BAD),
        ),
    ]
}

/// RFC 9110 section 6.5.1: trailers change neither framing nor routing, and say nothing about who called.
fn trailers() -> Vec<Case> {
    let many = |count: usize| {
        let mut said = chunked!("3\r\nabc\r\n0\r\n").to_vec();
        for number in 0..count {
            said.extend(format!("x-{number}: 1\r\n").as_bytes());
        }
        said.extend(b"\r\n");
        said
    };
    let large = || {
        let mut said = chunked!("3\r\nabc\r\n0\r\nx-large: ").to_vec();
        said.resize(said.len() + 70_000, b'x');
        said.extend(b"\r\n\r\n");
        said
    };
    vec![
        Case::new(
            "a trailer",
            chunked!("3\r\nabc\r\n0\r\nx-checksum: 1\r\n\r\n"),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "a length in trailers",
            chunked!("3\r\nabc\r\n0\r\nContent-Length: 100\r\n\r\n"),
            Passes(&["POST /a abc"]),
        )
        .without(&["content-length"]),
        Case::new(
            "a coding in trailers",
            chunked!("3\r\nabc\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n"),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "a host in trailers",
            chunked!("3\r\nabc\r\n0\r\nHost: other\r\n\r\n"),
            Passes(&["POST /a abc"]),
        )
        .with(&[("host", "reviews:9080")]),
        Case::new(
            "an identity in trailers",
            chunked!("3\r\nabc\r\n0\r\nx_forwarded_client_cert: URI=admin\r\n\r\n"),
            Passes(&["POST /a abc"]),
        )
        .without(&["x_forwarded_client_cert"]),
        Case::new(
            "a trailer with a space before its colon",
            chunked!("3\r\nabc\r\n0\r\nx-a : 1\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a trailer without a colon",
            chunked!("3\r\nabc\r\n0\r\nx-a\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a trailer with a NUL",
            chunked!("3\r\nabc\r\n0\r\nx-a: \0\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a trailer that is folded",
            chunked!("3\r\nabc\r\n0\r\nx-a: 1\r\n b\r\n\r\n"),
            Refused(BAD),
        ),
        Case::new(
            "a hundred and fifty trailers",
            many(150),
            Refused(&[400, 431]),
        ),
        Case::new("a trailer of 70 KB", large(), Refused(&[400, 431])),
    ]
}

/// What follows a message is the next message, or nothing.
fn pipelines() -> Vec<Case> {
    vec![
        Case::new("two requests at once", &b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\n\r\nGET /b HTTP/1.1\r\nHost: reviews:9080\r\n\r\n"[..], Passes(&["GET /a", "GET /b"])),
        Case::new("an empty line before a request", &b"\r\nGET /a HTTP/1.1\r\nHost: reviews:9080\r\n\r\n"[..], Passes(&["GET /a"])),
        Case::new("rubbish after a request", &b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\n\r\n\x01\x02rubbish\r\n\r\n"[..], Partly(&["GET /a"], BAD)),
        Case::new("more body than its length", post!("Content-Length: 3\r\n", "abc\x01def\r\n\r\n"), Partly(&["POST /a abc"], BAD)),
        Case::new("a request after a close", &b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\nConnection: close\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: reviews:9080\r\n\r\n"[..], PassesAndEnds(&["GET /a"])),
        Case::new("a request after a refused one", &b"GET /a HTTP/1.1\r\nHost: re views\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: reviews:9080\r\n\r\n"[..], Refused(BAD)),
        Case::new("a request after one without a Host", &b"GET /a HTTP/1.1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: reviews:9080\r\n\r\n"[..], Refused(BAD)),
        Case::new("a request after one with two framings", post!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: reviews:9080\r\n\r\n"), PassesAndEnds(&["POST /a"])),
        Case::new("a body that was not asked for", post!("Expect: 100-continue\r\nContent-Length: 3\r\n", "abc"), Passes(&["POST /a abc"])),
        Case::new("an expectation in chunks", post!("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), Passes(&["POST /a abc"])),
        Case::new("an expectation that is unknown", post!("Expect: 200-ok\r\nContent-Length: 3\r\n", "abc"), Passes(&["POST /a abc"])),
        Case::new("an expectation without a body", post!("Expect: 100-continue\r\n", ""), Passes(&["POST /a"])),
    ]
}
