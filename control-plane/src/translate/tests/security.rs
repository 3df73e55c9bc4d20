//! Who may call a workload: its listener, and the endpoints that callers see.

use std::collections::BTreeMap;

use super::*;
use outrigger_policy::Protocol;

fn server(protocol: Protocol) -> NodeInfo {
    NodeInfo {
        inbound: Some(Inbound {
            proxy_protocol: None,
            listen: "0.0.0.0:15006".parse().unwrap(),
            app: "127.0.0.1:9080".parse().unwrap(),
            port: 9080,
            protocol,
        }),
        labels: BTreeMap::from([("app".to_owned(), "reviews".to_owned())]),
        ..node()
    }
}

fn rules(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn peers(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: peers}}\nspec: {spec}\n"
    )
}

fn listener(given: &Given, protocol: Protocol) -> Value {
    given
        .seen_by(&server(protocol))
        .json(Listener, "virtualInbound")
}

fn filters(chain: &Value) -> Vec<Value> {
    let filters = chain["filters"].as_array().unwrap();
    match filters[0]["typedConfig"]["httpFilters"].as_array() {
        Some(filters) => filters.clone(),
        None => filters.clone(),
    }
}

fn names(filters: &[Value]) -> Vec<&str> {
    let names = filters
        .iter()
        .map(|filter| filter["name"].as_str().unwrap());
    names.collect()
}

#[test]
fn without_documents_a_port_is_strict_and_asks_for_nothing_more() {
    let listener = listener(&Given::default(), Protocol::Http);
    let chains = listener["filterChains"].as_array().unwrap();
    assert_eq!(chains.len(), 1);
    assert!(chains[0]["transportSocket"].is_object());
    assert_eq!(names(&filters(&chains[0])), ["envoy.filters.http.router"]);
    assert!(listener["metadata"].is_null() && chains[0]["metadata"].is_null());
}

#[test]
fn rules_are_asked_in_the_order_audit_deny_allow_and_say_where_they_stand() {
    let given = Given::default()
        .policy(
            "a.yaml",
            &rules("a", "{rules: [{from: [{source: {namespaces: [shop]}}]}]}"),
        )
        .policy(
            "b.yaml",
            &rules(
                "b",
                "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
            ),
        )
        .policy("c.yaml", &rules("c", "{action: AUDIT, rules: [{}]}"))
        .policy(
            "d.yaml",
            &rules(
                "d",
                "{selector: {matchLabels: {app: other}}, action: DENY, rules: [{}]}",
            ),
        );
    let listener = listener(&given, Protocol::Http);
    let chain = &listener["filterChains"][0];
    assert_eq!(
        names(&filters(chain)),
        [
            "envoy.filters.http.rbac.audit",
            "envoy.filters.http.rbac.deny",
            "envoy.filters.http.rbac.allow",
            "envoy.filters.http.router"
        ]
    );
    let positions = &chain["metadata"]["filterMetadata"]["outrigger"]["policies"];
    let positions = positions.as_object().unwrap();
    assert_eq!(positions.len(), 3, "not of other workloads: {positions:?}");
    assert_eq!(positions["ns[default]-policy[a]-rule[0]"], "a.yaml:4:16");
}

#[test]
fn a_dry_run_is_in_no_rules_but_those_that_are_counted() {
    let tried = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {name: tried, annotations: {istio.io/dry-run: 'true'}}\nspec: {}\n";
    let given = Given::default()
        .policy("a.yaml", &rules("a", "{rules: [{}]}"))
        .policy("t.yaml", tried);
    let listener = listener(&given, Protocol::Http);
    let allow = &filters(&listener["filterChains"][0])[0]["typedConfig"];
    let count = |part: &str| allow[part]["policies"].as_object().unwrap().len();
    assert_eq!((count("rules"), count("shadowRules")), (1, 2));
    assert_eq!(allow["shadowRulesStatPrefix"], "istio_dry_run_allow_");
}

#[test]
fn of_connections_an_allow_rule_with_a_path_allows_nothing_and_a_deny_rule_loses_it() {
    let spec = |action: &str| {
        format!(
            "{{action: {action}, rules: [{{to: [{{operation: {{paths: [/a], ports: ['9080']}}}}]}}]}}"
        )
    };
    let permissions = |action: &str| {
        let given = Given::default().policy("a.yaml", &rules("a", &spec(action)));
        let listener = listener(&given, Protocol::Tcp);
        let filter = filters(&listener["filterChains"][0])[0].clone();
        let policy = &filter["typedConfig"]["rules"]["policies"]["ns[default]-policy[a]-rule[0]"];
        policy["permissions"].clone()
    };
    assert_eq!(
        permissions("ALLOW"),
        json!([{ "notRule": { "any": true } }])
    );
    assert_eq!(permissions("DENY"), json!([{ "any": true }]));
}

