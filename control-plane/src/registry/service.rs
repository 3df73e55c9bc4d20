//! The registry's calls, the same for gRPC and HTTP/JSON: who may, validation, state, store, counting.

use std::{net::IpAddr, sync::Arc, time::Duration};

use outrigger_policy::HostName;
use outrigger_proto::outrigger::v1 as api;
use tokio::time::Instant;

use super::{Registered, Registration, Registry, ServiceName, validate};
use crate::{
    caller::Caller,
    metrics::Metrics,
    push::{Pushed, Pushes},
    refusal::Refusal,
    spiffe::SpiffeId,
    store::{Store, StoreError, registrations},
    world::{InstanceHealth, Service},
};

/// What the calls need; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RegistryService {
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) domain: Arc<str>,
    pub(crate) trust_domain: Arc<str>,
    /// Lease of a registration that asks for none.
    pub(crate) lease_ttl: Duration,
    /// Longest time between heartbeats.
    pub(crate) heartbeat_interval: Duration,
    /// What clients are told, and have answered; None = there are none yet.
    pub(crate) pushes: Option<Pushes>,
}

/// How long a call waits for clients, at most.
const MOST_WAIT: Duration = Duration::from_secs(10);
/// Calls that may wait at a time; others are answered at once.
const MOST_WAITING: i64 = 10_000;

impl RegistryService {
    /// Registers one instance; answers when it is stored. Sidecars may hear of it before that.
    pub(crate) async fn register(
        &self,
        caller: &Caller,
        peer: Option<IpAddr>,
        request: api::RegisterRequest,
    ) -> Result<api::RegisterResponse, Refusal> {
        self.count(self.try_register(caller, peer, request).await)
    }

    async fn try_register(
        &self,
        caller: &Caller,
        peer: Option<IpAddr>,
        request: api::RegisterRequest,
    ) -> Result<api::RegisterResponse, Refusal> {
        let (name, workload) = self.may(caller, &request.service, &request.namespace)?;
        // The operator registers on behalf of somebody: by convention the service's own account.
        let identity = || match &workload {
            Some(id) => Ok(id.to_string()),
            None => SpiffeId::new(&self.trust_domain, &name.namespace, &name.service)
                .map(|id| id.to_string())
                .map_err(|message| Refusal::invalid("mtls", message)),
        };
        let registration = Registration::parse(request, &name, peer, self.lease_ttl, identity)?;
        let (id, ttl) = (registration.id.clone(), registration.ttl);
        let result = self
            .registry
            .register(&name.host, registration, Instant::now())?;
        let label = match result {
            Registered::Created => "created",
            Registered::Changed => "changed",
            Registered::Renewed => "renewed",
        };
        self.metrics.registrations.with_label_values(&[label]).inc();
        self.metrics
            .leases
            .set(i64::try_from(self.registry.leases()).unwrap_or(i64::MAX));
        if result != Registered::Renewed {
            tracing::debug!(host = %name.host, %id, label, "instance registered");
        }
        // Also if an earlier call was cut off or could not write.
        if !self.registry.is_stored(&name.host, &id) {
            self.persist(vec![(name.host.clone(), id.as_str().into())])
                .await?;
        }
        Ok(api::RegisterResponse {
            instance_id: id,
            heartbeat_interval: proto_duration(self.heartbeat_interval.min(ttl / 3)),
            ttl: proto_duration(ttl),
            host: name.host.to_string(),
        })
    }

    /// Renews a lease.
    pub(crate) async fn heartbeat(
        &self,
        caller: &Caller,
        request: api::HeartbeatRequest,
    ) -> Result<api::HeartbeatResponse, Refusal> {
        self.count(self.try_heartbeat(caller, request).await)
    }

