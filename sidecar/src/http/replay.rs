//! A request's body on its way up, kept for a second try while that is still possible.
//!
//! The first 64 KiB are kept as cheap clones while another try is possible: not after the response has begun, nor where
//! there is no other endpoint. A body that has outgrown them cannot be sent again; one that nobody has read yet always
//! can.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    BoxError,
    expect::{Gate, Hold},
    headers::claims,
    tap::{self, Copied, Tap},
};
use crate::forward::call::Call;

/// Most bytes that are kept for a second try, with what it costs to keep them.
const KEPT: usize = 64 * 1024;

/// Most bytes, and longest time, that a refused request's body is read for nothing.
const DRAINED: usize = 256 * 1024;
const DRAINED_WITHIN: Duration = Duration::from_secs(1);

/// Where the bytes come from; lives as long as the request.
#[derive(Debug)]
pub(crate) struct Source {
    incoming: Incoming,
    frames: Vec<Piece>,
    /// Place in `frames` of what the current try reads next.
    next: usize,
    kept: usize,
    keeping: bool,
    /// Something was read that is not kept.
    lost: bool,
    /// The try whose body may read; earlier ones are cut off.
    current: u32,
    bytes: u64,
    /// All has been read.
    ended: bool,
    /// The caller broke it off.
    broken: bool,
    /// Or else was silent for too long.
    late: bool,
    /// Since how many looks nothing has come that somebody waits for.
    quiet: u32,
    /// Its answer has begun.
    answered: bool,
    /// Bytes at the last look.
    looked: u64,
    /// The current try, while the caller keeps it waiting.
    waiting: Option<Waker>,
    /// Somebody wants to know `moved`.
    timed: bool,
    /// When a try took something last, or found the end.
    moved: Option<Instant>,
    /// Is told of the end.
    told: Option<Weak<Call>>,
    /// Copies for mirrors.
    taps: Vec<Tap>,
}

/// A part of a body.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(http::HeaderMap),
}

impl Piece {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Some(Self::Data(data.clone())),
            (None, Some(trailers)) => Some(Self::Trailers(trailers.clone())),
            (None, None) => None,
        }
    }

    /// What it takes to keep it.
    pub(super) fn cost(&self) -> usize {
        let inner = match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        };
        inner + size_of::<Self>()
    }

    pub(super) fn into_frame(self) -> Frame<Bytes> {
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
            next: 0,
            kept: 0,
            keeping: true,
            lost: false,
            current: 0,
            bytes: 0,
            ended: false,
            broken: false,
            late: false,
            answered: false,
            quiet: 0,
            looked: 0,
            waiting: None,
            timed: false,
            moved: None,
            told: None,
            taps: Vec::new(),
        }))))
    }

    /// A copy of the body that is read as the original is; to be called before anyone reads.
    pub(crate) fn tap(&self) -> UpBody {
        match &self.0 {
            None => UpBody(Kind::Empty),
            Some(source) => {
                let (tap, copied) = tap::pair();
                let mut source = source.borrow_mut();
                // What an authorization server was told of it has been read already.
                source.frames.iter().for_each(|piece| tap.copy(piece));
                if source.ended {
                    tap.complete();
                }
                source.taps.push(tap);
                UpBody(Kind::Copied(copied))
            }
        }
    }

    /// The whole body on its own, if all of it was read and kept.
    pub(crate) fn whole(&self) -> Option<UpBody> {
        let Some(source) = &self.0 else {
            return Some(UpBody(Kind::Empty));
        };
        let source = source.borrow();
        (source.ended && !source.lost)
            .then(|| UpBody(Kind::Whole(source.frames.iter().cloned().collect())))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Up to `most` bytes of it, before any try reads: the first one reads them again, however many they are.
    /// `within`: for each part.
    pub(crate) async fn gather(
        &self,
        most: usize,
        within: Duration,
    ) -> Result<Gathered, NotGathered> {
        let Some(source) = &self.0 else {
            return Ok(Gathered {
                bytes: Bytes::new(),
                complete: true,
            });
        };
        while !source.borrow().has_gathered(most) {
            let more = poll_fn(|cx| source.borrow_mut().poll_gather(cx));
            match tokio::time::timeout(within, more).await {
                Ok(Ok(())) => {}
                Ok(Err(())) => return Err(NotGathered::Broken),
                Err(_late) => return Err(NotGathered::Late),
            }
        }
        Ok(source.borrow().gathered(most))
    }

    /// A body for the next try; the body of the try before ends with an error.
    pub(crate) fn next_try(&self) -> UpBody {
        UpBody(match &self.0 {
            None => Kind::Empty,
            Some(source) => {
                let mut inner = source.borrow_mut();
                inner.cut();
                inner.next = 0;
                Kind::Reader(Reader {
                    number: inner.current,
                    source: Rc::clone(source),
                })
            }
        })
    }

    /// The caller broke it off: no try can send it as a whole.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.as_ref().is_some_and(|source| source.borrow().broken)
    }

    /// It was broken off because its caller was silent.
    pub(crate) fn is_late(&self) -> bool {
        self.0.as_ref().is_some_and(|source| source.borrow().late)
    }

    /// For who looks at it now and then; None = there is no body.
    pub(crate) fn watch(&self) -> Option<Watched> {
        self.0.as_ref().map(|source| Watched(Rc::downgrade(source)))
    }

    /// The try that reads now reads no more: its connection ends, if it was in the middle of this body.
    pub(crate) fn cut(&self) {
        if let Some(source) = &self.0 {
            source.borrow_mut().cut();
        }
    }

    /// From now on [`Self::moved`] is known.
    pub(crate) fn measure(&self) {
        if let Some(source) = &self.0 {
            source.borrow_mut().timed = true;
        }
    }

    /// When a try took a part of it last, or found its end.
    pub(crate) fn moved(&self) -> Option<Instant> {
        self.0.as_ref().and_then(|source| source.borrow().moved)
    }

    /// A try could take more, and the caller has not sent it yet.
    pub(crate) fn waits_for_caller(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|source| source.borrow().waiting.is_some())
    }

    /// Tells `call` when all of it was read.
    pub(crate) fn tell_end(&self, call: Weak<Call>) {
        if let Some(source) = &self.0 {
            source.borrow_mut().told = Some(call);
        }
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
        source.borrow_mut().cut();
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

    /// There will be no try after the next one, which may still need what the one before has read.
    pub(crate) fn keep_no_more(&self) {
        if let Some(source) = &self.0 {
            source.borrow_mut().keeping = false;
        }
    }

    /// There will be no try after the current one.
    pub(crate) fn forget(&self) {
        if let Some(source) = &self.0 {
            let mut source = source.borrow_mut();
            source.keeping = false;
            source.answered = true;
            source.forget_read();
        }
    }

    /// Bytes read from the caller.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |source| source.borrow().bytes)
    }
}

