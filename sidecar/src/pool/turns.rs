//! How many HTTP/1.1 connections one worker opens to one endpoint at a time.
//!
//! A handshake costs as much as ten requests. If under overload each request that finds no idle connection
//! opened one of its own, handshakes would take the time in which connections come back, and the more wait, the
//! fewer would be answered. So few are opened at a time; whoever waits takes what comes first: its turn,
//! or a connection that came back. It decides about time only: limits are the gate's business.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::sync::Notify;

use super::endpoint::EndpointPool;
use crate::connect::ConnectError;

/// Enough to fill a round trip of 10 ms with handshakes of half a millisecond each.
const AT_A_TIME: u32 = 20;

/// Whose turn it is. As long as somebody waits, [`AT_A_TIME`] are opening, or a wake-up is on its way.
#[derive(Debug, Default)]
pub(super) struct Turns {
    opening: Cell<u32>,
    failures: Cell<u64>,
    last: RefCell<Option<ConnectError>>,
    turn: Notify,
    idle: Notify,
}

impl Turns {
    /// An opening ended, or somebody who was woken needed no turn.
    pub(super) fn pass_on(&self) {
        self.turn.notify_one();
    }

    /// A connection came back.
    pub(super) fn came_back(&self) {
        self.idle.notify_one();
    }

    /// Waits for a turn, or, unless it has to be a `fresh` one, for a connection that came back: one who cannot
    /// use it must not be woken by it in place of another who can.
    pub(super) async fn changed(&self, fresh: bool) {
        tokio::select! {
            biased;
            () = self.idle.notified(), if !fresh => {}
            () = self.turn.notified() => {}
        }
    }

    /// Nobody waits for a turn to find out the same: an endpoint that does not answer would keep them for as
    /// many connect timeouts as there are turns before theirs. Their requests are unsent, and go elsewhere.
    pub(super) fn failed(&self, error: &ConnectError) {
        self.failures.set(self.failures.get() + 1);
        *self.last.borrow_mut() = Some(error.clone());
        self.turn.notify_waiters();
        self.idle.notify_waiters();
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.get()
    }

    pub(super) fn failure_since(&self, before: u64) -> Option<ConnectError> {
        if self.failures.get() == before {
            return None;
        }
        self.last.borrow().clone()
    }
}

/// Leave to open a connection, until dropped.
#[derive(Debug)]
pub(super) struct Opens(Rc<EndpointPool>);

impl Opens {
    pub(super) fn take(endpoint: &Rc<EndpointPool>) -> Option<Self> {
        let opening = endpoint.turns.opening.get();
        if opening >= AT_A_TIME {
            return None;
        }
        endpoint.turns.opening.set(opening + 1);
        Some(Self(Rc::clone(endpoint)))
    }
}

impl Drop for Opens {
    fn drop(&mut self) {
        let turns = &self.0.turns;
        turns.opening.set(turns.opening.get().saturating_sub(1));
        turns.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_came_back_wakes_one_who_may_take_it() {
        let turns = Turns::default();
        let (mut fresh, mut any) = (pin!(turns.changed(true)), pin!(turns.changed(false)));
        assert!(poll!(&mut fresh).is_pending());
        assert!(poll!(&mut any).is_pending());
        turns.came_back();
        assert!(poll!(&mut fresh).is_pending());
        assert!(poll!(&mut any).is_ready());
        turns.pass_on();
        assert!(poll!(&mut fresh).is_ready(), "a turn is for everybody");
    }
}
