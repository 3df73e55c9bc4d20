//! The ports of the DNS server: UDP and TCP of one number, on loopback of both families.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

/// A free port has to be free four times.
const TRIES: usize = 16;
/// Queries that the kernel may hold for us.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Bound, not served yet.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: Vec<TcpListener>,
    /// One for each family; the first is the one that was asked for.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Binds `address`; of `127.0.0.1` also `[::1]`, if the machine has it.
///
/// # Errors
/// The operating system's.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Sockets> {
    let mut tries = if address.port() == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_all(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            result => return result,
        }
    }
}

fn bind_all(address: SocketAddr) -> io::Result<Sockets> {
    let tcp = crate::listen::bind(address, false)?;
    let first = tcp.local_addr()?;
    let mut sockets = Sockets {
        udp: vec![udp(first)?],
        tcp: vec![tcp],
        addresses: vec![first],
    };
    if first.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        return Ok(sockets);
    }
    let second = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), first.port());
    match crate::listen::bind(second, false).and_then(|tcp| Ok((tcp, udp(second)?))) {
        Ok((tcp, udp)) => {
            sockets.tcp.push(tcp);
            sockets.udp.push(udp);
            sockets.addresses.push(second);
        }
        Err(error) if is_without_ipv6(&error) => {
            tracing::info!(%error, "no IPv6 here: DNS is served over IPv4 only");
        }
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

fn is_without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!(%error, "the kernel holds as many queries as it does by default");
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_the_same_for_both_transports_and_families() {
        let sockets = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = sockets.addresses[0].port();
        assert_ne!(port, 0);
        for (index, address) in sockets.addresses.iter().enumerate() {
            assert_eq!(address.port(), port);
            assert_eq!(sockets.udp[index].local_addr().unwrap(), *address);
            assert_eq!(sockets.tcp[index].local_addr().unwrap(), *address);
        }
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = bind(first.addresses[0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
