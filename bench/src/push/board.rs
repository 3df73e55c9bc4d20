//! Who has heard of which change, and when: what turns arrivals at single clients into figures.
//!
//! A client that was sent the latest state only has with it every change before.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// A change that everybody has heard of.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// From just before the call to the last client's arrival.
    pub(super) last: Duration,
    /// To each client.
    pub(super) each: Vec<Duration>,
}

#[derive(Debug)]
struct Pending {
    service: u32,
    number: u32,
    begun: Instant,
    missing: usize,
    each: Vec<Duration>,
}

#[derive(Debug, Default)]
struct State {
    /// Clients by service.
    users: Vec<usize>,
    number: u32,
    pending: Vec<Pending>,
    heard: Vec<Heard>,
}

/// All changes and their arrivals.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
    settled: Notify,
}

impl Board {
    /// Changes are counted from behind `last`, which endpoints may still carry.
    pub(super) fn new(services: u32, last: u32) -> Self {
        let state = State {
            number: last,
            users: vec![0; services as usize],
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            settled: Notify::new(),
        }
    }

    /// One more client uses `service`.
    pub(super) fn uses(&self, service: u32) {
        if let Some(users) = self.lock().users.get_mut(service as usize) {
            *users += 1;
        }
    }

    /// A change begins; gives its number.
    pub(super) fn begin(&self, service: u32) -> u32 {
        let mut state = self.lock();
        state.number += 1;
        let number = state.number;
        let missing = state.users.get(service as usize).copied();
        state.pending.push(Pending {
            service,
            number,
            begun: Instant::now(),
            missing: missing.unwrap_or_default(),
            each: Vec::new(),
        });
        number
    }

    /// A client that had heard of `before` was sent the state after change `number`.
    pub(super) fn arrived(&self, service: u32, before: u32, number: u32) {
        let now = Instant::now();
        let mut state = self.lock();
        let State { pending, heard, .. } = &mut *state;
        for one in pending.iter_mut() {
            if one.service == service && one.number > before && one.number <= number {
                one.missing = one.missing.saturating_sub(1);
                one.each.push(now.saturating_duration_since(one.begun));
            }
        }
        let done = pending.extract_if(.., |one| one.missing == 0);
        heard.extend(done.map(|one| Heard {
            last: one.each.last().copied().unwrap_or_default(),
            each: one.each,
        }));
        if pending.is_empty() {
            self.settled.notify_waiters();
        }
    }

    /// The number of the last change.
    pub(super) fn last(&self) -> u32 {
        self.lock().number
    }

    /// Waits until everybody has heard of everything.
    pub(super) async fn settled(&self) {
        loop {
            let notified = self.settled.notified();
            if self.lock().pending.is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// What has been heard since the last time.
    pub(super) fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut self.lock().heard)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_heard_when_the_last_user_has_it_or_a_later_one() {
        let board = Board::new(2, 0);
        board.uses(1);
        board.uses(1);
        let (first, second) = (board.begin(1), board.begin(1));
        board.arrived(1, 0, first);
        board.arrived(0, 0, second);
        assert_eq!(board.take().len(), 0);
        board.arrived(1, 0, second);
        assert_eq!(board.take().len(), 1);
        board.arrived(1, first, second);
        let heard = board.take();
        assert_eq!(
            heard.iter().map(|one| one.each.len()).collect::<Vec<_>>(),
            [2]
        );
    }
}
