//! One document: what it is called, where it stands, its text and its typed content.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{Position, Spec};

/// The kinds of document that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Routing of one or more hosts.
    VirtualService,
    /// Balancing, limits, ejection, TLS and subsets of one host.
    DestinationRule,
    /// What a DestinationRule has no word for: one of ours, `outrigger.dev/v1`.
    DestinationPolicy,
    /// A service that the registry does not know by itself.
    ServiceEntry,
    /// One instance that does not register itself.
    WorkloadEntry,
    /// What a group of workloads may call, and on which local ports.
    Sidecar,
    /// Whether connections to a workload are mutual TLS.
    PeerAuthentication,
    /// Who may call a workload, and how.
    AuthorizationPolicy,
    /// A server that AuthorizationPolicies ask.
    ExtensionProvider,
    /// Whose tokens are verified.
    RequestAuthentication,
}

impl Kind {
    /// Every kind, in the order in which messages list them.
    pub const ALL: [Self; 10] = [
        Self::VirtualService,
        Self::DestinationRule,
        Self::DestinationPolicy,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::Sidecar,
        Self::PeerAuthentication,
        Self::AuthorizationPolicy,
        Self::ExtensionProvider,
        Self::RequestAuthentication,
    ];

    /// As written under `kind:`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::DestinationPolicy => "DestinationPolicy",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Sidecar => "Sidecar",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::ExtensionProvider => "ExtensionProvider",
            Self::RequestAuthentication => "RequestAuthentication",
        }
    }
}

/// What makes two documents the same object: applying the second replaces the first. The API version
/// is not part of it (v1alpha3, v1beta1 and v1 are one kind).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace, `default` where the document and the caller name none.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// One accepted document.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Kind, namespace, name.
    pub key: ObjectKey,
    /// `apiVersion` as written.
    pub api_version: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Where the document's first key stands.
    pub position: Position,
    /// Where [`Self::yaml`] starts, which may be a comment. [`parse_again`](crate::parse_again) takes it.
    pub text_position: Position,
    /// The text of this one document, byte for byte (without the `---`).
    pub yaml: Arc<str>,
    /// Its content.
    pub spec: Spec,
}
