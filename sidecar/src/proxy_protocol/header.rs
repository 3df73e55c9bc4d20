//! PROXY protocol headers, read and written.
//!
//! ```text
//! 1: PROXY TCP4|TCP6|UNKNOWN source destination port port\r\n                       (107 bytes at most)
//! 2: signature(12) version+command(1) family(1) length(2) addresses(12|36) TLV(type length value)*
//! ```
//! Strict: it is exactly a header or none, and never read further than it goes. Pure.
//! Source: the specification that HAProxy publishes (`proxy-protocol.txt`), sections 2.1 and 2.2.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use outrigger_core::ProxyVersion as Version;

/// Section 2.1: the longest line, of two IPv6 addresses, with its end.
const MAX_LINE: usize = 107;
/// Of version 2 with its TLVs. A load balancer in a cloud sends about 100.
pub(crate) const MAX_HEADER: usize = 4_096;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LINE: &[u8] = b"PROXY ";
const FIXED: usize = 16;
const TLV_CRC32C: u8 = 0x03;

/// Who is at the other end of what a proxy passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ends {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: Version,
    /// Bytes.
    pub(crate) length: usize,
    /// None = the proxy speaks for itself, or does not know.
    pub(crate) ends: Option<Ends>,
}

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The beginning of one.
    More,
    Header(Header),
    /// They do not begin as one.
    Absent,
    /// They begin as one, and are none: the rule that was broken.
    Not(&'static str),
}

/// Reads as far as `bytes` go.
pub(crate) fn read(bytes: &[u8]) -> Read {
    if begins(bytes, &SIGNATURE) {
        return match bytes.len() < FIXED {
            true => Read::More,
            false => binary(bytes).unwrap_or_else(Read::Not),
        };
    }
    if begins(bytes, LINE) {
        return line(bytes).unwrap_or_else(Read::Not);
    }
    Read::Absent
}

/// Whether as much of `whole` as there may be is there.
fn begins(bytes: &[u8], whole: &[u8]) -> bool {
    let length = bytes.len().min(whole.len());
    bytes.get(..length) == whole.get(..length)
}

fn line(bytes: &[u8]) -> Result<Read, &'static str> {
    let seen = bytes.get(..bytes.len().min(MAX_LINE)).unwrap_or_default();
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return match seen.len() < MAX_LINE {
            true => Ok(Read::More),
            false => Err("the line is longer than 107 bytes"),
        };
    };
    let text = seen.get(LINE.len()..end).unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_error| "the line is not ASCII")?;
    let header = |ends| {
        Ok(Read::Header(Header {
            version: Version::V1,
            length: end + 2,
            ends,
        }))
    };
    let mut words = text.split(' ');
    let family = words.next();
    // What follows is to be ignored.
    if family == Some("UNKNOWN") {
        return header(None);
    }
    let parts = [(); 4].map(|()| words.next());
    let ([Some(source), Some(destination), Some(from), Some(to)], None) = (parts, words.next())
    else {
        return Err("the line has not exactly two addresses and two ports");
    };
    let address = |text: &str| -> Result<IpAddr, &'static str> {
        let found: Option<IpAddr> = match family {
            Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(Into::into),
            Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(Into::into),
            _ => return Err("the line's family is none of TCP4, TCP6 and UNKNOWN"),
        };
        found.ok_or("an address is none of the line's family")
    };
    let port = |text: &str| -> Result<u16, &'static str> {
        let is_plain =
            text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        let port = text.parse().ok().filter(|_| is_plain);
        port.ok_or("a port is not a number from 0 to 65535")
    };
    header(Some(Ends {
        source: SocketAddr::new(address(source)?, port(from)?),
        destination: SocketAddr::new(address(destination)?, port(to)?),
    }))
}

fn binary(bytes: &[u8]) -> Result<Read, &'static str> {
    let fixed = bytes.get(SIGNATURE.len()..FIXED).unwrap_or_default();
    let [version, family, high, low] = fixed else {
        return Ok(Read::More);
    };
    let is_local = match version {
        0x20 => true,
        0x21 => false,
        _ if version >> 4 != 2 => return Err("the version is not 2"),
        _ => return Err("the command is neither LOCAL nor PROXY"),
    };
    let rest = usize::from(u16::from_be_bytes([*high, *low]));
    let length = FIXED + rest;
    if length > MAX_HEADER {
        return Err("the header is longer than 4 KiB");
    }
    let addresses = match (is_local, family) {
        // Whatever the family is said to be, it means nothing.
        (true, _) | (false, 0x00) => None,
        (false, 0x11) => Some(12),
        (false, 0x21) => Some(36),
        (false, 0x12 | 0x22 | 0x32) => return Err("the protocol is not a stream's"),
        (false, 0x31) => return Err("the family is that of Unix sockets"),
        (false, _) => return Err("the family or the protocol is unknown"),
    };
    if addresses.is_some_and(|addresses| rest < addresses) {
        return Err("the length leaves no room for the addresses");
    }
    if bytes.len() < length {
        return Ok(Read::More);
    }
    let whole = bytes.get(..length).unwrap_or_default();
    let body = whole.get(FIXED..).unwrap_or_default();
    let (place, tlvs) = body
        .split_at_checked(addresses.unwrap_or(0))
        .unwrap_or_default();
    // Without addresses what follows is to be ignored.
    if addresses.is_some() {
        check_tlvs(whole, tlvs)?;
    }
    let ends = match place.len() {
        12 => ends::<4>(place),
        36 => ends::<16>(place),
        _ => None,
    };
    Ok(Read::Header(Header {
        version: Version::V2,
        length,
        ends,
    }))
}

