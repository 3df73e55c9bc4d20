//! `ClusterLoadAssignment` → endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use outrigger_core::{EndpointConfig, Health, Locality};
use outrigger_proto::envoy::config::{
    core::v3::{Address, HealthStatus, Metadata, SocketAddress, address},
    endpoint::v3::{
        ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
    },
};
use prost_types::value::Kind;

use super::{Converted, refuse, socket_address, string, unsupported};
use crate::xds::dns::NamedEndpoint;

/// Envoy's default, which is what priorities and localities spill by.
const OVERPROVISIONING_PERCENT: u32 = 140;
/// As Envoy's.
const MAX_PRIORITY: u32 = 128;
/// Endpoints of one cluster.
const MAX_ENDPOINTS: usize = 100_000;

pub(crate) fn convert(from: &ClusterLoadAssignment) -> Converted<Vec<EndpointConfig>> {
    let endpoints = read(from, Addresses::Ip)?;
    Ok(endpoints.into_iter().map(|one| one.config).collect())
}

/// The same, of clusters whose addresses may be names.
pub(super) fn named(from: &ClusterLoadAssignment) -> Converted<Vec<NamedEndpoint>> {
    read(from, Addresses::IpOrName)
}

/// What may stand for an address.
#[derive(Clone, Copy)]
enum Addresses {
    Ip,
    IpOrName,
}

fn read(from: &ClusterLoadAssignment, addresses: Addresses) -> Converted<Vec<NamedEndpoint>> {
    let policy = from.policy.as_ref();
    if let Some(factor) = policy.and_then(|policy| policy.overprovisioning_factor)
        && factor != OVERPROVISIONING_PERCENT
    {
        let message = format!("{factor} is not supported yet; must be {OVERPROVISIONING_PERCENT}");
        return refuse("policy.overprovisioning_factor", message);
    }
    let mut endpoints = Vec::new();
    for (index, group) in from.endpoints.iter().enumerate() {
        locality(group, addresses, &mut endpoints)
            .map_err(|e| e.under(format!("endpoints[{index}]")))?;
    }
    if endpoints.len() > MAX_ENDPOINTS {
        return refuse(
            "endpoints",
            format!("{}; at most {MAX_ENDPOINTS}", endpoints.len()),
        );
    }
    let mut seen = BTreeSet::new();
    for NamedEndpoint { name, config } in &endpoints {
        if !seen.insert((name, config.address)) {
            let host = name
                .clone()
                .unwrap_or_else(|| config.address.ip().to_string());
            let twice = format!("{host}:{} is there twice", config.address.port());
            return refuse("endpoints", twice);
        }
    }
    Ok(endpoints)
}

fn locality(
    from: &LocalityLbEndpoints,
    addresses: Addresses,
    into: &mut Vec<NamedEndpoint>,
) -> Converted<()> {
    if from.priority > MAX_PRIORITY {
        return refuse(
            "priority",
            format!("{}; at most {MAX_PRIORITY}", from.priority),
        );
    }
    if from.load_balancing_weight == Some(0) {
        return refuse("load_balancing_weight", "0; must be 1 or more");
    }
    let locality = from
        .locality
        .as_ref()
        .map_or_else(Locality::default, |found| Locality {
            region: found.region.clone(),
            zone: found.zone.clone(),
            sub_zone: found.sub_zone.clone(),
        });
    for (index, endpoint) in from.lb_endpoints.iter().enumerate() {
        let mut endpoint = lb_endpoint(endpoint, from.priority, &locality, addresses)
            .map_err(|error| error.under(format!("lb_endpoints[{index}]")))?;
        endpoint.config.locality_weight = from.load_balancing_weight.unwrap_or(0);
        into.push(endpoint);
    }
    Ok(())
}

fn lb_endpoint(
    from: &LbEndpoint,
    priority: u32,
    locality: &Locality,
    addresses: Addresses,
) -> Converted<NamedEndpoint> {
    let address = match &from.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint.address.as_ref(),
        Some(HostIdentifier::EndpointName(_)) => return unsupported("endpoint_name"),
        None => return refuse("endpoint", "missing"),
    };
    let (name, address) = match addresses {
        Addresses::Ip => (None, socket_address("endpoint.address", address)?),
        Addresses::IpOrName => named_address("endpoint.address", address)?,
    };
    if address.port() == 0 {
        return refuse(
            "endpoint.address.socket_address.port_value",
            "0 is not a port to connect to",
        );
    }
    let health = match HealthStatus::try_from(from.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Health::Unhealthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Degraded) => {
            return refuse("health_status", "DEGRADED is not supported yet");
        }
        Err(_unknown) => {
            return refuse(
                "health_status",
                format!("{} is unknown", from.health_status),
            );
        }
    };
    let weight = from.load_balancing_weight.unwrap_or(1);
    if weight == 0 {
        return refuse("load_balancing_weight", "0; must be 1 or more");
    }
    let config = EndpointConfig {
        address,
        weight,
        health,
        priority,
        locality: locality.clone(),
        locality_weight: 0,
        mtls: speaks_mtls(from.metadata.as_ref()),
        labels: labels(from.metadata.as_ref()),
    };
    Ok(NamedEndpoint { name, config })
}

/// An address, or a name with an address that says the port only.
fn named_address(path: &str, from: Option<&Address>) -> Converted<(Option<String>, SocketAddr)> {
    let Some(address::Address::SocketAddress(found)) =
        from.and_then(|address| address.address.as_ref())
    else {
        return Ok((None, socket_address(path, from)?));
    };
    if found.address.parse::<IpAddr>().is_ok() {
        return Ok((None, socket_address(path, from)?));
    }
    let name = found.address.strip_suffix('.').unwrap_or(&found.address);
    if !is_host_name(name) {
        return refuse(
            format!("{path}.socket_address.address"),
            format!(
                "{:?} is neither an IP address nor a host name",
                found.address
            ),
        );
    }
    let unspecified = Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: "0.0.0.0".to_owned(),
            ..found.clone()
        })),
    };
    let port = socket_address(path, Some(&unspecified))?;
    Ok((Some(found.address.clone()), port))
}

fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn speaks_mtls(metadata: Option<&Metadata>) -> bool {
    metadata
        .and_then(|metadata| metadata.filter_metadata.get("envoy.transport_socket_match"))
        .and_then(|keys| string(keys, "tlsMode"))
        == Some("istio")
}

fn labels(metadata: Option<&Metadata>) -> BTreeMap<String, String> {
    let labels = metadata
        .and_then(|metadata| metadata.filter_metadata.get("outrigger"))
        .and_then(|ours| ours.fields.get("labels"))
        .and_then(|value| value.kind.as_ref());
    let Some(Kind::StructValue(labels)) = labels else {
        return BTreeMap::new();
    };
    labels
        .fields
        .keys()
        .filter_map(|key| Some((key.clone(), string(labels, key)?.to_owned())))
        .collect()
}
