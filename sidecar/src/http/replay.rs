//! A request's body on its way up, kept for a second try while that is still possible.
//!
//! The first 64 KiB are kept as cheap clones until the response begins. A body that has outgrown them cannot be sent
//! again; one that nobody has read yet always can.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::BoxError;

/// Most bytes that are kept for a second try.
const KEPT: usize = 64 * 1024;

/// Most bytes, and longest time, that a refused request's body is read for nothing.
const DRAINED: usize = 256 * 1024;
const DRAINED_WITHIN: Duration = Duration::from_secs(1);

/// Where the bytes come from; lives as long as the request.
#[derive(Debug)]
pub(crate) struct Source {
    incoming: Incoming,
    frames: Vec<Piece>,
    kept: usize,
    keeping: bool,
    /// Something was read that is not kept.
    lost: bool,
    /// The try whose body may read; earlier ones are cut off.
    current: u32,
    bytes: u64,
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Trailers(http::HeaderMap),
}

impl Piece {
    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(bytes) => Frame::data(bytes),
            Self::Trailers(map) => Frame::trailers(map),
        }
    }
}

/// The body of a request, or the lack of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upload(Option<Rc<RefCell<Source>>>);

impl Upload {
    pub(crate) fn new(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return Self(None);
        }
        Self(Some(Rc::new(RefCell::new(Source {
            incoming,
            frames: Vec::new(),
            kept: 0,
            keeping: true,
            lost: false,
            current: 0,
            bytes: 0,
        }))))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// A body for the next try; the body of the try before ends with an error.
    pub(crate) fn next_try(&self) -> UpBody {
        UpBody(self.0.as_ref().map(|source| {
            let mut inner = source.borrow_mut();
            inner.current += 1;
            Reader {
                number: inner.current,
                next: 0,
                source: Rc::clone(source),
            }
        }))
    }

    /// Another try can send the same bytes.
    pub(crate) fn can_be_sent_again(&self) -> bool {
        self.0.as_ref().is_none_or(|source| !source.borrow().lost)
    }

    /// Reads what is left, so that a caller that is still sending finds our answer and not a reset connection. Gives up
    /// where that would cost more than the connection is worth.
    pub(crate) async fn drain(&self) {
        let Some(source) = &self.0 else {
            return;
        };
        // Cuts off whatever try was reading.
        source.borrow_mut().current += 1;
        let mut left = DRAINED;
        let read = poll_fn(|cx| {
            let mut source = source.borrow_mut();
            loop {
                match Pin::new(&mut source.incoming).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        let size = frame.data_ref().map_or(0, Bytes::len);
                        source.bytes += size as u64;
                        match left.checked_sub(size) {
                            Some(rest) => left = rest,
                            None => return Poll::Ready(()),
                        }
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        // Too slow: the caller may see the reset.
        tokio::time::timeout(DRAINED_WITHIN, read).await.ok();
    }

    /// There will be no other try.
    pub(crate) fn keep_no_more(&self) {
        if let Some(source) = &self.0 {
            source.borrow_mut().keeping = false;
        }
    }

    /// Bytes read from the caller.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |source| source.borrow().bytes)
    }
}

/// What one try sends.
#[derive(Debug, Default)]
pub(crate) struct UpBody(Option<Reader>);

#[derive(Debug)]
struct Reader {
    source: Rc<RefCell<Source>>,
    number: u32,
    next: usize,
}

impl Body for UpBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(reader) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let mut source = reader.source.borrow_mut();
        if source.current != reader.number {
            return Poll::Ready(Some(Err("a later try took over this body".into())));
        }
        if let Some(piece) = source.frames.get(reader.next) {
            reader.next += 1;
            return Poll::Ready(Some(Ok(piece.clone().into_frame())));
        }
        let frame = match Pin::new(&mut source.incoming).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        source.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if source.keep(&frame) {
            reader.next += 1;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|reader| {
            let source = reader.source.borrow();
            reader.next >= source.frames.len() && source.incoming.is_end_stream()
        })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(reader) => {
                let source = reader.source.borrow();
                let ahead = source
                    .frames
                    .iter()
                    .skip(reader.next)
                    .map(|piece| match piece {
                        Piece::Data(bytes) => bytes.len() as u64,
                        Piece::Trailers(_) => 0,
                    })
                    .sum::<u64>();
                match source.incoming.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(ahead + rest),
                    None => SizeHint::new(),
                }
            }
        }
    }
}

impl Source {
    /// True if the frame is kept.
    fn keep(&mut self, frame: &Frame<Bytes>) -> bool {
        if !self.keeping {
            self.lost = true;
            self.frames = Vec::new();
            return false;
        }
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                self.kept += data.len();
                Piece::Data(data.clone())
            }
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return false,
        };
        if self.kept > KEPT {
            self.keeping = false;
            self.lost = true;
            self.frames = Vec::new();
            return false;
        }
        self.frames.push(piece);
        true
    }
}
