//! One consistent version of everything a request reads.
//!
//! Routes name clusters by dense [`ClusterSlot`]s that stay the same for the life of the process, so an
//! endpoint change replaces one `Arc` in a vector and leaves every route table as it is.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use crate::{
    Capture, Cluster, ClusterConfig, ConnectionRoute, EndpointConfig, FilterChains, RouteTable,
    cluster::Kept,
};

/// Index of a cluster name; never reused for another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterSlot(pub u32);

/// Index of a route configuration name; never reused for another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteSlot(pub u32);

/// Which way a listener's traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From others to the application.
    Inbound,
    /// From the application to others.
    Outbound,
}

/// TLS on a listener: always mutual, always TLS 1.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownstreamTls {
    /// SDS name of the certificate, e.g. `default`.
    pub certificate: String,
    /// SDS name of the trust bundle, e.g. `ROOTCA`.
    pub validation: String,
    /// Offered application protocols, best first.
    pub alpn: Vec<String>,
}

/// Where a filter chain's routes come from.
#[derive(Clone, Debug)]
pub enum RouteSource {
    /// RDS by name; absent from the snapshot until it arrives.
    Named(RouteSlot),
    /// Inline in the listener.
    Inline(Arc<RouteTable>),
    /// No requests: connections are led as a whole.
    Connection(Arc<ConnectionRoute>),
}

/// A port to accept on.
#[derive(Clone, Debug)]
pub struct Listener {
    /// LDS name.
    pub name: String,
    /// Address to bind. Port 0 = any free one (the sidecar reports which).
    pub address: SocketAddr,
    /// Direction.
    pub direction: Direction,
    /// What is done with its connections.
    pub chains: FilterChains,
    /// What a document would do that is only tried.
    pub dry_run: Option<DryRun>,
    /// What it has to do with connections that were going elsewhere.
    pub capture: Capture,
}

impl Listener {
    /// All addresses that it is for.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.address).chain(self.capture.more_addresses.iter().copied())
    }
}

/// Who would be let in by a document that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// Connections in plain text would be.
    pub plain_text: bool,
    /// Connections under mutual TLS would be.
    pub mutual_tls: bool,
    /// Its line of YAML.
    pub position: Option<Arc<str>>,
}

/// Immutable; a request keeps one `Arc<Snapshot>` from start to end.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Rises by one with every change.
    pub version: u64,
    /// By LDS name.
    pub listeners: BTreeMap<String, Arc<Listener>>,
    /// Those that are not bound, by each address that they are for.
    unbound: Arc<BTreeMap<SocketAddr, Arc<Listener>>>,
    routes: Vec<Option<Arc<RouteTable>>>,
    clusters: Vec<Option<Arc<Cluster>>>,
}

impl Snapshot {
    /// The listener that is not bound and takes connections to exactly `destination`.
    #[must_use]
    pub fn listener_at(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        self.unbound.get(&destination)
    }

    /// The listener that is not bound and takes connections to the port of `destination` at whatever address: of its
    /// family, else one of IPv4, which is how they are named where both are meant.
    #[must_use]
    pub fn listener_of_port(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        let port = destination.port();
        let any = |ip: IpAddr| self.unbound.get(&SocketAddr::new(ip, port));
        match destination {
            SocketAddr::V4(_) => any(Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => {
                any(Ipv6Addr::UNSPECIFIED.into()).or_else(|| any(Ipv4Addr::UNSPECIFIED.into()))
            }
        }
    }

    /// The cluster in `slot`, unless it is unknown or was removed.
    #[must_use]
    pub fn cluster(&self, slot: ClusterSlot) -> Option<&Arc<Cluster>> {
        self.clusters.get(slot.0 as usize)?.as_ref()
    }

    /// The routes in `slot`, unless they have not arrived.
    #[must_use]
    pub fn routes(&self, slot: RouteSlot) -> Option<&Arc<RouteTable>> {
        self.routes.get(slot.0 as usize)?.as_ref()
    }

    /// All clusters, by slot.
    pub fn clusters(&self) -> impl Iterator<Item = (ClusterSlot, &Arc<Cluster>)> {
        (0u32..)
            .zip(&self.clusters)
            .filter_map(|(i, c)| Some((ClusterSlot(i), c.as_ref()?)))
    }
}

/// Makes the next [`Snapshot`] from the last one and what changed. One per process: it owns the names.
#[derive(Debug, Default)]
pub struct SnapshotBuilder {
    current: Snapshot,
    /// Listeners that are not bound have come, changed or gone.
    unbound_changed: bool,
    cluster_names: BTreeMap<Arc<str>, ClusterSlot>,
    /// Of clusters that were removed. As many as there are names without a cluster, which are kept anyhow.
    removed: BTreeMap<ClusterSlot, Kept>,
    route_names: BTreeMap<Arc<str>, RouteSlot>,
}

impl SnapshotBuilder {
    /// The slot of `name`, new if it was never seen.
    pub fn cluster_slot(&mut self, name: &str) -> ClusterSlot {
        if let Some(slot) = self.cluster_names.get(name) {
            return *slot;
        }
        let slot = ClusterSlot(u32::try_from(self.cluster_names.len()).unwrap_or(u32::MAX));
        self.cluster_names.insert(name.into(), slot);
        self.current.clusters.push(None);
        slot
    }

