//! Route configurations, and the virtual hosts that come to them by themselves: what is in force of each, and what takes
//! its place once the clusters that it leads to are there.
//!
//! ```text
//! accepted ──► next ──(every cluster is there)─────────────────────► serving ──► one RouteTable a route configuration
//!                └──(one does not exist, and for HOLD nothing newer came)──┘
//! ```
//! Knows no subscriptions: how clusters stand is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use outrigger_core::{RouteTable, VirtualHost};
use tokio::time::{Duration, Instant};

use crate::xds::state::MISSING_AFTER;

/// A cluster that does not exist was there when what leads to it was made. A server that has moved on since sends what
/// it has moved on to, and until then the old form is better.
pub(crate) const HOLD: Duration = MISSING_AFTER;
/// The same where there is no old form, and requests wait.
const HOLD_NEW: Duration = Duration::from_secs(1);

/// Names of clusters that something leads to.
pub(crate) type Clusters = BTreeSet<String>;

/// How a cluster stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Ready,
    /// It is on its way.
    Pending,
    Absent,
    /// Absent, and still there for what serves.
    Leaving,
}

/// How clusters stand now.
pub(super) struct Look<F: Fn(&str) -> Standing> {
    pub(super) of: F,
    pub(super) now: Instant,
}

/// Something, and where it leads.
#[derive(Debug)]
pub(super) struct Led<T> {
    pub(super) what: T,
    pub(super) to: Clusters,
}

/// What is in force, and what is to take its place.
#[derive(Debug)]
pub(super) struct Form<T> {
    serving: Option<Led<T>>,
    next: Option<Led<T>>,
    /// When `next` came.
    since: Instant,
    /// Until when it is held for what may be newer.
    held_until: Option<Instant>,
}

#[derive(Debug)]
struct Table {
    form: Form<RouteTable>,
    /// By resource name. Only of a route configuration with `vhds`.
    hosts: BTreeMap<String, Form<VirtualHost>>,
    /// What is published is no longer what serves.
    changed: bool,
}

/// All route configurations, by name.
#[derive(Debug, Default)]
pub(super) struct Tables(BTreeMap<String, Table>);

impl<T> Form<T> {
    pub(super) fn of(what: T, to: Clusters, now: Instant) -> Self {
        Self {
            serving: None,
            next: Some(Led { what, to }),
            since: now,
            held_until: None,
        }
    }

    pub(super) fn accept(&mut self, what: T, to: Clusters, now: Instant) {
        self.next = Some(Led { what, to });
        self.since = now;
    }

    /// Puts what is next into force if it may be. `holds` is false where nobody could wait.
    pub(super) fn advance(&mut self, look: &Look<impl Fn(&str) -> Standing>, holds: bool) -> bool {
        self.held_until = None;
        let Some(next) = &self.next else {
            return false;
        };
        let mut misses = false;
        for cluster in &next.to {
            let before = self.serving.as_ref();
            match (look.of)(cluster) {
                Standing::Ready => {}
                Standing::Pending => return false,
                Standing::Leaving => misses = true,
                // It was missed before, too.
                Standing::Absent if before.is_some_and(|old| old.to.contains(cluster)) => {}
                Standing::Absent => misses = true,
            }
        }
        let hold = if self.serving.is_some() {
            HOLD
        } else {
            HOLD_NEW
        };
        let until = self.since + hold;
        if misses && (holds || self.serving.is_some()) && look.now < until {
            self.held_until = Some(until);
            return false;
        }
        self.serving = self.next.take();
        true
    }

    pub(super) fn serving(&self) -> Option<&T> {
        self.serving.as_ref().map(|led| &led.what)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.next.is_some()
    }

    /// Of both forms.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &String> {
        let both = self.serving.iter().chain(&self.next);
        both.flat_map(|led| &led.to)
    }

    /// Whether what serves leads there.
    pub(super) fn leads_to(&self, cluster: &str) -> bool {
        let serving = self.serving.as_ref();
        serving.is_some_and(|serving| serving.to.contains(cluster))
    }
}