    async fn try_heartbeat(
        &self,
        caller: &Caller,
        request: api::HeartbeatRequest,
    ) -> Result<api::HeartbeatResponse, Refusal> {
        let (name, _) = self.may(caller, &request.service, &request.namespace)?;
        validate::check_id(&request.instance_id)?;
        let health = validate::health(&request.health)?;
        let id = &request.instance_id;
        let (ttl, changed) = self
            .registry
            .heartbeat(&name.host, id, health, Instant::now())?;
        self.metrics.heartbeats.inc();
        let host = name.host;
        if changed || !self.registry.is_stored(&host, id) {
            self.persist(vec![(host.clone(), id.as_str().into())])
                .await?;
        }
        let wait = request.wait.as_ref().and_then(outrigger_proto::length);
        let heard = match (health, wait) {
            (Some(health), Some(wait)) if !wait.is_zero() => {
                self.heard(&host, id, health, wait.min(MOST_WAIT)).await
            }
            _ => false,
        };
        Ok(api::HeartbeatResponse {
            ttl: proto_duration(ttl),
            heard,
        })
    }

    /// Whether all clients that hold the endpoints of `host` have acknowledged in time that the instance is so.
    async fn heard(
        &self,
        host: &HostName,
        id: &str,
        health: InstanceHealth,
        within: Duration,
    ) -> bool {
        let Some(pushes) = &self.pushes else {
            return false;
        };
        let waiting = &self.metrics.waiting_to_be_heard;
        if waiting.get() >= MOST_WAITING {
            self.metrics.heard.with_label_values(&["overflow"]).inc();
            return false;
        }
        waiting.inc();
        let _done = Done(waiting.clone());
        let heard = async {
            let mut newest = pushes.newest.clone();
            let is_so = |pushed: &Arc<Pushed>| pushed.shared.is_so(host, id, health);
            let translation = newest.wait_for(is_so).await.ok()?.since;
            pushes.interests.have(host, translation).await;
            Some(())
        };
        let heard = matches!(tokio::time::timeout(within, heard).await, Ok(Some(())));
        let result = if heard { "all" } else { "late" };
        self.metrics.heard.with_label_values(&[result]).inc();
        heard
    }

    /// Takes an instance away at once.
    pub(crate) async fn deregister(
        &self,
        caller: &Caller,
        request: api::DeregisterRequest,
    ) -> Result<api::DeregisterResponse, Refusal> {
        self.count(self.try_deregister(caller, request).await)
    }

    async fn try_deregister(
        &self,
        caller: &Caller,
        request: api::DeregisterRequest,
    ) -> Result<api::DeregisterResponse, Refusal> {
        let (name, _) = self.may(caller, &request.service, &request.namespace)?;
        validate::check_id(&request.instance_id)?;
        let gone = self
            .registry
            .deregister(&name.host, &request.instance_id, Instant::now());
        if gone.is_ok() {
            self.metrics.deregistrations.inc();
        }
        self.metrics
            .leases
            .set(i64::try_from(self.registry.leases()).unwrap_or(i64::MAX));
        // Also if there is none: an earlier call may have been cut off or could not write.
        self.persist(vec![(name.host, request.instance_id.into())])
            .await?;
        gone?;
        Ok(api::DeregisterResponse {})
    }

    /// Whether the caller may speak for the service, before its body is read.
    pub(crate) fn check(
        &self,
        caller: &Caller,
        service: &str,
        namespace: &str,
    ) -> Result<ServiceName, Refusal> {
        self.count(self.may(caller, service, namespace).map(|(name, _)| name))
    }

    /// The services that the caller may speak for, of one namespace or of all.
    pub(crate) fn list(
        &self,
        caller: &Caller,
        namespace: &str,
    ) -> Result<Vec<Arc<Service>>, Refusal> {
        let workload = self.count(caller.may_subscribe().map_err(Refusal::from))?;
        let own = workload
            .map(|id| HostName::canonical(id.service_account(), id.namespace(), &self.domain));
        let services = self.registry.services();
        let listed = services.values().filter(|service| {
            (namespace.is_empty() || service.namespace == namespace)
                && own.as_ref().is_none_or(|own| *own == service.host)
        });
        Ok(listed.cloned().collect())
    }

