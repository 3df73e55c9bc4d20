//! What a TLS client's first message asks for (server name, application protocols), from bytes that anybody may have
//! sent.
//!
//! ```text
//! record(22) [ handshake(1) [ version random session ciphers compression extensions [ 0: server_name, 16: ALPN ] ] ]
//! ```
//! Strict: what is not exactly a ClientHello is none. It never decrypts, never answers, never looks further than the
//! first handshake message, and never holds more than [`MAX_BYTES`].
//! Source: RFC 8446 sections 4.1.2, 4.2, 5.1; RFC 6066 section 3; RFC 7301 section 3.1.

use outrigger_core::Greeting;

pub(crate) mod peek;

/// Of a ClientHello with the headers of its records (Envoy's `max_client_hello_size`). A browser's with a post-quantum
/// key share has about 1,800.
pub(crate) const MAX_BYTES: usize = 16 * 1024;
/// RFC 8446 section 5.1.
const MAX_FRAGMENT: usize = 1 << 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;
const RECORD_HEADER: usize = 5;
/// Application protocols that are looked at; clients offer two or three.
const MAX_PROTOCOLS: usize = 32;

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// Nothing can be said before there are so many; never more than [`MAX_BYTES`].
    Needs(usize),
    /// A whole ClientHello, and what it asks for.
    Whole(Greeting),
    /// Not TLS, as the very first byte shows.
    PlainText,
    /// It begins as TLS does and is not as it should be: the rule that was broken.
    Not(&'static str),
}

/// Reads as far as `bytes` go.
pub(crate) fn read(bytes: &[u8]) -> Hello {
    // Told at the first byte: it may be all that ever comes.
    if bytes.first().is_some_and(|first| *first != HANDSHAKE) {
        return Hello::PlainText;
    }
    match try_read(bytes) {
        Ok(greeting) => Hello::Whole(greeting),
        Err(Stop::Needs(all)) if all > MAX_BYTES => {
            Hello::Not("the ClientHello is longer than 16 KiB")
        }
        Err(Stop::Needs(all)) => Hello::Needs(all),
        Err(Stop::Not(rule)) => Hello::Not(rule),
    }
}

enum Stop {
    Needs(usize),
    Not(&'static str),
}

impl From<&'static str> for Stop {
    fn from(rule: &'static str) -> Self {
        Self::Not(rule)
    }
}

fn try_read(bytes: &[u8]) -> Result<Greeting, Stop> {
    // Most fit into one record; of several, the fragments are joined.
    let (first, mut end) = record(bytes, 0)?;
    let length = match message_length(first)? {
        Some(length) if length <= first.len() => {
            return Ok(client_hello(first.get(4..length).unwrap_or_default())?);
        }
        length => length,
    };
    let mut message = first.to_vec();
    let mut length = length;
    while length.is_none_or(|length| message.len() < length) {
        let (fragment, next) = record(bytes, end)?;
        message.extend_from_slice(fragment);
        end = next;
        length = message_length(&message)?;
    }
    let body = message.get(4..length.unwrap_or(0)).unwrap_or_default();
    Ok(client_hello(body)?)
}

/// The fragment in the record that begins at `at`, and where the record ends.
fn record(bytes: &[u8], at: usize) -> Result<(&[u8], usize), Stop> {
    let found = bytes.get(at..).unwrap_or_default();
    match found.first() {
        Some(&HANDSHAKE) | None => {}
        Some(_) => return Err(Stop::Not("a record is not part of a TLS handshake")),
    }
    if found.get(1).is_some_and(|major| *major != 3) {
        return Err(Stop::Not("the record's version is not TLS"));
    }
    let &[_, _, _, high, low, ..] = found else {
        return Err(Stop::Needs(at + RECORD_HEADER));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length == 0 || length > MAX_FRAGMENT {
        return Err(Stop::Not("a record is empty or longer than 16 KiB"));
    }
    let begin = at + RECORD_HEADER;
    let fragment = bytes.get(begin..begin + length);
    Ok((fragment.ok_or(Stop::Needs(begin + length))?, begin + length))
}

/// Length of the handshake message with its header, once that is there.
fn message_length(message: &[u8]) -> Result<Option<usize>, Stop> {
    match *message {
        [CLIENT_HELLO, a, b, c, ..] => {
            let length = u32::from_be_bytes([0, a, b, c]);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > MAX_BYTES {
                return Err(Stop::Not("the ClientHello is longer than 16 KiB"));
            }
            Ok(Some(length + 4))
        }
        [CLIENT_HELLO, ..] | [] => Ok(None),
        _ => Err(Stop::Not("the first message is not a ClientHello")),
    }
}

fn client_hello(body: &[u8]) -> Result<Greeting, &'static str> {
    let mut body = Cursor(body);
    body.take(2 + 32)?; // version, random
    if body.vector8()?.len() > 32 {
        return Err("the session id is longer than 32 bytes");
    }
    let ciphers = body.vector16()?;
    if ciphers.is_empty() || ciphers.len() % 2 != 0 {
        return Err("the list of cipher suites is malformed");
    }
    if body.vector8()?.is_empty() {
        return Err("the list of compression methods is empty");
    }
    let mut greeting = Greeting {
        tls: true,
        ..Greeting::default()
    };
    if body.0.is_empty() {
        // TLS 1.2 without extensions.
        return Ok(greeting);
    }
    let mut extensions = Cursor(body.vector16()?);
    if !body.0.is_empty() {
        return Err("bytes follow the extensions");
    }
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let content = extensions.vector16()?;
        if kind == SERVER_NAME {
            let name = server_name(content)?.into();
            if greeting.server_name.replace(name).is_some() {
                return Err("there are two server name extensions");
            }
        }
        if kind == ALPN {
            if !greeting.alpn.is_empty() {
                return Err("there are two extensions of application protocols");
            }
            greeting.alpn = protocols(content)?;
        }
    }
    Ok(greeting)
}

fn protocols(content: &[u8]) -> Result<Box<[Box<[u8]>]>, &'static str> {
    let mut content = Cursor(content);
    let mut list = Cursor(content.vector16()?);
    if !content.0.is_empty() || list.0.is_empty() {
        return Err("the list of application protocols is malformed");
    }
    let mut all: Vec<Box<[u8]>> = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector8()?;
        if name.is_empty() {
            return Err("an application protocol has no name");
        }
        if all.len() < MAX_PROTOCOLS {
            all.push(name.into());
        }
    }
    Ok(all.into())
}

fn server_name(content: &[u8]) -> Result<String, &'static str> {
    let mut content = Cursor(content);
    let mut list = Cursor(content.vector16()?);
    if list.number8()? != HOST_NAME {
        return Err("the server name is not a host name");
    }
    let name = list.vector16()?;
    if !content.0.is_empty() || !list.0.is_empty() {
        return Err("there is more than one server name");
    }
    let is_of_names = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > 255 || !name.iter().all(is_of_names) {
        return Err("the server name is not a DNS name");
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    Ok(String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// Takes from the front, or fails.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or("a length goes beyond the end of what holds it")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number8(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn number16(&mut self) -> Result<u16, &'static str> {
        let high = self.number8()?;
        Ok(u16::from_be_bytes([high, self.number8()?]))
    }

    fn vector8(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.number8()?;
        self.take(length.into())
    }

    fn vector16(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.number16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests;
