//! A consistent-hash ring on which a leaving endpoint moves its own keys and no other's.
//!
//! Each endpoint stands at `xxh64("<ip:port>_<i>")` for `i` from 0 to as many as its weight asks for: half the
//! minimum ring size (so 512) for each unit of weight, whatever else is on the ring. A unit is the greatest common
//! divisor of the weights. Every sidecar that sees the same endpoints builds the same ring. One that is only unhealthy,
//! ejected or tried is stepped over.
//!
//! What depends on the others after all: places are halved until they fit into the maximum ring size, and in any case
//! into [`LARGE`] unless the minimum asks for more (2,048 endpoints of one weight), so that a ring costs 12 MiB at most
//! by itself. When a set grows beyond that, or the divisor changes, keys move as on Envoy's ring, which gives places as
//! shares of its minimum size and so moves other keys whenever an endpoint leaves.

use std::fmt::Write;

use xxhash_rust::xxh64::xxh64;

/// An endpoint for a ring or table.
#[derive(Clone, Debug)]
pub(super) struct Keyed {
    /// Index into the cluster's endpoints.
    pub(super) place: u32,
    pub(super) address: String,
    pub(super) weight: u32,
}

/// Places sorted by hash.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    hashes: Vec<u64>,
    pub(super) owners: Vec<u32>,
}

/// Envoy's bound.
const LARGEST: u64 = 8 << 20;
/// Places from which on they are halved.
const LARGE: u64 = 1 << 20;

impl Ring {
    /// `unit`: a weight that gets half the minimum size.
    pub(super) fn new(endpoints: Vec<Keyed>, unit: u32, minimum: u64, maximum: u64) -> Self {
        let maximum = maximum.clamp(1, LARGEST);
        let minimum = minimum.clamp(1, maximum);
        let room = maximum.min(minimum.max(LARGE));
        let unit = u64::from(unit.max(1));
        let base = (minimum / 2).max(1);
        let full: Vec<u64> = endpoints
            .iter()
            .map(|one| u64::from(one.weight).saturating_mul(base) / unit)
            .collect();
        let total = |halved: u32| {
            full.iter()
                .map(|count| (count >> halved).max(1))
                .fold(0, u64::saturating_add)
        };
        // Nobody gets less than one place: with more endpoints than the maximum there are more places than that.
        let halved = (0..u64::BITS - 1)
            .find(|halved| total(*halved) <= room)
            .unwrap_or(u64::BITS - 1);
        let mut places = Vec::new();
        for (endpoint, count) in endpoints.into_iter().zip(&full) {
            let mut key = endpoint.address;
            key.push('_');
            let stem = key.len();
            for i in 0..(count >> halved).max(1) {
                key.truncate(stem);
                write!(key, "{i}").ok();
                places.push((xxh64(key.as_bytes(), 0), endpoint.place));
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
