//! Turns a [`World`] into xDS resources, in the dialect of `docs/WIRE.md`.
//!
//! ```text
//! World ─► model ─► cluster + endpoint ──┐                      per host, kept while its inputs are the same
//!       ─► route table ──────────────────┼─► scope (caller, Sidecar) ─► Snapshot of a node
//!       ─► secret ───────────────────────┘         once per World               + its own listeners
//! ```
//! Deterministic: the same World gives the same bytes, whatever came before. What is reused from the World
//! before is found by comparing pointers of services and policies: as long as policies and ports are the same, a
//! change costs the hosts that have changed, and each scope that some node is in a copy of what leads to them.

mod any;
mod authn;
mod authz;
mod caller;
mod capture;
mod cluster;
mod directory;
mod domains;
mod endpoint;
mod ext_authz;
mod grpc;
mod hosts;
mod inbound;
mod layer4;
mod listener;
mod locality;
mod matching;
mod model;
mod names;
mod node;
mod on_demand;
mod policy;
mod proxy_protocol;
mod route;
mod scope;
mod sds_cluster;
mod secret;
mod tls;
pub(crate) mod unsupported;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use authz::Workload;
use caller::Selectors;
use directory::Directory;
use grpc::Credentials;
use hosts::Hosts;
pub(crate) use names::ALL as ALL_NAMES;
pub(crate) use node::{Dialect, NodeInfo};
use outrigger_policy::{HostName, Mesh};
use route::RouteTable;
use scope::{Inputs, Scope, ScopeKey};
pub(crate) use secret::{ROOTCA as BUNDLE, root as bundle};

use crate::{
    snapshot::{ResourceBytes, Resources, Snapshot, TypeMap, View},
    world::{InstanceHealth, World},
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
    directory: Arc<Directory>,
    secrets: Arc<TypeMap>,
    /// What documents ask of callers.
    selectors: Arc<Selectors>,
    scopes: Mutex<BTreeMap<Arc<ScopeKey>, Slot>>,
    /// The scopes of the World before, where these have to be computed anew.
    before: BTreeMap<Arc<ScopeKey>, Arc<Scope>>,
    changes: Changes,
}

/// Filled by whoever asks first.
type Slot = Arc<OnceLock<Arc<Scope>>>;

/// What differs from the World before.
#[derive(Debug)]
pub(crate) enum Changes {
    /// Who has clusters or endpoints of these hosts may have others now.
    Hosts(Vec<HostName>),
    /// Anything may.
    Everything,
}

impl Shared {
    /// Translates `world`, reusing what `before` has of it.
    pub(crate) fn translate(world: Arc<World>, before: Option<&Self>) -> Self {
        let same_mesh = before.filter(|before| {
            Arc::ptr_eq(&before.world.mesh, &world.mesh)
                && before.world.trust_domain == world.trust_domain
                && before.world.domain == world.domain
        });
        let (hosts, changed) = match same_mesh {
            Some(before) => hosts::following(&world, (&before.world, &before.hosts)),
            None => {
                let before = before.map(|before| &before.hosts);
                (hosts::of(&world, before), Vec::new())
            }
        };
        let same_table =
            same_mesh.filter(|before| hosts::same_facts(&before.hosts, &hosts, &changed));
        let directory = match same_table {
            Some(before) => Arc::clone(&before.directory),
            None => Arc::new(Directory::of(&hosts)),
        };
        let table = match same_table {
            Some(before) => Arc::clone(&before.table),
            None => Arc::new(route::table(&world.mesh, &directory)),
        };
        let secrets = secret::root(&world.roots_pem);
        let secrets = TypeMap::following(before.map(|before| &before.secrets), [secrets]);
        let same = same_table.filter(|before| {
            before.world.revision == world.revision && Arc::ptr_eq(&before.secrets, &secrets)
        });
        let scopes = same_table.map(|before| before.used_scopes(&world, &hosts, &changed));
        Self {
            selectors: match same_mesh {
                Some(before) => Arc::clone(&before.selectors),
                None => Arc::new(world.mesh.client_selectors()),
            },
            before: match before {
                Some(before) if scopes.is_none() => before.computed_scopes(),
                Some(_) | None => BTreeMap::new(),
            },
            scopes: Mutex::new(scopes.unwrap_or_default()),
            changes: match same {
                Some(_) => Changes::Hosts(changed),
                None => Changes::Everything,
            },
            world,
            hosts,
            table,
            directory,
            secrets,
        }
    }

