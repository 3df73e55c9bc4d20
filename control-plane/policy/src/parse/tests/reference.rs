//! docs/POLICY.md says the truth: each field in it is accepted or refused as it says, and each field that
//! the program knows is in it.

use std::{collections::BTreeMap, fmt::Write as _};

use super::EVERYTHING;
use crate::{
    Kind, ParseLimits,
    decode::{SELECTOR, Shape},
    parse,
    parse::{
        authorization_policy as authorization, client_tls, connection_pool as pool,
        consistent_hash as hash, destination, destination_policy as policy,
        destination_rule as rule, envelope, extension_provider as provider, http_answer as answer,
        http_cors, http_fault as fault, http_headers, http_match, http_mirror, http_retries,
        http_route as route, layer4, load_balancer as balancer, outlier_detection,
        peer_authentication as peer, request_authentication as tokens, selector,
        service_entry as entry, share, sidecar, virtual_service,
    },
    report::{Mark, Report},
    yaml::{self, Node, Value},
};

const REFERENCE: &str = include_str!("../../../../../docs/POLICY.md");

/// What a row of the reference says.
#[derive(Clone, Debug)]
struct Row {
    kind: Kind,
    path: String,
    value: Option<String>,
    effective: bool,
}

/// All rows; those of "Every document" count for each kind.
fn rows() -> Vec<Row> {
    let mut kinds = Vec::new();
    let mut rows = Vec::new();
    for line in REFERENCE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            kinds = Kind::ALL
                .into_iter()
                .filter(|kind| kind.as_str() == title)
                .collect();
            if title == "Every document" {
                kinds = Kind::ALL.to_vec();
            }
        }
        let Some(row) = line.strip_prefix("| `").filter(|_| !kinds.is_empty()) else {
            continue;
        };
        let (field, rest) = row.split_once("` | ").expect("a field in backticks");
        let (path, value) = match field.split_once(" = ") {
            Some((path, value)) => (path, Some(value.to_owned())),
            None => (field, None),
        };
        let effective = match rest.split(" |").next() {
            Some("effective") => true,
            Some("not supported yet") => false,
            other => panic!("{field} is {other:?}"),
        };
        for kind in &kinds {
            rows.push(Row {
                kind: *kind,
                path: path.to_owned(),
                value: value.clone(),
                effective,
            });
        }
    }
    assert!(rows.len() > 150, "found {} rows", rows.len());
    rows
}

/// `spec.http[].match[].headers.x-canary` for every value in the document that has none below it.
fn leaves(node: &Node, path: &str, found: &mut Vec<String>) {
    match &node.value {
        Value::Mapping(pairs) if !pairs.is_empty() => {
            for pair in pairs {
                let dot = if path.is_empty() { "" } else { "." };
                // A key with dots is one step.
                let key = pair.key.replace('.', "_");
                leaves(&pair.value, &format!("{path}{dot}{key}"), found);
            }
        }
        Value::Sequence(items) => {
            for item in items {
                leaves(item, &format!("{path}[]"), found);
            }
        }
        _ => {
            let steps: Vec<&str> = path.split('.').collect();
            // `prefix` of `fromHeaders` is a field like others.
            let matched = matches!(steps.last(), Some(&("exact" | "prefix" | "regex")))
                && !steps.contains(&"fromHeaders[]");
            let end = steps.len() - usize::from(matched);
            found.push(steps[..end].join("."));
        }
    }
}

fn accepted() -> BTreeMap<Kind, Vec<String>> {
    let limits = ParseLimits::default();
    let objects = parse("f", EVERYTHING, "default", &limits).expect("no error");
    let mut accepted: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
    for object in objects {
        let mut report = Report::new("f", Mark { line: 1, column: 1 });
        for document in yaml::read(&object.yaml, &limits, &mut report) {
            leaves(
                &document.root,
                "",
                accepted.entry(object.key.kind).or_default(),
            );
        }
    }
    accepted
}

/// Whether `path` is what the row is about: `*` stands for one key.
fn covers(row: &str, path: &str) -> bool {
    let (row, path): (Vec<&str>, Vec<&str>) = (row.split('.').collect(), path.split('.').collect());
    // Subsets repeat the fields of the host's policy, and ports some of them.
    let path = if path.starts_with(&["spec", "subsets[]", "trafficPolicy"]) && path.len() > 3 {
        [&["spec"], &path[2..]].concat()
    } else {
        path
    };
    let port = ["spec", "trafficPolicy", "portLevelSettings[]"];
    let path = if path.starts_with(&port) && path.len() > 4 && path[3] != "port" {
        [&port[..2], &path[3..]].concat()
    } else {
        path
    };
    row.len() == path.len() && row.iter().zip(&path).all(|(a, b)| *a == "*" || a == b)
}

