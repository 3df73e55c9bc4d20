//! Accepted resources on their way into the snapshot. Warms: what is not complete does not serve yet, and what it
//! replaces goes on.
//!
//! ```text
//! cluster  ── has its endpoints, or there are none; its names were looked up once ──► in the snapshot     (a change uses the endpoints at hand)
//! listener ── has its routes ────────────────────────► in the snapshot     (until then its old form serves)
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use outrigger_core::{
    ClusterConfig, ClusterSlot, EndpointConfig, Listener, RouteSource, RouteTable, Snapshot,
    SnapshotBuilder,
};

use tokio::time::Instant;

use super::{
    convert::{
        cluster::{EndpointSource, ParsedCluster},
        listener::{ParsedListener, ParsedRoutes},
        tls::BUNDLE,
    },
    dns::{Names, Pace},
};

/// What is known of an assignment.
#[derive(Debug)]
enum Assignment {
    Known(Vec<EndpointConfig>),
    /// Does not exist: the cluster serves, without endpoints.
    Missing,
}

#[derive(Debug, Default)]
pub(crate) struct Mesh {
    builder: SnapshotBuilder,
    clusters: BTreeMap<String, ParsedCluster>,
    /// Clusters by the EDS name they use.
    users: BTreeMap<String, BTreeSet<String>>,
    assignments: BTreeMap<String, Assignment>,
    /// Clusters whose endpoints are names.
    named: BTreeSet<String>,
    names: Names,
    /// Accepted, whether serving or not.
    listeners: BTreeMap<String, Accepted>,
    /// RDS names that serving listeners use, by listener.
    serving: BTreeMap<String, Option<String>>,
    routes: BTreeSet<String>,
    changed: bool,
}

/// An accepted listener, ready to be put into a snapshot.
#[derive(Debug)]
struct Accepted {
    listener: Listener,
    /// RDS name; None = inline.
    routes: Option<String>,
    warming: bool,
}

impl Mesh {
    /// The slot of a cluster name.
    pub(crate) fn slot(&mut self, name: &str) -> ClusterSlot {
        self.builder.cluster_slot(name)
    }

    pub(crate) fn set_cluster(&mut self, cluster: ParsedCluster) {
        let name = cluster.config.name.clone();
        if self.clusters.get(&name) == Some(&cluster) {
            return;
        }
        self.forget_user(&name);
        let is_named = matches!(cluster.source, EndpointSource::Dns(_));
        if let EndpointSource::Eds(eds) = &cluster.source {
            self.users
                .entry(eds.clone())
                .or_default()
                .insert(name.clone());
        }
        self.clusters.insert(name.clone(), cluster);
        if is_named {
            self.named.insert(name.clone());
            self.want_names();
        }
        self.rebuild(&name);
    }

    pub(crate) fn has_cluster(&self, name: &str) -> bool {
        self.clusters.contains_key(name)
    }

    pub(crate) fn names(&mut self) -> &mut Names {
        &mut self.names
    }

    /// Whether a cluster waits for its names to be looked up for the first time.
    pub(crate) fn is_looking_up(&self) -> bool {
        self.names.is_waiting()
    }

    /// What looking up a name gave.
    pub(crate) fn name_found(
        &mut self,
        name: &str,
        result: Result<Vec<IpAddr>, String>,
        now: Instant,
    ) {
        if !self.names.found(name, result, now) {
            return;
        }
        let has_name = |cluster: &&String| match self.clusters.get(*cluster).map(|c| &c.source) {
            Some(EndpointSource::Dns(source)) => source.names().any(|one| one == name),
            _ => false,
        };
        let users: Vec<String> = self.named.iter().filter(has_name).cloned().collect();
        for cluster in users {
            self.rebuild(&cluster);
        }
    }

    /// A name of several clusters is looked up as often as the most eager of them says.
    fn want_names(&mut self) {
        let mut wanted: BTreeMap<&str, Pace> = BTreeMap::new();
        for cluster in &self.named {
            if let Some(EndpointSource::Dns(source)) = self.clusters.get(cluster).map(|c| &c.source)
            {
                for name in source.names() {
                    let pace = wanted.entry(name).or_insert(source.pace);
                    *pace = (*pace).min(source.pace);
                }
            }
        }
        self.names.want(&wanted);
    }

    pub(crate) fn remove_cluster(&mut self, name: &str) {
        self.forget_user(name);
        if self.clusters.remove(name).is_some() {
            self.builder.set_cluster(name, None);
            self.changed = true;
        }
    }

    pub(crate) fn set_endpoints(&mut self, name: &str, endpoints: Vec<EndpointConfig>) {
        if let Some(Assignment::Known(current)) = self.assignments.get(name)
            && *current == endpoints
        {
            return;
        }
        self.assignments
            .insert(name.to_owned(), Assignment::Known(endpoints));
        self.rebuild_users(name);
    }

    /// There is no such assignment.
    pub(crate) fn endpoints_missing(&mut self, name: &str) {
        self.assignments
            .insert(name.to_owned(), Assignment::Missing);
        self.rebuild_users(name);
    }

    pub(crate) fn set_routes(&mut self, table: RouteTable) {
        let name = table.name.clone();
        self.routes.insert(name.clone());
        self.builder.set_routes(&name, Some(Arc::new(table)));
        self.changed = true;
        self.warm_listeners();
    }

