//! Which address each service has, that redirected connections go to and names resolve to.
//!
//! ```text
//! a host comes ─► hash of its name ─► taken? the next one ─► given ──(it goes)──► resting, an hour ──► free
//!                                                              ^──(it comes back)──┘
//! ```
//! An address never moves while its service lives, and is nobody else's for an hour afterwards: names are remembered
//! and connections last. By hash, so that a control plane without its store gives nearly everybody the same again.
//! [`Pool`] is the state and its rules: the caller passes the time. [`Addresses`] adds the store.
//! Source: Istio's address auto-allocation for ServiceEntries (pools, hash, probing).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use outrigger_policy::{HostName, Mesh, Resolution, ServiceEntry, Subnet};
use prometheus::IntGaugeVec;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};
use xxhash_rust::xxh64::xxh64;

use crate::{
    config::VipPools,
    registry::Services,
    sorted::SortedMap,
    store::{Store, StoreError, unix_ms, vips as stored},
};

/// How long an address rests after its service: names are remembered for 30 s, connections last longer.
const REST: Duration = Duration::from_secs(60 * 60);

/// What hosts have, by name.
pub(crate) type Vips = SortedMap<HostName, Vip>;

/// Addresses of one host; of a family whose pool is used up, none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vip {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) v4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Vip {
    /// Both, IPv4 first.
    pub(crate) fn all(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::V4);
        v4.into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// What is stored of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) vip: Vip,
    /// Since when there is no such host; None = there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) left_ms: Option<u64>,
}

/// The addresses of one family, as numbers from 0.
#[derive(Debug)]
struct Family {
    /// How many there are, as far as we count.
    size: u64,
    /// Not for services: the network's own, its last, and those that sidecars try their redirection with.
    reserved: BTreeSet<u64>,
    taken: BTreeMap<u64, HostName>,
}

impl Family {
    /// One of `bits` for hosts.
    fn new(bits: u32, probe_at: impl Fn(u64) -> u64) -> Self {
        // Nobody has more services than that; the rest of a large network stays empty.
        let size = 1_u64 << bits.min(48);
        let reserved = [0, size - 1, probe_at(size)];
        Self {
            size,
            reserved: reserved.into(),
            taken: BTreeMap::new(),
        }
    }

    /// The address for a host with this hash: its own, or the next that is free.
    fn take(&mut self, host: &HostName, hash: u64) -> Option<u64> {
        let used = self.taken.len() + self.reserved.len();
        if u64::try_from(used).map_or(true, |used| used >= self.size) {
            return None;
        }
        let mut at = hash % self.size;
        // One is free.
        while self.reserved.contains(&at) || self.taken.contains_key(&at) {
            at = (at + 1) % self.size;
        }
        self.taken.insert(at, host.clone());
        Some(at)
    }

    /// Notes that `host` has it. False if it cannot.
    fn claim(&mut self, host: &HostName, at: u64) -> bool {
        let free = at < self.size && !self.reserved.contains(&at) && !self.taken.contains_key(&at);
        if free {
            self.taken.insert(at, host.clone());
        }
        free
    }
}

/// All addresses.
#[derive(Debug)]
pub(crate) struct Pool {
    pools: VipPools,
    v4: Family,
    v6: Family,
    records: BTreeMap<HostName, Record>,
    given: Vips,
    /// Hosts that miss an address of some family.
    missing: BTreeSet<HostName>,
}

