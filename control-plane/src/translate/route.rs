//! The routes of every host and port: what its VirtualService says, or all of it to the host itself.
//!
//! Endpoints play no part here, so a table lives until a policy or a port changes. Which domains lead to
//! the routes depends on who asks, and is `scope`'s business.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use outrigger_policy::{
    Balancer, HashKey, HeaderEdits, HeaderOps, HostName, HttpAction, HttpRoute,
    MergedVirtualService, Mesh, Object, Protocol, Redirect, RedirectPort, RedirectUri,
    WeightedDestination,
};
use outrigger_proto::envoy::config::{
    core::v3::{
        DataSource, HeaderValue, HeaderValueOption, data_source::Specifier,
        header_value_option::HeaderAppendAction,
    },
    route::v3::{
        DirectResponseAction, RedirectAction, Route, RouteAction, RouteMatch, WeightedCluster,
        redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
        route::Action,
        route_action::{
            ClusterSpecifier, HashPolicy, HostRewriteSpecifier,
            hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter},
        },
        weighted_cluster::ClusterWeight,
    },
};

use super::{
    any::{OUTRIGGER, decided_by, duration, metadata, object},
    cluster,
    matching::{everything, route_match},
};

/// Port of a host that only a VirtualService knows.
const HTTP_PORT: u16 = 80;

/// All routes of the mesh.
pub(super) type RouteTable = BTreeMap<HostName, HostRoutes>;

/// Routes of one host.
#[derive(Debug)]
pub(super) struct HostRoutes {
    pub(super) ports: BTreeMap<u16, Vec<Route>>,
    /// Hosts that the routes lead to.
    pub(super) destinations: BTreeSet<HostName>,
}

/// The callable hosts and their ports.
pub(super) type Hosts<'a> = BTreeMap<&'a HostName, &'a BTreeMap<u16, Protocol>>;

/// Builds the routes of every host, and of those that only a VirtualService names.
pub(super) fn table(mesh: &Mesh, hosts: &Hosts<'_>) -> RouteTable {
    let known = hosts.iter().map(|(&host, &ports)| {
        let service = mesh.virtual_service(host);
        let mut builder = Builder {
            mesh,
            hosts,
            destinations: BTreeSet::new(),
        };
        // The others' connections are `layer4`'s.
        let ports = ports.iter().filter(|(_, protocol)| protocol.is_http());
        let ports = ports
            .map(|(&port, _)| (port, builder.routes(host, port, service)))
            .collect();
        let destinations = builder.destinations;
        (
            host.clone(),
            HostRoutes {
                ports,
                destinations,
            },
        )
    });
    let virtual_only = mesh.virtual_services.iter().filter_map(|(host, service)| {
        service.http.first().filter(|_| !hosts.contains_key(host))?;
        let mut builder = Builder {
            mesh,
            hosts,
            destinations: BTreeSet::new(),
        };
        let routes = builder.routes(host, HTTP_PORT, Some(service));
        let routes = HostRoutes {
            ports: [(HTTP_PORT, routes)].into(),
            destinations: builder.destinations,
        };
        Some((host.clone(), routes))
    });
    known.chain(virtual_only).collect()
}

struct Builder<'a> {
    mesh: &'a Mesh,
    hosts: &'a Hosts<'a>,
    destinations: BTreeSet<HostName>,
}

