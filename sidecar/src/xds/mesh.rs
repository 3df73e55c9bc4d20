//! Accepted resources on their way into the snapshot. Warms: what is not complete does not serve yet, and what it
//! replaces goes on.
//!
//! ```text
//! cluster  ── has its endpoints, or there are none; its names were looked up once ──► in the snapshot     (a change uses the endpoints at hand)
//! routes   ── their clusters have settled ───────────► in the snapshot     (until then their old form serves, and keeps its clusters)
//! listener ── has its routes ────────────────────────► in the snapshot     (until then its old form serves)
//! ```
//! Where the server is asked for all clusters, it has them come before the routes that lead to them; nothing waits for
//! them here then.

mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use outrigger_core::{
    Capture, ClusterConfig, ClusterSlot, EndpointConfig, Filter, FilterChain, FilterChains,
    LimitsScope, Listener, RouteSource, RouteTable, Snapshot, SnapshotBuilder, VirtualHost,
    jwt::{RemoteKeys, RemoteName},
};

use tokio::time::Instant;

use super::{
    convert::{
        cluster::{EndpointSource, ParsedCluster},
        listener::{ParsedListener, ParsedRoutes},
        tls::BUNDLE,
    },
    dns::{Names, Pace},
    state::{Status, TypeState},
};
pub(crate) use tables::Clusters;
use tables::{HOLD, Look, Standing, Tables};

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
    /// Removed, but something that serves still leads there: until when they stay.
    leaving: BTreeMap<String, Instant>,
    /// The same of clusters whose assignment was removed: until when they keep their endpoints.
    stale: BTreeMap<String, Instant>,
    /// Clusters with limits of the service of which this sidecar has been given its shares.
    granted: BTreeSet<String>,
    /// Accepted, whether serving or not.
    listeners: BTreeMap<String, Accepted>,
    serving: BTreeMap<String, Serving>,
    tables: Tables,
    /// Keys that listeners name and that are fetched, by name.
    keys: BTreeMap<RemoteName, Weak<RemoteKeys>>,
    /// Of these, those that nobody fetches yet.
    new_keys: Vec<Arc<RemoteKeys>>,
    changed: bool,
}

/// What a listener that serves makes use of.
#[derive(Debug)]
struct Serving {
    /// RDS names; those that are inline have none.
    routes: Vec<String>,
    clusters: Clusters,
}

/// What is known of the names that were asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'a> {
    pub(crate) clusters: &'a TypeState,
    pub(crate) endpoints: &'a TypeState,
}

/// An accepted listener, ready to be put into a snapshot.
#[derive(Debug)]
struct Accepted {
    listener: Listener,
    /// RDS names; those that are inline have none.
    routes: Vec<String>,
    /// Of inline routes, and those that keys are fetched from.
    clusters: Clusters,
    /// Fetched before it serves, if that does not take long.
    keys: Vec<Arc<RemoteKeys>>,
    keys_until: Option<Instant>,
    warming: bool,
}

/// How long a listener waits for keys: tokens that need them are refused afterwards, and say why.
const KEYS_WITHIN: Duration = Duration::from_secs(3);

impl Accepted {
    /// Each set of keys is here, or was not to be had, or has kept it waiting for long enough.
    fn has_keys(&mut self, now: Instant) -> bool {
        let mut keys = self.keys.iter();
        if keys.all(|keys| keys.attempts.load(Ordering::Relaxed) > 0) {
            return true;
        }
        now >= *self.keys_until.get_or_insert(now + KEYS_WITHIN)
    }
}

impl Mesh {
    /// Keys that are fetched are the same in whatever form of whatever listener, so that a change costs nothing.
    fn adopt_keys(
        &mut self,
        parsed: &mut ParsedListener,
        clusters: &mut Clusters,
    ) -> Vec<Arc<RemoteKeys>> {
        self.keys.retain(|_, keys| keys.strong_count() > 0);
        let mut all = Vec::new();
        // Nobody else has it yet.
        let chains = parsed.chains.iter_mut();
        let settings = chains.filter_map(|chain| chain.settings.as_mut().and_then(Arc::get_mut));
        let filters = settings.flat_map(|all| &mut all.filters);
        let tokens = filters.filter_map(|filter| match &mut filter.filter {
            Filter::JwtAuthn(tokens) => Arc::get_mut(tokens),
            _ => None,
        });
        for tokens in tokens {
            tokens.adopt(|remote| {
                let known = self.keys.get(&remote.name).and_then(Weak::upgrade);
                let keys = known.unwrap_or_else(|| {
                    let slot = self.builder.cluster_slot(&remote.name.cluster);
                    // It is new, and so has none.
                    remote.slot.set(slot).ok();
                    self.keys
                        .insert(remote.name.clone(), Arc::downgrade(remote));
                    self.new_keys.push(Arc::clone(remote));
                    Arc::clone(remote)
                });
                clusters.insert(keys.name.cluster.to_string());
                all.push(Arc::clone(&keys));
                keys
            });
        }
        all
    }

