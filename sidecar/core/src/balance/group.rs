//! Endpoints among which one policy chooses: all of a priority, or those of one locality or zone of it.
//!
//! Every policy makes a quick draw first, which in a healthy cluster succeeds, and falls back to a scan, so that an
//! endpoint is found whenever one may be used.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use super::{Candidates, LbPolicy, rotation::Rotation, slow_start::SlowStart, weights::Weights};
use crate::{Endpoint, Health, Locality};

/// Members, ready to be chosen from.
#[derive(Debug)]
pub(crate) struct Group {
    /// What its endpoints have in common; empty if nothing is asked about it.
    pub(super) locality: Locality,
    /// Weight of the locality.
    pub(super) weight: u32,
    /// Endpoints, healthy or not.
    pub(super) all: usize,
    /// Healthy ones, as indices into the cluster's endpoints.
    pub(super) members: Vec<u32>,
    weights: Weights,
    strategy: Strategy,
    /// Of the rotation; kept over snapshots, or else every change would favour the first endpoint.
    pub(super) turns: Arc<AtomicU64>,
    /// When its first and last endpoint appeared.
    oldest: AtomicU64,
    newest: AtomicU64,
}

#[derive(Debug)]
enum Strategy {
    LeastRequest,
    RoundRobin(Rotation),
    Random,
    PeakEwma {
        /// Members before this one have been asked.
        unasked: AtomicU32,
    },
}

/// Quick draws before the scan.
const DRAWS: usize = 4;
/// Members that one request looks at for one that was never measured.
const LOOKS: usize = 8;

