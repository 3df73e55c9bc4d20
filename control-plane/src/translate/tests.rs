use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    NodeInfo, NodeResources, Shared,
    node::Inbound,
    testing::{Given, Seen, node},
};
use crate::snapshot::ResourceType::{self, Cluster, Endpoint, Listener, Route, Secret};

mod golden;

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";

fn reviews() -> Given {
    Given::default()
        .instance("reviews", 9080, "v1", "10.0.0.1:15006")
        .instance("reviews", 9080, "v2", "10.0.0.2:15006")
}

/// The first transport socket match of a cluster, unwrapped.
fn socket_names(cluster: &Value) -> Vec<&str> {
    let all = cluster["transportSocketMatches"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    all.iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect()
}

fn san(cluster: &Value) -> Vec<&str> {
    let context = &cluster["transportSocketMatches"][0]["transportSocket"]["typedConfig"];
    let combined = &context["commonTlsContext"]["combinedValidationContext"];
    let names = combined["defaultValidationContext"]["matchTypedSubjectAltNames"].as_array();
    names
        .unwrap()
        .iter()
        .map(|one| one["matcher"]["exact"].as_str().unwrap())
        .collect()
}

#[test]
fn a_registered_service_has_a_cluster_endpoints_and_a_virtual_host() {
    let seen = reviews().seen_by(&node());
    assert_eq!(seen.names(Cluster), [REVIEWS]);
    assert_eq!(
        seen.endpoints(REVIEWS),
        ["10.0.0.1:15006", "10.0.0.2:15006"]
    );
    assert_eq!(seen.names(Listener), ["http_proxy"]);
    assert_eq!(seen.names(Route), ["http_proxy"]);
    assert_eq!(seen.names(Secret), ["ROOTCA"]);
    let routes = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
    assert_eq!(routes[0]["route"]["cluster"], REVIEWS);
    assert_eq!(routes[0]["name"], "default");
}

#[test]
fn a_host_is_called_by_every_short_form_within_its_namespace_only() {
    let name = "reviews.default.svc.cluster.local:9080";
    let forms = |prefixes: &[&str]| {
        let mut forms = vec![
            "reviews.default.svc.cluster.local".to_owned(),
            "reviews.default.svc.cluster.local:9080".to_owned(),
        ];
        forms.extend(
            prefixes
                .iter()
                .flat_map(|form| [(*form).to_owned(), format!("{form}:9080")]),
        );
        forms
    };
    let here = reviews().seen_by(&node()).domains("http_proxy");
    assert_eq!(
        here[name],
        forms(&["reviews.default.svc", "reviews.default", "reviews"])
    );
    let elsewhere = NodeInfo {
        namespace: "shop".into(),
        ..node()
    };
    let elsewhere = reviews().seen_by(&elsewhere).domains("http_proxy");
    assert_eq!(
        elsewhere[name],
        forms(&["reviews.default.svc", "reviews.default"])
    );
}

#[test]
fn names_without_a_port_belong_to_port_80_or_else_the_lowest() {
    for (ports, bare) in [([9080, 80], 80), ([9080, 9081], 9080)] {
        let given = ports.iter().fold(Given::default(), |given, port| {
            given.instance("reviews", *port, "v1", &format!("10.0.0.1:{port}"))
        });
        let domains = given.seen_by(&node()).domains("http_proxy");
        for port in ports {
            let host = format!("reviews.default.svc.cluster.local:{port}");
            let has = domains[&host].contains(&"reviews".to_owned());
            assert_eq!(has, port == bare, "port {port} of {ports:?}");
            assert!(domains[&host].contains(&format!("reviews:{port}")));
        }
    }
}

#[test]
fn no_domain_is_given_twice() {
    // "reviews.default" is itself a host here, and wins over the short form.
    let given = reviews().policy(
        "entry.yaml",
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: odd}
spec:
  hosts: [reviews.example]
  ports: [{number: 9080, name: http, protocol: HTTP}]
  resolution: STATIC
",
    );
    let domains = given.seen_by(&node()).domains("http_proxy");
    let mut all: Vec<_> = domains.values().flatten().collect();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_service_without_instances_keeps_its_cluster() {
    let given = reviews()
        .without("reviews", "10.0.0.1:15006")
        .without("reviews", "10.0.0.2:15006");
    let seen = given.seen_by(&node());
    assert_eq!(seen.endpoints(REVIEWS), Vec::<String>::new());
    let cluster = seen.json(Cluster, REVIEWS);
    assert_eq!(
        san(&cluster),
        ["spiffe://cluster.local/nobody-registered"],
        "not everybody"
    );
}

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

fn with_routes(http: &str) -> Seen {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: routes}}
spec:
  hosts: [reviews]
  http:
{http}"
    );
    let ratings = reviews().instance("ratings", 7070, "v1", "10.0.0.3:15006");
    ratings.policy("routes.yaml", &yaml).seen_by(&node())
}

