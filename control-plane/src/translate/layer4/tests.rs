use std::sync::Arc;

use outrigger_policy::{
    At, ConnectionMatch, HostName, MergedVirtualService, Mesh, Object, ParseLimits,
    RouteDestination, Subnet, TcpRoute, TlsMatch, TlsRoute, parse,
};
use serde_json::{Value, json};

use super::super::{
    NodeInfo, NodeResources, Shared,
    node::Inbound,
    testing::{Given, Seen, host, node},
};
use crate::snapshot::ResourceType::{Cluster, Listener, Route};

const SERVICES: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec:
  hosts: [db, db-canary]
  location: MESH_INTERNAL
  ports: [{number: 5432, name: sql, protocol: TCP}, {number: 80, name: web, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.1, serviceAccount: db}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out}
spec:
  hosts: [pay.example.com, cdn.example.com]
  ports: [{number: 443, name: tls, protocol: HTTPS}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  egress:
  - port: {number: 6432, name: sql, protocol: TCP}
    hosts: [./db]
  - port: {number: 8443, name: tls, protocol: TLS}
    hosts: ['*/*']
  - port: {number: 8080, name: web, protocol: HTTP}
    hosts: ['./*']
";

fn given() -> Given {
    Given::default().policy("services.yaml", SERVICES)
}

fn at<T>(value: T, given: &Mesh) -> At<T> {
    let position = document(given).position.clone();
    At { value, position }
}

/// Any VirtualService; rules need to come from one.
fn document(_: &Mesh) -> Arc<Object> {
    let yaml = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db]
  tcp: [{route: [{destination: {host: db}}]}]
";
    let objects = parse("db.yaml", yaml, "default", &ParseLimits::default());
    Arc::new(objects.unwrap().remove(0))
}

fn to(mesh: &Mesh, name: &str, weight: u32) -> RouteDestination {
    let position = document(mesh).position.clone();
    RouteDestination {
        host: at(name.to_owned(), mesh),
        position,
        subset: None,
        port: None,
        weight,
    }
}

/// What `node` sees with rules that are built by hand.
fn with_rules(
    name: HostName,
    tcp: impl FnOnce(&Mesh) -> Vec<TcpRoute>,
    tls: impl FnOnce(&Mesh) -> Vec<TlsRoute>,
) -> Seen {
    let given = given();
    let mut mesh = Mesh::clone(&given.mesh());
    let object = document(&mesh);
    let tcp = tcp(&mesh)
        .into_iter()
        .map(|rule| (Arc::clone(&object), rule));
    let tcp = tcp.collect();
    let tls = tls(&mesh)
        .into_iter()
        .map(|rule| (Arc::clone(&object), rule));
    let service = MergedVirtualService {
        host: name.clone(),
        http: Vec::new(),
        tls: tls.collect(),
        tcp,
    };
    mesh.virtual_services.insert(name, service);
    let world = Arc::new(given.world_with(Arc::new(mesh)));
    let node = node();
    Seen(Shared::translate(world, None).snapshot(&node, &NodeResources::of(&node)))
}

fn tcp_rule(mesh: &Mesh, matches: Vec<ConnectionMatch>, route: Vec<RouteDestination>) -> TcpRoute {
    TcpRoute {
        position: document(mesh).position.clone(),
        matches,
        route,
    }
}

fn tls_rule(mesh: &Mesh, names: &[&str], destination: &str) -> TlsRoute {
    TlsRoute {
        position: document(mesh).position.clone(),
        matches: vec![TlsMatch {
            sni_hosts: names
                .iter()
                .map(|name| at((*name).to_owned(), mesh))
                .collect(),
            common: ConnectionMatch::default(),
        }],
        route: vec![to(mesh, destination, 100)],
    }
}

fn proxies(listener: &Value) -> Vec<&Value> {
    let chains = listener["filterChains"].as_array().unwrap();
    chains
        .iter()
        .map(|chain| &chain["filters"][0]["typedConfig"])
        .collect()
}

#[test]
fn a_tcp_port_leads_to_its_service_by_that_services_only_tcp_port() {
    let seen = given().seen_by(&node());
    let listener = seen.json(Listener, "127.0.0.1_6432");
    let chains = listener["filterChains"].as_array().unwrap();
    assert_eq!(chains.len(), 1);
    assert_eq!(chains[0]["filterChainMatch"], Value::Null);
    assert_eq!(listener["listenerFilters"], Value::Null);
    assert_eq!(
        *proxies(&listener)[0],
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "statPrefix": "outbound|5432||db.default.svc.cluster.local",
            "cluster": "outbound|5432||db.default.svc.cluster.local",
            "maxConnectAttempts": 2,
        })
    );
}

