//! Looks for what is allowed and yet hardly meant: what `istioctl analyze` finds, and what operators of sidecars learn at
//! night.
//! ```text
//! documents ─parse─► objects ─Mesh::build─► errors, warnings ─┐
//!                       └────────── analyze ─► findings ──────┴─► effects: of each document, what comes of it
//! ```
//! Every finding has a [`Code`], the place of the very field, what is there, why it matters and what to write instead.
//! Pure, and it refuses nothing: that is `parse`'s and `mesh`'s. What depends on running instances is only looked for
//! where an [`Inventory`] is given, or where ServiceEntries alone say who serves a host.

mod destinations;
mod effect;
mod entries;
mod finder;
mod inventory;
mod matches;
mod policies;
mod retries;
mod routes;
mod security;
mod shadow;
mod subsets;
#[cfg(test)]
mod tests;
mod tokens;
mod visibility;
mod written;

use std::{collections::BTreeSet, sync::Arc};

use self::finder::Finder;
pub use self::{
    effect::{Effect, Effective, effects},
    inventory::{ClientFacts, EndpointFacts, Inventory, ServiceFacts},
};
use crate::{Diagnostic, Mesh, Object, ObjectKey, Spec};

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Analysis<'a> {
    /// Made of `objects`.
    pub mesh: &'a Mesh,
    /// All documents.
    pub objects: &'a [Arc<Object>],
    /// Who runs; None = not known.
    pub inventory: Option<&'a Inventory>,
    /// Look only at these documents (and at the others as far as they concern them); None = at all.
    pub only: Option<&'a BTreeSet<ObjectKey>>,
}

/// Findings beyond those of [`Mesh::build`]: at most 1,000, the worst first, each group by position.
#[must_use]
pub fn analyze(analysis: &Analysis<'_>) -> Vec<Diagnostic> {
    let mut finder = Finder::new(analysis);
    let wanted = |key: &ObjectKey| analysis.only.is_none_or(|only| only.contains(key));
    for object in analysis.objects.iter().filter(|object| wanted(&object.key)) {
        written::check(&mut finder, object);
        match &object.spec {
            Spec::VirtualService(spec) => routes::check(&mut finder, object, spec),
            Spec::DestinationRule(spec) => destinations::check(&mut finder, object, spec),
            Spec::ServiceEntry(spec) => entries::check(&mut finder, object, spec),
            Spec::Sidecar(spec) => entries::check_sidecar(&mut finder, object, spec),
            Spec::PeerAuthentication(spec) => security::check_peers(&mut finder, object, spec),
            Spec::AuthorizationPolicy(spec) => security::check_rules(&mut finder, object, spec),
            _ => {}
        }
    }
    routes::check_delegated(&mut finder);
    shadow::check(&mut finder);
    retries::check_hops(&mut finder);
    policies::check(&mut finder);
    tokens::check(&mut finder);
    finder.into_findings()
}