    /// Which service, and whether the caller may speak for it.
    fn may(
        &self,
        caller: &Caller,
        service: &str,
        namespace: &str,
    ) -> Result<(ServiceName, Option<SpiffeId>), Refusal> {
        let name = match ServiceName::parse(service, namespace, &self.domain) {
            Ok(name) => name,
            // Who may do nothing is not told what would be well-formed.
            Err(refusal) => {
                caller.may_subscribe()?;
                return Err(refusal);
            }
        };
        let workload = caller
            .may_register(&name.namespace, &name.service)?
            .cloned();
        Ok((name, workload))
    }

    /// Removes what expires, when it expires. Runs until it is dropped.
    pub(crate) async fn sweep(self) {
        loop {
            match self.registry.next_expiry() {
                None => self.registry.sooner().await,
                Some(at) => {
                    tokio::select! {
                        () = self.registry.sooner() => continue,
                        () = tokio::time::sleep_until(at) => {}
                    }
                    self.sweep_once().await;
                }
            }
        }
    }

    async fn sweep_once(&self) {
        let expired = self.registry.expire(Instant::now());
        for (host, id) in &expired {
            tracing::warn!(%host, %id, "lease ran out");
            self.metrics.lease_expiries.inc();
        }
        self.metrics
            .leases
            .set(i64::try_from(self.registry.leases()).unwrap_or(i64::MAX));
        // What is left behind would be back after a restart, for one lease.
        if let Err(error) = self.persist(expired).await {
            tracing::warn!(%error, "expired instances not removed from the store");
        }
    }

    /// Makes the store say what the registry says *when the write runs*, so that two calls about one
    /// instance cannot be stored in the wrong order. Goes on if its caller goes away.
    async fn persist(&self, instances: Vec<(HostName, Arc<str>)>) -> Result<(), StoreError> {
        let registry = Arc::clone(&self.registry);
        // Without the domain: a change of that setting must not leave rows behind.
        let suffix = format!(".svc.{}", self.domain);
        let store = self.store.clone();
        let written = tokio::spawn(async move {
            let written = store.write({
                let registry = Arc::clone(&registry);
                move |txn| {
                    let mut written = Vec::new();
                    for (host, id) in instances {
                        let registration = registry.registration(&host, &id);
                        let name = host.as_str().trim_end_matches(suffix.as_str());
                        registrations::put(txn, name, &id, registration.as_ref())?;
                        written.extend(registration.map(|registration| (host, registration)));
                    }
                    Ok(written)
                }
            });
            for (host, registration) in written.await? {
                registry.stored(&host, &registration);
            }
            Ok(())
        });
        written.await.unwrap_or(Err(StoreError::Closed))
    }

    fn count<T>(&self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &result {
            self.metrics
                .registry_refusals
                .with_label_values(&[refusal.name()])
                .inc();
            tracing::debug!(
                reason = refusal.name(),
                message = refusal.message,
                "registry refused"
            );
        }
        result
    }
}

/// Counts one that waits until it is dropped.
struct Done(prometheus::IntGauge);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Puts what the store holds into the registry, each with a full lease from `now`.
pub(crate) fn restore(
    store: &Store,
    registry: &Registry,
    domain: &str,
    now: Instant,
) -> Result<usize, StoreError> {
    let mut restored = 0;
    for registration in registrations::load::<Registration>(store)? {
        let host = HostName::canonical(&registration.service, &registration.namespace, domain);
        // Its own lease, in full: nobody could renew it while nobody was here.
        match registry.register(&host, registration.clone(), now) {
            Ok(_) => {
                registry.stored(&host, &registration);
                restored += 1;
            }
            Err(refusal) => {
                tracing::warn!(%host, message = refusal.message, "stored instance not restored");
            }
        }
    }
    Ok(restored)
}

fn proto_duration(length: Duration) -> Option<prost_types::Duration> {
    // A lease is at most a day, so it always fits.
    prost_types::Duration::try_from(length).ok()
}

#[cfg(test)]
mod tests;
