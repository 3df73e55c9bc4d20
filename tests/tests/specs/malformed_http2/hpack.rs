//! Header compression (RFC 7541): indices, integers, strings, Huffman's code, the table, bombs.

use outrigger_tests::h2_bytes::{indexed_literal, integer, literal, string};

use super::{Case, Expected::*, *};

const ENDS: u8 = flag::END_HEADERS | flag::END_STREAM;

fn headers(block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, ENDS, 1, block)
}

fn usual() -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/a"),
        (":authority", "reviews:9080"),
    ])
}

fn and(more: &[u8]) -> Vec<u8> {
    headers(&[usual(), more.to_vec()].concat())
}

/// A header block in several frames.
fn long(block: &[u8]) -> Vec<u8> {
    let mut parts = block.chunks(16_000).peekable();
    let mut said = Vec::new();
    let mut kind = kind::HEADERS;
    while let Some(part) = parts.next() {
        let end = if parts.peek().is_none() {
            flag::END_HEADERS
        } else {
            0
        };
        let stream_end = if kind == kind::HEADERS {
            flag::END_STREAM
        } else {
            0
        };
        said.extend(frame(kind, end | stream_end, 1, part));
        kind = kind::CONTINUATION;
    }
    said
}

pub(super) fn cases() -> Vec<Case> {
    const BAD: &[u32] = &[COMPRESSION_ERROR, PROTOCOL_ERROR];
    let bomb = |size: usize, times: usize| {
        let mut block = [usual(), indexed_literal(b"x-bomb", &vec![b'x'; size])].concat();
        block.extend(std::iter::repeat_n(0xbe, times));
        long(&block)
    };
    vec![
        Case::new(
            "fields of the static table",
            headers(
                &[
                    &[0x82, 0x86][..],
                    &[0x44],
                    &string(b"/a"),
                    &[0x41],
                    &string(b"reviews:9080"),
                ]
                .concat(),
            ),
            Passes(&["GET /a"]),
        ),
        Case::new("index 0", and(&[0x80]), Connection(BAD)),
        Case::new(
            "an index beyond the table",
            and(&[0xff, 0x80, 0x01]),
            Connection(BAD),
        ),
        Case::new(
            "a name's index beyond the table",
            and(&[0x7f, 0x80, 0x01, 1, b'x']),
            Connection(BAD),
        ),
        Case::new(
            "an index that never ends",
            and(&[0xff; 20]),
            Connection(BAD),
        ),
        Case::new(
            "an index above 2^32",
            and(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            Connection(BAD),
        ),
        Case::new("an index that is cut", and(&[0xff]), Connection(BAD)),
        Case::new("a string that is cut", and(&[0, 10, b'x']), Connection(BAD)),
        Case::new(
            "a string longer than its block",
            and(&[&[0][..], &integer(0, 7, 100_000), b"x"].concat()),
            Connection(BAD),
        ),
        Case::new(
            "a string of 2^32 bytes",
            and(&[0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, b'x']),
            Connection(BAD),
        ),
        Case::new(
            "a field without a value",
            and(&[0, 1, b'x']),
            Connection(BAD),
        ),
        Case::new(
            "padding of zeroes in Huffman's code",
            and(&[0, 1, b'x', 0x81, 0b0001_1000]),
            Connection(BAD),
        ),
        Case::new(
            "padding of eight bits in Huffman's code",
            and(&[0, 1, b'x', 0x82, 0b0001_1111, 0xff]),
            Connection(BAD),
        ),
        Case::new(
            "the end of Huffman's code within it",
            and(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            Connection(BAD),
        ),
        Case::new(
            "Huffman's code",
            and(&[0, 1, b'x', 0x81, 0b0001_1111]),
            Passes(&["GET /a"]),
        )
        .with(&[("x", "a")]),
        Case::new(
            "a table of size 0",
            headers(&[vec![0x20], usual()].concat()),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a table that grows back",
            headers(&[vec![0x20, 0x3f, 0xe1, 0x1f], usual()].concat()),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a table beyond what was settled",
            headers(&[vec![0x3f, 0xff, 0xff, 0x7f], usual()].concat()),
            Connection(BAD),
        ),
        Case::new(
            "a table that changes after a field",
            and(&[0x20]),
            Connection(BAD),
        ),
        Case::new(
            "a field that is thrown out of the table",
            headers(&[usual(), indexed_literal(b"x-a", b"1"), vec![0x20]].concat()),
            Connection(BAD),
        ),
        Case::new(
            "a field that is larger than the table",
            and(&indexed_literal(b"x-large", &[b'x'; 5_000])),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "an index into an empty table",
            headers(&[vec![0x20], usual(), vec![0xbe]].concat()),
            Connection(BAD),
        ),
        Case::new(
            "a field from the table",
            and(&[indexed_literal(b"x-a", b"1"), vec![0xbe]].concat()),
            Passes(&["GET /a"]),
        ),
        Case::new(
            "a field that is never indexed",
            and(&[&[0x10][..], &string(b"x-a"), &string(b"1")].concat()),
            Passes(&["GET /a"]),
        )
        .with(&[("x-a", "1")]),
        Case::new("a bomb of 1 MB", bomb(3_900, 300), TooLarge),
        Case::new("a bomb of 60 MB", bomb(3_900, 15_900), TooLarge),
        Case::new(
            "a list of 70 KB",
            long(&[usual(), literal(b"x-large", &vec![b'x'; 70_000])].concat()),
            TooLarge,
        ),
        Case::new(
            "5,000 fields",
            {
                let mut all = usual();
                (0..5_000).for_each(|_| all.extend(literal(b"x", b"1")));
                long(&all)
            },
            TooLarge,
        ),
        Case::new(
            "150 fields",
            {
                let mut all = usual();
                (0..150).for_each(|n: u32| all.extend(literal(format!("x-{n}").as_bytes(), b"1")));
                long(&all)
            },
            Refused(431),
        ),
        Case::new(
            "80 fields",
            {
                let mut all = usual();
                (0..80).for_each(|n: u32| all.extend(literal(format!("x-{n}").as_bytes(), b"1")));
                long(&all)
            },
            Passes(&["GET /a"]),
        ),
        Case::new("an empty block", headers(&[]), Stream(&[PROTOCOL_ERROR])),
    ]
}
