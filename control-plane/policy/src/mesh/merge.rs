//! Puts the documents for one host together, and refuses the newer of two that cannot be.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use super::{HostName, MergedDestinationRule, MergedVirtualService, Mesh, MeshInput, Names};
use crate::{
    DestinationRule, Diagnostic, HttpMatch, HttpRoute, Object, ObjectKey, Position, ServiceEntry,
    ServicePort, Severity, Spec, StringMatch, VirtualService,
};

/// What was found, and which documents are newer than which.
pub(super) struct Found {
    age: BTreeMap<ObjectKey, usize>,
    diagnostics: Vec<Diagnostic>,
}

impl Found {
    fn new(objects: &[Arc<Object>]) -> Self {
        let keys = objects.iter().map(|object| object.key.clone());
        Self {
            age: keys.enumerate().map(|(age, key)| (key, age)).collect(),
            diagnostics: Vec::new(),
        }
    }

    /// True if `a` was applied after `b`.
    pub(super) fn newer(&self, a: &Object, b: &Object) -> bool {
        self.age.get(&a.key) > self.age.get(&b.key)
    }

    pub(super) fn error(&mut self, position: &Position, path: impl Into<String>, message: String) {
        self.push(Severity::Error, position, path, message);
    }

    pub(super) fn warn(&mut self, position: &Position, path: impl Into<String>, message: String) {
        self.push(Severity::Warning, position, path, message);
    }

    fn push(
        &mut self,
        severity: Severity,
        position: &Position,
        path: impl Into<String>,
        message: String,
    ) {
        self.diagnostics.push(Diagnostic {
            severity,
            position: position.clone(),
            path: path.into(),
            message,
        });
    }

    /// Errors first, each group by position.
    pub(super) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by(|a, b| {
            (a.severity, &a.position, &a.path, &a.message).cmp(&(
                b.severity,
                &b.position,
                &b.path,
                &b.message,
            ))
        });
        self.diagnostics.dedup();
        self.diagnostics
    }
}

/// `VirtualService shop/orders (orders.yaml:1:1)`.
pub(super) fn named(object: &Object) -> String {
    format!("{} ({})", object.key, object.position)
}

pub(super) fn merge(input: &MeshInput<'_>) -> (Mesh, Found) {
    let mut found = Found::new(input.objects);
    let names = Names::of(input);
    let mut objects: Vec<&Arc<Object>> = input.objects.iter().collect();
    objects.sort_by(|a, b| a.key.cmp(&b.key));

    let mut mesh = Mesh::default();
    let mut virtual_services: BTreeMap<HostName, Vec<(&Arc<Object>, &VirtualService)>> =
        BTreeMap::new();
    let mut destination_rules: BTreeMap<HostName, Vec<(&Arc<Object>, &DestinationRule)>> =
        BTreeMap::new();
    for object in objects {
        let namespace = &object.key.namespace;
        match &object.spec {
            Spec::VirtualService(spec) => {
                for host in &spec.hosts {
                    let host = names.resolve(&host.value, namespace);
                    virtual_services
                        .entry(host)
                        .or_default()
                        .push((object, spec));
                }
            }
            Spec::DestinationRule(spec) => {
                let host = names.resolve(&spec.host.value, namespace);
                destination_rules
                    .entry(host)
                    .or_default()
                    .push((object, spec));
            }
            Spec::ServiceEntry(spec) => {
                for host in &spec.hosts {
                    let host = names.resolve(&host.value, namespace);
                    let entries = mesh.service_entries.entry(host).or_default();
                    entries.push((Arc::clone(object), spec.clone()));
                }
            }
            Spec::WorkloadEntry(spec) => {
                let entry = (Arc::clone(object), spec.clone());
                mesh.workload_entries.insert(object.key.clone(), entry);
            }
            Spec::Sidecar(spec) => {
                let entry = (Arc::clone(object), spec.clone());
                mesh.sidecars.insert(object.key.clone(), entry);
            }
        }
    }
    for (host, documents) in virtual_services {
        let merged = merge_routes(&host, documents, &mut found);
        mesh.virtual_services.insert(host, merged);
    }
    for (host, documents) in destination_rules {
        if let Some(merged) = merge_rules(&host, documents, &mut found) {
            mesh.destination_rules.insert(host, merged);
        }
    }
    for (host, entries) in &mut mesh.service_entries {
        compare_entries(host, entries, &mut found);
    }
    mesh.names = names;
    (mesh, found)
}