#[test]
fn a_cluster_of_bytes_has_no_http_in_it() {
    let seen = given().seen_by(&node());
    let cluster = seen.json(Cluster, "outbound|5432||db.default.svc.cluster.local");
    assert_eq!(cluster["typedExtensionProtocolOptions"], Value::Null);
    let tls = &cluster["transportSocketMatches"][0]["transportSocket"]["typedConfig"];
    assert_eq!(tls["commonTlsContext"]["alpnProtocols"], json!(["istio"]));
    let web = seen.json(Cluster, "outbound|80||db.default.svc.cluster.local");
    let tls = &web["transportSocketMatches"][0]["transportSocket"]["typedConfig"];
    assert_eq!(tls["commonTlsContext"]["alpnProtocols"], Value::Null);
    assert_ne!(web["typedExtensionProtocolOptions"], Value::Null);
}

#[test]
fn ports_of_bytes_have_no_routes_of_requests() {
    let seen = given().seen_by(&node());
    let domains = seen.domains("8080");
    let hosts: Vec<_> = domains.keys().map(String::as_str).collect();
    assert_eq!(
        hosts,
        [
            "db-canary.default.svc.cluster.local:80",
            "db.default.svc.cluster.local:80"
        ]
    );
}

#[test]
fn the_first_tcp_rule_that_holds_decides() {
    let seen = with_rules(
        host("db"),
        |mesh| {
            let only = |port| ConnectionMatch {
                port: Some(port),
                ..ConnectionMatch::default()
            };
            let network = ConnectionMatch {
                destination_subnets: vec![Subnet {
                    address: [10, 0, 0, 0].into(),
                    prefix: 8,
                }],
                ..ConnectionMatch::default()
            };
            let elsewhere = ConnectionMatch {
                source_namespace: Some("shop".to_owned()),
                ..ConnectionMatch::default()
            };
            let never = vec![only(80), network, elsewhere];
            let shares = vec![
                to(mesh, "db", 90),
                to(mesh, "db-canary", 10),
                to(mesh, "db", 0),
            ];
            vec![
                tcp_rule(mesh, never, vec![to(mesh, "pay.example.com", 100)]),
                tcp_rule(mesh, vec![only(5432)], shares),
                tcp_rule(mesh, Vec::new(), vec![to(mesh, "pay.example.com", 100)]),
            ]
        },
        |_| Vec::new(),
    );
    let listener = seen.json(Listener, "127.0.0.1_6432");
    let proxies = proxies(&listener);
    assert_eq!(proxies.len(), 1);
    assert_eq!(
        proxies[0]["weightedClusters"]["clusters"],
        json!([
            {"name": "outbound|5432||db.default.svc.cluster.local", "weight": 90},
            {"name": "outbound|5432||db-canary.default.svc.cluster.local", "weight": 10},
        ])
    );
    let decided = &listener["filterChains"][0]["metadata"]["filterMetadata"]["outrigger"];
    assert_eq!(decided["document"], "VirtualService default/db");
    assert!(
        decided["position"]
            .as_str()
            .unwrap()
            .starts_with("db.yaml:")
    );
    let names = seen.names(Cluster);
    assert!(names.contains(&"outbound|5432||db-canary.default.svc.cluster.local".to_owned()));
}

#[test]
fn who_calls_decides_where_a_connection_goes() {
    let rules = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db]
  tcp:
  - match: [{sourceLabels: {tier: canary}}]
    route: [{destination: {host: db-canary}}]
";
    let given = given().policy("db.yaml", rules);
    let mut canary = node();
    canary.labels.insert("tier".into(), "canary".into());
    for (node, host) in [(canary, "db-canary"), (node(), "db")] {
        let listener = given.seen_by(&node).json(Listener, "127.0.0.1_6432");
        let expected = format!("outbound|5432||{host}.default.svc.cluster.local");
        assert_eq!(proxies(&listener)[0]["cluster"], expected);
    }
}

#[test]
fn a_tls_port_leads_by_server_name_to_every_service_that_has_one() {
    let seen = given().seen_by(&node());
    let listener = seen.json(Listener, "127.0.0.1_8443");
    assert_eq!(
        listener["listenerFilters"][0]["name"],
        "envoy.filters.listener.tls_inspector"
    );
    assert_eq!(listener["listenerFiltersTimeout"], "5s");
    let chains = listener["filterChains"].as_array().unwrap();
    let matches: Vec<_> = chains
        .iter()
        .map(|chain| chain["filterChainMatch"].clone())
        .collect();
    assert_eq!(
        matches,
        [
            json!({"serverNames": ["cdn.example.com"], "transportProtocol": "tls"}),
            json!({"serverNames": ["pay.example.com"], "transportProtocol": "tls"}),
        ]
    );
    let proxies = proxies(&listener);
    assert_eq!(proxies[1]["cluster"], "outbound|443||pay.example.com");
}

