//! The dialect of gRPC libraries: what they get, what is withheld, and what is said about it.

use super::*;
use crate::translate::{Dialect, grpc::Credentials};

const TABLE: &str = "reviews.default.svc.cluster.local:9080";

fn library(credentials: Credentials) -> NodeInfo {
    NodeInfo {
        dialect: Dialect::Grpc(credentials),
        http_proxy: None,
        ..node()
    }
}

fn plain() -> Given {
    Given::default()
        .plain("reviews", 9080, "v1", "10.0.0.1:9080")
        .plain("reviews", 9080, "v2", "10.0.0.2:9080")
}

fn seen(given: &Given) -> Seen {
    given.seen_by(&library(Credentials::None))
}

/// Rules for `reviews`, from line 7.
fn rules(http: &str) -> Given {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n  \
         hosts: [reviews]\n  http:\n{http}"
    );
    plain().policy("f.yaml", &yaml)
}

fn policy(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\nspec:\n  \
         host: reviews\n  trafficPolicy: {policy}\n"
    )
}

fn routes(given: &Given) -> Vec<Value> {
    seen(given).routes(TABLE, TABLE)
}

fn notes(seen: &Seen, kind: ResourceType, name: &str) -> String {
    seen.0.of(kind).notes(name).join("; ")
}

#[test]
fn every_way_to_write_a_host_has_a_listener_that_leads_to_its_port() {
    let seen = seen(&plain());
    for name in [
        "reviews",
        "reviews:9080",
        "Reviews:9080",
        "reviews.default",
        "reviews.default.svc:9080",
        "reviews.default.svc.cluster.local",
        TABLE,
    ] {
        let listener = seen.json(Listener, name);
        assert_eq!(listener["name"], name);
        let manager = &listener["apiListener"]["apiListener"];
        assert_eq!(manager["rds"]["routeConfigName"], TABLE, "{name}");
        let filters = manager["httpFilters"].as_array().unwrap();
        let filters: Vec<_> = filters
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            filters,
            ["envoy.filters.http.fault", "envoy.filters.http.router"]
        );
        assert!(
            listener.get("address").is_none(),
            "there is nothing to bind"
        );
    }
    assert_eq!(seen.0.of(Listener).get("nobody:9080"), None);
    assert_eq!(seen.0.of(Listener).get("reviews:80"), None);
}

#[test]
fn a_table_takes_every_authority_and_ends_with_a_route_that_fails() {
    let host = &seen(&plain()).json(Route, TABLE)["virtualHosts"][0];
    assert_eq!(host["domains"], json!(["*"]));
    let routes = host["routes"].as_array().unwrap();
    assert_eq!(routes[0]["route"]["cluster"], REVIEWS);
    assert_eq!(
        routes[0]["route"].get("retryPolicy"),
        None,
        "gRPC repeats what is unsent itself"
    );
    let fault = &routes[1]["typedPerFilterConfig"]["envoy.filters.http.fault"];
    assert_eq!(fault["abort"]["grpcStatus"], 12);
}

#[test]
fn timeouts_and_retries_are_said_in_grpcs_words() {
    let given = rules(
        "  - timeout: 2s\n    retries: {attempts: 3, perTryTimeout: 1s, retryOn: 'gateway-error,cancelled'}\n    \
         route: [{destination: {host: reviews}}]\n",
    );
    let action = &routes(&given)[0]["route"];
    assert_eq!(action["maxStreamDuration"]["maxStreamDuration"], "2s");
    assert_eq!(action.get("timeout"), None);
    assert_eq!(action["retryPolicy"]["retryOn"], "cancelled,unavailable");
    assert_eq!(action["retryPolicy"]["numRetries"], 3);
    let none = rules("  - retries: {attempts: 0}\n    route: [{destination: {host: reviews}}]\n");
    assert_eq!(
        routes(&none)[0]["route"].get("retryPolicy"),
        None,
        "0 is refused by gRPC"
    );
    let notes = notes(&seen(&given), Route, TABLE);
    assert!(
        notes.starts_with("f.yaml:7:") && notes.contains("perTryTimeout"),
        "{notes}"
    );
}

#[test]
fn rules_that_cannot_hold_for_a_call_are_left_out() {
    let given = rules(
        "  - match: [{method: {exact: GET}}]\n    route: [{destination: {host: reviews}}]\n  \
         - match: [{queryParams: {a: {exact: b}}}]\n    route: [{destination: {host: reviews}}]\n  \
         - match: [{authority: {exact: a}}]\n    route: [{destination: {host: reviews}}]\n  \
         - name: kept\n    match: [{method: {regex: 'P.*'}, scheme: {exact: http}}]\n    \
         route: [{destination: {host: reviews}}]\n",
    );
    let routes = routes(&given);
    let names: Vec<_> = routes
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["kept", "none"]);
    assert_eq!(routes[0]["match"], json!({ "prefix": "/" }));
    assert!(notes(&seen(&given), Route, TABLE).contains("match.authority"));
}