fn routes(http: &str) -> Vec<Value> {
    with_routes(http).routes("http_proxy", "reviews.default.svc.cluster.local:9080")
}

#[test]
fn each_match_of_a_rule_is_a_route() {
    let found = routes(
        "  - name: both
    match:
    - {uri: {prefix: /a}, ignoreUriCase: true}
    - {uri: {exact: /b}, method: {exact: PUT}, headers: {X-One: {regex: 'a+'}, x-two: {}}}
    - {uri: {regex: '/c.*'}, queryParams: {q: {exact: '1'}}, withoutHeaders: {no: {prefix: x}}}
    route: [{destination: {host: ratings}}]
",
    );
    assert_eq!(found.len(), 3);
    assert_eq!(
        found[0]["match"],
        json!({"prefix": "/a", "caseSensitive": false})
    );
    assert_eq!(found[1]["match"]["path"], "/b");
    assert_eq!(found[1]["match"]["headers"][0]["name"], ":method");
    assert_eq!(found[1]["match"]["headers"][1]["name"], "x-one");
    assert_eq!(found[1]["match"]["headers"][2]["presentMatch"], true);
    assert_eq!(found[2]["match"]["safeRegex"]["regex"], "/c.*");
    assert_eq!(found[2]["match"]["headers"][0]["invertMatch"], true);
    assert_eq!(
        found[2]["match"]["queryParameters"][0]["stringMatch"]["exact"],
        "1"
    );
    for route in &found {
        assert_eq!(route["name"], "both");
        assert_eq!(
            route["metadata"]["filterMetadata"]["outrigger"]["position"],
            "routes.yaml:7:5"
        );
        let cluster = "outbound|7070||ratings.default.svc.cluster.local";
        assert_eq!(route["route"]["cluster"], cluster, "on its only port");
    }
}

#[test]
fn a_match_on_another_port_makes_no_route() {
    let found = routes(
        "  - match: [{port: 80}]
    route: [{destination: {host: ratings}}]
  - match: [{port: 9080}]
    route: [{destination: {host: reviews}}]
",
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["route"]["cluster"], REVIEWS);
}

#[test]
fn a_route_without_timeout_has_none() {
    // Absent would mean 15 s to Envoy.
    let found = routes("  - route: [{destination: {host: reviews}}]\n");
    assert_eq!(found[0]["route"]["timeout"], "0s");
    let found = routes("  - timeout: 1.5s\n    route: [{destination: {host: reviews}}]\n");
    assert_eq!(found[0]["route"]["timeout"], "1.500s");
}

#[test]
fn a_destination_of_weight_0_is_left_out() {
    let found = routes(
        "  - route:
    - {destination: {host: reviews}, weight: 0}
    - {destination: {host: ratings}, weight: 100}
",
    );
    let cluster = "outbound|7070||ratings.default.svc.cluster.local";
    assert_eq!(found[0]["route"]["cluster"], cluster);
}

#[test]
fn headers_are_set_added_and_removed_on_both_ways() {
    let found = routes(
        "  - headers:
      request: {set: {a: '1'}, add: {b: '2'}, remove: [C]}
      response: {set: {d: ''}}
    rewrite: {uri: /new, authority: other.example}
    route:
    - destination: {host: reviews}
      headers: {response: {add: {e: '5'}}}
",
    );
    let route = &found[0];
    let request: Vec<_> = route["requestHeadersToAdd"]
        .as_array()
        .unwrap()
        .iter()
        .collect();
    assert_eq!(request[0]["appendAction"], "OVERWRITE_IF_EXISTS_OR_ADD");
    assert_eq!(request[1]["header"], json!({"key": "b", "value": "2"}));
    assert_eq!(route["requestHeadersToRemove"], json!(["c"]));
    let empty = &route["responseHeadersToAdd"][0];
    assert_eq!(empty["header"]["key"], "d");
    assert_eq!(empty["keepEmptyValue"], true);
    assert_eq!(route["route"]["hostRewriteLiteral"], "other.example");
    assert_eq!(route["route"]["prefixRewrite"], "/new");
    let destination = &route["route"]["weightedClusters"]["clusters"][0];
    assert_eq!(destination["responseHeadersToAdd"][0]["header"]["key"], "e");
}

#[test]
fn redirects_and_direct_responses_need_no_cluster() {
    let found = routes(
        "  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, authority: b.example, redirectCode: 308}
  - directResponse: {status: 418, body: {string: short and stout}}
",
    );
    assert_eq!(found[0]["redirect"]["pathRedirect"], "/new");
    assert_eq!(found[0]["redirect"]["responseCode"], "PERMANENT_REDIRECT");
    assert_eq!(found[1]["directResponse"]["status"], 418);
    assert_eq!(
        found[1]["directResponse"]["body"]["inlineString"],
        "short and stout"
    );
}

