//! Whose process is at the other end of a loopback connection: who may only read is told apart from who may change
//! things by its user, as the kernel knows it.
//!
//! Root and this process's own user may change things; the application, which has another user, may not drain its
//! sidecar or change its log. If both have the same user, they cannot be told apart. Source: proc_pid_net(5).

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
};

/// Whether the process at the other end of a connection may change things.
///
/// # Errors
/// Why not, in words.
pub(super) fn may_change(peer: SocketAddr, own: SocketAddr, also: &[u32]) -> Result<(), String> {
    // Nowhere else is there a table to look it up in.
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let ours = fs::metadata("/proc/self").map(|process| process.uid());
    match (user_of(peer, own), ours) {
        (Ok(Some(user)), Ok(ours)) => {
            if user == 0 || user == ours || also.contains(&user) {
                return Ok(());
            }
            Err(format!(
                "user {user} may only read here; root, user {ours} and those of --admin-user may change things"
            ))
        }
        (Ok(None), _) => Err("it cannot be told which user asks".to_owned()),
        (Err(error), _) | (_, Err(error)) => {
            Err(format!("it cannot be told which user asks: {error}"))
        }
    }
}

/// The user of the socket at `local` that is connected to `remote`.
fn user_of(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    if local.is_ipv4() {
        let table = fs::read_to_string("/proc/net/tcp")?;
        if let Some(user) = find(&table, local, remote) {
            return Ok(Some(user));
        }
    }
    // A socket of version 6 may have connected to an address of version 4.
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let table = fs::read_to_string("/proc/net/tcp6")?;
    Ok(find(&table, mapped(local), mapped(remote)))
}

fn find(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let (local, remote) = (written(local), written(remote));
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_it = fields.next()? == local && fields.next()? == remote;
        // Then: state, queues, timer, retransmissions, user.
        is_it.then(|| fields.nth(4)?.parse().ok()).flatten()
    })
}

/// As the kernel writes an address: words in its own byte order.
fn written(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| {
        let word = <[u8; 4]>::try_from(word).unwrap_or_default();
        format!("{:08X}", u32::from_ne_bytes(word))
    });
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_user_is_found_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:8235 0100007F:3A98 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 20 4 30 10 -1";
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = at("127.0.0.1:15000");
        assert_eq!(find(table, at("127.0.0.1:33333"), own), Some(1000));
        assert_eq!(find(table, at("127.0.0.1:33334"), own), None);
        assert_eq!(
            written(at("[::1]:80")),
            "00000000000000000000000001000000:0050"
        );
    }

    #[test]
    fn a_process_of_our_own_user_may_change_things() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue; // without this family
            };
            let own = listener.local_addr().unwrap();
            let client = TcpStream::connect(own).unwrap();
            let peer = client.local_addr().unwrap();
            assert_eq!(may_change(peer, own, &[]), Ok(()));
            let other = SocketAddr::new(peer.ip(), 1);
            assert!(may_change(other, own, &[]).is_err());
        }
    }

    #[test]
    fn a_socket_of_version_6_is_found_at_an_address_of_version_4() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), own.port());
        let Ok(client) = TcpStream::connect(mapped) else {
            return; // without this family
        };
        let (_accepted, peer) = listener.accept().unwrap();
        assert!(peer.is_ipv4());
        assert_eq!(may_change(peer, own, &[]), Ok(()));
        drop(client);
    }
}