/// A body that is looked at now and then: its caller must not keep a request waiting without end. Costs nothing while
/// it streams.
#[derive(Debug)]
pub(crate) struct Watched(Weak<RefCell<Source>>);

impl Watched {
    /// Breaks it off if it has kept its reader waiting for `most` looks, unless an answer has begun: who is answered may
    /// say the rest whenever it likes. None = no more looks are needed; else whether it was broken off.
    pub(crate) fn look(&self, most: u32) -> Option<bool> {
        let source = self.0.upgrade()?;
        let mut source = source.borrow_mut();
        if source.ended || source.broken || source.answered {
            return None;
        }
        if source.waiting.is_none() || source.looked != source.bytes {
            source.quiet = 0;
            source.looked = source.bytes;
            return Some(false);
        }
        source.quiet += 1;
        if source.quiet < most {
            return Some(false);
        }
        (source.broken, source.late) = (true, true);
        source.keeping = false;
        source.lose();
        source.taps.clear();
        if let Some(waiting) = source.waiting.take() {
            waiting.wake();
        }
        Some(true)
    }
}

/// The beginning of a body.
#[derive(Clone, Debug)]
pub(crate) struct Gathered {
    pub(crate) bytes: Bytes,
    /// There is no more of it.
    pub(crate) complete: bool,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotGathered {
    Broken,
    Late,
}

impl NotGathered {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "the body of the request was broken off by its sender",
            Self::Late => "the caller sent nothing of the request's body for too long",
        }
    }
}

/// What one try sends.
#[derive(Debug, Default)]
pub(crate) struct UpBody(Kind);

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Empty,
    Reader(Reader),
    Copied(Copied),
    Whole(VecDeque<Piece>),
    Held(Box<(Hold, UpBody)>),
}

#[derive(Debug)]
struct Reader {
    source: Rc<RefCell<Source>>,
    number: u32,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Nobody waits any more, unless somebody else has begun to.
        if let Ok(mut source) = self.source.try_borrow_mut()
            && source.current == self.number
        {
            source.waiting = None;
        }
    }
}

impl UpBody {
    /// These bytes.
    pub(crate) fn of(bytes: Bytes) -> Self {
        match bytes.is_empty() {
            true => Self(Kind::Empty),
            false => Self(Kind::Whole([Piece::Data(bytes)].into())),
        }
    }

    /// The same, once `gate` opens.
    pub(crate) fn held_by(self, gate: Gate) -> Self {
        Self(Kind::Held(Box::new((Hold::new(gate), self))))
    }

    /// The copy that it reads, if it reads one.
    pub(crate) fn copied(&self) -> Option<Copied> {
        match &self.0 {
            Kind::Copied(copied) => Some(copied.clone()),
            _ => None,
        }
    }
}

