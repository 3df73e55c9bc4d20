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
use outrigger_proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

use super::{
    caller::{Caller, Selectors},
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
    snapshot::{OnDemand, ResourceBytes, ResourceType, Resources, TypeMap},
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
    pub(super) routes: Arc<TypeMap>,
    hosts: BTreeSet<HostName>,
    /// Made when the first gRPC client asks.
    grpc: OnceLock<Arc<GrpcScope>>,
    /// The clusters of those that have certificates.
    secured: Secured,
    /// The virtual hosts of `routes`, one by one.
    pub(super) virtual_hosts: Arc<OnDemand>,
    /// A document says what is called: nothing of the HTTP proxy waits for a request.
    pub(super) pinned: bool,
}

/// Some assignments depend on where the caller is.
#[derive(Debug)]
struct Placed {
    views: Vec<Arc<HostView>>,
    labels: BTreeSet<String>,
    known: Mutex<BTreeMap<Place, Arc<TypeMap>>>,
}

/// What a scope is computed from.
pub(super) struct Inputs<'a> {
    pub(super) world: &'a World,
    pub(super) hosts: &'a Hosts,
    pub(super) table: &'a RouteTable,
    /// The scope as it was, and whether policies and routes are still those.
    pub(super) before: Option<(&'a Scope, bool)>,
}

impl Scope {
    pub(super) fn build(key: &ScopeKey, inputs: &Inputs<'_>) -> Self {
        let before = inputs.before.map(|(scope, _)| scope);
        let document = key.sidecar.as_ref();
        let document = document.and_then(|key| inputs.world.mesh.sidecars.get(key));
        let (listeners, routes, hosts) = match inputs.before {
            Some((scope, true)) => (
                Arc::clone(&scope.listeners),
                Arc::clone(&scope.routes),
                scope.hosts.clone(),
            ),
            Some((_, false)) | None => {
                let view = Egress::of(key, document.map(|(_, sidecar)| sidecar), inputs);
                (
                    TypeMap::following(before.map(|scope| &scope.listeners), view.listeners),
                    TypeMap::following(before.map(|scope| &scope.routes), view.routes),
                    view.hosts,
                )
            }
        };
        let visible = hosts.iter().filter_map(|host| inputs.hosts.get(host));
        let views: Vec<_> = visible
            .map(|host| host.view(inputs.world, &key.caller))
            .collect();
        let clusters = views.iter().flat_map(|view| view.clusters.iter().cloned());
        let endpoints = views.iter().flat_map(|view| view.endpoints(None));
        Self {
            clusters: TypeMap::following(before.map(|scope| &scope.clusters), clusters),
            endpoints: TypeMap::following(before.map(|scope| &scope.endpoints), endpoints),
            placed: Placed::of(views),
            listeners,
            virtual_hosts: match before {
                Some(before) if Arc::ptr_eq(&before.routes, &routes) => {
                    Arc::clone(&before.virtual_hosts)
                }
                Some(_) | None => on_demand::of(&routes),
            },
            routes,
            hosts,
            grpc: OnceLock::new(),
            secured: Secured::default(),
            pinned: document.is_some_and(|(_, sidecar)| pins(sidecar)),
        }
    }

