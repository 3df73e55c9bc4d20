//! Connections of one worker to endpoints: kept, shared, retired. Nothing here is shared between threads but the gates.
//!
//! ```text
//! acquire ──► idle HTTP/1.1 connection | HTTP/2 connection with room
//!         ──► slot at the gate ──► turn (few open at a time; or an idle one by then) ──► connect
//!         ──► queue at the gate (bounded) ──► handed a connection, or a slot
//! release ──► waiter of this worker | pool | closed for a waiter elsewhere
//! ```

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use outrigger_core::{
    Cluster, ClusterConfig, ClusterSlot, Endpoint, EndpointId, Health, Moment, ProxyVersion,
    Snapshot, TcpKeepalive, UpstreamTls, limits::Gauge,
};
use prometheus::IntCounter;
use tokio::sync::mpsc;

use crate::{
    shared::Shared,
    telemetry::Telemetry,
    worker::{Command, PoolStats},
};

mod about;
pub(crate) mod acquire;
pub(crate) mod endpoint;
pub(crate) mod exclusive;
pub(crate) mod gate;
pub(crate) mod lease;
mod tls;
mod turns;

use endpoint::EndpointPool;
use gate::Gate;
use lease::Http1;
use tls::ClientTls;

/// All gates of the process, by cluster slot.
#[derive(Debug)]
pub(crate) struct Gates {
    workers: Arc<[mpsc::Sender<Command>]>,
    gates: Mutex<BTreeMap<ClusterSlot, Arc<Gate>>>,
}

impl Gates {
    pub(crate) fn new(workers: Arc<[mpsc::Sender<Command>]>) -> Self {
        Self {
            workers,
            gates: Mutex::new(BTreeMap::new()),
        }
    }

    /// The cluster's gate; a new one if the cluster was made anew (its limits are other objects then).
    fn of(&self, slot: ClusterSlot, cluster: &Cluster) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        match gates.get(&slot) {
            Some(gate) if Arc::ptr_eq(&gate.limits, &cluster.limits) => Arc::clone(gate),
            _ => {
                let gate = Gate::new(slot, &cluster.config.name, &cluster.limits, &self.workers);
                let gate = Arc::new(gate);
                gates.insert(slot, Arc::clone(&gate));
                gate
            }
        }
    }

    /// Makes connections follow limits that are shares, and may have changed.
    pub(crate) fn follow_shares(&self) {
        let gates = self.in_use();
        let shared = gates
            .values()
            .filter(|gate| gate.limits.connections.share().is_some());
        for gate in shared {
            gate.limit_changed();
        }
    }

    /// Connections that nobody uses, by the gauge that is a share.
    pub(crate) fn spare_of_shares(&self) -> Vec<(Arc<Gauge>, u32)> {
        let gates = self.in_use();
        let gauges = gates
            .values()
            .map(|gate| (&gate.limits.connections, gate.spare()));
        gauges
            .filter(|(gauge, _)| gauge.share().is_some())
            .map(|(gauge, spare)| (Arc::clone(gauge), spare))
            .collect()
    }

    pub(crate) fn stats(&self) -> Vec<PoolStats> {
        self.in_use()
            .values()
            .map(|gate| PoolStats {
                cluster: gate.name.clone(),
                open: gate.limits.connections.used(),
                idle: gate.spare(),
                waiting: gate.waiting(),
            })
            .collect()
    }

    /// Without those of clusters that are gone, of which no connection is left.
    fn in_use(&self) -> MutexGuard<'_, BTreeMap<ClusterSlot, Arc<Gate>>> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        // Pools, connections and those who wait each have their gate.
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        gates
    }
}

/// The pools of one worker.
#[derive(Debug)]
pub(crate) struct Pools {
    pub(crate) worker: usize,
    pub(crate) shared: Arc<Shared>,
    /// Connections opened.
    opened: IntCounter,
    gates: Arc<Gates>,
    clusters: RefCell<BTreeMap<ClusterSlot, Rc<ClusterPool>>>,
    /// Connections on their way to a waiter, by its number.
    handed: RefCell<BTreeMap<(ClusterSlot, u64), Http1>>,
}

/// Pools of one cluster.
#[derive(Debug)]
pub(crate) struct ClusterPool {
    pub(crate) gate: Arc<Gate>,
    endpoints: RefCell<BTreeMap<EndpointId, Rc<EndpointPool>>>,
    tls: RefCell<Option<ClientTls>>,
    policy: RefCell<Option<(Arc<Cluster>, Rc<Policy>)>>,
    /// The cluster whose endpoints alone it has, unless it has [`Self::grown`] since.
    followed: RefCell<Weak<Cluster>>,
    /// Which reading of TLS files new connections are opened under; None = none.
    files: Rc<Cell<Option<u64>>>,
    grown: Cell<bool>,
}

