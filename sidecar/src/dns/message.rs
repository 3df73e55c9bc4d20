//! DNS messages, as far as a proxy has to understand them: a query with its one question and its EDNS, an answer as far
//! as it tells that it is one to our question. What is forwarded goes on byte by byte.
//!
//! ```text
//! header(12: id flags counts) question(name type class) ... OPT(root 41 size flags options)
//! ```
//! Strict: a query that is not exactly one is answered FORMERR, or nothing where even that could be turned against
//! somebody (answers). Pure; it never follows a compression pointer.
//! Source: RFC 1035 section 4, RFC 2782, RFC 6891, RFC 9619 (one question).

use std::net::{Ipv4Addr, Ipv6Addr};

mod write;

pub(super) use write::{Records, Reply, Srv, truncated};

/// Of a query.
pub(super) const MAX_QUERY: usize = 4_096;
/// What a client without EDNS takes over UDP (RFC 1035 section 4.2.1).
pub(super) const PLAIN_UDP: usize = 512;
/// Of an answer over UDP, whatever its asker says it takes; we say so to servers as well.
pub(super) const MAX_UDP: usize = 4_096;
pub(super) const HEADER: usize = 12;
/// RFC 1035 section 2.3.4.
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;
/// Records of a query besides its question: OPT, TSIG.
const MAX_ADDITIONAL: u16 = 4;

pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;
pub(super) const SRV: u16 = 33;
const OPT: u16 = 41;
const IXFR: u16 = 251;
const AXFR: u16 = 252;
pub(super) const ANY: u16 = 255;
pub(super) const IN: u16 = 1;

const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const CD: u8 = 0x10;

/// RFC 1035 section 4.1.1, RFC 6895.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
    /// EDNS of a version that is not there yet.
    BadVers,
}

impl Code {
    fn number(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::BadVers => 16,
        }
    }
}

/// A query that is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    pub(super) bytes: &'a [u8],
    /// Lower-case, without the last dot. None = it has labels that no host has: it is none of the mesh's.
    pub(super) name: Option<String>,
    pub(super) kind: u16,
    pub(super) class: u16,
    /// Where the question ends.
    question_end: usize,
    edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    /// What the asker takes over UDP.
    size: u16,
    /// Of the size, in the message.
    at: usize,
    version: u8,
    /// DNSSEC OK.
    dnssec: bool,
}

/// Why bytes are no query that we serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoQuery {
    /// Not to be answered at all: too short, or itself an answer.
    Ignore,
    /// To be answered so.
    Answer(Code, Vec<u8>),
}

