//! What the workloads of one namespace under one `Sidecar` document see: their egress listeners, the
//! route configurations behind these, and the clusters that they lead to.
//!
//! Computed once for all nodes that share it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use outrigger_policy::{
    At, EgressHost, EgressListener, HostName, Mesh, ObjectKey, Protocol, Sidecar,
};

use super::{
    caller::{Caller, Selectors},
    domains::{Domains, Table, Tables},
    grpc::{GrpcScope, Secured},
    hosts::{HostView, Hosts, remembered},
    layer4::Layer4,
    listener::{self, HTTP_PROXY},
    locality::Place,
    node::NodeInfo,
    on_demand,
    route::{self, HostRoutes, RouteTable},
};
use crate::{
    snapshot::{OnDemand, ResourceBytes, Resources, TypeMap},
    sorted::SortedMap,
    world::World,
};

/// What makes two nodes see the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ScopeKey {
    caller: Caller,
    sidecar: Option<ObjectKey>,
}

impl ScopeKey {
    pub(super) fn of(mesh: &Mesh, selectors: &Selectors, node: &NodeInfo) -> Self {
        let sidecar = mesh.sidecar_for(&node.namespace, &node.labels);
        Self {
            caller: Caller::of(node, selectors),
            sidecar: sidecar.map(|(object, _)| object.key.clone()),
        }
    }
}

/// What the nodes of a scope share.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) clusters: Arc<TypeMap>,
    /// For callers that do not say where they are, and for all if nobody asks.
    endpoints: Arc<TypeMap>,
    placed: Option<Placed>,
    pub(super) listeners: Arc<TypeMap>,
    tables: Arc<Tables>,
    /// Every host that clusters and endpoints are of.
    pub(super) hosts: Arc<BTreeSet<HostName>>,
    /// Made when the first gRPC client asks.
    grpc: OnceLock<Arc<GrpcScope>>,
    /// The clusters of those that have certificates.
    secured: Secured,
    /// The virtual hosts of `tables`, one by one.
    pub(super) virtual_hosts: Arc<OnDemand>,
    /// A document says what is called: nothing of the HTTP proxy waits for a request.
    pub(super) pinned: bool,
}

/// Some assignments depend on where the caller is.
#[derive(Debug)]
struct Placed {
    /// The hosts of these assignments.
    views: SortedMap<HostName, Arc<HostView>>,
    labels: BTreeSet<String>,
    known: Mutex<BTreeMap<Place, Arc<TypeMap>>>,
}

/// What a scope is computed from.
pub(super) struct Inputs<'a> {
    pub(super) world: &'a World,
    pub(super) hosts: &'a Hosts,
    pub(super) table: &'a RouteTable,
    /// The scope as it was.
    pub(super) before: Option<&'a Scope>,
}

impl Scope {
    pub(super) fn build(key: &ScopeKey, inputs: &Inputs<'_>) -> Self {
        let before = inputs.before;
        let document = key.sidecar.as_ref();
        let document = document.and_then(|key| inputs.world.mesh.sidecars.get(key));
        let view = Egress::of(key, document.map(|(_, sidecar)| sidecar), inputs);
        let visible = view.hosts.iter().filter_map(|name| {
            let host = inputs.hosts.get(name)?;
            Some((name.clone(), host.view(inputs.world, &key.caller)))
        });
        let views: Vec<_> = visible.collect();
        let clusters = views.iter().flat_map(|(_, view)| &view.clusters).cloned();
        let endpoints = views.iter().flat_map(|(_, view)| view.endpoints(None));
        let tables = Tables::new(view.tables, before.map(|scope| &scope.tables));
        Self {
            clusters: TypeMap::following(before.map(|scope| &scope.clusters), clusters),
            endpoints: TypeMap::following(before.map(|scope| &scope.endpoints), endpoints),
            placed: Placed::following(None, &views),
            listeners: TypeMap::following(before.map(|scope| &scope.listeners), view.listeners),
            virtual_hosts: on_demand::of(&tables),
            tables,
            hosts: Arc::new(view.hosts),
            grpc: OnceLock::new(),
            secured: Secured::default(),
            pinned: document.is_some_and(|(_, sidecar)| pins(sidecar)),
        }
    }

    /// The same scope when these hosts are others, and policies and ports are the same: then so are the names of all
    /// resources, and all that is routed.
    pub(super) fn following(
        self: &Arc<Self>,
        key: &ScopeKey,
        world: &World,
        hosts: &Hosts,
        changed: &[HostName],
    ) -> Arc<Self> {
        let visible = changed.iter().filter(|name| self.hosts.contains(*name));
        let views: Vec<_> = visible
            .filter_map(|name| {
                let host = hosts.get(name)?;
                Some((name.clone(), host.view(world, &key.caller)))
            })
            .collect();
        if views.is_empty() {
            return Arc::clone(self);
        }
        let clusters = views.iter().flat_map(|(_, view)| &view.clusters).cloned();
        let endpoints = views.iter().flat_map(|(_, view)| view.endpoints(None));
        Arc::new(Self {
            clusters: TypeMap::with(&self.clusters, clusters),
            endpoints: TypeMap::with(&self.endpoints, endpoints),
            placed: Placed::following(self.placed.as_ref(), &views),
            listeners: Arc::clone(&self.listeners),
            tables: Arc::clone(&self.tables),
            hosts: Arc::clone(&self.hosts),
            grpc: self.grpc.clone(),
            secured: Secured::default(),
            virtual_hosts: Arc::clone(&self.virtual_hosts),
            pinned: self.pinned,
        })
    }

