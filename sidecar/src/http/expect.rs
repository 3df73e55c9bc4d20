//! `Expect: 100-continue`: a body that waits until its server wants it, so that the word of the server, and not that of a
//! sidecar, is what the caller hears (RFC 9110 section 10.1.1).
//!
//! ```text
//! head sent ──► held ──(100, or a second has passed)──► read: only now does hyper write 100 to the caller
//!                  └──(final answer)──► never read
//! ```
//! A server that says nothing and waits for the body must not hang for ever: callers wait no longer than a second either.
//! Over HTTP/2 nothing is held: hyper does not tell of a 100 there.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{HeaderMap, Request, StatusCode, header::EXPECT};
use hyper::ext::on_informational;
use tokio::time::{Sleep, sleep};

/// As curl waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a request's body waits.
pub(crate) fn is_expected(headers: &HeaderMap) -> bool {
    let expect = headers.get(EXPECT);
    expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Who says when a body may go. hyper wants what hears a 100 to be sent between threads; it never is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    state: State,
    waiting: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Held,
    Open,
    Shut,
}

impl Gate {
    /// Opens it when the server of `request` says 100.
    pub(crate) fn listen<B>(&self, request: &mut Request<B>) {
        let gate = self.clone();
        on_informational(request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                gate.becomes(State::Open);
            }
        });
    }

    /// There is a final answer: a body that was not wanted until now is not wanted any more.
    pub(crate) fn shut(&self) {
        self.becomes(State::Shut);
    }

    /// The first word counts.
    fn becomes(&self, state: State) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.state == State::Held {
            inner.state = state;
            if let Some(waiting) = inner.waiting.take() {
                waiting.wake();
            }
        }
    }
}

/// The waiting itself.
#[derive(Debug)]
pub(super) struct Hold {
    gate: Gate,
    late: Pin<Box<Sleep>>,
}

impl Hold {
    pub(super) fn new(gate: Gate) -> Self {
        Self {
            gate,
            late: Box::pin(sleep(PATIENCE)),
        }
    }

    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.late.as_mut().poll(cx).is_ready() {
            self.gate.becomes(State::Open);
        }
        let mut inner = self.gate.0.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.state {
            State::Open => Poll::Ready(()),
            // Whoever has the answer lets go of the body.
            State::Shut => Poll::Pending,
            State::Held => {
                inner.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
