//! Rules that delegate, rules for connections, and VirtualServices that not everybody sees.

use super::{TO_A, name, world};
use crate::{Mesh, StringMatch};

/// `document:rule (matches)` of every rule for `a`.
fn rules(mesh: &Mesh) -> Vec<String> {
    let rules = &mesh.virtual_services[&name("a")].http;
    let drawn = rules.iter().map(|(object, rule)| {
        let matches: Vec<String> = rule.matches.iter().map(drawn).collect();
        let name = rule.name.as_deref().unwrap_or("-");
        format!("{}:{name} {}", object.key.name, matches.join(" | "))
    });
    drawn.collect()
}

fn drawn(each: &crate::HttpMatch) -> String {
    let headers = each
        .headers
        .iter()
        .map(|(name, value)| format!(" {name} {}", text(value)));
    let uri = each.uri.as_ref().map_or_else(|| "any".to_owned(), text);
    format!("{uri}{}", headers.collect::<String>())
}

fn text(found: &StringMatch) -> String {
    match found {
        StringMatch::Exact(text) => format!("={text}"),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Regex(text) => format!("~{text}"),
        StringMatch::Present => "there".to_owned(),
    }
}

const ROOT: &str = "{hosts: [a], http: [{name: api, match: [{uri: {prefix: /api}}, {uri: {exact: /x}, headers: {h: {}}}], \
                    timeout: 5s, retries: {attempts: 1}, mirror: {host: b}, delegate: {name: api, namespace: team}}, {name: rest, route: \
                    [{destination: {host: a}}]}]}";

#[test]
fn a_delegates_rules_take_the_place_of_the_rule_that_names_it() {
    let world = world()
        .registered(&["a", "b"])
        .apply("root", "VirtualService", "root", ROOT)
        .apply(
            "leaf",
            "VirtualService",
            "team/api",
            "{exportTo: [shop], http: [{name: new, match: [{uri: {prefix: /api/v2}, headers: {h: {exact: b}}}], timeout: 0s, \
             route: [{destination: {host: a.shop}}]}, {retries: {attempts: 9}, route: [{destination: {host: a.shop}}]}]}",
        );
    let mesh = world.mesh();
    assert_eq!(
        rules(&mesh),
        [
            "api:api-new /api/v2* h =b",
            "api:api /api* | =/x h there",
            "root:rest ",
        ]
    );
    let merged = &mesh.virtual_services[&name("a")].http;
    assert_eq!(merged[0].1.timeout, None, "undone by 0s");
    let seconds = |n: usize| merged[n].1.timeout.as_ref().map(|at| at.value.as_secs());
    assert_eq!(seconds(1), Some(5), "the delegating rule's");
    let attempts = |n: usize| merged[n].1.retries.as_ref().map(|at| at.value.attempts);
    assert_eq!((attempts(0), attempts(1)), (Some(1), Some(9)));
    let mirror = merged[0].1.mirrors[0].host.value.as_str();
    assert_eq!(
        mirror, "b.shop.svc.cluster.local",
        "of the delegating rule's namespace"
    );
    assert_eq!(merged[0].1.position.to_string(), "leaf:4:33");
    assert!(
        merged[0].1.export_to.includes("anywhere"),
        "seen as the root is"
    );
}

