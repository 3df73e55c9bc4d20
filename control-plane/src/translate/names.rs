//! NDS: which addresses the names of hosts resolve to (Istio's name table); for stock Envoy, a listener that answers.
//!
//! A name is sent as it is asked for: `orders`, `orders.shop`, `orders.shop.svc`, `orders.shop.svc.cluster.local` are
//! four resources with the same addresses, of which a client has those that its application asked for. Who asks for
//! everything gets a resource a host under its full name; a client of the state of the world, as Istio's agents are, one
//! resource with all of them ([`ALL`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use outrigger_policy::HostName;
use outrigger_proto::{
    envoy::{
        config::{
            core::v3::{Address, address::Address as AnyAddress, socket_address::Protocol},
            listener::v3::{Listener, ListenerFilter, listener_filter::ConfigType},
        },
        data::dns::v3::{
            DnsTable,
            dns_table::{AddressList, DnsEndpoint, DnsVirtualDomain, dns_endpoint::EndpointConfig},
        },
        extensions::filters::udp::dns_filter::v3::{
            DnsFilterConfig,
            dns_filter_config::{
                ClientContextConfig, ServerContextConfig, server_context_config::ConfigSource,
            },
        },
    },
    istio::networking::nds::v1::{NameTable, name_table::NameInfo},
};

use super::{
    any::{address, any, duration},
    directory::Directory,
    domains::Naming,
};
use crate::snapshot::{Listing, OnDemand, ResourceBytes, ResourceType, next_generation};

/// The resource that has all names, for clients of the state of the world.
pub(crate) const ALL: &str = "";
/// The listener that answers in stock Envoy.
const LISTENER: &str = "dns";
/// How long applications may remember an answer; Envoy takes no less.
const TTL: Duration = Duration::from_secs(30);
/// For somebody else's server to answer what is not ours.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions to others at a time.
const MAX_PENDING: u64 = 4096;
/// Where Istio's clients make the short names of a host themselves.
const KUBERNETES: &str = "Kubernetes";
/// Where they do not.
const EXTERNAL: &str = "External";

/// Names of hosts as clients of one namespace write them.
pub(super) struct Names {
    pub(super) hosts: Arc<BTreeSet<HostName>>,
    pub(super) directory: Arc<Directory>,
    pub(super) naming: Naming,
}

impl Names {
    /// Each as a resource.
    pub(super) fn on_demand(self: &Arc<Self>) -> Arc<OnDemand> {
        let made = Arc::clone(self);
        let list = Arc::clone(self);
        OnDemand::listed(next_generation(), move |name| made.resource(name), list)
    }

    /// Every way to write every host, with its addresses. A short name that is a host's full one is that host's.
    fn all(&self) -> BTreeMap<String, Vec<String>> {
        let known: Vec<_> = self
            .names()
            .into_iter()
            .filter_map(|host| Some((self.info(&host)?.ips, host)))
            .collect();
        let full = known.iter();
        let mut all: BTreeMap<_, _> = full
            .map(|(addresses, host)| (host.to_string(), addresses.clone()))
            .collect();
        for (addresses, host) in &known {
            for short in self.naming.short_forms(host) {
                all.entry(short).or_insert_with(|| addresses.clone());
            }
        }
        all
    }

    fn resource(&self, name: &str) -> Option<Arc<ResourceBytes>> {
        let table = if name == ALL {
            let all = self.names().into_iter();
            all.filter_map(|host| Some((host.to_string(), self.info(&host)?)))
                .collect()
        } else {
            BTreeMap::from([(name.to_owned(), self.find(name)?)])
        };
        let table = NameTable { table };
        Some(ResourceBytes::new(ResourceType::NameTable, name, &table))
    }

    /// What a name means: a host of that name, one that it is short for, or the longest wildcard that it falls under.
    fn find(&self, name: &str) -> Option<NameInfo> {
        let exact = self.naming.candidates(name);
        if let Some(found) = exact.iter().find_map(|host| self.info(host)) {
            return Some(found);
        }
        name.match_indices('.').find_map(|(dot, _)| {
            let (_, suffix) = name.split_at(dot);
            self.info(&format!("*{suffix}"))
        })
    }

    fn info(&self, host: &str) -> Option<NameInfo> {
        let host = self.hosts.get(host)?;
        let ips: Vec<String> = self
            .directory
            .addresses_of(host)
            .map(|address| address.to_string())
            .collect();
        if ips.is_empty() {
            return None;
        }
        let suffix = format!(".svc.{}", self.naming.domain);
        let parts = host.as_str().strip_suffix(&suffix);
        let parts = parts.and_then(|name| name.rsplit_once('.'));
        let (registry, (shortname, namespace)) = match parts {
            Some(parts) => (KUBERNETES, parts),
            None => (EXTERNAL, ("", "")),
        };
        Some(NameInfo {
            ips,
            registry: registry.to_owned(),
            shortname: shortname.to_owned(),
            namespace: namespace.to_owned(),
            ..NameInfo::default()
        })
    }
}

/// Hosts that have addresses, by their full names.
impl Listing for Names {
    fn names(&self) -> Vec<Arc<str>> {
        let hosts = self.hosts.iter();
        let known = hosts.filter(|host| self.directory.addresses_of(host).next().is_some());
        known.map(|host| host.as_str().into()).collect()
    }

    fn has(&self, name: &str) -> bool {
        let host = self.hosts.get(name);
        host.is_some_and(|host| self.directory.addresses_of(host).next().is_some())
    }
}

/// Answers for `names` in stock Envoy, and asks others for the rest.
pub(super) fn listener(names: &Names, listen: SocketAddr) -> Arc<ResourceBytes> {
    let domain = |(name, addresses): (String, Vec<String>)| DnsVirtualDomain {
        name,
        endpoint: Some(DnsEndpoint {
            endpoint_config: Some(EndpointConfig::AddressList(AddressList {
                address: addresses,
            })),
        }),
        answer_ttl: Some(duration(TTL)),
    };
    let table = DnsTable {
        external_retry_count: 1,
        virtual_domains: names.all().into_iter().map(domain).collect(),
    };
    let config = DnsFilterConfig {
        stat_prefix: LISTENER.to_owned(),
        server_config: Some(ServerContextConfig {
            config_source: Some(ConfigSource::InlineDnsTable(table)),
        }),
        client_config: Some(ClientContextConfig {
            resolver_timeout: Some(duration(RESOLVER_TIMEOUT)),
            max_pending_lookups: MAX_PENDING,
            ..ClientContextConfig::default()
        }),
    };
    let mut listen = address(listen);
    if let Address {
        address: Some(AnyAddress::SocketAddress(socket)),
    } = &mut listen
    {
        socket.protocol = Protocol::Udp as i32;
    }
    let listener = Listener {
        name: LISTENER.to_owned(),
        address: Some(listen),
        listener_filters: vec![ListenerFilter {
            name: "envoy.filters.udp.dns_filter".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(
                "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig",
                &config,
            ))),
            ..ListenerFilter::default()
        }],
        ..Listener::default()
    };
    ResourceBytes::new(ResourceType::Listener, LISTENER, &listener)
}
