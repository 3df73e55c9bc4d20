//! The ring of Envoy's `RING_HASH`: each endpoint at `xxh64("<ip:port>_<i>")` for as many `i` as its weight
//! asks for. Built in the order of addresses and in Envoy's arithmetic, so that every sidecar, and Envoy,
//! has the same ring.
//!
//! The number of places of each endpoint depends on how many there are (Envoy fills the ring to its minimum
//! size), so an endpoint that *leaves the cluster* moves its own keys and as many of the others' again at
//! most. One that is only unhealthy, ejected or tried is stepped over: that moves its own keys and no other.

use std::fmt::Write;

use xxhash_rust::xxh64::xxh64;

/// Places sorted by hash.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    hashes: Vec<u64>,
    pub(super) owners: Vec<u32>,
}

/// Envoy's bound.
const LARGEST: u64 = 8 << 20;

impl Ring {
    /// `endpoints`: place, address, weight.
    #[expect(
        clippy::cast_precision_loss,
        reason = "Envoy computes in doubles; to differ in the last bit is to have another ring"
    )]
    pub(super) fn new(endpoints: Vec<(u32, String, u32)>, minimum: u64, maximum: u64) -> Self {
        let maximum = maximum.clamp(1, LARGEST);
        let minimum = minimum.clamp(1, maximum) as f64;
        let sum = endpoints.iter().map(|one| u64::from(one.2)).sum::<u64>() as f64;
        let share = |weight: u32| f64::from(weight) / sum;
        let least = endpoints.iter().map(|one| share(one.2));
        let least = least.fold(1.0, f64::min);
        // The lightest gets a whole number of places.
        let scale = ((least * minimum).ceil() / least).min(maximum as f64);
        let mut places = Vec::new();
        let (mut current, mut target) = (0.0, 0.0);
        for (owner, mut key, weight) in endpoints {
            target += scale * share(weight);
            key.push('_');
            let stem = key.len();
            let mut i = 0_u64;
            while current < target {
                key.truncate(stem);
                write!(key, "{i}").ok();
                places.push((xxh64(key.as_bytes(), 0), owner));
                i += 1;
                current += 1.0;
            }
        }
        places.sort_unstable();
        let (hashes, owners) = places.into_iter().unzip();
        Self { hashes, owners }
    }

    /// The first place at or after `key`, around the end.
    pub(super) fn place(&self, key: u64) -> usize {
        let at = self.hashes.partition_point(|hash| *hash < key);
        if at == self.hashes.len() { 0 } else { at }
    }
}
