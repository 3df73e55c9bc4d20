//! What a node has whose application's connections are redirected.

use std::{collections::BTreeMap, net::IpAddr};

use outrigger_policy::Protocol;

use super::{envoy::accepts_for, *};
use crate::{
    snapshot::ResourceType::NameTable,
    translate::{ALL_NAMES, Dialect, node::Capture},
};

const DB: &str = "outbound|5432||db.default.svc.cluster.local";

fn captured() -> NodeInfo {
    NodeInfo {
        capture: Some(Capture {
            listen: "127.0.0.1:15001".parse().unwrap(),
            ipv6: true,
            transparent: false,
        }),
        ..node()
    }
}

fn on_demand() -> NodeInfo {
    NodeInfo {
        on_demand: true,
        ..captured()
    }
}

fn envoy() -> NodeInfo {
    NodeInfo {
        dialect: Dialect::Envoy,
        dns: Some("127.0.0.1:15053".parse().unwrap()),
        ..captured()
    }
}

fn with_application(protocol: Protocol) -> NodeInfo {
    NodeInfo {
        inbound: Some(Inbound {
            proxy_protocol: None,
            listen: "0.0.0.0:15006".parse().unwrap(),
            app: "127.0.0.1:9080".parse().unwrap(),
            port: 9080,
            protocol,
        }),
        ..captured()
    }
}

/// HTTP at `reviews`, bytes at `db`, and of `raw` nobody knows.
fn shop() -> Given {
    reviews()
        .instance("db", 5432, "v1", "10.0.0.5:5432")
        .speaking("db", 5432, Protocol::Tcp)
        .instance("raw", 7000, "v1", "10.0.0.6:7000")
        .speaking("raw", 7000, Protocol::Auto)
}