/// What a connection is opened under: with another one, it is not used any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    tls: Option<UpstreamTls>,
    proxy_protocol: Option<ProxyVersion>,
    max_duration: Option<Duration>,
    tcp_keepalive: TcpKeepalive,
}

impl Policy {
    fn of(config: &ClusterConfig) -> Self {
        Self {
            tls: config.tls.clone(),
            proxy_protocol: config.proxy_protocol,
            max_duration: config.max_connection_duration,
            tcp_keepalive: config.tcp_keepalive,
        }
    }

    fn is_of(&self, config: &ClusterConfig) -> bool {
        self.tls == config.tls
            && self.proxy_protocol == config.proxy_protocol
            && self.max_duration == config.max_connection_duration
            && self.tcp_keepalive == config.tcp_keepalive
    }
}

/// What the upstream is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Pools {
    pub(crate) fn new(
        worker: usize,
        shared: &Arc<Shared>,
        gates: &Arc<Gates>,
        telemetry: &Telemetry,
    ) -> Self {
        Self {
            opened: telemetry.metrics.upstream_connections.clone(),
            worker,
            shared: Arc::clone(shared),
            gates: Arc::clone(gates),
            clusters: RefCell::new(BTreeMap::new()),
            handed: RefCell::new(BTreeMap::new()),
        }
    }

    fn cluster(&self, slot: ClusterSlot, cluster: &Cluster) -> Rc<ClusterPool> {
        if let Some(pool) = self.clusters.borrow().get(&slot)
            && Arc::ptr_eq(&pool.gate.limits, &cluster.limits)
        {
            return Rc::clone(pool);
        }
        let pool = Rc::new(ClusterPool {
            gate: self.gates.of(slot, cluster),
            endpoints: RefCell::new(BTreeMap::new()),
            tls: RefCell::new(None),
            policy: RefCell::new(None),
            followed: RefCell::default(),
            files: Rc::default(),
            grown: Cell::new(false),
        });
        let old = self.clusters.borrow_mut().insert(slot, Rc::clone(&pool));
        if let Some(old) = old {
            old.close(self.worker);
        }
        pool
    }

    /// Closes pooled connections to endpoints that `snapshot` no longer has.
    pub(crate) fn follow(&self, snapshot: &Snapshot) {
        let pools: Vec<_> = self.clusters.borrow().values().cloned().collect();
        for pool in pools {
            let Some(cluster) = snapshot.cluster(pool.gate.slot) else {
                self.clusters.borrow_mut().remove(&pool.gate.slot);
                pool.close(self.worker);
                continue;
            };
            pool.keep_only(self.worker, cluster);
        }
    }

    /// Retires what is idle for too long, and sheds for waiters elsewhere what no message asked for.
    pub(crate) fn tick(&self, now: Moment, unix_now: u64) {
        let generation = self.shared.identity.load().as_ref().map(|i| i.generation);
        let pools: Vec<_> = self.clusters.borrow().values().cloned().collect();
        for pool in pools {
            pool.look_at_files(&self.shared);
            pool.follow_destinations(self.worker);
            for endpoint in pool.endpoints.borrow().values() {
                endpoint.retire(&pool.gate, self.worker, now, unix_now, generation);
            }
            if pool.gate.contended() {
                // The limit may have been raised: nothing else would tell those who wait.
                pool.gate.grant();
            }
            if pool.gate.contended() || pool.gate.over() > 0 {
                pool.shed(self.worker, now);
            }
        }
    }

    /// Gives up what this worker was asked for of the cluster, if somebody still waits, or there are more than the limit.
    pub(crate) fn shed(&self, slot: ClusterSlot) {
        let pool = self.clusters.borrow().get(&slot).cloned();
        let wanted = |pool: &Rc<ClusterPool>| pool.gate.contended() || pool.gate.over() > 0;
        let Some(pool) = pool else { return };
        for _ in 0..pool.gate.take_asked(self.worker) {
            if !wanted(&pool) || !pool.shed(self.worker, self.shared.now()) {
                return;
            }
        }
    }

    /// Closes everything that is idle.
    pub(crate) fn close(&self) {
        let pools = std::mem::take(&mut *self.clusters.borrow_mut());
        for pool in pools.values() {
            pool.close(self.worker);
        }
    }
}

