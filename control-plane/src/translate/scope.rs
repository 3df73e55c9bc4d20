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
    At, CaptureMode, EgressHost, EgressListener, HostName, Mesh, ObjectKey, Protocol, Sidecar,
};

use super::{
    caller::{Caller, Selectors},
    capture::{
        self,
        ports::{Called, Ports, Redirected},
    },
    directory::Directory,
    domains::{Domains, Naming, Scoped, Table, Tables},
    grpc::{GrpcScope, Secured},
    hosts::{HostView, Hosts, remembered},
    layer4::{Chains, Layer4},
    listener::{self, Demand, HTTP_PROXY},
    locality::Place,
    names::{self, Names},
    node::{Dialect, NodeInfo},
    on_demand,
    route::{self, HostRoutes, RouteTable},
};
use crate::{
    snapshot::{OnDemand, ResourceBytes, Resources, TypeMap, View},
    sorted::SortedMap,
    world::World,
};

/// What makes two nodes see the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ScopeKey {
    caller: Caller,
    sidecar: Option<ObjectKey>,
    /// Connections of its nodes are redirected, and so.
    redirected: Option<Redirected>,
}

impl ScopeKey {
    pub(super) fn of(mesh: &Mesh, selectors: &Selectors, node: &NodeInfo) -> Self {
        let sidecar = mesh.sidecar_for(&node.namespace, &node.labels);
        Self {
            caller: Caller::of(node, selectors),
            sidecar: sidecar.map(|(object, _)| object.key.clone()),
            redirected: redirected(node, sidecar.is_some_and(|(_, sidecar)| pins(sidecar))),
        }
    }
}

