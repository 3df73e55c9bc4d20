//! Which PeerAuthentications and AuthorizationPolicies hold for one workload.
//!
//! ```text
//! PeerAuthentication: the port's mode ─► the selected workload's ─► the namespace's ─► the mesh's ─► STRICT
//! AuthorizationPolicy: all that select the workload, in its namespace or in the root namespace
//! ```
//! Of several PeerAuthentications that say the same thing of the same workloads the oldest holds, and the others are
//! shadowed. Source: Istio's order for both kinds; its default mode is PERMISSIVE, ours STRICT.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{HostName, Mesh, select::Labels, select::includes};
use crate::{
    AuthorizationAction, AuthorizationPolicy, ExtensionProvider, Kind, MtlsMode, Object, ObjectKey,
    PeerAuthentication, Position,
};

/// A workload, as these documents look at it.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadView<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
}

/// What holds for the connections to a port of a workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerMode<'m> {
    /// How they have to be.
    pub mode: MtlsMode,
    /// What decided: the document, and where the mode stands. None = the default.
    pub decided: Option<(&'m Arc<Object>, &'m Position)>,
}

/// The documents of these kinds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Security {
    /// Oldest first.
    pub(crate) peers: Vec<(Arc<Object>, PeerAuthentication)>,
    /// By key.
    pub(crate) rules: Vec<(Arc<Object>, AuthorizationPolicy)>,
    /// Servers that are asked.
    pub(crate) providers: BTreeMap<ObjectKey, (Arc<Object>, ExtensionProvider)>,
}

/// How specific a PeerAuthentication is; the most specific last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Mesh,
    Namespace,
    Workload,
}

impl Mesh {
    /// The namespace whose documents without a selector are for the whole mesh.
    #[must_use]
    pub fn root_namespace(&self) -> &str {
        &self.root_namespace
    }