    /// Keys that are to be fetched from now on.
    pub(crate) fn take_new_keys(&mut self) -> Vec<Arc<RemoteKeys>> {
        std::mem::take(&mut self.new_keys)
    }

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
        self.leaving.remove(&name);
        self.stale.remove(&name);
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

    /// What something leads to outlives the server's word by [`HOLD`] at most: where clusters are asked for by name, the
    /// word may come before that of what replaces them.
    pub(crate) fn remove_cluster(&mut self, name: &str, now: Instant) {
        self.forget_user(name);
        if self.clusters.remove(name).is_none() {
            return;
        }
        if self.is_led_to(name) {
            self.leaving.insert(name.to_owned(), now + HOLD);
        } else {
            self.end_cluster(name);
        }
    }

    fn end_cluster(&mut self, name: &str) {
        self.granted.remove(name);
        self.leaving.remove(name);
        self.stale.remove(name);
        self.builder.set_cluster(name, None);
        self.changed = true;
    }

    /// Whether something that serves leads there, as far as that is kept.
    fn is_led_to(&self, cluster: &str) -> bool {
        let mut listeners = self.serving.values();
        listeners.any(|serving| serving.clusters.contains(cluster)) || self.tables.lead_to(cluster)
    }

    /// Lets go of what was kept for long enough, or for nobody.
    fn let_go(&mut self, now: Instant) {
        let over = |(name, until): (&String, &Instant)| {
            (*until <= now || !self.is_led_to(name)).then(|| name.clone())
        };
        let left: Vec<String> = self.leaving.iter().filter_map(over).collect();
        let stale: Vec<String> = self.stale.iter().filter_map(over).collect();
        for name in left {
            self.end_cluster(&name);
        }
        for name in stale {
            self.stale.remove(&name);
            self.rebuild(&name);
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
        for cluster in self.users.get(name).into_iter().flatten() {
            self.stale.remove(cluster);
        }
        self.rebuild_users(name);
    }

    /// There is no such assignment.
    pub(crate) fn endpoints_missing(&mut self, name: &str, now: Instant) {
        self.assignments
            .insert(name.to_owned(), Assignment::Missing);
        for cluster in self.users.get(name).cloned().unwrap_or_default() {
            if self.is_led_to(&cluster) && self.builder.cluster(&cluster).is_some() {
                self.stale.entry(cluster).or_insert(now + HOLD);
            } else {
                self.rebuild(&cluster);
            }
        }
    }

    pub(crate) fn set_routes(&mut self, table: RouteTable, to: Clusters, now: Instant) {
        self.tables.set(table, to, now);
    }

    /// There is no such route configuration: a listener that serves with it answers 404, a new one stays closed.
    pub(crate) fn routes_missing(&mut self, name: &str) {
        if self.tables.remove(name) {
            self.builder.set_routes(name, None);
            self.changed = true;
        }
    }

    /// Whether a route configuration has its virtual hosts come as they are asked for.
    pub(crate) fn grows(&self, routes: &str) -> bool {
        self.tables.grows(routes)
    }

    /// A virtual host by its resource name, for the route configuration `routes`.
    pub(crate) fn set_host(
        &mut self,
        routes: &str,
        name: &str,
        led: (VirtualHost, Clusters),
        now: Instant,
    ) {
        self.tables.set_host(routes, name, led, now);
    }

    /// When [`Self::warm`] has more to do than a word of the server's brings about.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        let kept = self.leaving.values().chain(self.stale.values()).copied();
        let warming = self.listeners.values().filter(|accepted| accepted.warming);
        let keys = warming.filter_map(|accepted| accepted.keys_until);
        kept.chain(self.tables.held_until()).chain(keys).min()
    }

