//! Which match is never reached because an earlier one takes all of its requests; which documents stand in each other's
//! way without contradicting.
//!
//! "Covers" is decided without counting requests: where it cannot be known (two expressions that differ) it is not claimed.

use std::{collections::BTreeMap, sync::Arc};

use super::{finder::Finder, matches::takes_all};
use crate::{
    At, Code, ExportTo, HostName, HttpMatch, HttpRoute, MergedVirtualService, NamespaceRules,
    Object, Position, Spec, StringMatch,
};

/// Pairs of matches that are compared for one host; a generated file could have millions.
const MAX_PAIRS: usize = 200_000;

pub(super) fn check(finder: &mut Finder<'_>) {
    let mesh = finder.mesh;
    for (host, merged) in &mesh.virtual_services {
        rules(finder, merged);
        several_documents(finder, host, merged);
        if let Some((wildcard, other)) = host
            .wildcards()
            .find_map(|wildcard| mesh.virtual_services.get_key_value(&wildcard))
        {
            hidden_routes(finder, host, merged, wildcard, other);
        }
    }
    for host in mesh.destination_rules.keys() {
        hidden_rule(finder, host);
    }
}

/// A host with a rule of its own gets nothing of a wildcard's.
fn hidden_rule(finder: &mut Finder<'_>, host: &HostName) {
    let mesh = finder.mesh;
    let Some(wildcard) = host
        .wildcards()
        .find(|wildcard| mesh.destination_rules.contains_key(wildcard))
    else {
        return;
    };
    let of = |name: &HostName| {
        mesh.destination_rules
            .get(name)
            .and_then(|all| all.values().flat_map(NamespaceRules::iter).next())
    };
    let (Some(merged), Some(other)) = (of(host), of(&wildcard)) else {
        return;
    };
    let (Some(here), Some(there)) = (merged.sources.first(), other.sources.first()) else {
        return;
    };
    let own = merged.rule.traffic_policy.parts();
    let lost: Vec<&str> = other
        .rule
        .traffic_policy
        .parts()
        .into_iter()
        .filter(|part| !own.contains(part))
        .collect();
    if !lost.is_empty() {
        let message = format!(
            "for {host} this rule takes the place of {} ({}) for {wildcard}: its {} no longer hold; repeat here what is still wanted",
            there.key,
            there.position,
            super::finder::listed(lost)
        );
        finder.find(Code::WildcardRuleHidden, here, "spec.host", message);
    }
}

fn rules<'a>(finder: &mut Finder<'a>, merged: &'a MergedVirtualService) {
    let everything = [HttpMatch::default()];
    let mut earlier: Vec<(&Arc<Object>, &HttpRoute, &HttpMatch)> = Vec::new();
    let mut pairs = 0;
    for (object, rule) in &merged.http {
        let matches = if rule.matches.is_empty() {
            everything.as_slice()
        } else {
            rule.matches.as_slice()
        };
        for (number, found) in matches.iter().enumerate() {
            pairs += earlier.len();
            if pairs > MAX_PAIRS {
                return;
            }
            let Some(&(taker, by, first)) = earlier
                .iter()
                .find(|(_, by, first)| seen_by_all_of(by, rule) && covers(first, found))
            else {
                continue;
            };
            let Some(index) = index_of(object, &rule.position) else {
                continue;
            };
            let path = if rule.matches.is_empty() {
                format!("spec.http[{index}]")
            } else {
                format!("spec.http[{index}].match[{number}]")
            };
            let place = &by.position;
            if std::ptr::eq(by, rule) {
                let message = "another match of this rule includes this one; remove it";
                finder.find(Code::MatchRepeated, object, &path, message);
            } else if covers(found, first) {
                if !takes_everything(first) || taker.key != object.key {
                    let message = format!(
                        "the rule at {place} has the same match and is tried first, so this one never is; make them differ, or \
                         put both into one rule"
                    );
                    finder.find(Code::SameMatch, object, &path, message);
                }
            } else if !takes_everything(first) || taker.key != object.key {
                let message = format!(
                    "is never reached: the rule at {place} takes all requests that match here; put this one before it"
                );
                finder.find(Code::RuleShadowed, object, &path, message);
            }
        }
        // Only those of this loop, so that matches of one rule are compared, too.
        for (number, found) in rule.matches.iter().enumerate() {
            let repeated = rule
                .matches
                .iter()
                .take(number)
                .any(|first| covers(first, found));
            if repeated && let Some(index) = index_of(object, &rule.position) {
                let message = "another match of this rule includes this one; remove it";
                finder.find(
                    Code::MatchRepeated,
                    object,
                    &format!("spec.http[{index}].match[{number}]"),
                    message,
                );
            }
        }
        // The rules behind such a one are told of it by the mesh.
        if matches.iter().any(takes_everything)
            && merged.http.iter().all(|(other, _)| other.key == object.key)
        {
            return;
        }
        earlier.extend(matches.iter().map(|found| (object, rule, found)));
    }
}

/// Whether every workload that sees `rule` sees `other`, too.
fn seen_by_all_of(other: &HttpRoute, rule: &HttpRoute) -> bool {
    other.export_to == ExportTo::All || other.export_to == rule.export_to
}

