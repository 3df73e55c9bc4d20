//! Compiles a cluster from its configuration, and takes over from its predecessor what must outlive a
//! snapshot: counts, ejections, the identity of endpoints that stay.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    Cluster, ClusterConfig, Endpoint, EndpointConfig, EndpointId, EndpointState, Health, Kept,
    LocalityPolicy,
};
use crate::{
    Limits,
    balance::{Priorities, Tier, TierSeed},
    outlier::Heeds,
};

/// A name within the process only: nothing is decided by it.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Cluster {
    /// Compiles a cluster; endpoints that `previous` had keep their state, limits their counts.
    ///
    /// An endpoint is the same if its address is. It keeps its id as well if connections to it may go on being used: same
    /// TLS, same protocol. Weight, health, priority and labels may change. Of several endpoints with one address the
    /// first stays (Envoy); a weight of 0 counts as 1.
    #[must_use]
    pub fn new(
        config: ClusterConfig,
        endpoints: Vec<EndpointConfig>,
        previous: Option<&Self>,
    ) -> Self {
        let kept = previous.map_or_else(|| Kept::fresh(&config), Self::kept);
        Self::build(config, endpoints, previous, kept)
    }

    /// Compiles a cluster whose name was there before: its endpoints are new, its limits and breakers are not.
    pub(crate) fn returned(
        config: ClusterConfig,
        endpoints: Vec<EndpointConfig>,
        kept: Kept,
    ) -> Self {
        Self::build(config, endpoints, None, kept)
    }

    /// What outlives it.
    pub(crate) fn kept(&self) -> Kept {
        Kept {
            limits: Arc::clone(&self.limits),
            retries: Arc::clone(&self.retries),
            breakers: Arc::clone(&self.breakers),
            ejector: Arc::clone(&self.ejector),
            destinations: Arc::clone(&self.destinations),
        }
    }

    fn build(
        config: ClusterConfig,
        endpoints: Vec<EndpointConfig>,
        previous: Option<&Self>,
        kept: Kept,
    ) -> Self {
        let endpoints = identify(&config, endpoints, previous);
        let tiers = tiers(&config, &endpoints, previous);
        let Kept {
            limits,
            retries,
            breakers,
            ejector,
            destinations,
        } = kept;
        limits.set_scoped(config.thresholds, config.limits_scope);
        retries.set_share(config.retry_share.percent, config.retry_share.least);
        retries.set_written(config.retry_share.written);
        Self {
            config,
            endpoints,
            limits,
            retries,
            priorities: Priorities::new(tiers),
            breakers,
            destinations,
            ejector,
            heeds: Heeds::default(),
            arrived: AtomicBool::new(false),
        }
    }
}

impl Kept {
    fn fresh(config: &ClusterConfig) -> Self {
        Self {
            limits: Arc::new(Limits::scoped(config.thresholds, config.limits_scope)),
            retries: Arc::default(),
            breakers: Arc::default(),
            ejector: Arc::default(),
            destinations: Arc::default(),
        }
    }
}

fn identify(
    config: &ClusterConfig,
    mut endpoints: Vec<EndpointConfig>,
    previous: Option<&Cluster>,
) -> Vec<Arc<Endpoint>> {
    // Sorted, so that two sidecars with the same endpoints build the same ring.
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    let same_connections = previous
        .is_some_and(|old| old.config.tls == config.tls && old.config.protocol == config.protocol);
    let previous = previous.map_or(&[][..], |old| old.endpoints.as_slice());
    endpoints
        .into_iter()
        .map(|mut endpoint| {
            endpoint.weight = endpoint.weight.max(1);
            let old = previous
                .binary_search_by_key(&endpoint.address, |old| old.config.address)
                .ok()
                .and_then(|at| previous.get(at));
            Arc::new(match old {
                Some(old) => {
                    // Back from being unhealthy, it warms up again, as one that was restarted has to.
                    if old.config.health != Health::Healthy && endpoint.health == Health::Healthy {
                        old.state.since.store(0, Relaxed);
                    }
                    let same = same_connections && old.config.mtls == endpoint.mtls;
                    Endpoint {
                        id: if same { old.id } else { next_id() },
                        config: endpoint,
                        state: Arc::clone(&old.state),
                    }
                }
                None => Endpoint {
                    id: next_id(),
                    config: endpoint,
                    state: Arc::<EndpointState>::default(),
                },
            })
        })
        .collect()
}

pub(super) fn next_id() -> EndpointId {
    EndpointId(NEXT_ID.fetch_add(1, Relaxed))
}

fn tiers(
    config: &ClusterConfig,
    endpoints: &[Arc<Endpoint>],
    previous: Option<&Cluster>,
) -> Vec<Tier> {
    let priorities: BTreeSet<u32> = endpoints.iter().map(|one| one.config.priority).collect();
    let same_table = previous.is_some_and(|old| {
        old.config.lb == config.lb
            && old.config.localities == config.localities
            && same(old, endpoints)
    });
    let tiers = previous.map_or(&[][..], |old| old.priorities.tiers.as_slice());
    priorities
        .into_iter()
        .map(|priority| {
            let all: Vec<u32> = (0_u32..)
                .zip(endpoints)
                .filter(|(_, endpoint)| endpoint.config.priority == priority)
                .map(|(place, _)| place)
                .collect();
            let seed = TierSeed {
                policy: &config.lb,
                localities: config.localities,
                own: &config.own_locality,
                previous: tiers.iter().find(|tier| tier.priority == priority),
                same_table,
            };
            Tier::new(priority, seed, endpoints, &all)
        })
        .collect()
}

/// Whether a ring or table would come out the same: health does not matter to it.
fn same(old: &Cluster, endpoints: &[Arc<Endpoint>]) -> bool {
    let by_locality = old.config.localities == LocalityPolicy::Weighted;
    old.endpoints.len() == endpoints.len()
        && old.endpoints.iter().zip(endpoints).all(|(old, new)| {
            let (old, new) = (&old.config, &new.config);
            old.address == new.address
                && old.weight == new.weight
                && old.priority == new.priority
                && (!by_locality
                    || (old.locality == new.locality && old.locality_weight == new.locality_weight))
        })
}
