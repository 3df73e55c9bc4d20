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

use outrigger_policy::{HostName, MergedDestinationRule, ObjectKey, Protocol, Subnet};

use super::{
    caller::{Caller, is_by_caller},
    cluster::Ruled,
    endpoint::Assignment,
    locality::{Place, Preference},
    model::Host,
};
use crate::{snapshot::ResourceBytes, sorted::SortedMap, vips::addresses, world::World};

/// Views and places remembered of one host. Places are claimed by nodes; past this many, what a caller sees is made
/// for it anew.
const MAX_REMEMBERED: usize = 256;

/// The callable hosts.
pub(super) type Hosts = SortedMap<HostName, Arc<HostResources>>;

/// What a map of views is keyed by: the documents that a rule was merged from. None = no rule.
/// And whether further policies of the caller's own namespace hold.
type RuleKey = (Option<Vec<ObjectKey>>, Option<String>);

/// One host.
#[derive(Debug)]
pub(super) struct HostResources {
    pub(super) facts: Facts,
    views: Views,
}

/// What is known of a host but where its endpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) ports: BTreeMap<u16, Protocol>,
    /// What redirected connections to it go to.
    pub(super) addresses: Vec<Subnet>,
    /// It is where the application says: nothing is known of it where connections are not redirected.
    pub(super) as_connected: bool,
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

/// Every host of `world`.
pub(super) fn of(world: &World, before: Option<&Hosts>) -> Hosts {
    let names: BTreeSet<_> = world
        .services
        .keys()
        .chain(world.mesh.service_entries.keys())
        .collect();
    let translated = names.into_iter().filter_map(|name| {
        let host = HostResources::translate(world, name)?;
        let known = before.and_then(|before| before.get(name));
        Some((name.clone(), Arc::new(host.sharing(known))))
    });
    translated.collect()
}

/// Those of `world`, which has the same policies as `before`, and which of them are others now.
pub(super) fn following(world: &World, before: (&World, &Hosts)) -> (Hosts, Vec<HostName>) {
    let (old_world, old) = before;
    let mut changed = world
        .services
        .changed_since(&old_world.services, Arc::ptr_eq);
    changed.extend(world.vips.changed_since(&old_world.vips, PartialEq::eq));
    if !changed.is_empty() {
        // They look at services other than their own.
        let entries = world.mesh.service_entries.iter();
        let selecting = entries.filter(|(_, entries)| {
            let mut entries = entries.iter();
            entries.any(|(_, entry)| entry.workload_selector.is_some())
        });
        changed.extend(selecting.map(|(name, _)| name.clone()));
        changed.sort_unstable();
        changed.dedup();
    }
    let mut hosts = old.clone();
    for name in &changed {
        match HostResources::translate(world, name) {
            Some(host) => hosts.insert(name.clone(), Arc::new(host.sharing(old.get(name)))),
            None => hosts.remove(name),
        }
    }
    (hosts, changed)
}

/// Whether these hosts are in both, or in none, and with the same ports and addresses.
pub(super) fn same_facts(old: &Hosts, new: &Hosts, changed: &[HostName]) -> bool {
    let facts = |hosts: &Hosts, name| hosts.get(name).map(|host| host.facts.clone());
    changed
        .iter()
        .all(|name| facts(old, name) == facts(new, name))
}

impl HostResources {
    fn translate(world: &World, name: &HostName) -> Option<Self> {
        let host = Host::merge(world, name)?;
        let ports = host.ports.iter();
        Some(Self {
            facts: Facts {
                ports: ports
                    .map(|(&number, port)| (number, port.protocol))
                    .collect(),
                addresses: addresses(&world.mesh, &world.vips, name.as_str()),
                as_connected: host.as_connected,
            },
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

    /// With the very resources of `before` where they are the same, so that nobody keeps them twice.
    fn sharing(mut self, before: Option<&Arc<Self>>) -> Self {
        let before = before.map(|before| &before.views);
        if let (Views::Same(view), Some(Views::Same(before))) = (&mut self.views, before)
            // Nobody else has it so far.
            && let Some(view) = Arc::get_mut(view)
        {
            share(&mut view.clusters, &before.clusters);
            share(&mut view.endpoints, &before.endpoints);
        }
        self
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

fn share(resources: &mut [Arc<ResourceBytes>], before: &[Arc<ResourceBytes>]) {
    for (resource, before) in resources.iter_mut().zip(before) {
        if resource.name == before.name && resource.version == before.version {
            *resource = Arc::clone(before);
        }
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
