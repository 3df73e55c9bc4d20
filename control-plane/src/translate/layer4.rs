//! Filter chains for connections that are not HTTP: which TCP proxy takes a connection to an egress port of protocol
//! TCP or TLS, by the `tcp` and `tls` rules of VirtualServices, else to the service itself.
//!
//! ```text
//! TCP port ─► its one service ─► first tcp rule that holds, or the service ─► one chain
//! TLS port ─► each service with a TLS port ─► its tls rules that hold, or its host ─► one chain a rule, by server name
//! address ──► its service ─► its rules that hold, by where to and server name ─► one chain a rule, and one for the rest
//! ```
//! What is known when a connection comes is where it came in, where it was going to if it was redirected and, for TLS,
//! the server name. So the rest of a rule (port, who calls) is decided here. `destinationSubnets` looks at where a
//! redirected connection was going to; to a port of its own nobody redirects: there such a match never holds.
//! Source: Istio's `buildSidecarOutboundTCPFilterChainOpts` and its TLS twin; Envoy `FilterChainMatch`, `TcpProxy`.

use std::{borrow::Cow, collections::BTreeSet};

use outrigger_policy::{
    Balancer, ConnectionMatch, EgressHost, HashKey, HostName, MergedVirtualService, Mesh, Object,
    Position, Protocol, RouteDestination, Subnet, TrafficPolicy,
};
use outrigger_proto::envoy::{
    config::listener::v3::{Filter, FilterChain, FilterChainMatch, filter},
    extensions::filters::network::tcp_proxy::v3::{
        TcpProxy,
        tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
    },
    r#type::v3::{
        HashPolicy,
        hash_policy::{PolicySpecifier, SourceIp},
    },
};

use super::{
    any::{OUTRIGGER, any, decided_by, duration, metadata, object, range},
    caller::Caller,
    cluster,
    directory::Directory,
};

pub(super) mod connect;

const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
/// Tries to connect, each to an endpoint: as many as an unsent HTTP request has.
const CONNECT_ATTEMPTS: u32 = 2;

/// Who calls, and what there is to call.
pub(super) struct Layer4<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) hosts: &'a Directory,
    pub(super) caller: &'a Caller,
}

/// Filter chains of one listener, and the hosts that they lead to.
#[derive(Debug, Default)]
pub(super) struct Chains {
    pub(super) chains: Vec<FilterChain>,
    /// Some of them ask for a server name.
    pub(super) by_name: bool,
    pub(super) destinations: BTreeSet<HostName>,
}

/// Where a connection goes, and who said so.
struct Target<'a> {
    /// Host, subset, port, weight; the weights are more than 0.
    clusters: Vec<(HostName, Option<&'a str>, u16, u32)>,
    decided: Option<(&'a Position, &'a Object)>,
}

