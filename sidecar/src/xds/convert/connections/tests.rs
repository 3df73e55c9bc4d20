use std::time::Duration;

use outrigger_core::{ClusterSlot, Direction, SnapshotBuilder};
use outrigger_proto::envoy::{
    config::{core::v3 as core, listener::v3 as lds},
    extensions::filters::{
        listener::tls_inspector::v3::TlsInspector,
        network::tcp_proxy::v3::{
            TcpProxy,
            tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
        },
    },
    r#type::v3::{HashPolicy, hash_policy},
};
use prost::Message;
use prost_types::Any;

use super::super::{Converted, fields, listener, unpack};
use crate::xds::convert::listener::{ParsedListener, ParsedRoutes};

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

fn proxy(cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: "db".to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    }
}

fn chain(proxy: &TcpProxy) -> lds::FilterChain {
    lds::FilterChain {
        filters: vec![lds::Filter {
            name: "envoy.filters.network.tcp_proxy".to_owned(),
            config_type: Some(lds::filter::ConfigType::TypedConfig(any(
                super::TCP_PROXY,
                proxy,
            ))),
        }],
        ..lds::FilterChain::default()
    }
}

fn named(names: &[&str], cluster: &str) -> lds::FilterChain {
    lds::FilterChain {
        filter_chain_match: Some(lds::FilterChainMatch {
            server_names: names.iter().map(|name| (*name).to_owned()).collect(),
            transport_protocol: "tls".to_owned(),
            ..lds::FilterChainMatch::default()
        }),
        ..chain(&proxy(cluster))
    }
}

fn plain(chains: Vec<lds::FilterChain>) -> lds::Listener {
    lds::Listener {
        name: "127.0.0.1_5432".to_owned(),
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                address: "127.0.0.1".to_owned(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(5432)),
                ..core::SocketAddress::default()
            })),
        }),
        filter_chains: chains,
        traffic_direction: core::TrafficDirection::Outbound as i32,
        ..lds::Listener::default()
    }
}

fn inspected(chains: Vec<lds::FilterChain>) -> lds::Listener {
    lds::Listener {
        listener_filters: vec![lds::ListenerFilter {
            name: "envoy.filters.listener.tls_inspector".to_owned(),
            config_type: Some(lds::listener_filter::ConfigType::TypedConfig(any(
                crate::xds::convert::chains::TLS_INSPECTOR,
                &TlsInspector::default(),
            ))),
            ..lds::ListenerFilter::default()
        }],
        ..plain(chains)
    }
}

/// The whole way: field check, then conversion.
fn take(message: &lds::Listener) -> Converted<ParsedListener> {
    let name = "envoy.config.listener.v3.Listener";
    let any = any(name, message);
    fields::check(&any)?;
    let mut builder = SnapshotBuilder::default();
    let mut slots = move |name: &str| -> ClusterSlot { builder.cluster_slot(name) };
    listener::convert(&unpack(&any, name)?, &mut slots)
}

fn route(message: &lds::Listener) -> outrigger_core::ConnectionRoute {
    let mut found = take(message).unwrap();
    match found.chains.pop().unwrap().routes {
        ParsedRoutes::Connection(route) => route,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tcp_proxy_becomes_what_it_says_with_envoys_defaults() {
    let found = take(&plain(vec![chain(&proxy("a"))])).unwrap();
    assert_eq!(found.direction, Direction::Outbound);
    assert!(found.lookup.is_none() && found.chains[0].tls.is_none());
    let default = route(&plain(vec![chain(&proxy("a"))]));
    assert_eq!((default.attempts, default.hash_source_ip), (1, false));
    assert_eq!(default.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(default.max_duration, None);

    let duration = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let full = TcpProxy {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: [("a", 90), ("b", 10)]
                .map(|(name, weight)| ClusterWeight {
                    name: name.to_owned(),
                    weight,
                    ..ClusterWeight::default()
                })
                .into(),
        })),
        idle_timeout: duration(0),
        max_downstream_connection_duration: duration(60),
        max_connect_attempts: Some(3),
        hash_policy: vec![HashPolicy {
            policy_specifier: Some(hash_policy::PolicySpecifier::SourceIp(
                hash_policy::SourceIp {},
            )),
        }],
        ..proxy("a")
    };
    let full = route(&plain(vec![chain(&full)]));
    assert_eq!((full.attempts, full.hash_source_ip), (3, true));
    assert_eq!(full.idle_timeout, None);
    assert_eq!(full.max_duration, Some(Duration::from_secs(60)));
}