/// The first rule that takes every request.
pub(super) fn catch_all(spec: &VirtualService) -> Option<(usize, &HttpRoute)> {
    spec.http
        .iter()
        .enumerate()
        .find(|(_, rule)| rule.matches.is_empty() || rule.matches.iter().any(takes_everything))
}

fn takes_everything(found: &HttpMatch) -> bool {
    let every_path = matches!(&found.uri, Some(StringMatch::Prefix(prefix)) if prefix == "/");
    let rest = HttpMatch {
        name: None,
        ignore_uri_case: false,
        uri: found.uri.clone().filter(|_| !every_path),
        ..found.clone()
    };
    rest == HttpMatch::default()
}

/// Documents by namespace and name, but the one that takes every request last: it is the least
/// specific, and whatever came behind it would never be tried. Two of those contradict each other.
fn merge_routes(
    host: &HostName,
    mut documents: Vec<(&Arc<Object>, &VirtualService)>,
    found: &mut Found,
) -> MergedVirtualService {
    documents.dedup_by(|a, b| a.0.key == b.0.key); // it names the host in two spellings
    let mut last: Option<(&Arc<Object>, usize, &HttpRoute)> = None;
    let mut http = Vec::new();
    let mut tail = Vec::new();
    for (object, spec) in documents {
        let rules = spec
            .http
            .iter()
            .map(|rule| (Arc::clone(object), rule.clone()));
        let Some((index, rule)) = catch_all(spec) else {
            http.extend(rules);
            continue;
        };
        let Some((other, other_index, other_rule)) = last else {
            last = Some((object, index, rule));
            tail.extend(rules);
            continue;
        };
        let this_is_newer = found.newer(object, other);
        let (newest, oldest) = if this_is_newer {
            ((object, index, rule), other)
        } else {
            ((other, other_index, other_rule), object)
        };
        let message = format!(
            "takes every request to {host}, and so does {}; give one a match, or put both into one \
             document",
            named(oldest)
        );
        found.error(
            &newest.2.position,
            format!("spec.http[{}]", newest.1),
            message,
        );
        if !this_is_newer {
            last = Some((object, index, rule));
            tail = rules.collect();
        }
    }
    http.append(&mut tail);
    MergedVirtualService {
        host: host.clone(),
        http,
        tls: Vec::new(),
        tcp: Vec::new(),
    }
}

