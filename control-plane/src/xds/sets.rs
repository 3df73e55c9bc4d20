//! What clients of the state of the world hold, by the version that they say it has: the sets of clusters and listeners
//! that were sent last.
//!
//! What is absent from such a set is deleted. A client that was away while something went has to be sent that once more,
//! until it has the routes that lead elsewhere; and only here is it known what that was. A client whose version is not
//! known (any more) is sent what there is.
//!
//! A set is two maps that its snapshot had anyway, and what it had beside them. [`MAX_SETS`] and [`MAX_BYTES`] bound
//! them; the set that was neither sent nor asked for the longest goes first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use super::sotw::version_of;
use crate::snapshot::{ResourceBytes, ResourceType, Resources, TypeMap};

/// Sets of all clients together: each has its own if it has an inbound side.
const MAX_SETS: usize = 4096;
/// What they keep in memory that would be gone without them, about.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Of a map for each of its entries, about.
const ENTRY_BYTES: usize = 64;

/// The sets that were sent last.
#[derive(Debug, Default)]
pub(crate) struct Sets(Mutex<Kept>);

/// What a client was sent of a type, all in all.
#[derive(Clone, Debug)]
pub(crate) enum Set {
    /// Everything there was, and what was gone but still in use.
    All(Resources, Vec<Arc<ResourceBytes>>),
    /// What it had asked for.
    Named(Vec<Arc<ResourceBytes>>),
}

impl Set {
    /// What is in it, in no promised order.
    pub(crate) fn into_resources(self) -> Vec<Arc<ResourceBytes>> {
        match self {
            Self::All(resources, gone) => resources.iter().chain(gone).collect(),
            Self::Named(resources) => resources,
        }
    }

    fn maps(&self) -> impl Iterator<Item = &Arc<TypeMap>> {
        let maps = match self {
            Self::All(resources, _) => Some([&resources.shared, &resources.own]),
            Self::Named(_) => None,
        };
        maps.into_iter().flatten()
    }

    fn beside(&self) -> &[Arc<ResourceBytes>] {
        match self {
            Self::All(_, resources) | Self::Named(resources) => resources,
        }
    }
}

type Key = (ResourceType, Box<str>);

#[derive(Debug, Default)]
struct Kept {
    sets: HashMap<Key, (u64, Set)>,
    /// Oldest first.
    order: BTreeMap<u64, Key>,
    next: u64,
    /// How many sets have a map. By its address, which is nobody else's as long as it is here.
    maps: HashMap<usize, usize>,
    bytes: usize,
}

impl Sets {
    /// Keeps what was sent as `version`.
    pub(crate) fn keep(&self, kind: ResourceType, version: &str, set: impl FnOnce() -> Set) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, version.into());
        if !kept.touch(&key) {
            kept.insert(key, set());
        }
    }

    /// What was sent as `version`.
    pub(crate) fn get(&self, kind: ResourceType, version: &str) -> Option<Set> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, version.into());
        kept.touch(&key);
        kept.sets.get(&key).map(|(_, set)| set.clone())
    }

    /// Keeps what a client with these names would have been sent of `resources`, if `version` is the version of that.
    pub(crate) fn recognize(
        &self,
        kind: ResourceType,
        version: &str,
        names: &[String],
        resources: &Resources,
    ) {
        let all = names.is_empty() || names.iter().any(|name| name == "*");
        let mut set: Vec<_> = if all {
            resources.iter().collect()
        } else {
            names
                .iter()
                .filter_map(|name| resources.get(name))
                .collect()
        };
        set.sort_by(|a, b| a.name.cmp(&b.name));
        set.dedup_by(|a, b| a.name == b.name);
        if version_of(&set) == version {
            self.keep(kind, version, || {
                if all {
                    Set::All(resources.clone(), Vec::new())
                } else {
                    Set::Named(set)
                }
            });
        }
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.0.lock().unwrap().bytes
    }
}

impl Kept {
    /// False if it is not here.
    fn touch(&mut self, key: &Key) -> bool {
        let next = self.next;
        let Some((at, _)) = self.sets.get_mut(key) else {
            return false;
        };
        if let Some(key) = self.order.remove(at) {
            self.order.insert(next, key);
        }
        *at = next;
        self.next += 1;
        true
    }

    fn insert(&mut self, key: Key, set: Set) {
        for map in set.maps() {
            let uses = self.maps.entry(Arc::as_ptr(map).addr()).or_default();
            *uses += 1;
            if *uses == 1 {
                self.bytes += cost_of(map);
            }
        }
        self.bytes += cost(set.beside());
        self.order.insert(self.next, key.clone());
        self.sets.insert(key, (self.next, set));
        self.next += 1;
        // The newest one stays in any case: it is what clients hold.
        while self.sets.len() > 1 && (self.sets.len() > MAX_SETS || self.bytes > MAX_BYTES) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((_, key)) = self.order.pop_first() else {
            return;
        };
        let Some((_, set)) = self.sets.remove(&key) else {
            return;
        };
        for map in set.maps() {
            let at = Arc::as_ptr(map).addr();
            if let Some(uses) = self.maps.get_mut(&at) {
                *uses -= 1;
                if *uses == 0 {
                    self.maps.remove(&at);
                    self.bytes = self.bytes.saturating_sub(cost_of(map));
                }
            }
        }
        self.bytes = self.bytes.saturating_sub(cost(set.beside()));
    }
}

/// What a map alone keeps: its entries, and what came with it; the rest was there before it.
fn cost_of(map: &TypeMap) -> usize {
    map.iter().count() * ENTRY_BYTES + map.new_bytes()
}

fn cost(resources: &[Arc<ResourceBytes>]) -> usize {
    let bytes = resources.iter().map(|one| one.any.value.len());
    bytes.sum::<usize>() + resources.len() * ENTRY_BYTES
}

#[cfg(test)]
mod tests;
