//! Whom everything else is asked: the servers that were named, or those of this machine, which may change.
//!
//! A machine whose only server is systemd's stub (127.0.0.53) has the real ones in a file beside it. They are asked
//! instead: what the stub would send to them is led to us again where a redirect is in force.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::{MissedTickBehavior, interval};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The servers behind systemd's stub.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
const STUBS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54)),
];
const DNS: u16 = 53;
/// More are left out; resolvers take three.
pub(crate) const MAX_SERVERS: usize = 8;
/// Of a file.
const MAX_FILE: usize = 64 * 1024;
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// The servers in force.
#[derive(Debug)]
pub(crate) struct Servers {
    now: ArcSwap<Vec<SocketAddr>>,
    own: Vec<SocketAddr>,
    /// Somebody named them: no file says otherwise.
    is_fixed: bool,
}

impl Servers {
    /// `fixed`, or those of this machine if there are none; never `own`.
    pub(super) fn new(fixed: &[SocketAddr], own: &[SocketAddr]) -> Self {
        let servers = Self {
            now: ArcSwap::from_pointee(fixed.to_vec()),
            own: own.to_vec(),
            is_fixed: !fixed.is_empty(),
        };
        if !servers.is_fixed {
            servers.set(resolv_conf());
        }
        servers
    }

    pub(super) fn now(&self) -> Arc<Vec<SocketAddr>> {
        self.now.load_full()
    }

    fn set(&self, mut found: Vec<SocketAddr>) {
        let refused = own_upstream(&found, &self.own);
        found.retain(|server| own_upstream(&[*server], &self.own).is_none());
        if **self.now.load() == found {
            return;
        }
        if let Some(own) = refused {
            tracing::warn!(server = %own, "left out of {RESOLV_CONF}: it is this sidecar's own DNS server; name others with --dns-upstream");
        }
        if found.is_empty() {
            tracing::warn!(
                "no DNS server in {RESOLV_CONF}: names outside of the mesh cannot be looked up; name servers with --dns-upstream"
            );
        } else {
            tracing::info!(servers = ?found, "DNS servers for names outside of the mesh");
        }
        self.now.store(Arc::new(found));
    }

    #[cfg(test)]
    pub(super) fn clear_for_tests(&self) {
        self.now.store(Arc::default());
    }

    /// Looks whether they have changed, for ever.
    pub(super) async fn follow(self: Arc<Self>) {
        if self.is_fixed {
            return;
        }
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            // A disk that hangs holds a thread of its own.
            match tokio::task::spawn_blocking(resolv_conf).await {
                // While somebody writes the file there is nothing in it.
                Ok(found) if found.is_empty() && !self.now.load().is_empty() => {}
                Ok(found) => self.set(found),
                Err(error) => tracing::warn!(%error, "{RESOLV_CONF} was not looked at"),
            }
        }
    }
}

/// The first of `upstreams` that is one of `own`.
pub(crate) fn own_upstream(upstreams: &[SocketAddr], own: &[SocketAddr]) -> Option<SocketAddr> {
    let of = |upstream: &&SocketAddr| {
        let is_local = upstream.ip().is_loopback() || upstream.ip().is_unspecified();
        own.iter().any(|own| {
            **upstream == *own
                || (is_local && upstream.ip().is_unspecified() && upstream.port() == own.port())
        })
    };
    upstreams.iter().find(of).copied()
}

/// The servers of this machine.
fn resolv_conf() -> Vec<SocketAddr> {
    let servers = read(Path::new(RESOLV_CONF));
    if !servers.is_empty() && servers.iter().all(|server| STUBS.contains(&server.ip())) {
        let behind = read(Path::new(BEHIND_STUB));
        if !behind.is_empty() {
            return behind;
        }
    }
    servers
}

fn read(path: &Path) -> Vec<SocketAddr> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Vec::new();
    };
    let text = text.get(..MAX_FILE).unwrap_or(&text);
    parse(text)
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else {
            continue;
        };
        let Some(server) = server(address) else {
            continue;
        };
        if !servers.contains(&server) && servers.len() < MAX_SERVERS {
            servers.push(server);
        }
    }
    servers
}

/// Of both families; a link-local address has its interface behind a `%`.
fn server(text: &str) -> Option<SocketAddr> {
    let (address, interface) = text.split_once('%').unwrap_or((text, ""));
    match address.parse().ok()? {
        // What the C library takes it for.
        IpAddr::V4(ip) if ip.is_unspecified() => Some((Ipv4Addr::LOCALHOST, DNS).into()),
        IpAddr::V6(ip) if ip.is_unspecified() => Some((Ipv6Addr::LOCALHOST, DNS).into()),
        IpAddr::V4(ip) => interface.is_empty().then(|| (ip, DNS).into()),
        IpAddr::V6(ip) => {
            let scope = scope(interface)?;
            Some(SocketAddrV6::new(ip, DNS, 0, scope).into())
        }
    }
}

fn scope(interface: &str) -> Option<u32> {
    if interface.is_empty() {
        return Some(0);
    }
    if let Ok(index) = interface.parse() {
        return Some(index);
    }
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'@');
    if !interface.bytes().all(is_name) {
        return None;
    }
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex")).ok()?;
    index.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_stand_in_the_file_in_their_order_once_each() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.2\nnameserver\t2001:db8::1 # x\n nameserver 10.0.0.2\n\
                    nameserver x\nnameserver fe80::1%7\nnameserver 0.0.0.0\nnameserver\nnameserver 10.0.0.3%eth0\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        let expected = [
            "10.0.0.2:53",
            "[2001:db8::1]:53",
            "[fe80::1%7]:53",
            "127.0.0.1:53",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn no_more_servers_are_taken_than_may_be() {
        let text: String = (0..20)
            .map(|n| format!("nameserver 10.0.0.{n}\n"))
            .collect();
        assert_eq!(parse(&text).len(), MAX_SERVERS);
    }

    #[test]
    fn our_own_address_is_no_server_for_us() {
        let own = ["127.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        let upstream = |text: &str| own_upstream(&[text.parse().unwrap()], &own).is_some();
        assert!(upstream("127.0.0.1:53"));
        assert!(upstream("[::1]:53"));
        assert!(upstream("0.0.0.0:53"));
        assert!(!upstream("127.0.0.2:53"));
        assert!(!upstream("127.0.0.1:5353"));
        let servers = Servers::new(&[], &own);
        servers.set(vec![own[0], "10.0.0.2:53".parse().unwrap()]);
        assert_eq!(*servers.now(), ["10.0.0.2:53".parse().unwrap()]);
    }
}
