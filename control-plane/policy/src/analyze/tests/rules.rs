//! What is found in rules, and what is not: documents, the codes that are looked at, and where they are found.

use super::*;

/// Whole documents of short specs: `VirtualService a: {...}`, one a line.
fn documents(lines: &str) -> String {
    let documents = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    let whole = documents.map(|line| {
        let (head, spec) = line.split_once(": ").expect(line);
        let (kind, name) = head.split_once(' ').expect(head);
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    });
    whole.collect::<Vec<_>>().join("---\n")
}

/// The paths at which `code` is found, with the documents' names.
fn places(lines: &str, code: Code) -> Vec<String> {
    let (_, found) = found_in(&documents(lines), Some(&inventory()));
    assert!(
        found.iter().all(|one| one.severity != Severity::Error),
        "{lines}\n{}",
        drawn(&found)
    );
    let found = found.iter().filter(|one| one.code == code);
    let place = |one: &Diagnostic| {
        let name = one.object.as_ref().map(|key| key.name.as_str());
        format!("{} {}", name.unwrap_or("?"), one.path)
    };
    found.map(place).collect()
}

const TO: &str = "route: [{destination: {host: reviews}}]";

/// A VirtualService `a` of `reviews` with these rules.
fn rules(http: &str) -> String {
    format!("VirtualService a: {{hosts: [reviews], http: [{http}]}}")
}

