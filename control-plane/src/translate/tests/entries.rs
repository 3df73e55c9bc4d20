//! ServiceEntries and WorkloadEntries.

use super::*;

#[test]
fn a_selector_takes_registered_instances_and_workload_entries() {
    let workload = "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm}
spec: {address: 10.0.0.7, ports: {http: 8080}, labels: {app: reviews}, serviceAccount: vm}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: other}
spec: {address: 10.0.0.8, labels: {app: other}}
";
    let given = reviews()
        .policy("entry.yaml", ENTRY)
        .policy("vm.yaml", workload);
    let seen = given.seen_by(&node());
    let books = "outbound|80||books.example";
    assert_eq!(
        seen.endpoints(books),
        ["10.0.0.1:15006", "10.0.0.2:15006", "10.0.0.7:8080"]
    );
    let identities = [
        "spiffe://cluster.local/ns/default/sa/reviews",
        "spiffe://cluster.local/ns/default/sa/vm",
    ];
    assert_eq!(san(&seen.json(Cluster, books)), identities);
}

#[test]
fn an_entry_for_a_registered_host_adds_to_its_endpoints() {
    let entry = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: more}
spec:
  hosts: [reviews]
  ports: [{number: 9080, name: http, protocol: HTTP2}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.2, ports: {http: 15006}}, {address: 10.0.0.5}]
";
    let seen = reviews().policy("more.yaml", entry).seen_by(&node());
    let all = ["10.0.0.1:15006", "10.0.0.2:15006", "10.0.0.5:9080"];
    assert_eq!(seen.endpoints(REVIEWS), all, "each address once");
    let options = &seen.json(Cluster, REVIEWS)["typedExtensionProtocolOptions"];
    let options = options.as_object().unwrap().values().next().unwrap();
    let explicit = &options["explicitHttpConfig"]["http2ProtocolOptions"];
    assert_eq!(
        *explicit,
        json!({"allowConnect": true}),
        "the document's protocol wins"
    );
}

#[test]
fn workloads_of_external_entries_are_plain() {
    let entry = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext}
spec:
  hosts: [ext.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1, serviceAccount: ext}]
";
    let seen = Given::default().policy("ext.yaml", entry).seen_by(&node());
    let all = seen.json(Endpoint, "outbound|80||ext.example");
    let metadata = &all["endpoints"][0]["lbEndpoints"][0]["metadata"]["filterMetadata"];
    assert_eq!(metadata["envoy.transport_socket_match"], Value::Null);
}
