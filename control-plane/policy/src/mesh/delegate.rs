//! Rules that delegate, replaced by those of the document that they name.
//!
//! A delegate's rule holds where both say so; what it does not set is the delegating rule's. One level only, which
//! `parse` sees to. Source: Istio's merge of delegate VirtualServices.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Names,
    merge::{Found, named},
};
use crate::{
    Code, Delegation, HttpAction, HttpMatch, HttpRoute, Kind, Object, ObjectKey, Position, Spec,
    StringMatch, VirtualService, suggest::hint,
};

/// One rule, and where the document stands that has the host.
pub(super) struct Rule {
    /// Whose rule it is: the delegate's, if it comes from one.
    pub(super) object: Arc<Object>,
    /// In the list of the document that has the host.
    pub(super) index: usize,
    pub(super) place: Position,
    /// In the list of its own document.
    pub(super) own_index: usize,
    pub(super) rule: HttpRoute,
}

/// All VirtualServices, and which of them have been delegated to.
pub(super) struct Delegates<'a> {
    names: &'a Names,
    documents: BTreeMap<&'a ObjectKey, (&'a Arc<Object>, &'a VirtualService)>,
    named: BTreeSet<ObjectKey>,
}

impl<'a> Delegates<'a> {
    pub(super) fn of(objects: &'a [Arc<Object>], names: &'a Names) -> Self {
        let documents = objects.iter().filter_map(|object| match &object.spec {
            Spec::VirtualService(spec) => Some((&object.key, (object, spec))),
            _ => None,
        });
        Self {
            names,
            documents: documents.collect(),
            named: BTreeSet::new(),
        }
    }

    /// All rules of a document, in its order.
    pub(super) fn expand(
        &mut self,
        object: &Arc<Object>,
        spec: &VirtualService,
        found: &mut Found,
    ) -> Vec<Rule> {
        let mut rules: Vec<Rule> = spec
            .rules()
            .map(|(index, rule)| Rule {
                object: Arc::clone(object),
                index,
                place: rule.position.clone(),
                own_index: index,
                rule: rule.clone(),
            })
            .collect();
        for delegation in &spec.delegations {
            rules.extend(self.delegated(object, spec, delegation, found));
        }
        // Stable: a delegate's rules keep their order.
        rules.sort_by_key(|rule| rule.index);
        rules
    }

    /// What a delegating rule stands for; nothing where it cannot be.
    fn delegated(
        &mut self,
        object: &Arc<Object>,
        spec: &VirtualService,
        root: &Delegation,
        found: &mut Found,
    ) -> Vec<Rule> {
        let Some((delegate, content)) = self.named_by(object, root, found) else {
            return Vec::new();
        };
        let mut rules = Vec::new();
        for (index, leaf) in content.rules() {
            let Some(matches) = both(&root.settings.matches, &leaf.matches) else {
                contradiction(object, root, delegate, (index, leaf), found);
                continue;
            };
            let mut rule = filled(root, leaf);
            if leaf.mirrors.is_empty() {
                self.qualify(&mut rule, &object.key.namespace);
            }
            rule.matches = matches;
            rule.export_to = spec.export_to.clone();
            rules.push(Rule {
                object: Arc::clone(delegate),
                index: root.index,
                place: root.settings.position.clone(),
                own_index: index,
                rule,
            });
        }
        rules
    }

    /// Short hosts of the delegating rule's mirrors belong to its own namespace, not to the delegate's.
    fn qualify(&self, rule: &mut HttpRoute, namespace: &str) {
        for mirror in &mut rule.mirrors {
            let host = self.names.resolve(&mirror.host.value, namespace);
            mirror.host.value = host.as_str().to_owned();
        }
    }

