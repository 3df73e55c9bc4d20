//! Endpoints of one priority, and which priority a request belongs to.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    Bound, Candidates, HashTable, LbPolicy,
    group::Group,
    shares::{self, ONE, Shares},
};
use crate::{Endpoint, Locality, Moment, cluster::LocalityPolicy};

/// Endpoints of one priority, ready to be chosen from.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) priority: u32,
    localities: LocalityPolicy,
    /// One, unless localities or zones have shares.
    groups: Vec<Group>,
    /// The group of our own zone.
    own: Option<usize>,
    shares: Shares,
    table: Option<Arc<HashTable>>,
    /// Of healthy endpoints.
    weights: u64,
}

/// What a tier is made of, beside its endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TierSeed<'a> {
    pub(crate) policy: &'a LbPolicy,
    pub(crate) localities: LocalityPolicy,
    /// Where this sidecar runs.
    pub(crate) own: &'a Locality,
    /// The tier of this priority in the last snapshot.
    pub(crate) previous: Option<&'a Tier>,
    /// The last snapshot's table still holds.
    pub(crate) same_table: bool,
}

impl Tier {
    /// `all` are the places of this priority's endpoints in `endpoints`, which are sorted by address.
    pub(crate) fn new(
        priority: u32,
        seed: TierSeed<'_>,
        endpoints: &[Arc<Endpoint>],
        all: &[u32],
    ) -> Self {
        let TierSeed {
            policy, localities, ..
        } = seed;
        let mut parts: BTreeMap<Locality, Vec<u32>> = BTreeMap::new();
        for place in all {
            let endpoint = usize::try_from(*place).ok().and_then(|i| endpoints.get(i));
            let locality = endpoint.map(|one| &one.config.locality);
            let key = match (localities, locality) {
                _ if policy.is_hash() => Locality::default(),
                (LocalityPolicy::Weighted, Some(locality)) => locality.clone(),
                (LocalityPolicy::ZoneAware { .. }, Some(locality)) => locality.zone(),
                (LocalityPolicy::Ignored, _) | (_, None) => Locality::default(),
            };
            parts.entry(key).or_default().push(*place);
        }
        let turns = |locality: &Locality| {
            let groups = seed.previous.map_or(&[][..], |old| &old.groups);
            let same = groups.iter().find(|old| old.locality == *locality);
            same.map(|old| Arc::clone(&old.turns))
        };
        let groups: Vec<Group> = parts
            .into_iter()
            .map(|(locality, places)| {
                let turns = turns(&locality);
                Group::new(locality, policy, endpoints, &places, turns)
            })
            .collect();
        let table = policy.is_hash().then(|| {
            let old = seed.previous.filter(|_| seed.same_table);
            let old = old.and_then(|old| old.table.as_ref());
            old.map_or_else(
                || Arc::new(HashTable::new(policy, localities, endpoints, all)),
                Arc::clone,
            )
        });
        let zone = seed.own.zone();
        Self {
            priority,
            localities,
            own: groups
                .iter()
                .position(|group| !zone.is_empty() && group.locality == zone),
            shares: Shares::new(groups.len()),
            weights: groups.iter().map(Group::member_weights).sum(),
            groups,
            table,
        }
    }

    /// All its endpoints have appeared.
    pub(crate) fn arrive(&self, endpoints: &[Arc<Endpoint>]) {
        for group in &self.groups {
            group.arrive(endpoints);
        }
    }

