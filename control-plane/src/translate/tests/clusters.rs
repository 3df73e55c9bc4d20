//! Clusters: subsets and TLS.

use super::*;
use crate::translate::Dialect;

#[test]
fn endpoints_say_whether_they_have_mtls() {
    let seen = reviews()
        .plain("reviews", 9080, "v3", "10.0.0.3:9080")
        .seen_by(&node());
    let all = seen.json(Endpoint, REVIEWS);
    let modes: Vec<_> = all["endpoints"][0]["lbEndpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["metadata"]["filterMetadata"]["envoy.transport_socket_match"].clone())
        .collect();
    assert_eq!(
        modes,
        [
            json!({"tlsMode": "istio"}),
            json!({"tlsMode": "istio"}),
            Value::Null
        ]
    );
    let cluster = seen.json(Cluster, REVIEWS);
    assert_eq!(
        socket_names(&cluster),
        ["tlsMode-istio", "tlsMode-disabled"]
    );
    assert_eq!(
        san(&cluster),
        ["spiffe://cluster.local/ns/default/sa/reviews"]
    );
}

fn with_tls_mode(mode: &str) -> Value {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: tls}}
spec:
  host: reviews
  trafficPolicy: {{tls: {{mode: {mode}}}}}
"
    );
    reviews()
        .policy("tls.yaml", &yaml)
        .seen_by(&node())
        .json(Cluster, REVIEWS)
}

#[test]
fn tls_disabled_leaves_no_tls() {
    assert_eq!(socket_names(&with_tls_mode("DISABLE")), Vec::<&str>::new());
}

#[test]
fn tls_demanded_leaves_no_plain_text() {
    let cluster = with_tls_mode("ISTIO_MUTUAL");
    assert_eq!(socket_names(&cluster), ["tlsMode-istio"]);
    assert_eq!(
        cluster["transportSocketMatches"][0]["match"],
        json!({}),
        "and holds for all"
    );
}

#[test]
fn subsets_have_clusters_of_their_own() {
    let rule = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool: {tcp: {maxConnections: 7}}
  subsets:
  - name: v2
    labels: {version: v2}
    trafficPolicy: {loadBalancer: {simple: RANDOM}}
";
    let seen = reviews().policy("rule.yaml", rule).seen_by(&node());
    let v2 = "outbound|9080|v2|reviews.default.svc.cluster.local";
    assert_eq!(seen.names(Cluster), [v2, REVIEWS]);
    assert_eq!(seen.endpoints(v2), ["10.0.0.2:15006"]);
    let (subset, whole) = (seen.json(Cluster, v2), seen.json(Cluster, REVIEWS));
    assert_eq!(
        (&subset["lbPolicy"], &whole["roundRobinLbConfig"]),
        (&json!("RANDOM"), &json!({}))
    );
    let limit = &subset["circuitBreakers"]["thresholds"][0]["maxConnections"];
    assert_eq!(limit, 7, "what the subset does not set is the host's");
    let own = &subset["metadata"]["filterMetadata"]["outrigger"];
    assert_eq!(own["subset"], "v2");
    assert_eq!(own["document"], "DestinationRule default/reviews");
    assert_eq!(own["position"], "rule.yaml:10:11");
}

#[test]
fn an_envoy_on_demand_asks_for_clusters_too_and_our_sidecar_does_that_by_itself() {
    for (dialect, asks) in [(Dialect::Envoy, true), (Dialect::Outrigger, false)] {
        let node = NodeInfo {
            dialect,
            on_demand: true,
            ..node()
        };
        let listener = Given::default().seen_by(&node).json(Listener, "http_proxy");
        let manager = &listener["filterChains"][0]["filters"][0]["typedConfig"];
        let filter = &manager["httpFilters"][0];
        assert_eq!(filter["name"], "envoy.filters.http.on_demand");
        assert_eq!(filter["typedConfig"].get("odcds").is_some(), asks);
    }
}
