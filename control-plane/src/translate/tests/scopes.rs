//! What a workload sees under a `Sidecar` document, and its own inbound side.

use super::*;

pub(super) const SIDECAR: &str = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: frontend}
spec:
  workloadSelector: {labels: {app: frontend}}
  egress:
  - port: {number: 9080, name: http, protocol: HTTP}
    hosts: ['./reviews.default.svc.cluster.local']
  - port: {number: 8000, name: all, protocol: HTTP}
    bind: 127.0.0.2
    hosts: ['*/*']
  - hosts: ['./ratings.default.svc.cluster.local']
";

#[test]
fn egress_listeners_are_ports_of_the_sidecar() {
    let seen = scoped().seen_by(&node());
    assert_eq!(
        seen.names(Listener),
        ["127.0.0.1_9080", "127.0.0.2_8000", "http_proxy"]
    );
    assert_eq!(seen.names(Route), ["127.0.0.2_8000", "9080", "http_proxy"]);
    let listener = seen.json(Listener, "127.0.0.1_9080");
    assert_eq!(listener["trafficDirection"], "OUTBOUND");
    let manager = &listener["filterChains"][0]["filters"][0]["typedConfig"];
    assert_eq!(manager["rds"]["routeConfigName"], "9080");
    let reviews = &seen.domains("9080")["reviews.default.svc.cluster.local:9080"];
    assert_eq!(
        reviews.last().unwrap(),
        "*",
        "localhost:9080 has no other meaning"
    );
    let all = seen.domains("127.0.0.2_8000");
    assert_eq!(all.len(), 3);
    assert!(
        !all.values().flatten().any(|domain| domain == "*"),
        "{all:?}"
    );
    let proxied: Vec<_> = seen.domains("http_proxy").into_keys().collect();
    assert_eq!(proxied, ["ratings.default.svc.cluster.local:7070"]);
}

#[test]
fn a_sidecar_document_limits_what_its_workloads_see() {
    let narrow = SIDECAR.replace("['*/*']", "['~/*']");
    let given = reviews().instance("ratings", 7070, "v1", "10.0.0.3:15006");
    let given = given.instance("details", 9081, "v1", "10.0.0.4:15006");
    let given = given.policy("sidecar.yaml", &narrow);
    let ratings = "outbound|7070||ratings.default.svc.cluster.local";
    assert_eq!(given.seen_by(&node()).names(Cluster), [ratings, REVIEWS]);
    let other = NodeInfo {
        labels: [("app".to_owned(), "other".to_owned())].into(),
        ..node()
    };
    assert_eq!(
        given.seen_by(&other).names(Cluster).len(),
        3,
        "others see everything"
    );
}

#[test]
fn an_inbound_port_wants_a_certificate_and_leads_to_the_application() {
    let inbound = Inbound {
        proxy_protocol: None,
        listen: "0.0.0.0:15006".parse().unwrap(),
        app: "127.0.0.1:8080".parse().unwrap(),
        port: 9080,
        protocol: outrigger_policy::Protocol::Http,
    };
    let seen = reviews().seen_by(&NodeInfo {
        inbound: Some(inbound),
        ..node()
    });
    assert_eq!(seen.names(Listener), ["http_proxy", "virtualInbound"]);
    let listener = seen.json(Listener, "virtualInbound");
    assert_eq!(listener["trafficDirection"], "INBOUND");
    let chain = &listener["filterChains"][0];
    let tls = &chain["transportSocket"]["typedConfig"];
    assert_eq!(tls["requireClientCertificate"], true);
    let manager = &chain["filters"][0]["typedConfig"];
    assert_eq!(manager["forwardClientCertDetails"], "SANITIZE_SET");
    let route = &manager["routeConfig"]["virtualHosts"][0]["routes"][0]["route"];
    assert_eq!(route["cluster"], "inbound|9080||");
    let cluster = seen.json(Cluster, "inbound|9080||");
    assert_eq!(cluster["transportSocketMatches"], Value::Null);
    assert_eq!(
        cluster["metadata"]["filterMetadata"]["outrigger"]["service"],
        "frontend.default.svc.cluster.local"
    );
    let app = &cluster["loadAssignment"]["endpoints"][0]["lbEndpoints"][0]["endpoint"];
    assert_eq!(app["address"]["socketAddress"]["portValue"], 8080);
}
