//! Address ranges as an operator writes them, and lists of them as a kernel takes them: sorted, none within another.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A range of addresses; no bit of the address is set beyond its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    pub(crate) const LINK_LOCAL_V6: Self = Self {
        address: IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)),
        length: 10,
    };

    pub(crate) const fn host(address: IpAddr) -> Self {
        Self {
            address,
            length: Family::of(address).bits(),
        }
    }

    pub(crate) const fn family(self) -> Family {
        Family::of(self.address)
    }

    /// Its first address.
    pub(crate) const fn address(self) -> IpAddr {
        self.address
    }

    pub(crate) fn contains(self, other: Self) -> bool {
        self.family() == other.family()
            && self.length <= other.length
            && masked(other.address, self.length) == self.address
    }
}

/// `10.0.0.0/8`, or an address alone.
impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no address range; write 10.0.0.0/8 or fd00::/64");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_ignored| wrong())?;
        let most = Family::of(address).bits();
        let length = match length {
            None => most,
            Some(length) => length.parse().map_err(|_ignored| wrong())?,
        };
        if length > most {
            return Err(format!(
                "\"{text}\" has a length of {length} bits; {most} is the most"
            ));
        }
        let first = Self {
            address: masked(address, length),
            length,
        };
        if first.address == address {
            Ok(first)
        } else {
            Err(format!(
                "\"{text}\" begins within a range; write {first}, or {address} for this address alone"
            ))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// Sorted, without those that lie within another: a kernel's set refuses ranges that overlap.
pub(crate) fn merged(mut ranges: Vec<Cidr>) -> Vec<Cidr> {
    ranges.sort_unstable();
    let mut kept: Vec<Cidr> = Vec::new();
    // A range sorts before what it contains: by its first address, then the shorter length.
    for range in ranges {
        if !kept.last().is_some_and(|last| last.contains(range)) {
            kept.push(range);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[&str]) -> Vec<Cidr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_no_range_is_refused_with_what_would_be_right() {
        for (text, says) in [
            ("10.0.0.0/33", "32 is the most"),
            ("10.0.0.5/8", "write 10.0.0.0/8, or 10.0.0.5"),
            ("2001:2::1/48", "write 2001:2::/48"),
            ("orders", "write 10.0.0.0/8"),
            ("10.0.0.0/", "write 10.0.0.0/8"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_range_within_another_is_not_said_twice() {
        let merged = merged(ranges(&[
            "10.1.0.0/16",
            "192.168.0.1",
            "10.0.0.0/8",
            "10.0.0.0/8",
            "::/0",
            "fd00::/8",
        ]));
        assert_eq!(merged, ranges(&["10.0.0.0/8", "192.168.0.1/32", "::/0"]));
    }
}
