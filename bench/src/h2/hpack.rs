//! Reads header blocks: static and dynamic table, literals, Huffman. RFC 7541.
//!
//! A decoder of its own, because the load generator must look at every status and every trailer without
//! costing more than the proxies that it measures: after the first answer of a connection a block is a few
//! indexes, and nothing is allocated. What it does not know (codes of bytes that are not ASCII) is an error, never a guess.

use std::collections::VecDeque;

use anyhow::{Context as _, bail};

/// What a peer may use without our saying so (RFC 7541, SETTINGS_HEADER_TABLE_SIZE).
pub(crate) const TABLE: usize = 4096; // bytes
/// Bytes that an entry counts beside its name and value.
const ENTRY: usize = 32;

type Entry = (Box<[u8]>, Box<[u8]>); // name, value

/// One connection's decoder.
#[derive(Default)]
pub(crate) struct Decoder {
    /// Newest first.
    dynamic: VecDeque<Entry>,
    size: usize,
    /// A smaller limit that the peer has chosen.
    limit: Option<usize>,
    text: (Vec<u8>, Vec<u8>),
}

impl Decoder {
    /// Calls `seen` with each name and value.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut seen: impl FnMut(&[u8], &[u8]),
    ) -> anyhow::Result<()> {
        while let Some(&first) = block.first() {
            match first {
                0x80.. => {
                    let (name, value) = self.entry(integer(&mut block, 7)?)?;
                    seen(name, value);
                }
                0x20..0x40 => {
                    self.limit = Some(integer(&mut block, 5)?.min(TABLE));
                    self.evict(0);
                }
                _ => {
                    let keep = first >= 0x40;
                    let index = integer(&mut block, if keep { 6 } else { 4 })?;
                    let (mut name, mut value) = std::mem::take(&mut self.text);
                    if index == 0 {
                        string(&mut block, &mut name)?;
                    } else {
                        name.clear();
                        name.extend_from_slice(self.entry(index)?.0);
                    }
                    string(&mut block, &mut value)?;
                    seen(&name, &value);
                    if keep {
                        self.insert(&name, &value);
                    }
                    self.text = (name, value);
                }
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> anyhow::Result<(&[u8], &[u8])> {
        let at = index.checked_sub(1).context("header index 0")?;
        if let Some((name, value)) = STATIC.get(at) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.dynamic.get(at - STATIC.len());
        let (name, value) = entry.with_context(|| format!("header index {index}"))?;
        Ok((name, value))
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + ENTRY;
        self.evict(size);
        if size <= self.limit.unwrap_or(TABLE) {
            self.size += size;
            self.dynamic.push_front((name.into(), value.into()));
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.limit.unwrap_or(TABLE) {
            let Some((name, value)) = self.dynamic.pop_back() else {
                break;
            };
            self.size -= name.len() + value.len() + ENTRY;
        }
    }
}

fn integer(block: &mut &[u8], bits: u32) -> anyhow::Result<usize> {
    let mask = (1_usize << bits) - 1;
    let mut value = usize::from(byte(block)?) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let next = byte(block)?;
        value += usize::from(next & 0x7f) << shift;
        if next < 0x80 {
            return Ok(value);
        }
    }
    bail!("a number in a header block is too long")
}

fn byte(block: &mut &[u8]) -> anyhow::Result<u8> {
    let (first, rest) = block.split_first().context("a header block is cut off")?;
    *block = rest;
    Ok(*first)
}

fn string(block: &mut &[u8], text: &mut Vec<u8>) -> anyhow::Result<()> {
    text.clear();
    let huffman = block.first().is_some_and(|first| *first >= 0x80);
    let length = integer(block, 7)?;
    let (bytes, rest) = block
        .split_at_checked(length)
        .context("a header block is cut off")?;
    *block = rest;
    if huffman {
        unpack(bytes, text)
    } else {
        text.extend_from_slice(bytes);
        Ok(())
    }
}

/// The code is canonical: within a length, codes count up in the order of the symbols; the next length goes on there.
fn unpack(bytes: &[u8], text: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut code = 0_usize; // bits that no symbol has been found for yet
    let mut length = 0;
    for byte in bytes {
        for bit in (0..8).rev() {
            code = code << 1 | usize::from(byte >> bit & 1);
            length += 1;
            if let Some(symbol) = symbol(code, length) {
                text.push(symbol);
                (code, length) = (0, 0);
            }
        }
    }
    // Up to seven ones fill the last byte.
    anyhow::ensure!(
        length < 8 && code == (1 << length) - 1,
        "a Huffman code of none of the ASCII characters"
    );
    Ok(())
}

fn symbol(code: usize, length: u32) -> Option<u8> {
    let mut first = 0; // code of a length's first symbol
    let mut before = 0;
    for (bits, symbols) in HUFFMAN {
        first <<= bits - before;
        if *bits == length {
            return symbols.get(code.checked_sub(first)?).copied();
        }
        first += symbols.len();
        before = *bits;
    }
    None
}

/// Symbols by the length of their code in bits. RFC 7541, appendix B, up to 15 bits: all printable ASCII but the backslash.
const HUFFMAN: &[(u32, &[u8])] = &[
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
];

/// RFC 7541, appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(decoder: &mut Decoder, block: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let each = |name: &[u8], value: &[u8]| seen.push(format!("{}={}", text(name), text(value)));
        decoder.decode(block, each).unwrap();
        seen
    }

    /// RFC 7541, C.6: three answers on one connection, Huffman coded (the table here is larger: nothing is evicted).
    #[test]
    fn answers_of_the_specification_are_read() {
        let mut decoder = Decoder::default();
        let first = [
            0x48, 0x82, 0x64, 0x02, 0x58, 0x85, 0xae, 0xc3, 0x77, 0x1a, 0x4b, 0x61, 0x96, 0xd0,
            0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81,
            0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff, 0x6e, 0x91, 0x9d, 0x29, 0xad, 0x17, 0x18,
            0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3,
        ];
        let rest = [
            "cache-control=private",
            "date=Mon, 21 Oct 2013 20:13:21 GMT",
            "location=https://www.example.com",
        ];
        let mut expected = vec![":status=302"];
        expected.extend(rest);
        assert_eq!(read(&mut decoder, &first), expected);
        let second = [0x48, 0x83, 0x64, 0x0e, 0xff, 0xc1, 0xc0, 0xbf];
        expected[0] = ":status=307";
        assert_eq!(read(&mut decoder, &second), expected);
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_an_error() {
        for block in [&[0x80][..], &[0xff, 0xff], &[0x48, 0x82, 0x64], &[0xbe]] {
            let read = Decoder::default().decode(block, |_, _| {});
            assert!(read.is_err(), "{block:x?}");
        }
    }
}
