//! Who asks, as far as policies look at it: `sourceLabels`, `sourceNamespace`, `exportTo`, `workloadSelector`.
//!
//! A caller carries only those of its labels that some document asks for. Two callers that are equal see the same, so
//! that a mesh whose documents ask for none has one caller a namespace.

use std::collections::BTreeMap;

use outrigger_policy::{Client, ExportTo, MergedDestinationRule, Object, Spec};

/// Labels by name.
pub(super) type Labels = BTreeMap<String, String>;

/// The client of a request, as documents see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    pub(super) namespace: String,
    /// Those that a document asks for.
    pub(super) labels: Labels,
}

impl Caller {
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

/// Whether it depends on the caller which rule holds, where `rule` is one that may.
pub(super) fn is_by_caller(rule: Option<&MergedDestinationRule>) -> bool {
    let sources = rule.into_iter().flat_map(|rule| &rule.sources);
    let mut specs = sources.map(|source| &source.spec);
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
