//! VHDS: one virtual host at a time, for clients whose route configuration has none of its own.
//!
//! A name is `<route configuration>/<authority of a request>`. Every authority gets a virtual host of its own with that
//! one domain, so that two ways to write a host never claim the same domain twice.
//! Source: Envoy's "Virtual Host Discovery Service"; Envoy's on-demand filter is what asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use outrigger_proto::envoy::config::{
    core::v3::{ConfigSource, Metadata},
    route::v3::{RouteConfiguration, Vhds, VirtualHost},
};
use prost::Message as _;
use prost_types::{Struct, Value, value::Kind};

use super::any::{ads, duration};
use crate::snapshot::{OnDemand, ResourceBytes, ResourceType, TypeMap};

/// The virtual hosts of all route configurations of a scope, read when the first is asked for.
pub(super) fn of(routes: &Arc<TypeMap>) -> Arc<OnDemand> {
    let (from, tables) = (Arc::clone(routes), OnceLock::new());
    OnDemand::new(Arc::clone(routes), move |name| {
        let (table, authority) = name.split_once('/')?;
        let tables = tables.get_or_init(|| from.iter().filter_map(|one| read(one)).collect());
        let tables: &BTreeMap<String, Table> = tables;
        let table = tables.get(table)?;
        let host = table.host(authority)?;
        let alone = VirtualHost {
            name: authority.to_owned(),
            domains: vec![authority.to_owned()],
            metadata: Some(ports(&table.ports_of(authority))),
            ..host.clone()
        };
        Some(ResourceBytes::new(ResourceType::VirtualHost, name, &alone))
    })
}

/// A route configuration without virtual hosts, which come on demand.
pub(super) fn routes(name: &str) -> Arc<ResourceBytes> {
    let table = RouteConfiguration {
        name: name.to_owned(),
        vhds: Some(Vhds {
            config_source: Some(ConfigSource {
                // There is nothing to wait for before the first request, and Envoy does, for 15 s unless told.
                initial_fetch_timeout: Some(duration(Duration::from_millis(100))),
                ..ads()
            }),
        }),
        validate_clusters: Some(false),
        ..RouteConfiguration::default()
    };
    ResourceBytes::new(ResourceType::Route, name, &table)
}

/// Virtual hosts by domain.
struct Table {
    hosts: Vec<VirtualHost>,
    domains: BTreeMap<String, usize>,
}

fn read(resource: &ResourceBytes) -> Option<(String, Table)> {
    // Our own bytes.
    let table = RouteConfiguration::decode(resource.any.value.as_slice()).ok()?;
    let domains = table.virtual_hosts.iter().enumerate();
    let domains = domains.flat_map(|(at, host)| {
        let domains = host.domains.iter();
        domains.map(move |domain| (domain.clone(), at))
    });
    let read = Table {
        domains: domains.collect(),
        hosts: table.virtual_hosts,
    };
    Some((table.name, read))
}

/// What a proxy that has only the virtual hosts it has asked for tells who asks for another port.
fn ports(of: &[u16]) -> Metadata {
    let listed: Vec<String> = of.iter().map(u16::to_string).collect();
    let listed = Value {
        kind: Some(Kind::StringValue(listed.join(","))),
    };
    let ours = Struct {
        fields: [("ports".to_owned(), listed)].into(),
    };
    Metadata {
        filter_metadata: [("outrigger".to_owned(), ours)].into(),
        ..Metadata::default()
    }
}

impl Table {
    /// The ports that the host of an authority is known at.
    fn ports_of(&self, authority: &str) -> Vec<u16> {
        let host = authority.to_ascii_lowercase();
        let prefix = match host.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => format!("{name}:"),
            _ => format!("{host}:"),
        };
        let domains = self.domains.range(prefix.clone()..);
        let domains = domains.take_while(|(domain, _)| domain.starts_with(&prefix));
        let mut ports: Vec<u16> = domains
            .filter_map(|(domain, _)| domain.strip_prefix(&prefix)?.parse().ok())
            .collect();
        ports.sort_unstable();
        ports
    }

    fn host(&self, authority: &str) -> Option<&VirtualHost> {
        let at = best(&self.domains, authority)?;
        self.hosts.get(*at)
    }
}

/// The value of an authority: its own, or that of the longest suffix that has one, or that of everything.
pub(super) fn best<'a, V>(domains: &'a BTreeMap<String, V>, authority: &str) -> Option<&'a V> {
    // Host names have no case.
    let authority = authority.to_ascii_lowercase();
    if let Some(own) = domains.get(&authority) {
        return Some(own);
    }
    let mut suffixes = authority.match_indices('.').map(|(dot, _)| {
        let (_, suffix) = authority.split_at(dot);
        format!("*{suffix}")
    });
    suffixes
        .find_map(|domain| domains.get(&domain))
        .or_else(|| domains.get("*"))
}
