//! What is known of running instances and of the workloads that call: given by the caller, never looked up here.

use std::collections::BTreeMap;

use crate::{HostName, Protocol};

/// Who runs.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// By host.
    pub services: BTreeMap<HostName, ServiceFacts>,
    /// Workloads that have a sidecar. Empty = not known.
    pub clients: Vec<ClientFacts>,
}

/// One service.
#[derive(Clone, Debug, Default)]
pub struct ServiceFacts {
    /// Its ports; None = the protocol is not known.
    pub ports: BTreeMap<u16, Option<Protocol>>,
    /// Its instances.
    pub endpoints: Vec<EndpointFacts>,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointFacts {
    /// Address and port.
    pub address: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// It expects mutual TLS of the mesh.
    pub mtls: bool,
}

/// One workload that calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl ClientFacts {
    pub(super) fn has(&self, labels: &BTreeMap<String, String>) -> bool {
        labels
            .iter()
            .all(|(name, value)| self.labels.get(name) == Some(value))
    }
}
