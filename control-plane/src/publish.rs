//! Puts policies, registrations and trust together into one [`World`] whenever one of them changes.
//!
//! ```text
//! changed ─► wait 5 ms (more changes come along) ─► World ─► watch channel ─► translation
//! ```
//! A start of a thousand instances is a few worlds, not a thousand; one instance is late by 5 ms.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    ca::Authority, metrics::Metrics, policies::Policies, registry::Registry, world::World,
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
}

impl Publisher {
    /// The world as it is now.
    pub(crate) fn world(&self) -> World {
        let services = self.registry.services();
        let in_force = self.policies.in_force();
        World {
            revision: in_force.revision,
            mesh: Arc::clone(&in_force.mesh),
            services,
            roots_pem: Arc::clone(self.authority.root_pem()),
            trust_domain: Arc::clone(self.authority.trust_domain()),
            domain: Arc::clone(&self.domain),
        }
    }

    /// Sends a world after each change. Runs until it is dropped.
    pub(crate) async fn run(self, worlds: watch::Sender<Arc<World>>) {
        loop {
            tokio::select! {
                () = self.registry.changed() => {}
                () = self.policies.changed() => {}
            }
            tokio::time::sleep(COALESCE).await;
            let hosts = self.registry.hosts();
            if hosts != self.policies.in_force().registered {
                let policies = Arc::clone(&self.policies);
                // A panic in there has been logged; the old mesh stays.
                drop(tokio::task::spawn_blocking(move || policies.rebuild(hosts)).await);
            }
            let world = self.world();
            self.metrics.worlds.inc();
            self.metrics
                .policy_revision
                .set(i64::try_from(world.revision).unwrap_or(i64::MAX));
            worlds.send_replace(Arc::new(world));
        }
    }
}