#[test]
fn tls_rules_lead_their_names_and_no_name_is_led_twice() {
    let seen = with_rules(
        host("pay.example.com"),
        |_| Vec::new(),
        |mesh| {
            vec![
                tls_rule(mesh, &["a.example.com", "B.example.com"], "db"),
                tls_rule(mesh, &["b.example.com", "*"], "db-canary"),
            ]
        },
    );
    let listener = seen.json(Listener, "127.0.0.1_8443");
    let chains = listener["filterChains"].as_array().unwrap();
    let found: Vec<_> = chains
        .iter()
        .map(|chain| {
            let names = &chain["filterChainMatch"]["serverNames"];
            let cluster = &chain["filters"][0]["typedConfig"]["cluster"];
            (names.clone(), cluster.as_str().unwrap())
        })
        .collect();
    assert_eq!(
        found,
        [
            (json!(["cdn.example.com"]), "outbound|443||cdn.example.com"),
            (
                json!(["a.example.com", "b.example.com"]),
                "outbound|443||db.default.svc.cluster.local"
            ),
            (
                Value::Null,
                "outbound|443||db-canary.default.svc.cluster.local"
            ),
        ],
        "the rules have taken the place of the host's own name"
    );
}

#[test]
fn timeouts_and_the_hash_of_the_source_are_the_proxys() {
    let rule = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db}
spec:
  host: db
  trafficPolicy:
    loadBalancer: {consistentHash: {useSourceIp: true}}
";
    let seen = given().policy("rule.yaml", rule).seen_by(&node());
    let listener = seen.json(Listener, "127.0.0.1_6432");
    assert_eq!(
        proxies(&listener)[0]["hashPolicy"],
        json!([{"sourceIp": {}}])
    );
}

#[test]
fn an_application_of_bytes_gets_them_out_of_mtls() {
    let inbound = Inbound {
        proxy_protocol: None,
        listen: "10.0.0.9:15006".parse().unwrap(),
        app: "127.0.0.1:5432".parse().unwrap(),
        port: 5432,
        protocol: outrigger_policy::Protocol::Tcp,
    };
    let node = NodeInfo {
        inbound: Some(inbound),
        ..node()
    };
    let seen = given().seen_by(&node);
    let listener = seen.json(Listener, "virtualInbound");
    let chain = &listener["filterChains"][0];
    let tls = &chain["transportSocket"]["typedConfig"];
    assert_eq!(tls["commonTlsContext"]["alpnProtocols"], json!(["istio"]));
    assert_eq!(tls["requireClientCertificate"], true);
    assert_eq!(proxies(&listener)[0]["cluster"], "inbound|5432||");
    assert_eq!(proxies(&listener)[0]["idleTimeout"], "0s");
    assert!(seen.names(Route).contains(&"8080".to_owned()));
}

#[test]
fn a_tcp_port_for_a_host_that_nobody_serves_yet_names_its_cluster() {
    let sidecar = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  egress: [{port: {number: 7000, name: t, protocol: TCP}, hosts: [./later]}, {port: {number: 7001, name: s, protocol: TLS}, hosts: [./later]}]
";
    let seen = Given::default().policy("s.yaml", sidecar).seen_by(&node());
    let listener = seen.json(Listener, "127.0.0.1_7000");
    assert_eq!(
        proxies(&listener)[0]["cluster"],
        "outbound|7000||later.default.svc.cluster.local"
    );
    assert!(!seen.names(Listener).contains(&"127.0.0.1_7001".to_owned()));
}

#[test]
fn rules_of_a_wildcard_leave_the_names_that_they_do_not_name_their_own_way() {
    let wildcard = HostName::canonical("*.example.com", "default", "cluster.local");
    let seen = with_rules(
        wildcard,
        |_| Vec::new(),
        |mesh| vec![tls_rule(mesh, &["pay.example.com"], "db")],
    );
    let listener = seen.json(Listener, "127.0.0.1_8443");
    let chains = listener["filterChains"].as_array().unwrap();
    let names: Vec<&Value> = chains
        .iter()
        .map(|chain| &chain["filterChainMatch"]["serverNames"][0])
        .collect();
    assert_eq!(names, ["pay.example.com", "cdn.example.com"]);
    let proxied = proxies(&listener);
    assert_eq!(proxied[1]["cluster"], "outbound|443||cdn.example.com");
}