fn ends<const N: usize>(bytes: &[u8]) -> Option<Ends>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let [from, from_low, to, to_low] = rest else {
        return None;
    };
    let address =
        |ip: &[u8; N], port: [u8; 2]| SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(port));
    Some(Ends {
        source: address(source, [*from, *from_low]),
        destination: address(destination, [*to, *to_low]),
    })
}

/// Each has its length; a checksum is right.
fn check_tlvs(whole: &[u8], mut rest: &[u8]) -> Result<(), &'static str> {
    while let Some(([kind, high, low], after)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = after
            .split_at_checked(length)
            .ok_or("a TLV is longer than what is left")?;
        if *kind == TLV_CRC32C {
            let value: [u8; 4] = value
                .try_into()
                .map_err(|_error| "the checksum has not four bytes")?;
            let at = whole.len() - after.len();
            let zeroed =
                whole
                    .iter()
                    .enumerate()
                    .map(|(index, byte)| match (at..at + 4).contains(&index) {
                        true => 0,
                        false => *byte,
                    });
            if crc32c(zeroed) != u32::from_be_bytes(value) {
                return Err("the checksum is wrong");
            }
        }
        rest = next;
    }
    match rest.is_empty() {
        true => Ok(()),
        false => Err("a TLV has no room for its length"),
    }
}

/// Castagnoli's (RFC 3720 appendix B.4), of a few hundred bytes once a connection.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let of_bytes = bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            let mask = (crc & 1).wrapping_neg();
            (crc >> 1) ^ (0x82f6_3b78 & mask)
        })
    });
    !of_bytes
}

/// The header for a connection that has these ends; None = we speak for ourselves.
pub(crate) fn write(version: Version, ends: Option<Ends>) -> Vec<u8> {
    let ends = ends.map(alike);
    match version {
        Version::V1 => {
            let mut line = "PROXY ".to_owned();
            // Writing to a string does not fail.
            let written = match ends {
                None => line.write_str("UNKNOWN"),
                Some(Ends {
                    source: s,
                    destination: d,
                }) => {
                    let family = if s.is_ipv4() { "TCP4" } else { "TCP6" };
                    let (from, to) = (s.port(), d.port());
                    write!(line, "{family} {} {} {from} {to}", s.ip(), d.ip())
                }
            };
            debug_assert!(written.is_ok());
            line.push_str("\r\n");
            line.into_bytes()
        }
        Version::V2 => {
            let mut bytes = SIGNATURE.to_vec();
            let Some(Ends {
                source,
                destination,
            }) = ends
            else {
                bytes.extend_from_slice(&[0x20, 0, 0, 0]);
                return bytes;
            };
            let (family, length) = if source.is_ipv4() {
                (0x11, 12)
            } else {
                (0x21, 36)
            };
            bytes.extend_from_slice(&[0x21, family, 0, length]);
            for ip in [source.ip(), destination.ip()] {
                match ip {
                    IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
                }
            }
            for port in [source.port(), destination.port()] {
                bytes.extend_from_slice(&port.to_be_bytes());
            }
            bytes
        }
    }
}

/// Both of one family: there is no header of two. An IPv4 address within IPv6 is one of IPv4 if both are.
fn alike(ends: Ends) -> Ends {
    let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let wide = |at: SocketAddr| match at.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), at.port()),
        // Without an interface, which means nothing elsewhere.
        IpAddr::V6(ip) => SocketAddr::new(ip.into(), at.port()),
    };
    let (source, destination) = (plain(ends.source), plain(ends.destination));
    if source.is_ipv4() && destination.is_ipv4() {
        return Ends {
            source,
            destination,
        };
    }
    Ends {
        source: wide(source),
        destination: wide(destination),
    }
}

#[cfg(test)]
mod tests;
