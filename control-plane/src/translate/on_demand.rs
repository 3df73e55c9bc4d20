//! VHDS: one virtual host at a time, for clients whose route configuration has none of its own.
//!
//! A name is `<route configuration>/<authority of a request>`. Every authority gets a virtual host of its own with that
//! one domain, so that two ways to write a host never claim the same domain twice.
//! Source: Envoy's "Virtual Host Discovery Service"; Envoy's on-demand filter is what asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use outrigger_proto::envoy::config::{
    core::v3::{ConfigSource, Metadata},
    route::v3::{RouteConfiguration, Vhds, VirtualHost},
};
use prost_types::{Struct, Value, value::Kind};

use super::{
    any::{ads, duration},
    domains::Tables,
};
use crate::snapshot::{OnDemand, ResourceBytes, ResourceType};

/// The virtual hosts of all tables of a scope.
pub(super) fn of(tables: &Arc<Tables>) -> Arc<OnDemand> {
    let from = Arc::clone(tables);
    OnDemand::new(tables.generation(), move |name| {
        let (table, authority) = name.split_once('/')?;
        let (routes, known_at) = from.find(table, authority)?;
        let alone = VirtualHost {
            name: authority.to_owned(),
            domains: vec![authority.to_owned()],
            routes: routes.to_vec(),
            metadata: Some(ports(&known_at)),
            ..VirtualHost::default()
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

/// What a proxy that has only the virtual hosts it has asked for tells who asks for another port.
fn ports(of: &BTreeSet<u16>) -> Metadata {
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