#[test]
fn a_mistake_is_found_where_it_is_and_only_there() {
    let one = |matches: &str| rules(&format!("{{match: [{matches}], {TO}}}"));
    let ports = |first: &str, second: &str| {
        format!(
            "DestinationRule a: {{host: reviews, trafficPolicy: {{portLevelSettings: [{first}, {second}]}}}}"
        )
    };
    let short = "{port: {number: 9090}, outlierDetection: {interval: 40s, baseEjectionTime: 10s}}";
    let fine = "{port: {number: 8080}, outlierDetection: {interval: 10s}}";
    let ejecting = |percent: u32| {
        format!(
            "DestinationRule a: {{host: ratings, trafficPolicy: {{outlierDetection: {{maxEjectionPercent: {percent}}}}}}}"
        )
    };
    let budget = "DestinationRule a: {host: reviews, trafficPolicy: {retryBudget: {}, portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: RANDOM}}]}}";
    let delegating = |root: &str| {
        format!(
            "VirtualService a: {{hosts: [reviews], http: [{root}]}}\nVirtualService d: {{http: [{{{TO}}}]}}\nVirtualService e: {{http: [{{{TO}}}]}}"
        )
    };
    let two = "{match: [{uri: {prefix: /d/}}], delegate: {name: d}}, {match: [{uri: {prefix: /e/}}], delegate: {name: e}}";
    let nested = "{match: [{uri: {prefix: /a/}}, {uri: {prefix: /a/b/}}], delegate: {name: d}}, {match: [{uri: {prefix: /e/}}], delegate: {name: e}}";
    let retrying = "{match: [{uri: {prefix: /d/}}], retries: {attempts: 9, retryOn: 5xx}, delegate: {name: d}}, {match: [{uri: {prefix: /e/}}], delegate: {name: e}}";
    let redirect =
        |before: &str, found: &str| rules(&format!("{before}{{{found}redirect: {{uri: /app}}}}"));
    let first = format!("{{match: [{{uri: {{prefix: /app}}}}], {TO}}}, ");
    let rewritten =
        |found: &str, uri: &str| rules(&format!("{{{found}rewrite: {{uri: {uri}}}, {TO}}}"));
    let mirrored = |mirror: &str| rules(&format!("{{{mirror}, {TO}}}"));
    let get = "match: [{method: {exact: GET}}]";
    let retried = |method: &str| {
        rules(&format!(
            "{{match: [{{method: {{exact: {method}}}}}], retries: {{attempts: 1, retryOn: 5xx}}, {TO}}}"
        ))
    };
    let wild = "VirtualService w: {hosts: ['*.default.svc.cluster.local'], http: [{match: [{uri: {prefix: /w/}}], route: [{destination: {host: reviews}}]}]}";
    let hidden = |export: [&str; 2]| {
        format!(
            "DestinationRule a: {{host: reviews, exportTo: ['.']}}\nDestinationRule {}: {{host: '*.default.svc.cluster.local', exportTo: ['{}'], trafficPolicy: {{connectionPool: {{http: {{maxRetries: 1}}}}}}}}",
            export[0], export[1]
        )
    };
    let table: Vec<(String, Code, &[&str])> = vec![
        (
            ports(short, fine),
            Code::EjectionBelowInterval,
            &["a spec.trafficPolicy.portLevelSettings[0].outlierDetection.baseEjectionTime"],
        ),
        (
            ports(fine, short),
            Code::EjectionBelowInterval,
            &["a spec.trafficPolicy.portLevelSettings[1].outlierDetection.baseEjectionTime"],
        ),
        (
            ports(short, fine),
            Code::PortPolicyUnknownPort,
            &[
                "a spec.trafficPolicy.portLevelSettings[0].port.number",
                "a spec.trafficPolicy.portLevelSettings[1].port.number",
            ],
        ),
        (budget.to_owned(), Code::PortDropsSettings, &[]),
        (
            ejecting(99),
            Code::EjectionOfOnlyOne,
            &["a spec.trafficPolicy.outlierDetection"],
        ),
        (ejecting(100), Code::EjectionOfOnlyOne, &[]),
        (delegating(two), Code::SeveralDocuments, &[]),
        (delegating(nested), Code::MatchRepeated, &[]),
        (
            delegating(retrying),
            Code::RetriedWrites,
            &["a spec.http[0].retries.retryOn"],
        ),
        (
            delegating(retrying),
            Code::ManyRetries,
            &["a spec.http[0].retries.attempts"],
        ),
        (
            redirect("", ""),
            Code::RedirectLoop,
            &["a spec.http[0].redirect"],
        ),
        (redirect(&first, ""), Code::RedirectLoop, &[]),
        (
            redirect("", "match: [{uri: {prefix: /}, method: {exact: POST}}], "),
            Code::RedirectLoop,
            &[],
        ),
        (
            rewritten("", "/api"),
            Code::DoubleSlash,
            &["a spec.http[0].rewrite.uri"],
        ),
        (
            rewritten("match: [{method: {exact: GET}}], ", "/api"),
            Code::DoubleSlash,
            &["a spec.http[0].rewrite.uri"],
        ),
        (rewritten("", "/api/"), Code::DoubleSlash, &[]),
        (
            mirrored("mirror: {host: reviews}, mirrorPercentage: {value: 0}"),
            Code::MirrorToSelf,
            &[],
        ),
        (
            mirrored("mirror: {host: reviews, port: {number: 9080}}"),
            Code::MirrorToSelf,
            &["a spec.http[0].mirror"],
        ),
        (
            mirrored("mirrors: [{destination: {host: reviews}}]"),
            Code::MirrorToSelf,
            &["a spec.http[0].mirrors[0]"],
        ),
        (
            mirrored(&format!(
                "{get}, mirrors: [{{destination: {{host: ratings}}}}]"
            )),
            Code::MirroredWrites,
            &[],
        ),
        (
            retried("POST"),
            Code::RetriedWrites,
            &["a spec.http[0].retries.retryOn"],
        ),
        (retried("PROPFIND"), Code::RetriedWrites, &[]),
        (
            one("{method: {exact: 'GET|POST'}}"),
            Code::MethodCase,
            &["a spec.http[0].match[0].method.exact"],
        ),
        (
            one("{method: {regex: get}}"),
            Code::MethodCase,
            &["a spec.http[0].match[0].method.regex"],
        ),
        (one("{method: {regex: 'GET|POST'}}"), Code::MethodCase, &[]),
        (
            one("{authority: {exact: REVIEWS}}"),
            Code::AuthorityElsewhere,
            &["a spec.http[0].match[0].authority.exact"],
        ),
        (
            one("{uri: {prefix: '/a#b'}}"),
            Code::PathNeverSent,
            &["a spec.http[0].match[0].uri.prefix"],
        ),
        (
            one("{headers: {x: {prefix: ' a'}}}"),
            Code::HeaderValueSpaces,
            &["a spec.http[0].match[0].headers.x.prefix"],
        ),
        (
            one("{headers: {x: {prefix: 'a '}}}"),
            Code::HeaderValueSpaces,
            &[],
        ),
        (
            format!(
                "VirtualService a: {{hosts: [reviews], exportTo: [nowhere], http: [{{{TO}}}]}}"
            ),
            Code::ExportToNowhere,
            &["a spec.exportTo"],
        ),
        (
            format!("VirtualService a: {{hosts: [reviews], exportTo: [bank], http: [{{{TO}}}]}}"),
            Code::ExportToNowhere,
            &[],
        ),
        (
            format!("VirtualService a: {{hosts: ['*.default'], http: [{{{TO}}}]}}"),
            Code::WildcardOfNothing,
            &["a spec.hosts[0]"],
        ),
        (
            format!(
                "{}\n{wild}",
                rules(&format!("{{match: [{{uri: {{prefix: /a/}}}}], {TO}}}"))
            ),
            Code::WildcardRoutesHidden,
            &["a spec.hosts[0]"],
        ),
        (
            hidden(["w", "."]),
            Code::WildcardRuleHidden,
            &["a spec.host"],
        ),
        (hidden(["bank/w", "."]), Code::WildcardRuleHidden, &[]),
    ];
    for (lines, code, expected) in table {
        assert_eq!(
            places(&lines, code),
            expected,
            "{code} {}\n{lines}",
            code.title()
        );
    }
}

