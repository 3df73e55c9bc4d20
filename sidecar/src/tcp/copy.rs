//! Copies between two connections, both ways, until both have ended.
//!
//! ```text
//! downstream ──read──► the worker's one buffer ──write──► upstream        (and the same the other way)
//!                              └─ what the other side would not take yet is held, and no more is read
//! end of one side ──► shutdown of the other's writing half ──► the answer still comes
//! ```
//! An idle connection holds no buffer. At most [`SCRATCH`] bytes a direction are held. Bytes after an error are not
//! passed on, and the other side is reset instead of closed: its application must not take a torn stream for a whole
//! one.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

use crate::{
    http::io::Io,
    worker::connection::{Connection, Order},
};

/// Of the worker's buffer: four TLS records.
pub(crate) const SCRATCH: usize = 64 * 1024;
/// How often what was copied is told, while it goes on.
const REPORT_EVERY: Duration = Duration::from_secs(15); // Istio's tcp reporting duration

/// How long it may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Without a byte either way.
    pub(crate) idle: Option<Duration>,
    /// In all.
    pub(crate) age: Option<Duration>,
    /// After it was told to end.
    pub(crate) drain: Duration,
    /// When the certificates of the upstream connection end.
    pub(crate) until: Option<Instant>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides closed.
    Closed,
    /// Nothing moved for as long as may be.
    Idle,
    /// It lasted as long as may be.
    TooOld,
    /// So did a certificate of the upstream connection.
    Expired,
    /// Told to end, and it did not within its time.
    Drained,
    /// The caller reset it, or tore its TLS.
    DownstreamReset,
    /// The same from the endpoint.
    UpstreamReset,
}

/// Bytes so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// From downstream to upstream.
    pub(crate) received: Cell<u64>,
    /// From upstream to downstream.
    pub(crate) sent: Cell<u64>,
}

/// Both ends.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) down: &'a mut Io,
    pub(crate) up: &'a mut Io,
}

/// Copies. `tell` is called now and then, and at the end, when bytes have moved.
pub(crate) async fn both(
    ends: Ends<'_>,
    scratch: &RefCell<Box<[u8]>>,
    connection: &Connection,
    limits: Limits,
    counts: &Counts,
    tell: impl Fn(),
) -> End {
    let Ends { down, up } = ends;
    let begun = Instant::now();
    let moved = Cell::new(begun);
    let mut drained_at: Option<Instant> = None;
    let mut order = Order::Serve;
    let mut upload = Pipe::default();
    let mut download = Pipe::default();
    loop {
        let ends_at = [
            limits.idle.map(|idle| moved.get() + idle),
            limits.age.map(|age| begun + age),
            drained_at,
            limits.until,
        ];
        let next = ends_at.into_iter().flatten().min();
        let report = Instant::now() + REPORT_EVERY;
        let wake = next.map_or(report, |next| next.min(report));
        let copied = poll_fn(|cx| {
            // Synchronous: never held across an await.
            let mut scratch = scratch.borrow_mut();
            let before = counts.sent.get() + counts.received.get();
            let mut passing = |pipe: &mut Pipe, from: &mut Io, to: &mut Io, count: &Cell<u64>| {
                pipe.poll(cx, from, to, &mut scratch, count)
            };
            // What the endpoint has said goes first: an error on the way up would lose it.
            let down_ended = passing(&mut download, up, down, &counts.sent);
            let up_ended = passing(&mut upload, down, up, &counts.received);
            if counts.sent.get() + counts.received.get() != before {
                moved.set(Instant::now());
            }
            match (down_ended, up_ended) {
                (Poll::Ready(Err(torn)), _) => {
                    Poll::Ready(torn.end(End::UpstreamReset, End::DownstreamReset))
                }
                (_, Poll::Ready(Err(torn))) => {
                    Poll::Ready(torn.end(End::DownstreamReset, End::UpstreamReset))
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
                _ => Poll::Pending,
            }
        });
        let end = tokio::select! {
            biased;
            end = copied => Some(end),
            new = connection.ordered(order) => {
                order = new;
                let now = Instant::now();
                drained_at.get_or_insert(now + limits.drain);
                (new == Order::Cut).then_some(End::Drained)
            }
            () = sleep_until(wake) => {
                let now = Instant::now();
                let is_over = |limit: Option<Duration>, since| limit.is_some_and(|limit| now >= since + limit);
                if is_over(limits.idle, moved.get()) {
                    Some(End::Idle)
                } else if is_over(limits.age, begun) {
                    Some(End::TooOld)
                } else if limits.until.is_some_and(|at| now >= at) {
                    Some(End::Expired)
                } else {
                    drained_at.is_some_and(|at| now >= at).then_some(End::Drained)
                }
            }
        };
        tell();
        match end {
            None => {}
            Some(End::Closed) => return End::Closed,
            Some(torn) => {
                if torn != End::Idle {
                    down.reset_on_close();
                    up.reset_on_close();
                }
                return torn;
            }
        }
    }
}

/// Which side of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    From,
    To,
}