#[test]
fn a_header_that_is_not_or_is_otherwise_takes_two_routes() {
    let given = rules(
        "  - match: [{withoutHeaders: {a: {exact: b}}}]\n    route: [{destination: {host: reviews}}]\n",
    );
    let routes = routes(&given);
    let headers: Vec<_> = routes
        .iter()
        .map(|one| &one["match"]["headers"][0])
        .collect();
    let missing = json!({ "name": "a", "presentMatch": true, "invertMatch": true });
    let other = json!({ "name": "a", "stringMatch": { "exact": "b" }, "invertMatch": true });
    assert_eq!(headers[..2], [&missing, &other]);
}

#[test]
fn answers_of_the_proxys_own_fail_the_call() {
    let given = rules(
        "  - match: [{uri: {prefix: /a}}]\n    directResponse: {status: 403}\n  \
         - match: [{uri: {prefix: /b}}]\n    directResponse: {status: 200}\n  \
         - redirect: {authority: b.example}\n",
    );
    let routes = routes(&given);
    let abort = |at: usize| {
        let fault = &routes[at]["typedPerFilterConfig"]["envoy.filters.http.fault"];
        assert_eq!(
            routes[at]["route"]["cluster"], REVIEWS,
            "grpc-js refuses a route without"
        );
        fault["abort"].clone()
    };
    assert_eq!(abort(0)["httpStatus"], 403);
    assert_eq!(abort(1)["grpcStatus"], 12);
    assert_eq!(abort(2)["grpcStatus"], 12);
}

#[test]
fn balancers_become_what_grpc_has() {
    let balancer = |policy: &str| {
        let policy = self::policy(&format!("{{loadBalancer: {policy}}}"));
        let seen = seen(&plain().policy("f.yaml", &policy));
        let cluster = seen.json(Cluster, REVIEWS);
        let policy = cluster.get("lbPolicy").cloned();
        (
            policy,
            cluster["ringHashLbConfig"].clone(),
            notes(&seen, Cluster, REVIEWS),
        )
    };
    // ROUND_ROBIN is 0 and so not written.
    assert_eq!(balancer("{simple: LEAST_REQUEST}").0, None);
    let (policy, _, note) = balancer("{simple: RANDOM}");
    assert_eq!(policy, None);
    assert!(
        note.contains("f.yaml:") && note.contains("takes turns"),
        "{note}"
    );
    let (policy, ring, note) = balancer("{consistentHash: {httpHeaderName: a}}");
    assert_eq!((policy, note.as_str()), (Some(json!("RING_HASH")), ""));
    assert_eq!(ring["minimumRingSize"], "1024");
    let (policy, _, note) = balancer("{consistentHash: {httpHeaderName: a, maglev: {}}}");
    assert_eq!(policy, Some(json!("RING_HASH")));
    assert!(note.contains("maglev"), "{note}");
}

#[test]
fn failures_in_a_row_become_a_share_of_failures() {
    let policy = policy("{outlierDetection: {consecutive5xxErrors: 7, interval: 3s}}");
    let cluster = seen(&plain().policy("f.yaml", &policy)).json(Cluster, REVIEWS);
    let outlier = &cluster["outlierDetection"];
    assert_eq!(outlier["failurePercentageRequestVolume"], 7);
    assert_eq!(outlier["enforcingFailurePercentage"], 100);
    assert_eq!(
        outlier["enforcingSuccessRate"], 0,
        "or grpc-js ends its process"
    );
    assert_eq!(outlier.get("consecutive5xx"), None);
}

#[test]
fn who_has_no_certificates_gets_endpoints_without_mtls_only() {
    let mixed = plain().instance("reviews", 9080, "v3", "10.0.0.3:15006");
    let seen = seen(&mixed);
    assert_eq!(seen.endpoints(REVIEWS), ["10.0.0.1:9080", "10.0.0.2:9080"]);
    let note = notes(&seen, Endpoint, REVIEWS);
    assert!(note.starts_with("1 endpoints are left out"), "{note}");
    let cluster = seen.json(Cluster, REVIEWS);
    assert_eq!(
        cluster.get("transportSocketMatches"),
        None,
        "gRPC refuses it"
    );
    assert_eq!(cluster.get("transportSocket"), None);
}

#[test]
fn who_has_certificates_calls_the_services_identities_only() {
    let mixed = plain().instance("reviews", 9080, "v3", "10.0.0.3:15006");
    let seen = mixed.seen_by(&library(Credentials::Provider));
    assert_eq!(seen.endpoints(REVIEWS), ["10.0.0.3:15006"]);
    let cluster = seen.json(Cluster, REVIEWS);
    let common = &cluster["transportSocket"]["typedConfig"]["commonTlsContext"];
    assert_eq!(
        common["tlsCertificateProviderInstance"]["instanceName"],
        "default"
    );
    let validation = &common["validationContext"];
    assert_eq!(
        validation["caCertificateProviderInstance"]["instanceName"],
        "default"
    );
    let names = validation["matchSubjectAltNames"].as_array().unwrap();
    assert_eq!(
        names,
        &[json!({ "exact": "spiffe://cluster.local/ns/default/sa/reviews" })]
    );
    // A service without any is called in plain text.
    let seen = plain().seen_by(&library(Credentials::Provider));
    assert_eq!(seen.endpoints(REVIEWS).len(), 2);
    assert_eq!(seen.json(Cluster, REVIEWS).get("transportSocket"), None);
}