/// The addresses that names resolve to, IPv4 first.
fn addresses(seen: &Seen, name: &str) -> Vec<IpAddr> {
    let table = seen.json(NameTable, name);
    let ips = table["table"][name]["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip.as_str().unwrap().parse().unwrap())
        .collect()
}

/// Names of clusters that a listener's TCP proxies lead to, chain by chain, the default last.
fn clusters(listener: &Value) -> Vec<String> {
    let chains = listener["filterChains"].as_array().unwrap().iter();
    let rest = listener.get("defaultFilterChain");
    let all = chains.chain(rest);
    let last = all.map(|chain| chain["filters"].as_array().unwrap().last().unwrap());
    last.map(|filter| {
        let config = &filter["typedConfig"];
        let cluster = config["cluster"].as_str();
        cluster.map_or_else(
            || {
                let rds = config["rds"]["routeConfigName"].as_str();
                format!("RDS {}", rds.unwrap_or("inline"))
            },
            str::to_owned,
        )
    })
    .collect()
}

fn names_of_chains(listener: &Value) -> Vec<&str> {
    let chains = listener["filterChains"].as_array().unwrap().iter();
    chains
        .map(|chain| chain["name"].as_str().unwrap_or_default())
        .collect()
}

#[test]
fn what_is_for_no_service_goes_on_or_ends_as_documents_say() {
    let given = shop();
    let seen = given.seen_by(&captured());
    let outbound = seen.json(Listener, "virtualOutbound");
    assert_eq!(
        clusters(&outbound),
        ["BlackHoleCluster", "PassthroughCluster"]
    );
    assert_eq!(outbound["useOriginalDst"], true);
    assert_eq!(
        outbound["filterChains"][0]["filterChainMatch"]["destinationPort"],
        15001
    );
    let also = &outbound["additionalAddresses"][0]["address"]["socketAddress"];
    assert_eq!(also["address"], "::1");
    let closed = shop().registry_only();
    let closed = closed.seen_by(&captured());
    let outbound = closed.json(Listener, "virtualOutbound");
    assert_eq!(
        clusters(&outbound),
        ["BlackHoleCluster", "BlackHoleCluster"]
    );
    assert_eq!(
        clusters(&closed.json(Listener, "0.0.0.0_9080")),
        ["RDS 9080", "BlackHoleCluster"]
    );
    let document = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\n\
         spec: {egress: [{hosts: ['*/*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n";
    let said = shop().policy("sidecar.yaml", document).seen_by(&captured());
    let outbound = said.json(Listener, "virtualOutbound");
    assert_eq!(
        clusters(&outbound),
        ["BlackHoleCluster", "BlackHoleCluster"]
    );
}

#[test]
fn every_service_has_a_listener_of_its_address_or_of_its_port() {
    let seen = shop().seen_by(&captured());
    let [db, raw] = ["db", "raw"].map(|name| addresses(&seen, name)[0]);
    let listeners = seen.names(Listener);
    for name in [
        "0.0.0.0_9080",
        &format!("{db}_5432"),
        &format!("{raw}_7000"),
        "http_proxy",
        "virtualOutbound",
    ] {
        assert!(
            listeners.contains(&name.to_owned()),
            "{name}: {listeners:?}"
        );
    }
    assert_eq!(listeners.len(), 5);
    let of_db = seen.json(Listener, &format!("{db}_5432"));
    assert_eq!(clusters(&of_db), [DB]);
    assert_eq!(of_db["bindToPort"], false);
    let of_raw = seen.json(Listener, &format!("{raw}_7000"));
    assert_eq!(
        clusters(&of_raw),
        [
            "RDS raw.default.svc.cluster.local:7000",
            "outbound|7000||raw.default.svc.cluster.local"
        ]
    );
    assert_eq!(
        of_raw["metadata"]["filterMetadata"]["outrigger"]["detect"],
        "auto"
    );
    for cluster in [
        "PassthroughCluster",
        "BlackHoleCluster",
        "InboundPassthroughCluster",
        DB,
    ] {
        assert!(
            seen.names(Cluster).contains(&cluster.to_owned()),
            "{cluster}"
        );
    }
}

#[test]
fn a_listener_of_an_address_has_the_addresses_of_both_families_if_the_host_has() {
    let seen = shop().seen_by(&captured());
    let [v4, v6] = addresses(&seen, "db").try_into().unwrap();
    assert!(v4.is_ipv4() && v6.is_ipv6());
    let name = format!("{v4}_5432");
    let also = |seen: &Seen| seen.json(Listener, &name)["additionalAddresses"].clone();
    assert_eq!(
        also(&seen)[0]["address"]["socketAddress"]["address"],
        v6.to_string()
    );
    let mut without = captured();
    without.capture.as_mut().unwrap().ipv6 = false;
    assert_eq!(also(&shop().seen_by(&without)), Value::Null);
}

#[test]
fn on_demand_a_listener_of_an_address_comes_by_its_name_only() {
    let seen = shop().seen_by(&on_demand());
    assert_eq!(
        seen.names(Listener),
        ["0.0.0.0_9080", "http_proxy", "virtualOutbound"]
    );
    let [v4, v6] = addresses(&seen, "db").try_into().unwrap();
    assert_eq!(clusters(&seen.json(Listener, &format!("{v4}_5432"))), [DB]);
    let of_v6 = seen.json(Listener, &format!("{v6}_5432"));
    assert_eq!(of_v6["address"]["socketAddress"]["address"], v6.to_string());
    let reviews = addresses(&seen, "reviews")[0];
    for none in [
        format!("{v4}_5433"),
        format!("{v4}_05432"),
        format!("{reviews}_9080"),
        "10.9.9.9_5432".to_owned(),
        "5432".to_owned(),
    ] {
        assert!(seen.0.listeners.get(&none).is_none(), "{none}");
        assert!(!seen.0.listeners.lists(&none), "{none}");
    }
    assert!(!seen.0.listeners.lists(&format!("{v4}_5432")));
}

#[test]
fn requests_to_an_address_or_a_name_are_for_that_service_and_others_go_on() {
    let seen = shop().seen_by(&captured());
    let hosts = seen.domains("9080");
    let own = &hosts["reviews.default.svc.cluster.local:9080"];
    let [v4, v6] = addresses(&seen, "reviews").try_into().unwrap();
    for domain in [
        "reviews",
        "reviews:9080",
        &v4.to_string(),
        &format!("{v4}:9080"),
        &format!("[{v6}]:9080"),
    ] {
        assert!(own.contains(&domain.to_owned()), "{domain}: {own:?}");
    }
    assert_eq!(hosts["allow_any"], ["*"]);
    assert_eq!(hosts.len(), 2, "raw and db are not of this port: {hosts:?}");
    let closed = shop().registry_only();
    let route = &closed.seen_by(&captured()).routes("9080", "block_all")[0];
    assert_eq!(route["directResponse"]["status"], 502);
}

#[test]
fn one_virtual_host_of_a_port_is_what_the_whole_table_has() {
    let whole = shop().seen_by(&captured());
    let one = shop().seen_by(&on_demand());
    assert!(one.json(Route, "9080")["vhds"].is_object());
    let reviews = addresses(&whole, "reviews");
    for authority in [
        "reviews:9080".to_owned(),
        "reviews.default".to_owned(),
        format!("{}:9080", reviews[0]),
        format!("[{}]", reviews[1]),
        "example.com".to_owned(),
    ] {
        let name = format!("9080/{authority}");
        let found = one.json(ResourceType::VirtualHost, &name);
        let hosts = whole.domains("9080");
        let leads = hosts
            .iter()
            .find(|(_, domains)| domains.contains(&authority));
        let leads = leads.map_or("allow_any", |(name, _)| name);
        assert_eq!(
            found["routes"],
            Value::from(whole.routes("9080", leads)),
            "{authority}"
        );
    }
}

#[test]
fn routes_of_one_port_take_every_authority() {
    for node in [captured(), on_demand()] {
        let seen = shop().seen_by(&node);
        let name = "raw.default.svc.cluster.local:7000";
        assert_eq!(
            seen.domains(name),
            BTreeMap::from([(name.to_owned(), vec!["*".to_owned()])])
        );
        assert!(
            seen.0
                .routes
                .get("raw.default.svc.cluster.local:7001")
                .is_none()
        );
        assert!(
            seen.0
                .routes
                .get("db.default.svc.cluster.local:5432")
                .is_none()
        );
    }
}

#[test]
fn rules_for_networks_hold_for_what_is_redirected() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: legacy}\n\
         spec: {hosts: [legacy.example], addresses: [10.9.0.1, 10.9.1.1], resolution: STATIC,\n\
         ports: [{number: 9000, name: tcp}], endpoints: [{address: 10.9.9.9}]}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: legacy}\n\
         spec: {hosts: [legacy.example], tcp: [\n\
         {match: [{destinationSubnets: [10.9.1.0/24]}], route: [{destination: {host: db, port: {number: 5432}}}]}]}\n";
    let given = shop().policy("legacy.yaml", entry);
    let seen = given.seen_by(&captured());
    let listener = seen.json(Listener, "10.9.0.1_9000");
    assert_eq!(clusters(&listener), [DB, "outbound|9000||legacy.example"]);
    let ranges = &listener["filterChains"][0]["filterChainMatch"]["prefixRanges"];
    assert_eq!(ranges[0]["addressPrefix"], "10.9.1.0");
    let also = &listener["additionalAddresses"][0]["address"]["socketAddress"];
    assert_eq!(also["address"], "10.9.1.1");
    let outbound = seen.json(Listener, "virtualOutbound");
    let mesh = &outbound["metadata"]["filterMetadata"]["outrigger"]["mesh_addresses"];
    assert_eq!(
        *mesh,
        json!([
            "240.240.0.0/16",
            "2001:2::/48",
            "10.9.0.1/32",
            "10.9.1.1/32"
        ])
    );
    accepts_for(&given, &envoy());
}

#[test]
fn a_network_of_a_service_is_a_chain_of_its_port() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: legacy}\n\
         spec: {hosts: [legacy.example], addresses: [10.9.0.0/16], resolution: NONE,\n\
         ports: [{number: 9080, name: tcp}]}\n";
    let given = shop().policy("legacy.yaml", entry);
    let seen = given.seen_by(&captured());
    let listener = seen.json(Listener, "0.0.0.0_9080");
    let legacy = "outbound|9080||legacy.example";
    assert_eq!(
        clusters(&listener),
        ["RDS 9080", legacy, "PassthroughCluster"]
    );
    assert_eq!(seen.json(Cluster, legacy)["type"], "ORIGINAL_DST");
    assert!(
        !given
            .seen_by(&node())
            .names(Cluster)
            .contains(&legacy.to_owned())
    );
    accepts_for(&given, &envoy());
}