    /// The route configurations; without that of the HTTP proxy, if its virtual hosts come `on_demand`.
    pub(super) fn routes(&self, on_demand: bool) -> &Arc<TypeMap> {
        if on_demand {
            self.tables.without_proxy()
        } else {
            self.tables.all()
        }
    }

    /// What gRPC libraries share, which follows what they had `before`.
    pub(super) fn grpc(&self, before: Option<&Self>) -> &GrpcScope {
        let before = before.and_then(|before| before.grpc.get());
        self.grpc
            .get_or_init(|| GrpcScope::of(self.tables.all(), before))
    }

    /// The clusters for a gRPC library that has certificates and these endpoints, which follow what it had `before`.
    pub(super) fn secured(
        &self,
        node: &NodeInfo,
        endpoints: &Arc<TypeMap>,
        before: Option<&Self>,
    ) -> Resources {
        let before = before.map(|before| (&before.secured, before.known_endpoints(node)));
        let before = before.as_ref().map(|(secured, known)| (*secured, known));
        self.secured.of(&self.clusters, endpoints, before)
    }

    /// The assignments for `node`, which follow what it had `before`.
    pub(super) fn endpoints(&self, node: &NodeInfo, before: Option<&Self>) -> Arc<TypeMap> {
        let Some(placed) = &self.placed else {
            return Arc::clone(&self.endpoints);
        };
        let place = placed.place(node);
        remembered(&placed.known, &place, || {
            let views = placed.views.values();
            let endpoints = views.flat_map(|view| view.endpoints(Some(&place)));
            let before = before.map(|before| before.known_endpoints(node));
            TypeMap::over(before.as_ref(), &self.endpoints, endpoints)
        })
    }

    fn known_endpoints(&self, node: &NodeInfo) -> Arc<TypeMap> {
        let known = self.placed.as_ref().and_then(|placed| {
            let known = placed.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(&placed.place(node)).cloned()
        });
        known.unwrap_or_else(|| Arc::clone(&self.endpoints))
    }
}

impl Placed {
    /// What `before` becomes when these hosts are others. None if nobody asks where callers are.
    fn following(before: Option<&Self>, changed: &[(HostName, Arc<HostView>)]) -> Option<Self> {
        let old_labels = before.map(|before| &before.labels);
        let mut labels = old_labels.cloned().unwrap_or_default();
        let mut views = before.map_or_else(SortedMap::default, |before| before.views.clone());
        for (host, view) in changed {
            if let Some(asking) = view.placing_labels() {
                labels.extend(asking.iter().cloned());
                views.insert(host.clone(), Arc::clone(view));
            } else if before.is_some() {
                views.remove(host);
            }
        }
        if views.is_empty() {
            return None;
        }
        // With other labels a place is another one.
        let known = before.filter(|before| before.labels == labels);
        let known = known.map(|before| {
            let known = before.known.lock().unwrap_or_else(PoisonError::into_inner);
            let places = known.iter().map(|(place, map)| {
                let changed = changed.iter();
                let endpoints = changed.flat_map(|(_, view)| view.endpoints(Some(place)));
                (place.clone(), TypeMap::with(map, endpoints))
            });
            places.collect()
        });
        Some(Self {
            views,
            labels,
            known: Mutex::new(known.unwrap_or_default()),
        })
    }

    fn place(&self, node: &NodeInfo) -> Place {
        let labels = self.labels.iter();
        let labels = labels.filter_map(|name| node.labels.get_key_value(name));
        Place {
            locality: node.locality.clone(),
            labels: labels
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        }
    }
}

/// Listeners, tables of routes, and every host that one of them leads to.
#[derive(Default)]
struct Egress {
    listeners: Vec<Arc<ResourceBytes>>,
    tables: Vec<Table>,
    hosts: BTreeSet<HostName>,
}

impl Egress {
    /// What the application may call, and whom its own inbound side has to ask.
    fn of(key: &ScopeKey, sidecar: Option<&Sidecar>, inputs: &Inputs<'_>) -> Self {
        let mut egress = Self::called(key, sidecar, inputs);
        let mesh = &inputs.world.mesh;
        egress
            .hosts
            .extend(mesh.provider_hosts(&key.caller.namespace));
        egress
    }

