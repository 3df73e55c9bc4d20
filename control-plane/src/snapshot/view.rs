//! How a node sees resources that are not sent as they were made: in another dialect, or made when they are asked for.
//!
//! What another dialect makes of a resource is remembered with the resource, so that all nodes of a dialect share the
//! bytes, and nothing is left of it when the resource is gone.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::ResourceBytes;

/// Dialects that have bytes of their own.
const DIALECTS: usize = 4;
/// Resources made on demand that are remembered of one [`OnDemand`]. Past that, each is made for its client anew.
const MAX_REMEMBERED: usize = 16_384;

/// What a node sees of the maps.
#[derive(Clone, Debug, Default)]
pub(crate) enum View {
    /// Resources as they are.
    #[default]
    AsIs,
    /// As they are, with remarks.
    Noted(Arc<Notes>),
    /// Each in another dialect.
    Adapted(Dialected),
    /// Those that are asked for by name, and no others.
    OnDemand(Arc<OnDemand>),
    /// As they are, and those that are asked for by name.
    Beside(Arc<OnDemand>),
}

/// Remarks for the operator by resource.
pub(crate) type Notes = BTreeMap<Arc<str>, Vec<String>>;

/// What a dialect makes of a resource.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adapted {
    /// None = it is withheld, because the client would refuse it.
    pub(crate) resource: Option<Arc<ResourceBytes>>,
    /// What of it the client does not do, or why it is withheld: for the operator.
    pub(crate) notes: Vec<String>,
    /// Endpoints: there are some, and none that is left has mTLS.
    pub(crate) plain: bool,
}

/// A dialect, for one type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialected {
    /// Which of the [`DIALECTS`].
    pub(crate) slot: usize,
    pub(crate) adapt: fn(&ResourceBytes) -> Adapted,
}

/// What dialects have made of one resource. Takes no place until one asks.
#[derive(Debug, Default)]
pub(crate) struct Memory(OnceLock<Box<[OnceLock<Adapted>; DIALECTS]>>);

impl Dialected {
    /// What the dialect makes of `resource`. None for a slot that there is not.
    pub(crate) fn of(self, resource: &ResourceBytes) -> Option<&Adapted> {
        let slots = resource.adapted.0.get_or_init(Box::default);
        let slot = slots.get(self.slot)?;
        Some(slot.get_or_init(|| (self.adapt)(resource)))
    }
}

type Make = dyn Fn(&str) -> Option<Arc<ResourceBytes>> + Send + Sync;

/// What who asks for everything gets of what is made on demand.
pub(crate) trait Listing: Send + Sync {
    /// The names.
    fn names(&self) -> Vec<Arc<str>>;
    /// Whether this one is among them.
    fn has(&self, name: &str) -> bool;
}

/// Resources whose names are too many to make them all, e.g. a listener for every way to write a host.
pub(crate) struct OnDemand {
    /// Of what they are made from; another may give other resources.
    pub(super) generation: u64,
    make: Box<Make>,
    /// Those that who asks for all gets.
    list: Option<Arc<dyn Listing>>,
    known: Mutex<BTreeMap<Arc<str>, Arc<ResourceBytes>>>,
}

impl OnDemand {
    /// `make` is asked for each name, and gives the same as long as it is one `generation`.
    pub(crate) fn new(
        generation: u64,
        make: impl Fn(&str) -> Option<Arc<ResourceBytes>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            generation,
            make: Box::new(make),
            list: None,
            known: Mutex::default(),
        })
    }

    /// The same; who asks for everything gets those in `list`.
    pub(crate) fn listed(
        generation: u64,
        make: impl Fn(&str) -> Option<Arc<ResourceBytes>> + Send + Sync + 'static,
        list: Arc<dyn Listing>,
    ) -> Arc<Self> {
        Arc::new(Self {
            generation,
            make: Box::new(make),
            list: Some(list),
            known: Mutex::default(),
        })
    }

    /// All that are listed.
    pub(super) fn list(&self) -> Vec<Arc<ResourceBytes>> {
        let names = self.list.as_ref().map(|list| list.names());
        let names = names.unwrap_or_default().into_iter();
        names.filter_map(|name| self.get(&name)).collect()
    }

    /// Whether this one is.
    pub(super) fn lists(&self, name: &str) -> bool {
        self.list.as_ref().is_some_and(|list| list.has(name))
    }

    /// The resource of this name. Absent ones are not remembered: a client could ask for any number.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<ResourceBytes>> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(name) {
            return Some(Arc::clone(known));
        }
        let made = (self.make)(name)?;
        let mut known = lock();
        if known.len() >= MAX_REMEMBERED {
            return Some(made);
        }
        // Whoever was first, so that all share one.
        let shared = known.entry(Arc::clone(&made.name)).or_insert(made);
        Some(Arc::clone(shared))
    }
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand").finish_non_exhaustive()
    }
}
