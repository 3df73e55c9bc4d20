//! Puts policies, registrations and trust together into one [`World`] whenever one of them changes.
//!
//! ```text
//! changed ─► wait 5 ms (more changes come along) ─► World ─► watch channel ─► translation
//! ```
//! A start of a thousand instances is a few worlds, not a thousand; one instance is late by 5 ms.

use std::{sync::Arc, time::Duration};

use outrigger_policy::OutboundTrafficPolicy;
use tokio::sync::watch;

use crate::{
    ca::Authority, config::PathNormalization, metrics::Metrics, policies::Policies,
    registry::Registry, vips::Addresses, world::World,
};

/// How long a change waits for others.
const COALESCE: Duration = Duration::from_millis(5);

/// What a world is made of.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) policies: Arc<Policies>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) domain: Arc<str>,
    pub(crate) path_normalization: PathNormalization,
    pub(crate) outbound_traffic_policy: OutboundTrafficPolicy,
    pub(crate) addresses: Arc<Addresses>,
}

impl Publisher {
    /// The world as it is now.
    pub(crate) fn world(&self) -> World {
        let services = self.registry.services();
        let in_force = self.policies.in_force();
        let vips = self.addresses.settle(&services, &in_force.mesh);
        World {
            revision: in_force.revision,
            mesh: Arc::clone(&in_force.mesh),
            services,
            roots_pem: Arc::clone(&self.authority.in_force().bundle.pem),
            trust_domain: Arc::clone(self.authority.trust_domain()),
            domain: Arc::clone(&self.domain),
            path_normalization: self.path_normalization,
            outbound_traffic_policy: self.outbound_traffic_policy,
            vip_pools: self.addresses.pools(),
            vips,
        }
    }

    /// Sends a world after each change. Runs until it is dropped.
    pub(crate) async fn run(self, worlds: watch::Sender<Arc<World>>) {
        self.addresses.store().await;
        let mut comings = None;
        let mut roots = self.authority.changes();
        loop {
            tokio::select! {
                _ = roots.changed() => {}
                () = self.registry.changed() => {}
                () = self.policies.changed() => {}
            }
            tokio::time::sleep(COALESCE).await;
            // Before the hosts, so that one that comes in between is seen the next time.
            let now = Some(self.registry.comings());
            if comings != now {
                comings = now;
                let hosts = self.registry.hosts();
                let policies = Arc::clone(&self.policies);
                // A panic in there has been logged; the old mesh stays.
                drop(tokio::task::spawn_blocking(move || policies.rebuild(hosts)).await);
            }
            let world = self.world();
            // Before anybody hears of them, so that a restart gives nobody another one.
            self.addresses.store().await;
            self.metrics.worlds.inc();
            self.metrics
                .policy_revision
                .set(i64::try_from(world.revision).unwrap_or(i64::MAX));
            worlds.send_replace(Arc::new(world));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use outrigger_policy::{HostName, Protocol};
    use tokio::time::Instant;

    use super::*;
    use crate::{config::Config, registry::Registration, store::Store, world::InstanceHealth};

    async fn publisher(dir: &tempfile::TempDir) -> Publisher {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (store, _writer) =
            Store::open(dir.path(), metrics.store_write_seconds.clone()).unwrap();
        let domain: Arc<str> = "cluster.local".into();
        let policies = Policies::load(
            store.clone(),
            &crate::policies::MeshNames::for_tests(),
            std::collections::BTreeSet::new(),
        )
        .unwrap();
        let config = Config::for_tests(dir.path());
        let pools = crate::config::VipPools::default();
        let addresses = Addresses::load(store.clone(), pools, metrics.addresses.clone());
        let addresses = Arc::new(addresses.unwrap());
        let authority = Authority::open(store, &config, time::OffsetDateTime::now_utc()).await;
        Publisher {
            policies: Arc::new(policies),
            registry: Arc::new(Registry::default()),
            authority: Arc::new(authority.unwrap()),
            metrics,
            domain,
            path_normalization: PathNormalization::Auto,
            outbound_traffic_policy: OutboundTrafficPolicy::AllowAny,
            addresses,
        }
    }

    fn register(registry: &Registry, id: &str) {
        let registration = Registration {
            service: "reviews".into(),
            namespace: "default".into(),
            id: id.into(),
            address: [10, 0, 0, 1].into(),
            port: 9080,
            target_port: 9080,
            protocol: Protocol::Http,
            labels: BTreeMap::new(),
            locality: [const { String::new() }; 3],
            weight: 1,
            ttl: Duration::from_secs(30),
            health: InstanceHealth::Healthy,
            identity: None,
        };
        let host = HostName::canonical("reviews", "default", "cluster.local");
        registry
            .register(&host, registration, Instant::now())
            .unwrap();
    }

    #[tokio::test]
    async fn a_burst_of_registrations_is_few_worlds_and_the_last_has_all() {
        let dir = tempfile::tempdir().unwrap();
        let publisher = publisher(&dir).await;
        let (worlds, mut world) = watch::channel(Arc::new(publisher.world()));
        let (registry, metrics) = (
            Arc::clone(&publisher.registry),
            Arc::clone(&publisher.metrics),
        );
        let task = tokio::spawn(publisher.run(worlds));
        for n in 0..1000 {
            register(&registry, &n.to_string());
        }
        let all = |world: &Arc<World>| {
            world
                .services
                .values()
                .any(|service| service.instances.len() == 1000)
        };
        world.wait_for(all).await.unwrap();
        assert!(metrics.worlds.get() <= 3, "{}", metrics.worlds.get());
        task.abort();
    }

    #[tokio::test]
    async fn a_new_service_is_known_to_the_policies() {
        let dir = tempfile::tempdir().unwrap();
        let publisher = publisher(&dir).await;
        let (worlds, mut world) = watch::channel(Arc::new(publisher.world()));
        let (registry, policies) = (
            Arc::clone(&publisher.registry),
            Arc::clone(&publisher.policies),
        );
        let task = tokio::spawn(publisher.run(worlds));
        register(&registry, "a");
        world
            .wait_for(|world| !world.services.is_empty())
            .await
            .unwrap();
        assert_eq!(policies.in_force().registered, registry.hosts());
        task.abort();
    }
}