    /// What gRPC libraries share, which follows what they had `before`.
    pub(super) fn grpc(&self, before: Option<&Self>) -> &GrpcScope {
        let before = before.and_then(|before| before.grpc.get());
        self.grpc
            .get_or_init(|| GrpcScope::of(&self.routes, before))
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
            let views = placed.views.iter();
            let endpoints = views.flat_map(|view| view.endpoints(Some(&place)));
            let before = before.map(|before| before.known_endpoints(node));
            TypeMap::following(before.as_ref(), endpoints)
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
    fn of(views: Vec<Arc<HostView>>) -> Option<Self> {
        let asking: Vec<_> = views
            .iter()
            .filter_map(|view| view.placing_labels())
            .collect();
        let labels = (!asking.is_empty()).then(|| asking.into_iter().flatten().cloned().collect());
        Some(Self {
            labels: labels?,
            views,
            known: Mutex::default(),
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

/// Listeners, route configurations, and every host that one of them leads to.
#[derive(Default)]
struct Egress {
    listeners: Vec<Arc<ResourceBytes>>,
    routes: Vec<Arc<ResourceBytes>>,
    hosts: BTreeSet<HostName>,
}

impl Egress {
    fn of(key: &ScopeKey, sidecar: Option<&Sidecar>, inputs: &Inputs<'_>) -> Self {
        let mut egress = Self::default();
        let everything = [EgressHost {
            namespace: "*".to_owned(),
            host: "*".to_owned(),
        }];
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
        // A service without a port of HTTP has no routes; its connections are another listener's.
        let visible = visible.filter(|(_, routes)| !routes.ports.is_empty());
        let visible: Vec<(&HostName, Arc<HostRoutes>)> = visible.collect();
        for (host, routes) in &visible {
            self.hosts.insert((*host).clone());
            self.hosts.extend(routes.destinations.iter().cloned());
        }
        let domains = Domains {
            namespace: &key.caller.namespace,
            domain: &inputs.world.domain,
            port,
        };
        let routes = RouteConfiguration {
            name: name.to_owned(),
            virtual_hosts: domains.virtual_hosts(&visible),
            // A route may name a cluster that is on its way: 503 until then, not a refused configuration.
            validate_clusters: Some(false),
            ..RouteConfiguration::default()
        };
        self.routes
            .push(ResourceBytes::new(ResourceType::Route, name, &routes));
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

/// Which authorities lead to which virtual host, for nodes of one namespace.
struct Domains<'a> {
    namespace: &'a str,
    domain: &'a str,
    /// The egress listener's port; None for the HTTP proxy.
    port: Option<u16>,
}

impl Domains<'_> {
    /// Each domain is given once (Envoy refuses a table that has one twice): canonical names first, then the
    /// short forms that are still free.
    fn virtual_hosts(&self, visible: &[(&HostName, Arc<HostRoutes>)]) -> Vec<VirtualHost> {
        let mut claimed = BTreeSet::new();
        let mut hosts = Vec::new();
        for (host, routes) in visible {
            // An egress listener's own port, if the service has it; else all of the service.
            let only = self.port.filter(|port| routes.ports.contains_key(port));
            let ports = || {
                routes
                    .ports
                    .keys()
                    .filter(|port| only.is_none_or(|only| only == **port))
            };
            let bare = ports()
                .find(|port| **port == 80)
                .or_else(|| ports().next())
                .copied();
            for &port in ports() {
                let mut entry = VirtualHost {
                    name: format!("{host}:{port}"),
                    routes: routes.ports.get(&port).cloned().unwrap_or_default(),
                    ..VirtualHost::default()
                };
                claim(&mut claimed, &mut entry, host.as_str(), port, bare);
                hosts.push((*host, port, bare, entry));
            }
        }
        for (host, port, bare, entry) in &mut hosts {
            for short in self.short_forms(host) {
                claim(&mut claimed, entry, &short, *port, *bare);
            }
        }
        if let (Some(_), [_]) = (self.port, visible) {
            let default = hosts
                .iter_mut()
                .find(|(_, port, bare, _)| Some(*port) == *bare);
            if let Some((_, _, _, entry)) = default.filter(|_| claimed.insert("*".to_owned())) {
                entry.domains.push("*".to_owned());
            }
        }
        // One without a domain would be refused; nobody could call it anyway.
        let hosts = hosts.into_iter().map(|(_, _, _, entry)| entry);
        hosts.filter(|entry| !entry.domains.is_empty()).collect()
    }

    /// `h.<ns>.svc`, `h.<ns>`, and `h` within the namespace, for `h.<ns>.svc.<domain>`.
    fn short_forms(&self, host: &HostName) -> Vec<String> {
        let suffix = format!(".svc.{}", self.domain);
        let Some(name) = host.as_str().strip_suffix(&suffix) else {
            return Vec::new();
        };
        let Some((service, namespace)) = name.rsplit_once('.') else {
            return Vec::new();
        };
        let mut forms = vec![format!("{name}.svc"), name.to_owned()];
        if namespace == self.namespace {
            forms.push(service.to_owned());
        }
        forms
    }
}

/// Gives `name` and `name:port` to `entry` if they are free; the bare one only on the port it belongs to.
fn claim(
    claimed: &mut BTreeSet<String>,
    entry: &mut VirtualHost,
    name: &str,
    port: u16,
    bare: Option<u16>,
) {
    let plain = (bare == Some(port)).then(|| name.to_owned());
    // "*:80" is no domain; a lone star takes every port.
    let with_port = (name != "*").then(|| format!("{name}:{port}"));
    for domain in plain.into_iter().chain(with_port) {
        if claimed.insert(domain.clone()) {
            entry.domains.push(domain);
        }
    }
}
