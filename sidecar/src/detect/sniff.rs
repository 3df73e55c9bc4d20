//! What first bytes are, of a client's and of a server's, from bytes that anybody may have sent. Pure.
//!
//! ```text
//! 16 03 ─► TLS     PRI * HTTP/2.0… ─► HTTP/2     token SP … "HTTP/" ─► HTTP/1     anything that cannot become one ─► other
//! ```
//! What an HTTP server might take for a request counts as one: rules for requests must not be got around by odd
//! spelling (any method, lower case, empty lines before it, tabs, HTTP/0.9). What cannot become a request any more, is
//! told at the very byte that shows it. So the prefix of a request is undecided, however slowly it comes.
//! Source: RFC 9112 sections 2.2, 3; RFC 9113 sections 3.4, 6.5.

/// HTTP/2's first bytes (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line that is not at its end by then is nobody's but an HTTP client's: whoever serves it refuses it.
pub(crate) const LONGEST_LINE: usize = 8 * 1024;
const HANDSHAKE: u8 = 22;
const TLS: u8 = 3;
/// Of HTTP/2: length, type, flags, stream.
const FRAME_HEADER: usize = 9;
const SETTINGS: u8 = 4;
/// Settings are few, of 6 bytes each.
const MOST_SETTINGS: usize = 64;

/// What a client's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// They may become anything, or TLS or HTTP at least.
    Undecided,
    /// They begin as TLS does.
    Tls,
    Http1,
    Http2,
    /// Neither of these, whatever follows.
    Other,
}

/// What the first bytes of a server are that speaks before its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Undecided,
    /// HTTP: an answer without a request, as some send before they close.
    Http1,
    /// HTTP/2: its settings.
    Http2,
    /// A protocol in which the server speaks first.
    Other,
}

/// Reads a client's bytes.
pub(crate) fn client(bytes: &[u8]) -> Client {
    match *bytes {
        [] | [HANDSHAKE] => return Client::Undecided,
        [HANDSHAKE, TLS, ..] => return Client::Tls,
        _ => {}
    }
    if bytes.starts_with(PREFACE) {
        return Client::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Client::Undecided;
    }
    // Servers skip empty lines.
    let blank = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let begin = bytes.iter().position(|byte| !blank(byte));
    let decided = match begin.and_then(|begin| bytes.get(begin..)) {
        Some(line) => request_line(line),
        None => Client::Undecided,
    };
    if decided == Client::Undecided && bytes.len() >= LONGEST_LINE {
        return Client::Http1;
    }
    decided
}

/// `method SP target SP HTTP/1.1 CRLF`, as far as it is there.
fn request_line(line: &[u8]) -> Client {
    let Some(end) = line.iter().position(|byte| !is_token(*byte)) else {
        return Client::Undecided;
    };
    let (method, rest) = line.split_at(end);
    if method.is_empty() || !matches!(rest.first(), Some(b' ' | b'\t')) {
        return Client::Other;
    }
    // The first byte that is neither text nor a tab ends the line, or is none of a request's.
    let end = rest.iter().position(|byte| is_control(*byte));
    let text = end.and_then(|end| rest.get(..end)).unwrap_or(rest);
    if has_version(text) {
        return Client::Http1;
    }
    let after = end.and_then(|end| rest.get(end..));
    match after {
        None | Some([b'\r']) => Client::Undecided,
        // HTTP/0.9 has no version, no other method, and answers.
        Some([b'\r', b'\n', ..] | [b'\n', ..])
            if method.eq_ignore_ascii_case(b"GET") && is_target(text) =>
        {
            Client::Http1
        }
        Some(_) => Client::Other,
    }
}

/// ` HTTP/` after a target, in whatever case.
fn has_version(text: &[u8]) -> bool {
    text.windows(6).any(|six| {
        matches!(six.first(), Some(b' ' | b'\t'))
            && six
                .get(1..)
                .is_some_and(|word| word.eq_ignore_ascii_case(b"HTTP/"))
    })
}

/// A path, or a whole URL.
fn is_target(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    text.first() == Some(&b'/') || text.windows(3).any(|three| three == b"://")
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Reads a server's bytes.
pub(crate) fn server(bytes: &[u8]) -> Server {
    const ANSWER: &[u8] = b"HTTP/";
    if bytes.starts_with(ANSWER) {
        return Server::Http1;
    }
    if ANSWER.starts_with(bytes) {
        return Server::Undecided;
    }
    // The settings of HTTP/2, which its servers may send at once.
    let Some(&length) = bytes.get(2) else {
        let zeros = bytes.iter().all(|byte| *byte == 0);
        return if zeros {
            Server::Undecided
        } else {
            Server::Other
        };
    };
    let high = bytes.get(1).copied().unwrap_or_default();
    let length = usize::from(u16::from_be_bytes([high, length]));
    let fits = bytes.first() == Some(&0) && length % 6 == 0 && length / 6 <= MOST_SETTINGS;
    let expected = [SETTINGS, 0, 0, 0, 0, 0];
    let header = bytes
        .get(3..bytes.len().min(FRAME_HEADER))
        .unwrap_or_default();
    if !fits || !expected.starts_with(header) {
        return Server::Other;
    }
    if bytes.len() < FRAME_HEADER {
        return Server::Undecided;
    }
    Server::Http2
}

#[cfg(test)]
mod tests;