fn redirected(node: &NodeInfo, pinned: bool) -> Option<Redirected> {
    let capture = node.capture?;
    let on_demand = node.on_demand && !pinned;
    let envoy = match node.dialect {
        Dialect::Outrigger => false,
        Dialect::Envoy => true,
        Dialect::Grpc(_) => return None,
    };
    let demand = if envoy {
        Demand::Clusters
    } else {
        // Our sidecar asks for the clusters of the routes that it gets.
        Demand::VirtualHosts
    };
    Some(Redirected {
        ipv6: capture.ipv6,
        // Envoy asks for all listeners or for none.
        by_name: on_demand && !envoy,
        demand: on_demand.then_some(demand),
        dns: node.dns.filter(|_| envoy),
    })
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
    /// Of redirected connections: listeners by address, if they are not among `listeners`.
    by_address: Option<Arc<OnDemand>>,
    /// Routes of single ports, by `<host>:<port>`, where connections are redirected.
    of_ports: Option<Arc<OnDemand>>,
    /// The addresses of hosts, by every way to write them.
    pub(super) names: Arc<OnDemand>,
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
    pub(super) directory: &'a Arc<Directory>,
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
        let hosts = Arc::new(view.hosts);
        let names = Arc::new(Names {
            hosts: Arc::clone(&hosts),
            directory: Arc::clone(inputs.directory),
            naming: key.naming(inputs),
        });
        let mut listeners = view.listeners;
        if let Some(listen) = key.redirected.and_then(|redirected| redirected.dns) {
            listeners.push(names::listener(&names, listen));
        }
        let by_name = view.ports.as_ref().filter(|ports| ports.how.by_name);
        Self {
            by_address: by_name.map(Ports::on_demand),
            of_ports: view.ports.as_ref().map(|_| route::of_ports(view.single)),
            names: names.on_demand(),
            clusters: TypeMap::following(before.map(|scope| &scope.clusters), clusters),
            endpoints: TypeMap::following(before.map(|scope| &scope.endpoints), endpoints),
            placed: Placed::following(None, &views),
            listeners: TypeMap::following(before.map(|scope| &scope.listeners), listeners),
            virtual_hosts: on_demand::of(&tables),
            tables,
            hosts,
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
            by_address: self.by_address.clone(),
            of_ports: self.of_ports.clone(),
            names: Arc::clone(&self.names),
            pinned: self.pinned,
        })
    }

    /// The route configurations; without that of the HTTP proxy, if its virtual hosts come `on_demand`.
    pub(super) fn routes(&self, on_demand: bool) -> &Arc<TypeMap> {
        if on_demand {
            self.tables.on_demand()
        } else {
            self.tables.all()
        }
    }

    /// How routes are seen: beside the configurations those of single ports.
    pub(super) fn routes_view(&self) -> View {
        beside(self.of_ports.as_ref())
    }

    /// How listeners are seen: beside those that all have those of addresses.
    pub(super) fn listeners_view(&self) -> View {
        beside(self.by_address.as_ref())
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

fn beside(made: Option<&Arc<OnDemand>>) -> View {
    made.map_or(View::AsIs, |made| View::Beside(Arc::clone(made)))
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
    /// Of redirected connections.
    ports: Option<Arc<Ports>>,
    /// Routes of hosts with ports of which nobody knows what they speak.
    single: BTreeMap<HostName, Arc<HostRoutes>>,
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
            egress.add_routes(key, HTTP_PROXY, &everything, Scoped::Proxy, inputs);
            let called = Called {
                else_: everything.into(),
                ..Called::default()
            };
            egress.add_redirected(key, None, called, inputs);
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
        egress.add_routes(key, HTTP_PROXY, &proxied, Scoped::Proxy, inputs);
        let mut called = Called {
            else_: proxied,
            ..Called::default()
        };
        for listener in with_port {
            // A port of loopback is bound, because connections to it are not redirected.
            let bound = match listener.capture_mode {
                CaptureMode::Bound => true,
                CaptureMode::Redirected => false,
                CaptureMode::Default => key.redirected.is_none() || listener.bind.is_some(),
            };
            match &listener.port {
                Some(_) if bound => egress.add_listener(key, listener, inputs),
                Some(port) => {
                    called
                        .on_port
                        .insert(port.number, patterns(listener).collect());
                }
                None => {}
            }
        }
        egress.add_redirected(key, Some(sidecar), called, inputs);
        egress
    }

    /// What takes redirected connections, if the scope's are.
    fn add_redirected(
        &mut self,
        key: &ScopeKey,
        sidecar: Option<&Sidecar>,
        called: Called,
        inputs: &Inputs<'_>,
    ) {
        let Some(how) = key.redirected else {
            return;
        };
        let ports = Arc::new(Ports {
            mesh: Arc::clone(&inputs.world.mesh),
            directory: Arc::clone(inputs.directory),
            caller: key.caller.clone(),
            how,
            called,
            policy: capture::policy(inputs.world, sidecar),
        });
        self.hosts.extend(ports.destinations());
        self.listeners.extend(ports.listeners());
        for (port, hosts) in ports.of_http() {
            let scoped = Scoped::Redirected {
                port,
                directory: Arc::clone(inputs.directory),
                elsewhere: capture::requests_elsewhere(ports.policy),
            };
            // A host that only a document knows is led to others on the port that it is given there.
            let selects = |host: &HostName, routes: &HostRoutes| {
                hosts.contains(host)
                    || inputs.directory.get(host).is_none()
                        && routes.ports.contains_key(&port)
                        && ports.admits(host, port)
            };
            self.add_table(key, &port.to_string(), scoped, selects, inputs);
        }
        for (host, facts) in inputs.directory.iter() {
            let mut unknown = facts.ports.iter();
            let unknown = unknown
                .any(|(&port, &protocol)| protocol == Protocol::Auto && ports.admits(host, port));
            if unknown && let Some(routes) = routes_of(key, host, inputs) {
                self.hosts.extend(routes.destinations.iter().cloned());
                self.single.insert(host.clone(), routes);
            }
        }
        self.ports = Some(ports);
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
        if !protocol.may_be_http() {
            let listen = (name.as_str(), SocketAddr::new(bind, port));
            self.add_connections(key, listen, protocol, &hosts, inputs);
            return;
        }
        // The number alone is what redirected connections to that port have.
        let routes = if bind == loopback && key.redirected.is_none() {
            port.to_string()
        } else {
            name.clone()
        };
        if protocol == Protocol::Auto {
            let listen = SocketAddr::new(bind, port);
            self.add_detected(key, (&name, listen, &routes), &hosts, inputs);
            return;
        }
        self.listeners.push(listener::outbound(
            &name,
            SocketAddr::new(bind, port),
            &routes,
        ));
        self.add_routes(key, &routes, &hosts, Scoped::Listener(port), inputs);
    }

    /// A port of which nobody knows what its connections are.
    fn add_detected(
        &mut self,
        key: &ScopeKey,
        (name, listen, routes): (&str, SocketAddr, &str),
        hosts: &[EgressHost],
        inputs: &Inputs<'_>,
    ) {
        let layer4 = Layer4 {
            mesh: &inputs.world.mesh,
            hosts: inputs.directory,
            caller: &key.caller,
        };
        // What is no HTTP does not say whom it is for.
        let found = match hosts {
            [one] if !one.host.starts_with('*') => layer4.tcp(listen.port(), hosts),
            _ => Chains::default(),
        };
        self.hosts.extend(found.destinations);
        let rest = found.chains.into_iter().next();
        self.listeners
            .push(listener::detected(name, listen, routes, rest));
        self.add_routes(key, routes, hosts, Scoped::Listener(listen.port()), inputs);
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
            hosts: inputs.directory,
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
        port: Scoped,
        inputs: &Inputs<'_>,
    ) {
        let selects = |host: &HostName, _: &HostRoutes| {
            // Who was not redirected was going nowhere else.
            let facts = inputs.directory.get(host);
            !facts.is_some_and(|facts| facts.as_connected)
                && patterns.iter().any(|pattern| {
                    let mesh = &inputs.world.mesh;
                    mesh.admits(&key.caller.namespace, pattern, host)
                })
        };
        self.add_table(key, name, port, selects, inputs);
    }

    fn add_table(
        &mut self,
        key: &ScopeKey,
        name: &str,
        port: Scoped,
        selects: impl Fn(&HostName, &HostRoutes) -> bool,
        inputs: &Inputs<'_>,
    ) {
        let visible = inputs.table.keys();
        let visible = visible.filter_map(|host| Some((host, routes_of(key, host, inputs)?)));
        let visible = visible.filter(|(host, routes)| selects(host, routes));
        // A service without a port of HTTP has routes for CONNECT only; its connections are another listener's.
        let is_proxy = matches!(port, Scoped::Proxy);
        let visible = visible.filter(|(_, routes)| {
            !routes.ports.is_empty() || (is_proxy && !routes.connect.is_empty())
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
                naming: key.naming(inputs),
                port,
                visible,
            },
        });
    }
}

/// The routes of a host for this caller.
fn routes_of(key: &ScopeKey, host: &HostName, inputs: &Inputs<'_>) -> Option<Arc<HostRoutes>> {
    match inputs.table.get(host)? {
        Some(routes) => Some(Arc::clone(routes)),
        None => {
            let mesh = &inputs.world.mesh;
            let routes = route::of_host(mesh, inputs.directory, host, &key.caller)?;
            Some(Arc::new(routes))
        }
    }
}

impl ScopeKey {
    fn naming(&self, inputs: &Inputs<'_>) -> Naming {
        Naming {
            namespace: self.caller.namespace.clone(),
            domain: Arc::clone(&inputs.world.domain),
        }
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