#[test]
fn each_field_marked_effective_is_accepted() {
    let accepted = accepted();
    for row in rows().iter().filter(|row| row.effective) {
        // Where each kind has it, one document that shows it is enough.
        let kinds: Vec<Kind> = if row.path.starts_with("metadata") {
            Kind::ALL.to_vec()
        } else {
            vec![row.kind]
        };
        let mut paths = kinds.iter().flat_map(|kind| &accepted[kind]);
        let nested = |path: &&String| path.starts_with(&format!("{}.", row.path));
        assert!(
            paths.any(|path| covers(&row.path, path) || nested(&path)),
            "no document shows {} of {}",
            row.path,
            row.kind.as_str()
        );
    }
}

#[test]
fn each_accepted_field_is_marked_effective() {
    let rows = rows();
    for (kind, paths) in accepted() {
        for path in paths {
            let of_kind = || rows.iter().filter(|row| row.kind == kind);
            let server = [
                "managedFields",
                "resourceVersion",
                "generation",
                "creationTimestamp",
            ];
            if !(path.starts_with("spec") || path.starts_with("metadata"))
                || server.iter().any(|field| path.contains(field))
            {
                continue;
            }
            assert!(
                of_kind().any(|row| row.effective && covers(&row.path, &path)),
                "{path} of {} is not in the reference",
                kind.as_str()
            );
        }
    }
}

/// A document that has only this field.
fn document_with(row: &Row) -> String {
    let mut text = format!(
        "apiVersion: {}\nkind: {}\n",
        super::api_version(row.kind.as_str()),
        row.kind.as_str()
    );
    let mut end = String::new();
    for step in row.path.split('.') {
        let (key, list) = step
            .strip_suffix("[]")
            .map_or((step, false), |key| (key, true));
        let open = if end.is_empty() { "" } else { "{" };
        let (opened, closed) = if list { ("[", "]") } else { ("", "") };
        write!(text, "{open}{key}: {opened}").expect("a String takes everything");
        end = format!("{closed}{}{end}", if open.is_empty() { "" } else { "}" });
        if end.is_empty() {
            end.push(' ');
        }
    }
    let value = row
        .value
        .as_ref()
        .map_or_else(|| "{}".to_owned(), |value| format!("{value:?}"));
    format!("{text}{value}{end}\n")
}

#[test]
fn each_field_marked_not_supported_yet_is_refused_in_these_words() {
    for row in rows().iter().filter(|row| !row.effective) {
        let text = document_with(row);
        let errors = parse("f", &text, "default", &ParseLimits::default()).expect_err("an error");
        let path = row.path.replace("[]", "[0]");
        assert!(
            errors
                .iter()
                .any(|error| { error.path == path && error.message.contains("not supported yet") }),
            "{row:?}\n{text}{errors:#?}"
        );
    }
}

