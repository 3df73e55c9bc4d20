//! A range of addresses.

use std::net::IpAddr;

/// An address and how many of its first bits count. IPv4 that is written in IPv6 counts as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    /// None = more bits than the address has.
    #[must_use]
    pub fn new(address: IpAddr, bits: u32) -> Option<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = u8::try_from(bits).ok().filter(|bits| *bits <= most)?;
        // A range of mapped addresses is one of IPv4.
        let mapped = match (address, address.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(inner)) if bits >= 96 => Some((inner, bits - 96)),
            _ => None,
        };
        Some(match mapped {
            Some((inner, bits)) => Self {
                address: inner.into(),
                bits,
            },
            None => Self { address, bits },
        })
    }

    /// How many bits count.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether `address` is in it. An address of the other family never is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_its_first_bits() {
        for (range, bits, address, inside) in [
            ("10.1.2.3", 32, "10.1.2.3", true),
            ("10.1.2.3", 32, "10.1.2.4", false),
            ("10.1.2.3", 24, "10.1.2.255", true),
            ("10.1.2.3", 24, "10.1.3.0", false),
            ("10.0.0.0", 9, "10.127.0.0", true),
            ("10.0.0.0", 9, "10.128.0.0", false),
            ("10.0.0.0", 0, "200.1.1.1", true),
            ("0.0.0.0", 0, "::1", false),
            ("::", 0, "10.0.0.1", false),
            ("::", 0, "fe80::1", true),
            ("fe80::", 10, "febf::1", true),
            ("fe80::", 10, "fec0::1", false),
            ("::1", 128, "::1", true),
            ("10.0.0.0", 8, "::ffff:10.9.9.9", true),
            ("::ffff:10.0.0.0", 104, "10.9.9.9", true),
            ("::ffff:10.0.0.0", 104, "11.9.9.9", false),
        ] {
            let range = Cidr::new(range.parse().unwrap(), bits).unwrap();
            let found = range.contains(address.parse().unwrap());
            assert_eq!(found, inside, "{range:?} {address}");
        }
    }

    #[test]
    fn no_address_has_more_bits_than_it_has() {
        assert_eq!(Cidr::new("10.0.0.0".parse().unwrap(), 33), None);
        assert_eq!(Cidr::new("::".parse().unwrap(), 129), None);
        assert_eq!(Cidr::new("::".parse().unwrap(), 300), None);
    }
}
