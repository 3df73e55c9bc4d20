//! A filter chain whose connections are led as a whole: access rules and a TCP proxy.

use std::time::Duration;

use outrigger_core::{ClusterChoice, ConnectionRoute, WeightedCluster};
use outrigger_proto::envoy::{
    config::listener::v3::{self as proto, filter},
    extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
    r#type::v3::{HashPolicy, hash_policy::PolicySpecifier},
};
use prost_types::Any;

use super::{Converted, duration, fields, filters, ours, refuse, route, unpack, unsupported};

const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
/// Envoy's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Tries to connect: more would keep a caller waiting for longer than it waits.
const MOST_ATTEMPTS: u32 = 16;

/// Whether a chain has a TCP proxy anywhere.
pub(super) fn is_meant(chain: &proto::FilterChain) -> bool {
    let mut filters = chain.filters.iter();
    filters.any(
        |filter| matches!(config(filter), Ok(any) if fields::type_name(&any.type_url) == TCP_PROXY),
    )
}

fn config(filter: &proto::Filter) -> Converted<&Any> {
    match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Ok(any),
        Some(filter::ConfigType::ConfigDiscovery(_)) => unsupported("config_discovery"),
        None => refuse("typed_config", "missing"),
    }
}

/// Access rules and a TCP proxy.
pub(super) fn convert(
    chain: &proto::FilterChain,
    slots: &mut route::Slots<'_>,
) -> Converted<ConnectionRoute> {
    let Some((last, before)) = chain.filters.split_last() else {
        return refuse("filters", "is empty; the last one must be the TCP proxy");
    };
    let mut all = Vec::with_capacity(before.len());
    for (index, filter) in before.iter().enumerate() {
        let path = format!("filters[{index}]");
        let any = config(filter).map_err(|error| error.under(&path))?;
        let rules = unpack(any, RBAC).and_then(|found| filters::of_connections(&found));
        all.push(rules.map_err(|error| error.under(format!("{path}.typed_config")))?);
    }
    let path = format!("filters[{}]", before.len());
    let any = config(last).map_err(|error| error.under(&path))?;
    let proxy = unpack(any, TCP_PROXY).and_then(|proxy| tcp_proxy(&proxy, slots));
    let mut route = proxy.map_err(|error| error.under(format!("{path}.typed_config")))?;
    route.position = ours(chain.metadata.as_ref()).position;
    route.rbac = all;
    Ok(route)
}

fn tcp_proxy(from: &TcpProxy, slots: &mut route::Slots<'_>) -> Converted<ConnectionRoute> {
    let never_zero = |path: &str, value: Option<&prost_types::Duration>, default| {
        let found = value.map(|value| duration(path, value)).transpose()?;
        Ok(found.map_or(default, |found| (!found.is_zero()).then_some(found)))
    };
    let idle_timeout = never_zero(
        "idle_timeout",
        from.idle_timeout.as_ref(),
        Some(IDLE_TIMEOUT),
    )?;
    let path = "max_downstream_connection_duration";
    let max_duration = never_zero(path, from.max_downstream_connection_duration.as_ref(), None)?;
    let attempts = from.max_connect_attempts.unwrap_or(1);
    if !(1..=MOST_ATTEMPTS).contains(&attempts) {
        return refuse(
            "max_connect_attempts",
            format!("{attempts}; must be 1 to {MOST_ATTEMPTS}"),
        );
    }
    Ok(ConnectionRoute {
        position: None,
        clusters: clusters(from.cluster_specifier.as_ref(), slots)?,
        idle_timeout,
        max_duration,
        attempts,
        hash_source_ip: hashes_source(&from.hash_policy)?,
        rbac: Vec::new(),
    })
}

fn clusters(
    from: Option<&ClusterSpecifier>,
    slots: &mut route::Slots<'_>,
) -> Converted<ClusterChoice> {
    let shares: Vec<(&str, u32)> = match from {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name, 1)],
        Some(ClusterSpecifier::WeightedClusters(several)) => {
            let shares = several.clusters.iter();
            shares.map(|one| (one.name.as_str(), one.weight)).collect()
        }
        None => {
            return refuse(
                "cluster",
                "missing; cluster or weighted_clusters must be set",
            );
        }
    };
    if shares.iter().any(|(name, _)| name.is_empty()) {
        return refuse("cluster", "is empty");
    }
    let made = shares
        .iter()
        .map(|(name, weight)| WeightedCluster::plain(slots(name), name, *weight));
    let Some(choice) = ClusterChoice::new(made.collect()) else {
        return refuse(
            "weighted_clusters.clusters",
            "must have a weight of more than 0",
        );
    };
    Ok(choice)
}

fn hashes_source(from: &[HashPolicy]) -> Converted<bool> {
    match from {
        [] => Ok(false),
        [
            HashPolicy {
                policy_specifier: Some(PolicySpecifier::SourceIp(_)),
            },
        ] => Ok(true),
        [
            HashPolicy {
                policy_specifier: Some(PolicySpecifier::FilterState(_)),
            },
        ] => unsupported("hash_policy[0].filter_state"),
        [
            HashPolicy {
                policy_specifier: None,
            },
        ] => refuse("hash_policy[0]", "is empty; must be source_ip"),
        several => refuse(
            "hash_policy",
            format!(
                "has {} entries; at most one is supported yet",
                several.len()
            ),
        ),
    }
}

#[cfg(test)]
mod tests;
