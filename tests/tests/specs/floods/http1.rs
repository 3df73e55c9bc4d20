//! Floods of HTTP/1.1 by members of the mesh.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Flood;

/// Says this, then something again and again.
macro_rules! again {
    ($name:literal, $connections:literal, $first:expr, $then:expr) => {
        Flood {
            name: $name,
            connections: $connections,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        let Some(mut stream) = to.http1().await else {
                            return;
                        };
                        stream.write_all($first).await.ok();
                        to.repeat(&mut stream, $then).await;
                    }
                })
            },
            most: 64 * 1024,
        }
    };
}

/// Says this, then a byte now and then.
macro_rules! drips {
    ($name:literal, $connections:literal, $first:expr, $byte:expr) => {
        Flood {
            name: $name,
            connections: $connections,
            run: |to| {
                tokio::spawn(async move {
                    if let Some(mut stream) = to.http1().await {
                        stream.write_all($first).await.ok();
                        to.drip(&mut stream, $byte).await;
                    }
                })
            },
            most: 64 * 1024,
        }
    };
}

const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

pub(super) fn floods() -> Vec<Flood> {
    vec![
        drips!(
            "heads that drip",
            100,
            b"GET / HTTP/1.1\r\nHost: reviews\r\nX-A: ",
            b"a"
        ),
        drips!(
            "bodies that drip",
            100,
            b"POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 1000000\r\n\r\n",
            b"a"
        ),
        drips!("chunks that drip", 100, CHUNKED, b"1\r\na\r\n"),
        again!(
            "heads without end",
            8,
            b"GET / HTTP/1.1\r\nHost: reviews\r\n",
            &b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(64)
        ),
        again!(
            "a field without end",
            8,
            b"GET / HTTP/1.1\r\nHost: reviews\r\nX-A: ",
            &[b'a'; 16_384]
        ),
        again!("a target without end", 8, b"GET /", &[b'a'; 16_384]),
        again!("empty lines without end", 8, b"", &b"\r\n".repeat(1024)),
        again!("chunks of one byte", 8, CHUNKED, &b"1\r\na\r\n".repeat(512)),
        again!(
            "a chunk extension without end",
            8,
            &[CHUNKED, b"1;"].concat(),
            &[b'a'; 4096]
        ),
        again!(
            "trailers without end",
            8,
            &[CHUNKED, b"0\r\n"].concat(),
            &b"X-A: a\r\n".repeat(256)
        ),
        again!(
            "requests whose answers nobody reads",
            8,
            b"",
            &GET.repeat(64)
        ),
        again!(
            "upgrades",
            8,
            b"",
            &b"GET / HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
                .repeat(16)
        ),
        Flood {
            name: "a hundred large answers that nobody reads",
            connections: 100,
            run: |to| {
                tokio::spawn(async move {
                    if let Some(mut stream) = to.http1().await {
                        stream
                            .write_all(b"GET /large HTTP/1.1\r\nHost: reviews\r\n\r\n")
                            .await
                            .ok();
                        to.rest().await;
                    }
                })
            },
            // 64 KiB to read into, 64 KiB to write from, what TLS and the application's side hold: no mebibyte.
            most: 64 * 1024,
        },
        Flood {
            name: "large answers that are read byte by byte",
            connections: 50,
            run: |to| {
                tokio::spawn(async move {
                    if let Some(mut stream) = to.http1().await {
                        stream
                            .write_all(b"GET /large HTTP/1.1\r\nHost: reviews\r\n\r\n")
                            .await
                            .ok();
                        while !to.is_over() && stream.read_u8().await.is_ok() {
                            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                        }
                    }
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "requests whose callers leave",
            connections: 16,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        if let Some(mut stream) = to.http1().await {
                            stream
                                .write_all(b"GET /large HTTP/1.1\r\nHost: reviews\r\n\r\n")
                                .await
                                .ok();
                        }
                    }
                })
            },
            most: 64 * 1024,
        },
    ]
}
