//! The rules of all VirtualServices for one host, in the order in which they are tried.

use std::{collections::BTreeMap, sync::Arc};

use super::{Found, named};
use crate::{
    Code, ConnectionMatch, ExportTo, HostName, HttpMatch, HttpRoute, MergedVirtualService, Object,
    Position, StringMatch, TcpRoute, TlsRoute, VirtualService, mesh::delegate::Rule,
};

/// A document for the host, with the rules of its delegates in their places.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    pub(super) object: &'a Arc<Object>,
    pub(super) spec: &'a VirtualService,
    pub(super) rules: &'a [Rule],
}

/// Documents by namespace and name, but those that take everything last: they are the least specific, and whatever
/// came behind them would never be tried. Two of those that one workload sees contradict each other.
pub(super) fn merge(
    host: &HostName,
    mut documents: Vec<Document<'_>>,
    found: &mut Found,
) -> MergedVirtualService {
    documents.dedup_by(|a, b| a.object.key == b.object.key); // it names the host in two spellings
    let http = ordered(host, &documents, found, "request", |document| {
        let rule = document.rules.iter().find(|rule| takes_all(&rule.rule))?;
        Some((&rule.place, format!("spec.http[{}]", rule.index)))
    });
    let tcp = ordered(host, &documents, found, "connection", |document| {
        let rules = document.spec.tcp.iter().enumerate();
        let (index, rule) = rules.into_iter().find(|(_, rule)| takes_all_tcp(rule))?;
        Some((&rule.position, format!("spec.tcp[{index}]")))
    });
    refuse_same_names(&documents, found);
    MergedVirtualService {
        host: host.clone(),
        http: http
            .iter()
            .flat_map(|document| document.rules)
            .map(|rule| (Arc::clone(&rule.object), rule.rule.clone()))
            .collect(),
        tls: with_object(&documents, |spec| &spec.tls),
        tcp: with_object(&tcp, |spec| &spec.tcp),
    }
}

fn with_object<T: Clone>(
    documents: &[Document<'_>],
    rules: impl Fn(&VirtualService) -> &[T],
) -> Vec<(Arc<Object>, T)> {
    let mut all = Vec::new();
    for document in documents {
        let own = rules(document.spec).iter().cloned();
        all.extend(own.map(|rule| (Arc::clone(document.object), rule)));
    }
    all
}

/// Puts those to the end of which `catch_all` says that they take everything, and leaves out the newer of two that do
/// for the same workloads.
fn ordered<'a>(
    host: &HostName,
    documents: &[Document<'a>],
    found: &mut Found,
    what: &str,
    catch_all: impl Fn(&Document<'a>) -> Option<(&'a Position, String)>,
) -> Vec<Document<'a>> {
    let (mut all, mut last) = (Vec::new(), Vec::new());
    for (number, document) in documents.iter().enumerate() {
        match catch_all(document) {
            None => all.push(*document),
            Some((position, path)) => last.push((number, *document, position, path)),
        }
    }
    last.sort_by_key(|(_, document, ..)| found.age(document.object));
    let mut kept: Vec<(usize, Document<'_>)> = Vec::new();
    for (number, document, position, path) in last {
        let overlaps = |(_, other): &&(usize, Document<'_>)| {
            document.spec.export_to.meets(&other.spec.export_to)
        };
        if let Some((_, other)) = kept.iter().find(overlaps) {
            let message = format!(
                "takes every {what} to {host}, and so does {}; give one a match, or put both into one document",
                named(other.object)
            );
            found.error(Code::TwoCatchAlls, document.object, position, path, message);
        } else {
            kept.push((number, document));
        }
    }
    kept.sort_by_key(|(number, _)| *number);
    all.extend(kept.into_iter().map(|(_, document)| document));
    all
}

/// A server name that two documents route without further condition, for the same workloads.
fn refuse_same_names(documents: &[Document<'_>], found: &mut Found) {
    let mut by_age = documents.to_vec();
    by_age.sort_by_key(|document| found.age(document.object));
    let mut seen: BTreeMap<String, Vec<Document<'_>>> = BTreeMap::new();
    for document in by_age {
        for (index, name) in plain_names(&document.spec.tls) {
            let others = seen.entry(name.value.to_ascii_lowercase()).or_default();
            let same = |of: &&Document<'_>| {
                of.object.key != document.object.key
                    && of.spec.export_to.meets(&document.spec.export_to)
            };
            if let Some(other) = others.iter().find(same) {
                let message = format!(
                    "{:?} is routed already, in {}; keep one of them, or give one a further match",
                    name.value,
                    named(other.object)
                );
                let path = format!("spec.tls[{index}]");
                let object = document.object;
                found.error(Code::ServerNameInTwo, object, &name.position, path, message);
            } else {
                others.push(document);
            }
        }
    }
}

fn plain_names(rules: &[TlsRoute]) -> impl Iterator<Item = (usize, &crate::At<String>)> {
    rules.iter().enumerate().flat_map(|(index, rule)| {
        let plain = rule
            .matches
            .iter()
            .filter(|each| each.common == ConnectionMatch::default());
        let names = plain.flat_map(|each| &each.sni_hosts);
        names.map(move |name| (index, name))
    })
}

/// Whether nothing comes behind a rule that would be tried.
pub(in crate::mesh) fn takes_all(rule: &HttpRoute) -> bool {
    rule.matches.is_empty() || rule.matches.iter().any(takes_everything)
}

fn takes_everything(found: &HttpMatch) -> bool {
    let every_path = matches!(&found.uri, Some(StringMatch::Prefix(prefix)) if prefix == "/");
    let rest = HttpMatch {
        name: None,
        stat_prefix: None,
        ignore_uri_case: false,
        uri: found.uri.clone().filter(|_| !every_path),
        ..found.clone()
    };
    rest == HttpMatch::default()
}

pub(in crate::mesh) fn takes_all_tcp(rule: &TcpRoute) -> bool {
    rule.matches.is_empty() || rule.matches.contains(&ConnectionMatch::default())
}

impl ExportTo {
    /// Whether some workload sees both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, Self::All) => true,
            (Self::All, Self::Only(some)) | (Self::Only(some), Self::All) => !some.is_empty(),
            (Self::Only(a), Self::Only(b)) => a.intersection(b).next().is_some(),
        }
    }
}
