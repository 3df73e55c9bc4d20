//! What one client sees: which rule holds for it, and which of a VirtualService's matches it can meet.

use super::{labels, name, world};
use crate::{Balancer, Client, HostName, Mesh, TrafficPolicy};

/// Which balancer a client of `namespace` with `pairs` as labels has towards `host`.
fn balancer(mesh: &Mesh, host: &HostName, namespace: &str, pairs: &[(&str, &str)]) -> String {
    let labels = labels(pairs);
    let client = Client {
        namespace,
        labels: &labels,
    };
    let policy = mesh.traffic_policy_for(host, None, 80, client);
    drawn(&policy)
}

fn drawn(policy: &TrafficPolicy) -> String {
    match policy.load_balancer.as_ref().map(|at| &at.value.algorithm) {
        None => "none".to_owned(),
        Some(Balancer::Random) => "random".to_owned(),
        Some(Balancer::RoundRobin) => "round robin".to_owned(),
        Some(other) => format!("{other:?}"),
    }
}

fn rule(rest: &str, balancer: &str) -> String {
    format!(
        "{{host: a.shop.svc.cluster.local, trafficPolicy: {{loadBalancer: {{simple: {balancer}}}}}{rest}}}"
    )
}

#[test]
fn the_clients_namespace_then_the_services_then_any_other_decides() {
    let world = world()
        .registered(&["a"])
        .apply("1", "DestinationRule", "shop/a", &rule("", "RANDOM"))
        .apply("2", "DestinationRule", "web/a", &rule("", "ROUND_ROBIN"))
        .apply(
            "3",
            "DestinationRule",
            "bank/a",
            &rule(", exportTo: [x]", "RANDOM"),
        );
    let (mesh, found) = world.build();
    assert!(
        found.iter().all(|each| each.starts_with("Warning")),
        "{found:#?}"
    );
    let host = name("a");
    assert_eq!(balancer(&mesh, &host, "web", &[]), "round robin");
    assert_eq!(balancer(&mesh, &host, "shop", &[]), "random");
    assert_eq!(
        balancer(&mesh, &host, "third", &[]),
        "random",
        "the service's"
    );
    assert_eq!(
        balancer(&mesh, &host, "bank", &[]),
        "random",
        "its own is not for itself"
    );
}

#[test]
fn a_rule_of_a_third_namespace_is_for_its_own_calls() {
    let world = world()
        .registered(&["a"])
        .apply("1", "DestinationRule", "ops/a", &rule("", "RANDOM"))
        .apply(
            "2",
            "DestinationRule",
            "qa/a",
            &rule(", exportTo: [web]", "ROUND_ROBIN"),
        );
    let mesh = world.build().0;
    let host = name("a");
    assert_eq!(balancer(&mesh, &host, "ops", &[]), "random");
    for other in ["web", "third", "shop"] {
        assert_eq!(balancer(&mesh, &host, other, &[]), "none", "{other}");
    }
}

#[test]
fn what_is_not_exported_to_a_client_is_not_for_it() {
    let world = world()
        .registered(&["a"])
        .apply(
            "1",
            "DestinationRule",
            "shop/a",
            &rule(", exportTo: ['.']", "RANDOM"),
        )
        .apply(
            "2",
            "DestinationRule",
            "shop/b",
            &rule(", exportTo: [web, ops]", "ROUND_ROBIN"),
        )
        .apply(
            "3",
            "DestinationRule",
            "shop/c",
            &rule(", exportTo: ['~']", "ROUND_ROBIN"),
        );
    let mesh = world.mesh();
    let host = name("a");
    for (namespace, expected) in [
        ("shop", "random"),
        ("web", "round robin"),
        ("ops", "round robin"),
        ("third", "none"),
    ] {
        assert_eq!(
            balancer(&mesh, &host, namespace, &[]),
            expected,
            "{namespace}"
        );
    }
}

#[test]
fn rules_that_no_client_sees_together_do_not_contradict_each_other() {
    let two = |exports: [&str; 2]| {
        world()
            .registered(&["a"])
            .apply(
                "1",
                "DestinationRule",
                "a",
                &rule(&format!(", exportTo: [{}]", exports[0]), "RANDOM"),
            )
            .apply(
                "2",
                "DestinationRule",
                "b",
                &rule(&format!(", exportTo: [{}]", exports[1]), "RANDOM"),
            )
            .diagnostics()
    };
    assert_eq!(two(["p, q", "r"]), Vec::<String>::new());
    assert_eq!(
        two(["p, q", "q, r"]),
        [
            "Error 2:4:70: spec.trafficPolicy: a.shop.svc.cluster.local has a traffic policy already, in \
             DestinationRule shop/a (1:1:1); keep one of them"
        ]
    );
    assert_eq!(two(["x", "'*'"]).len(), 1);
}

