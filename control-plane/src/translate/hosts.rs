//! Clusters and assignments of every host, as its callers see them; kept while what they were made from is the same.
//!
//! ```text
//! HostResources ─┬─ view of all callers                  what a host has without documents that tell callers apart
//!                └─ view of each rule that some have ─┬─ clusters, plain assignments
//!                                                     └─ assignments by place, where some are preferred
//! ```
//! Views beyond the first are made when a caller needs them, and remembered: callers that see the same share the bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use outrigger_policy::{HostName, MergedDestinationRule, ObjectKey, Protocol};

use super::{
    Shared,
    caller::{Caller, is_by_caller},
    cluster::Ruled,
    endpoint::Assignment,
    locality::{Place, Preference},
    model::Host,
};
use crate::{
    snapshot::ResourceBytes,
    world::{Service, World},
};

/// Views and places remembered of one host. Places are claimed by nodes; past this many, what a caller sees is made
/// for it anew.
const MAX_REMEMBERED: usize = 256;

/// The callable hosts.
pub(super) type Hosts = BTreeMap<HostName, Arc<HostResources>>;

/// What a map of views is keyed by: the documents that a rule was merged from. None = no rule.
/// And whether further policies of the caller's own namespace hold.
type RuleKey = (Option<Vec<ObjectKey>>, Option<String>);

/// One host, and what its resources were made from.
#[derive(Debug)]
pub(super) struct HostResources {
    pub(super) ports: BTreeMap<u16, Protocol>,
    views: Views,
    service: Option<Arc<Service>>,
    /// A ServiceEntry with a selector looks at every service of its namespace.
    selects: bool,
}

#[derive(Debug)]
enum Views {
    /// All callers have the same rule.
    Same(Arc<HostView>),
    ByRule {
        host: Arc<Host>,
        known: Mutex<BTreeMap<RuleKey, Arc<HostView>>>,
    },
}

/// Clusters and assignments of one host under one rule.
#[derive(Debug)]
pub(super) struct HostView {
    pub(super) clusters: Vec<Arc<ResourceBytes>>,
    /// For callers that prefer nothing, or do not say where they are.
    endpoints: Vec<Arc<ResourceBytes>>,
    placed: Option<Placed>,
}

/// Some assignments depend on where the caller is.
#[derive(Debug)]
struct Placed {
    host: Arc<Host>,
    assignments: Vec<Assignment>,
    labels: BTreeSet<String>,
    known: Mutex<BTreeMap<Place, Vec<Arc<ResourceBytes>>>>,
}

/// Every host of `world`, reusing those of `before`, which has the same policies.
pub(super) fn of(world: &World, before: Option<&Shared>) -> Hosts {
    let services_same = before.is_some_and(|before| {
        let (old, new) = (&before.world.services, &world.services);
        old.len() == new.len()
            && old
                .values()
                .zip(new.values())
                .all(|(a, b)| Arc::ptr_eq(a, b))
    });
    let names: BTreeSet<_> = world
        .services
        .keys()
        .chain(world.mesh.service_entries.keys())
        .collect();
    let translated = names.into_iter().filter_map(|name| {
        let service = world.services.get(name);
        let known = before
            .and_then(|before| before.hosts.get(name))
            .filter(|known| known.is_of(service) && (!known.selects || services_same));
        let host = match known {
            Some(known) => Arc::clone(known),
            None => Arc::new(HostResources::translate(world, name, service.cloned())?),
        };
        Some((name.clone(), host))
    });
    translated.collect()
}

/// Whether both have the same hosts with the same ports.
pub(super) fn same_ports(old: &Hosts, new: &Hosts) -> bool {
    let same =
        |((a_name, a), (b_name, b)): ((_, &Arc<HostResources>), (_, &Arc<HostResources>))| {
            let (a_name, b_name): (&HostName, &HostName) = (a_name, b_name);
            a_name == b_name && (Arc::ptr_eq(a, b) || a.ports == b.ports)
        };
    old.len() == new.len() && old.iter().zip(new).all(same)
}

