//! Listeners of redirected connections that are for services. None of them is bound: `virtualOutbound` hands a connection
//! to the listener of the address that it was going to, else to the one of that port.
//!
//! ```text
//! 240.240.0.9_5432   a service's port that is not HTTP, or of which nobody knows ─► its cluster, or its rules
//! 0.0.0.0_8080       a port that is HTTP at some service ─┬─ HTTP ─► the services of that port, by authority
//!                                                         ├─ to a network of a service ─► its cluster
//!                                                         └─ else ─► PassthroughCluster, or BlackHoleCluster
//! ```
//! Source: Istio's outbound listeners (names, matches, the pass-through at the end).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use outrigger_policy::{EgressHost, HostName, Mesh, OutboundTrafficPolicy, Protocol, Subnet};
use outrigger_proto::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{FilterChain, FilterChainMatch, Listener},
};

use super::{
    super::{
        any::{OUTRIGGER, address, duration, flag, metadata, object, range, text},
        caller::Caller,
        directory::Directory,
        hosts::Facts,
        layer4::{self, Layer4},
        listener::{self, Demand},
    },
    elsewhere,
};
use crate::snapshot::{OnDemand, ResourceBytes, ResourceType, next_generation};

/// What HTTP is called that was recognised by its first bytes.
pub(in crate::translate) const PLAIN_HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];
/// For a connection of a service of which nobody knows what it speaks to say something, where the proxy does not ask its
/// server meanwhile: then it is no HTTP.
pub(in crate::translate) const DETECTION: Duration = Duration::from_millis(200);

/// How a scope's connections are captured: what its nodes have alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::translate) struct Redirected {
    /// Its hosts have IPv6.
    pub(in crate::translate) ipv6: bool,
    /// Listeners of addresses are asked for by name.
    pub(in crate::translate) by_name: bool,
    /// What requests wait for.
    pub(in crate::translate) demand: Option<Demand>,
    /// Names are asked of a listener of its own, there.
    pub(in crate::translate) dns: Option<SocketAddr>,
}

/// Which hosts are called, and on which ports.
#[derive(Clone, Debug, Default)]
pub(in crate::translate) struct Called {
    /// On these ports only these hosts.
    pub(in crate::translate) on_port: BTreeMap<u16, Vec<EgressHost>>,
    /// On the others these.
    pub(in crate::translate) else_: Vec<EgressHost>,
}

/// Everything that listeners of a scope are made from.
#[derive(Debug)]
pub(in crate::translate) struct Ports {
    pub(in crate::translate) mesh: Arc<Mesh>,
    pub(in crate::translate) directory: Arc<Directory>,
    pub(in crate::translate) caller: Caller,
    pub(in crate::translate) how: Redirected,
    pub(in crate::translate) called: Called,
    pub(in crate::translate) policy: OutboundTrafficPolicy,
}

/// What one port number is at the services that have it.
#[derive(Debug, Default)]
struct Port<'a> {
    http: BTreeSet<&'a HostName>,
    others: Vec<(&'a HostName, Protocol, &'a Facts)>,
}

impl Ports {
    /// Whether the caller may call this port of the host.
    pub(in crate::translate) fn admits(&self, host: &HostName, port: u16) -> bool {
        let patterns = self.called.on_port.get(&port);
        let patterns = patterns.unwrap_or(&self.called.else_);
        patterns
            .iter()
            .any(|pattern| self.mesh.admits(&self.caller.namespace, pattern, host))
    }

