//! Local ports of UDP, and why some are not for us.
//!
//! A query that an application sent from port p to a server, and that a rule led here, leaves a track in the kernel: the
//! next packet from p to the same server is led here as well, whoever sends it, for as long as the track lives. So our own
//! queries never leave from a port that a query came from lately; and one of ours that does come back is known as ours.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// `nf_conntrack_udp_timeout_stream`: as long as a track may live.
const TRACKED: Duration = Duration::from_secs(120);
const WORDS: usize = 65_536 / 64;

/// The ports of one server.
#[derive(Debug)]
pub(super) struct Ports {
    seen: Mutex<Seen>,
    /// Our own in use, and the id of what was sent from there.
    own: Mutex<BTreeMap<u16, u16>>,
}

/// Those of this period and of the one before.
#[derive(Debug)]
struct Seen {
    now: Box<[u64]>,
    before: Box<[u64]>,
    since: Instant,
}

/// A port of ours, until dropped.
#[derive(Debug)]
pub(super) struct Own<'a> {
    ports: &'a Ports,
    port: u16,
}

impl Ports {
    pub(super) fn new() -> Self {
        Self {
            seen: Mutex::new(Seen {
                now: vec![0; WORDS].into(),
                before: vec![0; WORDS].into(),
                since: Instant::now(),
            }),
            own: Mutex::default(),
        }
    }

    /// A query came from `port`.
    pub(super) fn came_from(&self, port: u16) {
        let mut seen = lock(&self.seen);
        seen.turn();
        if let Some(word) = seen.now.get_mut(usize::from(port / 64)) {
            *word |= 1 << (port % 64);
        }
    }

    /// Whether a packet from `port` may be taken for somebody else's.
    pub(super) fn is_tracked(&self, port: u16) -> bool {
        let mut seen = lock(&self.seen);
        seen.turn();
        let has = |words: &[u64]| {
            let word = words.get(usize::from(port / 64)).copied();
            word.unwrap_or_default() & (1 << (port % 64)) != 0
        };
        has(&seen.now) || has(&seen.before)
    }

    pub(super) fn own(&self, port: u16, id: u16) -> Own<'_> {
        lock(&self.own).insert(port, id);
        Own { ports: self, port }
    }

    /// Whether we sent a query with this id from this port.
    pub(super) fn is_own(&self, port: u16, id: [u8; 2]) -> bool {
        lock(&self.own).get(&port) == Some(&u16::from_be_bytes(id))
    }
}

impl Seen {
    fn turn(&mut self) {
        let age = self.since.elapsed();
        if age < TRACKED {
            return;
        }
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.fill(0);
        if age >= TRACKED * 2 {
            self.before.fill(0);
        }
        self.since = Instant::now();
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        lock(&self.ports.own).remove(&self.port);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_left_alone_for_as_long_as_the_kernel_may_remember_it() {
        let ports = Ports::new();
        assert!(!ports.is_tracked(40_000));
        ports.came_from(40_000);
        assert!(ports.is_tracked(40_000));
        assert!(!ports.is_tracked(40_001));
        let back = |by: Duration| {
            let mut seen = lock(&ports.seen);
            seen.since = seen.since.checked_sub(by).unwrap();
        };
        back(TRACKED);
        assert!(
            ports.is_tracked(40_000),
            "it was used at the end of the period"
        );
        back(TRACKED);
        assert!(!ports.is_tracked(40_000));
    }

    #[test]
    fn a_query_of_ours_that_comes_back_is_known_while_it_is_under_way() {
        let ports = Ports::new();
        let own = ports.own(40_000, 0x1234);
        assert!(ports.is_own(40_000, [0x12, 0x34]));
        assert!(!ports.is_own(40_000, [0x12, 0x35]));
        drop(own);
        assert!(!ports.is_own(40_000, [0x12, 0x34]));
    }
}
