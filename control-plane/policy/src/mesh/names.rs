//! One name for each host, however a document writes it.

use std::{borrow::Borrow, collections::BTreeSet, fmt, sync::Arc};

use super::MeshInput;
use crate::Spec;

/// A host name as the mesh knows it: lower case, without a trailing dot; a name without dots gets
/// `.<namespace>.svc.<domain>`, `name.ns` of a known namespace too (DESIGN: names follow Istio).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Makes `host`, written in a document of `namespace`, canonical. `domain` is e.g. `cluster.local`.
    /// `name.ns` stays as it is: only [`Mesh::host`](crate::Mesh::host) knows the namespaces.
    #[must_use]
    pub fn canonical(host: &str, namespace: &str, domain: &str) -> Self {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host == "*" {
            Self(host.into())
        } else if !host.contains('.') {
            Self(format!("{host}.{namespace}.svc.{domain}").into())
        } else if host.ends_with(".svc") && host.split('.').count() == 3 {
            Self(format!("{host}.{domain}").into())
        } else {
            Self(host.into())
        }
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `*.suffix`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// The wildcards that this host falls under, the longest first.
    pub(crate) fn wildcards(&self) -> impl Iterator<Item = Self> + '_ {
        let dots = self.0.match_indices('.');
        dots.filter_map(|(dot, _)| self.0.get(dot..))
            .map(|suffix| Self(format!("*{suffix}").into()))
            .filter(move |wildcard| wildcard != self)
    }
}

/// So that maps by host are asked with text. Order and hash are the text's.
impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is needed to make a name canonical.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    domain: String,
    /// Of the documents and of the registered hosts.
    namespaces: BTreeSet<String>,
    registered: BTreeSet<HostName>,
    /// Names with dots that ServiceEntries write: those of the outside, whatever namespaces there are.
    literal: BTreeSet<HostName>,
}

impl Names {
    pub(super) fn of(input: &MeshInput<'_>) -> Self {
        let mut names = Self {
            domain: input.domain.to_owned(),
            namespaces: BTreeSet::new(),
            registered: input.registered.clone(),
            literal: BTreeSet::new(),
        };
        let entries = input
            .objects
            .iter()
            .filter_map(|object| match &object.spec {
                Spec::ServiceEntry(spec) => Some((object, spec)),
                _ => None,
            });
        let literal = entries.flat_map(|(object, spec)| {
            let hosts = spec.hosts.iter();
            hosts.map(|host| HostName::canonical(&host.value, &object.key.namespace, input.domain))
        });
        names.literal = literal.collect();
        let written = input
            .objects
            .iter()
            .map(|object| object.key.namespace.clone());
        let registered = input
            .registered
            .iter()
            .filter_map(|host| names.namespace(host));
        names.namespaces = written.chain(registered.map(str::to_owned)).collect();
        names
    }

    pub(super) fn resolve(&self, host: &str, namespace: &str) -> HostName {
        let plain = HostName::canonical(host, namespace, &self.domain);
        // Else a namespace that comes into being would give `pkg.dev` another meaning, and its server another name.
        if self.registered.contains(&plain) || self.literal.contains(&plain) {
            return plain;
        }
        match plain.0.split_once('.') {
            Some((name, ns)) if name != "*" && self.namespaces.contains(ns) => {
                HostName::canonical(name, ns, &self.domain)
            }
            _ => plain,
        }
    }

    /// `shop` of `orders.shop.svc.cluster.local`.
    pub(super) fn namespace<'h>(&self, host: &'h HostName) -> Option<&'h str> {
        let rest = host
            .0
            .strip_suffix(self.domain.as_str())?
            .strip_suffix(".svc.")?;
        let (_, namespace) = rest.split_once('.')?;
        (!namespace.contains('.')).then_some(namespace)
    }

    /// Those of the documents and of the registered hosts.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.iter().map(String::as_str)
    }

    pub(super) fn wildcard_of(&self, namespace: &str) -> String {
        format!("*.{namespace}.svc.{}", self.domain)
    }

    /// `orders.shop` of `orders.shop.svc.cluster.local`: what a typing error could be in. None = a name of the outside.
    pub(super) fn written<'h>(&self, host: &'h HostName) -> Option<&'h str> {
        let rest = host.0.strip_suffix(self.domain.as_str())?;
        rest.strip_suffix(".svc.")
    }

    pub(super) fn is_registered(&self, host: &HostName) -> bool {
        self.registered.contains(host)
    }

    pub(super) fn registered(&self) -> impl Iterator<Item = &HostName> {
        self.registered.iter()
    }
}
