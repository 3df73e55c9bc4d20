//! What a connection speaks: which HTTP, by its first bytes (or by what TLS agreed on); and where nobody has declared it,
//! whether it is HTTP at all ([`both`]).

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use crate::http::io::Io;

pub(crate) mod both;
pub(crate) mod memory;
mod sniff;

use sniff::PREFACE;

/// Protocol of a downstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Http1,
    Http2,
}

impl Wire {
    /// What ALPN says; Istio's names end in the plain ones.
    pub(crate) fn of_alpn(alpn: &[u8]) -> Self {
        if alpn.ends_with(b"h2") {
            Self::Http2
        } else {
            Self::Http1
        }
    }
}

/// Reads until the first bytes tell. Returns them, to be read again.
///
/// # Errors
/// The connection broke, or ended before it said anything.
pub(crate) async fn detect(io: &mut Io) -> io::Result<(Wire, Bytes)> {
    let mut seen = BytesMut::with_capacity(4096);
    loop {
        if io.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = seen.len().min(PREFACE.len());
        if seen.get(..n) != PREFACE.get(..n) {
            return Ok((Wire::Http1, seen.freeze()));
        }
        if n == PREFACE.len() {
            return Ok((Wire::Http2, seen.freeze()));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::http::io::Transport;

    #[tokio::test]
    async fn the_first_bytes_tell_the_protocol() {
        for (pieces, wire) in [
            (&[&b"GET / HTTP/1.1\r\n"[..]][..], Some(Wire::Http1)),
            (&[PREFACE], Some(Wire::Http2)),
            (
                &[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\n\0\0"],
                Some(Wire::Http2),
            ),
            (&[b"PRI", b" x"], Some(Wire::Http1)),
            (&[b"PRI"], None),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            client.set_nodelay(true).unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let told = async {
                let mut io = Io::new(Transport::Plain(server));
                detect(&mut io).await.ok()
            };
            let write = async {
                for piece in pieces {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.shutdown().await.unwrap();
            };
            let (told, ()) = tokio::join!(told, write);
            assert_eq!(told.map(|(wire, _)| wire), wire, "{pieces:?}");
        }
    }
}