/// A stream that did not end as it should.
#[derive(Debug)]
struct Torn {
    side: Side,
    error: io::Error,
}

impl Torn {
    fn reading(error: io::Error) -> Self {
        Self {
            side: Side::From,
            error,
        }
    }

    fn writing(error: io::Error) -> Self {
        Self {
            side: Side::To,
            error,
        }
    }

    /// Whose fault it is, of one whose reading side is `from`.
    fn end(self, from: End, to: End) -> End {
        let end = match self.side {
            Side::From => from,
            Side::To => to,
        };
        tracing::debug!(?end, error = %self.error, "a stream was torn");
        end
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    /// Read, and not taken by the other side yet.
    held: BytesMut,
    unflushed: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The reading side has ended; its end is being passed on.
    Ending,
    Ended,
}

impl Pipe {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        scratch: &mut [u8],
        count: &Cell<u64>,
    ) -> Poll<Result<(), Torn>> {
        loop {
            ready!(self.poll_held(cx, to, count)).map_err(Torn::writing)?;
            match self.phase {
                Phase::Ended => return Poll::Ready(Ok(())),
                Phase::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Torn::writing)?;
                    self.phase = Phase::Ended;
                }
                Phase::Open => {
                    let mut buffer = ReadBuf::new(scratch);
                    match Pin::new(&mut *from).poll_read(cx, &mut buffer) {
                        Poll::Pending => {
                            return match self.poll_flushed(cx, to) {
                                Poll::Ready(Err(error)) => Poll::Ready(Err(Torn::writing(error))),
                                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                            };
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Torn::reading(error))),
                        Poll::Ready(Ok(())) => {}
                    }
                    if buffer.filled().is_empty() {
                        self.phase = Phase::Ending;
                        continue;
                    }
                    let rest = self.poll_write(cx, to, buffer.filled(), count);
                    self.held.extend_from_slice(rest.map_err(Torn::writing)?);
                }
            }
        }
    }

    /// Writes what it can; gives back the rest.
    fn poll_write<'b>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Io,
        mut bytes: &'b [u8],
        count: &Cell<u64>,
    ) -> io::Result<&'b [u8]> {
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    bytes = bytes.get(n..).unwrap_or_default();
                    count.set(count.get() + u64::try_from(n).unwrap_or(0));
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(bytes)
    }

    fn poll_held(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Io,
        count: &Cell<u64>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut held = std::mem::take(&mut self.held);
        let left = self.poll_write(cx, to, &held, count)?.len();
        if left == 0 {
            // The memory goes with it.
            return Poll::Ready(Ok(()));
        }
        held.advance(held.len() - left);
        self.held = held;
        Poll::Pending
    }

    fn poll_flushed(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}
