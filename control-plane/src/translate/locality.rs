//! Which endpoints a caller prefers for where it is: `localityLbSetting`, and failover by distance where endpoints
//! are ejected.
//!
//! ```text
//! distribute        weights a locality, by the caller's; the rest gets nothing
//! failoverPriority  priority = labels that the caller and the endpoint have alike, the most important first
//! failover          ... then by distance: sub-zone 0, zone 1, region 2, region named for it 3, rest 4
//! ```
//! Priorities are dense from 0. Pure; it never looks at health, which is the client's business.
//! Source: Istio's `ApplyLocalityLoadBalancer`, `applyPriorityFailover`, `applyLocalityFailover`, `LbPriority`.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_policy::{Distribute, LoadBalancer, TrafficPolicy};

use super::caller::Labels;

/// Region, zone, sub-zone.
pub(super) type Locality = [String; 3];

/// What percentages are multiplied by, so that shares of a percent survive whole numbers.
const PERCENT: u64 = 1000;
/// Names of labels that a locality is as good as (Kubernetes' and Istio's).
const TOPOLOGY: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

/// Where a caller is, as far as somebody asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// None if it does not say.
    pub(super) locality: Option<Locality>,
    /// The labels that a `failoverPriority` names.
    pub(super) labels: Labels,
}

/// How callers of one cluster prefer some endpoints.
#[derive(Clone, Debug)]
pub(super) enum Preference {
    /// So much of the traffic to each locality.
    Distribute(Vec<Distribute>),
    /// The nearest first.
    Failover {
        /// `failoverPriority`.
        labels: Vec<String>,
        /// By distance, and `failover`. None = not by distance.
        regions: Option<Vec<(String, String)>>,
    },
}

/// Endpoints with one locality and priority.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group<E> {
    pub(super) locality: Locality,
    pub(super) priority: u32,
    pub(super) weight: u32,
    pub(super) members: Vec<E>,
}

/// An endpoint, as far as it matters here.
pub(super) trait Located {
    fn locality(&self) -> &Locality;
    fn labels(&self) -> &Labels;
    fn weight(&self) -> u32;
}

/// Whether callers are told which share goes where.
pub(super) fn distributes(balancer: &LoadBalancer) -> bool {
    let setting = balancer.locality.as_ref();
    setting.is_some_and(|setting| setting.enabled && !setting.distribute.is_empty())
}

/// By locality alone, all with the same priority: what a caller gets that prefers nothing.
pub(super) fn plain<E: Located>(endpoints: impl IntoIterator<Item = E>) -> Vec<Group<E>> {
    grouped(endpoints.into_iter().map(|endpoint| (0, endpoint)))
}

impl Preference {
    /// Failover needs ejection: nobody would notice otherwise that the near endpoints fail (Istio).
    pub(super) fn of(policy: &TrafficPolicy) -> Option<Self> {
        let balancer = policy.load_balancer.as_ref().map(|at| &at.value);
        let setting = balancer.and_then(|balancer| balancer.locality.as_ref());
        if setting.is_some_and(|setting| !setting.enabled) {
            return None;
        }
        if let Some(setting) = setting.filter(|setting| !setting.distribute.is_empty()) {
            return Some(Self::Distribute(setting.distribute.clone()));
        }
        policy.outlier_detection.as_ref()?;
        let labels = setting.map_or_else(Vec::new, |setting| setting.failover_priority.clone());
        let failover = setting.map_or_else(Vec::new, |setting| setting.failover.clone());
        let by_distance = labels.is_empty() || !failover.is_empty();
        Some(Self::Failover {
            labels,
            regions: by_distance.then_some(failover),
        })
    }

    /// Whether two callers may get different answers for `endpoints`.
    pub(super) fn matters<E: Located>(&self, endpoints: impl IntoIterator<Item = E>) -> bool {
        let mut endpoints = endpoints.into_iter();
        let Some(first) = endpoints.next() else {
            return false;
        };
        match self {
            Self::Distribute(_) => true,
            Self::Failover { labels, .. } if labels.is_empty() => {
                endpoints.any(|other| other.locality() != first.locality())
            }
            Self::Failover { .. } => endpoints.next().is_some(),
        }
    }