#[test]
fn the_mode_of_a_port_is_in_its_chains_and_in_what_its_callers_are_told() {
    let served = || Given::default().instance("reviews", 9080, "v1", "10.0.0.1:15006");
    let cluster = "outbound|9080||reviews.default.svc.cluster.local";
    let modes = [
        ("STRICT", Protocol::Http, 1, true),
        ("PERMISSIVE", Protocol::Http, 2, true),
        ("PERMISSIVE", Protocol::Tcp, 3, true),
        ("DISABLE", Protocol::Http, 1, false),
    ];
    for (mode, protocol, chains, mtls) in modes {
        let spec = format!(
            "{{selector: {{matchLabels: {{app: reviews}}}}, portLevelMtls: {{9080: {{mode: {mode}}}, 80: {{mode: STRICT}}}}}}"
        );
        let given = served().policy("p.yaml", &peers(&spec));
        let listener = listener(&given, protocol);
        let found = listener["filterChains"].as_array().unwrap();
        assert_eq!(found.len(), chains, "{mode}");
        let secure = found
            .iter()
            .filter(|chain| chain["transportSocket"].is_object());
        assert_eq!(secure.count(), usize::from(mode != "DISABLE"), "{mode}");
        assert_eq!(
            listener["metadata"]["filterMetadata"]["outrigger"]["mtls"]["mode"],
            mode
        );
        let endpoints = given.seen_by(&node()).json(Endpoint, cluster);
        let endpoint = &endpoints["endpoints"][0]["lbEndpoints"][0];
        let socket = &endpoint["metadata"]["filterMetadata"]["envoy.transport_socket_match"];
        assert_eq!(socket.is_object(), mtls, "{mode}");
    }
}

#[test]
fn what_is_for_one_workload_leaves_the_listeners_of_others_as_they_are() {
    let other = NodeInfo {
        labels: BTreeMap::from([("app".to_owned(), "ratings".to_owned())]),
        ..server(Protocol::Http)
    };
    let own = NodeResources::of(&other);
    let before = Given::default().shared();
    let first = before.snapshot(&other, &own);
    let given = Given::default().policy(
        "a.yaml",
        &rules(
            "a",
            "{selector: {matchLabels: {app: reviews}}, rules: [{}]}",
        ),
    );
    let after = Shared::translate(Arc::new(given.world()), Some(&before));
    let second = after.snapshot(&other, &own);
    assert!(Arc::ptr_eq(&first.listeners.own, &second.listeners.own));
}

#[test]
fn slashes_are_merged_where_rules_look_at_paths_and_as_the_setting_says() {
    use crate::config::PathNormalization::{
        Auto, Base, DecodeAndMergeSlashes, MergeSlashes, RejectEscapedSlashes,
    };
    let about_paths = rules(
        "a",
        "{action: DENY, rules: [{to: [{operation: {notPaths: [/public]}}]}]}",
    );
    let about_methods = rules(
        "a",
        "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}",
    );
    for (setting, document, merge, escaped) in [
        (
            Auto,
            &about_methods,
            false,
            "IMPLEMENTATION_SPECIFIC_DEFAULT",
        ),
        (Auto, &about_paths, true, "IMPLEMENTATION_SPECIFIC_DEFAULT"),
        (Base, &about_paths, false, "IMPLEMENTATION_SPECIFIC_DEFAULT"),
        (
            MergeSlashes,
            &about_methods,
            true,
            "IMPLEMENTATION_SPECIFIC_DEFAULT",
        ),
        (
            DecodeAndMergeSlashes,
            &about_methods,
            true,
            "UNESCAPE_AND_FORWARD",
        ),
        (RejectEscapedSlashes, &about_methods, true, "REJECT_REQUEST"),
    ] {
        let given = Given::default()
            .policy("a.yaml", document)
            .normalizing(setting);
        let listener = listener(&given, Protocol::Http);
        let manager = &listener["filterChains"][0]["filters"][0]["typedConfig"];
        let or = |value: &Value, default: Value| match value {
            Value::Null => default,
            said => said.clone(),
        };
        assert_eq!(manager["normalizePath"], true);
        assert_eq!(
            or(&manager["mergeSlashes"], false.into()),
            merge,
            "{setting:?}"
        );
        let found = or(
            &manager["pathWithEscapedSlashesAction"],
            "IMPLEMENTATION_SPECIFIC_DEFAULT".into(),
        );
        assert_eq!(found, escaped, "{setting:?}");
    }
}
