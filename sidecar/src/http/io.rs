//! One byte stream for all connections: plain or TLS, with bytes that detection has already read put back in front.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use super::{MAX_HEADER_BYTES, READ_BUFFER, frames::Meter};
use crate::{pool::gate::Slot, worker::connection::Connection};

/// Bytes of interim answers and of one head that an HTTP/1.1 server may send before that head is complete: the largest
/// head, what a read may bring beside it, and a few hundred interim ones.
const MOST_BEFORE_HEAD: usize = MAX_HEADER_BYTES + 2 * READ_BUFFER;

/// Reads of a downstream connection before others have their turn.
const READS_A_TURN: u8 = 16;

/// A connection's bytes.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    // Boxed: the TLS state would make every plain connection 1 KiB larger.
    Tls(Box<TlsStream<TcpStream>>),
    /// A stream of an HTTP/2 connection that carries bytes.
    Stream(Box<TokioIo<Upgraded>>),
}

/// [`Transport`] with bytes to be read first, telling whoever is concerned about arriving bytes.
#[derive(Debug)]
pub(crate) struct Io {
    first: Bytes,
    transport: Transport,
    listens: Option<Listens>,
    /// Reads in a row that brought bytes.
    in_a_row: u8,
    /// Of a downstream connection that speaks HTTP/2.
    // Boxed: HTTP/1.1 and upstream connections have none.
    meter: Option<Box<Meter>>,
    /// The last write did not take all it was given: nothing of ours may be put in between.
    within_write: bool,
    /// After the transport: given back when the socket is closed, and not before.
    holds: Option<Holds>,
}

/// What an upstream connection has for as long as its socket is open.
#[derive(Debug)]
pub(crate) struct Holds {
    /// The limit counts sockets.
    _slot: Slot,
    /// It ends as [`Io::reset_on_close`] says.
    torn: Rc<Cell<bool>>,
}

impl Holds {
    pub(crate) fn new(slot: Slot, torn: &Rc<Cell<bool>>) -> Self {
        Self {
            _slot: slot,
            torn: Rc::clone(torn),
        }
    }
}

/// Who is told when bytes arrive.
#[derive(Debug)]
enum Listens {
    /// A downstream connection's clock.
    Downstream(Rc<Connection>),
    /// Whoever waits for a response.
    Upstream(Rc<Heard>),
}

/// What has come on an upstream connection.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    any: Cell<bool>,
    /// Bytes since a request was sent that has no answer yet; None = nobody counts them.
    before_head: Cell<Option<usize>>,
}

impl Heard {
    /// Bytes have come since the last request was sent.
    pub(crate) fn any(&self) -> bool {
        self.any.get()
    }

    /// A request is sent; from now on the bytes until its answer's head are counted.
    pub(crate) fn listen(&self) {
        self.any.set(false);
        self.before_head.set(Some(0));
    }

    /// The head of its answer is there.
    pub(crate) fn has_head(&self) {
        self.before_head.set(None);
    }

    fn arrived(&self, bytes: usize) -> io::Result<()> {
        self.any.set(true);
        if let Some(before) = self.before_head.get() {
            let all = before.saturating_add(bytes);
            self.before_head.set(Some(all));
            if all > MOST_BEFORE_HEAD {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "interim answers without end",
                ));
            }
        }
        Ok(())
    }
}

impl Listens {
    fn bytes_arrived(&self, bytes: usize) -> io::Result<()> {
        match self {
            Self::Downstream(connection) => {
                connection.bytes_arrived();
                Ok(())
            }
            Self::Upstream(heard) => heard.arrived(bytes),
        }
    }
}

