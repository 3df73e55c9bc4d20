//! Turns a [`World`] into xDS resources, in the dialect of `docs/WIRE.md`.
//!
//! ```text
//! World ─► model ─► cluster + endpoint ──┐                      per host, kept while its inputs are the same
//!       ─► route table ──────────────────┼─► scope (namespace, Sidecar) ─► Snapshot of a node
//!       ─► secret ───────────────────────┘         once per World               + its own listeners
//! ```
//! Deterministic: the same World gives the same bytes, whatever came before. What is reused from the World
//! before is found by comparing pointers of services and policies.

mod any;
mod caller;
mod cluster;
mod endpoint;
mod listener;
mod locality;
mod matching;
mod model;
mod node;
mod policy;
mod route;
mod scope;
mod secret;
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use outrigger_policy::{HostName, Protocol};

pub(crate) use node::{Dialect, NodeInfo};
use route::RouteTable;
use scope::{Inputs, Scope, ScopeKey};

use crate::{
    snapshot::{ResourceBytes, Resources, Snapshot, TypeMap},
    world::{Service, World},
};

/// Scopes kept for one World. Namespaces are claimed by nodes; past this many, a scope is computed for
/// each node anew rather than remembered.
const MAX_SCOPES: usize = 1024;

/// One World, translated as far as it does not depend on the node.
#[derive(Debug)]
pub(crate) struct Shared {
    world: Arc<World>,
    hosts: BTreeMap<HostName, Arc<HostResources>>,
    table: Arc<RouteTable>,
    secrets: Arc<TypeMap>,
    scopes: Mutex<BTreeMap<ScopeKey, Arc<OnceLock<Arc<Scope>>>>>,
    before: Option<Before>,
}

/// What is reused of the World before.
#[derive(Debug)]
struct Before {
    mesh_and_table_same: bool,
    scopes: BTreeMap<ScopeKey, Arc<Scope>>,
}

/// Clusters and assignments of one host, and what they were made from.
#[derive(Debug)]
struct HostResources {
    ports: BTreeMap<u16, Protocol>,
    clusters: Vec<Arc<ResourceBytes>>,
    endpoints: Vec<Arc<ResourceBytes>>,
    service: Option<Arc<Service>>,
    /// A ServiceEntry with a selector looks at every service of its namespace.
    selects: bool,
}

impl Shared {
    /// Translates `world`, reusing what `before` has of it.
    pub(crate) fn translate(world: Arc<World>, before: Option<&Self>) -> Self {
        let same_mesh = before.filter(|before| {
            Arc::ptr_eq(&before.world.mesh, &world.mesh)
                && before.world.trust_domain == world.trust_domain
                && before.world.domain == world.domain
        });
        let hosts = hosts(&world, same_mesh);
        let table = match same_mesh {
            Some(before) if same_ports(&before.hosts, &hosts) => Arc::clone(&before.table),
            Some(_) | None => Arc::new(route::table(&world.mesh, &hosts)),
        };
        let secrets = secret::root(&world.roots_pem);
        let secrets = TypeMap::following(before.map(|before| &before.secrets), [secrets]);
        let before = before.map(|before| Before {
            mesh_and_table_same: same_mesh.is_some() && Arc::ptr_eq(&before.table, &table),
            scopes: before.computed_scopes(),
        });
        Self {
            world,
            hosts,
            table,
            secrets,
            scopes: Mutex::default(),
            before,
        }
    }

    /// Store revision of the policies.
    pub(crate) fn revision(&self) -> u64 {
        self.world.revision
    }

    /// Everything that `node` may be sent. `own` is what [`NodeResources::of`] made of it.
    pub(crate) fn snapshot(&self, node: &NodeInfo, own: &NodeResources) -> Snapshot {
        let scope = self.scope(&ScopeKey::of(&self.world.mesh, node));
        let with = |shared: &Arc<TypeMap>, own: &Arc<TypeMap>| Resources {
            shared: Arc::clone(shared),
            own: Arc::clone(own),
        };
        Snapshot {
            clusters: with(&scope.clusters, &own.clusters),
            endpoints: with(&scope.endpoints, &own.none),
            secrets: with(&self.secrets, &own.none),
            listeners: with(&scope.listeners, &own.listeners),
            routes: with(&scope.routes, &own.none),
        }
    }