#[test]
fn names_resolve_to_addresses_in_every_way_to_write_them() {
    let far = shop().instance("far.bank.svc.cluster.local", 80, "v1", "10.0.0.7:80");
    let seen = far.seen_by(&on_demand());
    let own = addresses(&seen, "db");
    for name in [
        "db.default",
        "db.default.svc",
        "db.default.svc.cluster.local",
    ] {
        assert_eq!(addresses(&seen, name), own, "{name}");
    }
    for none in ["far", "DB", "db.", "nobody", "db.bank"] {
        assert!(seen.0.names.get(none).is_none(), "{none}");
    }
    let listed = seen.names(NameTable);
    assert!(
        listed.contains(&"far.bank.svc.cluster.local".to_owned()),
        "{listed:?}"
    );
    assert!(!listed.contains(&"db".to_owned()));
    let all = seen.json(NameTable, ALL_NAMES);
    assert_eq!(all["table"].as_object().unwrap().len(), listed.len());
    let db = &all["table"]["db.default.svc.cluster.local"];
    assert_eq!(
        (&db["shortname"], &db["namespace"]),
        (&json!("db"), &json!("default"))
    );
}

#[test]
fn stock_envoy_answers_names_by_itself() {
    let given = shop();
    let seen = given.seen_by(&envoy());
    let listener = seen.json(Listener, "dns");
    let table = &listener["listenerFilters"][0]["typedConfig"]["serverConfig"]["inlineDnsTable"];
    let domains = table["virtualDomains"].as_array().unwrap();
    let of = |name: &str| domains.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(of("db")["answerTtl"], "30s");
    assert_eq!(
        of("db")["endpoint"],
        of("db.default.svc.cluster.local")["endpoint"]
    );
    assert!(
        !shop()
            .seen_by(&captured())
            .names(Listener)
            .contains(&"dns".to_owned())
    );
}

