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

use bytes::{Buf, Bytes};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use crate::{pool::gate::Slot, worker::connection::Connection};

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
    Upstream(Rc<Cell<bool>>),
}

impl Listens {
    fn bytes_arrived(&self) {
        match self {
            Self::Downstream(connection) => connection.bytes_arrived(),
            Self::Upstream(heard) => heard.set(true),
        }
    }
}

impl Io {
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            first: Bytes::new(),
            transport,
            listens: None,
            holds: None,
        }
    }

    /// Gives back bytes that were read; tells `connection` from now on when bytes arrive.
    pub(crate) fn rewound(mut self, first: Bytes, connection: &Rc<Connection>) -> Self {
        self.first = first;
        self.listens = Some(Listens::Downstream(Rc::clone(connection)));
        self
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

    /// Sets `heard` from now on when bytes arrive.
    pub(crate) fn telling(mut self, heard: &Rc<Cell<bool>>) -> Self {
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
            buffer.put_slice(this.first.get(..n).unwrap_or_default());
            this.first.advance(n);
            if let Some(listens) = &this.listens {
                listens.bytes_arrived();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Stream(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if let (Poll::Ready(Ok(())), Some(listens)) = (&read, &this.listens)
            && buffer.filled().len() > before
        {
            listens.bytes_arrived();
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
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Stream(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Stream(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Stream(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Stream(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
