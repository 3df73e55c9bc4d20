//! Bodies on their way down: our own, or an upstream's as it streams through.
//!
//! Nobody polls a body whose downstream does not read (a full write buffer, no HTTP/2 window). So a route's timeout has
//! a task of its own, which takes the upstream's side away: the connection and the permits go, read or not.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::AbortHandle;

use super::{BoxError, answer::Code, headers::claims};
use crate::{
    forward::{
        call::Limit,
        finish::{Ending, Exchange},
    },
    worker::connection::ActiveRequest,
};

/// The body of a response to the downstream.
#[derive(Debug)]
pub(crate) struct DownBody {
    kind: Kind,
    _active: Option<ActiveRequest>,
}

#[derive(Debug)]
enum Kind {
    Own(Bytes),
    Upstream(Streaming),
    Limited(Limited),
}

#[derive(Debug)]
struct Streaming {
    incoming: Incoming,
    // Boxed: it is made once a request and moved often.
    exchange: Option<Box<Exchange>>,
}

/// A body under the route's timeout.
#[derive(Debug)]
struct Limited {
    shared: Rc<RefCell<Shared>>,
    timer: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    /// None = the timeout has taken it.
    streaming: Option<Streaming>,
    /// The downstream, while the upstream keeps it waiting.
    waiting: Option<Waker>,
}

impl DownBody {
    pub(crate) fn empty() -> Self {
        Self::own(Bytes::new())
    }

    pub(crate) fn own(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Own(bytes),
            _active: None,
        }
    }

    /// Streams `incoming`; `exchange` learns how it ends. `limit`: until when the request may last.
    pub(crate) fn upstream(
        incoming: Incoming,
        exchange: Box<Exchange>,
        limit: Option<Limit>,
    ) -> Self {
        let mut streaming = Streaming {
            incoming,
            exchange: Some(exchange),
        };
        streaming.finish_at_end();
        let kind = match limit {
            Some(limit) if streaming.exchange.is_some() => {
                Kind::Limited(Limited::new(streaming, limit))
            }
            _ => Kind::Upstream(streaming),
        };
        Self {
            kind,
            _active: None,
        }
    }

    /// Keeps the downstream connection marked as busy until the body ends.
    pub(crate) fn holding(self, active: ActiveRequest) -> Self {
        Self {
            _active: Some(active),
            ..self
        }
    }
}

impl Streaming {
    fn finish(&mut self, ending: Ending) {
        if let Some(exchange) = self.exchange.take() {
            exchange.finish(ending);
        }
    }

    /// The last frame may be known as such before anyone asks for the next one.
    fn finish_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.finish(Ending::Complete);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(exchange) = &mut self.exchange {
            exchange.asked();
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    claims::strip_trailers(trailers);
                }
                if let Some(exchange) = &mut self.exchange {
                    exchange.frame(&frame);
                }
                self.finish_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.finish(Ending::UpstreamBroke);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.finish(Ending::Complete);
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Limited {
    fn new(streaming: Streaming, limit: Limit) -> Self {
        let shared = Rc::new(RefCell::new(Shared {
            streaming: Some(streaming),
            waiting: None,
        }));
        let weak = Rc::downgrade(&shared);
        let timer = tokio::task::spawn_local(async move {
            while let Some(left) = remains(&weak, &limit) {
                if left.is_zero() {
                    if let Some(shared) = weak.upgrade() {
                        time_out(&shared, limit.code);
                    }
                    return;
                }
                tokio::time::sleep(left).await;
            }
        });
        Self {
            shared,
            timer: timer.abort_handle(),
        }
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut shared = self.shared.borrow_mut();
        let Some(streaming) = &mut shared.streaming else {
            return Poll::Ready(Some(Err(
                "the time for the request ended with the response on its way".into(),
            )));
        };
        let polled = streaming.poll_frame(cx);
        if streaming.exchange.is_none() {
            self.timer.abort();
        }
        shared.waiting = polled.is_pending().then(|| cx.waker().clone());
        polled
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

/// None = it has ended.
fn remains(shared: &Weak<RefCell<Shared>>, limit: &Limit) -> Option<Duration> {
    let shared = shared.upgrade()?;
    let shared = shared.borrow();
    let exchange = shared.streaming.as_ref()?.exchange.as_ref()?;
    Some(exchange.remains(limit))
}

fn time_out(shared: &RefCell<Shared>, code: Code) {
    let (streaming, waiting) = {
        let mut shared = shared.borrow_mut();
        (shared.streaming.take(), shared.waiting.take())
    };
    if let Some(mut streaming) = streaming {
        if let Some(exchange) = &streaming.exchange {
            exchange.times_out(code);
        }
        streaming.finish(match &waiting {
            Some(_) => Ending::Timeout,
            None => Ending::TimeoutDownstream,
        });
    }
    if let Some(waiting) = waiting {
        waiting.wake();
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // The downstream went away first, or hyper knew the end before it read it.
        let ending = if self.incoming.is_end_stream() {
            Ending::Complete
        } else {
            Ending::DownstreamGone
        };
        self.finish(ending);
    }
}

impl Body for DownBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Upstream(streaming) => streaming.poll_frame(cx),
            Kind::Limited(limited) => limited.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_empty(),
            Kind::Upstream(streaming) => streaming.incoming.is_end_stream(),
            Kind::Limited(limited) => {
                let shared = limited.shared.borrow();
                let streaming = shared.streaming.as_ref();
                streaming.is_some_and(|streaming| streaming.incoming.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upstream(streaming) => streaming.incoming.size_hint(),
            Kind::Limited(limited) => {
                let shared = limited.shared.borrow();
                let streaming = shared.streaming.as_ref();
                streaming.map_or_else(SizeHint::new, |streaming| streaming.incoming.size_hint())
            }
        }
    }
}