#[test]
fn a_sidecar_document_limits_what_redirected_connections_reach() {
    let document = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\n\
         spec: {egress: [{port: {number: 9080, name: http, protocol: HTTP}, hosts: ['./reviews']},\n\
         {port: {number: 6000, name: tcp}, bind: 127.0.0.1, hosts: ['./db']}]}\n";
    let given = shop().policy("sidecar.yaml", document);
    let seen = given.seen_by(&captured());
    assert_eq!(
        seen.names(Listener),
        [
            "0.0.0.0_9080",
            "127.0.0.1_6000",
            "http_proxy",
            "virtualOutbound"
        ]
    );
    let bound = document.replace("protocol: HTTP}", "protocol: HTTP}, captureMode: NONE");
    let seen = shop().policy("sidecar.yaml", &bound).seen_by(&captured());
    assert_eq!(
        seen.names(Listener),
        [
            "127.0.0.1_6000",
            "127.0.0.1_9080",
            "http_proxy",
            "virtualOutbound"
        ]
    );
}

#[test]
fn the_application_is_reached_at_its_own_port_and_its_others_as_bytes() {
    let given = shop();
    let seen = given.seen_by(&with_application(Protocol::Http));
    let inbound = seen.json(Listener, "virtualInbound");
    assert_eq!(
        names_of_chains(&inbound),
        ["virtualInbound-blackhole", "", "other"]
    );
    let chains = inbound["filterChains"].as_array().unwrap();
    let port = |at: usize| &chains[at]["filterChainMatch"]["destinationPort"];
    assert_eq!(
        (port(0), port(1), port(2)),
        (&json!(15006), &json!(9080), &Value::Null)
    );
    assert_eq!(
        clusters(&inbound),
        [
            "BlackHoleCluster",
            "RDS inline",
            "InboundPassthroughCluster"
        ]
    );
    assert!(chains[1]["transportSocket"].is_object() && chains[2]["transportSocket"].is_object());
    let also = &inbound["additionalAddresses"][0]["address"]["socketAddress"];
    assert_eq!(also["address"], "::");
}

