//! What holds for one host, one subset or one workload.

use std::{collections::BTreeMap, sync::Arc};

use super::{Client, HostName, MergedVirtualService, Mesh, NamespacePolicies};
use crate::{
    DestinationPolicy, EgressHost, Object, Position, ServiceEntry, Sidecar, Subset, TrafficPolicy,
    WorkloadEntry, suggest,
};

/// Labels by name.
pub(super) type Labels = BTreeMap<String, String>;

impl Mesh {
    /// Makes a host canonical that a document of `namespace` names: as [`HostName::canonical`], and
    /// `name.ns` becomes `name.ns.svc.<domain>` where `ns` has a document or a registered service.
    #[must_use]
    pub fn host(&self, written: &str, namespace: &str) -> HostName {
        self.names.resolve(written, namespace)
    }

    /// Whether an instance has registered for `host`, or a ServiceEntry names it.
    #[must_use]
    pub fn knows(&self, host: &HostName) -> bool {
        self.names.is_registered(host) || self.service_entries.contains_key(host)
    }

    /// Whether an instance has registered for `host`.
    pub(crate) fn is_registered(&self, host: &HostName) -> bool {
        self.names.is_registered(host)
    }

    /// A host that somebody serves and that is written nearly so. Names of the mesh are compared without what all of
    /// them end with.
    pub(crate) fn served_like(&self, host: &HostName) -> Option<String> {
        let own = self.names.written(host);
        let known = self.known_hosts();
        let alike = known.filter(|known| self.names.written(known).is_some() == own.is_some());
        let names = alike.map(|known| self.names.written(known).unwrap_or(known.as_str()));
        let near = suggest::nearest(own.unwrap_or(host.as_str()), names)?;
        let end = own.and_then(|own| host.as_str().strip_prefix(own));
        Some(format!("{near}{}", end.unwrap_or_default()))
    }

