//! Puts the documents for one host together, and refuses the newer of two that cannot be.

mod entries;
mod policies;
mod routes;
mod rules;

use std::{collections::BTreeMap, sync::Arc};

use self::routes::Document;
pub(super) use self::routes::{takes_all, takes_all_tcp};
pub use self::rules::NamespaceRules;
use super::{
    Delegated, HostName, Mesh, MeshInput, Names,
    delegate::{Delegates, Rule},
};
use crate::{
    Code, DestinationPolicy, DestinationRule, Diagnostic, Object, ObjectKey, Position, Severity,
    Spec, VirtualService,
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

    /// The place in the order of application.
    fn age(&self, object: &Object) -> Option<usize> {
        self.age.get(&object.key).copied()
    }

    /// True if `a` was applied after `b`.
    pub(super) fn newer(&self, a: &Object, b: &Object) -> bool {
        self.age.get(&a.key) > self.age.get(&b.key)
    }

    /// What `object` is refused for.
    pub(super) fn error(
        &mut self,
        code: Code,
        object: &Object,
        position: &Position,
        path: impl Into<String>,
        message: String,
    ) {
        self.push(
            Severity::Error,
            code,
            object,
            position,
            (path.into(), message),
        );
    }

    /// What is odd about `object`.
    pub(super) fn warn(
        &mut self,
        code: Code,
        object: &Object,
        position: &Position,
        path: impl Into<String>,
        message: String,
    ) {
        self.push(
            Severity::Warning,
            code,
            object,
            position,
            (path.into(), message),
        );
    }

    /// What is good to know of `object`.
    pub(super) fn info(
        &mut self,
        code: Code,
        object: &Object,
        position: &Position,
        path: impl Into<String>,
        message: String,
    ) {
        self.push(
            Severity::Info,
            code,
            object,
            position,
            (path.into(), message),
        );
    }

    fn push(
        &mut self,
        severity: Severity,
        code: Code,
        object: &Object,
        position: &Position,
        (path, message): (String, String),
    ) {
        self.diagnostics.push(Diagnostic {
            code,
            severity,
            object: Some(object.key.clone()),
            position: position.clone(),
            path,
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

type By<'a, K, T> = BTreeMap<K, Vec<(&'a Arc<Object>, &'a T)>>;

pub(super) fn merge(input: &MeshInput<'_>) -> (Mesh, Found) {
    let mut found = Found::new(input.objects);
    let names = Names::of(input);
    let mut objects: Vec<&Arc<Object>> = input.objects.iter().collect();
    objects.sort_by(|a, b| a.key.cmp(&b.key));

    let mut mesh = Mesh::default();
    let mut virtual_services: By<'_, HostName, VirtualService> = BTreeMap::new();
    let mut destination_rules: By<'_, (HostName, String), DestinationRule> = BTreeMap::new();
    let mut policies: By<'_, (HostName, String, String), DestinationPolicy> = BTreeMap::new();
    for object in objects {
        let namespace = &object.key.namespace;
        match &object.spec {
            Spec::VirtualService(spec) => {
                for host in &spec.hosts {
                    let host = names.resolve(&host.value, namespace);
                    let documents = virtual_services.entry(host).or_default();
                    documents.push((object, spec));
                }
            }
            Spec::DestinationRule(spec) => {
                let host = names.resolve(&spec.host.value, namespace);
                let documents = destination_rules.entry((host, namespace.clone()));
                documents.or_default().push((object, spec));
            }
            Spec::DestinationPolicy(spec) => {
                let host = names.resolve(&spec.host.value, namespace);
                let subset = spec.subset.as_ref().map(|subset| subset.value.clone());
                let key = (host, subset.unwrap_or_default(), namespace.clone());
                let documents = policies.entry(key);
                documents.or_default().push((object, spec));
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
            // In the order of their age, below.
            Spec::PeerAuthentication(_) => {}
            Spec::AuthorizationPolicy(spec) => {
                let entry = (Arc::clone(object), spec.clone());
                mesh.security.rules.push(entry);
            }
            Spec::ExtensionProvider(spec) => {
                let entry = (Arc::clone(object), spec.clone());
                mesh.security.providers.insert(object.key.clone(), entry);
            }
            Spec::RequestAuthentication(spec) => {
                mesh.tokens.push((Arc::clone(object), spec.clone()));
            }
            Spec::Sidecar(spec) => {
                let entry = (Arc::clone(object), spec.clone());
                mesh.sidecars.insert(object.key.clone(), entry);
            }
        }
    }
    let rules = expand(input, &names, &mut found);
    for object in input.objects {
        let rules = rules.get(&object.key).into_iter().flatten();
        let delegated = rules.filter(|rule| rule.object.key != object.key);
        mesh.delegated.extend(delegated.map(|rule| Delegated {
            root: Arc::clone(object),
            root_index: rule.index,
            leaf: Arc::clone(&rule.object),
            leaf_index: rule.own_index,
            rule: rule.rule.clone(),
        }));
    }
    for (host, documents) in virtual_services {
        let with_rules = documents.into_iter().map(|(object, spec)| Document {
            object,
            spec,
            rules: rules.get(&object.key).map_or(&[], Vec::as_slice),
        });
        let merged = routes::merge(&host, with_rules.collect(), &mut found);
        mesh.virtual_services.insert(host, merged);
    }
    for ((host, namespace), documents) in destination_rules {
        let merged = rules::merge(&host, &namespace, &documents, &mut found);
        let of_host = mesh.destination_rules.entry(host).or_default();
        of_host.insert(namespace, merged);
    }
    for ((host, subset, namespace), documents) in policies {
        if let Some(policy) = policies::merge(&host, &subset, documents, &mut found) {
            let of_host = mesh.destination_policies.entry((host, subset)).or_default();
            of_host.insert(namespace, policy);
        }
    }
    for (host, entries) in &mut mesh.service_entries {
        entries::compare(host, entries, &mut found);
    }
    mesh.names = names;
    input.root_namespace.clone_into(&mut mesh.root_namespace);
    for object in input.objects {
        if let Spec::PeerAuthentication(spec) = &object.spec {
            let entry = (Arc::clone(object), spec.clone());
            mesh.security.peers.push(entry);
        }
    }
    (mesh, found)
}

/// The rules of every document that has hosts, its delegates' in their places.
fn expand<'a>(
    input: &'a MeshInput<'_>,
    names: &'a Names,
    found: &mut Found,
) -> BTreeMap<&'a ObjectKey, Vec<Rule>> {
    let mut delegates = Delegates::of(input.objects, names);
    let mut rules = BTreeMap::new();
    for object in input.objects {
        if let Spec::VirtualService(spec) = &object.spec
            && !spec.hosts.is_empty()
        {
            rules.insert(&object.key, delegates.expand(object, spec, found));
        }
    }
    delegates.warn_unnamed(found);
    rules
}