    fn called(key: &ScopeKey, sidecar: Option<&Sidecar>, inputs: &Inputs<'_>) -> Self {
        let mut egress = Self::default();
        let everything = [EgressHost {
            namespace: "*".to_owned(),
            host: "*".to_owned(),
        }];
        // Keys of issuers are fetched, whatever the application may call.
        let mesh = &inputs.world.mesh;
        egress
            .hosts
            .extend(mesh.hosts_of_keys(&key.caller.namespace));
        let Some(sidecar) = sidecar else {
            egress.add_routes(key, HTTP_PROXY, &everything, None, inputs);
            return egress;
        };
        let (with_port, without): (Vec<_>, Vec<_>) = sidecar
            .egress
            .iter()
            .partition(|listener| listener.port.is_some());
        let proxied: Vec<_> = without
            .iter()
            .flat_map(|listener| patterns(listener))
            .collect();
        egress.add_routes(key, HTTP_PROXY, &proxied, None, inputs);
        for listener in with_port {
            egress.add_listener(key, listener, inputs);
        }
        egress
    }

    fn add_listener(&mut self, key: &ScopeKey, egress: &EgressListener, inputs: &Inputs<'_>) {
        let Some((port, protocol)) = egress
            .port
            .as_ref()
            .map(|port| (port.number, port.protocol))
        else {
            return;
        };
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        // `parse` refuses a bind that is not an IP address.
        let bind = egress
            .bind
            .as_ref()
            .map_or(Ok(loopback), |bind| bind.parse());
        let bind = bind.unwrap_or(loopback);
        let name = format!("{bind}_{port}");
        let hosts: Vec<_> = patterns(egress).collect();
        if !protocol.is_http() {
            let listen = (name.as_str(), SocketAddr::new(bind, port));
            self.add_connections(key, listen, protocol, &hosts, inputs);
            return;
        }
        let routes = if bind == loopback {
            port.to_string()
        } else {
            name.clone()
        };
        self.listeners.push(listener::outbound(
            &name,
            SocketAddr::new(bind, port),
            &routes,
        ));
        self.add_routes(key, &routes, &hosts, Some(port), inputs);
    }

    /// A port whose connections are not HTTP.
    fn add_connections(
        &mut self,
        key: &ScopeKey,
        (name, listen): (&str, SocketAddr),
        protocol: Protocol,
        hosts: &[EgressHost],
        inputs: &Inputs<'_>,
    ) {
        let layer4 = Layer4 {
            mesh: &inputs.world.mesh,
            hosts: inputs.hosts,
            caller: &key.caller,
        };
        let found = if protocol == Protocol::Tls {
            layer4.tls(listen.port(), hosts)
        } else {
            layer4.tcp(listen.port(), hosts)
        };
        if found.chains.is_empty() {
            // Nothing to lead to: a port that is not open says so sooner, and Envoy refuses a listener without chains.
            return;
        }
        self.hosts.extend(found.destinations);
        self.listeners
            .push(listener::connections(name, listen, protocol, found.chains));
    }

    fn add_routes(
        &mut self,
        key: &ScopeKey,
        name: &str,
        patterns: &[EgressHost],
        port: Option<u16>,
        inputs: &Inputs<'_>,
    ) {
        let selects = |host: &HostName| {
            patterns.iter().any(|pattern| {
                inputs
                    .world
                    .mesh
                    .admits(&key.caller.namespace, pattern, host)
            })
        };
        let visible = inputs.table.iter().filter(|(host, _)| selects(host));
        let visible = visible.filter_map(|(host, routes)| match routes {
            Some(routes) => Some((host, Arc::clone(routes))),
            None => {
                let routes = route::of_host(&inputs.world.mesh, inputs.hosts, host, &key.caller)?;
                Some((host, Arc::new(routes)))
            }
        });
        // A service without a port of HTTP has routes for CONNECT only; its connections are another listener's.
        let visible = visible.filter(|(_, routes)| {
            !routes.ports.is_empty() || (port.is_none() && !routes.connect.is_empty())
        });
        let visible = visible.map(|(host, routes)| (host.clone(), routes));
        let visible: SortedMap<HostName, Arc<HostRoutes>> = visible.collect();
        for (host, routes) in visible.iter() {
            self.hosts.insert(host.clone());
            self.hosts.extend(routes.destinations.iter().cloned());
        }
        self.tables.push(Table {
            name: name.to_owned(),
            domains: Domains {
                namespace: key.caller.namespace.clone(),
                domain: Arc::clone(&inputs.world.domain),
                port,
                visible,
            },
        });
    }
}

/// Whether a document says what the HTTP proxy is for: `*/*` says nothing.
fn pins(sidecar: &Sidecar) -> bool {
    let proxied = sidecar.egress.iter().filter(|egress| egress.port.is_none());
    let mut hosts = proxied.flat_map(patterns);
    !hosts.any(|egress| egress.namespace == "*" && egress.host == "*")
}

fn patterns(listener: &EgressListener) -> impl Iterator<Item = EgressHost> {
    listener.hosts.iter().map(|At { value, .. }| value.clone())
}