#[test]
fn what_is_not_done_is_refused_by_its_field() {
    type Change = fn(&mut lds::Listener);
    let table: &[(&str, Change)] = &[
        (
            "filter_chains[0].filter_chain_match.server_names: can only match with a TLS inspector",
            |l| l.listener_filters.clear(),
        ),
        ("listener_filters_timeout: 16s; at most 15s", |l| {
            l.listener_filters_timeout = Some(prost_types::Duration {
                seconds: 16,
                nanos: 0,
            });
        }),
        ("listener_filters_timeout: 0s; must be more", |l| {
            l.listener_filters_timeout = Some(prost_types::Duration::default());
        }),
        ("listener_filters[1]: is there already", |l| {
            let one = l.listener_filters[0].clone();
            l.listener_filters.push(one);
        }),
        (
            "filter_chains[1].filter_chain_match.server_names: \"a.net\" is another",
            |l| {
                l.filter_chains[1] = l.filter_chains[0].clone();
            },
        ),
        (
            "filter_chains[0].filter_chain_match.server_names[0]: \"A.net\"",
            |l| {
                let one = l.filter_chains[0].filter_chain_match.as_mut().unwrap();
                one.server_names = vec!["A.net".to_owned()];
            },
        ),
        (
            "filter_chains[0].filter_chain_match.transport_protocol: \"quic\"; must be",
            |l| {
                let one = l.filter_chains[0].filter_chain_match.as_mut().unwrap();
                one.transport_protocol = "quic".to_owned();
            },
        ),
        (
            "filter_chains[0].filter_chain_match.server_names: a connection in plain text has none",
            |l| {
                let one = l.filter_chains[0].filter_chain_match.as_mut().unwrap();
                one.transport_protocol = "raw_buffer".to_owned();
            },
        ),
        (
            "filter_chains[0].filter_chain_match.application_protocols[0]: \"\"; must be",
            |l| {
                let one = l.filter_chains[0].filter_chain_match.as_mut().unwrap();
                one.application_protocols = vec![String::new()];
            },
        ),
        (
            "filter_chains[1].filter_chain_match: the same connections",
            |l| {
                for chain in &mut l.filter_chains {
                    chain.filter_chain_match = None;
                }
            },
        ),
        ("continue_on_listener_filters_timeout: has no effect", |l| {
            l.listener_filters.clear();
            l.continue_on_listener_filters_timeout = true;
        }),
        (
            "filter_chains[0].filter_chain_match.prefix_ranges[0]: /0 is not a range of addresses",
            |l| {
                let one = l.filter_chains[0].filter_chain_match.as_mut().unwrap();
                one.prefix_ranges = vec![core::CidrRange::default()];
            },
        ),
        (
            "filter_chains[0].filter_chain_match.source_ports: not supported",
            |l| {
                let one = l.filter_chains[0].filter_chain_match.as_mut().unwrap();
                one.source_ports = vec![1];
            },
        ),
        (
            "filter_chains[0].filters[0].typed_config: expected a envoy.extensions.filters.network.rbac.v3.RBAC",
            |l| {
                let one = l.filter_chains[0].filters[0].clone();
                l.filter_chains[0].filters.push(one);
            },
        ),
        (
            "address.socket_address.address: 10.0.0.1 is not a loopback",
            |l| {
                let Some(core::address::Address::SocketAddress(address)) =
                    &mut l.address.as_mut().unwrap().address
                else {
                    panic!();
                };
                address.address = "10.0.0.1".to_owned();
            },
        ),
        (
            "filter_chains[0].transport_socket: missing; an inbound",
            |l| {
                l.traffic_direction = core::TrafficDirection::Inbound as i32;
                let Some(core::address::Address::SocketAddress(address)) =
                    &mut l.address.as_mut().unwrap().address
                else {
                    panic!();
                };
                address.address = "10.0.0.1".to_owned();
            },
        ),
    ];
    for (expected, change) in table {
        let mut message = inspected(vec![named(&["a.net"], "a"), named(&["b.net"], "b")]);
        change(&mut message);
        let found = take(&message).map(|_| ()).unwrap_err().to_string();
        assert!(found.starts_with(expected), "{expected:?}: {found}");
    }
}

#[test]
fn a_tcp_proxy_that_asks_for_more_is_refused_by_its_field() {
    let path = "filter_chains[0].filters[0].typed_config";
    type Change = fn(&mut TcpProxy);
    let table: &[(&str, Change)] = &[
        ("max_connect_attempts: 0; must be 1 to 16", |p| {
            p.max_connect_attempts = Some(0);
        }),
        ("cluster: missing", |p| p.cluster_specifier = None),
        ("cluster: is empty", |p| {
            p.cluster_specifier = Some(ClusterSpecifier::Cluster(String::new()));
        }),
        ("weighted_clusters.clusters: must have a weight", |p| {
            let none = WeightedCluster::default();
            p.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(none));
        }),
        ("hash_policy[0]: is empty", |p| {
            p.hash_policy = vec![HashPolicy::default()];
        }),
        ("upstream_connect_mode: not supported yet", |p| {
            p.upstream_connect_mode = 1;
        }),
        ("access_log: not supported yet", |p| {
            p.access_log = vec![Default::default()];
        }),
    ];
    for (expected, change) in table {
        let mut proxy = proxy("a");
        change(&mut proxy);
        let found = take(&plain(vec![chain(&proxy)])).map(|_| ());
        let found = found.unwrap_err().to_string();
        assert!(
            found.starts_with(&format!("{path}.{expected}")),
            "{expected:?}: {found}"
        );
    }
}
