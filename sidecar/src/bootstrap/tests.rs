//! Bootstrap files as others write them.

use super::*;

const DYNAMIC: &str = "
node: {id: app-1, cluster: app, locality: {zone: a}, metadata: {ROLE: canary}}
dynamic_resources:
  lds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}
  cds_config: {ads: {}, resource_api_version: V3}
  ads_config:
    api_type: API_TYPE
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [SERVICE]
";
const CLUSTER: &str = "
static_resources:
  clusters:
  - name: xds
    type: STRICT_DNS
    connect_timeout: 1s
    http2_protocol_options: {}
    load_assignment:
      cluster_name: xds
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: xds.example, port_value: 18000}}}}]}]
";
const TLS: &str = r#"
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: xds.example
        common_tls_context:
          validation_context:
            trusted_ca: {filename: /etc/xds/ca.pem}
            match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "spiffe://other/xds"}}]
          tls_certificates: [{certificate_chain: {filename: /etc/xds/me.pem}, private_key: {filename: /etc/xds/me.key}}]
"#;
const ENVOY: &str = "{envoy_grpc: {cluster_name: xds}}";

fn file(api_type: &str, service: &str, rest: &str) -> String {
    DYNAMIC
        .replace("API_TYPE", api_type)
        .replace("SERVICE", service)
        + rest
}

#[test]
fn a_bootstrap_says_who_we_are_which_form_is_spoken_and_where_the_server_is() {
    for (api_type, protocol) in [
        ("GRPC", XdsProtocol::Sotw),
        ("DELTA_GRPC", XdsProtocol::Delta),
    ] {
        let read = Bootstrap::parse(&file(api_type, ENVOY, CLUSTER)).unwrap();
        assert_eq!(read.protocol, protocol);
        assert_eq!(read.node.id, "app-1");
        assert_eq!(read.service(), "app");
        assert_eq!(read.locality()[1], "a");
        assert!(read.node.metadata.unwrap().fields.contains_key("ROLE"));
        assert_eq!(
            read.server.addresses,
            [Place::Tcp("xds.example".to_owned(), 18000)]
        );
        assert_eq!(read.server.tls, None);
    }
}

#[test]
fn json_is_read_as_yaml_is() {
    let yaml: Value = serde_saphyr::from_str(&file("GRPC", ENVOY, CLUSTER)).unwrap();
    let json = serde_json::to_string_pretty(&yaml).unwrap();
    assert_eq!(Bootstrap::parse(&json).unwrap().node.id, "app-1");
}

#[test]
fn tls_of_the_servers_cluster_is_files_names_and_a_certificate_of_ours() {
    let text = file("GRPC", ENVOY, &(CLUSTER.to_owned() + TLS));
    let tls = Bootstrap::parse(&text).unwrap().server.tls.unwrap();
    assert_eq!(tls.subject_alt_names, ["spiffe://other/xds"]);
    let outside = tls.outside.unwrap();
    assert_eq!(outside.roots, Some("/etc/xds/ca.pem".into()));
    assert_eq!(
        outside.client,
        Some(("/etc/xds/me.pem".into(), "/etc/xds/me.key".into()))
    );
}

#[test]
fn a_google_grpc_target_is_a_server_too() {
    let service = "{google_grpc: {target_uri: 'dns:///xds.example:443', stat_prefix: x, channel_credentials: \
                   {ssl_credentials: {root_certs: {filename: /ca.pem}}}}}";
    let server = Bootstrap::parse(&file("DELTA_GRPC", service, ""))
        .unwrap()
        .server;
    assert_eq!(
        server.addresses,
        [Place::Tcp("xds.example".to_owned(), 443)]
    );
    assert_eq!(server.tls.unwrap().sni, "xds.example");
}

#[test]
fn a_server_may_listen_at_a_unix_socket_and_want_metadata() {
    let service = "{envoy_grpc: {cluster_name: xds}, initial_metadata: [{key: authorization, value: 'Bearer x'}]}";
    let pipe = CLUSTER.replace("STRICT_DNS", "STATIC").replace(
        "socket_address: {address: xds.example, port_value: 18000}",
        "pipe: {path: ./etc/istio/proxy/XDS}",
    );
    let server = Bootstrap::parse(&file("GRPC", service, &pipe))
        .unwrap()
        .server;
    assert_eq!(
        server.addresses,
        [Place::Pipe("./etc/istio/proxy/XDS".into())]
    );
    assert_eq!(server.metadata.get("authorization").unwrap(), "Bearer x");
}

#[test]
fn metadata_that_cannot_be_sent_as_it_is_is_refused() {
    for (header, expected) in [
        (
            "{key: 'a b', value: x}",
            "[0].key: \"a b\" is not a header name",
        ),
        (
            "{key: grpc-timeout, value: x}",
            "[0].key: \"grpc-timeout\" is gRPC's own",
        ),
        (
            "{key: a, value: '%ENVIRONMENT(TOKEN)%'}",
            "[0].value: must not have a %",
        ),
    ] {
        let service =
            format!("{{envoy_grpc: {{cluster_name: xds}}, initial_metadata: [{header}]}}");
        let error = Bootstrap::parse(&file("GRPC", &service, CLUSTER))
            .unwrap_err()
            .to_string();
        let expected =
            format!("dynamic_resources.ads_config.grpc_services[0].initial_metadata.{expected}");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_its_field() {
    let good = file("GRPC", ENVOY, CLUSTER);
    for (text, expected) in [
        (
            good.clone() + "admin: {}\n",
            "admin: not supported yet; use --admin",
        ),
        (
            good.clone() + "  listeners: []\n",
            "static_resources.listeners: not supported",
        ),
        (good.replace("id: app-1, ", ""), "node.id: missing"),
        (
            good.replace("V3}", "V2}"),
            "dynamic_resources.cds_config.resource_api_version",
        ),
        (
            good.replace("api_type: GRPC", "api_type: REST"),
            "dynamic_resources.ads_config.api_type: REST",
        ),
        (
            good.replace("cluster_name: xds}}]", "cluster_name: other}}]"),
            "static_resources.clusters[0]: is not the",
        ),
        (
            good.replace("STRICT_DNS", "ORIGINAL_DST"),
            "static_resources.clusters[0].load_assignment: has no effect on a cluster of type ORIGINAL_DST",
        ),
        (
            good.replace("connect_timeout", "connekt"),
            "static_resources.clusters[0]: is no envoy.config.cluster.v3.Cluster: unrecognized field name 'connekt'",
        ),
        (
            good.replace(
                "    connect_timeout",
                "    alt_stat_name: x\n    connect_timeout",
            ),
            "static_resources.clusters[0].alt_stat_name: not supported",
        ),
        ("node: [".to_owned(), "is neither YAML nor JSON"),
    ] {
        let error = Bootstrap::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error} instead of {expected}");
    }
}

#[test]
fn the_file_is_named_in_the_refusal() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "admin: {}").unwrap();
    let error = Bootstrap::read(file.path()).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{}: admin: ", file.path().display())),
        "{error}"
    );
}
