//! As much HTTP/2 as load and application need for gRPC calls, both ends of it: frames, settings, windows, and
//! header blocks that are a few indexes after the first call, as gRPC libraries send them.
//!
//! Lean on purpose, because what it costs is taken from the proxies that it shares the machine with. What it
//! does not know is an error that ends the connection, so that nothing odd passes unseen. RFC 9113.

use anyhow::Context as _;

use hpack::TABLE;

pub(crate) mod hpack;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What may be on the way to us, of a stream and of the connection: more than anybody here sends at once.
const WINDOW: u32 = 16 << 20; // bytes
const FIRST_WINDOW: u32 = 65_535; // bytes
const LARGEST_FRAME: usize = 16_384; // bytes of payload; nobody is allowed more

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// What a connection is told, of streams. Everything else is dealt with in here.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A header block: the first, or the trailers.
    Headers {
        stream: u32,
        block: &'a [u8],
        end: bool,
    },
    /// Bytes of a body.
    Data {
        stream: u32,
        bytes: &'a [u8],
        end: bool,
    },
    /// The stream is over, with this code.
    Reset { stream: u32, code: u32 },
}

/// One end of a connection: what it has to know beyond single streams.
pub(crate) struct Link {
    /// To be written.
    pub(crate) output: Vec<u8>,
    /// What the other side still takes, of the connection.
    pub(crate) window: i64,
    /// What it takes of a new stream.
    stream_window: u32,
    /// It may be sent indexes of headers that were sent before.
    indexes: bool,
    /// Its settings have come.
    pub(crate) settled: bool,
    /// Streams that it takes at a time.
    pub(crate) streams: u32,
    /// Read and not yet given back.
    consumed: u32,
}

impl Link {
    /// `client`: begins with the preface.
    pub(crate) fn new(client: bool) -> Self {
        let mut output = Vec::with_capacity(1024);
        if client {
            output.extend_from_slice(PREFACE);
        }
        // No push (2 = 0), a large window for every stream (4).
        frame(&mut output, SETTINGS, 0, 0, 12);
        output.extend_from_slice(&[0, 2, 0, 0, 0, 0, 0, 4]);
        output.extend_from_slice(&WINDOW.to_be_bytes());
        frame(&mut output, WINDOW_UPDATE, 0, 0, 4);
        output.extend_from_slice(&(WINDOW - FIRST_WINDOW).to_be_bytes());
        Self {
            output,
            window: i64::from(FIRST_WINDOW),
            stream_window: FIRST_WINDOW,
            indexes: true,
            settled: false,
            streams: u32::MAX,
            consumed: 0,
        }
    }

