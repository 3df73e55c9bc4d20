//! The filter chains of a listener whose connections are led as a whole: one TCP proxy each, chosen by server name.

use std::time::Duration;

use outrigger_core::{
    ClusterChoice, ConnectionRoute, ConnectionRoutes, DownstreamTls, NameTwice, WeightedCluster,
};
use outrigger_proto::envoy::{
    config::listener::v3::{self as proto, filter, listener_filter},
    extensions::filters::{
        listener::tls_inspector::v3::TlsInspector,
        network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
    },
    r#type::v3::{HashPolicy, hash_policy::PolicySpecifier},
};
use prost_types::Any;

use super::{
    Converted, duration, fields, filters, ours, positive, refuse, route, tls, unpack, unsupported,
};

const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
/// For a connection to say its server name. Envoy's default is 15 s, which is also the most here: who says nothing
/// holds a connection.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_HELLO: Duration = Duration::from_secs(15);
/// Envoy's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Tries to connect: more would keep a caller waiting for longer than it waits.
const MOST_ATTEMPTS: u32 = 16;

/// Whether a listener has a TCP proxy anywhere; then all of its chains must.
pub(super) fn is_meant(from: &proto::Listener) -> bool {
    let mut filters = from.filter_chains.iter().flat_map(|chain| &chain.filters);
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

pub(super) fn convert(
    from: &proto::Listener,
    slots: &mut route::Slots<'_>,
) -> Converted<(Option<DownstreamTls>, ConnectionRoutes)> {
    let Some(hello_timeout) = inspector(from)? else {
        let [chain] = from.filter_chains.as_slice() else {
            return refuse(
                "filter_chains",
                format!(
                    "has {} entries; without a TLS inspector exactly one is supported yet",
                    from.filter_chains.len()
                ),
            );
        };
        return only(chain, slots).map_err(|error| error.under("filter_chains[0]"));
    };
    let mut named = Vec::with_capacity(from.filter_chains.len());
    for (index, chain) in from.filter_chains.iter().enumerate() {
        let found = by_name(chain, slots);
        named.push(found.map_err(|error| error.under(format!("filter_chains[{index}]")))?);
    }
    let routes = ConnectionRoutes::by_server_name(named, hello_timeout);
    match routes {
        Ok(routes) => Ok((None, routes)),
        Err(NameTwice(index, name)) => refuse(
            format!("filter_chains[{index}].filter_chain_match.server_names"),
            format!("{name:?} is another chain's already"),
        ),
    }
}

/// How long a connection may take to say its server name; None = it is not looked at.
fn inspector(from: &proto::Listener) -> Converted<Option<Duration>> {
    let filter = match from.listener_filters.as_slice() {
        [] if from.listener_filters_timeout.is_some() => {
            return refuse(
                "listener_filters_timeout",
                "has no effect without listener_filters",
            );
        }
        [] => return Ok(None),
        [one] => one,
        several => {
            let message = format!(
                "has {} entries; at most one, the TLS inspector, is supported yet",
                several.len()
            );
            return refuse("listener_filters", message);
        }
    };
    match &filter.config_type {
        Some(listener_filter::ConfigType::TypedConfig(any)) => {
            let _inspector: TlsInspector = unpack(any, TLS_INSPECTOR)
                .map_err(|error| error.under("listener_filters[0].typed_config"))?;
        }
        Some(listener_filter::ConfigType::ConfigDiscovery(_)) => {
            return unsupported("listener_filters[0].config_discovery");
        }
        None => return refuse("listener_filters[0].typed_config", "missing"),
    }
    let path = "listener_filters_timeout";
    let timeout = positive(path, from.listener_filters_timeout.as_ref(), HELLO_TIMEOUT)?;
    if timeout > LONGEST_HELLO {
        return refuse(path, format!("{timeout:?}; at most {LONGEST_HELLO:?}"));
    }
    Ok(Some(timeout))
}

/// The chain of a listener that takes every connection.
fn only(
    chain: &proto::FilterChain,
    slots: &mut route::Slots<'_>,
) -> Converted<(Option<DownstreamTls>, ConnectionRoutes)> {
    if let Some(found) = &chain.filter_chain_match {
        if !found.server_names.is_empty() {
            return refuse(
                "filter_chain_match.server_names",
                "can only match with a TLS inspector among the listener_filters",
            );
        }
        if !found.transport_protocol.is_empty() {
            return refuse(
                "filter_chain_match.transport_protocol",
                "can only match with a TLS inspector among the listener_filters",
            );
        }
    }
    let tls = match &chain.transport_socket {
        Some(socket) => tls::downstream(socket).map_err(|error| error.under("transport_socket"))?,
        None => None,
    };
    Ok((tls, ConnectionRoutes::one(route_of(chain, slots)?)))
}

/// The server names of a chain, and where they lead.
fn by_name(
    chain: &proto::FilterChain,
    slots: &mut route::Slots<'_>,
) -> Converted<(Vec<String>, ConnectionRoute)> {
    let wanted = chain.filter_chain_match.clone().unwrap_or_default();
    if wanted.transport_protocol != "tls" {
        return refuse(
            "filter_chain_match.transport_protocol",
            format!(
                "{:?}; must be \"tls\" beside a TLS inspector",
                wanted.transport_protocol
            ),
        );
    }
    if chain.transport_socket.is_some() {
        return refuse(
            "transport_socket",
            "not supported yet beside a TLS inspector: TLS is passed through",
        );
    }
    for (index, name) in wanted.server_names.iter().enumerate() {
        let plain = name.strip_prefix("*.").unwrap_or(name);
        if plain.is_empty() || plain.contains('*') || plain.bytes().any(|b| b.is_ascii_uppercase())
        {
            return refuse(
                format!("filter_chain_match.server_names[{index}]"),
                format!("{name:?}; must be a name in lower case, or *.suffix"),
            );
        }
    }
    Ok((wanted.server_names, route_of(chain, slots)?))
}

fn route_of(
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
