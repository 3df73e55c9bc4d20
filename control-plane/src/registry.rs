//! The services that registered themselves, and how long each of their instances is still believed.
//!
//! ```text
//! register ─► held ──(lease runs out | deregister)──► gone
//!              ^ └─heartbeat─┘   a heartbeat for what is gone: NOT_FOUND, register again
//! ```
//! This file is the state and its rules: the caller passes `now`. [`service`] adds who may call, the store and
//! the timer; [`validate`] makes the [`Registration`]s. One plain mutex, because a change touches the service,
//! the lease and the queue of expiries together, and holds it for microseconds; readers get copies on write,
//! so that a change costs one service, not the mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outrigger_policy::HostName;
use tokio::{sync::Notify, time::Instant};
use tonic::Code;

use crate::{
    refusal::Refusal,
    sorted::SortedMap,
    world::{Instance, InstanceHealth, Service},
};

pub(crate) mod grpc;
pub(crate) mod json;
pub(crate) mod service;
pub(crate) mod validate;

pub(crate) use validate::{Registration, ServiceName};

/// How much may be registered. At a limit: `RESOURCE_EXHAUSTED`, counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Services. One without instances makes room for a new one.
    pub(crate) services: usize,
    /// Instances of one service.
    pub(crate) instances_per_service: usize,
    /// Instances of all services.
    pub(crate) instances: usize,
    /// Ports of one service. One without instances makes room for a new one.
    pub(crate) ports_per_service: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 10_000,
            instances_per_service: 10_000,
            instances: 200_000,
            ports_per_service: 64,
        }
    }
}

/// All registered services.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    limits: Limits,
    state: Mutex<State>,
    /// Told when what others see has changed.
    changed: Notify,
    /// Told when the next expiry comes sooner than it did.
    sooner: Notify,
}

/// Services by host, as in [`crate::world::World`].
pub(crate) type Services = SortedMap<HostName, Arc<Service>>;

/// What a registration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registered {
    /// There was none with this id.
    Created,
    /// There was one that said otherwise.
    Changed,
    /// There was the same: only its lease is new.
    Renewed,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<HostName, Entry>,
    /// What others see, less what is in `touched`.
    seen: Services,
    /// Hosts that have changed since they were seen.
    touched: BTreeSet<HostName>,
    /// How often a host has come or gone.
    comings: u64,
    expiries: BTreeSet<(Instant, HostName, Arc<str>)>,
}

#[derive(Debug)]
struct Entry {
    service: Arc<Service>,
    leases: BTreeMap<Arc<str>, Lease>,
    /// Last time an instance came or went.
    touched: Instant,
}

#[derive(Debug)]
struct Lease {
    expires: Instant,
    registration: Registration,
    /// The store has it as it is.
    stored: bool,
}

impl Registry {
    /// An empty one.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Adds or replaces one instance and starts its lease.
    pub(crate) fn register(
        &self,
        host: &HostName,
        registration: Registration,
        now: Instant,
    ) -> Result<Registered, Refusal> {
        let mut state = self.lock();
        state.check(host, &registration, &self.limits)?;
        let id: Arc<str> = registration.id.as_str().into();
        let expires = now + registration.ttl;
        state.make_room(host, &self.limits);
        if !state.services.contains_key(host) {
            state.comings += 1;
        }
        let entry = state.services.entry(host.clone()).or_insert_with(|| Entry {
            service: Arc::new(Service {
                host: host.clone(),
                namespace: registration.namespace.clone(),
                ports: BTreeMap::new(),
                instances: BTreeMap::new(),
            }),
            leases: BTreeMap::new(),
            touched: now,
        });
        let old = entry
            .leases
            .get(&id)
            .map(|lease| (lease.expires, &lease.registration));
        let result = match &old {
            None => Registered::Created,
            Some((_, before)) if **before == registration => Registered::Renewed,
            Some(_) => Registered::Changed,
        };
        let old_expires = old.map(|(expires, _)| expires);
        let stored = result == Registered::Renewed
            && entry.leases.get(&id).is_some_and(|lease| lease.stored);
        if result != Registered::Renewed {
            entry.put(&registration, &self.limits, now);
        }
        entry.leases.insert(
            Arc::clone(&id),
            Lease {
                expires,
                registration,
                stored,
            },
        );
        if result != Registered::Renewed {
            state.touched.insert(host.clone());
        }
        self.requeue(&mut state, host, &id, old_expires, expires);
        drop(state);
        if result != Registered::Renewed {
            self.changed.notify_one();
        }
        Ok(result)
    }