impl Layer4<'_> {
    /// The one chain of a TCP port that was declared for `wanted`.
    pub(super) fn tcp(&self, listener_port: u16, wanted: &[EgressHost]) -> Chains {
        let mut found = Chains::default();
        let Some(host) = wanted.first().map(|wanted| self.named(wanted)) else {
            return found;
        };
        let port = self.port_for(&host, listener_port, Protocol::Tcp);
        // Nobody knows the host yet: connections are closed for want of its cluster, which their refusal then names.
        let port = port.unwrap_or(listener_port);
        let rules = self.rules(&host);
        let rules = rules.as_ref().map_or(&[][..], |service| &service.tcp);
        let rule = rules.iter().find(|(_, rule)| {
            let holds = |one| self.holds(one, port);
            rule.matches.is_empty() || rule.matches.iter().any(holds)
        });
        let target = match rule {
            Some((object, rule)) => self.routed(object, &rule.position, &rule.route, port),
            None => direct(&host, port),
        };
        found.add(self, Matched::default(), &target);
        found
    }

    /// Chains of a TLS port, by server name. A connection with another name, or none, matches none of them.
    pub(super) fn tls(&self, listener_port: u16, wanted: &[EgressHost]) -> Chains {
        let mut found = Chains::default();
        // Envoy refuses a listener in which two chains match the same: the first one has a name.
        let mut claimed = BTreeSet::new();
        for host in self.admitted(wanted) {
            let service = self.rules(&host);
            let service = service.as_deref();
            let known = self.port_for(&host, listener_port, Protocol::Tls);
            let port = match (known, self.hosts.get(&host).is_some()) {
                (Some(port), _) => port,
                // A document alone may lead a name that nobody serves to others.
                (None, false) => listener_port,
                (None, true) => continue,
            };
            if self.tls_rules((&host, port), service, &mut claimed, &mut found) {
                continue;
            }
            if known.is_some() && claimed.insert(host.as_str().to_owned()) {
                let names = vec![host.as_str().to_owned()];
                found.add(self, Matched::tls(names), &direct(&host, port));
            }
        }
        found
    }

    /// One chain for each tls rule that holds for this caller and `port`. True if one of them is for the host's own name:
    /// rules of a wildcard may be for others alone.
    fn tls_rules(
        &self,
        (host, port): (&HostName, u16),
        service: Option<&MergedVirtualService>,
        claimed: &mut BTreeSet<String>,
        found: &mut Chains,
    ) -> bool {
        let mut any = false;
        for (object, rule) in service.into_iter().flat_map(|service| &service.tls) {
            let held = rule
                .matches
                .iter()
                .filter(|one| self.holds(&one.common, port));
            let names = held.flat_map(|one| &one.sni_hosts);
            let names: Vec<_> = names.map(|name| name.value.to_ascii_lowercase()).collect();
            any |= names.iter().any(|name| is_name_of(name, host.as_str()));
            let names: Vec<_> = names
                .into_iter()
                .filter(|name| claimed.insert(name.clone()))
                .collect();
            if names.is_empty() {
                continue;
            }
            let target = self.routed(object, &rule.position, &rule.route, port);
            // "*" is no server name to Envoy: every one is what a chain without names takes.
            let (all, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name == "*");
            if !names.is_empty() {
                found.add(self, Matched::tls(names), &target);
            }
            if !all.is_empty() {
                found.add(self, Matched::tls(Vec::new()), &target);
            }
        }
        any
    }

    /// Chains of redirected connections to this port of `host`; the last takes those that no other takes.
    pub(super) fn redirected(&self, host: &HostName, port: u16, protocol: Protocol) -> Chains {
        let mut found = Chains::default();
        let rules = self.rules(host);
        let rules = rules.as_deref();
        if protocol == Protocol::Tls {
            self.redirected_names((host, port), rules, &mut found);
        }
        let mut claimed = BTreeSet::new();
        let rest = self.redirected_subnets((host, port), rules, &mut claimed, &mut found);
        let rest = rest.unwrap_or_else(|| direct(host, port));
        found.add(self, Matched::default(), &rest);
        found
    }

    /// One for each tls rule that holds.
    fn redirected_names(
        &self,
        (host, port): (&HostName, u16),
        rules: Option<&MergedVirtualService>,
        found: &mut Chains,
    ) {
        let mut claimed = BTreeSet::new();
        for (object, rule) in rules.into_iter().flat_map(|service| &service.tls) {
            let held = rule.matches.iter();
            let held = held.filter(|one| self.holds_there(&one.common, port));
            for one in held {
                let subnets = &one.common.destination_subnets;
                let names = one.sni_hosts.iter();
                let names = names.map(|name| name.value.to_ascii_lowercase());
                // "*" is no server name to Envoy: every one is what a chain without names takes.
                let (all, names): (Vec<_>, Vec<_>) = names.partition(|name| name == "*");
                let names: Vec<_> = names
                    .into_iter()
                    .filter(|name| claimed.insert((name.clone(), subnets.clone())))
                    .collect();
                let all = !all.is_empty() && claimed.insert((String::new(), subnets.clone()));
                let target = self.routed(object, &rule.position, &rule.route, port);
                for names in [(!names.is_empty()).then_some(names), all.then(Vec::new)] {
                    let Some(server_names) = names else {
                        continue;
                    };
                    let matched = Matched {
                        server_names,
                        transport: Some("tls"),
                        subnets,
                    };
                    found.by_name = true;
                    found.add(self, matched, &target);
                }
            }
        }
        // A chain that asks for TLS hides one that asks for nothing: where a server name is no rule's, it is the host.
        if found.by_name && claimed.insert((String::new(), Vec::new())) {
            let matched = Matched {
                transport: Some("tls"),
                ..Matched::default()
            };
            found.add(self, matched, &direct(host, port));
        }
    }

    /// One for each tcp rule that looks at where connections were going to; gives the first that does not.
    fn redirected_subnets<'t>(
        &self,
        (_, port): (&HostName, u16),
        rules: Option<&'t MergedVirtualService>,
        claimed: &mut BTreeSet<Subnet>,
        found: &mut Chains,
    ) -> Option<Target<'t>> {
        for (object, rule) in rules.into_iter().flat_map(|service| &service.tcp) {
            let target = || self.routed(object, &rule.position, &rule.route, port);
            let held = rule.matches.iter();
            let held: Vec<_> = held.filter(|one| self.holds_there(one, port)).collect();
            let always = |one: &&ConnectionMatch| one.destination_subnets.is_empty();
            if rule.matches.is_empty() || held.iter().any(always) {
                return Some(target());
            }
            let subnets = held.iter().flat_map(|one| &one.destination_subnets);
            let subnets: Vec<Subnet> = subnets
                .copied()
                .filter(|net| claimed.insert(*net))
                .collect();
            if !subnets.is_empty() {
                let matched = Matched {
                    subnets: &subnets,
                    ..Matched::default()
                };
                found.add(self, matched, &target());
            }
        }
        None
    }

    /// To a port of its own.
    fn holds(&self, one: &ConnectionMatch, port: u16) -> bool {
        one.destination_subnets.is_empty() && self.holds_there(one, port)
    }

    /// Wherever to: networks are not looked at.
    fn holds_there(&self, one: &ConnectionMatch, port: u16) -> bool {
        one.port.is_none_or(|only| only == port)
            && one
                .source_namespace
                .as_deref()
                .is_none_or(|only| only == self.caller.namespace)
            && one
                .source_labels
                .iter()
                .all(|(name, value)| self.caller.labels.get(name) == Some(value))
    }

    /// The rules for `host` that are for this caller.
    fn rules(&self, host: &HostName) -> Option<Cow<'_, MergedVirtualService>> {
        self.mesh.virtual_service_for(host, self.caller.client())
    }

    /// The host that a pattern without a star names.
    fn named(&self, wanted: &EgressHost) -> HostName {
        let home = match wanted.namespace.as_str() {
            "*" | "." | "~" => &self.caller.namespace,
            name => name,
        };
        self.mesh.host(&wanted.host, home)
    }

    /// Hosts that may be called: services, and those that only tls rules know.
    fn admitted(&self, wanted: &[EgressHost]) -> BTreeSet<HostName> {
        let ruled = self.mesh.virtual_services.iter();
        let ruled = ruled.filter(|(_, service)| !service.tls.is_empty());
        let all = self.hosts.keys().chain(ruled.map(|(host, _)| host));
        let admitted = all.filter(|host| {
            let admits = |one| self.mesh.admits(&self.caller.namespace, one, host);
            wanted.iter().any(admits)
        });
        admitted.cloned().collect()
    }

    /// The host's port of this protocol: the one with the listener's number, or the only one.
    fn port_for(&self, host: &HostName, listener_port: u16, protocol: Protocol) -> Option<u16> {
        let ports = &self.hosts.get(host)?.ports;
        let mut fitting = ports.iter().filter(|(_, found)| **found == protocol);
        if ports.get(&listener_port) == Some(&protocol) {
            return Some(listener_port);
        }
        let (&first, _) = fitting.next()?;
        fitting.next().is_none().then_some(first)
    }

    fn routed<'t>(
        &self,
        object: &'t Object,
        position: &'t Position,
        route: &'t [RouteDestination],
        port: u16,
    ) -> Target<'t> {
        // A weight of 0 gets nothing (Istio), and Envoy refuses one.
        let weighted = route.iter().filter(|destination| destination.weight > 0);
        let clusters = weighted.map(|destination| {
            let host = self
                .mesh
                .host(&destination.host.value, &object.key.namespace);
            let subset = destination.subset.as_ref().map(|name| name.value.as_str());
            let number = destination
                .port
                .unwrap_or_else(|| self.port_of(&host, port));
            (host, subset, number, destination.weight)
        });
        Target {
            clusters: clusters.collect(),
            decided: Some((position, object)),
        }
    }

    /// Where no port is written: the connection's, or the only one there is.
    fn port_of(&self, host: &HostName, requested: u16) -> u16 {
        let ports = self.hosts.get(host).map(|host| &host.ports);
        match ports.map(|ports| (ports.keys().next(), ports.len())) {
            Some((Some(&only), 1)) => only,
            _ => requested,
        }
    }
}

