//! Answers of our own, and answers of others cut to what their asker takes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{A, AAAA, CD, Code, HEADER, IN, OPCODE, OPT, PTR, QR, Query, RD, SRV, TC};

/// Where the question's name is, for those that repeat it (RFC 1035 section 4.1.4).
const QUESTION: u16 = 0xc000 | 12;
const SOA: u16 = 6;
/// Authoritative, and recursion is available.
const AA: u8 = 0x04;
const RA: u8 = 0x80;
/// Extended DNS errors (RFC 8914).
const EDE: u16 = 15;
/// What we take over UDP ourselves: fits into one packet everywhere.
const OUR_SIZE: u16 = 1_232;

/// What a name of the mesh is answered with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::dns) struct Records<'a> {
    pub(in crate::dns) v4: &'a [Ipv4Addr],
    pub(in crate::dns) v6: &'a [Ipv6Addr],
    /// The addresses belong to these, and stand beside them.
    pub(in crate::dns) srv: Vec<Srv>,
    /// The host of an address.
    pub(in crate::dns) ptr: Option<&'a str>,
}

/// A port of the host that the question names after its first two labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dns) struct Srv {
    pub(in crate::dns) port: u16,
}

/// An answer of our own.
#[derive(Clone, Debug)]
pub(in crate::dns) struct Reply<'a> {
    pub(in crate::dns) query: &'a Query<'a>,
    pub(in crate::dns) code: Code,
    pub(in crate::dns) records: Records<'a>,
    /// Seconds.
    pub(in crate::dns) ttl: u32,
    /// Why, for who asks with EDNS: an extended error and its text.
    pub(in crate::dns) why: Option<(u16, &'a str)>,
}

impl Reply<'_> {
    /// At most `limit` bytes; truncated, and saying so, if it would be more.
    pub(in crate::dns) fn write(&self, limit: usize) -> Vec<u8> {
        let (query, records) = (self.query, &self.records);
        let mut out = header(query, self.code, false);
        out.extend_from_slice(query.question());
        let mut answers = 0u16;
        let mut extra = 0u16;
        if records.srv.is_empty() {
            addresses(&mut out, records, QUESTION, self.ttl, &mut answers);
        } else {
            let target = target(query);
            for srv in &records.srv {
                let begin = record(&mut out, QUESTION, SRV, self.ttl);
                // Priority and weight: there is one.
                out.extend_from_slice(&[0, 0, 0, 0]);
                out.extend_from_slice(&srv.port.to_be_bytes());
                // Never compressed (RFC 2782).
                out.extend_from_slice(target);
                sized(&mut out, begin);
                answers += 1;
            }
            let at = query.question_end.saturating_sub(4 + target.len());
            let pointer = 0xc000 | u16::try_from(at).unwrap_or(12);
            addresses(&mut out, records, pointer, self.ttl, &mut extra);
        }
        if let Some(host) = records.ptr {
            let begin = record(&mut out, QUESTION, PTR, self.ttl);
            name(&mut out, host);
            sized(&mut out, begin);
            answers += 1;
        }
        let is_authoritative = matches!(self.code, Code::NoError | Code::NxDomain);
        let mut authority = 0;
        if is_authoritative && answers == 0 {
            // Without it nobody may remember that there is nothing (RFC 2308).
            soa(&mut out, self.ttl);
            authority = 1;
        }
        let has_edns = query.edns.is_some();
        let why = self.why.filter(|_| has_edns);
        if has_edns {
            opt(&mut out, query, self.code, why);
        }
        if out.len() > limit {
            return cut(query, self.code);
        }
        if is_authoritative && let Some(flags) = out.get_mut(2) {
            *flags |= AA;
        }
        super::set16(&mut out, 6, answers);
        super::set16(&mut out, 8, authority);
        super::set16(&mut out, 10, extra + u16::from(has_edns));
        out
    }
}

