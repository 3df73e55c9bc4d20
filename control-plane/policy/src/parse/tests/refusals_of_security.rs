//! Security documents that are refused, and what is said of them.

use super::{document, errors, one, spec_of};
use crate::{ClauseValue, Spec, TextMatch};

fn rule(rule: &str) -> Vec<String> {
    errors(&document(
        "AuthorizationPolicy",
        &format!("{{rules: [{rule}]}}"),
    ))
}

#[test]
fn what_is_refused_says_what_would_be_right() {
    let table = [
        (
            "{from: []}",
            "spec.rules[0].from: found an empty list, want at least one item",
        ),
        (
            "{from: [{source: {}}]}",
            "spec.rules[0].from[0].source: found nothing in it, which would match everything",
        ),
        (
            "{from: [{source: {principals: []}}]}",
            "spec.rules[0].from[0].source.principals: found an empty list",
        ),
        (
            "{from: [{source: {principal: [a]}}]}",
            "spec.rules[0].from[0].source.principal: unknown field; did you mean \"principals\"?",
        ),
        (
            "{from: [{source: {principals: ['spiffe://cluster.local/ns/a/sa/b']}}]}",
            "a principal is written without spiffe://: write \"cluster.local/ns/a/sa/b\"",
        ),
        (
            "{from: [{source: {serviceAccounts: [web], namespaces: [shop]}}]}",
            "found beside namespaces; only one of them can be",
        ),
        (
            "{from: [{source: {serviceAccounts: ['*']}}]}",
            "a service account has no star",
        ),
        (
            "{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}",
            "want an IP address or a network such as 10.0.0.0/8",
        ),
        (
            "{to: [{operation: {methods: ['G*T']}}]}",
            "write abc*, *abc or *",
        ),
        (
            "{to: [{operation: {paths: [admin]}}]}",
            "matches nothing: a path starts with /; write \"/admin\"",
        ),
        (
            "{to: [{operation: {paths: ['/a{*}/b']}}]}",
            "is no segment of a path template",
        ),
        (
            "{to: [{operation: {ports: ['0']}}]}",
            "want a port from 1 to 65535 in quotes",
        ),
        (
            "{to: [{operation: {ports: [80]}}]}",
            "write \"80\" in quotes",
        ),
        (
            "{when: [{key: source.ipp, values: [a]}]}",
            "did you mean \"source.ip\"?",
        ),
        (
            "{when: [{key: source.ip}]}",
            "spec.rules[0].when[0].values: missing; want",
        ),
        (
            "{when: [{key: 'experimental.envoy.filters.a[b]', values: [a]}]}",
            "not supported yet",
        ),
        (
            "{when: [{key: 'request.headers[:path]', values: [a]}]}",
            "write to[].operation",
        ),
    ];
    for (text, expected) in table {
        let found = rule(text);
        assert!(
            found.iter().any(|one| one.contains(expected)),
            "{text}: {found:?}"
        );
    }
    let table = [
        (
            "AuthorizationPolicy",
            "{action: DENY}",
            "spec.rules: missing; want the rules",
        ),
        (
            "AuthorizationPolicy",
            "{action: CUSTOM, rules: [{}]}",
            "spec.provider: missing; want",
        ),
        (
            "AuthorizationPolicy",
            "{provider: {name: a}}",
            "has no effect without action: CUSTOM",
        ),
        (
            "AuthorizationPolicy",
            "{targetRefs: []}",
            "spec.targetRefs: not supported yet",
        ),
        (
            "AuthorizationPolicy",
            "{action: allow}",
            "did you mean \"ALLOW\"?",
        ),
        (
            "PeerAuthentication",
            "{mtls: {mode: STRICK}}",
            "did you mean \"STRICT\"?",
        ),
        (
            "PeerAuthentication",
            "{portLevelMtls: {80: {mode: STRICT}}}",
            "has no effect without a selector",
        ),
        (
            "PeerAuthentication",
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
            "want a port from 1 to 65535",
        ),
    ];
    for (kind, spec, expected) in table {
        let found = errors(&document(kind, spec));
        assert!(
            found.iter().any(|one| one.contains(expected)),
            "{spec}: {found:?}"
        );
    }
}

#[test]
fn an_annotation_for_dry_runs_is_true_or_false_and_on_a_kind_that_can_be_one() {
    let text = |kind: &str, version: &str, annotation: &str, spec: &str| {
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, annotations: {{{annotation}}}}}\nspec: {spec}\n"
        )
    };
    let security = "security.istio.io/v1";
    let kept = one(&text(
        "PeerAuthentication",
        security,
        "outrigger.dev/dry-run: 'true'",
        "{}",
    ));
    assert!(kept.is_dry_run());
    let refused = [
        text(
            "PeerAuthentication",
            security,
            "istio.io/dry-run: 'true'",
            "{}",
        ),
        text(
            "AuthorizationPolicy",
            security,
            "istio.io/dry-run: 'yes'",
            "{}",
        ),
        text(
            "DestinationRule",
            "networking.istio.io/v1",
            "outrigger.dev/dry-run: 'true'",
            "{host: a}",
        ),
    ];
    for text in refused {
        assert!(!errors(&text).is_empty(), "{text}");
    }
}

#[test]
fn values_are_exact_or_have_a_star_at_one_end() {
    let text = "{rules: [{to: [{operation: {paths: [/a, /a/*, '*/b', '*', '/u/{*}/o/{**}']}}]}]}";
    let policy = spec_of!(
        AuthorizationPolicy,
        one(&document("AuthorizationPolicy", text))
    );
    let values = policy.rules[0].to[0][0].values.iter();
    let values: Vec<ClauseValue> = values.map(|value| value.value.clone()).collect();
    let text = |text| ClauseValue::Text(text);
    assert_eq!(
        values,
        [
            text(TextMatch::Exact("/a".to_owned())),
            text(TextMatch::Prefix("/a/".to_owned())),
            text(TextMatch::Suffix("/b".to_owned())),
            text(TextMatch::Present),
            ClauseValue::Template("/u/*/o/**".to_owned()),
        ]
    );
}
