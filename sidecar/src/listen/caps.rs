//! How many downstream connections there may be: a stranger who opens them without end must not use up the file
//! descriptors that everything else needs.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::IpAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::config::Limits;

/// TLS handshakes at a time that one worker has before it, at most.
const HANDSHAKES: usize = 1024;
/// The same warning is logged at most this often.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Limits of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// Downstream connections.
    pub(crate) connections: usize,
    /// Of these, inbound ones of one address, and of one identity.
    pub(crate) of_peer: usize,
}

impl Caps {
    /// As the settings say. Default: half of the files that this process may open, as each request may need a connection
    /// to an endpoint as well; and half of these for one peer, so that there is room for others.
    pub(crate) fn of(limits: &Limits) -> Self {
        // Unknown = what shells give.
        let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(1024);
        let half = usize::try_from(files / 2).unwrap_or(usize::MAX);
        let connections = limits.connections.unwrap_or(half).max(1);
        Self {
            connections,
            of_peer: limits
                .connections_of_peer
                .unwrap_or_else(|| connections.div_ceil(2)),
        }
    }

    /// TLS handshakes at a time for each of `workers`. All of them together leave half of the connections to those
    /// who have shown who they are.
    pub(crate) fn handshakes(self, workers: usize) -> u32 {
        let most = HANDSHAKES.min(self.connections / 2 / workers.max(1)).max(1);
        u32::try_from(most).unwrap_or(u32::MAX)
    }
}

/// Who is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    Address(IpAddr),
    Identity(Box<str>),
}

/// Inbound connections of each peer, over all workers. Asked once or twice a connection; holds those that are open only.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    most: usize,
    open: Arc<Mutex<BTreeMap<Peer, usize>>>,
}

/// One connection of a peer, until dropped.
#[derive(Debug)]
pub(crate) struct PeerSeat {
    peer: Peer,
    open: Arc<Mutex<BTreeMap<Peer, usize>>>,
}

impl Peers {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            open: Arc::default(),
        }
    }

    /// None if it has as many as it may.
    pub(crate) fn of_address(&self, address: IpAddr) -> Option<PeerSeat> {
        self.enter(Peer::Address(address.to_canonical()))
    }

    /// None if it has as many as it may.
    pub(crate) fn of_identity(&self, id: &str) -> Option<PeerSeat> {
        self.enter(Peer::Identity(id.into()))
    }

    fn enter(&self, peer: Peer) -> Option<PeerSeat> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(peer.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(open);
        Some(PeerSeat {
            peer,
            open: Arc::clone(&self.open),
        })
    }
}

impl Drop for PeerSeat {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_its_share_of_connections_and_others_have_theirs() {
        let peers = Peers::new(2);
        let (one, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = peers.of_address(one).unwrap();
        let _second = peers.of_address(one).unwrap();
        assert!(peers.of_address(one).is_none());
        assert!(peers.of_address(other).is_some());
        assert!(
            peers
                .of_identity("spiffe://cluster.local/ns/a/sa/b")
                .is_some()
        );
        drop(first);
        assert!(peers.of_address(one).is_some());
        drop(_second);
        assert!(
            peers.open.lock().unwrap().is_empty(),
            "nothing is kept of who has left"
        );
    }

    #[test]
    fn limits_that_are_not_set_leave_room_for_others() {
        let caps = |connections, connections_of_peer| {
            let caps = Caps::of(&Limits {
                connections,
                connections_of_peer,
                ..Limits::default()
            });
            (caps.connections, caps.of_peer)
        };
        assert_eq!(caps(Some(100), None), (100, 50));
        assert_eq!(caps(Some(100), Some(7)), (100, 7));
        assert_eq!(caps(Some(1), None), (1, 1));
    }
}
