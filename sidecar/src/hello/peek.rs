//! Reads a connection's first bytes until they tell what it is. They are passed on with the rest.
//!
//! ```text
//! first byte not TLS's ──► plain text      nothing at all in time ──► plain text, if the server may speak first; else late
//! a whole ClientHello  ──► TLS             begun and not complete in time ──► late; malformed ──► not TLS: refused
//! ```
//! What may be TLS never counts as plain text: it would get around who may come in with which certificate.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use outrigger_core::{Greeting, Inspect};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::{Hello, MAX_BYTES, read};

/// Most hellos come in one piece.
const FIRST_READ: usize = 2048;

/// Why nothing is known of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoHello {
    /// It ended before it was complete.
    Gone,
    /// Too slow.
    Late(Duration),
    /// It begins as TLS does, and is none.
    Not(&'static str),
    /// It began as a request does, and was not one in time.
    Undecided(Duration),
    /// As many handshakes go on as may.
    TooMany,
}

/// What the connection is, and what was read.
pub(crate) async fn greeting(
    io: &mut (impl AsyncRead + Unpin),
    inspect: Inspect,
) -> Result<(Greeting, Bytes), NoHello> {
    greeting_after(io, inspect, BytesMut::with_capacity(FIRST_READ)).await
}

/// The same of one of which `bytes` were read.
pub(crate) async fn greeting_after(
    io: &mut (impl AsyncRead + Unpin),
    inspect: Inspect,
    mut bytes: BytesMut,
) -> Result<(Greeting, Bytes), NoHello> {
    let looked = async {
        loop {
            match read(&bytes) {
                Hello::Whole(greeting) => return Ok(greeting),
                Hello::PlainText => return Ok(Greeting::default()),
                Hello::Not(rule) => return Err(NoHello::Not(rule)),
                Hello::Needs(all) => {
                    // More may come at once than is needed; what does is bounded all the same.
                    bytes.reserve(all - bytes.len());
                    let room = MAX_BYTES - bytes.len();
                    let mut limited = bytes::BufMut::limit(&mut bytes, room);
                    if matches!(io.read_buf(&mut limited).await, Ok(0) | Err(_)) {
                        return Err(NoHello::Gone);
                    }
                }
            }
        }
    };
    match timeout(inspect.within, looked).await {
        Ok(Ok(greeting)) => Ok((greeting, bytes.freeze())),
        Ok(Err(no)) => Err(no),
        Err(_elapsed) if inspect.silence_is_plain && bytes.is_empty() => {
            Ok((Greeting::default(), Bytes::new()))
        }
        Err(_elapsed) => Err(NoHello::Late(inspect.within)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What is made of a caller that says this and then waits, or leaves.
    async fn of(said: &[u8], leaves: bool, silence_is_plain: bool) -> Result<bool, NoHello> {
        let (mut caller, mut io) = tokio::io::duplex(64);
        let inspect = Inspect {
            within: Duration::from_secs(5),
            silence_is_plain,
            ..Inspect::default()
        };
        caller.write_all(said).await.unwrap();
        let kept = (!leaves).then_some(caller);
        let found = greeting(&mut io, inspect).await;
        drop(kept);
        found.map(|(greeting, first)| {
            assert_eq!(first, said);
            greeting.tls
        })
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_cannot_be_tls_counts_as_plain_text() {
        let late = Err(NoHello::Late(Duration::from_secs(5)));
        for servers_first in [false, true] {
            assert_eq!(of(b"G", false, servers_first).await, Ok(false));
            assert_eq!(of(&[0], false, servers_first).await, Ok(false));
            assert_eq!(of(&[22], false, servers_first).await, late);
            assert_eq!(of(&[22, 3, 1], false, servers_first).await, late);
            assert_eq!(of(&[22], true, servers_first).await, Err(NoHello::Gone));
            assert_eq!(of(&[], true, servers_first).await, Err(NoHello::Gone));
            let malformed = of(&[22, 2], false, servers_first).await;
            assert!(matches!(malformed, Err(NoHello::Not(_))), "{malformed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_plain_text_where_a_server_may_speak_first() {
        let late = Err(NoHello::Late(Duration::from_secs(5)));
        assert_eq!(of(&[], false, true).await, Ok(false));
        assert_eq!(of(&[], false, false).await, late);
    }
}