#[test]
fn a_delegate_that_cannot_be_is_refused_naming_both() {
    let root = |rest: &str| {
        format!(
            "{{hosts: [a], http: [{{match: [{{uri: {{prefix: /api}}}}], delegate: {{name: b{rest}}}}}]}}"
        )
    };
    let leaf = |rest: &str| format!("{{{rest} http: [{{{TO_A}}}]}}");
    let found = |leaf: &str| {
        world()
            .registered(&["a"])
            .apply("leaf", "VirtualService", "b", leaf)
            .apply("root", "VirtualService", "root", &root(""))
            .diagnostics()
    };
    assert_eq!(
        world()
            .registered(&["a"])
            .apply("root", "VirtualService", "root", &root("x"))
            .apply("leaf", "VirtualService", "b", &leaf(""))
            .diagnostics(),
        [
            "Error root:4:77: spec.http[0].delegate.name: unknown VirtualService shop/bx; apply it together with this \
             document; did you mean \"b\"?",
            "Warning leaf:1:1: spec.hosts: has no hosts, and no rule delegates to it, so it does nothing; name its \
             hosts, or write delegate in a rule of another document",
        ]
    );
    assert_eq!(
        found(&leaf("hosts: [c],"))[0],
        "Error root:4:77: spec.http[0].delegate.name: VirtualService shop/b (leaf:1:1) has hosts, and a delegate has \
         none; remove them there, or name another"
    );
    assert_eq!(
        found(&leaf("exportTo: [web],")),
        [
            "Error root:4:77: spec.http[0].delegate.name: VirtualService shop/b (leaf:1:1) is not exported to shop; add \
             that namespace to its exportTo"
        ]
    );
    let other = "{http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: a}}]}]}";
    assert_eq!(
        found(other),
        [
            "Error root:4:27: spec.http[0].match: leaves nothing for the rule at leaf:4:15 of VirtualService shop/b \
             (leaf:1:1); make both matches agree"
        ]
    );
    let newer = world()
        .registered(&["a"])
        .apply("root", "VirtualService", "root", &root(""))
        .apply("leaf", "VirtualService", "b", other);
    assert_eq!(
        newer.diagnostics(),
        [
            "Error leaf:4:15: spec.http[0].match: matches nothing that VirtualService shop/root (root:1:1) delegates at \
             root:4:27; make both matches agree"
        ]
    );
}

#[test]
fn catch_alls_that_no_client_sees_together_do_not_contradict_each_other() {
    let all = |export: &str| format!("{{hosts: [a], exportTo: [{export}], http: [{{{TO_A}}}]}}");
    let two = |a: &str, b: &str| {
        world()
            .registered(&["a"])
            .apply("1", "VirtualService", "a", &all(a))
            .apply("2", "VirtualService", "b", &all(b))
            .diagnostics()
    };
    assert_eq!(two("p", "q"), Vec::<String>::new());
    assert_eq!(
        two("p, q", "'*'"),
        [
            "Error 2:4:44: spec.http[0]: takes every request to a.shop.svc.cluster.local, and so does VirtualService \
             shop/a (1:1:1); give one a match, or put both into one document"
        ]
    );
}

#[test]
fn rules_of_connections_merge_as_those_of_requests_do() {
    let to = |rest: &str| format!("{{{rest}route: [{{destination: {{host: a}}}}]}}");
    let tcp = |rest: &str| format!("{{hosts: [a], tcp: [{}]}}", to(rest));
    let world = world()
        .registered(&["a"])
        .apply("1", "VirtualService", "all", &tcp(""))
        .apply("2", "VirtualService", "some", &tcp("match: [{port: 1}], "))
        .apply("3", "VirtualService", "z", &tcp(""));
    let (mesh, diagnostics) = world.build();
    assert_eq!(
        diagnostics,
        [
            "Error 3:4:26: spec.tcp[0]: takes every connection to a.shop.svc.cluster.local, and so does VirtualService \
             shop/all (1:1:1); give one a match, or put both into one document"
        ]
    );
    let order: Vec<&str> = mesh.virtual_services[&name("a")]
        .tcp
        .iter()
        .map(|(object, _)| object.key.name.as_str())
        .collect();
    assert_eq!(order, ["some", "all"], "the one that takes everything last");
}

#[test]
fn a_server_name_that_two_documents_route_is_refused_naming_both() {
    let tls = |ask: &str| {
        format!(
            "{{hosts: [a], tls: [{{match: [{{sniHosts: [a]{ask}}}], route: [{{destination: {{host: a}}}}]}}]}}"
        )
    };
    let two = |ask: &str| {
        world()
            .registered(&["a"])
            .apply("1", "VirtualService", "z", &tls(""))
            .apply("2", "VirtualService", "b", &tls(ask))
            .diagnostics()
    };
    assert_eq!(two(", port: 443"), Vec::<String>::new());
    assert_eq!(
        two(""),
        [
            "Error 2:4:47: spec.tls[0]: \"a\" is routed already, in VirtualService shop/z (1:1:1); keep one of them, or \
             give one a further match"
        ]
    );
}