#[test]
fn every_route_to_a_hashed_host_says_what_to_hash() {
    let rule = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hash}
spec:
  host: reviews
  trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: session, ttl: 60s}}}}
";
    let seen = reviews().policy("hash.yaml", rule).seen_by(&node());
    let found = seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080");
    let policy = &found[0]["route"]["hashPolicy"][0]["cookie"];
    assert_eq!(
        (&policy["name"], &policy["ttl"]),
        (&json!("session"), &json!("60s"))
    );
    assert_eq!(seen.json(Cluster, REVIEWS)["lbPolicy"], "RING_HASH");
}

#[test]
fn a_virtual_service_for_a_host_that_nobody_serves_is_callable() {
    let yaml = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: alias}
spec:
  hosts: [books.example]
  http: [{route: [{destination: {host: reviews}}]}]
";
    let seen = reviews().policy("alias.yaml", yaml).seen_by(&node());
    assert_eq!(
        seen.routes("http_proxy", "books.example:80")[0]["route"]["cluster"],
        REVIEWS
    );
    assert_eq!(
        seen.domains("http_proxy")["books.example:80"],
        ["books.example", "books.example:80"]
    );
}

const ENTRY: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: books}
spec:
  hosts: [books.example]
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: reviews}}
";

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
    assert_eq!(*explicit, json!({}), "the document's protocol wins");
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

const SIDECAR: &str = "apiVersion: networking.istio.io/v1
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

fn scoped() -> Given {
    let shop = reviews().instance("ratings", 7070, "v1", "10.0.0.3:15006");
    shop.instance("details", 9081, "v1", "10.0.0.4:15006")
        .policy("sidecar.yaml", SIDECAR)
}

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

#[test]
fn the_same_world_gives_the_same_bytes() {
    let versions = |seen: &Seen| {
        let all = ResourceType::ALL
            .into_iter()
            .flat_map(|kind| seen.0.of(kind).iter());
        all.map(|one| (one.name.clone(), one.version.clone()))
            .collect::<Vec<_>>()
    };
    let (one, two) = (scoped().seen_by(&node()), scoped().seen_by(&node()));
    assert_eq!(versions(&one), versions(&two));
}

/// Names that differ between two Worlds of one mesh, by type, and whether a full rebuild agrees.
fn changes(before: &Given, after: &Given) -> Vec<(ResourceType, Vec<String>)> {
    let node = node();
    let own = NodeResources::of(&node);
    let mesh = before.mesh();
    let old = Shared::translate(Arc::new(before.world_with(Arc::clone(&mesh))), None);
    let old_seen = old.snapshot(&node, &own);
    let new = Shared::translate(Arc::new(after.world_with(mesh)), Some(&old));
    let new_seen = new.snapshot(&node, &own);
    assert_eq!(
        Seen(new_seen.clone()).all(),
        after.seen_by(&node).all(),
        "not what it is afresh"
    );
    let of = |kind: ResourceType| {
        let changed = new_seen.of(kind).changed_since(old_seen.of(kind).seen())?;
        let names = changed.iter().map(ToString::to_string).collect::<Vec<_>>();
        (!names.is_empty()).then_some((kind, names))
    };
    ResourceType::ALL.into_iter().filter_map(of).collect()
}

#[test]
fn a_new_endpoint_changes_its_assignment_only() {
    let after = scoped().instance("reviews", 9080, "v1", "10.0.0.6:15006");
    assert_eq!(
        changes(&scoped(), &after),
        [(Endpoint, vec![REVIEWS.to_owned()])]
    );
}

#[test]
fn a_new_identity_changes_the_cluster_too() {
    let before = reviews().plain("ratings", 7070, "v1", "10.0.0.3:7070");
    let after = before
        .clone()
        .instance("ratings", 7070, "v1", "10.0.0.4:15006");
    let ratings = vec!["outbound|7070||ratings.default.svc.cluster.local".to_owned()];
    assert_eq!(
        changes(&before, &after),
        [(Cluster, ratings.clone()), (Endpoint, ratings)]
    );
}

#[test]
fn a_new_service_changes_the_routes_too() {
    let after = reviews().instance("ratings", 7070, "v1", "10.0.0.3:15006");
    let kinds: Vec<_> = changes(&reviews(), &after)
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, [Cluster, Endpoint, Route]);
}

#[test]
fn a_selecting_entry_follows_the_registrations_of_others() {
    let before = reviews().policy("entry.yaml", ENTRY);
    let after = before.clone().without("reviews", "10.0.0.1:15006");
    let names = vec!["outbound|80||books.example".to_owned(), REVIEWS.to_owned()];
    assert_eq!(changes(&before, &after), [(Endpoint, names)]);
}

#[test]
fn nothing_changed_is_nothing_new() {
    assert_eq!(changes(&scoped(), &scoped()), []);
}