    /// What differs from the World that was translated before.
    pub(crate) const fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Store revision of the policies.
    pub(crate) fn revision(&self) -> u64 {
        self.world.revision
    }

    /// Whether the instance is in this health here, or is not here at all.
    pub(crate) fn is_so(&self, host: &HostName, instance: &str, health: InstanceHealth) -> bool {
        let service = self.world.services.get(host);
        let instance = service.and_then(|service| service.instances.get(instance));
        instance.is_none_or(|instance| instance.health == health)
    }

    /// Everything that `node` may be sent. `own` is what [`NodeResources::of`] made of it.
    pub(crate) fn snapshot(&self, node: &NodeInfo, own: &NodeResources) -> Snapshot {
        let key = own.scope_key(self, node);
        let scope = self.scope(&key);
        let before = self.before.get(&key).map(|scope| &**scope);
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
            listeners: Resources {
                view: scope.listeners_view(),
                ..with(&scope.listeners, &own.listeners(self, node))
            },
            // A pinned scope has its table whole, so that no request waits.
            routes: Resources {
                view: scope.routes_view(),
                ..with(
                    scope.routes(node.on_demand && !scope.pinned),
                    if scope.pinned { &own.none } else { &own.routes },
                )
            },
            virtual_hosts: Resources {
                view: View::OnDemand(Arc::clone(&scope.virtual_hosts)),
                ..with(scope.routes(true), &own.none)
            },
            names: Resources {
                view: View::OnDemand(Arc::clone(&scope.names)),
                ..with(scope.routes(true), &own.none)
            },
        };
        match node.dialect {
            Dialect::Outrigger | Dialect::Envoy if node.sds_cluster => sds_cluster::snapshot(plain),
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

    /// Documents that say whom the workload behind `node` takes calls from, as far as it does not do what they say.
    pub(crate) fn unenforced(&self, node: &NodeInfo) -> Vec<(Arc<str>, String)> {
        match node.dialect {
            Dialect::Outrigger | Dialect::Envoy => Vec::new(),
            Dialect::Grpc(credentials) => {
                authz::unenforced(&self.world.mesh, node, credentials == Credentials::Provider)
            }
        }
    }

    /// The hosts that `node` may be told of.
    pub(crate) fn hosts_of(&self, node: &NodeInfo, own: &NodeResources) -> Arc<BTreeSet<HostName>> {
        Arc::clone(&self.scope(&own.scope_key(self, node)).hosts)
    }

    /// The key as others have it already, so that who shares a scope keeps it alive.
    fn intern(&self, key: ScopeKey) -> Arc<ScopeKey> {
        let mut scopes = self.lock_scopes();
        if let Some((known, _)) = scopes.get_key_value(&key) {
            return Arc::clone(known);
        }
        let key = Arc::new(key);
        if scopes.len() < MAX_SCOPES {
            scopes.insert(Arc::clone(&key), Slot::default());
        }
        key
    }

    fn scope(&self, key: &Arc<ScopeKey>) -> Arc<Scope> {
        let slot = {
            let mut scopes = self.lock_scopes();
            if scopes.len() < MAX_SCOPES || scopes.contains_key(key) {
                Arc::clone(scopes.entry(Arc::clone(key)).or_default())
            } else {
                Arc::default()
            }
        };
        // Outside the lock: other scopes need not wait for this one.
        Arc::clone(slot.get_or_init(|| Arc::new(self.build_scope(key))))
    }

    fn build_scope(&self, key: &ScopeKey) -> Scope {
        let inputs = Inputs {
            world: &self.world,
            hosts: &self.hosts,
            table: &self.table,
            directory: &self.directory,
            before: self.before.get(key).map(|scope| &**scope),
        };
        Scope::build(key, &inputs)
    }

    fn computed_scopes(&self) -> BTreeMap<Arc<ScopeKey>, Arc<Scope>> {
        let scopes = self.lock_scopes();
        let computed = scopes
            .iter()
            .filter_map(|(key, slot)| Some((Arc::clone(key), Arc::clone(slot.get()?))));
        computed.collect()
    }

    /// Those that some node asks for, as they are now that `changed` are others.
    fn used_scopes(
        &self,
        world: &World,
        hosts: &Hosts,
        changed: &[HostName],
    ) -> BTreeMap<Arc<ScopeKey>, Slot> {
        let computed = self.computed_scopes().into_iter();
        // One more has our map, and one this copy of it.
        let used = computed.filter(|(key, _)| Arc::strong_count(key) > 2);
        let following = used.map(|(key, scope)| {
            let scope = scope.following(&key, world, hosts, changed);
            (key, Slot::new(OnceLock::from(scope)))
        });
        following.collect()
    }

    fn lock_scopes(&self) -> MutexGuard<'_, BTreeMap<Arc<ScopeKey>, Slot>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is the node's own: made once a stream, but for its inbound port, which follows the policies.
#[derive(Debug)]
pub(crate) struct NodeResources {
    clusters: Arc<TypeMap>,
    /// The HTTP proxy's port.
    proxy: Option<Arc<ResourceBytes>>,
    /// All of its ports, under the policies that it saw last.
    listeners: Mutex<Option<(Arc<Mesh>, Arc<TypeMap>)>>,
    routes: Arc<TypeMap>,
    none: Arc<TypeMap>,
    /// Which scope the node is in under the policies that it saw last.
    key: Mutex<Option<(Arc<Mesh>, Arc<ScopeKey>)>>,
}

impl NodeResources {
    /// The proxy port and its routes, if these come on demand, and the application's cluster, as far as `node` has them.
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
        let app = inbound.map(|inbound| cluster::inbound(inbound, node.service.as_deref()));
        let captured = node.capture.map(|_| capture::clusters(node));
        let clusters = app.into_iter().chain(captured.into_iter().flatten());
        Self {
            clusters: TypeMap::following(None, clusters),
            proxy,
            listeners: Mutex::default(),
            routes: TypeMap::following(None, routes),
            none: TypeMap::empty(),
            key: Mutex::default(),
        }
    }

    /// The proxy port, and the inbound port as the policies want it.
    fn listeners(&self, shared: &Shared, node: &NodeInfo) -> Arc<TypeMap> {
        let mesh = &shared.world.mesh;
        let mut known = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = known.as_ref().map(|(of, map)| (Arc::ptr_eq(of, mesh), map));
        if let Some((true, map)) = before {
            return Arc::clone(map);
        }
        let workload = Workload::of(&shared.world, node);
        let inbound = node.inbound.as_ref().zip(workload);
        let inbound =
            inbound.map(|(inbound, workload)| listener::inbound(inbound, node, &workload));
        let outbound = node.capture;
        let outbound =
            outbound.map(|capture| capture::virtual_outbound(&shared.world, node, capture));
        let all = self.proxy.iter().cloned().chain(inbound).chain(outbound);
        let map = TypeMap::following(before.map(|(_, map)| map), all);
        *known = Some((Arc::clone(mesh), Arc::clone(&map)));
        map
    }

    /// Whether what the node's scope sees is kept, for whoever asks next.
    pub(crate) fn shares_scope(&self) -> bool {
        let known = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .as_ref()
            .is_some_and(|(_, key)| Arc::strong_count(key) > 1)
    }

    fn scope_key(&self, shared: &Shared, node: &NodeInfo) -> Arc<ScopeKey> {
        let mut known = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let mesh = &shared.world.mesh;
        if let Some((of, key)) = &*known
            && Arc::ptr_eq(of, mesh)
        {
            return Arc::clone(key);
        }
        let key = shared.intern(ScopeKey::of(mesh, &shared.selectors, node));
        *known = Some((Arc::clone(mesh), Arc::clone(&key)));
        key
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
