//! Floods of HTTP/2 by members of the mesh: frames that bring nothing forward, resets, windows, header blocks.

use outrigger_tests::h2_bytes::{block, flag, frame, indexed_literal, kind, literal};

use super::Flood;

fn head(path: &str, ends: bool, stream: u32) -> Vec<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "reviews"),
    ];
    let end = if ends { flag::END_STREAM } else { 0 };
    frame(
        kind::HEADERS,
        flag::END_HEADERS | end,
        stream,
        &block(&fields),
    )
}

/// Streams of a client: 1, 3, 5, ...
fn streams() -> impl Iterator<Item = u32> {
    (1..0x4000_0000).step_by(2)
}

/// Says the same again and again.
macro_rules! again {
    ($name:literal, $first:expr, $then:expr) => {
        Flood {
            name: $name,
            connections: 4,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        let Some(mut talk) = to.http2().await else {
                            return;
                        };
                        talk.say(&$first).await;
                        let then = $then.repeat(100);
                        while !to.is_over() && talk.say(&then).await {}
                    }
                })
            },
            most: 64 * 1024,
        }
    };
}

/// Says something for each of many streams.
macro_rules! each {
    ($name:literal, $say:expr) => {
        Flood {
            name: $name,
            connections: 4,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        let Some(mut talk) = to.http2().await else {
                            return;
                        };
                        let say: fn(u32) -> Vec<u8> = $say;
                        for stream in streams() {
                            if to.is_over() || !talk.say(&say(stream)).await {
                                break;
                            }
                        }
                    }
                })
            },
            most: 64 * 1024,
        }
    };
}

pub(super) fn floods() -> Vec<Flood> {
    vec![
        again!("PING", Vec::new(), frame(kind::PING, 0, 0, &[0; 8])),
        again!(
            "SETTINGS",
            Vec::new(),
            frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
        ),
        again!(
            "empty SETTINGS",
            Vec::new(),
            frame(kind::SETTINGS, 0, 0, &[])
        ),
        again!(
            "PRIORITY",
            Vec::new(),
            frame(kind::PRIORITY, 0, 101, &[0, 0, 0, 0, 1])
        ),
        again!("unknown frames", Vec::new(), frame(0x77, 0, 0, b"anything")),
        again!("GOAWAY", Vec::new(), frame(kind::GOAWAY, 0, 0, &[0; 8])),
        again!(
            "WINDOW_UPDATE",
            Vec::new(),
            frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
        ),
        again!(
            "empty DATA",
            head("/", false, 1),
            frame(kind::DATA, 0, 1, &[])
        ),
        again!(
            "DATA of one byte",
            head("/", false, 1),
            frame(kind::DATA, 0, 1, b"a")
        ),
        again!(
            "padding alone",
            head("/", false, 1),
            frame(kind::DATA, flag::PADDED, 1, &[7, 0, 0, 0, 0, 0, 0, 0])
        ),
        again!(
            "empty CONTINUATION",
            frame(kind::HEADERS, 0, 1, &[]),
            frame(kind::CONTINUATION, 0, 1, &[])
        ),
        again!(
            "a header block without end",
            frame(kind::HEADERS, 0, 1, &[]),
            frame(kind::CONTINUATION, 0, 1, &literal(b"x-a", &[b'a'; 4000]))
        ),
        each!("rapid reset", |stream| {
            let cancel = frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            [head("/large", true, stream), cancel].concat()
        }),
        each!("rapid reset of what was served", |stream| {
            let before = stream.saturating_sub(16).max(1);
            [
                head("/large", true, stream),
                frame(kind::RST_STREAM, 0, before, &8_u32.to_be_bytes()),
            ]
            .concat()
        }),
        each!("made you reset: an increment of 0", |stream| {
            [
                head("/large", false, stream),
                frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4]),
            ]
            .concat()
        }),
        each!("made you reset: a window too large", |stream| {
            let update = frame(
                kind::WINDOW_UPDATE,
                0,
                stream,
                &0x7fff_ffff_u32.to_be_bytes(),
            );
            [head("/large", false, stream), update.clone(), update].concat()
        }),
        each!("made you reset: malformed heads", |stream| {
            frame(kind::HEADERS, 5, stream, &block(&[(":method", "GET")]))
        }),
        each!("more streams than there may be", |stream| head(
            "/", false, stream
        )),
        each!("HPACK bombs", |stream| {
            let mut all = block(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "reviews"),
            ]);
            all.extend(indexed_literal(b"x-bomb", &[b'x'; 3_900]));
            all.extend([0xbe; 12_000]);
            frame(kind::HEADERS, 5, stream, &all)
        }),
        each!("tables that change their size", |stream| {
            let mut all: Vec<u8> = [0x20, 0x3f, 0xe1, 0x1f].repeat(1_000);
            all.extend(block(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "reviews"),
            ]));
            frame(kind::HEADERS, 5, stream, &all)
        }),
        each!("5,000 fields", |stream| {
            let mut all = block(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "reviews"),
            ]);
            (0..3_000).for_each(|_| all.extend(literal(b"x", b"1")));
            frame(kind::HEADERS, 5, stream, &all)
        }),
        Flood {
            name: "500 large answers without a window",
            connections: 5,
            run: |to| {
                tokio::spawn(async move {
                    let Some(mut talk) = to.http2().await else {
                        return;
                    };
                    talk.say(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))
                        .await;
                    for stream in streams().take(100) {
                        talk.say(&head("/large", true, stream)).await;
                    }
                    to.rest().await;
                })
            },
            // 64 KiB a stream, and what a stream takes beside it.
            most: 500 * 64 + 32 * 1024,
        },
        Flood {
            name: "500 large answers that nobody reads",
            connections: 5,
            run: |to| {
                tokio::spawn(async move {
                    let Some(mut talk) = to.http2().await else {
                        return;
                    };
                    talk.say(&frame(
                        kind::SETTINGS,
                        0,
                        0,
                        &[0, 4, 0x7f, 0xff, 0xff, 0xff],
                    ))
                    .await;
                    talk.say(&frame(
                        kind::WINDOW_UPDATE,
                        0,
                        0,
                        &0x7fff_0000_u32.to_be_bytes(),
                    ))
                    .await;
                    for stream in streams().take(100) {
                        talk.say(&head("/large", true, stream)).await;
                    }
                    to.rest().await;
                })
            },
            most: 500 * 64 + 32 * 1024,
        },
        Flood {
            name: "large answers through windows of one byte",
            connections: 4,
            run: |to| {
                tokio::spawn(async move {
                    let Some(mut talk) = to.http2().await else {
                        return;
                    };
                    talk.say(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]))
                        .await;
                    for stream in streams().take(50) {
                        talk.say(&head("/large", true, stream)).await;
                    }
                    let dribble: Vec<u8> = streams()
                        .take(50)
                        .flat_map(|stream| frame(kind::WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]))
                        .collect();
                    while !to.is_over() && talk.say(&dribble).await {}
                })
            },
            most: 64 * 1024,
        },
    ]
}
