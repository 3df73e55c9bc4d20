//! One of several clusters by weight.
//!
//! By plain chance, a share of 10 % would be off by more than one point in one of 1,000 runs of 10,000
//! requests, and by far more in a canary's first minute. So the unit interval is cut into 128 strata, every block of
//! 128 requests visits each once, in an order that differs from block to block, and chance decides only
//! where in its stratum a request falls. Over 10,000 requests a share is exact within half a point. A plain
//! counter would be as exact, but in step with a client that alternates between two pages.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{ClusterChoice, WeightedCluster};

const STRATA_BITS: u32 = 7;
const STRATA: u64 = 1 << STRATA_BITS;

impl ClusterChoice {
    /// A choice between clusters; None without any, or if all weights are 0.
    #[must_use]
    pub fn new(clusters: Vec<WeightedCluster>) -> Option<Self> {
        let total_weight = clusters.iter().map(|one| u64::from(one.weight)).sum();
        (total_weight > 0).then(|| Self {
            clusters,
            total_weight,
            turns: Arc::new(AtomicU64::new(0)),
        })
    }

    /// Names of all clusters.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.clusters.iter().map(|one| &*one.name)
    }

    /// The cluster for one request, by weight.
    #[must_use]
    pub fn choose(&self, rng: &mut fastrand::Rng) -> Option<&WeightedCluster> {
        if let [one] = self.clusters.as_slice() {
            return Some(one);
        }
        let point = scale(self.next_fraction(rng), self.total_weight);
        let mut end = 0;
        self.clusters.iter().find(|cluster| {
            end += u64::from(cluster.weight);
            point < end
        })
    }

    fn next_fraction(&self, rng: &mut fastrand::Rng) -> u64 {
        let mut turn = self.turns.fetch_add(1, Relaxed);
        if turn == 0 {
            // Begins anywhere: or else the first requests of all sidecars would go the same way.
            turn = rng.u64(1..1 << 40);
            self.turns.fetch_add(turn, Relaxed);
        }
        (stratum(turn) << (64 - STRATA_BITS)) | (rng.u64(..) >> STRATA_BITS)
    }
}

/// A permutation of 0..128 for each block of 128 turns: every step can be undone.
fn stratum(turn: u64) -> u64 {
    let key = mix(turn / STRATA);
    let mut x = (turn ^ key) % STRATA;
    x = x.wrapping_mul((key >> 8) | 1) % STRATA;
    x ^= x >> 4;
    x = (x.wrapping_mul((key >> 16) | 1).wrapping_add(key >> 24)) % STRATA;
    x ^ (x >> 3)
}

/// `SplitMix64`'s finish.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

/// `fraction / 2^64 * total`, rounded down.
pub(crate) fn scale(fraction: u64, total: u64) -> u64 {
    let wide = (u128::from(fraction) * u128::from(total)) >> 64;
    u64::try_from(wide).unwrap_or(u64::MAX)
}
