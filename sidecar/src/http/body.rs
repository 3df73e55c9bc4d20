//! Bodies on their way down: our own, or an upstream's as it streams through.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::BoxError;
use crate::{
    forward::finish::{Ending, Exchange},
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
}

#[derive(Debug)]
struct Streaming {
    incoming: Incoming,
    // Boxed: it is made once a request and moved often.
    exchange: Option<Box<Exchange>>,
    deadline: Option<Pin<Box<Sleep>>>,
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

    /// Streams `incoming`; `exchange` learns how it ends. `left` is what remains of the route's timeout.
    pub(crate) fn upstream(
        incoming: Incoming,
        exchange: Box<Exchange>,
        left: Option<Duration>,
    ) -> Self {
        let mut streaming = Streaming {
            incoming,
            exchange: Some(exchange),
            deadline: left.map(|left| Box::pin(tokio::time::sleep(left))),
        };
        streaming.finish_at_end();
        Self {
            kind: Kind::Upstream(streaming),
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
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
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
            Poll::Pending => {
                let late = self
                    .deadline
                    .as_mut()
                    .is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
                if !late {
                    return Poll::Pending;
                }
                self.deadline = None;
                self.finish(Ending::Timeout);
                Poll::Ready(Some(Err("the route's timeout ended the response".into())))
            }
        }
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
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_empty(),
            Kind::Upstream(streaming) => streaming.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upstream(streaming) => streaming.incoming.size_hint(),
        }
    }
}