/// Whether a server name, exact or `*.suffix`, is one that clients of `host` send.
fn is_name_of(name: &str, host: &str) -> bool {
    match name.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => name == host,
    }
}

/// To the host itself.
fn direct<'a>(host: &HostName, port: u16) -> Target<'a> {
    Target {
        clusters: vec![(host.clone(), None, port, 1)],
        decided: None,
    }
}

/// Which connections a chain takes; the default takes all.
#[derive(Default)]
struct Matched<'a> {
    server_names: Vec<String>,
    transport: Option<&'a str>,
    subnets: &'a [Subnet],
}

impl Matched<'_> {
    const fn tls(server_names: Vec<String>) -> Self {
        Self {
            server_names,
            transport: Some("tls"),
            subnets: &[],
        }
    }

    fn of_chain(self) -> Option<FilterChainMatch> {
        let all = self.transport.is_none() && self.subnets.is_empty();
        (!all).then(|| FilterChainMatch {
            server_names: self.server_names,
            transport_protocol: self.transport.unwrap_or_default().to_owned(),
            prefix_ranges: self.subnets.iter().copied().map(range).collect(),
            ..FilterChainMatch::default()
        })
    }
}

impl Chains {
    fn add(&mut self, layer4: &Layer4<'_>, matched: Matched<'_>, target: &Target<'_>) {
        let hosts = target.clusters.iter().map(|(host, ..)| host.clone());
        self.destinations.extend(hosts);
        let decided = target.decided.map(|(position, document)| {
            metadata([(OUTRIGGER, object(decided_by(position, &document.key)))])
        });
        self.chains.push(FilterChain {
            filter_chain_match: matched.of_chain(),
            filters: vec![filter(&proxy(layer4, target))],
            metadata: decided,
            ..FilterChain::default()
        });
    }
}