    /// Labels of callers that it looks at.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        let names = match self {
            Self::Distribute(_) => &[][..],
            Self::Failover { labels, .. } => labels,
        };
        names.iter().map(|name| match name.split_once('=') {
            Some((name, _)) => name,
            None => name,
        })
    }

    /// What a caller at `place` gets.
    pub(super) fn arrange<E: Located>(
        &self,
        place: &Place,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Vec<Group<E>> {
        match self {
            Self::Distribute(shares) => distribute(shares, place, plain(endpoints)),
            Self::Failover { labels, regions } => {
                let wanted = wanted(labels, place);
                let regions = regions.as_ref().zip(place.locality.as_ref());
                let ranked = endpoints.into_iter().map(|endpoint| {
                    let by_labels = rank_by_labels(&wanted, &endpoint);
                    let by_distance = regions.map_or(0, |(failover, from)| {
                        distance(from, endpoint.locality(), failover)
                    });
                    ((by_labels, by_distance), endpoint)
                });
                let ranked: Vec<_> = ranked.collect();
                let ranks: BTreeSet<_> = ranked.iter().map(|(rank, _)| *rank).collect();
                // Without gaps: gRPC refuses an assignment that has one.
                let dense: BTreeMap<_, u32> = ranks.into_iter().zip(0..).collect();
                grouped(ranked.into_iter().map(|(rank, endpoint)| {
                    (dense.get(&rank).copied().unwrap_or_default(), endpoint)
                }))
            }
        }
    }
}

fn grouped<E: Located>(endpoints: impl Iterator<Item = (u32, E)>) -> Vec<Group<E>> {
    let mut groups = BTreeMap::<(u32, Locality), Group<E>>::new();
    for (priority, endpoint) in endpoints {
        let locality = endpoint.locality().clone();
        let group = groups
            .entry((priority, locality.clone()))
            .or_insert_with(|| Group {
                locality,
                priority,
                weight: 0,
                members: Vec::new(),
            });
        group.weight = group.weight.saturating_add(endpoint.weight());
        group.members.push(endpoint);
    }
    groups.into_values().collect()
}

/// Each label with the value that an endpoint should have.
fn wanted<'a>(labels: &'a [String], place: &'a Place) -> Vec<(&'a str, &'a str)> {
    let wanted = labels.iter().map(|label| match label.split_once('=') {
        Some((name, value)) => (name, value),
        None => (
            label.as_str(),
            label_of(label, &place.labels, place.locality.as_ref()),
        ),
    });
    wanted.collect()
}

/// 0 if all labels agree; the earlier the first that does not, the more.
fn rank_by_labels(wanted: &[(&str, &str)], endpoint: &impl Located) -> usize {
    let agrees = |(name, value): &(&str, &str)| {
        label_of(name, endpoint.labels(), Some(endpoint.locality())) == *value
    };
    let first = wanted.iter().position(|label| !agrees(label));
    first.map_or(0, |first| wanted.len() - first)
}

/// One that is missing is as good as an empty one (Istio).
fn label_of<'a>(name: &str, labels: &'a Labels, locality: Option<&'a Locality>) -> &'a str {
    let topology = || {
        let part = TOPOLOGY.iter().position(|known| *known == name)?;
        locality?.get(part)
    };
    labels
        .get(name)
        .or_else(topology)
        .map_or("", String::as_str)
}

fn distance(from: &Locality, to: &Locality, failover: &[(String, String)]) -> u8 {
    let same = from.iter().zip(to).take_while(|(from, to)| from == to);
    match same.count() {
        3 => 0,
        2 => 1,
        1 => 2,
        _ => {
            let [from, ..] = from;
            let [to, ..] = to;
            let named = failover.iter().find(|(region, _)| region == from);
            if named.is_none_or(|(_, wanted)| wanted == to) {
                3
            } else {
                4
            }
        }
    }
}

/// The first entry for callers from `place`; without one, everybody as it is.
fn distribute<E: Located>(
    shares: &[Distribute],
    place: &Place,
    groups: Vec<Group<E>>,
) -> Vec<Group<E>> {
    let nowhere = Locality::default();
    let from = place.locality.as_ref().unwrap_or(&nowhere);
    let Some(entry) = shares.iter().find(|entry| matches(&entry.from, from)) else {
        return groups;
    };
    // Of several patterns the first takes a locality; `parse` refuses those that overlap.
    let share_of = |locality: &Locality| {
        let mut to = entry.to.iter().enumerate();
        to.find(|(_, (pattern, _))| matches(pattern, locality))
            .map(|(index, (_, percent))| (index, *percent))
    };
    let mut totals = BTreeMap::<usize, u64>::new();
    for group in &groups {
        if let Some((index, _)) = share_of(&group.locality) {
            *totals.entry(index).or_default() += u64::from(group.weight);
        }
    }
    let weighted = groups.into_iter().filter_map(|group| {
        let (index, percent) = share_of(&group.locality)?;
        let total = totals.get(&index).copied().unwrap_or_default().max(1);
        let share = u64::from(percent) * PERCENT;
        let weight = (u64::from(group.weight) * share).div_ceil(total);
        Some(Group {
            weight: u32::try_from(weight).unwrap_or(u32::MAX).max(1),
            ..group
        })
    });
    weighted.collect()
}

/// `region/zone/sub_zone`; later parts may be missing or `*`, the first `*`.
fn matches(pattern: &str, locality: &Locality) -> bool {
    let mut parts = pattern.split('/').zip(locality);
    parts.all(|(pattern, part)| pattern == "*" || pattern.is_empty() || pattern == part)
}

#[cfg(test)]
mod tests;