    pub(crate) fn remove_host(&mut self, routes: &str, name: &str) {
        self.tables.remove_host(routes, name);
    }

    pub(crate) fn host_serves(&self, routes: &str, name: &str) -> bool {
        let host = self.tables.host(routes, name);
        host.is_some_and(|host| host.serving().is_some())
    }

    /// Whether requests used it since the last call, or are under way to its clusters.
    pub(crate) fn host_is_used(&self, routes: &str, name: &str) -> bool {
        let Some(form) = self.tables.host(routes, name) else {
            return false;
        };
        let uses = form.serving().and_then(|host| host.uses.as_ref());
        let was_used = uses.is_some_and(outrigger_core::Uses::take);
        let mut clusters = form
            .clusters()
            .filter_map(|name| self.builder.cluster(name));
        was_used || form.is_waiting() || clusters.any(|cluster| cluster.limits.requests.used() > 0)
    }

    pub(crate) fn set_listener(&mut self, mut parsed: ParsedListener, mut clusters: Clusters) {
        let keys = self.adopt_keys(&mut parsed, &mut clusters);
        let mut names = Vec::new();
        let mut chains = Vec::with_capacity(parsed.chains.len());
        for chain in parsed.chains {
            let routes = match chain.routes {
                ParsedRoutes::Named(name) => {
                    let slot = self.builder.route_slot(&name);
                    if !names.contains(&name) {
                        names.push(name);
                    }
                    RouteSource::Named(slot)
                }
                ParsedRoutes::Inline(table) => RouteSource::Inline(Arc::new(table)),
                ParsedRoutes::Connection(route) => RouteSource::Connection(Arc::new(route)),
            };
            chains.push(FilterChain {
                tls: chain.tls,
                routes,
                settings: chain.settings,
                policies: chain.policies,
            });
        }
        let listener = Listener {
            name: parsed.name.clone(),
            address: parsed.address,
            direction: parsed.direction,
            chains: FilterChains::new(chains, parsed.lookup).behind_proxy(parsed.proxied),
            dry_run: parsed.dry_run,
            capture: Capture {
                // Its connections are the same ones.
                users: match self.listeners.get(&parsed.name) {
                    Some(known) => Arc::clone(&known.listener.capture.users),
                    None => parsed.capture.users,
                },
                ..parsed.capture
            },
        };
        self.listeners.insert(
            parsed.name,
            Accepted {
                listener,
                routes: names,
                clusters,
                keys,
                keys_until: None,
                warming: true,
            },
        );
    }

    pub(crate) fn listener_serves(&self, name: &str) -> bool {
        self.serving.contains_key(name)
    }

    /// Whether it has connections, or had one since the last call, or is not complete yet.
    pub(crate) fn listener_is_used(&self, name: &str) -> bool {
        let listener = self.listeners.get(name);
        listener.is_some_and(|one| one.warming || one.listener.capture.users.take_used())
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
        let accepted = self.listeners.values().flat_map(|l| l.routes.clone());
        let serving = self.serving.values().flat_map(|s| s.routes.clone());
        accepted.chain(serving).collect()
    }

    /// Clusters that something leads to.
    pub(crate) fn wanted_clusters(&self) -> BTreeSet<String> {
        let accepted = self.listeners.values().flat_map(|l| &l.clusters);
        let serving = self.serving.values().flat_map(|s| &s.clusters);
        let members = self.clusters.values().flat_map(|cluster| {
            let members: &[String] = match &cluster.source {
                EndpointSource::Aggregate(members) => members,
                _ => &[],
            };
            members
        });
        let listeners = accepted.chain(serving).chain(members);
        listeners.chain(self.tables.clusters()).cloned().collect()
    }

    /// SDS names in use. Our own certificate is never asked for.
    pub(crate) fn wanted_secrets(&self) -> BTreeSet<String> {
        let used = self
            .listeners
            .values()
            .flat_map(|accepted| accepted.listener.chains.iter())
            .any(|chain| chain.tls.is_some())
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
        let unused = self.tables.names().filter(|name| !wanted.contains(*name));
        let unused: Vec<String> = unused.cloned().collect();
        for name in unused {
            self.routes_missing(&name);
        }
    }

    /// Accepted listeners that do not serve yet, with the RDS names they wait for.
    pub(crate) fn warming(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.listeners
            .iter()
            .filter(|(_, accepted)| accepted.warming)
            .map(|(name, accepted)| (name.as_str(), accepted.routes.as_slice()))
    }

