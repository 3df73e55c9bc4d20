//! Rules for connections: TLS that is passed through, and everything that is not HTTP.
//! Source: Istio `networking/v1` VirtualService, `TLSRoute` and `TCPRoute`.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use super::At;
use crate::Position;

/// `tls[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsRoute {
    /// Where it stands.
    pub position: Position,
    /// Any of these; at least one.
    pub matches: Vec<TlsMatch>,
    /// At least one; weights sum to more than 0.
    pub route: Vec<RouteDestination>,
}

/// `tls[].match[]`: all parts must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsMatch {
    /// `sniHosts`: at least one; `*.suffix` and `*` too. Each falls under one of the document's hosts.
    pub sni_hosts: Vec<At<String>>,
    /// The rest.
    pub common: ConnectionMatch,
}

/// `tcp[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoute {
    /// Where it stands.
    pub position: Position,
    /// Any of these; empty = every connection.
    pub matches: Vec<ConnectionMatch>,
    /// At least one; weights sum to more than 0.
    pub route: Vec<RouteDestination>,
}

/// What is known of a connection of any protocol: all parts must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectionMatch {
    /// `destinationSubnets`: networks of which one has the original destination. Empty = any.
    pub destination_subnets: Vec<Subnet>,
    /// `port`: the service's.
    pub port: Option<u16>,
    /// Labels that the calling workload must have.
    pub source_labels: BTreeMap<String, String>,
    /// Namespace of the calling workload.
    pub source_namespace: Option<String>,
}

/// An address, or a network as `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    /// Its address; bits past the prefix are 0.
    pub address: IpAddr,
    /// 0 to 32 or 128.
    pub prefix: u8,
}

impl Subnet {
    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let past = 32 - u32::from(self.prefix.min(32));
                let mask = u32::MAX.checked_shl(past).unwrap_or(0);
                own.to_bits() == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let past = 128 - u32::from(self.prefix.min(128));
                let mask = u128::MAX.checked_shl(past).unwrap_or(0);
                own.to_bits() == other.to_bits() & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// The address, if it is one and no network.
    #[must_use]
    pub const fn single(&self) -> Option<IpAddr> {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix == longest {
            Some(self.address)
        } else {
            None
        }
    }
}

/// One address.
impl From<IpAddr> for Subnet {
    fn from(address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix }
    }
}

/// `10.1.0.0/16`, and a single address without its length.
impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(address) => write!(f, "{address}"),
            None => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

/// What is neither an address nor a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSubnet;

impl fmt::Display for NoSubnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("want an address such as 10.1.2.3, or a network such as 10.1.0.0/16")
    }
}

impl std::error::Error for NoSubnet {}

impl FromStr for Subnet {
    type Err = NoSubnet;

    /// Bits past the prefix are dropped.
    fn from_str(text: &str) -> Result<Self, NoSubnet> {
        parse_subnet(text).ok_or(NoSubnet)
    }
}

fn parse_subnet(text: &str) -> Option<Subnet> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        // `+8` and `08` are numbers to Rust.
        Some(prefix) if prefix.starts_with('+') || prefix.len() > 1 && prefix.starts_with('0') => {
            return None;
        }
        Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= longest)?,
        None => longest,
    };
    let past = u32::from(longest - prefix);
    let address = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(past).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(past).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    };
    Some(Subnet { address, prefix })
}

/// One destination of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteDestination {
    /// Where it stands.
    pub position: Position,
    /// Host as written.
    pub host: At<String>,
    /// Subset of the host's DestinationRule.
    pub subset: Option<At<String>>,
    /// Port; None = the connection's, or the service's only one.
    pub port: Option<u16>,
    /// Share of the sum; 100 if alone and not given, else 0.
    pub weight: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_no_bits_past_its_prefix() {
        for (text, expected) in [
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("10.1.2.3/16", Some("10.1.0.0/16")),
            ("10.1.2.3/0", Some("0.0.0.0/0")),
            ("2001:db8::7/32", Some("2001:db8::/32")),
            ("::1", Some("::1/128")),
            ("10.1.2.3/33", None),
            ("10.1.2.3/+8", None),
            ("10.1.2.3/08", None),
            ("10.1.2", None),
            ("a", None),
        ] {
            let found = text.parse::<Subnet>().ok();
            let found = found.map(|net| format!("{}/{}", net.address, net.prefix));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_network_contains_the_addresses_of_its_family_that_begin_like_it() {
        for (net, address, expected) in [
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("2001:2::/48", "2001:2::ffff", true),
            ("2001:2::/48", "2001:2:1::", false),
            ("::/0", "2001:2:1::", true),
        ] {
            let net: Subnet = net.parse().unwrap();
            let address = address.parse().unwrap();
            assert_eq!(net.contains(address), expected, "{address} in {net}");
        }
    }
}
