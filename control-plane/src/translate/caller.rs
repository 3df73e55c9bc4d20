//! Who asks, as far as policies look at it: `sourceLabels`, `sourceNamespace`, `exportTo`, `workloadSelector`.
//!
//! A caller carries only those of its labels that some document asks for. Two callers that are equal see the same, so
//! that a mesh whose documents ask for none has one caller a namespace.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_policy::{
    Client, ConnectionMatch, ExportTo, HostName, HttpMatch, MergedVirtualService, Mesh, Object,
    Spec,
};

use super::node::NodeInfo;

/// Labels by name.
pub(super) type Labels = BTreeMap<String, String>;

/// The client of a request, as documents see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    pub(super) namespace: String,
    /// Those that a document asks for.
    pub(super) labels: Labels,
}

/// Sets of labels that documents ask of callers, with the namespace that they ask it in.
pub(super) type Selectors = BTreeSet<(Option<String>, Labels)>;

impl Caller {
    /// A node with the labels that `selectors` ask for. What it has of these is as good as all that it has: a selector
    /// that the node does not meet is not met by a part of its labels either.
    pub(super) fn of(node: &NodeInfo, selectors: &Selectors) -> Self {
        let here = selectors.iter().filter(|(namespace, labels)| {
            let mut labels = labels.iter();
            namespace
                .as_ref()
                .is_none_or(|name| *name == node.namespace)
                && labels.all(|(name, value)| node.labels.get(name) == Some(value))
        });
        Self {
            namespace: node.namespace.clone(),
            labels: here.flat_map(|(_, labels)| labels.clone()).collect(),
        }
    }

    /// As the policy crate wants it.
    pub(super) fn client(&self) -> Client<'_> {
        Client {
            namespace: &self.namespace,
            labels: &self.labels,
        }
    }
}

/// Whether callers are told apart by the rules and policies that some of them have for `host`.
pub(super) fn is_by_caller(mesh: &Mesh, host: &HostName) -> bool {
    let mut home = None;
    let homes: BTreeSet<&str> = mesh.namespaces_of(host).collect();
    let mut sources = mesh
        .destination_rules_of(host)
        .flat_map(|rule| &rule.sources);
    let policies: BTreeSet<&str> = mesh.policy_namespaces(host).collect();
    let of_third = |home: &&str| !homes.is_empty() && !homes.contains(home);
    if policies.len() > 1 || policies.iter().any(of_third) {
        return true;
    }
    sources.any(|source| {
        let namespace = &source.key.namespace;
        // Rules of the service's namespace for everybody: the most specific is everybody's.
        let elsewhere = *home.get_or_insert(namespace) != namespace
            || !(homes.is_empty() || homes.contains(namespace.as_str()));
        let for_all = match &source.spec {
            Spec::DestinationRule(rule) => {
                rule.export_to == ExportTo::All && rule.workload_selector.is_none()
            }
            _ => true,
        };
        elsewhere || !for_all
    })
}

/// Whether callers are told apart by some of `rules`, those for connections included: whoever sees none of a host's
/// rules has those of its wildcard, for requests, too.
pub(super) fn tells_callers_apart(rules: &MergedVirtualService) -> bool {
    let asks = |one: &HttpMatch| !one.source_labels.is_empty() || one.source_namespace.is_some();
    let mut http = rules.http.iter();
    if http.any(|(_, rule)| rule.export_to != ExportTo::All || rule.matches.iter().any(asks)) {
        return true;
    }
    let asks =
        |one: &ConnectionMatch| !one.source_labels.is_empty() || one.source_namespace.is_some();
    let for_some = |object: &Object| match &object.spec {
        Spec::VirtualService(spec) => spec.export_to != ExportTo::All,
        _ => false,
    };
    let mut tls = rules.tls.iter();
    let mut tcp = rules.tcp.iter();
    tls.any(|(object, rule)| for_some(object) || rule.matches.iter().any(|one| asks(&one.common)))
        || tcp.any(|(object, rule)| for_some(object) || rule.matches.iter().any(asks))
}