impl Tables {
    pub(super) fn set(&mut self, table: RouteTable, to: Clusters, now: Instant) {
        if let Some(known) = self.0.get_mut(&table.name) {
            known.form.accept(table, to, now);
            return;
        }
        let name = table.name.clone();
        let new = Table {
            form: Form::of(table, to, now),
            hosts: BTreeMap::new(),
            changed: false,
        };
        self.0.insert(name, new);
    }

    /// Whether there was one that served.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let removed = self.0.remove(name);
        removed.is_some_and(|table| table.form.serving.is_some())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    pub(super) fn serves(&self, name: &str) -> bool {
        let table = self.0.get(name);
        table.is_some_and(|table| table.form.serving.is_some())
    }

    /// Whether its virtual hosts come as they are asked for, now or soon.
    pub(super) fn grows(&self, name: &str) -> bool {
        let form = self.0.get(name).map(|table| &table.form);
        form.is_some_and(|form| {
            let mut both = form.serving.iter().chain(&form.next);
            both.any(|led| led.what.on_demand)
        })
    }

    /// A virtual host by its resource name.
    pub(super) fn set_host(
        &mut self,
        table: &str,
        name: &str,
        (host, to): (VirtualHost, Clusters),
        now: Instant,
    ) {
        let Some(table) = self.0.get_mut(table) else {
            return;
        };
        match table.hosts.get_mut(name) {
            Some(known) => {
                // Whether it is used does not begin anew with every change.
                let uses = known.serving().and_then(|serving| serving.uses.clone());
                let uses = uses.or_else(|| host.uses.clone());
                known.accept(VirtualHost { uses, ..host }, to, now);
            }
            None => {
                table.hosts.insert(name.to_owned(), Form::of(host, to, now));
            }
        }
    }

    pub(super) fn remove_host(&mut self, table: &str, name: &str) {
        if let Some(table) = self.0.get_mut(table)
            && let Some(host) = table.hosts.remove(name)
        {
            table.changed |= host.serving.is_some();
        }
    }

    pub(super) fn host(&self, table: &str, name: &str) -> Option<&Form<VirtualHost>> {
        self.0.get(table)?.hosts.get(name)
    }

    /// Puts into force what can be; gives the tables that are others now.
    pub(super) fn advance(
        &mut self,
        look: &Look<impl Fn(&str) -> Standing>,
    ) -> Vec<(String, Arc<RouteTable>)> {
        let mut changed = Vec::new();
        for (name, table) in &mut self.0 {
            if table.form.advance(look, false) {
                table.changed = true;
                if table.form.serving().is_some_and(|base| !base.on_demand) {
                    table.hosts.clear();
                }
            }
            for host in table.hosts.values_mut() {
                table.changed |= host.advance(look, true);
            }
            if table.changed
                && let Some(whole) = table.whole()
            {
                table.changed = false;
                changed.push((name.clone(), Arc::new(whole)));
            }
        }
        changed
    }

    /// Everything that serves or is to serve.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &String> {
        self.0.values().flat_map(|table| {
            let hosts = table.hosts.values().flat_map(Form::clusters);
            table.form.clusters().chain(hosts)
        })
    }

    pub(super) fn lead_to(&self, cluster: &str) -> bool {
        self.0.values().any(|table| {
            let mut hosts = table.hosts.values();
            table.form.leads_to(cluster) || hosts.any(|host| host.leads_to(cluster))
        })
    }

    /// When [`Self::advance`] has more to do than a word of the server's brings about.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let all = self.0.values().flat_map(|table| {
            let hosts = table.hosts.values().filter_map(|host| host.held_until);
            table.form.held_until.into_iter().chain(hosts)
        });
        all.min()
    }

    /// Those whose newest form does not serve yet.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|(name, table)| {
            let own = table.form.is_waiting().then_some(name.as_str());
            let hosts = table.hosts.iter().filter(|(_, host)| host.is_waiting());
            own.into_iter().chain(hosts.map(|(name, _)| name.as_str()))
        })
    }
}

impl Table {
    /// What serves, as one.
    fn whole(&self) -> Option<RouteTable> {
        let base = self.form.serving()?;
        if !base.on_demand {
            return Some(base.clone());
        }
        let alone = self.hosts.values().filter_map(Form::serving);
        let hosts = base.virtual_hosts.iter().chain(alone).cloned();
        Some(RouteTable::growing(base.name.clone(), hosts.collect()))
    }
}