    /// An endpoint of this tier, as an index into the cluster's, if any may be used.
    pub(crate) fn pick(&self, candidates: &Candidates<'_>, asked: &mut Asked<'_>) -> Option<u32> {
        if let Some(table) = &self.table {
            let bound = asked.bound.map(|(percent, in_flight)| Bound {
                percent,
                in_flight,
                weights: self.weights,
            });
            return table.pick(asked.key, candidates, bound, || self.any_usable(candidates));
        }
        let first = match self.groups.len() {
            0 | 1 => 0,
            _ => self.draw(candidates, asked),
        };
        let drawn = self.groups.get(first)?.pick(candidates, asked.rng);
        drawn.or_else(|| {
            let others = self
                .groups
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != first);
            others
                .map(|(_, group)| group)
                .find_map(|group| group.pick(candidates, asked.rng))
        })
    }

    /// Whether any endpoint of this tier may be used.
    pub(crate) fn any_usable(&self, candidates: &Candidates<'_>) -> bool {
        self.groups.iter().any(|group| group.any_usable(candidates))
    }

    fn in_service(&self, candidates: &Candidates<'_>) -> (usize, usize) {
        let count = |group: &Group| (group.in_service(candidates), group.all);
        let add = |sum: (usize, usize), one: (usize, usize)| (sum.0 + one.0, sum.1 + one.1);
        self.groups.iter().map(count).fold((0, 0), add)
    }

    fn draw(&self, candidates: &Candidates<'_>, asked: &mut Asked<'_>) -> usize {
        if self.shares.is_stale(asked.changes, candidates.now) {
            let parts = self.parts(candidates);
            self.shares.set(&parts, asked.changes, candidates.now);
        }
        self.shares.draw(asked.rng.u64(..))
    }

    fn parts(&self, candidates: &Candidates<'_>) -> Vec<u64> {
        // Where no locality has a weight, nothing is said about them (Envoy).
        let is_weighted = self.groups.iter().any(|group| group.weight > 0);
        if self.localities == LocalityPolicy::Weighted && is_weighted {
            let part = |group: &Group| {
                let able = shares::capability(group.in_service(candidates), group.all);
                // Of 2^32 parts of a weight, so many that no sum overflows.
                u64::from(group.weight).saturating_mul(able >> 8)
            };
            return self.groups.iter().map(part).collect();
        }
        let capacity = |group: &Group| group.capacity(candidates);
        let capacities: Vec<u64> = self.groups.iter().map(capacity).collect();
        match (self.localities, self.own) {
            (LocalityPolicy::ZoneAware { minimum_endpoints }, Some(own)) => {
                let enough = usize::try_from(minimum_endpoints).unwrap_or(usize::MAX);
                if self.in_service(candidates).0 < enough {
                    return capacities;
                }
                shares::by_zone(&capacities, own)
            }
            _ => capacities,
        }
    }
}

/// What one request asks for.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// Random if the request has none: without a key, anywhere (Envoy).
    pub(crate) key: u64,
    /// Percentage of the average load, and requests in flight.
    pub(crate) bound: Option<(u32, u32)>,
    /// Of the cluster's health.
    pub(crate) changes: u64,
    /// Priorities to leave out if another can take the request.
    pub(crate) left_out: &'a [u32],
    pub(crate) rng: &'a mut fastrand::Rng,
}

/// All tiers of a cluster, highest priority first.
#[derive(Debug)]
pub(crate) struct Priorities {
    pub(crate) tiers: Vec<Tier>,
    shares: Shares,
    /// By tier, how much of its load is displaced by endpoints that are out, and can stay.
    keeps: Vec<AtomicU64>,
    /// By tier, how much of its load it can take.
    able: Vec<AtomicU64>,
}

impl Priorities {
    pub(crate) fn new(tiers: Vec<Tier>) -> Self {
        Self {
            shares: Shares::new(tiers.len()),
            keeps: tiers.iter().map(|_| AtomicU64::new(ONE)).collect(),
            able: tiers.iter().map(|_| AtomicU64::new(0)).collect(),
            tiers,
        }
    }

    pub(crate) fn pick(&self, candidates: &Candidates<'_>, asked: &mut Asked<'_>) -> Option<u32> {
        if let [only] = self.tiers.as_slice() {
            return only.pick(candidates, asked);
        }
        if self.shares.is_stale(asked.changes, candidates.now) {
            self.refresh(candidates, asked.changes);
        }
        if self.tiers.first()?.table.is_some() && asked.left_out.is_empty() {
            return self.pick_by_key(candidates, asked);
        }
        let first = match asked.left_out {
            [] => self.shares.draw(asked.rng.u64(..)),
            left_out => self.draw_without(left_out, candidates, asked),
        };
        let drawn = self.tiers.get(first)?.pick(candidates, asked);
        drawn.or_else(|| {
            let others = self.tiers.iter().enumerate().filter(|(at, _)| *at != first);
            others
                .map(|(_, tier)| tier)
                .find_map(|tier| tier.pick(candidates, asked))
        })
    }

