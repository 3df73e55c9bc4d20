//! The routes of every host and port: what its VirtualService says, or all of it to the host itself.
//!
//! Endpoints play no part here, so a table lives until a policy or a port changes. Which domains lead to
//! the routes depends on who asks, and is `scope`'s business; so are the routes of a host whose rules are
//! not the same for every caller.

mod answer;
mod filters;
mod forward;
mod headers;
mod own;
mod retry;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use outrigger_policy::{HostName, HttpAction, HttpMatch, HttpRoute, Mesh, Object, Protocol};
use outrigger_proto::envoy::config::route::v3::{
    Route, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
};

use super::{
    any::{OUTRIGGER, metadata},
    caller::{Caller, tells_callers_apart},
    directory::Directory,
    layer4::Layer4,
    matching::{everything, route_match},
};
use headers::Edits;

use crate::snapshot::{OnDemand, ResourceBytes, ResourceType, next_generation};

/// Port of a host that only a VirtualService knows.
const HTTP_PORT: u16 = 80;

/// All routes of the mesh. None = they depend on the caller; [`of_host`] makes them.
pub(super) type RouteTable = BTreeMap<HostName, Option<Arc<HostRoutes>>>;

/// Routes of one host.
#[derive(Debug)]
pub(super) struct HostRoutes {
    pub(super) ports: BTreeMap<u16, Vec<Route>>,
    /// Of its ports that are not HTTP: for CONNECT.
    pub(super) connect: BTreeMap<u16, Vec<Route>>,
    /// Hosts that the routes lead to.
    pub(super) destinations: BTreeSet<HostName>,
}

/// Builds the routes of every host, and of those that only a VirtualService names.
pub(super) fn table(mesh: &Mesh, hosts: &Directory) -> RouteTable {
    let anyone = Caller::default();
    let virtual_only = mesh.virtual_services.iter();
    let virtual_only = virtual_only.filter(|(_, service)| !service.http.is_empty());
    let names = hosts.keys().chain(virtual_only.map(|(host, _)| host));
    let names: BTreeSet<_> = names.collect();
    let entries = names.into_iter().filter_map(|host| {
        let mut builder = Builder::new(mesh, hosts, &anyone);
        let routes = builder.host(host);
        let entry = if builder.by_caller {
            None
        } else {
            Some(Arc::new(routes?))
        };
        Some((host.clone(), entry))
    });
    entries.collect()
}

/// The routes of `host` as `caller` sees them. None if there is nothing to see.
pub(super) fn of_host(
    mesh: &Mesh,
    hosts: &Directory,
    host: &HostName,
    caller: &Caller,
) -> Option<HostRoutes> {
    Builder::new(mesh, hosts, caller).host(host)
}

/// Route configurations of single ports, each by `<host>:<port>` (Istio's name): whatever the authority, it is that host.
pub(super) fn of_ports(hosts: BTreeMap<HostName, Arc<HostRoutes>>) -> Arc<OnDemand> {
    OnDemand::new(next_generation(), move |name| {
        let (host, number) = name.rsplit_once(':')?;
        let port: u16 = number.parse().ok()?;
        let routes = hosts.get(host)?.ports.get(&port)?;
        let host = VirtualHost {
            name: format!("{host}:{port}"),
            domains: vec!["*".to_owned()],
            routes: routes.clone(),
            ..VirtualHost::default()
        };
        // Another way to write it would be another name for the same.
        (host.name == name).then(|| {
            let table = RouteConfiguration {
                name: name.to_owned(),
                virtual_hosts: vec![host],
                validate_clusters: Some(false),
                ..RouteConfiguration::default()
            };
            ResourceBytes::new(ResourceType::Route, name, &table)
        })
    })
}

struct Builder<'a> {
    mesh: &'a Mesh,
    hosts: &'a Directory,
    caller: &'a Caller,
    destinations: BTreeSet<HostName>,
    /// Something that was looked at is not the same for every caller.
    by_caller: bool,
}

impl<'a> Builder<'a> {
    fn new(mesh: &'a Mesh, hosts: &'a Directory, caller: &'a Caller) -> Self {
        Self {
            mesh,
            hosts,
            caller,
            destinations: BTreeSet::new(),
            by_caller: false,
        }
    }

    fn host(&mut self, host: &HostName) -> Option<HostRoutes> {
        let nearest = self.mesh.virtual_service(host);
        self.by_caller |= nearest.is_some_and(tells_callers_apart);
        let service = self.mesh.virtual_service_for(host, self.caller.client());
        let rules = service.as_ref().map_or(&[][..], |service| &service.http);
        let served = self.hosts.get(host).is_some();
        let ports: Vec<u16> = match self.hosts.get(host) {
            // The connections of others are `layer4`'s.
            Some(known) => {
                let ports = known.ports.iter();
                let routed = ports.filter(|(_, protocol)| protocol.may_be_http());
                routed.map(|(&port, _)| port).collect()
            }
            None if rules.is_empty() => return None,
            None => vec![HTTP_PORT],
        };
        let ports = ports.into_iter().map(|port| {
            let of_rules = rules.iter();
            let of_rules = of_rules.flat_map(|(object, rule)| self.rule(port, object, rule));
            let mut routes: Vec<Route> = of_rules.collect();
            // Nobody wrote a rule, or all of them are for other ports (Istio).
            if routes.is_empty() && served {
                routes.push(self.plain(host, port));
            }
            if self.protocol(host, port) == Some(Protocol::Auto) {
                // Whoever asks for a tunnel has bytes to send.
                routes.insert(0, self.connect_to(host, port, Protocol::Auto));
            }
            (port, routes)
        });
        let ports = ports.collect();
        let connect = self.connect(host);
        Some(HostRoutes {
            ports,
            connect,
            destinations: std::mem::take(&mut self.destinations),
        })
    }

