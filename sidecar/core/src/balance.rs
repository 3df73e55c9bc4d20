//! Which endpoint next.
//!
//! Endpoints of one priority form a tier; a cluster asks its tiers in turn. Every policy makes a quick
//! draw first, which in a healthy cluster succeeds, and falls back to a scan of the tier, so that an
//! endpoint is found whenever one may be used. State is shared by all workers (in-flight counts, one
//! turn counter a cluster): the spread is even over the proxy, not over each worker.

mod maglev;
mod ring;
mod rotation;
#[cfg(test)]
mod tests;
mod weights;

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rotation::Rotation;
use weights::Weights;

use crate::{
    Endpoint, EndpointId, Health, Moment,
    outlier::{Probe, Standing, take_probe},
};

/// Balancing policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LbPolicy {
    /// Power of two choices on shared in-flight counts, weights respected.
    #[default]
    LeastRequest,
    /// Smooth weighted round robin over the proxy.
    RoundRobin,
    /// By weight.
    Random,
    /// Ketama-like ring, Envoy's sizes.
    RingHash {
        /// Default 1024.
        minimum_ring_size: u64,
        /// Default and bound 8,388,608.
        maximum_ring_size: u64,
    },
    /// Maglev table.
    Maglev {
        /// Prime, default 65,537, at most 5,000,011 (Envoy). Another number is raised to the next prime.
        table_size: u64,
    },
}

/// Endpoints of one priority, ready to be chosen from.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) priority: u32,
    /// Healthy ones, as indices into the cluster's endpoints.
    members: Vec<u32>,
    weights: Weights,
    strategy: Strategy,
}

#[derive(Debug)]
enum Strategy {
    LeastRequest,
    RoundRobin(Rotation),
    Random,
    Hash(Arc<HashTable>),
}

/// Where a key's endpoint is found, and in which order the others follow.
#[derive(Debug)]
pub(crate) enum HashTable {
    Ring(ring::Ring),
    Maglev(maglev::Table),
}

/// What may be chosen by one request.
#[derive(Debug)]
pub(crate) struct Candidates<'a> {
    pub(crate) endpoints: &'a [Arc<Endpoint>],
    pub(crate) tried: &'a [EndpointId],
    pub(crate) now: Moment,
    /// False where ejection is not configured or is overruled.
    pub(crate) heed_ejection: bool,
    /// For how long a probe keeps others away, unless its end is reported before.
    pub(crate) probe_ms: u64,
    /// The probe that was taken with the choice.
    pub(crate) probe: Cell<Option<Probe>>,
}

/// Quick draws before the scan.
const DRAWS: usize = 4;

impl Tier {
    /// `all` are the places of this priority's endpoints in `endpoints`, which are sorted by address;
    /// `table` is the last snapshot's, if it still holds.
    pub(crate) fn new(
        priority: u32,
        policy: &LbPolicy,
        endpoints: &[Arc<Endpoint>],
        all: &[u32],
        table: Option<Arc<HashTable>>,
    ) -> Self {
        let weight = |place: &u32| {
            let endpoint = usize::try_from(*place).ok().and_then(|i| endpoints.get(i));
            endpoint.map_or(1, |endpoint| endpoint.config.weight)
        };
        let healthy = |place: &u32| {
            let endpoint = usize::try_from(*place).ok().and_then(|i| endpoints.get(i));
            endpoint.is_some_and(|endpoint| endpoint.config.health == Health::Healthy)
        };
        let members: Vec<u32> = all.iter().copied().filter(healthy).collect();
        let weights = Weights::new(members.iter().map(weight));
        let strategy = match policy {
            LbPolicy::LeastRequest => Strategy::LeastRequest,
            LbPolicy::RoundRobin => Strategy::RoundRobin(Rotation::new(&weights)),
            LbPolicy::Random => Strategy::Random,
            LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } => Strategy::Hash(
                // Over all endpoints, healthy or not: one that fails moves only its own keys.
                table.unwrap_or_else(|| Arc::new(HashTable::new(policy, endpoints, all))),
            ),
        };
        Self {
            priority,
            members,
            weights,
            strategy,
        }
    }

    pub(crate) fn table(&self) -> Option<&Arc<HashTable>> {
        match &self.strategy {
            Strategy::Hash(table) => Some(table),
            Strategy::LeastRequest | Strategy::RoundRobin(_) | Strategy::Random => None,
        }
    }

    /// An endpoint of this tier, as an index into the cluster's, if any may be used.
    pub(crate) fn pick(
        &self,
        candidates: &Candidates<'_>,
        hash: Option<u64>,
        turns: &AtomicU64,
        rng: &mut fastrand::Rng,
    ) -> Option<u32> {
        let quick = match &self.strategy {
            Strategy::LeastRequest => self.least_loaded_of_two(candidates, rng),
            Strategy::Random => (0..DRAWS).find_map(|_| {
                let place = self.member(self.weights.draw(rng.u64(..))?)?;
                candidates.take(place).then_some(place)
            }),
            Strategy::RoundRobin(rotation) => (0..DRAWS).find_map(|_| {
                let place = self.member(rotation.at(next_turn(turns, rng))?)?;
                candidates.take(place).then_some(place)
            }),
            Strategy::Hash(table) => {
                // Without a key, anywhere: Envoy.
                return table.pick(hash.unwrap_or_else(|| rng.u64(..)), candidates, || {
                    self.any_usable(candidates)
                });
            }
        };
        quick.or_else(|| self.scan(candidates, rng))
    }

    /// Whether any endpoint of this tier may be used.
    pub(crate) fn any_usable(&self, candidates: &Candidates<'_>) -> bool {
        self.members.iter().any(|place| candidates.usable(*place))
    }

    fn member(&self, at: usize) -> Option<u32> {
        self.members.get(at).copied()
    }

    /// Power of two choices. Both are drawn by weight and compared by load per weight: where nothing is in
    /// flight, shares follow the weights (a comparison of `(active + 1) / weight` would give the heaviest
    /// everything), and under load in-flight counts follow them.
    fn least_loaded_of_two(
        &self,
        candidates: &Candidates<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<u32> {
        for _ in 0..DRAWS {
            let (first, second) = self.weights.draw_two(rng)?;
            let (first, second) = (self.member(first)?, self.member(second)?);
            let chosen = match (candidates.usable(first), candidates.usable(second)) {
                (true, true) if candidates.less_loaded(second, first) => second,
                (true, _) => first,
                (false, true) => second,
                (false, false) => continue,
            };
            if candidates.claim(chosen) {
                return Some(chosen);
            }
        }
        None
    }

    /// The slow way: over what is left, least loaded or by weight. Ends, as every round that takes nothing
    /// saw another request take the probe of an endpoint, which is not usable after that.
    fn scan(&self, candidates: &Candidates<'_>, rng: &mut fastrand::Rng) -> Option<u32> {
        for _ in 0..=self.members.len() {
            let usable: Vec<usize> = (0..self.members.len())
                .filter(|at| {
                    self.member(*at)
                        .is_some_and(|place| candidates.usable(place))
                })
                .collect();
            let weights = Weights::new(usable.iter().map(|at| self.weights.of(*at)));
            let drawn = self.member(*usable.get(weights.draw(rng.u64(..))?)?)?;
            let chosen =
                match self.strategy {
                    Strategy::LeastRequest => usable.iter().filter_map(|at| self.member(*at)).fold(
                        drawn,
                        |best, place| {
                            if candidates.less_loaded(place, best) {
                                place
                            } else {
                                best
                            }
                        },
                    ),
                    Strategy::RoundRobin(_) | Strategy::Random | Strategy::Hash(_) => drawn,
                };
            if candidates.claim(chosen) {
                return Some(chosen);
            }
        }
        None
    }
}