    /// The document that a rule delegates to, unless it cannot be delegated to.
    fn named_by(
        &mut self,
        object: &Arc<Object>,
        root: &Delegation,
        found: &mut Found,
    ) -> Option<(&'a Arc<Object>, &'a VirtualService)> {
        let own = &object.key.namespace;
        let key = ObjectKey {
            kind: Kind::VirtualService,
            namespace: root.namespace.clone().unwrap_or_else(|| own.clone()),
            name: root.name.value.clone(),
        };
        let path = format!("spec.http[{}].delegate.name", root.index);
        let Some(&(delegate, content)) = self.documents.get(&key) else {
            let near = self
                .documents
                .iter()
                .filter(|(_, (_, spec))| spec.hosts.is_empty());
            let near = near.map(|(key, _)| key.name.as_str());
            let message = format!(
                "unknown {key}; apply it together with this document{}",
                hint(&key.name, near)
            );
            found.error(Code::NoDelegate, object, &root.name.position, path, message);
            return None;
        };
        self.named.insert(key);
        if let Some(host) = content.hosts.first() {
            if found.newer(delegate, object) {
                let message = format!(
                    "{} delegates to this document, and a delegate has no hosts; remove them, or that rule",
                    named(object)
                );
                let position = &host.position;
                found.error(Code::NoDelegate, delegate, position, "spec.hosts", message);
            } else {
                let message = format!(
                    "{} has hosts, and a delegate has none; remove them there, or name another",
                    named(delegate)
                );
                found.error(Code::NoDelegate, object, &root.name.position, path, message);
            }
            return None;
        }
        if !content.export_to.includes(own) {
            let message = format!(
                "{} is not exported to {own}; add that namespace to its exportTo",
                named(delegate)
            );
            found.error(Code::NoDelegate, object, &root.name.position, path, message);
            return None;
        }
        Some((delegate, content))
    }

    /// Warns about delegates that no rule names.
    pub(super) fn warn_unnamed(&self, found: &mut Found) {
        for (key, (object, spec)) in &self.documents {
            if spec.hosts.is_empty() && !self.named.contains(*key) {
                let message = "has no hosts, and no rule delegates to it, so it does nothing; name its hosts, or \
                               write delegate in a rule of another document"
                    .to_owned();
                let position = &object.position;
                found.warn(
                    Code::DelegateUnused,
                    object,
                    position,
                    "spec.hosts",
                    message,
                );
            }
        }
    }
}

/// Says at the newer of two documents that a rule of the delegate can never match.
fn contradiction(
    object: &Arc<Object>,
    root: &Delegation,
    delegate: &Arc<Object>,
    (index, leaf): (usize, &HttpRoute),
    found: &mut Found,
) {
    let code = Code::DelegateMatchesNothing;
    if found.newer(delegate, object) {
        let message = format!(
            "matches nothing that {} delegates at {}; make both matches agree",
            named(object),
            root.settings.position
        );
        let path = format!("spec.http[{index}].match");
        found.error(code, delegate, &leaf.position, path, message);
    } else {
        let message = format!(
            "leaves nothing for the rule at {} of {}; make both matches agree",
            leaf.position,
            named(delegate)
        );
        let path = format!("spec.http[{}].match", root.index);
        found.error(code, object, &root.settings.position, path, message);
    }
}

/// The delegate's rule; what it does not set is the delegating one's.
fn filled(root: &Delegation, leaf: &HttpRoute) -> HttpRoute {
    let settings = &root.settings;
    let mut rule = leaf.clone();
    rule.name = joined(settings.name.as_ref(), leaf.name.as_ref());
    if rule.headers == crate::HeaderEdits::default() {
        rule.headers = settings.headers.clone();
    }
    rule.cors = rule.cors.or_else(|| settings.cors.clone());
    if matches!(rule.action, HttpAction::Route(_)) {
        // A zero undoes the other's timeout.
        let timeout = rule.timeout.or_else(|| settings.timeout.clone());
        rule.timeout = timeout.filter(|timeout| !timeout.value.is_zero());
        rule.rewrite = rule.rewrite.or_else(|| settings.rewrite.clone());
        rule.retries = rule.retries.or_else(|| settings.retries.clone());
        rule.fault = rule.fault.or_else(|| settings.fault.clone());
        if rule.mirrors.is_empty() {
            rule.mirrors = settings.mirrors.clone();
        }
    }
    rule
}

fn joined(root: Option<&String>, leaf: Option<&String>) -> Option<String> {
    match (root, leaf) {
        (Some(root), Some(leaf)) => Some(format!("{root}-{leaf}")),
        (root, leaf) => root.or(leaf).cloned(),
    }
}

/// What both lists match. None if something in the second list has nothing in the first that it goes with.
fn both(root: &[HttpMatch], leaf: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(leaf.to_vec());
    }
    if leaf.is_empty() {
        return Some(root.to_vec());
    }
    let mut all = Vec::new();
    for leaf in leaf {
        let before = all.len();
        all.extend(root.iter().filter_map(|root| meet(root, leaf)));
        if all.len() == before {
            return None;
        }
    }
    Some(all)
}