#[test]
fn a_subset_without_mtls_is_called_in_plain_text_and_the_others_are_not() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews}\nspec:\n  \
        host: reviews\n  subsets: [{name: v1, labels: {version: v1}}, {name: v3, labels: {version: v3}}]\n";
    let given = plain()
        .instance("reviews", 9080, "v3", "10.0.0.3:15006")
        .policy("f.yaml", rule);
    let library = library(Credentials::Provider);
    let subset = |name: &str| REVIEWS.replace("||", &format!("|{name}|"));
    let socket =
        |seen: &Seen, name: &str| seen.json(Cluster, name).get("transportSocket").is_some();
    let seen = given.seen_by(&library);
    assert_eq!(seen.endpoints(&subset("v1")), ["10.0.0.1:9080"]);
    assert!(!socket(&seen, &subset("v1")));
    assert_eq!(seen.endpoints(&subset("v3")), ["10.0.0.3:15006"]);
    assert!(socket(&seen, &subset("v3")));
    assert!(socket(&seen, REVIEWS), "a mixed one keeps those with mTLS");
    assert!(notes(&seen, Endpoint, REVIEWS).contains("2 endpoints are left out"));

    let given = given.instance("reviews", 9080, "v1", "10.0.0.4:15006");
    let seen = given.seen_by(&library);
    assert_eq!(seen.endpoints(&subset("v1")), ["10.0.0.4:15006"]);
    assert!(socket(&seen, &subset("v1")));
}

#[test]
fn a_cluster_that_would_be_refused_is_withheld_and_the_reason_shown() {
    for (tls, reason) in [
        ("ISTIO_MUTUAL", "no certificate provider"),
        ("SIMPLE", "outside of the mesh"),
    ] {
        let given = plain().policy("f.yaml", &policy(&format!("{{tls: {{mode: {tls}}}}}")));
        let seen = seen(&given);
        assert_eq!(seen.0.of(Cluster).get(REVIEWS), None, "{tls}");
        let note = notes(&seen, Cluster, REVIEWS);
        assert!(note.contains("withheld") && note.contains(reason), "{note}");
    }
}

#[test]
fn a_server_with_certificates_takes_calls_of_the_mesh_only() {
    let name = "xds.istio.io/grpc/lds/inbound/127.0.0.1:50051";
    let secure = plain().seen_by(&library(Credentials::Provider));
    let listener = secure.json(Listener, name);
    assert_eq!(listener["address"]["socketAddress"]["portValue"], 50051);
    let chain = &listener["filterChains"][0];
    let context = &chain["transportSocket"]["typedConfig"];
    assert_eq!(context["requireClientCertificate"], true);
    let trust = &context["commonTlsContext"]["validationContext"];
    assert_eq!(
        trust["caCertificateProviderInstance"]["instanceName"],
        "default"
    );
    let manager = &chain["filters"][0]["typedConfig"];
    let route = &manager["routeConfig"]["virtualHosts"][0]["routes"][0];
    assert!(route["nonForwardingAction"].is_object(), "{route}");
    let open = &seen(&plain()).json(Listener, name)["filterChains"][0];
    assert_eq!(open.get("transportSocket"), None);
}

#[test]
fn libraries_share_bytes_and_keep_what_has_not_changed() {
    let given = rules("  - route: [{destination: {host: reviews}}]\n");
    let before = given.shared();
    let node = library(Credentials::None);
    let own = NodeResources::of(&node);
    let all = |shared: &Shared| {
        let seen = shared.snapshot(&node, &own);
        [
            seen.listeners.get("reviews:9080").unwrap(),
            seen.routes.get(TABLE).unwrap(),
            seen.clusters.get(REVIEWS).unwrap(),
            seen.endpoints.get(REVIEWS).unwrap(),
        ]
    };
    let (first, second) = (all(&before), all(&before));
    for (one, other) in first.iter().zip(&second) {
        assert!(Arc::ptr_eq(one, other), "{}", one.name);
    }
    let more = given.plain("ratings", 80, "v1", "10.0.0.9:80");
    let after = Shared::translate(Arc::new(more.world()), Some(&before));
    for (one, other) in first.iter().zip(&all(&after)) {
        assert_eq!(one.version, other.version, "{}", one.name);
    }
}

#[test]
fn a_servers_access_rules_are_not_enforced_and_it_is_said_so() {
    let given = Given::default().policy(
        "who.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: readers}\n\
         spec: {selector: {matchLabels: {app: frontend}}, rules: [{}]}\n",
    );
    let server = NodeInfo {
        dialect: Dialect::Grpc(Credentials::Provider),
        ..node()
    };
    let found = given.shared().unenforced(&server);
    let [(document, note)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(&**document, "AuthorizationPolicy default/readers");
    assert!(note.starts_with("who.yaml:1:1: not enforced"), "{note}");
    assert_eq!(given.shared().unenforced(&node()), []);
}
