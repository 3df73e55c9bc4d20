//! Answers the application's look-ups: names of the mesh by itself, everything else by the servers of this machine.
//!
//! ```text
//! serve (UDP, TCP; loopback) ─► message (one strict query) ─► answer ─► book: a name of the mesh ─► its addresses
//!                                                                 ├──► names ─► xDS client ─► book    (asked for by name)
//!                                                                 └──► forward ─► servers of resolv.conf
//! ```
//! A known name that has no address of the family asked for is answered with nothing, never with NXDOMAIN: resolvers ask
//! for both families at once, and would take the one's word for the other's. Before the first configuration nobody is
//! told anything that he would remember: SERVFAIL.
//! Rules: RFC 1035, 2181, 2308, 2782, 5452 (what makes spoofing hard), 6891, 7766, 8482, 8914.

mod answer;
pub(crate) mod book;
mod forward;
mod message;
pub(crate) mod metrics;
pub(crate) mod names;
mod page;
mod ports;
mod serve;
mod servers;
pub(crate) mod sockets;

use std::{net::SocketAddr, sync::Arc};

use prometheus::Registry;
use tokio::task::JoinSet;

use answer::Resolver;
use forward::Forwarder;
use metrics::Counters;
use servers::Servers;
use sockets::Sockets;

pub(crate) use page::show;
pub(crate) use servers::{MAX_SERVERS, own_upstream};

/// The running server, as the admin side sees it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) addresses: Vec<SocketAddr>,
    resolver: Arc<Resolver>,
}

/// Starts to serve `sockets`; `upstreams` empty = those of resolv.conf. What runs is owned by `tasks`.
///
/// # Errors
/// The runtime's, on taking over a socket.
pub(crate) fn start(
    sockets: Sockets,
    upstreams: &[SocketAddr],
    names: &Arc<names::Names>,
    registry: &Registry,
    tasks: &mut JoinSet<()>,
) -> std::io::Result<Running> {
    let counters = Arc::new(Counters::new(registry, names));
    let addresses = sockets.addresses.clone();
    let servers = Arc::new(Servers::new(upstreams, &addresses));
    let forwarder = Arc::new(Forwarder::new(Arc::clone(&servers), Arc::clone(&counters)));
    let resolver = Arc::new(Resolver::new(Arc::clone(names), forwarder, counters));
    tasks.spawn(servers.follow());
    for socket in sockets.udp {
        let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
        tasks.spawn(serve::udp(socket, Arc::clone(&resolver)));
    }
    for listener in sockets.tcp {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tasks.spawn(serve::tcp(listener, Arc::clone(&resolver)));
    }
    tracing::info!(addresses = ?addresses, "DNS server open");
    Ok(Running {
        addresses,
        resolver,
    })
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