    fn scope(&self, key: &ScopeKey) -> Arc<Scope> {
        let slot = {
            let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
            if scopes.len() < MAX_SCOPES || scopes.contains_key(key) {
                Arc::clone(scopes.entry(key.clone()).or_default())
            } else {
                Arc::default()
            }
        };
        // Outside the lock: other scopes need not wait for this one.
        Arc::clone(slot.get_or_init(|| Arc::new(self.build_scope(key))))
    }

    fn build_scope(&self, key: &ScopeKey) -> Scope {
        let before = self
            .before
            .as_ref()
            .and_then(|before| Some((&**before.scopes.get(key)?, before.mesh_and_table_same)));
        let inputs = Inputs {
            mesh: &self.world.mesh,
            domain: &self.world.domain,
            hosts: &self.hosts,
            table: &self.table,
            before,
        };
        Scope::build(key, &inputs)
    }

    fn computed_scopes(&self) -> BTreeMap<ScopeKey, Arc<Scope>> {
        let scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let computed = scopes
            .iter()
            .filter_map(|(key, slot)| Some((key.clone(), slot.get()?.clone())));
        computed.collect()
    }
}

fn hosts(world: &World, same_mesh: Option<&Shared>) -> BTreeMap<HostName, Arc<HostResources>> {
    let services_same = same_mesh.is_some_and(|before| {
        let (old, new) = (&before.world.services, &world.services);
        old.len() == new.len()
            && old
                .values()
                .zip(new.values())
                .all(|(a, b)| Arc::ptr_eq(a, b))
    });
    let names: BTreeSet<_> = world
        .services
        .keys()
        .chain(world.mesh.service_entries.keys())
        .collect();
    let translated = names.into_iter().filter_map(|name| {
        let service = world.services.get(name);
        let known = same_mesh
            .and_then(|before| before.hosts.get(name))
            .filter(|known| {
                let same = match (&known.service, service) {
                    (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                };
                same && (!known.selects || services_same)
            });
        let host = match known {
            Some(known) => Arc::clone(known),
            None => Arc::new(translate_host(world, name, service.cloned())?),
        };
        Some((name.clone(), host))
    });
    translated.collect()
}

fn translate_host(
    world: &World,
    name: &HostName,
    service: Option<Arc<Service>>,
) -> Option<HostResources> {
    let host = model::Host::merge(world, name)?;
    let rule = world.mesh.destination_rule(name);
    let (clusters, endpoints) = cluster::of_host(&world.mesh, &host, rule, &world.trust_domain);
    let entries = world.mesh.service_entries.get(name);
    let mut entries = entries.into_iter().flatten();
    Some(HostResources {
        ports: host
            .ports
            .iter()
            .map(|(&number, port)| (number, port.protocol))
            .collect(),
        clusters,
        endpoints,
        service,
        selects: entries.any(|(_, entry)| entry.workload_selector.is_some()),
    })
}

fn same_ports(
    old: &BTreeMap<HostName, Arc<HostResources>>,
    new: &BTreeMap<HostName, Arc<HostResources>>,
) -> bool {
    let same =
        |((a_name, a), (b_name, b)): ((_, &Arc<HostResources>), (_, &Arc<HostResources>))| {
            let (a_name, b_name): (&HostName, &HostName) = (a_name, b_name);
            a_name == b_name && (Arc::ptr_eq(a, b) || a.ports == b.ports)
        };
    old.len() == new.len() && old.iter().zip(new).all(same)
}

/// What depends on the node alone: made once a stream.
#[derive(Debug)]
pub(crate) struct NodeResources {
    clusters: Arc<TypeMap>,
    listeners: Arc<TypeMap>,
    none: Arc<TypeMap>,
}

impl NodeResources {
    /// The proxy port, the inbound port and the application's cluster, as far as `node` has them.
    pub(crate) fn of(node: &NodeInfo) -> Self {
        let proxy = node
            .http_proxy
            .map(|listen| listener::outbound(listener::HTTP_PROXY, listen, listener::HTTP_PROXY));
        let inbound = node.inbound.as_ref();
        let listeners = proxy.into_iter().chain(inbound.map(listener::inbound));
        let app = inbound.map(|inbound| cluster::inbound(inbound, node.service.as_deref()));
        Self {
            clusters: TypeMap::following(None, app),
            listeners: TypeMap::following(None, listeners),
            none: TypeMap::empty(),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