#[test]
fn each_field_that_the_program_knows_is_in_the_reference() {
    use Kind::{
        AuthorizationPolicy, DestinationPolicy, DestinationRule, ExtensionProvider,
        PeerAuthentication, ServiceEntry, Sidecar, VirtualService, WorkloadEntry,
    };
    let at = |kind, path: &str, shape: &'static Shape| (kind, path.to_owned(), shape);
    let mut shapes = vec![at(VirtualService, "metadata", &envelope::METADATA)];
    let http: &[(&str, &'static Shape)] = &[
        ("", &route::ROUTE),
        (".match[]", &http_match::MATCH),
        (".route[]", &route::WEIGHTED),
        (".route[].destination", &destination::DESTINATION),
        (".route[].destination.port", &destination::PORT),
        (".delegate", &route::DELEGATE),
        (".rewrite", &answer::REWRITE),
        (".rewrite.uriRegexRewrite", &answer::REGEX_REWRITE),
        (".redirect", &answer::REDIRECT),
        (".directResponse", &answer::DIRECT_RESPONSE),
        (".directResponse.body", &answer::BODY),
        (".retries", &http_retries::RETRIES),
        (".fault", &fault::FAULT),
        (".fault.delay", &fault::DELAY),
        (".fault.delay.percentage", &share::PERCENTAGE),
        (".fault.abort", &fault::ABORT),
        (".fault.abort.percentage", &share::PERCENTAGE),
        (".mirror", &destination::DESTINATION),
        (".mirror.port", &destination::PORT),
        (".mirrorPercentage", &share::PERCENTAGE),
        (".mirrors[]", &http_mirror::MIRROR),
        (".mirrors[].destination", &destination::DESTINATION),
        (".mirrors[].destination.port", &destination::PORT),
        (".mirrors[].percentage", &share::PERCENTAGE),
        (".corsPolicy", &http_cors::CORS),
    ];
    for (path, shape) in http {
        shapes.push(at(VirtualService, &format!("spec.http[]{path}"), shape));
    }
    for (list, matches) in [("tls", &layer4::TLS_MATCH), ("tcp", &layer4::TCP_MATCH)] {
        let path = |rest: &str| format!("spec.{list}[]{rest}");
        shapes.extend([
            at(VirtualService, &path(""), &layer4::ROUTE),
            at(VirtualService, &path(".match[]"), matches),
            at(VirtualService, &path(".route[]"), &destination::WEIGHTED),
            at(
                VirtualService,
                &path(".route[].destination"),
                &destination::DESTINATION,
            ),
        ]);
    }
    let traffic: &[(&str, &'static Shape)] = &[
        ("", &rule::TRAFFIC_POLICY),
        (".portLevelSettings[]", &rule::PORT_LEVEL),
        (".portLevelSettings[].port", &destination::PORT),
        (".retryBudget", &rule::RETRY_BUDGET),
        (".proxyProtocol", &rule::PROXY_PROTOCOL),
        (".loadBalancer", &balancer::LOAD_BALANCER),
        (".loadBalancer.warmup", &balancer::WARMUP),
        (".loadBalancer.localityLbSetting", &balancer::LOCALITY),
        (
            ".loadBalancer.localityLbSetting.distribute[]",
            &balancer::DISTRIBUTE,
        ),
        (
            ".loadBalancer.localityLbSetting.failover[]",
            &balancer::FAILOVER,
        ),
        (".loadBalancer.consistentHash", &hash::CONSISTENT_HASH),
        (".loadBalancer.consistentHash.ringHash", &hash::RING),
        (".loadBalancer.consistentHash.maglev", &hash::MAGLEV),
        (".loadBalancer.consistentHash.httpCookie", &hash::COOKIE),
        (
            ".loadBalancer.consistentHash.httpCookie.attributes[]",
            &hash::ATTRIBUTE,
        ),
        (".connectionPool", &pool::CONNECTION_POOL),
        (".connectionPool.tcp", &pool::TCP),
        (".connectionPool.tcp.tcpKeepalive", &pool::KEEPALIVE),
        (".connectionPool.http", &pool::HTTP),
        (".outlierDetection", &outlier_detection::OUTLIER_DETECTION),
        (".tls", &client_tls::TLS),
    ];
    for (path, shape) in traffic {
        shapes.push(at(
            DestinationRule,
            &format!("spec.trafficPolicy{path}"),
            shape,
        ));
    }
    let own: &[(&str, &'static Shape)] = &[
        ("", &policy::DESTINATION_POLICY),
        (".balancer", &policy::BALANCER),
        (".balancer.peakEwma", &policy::PEAK_EWMA),
        (".zoneAware", &policy::ZONE_AWARE),
        (".boundedLoad", &policy::BOUNDED_LOAD),
        (".circuitBreaker", &policy::CIRCUIT_BREAKER),
        (".limits", &policy::LIMITS),
        (".hedging", &policy::HEDGING),
    ];
    for (path, shape) in own {
        shapes.push(at(DestinationPolicy, &format!("spec{path}"), shape));
    }
    let providers: &[(&str, &'static Shape)] = &[
        ("spec", &provider::EXTENSION_PROVIDER),
        ("spec.envoyExtAuthzGrpc", &provider::GRPC),
        ("spec.envoyExtAuthzHttp", &provider::HTTP),
    ];
    for (path, shape) in providers {
        shapes.push(at(ExtensionProvider, path, shape));
    }
    shapes.extend([
        at(VirtualService, "spec", &virtual_service::VIRTUAL_SERVICE),
        at(DestinationRule, "spec", &rule::DESTINATION_RULE),
        at(DestinationRule, "spec.workloadSelector", &rule::SELECTOR),
        at(DestinationRule, "spec.subsets[]", &rule::SUBSET),
        at(ServiceEntry, "spec", &entry::SERVICE_ENTRY),
        at(ServiceEntry, "spec.ports[]", &entry::SERVICE_PORT),
        at(ServiceEntry, "spec.endpoints[]", &entry::WORKLOAD),
        at(ServiceEntry, "spec.workloadSelector", &SELECTOR),
        at(WorkloadEntry, "spec", &entry::WORKLOAD),
        at(PeerAuthentication, "spec", &peer::PEER_AUTHENTICATION),
        at(PeerAuthentication, "spec.mtls", &peer::MTLS),
        at(PeerAuthentication, "spec.selector", &selector::SELECTOR),
        at(
            AuthorizationPolicy,
            "spec",
            &authorization::AUTHORIZATION_POLICY,
        ),
        at(AuthorizationPolicy, "spec.selector", &selector::SELECTOR),
        at(AuthorizationPolicy, "spec.rules[]", &authorization::RULE),
        at(
            AuthorizationPolicy,
            "spec.rules[].from[]",
            &authorization::FROM,
        ),
        at(
            AuthorizationPolicy,
            "spec.rules[].from[].source",
            &authorization::SOURCE,
        ),
        at(AuthorizationPolicy, "spec.rules[].to[]", &authorization::TO),
        at(
            AuthorizationPolicy,
            "spec.rules[].to[].operation",
            &authorization::OPERATION,
        ),
        at(
            AuthorizationPolicy,
            "spec.rules[].when[]",
            &authorization::condition::CONDITION,
        ),
        at(
            Kind::RequestAuthentication,
            "spec",
            &tokens::REQUEST_AUTHENTICATION,
        ),
        at(
            Kind::RequestAuthentication,
            "spec.selector",
            &selector::SELECTOR,
        ),
        at(
            Kind::RequestAuthentication,
            "spec.jwtRules[]",
            &tokens::JWT_RULE,
        ),
        at(
            Kind::RequestAuthentication,
            "spec.jwtRules[].fromHeaders[]",
            &tokens::FROM_HEADER,
        ),
        at(
            Kind::RequestAuthentication,
            "spec.jwtRules[].outputClaimToHeaders[]",
            &tokens::CLAIM_TO_HEADER,
        ),
        at(Sidecar, "spec", &sidecar::SIDECAR),
        at(Sidecar, "spec.workloadSelector", &SELECTOR),
        at(Sidecar, "spec.outboundTrafficPolicy", &sidecar::POLICY),
        at(Sidecar, "spec.egress[]", &sidecar::LISTENER),
        at(Sidecar, "spec.egress[].port", &sidecar::PORT),
    ]);
    for place in ["spec.http[]", "spec.http[].route[]"] {
        shapes.push(at(
            VirtualService,
            &format!("{place}.headers"),
            &http_headers::HEADERS,
        ));
        for way in ["request", "response"] {
            let path = format!("{place}.headers.{way}");
            shapes.push(at(VirtualService, &path, &http_headers::OPERATIONS));
        }
    }
    let rows = rows();
    for (kind, path, shape) in shapes {
        let known = shape.fields.iter().map(|field| (field, true));
        for (field, effective) in known.chain(shape.not_yet.iter().map(|field| (field, false))) {
            let wanted = format!("{path}.{field}");
            let deeper = |row: &Row| {
                let rest = row.path.strip_prefix(&wanted);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            let text = REFERENCE.contains(&format!("`{field}`")) && path == "metadata";
            assert!(
                text || rows
                    .iter()
                    .any(|row| { row.kind == kind && deeper(row) && row.effective == effective }),
                "{wanted} of {} is not in the reference",
                kind.as_str()
            );
        }
    }
}

#[test]
fn each_field_has_one_row() {
    let mut seen = std::collections::BTreeSet::new();
    for row in rows() {
        let of = (row.kind, row.path.clone(), row.value.clone());
        assert!(seen.insert(of), "{row:?} is there twice");
    }
}

#[test]
fn what_is_not_supported_yet_is_refused_at_its_line_with_what_would_be_right() {
    let table = [
        (
            "{host: a, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}",
            "f:4:56: spec.trafficPolicy.loadBalancer.simple: PASSTHROUGH is not supported yet; want ",
        ),
        (
            "{host: a, trafficPolicy: {tunnel: {targetHost: b}}}",
            "f:4:33: spec.trafficPolicy.tunnel: not supported yet; remove it, nothing would act on it",
        ),
    ];
    for (spec, expected) in table {
        let errors = super::errors(&super::document("DestinationRule", spec));
        assert!(errors[0].starts_with(expected), "{errors:?}");
    }
}
