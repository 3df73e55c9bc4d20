//! HTTP/2 by the byte: frames and header blocks as a test wants them, right or wrong, and what comes back.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

/// HTTP/2's first bytes (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 section 6).
pub mod kind {
    #![allow(missing_docs, reason = "the names of RFC 9113")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![allow(missing_docs, reason = "the names of RFC 9113")]
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_of_length(payload.len(), kind, flags, stream, payload)
}

/// A frame whose length says something else.
pub fn frame_of_length(length: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block of literals that nobody indexes, names and values as they are.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter();
    fields
        .flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes()))
        .collect()
}

/// One field, not indexed (RFC 7541 section 6.2.2).
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    field.extend(string(name));
    field.extend(string(value));
    field
}

/// One field that is put into the table (RFC 7541 section 6.2.1).
pub fn indexed_literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![0x40];
    field.extend(string(name));
    field.extend(string(value));
    field
}

/// A string without Huffman's code.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    let mut string = integer(0, 7, bytes.len());
    string.extend(bytes);
    string
}

/// RFC 7541 section 5.1, in a byte that begins with `first`.
pub fn integer(first: u8, bits: u8, value: usize) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    let Ok(small) = u8::try_from(value.min(most)) else {
        return Vec::new();
    };
    let mut bytes = vec![first | small];
    if value >= most {
        let mut rest = value - most;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).unwrap_or(0) | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).unwrap_or(0));
    }
    bytes
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it brings.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Error code of RST_STREAM and GOAWAY.
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        let code = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(code.try_into().ok()?))
    }

    /// Status of a response's HEADERS: its first field.
    pub fn status(&self) -> Option<u16> {
        if self.kind != kind::HEADERS {
            return None;
        }
        let mut block = self.payload.as_slice();
        // Changes of the table's size.
        while let [0x20..=0x3f, rest @ ..] = block {
            block = rest;
        }
        let [first, rest @ ..] = block else {
            return None;
        };
        let known = [200, 204, 206, 304, 400, 404, 500];
        match first {
            0x88..=0x8e => known.get(usize::from(first - 0x88)).copied(),
            // A literal whose name is in the table.
            _ => {
                let (length, text) = rest.split_first()?;
                let text = text.get(..usize::from(length & 0x7f))?;
                if length & 0x80 == 0 {
                    return std::str::from_utf8(text).ok()?.parse().ok();
                }
                digits(text)
            }
        }
    }
}

/// Digits in Huffman's code (RFC 7541 appendix B): 0 to 2 have five bits, 3 to 9 six.
fn digits(coded: &[u8]) -> Option<u16> {
    let bits: Vec<u8> = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let number = |bits: &[u8]| {
        bits.iter()
            .fold(0_u16, |all, bit| all * 2 + u16::from(*bit))
    };
    let (mut at, mut value, mut count) = (0, 0, 0);
    while count < 3 {
        let five = number(bits.get(at..at + 5)?);
        let digit = if five < 3 {
            at += 5;
            five
        } else {
            let six = number(bits.get(at..at + 6)?);
            at += 6;
            six.checked_sub(0x19)? + 3
        };
        value = value * 10 + digit;
        count += 1;
    }
    Some(value)
}

/// A connection on which a test says what it likes.
#[derive(Debug)]
pub struct H2Talk<S> {
    stream: S,
    heard: Vec<u8>,
    patience: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> H2Talk<S> {
    /// Says nothing yet. `patience`: for whatever is waited for.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            heard: Vec::new(),
            patience,
        }
    }

    /// Says bytes; the other end may have left already.
    pub async fn say(&mut self, said: &[u8]) -> bool {
        let said = async {
            self.stream.write_all(said).await.is_ok() && self.stream.flush().await.is_ok()
        };
        timeout(self.patience, said).await.unwrap_or(false)
    }

    /// Preface and empty settings.
    pub async fn greet(&mut self) {
        self.say(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat())
            .await;
    }

    /// The next frame; None at the end, also of patience.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let [a, b, c, kind, flags, w, x, y, z, rest @ ..] = self.heard.as_slice() {
                let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).ok()?;
                if let Some(payload) = rest.get(..length) {
                    let frame = Frame {
                        kind: *kind,
                        flags: *flags,
                        stream: u32::from_be_bytes([*w, *x, *y, *z]) & 0x7fff_ffff,
                        payload: payload.to_vec(),
                    };
                    self.heard.drain(..9 + length);
                    return Some(frame);
                }
            }
            let mut buffer = [0; 16 * 1024];
            match timeout(self.patience, self.stream.read(&mut buffer)).await {
                Ok(Ok(read @ 1..)) => self.heard.extend(buffer.get(..read)?),
                _ => return None,
            }
        }
    }
}