impl Io {
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            first: Bytes::new(),
            transport,
            listens: None,
            in_a_row: 0,
            meter: None,
            within_write: false,
            holds: None,
        }
    }

    /// Gives back bytes that were read; tells `connection` from now on when bytes arrive.
    pub(crate) fn rewound(mut self, first: Bytes, connection: &Rc<Connection>) -> Self {
        self.first = first;
        self.listens = Some(Listens::Downstream(Rc::clone(connection)));
        self
    }

    /// From now on frames of HTTP/2 are counted.
    pub(crate) fn metered(mut self) -> Self {
        self.meter = Some(Box::default());
        self
    }

    /// Counts what has come. `Err` = its sender has had enough.
    fn arrived(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(listens) = &self.listens else {
            return Ok(());
        };
        listens.bytes_arrived(bytes.len())?;
        let (Listens::Downstream(connection), Some(meter)) = (listens, &mut self.meter) else {
            return Ok(());
        };
        let counted = meter.read(bytes, &connection.frames, connection.now());
        connection.is_within_head(meter.is_within());
        counted.map_err(|why| {
            connection.went_beyond.set(Some(why));
            io::Error::new(io::ErrorKind::ConnectionAborted, why.limit)
        })
    }

    /// Tells an HTTP/2 peer why the connection ends, if it can be told at once.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        let why = match &self.listens {
            Some(Listens::Downstream(connection)) => connection.went_beyond.get(),
            _ => None,
        };
        let goodbye = self.meter.as_mut().zip(why);
        let goodbye = goodbye.and_then(|(meter, why)| meter.goodbye(why));
        if let (Some(goodbye), false) = (goodbye, self.within_write)
            && let Poll::Ready(Ok(_)) = Pin::new(&mut *self).poll_write(cx, &goodbye)
        {
            // As good as it gets: the connection is about to be closed.
            drop(Pin::new(self).poll_flush(cx));
        }
    }

    fn wrote(&mut self, given: usize, written: &Poll<io::Result<usize>>) {
        self.within_write = !matches!(written, Poll::Ready(Ok(taken)) if *taken == given);
        if let Some(Listens::Downstream(connection)) = &self.listens {
            match written {
                Poll::Pending => connection.write_blocked(),
                Poll::Ready(_) => connection.wrote(),
            }
        }
    }

    /// Gives back bytes that were read.
    pub(crate) fn before(mut self, first: Bytes) -> Self {
        self.first = first;
        self
    }

    /// Gives back bytes that were read.
    pub(crate) fn put_back(&mut self, first: Bytes) {
        self.first = first;
    }

    /// When it is closed, the peer sees a reset: it must not take what it has for all there was.
    pub(crate) fn reset_on_close(&self) {
        let stream = match &self.transport {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.get_ref().0,
            // Dropped before both sides have ended, it is.
            Transport::Stream(_) => return,
        };
        if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "socket options were refused");
        }
    }

    /// The certificates that the other end has shown, leaf first.
    pub(crate) fn peer_chain(&self) -> Option<Arc<[CertificateDer<'static>]>> {
        match &self.transport {
            Transport::Tls(stream) => stream.get_ref().1.peer_certificates().map(Arc::from),
            Transport::Plain(_) | Transport::Stream(_) => None,
        }
    }

    /// Tells `heard` from now on when bytes arrive.
    pub(crate) fn telling(mut self, heard: &Rc<Heard>) -> Self {
        self.listens = Some(Listens::Upstream(Rc::clone(heard)));
        self
    }

    /// Keeps `holds` until the socket is closed.
    pub(crate) fn holding(mut self, holds: Holds) -> Self {
        self.holds = Some(holds);
        self
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if self.holds.as_ref().is_some_and(|holds| holds.torn.get()) {
            self.reset_on_close();
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.first.is_empty() {
            let n = this.first.len().min(buffer.remaining());
            let first = this.first.split_to(n);
            buffer.put_slice(&first);
            let counted = this.arrived(&first);
            if counted.is_err() {
                this.say_goodbye(cx);
            }
            return Poll::Ready(counted);
        }
        // A caller that always has more to say must not keep the other connections of its worker waiting: what it says may
        // cost far more than reading it.
        if this.in_a_row >= READS_A_TURN {
            this.in_a_row = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Stream(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        this.in_a_row = match (&read, &this.listens) {
            (Poll::Ready(Ok(())), Some(Listens::Downstream(_))) => this.in_a_row + 1,
            _ => 0,
        };
        let arrived = buffer.filled().get(before..).unwrap_or_default();
        if matches!(read, Poll::Ready(Ok(()))) && !arrived.is_empty() {
            let counted = this.arrived(arrived);
            if counted.is_err() {
                this.say_goodbye(cx);
            }
            return Poll::Ready(counted);
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Stream(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.wrote(bytes.len(), &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Stream(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        self.wrote(slices.iter().map(|slice| slice.len()).sum(), &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Stream(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = match &mut self.transport {
            // Has nothing of its own to flush.
            Transport::Plain(stream) => return Pin::new(stream).poll_flush(cx),
            Transport::Stream(stream) => return Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => stream,
        };
        // TLS takes what it is given into records of its own.
        let flushed = Pin::new(stream).poll_flush(cx);
        if let Some(Listens::Downstream(connection)) = &self.listens {
            match &flushed {
                Poll::Pending => connection.write_blocked(),
                Poll::Ready(_) => connection.wrote(),
            }
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