impl Builder<'_> {
    fn routes(
        &mut self,
        host: &HostName,
        port: u16,
        service: Option<&MergedVirtualService>,
    ) -> Vec<Route> {
        match service.filter(|service| !service.http.is_empty()) {
            None => vec![self.plain(host, port)],
            Some(service) => {
                let rules = service.http.iter();
                rules
                    .flat_map(|(object, rule)| self.rule(port, object, rule))
                    .collect()
            }
        }
    }

    /// Nobody wrote a rule: all requests go to the host itself.
    fn plain(&mut self, host: &HostName, port: u16) -> Route {
        self.destinations.insert(host.clone());
        let action = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster::name(
                port,
                "",
                host.as_str(),
            ))),
            hash_policy: self.hash_policy(host, None).into_iter().collect(),
            ..forward()
        };
        Route {
            name: "default".to_owned(),
            r#match: Some(everything()),
            action: Some(Action::Route(action)),
            ..Route::default()
        }
    }

    /// One route for each of the rule's matches that can hold on `port`.
    fn rule(&mut self, port: u16, object: &Arc<Object>, rule: &HttpRoute) -> Vec<Route> {
        let all = [(String::new(), everything())];
        let wanted = rule
            .matches
            .iter()
            .filter(|one| one.port.is_none_or(|only| only == port));
        let matches: Vec<(String, RouteMatch)> = if rule.matches.is_empty() {
            all.into()
        } else {
            wanted
                .map(|one| (one.name.clone().unwrap_or_default(), route_match(one)))
                .collect()
        };
        if matches.is_empty() {
            return Vec::new();
        }
        let base = self.unmatched(port, object, rule);
        let rule_name = rule.name.as_deref().unwrap_or_default();
        let name = |one: &str| match (rule_name, one) {
            ("", "") => "default".to_owned(),
            (only, "") | ("", only) => only.to_owned(),
            (rule, one) => format!("{rule}.{one}"),
        };
        let routes = matches.into_iter().map(|(one, matched)| Route {
            name: name(&one),
            r#match: Some(matched),
            ..base.clone()
        });
        routes.collect()
    }

    fn unmatched(&mut self, port: u16, object: &Arc<Object>, rule: &HttpRoute) -> Route {
        let namespace = &object.key.namespace;
        let host_rewrite = rule
            .rewrite
            .as_ref()
            .and_then(|rewrite| rewrite.authority.clone());
        let edits = Edits::of(&rule.headers);
        let action = match &rule.action {
            HttpAction::Route(destinations) => {
                let action = self.forward(port, namespace, destinations);
                let path = rule
                    .rewrite
                    .as_ref()
                    .and_then(|rewrite| rewrite.uri.clone());
                Action::Route(RouteAction {
                    timeout: Some(duration(rule.timeout.unwrap_or_default())),
                    prefix_rewrite: path.unwrap_or_default(),
                    host_rewrite_specifier: host_rewrite
                        .map(HostRewriteSpecifier::HostRewriteLiteral),
                    ..action
                })
            }
            HttpAction::Redirect(to) => Action::Redirect(redirect(to, port)),
            HttpAction::DirectResponse { status, body } => {
                Action::DirectResponse(DirectResponseAction {
                    status: u32::from(*status),
                    body: (!body.is_empty()).then(|| DataSource {
                        specifier: Some(match String::from_utf8(body.clone()) {
                            Ok(text) => Specifier::InlineString(text),
                            Err(_) => Specifier::InlineBytes(body.clone()),
                        }),
                        ..DataSource::default()
                    }),
                    ..DirectResponseAction::default()
                })
            }
        };
        let decided = object_of(rule, object);
        Route {
            action: Some(action),
            metadata: Some(metadata([(OUTRIGGER, decided)])),
            request_headers_to_add: edits.request_add,
            request_headers_to_remove: edits.request_remove,
            response_headers_to_add: edits.response_add,
            response_headers_to_remove: edits.response_remove,
            ..Route::default()
        }
    }

    fn forward(
        &mut self,
        port: u16,
        namespace: &str,
        destinations: &[WeightedDestination],
    ) -> RouteAction {
        let mut hash_policy = Vec::new();
        let mut weights = Vec::new();
        // A weight of 0 gets nothing (Istio), and Envoy refuses one.
        for destination in destinations
            .iter()
            .filter(|destination| destination.weight > 0)
        {
            let host = self.mesh.host(&destination.host.value, namespace);
            let subset = destination
                .subset
                .as_ref()
                .map(|subset| subset.value.as_str());
            let policy = self.hash_policy(&host, subset);
            hash_policy.extend(policy.filter(|policy| !hash_policy.contains(policy)));
            let number = destination
                .port
                .unwrap_or_else(|| self.port_of(&host, port));
            weights.push(weighted(
                destination,
                cluster::name(number, subset.unwrap_or_default(), host.as_str()),
            ));
            self.destinations.insert(host);
        }
        let specifier = match weights.as_slice() {
            [only] if is_bare(only) => ClusterSpecifier::Cluster(only.name.clone()),
            _ => ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: weights,
                ..WeightedCluster::default()
            }),
        };
        RouteAction {
            cluster_specifier: Some(specifier),
            hash_policy,
            ..forward()
        }
    }

    /// Where no port is written: the one of the request, or the only one there is.
    fn port_of(&self, host: &HostName, requested: u16) -> u16 {
        let Some(ports) = self.hosts.get(host) else {
            return requested;
        };
        match ports.keys().next() {
            Some(&only) if ports.len() == 1 => only,
            _ => requested,
        }
    }

    fn hash_policy(&self, host: &HostName, subset: Option<&str>) -> Option<HashPolicy> {
        let policy = self.mesh.traffic_policy(host, subset);
        let Balancer::ConsistentHash { key, .. } = policy.load_balancer?.value.algorithm else {
            return None;
        };
        let specifier = match key {
            HashKey::Header(name) => PolicySpecifier::Header(Header {
                header_name: name.to_ascii_lowercase(),
                ..Header::default()
            }),
            HashKey::Cookie {
                name,
                path,
                ttl,
                attributes: _,
            } => PolicySpecifier::Cookie(Cookie {
                name,
                path,
                ttl: ttl.map(duration),
                ..Cookie::default()
            }),
            HashKey::SourceIp => {
                PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
            }
            HashKey::QueryParameter(name) => {
                PolicySpecifier::QueryParameter(QueryParameter { name })
            }
        };
        Some(HashPolicy {
            policy_specifier: Some(specifier),
            terminal: false,
        })
    }
}

