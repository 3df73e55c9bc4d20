//! The DestinationRule in force for one host or subset, with Istio's inheritance applied.

use std::collections::BTreeMap;

use outrigger_policy::{
    At, ConnectionPool, HashAlgorithm, HashKey, HostName, LoadBalancer, MergedDestinationRule,
    Mesh, ObjectKey, OutlierDetection, Position, Subset, TlsMode,
};

/// Settings of a subset over those of its host: what a subset sets replaces the host's as a whole (Istio).
#[derive(Clone, Copy, Default)]
pub(super) struct Effective<'a> {
    pub(super) load_balancer: Option<&'a LoadBalancer>,
    pub(super) pool: Option<&'a ConnectionPool>,
    pub(super) outlier: Option<&'a OutlierDetection>,
    pub(super) tls: Option<TlsMode>,
}

impl<'a> Effective<'a> {
    pub(super) fn of(rule: Option<&'a MergedDestinationRule>, subset: Option<&'a Subset>) -> Self {
        let Some(rule) = rule else {
            return Self::default();
        };
        let host = &rule.rule.traffic_policy;
        let own = subset.map(|subset| &subset.traffic_policy);
        let load_balancer = own.and_then(|own| own.load_balancer.as_ref());
        let pool = own.and_then(|own| own.connection_pool.as_ref());
        let outlier = own.and_then(|own| own.outlier_detection.as_ref());
        let tls = own.and_then(|own| own.tls.as_ref());
        Self {
            load_balancer: value(load_balancer.or(host.load_balancer.as_ref())),
            pool: value(pool.or(host.connection_pool.as_ref())),
            outlier: value(outlier.or(host.outlier_detection.as_ref())),
            tls: value(tls.or(host.tls.as_ref())).copied(),
        }
    }

    /// What routes to this cluster have to hash, if it is balanced by a consistent hash.
    pub(super) fn hash_key(&self) -> Option<&'a HashKey> {
        match self.load_balancer? {
            LoadBalancer::ConsistentHash { key, .. } => Some(key),
            LoadBalancer::LeastRequest | LoadBalancer::RoundRobin | LoadBalancer::Random => None,
        }
    }

    pub(super) fn hash_algorithm(&self) -> Option<&'a HashAlgorithm> {
        match self.load_balancer? {
            LoadBalancer::ConsistentHash { algorithm, .. } => Some(algorithm),
            LoadBalancer::LeastRequest | LoadBalancer::RoundRobin | LoadBalancer::Random => None,
        }
    }
}

fn value<T>(at: Option<&At<T>>) -> Option<&T> {
    at.map(|at| &at.value)
}

/// The rule for `host`: its own, else that of the longest wildcard.
pub(super) fn rule_for<'a>(mesh: &'a Mesh, host: &HostName) -> Option<&'a MergedDestinationRule> {
    most_specific(&mesh.destination_rules, host)
}

/// `map[host]`, else `map["*.<longest suffix of host>"]`, else `map["*"]`.
pub(super) fn most_specific<'a, T>(
    map: &'a BTreeMap<HostName, T>,
    host: &HostName,
) -> Option<&'a T> {
    if let Some(found) = map.get(host) {
        return Some(found);
    }
    let mut rest = host.as_str();
    while let Some((_, suffix)) = rest.split_once('.') {
        if let Some(found) = map.get(&HostName::canonical(&format!("*.{suffix}"), "", "")) {
            return Some(found);
        }
        rest = suffix;
    }
    map.get(&HostName::canonical("*", "", ""))
}

/// The document behind a rule, or behind its subset, and where it stands.
pub(super) fn origin<'a>(
    rule: &'a MergedDestinationRule,
    subset: Option<&'a Subset>,
) -> Option<(&'a Position, &'a ObjectKey)> {
    let Some(subset) = subset else {
        return rule
            .sources
            .first()
            .map(|object| (&object.position, &object.key));
    };
    let position = &subset.name.position;
    let same_file = rule
        .sources
        .iter()
        .filter(|object| object.position.file == position.file);
    // The last document of the file that starts before the subset does.
    let before = same_file.filter(|object| object.position.line <= position.line);
    let source = before
        .max_by_key(|object| object.position.line)
        .or(rule.sources.first())?;
    Some((position, &source.key))
}
