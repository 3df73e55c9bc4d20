//! All documents together: hosts made canonical, rules for one host merged, contradictions refused.
//! ```text
//! objects ─names─► canonical hosts ─merge─► one rule set for each host ─check─► diagnostics
//!                                                   └─select─► what holds for one host or workload
//! ```
//! Deterministic: the mesh depends on the set of documents alone; their order only says which of two
//! contradicting documents is the newer one, where the error is shown.

mod check;
mod clients;
mod delegate;
mod merge;
mod names;
mod security;
mod select;
#[cfg(test)]
mod tests;
mod token;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(crate) use self::security::{DRY_RUN, ISTIO_DRY_RUN};
pub use self::{
    merge::NamespaceRules,
    names::HostName,
    security::{PeerMode, WorkloadView},
};
use self::{names::Names, security::Security};
use crate::{
    DestinationPolicy, DestinationRule, Diagnostic, HttpRoute, Object, ObjectKey,
    RequestAuthentication, ServiceEntry, Sidecar, TcpRoute, TlsRoute, WorkloadEntry,
};

/// What the mesh is built from.
#[derive(Clone, Debug)]
pub struct MeshInput<'a> {
    /// Stored and new objects, one per key, oldest first: of two that contradict each other the later
    /// one gets the error.
    pub objects: &'a [Arc<Object>],
    /// DNS domain of the mesh, e.g. `cluster.local`.
    pub domain: &'a str,
    /// Namespace whose security documents are for the whole mesh, e.g. `istio-system`.
    pub root_namespace: &'a str,
    /// Canonical hosts that the registry knows (self-registered services).
    pub registered: &'a BTreeSet<HostName>,
}

/// All rules for one host, in the order in which they are tried, whoever sees them.
/// [`Mesh::virtual_service_for`] leaves out what is not for a client.
#[derive(Clone, Debug)]
pub struct MergedVirtualService {
    /// Host.
    pub host: HostName,
    /// Rules, each with the document it came from.
    pub http: Vec<(Arc<Object>, HttpRoute)>,
    /// Rules for TLS that is passed through.
    pub tls: Vec<(Arc<Object>, TlsRoute)>,
    /// Rules for other connections.
    pub tcp: Vec<(Arc<Object>, TcpRoute)>,
}

/// A DestinationRule in force for a host and some of its clients.
#[derive(Clone, Debug)]
pub struct MergedDestinationRule {
    /// Host.
    pub host: HostName,
    /// The documents it came from.
    pub sources: Vec<Arc<Object>>,
    /// The rule.
    pub rule: DestinationRule,
}

/// Documents by namespace.
pub type NamespacePolicies = BTreeMap<String, (Arc<Object>, DestinationPolicy)>;

/// One consistent set of policies.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// By host, exact names and `*.suffix` alike.
    pub virtual_services: BTreeMap<HostName, MergedVirtualService>,
    /// By host and namespace of the documents. Which holds for a client: [`Mesh::destination_rule_for`].
    pub destination_rules: BTreeMap<HostName, BTreeMap<String, NamespaceRules>>,
    /// By host; several entries may add endpoints to one host.
    pub service_entries: BTreeMap<HostName, Vec<(Arc<Object>, ServiceEntry)>>,
    /// WorkloadEntry documents.
    pub workload_entries: BTreeMap<ObjectKey, (Arc<Object>, WorkloadEntry)>,
    /// Sidecar documents by key.
    pub sidecars: BTreeMap<ObjectKey, (Arc<Object>, Sidecar)>,
    /// By host and subset (`""` = the host's own), then by namespace. Which holds for a client:
    /// [`Mesh::destination_policy_for`].
    pub destination_policies: BTreeMap<(HostName, String), NamespacePolicies>,
    /// What each delegating rule came to.
    pub(crate) delegated: Vec<Delegated>,
    /// Who may call whom.
    pub(crate) security: Security,
    /// Whose tokens are verified, by name.
    pub(crate) tokens: Vec<(Arc<Object>, RequestAuthentication)>,
    root_namespace: String,
    names: Names,
}

/// A delegate's rule, with what it took from the rule that delegates to it.
#[derive(Clone, Debug)]
pub(crate) struct Delegated {
    /// The document that delegates.
    pub(crate) root: Arc<Object>,
    /// Its rule.
    pub(crate) root_index: usize,
    /// The delegate.
    pub(crate) leaf: Arc<Object>,
    /// Its rule.
    pub(crate) leaf_index: usize,
    /// Both together.
    pub(crate) rule: HttpRoute,
}

/// Who asks: what `sourceLabels`, `sourceNamespace`, `exportTo` and a rule's `workloadSelector` look at.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Namespace of the calling workload.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

impl Mesh {
    /// Merges all documents. Errors (unknown subset, two documents that contradict each other) mean that
    /// the newest document is to be refused; warnings (a host that nobody serves yet) do not. With
    /// errors the mesh is what is left when the contradicting parts of the newer documents are ignored.
    #[must_use]
    pub fn build(input: &MeshInput<'_>) -> (Self, Vec<Diagnostic>) {
        let (mesh, mut found) = merge::merge(input);
        check::check(&mesh, input, &mut found);
        (mesh, found.into_diagnostics())
    }
}
