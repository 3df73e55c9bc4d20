//! Which match is never reached because an earlier one takes all of its requests; which documents stand in each other's
//! way without contradicting.
//!
//! "Covers" is decided without counting requests: where it cannot be known (two expressions that differ) it is not claimed.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use super::{finder::Finder, matches};
use crate::{
    At, Code, ExportTo, HostName, HttpMatch, HttpRoute, MergedDestinationRule,
    MergedVirtualService, Object, Position, Spec, StringMatch,
};

/// Pairs of matches that are compared in one call; a generated file could have millions.
const MAX_PAIRS: usize = 200_000;

/// Expressions, each compiled once for a call.
#[derive(Debug, Default)]
pub(super) struct Regexes(RefCell<BTreeMap<String, Option<regex::Regex>>>);

impl Regexes {
    fn matches(&self, expression: &str, text: &str) -> bool {
        let mut known = self.0.borrow_mut();
        if !known.contains_key(expression) {
            let whole = regex::Regex::new(&format!("^(?:{expression})$")).ok();
            known.insert(expression.to_owned(), whole);
        }
        let compiled = known.get(expression).and_then(Option::as_ref);
        compiled.is_some_and(|regex| regex.is_match(text))
    }
}

pub(super) fn check(finder: &mut Finder<'_>) {
    let mesh = finder.mesh;
    let by_host = documents_by_host(finder);
    let mut comparison = Comparison::default();
    for (host, merged) in &mesh.virtual_services {
        if merged
            .http
            .iter()
            .any(|(object, _)| finder.wants(&object.key))
        {
            comparison.rules(finder, merged);
        }
        several_documents(finder, host, by_host.get(host).map_or(&[], Vec::as_slice));
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
    let homes = mesh.destination_rules.get(host).into_iter().flatten();
    for (home, rules) in homes {
        // Only of one namespace are they looked up together; a third one's are for its own calls.
        let other = mesh
            .destination_rules
            .get(&wildcard)
            .and_then(|all| all.get(home)?.seen_from(home));
        if let (Some(merged), Some(other)) = (rules.seen_from(home), other) {
            hidden_by(finder, host, merged, (&wildcard, other));
        }
    }
}

fn hidden_by<'a>(
    finder: &mut Finder<'a>,
    host: &HostName,
    merged: &'a MergedDestinationRule,
    (wildcard, other): (&HostName, &MergedDestinationRule),
) {
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

/// Looks for matches that earlier ones take. Bounded over all hosts of a call.
#[derive(Debug, Default)]
struct Comparison {
    regexes: Regexes,
    pairs: usize,
    stopped: bool,
}

/// A match that has been tried before, with its rule.
type Earlier<'a> = (&'a Arc<Object>, &'a HttpRoute, &'a HttpMatch);

impl Comparison {
    fn rules<'a>(&mut self, finder: &mut Finder<'a>, merged: &'a MergedVirtualService) {
        let everything = [HttpMatch::default()];
        let mut earlier: Vec<Earlier<'_>> = Vec::new();
        for (object, rule) in &merged.http {
            let matches = if rule.matches.is_empty() {
                everything.as_slice()
            } else {
                rule.matches.as_slice()
            };
            self.pairs += matches.len() * (earlier.len() + matches.len());
            if self.pairs > MAX_PAIRS {
                if !std::mem::replace(&mut self.stopped, true) {
                    let message = format!(
                        "rules are compared with earlier ones up to {MAX_PAIRS} pairs of matches; those from here on are not: \
                         whether they are ever reached is not known"
                    );
                    let path = index_of(object, &rule.position)
                        .map_or_else(|| "spec".to_owned(), |index| format!("spec.http[{index}]"));
                    finder.find(Code::NotCompared, object, &path, message);
                }
                return;
            }
            let taken: Vec<Option<Earlier<'_>>> = matches
                .iter()
                .map(|found| {
                    let takes = |(_, by, first): &&Earlier<'_>| {
                        seen_by_all_of(by, rule) && self.regexes.covers(first, found)
                    };
                    earlier.iter().find(takes).copied()
                })
                .collect();
            if let Some(index) = index_of(object, &rule.position) {
                let own = format!("spec.http[{index}]");
                if is_delegate(object) {
                    // Its matches are made of two documents', so that there is no line for a single one.
                    if let Some(Some(by)) =
                        taken.first().filter(|_| taken.iter().all(Option::is_some))
                    {
                        self.shadowed(finder, object, (&own, *by), None);
                    }
                } else {
                    for (number, (by, found)) in taken.iter().zip(matches).enumerate() {
                        let path = if rule.matches.is_empty() {
                            own.clone()
                        } else {
                            format!("{own}.match[{number}]")
                        };
                        if let Some(by) = by {
                            self.shadowed(finder, object, (&path, *by), Some(found));
                        }
                        let mut before = rule.matches.iter().take(number);
                        if before.any(|first| self.regexes.covers(first, found)) {
                            let message = "another match of this rule includes this one; remove it";
                            finder.find(Code::MatchRepeated, object, &path, message);
                        }
                    }
                }
            }
            // The rules behind such a one are told of it by the mesh.
            if matches.iter().any(|found| self.takes_everything(found))
                && merged.http.iter().all(|(other, _)| other.key == object.key)
            {
                return;
            }
            earlier.extend(matches.iter().map(|found| (object, rule, found)));
        }
    }

    /// `found` = a match that may be the same as the one that takes its requests.
    fn shadowed<'a>(
        &self,
        finder: &mut Finder<'a>,
        object: &'a Arc<Object>,
        (path, (taker, by, first)): (&str, Earlier<'_>),
        found: Option<&HttpMatch>,
    ) {
        let place = &by.position;
        if self.takes_everything(first) && taker.key == object.key {
            return; // The mesh says so.
        }
        if found.is_some_and(|found| self.regexes.covers(found, first)) {
            let message = format!(
                "the rule at {place} has the same match and is tried first, so this one never is; make them differ, or \
                 put both into one rule"
            );
            finder.find(Code::SameMatch, object, path, message);
        } else {
            let message = format!(
                "is never reached: the rule at {place} takes all requests that match here; put this one before it"
            );
            finder.find(Code::RuleShadowed, object, path, message);
        }
    }

    fn takes_everything(&self, found: &HttpMatch) -> bool {
        self.regexes.covers(found, &HttpMatch::default())
    }
}

