//! PROXY protocol: who is behind a proxy that passes a connection on to us, and for whom we pass one on.
//!
//! ```text
//! accepted ──► peek (nothing is taken that is no header's) ──► header: its source is the connection's remote address
//!                  ├─ none, and it is optional ──► as it is
//!                  └─ none, malformed, too late ──► closed
//! ```
//! Whoever may connect may say whatever he likes: a listener takes headers only if it is told to.

use std::{io, os::fd::AsFd as _, time::Duration};

use outrigger_core::{ProxyProtocol, ProxyVersion};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::TcpStream,
    time::timeout,
};

pub(crate) mod header;

use header::{Header, MAX_HEADER, Read};

/// Why a connection is not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It ended before its header was complete, or the system failed.
    Gone(io::Error),
    Late(Duration),
    /// It does not begin with a header, and has to.
    Missing,
    /// What begins as a header is none: the rule that was broken.
    Malformed(&'static str),
    /// Of a version that the listener does not take.
    Version(ProxyVersion),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone(error) => write!(f, "it ended before its PROXY protocol header: {error}"),
            Self::Late(after) => write!(f, "no PROXY protocol header within {after:?}"),
            Self::Missing => write!(f, "it does not begin with a PROXY protocol header"),
            Self::Malformed(rule) => write!(f, "its PROXY protocol header is malformed: {rule}"),
            Self::Version(version) => {
                write!(
                    f,
                    "its PROXY protocol header is of version {version:?}, which is not taken"
                )
            }
        }
    }
}

/// Takes the header off the front. None = there is none, which will do.
pub(crate) async fn take(
    stream: &mut TcpStream,
    wanted: ProxyProtocol,
) -> Result<Option<Header>, Refused> {
    let mut seen = 0;
    let header = match timeout(wanted.within, peek(stream, wanted, &mut seen)).await {
        Ok(header) => header?,
        Err(_elapsed) if seen == 0 && wanted.optional && wanted.silence_is_none => None,
        Err(_elapsed) => return Err(Refused::Late(wanted.within)),
    };
    if let Some(header) = header {
        // All of it is there.
        let mut bytes = vec![0; header.length];
        stream.read_exact(&mut bytes).await.map_err(Refused::Gone)?;
    }
    Ok(header)
}

/// Looks until it is clear what there is; `seen` is how much that was.
async fn peek(
    stream: &TcpStream,
    wanted: ProxyProtocol,
    seen: &mut usize,
) -> Result<Option<Header>, Refused> {
    // Its own calls say when there is nothing more than before; the stream waits for more then.
    let twin = stream.as_fd().try_clone_to_owned().map_err(Refused::Gone)?;
    let twin = std::net::TcpStream::from(twin);
    let mut bytes = vec![0; MAX_HEADER];
    loop {
        let ready = stream.ready(Interest::READABLE).await;
        let ready = ready.map_err(Refused::Gone)?;
        let before = *seen;
        let more = stream.try_io(Interest::READABLE, || match twin.peek(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count if count <= before => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        });
        match more {
            Ok(count) => *seen = count,
            // No more comes than there is: it would be looked at again and again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(Refused::Gone(io::ErrorKind::UnexpectedEof.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(Refused::Gone(error)),
        }
        match header::read(bytes.get(..*seen).unwrap_or_default()) {
            Read::More => {}
            Read::Header(header) if wanted.takes(header.version) => return Ok(Some(header)),
            Read::Header(header) => return Err(Refused::Version(header.version)),
            Read::Absent if wanted.optional => return Ok(None),
            Read::Absent => return Err(Refused::Missing),
            Read::Not(rule) => return Err(Refused::Malformed(rule)),
        }
    }
}

#[cfg(test)]
mod tests;