/// Subsets of all, the policy of the only one that has one.
fn merge_rules(
    host: &HostName,
    documents: Vec<(&Arc<Object>, &DestinationRule)>,
    found: &mut Found,
) -> Option<MergedDestinationRule> {
    // Oldest first, so that the newer document is the one that does not fit.
    let mut by_age = documents;
    by_age.sort_by_key(|(object, _)| found.age.get(&object.key).copied());
    let mut merged: Option<MergedDestinationRule> = None;
    let mut policy_of: Option<&Arc<Object>> = None;
    let mut subset_of: BTreeMap<String, &Arc<Object>> = BTreeMap::new();
    for (object, rule) in by_age {
        let target = merged.get_or_insert_with(|| MergedDestinationRule {
            host: host.clone(),
            sources: Vec::new(),
            rule: DestinationRule {
                host: rule.host.clone(),
                traffic_policy: crate::TrafficPolicy::default(),
                subsets: Vec::new(),
                export_to: rule.export_to.clone(),
                workload_selector: rule.workload_selector.clone(),
            },
        });
        target.sources.push(Arc::clone(object));
        if !rule.traffic_policy.is_empty() {
            if let Some(other) = policy_of {
                let position = rule
                    .traffic_policy
                    .position()
                    .unwrap_or(&rule.host.position);
                let message = format!(
                    "{host} has a traffic policy already, in {}; keep one of them",
                    named(other)
                );
                found.error(position, "spec.trafficPolicy", message);
            } else {
                policy_of = Some(object);
                target.rule.traffic_policy = rule.traffic_policy.clone();
            }
        }
        for (index, subset) in rule.subsets.iter().enumerate() {
            match subset_of.entry(subset.name.value.clone()) {
                Entry::Occupied(other) => {
                    let message = format!(
                        "{host} has a subset {:?} already, in {}; rename or remove one",
                        subset.name.value,
                        named(other.get())
                    );
                    let path = format!("spec.subsets[{index}].name");
                    found.error(&subset.name.position, path, message);
                }
                Entry::Vacant(free) => {
                    free.insert(object);
                    target.rule.subsets.push(subset.clone());
                }
            }
        }
    }
    // By name, so that the result does not depend on which document came first.
    if let Some(merged) = &mut merged {
        merged.sources.sort_by(|a, b| a.key.cmp(&b.key));
        merged
            .rule
            .subsets
            .sort_by(|a, b| a.name.value.cmp(&b.name.value));
        if let Some(Spec::DestinationRule(first)) = merged.sources.first().map(|s| &s.spec) {
            merged.rule.host = first.host.clone();
        }
    }
    merged
}

/// Entries for one host add endpoints; what the service is, they have to agree on. The newer of two
/// that do not is left out.
fn compare_entries(
    host: &HostName,
    entries: &mut Vec<(Arc<Object>, ServiceEntry)>,
    found: &mut Found,
) {
    entries.dedup_by(|a, b| a.0.key == b.0.key);
    let mut by_age: Vec<&(Arc<Object>, ServiceEntry)> = entries.iter().collect();
    by_age.sort_by_key(|(object, _)| found.age.get(&object.key).copied());
    let mut kept: Vec<&(Arc<Object>, ServiceEntry)> = Vec::new();
    let mut refused = Vec::new();
    for this in by_age {
        let contradiction = kept.iter().find_map(|other| {
            contradiction(&this.1, &other.1).map(|(path, what)| (path, what, &other.0))
        });
        let Some((path, what, other)) = contradiction else {
            kept.push(this);
            continue;
        };
        let position = this
            .1
            .hosts
            .first()
            .map_or(&this.0.position, |host| &host.position);
        let message = format!("{host} {what} in {}; make them agree", named(other));
        found.error(position, path, message);
        refused.push(this.0.key.clone());
    }
    entries.retain(|(object, _)| !refused.contains(&object.key));
}

fn contradiction(this: &ServiceEntry, other: &ServiceEntry) -> Option<(String, String)> {
    if this.mesh_internal != other.mesh_internal {
        let location = |entry: &ServiceEntry| {
            if entry.mesh_internal {
                "MESH_INTERNAL"
            } else {
                "MESH_EXTERNAL"
            }
        };
        let what = format!("is {} here and {}", location(this), location(other));
        return Some(("spec.location".to_owned(), what));
    }
    this.ports.iter().enumerate().find_map(|(index, port)| {
        let same = |other: &&ServicePort| other.number == port.number || other.name == port.name;
        let other = other
            .ports
            .iter()
            .find(same)
            .filter(|other| *other != port)?;
        let what = format!(
            "has the port {} here and {}",
            described(port),
            described(other)
        );
        Some((format!("spec.ports[{index}]"), what))
    })
}

fn described(port: &ServicePort) -> String {
    let target = port
        .target_port
        .map_or_else(String::new, |target| format!(" to {target}"));
    format!(
        "{} ({} {:?}{target})",
        port.number, port.name, port.protocol
    )
}
