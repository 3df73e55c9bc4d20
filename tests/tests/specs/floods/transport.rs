//! Floods below HTTP: connections, silence, TLS.

use outrigger_tests::{say, tls_client, tls_connect};
use tokio::io::AsyncWriteExt as _;

use super::Flood;

pub(super) fn floods() -> Vec<Flood> {
    vec![
        Flood {
            name: "connections that say nothing",
            connections: 300,
            run: |to| {
                tokio::spawn(async move {
                    let _held = to.tcp().await;
                    to.rest().await;
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "half a TLS hello",
            connections: 300,
            run: |to| {
                tokio::spawn(async move {
                    let mut stream = to.tcp().await;
                    stream
                        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                        .await
                        .ok();
                    to.rest().await;
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "a TLS hello that drips",
            connections: 200,
            run: |to| {
                tokio::spawn(async move {
                    let mut stream = to.tcp().await;
                    stream
                        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                        .await
                        .ok();
                    to.drip(&mut stream, b"\0").await;
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "no TLS",
            connections: 100,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        say(to.tcp().await, &[0xa5; 4096]).await;
                    }
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "plain text to a strict port",
            connections: 50,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        say(to.tcp().await, b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").await;
                    }
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "handshakes without a certificate",
            connections: 8,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        let stream = tls_connect(tls_client(None, &["h2"]), to.inbound).await;
                        if let Ok(stream) = stream {
                            say(stream, b"").await;
                        }
                    }
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "handshakes and nothing else",
            connections: 8,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        drop(to.http1().await);
                    }
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "members who say nothing",
            connections: 100,
            run: |to| {
                tokio::spawn(async move {
                    let _held = to.http2().await;
                    to.rest().await;
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "connections that come and go",
            connections: 50,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        drop(to.tcp().await);
                    }
                })
            },
            most: 64 * 1024,
        },
        Flood {
            name: "connections that are reset",
            connections: 50,
            run: |to| {
                tokio::spawn(async move {
                    while !to.is_over() {
                        let mut stream = to.tcp().await;
                        stream.write_all(b"\x16\x03\x01").await.ok();
                        stream.set_zero_linger().ok();
                    }
                })
            },
            most: 64 * 1024,
        },
    ]
}