    /// The key's endpoint if it is in service, whatever happens to others. A key whose endpoint is out goes to the next
    /// around, as far as this priority can bear it, and else to its endpoint of the next priority: in sum as many as
    /// [`shares::by_priority`] gives each.
    fn pick_by_key(&self, candidates: &Candidates<'_>, asked: &mut Asked<'_>) -> Option<u32> {
        let mut salt = asked.key;
        for (tier, keeps) in self.tiers.iter().zip(&self.keeps) {
            let owner = tier.table.as_ref().and_then(|table| table.owner(asked.key));
            salt = mixed(salt);
            let stays = owner.is_some_and(|place| candidates.in_service(place))
                || salt >> 32 < keeps.load(Relaxed);
            if stays && let Some(place) = tier.pick(candidates, asked) {
                return Some(place);
            }
        }
        self.tiers
            .iter()
            .find_map(|tier| tier.pick(candidates, asked))
    }

    /// How much of its load each tier can take, of [`ONE`], highest priority first.
    pub(crate) fn capabilities<'a>(
        &self,
        changes: u64,
        now: Moment,
        candidates: impl FnOnce() -> Candidates<'a>,
    ) -> impl Iterator<Item = u64> {
        if self.shares.is_stale(changes, now) {
            self.refresh(&candidates(), changes);
        }
        self.able.iter().map(|able| able.load(Relaxed))
    }

    fn refresh(&self, candidates: &Candidates<'_>, changes: u64) {
        let counts = self.tiers.iter().map(|tier| tier.in_service(candidates));
        let counts: Vec<(usize, usize)> = counts.collect();
        let able = |(in_service, all): &(usize, usize)| shares::capability(*in_service, *all);
        let able: Vec<u64> = counts.iter().map(able).collect();
        for (place, able) in self.able.iter().zip(&able) {
            place.store(*able, Relaxed);
        }
        for ((keeps, able), (in_service, all)) in self.keeps.iter().zip(&able).zip(&counts) {
            let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            let part = (wide(*in_service) * ONE)
                .checked_div(wide(*all))
                .unwrap_or(0);
            let more = u128::from(able.saturating_sub(part)) * u128::from(ONE);
            let keep = more.checked_div((ONE - part.min(ONE)).into());
            keeps.store(
                keep.map_or(ONE, |k| u64::try_from(k).unwrap_or(ONE)),
                Relaxed,
            );
        }
        self.shares
            .set(&shares::by_priority(&able), changes, candidates.now);
    }

    /// As if the priorities `left_out` could take nothing. The rare case of a retry, so nothing is kept.
    fn draw_without(
        &self,
        left_out: &[u32],
        candidates: &Candidates<'_>,
        asked: &mut Asked<'_>,
    ) -> usize {
        let able = |tier: &Tier| match tier.in_service(candidates) {
            _ if left_out.contains(&tier.priority) => 0,
            (in_service, all) => shares::capability(in_service, all),
        };
        let able: Vec<u64> = self.tiers.iter().map(able).collect();
        if able.iter().all(|one| *one == 0) {
            return self.shares.draw(asked.rng.u64(..));
        }
        let once = Shares::new(able.len());
        once.set(&shares::by_priority(&able), asked.changes, candidates.now);
        once.draw(asked.rng.u64(..))
    }
}

/// Another number from the same key, the same in every sidecar (splitmix64).
fn mixed(key: u64) -> u64 {
    let key = key.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let key = (key ^ (key >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let key = (key ^ (key >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    key ^ (key >> 31)
}
