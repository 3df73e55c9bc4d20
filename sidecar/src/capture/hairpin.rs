//! Calls of the application to itself. Rules redirect what comes from others, and what this process sends to its own host
//! is never redirected: such a connection would get around the inbound side, and its identity and policy with it. So it
//! is opened to our own inbound port, and where it was going is left here for whoever accepts it.
//!
//! ```text
//! outbound: bind 10.0.0.5:41234 ─► leave (10.0.0.5:41234 → 10.0.0.5:9080) ─► connect 10.0.0.5:15006 ─► inbound: take
//! ```
//! Nobody else can have the address that a socket of ours is bound to.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::net::{TcpSocket, TcpStream};

/// Of which nobody has accepted the connection.
const MOST: usize = 4_096;
/// A connection that was not accepted by then never will be.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Connections on their way to our own inbound port, by the address that they come from.
#[derive(Debug, Default)]
pub(crate) struct Hairpins(Mutex<BTreeMap<SocketAddr, (SocketAddr, Instant)>>);

impl Hairpins {
    /// Opens a connection to `inbound`, our own port, for one that was going to `to`.
    pub(crate) async fn connect(
        &self,
        inbound: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<TcpStream> {
        let socket = if inbound.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.bind(SocketAddr::new(inbound.ip(), 0))?;
        let from = socket.local_addr()?;
        self.leave(from, to)?;
        let connected = socket.connect(inbound).await;
        if connected.is_err() {
            self.take(from);
        }
        connected
    }

    fn leave(&self, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
        let mut all = self.lock();
        if all.len() >= MOST {
            all.retain(|_, (_, since)| since.elapsed() < FORGOTTEN_AFTER);
        }
        if all.len() >= MOST {
            let message = format!("{MOST} connections to this host wait to be accepted");
            return Err(io::Error::other(message));
        }
        all.insert(from, (to, Instant::now()));
        Ok(())
    }

    /// Where the connection from `from` was going, if it is one of ours.
    pub(crate) fn take(&self, from: SocketAddr) -> Option<SocketAddr> {
        self.lock().remove(&from).map(|(to, _)| to)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, (SocketAddr, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_accepts_learns_where_a_connection_was_going_and_only_once() {
        let hairpins = Hairpins::default();
        let inbound = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = inbound.local_addr().unwrap();
        let to = "10.0.0.5:9080".parse().unwrap();
        let stream = hairpins.connect(at, to).await.unwrap();
        let (_accepted, from) = inbound.accept().await.unwrap();
        assert_eq!(from, stream.local_addr().unwrap());
        assert_eq!(hairpins.take(from), Some(to));
        assert_eq!(hairpins.take(from), None);
        drop(inbound);
        assert!(hairpins.connect(at, to).await.is_err());
        assert!(hairpins.lock().is_empty(), "nothing is left of it");
    }
}