    /// Route configurations and virtual hosts whose newest form waits for its clusters.
    pub(crate) fn waiting_routes(&self) -> impl Iterator<Item = &str> {
        self.tables.waiting()
    }

    /// Shares were given out for the clusters of `snapshot`.
    pub(crate) fn grant(&mut self, snapshot: &Snapshot) {
        let shared = snapshot.clusters().map(|(_, cluster)| &cluster.config);
        let shared = shared.filter(|config| config.limits_scope == LimitsScope::Service);
        self.granted = shared.map(|config| config.name.clone()).collect();
    }

    /// Whether a cluster is in the snapshot and waits for its shares.
    pub(crate) fn awaits_shares(&self) -> bool {
        self.clusters.values().any(|cluster| {
            let name = &cluster.config.name;
            cluster.config.limits_scope == LimitsScope::Service
                && !self.granted.contains(name)
                && self.builder.cluster(name).is_some()
        })
    }

    /// The next snapshot, if anything changed since the last.
    pub(crate) fn take_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        std::mem::take(&mut self.changed).then(|| self.builder.build())
    }

    /// Puts into the snapshot what has become complete. `told` where clusters are asked for by name: what leads to them
    /// waits until they have settled.
    pub(crate) fn warm(&mut self, told: Option<Told<'_>>, now: Instant) {
        let (clusters, builder) = (&self.clusters, &self.builder);
        let (granted, leaving) = (&self.granted, &self.leaving);
        let standing = |name: &str| {
            let Some(told) = told else {
                return Standing::Ready;
            };
            if leaving.contains_key(name) {
                return Standing::Leaving;
            }
            let cluster = clusters.get(name);
            if builder.cluster(name).is_none() {
                return told.standing(name, cluster);
            }
            let shared = cluster.filter(|c| c.config.limits_scope == LimitsScope::Service);
            if shared.is_some() && !granted.contains(name) {
                return Standing::Pending;
            }
            if cluster.is_some_and(|cluster| told.has_no_endpoints(cluster)) {
                return Standing::Absent;
            }
            Standing::Ready
        };
        let look = Look { of: standing, now };
        let changed = self.tables.advance(&look);
        let mut ready = Vec::new();
        for (name, accepted) in &mut self.listeners {
            let has_routes = accepted.routes.iter().all(|rds| self.tables.serves(rds));
            let mut clusters = accepted.clusters.iter();
            let has_clusters = clusters.all(|name| (look.of)(name) != Standing::Pending);
            if accepted.warming && has_routes && has_clusters && accepted.has_keys(now) {
                accepted.warming = false;
                let serving = Serving {
                    routes: accepted.routes.clone(),
                    clusters: accepted.clusters.clone(),
                };
                self.serving.insert(name.clone(), serving);
                ready.push((name.clone(), accepted.listener.clone()));
            }
        }
        self.changed |= !changed.is_empty() || !ready.is_empty();
        for (name, table) in changed {
            self.builder.set_routes(&name, Some(table));
        }
        for (name, listener) in ready {
            self.builder.set_listener(&name, Some(listener));
        }
        self.let_go(now);
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
            EndpointSource::OriginalDst => Vec::new(),
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

impl Told<'_> {
    /// How a cluster stands that is not in the snapshot.
    fn standing(self, name: &str, cluster: Option<&ParsedCluster>) -> Standing {
        let status = match cluster.map(|cluster| &cluster.source) {
            None => self.clusters.status(name),
            Some(EndpointSource::Eds(eds)) => self.endpoints.status(eds),
            // It is being looked up.
            Some(EndpointSource::Static(_) | EndpointSource::Dns(_)) => None,
            Some(EndpointSource::Aggregate(_) | EndpointSource::OriginalDst) => None,
        };
        match status {
            None | Some(Status::Requested) => Standing::Pending,
            Some(_) => Standing::Absent,
        }
    }

    /// Whether the server has a cluster, and no assignment for it: not even an empty one.
    fn has_no_endpoints(self, cluster: &ParsedCluster) -> bool {
        let EndpointSource::Eds(eds) = &cluster.source else {
            return false;
        };
        let status = self.endpoints.status(eds);
        matches!(status, Some(Status::DoesNotExist | Status::Timeout))
    }
}
