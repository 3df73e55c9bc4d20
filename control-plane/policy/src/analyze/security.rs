//! PeerAuthentication and AuthorizationPolicy: for whom they are, and whether what they ask for can be.

use std::collections::{BTreeMap, BTreeSet};

use super::finder::{Finder, listed};
use crate::{
    Attribute, AuthorizationAction, AuthorizationPolicy, Clause, ClauseValue, Code, MtlsMode,
    Object, PeerAuthentication, TextMatch, TlsMode, WorkloadView, suggest,
};

type Labels = BTreeMap<String, String>;

/// A workload that a document selects: one set of labels on one port of a service.
struct Selected<'a> {
    namespace: &'a str,
    labels: &'a Labels,
    port: u16,
    is_http: Option<bool>,
}

pub(super) fn check_peers<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    spec: &'a PeerAuthentication,
) {
    let selector = spec.selector.as_ref().map(|labels| &labels.value);
    let Some(selected) = selected(finder, object, selector, false) else {
        return;
    };
    if selected.is_empty() {
        return nobody(finder, object, selector);
    }
    for port in spec.ports.keys() {
        unknown_port(
            finder,
            object,
            &selected,
            *port,
            &format!("spec.portLevelMtls.{port}"),
        );
    }
    disabled(finder, object, spec);
}

pub(super) fn check_rules<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    spec: &'a AuthorizationPolicy,
) {
    for (index, rule) in spec.rules.iter().enumerate() {
        for clause in rule.clauses() {
            let path = format!("spec.rules[{index}].{}", clause.path);
            by_itself(finder, object, clause, &path);
        }
    }
    let selector = spec.selector.as_ref().map(|labels| &labels.value);
    let Some(selected) = selected(finder, object, selector, true) else {
        return;
    };
    if selected.is_empty() {
        return nobody(finder, object, selector);
    }
    let connections = selected.iter().all(|one| one.is_http == Some(false));
    for (index, rule) in spec.rules.iter().enumerate() {
        for clause in rule.clauses() {
            let path = format!("spec.rules[{index}].{}", clause.path);
            if connections && clause.attribute.is_http_only() {
                let what = match spec.action {
                    AuthorizationAction::Allow => "so the rule allows nothing",
                    _ => "so the rule holds whatever it says here",
                };
                let message = format!(
                    "none of the workloads is HTTP, {what}; ask for principals, namespaces, addresses or ports"
                );
                finder.find(Code::HttpFieldWithoutHttp, object, &path, message);
            }
            if clause.attribute == Attribute::Port {
                for value in clause.values.iter().chain(&clause.not_values) {
                    if let ClauseValue::Port(port) = value.value {
                        unknown_port(finder, object, &selected, port, &path);
                    }
                }
            }
            plain_text(finder, object, spec, (clause, &path), &selected);
        }
    }
}

/// What a document is for, as far as it is known who runs.
fn selected<'a>(
    finder: &Finder<'a>,
    object: &Object,
    selector: Option<&Labels>,
    root_selects_all: bool,
) -> Option<Vec<Selected<'a>>> {
    let inventory = finder.inventory()?;
    let mesh = finder.mesh;
    let everywhere =
        object.key.namespace == mesh.root_namespace() && (root_selects_all || selector.is_none());
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (host, service) in &inventory.services {
        for namespace in mesh.namespaces_of(host) {
            if !everywhere && namespace != object.key.namespace {
                continue;
            }
            for endpoint in &service.endpoints {
                let has =
                    |(name, value): (&String, &String)| endpoint.labels.get(name) == Some(value);
                if !selector.is_none_or(|labels| labels.iter().all(has)) {
                    continue;
                }
                for (port, protocol) in &service.ports {
                    if seen.insert((namespace, &endpoint.labels, *port)) {
                        found.push(Selected {
                            namespace,
                            labels: &endpoint.labels,
                            port: *port,
                            is_http: protocol.map(crate::Protocol::may_be_http),
                        });
                    }
                }
            }
        }
    }
    Some(found)
}

fn nobody<'a>(finder: &mut Finder<'a>, object: &'a Object, selector: Option<&Labels>) {
    let labels = selector.into_iter().flatten();
    let labels: Vec<String> = labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let whom = match labels.is_empty() {
        true => String::new(),
        false => format!(" with {}", listed(labels)),
    };
    let message = format!(
        "no service of the namespace {}{whom} runs, so it is for nobody; correct the labels or the namespace",
        object.key.namespace
    );
    finder.find(
        Code::SecuritySelectsNothing,
        object,
        "spec.selector",
        message,
    );
}

fn unknown_port<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    selected: &[Selected<'_>],
    port: u16,
    path: &str,
) {
    let known: BTreeSet<u16> = selected.iter().map(|one| one.port).collect();
    if !known.contains(&port) {
        let message = format!(
            "none of the workloads has the port {port}; they are registered with {}",
            listed(known)
        );
        finder.find(Code::SecurityPortUnknown, object, path, message);
    }
}

