//! Consistent hashing: where a key's endpoint is found, and in which order the others follow.

use std::sync::Arc;

use super::{Candidates, LbPolicy, maglev, ring};
use crate::{Endpoint, cluster::LocalityPolicy};
use ring::Keyed;

/// A ring or a table over all endpoints of one priority, healthy or not.
#[derive(Debug)]
pub(crate) struct HashTable {
    keyed: Keys,
    /// Of localities without weight beside others that have one: no keys are theirs, but they may be all that is left.
    rest: Vec<u32>,
}

#[derive(Debug)]
enum Keys {
    Ring(ring::Ring),
    Maglev(maglev::Table),
}

/// How much of the average load an endpoint may have before its keys go on to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) percent: u32,
    /// Requests of the cluster in flight, this one included.
    pub(crate) in_flight: u32,
    /// Of the tier's healthy endpoints.
    pub(crate) weights: u64,
}

/// Weights of localities are shares: an endpoint of average weight is counted as so much.
const AVERAGE: u32 = 1024;

impl HashTable {
    pub(super) fn new(
        policy: &LbPolicy,
        localities: LocalityPolicy,
        endpoints: &[Arc<Endpoint>],
        all: &[u32],
    ) -> Self {
        let found: Vec<(u32, &Endpoint)> = all
            .iter()
            .filter_map(|place| {
                let endpoint = endpoints.get(usize::try_from(*place).ok()?)?;
                Some((*place, &**endpoint))
            })
            .collect();
        // Where no locality has a weight, nothing is said about them (Envoy).
        let weighted = found.iter().any(|(_, one)| one.config.locality_weight > 0);
        let (weights, unit) = match localities {
            LocalityPolicy::Weighted if weighted => (by_locality(&found), AVERAGE),
            LocalityPolicy::Weighted
            | LocalityPolicy::Ignored
            | LocalityPolicy::ZoneAware { .. } => {
                let weights: Vec<u32> = found.iter().map(|(_, one)| one.config.weight).collect();
                let unit = weights.iter().fold(0, |unit, weight| gcd(unit, *weight));
                (weights, unit)
            }
        };
        let keyed = found
            .iter()
            .zip(weights)
            .map(|((place, one), weight)| Keyed {
                place: *place,
                address: one.config.address.to_string(),
                weight,
            });
        let (keyed, rest): (Vec<Keyed>, Vec<Keyed>) = keyed.partition(|one| one.weight > 0);
        let keyed = match policy {
            LbPolicy::Maglev { table_size } => Keys::Maglev(maglev::Table::new(keyed, *table_size)),
            LbPolicy::RingHash {
                minimum_ring_size: minimum,
                maximum_ring_size: maximum,
            } => Keys::Ring(ring::Ring::new(keyed, unit, *minimum, *maximum)),
            LbPolicy::LeastRequest
            | LbPolicy::RoundRobin
            | LbPolicy::Random
            | LbPolicy::PeakEwma { .. } => Keys::Ring(ring::Ring::default()),
        };
        Self {
            keyed,
            rest: rest.into_iter().map(|one| one.place).collect(),
        }
    }

    fn start(&self, key: u64) -> (&[u32], usize) {
        match &self.keyed {
            Keys::Ring(ring) => (&ring.owners, ring.place(key)),
            Keys::Maglev(table) => (&table.owners, table.place(key)),
        }
    }

    /// The endpoint that the key belongs to, whether it may be used or not.
    pub(super) fn owner(&self, key: u64) -> Option<u32> {
        let (owners, start) = self.start(key);
        owners.get(start).copied()
    }

    /// The key's endpoint, or the next one around that may be used: a key whose endpoint is in service never moves,
    /// whatever happens to others. With a `bound`, unless that endpoint has more than its part of the load.
    pub(super) fn pick(
        &self,
        key: u64,
        candidates: &Candidates<'_>,
        bound: Option<Bound>,
        any_usable: impl Fn() -> bool,
    ) -> Option<u32> {
        let (owners, start) = self.start(key);
        let first = *owners.get(start)?;
        let has_room = |place| bound.is_none_or(|bound| candidates.has_room(place, bound));
        if has_room(first) && candidates.take(first) {
            return Some(first);
        }
        // Not around a table of a million entries for nothing.
        if !any_usable() {
            return None;
        }
        let (before, after) = owners.split_at_checked(start)?;
        let around = || after.iter().chain(before).copied();
        around()
            .find(|place| candidates.usable(*place) && has_room(*place) && candidates.take(*place))
            // Only retries have none left with room: the others' load is too much for the few that they may use.
            .or_else(|| bound.and_then(|_| around().find(|place| candidates.take(*place))))
            .or_else(|| {
                self.rest
                    .iter()
                    .copied()
                    .find(|place| candidates.take(*place))
            })
    }
}

/// Each locality's weight, divided among its endpoints by theirs.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "shares of at least 1, rounded in the same way everywhere"
)]
fn by_locality(endpoints: &[(u32, &Endpoint)]) -> Vec<u32> {
    let mut localities = std::collections::BTreeMap::new();
    for (_, one) in endpoints {
        let entry = localities.entry(&one.config.locality);
        let (weight, inside) = entry.or_insert((one.config.locality_weight, 0_u64));
        *weight = (*weight).max(one.config.locality_weight);
        *inside += u64::from(one.config.weight);
    }
    let total: u64 = localities
        .values()
        .map(|(weight, _)| u64::from(*weight))
        .sum();
    let scale = f64::from(AVERAGE) * endpoints.len() as f64 / total.max(1) as f64;
    let weigh = |one: &Endpoint| {
        let (weight, inside) = localities.get(&one.config.locality)?;
        let part = f64::from(one.config.weight) / *inside as f64;
        let share = (f64::from(*weight) * part * scale).round() as u32;
        // Something, however little, of a locality that has a weight.
        Some(if *weight == 0 { 0 } else { share.max(1) })
    };
    endpoints
        .iter()
        .map(|(_, one)| weigh(one).unwrap_or(0))
        .collect()
}

pub(super) fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