/// Another's answer, which its asker cannot take over UDP: the question, and that there is more.
pub(in crate::dns) fn truncated(query: &Query<'_>, answer: &[u8]) -> Vec<u8> {
    let mut out = cut(query, Code::NoError);
    if let (Some(own), Some(theirs)) = (out.get_mut(3), answer.get(3)) {
        *own = *theirs;
    }
    out
}

fn cut(query: &Query<'_>, code: Code) -> Vec<u8> {
    let mut out = header(query, code, true);
    out.extend_from_slice(query.question());
    if query.edns.is_some() {
        opt(&mut out, query, code, None);
        super::set16(&mut out, 10, 1);
    }
    out
}

/// One question and nothing else yet.
fn header(query: &Query<'_>, code: Code, is_cut: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let at = |place: usize| query.bytes.get(place).copied().unwrap_or_default();
    let tc = if is_cut { TC } else { 0 };
    let low = u8::try_from(code.number() & 0xf).unwrap_or_default();
    out.extend_from_slice(&[at(0), at(1)]);
    out.push(QR | (at(2) & (OPCODE | RD)) | tc);
    out.push(RA | (at(3) & CD) | low);
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    debug_assert_eq!(out.len(), HEADER);
    out
}

/// The name that follows the question's first two labels, as it was asked.
fn target<'a>(query: &Query<'a>) -> &'a [u8] {
    let question = query.question();
    let named = question.len().saturating_sub(4);
    let mut name = question.get(..named).unwrap_or_default();
    for _ in 0..2 {
        let length = name.first().copied().map_or(0, usize::from);
        name = name.get(length + 1..).unwrap_or(&[0]);
    }
    name
}

fn addresses(out: &mut Vec<u8>, records: &Records<'_>, owner: u16, ttl: u32, count: &mut u16) {
    for ip in records.v4 {
        let begin = record(out, owner, A, ttl);
        out.extend_from_slice(&ip.octets());
        sized(out, begin);
        *count = count.saturating_add(1);
    }
    for ip in records.v6 {
        let begin = record(out, owner, AAAA, ttl);
        out.extend_from_slice(&ip.octets());
        sized(out, begin);
        *count = count.saturating_add(1);
    }
}

/// All of a record but its data, whose beginning is given.
fn record(out: &mut Vec<u8>, owner: u16, kind: u16, ttl: u32) -> usize {
    for number in [owner, kind, IN] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.len()
}

/// Says how long the data is that began at `begin`.
fn sized(out: &mut [u8], begin: usize) {
    let length = u16::try_from(out.len() - begin).unwrap_or(u16::MAX);
    super::set16(out, begin - 2, length);
}

fn name(out: &mut Vec<u8>, host: &str) {
    for label in host.split('.').filter(|label| !label.is_empty()) {
        let length = label.len().min(63);
        out.push(u8::try_from(length).unwrap_or(63));
        out.extend_from_slice(label.as_bytes().get(..length).unwrap_or_default());
    }
    out.push(0);
}

fn soa(out: &mut Vec<u8>, ttl: u32) {
    let begin = record(out, QUESTION, SOA, ttl);
    // No server and no mailbox; serial, refresh, retry, expire, and how long it may be remembered that there is nothing.
    out.extend_from_slice(&[0, 0]);
    for number in [1, ttl, ttl, ttl, ttl] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    sized(out, begin);
}

fn opt(out: &mut Vec<u8>, query: &Query<'_>, code: Code, why: Option<(u16, &str)>) {
    let dnssec = query.edns.is_some_and(|edns| edns.dnssec);
    out.push(0);
    out.extend_from_slice(&OPT.to_be_bytes());
    out.extend_from_slice(&OUR_SIZE.to_be_bytes());
    let extended = u8::try_from(code.number() >> 4).unwrap_or_default();
    out.extend_from_slice(&[extended, 0, if dnssec { 0x80 } else { 0 }, 0]);
    out.extend_from_slice(&[0, 0]);
    let begin = out.len();
    if let Some((number, text)) = why {
        let length = u16::try_from(text.len() + 2).unwrap_or(2);
        for number in [EDE, length, number] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(text.as_bytes());
    }
    sized(out, begin);
}
