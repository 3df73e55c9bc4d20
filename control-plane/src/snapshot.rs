//! What one client may be sent: every resource serialised once, shared by all streams that see it.
//!
//! ```text
//! Snapshot ─┬─ Resources (CDS) ─┬─ shared: Arc<TypeMap>  same for every node of a scope
//!           │                   └─ own:    Arc<TypeMap>  this node's (inbound cluster, its listeners)
//!           └─ ... one a type
//! ```
//! A [`View`] on them says what a node of another dialect sees. A [`TypeMap`] knows what differs from the one before it, so that a stream which saw that one looks
//! at the changed names only. It never knows who subscribed.

mod view;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prost::Message;
use prost_types::Any;
pub(crate) use view::{Adapted, Dialected, Listing, Notes, OnDemand, View};
use xxhash_rust::xxh64::xxh64;

use crate::sorted::SortedMap;

/// The xDS types that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ResourceType {
    /// CDS
    Cluster,
    /// EDS
    Endpoint,
    /// SDS
    Secret,
    /// LDS
    Listener,
    /// RDS
    Route,
    /// VHDS
    VirtualHost,
    /// NDS
    NameTable,
}

impl ResourceType {
    /// In the order of a push.
    pub(crate) const ALL: [Self; 7] = [
        Self::Cluster,
        Self::Endpoint,
        Self::Secret,
        Self::Listener,
        Self::Route,
        Self::VirtualHost,
        Self::NameTable,
    ];

    /// Type URL.
    pub(crate) const fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::NameTable => "type.googleapis.com/istio.networking.nds.v1.NameTable",
        }
    }

    /// The type of `url`, if it is served.
    pub(crate) fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// As people say it: `CDS`.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
            Self::Secret => "SDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
            Self::VirtualHost => "VHDS",
            Self::NameTable => "NDS",
        }
    }

    /// Whether a first request without names means "everything" (xDS protocol: LDS and CDS; Istio's clients ask so for
    /// names, too).
    pub(crate) const fn all_by_silence(self) -> bool {
        self.is_full_state() || matches!(self, Self::NameTable)
    }

    /// Whether absence from a state-of-the-world answer means "deleted" (xDS protocol: LDS and CDS only).
    pub(crate) const fn is_full_state(self) -> bool {
        matches!(self, Self::Listener | Self::Cluster)
    }
}

/// One resource, ready to be sent.
#[derive(Debug)]
pub(crate) struct ResourceBytes {
    /// Unique in its type.
    pub(crate) name: Arc<str>,
    /// Hash of the bytes, so that restarts and replicas agree on it.
    pub(crate) version: Arc<str>,
    /// The serialised resource.
    pub(crate) any: Any,
    adapted: view::Memory,
}

impl PartialEq for ResourceBytes {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.version, &self.any) == (&other.name, &other.version, &other.any)
    }
}

impl ResourceBytes {
    /// Serialises `message`, which has to carry `name` itself.
    pub(crate) fn new(kind: ResourceType, name: &str, message: &impl Message) -> Arc<Self> {
        let value = message.encode_to_vec();
        Arc::new(Self {
            name: name.into(),
            version: format!("{:016x}", xxh64(&value, 0)).into(),
            any: Any {
                type_url: kind.url().to_owned(),
                value,
            },
            adapted: view::Memory::default(),
        })
    }
}

/// All resources of one type, and what changed since the maps before.
#[derive(Debug)]
pub(crate) struct TypeMap {
    entries: SortedMap<Arc<str>, Arc<ResourceBytes>>,
    generation: u64,
    history: History,
}

/// Resources by name.
type Entries = SortedMap<Arc<str>, Arc<ResourceBytes>>;

/// What changed from one generation to the next.
#[derive(Debug)]
struct Step {
    /// That it was before.
    from: u64,
    names: Vec<Arc<str>>,
}

/// The last steps, the newest last.
type History = VecDeque<Arc<Step>>;

/// Steps that are remembered. Who has missed more looks at everything that it asks for.
const MAX_STEPS: usize = 64;
/// Names of one step that are remembered. A larger one is no easier than looking at everything.
const MAX_STEP_NAMES: usize = 4096;

/// Generations are compared for equality only; the number itself means nothing.
pub(crate) fn next_generation() -> u64 {
    static GENERATION: AtomicU64 = AtomicU64::new(1);
    GENERATION.fetch_add(1, Ordering::Relaxed)
}