    /// There is no such route configuration: a listener that serves with it answers 404, a new one stays closed.
    pub(crate) fn routes_missing(&mut self, name: &str) {
        if self.routes.remove(name) {
            self.builder.set_routes(name, None);
            self.changed = true;
        }
    }

    pub(crate) fn set_listener(&mut self, parsed: ParsedListener) {
        let (source, routes) = match parsed.routes {
            ParsedRoutes::Named(name) => (
                RouteSource::Named(self.builder.route_slot(&name)),
                Some(name),
            ),
            ParsedRoutes::Inline(table) => (RouteSource::Inline(Arc::new(table)), None),
            ParsedRoutes::Connections(routes) => (RouteSource::Connections(Arc::new(routes)), None),
        };
        let listener = Listener {
            name: parsed.name.clone(),
            address: parsed.address,
            direction: parsed.direction,
            tls: parsed.tls,
            routes: source,
            settings: parsed.settings,
        };
        self.listeners.insert(
            parsed.name,
            Accepted {
                listener,
                routes,
                warming: true,
            },
        );
        self.warm_listeners();
    }

    pub(crate) fn remove_listener(&mut self, name: &str) {
        self.listeners.remove(name);
        if self.serving.remove(name).is_some() {
            self.builder.set_listener(name, None);
            self.changed = true;
        }
    }

    /// EDS names in use.
    pub(crate) fn wanted_endpoints(&self) -> BTreeSet<String> {
        self.users.keys().cloned().collect()
    }

    /// RDS names in use: of accepted listeners, and of old forms that still serve.
    pub(crate) fn wanted_routes(&self) -> BTreeSet<String> {
        let accepted = self.listeners.values().filter_map(|l| l.routes.clone());
        accepted
            .chain(self.serving.values().flatten().cloned())
            .collect()
    }

    /// SDS names in use. Our own certificate is never asked for.
    pub(crate) fn wanted_secrets(&self) -> BTreeSet<String> {
        let used = self
            .listeners
            .values()
            .any(|accepted| accepted.listener.tls.is_some())
            || self
                .clusters
                .values()
                .any(|cluster| cluster.config.tls.is_some());
        used.then(|| BUNDLE.to_owned()).into_iter().collect()
    }

    /// Drops what is no longer in use.
    pub(crate) fn forget_unused(&mut self) {
        let users = &self.users;
        self.assignments.retain(|name, _| users.contains_key(name));
        let wanted = self.wanted_routes();
        let unused = &self.routes - &wanted;
        for name in unused {
            self.routes_missing(&name);
        }
    }

    /// Accepted listeners that do not serve yet, with the RDS name they wait for.
    pub(crate) fn warming(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.listeners
            .iter()
            .filter(|(_, accepted)| accepted.warming)
            .map(|(name, accepted)| (name.as_str(), accepted.routes.as_deref()))
    }

    /// The next snapshot, if anything changed since the last.
    pub(crate) fn take_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        std::mem::take(&mut self.changed).then(|| self.builder.build())
    }

    fn warm_listeners(&mut self) {
        for (name, accepted) in &mut self.listeners {
            let is_ready = accepted
                .routes
                .as_ref()
                .is_none_or(|rds| self.routes.contains(rds));
            if accepted.warming && is_ready {
                accepted.warming = false;
                self.builder
                    .set_listener(name, Some(accepted.listener.clone()));
                self.serving.insert(name.clone(), accepted.routes.clone());
                self.changed = true;
            }
        }
    }

    fn rebuild_users(&mut self, eds: &str) {
        for name in self.users.get(eds).cloned().unwrap_or_default() {
            self.rebuild(&name);
        }
    }

    /// Puts the cluster into the snapshot if its endpoints are known.
    fn rebuild(&mut self, name: &str) {
        let Some(cluster) = self.clusters.get(name) else {
            return;
        };
        let mut endpoints = match &cluster.source {
            EndpointSource::Static(endpoints) => endpoints.clone(),
            EndpointSource::Aggregate(members) => {
                // Names get their slots here, where all clusters are known.
                let slots = members
                    .iter()
                    .map(|member| self.builder.cluster_slot(member));
                let members = slots.collect();
                let config = ClusterConfig {
                    members,
                    ..cluster.config.clone()
                };
                self.builder.put_cluster(config, Vec::new());
                self.changed = true;
                return;
            }
            EndpointSource::Eds(eds) => match self.assignments.get(eds) {
                Some(Assignment::Known(endpoints)) => endpoints.clone(),
                Some(Assignment::Missing) => Vec::new(),
                None => return,
            },
            EndpointSource::Dns(source) => match source.endpoints(&self.names) {
                Some(endpoints) => endpoints,
                None => return,
            },
        };
        if cluster.always_tls {
            endpoints
                .iter_mut()
                .for_each(|endpoint| endpoint.mtls = true);
        }
        self.builder.put_cluster(cluster.config.clone(), endpoints);
        self.changed = true;
    }

    fn forget_user(&mut self, cluster: &str) {
        if self.named.remove(cluster) {
            self.want_names();
        }
        let Some(EndpointSource::Eds(eds)) = self.clusters.get(cluster).map(|c| &c.source) else {
            return;
        };
        if let Some(users) = self.users.get_mut(eds) {
            users.remove(cluster);
            if users.is_empty() {
                self.users.remove(eds);
            }
        }
    }
}
