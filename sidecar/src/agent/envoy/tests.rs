use super::*;
use crate::agent::testing::config;

fn listeners() -> EnvoyListeners {
    EnvoyListeners {
        outbound: "127.0.0.1:15080".parse().unwrap(),
        inbound: "0.0.0.0:15006".parse().unwrap(),
        admin: "127.0.0.1:15004".parse().unwrap(),
    }
}

fn place(server: &str) -> Place<'_> {
    Place {
        server,
        ip: IpAddr::from([10, 0, 0, 7]),
        socket: Path::new("/run/reviews/sds.sock"),
        spiffe_id: "spiffe://mesh.example/ns/default/sa/reviews",
    }
}

#[test]
fn an_envoy_has_its_key_from_the_socket_and_believes_the_control_plane_only() {
    let file = bootstrap(&config(), &listeners(), &place("mesh.example.org:15012"));
    let [xds, sds] = [0, 1].map(|n| &file["static_resources"]["clusters"][n]);
    assert_eq!(
        (&xds["name"], &xds["type"]),
        (&"xds-grpc".into(), &"STRICT_DNS".into())
    );
    let context = &xds["transport_socket"]["typed_config"];
    assert_eq!(context["sni"], "mesh.example.org");
    let common = &context["common_tls_context"];
    let own = &common["tls_certificate_sds_secret_configs"][0];
    assert_eq!(own["name"], "default");
    let by = &own["sds_config"]["api_config_source"]["grpc_services"][0]["envoy_grpc"];
    assert_eq!(by["cluster_name"], "sds-grpc");
    let names = &common["combined_validation_context"]["default_validation_context"];
    assert_eq!(
        names["match_typed_subject_alt_names"],
        json!([{ "san_type": "URI", "matcher": {
            "exact": "spiffe://mesh.example/ns/outrigger-system/sa/control-plane" } }])
    );
    let pipe = &sds["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
    assert_eq!(pipe["pipe"]["path"], "/run/reviews/sds.sock");
    let own = &file["node"]["metadata"]["OUTRIGGER"];
    assert_eq!(own["SDS_CLUSTER"], "sds-grpc");
    assert_eq!(own["INBOUND"], "0.0.0.0:15006");
    assert!(!file.to_string().contains("PRIVATE KEY"));
}

#[test]
fn an_address_needs_no_look_up_and_no_name() {
    for (server, address) in [("10.0.0.1:15012", "10.0.0.1"), ("[::1]:15012", "::1")] {
        let file = bootstrap(&config(), &listeners(), &place(server));
        let xds = &file["static_resources"]["clusters"][0];
        assert_eq!(xds["type"], "STATIC");
        assert!(xds["transport_socket"]["typed_config"]["sni"].is_null());
        let endpoint = &xds["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
        assert_eq!(endpoint["address"]["socket_address"]["address"], address);
    }
}

#[test]
fn who_only_calls_others_has_no_inbound_port() {
    let config = AgentConfig {
        app: None,
        ..config()
    };
    let file = bootstrap(&config, &listeners(), &place("127.0.0.1:15012"));
    assert!(file["node"]["metadata"]["OUTRIGGER"]["INBOUND"].is_null());
}

#[test]
fn the_command_is_told_where_the_file_is() {
    let command = ["envoy", "-c", "{bootstrap}"].map(str::to_owned);
    assert_eq!(
        with_path(&command, Path::new("/run/envoy.json")),
        ["envoy", "-c", "/run/envoy.json"]
    );
}

#[test]
fn requests_and_other_connections_are_in_flight_and_the_admin_side_is_not() {
    let page = "http.admin.downstream_rq_active: 1\nhttp.http_proxy.downstream_cx_active: 4\n\
                http.http_proxy.downstream_rq_active: 2\nlistener.a.downstream_cx_active: 9\n\
                tcp.inbound|80||.downstream_cx_active: 3\n";
    assert_eq!(in_flight(page), 5);
}