impl TypeMap {
    /// The map that follows `previous`; the very same one if nothing changed.
    pub(crate) fn following(
        previous: Option<&Arc<Self>>,
        resources: impl IntoIterator<Item = Arc<ResourceBytes>>,
    ) -> Arc<Self> {
        let resources = resources.into_iter().map(|resource| {
            let known = previous.and_then(|map| map.entries.get(&resource.name));
            let same = known.filter(|known| known.version == resource.version);
            let resource = same.map_or(resource, Arc::clone);
            (Arc::clone(&resource.name), resource)
        });
        let entries = resources.collect();
        Self::after(previous, entries)
    }

    /// The map that follows `previous` when it has these `resources`, new or in place of others, and is else the same.
    pub(crate) fn with(
        previous: &Arc<Self>,
        resources: impl IntoIterator<Item = Arc<ResourceBytes>>,
    ) -> Arc<Self> {
        let mut entries = previous.entries.clone();
        let mut names = Vec::new();
        for resource in resources {
            let known = previous.entries.get(&resource.name);
            if known.is_none_or(|known| known.version != resource.version) {
                names.push(Arc::clone(&resource.name));
                entries.insert(Arc::clone(&resource.name), resource);
            }
        }
        if names.is_empty() {
            return Arc::clone(previous);
        }
        names.sort_unstable();
        names.dedup();
        Self::step(previous, entries, names)
    }

    /// The map that follows `previous` when it is as `base`, but for these resources.
    pub(crate) fn over(
        previous: Option<&Arc<Self>>,
        base: &Self,
        resources: impl IntoIterator<Item = Arc<ResourceBytes>>,
    ) -> Arc<Self> {
        let mut entries = base.entries.clone();
        for resource in resources {
            let known = previous.and_then(|map| map.entries.get(&resource.name));
            let same = known.filter(|known| known.version == resource.version);
            let resource = same.map_or(resource, Arc::clone);
            entries.insert(Arc::clone(&resource.name), resource);
        }
        Self::after(previous, entries)
    }

    fn after(previous: Option<&Arc<Self>>, entries: Entries) -> Arc<Self> {
        let Some(previous) = previous else {
            return Arc::new(Self {
                entries,
                generation: next_generation(),
                history: History::new(),
            });
        };
        // Whoever made the entries has kept what is the same.
        let names = entries.changed_since(&previous.entries, Arc::ptr_eq);
        if names.is_empty() {
            return Arc::clone(previous);
        }
        Self::step(previous, entries, names)
    }

    fn step(previous: &Arc<Self>, entries: Entries, names: Vec<Arc<str>>) -> Arc<Self> {
        let mut history = if names.len() > MAX_STEP_NAMES {
            History::new()
        } else {
            previous.history.clone()
        };
        if names.len() <= MAX_STEP_NAMES {
            if history.len() >= MAX_STEPS {
                history.pop_front();
            }
            let from = previous.generation;
            history.push_back(Arc::new(Step { from, names }));
        }
        Arc::new(Self {
            entries,
            generation: next_generation(),
            history,
        })
    }

    /// Bytes of the resources that came with it.
    pub(crate) fn new_bytes(&self) -> usize {
        let size = |one: &Arc<ResourceBytes>| one.any.value.len();
        match self.history.back() {
            Some(step) => step
                .names
                .iter()
                .filter_map(|name| self.get(name))
                .map(size)
                .sum(),
            None => self.iter().map(size).sum(),
        }
    }

    /// The names that may differ from what they were in `generation`; None = any may.
    fn changed_since(&self, generation: u64) -> Option<Vec<Arc<str>>> {
        if generation == self.generation {
            return Some(Vec::new());
        }
        let at = self
            .history
            .iter()
            .rposition(|step| step.from == generation)?;
        let steps = self.history.range(at..);
        let mut names: Vec<_> = steps.flat_map(|step| step.names.iter().cloned()).collect();
        if self.history.len() - at > 1 {
            names.sort_unstable();
            names.dedup();
        }
        Some(names)
    }

    /// Another for each content.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// A map without resources.
    pub(crate) fn empty() -> Arc<Self> {
        Self::following(None, [])
    }

    /// By name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<ResourceBytes>> {
        self.entries.get(name)
    }

    /// Sorted by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<ResourceBytes>> {
        self.entries.values()
    }
}

/// All resources of one type that one node sees.
#[derive(Clone, Debug)]
pub(crate) struct Resources {
    /// Of the node's scope.
    pub(crate) shared: Arc<TypeMap>,
    /// Of the node alone. Wins over `shared` where both have a name.
    pub(crate) own: Arc<TypeMap>,
    /// What it makes of both.
    pub(crate) view: View,
}