#[test]
fn what_comes_of_a_document_is_counted_in_its_own_rules() {
    let effect_of = |lines: &str| {
        let (objects, found) = found_in(&documents(lines), Some(&inventory()));
        assert!(!objects.is_empty(), "{lines}\n{}", drawn(&found));
        effects(&objects, &found).remove(0).effective
    };
    let leaf = format!("VirtualService d: {{http: [{{{TO}}}]}}");
    let behind = format!(
        "VirtualService b: {{hosts: [reviews], http: [{{match: [{{uri: {{prefix: /a/}}}}], {TO}}}]}}"
    );
    let bb = |second: &str| {
        format!(
            "VirtualService c: {{hosts: [reviews], http: [{{match: [{{uri: {{prefix: /a/b/}}}}{second}], {TO}}}]}}\n{behind}"
        )
    };
    let tcp = "VirtualService a: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}], tcp: [{match: [{port: 1}], route: [{destination: {host: nobody}}]}, {route: [{destination: {host: reviews}}]}, {match: [{port: 2}], route: [{destination: {host: reviews}}]}]}";
    let table = [
        (
            format!(
                "{}\n{leaf}",
                rules(&format!(
                    "{{{TO}}}, {{match: [{{uri: {{prefix: /d/}}}}], delegate: {{name: d}}}}"
                ))
            ),
            Effective::Partly,
        ),
        (bb(", {uri: {prefix: /c/}}"), Effective::Partly),
        (bb(""), Effective::Shadowed),
        (tcp.to_owned(), Effective::Partly),
        (
            rules(&format!(
                "{{match: [{{withoutHeaders: {{upgrade: {{}}}}}}], {TO}}}"
            )),
            Effective::Partly,
        ),
    ];
    for (lines, expected) in table {
        assert_eq!(effect_of(&lines), expected, "{lines}");
    }
}

#[test]
fn comparing_rules_costs_no_more_than_its_budget_and_says_where_it_stopped() {
    let many = |from: u32, to: u32| {
        let rules = (from..to).map(|n| format!("{{match: [{{uri: {{regex: '/x{n}/.*'}}}}], {TO}}}, {{match: [{{uri: {{exact: /y{n}}}}}], {TO}}}"));
        rules.collect::<Vec<_>>().join(", ")
    };
    let few = rules(&many(0, 40));
    assert_eq!(places(&few, Code::NotCompared), Vec::<String>::new());
    let hosts = format!(
        "VirtualService a: {{hosts: [reviews, ratings], http: [{}]}}",
        many(0, 240)
    );
    let found = places(&hosts, Code::NotCompared);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("a spec.http["), "{found:?}");
}

#[test]
fn a_rule_that_takes_everything_leaves_nothing_to_be_answered_with_404() {
    let wild = format!(
        "VirtualService w: {{hosts: ['*.default.svc.cluster.local'], http: [{{match: [{{uri: {{prefix: /w/}}}}], {TO}}}]}}"
    );
    for (found, not_found) in [("match: [{uri: {prefix: /a/}}], ", true), ("", false)] {
        let lines = format!("{}\n{wild}", rules(&format!("{{{found}{TO}}}")));
        let (_, all) = found_in(&documents(&lines), Some(&inventory()));
        let one = all
            .iter()
            .find(|one| one.code == Code::WildcardRoutesHidden);
        let message = &one.expect("told").message;
        assert_eq!(message.contains("404"), not_found, "{message}");
    }
}
