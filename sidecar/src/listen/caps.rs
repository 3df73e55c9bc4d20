//! How many downstream connections there may be: a stranger who opens them without end must not use up the file
//! descriptors that everything else needs.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// TLS handshakes at a time that one worker has before it, at most.
const HANDSHAKES: usize = 1024;
/// The same warning is logged at most this often.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Limits of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// Downstream connections.
    pub(crate) connections: usize,
}

impl Caps {
    /// Half of the files that this process may open: each request may need a connection to an endpoint as well.
    pub(crate) fn of_process() -> Self {
        // Unknown = what shells give.
        let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
        Self {
            connections: usize::try_from(files / 2).unwrap_or(usize::MAX),
        }
    }

    /// TLS handshakes at a time for each of `workers`. All of them together leave half of the connections to those
    /// who have shown who they are.
    pub(crate) fn handshakes(self, workers: usize) -> u32 {
        let most = HANDSHAKES.min(self.connections / 2 / workers.max(1)).max(1);
        u32::try_from(most).unwrap_or(u32::MAX)
    }
}

/// TLS handshakes that one worker has before it.
#[derive(Debug)]
pub(crate) struct Handshakes {
    pub(crate) most: u32,
    pub(crate) warned: Seldom,
    going_on: Rc<Cell<u32>>,
}

/// One handshake, until dropped.
#[derive(Debug)]
pub(crate) struct Handshake(Rc<Cell<u32>>);

impl Handshakes {
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most,
            warned: Seldom::default(),
            going_on: Rc::default(),
        }
    }

    /// None if as many go on as may.
    pub(crate) fn begin(&self) -> Option<Handshake> {
        let going_on = self.going_on.get();
        if going_on >= self.most {
            return None;
        }
        self.going_on.set(going_on + 1);
        Some(Handshake(Rc::clone(&self.going_on)))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Something that is said at most every ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// True if it is time again.
    pub(crate) fn now(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = last.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if time {
            *last = Some(Instant::now());
        }
        time
    }
}