impl Resources {
    /// By name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<ResourceBytes>> {
        match &self.view {
            View::AsIs | View::Noted(_) => self.plain(name).cloned(),
            View::Adapted(dialect) => dialect.of(self.plain(name)?)?.resource.clone(),
            View::OnDemand(made) => made.get(name),
            View::Beside(made) => self.plain(name).cloned().or_else(|| made.get(name)),
        }
    }

    /// Whether [`Self::iter`] gives it.
    pub(crate) fn lists(&self, name: &str) -> bool {
        match &self.view {
            View::AsIs | View::Noted(_) | View::Beside(_) => self.plain(name).is_some(),
            View::Adapted(_) => self.get(name).is_some(),
            View::OnDemand(made) => made.lists(name),
        }
    }

    /// All, in no promised order, each name once. Of those that are made on demand, those that are listed.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Arc<ResourceBytes>> {
        let listed = match &self.view {
            View::OnDemand(made) => made.list(),
            View::AsIs | View::Noted(_) | View::Beside(_) | View::Adapted(_) => Vec::new(),
        };
        let shared = self
            .shared
            .iter()
            .filter(|r| self.own.get(&r.name).is_none());
        self.own
            .iter()
            .chain(shared)
            .filter_map(|resource| match &self.view {
                View::AsIs | View::Noted(_) | View::Beside(_) => Some(Arc::clone(resource)),
                View::Adapted(dialect) => dialect.of(resource)?.resource.clone(),
                View::OnDemand(_) => None,
            })
            .chain(listed)
    }

    /// What the client does not do of the resource of this name, or why it is withheld.
    pub(crate) fn notes(&self, name: &str) -> &[String] {
        match &self.view {
            View::Adapted(dialect) => self
                .plain(name)
                .and_then(|resource| dialect.of(resource))
                .map_or(&[], |adapted| &adapted.notes),
            View::Noted(notes) => notes.get(name).map_or(&[], Vec::as_slice),
            View::AsIs | View::OnDemand(_) | View::Beside(_) => &[],
        }
    }

    fn plain(&self, name: &str) -> Option<&Arc<ResourceBytes>> {
        self.own.get(name).or_else(|| self.shared.get(name))
    }

    /// The names that may differ from what `seen` was; None = any may.
    pub(crate) fn changed_since(&self, seen: Seen) -> Option<Vec<Arc<str>>> {
        if seen.own != self.own.generation {
            return None;
        }
        match &self.view {
            View::OnDemand(made) => (seen.shared == made.generation).then(Vec::new),
            View::Beside(made) if seen.made != made.generation => None,
            View::AsIs | View::Noted(_) | View::Adapted(_) | View::Beside(_) => {
                self.shared.changed_since(seen.shared)
            }
        }
    }

    /// What to hand to [`Self::changed_since`] of a later one.
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            shared: match &self.view {
                View::OnDemand(made) => made.generation,
                View::AsIs | View::Noted(_) | View::Adapted(_) | View::Beside(_) => {
                    self.shared.generation
                }
            },
            made: match &self.view {
                View::Beside(made) => made.generation,
                View::AsIs | View::Noted(_) | View::Adapted(_) | View::OnDemand(_) => 0,
            },
            own: self.own.generation,
        }
    }
}

/// Which [`Resources`] somebody has looked at. The default has seen nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    shared: u64,
    own: u64,
    /// What is made beside them.
    made: u64,
}

/// Everything that one node may be sent.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) clusters: Resources,
    pub(crate) endpoints: Resources,
    pub(crate) secrets: Resources,
    pub(crate) listeners: Resources,
    pub(crate) routes: Resources,
    /// On demand only.
    pub(crate) virtual_hosts: Resources,
    /// On demand, or all of them.
    pub(crate) names: Resources,
}

impl Snapshot {
    /// The resources of one type.
    pub(crate) fn of(&self, kind: ResourceType) -> &Resources {
        match kind {
            ResourceType::Cluster => &self.clusters,
            ResourceType::Endpoint => &self.endpoints,
            ResourceType::Secret => &self.secrets,
            ResourceType::Listener => &self.listeners,
            ResourceType::Route => &self.routes,
            ResourceType::VirtualHost => &self.virtual_hosts,
            ResourceType::NameTable => &self.names,
        }
    }
}

#[cfg(test)]
mod tests;