/// The number of a rule in its own document.
fn index_of(object: &Object, position: &Position) -> Option<usize> {
    match &object.spec {
        Spec::VirtualService(spec) => spec
            .rules()
            .find(|(_, rule)| rule.position == *position)
            .map(|(index, _)| index),
        _ => None,
    }
}

fn takes_everything(found: &HttpMatch) -> bool {
    covers(found, &HttpMatch::default())
}

/// Whether every request that `inner` takes is one that `outer` takes.
fn covers(outer: &HttpMatch, inner: &HttpMatch) -> bool {
    let text = |outer: &Option<StringMatch>, inner: &Option<StringMatch>| {
        covers_text(outer.as_ref(), inner.as_ref())
    };
    let uri = match &outer.uri {
        Some(StringMatch::Prefix(prefix)) if prefix == "/" => true,
        uri if outer.ignore_uri_case => covers_text(
            lower(uri.as_ref()).as_ref(),
            lower(inner.uri.as_ref()).as_ref(),
        ),
        uri => (!inner.ignore_uri_case || uri.is_none()) && text(uri, &inner.uri),
    };
    uri && text(&outer.scheme, &inner.scheme)
        && text(&outer.method, &inner.method)
        && text(&outer.authority, &inner.authority)
        && covers_map(&outer.headers, &inner.headers)
        && covers_map(&outer.query_params, &inner.query_params)
        // What `outer` excludes, `inner` has to exclude, too: the other way round.
        && outer.without_headers.iter().all(|(name, excluded)| {
            let own = inner.without_headers.get(name);
            own.is_some_and(|own| covers_text(Some(own), Some(excluded)))
        })
        && (outer.port.is_none() || outer.port == inner.port)
        && (outer.source_namespace.is_none() || outer.source_namespace == inner.source_namespace)
        && outer.source_labels.iter().all(|(name, value)| inner.source_labels.get(name) == Some(value))
}

fn covers_map(
    outer: &BTreeMap<String, StringMatch>,
    inner: &BTreeMap<String, StringMatch>,
) -> bool {
    outer.iter().all(|(name, wanted)| {
        let own = inner.get(name);
        own.is_some_and(|own| covers_text(Some(wanted), Some(own)))
    })
}

fn lower(text: Option<&StringMatch>) -> Option<StringMatch> {
    Some(match text? {
        StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
        StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
        other => other.clone(),
    })
}

fn covers_text(outer: Option<&StringMatch>, inner: Option<&StringMatch>) -> bool {
    let Some(outer) = outer else {
        return true;
    };
    let Some(inner) = inner else {
        return false;
    };
    match (outer, inner) {
        (StringMatch::Present, _) => true,
        (StringMatch::Exact(a), StringMatch::Exact(b)) => a == b,
        (StringMatch::Prefix(a), StringMatch::Exact(b) | StringMatch::Prefix(b)) => {
            b.starts_with(a.as_str())
        }
        (StringMatch::Regex(a), StringMatch::Regex(b)) if a == b => true,
        (StringMatch::Regex(a), StringMatch::Exact(b)) => {
            whole(a).is_some_and(|regex| regex.is_match(b))
        }
        (StringMatch::Regex(a), _) => takes_all(a) && !matches!(inner, StringMatch::Present),
        _ => false,
    }
}

fn whole(regex: &str) -> Option<regex::Regex> {
    regex::Regex::new(&format!("^(?:{regex})$")).ok()
}

fn several_documents<'a>(
    finder: &mut Finder<'a>,
    host: &HostName,
    merged: &'a MergedVirtualService,
) {
    let mut documents: Vec<&Arc<Object>> = Vec::new();
    for (object, _) in &merged.http {
        if !documents.iter().any(|known| known.key == object.key) {
            documents.push(object);
        }
    }
    let Some((first, rest)) = documents.split_first() else {
        return;
    };
    for object in rest {
        let message = format!(
            "{host} has rules in {} ({}), too, and those are tried before the ones here; one document for a host shows its \
             order",
            first.key, first.position
        );
        finder.find(Code::SeveralDocuments, object, "spec.hosts", message);
    }
}

fn hidden_routes<'a>(
    finder: &mut Finder<'a>,
    host: &HostName,
    merged: &'a MergedVirtualService,
    wildcard: &HostName,
    other: &MergedVirtualService,
) {
    let (Some((here, _)), Some((there, _))) = (merged.http.first(), other.http.first()) else {
        return;
    };
    if here.key == there.key {
        return;
    }
    let message = format!(
        "for {host} these rules take the place of {} ({}) for {wildcard}: requests that match none of them get 404, not the \
         wildcard's rules; repeat here what is still wanted",
        there.key, there.position
    );
    let path = match &here.spec {
        Spec::VirtualService(spec) => {
            let named = |written: &At<String>| finder.host(here, written) == *host;
            spec.hosts.iter().position(named).map_or_else(
                || "spec.hosts".to_owned(),
                |index| format!("spec.hosts[{index}]"),
            )
        }
        _ => "spec.hosts".to_owned(),
    };
    finder.find(Code::WildcardRoutesHidden, here, &path, message);
}