/// What both match, if the second says no more than the first narrows to.
fn meet(root: &HttpMatch, leaf: &HttpMatch) -> Option<HttpMatch> {
    let two_paths = root.uri.is_some() && leaf.uri.is_some();
    if two_paths && root.ignore_uri_case != leaf.ignore_uri_case {
        return None;
    }
    let fold = root.ignore_uri_case;
    Some(HttpMatch {
        name: joined(root.name.as_ref(), leaf.name.as_ref()),
        uri: narrower(root.uri.as_ref(), leaf.uri.as_ref(), fold)?,
        ignore_uri_case: root.ignore_uri_case || leaf.ignore_uri_case,
        scheme: narrower(root.scheme.as_ref(), leaf.scheme.as_ref(), false)?,
        method: narrower(root.method.as_ref(), leaf.method.as_ref(), false)?,
        authority: narrower(root.authority.as_ref(), leaf.authority.as_ref(), false)?,
        headers: narrower_each(&root.headers, &leaf.headers)?,
        without_headers: equal_each(&root.without_headers, &leaf.without_headers)?,
        query_params: narrower_each(&root.query_params, &leaf.query_params)?,
        port: equal(root.port.as_ref(), leaf.port.as_ref())?,
        source_labels: equal_each(&root.source_labels, &leaf.source_labels)?,
        source_namespace: equal(
            root.source_namespace.as_ref(),
            leaf.source_namespace.as_ref(),
        )?,
        stat_prefix: leaf
            .stat_prefix
            .clone()
            .or_else(|| root.stat_prefix.clone()),
    })
}

/// The narrower of two matches of one text. The outer None = they do not go together.
#[expect(
    clippy::option_option,
    reason = "no match at all is one of the answers"
)]
fn narrower(
    root: Option<&StringMatch>,
    leaf: Option<&StringMatch>,
    fold: bool,
) -> Option<Option<StringMatch>> {
    use StringMatch::{Exact, Prefix, Present};
    let (Some(root), Some(leaf)) = (root, leaf) else {
        return Some(root.or(leaf).cloned());
    };
    let starts = |text: &str, prefix: &str| {
        if fold {
            let text = text.to_ascii_lowercase();
            text.starts_with(&prefix.to_ascii_lowercase())
        } else {
            text.starts_with(prefix)
        }
    };
    let fits = match (root, leaf) {
        (_, Present) => return Some(Some(root.clone())),
        (Present, _) => true,
        (Prefix(prefix), Exact(text) | Prefix(text)) => starts(text, prefix),
        (Exact(a), Exact(b)) if fold => a.eq_ignore_ascii_case(b),
        _ => root == leaf,
    };
    fits.then(|| Some(leaf.clone()))
}

type Matches = BTreeMap<String, StringMatch>;

fn narrower_each(root: &Matches, leaf: &Matches) -> Option<Matches> {
    let mut all = root.clone();
    for (name, leaf) in leaf {
        let found = narrower(root.get(name), Some(leaf), false)?;
        all.extend(found.map(|found| (name.clone(), found)));
    }
    Some(all)
}

/// One of both, if they do not differ. The outer None = they do.
#[expect(
    clippy::option_option,
    reason = "no value at all is one of the answers"
)]
fn equal<T: Clone + PartialEq>(root: Option<&T>, leaf: Option<&T>) -> Option<Option<T>> {
    match (root, leaf) {
        (Some(root), Some(leaf)) if root != leaf => None,
        (root, leaf) => Some(root.or(leaf).cloned()),
    }
}

fn equal_each<T: Clone + PartialEq>(
    root: &BTreeMap<String, T>,
    leaf: &BTreeMap<String, T>,
) -> Option<BTreeMap<String, T>> {
    let mut all = root.clone();
    for (name, leaf) in leaf {
        equal(root.get(name), Some(leaf))?;
        all.insert(name.clone(), leaf.clone());
    }
    Some(all)
}

impl VirtualService {
    /// The rules that do not delegate, each with its place in the document's list.
    pub fn rules(&self) -> impl Iterator<Item = (usize, &HttpRoute)> {
        let mut delegations = self.delegations.iter().map(|rule| rule.index).peekable();
        let mut index = 0;
        self.http.iter().map(move |rule| {
            while delegations.next_if_eq(&index).is_some() {
                index += 1;
            }
            let place = index;
            index += 1;
            (place, rule)
        })
    }
}