impl HostResources {
    fn translate(world: &World, name: &HostName, service: Option<Arc<Service>>) -> Option<Self> {
        let host = Host::merge(world, name)?;
        let entries = world.mesh.service_entries.get(name);
        let mut entries = entries.into_iter().flatten();
        let ports = host.ports.iter();
        Some(Self {
            ports: ports
                .map(|(&number, port)| (number, port.protocol))
                .collect(),
            service,
            selects: entries.any(|(_, entry)| entry.workload_selector.is_some()),
            views: if is_by_caller(&world.mesh, name) {
                Views::ByRule {
                    host: Arc::new(host),
                    known: Mutex::default(),
                }
            } else {
                let rule = world.mesh.destination_rule(name);
                // No caller is told apart from one of the service's own namespace, nor from one of nowhere.
                let anyone = Caller::default();
                let view = HostView::translate(world, host.into(), rule, &anyone);
                Views::Same(Arc::new(view))
            },
        })
    }

    fn is_of(&self, service: Option<&Arc<Service>>) -> bool {
        match (&self.service, service) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// What `caller` sees of it. `world` has the policies that it was made from.
    pub(super) fn view(&self, world: &World, caller: &Caller) -> Arc<HostView> {
        let (host, known) = match &self.views {
            Views::Same(view) => return Arc::clone(view),
            Views::ByRule { host, known } => (host, known),
        };
        let rule = world.mesh.destination_rule_for(&host.name, caller.client());
        let key = rule.map(|rule| {
            rule.sources
                .iter()
                .map(|source| source.key.clone())
                .collect()
        });
        let mut homes = world.mesh.policy_namespaces(&host.name);
        let own = homes.find(|home| *home == caller.namespace);
        let key = (key, own.map(str::to_owned));
        remembered(known, &key, || {
            Arc::new(HostView::translate(world, Arc::clone(host), rule, caller))
        })
    }
}

impl HostView {
    fn translate(
        world: &World,
        host: Arc<Host>,
        rule: Option<&MergedDestinationRule>,
        caller: &Caller,
    ) -> Self {
        let ruled = Ruled {
            mesh: &world.mesh,
            host: &host,
            rule,
            client: caller.client(),
            trust_domain: &world.trust_domain,
        };
        let (clusters, assignments) = ruled.clusters();
        let endpoints = assignments.iter().map(|one| one.plain(&host)).collect();
        let depends = assignments.iter().any(|one| one.depends_on_place(&host));
        let placed = depends.then(|| {
            let preferences = assignments.iter().filter_map(|one| one.preference.as_ref());
            let labels = preferences.flat_map(Preference::labels);
            Placed {
                labels: labels.map(str::to_owned).collect(),
                host,
                assignments,
                known: Mutex::default(),
            }
        });
        Self {
            clusters,
            endpoints,
            placed,
        }
    }

    /// The labels of callers that decide, if it depends on where they are.
    pub(super) fn placing_labels(&self) -> Option<&BTreeSet<String>> {
        self.placed.as_ref().map(|placed| &placed.labels)
    }

    /// The assignments for callers at `place`; None = for those that do not say.
    pub(super) fn endpoints(&self, place: Option<&Place>) -> Vec<Arc<ResourceBytes>> {
        let (Some(placed), Some(place)) = (&self.placed, place) else {
            return self.endpoints.clone();
        };
        let labels = place.labels.iter();
        let labels = labels.filter(|(name, _)| placed.labels.contains(*name));
        let place = Place {
            locality: place.locality.clone(),
            labels: labels
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        };
        remembered(&placed.known, &place, || {
            let plain = self.endpoints.iter();
            let all = plain.zip(&placed.assignments).map(|(plain, one)| {
                if one.depends_on_place(&placed.host) {
                    one.at(&place, &placed.host)
                } else {
                    Arc::clone(plain)
                }
            });
            all.collect()
        })
    }
}

/// The value of `key`, made if it is not known yet. Outside the lock: others need not wait for it.
pub(super) fn remembered<K: Ord + Clone, V: Clone>(
    known: &Mutex<BTreeMap<K, V>>,
    key: &K,
    make: impl FnOnce() -> V,
) -> V {
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(value) = lock().get(key) {
        return value.clone();
    }
    let value = make();
    let mut known = lock();
    if known.len() >= MAX_REMEMBERED {
        return value;
    }
    // Whoever was first, so that all share one.
    known.entry(key.clone()).or_insert(value).clone()
}
