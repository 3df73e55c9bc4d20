//! Turns a [`World`] into xDS resources, in the dialect of `docs/WIRE.md`.
//!
//! ```text
//! World ─► model ─► cluster + endpoint ──┐                      per host, kept while its inputs are the same
//!       ─► route table ──────────────────┼─► scope (caller, Sidecar) ─► Snapshot of a node
//!       ─► secret ───────────────────────┘         once per World               + its own listeners
//! ```
//! Deterministic: the same World gives the same bytes, whatever came before. What is reused from the World
//! before is found by comparing pointers of services and policies.

mod any;
mod caller;
mod cluster;
mod endpoint;
mod grpc;
mod hosts;
mod layer4;
mod listener;
mod locality;
mod matching;
mod model;
mod node;
mod on_demand;
mod policy;
mod route;
mod scope;
mod secret;
mod tls;
pub(crate) mod unsupported;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use caller::Selectors;
use grpc::Credentials;
use hosts::Hosts;
pub(crate) use node::{Dialect, NodeInfo};
use route::RouteTable;
use scope::{Inputs, Scope, ScopeKey};

use crate::{
    snapshot::{Resources, Snapshot, TypeMap, View},
    world::World,
};

/// Scopes kept for one World. Namespaces are claimed by nodes; past this many, a scope is computed for
/// each node anew rather than remembered.
const MAX_SCOPES: usize = 1024;

/// One World, translated as far as it does not depend on the node.
#[derive(Debug)]
pub(crate) struct Shared {
    world: Arc<World>,
    hosts: Hosts,
    table: Arc<RouteTable>,
    secrets: Arc<TypeMap>,
    /// What documents ask of callers.
    selectors: Selectors,
    scopes: Mutex<BTreeMap<ScopeKey, Arc<OnceLock<Arc<Scope>>>>>,
    before: Option<Before>,
}

/// What is reused of the World before.
#[derive(Debug)]
struct Before {
    mesh_and_table_same: bool,
    scopes: BTreeMap<ScopeKey, Arc<Scope>>,
}

impl Shared {
    /// Translates `world`, reusing what `before` has of it.
    pub(crate) fn translate(world: Arc<World>, before: Option<&Self>) -> Self {
        let same_mesh = before.filter(|before| {
            Arc::ptr_eq(&before.world.mesh, &world.mesh)
                && before.world.trust_domain == world.trust_domain
                && before.world.domain == world.domain
        });
        let hosts = hosts::of(&world, same_mesh);
        let table = match same_mesh {
            Some(before) if hosts::same_ports(&before.hosts, &hosts) => Arc::clone(&before.table),
            Some(_) | None => Arc::new(route::table(&world.mesh, &hosts)),
        };
        let secrets = secret::root(&world.roots_pem);
        let secrets = TypeMap::following(before.map(|before| &before.secrets), [secrets]);
        let before = before.map(|before| Before {
            mesh_and_table_same: same_mesh.is_some() && Arc::ptr_eq(&before.table, &table),
            scopes: before.computed_scopes(),
        });
        Self {
            selectors: world.mesh.client_selectors(),
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
        let key = ScopeKey::of(&self.world.mesh, &self.selectors, node);
        let scope = self.scope(&key);
        let before = self.before.as_ref();
        let before = before.and_then(|before| before.scopes.get(&key));
        let before = before.map(|scope| &**scope);
        let endpoints = scope.endpoints(node, before);
        let with = |shared: &Arc<TypeMap>, own: &Arc<TypeMap>| Resources {
            shared: Arc::clone(shared),
            own: Arc::clone(own),
            view: View::AsIs,
        };
        let plain = Snapshot {
            clusters: with(&scope.clusters, &own.clusters),
            endpoints: with(&endpoints, &own.none),
            secrets: with(&self.secrets, &own.none),
            listeners: with(&scope.listeners, &own.listeners),
            routes: with(
                &scope.routes,
                if scope.pinned { &own.none } else { &own.routes },
            ),
            virtual_hosts: Resources {
                view: View::OnDemand(Arc::clone(&scope.virtual_hosts)),
                ..with(&scope.routes, &own.none)
            },
        };
        match node.dialect {
            Dialect::Outrigger | Dialect::Envoy => plain,
            Dialect::Grpc(credentials) => {
                let secured = match credentials {
                    Credentials::None => None,
                    Credentials::Provider => Some(scope.secured(node, &endpoints, before)),
                };
                scope.grpc(before).snapshot(plain, secured)
            }
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
            world: &self.world,
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

/// What depends on the node alone: made once a stream.
#[derive(Debug)]
pub(crate) struct NodeResources {
    clusters: Arc<TypeMap>,
    listeners: Arc<TypeMap>,
    routes: Arc<TypeMap>,
    none: Arc<TypeMap>,
}

impl NodeResources {
    /// The proxy port and its routes, if these come on demand, the inbound port and the application's cluster, as far
    /// as `node` has them.
    pub(crate) fn of(node: &NodeInfo) -> Self {
        let name = listener::HTTP_PROXY;
        let proxy = node.http_proxy.map(|listen| {
            if node.on_demand {
                // Our sidecar asks for the clusters of the routes that it gets.
                let clusters = node.dialect == Dialect::Envoy;
                listener::on_demand(name, listen, name, clusters)
            } else {
                listener::outbound(name, listen, name)
            }
        });
        let routes = node.on_demand.then(|| on_demand::routes(name));
        let inbound = node.inbound.as_ref();
        let listeners = proxy.into_iter().chain(inbound.map(listener::inbound));
        let app = inbound.map(|inbound| cluster::inbound(inbound, node.service.as_deref()));
        Self {
            clusters: TypeMap::following(None, app),
            listeners: TypeMap::following(None, listeners),
            routes: TypeMap::following(None, routes),
            none: TypeMap::empty(),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