#[test]
fn a_rule_that_selects_a_workload_beats_one_that_does_not() {
    let select = |label: &str| format!(", workloadSelector: {{matchLabels: {{{label}}}}}");
    let world = world()
        .registered(&["a"])
        .apply("1", "DestinationRule", "all", &rule("", "RANDOM"))
        .apply(
            "2",
            "DestinationRule",
            "one",
            &rule(&select("app: web"), "ROUND_ROBIN"),
        );
    let mesh = world.mesh();
    let host = name("a");
    assert_eq!(
        balancer(&mesh, &host, "shop", &[("app", "web")]),
        "round robin"
    );
    assert_eq!(balancer(&mesh, &host, "shop", &[("app", "x")]), "random");
    let elsewhere = balancer(&mesh, &host, "other", &[("app", "web")]);
    assert_eq!(elsewhere, "random", "it selects in its own namespace alone");
    let selectors = mesh.client_selectors();
    let expected = (Some("shop".to_owned()), labels(&[("app", "web")]));
    assert_eq!(selectors.into_iter().collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_subset_that_a_client_lacks_is_refused() {
    let world = world()
        .registered(&["a"])
        .apply(
            "dr",
            "DestinationRule",
            "a",
            "{host: a, exportTo: ['.'], subsets: [{name: v1}]}",
        )
        .apply(
            "vs",
            "VirtualService",
            "web/a",
            "{hosts: [a.shop.svc.cluster.local], exportTo: [web, shop], http: [{route: [{destination: {host: \
             a.shop.svc.cluster.local, subset: v1}}]}]}",
        );
    assert_eq!(
        world.diagnostics(),
        [
            "Error vs:4:137: spec.http[0].route[0].destination.subset: clients of web have no subset \"v1\" of \
             a.shop.svc.cluster.local: no DestinationRule that they see defines it; look at its exportTo, or define it \
             in web"
        ]
    );
}

#[test]
fn a_subset_that_another_namespaces_own_rule_lacks_is_remarked_upon() {
    let world = world()
        .registered(&["a"])
        .apply(
            "1",
            "DestinationRule",
            "a",
            "{host: a, subsets: [{name: v1}]}",
        )
        .apply(
            "2",
            "DestinationRule",
            "web/a",
            "{host: a.shop.svc.cluster.local}",
        )
        .apply(
            "vs",
            "VirtualService",
            "a",
            "{hosts: [a], http: [{route: [{destination: {host: a, subset: v1}}]}]}",
        );
    assert_eq!(
        world.diagnostics(),
        [
            "Warning vs:4:68: spec.http[0].route[0].destination.subset: clients of web have no subset \"v1\" of \
             a.shop.svc.cluster.local: a DestinationRule of web holds for them and does not define it; define it there \
             too, or leave web out of exportTo"
        ]
    );
}

#[test]
fn what_a_port_says_takes_the_place_of_the_rest() {
    let world = world().registered(&["a"]).apply(
        "dr",
        "DestinationRule",
        "a",
        "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}, retryBudget: {percent: 5}, outlierDetection: {}, \
         portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: ROUND_ROBIN}}]}, subsets: [{name: v1, \
         trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}}, {name: v2, trafficPolicy: {portLevelSettings: \
         [{port: {number: 82}, loadBalancer: {simple: ROUND_ROBIN}}]}}]}",
    );
    let mesh = world.mesh();
    let (host, none) = (name("a"), labels(&[]));
    let client = Client {
        namespace: "shop",
        labels: &none,
    };
    for (subset, port, expected, ejects) in [
        (None, 80, "random", true),
        (None, 81, "round robin", false),
        (Some("v1"), 80, "LeastRequest", true),
        (Some("v1"), 81, "LeastRequest", false),
        (Some("v2"), 80, "random", true),
        (Some("v2"), 81, "round robin", false),
        (Some("v2"), 82, "round robin", false),
    ] {
        let policy = mesh.traffic_policy_for(&host, subset, port, client);
        assert_eq!(drawn(&policy), expected, "{subset:?} {port}");
        assert_eq!(
            policy.outlier_detection.is_some(),
            ejects,
            "{subset:?} {port}"
        );
        assert!(policy.retry_budget.is_some(), "the same for all ports");
        assert!(policy.ports.is_empty());
    }
}

#[test]
fn a_virtual_service_is_seen_as_far_as_it_is_for_a_client() {
    let rule = |name: &str, ask: &str| {
        format!(
            "{{name: {name}, match: [{{uri: {{prefix: /{name}}}{ask}}}], route: [{{destination: {{host: a}}}}]}}"
        )
    };
    let spec = |export: &str, rules: &[String]| {
        format!(
            "{{hosts: [a], exportTo: [{export}], http: [{}]}}",
            rules.join(", ")
        )
    };
    let first = [
        rule("canary", ", sourceLabels: {track: canary}"),
        rule("web", ", sourceNamespace: web"),
        rule("all", ""),
    ];
    let world = world()
        .registered(&["a"])
        .apply("1", "VirtualService", "a", &spec("'*'", &first))
        .apply(
            "2",
            "VirtualService",
            "b",
            &spec("'.'", &[rule("shop", "")]),
        );
    let mesh = world.mesh();
    let seen = |namespace: &str, pairs: &[(&str, &str)]| {
        let labels = labels(pairs);
        let client = Client {
            namespace,
            labels: &labels,
        };
        let merged = mesh.virtual_service_for(&name("a"), client).expect("some");
        let asks = |rule: &crate::HttpRoute| {
            let mut matches = rule.matches.iter();
            matches.any(|each| each.source_namespace.is_some() || !each.source_labels.is_empty())
        };
        assert!(
            !merged.http.iter().any(|(_, rule)| asks(rule)),
            "nothing is left to ask"
        );
        let names = merged
            .http
            .iter()
            .map(|(_, rule)| rule.name.clone().expect("a name"));
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(seen("shop", &[]), "all shop");
    assert_eq!(seen("shop", &[("track", "canary")]), "canary all shop");
    assert_eq!(seen("web", &[]), "web all");
    let selectors: Vec<_> = mesh.client_selectors().into_iter().collect();
    assert_eq!(selectors, [(None, labels(&[("track", "canary")]))]);
}

#[test]
fn a_host_of_which_a_client_sees_nothing_falls_to_its_wildcard() {
    let spec = |host: &str, export: &str| {
        format!(
            "{{hosts: ['{host}'], exportTo: [{export}], http: [{{route: [{{destination: {{host: b.example.com}}}}]}}]}}"
        )
    };
    let world = world()
        .registered(&["b.example.com"])
        .apply("1", "VirtualService", "own", &spec("b.example.com", "web"))
        .apply("2", "VirtualService", "wild", &spec("*.example.com", "'*'"));
    let mesh = world.mesh();
    let none = labels(&[]);
    let host = |namespace| {
        let client = Client {
            namespace,
            labels: &none,
        };
        mesh.virtual_service_for(&name("b.example.com"), client)
            .map(|merged| merged.host.to_string())
    };
    assert_eq!(host("web").as_deref(), Some("b.example.com"));
    assert_eq!(host("shop").as_deref(), Some("*.example.com"));
}

#[test]
fn a_subsets_own_policy_beats_the_hosts() {
    let policy = |subset: &str| format!("{{host: a{subset}, zoneAware: {{}}}}");
    let world = world()
        .registered(&["a"])
        .apply(
            "dr",
            "DestinationRule",
            "a",
            "{host: a, subsets: [{name: v1}, {name: v2}]}",
        )
        .apply("1", "DestinationPolicy", "host", &policy(""))
        .apply("2", "DestinationPolicy", "v1", &policy(", subset: v1"));
    let mesh = world.mesh();
    let found = |subset| {
        let found = policy_for(&mesh, subset, "web").expect("one");
        found.0.key.name.clone()
    };
    assert_eq!(found(None), "host");
    assert_eq!(found(Some("v1")), "v1");
    assert_eq!(found(Some("v2")), "host");
}

#[test]
fn two_destination_policies_for_one_host_are_refused_naming_both() {
    let world = world()
        .registered(&["a"])
        .apply("1", "DestinationPolicy", "z", "{host: a, zoneAware: {}}")
        .apply(
            "2",
            "DestinationPolicy",
            "a",
            "{host: a.shop, zoneAware: {}}",
        )
        .apply(
            "3",
            "DestinationPolicy",
            "b",
            "{host: a, subset: v1, zoneAware: {}}",
        );
    let (mesh, diagnostics) = world.build();
    assert_eq!(
        diagnostics,
        [
            "Error 2:4:14: spec.host: a.shop.svc.cluster.local has a DestinationPolicy already, DestinationPolicy \
             shop/z (1:1:1); put both into one document",
            "Error 3:4:25: spec.subset: unknown subset \"v1\": no DestinationRule defines subsets of \
             a.shop.svc.cluster.local; apply one together with this document",
        ]
    );
    let kept = policy_for(&mesh, None, "shop").expect("one");
    assert_eq!(kept.0.key.name, "z", "the older one stays in force");
}

/// Which DestinationPolicy clients of `namespace` have towards `a`.
fn policy_for<'m>(
    mesh: &'m Mesh,
    subset: Option<&str>,
    namespace: &str,
) -> Option<&'m (std::sync::Arc<crate::Object>, crate::DestinationPolicy)> {
    let labels = labels(&[]);
    let client = Client {
        namespace,
        labels: &labels,
    };
    mesh.destination_policy_for(&name("a"), subset, client)
}

#[test]
fn a_destination_policy_of_a_third_namespace_is_for_its_own_calls_and_blocks_nobodys() {
    let spec = "{host: a.shop.svc.cluster.local, zoneAware: {}}";
    let hashed = "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}";
    let world = world()
        .registered(&["a"])
        .apply(
            "1",
            "DestinationPolicy",
            "aaa/theirs",
            "{host: a.shop, balancer: {peakEwma: {}}}",
        )
        .apply("2", "DestinationPolicy", "shop/ours", spec)
        .apply("3", "DestinationRule", "shop/ours", hashed);
    let (mesh, found) = world.build();
    assert_eq!(
        found,
        [
            "Warning 1:4:32: spec.balancer: has no effect: DestinationRule shop/ours (3:1:1) hashes requests to \
             a.shop.svc.cluster.local consistently"
        ]
    );
    for (client, expected) in [("aaa", "theirs"), ("shop", "ours"), ("zzz", "ours")] {
        let held = policy_for(&mesh, None, client).expect(client);
        assert_eq!(held.0.key.name, expected, "{client}");
    }
}

const TO_V1: &str =
    "http: [{route: [{destination: {host: a.shop.svc.cluster.local, subset: v1}}]}]";

#[test]
fn a_rule_for_all_that_leads_to_a_subset_of_few_is_remarked_upon() {
    let found = |namespace: &str, rule: &str, service: &str| {
        let subsets = format!("{{host: a.shop.svc.cluster.local, subsets: [{{name: v1}}]{rule}}}");
        let service = format!("{{hosts: [a.shop.svc.cluster.local], {TO_V1}{service}}}");
        let world = world()
            .registered(&["a"])
            .apply("r", "DestinationRule", &format!("{namespace}/r"), &subsets)
            .apply("s", "VirtualService", &format!("{namespace}/s"), &service);
        world.diagnostics()
    };
    let none: [&str; 0] = [];
    assert_eq!(found("shop", "", ""), none);
    assert_eq!(
        found("shop", ", exportTo: ['.']", ", exportTo: ['.']"),
        none
    );
    for (namespace, rule) in [("shop", ", exportTo: ['.']"), ("web", "")] {
        let found = found(namespace, rule, "");
        assert!(
            found[0].starts_with("Warning s:")
                && found[0].contains(&format!(
                    "other namespaces than {namespace} have no subset \"v1\""
                )),
            "{found:#?}"
        );
    }
}

#[test]
fn a_delegates_callers_are_those_of_the_document_that_delegates() {
    let diagnostics = |root: &str| {
        let subsets = "{host: a, exportTo: ['.'], subsets: [{name: v1}]}";
        let root = format!(
            "{{hosts: [a.shop.svc.cluster.local], exportTo: [{root}], http: [{{delegate: {{name: d, namespace: shop}}}}]}}"
        );
        let world = world()
            .registered(&["a"])
            .apply("r", "DestinationRule", "r", subsets)
            .apply(
                "d",
                "VirtualService",
                "d",
                &format!("{{exportTo: [gw], {TO_V1}}}"),
            )
            .apply("g", "VirtualService", "gw/root", &root);
        world.diagnostics()
    };
    assert_eq!(diagnostics("shop"), Vec::<String>::new());
    let refused = diagnostics("gw");
    assert!(
        refused[0].starts_with("Error d:") && refused[0].contains("clients of gw have no subset"),
        "{refused:#?}"
    );
}