impl<'a> Query<'a> {
    /// Reads all of it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, NoQuery> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(NoQuery::Ignore)?;
        let [id_high, id_low, flags, flags2, counts @ ..] = *header;
        if flags & QR != 0 {
            return Err(NoQuery::Ignore);
        }
        let bare = |code: Code| {
            let low = (flags2 & CD) | 0x80 | u8::try_from(code.number() & 0xf).unwrap_or(2);
            let mut answer = vec![id_high, id_low, QR | (flags & (OPCODE | RD)), low];
            answer.resize(HEADER, 0);
            NoQuery::Answer(code, answer)
        };
        if flags & OPCODE != 0 {
            return Err(bare(Code::NotImp));
        }
        Self::read_rest(bytes, counts).ok_or_else(|| bare(Code::FormErr))
    }

    fn read_rest(bytes: &'a [u8], counts: [u8; 8]) -> Option<Self> {
        let [questions, answers, authorities, additional] = [
            [counts[0], counts[1]],
            [counts[2], counts[3]],
            [counts[4], counts[5]],
            [counts[6], counts[7]],
        ]
        .map(u16::from_be_bytes);
        if questions != 1 || answers != 0 || authorities != 0 || additional > MAX_ADDITIONAL {
            return None;
        }
        let mut cursor = Cursor { bytes, at: HEADER };
        let name = cursor.name()?;
        let kind = cursor.number16()?;
        let class = cursor.number16()?;
        let question_end = cursor.at;
        let mut edns = None;
        for _ in 0..additional {
            let begin = cursor.at;
            cursor.name()?;
            let record = cursor.number16()?;
            let at = cursor.at;
            let size = cursor.number16()?;
            let ttl = [cursor.number16()?, cursor.number16()?];
            let length = cursor.number16()?;
            cursor.skip(length.into())?;
            if record == OPT {
                // Of the root, and there is one.
                if at - begin != 3 || edns.is_some() {
                    return None;
                }
                let [_, version] = ttl[0].to_be_bytes();
                edns = Some(Edns {
                    size,
                    at,
                    version,
                    dnssec: ttl[1] & 0x8000 != 0,
                });
            }
        }
        (cursor.at == bytes.len()).then_some(Self {
            bytes,
            name,
            kind,
            class,
            question_end,
            edns,
        })
    }

    /// What its asker takes over UDP.
    pub(super) fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_UDP, |edns| {
            usize::from(edns.size).clamp(PLAIN_UDP, MAX_UDP)
        })
    }

    /// What it asks for that no proxy of one answer can do.
    pub(super) fn unserved(&self) -> Option<Code> {
        if self.edns.is_some_and(|edns| edns.version > 0) {
            return Some(Code::BadVers);
        }
        matches!(self.kind, AXFR | IXFR).then_some(Code::Refused)
    }

    /// The same query with an id of our own, and no more than [`MAX_UDP`] to be sent to us over UDP.
    pub(super) fn to_forward(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        set16(&mut bytes, 0, id);
        if let Some(edns) = self.edns {
            set16(
                &mut bytes,
                edns.at,
                edns.size.min(u16::try_from(MAX_UDP).unwrap_or(u16::MAX)),
            );
        }
        bytes
    }

    /// All but the id: queries with the same rest have the same answer.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(2..).unwrap_or_default()
    }

    /// The question, as it was asked.
    pub(super) fn question(&self) -> &'a [u8] {
        self.bytes
            .get(HEADER..self.question_end)
            .unwrap_or_default()
    }

    /// Whether `answer` is one to this question under `id`. A server that could not read the question may leave it out.
    pub(super) fn is_answered_by(&self, id: u16, answer: &[u8]) -> bool {
        let Some((header, rest)) = answer.split_first_chunk::<HEADER>() else {
            return false;
        };
        let [
            id_high,
            id_low,
            flags,
            code,
            questions_high,
            questions_low,
            ..,
        ] = *header;
        let is_ours = id.to_be_bytes() == [id_high, id_low];
        if !is_ours || flags & QR == 0 || flags & OPCODE != 0 {
            return false;
        }
        match u16::from_be_bytes([questions_high, questions_low]) {
            0 => matches!(code & 0xf, 1 | 4) && rest.is_empty(),
            1 => {
                let asked = self.question();
                let Some(named) = asked.len().checked_sub(4) else {
                    return false;
                };
                let said = rest.get(..asked.len()).unwrap_or_default();
                let (Some(said), Some(asked)) =
                    (said.split_at_checked(named), asked.split_at_checked(named))
                else {
                    return false;
                };
                // Length bytes are less than 'A'.
                said.0.eq_ignore_ascii_case(asked.0) && said.1 == asked.1
            }
            _ => false,
        }
    }
}

/// Whether an answer was cut off.
pub(super) fn is_truncated(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|flags| flags & TC != 0)
}

/// An answer's code, without the part in EDNS.
pub(super) fn code_of(answer: &[u8]) -> u8 {
    answer.get(3).map_or(2, |flags| flags & 0xf)
}

/// Gives a message another id.
pub(super) fn set_id(message: &mut [u8], id: [u8; 2]) {
    set16(message, 0, u16::from_be_bytes(id));
}

fn set16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for.
pub(super) fn reverse(name: &str) -> Option<std::net::IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let mut parts = octets.split('.');
        let mut octets = [0u8; 4];
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts
            .next()
            .is_none()
            .then(|| Ipv4Addr::from(octets).into());
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let mut parts = nibbles.split('.');
    let mut address = 0u128;
    for place in 0..32 {
        let part = parts.next()?;
        let nibble = part.chars().next()?.to_digit(16)?;
        (part.len() == 1).then_some(())?;
        address |= u128::from(nibble) << (place * 4);
    }
    parts
        .next()
        .is_none()
        .then(|| Ipv6Addr::from(address).into())
}

/// Takes from the front, or nothing.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn number8(&mut self) -> Option<u8> {
        let number = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(number)
    }

    fn number16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.number8()?, self.number8()?]))
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        let end = self.at.checked_add(count)?;
        (end <= self.bytes.len()).then(|| self.at = end)
    }

    /// A name without pointers: there is nothing before the question that one could point to, and other names of a
    /// query are the root's. Some(None) = it is one, and no host's.
    #[expect(
        clippy::option_option,
        reason = "malformed, well-formed and strange, plain"
    )]
    fn name(&mut self) -> Option<Option<String>> {
        let begin = self.at;
        let mut text = Some(String::new());
        loop {
            let length = self.number8()?;
            if length > MAX_LABEL {
                return None;
            }
            if length == 0 {
                break;
            }
            let from = self.at;
            self.skip(length.into())?;
            if self.at - begin >= MAX_NAME {
                return None;
            }
            let label = self.bytes.get(from..self.at)?;
            let is_plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            if !label.iter().all(is_plain) {
                text = None;
            }
            if let Some(text) = &mut text {
                if !text.is_empty() {
                    text.push('.');
                }
                text.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
            }
        }
        Some(text)
    }
}

#[cfg(test)]
pub(super) mod tests;