#[test]
fn an_application_of_which_nobody_knows_has_rules_for_requests_and_for_connections() {
    let rules = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n\
         spec: {action: DENY, rules: [{to: [{operation: {ports: ['9080', '9999']}}]}]}\n";
    let given = shop().policy("rules.yaml", rules);
    let plain = NodeInfo {
        capture: None,
        ..with_application(Protocol::Auto)
    };
    for node in [plain, with_application(Protocol::Auto)] {
        let seen = given.seen_by(&node);
        let inbound = seen.json(Listener, "virtualInbound");
        let chains = inbound["filterChains"].as_array().unwrap();
        let chain = |name: &str| chains.iter().find(|one| one["name"] == name).unwrap();
        let manager = &chain("mtls-http")["filters"][0]["typedConfig"];
        assert_eq!(
            manager["httpFilters"][0]["name"],
            "envoy.filters.http.rbac.deny"
        );
        let bytes = &chain("mtls")["filters"];
        assert_eq!(bytes[0]["name"], "envoy.filters.network.rbac.deny");
        assert_eq!(bytes[1]["typedConfig"]["cluster"], "inbound|9080||");
        accepts_for(&given, &node);
    }
    let seen = given.seen_by(&with_application(Protocol::Auto));
    let inbound = seen.json(Listener, "virtualInbound");
    let chains = inbound["filterChains"].as_array().unwrap();
    let other = chains.iter().find(|one| one["name"] == "other").unwrap();
    let policies = &other["filters"][0]["typedConfig"]["rules"]["policies"];
    assert!(
        policies.to_string().contains("\"destinationPort\":9999"),
        "known when there is a connection: {policies}"
    );
}

#[test]
fn documents_say_of_other_ports_how_connections_have_to_be() {
    let modes = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\n\
         spec: {selector: {matchLabels: {app: frontend}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {9100: {mode: DISABLE}}}\n";
    let given = shop().policy("modes.yaml", modes);
    for protocol in [Protocol::Http, Protocol::Tcp, Protocol::Auto] {
        let node = with_application(protocol);
        let seen = given.seen_by(&node);
        let inbound = seen.json(Listener, "virtualInbound");
        let names = names_of_chains(&inbound);
        for name in [
            "mtls",
            "plain",
            "port-9100",
            "other-mtls",
            "other-plain",
            "other-passthrough",
        ] {
            assert!(names.contains(&name), "{protocol:?}: {names:?}");
        }
        accepts_for(&given, &node);
    }
}

#[test]
fn envoy_accepts_what_its_own_nodes_are_sent() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: outside}\n\
         spec: {hosts: [api.example.com], resolution: NONE, ports: [{number: 443, name: tls}]}\n";
    let given = shop().policy("entry.yaml", entry);
    for transparent in [false, true] {
        let mut node = envoy();
        node.inbound = with_application(Protocol::Http).inbound;
        node.capture.as_mut().unwrap().transparent = transparent;
        let seen = given.seen_by(&node);
        assert_eq!(
            clusters(&seen.json(Listener, "0.0.0.0_443")),
            ["outbound|443||api.example.com", "PassthroughCluster"]
        );
        accepts_for(&given, &node);
    }
}