/// The TCP proxy to `cluster` of an inbound port: it has no timeouts, as the caller's side has them.
pub(super) fn inbound(cluster: &str) -> Filter {
    plain(cluster, cluster)
}

/// The TCP proxy to `cluster` for what no document speaks of.
pub(super) fn plain(cluster: &str, stat_prefix: &str) -> Filter {
    filter(&TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        idle_timeout: Some(prost_types::Duration::default()),
        ..TcpProxy::default()
    })
}

fn proxy(layer4: &Layer4<'_>, target: &Target<'_>) -> TcpProxy {
    let policies: Vec<TrafficPolicy> = target
        .clusters
        .iter()
        .map(|(host, subset, port, _)| {
            let client = layer4.caller.client();
            layer4.mesh.traffic_policy_for(host, *subset, *port, client)
        })
        .collect();
    let pools = || {
        policies
            .iter()
            .filter_map(|policy| policy.connection_pool.as_ref())
    };
    // Set for a proxy, not for a cluster: of several, what the strictest asks for. Zero = never.
    let shortest = pools()
        .filter_map(|pool| pool.value.tcp_idle_timeout)
        .min_by_key(|timeout| (timeout.is_zero(), *timeout));
    let longest_life = pools()
        .filter_map(|pool| pool.value.max_connection_duration)
        .min();
    let names: Vec<_> = target
        .clusters
        .iter()
        .map(|(host, subset, port, weight)| {
            (
                cluster::name(*port, subset.unwrap_or_default(), host.as_str()),
                *weight,
            )
        })
        .collect();
    let specifier = match names.as_slice() {
        [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|(name, weight)| ClusterWeight {
                    name: name.clone(),
                    weight: *weight,
                    ..ClusterWeight::default()
                })
                .collect(),
        }),
    };
    TcpProxy {
        stat_prefix: names
            .first()
            .map(|(name, _)| name.clone())
            .unwrap_or_default(),
        cluster_specifier: Some(specifier),
        max_connect_attempts: Some(CONNECT_ATTEMPTS),
        idle_timeout: shortest.map(duration),
        max_downstream_connection_duration: longest_life.map(duration),
        hash_policy: source_ip(&policies).into_iter().collect(),
        ..TcpProxy::default()
    }
}

/// Of a connection nothing but its source can be hashed.
fn source_ip(policies: &[TrafficPolicy]) -> Option<HashPolicy> {
    let by_source = policies.iter().any(|policy| {
        policy.load_balancer.as_ref().is_some_and(|balancer| {
            matches!(
                balancer.value.algorithm,
                Balancer::ConsistentHash {
                    key: HashKey::SourceIp,
                    ..
                }
            )
        })
    });
    by_source.then_some(HashPolicy {
        policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})),
    })
}

fn filter(proxy: &TcpProxy) -> Filter {
    Filter {
        name: TCP_PROXY.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            proxy,
        ))),
    }
}

#[cfg(test)]
mod tests;