impl Group {
    /// `all` are the places of its endpoints in `endpoints`.
    pub(super) fn new(
        locality: Locality,
        policy: &LbPolicy,
        endpoints: &[Arc<Endpoint>],
        all: &[u32],
        turns: Option<Arc<AtomicU64>>,
    ) -> Self {
        let of = |place: &u32| endpoints.get(usize::try_from(*place).ok()?);
        let weight = |place: &u32| of(place).map_or(1, |endpoint| endpoint.config.weight);
        let healthy = |place: &u32| of(place).is_some_and(|e| e.config.health == Health::Healthy);
        let members: Vec<u32> = all.iter().copied().filter(healthy).collect();
        let weights = Weights::new(members.iter().map(weight));
        let strategy = match policy {
            LbPolicy::RoundRobin => Strategy::RoundRobin(Rotation::new(&weights)),
            LbPolicy::Random => Strategy::Random,
            LbPolicy::PeakEwma { .. } => Strategy::PeakEwma {
                unasked: AtomicU32::new(0),
            },
            // A hash has a table of its own, and asks its group what is left.
            LbPolicy::LeastRequest | LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } => {
                Strategy::LeastRequest
            }
        };
        let own = all.iter().filter_map(of);
        Self {
            locality,
            weight: own.map(|e| e.config.locality_weight).max().unwrap_or(0),
            all: all.len(),
            members,
            weights,
            strategy,
            turns: turns.unwrap_or_default(),
            oldest: AtomicU64::new(0),
            newest: AtomicU64::new(0),
        }
    }

    pub(super) fn member_weights(&self) -> u64 {
        (0..self.weights.len())
            .map(|at| u64::from(self.weights.of(at)))
            .sum()
    }

    /// All its endpoints have appeared.
    pub(super) fn arrive(&self, endpoints: &[Arc<Endpoint>]) {
        let since = |place: &u32| {
            let endpoint = endpoints.get(usize::try_from(*place).ok()?)?;
            Some(endpoint.state.since())
        };
        let all = || self.members.iter().filter_map(since);
        self.oldest.store(all().min().unwrap_or(0), Relaxed);
        self.newest.store(all().max().unwrap_or(0), Relaxed);
    }

    /// An endpoint, as an index into the cluster's, if any may be used.
    pub(super) fn pick(&self, candidates: &Candidates<'_>, rng: &mut fastrand::Rng) -> Option<u32> {
        let warming = candidates.slow_start.filter(|slow| {
            let newest = self.newest.load(Relaxed);
            candidates.now.0 < newest.saturating_add(slow.window_ms())
        });
        let warming = warming.map(|slow| Warming {
            slow,
            best: slow.warmth(self.oldest.load(Relaxed), candidates.now),
        });
        let quick = match &self.strategy {
            Strategy::LeastRequest => self.better_of_two(candidates, warming, rng, |one, other| {
                candidates.less_loaded(one, other, warming)
            }),
            Strategy::PeakEwma { unasked } => {
                let decay = candidates.decay_ms;
                self.never_measured(candidates, unasked).or_else(|| {
                    self.better_of_two(candidates, warming, rng, |one, other| {
                        candidates.cost(one, decay) < candidates.cost(other, decay)
                    })
                })
            }
            Strategy::Random => (0..DRAWS).find_map(|_| {
                let place = self.member(self.weights.draw(rng.u64(..))?)?;
                candidates.take(place).then_some(place)
            }),
            Strategy::RoundRobin(rotation) => (0..DRAWS).find_map(|_| {
                let place = self.member(rotation.at(next_turn(&self.turns, rng))?)?;
                (candidates.accepts(place, warming, rng) && candidates.take(place)).then_some(place)
            }),
        };
        quick.or_else(|| self.scan(candidates, warming, rng))
    }

    /// Whether any endpoint may be used.
    pub(super) fn any_usable(&self, candidates: &Candidates<'_>) -> bool {
        self.members.iter().any(|place| candidates.usable(*place))
    }

    pub(super) fn in_service(&self, candidates: &Candidates<'_>) -> usize {
        let members = self.members.iter();
        members
            .filter(|place| candidates.in_service(**place))
            .count()
    }

    /// Weight of what is in service.
    pub(super) fn capacity(&self, candidates: &Candidates<'_>) -> u64 {
        let members = self.members.iter().enumerate();
        members
            .filter(|(_, place)| candidates.in_service(**place))
            .map(|(at, _)| u64::from(self.weights.of(at)))
            .sum()
    }

    fn member(&self, at: usize) -> Option<u32> {
        self.members.get(at).copied()
    }

    /// Power of two choices. Both are drawn by weight and compared by load per weight: where nothing is in
    /// flight, shares follow the weights (a comparison of `(active + 1) / weight` would give the heaviest
    /// everything), and under load in-flight counts follow them.
    fn better_of_two(
        &self,
        candidates: &Candidates<'_>,
        warming: Option<Warming<'_>>,
        rng: &mut fastrand::Rng,
        is_better: impl Fn(u32, u32) -> bool,
    ) -> Option<u32> {
        for _ in 0..DRAWS {
            let (first, second) = self.weights.draw_two(rng)?;
            let (first, second) = (self.member(first)?, self.member(second)?);
            let mut may =
                |place| candidates.usable(place) && candidates.accepts(place, warming, rng);
            let chosen = match (may(first), may(second)) {
                (true, true) if is_better(second, first) => second,
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

    /// The next endpoint that nobody has measured or is measuring.
    fn never_measured(&self, candidates: &Candidates<'_>, unasked: &AtomicU32) -> Option<u32> {
        for _ in 0..LOOKS {
            let at = unasked.load(Relaxed);
            let place = self.member(usize::try_from(at).ok()?)?;
            let next = unasked.compare_exchange(at, at + 1, Relaxed, Relaxed);
            if next.is_ok() && candidates.is_unmeasured(place) && candidates.take(place) {
                return Some(place);
            }
        }
        None
    }

    /// The slow way: over what is left, best or by weight. Ends, as every round that takes nothing
    /// saw another request take the probe of an endpoint, which is not usable after that.
    fn scan(
        &self,
        candidates: &Candidates<'_>,
        warming: Option<Warming<'_>>,
        rng: &mut fastrand::Rng,
    ) -> Option<u32> {
        for _ in 0..=self.members.len() {
            let usable: Vec<(u32, u32)> = (0..self.members.len())
                .filter_map(|at| {
                    let place = self.member(at)?;
                    let weight = self.weights.of(at);
                    candidates
                        .usable(place)
                        .then(|| (place, candidates.warm_weight(place, weight, warming)))
                })
                .collect();
            let weights = Weights::new(usable.iter().map(|(_, weight)| *weight));
            let drawn = usable.get(weights.draw(rng.u64(..))?)?.0;
            let better = |one, other| match self.strategy {
                Strategy::LeastRequest => candidates.less_loaded(one, other, warming),
                Strategy::PeakEwma { .. } => {
                    let decay = candidates.decay_ms;
                    candidates.cost(one, decay) < candidates.cost(other, decay)
                }
                Strategy::RoundRobin(_) | Strategy::Random => false,
            };
            let places = usable.iter().map(|(place, _)| *place);
            let chosen = places.fold(
                drawn,
                |best, place| {
                    if better(place, best) { place } else { best }
                },
            );
            if candidates.claim(chosen) {
                return Some(chosen);
            }
        }
        None
    }
}

/// A group some of whose endpoints are new.
#[derive(Clone, Copy, Debug)]
pub(super) struct Warming<'a> {
    pub(super) slow: &'a SlowStart,
    /// Warmth of the warmest.
    pub(super) best: f64,
}

/// One step of the rotation. It begins anywhere, or else the first requests of all sidecars would
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