impl Pool {
    /// With what was stored, as far as it belongs to these networks.
    pub(crate) fn new(
        pools: VipPools,
        records: impl IntoIterator<Item = (String, Record)>,
    ) -> Self {
        let mut pool = Self {
            pools,
            v4: Family::new(32 - u32::from(pools.v4.prefix.min(32)), |size| size - 2),
            v6: Family::new(128 - u32::from(pools.v6.prefix.min(128)), |_| 0xffff),
            records: BTreeMap::new(),
            given: Vips::default(),
            missing: BTreeSet::new(),
        };
        // Those that are there first: an address that two have (of another network's time) is theirs.
        let (living, resting): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|(_, record)| record.left_ms.is_none());
        for (host, record) in living.into_iter().chain(resting) {
            pool.restore(HostName::canonical(&host, "", ""), record);
        }
        pool
    }

    fn restore(&mut self, host: HostName, mut record: Record) {
        let v4 = record.vip.v4.and_then(|v4| self.number4(v4));
        if !v4.is_some_and(|at| self.v4.claim(&host, at)) {
            record.vip.v4 = None;
        }
        let v6 = record.vip.v6.and_then(|v6| self.number6(v6));
        if !v6.is_some_and(|at| self.v6.claim(&host, at)) {
            record.vip.v6 = None;
        }
        if record.left_ms.is_none() {
            self.given.insert(host.clone(), record.vip);
        }
        self.records.insert(host, record);
    }

    /// Gives all of `wanted` their addresses and has those of others rest. What has changed since, for the store.
    pub(crate) fn settle(
        &mut self,
        wanted: &BTreeSet<HostName>,
        now_ms: u64,
    ) -> BTreeMap<HostName, Option<Record>> {
        let mut changed = BTreeMap::new();
        self.free(now_ms, &mut changed);
        let gone = self
            .records
            .iter()
            .filter(|(host, record)| record.left_ms.is_none() && !wanted.contains(*host));
        let gone: Vec<HostName> = gone.map(|(host, _)| host.clone()).collect();
        for host in gone {
            if let Some(record) = self.records.get_mut(&host) {
                record.left_ms = Some(now_ms);
                changed.insert(host.clone(), Some(record.clone()));
            }
            self.given.remove(&host);
        }
        self.missing.clear();
        for host in wanted {
            if let Some(record) = self.give(host) {
                changed.insert(host.clone(), Some(record));
            }
        }
        changed
    }

    /// What is new of it.
    fn give(&mut self, host: &HostName) -> Option<Record> {
        let before = self.records.get(host);
        let mut vip = before.map(|record| record.vip).unwrap_or_default();
        let hash = xxh64(host.as_str().as_bytes(), 0);
        if vip.v4.is_none() {
            let at = self.v4.take(host, hash);
            vip.v4 = at.map(|at| self.address4(at));
        }
        if vip.v6.is_none() {
            let at = self.v6.take(host, hash);
            vip.v6 = at.map(|at| self.address6(at));
        }
        if vip.v4.is_none() || vip.v6.is_none() {
            self.missing.insert(host.clone());
        }
        let record = Record { vip, left_ms: None };
        if before == Some(&record) {
            return None;
        }
        self.records.insert(host.clone(), record.clone());
        self.given.insert(host.clone(), vip);
        Some(record)
    }

    /// Lets go of what has rested.
    fn free(&mut self, now_ms: u64, changed: &mut BTreeMap<HostName, Option<Record>>) {
        let rest = u64::try_from(REST.as_millis()).unwrap_or(u64::MAX);
        let rested = self.records.iter().filter(|(_, record)| {
            record
                .left_ms
                .is_some_and(|left| now_ms.saturating_sub(left) >= rest)
        });
        let rested: Vec<HostName> = rested.map(|(host, _)| host.clone()).collect();
        for host in rested {
            self.records.remove(&host);
            changed.insert(host, None);
        }
        if !changed.is_empty() {
            let records = &self.records;
            self.v4.taken.retain(|_, host| records.contains_key(host));
            self.v6.taken.retain(|_, host| records.contains_key(host));
        }
    }

    /// What hosts have.
    pub(crate) fn given(&self) -> Vips {
        self.given.clone()
    }

    fn address4(&self, at: u64) -> Ipv4Addr {
        let base = match self.pools.v4.address {
            IpAddr::V4(base) => base.to_bits(),
            IpAddr::V6(_) => 0,
        };
        // Fewer than 32 bits of it are a host's.
        (base | u32::try_from(at).unwrap_or_default()).into()
    }

    fn address6(&self, at: u64) -> Ipv6Addr {
        let base = match self.pools.v6.address {
            IpAddr::V6(base) => base.to_bits(),
            IpAddr::V4(_) => 0,
        };
        (base | u128::from(at)).into()
    }

    fn number4(&self, address: Ipv4Addr) -> Option<u64> {
        let own = self.pools.v4.contains(address.into());
        own.then(|| u64::from(address.to_bits() ^ self.address4(0).to_bits()))
    }

    fn number6(&self, address: Ipv6Addr) -> Option<u64> {
        let own = self.pools.v6.contains(address.into());
        own.then(|| u64::try_from(address.to_bits() ^ self.address6(0).to_bits()).ok())?
    }
}

/// The hosts that an address of ours is for: not those that documents give one, those whose names stand for many, and
/// those that are called where the application says.
pub(crate) fn wanted(services: &Services, mesh: &Mesh) -> BTreeSet<HostName> {
    let entries = mesh.service_entries.iter();
    let all = services.keys().chain(entries.map(|(host, _)| host));
    let wanted = all.filter(|host| !host.is_wildcard() && !has_own(mesh, host));
    wanted.cloned().collect()
}

