//! What every check needs: the mesh, who runs, where a field stands, and the list of findings.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Analysis, ClientFacts, EndpointFacts, Inventory, written::Written};
use crate::{
    At, Code, Diagnostic, HostName, HttpAction, Mesh, Object, ObjectKey, Protocol, ServiceEntry,
    Spec, VirtualService,
};

/// Findings of one call. More would not be read.
const MAX_FINDINGS: usize = 1_000;

pub(super) struct Finder<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) objects: &'a [Arc<Object>],
    analysis: &'a Analysis<'a>,
    /// Read again when the first thing is found in them.
    written: BTreeMap<&'a ObjectKey, Written>,
    found: Vec<Diagnostic>,
    used: OnceCell<BTreeMap<HostName, BTreeSet<&'a str>>>,
    seen: BTreeSet<(Code, &'a ObjectKey, String)>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(analysis: &'a Analysis<'a>) -> Self {
        Self {
            mesh: analysis.mesh,
            objects: analysis.objects,
            analysis,
            written: BTreeMap::new(),
            found: Vec::new(),
            used: OnceCell::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Whether findings about this document are asked for.
    pub(super) fn wants(&self, key: &ObjectKey) -> bool {
        self.analysis.only.is_none_or(|only| only.contains(key))
    }

    /// One finding at a field of `object`, or at the nearest that is written above it. Once for each code and field.
    pub(super) fn find(
        &mut self,
        code: Code,
        object: &'a Object,
        path: &str,
        message: impl Into<String>,
    ) {
        if !self.wants(&object.key)
            || self.found.len() >= MAX_FINDINGS
            || !self.seen.insert((code, &object.key, path.to_owned()))
        {
            return;
        }
        let written = self
            .written
            .entry(&object.key)
            .or_insert_with(|| Written::of(object));
        self.found.push(Diagnostic {
            code,
            severity: code.severity(),
            object: Some(object.key.clone()),
            position: written.position(path),
            path: path.to_owned(),
            message: message.into(),
        });
    }

    pub(super) fn into_findings(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| {
            (a.severity, &a.position, a.code, &a.path).cmp(&(
                b.severity,
                &b.position,
                b.code,
                &b.path,
            ))
        });
        self.found
    }

    /// The workloads that call, if any are known.
    pub(super) fn clients(&self) -> Option<&'a [ClientFacts]> {
        let clients = self
            .analysis
            .inventory
            .map(|inventory| inventory.clients.as_slice());
        clients.filter(|clients| !clients.is_empty())
    }

    pub(super) fn host(&self, object: &Object, written: &At<String>) -> HostName {
        self.mesh.host(&written.value, &object.key.namespace)
    }

    fn entries(&self, host: &HostName) -> &'a [(Arc<Object>, ServiceEntry)] {
        self.mesh
            .service_entries
            .get(host)
            .map_or(&[], Vec::as_slice)
    }

    /// Every endpoint of a host; None where that is not known.
    pub(super) fn endpoints(&self, host: &HostName) -> Option<Vec<EndpointFacts>> {
        let entries = self.entries(host);
        let selecting = entries
            .iter()
            .any(|(_, entry)| entry.workload_selector.is_some());
        let known = self.analysis.inventory;
        if known.is_none() && (entries.is_empty() || selecting || self.mesh.is_registered(host)) {
            return None;
        }
        let service = known.and_then(|inventory| inventory.services.get(host));
        let mut all: Vec<EndpointFacts> = service
            .map(|service| service.endpoints.clone())
            .unwrap_or_default();
        for (object, entry) in entries {
            let selected = self
                .mesh
                .selected_workloads(&object.key.namespace, entry)
                .map(|(_, workload)| workload);
            all.extend(
                entry
                    .endpoints
                    .iter()
                    .chain(selected)
                    .map(|endpoint| EndpointFacts {
                        address: endpoint.address.value.clone(),
                        labels: endpoint.labels.clone(),
                        mtls: entry.mesh_internal && endpoint.service_account.is_some(),
                    }),
            );
            if entry.workload_selector.is_some() {
                all.extend(
                    self.registered_in(&object.key.namespace)
                        .filter(|one| entry.selects(&one.labels))
                        .cloned(),
                );
            }
        }
        Some(all)
    }

    /// Registered instances of a namespace.
    pub(super) fn registered_in(&self, namespace: &str) -> impl Iterator<Item = &'a EndpointFacts> {
        let services = self
            .analysis
            .inventory
            .into_iter()
            .flat_map(|inventory| &inventory.services);
        services
            .filter(move |(host, _)| self.mesh.namespaces_of(host).any(|home| home == namespace))
            .flat_map(|(_, service)| &service.endpoints)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Ports of a host; None where they are not known.
    pub(super) fn ports(&self, host: &HostName) -> Option<BTreeMap<u16, Option<Protocol>>> {
        let entries = self.entries(host);
        let service = self
            .analysis
            .inventory
            .and_then(|inventory| inventory.services.get(host));
        if service.is_none() && (entries.is_empty() || self.mesh.is_registered(host)) {
            return None;
        }
        let mut ports = service
            .map(|service| service.ports.clone())
            .unwrap_or_default();
        for port in entries.iter().flat_map(|(_, entry)| &entry.ports) {
            ports.insert(port.number, Some(port.protocol));
        }
        Some(ports)
    }

    /// Who runs, if that is known.
    pub(super) fn inventory(&self) -> Option<&'a Inventory> {
        self.analysis.inventory
    }

    /// Whether it is known who runs.
    pub(super) fn knows_who_runs(&self) -> bool {
        self.analysis.inventory.is_some()
    }

    /// Subsets of `host` to which a route or a mirror leads, whoever wrote it. None if none leads to the host by subset.
    pub(super) fn used_subsets(&self, host: &HostName) -> Option<&BTreeSet<&'a str>> {
        let used = self.used.get_or_init(|| {
            let mut used: BTreeMap<HostName, BTreeSet<&'a str>> = BTreeMap::new();
            for object in self.objects {
                let Spec::VirtualService(spec) = &object.spec else {
                    continue;
                };
                for (to, subset) in destinations(spec) {
                    let of_host = used.entry(self.host(object, to)).or_default();
                    of_host.insert(subset);
                }
            }
            used
        });
        used.get(host)
    }
}

/// Every destination that names a subset.
fn destinations(spec: &VirtualService) -> impl Iterator<Item = (&At<String>, &str)> {
    let routed = spec.http.iter().flat_map(|rule| {
        let to = match &rule.action {
            HttpAction::Route(to) => to.as_slice(),
            _ => &[],
        };
        let mirrors = rule.mirrors.iter().map(|to| (&to.host, &to.subset));
        to.iter().map(|to| (&to.host, &to.subset)).chain(mirrors)
    });
    let connections = spec.tls.iter().flat_map(|rule| &rule.route);
    let connections = connections.chain(spec.tcp.iter().flat_map(|rule| &rule.route));
    let delegated = spec
        .delegations
        .iter()
        .flat_map(|rule| &rule.settings.mirrors);
    routed
        .chain(connections.map(|to| (&to.host, &to.subset)))
        .chain(delegated.map(|to| (&to.host, &to.subset)))
        .filter_map(|(host, subset)| Some((host, subset.as_ref()?.value.as_str())))
}

/// `a, b and c`.
pub(super) fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let mut all: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    let Some(last) = all.pop() else {
        return "none".to_owned();
    };
    if all.is_empty() {
        last
    } else {
        format!("{} and {last}", all.join(", "))
    }
}

/// `90 s`, `250 ms`.
pub(super) fn time(duration: std::time::Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}