/// Absent would mean 15 s to Envoy; 0 = no limit (Istio's default).
fn forward() -> RouteAction {
    RouteAction {
        timeout: Some(prost_types::Duration::default()),
        ..RouteAction::default()
    }
}

fn object_of(rule: &HttpRoute, document: &Object) -> prost_types::Struct {
    object(decided_by(&rule.position, &document.key))
}

fn weighted(destination: &WeightedDestination, name: String) -> ClusterWeight {
    let edits = Edits::of(&destination.headers);
    ClusterWeight {
        name,
        weight: Some(destination.weight),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        ..ClusterWeight::default()
    }
}

fn is_bare(cluster: &ClusterWeight) -> bool {
    *cluster
        == ClusterWeight {
            name: cluster.name.clone(),
            weight: cluster.weight,
            ..ClusterWeight::default()
        }
}

fn redirect(to: &Redirect, requested: u16) -> RedirectAction {
    RedirectAction {
        host_redirect: to.authority.clone().unwrap_or_default(),
        path_rewrite_specifier: to.uri.clone().map(|uri| match uri {
            RedirectUri::Path(path) => PathRewriteSpecifier::PathRedirect(path),
            RedirectUri::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
        }),
        port_redirect: match to.port {
            Some(RedirectPort::Number(number)) => u32::from(number),
            Some(RedirectPort::OfRequest) => u32::from(requested),
            Some(RedirectPort::OfScheme) | None => 0,
        },
        scheme_rewrite_specifier: to
            .scheme
            .clone()
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        response_code: match to.redirect_code {
            302 => RedirectResponseCode::Found,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::MovedPermanently,
        } as i32,
        ..RedirectAction::default()
    }
}

/// Header edits in xDS' words.
struct Edits {
    request_add: Vec<HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<HeaderValueOption>,
    response_remove: Vec<String>,
}

impl Edits {
    fn of(edits: &HeaderEdits) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self {
            request_add: options(&edits.request),
            request_remove: lower(&edits.request.remove),
            response_add: options(&edits.response),
            response_remove: lower(&edits.response.remove),
        }
    }
}

/// `set`, then `add`. Neither names `Host`: `parse` refuses that in favour of `rewrite.authority`.
fn options(edits: &HeaderOps) -> Vec<HeaderValueOption> {
    let set = edits
        .set
        .iter()
        .map(|(name, value)| option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = edits
        .add
        .iter()
        .map(|(name, value)| option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn option(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: action as i32,
        // Or else an empty value would mean: no such header.
        keep_empty_value: value.is_empty(),
    }
}