    /// All ports that somebody may be called on.
    fn numbers(&self) -> BTreeMap<u16, Port<'_>> {
        let mut numbers: BTreeMap<u16, Port<'_>> = BTreeMap::new();
        for (host, facts) in self.directory.iter() {
            for (&number, &protocol) in &facts.ports {
                if !self.admits(host, number) {
                    continue;
                }
                let port = numbers.entry(number).or_default();
                if protocol.is_http() {
                    port.http.insert(host);
                } else {
                    port.others.push((host, protocol, facts));
                }
            }
        }
        numbers
    }

    /// Ports that are HTTP somewhere, with the hosts where they are.
    pub(in crate::translate) fn of_http(&self) -> BTreeMap<u16, BTreeSet<&HostName>> {
        let numbers = self.numbers().into_iter();
        let http = numbers.filter(|(_, port)| !port.http.is_empty());
        http.map(|(number, port)| (number, port.http)).collect()
    }

    /// Hosts with a port that is called, and those that rules for their connections lead to.
    pub(in crate::translate) fn destinations(&self) -> BTreeSet<HostName> {
        let layer4 = self.layer4();
        let mut all = BTreeSet::new();
        for (host, facts) in self.directory.iter() {
            for (&number, &protocol) in &facts.ports {
                if !self.admits(host, number) {
                    continue;
                }
                if !protocol.is_http() && self.mesh.virtual_service(host).is_some() {
                    all.extend(layer4.redirected(host, number, protocol).destinations);
                }
                all.insert(host.clone());
            }
        }
        all
    }

    fn layer4(&self) -> Layer4<'_> {
        Layer4 {
            mesh: &self.mesh,
            hosts: &self.directory,
            caller: &self.caller,
        }
    }

    /// Listeners that are there without being asked for.
    pub(in crate::translate) fn listeners(&self) -> Vec<Arc<ResourceBytes>> {
        let numbers = self.numbers();
        let ports = numbers.iter();
        let mut all: Vec<_> = ports
            .filter_map(|(&number, port)| self.of_port(number, port))
            .collect();
        if !self.how.by_name {
            for (number, port) in numbers {
                let by_address = port.others.into_iter();
                all.extend(by_address.filter_map(|(host, protocol, _)| {
                    let addresses: Vec<_> = self.directory.addresses_of(host).collect();
                    let (first, others) = addresses.split_first()?;
                    self.of_address((*first, others), host, number, protocol)
                }));
            }
        }
        all
    }

    /// Listeners of addresses, each by its name.
    pub(in crate::translate) fn on_demand(self: &Arc<Self>) -> Arc<OnDemand> {
        let ports = Arc::clone(self);
        OnDemand::new(next_generation(), move |name| {
            let (address, number) = name.rsplit_once('_')?;
            let address: IpAddr = address.parse().ok()?;
            let port: u16 = number.parse().ok()?;
            let (host, facts) = ports.directory.at(address)?;
            let protocol = *facts.ports.get(&port)?;
            if protocol.is_http() || !ports.admits(host, port) {
                return None;
            }
            let known: Vec<_> = ports.directory.addresses_of(host).collect();
            // The others of its family are listeners of their own: one that has them all is named by the first.
            let others: &[IpAddr] = match known.split_first() {
                Some((first, others)) if *first == address => others,
                _ => &[],
            };
            let made = ports.of_address((address, others), host, port, protocol)?;
            // Another way to write it would be another name for the same.
            (*made.name == *name).then_some(made)
        })
    }

    /// For everything to one port that is not for an address of ours.
    fn of_port(&self, number: u16, port: &Port<'_>) -> Option<Arc<ResourceBytes>> {
        let name = format!("0.0.0.0_{number}");
        let mut chains = Vec::new();
        if !port.http.is_empty() {
            chains.push(FilterChain {
                filter_chain_match: Some(plain_http()),
                filters: vec![listener::requests(
                    &name,
                    &number.to_string(),
                    self.how.demand,
                )],
                ..FilterChain::default()
            });
        }
        let http = !chains.is_empty();
        let mut by_name = false;
        let mut claimed = BTreeSet::new();
        for (host, protocol, facts) in &port.others {
            by_name |=
                self.add_networks((number, *protocol), host, facts, &mut claimed, &mut chains);
            by_name |= self.add_names((number, *protocol), host, facts, &mut claimed, &mut chains);
        }
        if chains.is_empty() {
            return None;
        }
        let to = elsewhere(self.policy);
        let rest = FilterChain {
            name: "PassthroughFilterChain".to_owned(),
            filters: vec![layer4::plain(to, to)],
            ..FilterChain::default()
        };
        let mut filters = Vec::new();
        if http || by_name {
            filters.push(listener::tls_inspector());
        }
        if http {
            filters.push(listener::http_inspector());
        }
        let peeks = !filters.is_empty();
        // Whoever goes to an address of ours need not ask for a listener of that address.
        let alone = port.others.is_empty();
        let (listen, also) = self.everywhere(number);
        let listener = Listener {
            name: name.clone(),
            address: Some(address(listen)),
            additional_addresses: super::also(also),
            bind_to_port: Some(false),
            listener_filters: filters,
            listener_filters_timeout: peeks.then(|| duration(listener::CLIENT_HELLO_TIMEOUT)),
            // A server may be the one to speak first.
            continue_on_listener_filters_timeout: peeks,
            filter_chains: chains,
            default_filter_chain: Some(rest),
            metadata: alone.then(|| metadata([(OUTRIGGER, object([("alone", flag(true))]))])),
            traffic_direction: TrafficDirection::Outbound as i32,
            ..Listener::default()
        };
        Some(ResourceBytes::new(ResourceType::Listener, &name, &listener))
    }

    /// Chains of a service that has networks for addresses.
    fn add_networks(
        &self,
        (number, protocol): (u16, Protocol),
        host: &HostName,
        facts: &Facts,
        claimed: &mut BTreeSet<String>,
        chains: &mut Vec<FilterChain>,
    ) -> bool {
        let networks = facts.addresses.iter().copied();
        let networks: Vec<Subnet> = networks
            .filter(|net| net.single().is_none() && claimed.insert(net.to_string()))
            .collect();
        if networks.is_empty() {
            return false;
        }
        // Rules by server name and by further networks hold for services with addresses of their own.
        let found = self.layer4().redirected(host, number, Protocol::Tcp);
        let Some(last) = found.chains.into_iter().next_back() else {
            return false;
        };
        let matched = |more: FilterChainMatch| {
            Some(FilterChainMatch {
                prefix_ranges: networks.iter().copied().map(range).collect(),
                ..more
            })
        };
        if protocol == Protocol::Auto {
            chains.push(FilterChain {
                filter_chain_match: matched(plain_http()),
                filters: vec![self.requests_of(host, number)],
                ..FilterChain::default()
            });
            // A chain that says raw_buffer hides one that says nothing.
            for transport in ["raw_buffer", "tls"] {
                chains.push(FilterChain {
                    filter_chain_match: matched(FilterChainMatch {
                        transport_protocol: transport.to_owned(),
                        ..FilterChainMatch::default()
                    }),
                    ..last.clone()
                });
            }
            return true;
        }
        chains.push(FilterChain {
            filter_chain_match: matched(FilterChainMatch::default()),
            ..last
        });
        false
    }

    /// Chains of a service without addresses, which only its server name tells.
    fn add_names(
        &self,
        (number, protocol): (u16, Protocol),
        host: &HostName,
        facts: &Facts,
        claimed: &mut BTreeSet<String>,
        chains: &mut Vec<FilterChain>,
    ) -> bool {
        if protocol != Protocol::Tls || !facts.addresses.is_empty() {
            return false;
        }
        if !claimed.insert(host.to_string()) {
            return false;
        }
        let found = self.layer4().redirected(host, number, Protocol::Tcp);
        let Some(last) = found.chains.into_iter().next_back() else {
            return false;
        };
        chains.push(FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                server_names: vec![host.to_string()],
                transport_protocol: "tls".to_owned(),
                ..FilterChainMatch::default()
            }),
            ..last
        });
        true
    }

    /// For connections to addresses of `host`.
    fn of_address(
        &self,
        (first, others): (IpAddr, &[IpAddr]),
        host: &HostName,
        port: u16,
        protocol: Protocol,
    ) -> Option<Arc<ResourceBytes>> {
        let reachable = |address: &IpAddr| self.how.ipv6 || address.is_ipv4();
        let name = format!("{first}_{port}");
        let mut found = self.layer4().redirected(host, port, protocol);
        let rest = found.chains.pop()?;
        let auto = protocol == Protocol::Auto;
        let (mut filters, mut timeout) = (Vec::new(), None);
        if found.by_name || auto {
            filters.push(listener::tls_inspector());
            timeout = Some(listener::CLIENT_HELLO_TIMEOUT);
        }
        let (mut chains, mut default, mut ours) = (found.chains, None, None);
        if auto {
            filters.push(listener::http_inspector());
            timeout = Some(DETECTION);
            chains.push(FilterChain {
                filter_chain_match: Some(plain_http()),
                filters: vec![self.requests_of(host, port)],
                ..FilterChain::default()
            });
            default = Some(rest);
            ours = Some(metadata([(OUTRIGGER, object([("detect", text("auto"))]))]));
        } else {
            chains.push(rest);
        }
        let others = others.iter().filter(|other| reachable(other));
        let listener = Listener {
            name: name.clone(),
            address: Some(address(SocketAddr::new(first, port))),
            additional_addresses: others
                .flat_map(|other| super::also(Some(SocketAddr::new(*other, port))))
                .collect(),
            bind_to_port: Some(false),
            continue_on_listener_filters_timeout: timeout.is_some(),
            listener_filters_timeout: timeout.map(duration),
            listener_filters: filters,
            filter_chains: chains,
            default_filter_chain: default,
            metadata: ours,
            traffic_direction: TrafficDirection::Outbound as i32,
            ..Listener::default()
        };
        Some(ResourceBytes::new(ResourceType::Listener, &name, &listener))
    }

    /// What takes requests to one host.
    fn requests_of(
        &self,
        host: &HostName,
        port: u16,
    ) -> outrigger_proto::envoy::config::listener::v3::Filter {
        let routes = format!("{host}:{port}");
        let demand = self.how.demand.filter(|demand| *demand == Demand::Clusters);
        listener::requests(&routes, &routes, demand)
    }

    fn everywhere(&self, port: u16) -> (SocketAddr, Option<SocketAddr>) {
        let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        (v4, self.how.ipv6.then_some(v6))
    }
}

/// What was recognised as HTTP, and is not encrypted.
pub(in crate::translate) fn plain_http() -> FilterChainMatch {
    FilterChainMatch {
        transport_protocol: "raw_buffer".to_owned(),
        application_protocols: PLAIN_HTTP.map(str::to_owned).to_vec(),
        ..FilterChainMatch::default()
    }
}
