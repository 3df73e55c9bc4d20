//! What this host itself says about what must not be captured: its names of users, its DNS servers, the operator's way in.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
};

use super::tool;

/// A user id, or the name of a user.
pub(crate) fn uid(text: &str) -> Result<u32, String> {
    id(text, "user", "passwd")
}

/// A group id, or the name of a group.
pub(crate) fn gid(text: &str) -> Result<u32, String> {
    id(text, "group", "group")
}

fn id(text: &str, what: &str, database: &str) -> Result<u32, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let of = |lines: &str| {
        lines.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok())?
        })
    };
    let file = fs::read_to_string(format!("/etc/{database}")).unwrap_or_default();
    // Names that are kept elsewhere: `getent` asks whom the host asks.
    let asked = || {
        let ended = tool::run("getent", &[database, text], "").ok()?;
        of(&ended.stdout)
    };
    of(&file).or_else(asked).ok_or_else(|| {
        format!(
            "there is no {what} \"{text}\" on this machine; write its number, or create it first"
        )
    })
}

/// A mark of packets: 1337, or 0x539.
pub(crate) fn mark(text: &str) -> Result<u32, String> {
    let mark = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match mark {
        Ok(mark) if mark > 0 => Ok(mark),
        _ => Err(format!(
            "\"{text}\" is no mark; write a number above 0, e.g. 1337 or 0x539"
        )),
    }
}

/// The name of a network interface.
pub(crate) fn interface(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if !text.is_empty() && text.len() <= 15 && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "\"{text}\" is no name of a network interface; write one, e.g. docker0"
        ))
    }
}

/// The servers of `/etc/resolv.conf`, if one of them is this host: its own questions to others must not come back to it.
pub(crate) fn own_dns_servers() -> Option<Vec<IpAddr>> {
    let file = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = name_servers(&file);
    let own = servers.iter().any(|server| is_own(*server));
    own.then_some(servers)
}

fn name_servers(file: &str) -> Vec<IpAddr> {
    let mut servers: Vec<IpAddr> = file
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        })
        .collect();
    servers.sort_unstable();
    servers.dedup();
    servers
}

/// Whether it is an address of this host: to itself the kernel goes from the same one. Nothing is sent.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => [0, 0, 0, 0].into(),
        IpAddr::V6(_) => [0_u16; 8].into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 53))?;
        socket.local_addr()
    });
    address.is_loopback() || from.is_ok_and(|from| from.ip() == address)
}

/// The port of this host over which the operator came, if that was by ssh. `sudo` hides it from us, not from the shell above.
pub(crate) fn ssh_port() -> Option<u16> {
    let mut process = "self".to_owned();
    // Deeper than shells are nested.
    for _ in 0..32 {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        if let Some(port) = ssh_connection(&environment) {
            return Some(port);
        }
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        process = parent(&stat)?;
    }
    None
}

/// `SSH_CONNECTION=<client> <port> <server> <port>`.
fn ssh_connection(environment: &[u8]) -> Option<u16> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|one| one.strip_prefix(b"SSH_CONNECTION="))?;
    let text = std::str::from_utf8(value).ok()?;
    text.split(' ').nth(3)?.parse().ok()
}

/// The fourth field; the second is a name in brackets that may hold anything.
fn parent(stat: &str) -> Option<String> {
    let (_, after) = stat.rsplit_once(')')?;
    let parent = after.split_whitespace().nth(1)?;
    (parent != "0").then(|| parent.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_number_and_by_name() {
        assert_eq!(uid("1337"), Ok(1337));
        assert_eq!(uid("root"), Ok(0));
        assert_eq!(gid("root"), Ok(0));
        let error = uid("no-such-user").unwrap_err();
        assert!(
            error.starts_with("there is no user \"no-such-user\""),
            "{error}"
        );
    }

    #[test]
    fn marks_are_numbers_in_either_notation() {
        assert_eq!(mark("0x539"), Ok(1337));
        assert_eq!(mark("1337"), Ok(1337));
        assert!(mark("0").is_err());
        assert!(mark("red").is_err());
    }

    #[test]
    fn the_servers_of_resolv_conf_are_found() {
        let file = "# nameserver 9.9.9.9\nnameserver 127.0.0.53\noptions edns0\n nameserver fd00::1 \nnameserver x\n";
        let servers: Vec<String> = name_servers(file).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53", "fd00::1"]);
    }

    #[test]
    fn a_loopback_address_is_this_host_and_one_for_examples_is_not() {
        assert!(is_own([127, 0, 0, 53].into()));
        assert!(!is_own([192, 0, 2, 1].into()));
    }

    #[test]
    fn the_way_of_the_operator_is_seen_through_sudo() {
        let environment = b"HOME=/root\0SSH_CONNECTION=192.0.2.7 50022 10.0.0.5 2222\0";
        assert_eq!(ssh_connection(environment), Some(2222));
        assert_eq!(ssh_connection(b"TERM=xterm\0"), None);
        assert_eq!(parent("12 (a) b (c) S 7 12 12").as_deref(), Some("7"));
        assert_eq!(parent("1 (init) S 0 1 1"), None);
    }
}