impl ClusterPool {
    fn endpoint(&self, endpoint: &Endpoint) -> Rc<EndpointPool> {
        if let Some(pool) = self.endpoints.borrow().get(&endpoint.id) {
            return Rc::clone(pool);
        }
        let pool = Rc::new(EndpointPool::new(endpoint));
        self.grown.set(true);
        self.endpoints
            .borrow_mut()
            .insert(endpoint.id, Rc::clone(&pool));
        pool
    }

    /// Of a cluster of type `ORIGINAL_DST`: closes pools of destinations that are forgotten.
    fn follow_destinations(&self, worker: usize) {
        let cluster = self.policy.borrow().as_ref().map(|(of, _)| Arc::clone(of));
        if let Some(cluster) = cluster.filter(|cluster| cluster.config.original_dst) {
            self.keep(worker, cluster.destination_ids());
        }
    }

    /// Connections of an earlier reading are retired.
    fn look_at_files(&self, shared: &Shared) {
        let policy = self.policy.borrow();
        let tls = policy.as_ref().and_then(|(_, policy)| policy.tls.as_ref());
        if let Some(outside) = tls.and_then(|tls| tls.outside.as_ref())
            && let Ok(material) = shared.tls_files.material(outside)
        {
            self.files.set(Some(material.generation));
        }
    }

    /// The policy of `cluster`: the same object as long as it is equal.
    fn policy(&self, cluster: &Arc<Cluster>) -> Rc<Policy> {
        let mut known = self.policy.borrow_mut();
        if let Some((of, policy)) = known.as_mut() {
            if Arc::ptr_eq(of, cluster) {
                return Rc::clone(policy);
            }
            if policy.is_of(&cluster.config) {
                *of = Arc::clone(cluster);
                return Rc::clone(policy);
            }
        }
        let policy = Rc::new(Policy::of(&cluster.config));
        *known = Some((Arc::clone(cluster), Rc::clone(&policy)));
        policy
    }

    fn keep_only(&self, worker: usize, cluster: &Arc<Cluster>) {
        // Lets go of the cluster of the snapshot before.
        self.policy(cluster);
        if cluster.config.original_dst {
            // They come and go between snapshots.
            self.keep(worker, cluster.destination_ids());
            return;
        }
        // Of all clusters of a snapshot few have changed.
        let same = self.followed.borrow().as_ptr() == Arc::as_ptr(cluster);
        if !self.grown.replace(false) && same {
            return;
        }
        *self.followed.borrow_mut() = Arc::downgrade(cluster);
        // One that drains waits for us to let go of what is idle.
        let stays = cluster
            .endpoints
            .iter()
            .filter(|one| one.config.health != Health::Draining);
        let known = stays.map(|one| one.id).collect();
        self.keep(worker, known);
    }

    /// Closes pools of all endpoints but these.
    fn keep(&self, worker: usize, mut known: Vec<EndpointId>) {
        known.sort_unstable();
        let endpoints = self.endpoints.borrow();
        let gone = endpoints.keys().copied();
        let gone: Vec<EndpointId> = gone.filter(|id| known.binary_search(id).is_err()).collect();
        drop(endpoints);
        for id in gone {
            let pool = self.endpoints.borrow_mut().remove(&id);
            if let Some(pool) = pool {
                pool.close(&self.gate, worker);
            }
        }
    }

    /// Closes one idle connection, else lets one HTTP/2 connection take no new streams for a moment. False if there is
    /// none that could.
    fn shed(&self, worker: usize, now: Moment) -> bool {
        let endpoints = self.endpoints.borrow();
        let one = endpoints
            .values()
            .any(|endpoint| endpoint.shed_idle(&self.gate, worker));
        if one {
            return true;
        }
        let yielding: usize = endpoints
            .values()
            .map(|endpoint| endpoint.yielding(now))
            .sum();
        let over = usize::try_from(self.gate.over()).unwrap_or(usize::MAX);
        let (waiting, here) = self.gate.waiting_for(worker);
        if yielding >= waiting.max(over) {
            return false;
        }
        let cluster = self.policy.borrow();
        let Some((cluster, _)) = cluster.as_ref() else {
            return false;
        };
        let connect_timeout = cluster.config.connect_timeout;
        endpoints.values().any(|endpoint| {
            // Who waits for the very connections that would yield needs no other.
            let for_it = here.iter().filter(|id| **id == endpoint.id).count();
            yielding < (waiting - for_it).max(over) && endpoint.shed_shared(now, connect_timeout)
        })
    }

    fn close(&self, worker: usize) {
        let endpoints = std::mem::take(&mut *self.endpoints.borrow_mut());
        for endpoint in endpoints.values() {
            endpoint.close(&self.gate, worker);
        }
    }
}

#[cfg(test)]
mod keep_alive_tests;
#[cfg(test)]
mod tests;