fn has_own(mesh: &Mesh, host: &HostName) -> bool {
    let own = |entry: &ServiceEntry| {
        !entry.addresses.is_empty() || entry.resolution == Resolution::AsConnected
    };
    let mut entries = mesh.service_entries.get(host).into_iter().flatten();
    entries.any(|(_, entry)| own(entry))
}

/// What redirected connections to `host` go to: what documents give it, else what it has of the pools. The first names
/// it; IPv4 comes first.
pub(crate) fn addresses(mesh: &Mesh, vips: &Vips, host: &str) -> Vec<Subnet> {
    let entries = mesh.service_entries.get(host).into_iter().flatten();
    let written = entries.flat_map(|(_, entry)| &entry.addresses);
    let mut written: Vec<Subnet> = written.map(|at| at.value).collect();
    if written.is_empty() {
        let vip = vips.get(host).copied().unwrap_or_default();
        return vip.all().map(Subnet::from).collect();
    }
    // As written, but for that.
    written.sort_by_key(|net| net.address.is_ipv6());
    let mut seen = BTreeSet::new();
    written.retain(|net| seen.insert(*net));
    written
}

/// A pool that survives.
#[derive(Debug)]
pub(crate) struct Addresses {
    store: Store,
    state: Mutex<State>,
    metric: IntGaugeVec,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    /// What the pool was settled for: `services` and `mesh` are compared by what they share.
    settled: Option<(Services, Arc<Mesh>)>,
    /// What the store does not have.
    unstored: BTreeMap<HostName, Option<Record>>,
}

impl Addresses {
    /// As they were. Blocks on the disk.
    pub(crate) fn load(
        store: Store,
        pools: VipPools,
        metric: IntGaugeVec,
    ) -> Result<Self, StoreError> {
        let state = State {
            pool: Pool::new(pools, stored::load(&store)?),
            settled: None,
            unstored: BTreeMap::new(),
        };
        Ok(Self {
            store,
            state: Mutex::new(state),
            metric,
        })
    }

    /// Where they come from.
    pub(crate) fn pools(&self) -> VipPools {
        self.lock().pool.pools
    }

    /// What hosts have, as of the last time.
    pub(crate) fn given(&self) -> Vips {
        self.lock().pool.given()
    }

    /// Those of the hosts that there are now.
    pub(crate) fn settle(&self, services: &Services, mesh: &Arc<Mesh>) -> Vips {
        let mut state = self.lock();
        if state.is_settled(services, mesh) {
            return state.pool.given();
        }
        let before = state.pool.missing.len();
        let wanted = wanted(services, mesh);
        let changed = state.pool.settle(&wanted, unix_ms(SystemTime::now()));
        state.unstored.extend(changed);
        state.settled = Some((services.clone(), Arc::clone(mesh)));
        let pool = &state.pool;
        if let Some(first) = pool
            .missing
            .first()
            .filter(|_| before != pool.missing.len())
        {
            warn!(
                services = pool.missing.len(),
                first = %first,
                v4 = %pool.pools.v4,
                v6 = %pool.pools.v6,
                "services have no address for redirected connections: all are taken; --vip-cidr gives more"
            );
        }
        let count = |state: &str, count: usize| {
            let gauge = self.metric.with_label_values(&[state]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        count("given", pool.given.len());
        count("resting", pool.records.len() - pool.given.len());
        count("missing", pool.missing.len());
        pool.given()
    }

    /// Writes what has changed; what could not be written is tried again the next time.
    pub(crate) async fn store(&self) {
        let unstored = self.lock().unstored.clone();
        if unstored.is_empty() {
            return;
        }
        let records = unstored.clone();
        let written = self.store.write(move |txn| {
            let records = records.iter();
            stored::put(
                txn,
                records.map(|(host, record)| (host.as_str(), record.as_ref())),
            )
        });
        match written.await {
            Ok(()) => {
                let mut state = self.lock();
                state
                    .unstored
                    .retain(|host, record| unstored.get(host) != Some(record));
            }
            Err(error) => error!(%error, "addresses of services are not stored"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether there are the same hosts as the last time.
    fn is_settled(&self, services: &Services, mesh: &Arc<Mesh>) -> bool {
        self.settled.as_ref().is_some_and(|(seen, of)| {
            let changed = || services.changed_since(seen, Arc::ptr_eq);
            Arc::ptr_eq(of, mesh)
                && changed()
                    .iter()
                    .all(|host| services.contains_key(host) == seen.contains_key(host))
        })
    }
}

#[cfg(test)]
mod tests;
