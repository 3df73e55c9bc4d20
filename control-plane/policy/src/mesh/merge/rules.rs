//! The DestinationRules for one host: one merged rule for each set of documents that some client sees together.
//! ```text
//! documents ─┬─ with a workloadSelector: together with those of the same selector, for their own namespace
//!            └─ without: by namespace; in it, one for each group of client namespaces that sees the same
//! ```
//! Which of them holds for a client is `select`'s business.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Found, named};
use crate::{
    Code, DestinationRule, ExportTo, HostName, MergedDestinationRule, Object, Subset, TrafficPolicy,
};

/// A document.
type Document<'a> = (&'a Arc<Object>, &'a DestinationRule);

/// The rules for one host that the documents of one namespace make.
#[derive(Clone, Debug, Default)]
pub struct NamespaceRules {
    /// Of documents without a `workloadSelector`: each combination that some client sees.
    merged: Vec<MergedDestinationRule>,
    /// Which of them holds for clients of namespaces that an `exportTo` names.
    named: BTreeMap<String, Option<usize>>,
    /// For clients of all other namespaces.
    other: Option<usize>,
    /// Of documents with a `workloadSelector`, by name; for clients of the namespace itself.
    selecting: Vec<MergedDestinationRule>,
}

impl NamespaceRules {
    /// What holds for clients of `namespace` that no selector takes.
    pub(crate) fn seen_from(&self, namespace: &str) -> Option<&MergedDestinationRule> {
        let index = self.named.get(namespace).copied().unwrap_or(self.other)?;
        self.merged.get(index)
    }

    /// Those with a `workloadSelector`.
    pub(in crate::mesh) fn selecting(&self) -> &[MergedDestinationRule] {
        &self.selecting
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &MergedDestinationRule> {
        self.selecting.iter().chain(&self.merged)
    }
}

/// `documents` are all of `namespace`.
pub(super) fn merge(
    host: &HostName,
    namespace: &str,
    documents: &[Document<'_>],
    found: &mut Found,
) -> NamespaceRules {
    let mut by_age = documents.to_vec();
    by_age.sort_by_key(|(object, _)| found.age(object));
    let by_age = without_contradictions(host, by_age, found);
    let (selecting, plain): (Vec<_>, Vec<_>) = by_age
        .iter()
        .partition(|kept| kept.rule().workload_selector.is_some());

    let mut rules = NamespaceRules::default();
    let mut known: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    let mut class = |rules: &mut NamespaceRules, sees: &dyn Fn(&ExportTo) -> bool| {
        let seen = plain.iter().enumerate();
        let seen = seen.filter(|(_, kept)| sees(&kept.rule().export_to));
        let (numbers, seen): (Vec<usize>, Vec<&Kept<'_>>) = seen.unzip();
        if let Some(index) = known.get(&numbers) {
            return Some(*index);
        }
        rules.merged.push(together(host, &seen)?);
        let index = rules.merged.len() - 1;
        known.insert(numbers, index);
        Some(index)
    };
    rules.other = class(&mut rules, &|export_to| *export_to == ExportTo::All);
    let names: BTreeSet<&String> = plain
        .iter()
        .filter_map(|kept| match &kept.rule().export_to {
            ExportTo::Only(names) => Some(names),
            ExportTo::All => None,
        })
        .flatten()
        .collect();
    for name in names {
        let index = class(&mut rules, &|export_to| export_to.includes(name));
        rules.named.insert(name.clone(), index);
    }

    let mut by_selector: BTreeMap<&BTreeMap<String, String>, Vec<&Kept<'_>>> = BTreeMap::new();
    for kept in selecting {
        if let Some(selector) = &kept.rule().workload_selector
            && kept.rule().export_to.includes(namespace)
        {
            by_selector.entry(&selector.value).or_default().push(kept);
        }
    }
    let merged = by_selector.values();
    rules.selecting = merged.filter_map(|kept| together(host, kept)).collect();
    let first = |rule: &MergedDestinationRule| rule.sources.first().map(|o| o.key.clone());
    rules.selecting.sort_by_key(first);
    rules
}

/// A document, and what of it does not contradict an older one.
struct Kept<'a> {
    document: Document<'a>,
    policy: bool,
    subsets: BTreeMap<&'a str, &'a Subset>,
}

impl Kept<'_> {
    fn rule(&self) -> &DestinationRule {
        self.document.1
    }
}

/// Whether one client could have both rules at once, so that they have to be merged.
fn together_for_some(a: &DestinationRule, b: &DestinationRule) -> bool {
    let same = match (&a.workload_selector, &b.workload_selector) {
        (Some(a), Some(b)) => a.value == b.value,
        (None, None) => true,
        _ => false,
    };
    same && a.export_to.meets(&b.export_to)
}

/// Refuses what an older document for the same clients says already. Oldest first.
fn without_contradictions<'a>(
    host: &HostName,
    by_age: Vec<Document<'a>>,
    found: &mut Found,
) -> Vec<Kept<'a>> {
    let mut kept: Vec<Kept<'a>> = Vec::new();
    for (object, rule) in by_age {
        let others: Vec<&Kept<'_>> = kept
            .iter()
            .filter(|other| together_for_some(rule, other.rule()))
            .collect();
        let has_policy = !rule.traffic_policy.is_empty();
        let policy_of = others.iter().find(|other| has_policy && other.policy);
        if let Some(other) = policy_of {
            let position = rule.traffic_policy.position();
            let message = format!(
                "{host} has a traffic policy already, in {}; keep one of them",
                named(other.document.0)
            );
            let position = position.unwrap_or(&rule.host.position);
            let path = "spec.trafficPolicy";
            found.error(Code::PolicyInTwo, object, position, path, message);
        }
        let policy = has_policy && policy_of.is_none();
        let mut subsets = BTreeMap::new();
        for (index, subset) in rule.subsets.iter().enumerate() {
            let name = subset.name.value.as_str();
            let Some(other) = others.iter().find(|other| other.subsets.contains_key(name)) else {
                subsets.insert(name, subset);
                continue;
            };
            let message = format!(
                "{host} has a subset {name:?} already, in {}; rename or remove one",
                named(other.document.0)
            );
            let path = format!("spec.subsets[{index}].name");
            let position = &subset.name.position;
            found.error(Code::SubsetInTwo, object, position, path, message);
        }
        kept.push(Kept {
            document: (object, rule),
            policy,
            subsets,
        });
    }
    kept
}

/// One rule out of documents that do not contradict each other: all subsets, and the policy of the one that has one.
/// By name, so that the result does not depend on which document came first. None = no documents.
fn together(host: &HostName, kept: &[&Kept<'_>]) -> Option<MergedDestinationRule> {
    let mut by_name = kept.to_vec();
    by_name.sort_by(|a, b| a.document.0.key.cmp(&b.document.0.key));
    let mut subsets = BTreeMap::new();
    let mut traffic_policy = TrafficPolicy::default();
    for kept in &by_name {
        if kept.policy {
            traffic_policy = kept.rule().traffic_policy.clone();
        }
        for (name, subset) in &kept.subsets {
            subsets.insert(*name, (*subset).clone());
        }
    }
    let first = by_name.first()?.rule();
    Some(MergedDestinationRule {
        host: host.clone(),
        sources: by_name
            .iter()
            .map(|kept| Arc::clone(kept.document.0))
            .collect(),
        rule: DestinationRule {
            host: first.host.clone(),
            traffic_policy,
            subsets: subsets.into_values().collect(),
            export_to: first.export_to.clone(),
            workload_selector: first.workload_selector.clone(),
        },
    })
}