    /// Namespaces of the documents and of the registered hosts.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.names.namespaces()
    }

    /// `*.shop.svc.cluster.local` for `*.shop`, where that is a namespace.
    pub(crate) fn wildcard_of_namespace(&self, written: &str) -> Option<String> {
        let namespace = written.strip_prefix("*.")?;
        let known = self.namespaces().any(|known| known == namespace);
        known.then(|| self.names.wildcard_of(namespace))
    }

    pub(crate) fn known_hosts(&self) -> impl Iterator<Item = &HostName> {
        self.names.registered().chain(self.service_entries.keys())
    }

    /// Rules for `host`: its own, else those of the longest `*.suffix`.
    #[must_use]
    pub fn virtual_service(&self, host: &HostName) -> Option<&MergedVirtualService> {
        nearest(&self.virtual_services, host)
    }

    /// The subset `name` of `host`.
    #[must_use]
    pub fn subset(&self, host: &HostName, name: &str) -> Option<&Subset> {
        self.destination_rule(host)?.rule.subset(name)
    }

    /// Further policy for `host`, or for one subset of it (its own, else the host's): of the client's namespace, else of
    /// the service's, as with DestinationRules. One of a third namespace is for that one's calls; a host that belongs to
    /// no namespace has the first one's by name.
    #[must_use]
    pub fn destination_policy_for(
        &self,
        host: &HostName,
        subset: Option<&str>,
        client: Client<'_>,
    ) -> Option<&(Arc<Object>, DestinationPolicy)> {
        let all = |subset: &str| {
            self.destination_policies
                .get(&(host.clone(), subset.to_owned()))
        };
        let (own, whole) = (subset.and_then(all), all(""));
        let of = |home: &str| {
            let own = own.and_then(|by_home| by_home.get(home));
            own.or_else(|| whole?.get(home))
        };
        if let Some(policy) = of(client.namespace) {
            return Some(policy);
        }
        let mut homes = self.namespaces_of(host).peekable();
        if homes.peek().is_some() {
            return homes.find_map(of);
        }
        let first = |by_home: Option<&'_ NamespacePolicies>| by_home?.keys().next().cloned();
        [first(own), first(whole)]
            .into_iter()
            .flatten()
            .min()
            .and_then(|home| of(&home))
    }

    /// Namespaces of which a DestinationPolicy is for `host` or a subset of it.
    pub fn policy_namespaces(&self, host: &HostName) -> impl Iterator<Item = &str> {
        let first = (host.clone(), String::new());
        self.destination_policies
            .range(first..)
            .take_while(move |((of, _), _)| of == host)
            .flat_map(|(_, by_home)| by_home.keys().map(String::as_str))
    }

    /// The Sidecar for a workload: one that selects its labels, else the namespace's. Of several, the
    /// first by name.
    #[must_use]
    pub fn sidecar_for(&self, namespace: &str, labels: &Labels) -> Option<&(Arc<Object>, Sidecar)> {
        let here = || {
            self.sidecars
                .values()
                .filter(|(object, _)| object.key.namespace == namespace)
        };
        let selecting = here().find(|(_, sidecar)| {
            let selector = sidecar.workload_selector.as_ref();
            selector.is_some_and(|selector| includes(labels, selector))
        });
        selecting.or_else(|| here().find(|(_, sidecar)| sidecar.workload_selector.is_none()))
    }

    /// WorkloadEntry documents that `entry`, a document of `namespace`, selects.
    pub fn selected_workloads<'m>(
        &'m self,
        namespace: &'m str,
        entry: &'m ServiceEntry,
    ) -> impl Iterator<Item = &'m (Arc<Object>, WorkloadEntry)> {
        self.workload_entries
            .values()
            .filter(move |(object, workload)| {
                object.key.namespace == namespace && entry.selects(&workload.labels)
            })
    }

    /// Namespaces that `host` belongs to: the one in its name, else those of its ServiceEntries.
    pub fn namespaces_of<'m>(&'m self, host: &'m HostName) -> impl Iterator<Item = &'m str> {
        let by_name = self.names.namespace(host);
        let entries = self.service_entries.get(host).filter(|_| by_name.is_none());
        let by_entry = entries.into_iter().flatten();
        by_name
            .into_iter()
            .chain(by_entry.map(|(object, _)| object.key.namespace.as_str()))
    }

    /// Whether an egress host of a Sidecar in `own_namespace` makes `host` callable.
    #[must_use]
    pub fn admits(&self, own_namespace: &str, pattern: &EgressHost, host: &HostName) -> bool {
        let home = match pattern.namespace.as_str() {
            "~" => return false,
            "*" => None,
            "." => Some(own_namespace),
            name => Some(name),
        };
        if home.is_some_and(|home| !self.namespaces_of(host).any(|namespace| namespace == home)) {
            return false;
        }
        match pattern.host.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => host.as_str().ends_with(&suffix.to_ascii_lowercase()),
            None => self.host(&pattern.host, home.unwrap_or(own_namespace)) == *host,
        }
    }

    /// Whether any egress listener of `sidecar`, a document of `own_namespace`, makes `host` callable.
    #[must_use]
    pub fn sees(&self, own_namespace: &str, sidecar: &Sidecar, host: &HostName) -> bool {
        let mut patterns = sidecar.egress.iter().flat_map(|listener| &listener.hosts);
        patterns.any(|pattern| self.admits(own_namespace, &pattern.value, host))
    }
}

fn nearest<'m, T>(map: &'m BTreeMap<HostName, T>, host: &HostName) -> Option<&'m T> {
    map.get(host)
        .or_else(|| host.wildcards().find_map(|wildcard| map.get(&wildcard)))
}

/// Whether `labels` has everything that `selector` asks for.
pub(super) fn includes(labels: &Labels, selector: &Labels) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

impl ServiceEntry {
    /// Whether its selector, if it has one, is met by `labels`.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.workload_selector
            .as_ref()
            .is_some_and(|selector| includes(labels, selector))
    }
}

impl Subset {
    /// Whether an endpoint with `labels` belongs to it.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        includes(labels, &self.labels)
    }
}

impl TrafficPolicy {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.position().is_none() && self.ports.is_empty()
    }

    /// Where the first of its parts stands.
    pub(super) fn position(&self) -> Option<&Position> {
        [
            self.load_balancer.as_ref().map(|part| &part.position),
            self.connection_pool.as_ref().map(|part| &part.position),
            self.outlier_detection.as_ref().map(|part| &part.position),
            self.tls.as_ref().map(|part| &part.position),
            self.retry_budget.as_ref().map(|part| &part.position),
            self.proxy_protocol.as_ref().map(|part| &part.position),
        ]
        .into_iter()
        .chain(self.ports.values().map(|own| own.policy.position()))
        .flatten()
        .min()
    }
}