    /// How connections to `port` of a workload have to be, the one that it is registered with.
    #[must_use]
    pub fn peer_mode(&self, workload: WorkloadView<'_>, port: u16) -> PeerMode<'_> {
        self.mode(workload, port, false)
    }

    /// The same if the documents that are dry runs were in force, too. Before others of their level, whose place
    /// they are meant to take.
    #[must_use]
    pub fn peer_mode_of_dry_runs(&self, workload: WorkloadView<'_>, port: u16) -> PeerMode<'_> {
        self.mode(workload, port, true)
    }

    /// Ports of which documents for this workload say how connections have to be.
    #[must_use]
    pub fn peer_ports(&self, workload: WorkloadView<'_>) -> BTreeSet<u16> {
        let all = self.security.peers.iter();
        let here = all.filter(|(object, spec)| self.is_for(object, spec, workload));
        here.flat_map(|(_, spec)| spec.ports.keys().copied())
            .collect()
    }

    fn mode(&self, workload: WorkloadView<'_>, port: u16, dry_runs: bool) -> PeerMode<'_> {
        let at = |level| {
            let holding = || {
                let all = self.security.peers.iter();
                all.filter(move |(object, spec)| {
                    self.level(object, spec) == level && self.is_for(object, spec, workload)
                })
            };
            let real = || holding().find(|(object, _)| !object.is_dry_run());
            let tried = dry_runs.then(|| holding().find(|(object, _)| object.is_dry_run()));
            tried.flatten().or_else(real)
        };
        let modes = [Level::Workload, Level::Namespace, Level::Mesh]
            .into_iter()
            .filter_map(at)
            .find_map(|(object, spec)| {
                let of_port = spec.ports.get(&port);
                let mode = of_port.or(spec.mode.as_ref())?;
                Some(PeerMode {
                    mode: mode.value,
                    decided: Some((object, &mode.position)),
                })
            });
        modes.unwrap_or_default()
    }

    pub(crate) fn level(&self, object: &Object, spec: &PeerAuthentication) -> Level {
        if spec.selector.is_some() {
            Level::Workload
        } else if object.key.namespace == self.root_namespace {
            Level::Mesh
        } else {
            Level::Namespace
        }
    }

    /// A selector of the root namespace is for its own workloads (Istio).
    pub(crate) fn is_for(
        &self,
        object: &Object,
        spec: &PeerAuthentication,
        workload: WorkloadView<'_>,
    ) -> bool {
        let home = object.key.namespace == workload.namespace;
        match &spec.selector {
            None => home || object.key.namespace == self.root_namespace,
            Some(labels) => home && includes(workload.labels, &labels.value),
        }
    }

    /// Every AuthorizationPolicy that is for a workload, dry runs included, by key.
    pub fn authorization_policies<'m>(
        &'m self,
        workload: WorkloadView<'m>,
    ) -> impl Iterator<Item = (&'m Arc<Object>, &'m AuthorizationPolicy)> {
        let all = self.security.rules.iter();
        all.filter(move |(object, spec)| {
            let selector = spec.selector.as_ref().map(|labels| &labels.value);
            self.selects(&object.key.namespace, selector, workload)
        })
        .map(|(object, spec)| (object, spec))
    }

    /// Whether a document of `namespace` with this selector is for a workload: that of its own namespace, and, of the
    /// root namespace, of any.
    #[must_use]
    pub fn selects(
        &self,
        namespace: &str,
        selector: Option<&Labels>,
        workload: WorkloadView<'_>,
    ) -> bool {
        (namespace == workload.namespace || namespace == self.root_namespace)
            && selector.is_none_or(|labels| includes(workload.labels, labels))
    }

    /// The provider that a policy of `namespace` means by `name`: of its own namespace, else of the root namespace.
    #[must_use]
    pub fn provider(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<&(Arc<Object>, ExtensionProvider)> {
        let of = |namespace: &str| {
            self.security.providers.get(&ObjectKey {
                kind: Kind::ExtensionProvider,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        };
        of(namespace).or_else(|| of(&self.root_namespace))
    }

    /// Every provider.
    pub fn providers(&self) -> impl Iterator<Item = &(Arc<Object>, ExtensionProvider)> {
        self.security.providers.values()
    }

    /// Whether some AuthorizationPolicy asks a provider.
    #[must_use]
    pub fn is_asked(&self, provider: &Object) -> bool {
        let mut rules = self.security.rules.iter();
        rules.any(|(policy, rules)| {
            let AuthorizationAction::Custom(name) = &rules.action else {
                return false;
            };
            let asked = self.provider(&policy.key.namespace, &name.value);
            asked.is_some_and(|(asked, _)| asked.key == provider.key)
        })
    }

    /// The host of a provider's service.
    #[must_use]
    pub fn provider_host(&self, object: &Object, provider: &ExtensionProvider) -> HostName {
        let namespace = provider.namespace.as_deref();
        let namespace = namespace.unwrap_or(&object.key.namespace);
        self.host(&provider.service.value, namespace)
    }

    /// The hosts that workloads of `namespace` may have to ask.
    pub fn provider_hosts<'m>(&'m self, namespace: &'m str) -> impl Iterator<Item = HostName> {
        let policies = self.security.rules.iter().filter(move |(object, _)| {
            object.key.namespace == namespace || object.key.namespace == self.root_namespace
        });
        policies.filter_map(|(object, spec)| {
            let AuthorizationAction::Custom(name) = &spec.action else {
                return None;
            };
            let (provider, spec) = self.provider(&object.key.namespace, &name.value)?;
            Some(self.provider_host(provider, spec))
        })
    }

    /// Whether some workloads are called in plain text because a document says so.
    #[must_use]
    pub fn disables_mtls(&self) -> bool {
        let mut all = self.security.peers.iter();
        all.any(|(_, spec)| {
            let mut modes = spec.mode.iter().chain(spec.ports.values());
            modes.any(|mode| mode.value == MtlsMode::Disable)
        })
    }
}

/// Annotations that make a document a dry run: ours for every kind that can be one, and Istio's.
pub(crate) const DRY_RUN: &str = "outrigger.dev/dry-run";
/// For AuthorizationPolicies.
pub(crate) const ISTIO_DRY_RUN: &str = "istio.io/dry-run";

impl Object {
    /// What it says is counted, and not enforced.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        let says = |name| {
            self.annotations
                .get(name)
                .is_some_and(|value| value == "true")
        };
        says(DRY_RUN) || says(ISTIO_DRY_RUN)
    }
}
