//! A copy of a request's body that is read while it streams to the one who answers: for a mirror.
//!
//! The copy never makes the original wait: what its reader has not taken is kept up to a bound, and beyond it the copy
//! breaks off.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::Frame;

use super::{BoxError, replay::Piece};

/// Bytes that wait for the copy's reader.
const WAITING: usize = 256 * 1024;

/// The writing end.
#[derive(Debug)]
pub(super) struct Tap(Rc<RefCell<Queue>>);

/// The reading end.
#[derive(Clone, Debug)]
pub(crate) struct Copied(Rc<RefCell<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    waiting: usize,
    state: State,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Complete,
    Broken,
}

/// Both ends.
pub(super) fn pair() -> (Tap, Copied) {
    let queue = Rc::<RefCell<Queue>>::default();
    (Tap(Rc::clone(&queue)), Copied(queue))
}

impl Tap {
    pub(super) fn copy(&self, piece: &Piece) {
        let mut queue = self.0.borrow_mut();
        queue.waiting += piece.cost();
        if queue.waiting > WAITING {
            queue.pieces.clear();
            queue.end(State::Broken);
        } else if queue.state == State::Open {
            queue.pieces.push_back(piece.clone());
            queue.wake();
        }
    }

    /// The original is complete.
    pub(super) fn complete(&self) {
        self.0.borrow_mut().end(State::Complete);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.0.borrow_mut().end(State::Broken);
    }
}

impl Queue {
    /// The first end counts.
    fn end(&mut self, state: State) {
        if self.state == State::Open {
            self.state = state;
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Copied {
    /// It will never be whole, for reasons of ours.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.borrow().state == State::Broken
    }

    pub(super) fn is_end(&self) -> bool {
        let queue = self.0.borrow();
        queue.state == State::Complete && queue.pieces.is_empty()
    }

    pub(super) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut queue = self.0.borrow_mut();
        if let Some(piece) = queue.pieces.pop_front() {
            queue.waiting -= piece.cost().min(queue.waiting);
            return Poll::Ready(Some(Ok(piece.into_frame())));
        }
        match queue.state {
            State::Open => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Complete => Poll::Ready(None),
            State::Broken => {
                Poll::Ready(Some(Err("the request that is copied ended early".into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(copied: &Copied) -> Poll<Option<Result<Bytes, String>>> {
        let mut cx = Context::from_waker(Waker::noop());
        copied.poll_frame(&mut cx).map(|frame| {
            frame.map(|frame| {
                let frame = frame.map_err(|error| error.to_string())?;
                Ok(frame.into_data().unwrap())
            })
        })
    }

    #[test]
    fn a_copy_reads_what_the_original_has_read() {
        let (tap, copied) = pair();
        assert!(read(&copied).is_pending());
        tap.copy(&Piece::Data(Bytes::from("one")));
        tap.complete();
        drop(tap);
        assert_eq!(read(&copied), Poll::Ready(Some(Ok(Bytes::from("one")))));
        assert!(copied.is_end());
        assert_eq!(read(&copied), Poll::Ready(None));
    }

    #[test]
    fn a_copy_whose_original_ends_early_breaks_off() {
        let (tap, copied) = pair();
        drop(tap);
        assert!(copied.is_broken());
        assert!(matches!(read(&copied), Poll::Ready(Some(Err(_)))));
    }

    #[test]
    fn a_copy_that_nobody_reads_keeps_no_more_than_its_bound() {
        let (tap, copied) = pair();
        let piece = Piece::Data(Bytes::from(vec![0; 64 * 1024]));
        (0..3).for_each(|_| tap.copy(&piece));
        assert!(!copied.is_broken());
        tap.copy(&piece);
        assert!(copied.is_broken());
        assert!(matches!(read(&copied), Poll::Ready(Some(Err(_)))));
    }
}