    /// Renews a lease, and notes the health if one is given. Gives the lease's length and whether the
    /// instance is now different.
    pub(crate) fn heartbeat(
        &self,
        host: &HostName,
        id: &str,
        health: Option<InstanceHealth>,
        now: Instant,
    ) -> Result<(Duration, bool), Refusal> {
        let mut state = self.lock();
        let found = state.services.get_mut(host).and_then(|entry| {
            let (id, lease) = entry.leases.get_key_value(id)?;
            Some((Arc::clone(id), lease.expires, lease.registration.ttl, entry))
        });
        let Some((id, old, ttl, entry)) = found else {
            return Err(gone(host, id));
        };
        let expires = now + ttl;
        let mut changed = false;
        if let Some(lease) = entry.leases.get_mut(&id) {
            lease.expires = expires;
            if let Some(health) = health.filter(|health| *health != lease.registration.health) {
                lease.registration.health = health;
                lease.stored = false;
                let registration = lease.registration.clone();
                entry.put(&registration, &self.limits, now);
                changed = true;
            }
        }
        if changed {
            state.touched.insert(host.clone());
        }
        self.requeue(&mut state, host, &id, Some(old), expires);
        drop(state);
        if changed {
            self.changed.notify_one();
        }
        Ok((ttl, changed))
    }