/// What can be said of a clause whoever it is for.
fn by_itself<'a>(finder: &mut Finder<'a>, object: &'a Object, clause: &Clause, path: &str) {
    let mut wanted = clause.values.iter();
    if !clause.values.is_empty()
        && wanted.all(|one| clause.not_values.iter().any(|not| not.value == one.value))
    {
        let message = "asks for values that its opposite excludes, so the rule never holds; remove one of them";
        finder.find(Code::RuleNeverHolds, object, path, message);
    }
    for value in clause.values.iter().chain(&clause.not_values) {
        let ClauseValue::Text(TextMatch::Exact(text)) = &value.value else {
            continue;
        };
        match clause.attribute {
            Attribute::Method if *text != text.to_ascii_uppercase() => {
                let upper = text.to_ascii_uppercase();
                let message = format!(
                    "{text:?} matches no request, because methods are compared with their letter case; write {upper}"
                );
                finder.find(Code::MethodCase, object, path, message);
            }
            Attribute::Path if text.contains('?') => {
                let message = format!(
                    "{text:?} matches nothing, because the query does not belong to the path; leave it out"
                );
                finder.find(Code::QueryInPath, object, path, message);
            }
            Attribute::SourcePrincipal => principal(finder, object, text, path),
            Attribute::SourceNamespace => {
                let known: BTreeSet<&str> = finder.mesh.namespaces().collect();
                let near = suggest::nearest(text, known.iter().copied());
                if finder.knows_who_runs() && !known.contains(text.as_str()) {
                    let hint = near.map(|near| format!("; did you mean {near:?}?"));
                    let message = format!(
                        "nothing is known of a namespace {text:?}{}",
                        hint.unwrap_or_default()
                    );
                    finder.find(Code::SourceNamespaceUnknown, object, path, message);
                }
            }
            _ => {}
        }
    }
}

fn principal<'a>(finder: &mut Finder<'a>, object: &'a Object, text: &str, path: &str) {
    let parts: Vec<&str> = text.split('/').collect();
    let right = matches!(parts.as_slice(), [_, "ns", _, "sa", _]);
    if !right {
        let message = format!(
            "{text:?} is nobody's: a principal is <trust domain>/ns/<namespace>/sa/<service account>"
        );
        finder.find(Code::PrincipalOfNobody, object, path, message);
        return;
    }
    let own = finder
        .inventory()
        .and_then(|all| all.trust_domain.as_deref());
    if let (Some(own), [domain, ..]) = (own, parts.as_slice())
        && *domain != own
        && *domain != "cluster.local"
    {
        let message = format!(
            "{text:?} is of the trust domain {domain}; certificates of this mesh are of {own}, and no other gets in"
        );
        finder.find(Code::PrincipalOfNobody, object, path, message);
    }
}

/// A condition on a certificate where some callers have none.
fn plain_text<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    spec: &AuthorizationPolicy,
    (clause, path): (&Clause, &str),
    selected: &[Selected<'_>],
) {
    if !clause.attribute.is_of_the_certificate() || clause.values.is_empty() {
        return;
    }
    let mode = |one: &Selected<'_>| {
        let workload = WorkloadView {
            namespace: one.namespace,
            labels: one.labels,
        };
        finder.mesh.peer_mode(workload, one.port).mode
    };
    let modes: BTreeSet<MtlsMode> = selected.iter().map(mode).collect();
    let denies = spec.action == AuthorizationAction::Deny;
    let message = if modes.contains(&MtlsMode::Disable) {
        "a PeerAuthentication makes the workload's connections plain text (DISABLE): callers show no certificate, and this never holds"
    } else if modes.contains(&MtlsMode::Permissive) && denies {
        "plain text gets in (PERMISSIVE) and shows no certificate: whoever is denied here calls in plain text; write STRICT, or deny notPrincipals: [\"*\"] too"
    } else {
        return;
    };
    finder.find(Code::IdentityInPlainText, object, path, message);
}

/// Callers that insist on what the workload does not take.
fn disabled<'a>(finder: &mut Finder<'a>, object: &'a Object, spec: &'a PeerAuthentication) {
    let whole = spec
        .mode
        .as_ref()
        .filter(|mode| mode.value == MtlsMode::Disable);
    if whole.is_none() {
        return;
    }
    let mesh = finder.mesh;
    let mut found = Vec::new();
    for (host, by_namespace) in &mesh.destination_rules {
        let own = object.key.namespace.as_str();
        let here = own == mesh.root_namespace() || mesh.namespaces_of(host).any(|one| one == own);
        let endpoints = finder.endpoints(host).unwrap_or_default();
        let selects = |labels: &Labels| {
            spec.selector.as_ref().is_none_or(|selector| {
                let mut all = selector.value.iter();
                all.all(|(name, value)| labels.get(name) == Some(value))
            })
        };
        if !here || !endpoints.iter().any(|endpoint| selects(&endpoint.labels)) {
            continue;
        }
        for rule in by_namespace.values().flat_map(crate::NamespaceRules::iter) {
            let tls = rule.rule.traffic_policy.tls.as_ref();
            if tls.is_some_and(|tls| tls.value.mode == TlsMode::IstioMutual) {
                found.extend(rule.sources.first().map(|source| (host, source)));
            }
        }
    }
    for (host, source) in found {
        let message = format!(
            "{} makes callers speak mutual TLS to {host}, which takes plain text now: every call fails; remove its tls, or write PERMISSIVE here",
            source.key
        );
        finder.find(
            Code::DisabledBesideMutual,
            object,
            "spec.mtls.mode",
            message,
        );
    }
}
