//! Who asks, as far as policies look at it: `sourceLabels`, `sourceNamespace`, `exportTo`, `workloadSelector`.
//!
//! A caller carries only those of its labels that some document asks for. Two callers that are equal see the same, so
//! that a mesh whose documents ask for none has one caller a namespace.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_policy::{Client, ExportTo, HostName, Mesh, Object, Spec};

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

    /// Whether it is what a match asks of the source.
    pub(super) fn is(&self, labels: &Labels, namespace: Option<&str>) -> bool {
        namespace.is_none_or(|namespace| namespace == self.namespace)
            && labels
                .iter()
                .all(|(name, value)| self.labels.get(name) == Some(value))
    }

    /// Whether `document` is for it.
    pub(super) fn is_shown(&self, document: &Object) -> bool {
        export_of(document).is_none_or(|export| export.includes(&self.namespace))
    }
}

/// Whether some callers are not shown `document`.
pub(super) fn is_hidden_from_some(document: &Object) -> bool {
    export_of(document).is_some_and(|export| *export != ExportTo::All)
}

/// Whether it depends on the caller which rule holds for `host`.
pub(super) fn is_by_caller(mesh: &Mesh, host: &HostName) -> bool {
    let sources = mesh.destination_rule(host).into_iter();
    let mut specs = sources
        .flat_map(|rule| &rule.sources)
        .map(|source| &source.spec);
    specs.any(|spec| match spec {
        Spec::DestinationRule(rule) => {
            rule.export_to != ExportTo::All || rule.workload_selector.is_some()
        }
        _ => false,
    })
}

fn export_of(document: &Object) -> Option<&ExportTo> {
    match &document.spec {
        Spec::VirtualService(spec) => Some(&spec.export_to),
        Spec::DestinationRule(spec) => Some(&spec.export_to),
        _ => None,
    }
}