    /// Takes an instance away.
    pub(crate) fn deregister(
        &self,
        host: &HostName,
        id: &str,
        now: Instant,
    ) -> Result<(), Refusal> {
        let mut state = self.lock();
        if !state.remove(host, id, now) {
            return Err(gone(host, id));
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes away every instance whose lease has run out.
    pub(crate) fn expire(&self, now: Instant) -> Vec<(HostName, Arc<str>)> {
        let mut state = self.lock();
        let mut expired = Vec::new();
        while let Some((at, host, id)) = state.expiries.first().cloned() {
            if at > now {
                break;
            }
            state.remove(&host, &id, now);
            // `remove` takes it out of the queue with its lease; this holds without that, too.
            state.expiries.remove(&(at, host.clone(), Arc::clone(&id)));
            expired.push((host, id));
        }
        drop(state);
        if !expired.is_empty() {
            self.changed.notify_one();
        }
        expired
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.lock().expiries.first().map(|(at, ..)| *at)
    }

    /// Waits until the next expiry comes sooner than it did.
    pub(crate) async fn sooner(&self) {
        self.sooner.notified().await;
    }

    /// Waits until [`Self::services`] would say something new.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What others see. Costs what has changed since the last call.
    pub(crate) fn services(&self) -> Services {
        let mut state = self.lock();
        let State {
            services,
            seen,
            touched,
            ..
        } = &mut *state;
        for host in std::mem::take(touched) {
            match services.get(&host) {
                Some(entry) => seen.insert(host, Arc::clone(&entry.service)),
                None => seen.remove(&host),
            }
        }
        seen.clone()
    }

    /// The names of [`Self::services`].
    pub(crate) fn hosts(&self) -> BTreeSet<HostName> {
        self.lock().services.keys().cloned().collect()
    }

    /// How often a host has come or gone: as long as it is the same, so is [`Self::hosts`].
    pub(crate) fn comings(&self) -> u64 {
        self.lock().comings
    }

    /// Leases in force.
    pub(crate) fn leases(&self) -> usize {
        self.lock().expiries.len()
    }

    /// The registration as it is now, for the store.
    pub(crate) fn registration(&self, host: &HostName, id: &str) -> Option<Registration> {
        let state = self.lock();
        Some(
            state
                .services
                .get(host)?
                .leases
                .get(id)?
                .registration
                .clone(),
        )
    }

    /// Whether the store is known to say the same. Nothing, if there is no such instance.
    pub(crate) fn is_stored(&self, host: &HostName, id: &str) -> bool {
        let state = self.lock();
        let lease = state.services.get(host).and_then(|e| e.leases.get(id));
        lease.is_none_or(|lease| lease.stored)
    }

    /// Notes that the store has the instance as it was given by [`Self::registration`].
    pub(crate) fn stored(&self, host: &HostName, registration: &Registration) {
        let mut state = self.lock();
        let lease = state
            .services
            .get_mut(host)
            .and_then(|entry| entry.leases.get_mut(registration.id.as_str()));
        if let Some(lease) = lease
            && lease.registration == *registration
        {
            lease.stored = true;
        }
    }

    /// How long an instance is still believed.
    pub(crate) fn lease_left(&self, host: &HostName, id: &str, now: Instant) -> Option<Duration> {
        let state = self.lock();
        let lease = state.services.get(host)?.leases.get(id)?;
        Some(lease.expires.saturating_duration_since(now))
    }

    fn requeue(
        &self,
        state: &mut State,
        host: &HostName,
        id: &Arc<str>,
        old: Option<Instant>,
        expires: Instant,
    ) {
        let first = state.expiries.first().map(|(at, ..)| *at);
        if let Some(old) = old {
            state.expiries.remove(&(old, host.clone(), Arc::clone(id)));
        }
        state
            .expiries
            .insert((expires, host.clone(), Arc::clone(id)));
        if first.is_none_or(|first| expires < first) {
            self.sooner.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside leaves at worst one lease without its queue entry; better than an empty mesh.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(
        &self,
        host: &HostName,
        registration: &Registration,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let full = |what: String| Err(Refusal::new(Code::ResourceExhausted, what));
        let Some(entry) = self.services.get(host) else {
            let empty = |entry: &Entry| entry.leases.is_empty();
            if self.services.len() >= limits.services && !self.services.values().any(empty) {
                return full(format!(
                    "{} services are registered already",
                    limits.services
                ));
            }
            return self.check_instances(limits);
        };
        let service = &entry.service;
        if !entry.leases.contains_key(registration.id.as_str()) {
            if entry.leases.len() >= limits.instances_per_service {
                let most = limits.instances_per_service;
                return full(format!("{host} has {most} instances already"));
            }
            self.check_instances(limits)?;
        }
        match service.ports.get(&registration.port) {
            Some(protocol) if *protocol == registration.protocol => Ok(()),
            Some(_) => entry.check_protocol(host, registration),
            None => {
                let used: BTreeSet<u16> = service.instances.values().map(|i| i.port).collect();
                if used.len() < limits.ports_per_service {
                    return Ok(());
                }
                full(format!(
                    "{host} has {} ports already",
                    limits.ports_per_service
                ))
            }
        }
    }

    fn check_instances(&self, limits: &Limits) -> Result<(), Refusal> {
        if self.expiries.len() < limits.instances {
            return Ok(());
        }
        Err(Refusal::new(
            Code::ResourceExhausted,
            format!("{} instances are registered already", limits.instances),
        ))
    }

    /// Forgets the service that has been empty the longest, if a new one needs its place.
    fn make_room(&mut self, host: &HostName, limits: &Limits) {
        if self.services.len() < limits.services || self.services.contains_key(host) {
            return;
        }
        let oldest = self
            .services
            .iter()
            .filter(|(_, entry)| entry.leases.is_empty())
            .min_by_key(|(_, entry)| entry.touched)
            .map(|(host, _)| host.clone());
        if let Some(oldest) = oldest {
            self.services.remove(&oldest);
            self.comings += 1;
            self.touched.insert(oldest);
        }
    }

    fn remove(&mut self, host: &HostName, id: &str, now: Instant) -> bool {
        let Some(entry) = self.services.get_mut(host) else {
            return false;
        };
        let Some((id, lease)) = entry.leases.remove_entry(id) else {
            return false;
        };
        Arc::make_mut(&mut entry.service).instances.remove(&*id);
        entry.touched = now;
        self.touched.insert(host.clone());
        self.expiries.remove(&(lease.expires, host.clone(), id));
        true
    }
}

impl Entry {
    /// A port changes its protocol only if no other instance is on it.
    fn check_protocol(&self, host: &HostName, registration: &Registration) -> Result<(), Refusal> {
        let all = self.leases.values().map(|lease| &lease.registration);
        let on_port = |other: &&Registration| other.port == registration.port;
        let Some(other) = all
            .filter(on_port)
            .find(|other| other.id != registration.id && other.protocol != registration.protocol)
        else {
            return Ok(());
        };
        Err(Refusal {
            code: Code::FailedPrecondition,
            field: Some("protocol"),
            message: format!(
                "port {} of {host} is {} for instance {}, so it has to be for {} too",
                registration.port,
                validate::protocol_text(other.protocol),
                other.id,
                registration.id,
            ),
        })
    }

    fn put(&mut self, registration: &Registration, limits: &Limits, now: Instant) {
        self.touched = now;
        // Copies the map only if somebody still reads the last one.
        let service = Arc::make_mut(&mut self.service);
        service
            .instances
            .insert(registration.id.clone(), Arc::new(instance(registration)));
        service
            .ports
            .insert(registration.port, registration.protocol);
        if service.ports.len() > limits.ports_per_service {
            let used: BTreeSet<u16> = service.instances.values().map(|i| i.port).collect();
            service.ports.retain(|port, _| used.contains(port));
        }
    }
}

fn instance(registration: &Registration) -> Instance {
    Instance {
        id: registration.id.clone(),
        address: registration.address,
        target_port: registration.target_port,
        port: registration.port,
        labels: registration.labels.clone(),
        locality: registration.locality.clone(),
        weight: registration.weight,
        health: registration.health,
        identity: registration.identity.as_deref().map(Into::into),
    }
}

fn gone(host: &HostName, id: &str) -> Refusal {
    Refusal::new(
        Code::NotFound,
        format!(
            "{host} has no instance {id:?}: its lease has run out or it never was; register it"
        ),
    )
}

#[cfg(test)]
mod tests;