impl Body for UpBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Reader(reader) => reader.poll_frame(cx),
            Kind::Copied(copied) => copied.poll_frame(cx),
            Kind::Whole(pieces) => {
                Poll::Ready(pieces.pop_front().map(|piece| Ok(piece.into_frame())))
            }
            Kind::Held(held) => {
                ready!(held.0.poll_open(cx));
                Pin::new(&mut held.1).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Reader(reader) => {
                let source = reader.source.borrow();
                !source.broken
                    && source.next >= source.frames.len()
                    && source.incoming.is_end_stream()
            }
            Kind::Copied(copied) => copied.is_end(),
            Kind::Whole(pieces) => pieces.is_empty(),
            Kind::Held(held) => held.1.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Reader(reader) => {
                let source = reader.source.borrow();
                let ahead = data_in(source.frames.iter().skip(source.next));
                match source.incoming.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(ahead + rest),
                    None => SizeHint::new(),
                }
            }
            Kind::Copied(_) => SizeHint::new(),
            Kind::Whole(pieces) => SizeHint::with_exact(data_in(pieces.iter())),
            Kind::Held(held) => held.1.size_hint(),
        }
    }
}

fn data_in<'a>(pieces: impl Iterator<Item = &'a Piece>) -> u64 {
    pieces
        .map(|piece| match piece {
            Piece::Data(bytes) => bytes.len() as u64,
            Piece::Trailers(_) => 0,
        })
        .sum()
}

impl Reader {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut source = self.source.borrow_mut();
        if source.current != self.number {
            return Poll::Ready(Some(Err("a later try took over this body".into())));
        }
        // What it was read from now says that it is at its end: to send that on would make a whole request of a part.
        if source.broken {
            return Poll::Ready(Some(Err("the caller broke off this body".into())));
        }
        source.waiting = None;
        if let Some(piece) = source.frames.get(source.next).cloned() {
            source.next += 1;
            source.moves();
            source.forget_read();
            return Poll::Ready(Some(Ok(piece.into_frame())));
        }
        if source.ended {
            source.moves();
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut source.incoming).poll_frame(cx) {
            Poll::Pending => {
                source.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(None) => {
                source.moves();
                source.end();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                source.broken = true;
                source.keeping = false;
                source.lose();
                source.taps.clear();
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    claims::strip_trailers(trailers);
                }
                frame
            }
        };
        source.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        source.moves();
        source.keep(&frame);
        if source.incoming.is_end_stream() {
            source.end();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Source {
    /// What there is of it is enough to say whether it is longer than `most`.
    fn has_gathered(&self, most: usize) -> bool {
        self.ended || data_in(self.frames.iter()) > most as u64
    }

    /// Reads one part ahead of the first try.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => Some(frame),
            Poll::Ready(Some(Err(_broken))) => {
                self.broken = true;
                return Poll::Ready(Err(()));
            }
            Poll::Ready(None) => None,
        };
        if let Some(frame) = &frame {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if let Some(piece) = Piece::of(frame) {
                self.kept += piece.cost();
                // More than is kept for a second try: gone once the first one has read it.
                self.keeping &= self.kept <= KEPT;
                self.frames.push(piece);
            }
        }
        self.moves();
        if frame.is_none() || self.incoming.is_end_stream() {
            self.end();
        }
        Poll::Ready(Ok(()))
    }

    fn gathered(&self, most: usize) -> Gathered {
        let mut bytes = bytes::BytesMut::new();
        let mut complete = self.ended;
        for piece in &self.frames {
            if let Piece::Data(data) = piece {
                let room = most - bytes.len();
                complete &= data.len() <= room;
                bytes.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
            }
        }
        Gathered {
            bytes: bytes.freeze(),
            complete,
        }
    }

    /// Keeps a frame that the current try has just read, if it can.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if !self.keeping && self.taps.is_empty() {
            self.lose();
            return;
        }
        let Some(piece) = Piece::of(frame) else {
            return;
        };
        for tap in &self.taps {
            tap.copy(&piece);
        }
        if !self.keeping {
            self.lose();
            return;
        }
        self.kept += piece.cost();
        if self.kept > KEPT {
            self.keeping = false;
            self.lose();
            return;
        }
        self.frames.push(piece);
        self.next += 1;
    }

    /// Whoever reads now reads no more, and learns it even if the caller keeps it waiting.
    fn cut(&mut self) {
        self.current += 1;
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    fn moves(&mut self) {
        if self.timed {
            self.moved = Some(Instant::now());
        }
    }

    /// All has been read.
    fn end(&mut self) {
        self.ended = true;
        if let Some(call) = self.told.take().and_then(|call| call.upgrade()) {
            call.upload_ended();
        }
        for tap in self.taps.drain(..) {
            tap.complete();
        }
    }

    /// What the last try has read is not needed any more.
    fn forget_read(&mut self) {
        if !self.keeping && !self.frames.is_empty() && self.next >= self.frames.len() {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.lost = true;
        self.frames = Vec::new();
        self.next = 0;
    }
}

#[cfg(test)]
mod tests;
