//! Reads a connection's first bytes until they tell its server name. They are passed on with the rest.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::{io::AsyncReadExt, time::timeout};

use super::hello::{self, Hello, MAX_BYTES};
use crate::http::io::Io;

/// Most hellos come in one piece.
const FIRST_READ: usize = 2048;

/// Why there is no server name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoHello {
    /// It ended before it was complete.
    Gone,
    /// Too slow.
    Late(Duration),
    /// Not TLS.
    Not(&'static str),
}

/// The server name, if TLS asks for one, and what was read.
pub(super) async fn server_name(
    io: &mut Io,
    within: Duration,
) -> Result<(Option<String>, Bytes), NoHello> {
    let mut bytes = BytesMut::with_capacity(FIRST_READ);
    let read = async {
        loop {
            match hello::read(&bytes) {
                Hello::Name(name) => return Ok(name),
                Hello::Not(rule) => return Err(NoHello::Not(rule)),
                Hello::Needs(all) => {
                    while bytes.len() < all {
                        // More may come at once than is needed; what does is bounded all the same.
                        bytes.reserve(all - bytes.len());
                        let room = MAX_BYTES - bytes.len();
                        let mut limited = bytes::BufMut::limit(&mut bytes, room);
                        match io.read_buf(&mut limited).await {
                            Ok(0) | Err(_) => return Err(NoHello::Gone),
                            // What is there may already be wrong, and nothing more may come.
                            Ok(_) => break,
                        }
                    }
                }
            }
        }
    };
    match timeout(within, read).await {
        Ok(Ok(name)) => Ok((name, bytes.freeze())),
        Ok(Err(no)) => Err(no),
        Err(_elapsed) => Err(NoHello::Late(within)),
    }
}
