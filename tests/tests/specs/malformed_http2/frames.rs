//! Preface, frames, sizes, streams and their states, flow control (RFC 9113 sections 3 to 6).

use outrigger_tests::h2_bytes::{block, frame_of_length};

use super::{Case, Expected::*, *};

pub(super) fn cases() -> Vec<Case> {
    let mut all = prefaces();
    all.extend(sizes());
    all.extend(streams());
    all.extend(bodies());
    all.extend(settings());
    all.extend(control());
    all
}

fn get() -> Vec<u8> {
    request(1, &[], true)
}

/// RFC 9113 section 3.4.
fn prefaces() -> Vec<Case> {
    let after = |said: &[u8]| [PREFACE, said].concat();
    vec![
        Case::new(
            "a preface and a request",
            [&after(&frame(kind::SETTINGS, 0, 0, &[])), &get()[..]].concat(),
            Passes(&["GET /a"]),
        )
        .first(),
        Case::new(
            "no settings after the preface",
            after(&get()),
            Connection(&[PROTOCOL_ERROR]),
        )
        .first(),
        Case::new(
            "a ping after the preface",
            after(&frame(kind::PING, 0, 0, &[0; 8])),
            Connection(&[PROTOCOL_ERROR]),
        )
        .first(),
        Case::new(
            "acknowledged settings first",
            after(&frame(kind::SETTINGS, flag::ACK, 0, &[])),
            Connection(&[PROTOCOL_ERROR]),
        )
        .first(),
        Case::new(
            "a preface twice",
            after(&[&frame(kind::SETTINGS, 0, 0, &[]), PREFACE].concat()),
            Ends,
        )
        .first(),
        Case::new(
            "a frame of rubbish",
            vec![0xff; 64],
            Connection(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "HTTP/1.1 within HTTP/2",
            b"GET /a HTTP/1.1\r\nHost: reviews:9080\r\n\r\n".to_vec(),
            Connection(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
        ),
    ]
}

/// RFC 9113 sections 4.2 and 6.
fn sizes() -> Vec<Case> {
    let large = vec![0; 17_000];
    vec![
        Case::new(
            "DATA of 17,000 bytes",
            [post(1, &[]), data(1, &large, true)].concat(),
            Stream(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "HEADERS of 17,000 bytes",
            frame(kind::HEADERS, 5, 1, &large),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "a frame of 16 MB",
            frame_of_length(0xff_ffff, kind::DATA, 0, 1, &[0; 100]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "a short PING",
            frame(kind::PING, 0, 0, &[0; 7]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "a long PING",
            frame(kind::PING, 0, 0, &[0; 9]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "a short RST_STREAM",
            [post(1, &[]), frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "a short PRIORITY",
            [post(1, &[]), frame(kind::PRIORITY, 0, 1, &[0; 4])].concat(),
            Stream(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "a short WINDOW_UPDATE",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "a long WINDOW_UPDATE",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1, 0]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "settings of seven bytes",
            frame(kind::SETTINGS, 0, 0, &[0; 7]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "acknowledged settings with a payload",
            frame(kind::SETTINGS, flag::ACK, 0, &[0, 1, 0, 0, 0, 0]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "a short GOAWAY",
            frame(kind::GOAWAY, 0, 0, &[0; 7]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "an unknown frame",
            [frame(0x2a, 0xff, 0, b"anything"), get()].concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "an unknown frame of a stream",
            [frame(0x2a, 0, 77, b"anything"), get()].concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a reserved bit",
            frame(
                kind::HEADERS,
                5,
                0x8000_0001,
                &block(&[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", "/a"),
                    (":authority", "reviews:9080"),
                ]),
            ),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a frame that ends early",
            frame_of_length(100, kind::HEADERS, 5, 1, &[0; 10]),
            Ends,
        ),
    ]
}

/// RFC 9113 section 5.1.
fn streams() -> Vec<Case> {
    let flags = flag::END_HEADERS | flag::END_STREAM;
    let fields = block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a"),
        (":authority", "reviews:9080"),
    ]);
    let dependency = |on: u32| [on.to_be_bytes().as_slice(), &[15]].concat();
    let with_priority = |on: u32| [dependency(on), fields.clone()].concat();
    vec![
        Case::new(
            "DATA of stream 0",
            data(0, b"abc", true),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "HEADERS of stream 0",
            frame(kind::HEADERS, flags, 0, &fields),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "RST_STREAM of stream 0",
            frame(kind::RST_STREAM, 0, 0, &[0; 4]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "PRIORITY of stream 0",
            frame(kind::PRIORITY, 0, 0, &dependency(1)),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "CONTINUATION of stream 0",
            frame(kind::CONTINUATION, flags, 0, &fields),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "SETTINGS of a stream",
            frame(kind::SETTINGS, 0, 1, &[]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "PING of a stream",
            frame(kind::PING, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "GOAWAY of a stream",
            frame(kind::GOAWAY, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a stream of an even number",
            frame(kind::HEADERS, flags, 2, &fields),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a stream number that goes back",
            [request(5, &[], true), request(3, &[], true)].concat(),
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        Case::new(
            "DATA of an idle stream",
            data(1, b"abc", true),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "RST_STREAM of an idle stream",
            frame(kind::RST_STREAM, 0, 1, &[0; 4]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "WINDOW_UPDATE of an idle stream",
            frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "CONTINUATION of an idle stream",
            frame(kind::CONTINUATION, flags, 1, &fields),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "PRIORITY of an idle stream",
            [frame(kind::PRIORITY, 0, 7, &dependency(1)), get()].concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "PUSH_PROMISE of a client",
            [post(1, &[]), frame(kind::PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a stream that depends on itself",
            frame(kind::HEADERS, flags | flag::PRIORITY, 1, &with_priority(1)),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "PRIORITY that depends on itself",
            [post(1, &[]), frame(kind::PRIORITY, 0, 1, &dependency(1))].concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "HEADERS with a priority",
            frame(kind::HEADERS, flags | flag::PRIORITY, 1, &with_priority(0)),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "HEADERS with a cut priority",
            frame(kind::HEADERS, flags | flag::PRIORITY, 1, &[0, 0]),
            Connection(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR]),
        ),
        Case::new(
            "DATA within a header block",
            [frame(kind::HEADERS, 0, 1, &fields), data(1, b"abc", true)].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a PING within a header block",
            [
                frame(kind::HEADERS, 1, 1, &fields),
                frame(kind::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "an unknown frame within a header block",
            [frame(kind::HEADERS, 1, 1, &fields), frame(0x2a, 0, 0, &[])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "another stream within a header block",
            [
                frame(kind::HEADERS, 1, 1, &fields),
                frame(kind::CONTINUATION, 4, 3, &[]),
            ]
            .concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "HEADERS within a header block",
            [
                frame(kind::HEADERS, 1, 1, &fields),
                frame(kind::HEADERS, flags, 3, &fields),
            ]
            .concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "CONTINUATION after a complete block",
            [post(1, &[]), frame(kind::CONTINUATION, 4, 1, &[])].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a block in three frames",
            [
                frame(kind::HEADERS, 1, 1, &fields[..10]),
                frame(kind::CONTINUATION, 0, 1, &fields[10..20]),
                frame(kind::CONTINUATION, 4, 1, &fields[20..]),
            ]
            .concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a block of 5,000 empty frames",
            {
                let mut said = frame(kind::HEADERS, 1, 1, &[]);
                (0..5000).for_each(|_| said.extend(frame(kind::CONTINUATION, 0, 1, &[])));
                said
            },
            Connection(&[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]),
        ),
        Case::new(
            "a block without end",
            {
                let mut said = frame(kind::HEADERS, 1, 1, &[]);
                let part = literal_of(8_000);
                (0..40).for_each(|_| said.extend(frame(kind::CONTINUATION, 0, 1, &part)));
                said
            },
            Connection(&[ENHANCE_YOUR_CALM, COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
    ]
}

fn literal_of(size: usize) -> Vec<u8> {
    outrigger_tests::h2_bytes::literal(b"x-large", &vec![b'x'; size])
}

/// RFC 9113 sections 6.1 and 8.1.1.
fn bodies() -> Vec<Case> {
    let padded = |pad: u8, bytes: &[u8]| {
        frame(
            kind::DATA,
            flag::PADDED | flag::END_STREAM,
            1,
            &[&[pad], bytes].concat(),
        )
    };
    vec![
        Case::new(
            "a body",
            [post(1, &[]), data(1, b"abc", true)].concat(),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "a body with its length",
            [post(1, &[("content-length", "3")]), data(1, b"abc", true)].concat(),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "a body longer than its length",
            [post(1, &[("content-length", "2")]), data(1, b"abc", true)].concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a body shorter than its length",
            [post(1, &[("content-length", "4")]), data(1, b"abc", true)].concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "no body and a length",
            of(
                1,
                &[
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", "/a"),
                    (":authority", "reviews:9080"),
                    ("content-length", "4"),
                ],
                true,
            ),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "two lengths",
            [
                post(1, &[("content-length", "3"), ("content-length", "4")]),
                data(1, b"abc", true),
            ]
            .concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a length of letters",
            [post(1, &[("content-length", "abc")]), data(1, b"abc", true)].concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a length with a plus",
            [post(1, &[("content-length", "+3")]), data(1, b"abc", true)].concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a length of 2^64",
            [
                post(1, &[("content-length", "18446744073709551619")]),
                data(1, b"abc", true),
            ]
            .concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a padded body",
            [post(1, &[]), padded(2, b"abc\0\0")].concat(),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "padding as long as its frame",
            [post(1, &[]), padded(5, b"abcd")].concat(),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "padding without its length",
            [post(1, &[]), frame(kind::DATA, flag::PADDED, 1, &[])].concat(),
            Connection(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
        ),
        Case::new(
            "DATA after the end",
            [post(1, &[]), data(1, b"abc", true), data(1, b"def", true)].concat(),
            Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        Case::new(
            "a trailer",
            [
                post(1, &[]),
                data(1, b"abc", false),
                of(1, &[("x-checksum", "1")], true),
            ]
            .concat(),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "a trailer that does not end",
            [
                post(1, &[]),
                data(1, b"abc", false),
                of(1, &[("x-checksum", "1")], false),
            ]
            .concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        // Malformed by RFC 9113 section 8.1; h2 drops them, so that nobody sees them.
        Case::new(
            "a pseudo-header in a trailer",
            [
                post(1, &[]),
                data(1, b"abc", false),
                of(1, &[(":path", "/b")], true),
            ]
            .concat(),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "a status in a trailer",
            [
                post(1, &[]),
                data(1, b"abc", false),
                of(1, &[(":status", "200")], true),
            ]
            .concat(),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "a connection's field in a trailer",
            [
                post(1, &[]),
                data(1, b"abc", false),
                of(1, &[("connection", "close")], true),
            ]
            .concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "an identity in a trailer",
            [
                post(1, &[]),
                data(1, b"abc", false),
                of(1, &[("x-forwarded-client-cert", "URI=admin")], true),
            ]
            .concat(),
            Passes(&["POST /a abc"]),
        ),
        Case::new(
            "a request that is reset",
            [
                post(1, &[]),
                frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                request(3, &[], true),
            ]
            .concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "DATA of a stream that was reset",
            [
                post(1, &[]),
                frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                data(1, b"abc", true),
            ]
            .concat(),
            Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
    ]
}

/// RFC 9113 section 6.5.
fn settings() -> Vec<Case> {
    let set = |id: u16, value: u32| {
        frame(
            kind::SETTINGS,
            0,
            0,
            &[id.to_be_bytes().as_slice(), &value.to_be_bytes()].concat(),
        )
    };
    vec![
        Case::new(
            "an unknown setting",
            [set(0xfff, 1), get()].concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a push of neither yes nor no",
            set(2, 2),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a window of 2^31",
            set(4, 0x8000_0000),
            Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        Case::new(
            "frames of 16,383 bytes",
            set(5, 16_383),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "frames of 2^24 bytes",
            set(5, 0x100_0000),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a window that grows and shrinks",
            [set(4, 0), set(4, 0x7fff_ffff), get()].concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a connect protocol of neither yes nor no",
            set(8, 2),
            Connection(&[PROTOCOL_ERROR]),
        ),
    ]
}

/// RFC 9113 sections 6.7 to 6.9.
fn control() -> Vec<Case> {
    let window = |stream: u32, by: u32| frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    vec![
        Case::new(
            "a PING",
            [frame(kind::PING, 0, 0, b"12345678"), get()].concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "an answer to no PING",
            [frame(kind::PING, flag::ACK, 0, b"12345678"), get()].concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "an increment of 0",
            window(0, 0),
            Connection(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "an increment of 0 of a stream",
            [post(1, &[]), window(1, 0)].concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        Case::new(
            "a window above 2^31",
            [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat(),
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
        Case::new(
            "a stream's window above 2^31",
            [post(1, &[]), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)].concat(),
            Stream(&[FLOW_CONTROL_ERROR]),
        ),
        Case::new(
            "a stream's body beyond its window",
            {
                let mut said = post(1, &[]);
                (0..6).for_each(|_| said.extend(data(1, &[b'x'; 16_000], false)));
                said.extend(frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
                said
            },
            Whatever,
        ),
        Case::new(
            "an unknown error code",
            [
                post(1, &[]),
                frame(kind::RST_STREAM, 0, 1, &[0xff; 4]),
                request(3, &[], true),
            ]
            .concat(),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "GOAWAY with words",
            [frame(kind::GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0goodbye"), get()].concat(),
            Whatever,
        ),
    ]
}