    /// The slot of the route configuration `name`, new if it was never seen.
    pub fn route_slot(&mut self, name: &str) -> RouteSlot {
        if let Some(slot) = self.route_names.get(name) {
            return *slot;
        }
        let slot = RouteSlot(u32::try_from(self.route_names.len()).unwrap_or(u32::MAX));
        self.route_names.insert(name.into(), slot);
        self.current.routes.push(None);
        slot
    }

    /// Sets or removes (`None`) a cluster.
    pub fn set_cluster(&mut self, name: &str, cluster: Option<Arc<Cluster>>) {
        let slot = self.cluster_slot(name);
        let Some(place) = self.current.clusters.get_mut(slot.0 as usize) else {
            return;
        };
        match (&place, &cluster) {
            (Some(old), None) => drop(self.removed.insert(slot, old.kept())),
            (_, Some(_)) => drop(self.removed.remove(&slot)),
            (None, None) => {}
        }
        *place = cluster;
    }

    /// Compiles and sets a cluster that takes over from the last of its name, even if that was removed in between: what
    /// still runs under the old one counts against the limits of the new one.
    pub fn put_cluster(&mut self, config: ClusterConfig, endpoints: Vec<EndpointConfig>) {
        let name = config.name.clone();
        let slot = self.cluster_slot(&name);
        let next = match (self.current.cluster(slot), self.removed.get(&slot)) {
            (None, Some(kept)) => Cluster::returned(config, endpoints, kept.clone()),
            (previous, _) => Cluster::new(config, endpoints, previous.map(|old| &**old)),
        };
        self.set_cluster(&name, Some(Arc::new(next)));
    }

    /// The cluster as it is now, e.g. to hand its state to its successor.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.current.cluster(*self.cluster_names.get(name)?)
    }

    /// Sets or removes a route table.
    pub fn set_routes(&mut self, name: &str, table: Option<Arc<RouteTable>>) {
        let slot = self.route_slot(name);
        if let Some(place) = self.current.routes.get_mut(slot.0 as usize) {
            *place = table;
        }
    }

    /// Sets or removes a listener.
    pub fn set_listener(&mut self, name: &str, listener: Option<Listener>) {
        let is_unbound = |listener: &Listener| listener.capture.unbound;
        self.unbound_changed |= listener.as_ref().is_some_and(is_unbound);
        let before = match listener {
            Some(listener) => self
                .current
                .listeners
                .insert(name.to_owned(), Arc::new(listener)),
            None => self.current.listeners.remove(name),
        };
        self.unbound_changed |= before.is_some_and(|before| is_unbound(&before));
    }

    /// The next version.
    pub fn build(&mut self) -> Arc<Snapshot> {
        self.current.version += 1;
        if std::mem::take(&mut self.unbound_changed) {
            let mut unbound = BTreeMap::new();
            for listener in self.current.listeners.values() {
                if listener.capture.unbound {
                    for address in listener.addresses() {
                        // Of two for one address, the first by name.
                        unbound
                            .entry(address)
                            .or_insert_with(|| Arc::clone(listener));
                    }
                }
            }
            self.current.unbound = Arc::new(unbound);
        }
        Arc::new(self.current.clone())
    }
}