    /// The ports that are not HTTP, for CONNECT.
    fn connect(&mut self, host: &HostName) -> BTreeMap<u16, Vec<Route>> {
        let Some(known) = self.hosts.get(host) else {
            return BTreeMap::new();
        };
        let others = known
            .ports
            .iter()
            .filter(|(_, protocol)| !protocol.may_be_http());
        let others =
            others.map(|(&port, &protocol)| (port, vec![self.connect_to(host, port, protocol)]));
        others.collect()
    }

    fn connect_to(&mut self, host: &HostName, port: u16, protocol: Protocol) -> Route {
        let layer4 = Layer4 {
            mesh: self.mesh,
            hosts: self.hosts,
            caller: self.caller,
        };
        let (route, destinations) = layer4.connect(host, port, protocol);
        self.destinations.extend(destinations);
        route
    }

    fn protocol(&self, host: &HostName, port: u16) -> Option<Protocol> {
        self.hosts.get(host)?.ports.get(&port).copied()
    }

    /// Nobody wrote a rule: all requests go to the host itself.
    fn plain(&mut self, host: &HostName, port: u16) -> Route {
        let action = self.forward_to(host, port);
        let hedge = self.hedging([(host, None)]);
        let own = own::of_default(hedge.as_ref());
        Route {
            name: "default".to_owned(),
            r#match: Some(everything()),
            action: Some(Action::Route(action)),
            metadata: own.map(|own| metadata([(OUTRIGGER, own)])),
            ..Route::default()
        }
    }

    /// One route for each of the rule's matches that can hold on `port`.
    fn rule(&mut self, port: u16, object: &Arc<Object>, rule: &HttpRoute) -> Vec<Route> {
        let everything = Matched {
            name: "",
            stat_prefix: "",
            matched: everything(),
        };
        let wanted = rule.matches.iter();
        let wanted = wanted.filter(|one| one.port.is_none_or(|only| only == port));
        let matches: Vec<Matched<'_>> = if rule.matches.is_empty() {
            vec![everything]
        } else {
            wanted.map(Matched::by).collect()
        };
        if matches.is_empty() {
            return Vec::new();
        }
        let base = self.unmatched(port, object, rule);
        let rule_name = rule.name.as_deref().unwrap_or_default();
        let routes = matches.into_iter().map(|one| Route {
            name: match (rule_name, one.name) {
                ("", "") => "default".to_owned(),
                (only, "") | ("", only) => only.to_owned(),
                (rule, one) => format!("{rule}.{one}"),
            },
            r#match: Some(one.matched),
            stat_prefix: one.stat_prefix.to_owned(),
            ..base.clone()
        });
        routes.collect()
    }

    fn unmatched(&mut self, port: u16, object: &Arc<Object>, rule: &HttpRoute) -> Route {
        let namespace = &object.key.namespace;
        let edits = Edits::of(&rule.headers);
        let mut hedge = None;
        let action = match &rule.action {
            HttpAction::Route(destinations) => {
                let hosts = destinations.iter().map(|destination| {
                    let host = self.mesh.host(&destination.host.value, namespace);
                    (host, destination.subset.as_ref())
                });
                let hosts: Vec<_> = hosts.collect();
                let hosts = hosts.iter();
                hedge = self.hedging(
                    hosts.map(|(host, subset)| (host, subset.map(|at| at.value.as_str()))),
                );
                Action::Route(self.forward(port, namespace, rule, destinations))
            }
            HttpAction::Redirect(to) => Action::Redirect(answer::redirect(to, port)),
            HttpAction::DirectResponse { status, body } => {
                Action::DirectResponse(answer::direct(*status, body))
            }
        };
        Route {
            action: Some(action),
            metadata: Some(metadata([(
                OUTRIGGER,
                own::of_rule(rule, object, hedge.as_ref()),
            )])),
            typed_per_filter_config: filters::of(rule),
            request_headers_to_add: edits.request_add,
            request_headers_to_remove: edits.request_remove,
            response_headers_to_add: edits.response_add,
            response_headers_to_remove: edits.response_remove,
            ..Route::default()
        }
    }
}

/// A match in xDS' words, and what else it says.
struct Matched<'a> {
    name: &'a str,
    stat_prefix: &'a str,
    matched: RouteMatch,
}

impl<'a> Matched<'a> {
    fn by(one: &'a HttpMatch) -> Self {
        Self {
            name: one.name.as_deref().unwrap_or_default(),
            stat_prefix: one.stat_prefix.as_deref().unwrap_or_default(),
            matched: route_match(one),
        }
    }
}