    /// Takes all whole frames off the front of `input`; says how many bytes they were.
    pub(crate) fn read(
        &mut self,
        input: &[u8],
        mut seen: impl FnMut(&mut Self, Event<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        let mut rest = input;
        while let Some((head, behind)) = rest.split_first_chunk::<9>() {
            let [a, b, c, kind, flags, ..] = *head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            anyhow::ensure!(length <= LARGEST_FRAME, "a frame of {length} bytes");
            let Some((payload, next)) = behind.split_at_checked(length) else {
                break;
            };
            let stream = number(head.get(5..).unwrap_or_default())? & 0x7fff_ffff;
            let end = flags & END_STREAM != 0;
            match kind {
                DATA => {
                    let bytes = unpadded(payload, flags)?;
                    seen(self, Event::Data { stream, bytes, end })?;
                    self.give_back(length);
                }
                HEADERS => {
                    anyhow::ensure!(flags & END_HEADERS != 0, "headers in several frames");
                    let block = unpadded(payload, flags)?;
                    let skip = if flags & WITH_PRIORITY == 0 { 0 } else { 5 };
                    let block = block.get(skip..).context("a frame is cut off")?;
                    seen(self, Event::Headers { stream, block, end })?;
                }
                RST_STREAM => {
                    let code = number(payload)?;
                    seen(self, Event::Reset { stream, code })?;
                }
                SETTINGS if flags & ACK == 0 => self.settings(payload)?,
                PING if flags & ACK == 0 => {
                    frame(&mut self.output, PING, ACK, 0, payload.len());
                    self.output.extend_from_slice(payload);
                }
                WINDOW_UPDATE if stream == 0 => self.window += i64::from(number(payload)?),
                GOAWAY => anyhow::bail!(
                    "the connection is being closed, code {}",
                    number(payload.get(4..).unwrap_or_default())?
                ),
                SETTINGS | PING | WINDOW_UPDATE | PRIORITY => {}
                // Unknown ones are to be ignored; a continuation or a promise is not, and is not expected.
                5 | 9 => anyhow::bail!("a frame of kind {kind}"),
                _ => {}
            }
            rest = next;
        }
        Ok(input.len() - rest.len())
    }

    fn settings(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        for setting in payload.chunks_exact(6) {
            let (id, value) = setting.split_at(2);
            let value = number(value)?;
            match id {
                [0, 1] => {
                    let indexes = value as usize >= TABLE;
                    anyhow::ensure!(
                        !self.settled || indexes == self.indexes,
                        "another header table in the middle of a connection"
                    );
                    self.indexes = indexes;
                }
                [0, 3] => self.streams = value,
                [0, 4] => self.stream_window = value,
                _ => {}
            }
        }
        self.settled = true;
        frame(&mut self.output, SETTINGS, ACK, 0, 0);
        Ok(())
    }

    /// Streams are short and their window is larger than any body: only the connection's is refilled.
    fn give_back(&mut self, bytes: usize) {
        self.consumed += u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.consumed > WINDOW / 2 {
            frame(&mut self.output, WINDOW_UPDATE, 0, 0, 4);
            self.output.extend_from_slice(&self.consumed.to_be_bytes());
            self.consumed = 0;
        }
    }

    /// Whether `bytes` of a new stream's body may be sent now.
    pub(crate) fn takes(&self, bytes: usize) -> anyhow::Result<bool> {
        anyhow::ensure!(
            bytes <= self.stream_window as usize && bytes <= LARGEST_FRAME,
            "a message of {bytes} bytes is more than fits into one frame and a stream's window"
        );
        Ok(i64::try_from(bytes)? <= self.window)
    }

    /// Headers of a stream.
    pub(crate) fn headers(&mut self, stream: u32, head: &Head, end: bool) {
        let block = match (self.indexes, head.sent) {
            (true, true) => &head.indexed,
            (true, false) => &head.first,
            (false, _) => &head.plain,
        };
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        frame(&mut self.output, HEADERS, flags, stream, block.len());
        self.output.extend_from_slice(block);
    }

    /// A gRPC message as one frame.
    pub(crate) fn message(&mut self, stream: u32, message: &[u8], end: bool) {
        let length = 5 + message.len();
        let flags = if end { END_STREAM } else { 0 };
        frame(&mut self.output, DATA, flags, stream, length);
        self.output.push(0); // not compressed
        let bytes = u32::try_from(message.len()).unwrap_or(u32::MAX);
        self.output.extend_from_slice(&bytes.to_be_bytes());
        self.output.extend_from_slice(message);
        self.window -= i64::try_from(length).unwrap_or(i64::MAX);
    }
}

/// A header block in its three forms.
pub(crate) struct Head {
    /// The first time: the receiver keeps them in its table.
    first: Vec<u8>,
    /// From then on.
    indexed: Vec<u8>,
    /// For a receiver without a table.
    plain: Vec<u8>,
    pub(crate) sent: bool,
}

/// A header, as the tables know it.
pub(crate) enum Field<'a> {
    /// Wholly in the static table.
    Known(u8),
    /// A name of the static table, with another value.
    Named(u8, &'a str),
    /// Neither.
    New(&'a str, &'a str),
}

impl Head {
    /// `behind`: how many further headers this connection's encoder puts into the table after these.
    pub(crate) fn new(fields: &[Field<'_>], behind: usize) -> Self {
        let mut head = Self {
            first: Vec::new(),
            indexed: Vec::new(),
            plain: Vec::new(),
            sent: false,
        };
        let kept = |field: &&Field<'_>| !matches!(field, Field::Known(_));
        let mut index = 61 + behind + fields.iter().filter(kept).count();
        for field in fields {
            if let Field::Known(known) = field {
                for form in [&mut head.first, &mut head.indexed, &mut head.plain] {
                    form.push(0x80 | known);
                }
                continue;
            }
            number_of(&mut head.indexed, 0x80, 0x7f, index);
            index -= 1;
            for (form, bits, mask) in [(&mut head.first, 0x40, 0x3f), (&mut head.plain, 0, 0x0f)] {
                match field {
                    Field::Known(_) => {}
                    Field::Named(name, value) => {
                        number_of(form, bits, mask, usize::from(*name));
                        text(form, value);
                    }
                    Field::New(name, value) => {
                        form.push(bits);
                        text(form, name);
                        text(form, value);
                    }
                }
            }
        }
        head
    }
}

fn text(block: &mut Vec<u8>, text: &str) {
    number_of(block, 0, 0x7f, text.len());
    block.extend_from_slice(text.as_bytes());
}

fn number_of(block: &mut Vec<u8>, bits: u8, mask: u8, value: usize) {
    match u8::try_from(value) {
        Ok(small) if small < mask => block.push(bits | small),
        _ => {
            block.push(bits | mask);
            let mut rest = value - usize::from(mask);
            while rest >= 0x80 {
                block.push(0x80 | u8::try_from(rest & 0x7f).unwrap_or_default());
                rest >>= 7;
            }
            block.push(u8::try_from(rest).unwrap_or_default());
        }
    }
}

fn frame(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, length: usize) {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    output.extend_from_slice(&[a, b, c, kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
}

fn number(bytes: &[u8]) -> anyhow::Result<u32> {
    let four = bytes.first_chunk::<4>().context("a frame is cut off")?;
    Ok(u32::from_be_bytes(*four))
}

fn unpadded(payload: &[u8], flags: u8) -> anyhow::Result<&[u8]> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().context("a frame is cut off")?;
    let length = rest.len().checked_sub(usize::from(*padding));
    rest.get(..length.context("more padding than frame")?)
        .context("more padding than frame")
}

#[cfg(test)]
mod tests {
    use super::{hpack::Decoder, *};

    const FIELDS: [Field<'static>; 3] = [
        Field::Known(8),
        Field::Named(31, "application/grpc"),
        Field::New("grpc-status", "0"),
    ];

    #[test]
    fn all_forms_of_a_head_read_the_same() {
        // Another head's two headers come into the table behind these.
        let head = Head::new(&FIELDS, 2);
        let other = Head::new(&[Field::New("a", "1"), Field::New("b", "2")], 0);
        let mut decoder = Decoder::default();
        let mut read = |block: &[u8]| {
            let mut seen = Vec::new();
            let each = |n: &[u8], v: &[u8]| seen.push((n.to_vec(), v.to_vec()));
            decoder.decode(block, each).unwrap();
            seen
        };
        let first = read(&head.first);
        let others = read(&other.first);
        assert_eq!(first.len(), 3);
        assert_eq!(first[2], (b"grpc-status".to_vec(), b"0".to_vec()));
        assert_eq!(read(&head.indexed), first);
        assert_eq!(read(&other.indexed), others);
        assert_eq!(read(&head.plain), first);
    }

    #[test]
    fn a_message_arrives_whole_however_it_is_cut() {
        let mut client = Link::new(true);
        client.headers(1, &Head::new(&FIELDS, 0), false);
        client.message(1, b"hello", true);
        let sent = client.output.split_off(PREFACE.len());
        for cut in 0..sent.len() {
            let mut server = Link::new(false);
            let mut events = Vec::new();
            let read = |server: &mut Link, input: &[u8], events: &mut Vec<String>| {
                let note = |_: &mut Link, event: Event<'_>| {
                    events.push(format!("{event:?}"));
                    Ok(())
                };
                server.read(input, note).unwrap()
            };
            let taken = read(&mut server, &sent[..cut], &mut events);
            read(&mut server, &sent[taken..], &mut events);
            assert_eq!(events.len(), 2, "cut at {cut}: {events:?}");
            assert!(server.settled);
        }
    }
}