impl HashTable {
    fn new(policy: &LbPolicy, endpoints: &[Arc<Endpoint>], all: &[u32]) -> Self {
        let keyed = || {
            all.iter().filter_map(|place| {
                let endpoint = endpoints.get(usize::try_from(*place).ok()?)?;
                let key = endpoint.config.address.to_string();
                Some((*place, key, endpoint.config.weight))
            })
        };
        match policy {
            LbPolicy::Maglev { table_size } => {
                Self::Maglev(maglev::Table::new(keyed().collect(), *table_size))
            }
            LbPolicy::RingHash {
                minimum_ring_size: minimum,
                maximum_ring_size: maximum,
            } => Self::Ring(ring::Ring::new(keyed().collect(), *minimum, *maximum)),
            LbPolicy::LeastRequest | LbPolicy::RoundRobin | LbPolicy::Random => {
                Self::Ring(ring::Ring::default())
            }
        }
    }

    /// The key's endpoint, or the next one around that may be used: a key whose endpoint is in service
    /// never moves, whatever happens to others.
    fn pick(
        &self,
        key: u64,
        candidates: &Candidates<'_>,
        any_usable: impl Fn() -> bool,
    ) -> Option<u32> {
        let (owners, start) = match self {
            Self::Ring(ring) => (&ring.owners, ring.place(key)),
            Self::Maglev(table) => (&table.owners, table.place(key)),
        };
        let first = *owners.get(start)?;
        if candidates.take(first) {
            return Some(first);
        }
        // Not around a table of a million entries for nothing.
        if !any_usable() {
            return None;
        }
        let (before, after) = owners.split_at_checked(start)?;
        after
            .iter()
            .chain(before)
            .copied()
            .find(|place| *place != first && candidates.take(*place))
    }
}

impl Candidates<'_> {
    fn endpoint(&self, place: u32) -> Option<&Endpoint> {
        Some(self.endpoints.get(usize::try_from(place).ok()?)?)
    }

    /// Healthy, not tried, not ejected (or due for its probe).
    pub(crate) fn usable(&self, place: u32) -> bool {
        self.endpoint(place).is_some_and(|endpoint| {
            endpoint.config.health == Health::Healthy
                && (!self.heed_ejection
                    || matches!(
                        endpoint.state.standing(self.now),
                        Standing::InService | Standing::ProbeDue
                    ))
                && !self.tried.contains(&endpoint.id)
        })
    }

    fn take(&self, place: u32) -> bool {
        self.usable(place) && self.claim(place)
    }

    /// For one that is usable: false if another request took its probe in the meantime.
    fn claim(&self, place: u32) -> bool {
        if !self.heed_ejection {
            return true;
        }
        let taken = self
            .endpoint(place)
            .and_then(|endpoint| take_probe(&endpoint.state, self.now, self.probe_ms));
        self.probe.set(taken.flatten());
        taken.is_some()
    }

    fn less_loaded(&self, one: u32, other: u32) -> bool {
        let load = |place| {
            self.endpoint(place).map_or((0, 1), |endpoint| {
                let active = endpoint.state.active_requests.load(Relaxed);
                (u64::from(active), u64::from(endpoint.config.weight))
            })
        };
        let ((active, weight), (other_active, other_weight)) = (load(one), load(other));
        active * other_weight < other_active * weight
    }
}

/// One step of the cluster's rotation. It begins anywhere, or else the first requests of all sidecars would
/// go to the same endpoint.
fn next_turn(turns: &AtomicU64, rng: &mut fastrand::Rng) -> u64 {
    let turn = turns.fetch_add(1, Relaxed);
    if turn > 0 {
        return turn;
    }
    let begin = rng.u64(1..1 << 40);
    turns.fetch_add(begin, Relaxed);
    begin
}
