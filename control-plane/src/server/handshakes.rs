//! How many TLS handshakes one address may have open at a time, so that one machine that connects and says
//! nothing cannot take all places.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A handshake takes milliseconds; a machine with a thousand sidecars starts them all at once.
const MAX_PER_ADDRESS: usize = 1000;

/// Open handshakes by address. As large as the number of connections, which the listener bounds.
#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<HashMap<IpAddr, usize>>);

/// One handshake, until it is dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    all: Arc<Handshakes>,
    address: IpAddr,
}

impl Handshakes {
    /// None: the address has too many already.
    pub(super) fn begin(self: &Arc<Self>, address: IpAddr) -> Option<Handshake> {
        let mut open = self.lock();
        let count = open.entry(address).or_default();
        if *count >= MAX_PER_ADDRESS {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Handshake {
            all: Arc::clone(self),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut open = self.all.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_share_and_gets_it_back() {
        let all = Arc::new(Handshakes::default());
        let (greedy, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut open: Vec<_> = std::iter::from_fn(|| all.begin(greedy)).collect();
        assert_eq!(open.len(), MAX_PER_ADDRESS);
        assert!(all.begin(other).is_some());
        open.pop();
        assert!(all.begin(greedy).is_some());
        drop(open);
        assert!(all.lock().is_empty());
    }
}
