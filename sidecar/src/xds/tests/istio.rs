//! Resources in the shapes that istiod sends: each is accepted, or refused by the field that we do not do yet.

use outrigger_proto::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy},
            },
            listener::v3::Listener,
        },
        extensions::{
            filters::network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier,
                http_filter,
            },
            transport_sockets::tls::v3::{UpstreamTlsContext, tls_parameters::TlsProtocol},
        },
    },
    udpa::r#type::v1::TypedStruct,
};

use super::*;

const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// What the client says to one resource; empty = it is accepted.
fn verdict(kind: Kind, name: &str, message: &impl Message) -> String {
    let mut story = complete();
    story.answer(kind, vec![resource(kind, name, "2", message)], &[]);
    story.nacks.pop().unwrap_or_default()
}

fn http_filter(name: &str, config: prost_types::Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

/// An outbound listener as `0.0.0.0_80` has it, with Istio's filters before the router; on loopback.
fn outbound_80() -> (Listener, HttpConnectionManager) {
    let wrapped = |type_url: &str| {
        let inner = TypedStruct {
            type_url: format!("type.googleapis.com/{type_url}"),
            ..TypedStruct::default()
        };
        any("udpa.type.v1.TypedStruct", &inner)
    };
    let empty = |name: &str| any(name, &prost_types::Struct::default());
    let rds = Rds {
        config_source: Some(ads()),
        route_config_name: "80".to_owned(),
    };
    let mut manager = manager(RouteSpecifier::Rds(rds));
    let before = vec![
        http_filter(
            "istio.metadata_exchange",
            wrapped("io.istio.http.peer_metadata.Config"),
        ),
        http_filter(
            "istio.alpn",
            empty("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"),
        ),
        http_filter(
            "envoy.filters.http.fault",
            empty("envoy.extensions.filters.http.fault.v3.HTTPFault"),
        ),
        http_filter(
            "envoy.filters.http.cors",
            empty("envoy.extensions.filters.http.cors.v3.Cors"),
        ),
        http_filter("istio.stats", wrapped("stats.PluginConfig")),
    ];
    manager.http_filters.splice(0..0, before);
    (listener_with("0.0.0.0_80", &manager, None), manager)
}

fn of_type(name: &str, kind: DiscoveryType) -> Cluster {
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        eds_cluster_config: None,
        transport_socket_matches: Vec::new(),
        ..cluster(name)
    }
}

#[tokio::test(start_paused = true)]
async fn istios_clusters_are_accepted_but_for_what_needs_redirected_connections() {
    let outbound = cluster("outbound|80|v1|reviews.default.svc.cluster.local");
    let mut socket = upstream_tls();
    let outrigger_proto::envoy::config::core::v3::transport_socket::ConfigType::TypedConfig(packed) =
        socket.config_type.as_mut().unwrap();
    let mut context = UpstreamTlsContext::decode(packed.value.as_slice()).unwrap();
    let common = context.common_tls_context.as_mut().unwrap();
    common.alpn_protocols = ["istio-peer-exchange", "istio", "h2"]
        .map(str::to_owned)
        .to_vec();
    let versions = common.tls_params.as_mut().unwrap();
    versions.tls_minimum_protocol_version = TlsProtocol::TlSv12 as i32;
    versions.tls_maximum_protocol_version = TlsProtocol::TlSv13 as i32;
    *packed = any(TLS, &context);
    let mut auto_mtls = outbound.clone();
    auto_mtls.transport_socket_matches[0].transport_socket = Some(socket);
    let black_hole = of_type("BlackHoleCluster", DiscoveryType::Static);
    let mut passthrough = of_type("PassthroughCluster", DiscoveryType::OriginalDst);
    passthrough.lb_policy = LbPolicy::ClusterProvided as i32;
    passthrough.lb_config = None;
    for (cluster, expected) in [
        (outbound, ""),
        (auto_mtls, ""),
        (black_hole, ""),
        (passthrough, ""),
    ] {
        let found = verdict(Kind::Cluster, &cluster.name, &cluster);
        assert!(
            if expected.is_empty() {
                found.is_empty()
            } else {
                found.starts_with(expected)
            },
            "{}: {found}",
            cluster.name
        );
    }
}

#[tokio::test(start_paused = true)]
async fn istios_own_filters_are_passed_over_and_others_that_are_required_are_not() {
    let (listener, manager) = outbound_80();
    assert_eq!(verdict(Kind::Listener, "0.0.0.0_80", &listener), "");
    let mut authn = manager;
    let required = any(
        "istio.envoy.config.filter.http.authn.v2alpha1.FilterConfig",
        &prost_types::Struct::default(),
    );
    authn
        .http_filters
        .insert(0, http_filter("istio_authn", required));
    let listener = listener_with("0.0.0.0_80", &authn, None);
    let found = verdict(Kind::Listener, "0.0.0.0_80", &listener);
    assert!(
        found.contains("http_filters[0].typed_config") && found.contains("authn"),
        "{found}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_istios_listeners_need_of_a_redirected_port_is_done() {
    type Change = fn(&mut Listener);
    let table: [(Change, &str); 4] = [
        (|l| l.use_original_dst = Some(true), ""),
        (
            |l| {
                l.bind_to_port = Some(false);
                l.address = Some(address("0.0.0.0", 80));
            },
            "",
        ),
        (
            |l| l.address = Some(address("0.0.0.0", 15001)),
            "address.socket_address.address: 0.0.0.0 is not a loopback address",
        ),
        (
            |l| l.filter_chains.push(l.filter_chains[0].clone()),
            "filter_chains[1].filter_chain_match: the same connections are another chain's already",
        ),
    ];
    for (change, expected) in table {
        let (mut listener, _) = outbound_80();
        change(&mut listener);
        let found = verdict(Kind::Listener, "0.0.0.0_80", &listener);
        if expected.is_empty() {
            assert_eq!(found, "");
            continue;
        }
        let expected = format!("Listener \"0.0.0.0_80\": {expected}");
        assert!(
            found.starts_with(&expected),
            "{found} instead of {expected}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn istios_routes_are_accepted_with_the_hosts_short_names_and_the_catch_all() {
    let mut table = routes("9080", R);
    table.virtual_hosts[0].name = "reviews.default.svc.cluster.local:80".to_owned();
    table.virtual_hosts[0].domains = [
        "reviews.default.svc.cluster.local",
        "reviews",
        "reviews.default.svc",
        "reviews.default",
        "10.0.0.10",
    ]
    .map(str::to_owned)
    .to_vec();
    table.virtual_hosts[0].include_request_attempt_count = true;
    let mut rest = routes("x", "PassthroughCluster").virtual_hosts;
    rest[0].name = "allow_any".to_owned();
    table.virtual_hosts.append(&mut rest);
    assert_eq!(verdict(Kind::Route, "9080", &table), "");
}
