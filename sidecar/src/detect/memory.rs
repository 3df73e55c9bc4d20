//! What was found out of destinations, so that the next connection to one waits for nothing and opens nothing that it does
//! not need.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Destinations; for one more, the one goes that was seen the longest ago.
const MOST: usize = 4_096;
/// What was found out is asked anew after so long.
const BELIEVED_FOR: Duration = Duration::from_secs(3600);

/// Who spoke first there, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The server, something else than HTTP: that is certain, whatever clients say there.
    ServerFirst,
    /// The client, something else than HTTP.
    ClientFirst,
    /// The client, HTTP.
    Http,
}

/// One per process. Locked for the look-up of one address, by connections whose protocol nobody has declared.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<SocketAddr, (Known, Instant)>>);

impl Memory {
    pub(crate) fn of(&self, destination: SocketAddr, now: Instant) -> Option<Known> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, since) = all.get(&destination)?;
        (now.saturating_duration_since(*since) < BELIEVED_FOR).then_some(*known)
    }

    pub(crate) fn learn(&self, destination: SocketAddr, found: Known, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, since)) = all.get_mut(&destination) {
            let is_certain = *known == Known::ServerFirst
                && now.saturating_duration_since(*since) < BELIEVED_FOR;
            if !is_certain || found == Known::ServerFirst {
                (*known, *since) = (found, now);
            }
            return;
        }
        if all.len() >= MOST {
            let oldest = all.iter().min_by_key(|(_, (_, since))| *since);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                all.remove(&oldest);
            }
        }
        all.insert(destination, (found, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(number: usize) -> SocketAddr {
        let [a, b] = u16::try_from(number).unwrap().to_be_bytes();
        SocketAddr::from(([10, 0, a, b], 25))
    }

    #[test]
    fn a_server_that_spoke_first_is_remembered_whatever_clients_say() {
        let (memory, now) = (Memory::default(), Instant::now());
        memory.learn(to(1), Known::Http, now);
        memory.learn(to(1), Known::ClientFirst, now);
        assert_eq!(memory.of(to(1), now), Some(Known::ClientFirst));
        memory.learn(to(1), Known::ServerFirst, now);
        memory.learn(to(1), Known::Http, now);
        assert_eq!(memory.of(to(1), now), Some(Known::ServerFirst));
        assert_eq!(memory.of(to(1), now + BELIEVED_FOR), None);
        memory.learn(to(1), Known::Http, now + BELIEVED_FOR);
        assert_eq!(memory.of(to(1), now + BELIEVED_FOR), Some(Known::Http));
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let (memory, now) = (Memory::default(), Instant::now());
        for number in 0..=MOST {
            let later = now + Duration::from_millis(u64::try_from(number).unwrap());
            memory.learn(to(number), Known::Http, later);
        }
        assert_eq!(memory.of(to(0), now), None);
        assert_eq!(memory.of(to(MOST), now), Some(Known::Http));
        assert_eq!(memory.0.lock().unwrap().len(), MOST);
    }
}
