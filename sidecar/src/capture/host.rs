//! Which addresses are this host's.
//!
//! Asked of the kernel's routing table without a privilege and without a packet: a UDP socket that is connected to an
//! address of this host, and to no other, is given that very address as its own.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Addresses come and go.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// Answers that are remembered; with more, all are asked for anew.
const MOST: usize = 1_024;

/// What was asked, for a while.
#[derive(Debug, Default)]
pub(crate) struct Host(Mutex<BTreeMap<IpAddr, (bool, Instant)>>);

impl Host {
    /// Whether `ip` is an address of this host.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_loopback() {
            return true;
        }
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((has, asked)) = known.get(&ip)
            && now.saturating_duration_since(*asked) < REMEMBERED_FOR
        {
            return *has;
        }
        let has = ask(ip).unwrap_or(false);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(ip, (has, now));
        has
    }
}

fn ask(ip: IpAddr) -> io::Result<bool> {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    // Any port: nothing is sent.
    socket.connect(SocketAddr::new(ip, 9))?;
    Ok(socket.local_addr()?.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_host_are_told_from_others() {
        let host = Host::default();
        for (ip, expected) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::ffff:127.0.0.1", true),
            ("::1", true),
            ("192.0.2.1", false),
            ("240.240.0.9", false),
            ("2001:2::9", false),
        ] {
            assert_eq!(host.has(ip.parse().unwrap()), expected, "{ip}");
        }
        // The one that others see, if there is a way out.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            assert!(host.has(socket.local_addr().unwrap().ip()));
        }
    }
}