fn is_delegate(object: &Object) -> bool {
    matches!(&object.spec, Spec::VirtualService(spec) if spec.hosts.is_empty())
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

impl Regexes {
    /// Whether every request that `inner` takes is one that `outer` takes.
    pub(super) fn covers(&self, outer: &HttpMatch, inner: &HttpMatch) -> bool {
        let text = |outer: &Option<StringMatch>, inner: &Option<StringMatch>| {
            self.covers_text(outer.as_ref(), inner.as_ref())
        };
        let uri = match &outer.uri {
            Some(StringMatch::Prefix(prefix)) if prefix == "/" => true,
            uri if outer.ignore_uri_case => self.covers_text(
                lower(uri.as_ref()).as_ref(),
                lower(inner.uri.as_ref()).as_ref(),
            ),
            uri => (!inner.ignore_uri_case || uri.is_none()) && text(uri, &inner.uri),
        };
        uri && text(&outer.scheme, &inner.scheme)
        && text(&outer.method, &inner.method)
        && text(&outer.authority, &inner.authority)
        && self.covers_map(&outer.headers, &inner.headers)
        && self.covers_map(&outer.query_params, &inner.query_params)
        // What `outer` excludes, `inner` has to exclude, too: the other way round.
        && outer.without_headers.iter().all(|(name, excluded)| {
            let own = inner.without_headers.get(name);
            own.is_some_and(|own| self.covers_text(Some(own), Some(excluded)))
        })
        && (outer.port.is_none() || outer.port == inner.port)
        && (outer.source_namespace.is_none() || outer.source_namespace == inner.source_namespace)
        && outer.source_labels.iter().all(|(name, value)| inner.source_labels.get(name) == Some(value))
    }

    fn covers_map(
        &self,
        outer: &BTreeMap<String, StringMatch>,
        inner: &BTreeMap<String, StringMatch>,
    ) -> bool {
        outer.iter().all(|(name, wanted)| {
            let own = inner.get(name);
            own.is_some_and(|own| self.covers_text(Some(wanted), Some(own)))
        })
    }

    fn covers_text(&self, outer: Option<&StringMatch>, inner: Option<&StringMatch>) -> bool {
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
            (StringMatch::Regex(a), StringMatch::Exact(b)) => self.matches(a, b),
            (StringMatch::Regex(a), _) => {
                matches::takes_all(a) && !matches!(inner, StringMatch::Present)
            }
            _ => false,
        }
    }
}

fn lower(text: Option<&StringMatch>) -> Option<StringMatch> {
    Some(match text? {
        StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
        StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
        other => other.clone(),
    })
}

/// Documents that name each host, in the order in which their rules are tried.
fn documents_by_host<'a>(finder: &Finder<'a>) -> BTreeMap<HostName, Vec<&'a Arc<Object>>> {
    let mut by_host: BTreeMap<HostName, Vec<&Arc<Object>>> = BTreeMap::new();
    for object in finder.objects {
        let Spec::VirtualService(spec) = &object.spec else {
            continue;
        };
        if spec.http.is_empty() && spec.delegations.is_empty() {
            continue;
        }
        for host in &spec.hosts {
            let documents = by_host.entry(finder.host(object, host)).or_default();
            if documents.last().is_none_or(|last| last.key != object.key) {
                documents.push(object);
            }
        }
    }
    for documents in by_host.values_mut() {
        documents.sort_by(|a, b| (takes_all(a), &a.key).cmp(&(takes_all(b), &b.key)));
    }
    by_host
}

/// Such a document's rules are tried last.
fn takes_all(object: &Object) -> bool {
    match &object.spec {
        Spec::VirtualService(spec) => spec.http.iter().any(|rule| rule.matches.is_empty()),
        _ => false,
    }
}

fn several_documents<'a>(finder: &mut Finder<'a>, host: &HostName, documents: &[&'a Arc<Object>]) {
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
    // Nothing is left over by a rule that takes everything.
    let rest = if merged.http.iter().any(|(_, rule)| rule.matches.is_empty()) {
        "nothing of the wildcard's holds"
    } else {
        "requests that match none of them get 404, not the wildcard's rules"
    };
    let message = format!(
        "for {host} these rules take the place of {} ({}) for {wildcard}: {rest}; repeat here what is still wanted",
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
