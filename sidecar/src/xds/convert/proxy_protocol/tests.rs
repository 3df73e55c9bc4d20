use outrigger_proto::envoy::{
    config::{cluster::v3::cluster::TransportSocketMatch, core::v3::ProxyProtocolConfig},
    extensions::{
        filters::listener::tls_inspector::v3::TlsInspector,
        transport_sockets::raw_buffer::v3::RawBuffer,
    },
};
use prost_types::Struct;

use super::*;
use crate::xds::{convert, testing};

fn filter(any: Any) -> ListenerFilter {
    ListenerFilter {
        name: "x".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any)),
        ..ListenerFilter::default()
    }
}

fn proxied(config: &filter::ProxyProtocol) -> ListenerFilter {
    filter(testing::any(FILTER, config))
}

fn inspector() -> ListenerFilter {
    filter(testing::any(
        chains::TLS_INSPECTOR,
        &TlsInspector::default(),
    ))
}

fn taken_by(filters: Vec<ListenerFilter>) -> Converted<Option<ProxyProtocol>> {
    let listener = Listener {
        listener_filters: filters,
        continue_on_listener_filters_timeout: true,
        ..testing::outbound("127.0.0.1_9080", "9080")
    };
    let any = testing::any("envoy.config.listener.v3.Listener", &listener);
    convert::fields::check(&any)?;
    let parsed = convert::listener::convert(&listener, &mut |_| unreachable!());
    parsed.map(|parsed| parsed.proxied)
}

#[test]
fn a_listener_says_which_headers_it_takes() {
    let found = taken_by(vec![proxied(&filter::ProxyProtocol::default())]).unwrap();
    let found = found.unwrap();
    assert!(!found.optional && found.silence_is_none);
    assert!(found.takes(ProxyVersion::V1) && found.takes(ProxyVersion::V2));
    let some = filter::ProxyProtocol {
        allow_requests_without_proxy_protocol: true,
        disallowed_versions: vec![Version::V1 as i32],
        stat_prefix: "x".to_owned(),
        ..filter::ProxyProtocol::default()
    };
    let found = taken_by(vec![proxied(&some), inspector()])
        .unwrap()
        .unwrap();
    assert!(found.optional && !found.takes(ProxyVersion::V1));
    assert_eq!(taken_by(vec![inspector()]).unwrap(), None);
}

#[test]
fn what_a_listener_cannot_do_is_refused_by_its_field() {
    let refused = |filters| taken_by(filters).unwrap_err().to_string();
    let plain = || proxied(&filter::ProxyProtocol::default());
    let error = refused(vec![inspector(), plain()]);
    assert!(
        error.starts_with("listener_filters[1]: must be the first but"),
        "{error}"
    );
    let error = refused(vec![plain(), plain()]);
    assert!(
        error.starts_with("listener_filters[1]: must be the first but"),
        "{error}"
    );
    let none = filter::ProxyProtocol {
        disallowed_versions: vec![0, 1],
        ..filter::ProxyProtocol::default()
    };
    let error = refused(vec![proxied(&none)]);
    assert!(
        error.contains("disallowed_versions: has all versions"),
        "{error}"
    );
    let rules = filter::ProxyProtocol {
        rules: vec![filter::proxy_protocol::Rule::default()],
        ..filter::ProxyProtocol::default()
    };
    let error = refused(vec![proxied(&rules)]);
    assert!(error.contains("rules"), "{error}");
}

fn wrapped(version: i32, inner: Option<TransportSocket>) -> TransportSocket {
    let config = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig {
            version,
            ..ProxyProtocolConfig::default()
        }),
        transport_socket: inner,
    };
    socket(testing::any(UPSTREAM, &config))
}

fn socket(any: Any) -> TransportSocket {
    TransportSocket {
        name: "x".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any)),
    }
}

fn raw() -> TransportSocket {
    let name = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    socket(testing::any(name, &RawBuffer {}))
}

fn version_of(
    one: Option<TransportSocket>,
    matches: Vec<TransportSocket>,
) -> Converted<(Option<ProxyVersion>, bool)> {
    let keys = |index: usize| match index {
        0 => testing::metadata("x", &[("tlsMode", "istio")]).filter_metadata["x"].clone(),
        _ => Struct::default(),
    };
    let matches = matches.into_iter().enumerate();
    let cluster = Cluster {
        transport_socket: one,
        transport_socket_matches: matches
            .map(|(index, socket)| TransportSocketMatch {
                name: index.to_string(),
                r#match: Some(keys(index)),
                transport_socket: Some(socket),
            })
            .collect(),
        ..testing::cluster(testing::CLUSTER)
    };
    let any = testing::any("envoy.config.cluster.v3.Cluster", &cluster);
    convert::fields::check(&any)?;
    let parsed = convert::cluster::convert(&cluster)?;
    Ok((parsed.config.proxy_protocol, parsed.config.tls.is_some()))
}

#[test]
fn a_cluster_says_what_its_connections_begin_with_whatever_they_go_on_with() {
    let v1 = wrapped(0, Some(raw()));
    assert_eq!(
        version_of(Some(v1), Vec::new()).unwrap(),
        (Some(ProxyVersion::V1), false)
    );
    let both = vec![
        wrapped(1, Some(testing::upstream_tls())),
        wrapped(1, Some(raw())),
    ];
    assert_eq!(
        version_of(None, both).unwrap(),
        (Some(ProxyVersion::V2), true)
    );
    assert_eq!(version_of(Some(raw()), Vec::new()).unwrap(), (None, false));
}

#[test]
fn sockets_that_do_not_agree_are_refused() {
    let refused = |one, matches| version_of(one, matches).unwrap_err().to_string();
    let error = refused(None, vec![wrapped(1, Some(testing::upstream_tls())), raw()]);
    assert!(
        error.starts_with("transport_socket_matches[1].transport_socket: must begin"),
        "{error}"
    );
    let error = refused(
        None,
        vec![
            wrapped(1, Some(testing::upstream_tls())),
            wrapped(0, Some(raw())),
        ],
    );
    assert!(error.contains("config.version: is another"), "{error}");
    let error = refused(Some(wrapped(2, Some(raw()))), Vec::new());
    assert!(error.contains("config.version: is unknown"), "{error}");
    let error = refused(Some(wrapped(0, None)), Vec::new());
    assert!(error.contains("transport_socket: missing"), "{error}");
    let error = refused(Some(wrapped(0, Some(wrapped(0, Some(raw()))))), Vec::new());
    assert!(
        error.contains("is another PROXY protocol header"),
        "{error}"
    );
}
