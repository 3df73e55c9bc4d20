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
    /// Of the certificates that get in; None = not known.
    pub trust_domain: Option<String>,
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
    /// Its labels; None = not known: it may have any.
    pub labels: Option<BTreeMap<String, String>>,
}

impl ClientFacts {
    /// A connected sidecar, by the id of its node (`sidecar~<ip>~<service>-<port>.<ns>~<ns>.svc.<domain>`), and the start
    /// `<service>.<ns>.` of the host that its application would have registered. It need not have one: gateways and jobs
    /// only call others.
    #[must_use]
    pub fn of_node(id: &str) -> Option<(String, Self)> {
        let mut parts = id.split('~');
        let (_, _, name, domain) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let (namespace, _) = domain.split_once(".svc.")?;
        let name = name.split('.').next()?;
        let service = match name.rsplit_once('-') {
            Some((service, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => service,
            _ => name,
        };
        let client = Self {
            namespace: namespace.to_owned(),
            labels: None,
        };
        Some((format!("{service}.{namespace}."), client))
    }

    pub(super) fn has(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.as_ref().is_none_or(|own| {
            labels
                .iter()
                .all(|(name, value)| own.get(name) == Some(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_registers_nothing_is_a_client_all_the_same() {
        let (host, client) =
            ClientFacts::of_node("sidecar~10.0.0.1~batch-15080.jobs~jobs.svc.cluster.local")
                .expect("a node");
        assert_eq!(
            (host.as_str(), client.namespace.as_str()),
            ("batch.jobs.", "jobs")
        );
        assert!(
            client.has(&[("app".to_owned(), "x".to_owned())].into()),
            "its labels are not known"
        );
        assert_eq!(ClientFacts::of_node("router"), None);
    }
}
