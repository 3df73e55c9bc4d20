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
    Cluster, ClusterConfig, Endpoint, EndpointConfig, EndpointId, EndpointState, Health,
    LocalityPolicy,
};
use crate::{
    Limits, RetryBudget,
    balance::{Priorities, Tier, TierSeed},
    breaker::Breakers,
    outlier::Ejector,
};

/// A name within the process only: nothing is decided by it.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Cluster {
    /// Compiles a cluster; endpoints that `previous` had keep their id and state, limits their counts.
    ///
    /// An endpoint is the same if its address is and connections to it may go on being used: same mTLS, same
    /// protocol. Weight, health, priority and labels may change. Of several endpoints with one address the
    /// first stays (Envoy); a weight of 0 counts as 1.
    #[must_use]
    pub fn new(
        config: ClusterConfig,
        endpoints: Vec<EndpointConfig>,
        previous: Option<&Self>,
    ) -> Self {
        let endpoints = identify(&config, endpoints, previous);
        let tiers = tiers(&config, &endpoints, previous);
        let limits = previous.map_or_else(
            || Arc::new(Limits::scoped(config.thresholds, config.limits_scope)),
            |previous| Arc::clone(&previous.limits),
        );
        limits.set_scoped(config.thresholds, config.limits_scope);
        let retries = previous.map_or_else(Arc::<RetryBudget>::default, |p| Arc::clone(&p.retries));
        retries.set_share(config.retry_share.percent, config.retry_share.least);
        retries.set_written(config.retry_share.written);
        Self {
            config,
            endpoints,
            limits,
            retries,
            priorities: Priorities::new(tiers),
            breakers: previous.map_or_else(Arc::<Breakers>::default, |p| Arc::clone(&p.breakers)),
            ejector: previous.map_or_else(Arc::<Ejector>::default, |p| Arc::clone(&p.ejector)),
            arrived: AtomicBool::new(false),
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
    let previous = previous
        .filter(|old| old.config.tls == config.tls && old.config.protocol == config.protocol)
        .map_or(&[][..], |old| old.endpoints.as_slice());
    endpoints
        .into_iter()
        .map(|mut endpoint| {
            endpoint.weight = endpoint.weight.max(1);
            let old = previous
                .binary_search_by_key(&endpoint.address, |old| old.config.address)
                .ok()
                .and_then(|at| previous.get(at))
                .filter(|old| old.config.mtls == endpoint.mtls);
            Arc::new(match old {
                Some(old) => {
                    // Back from being unhealthy, it warms up again, as one that was restarted has to.
                    if old.config.health != Health::Healthy && endpoint.health == Health::Healthy {
                        old.state.since.store(0, Relaxed);
                    }
                    Endpoint {
                        id: old.id,
                        config: endpoint,
                        state: Arc::clone(&old.state),
                    }
                }
                None => Endpoint {
                    id: EndpointId(NEXT_ID.fetch_add(1, Relaxed)),
                    config: endpoint,
                    state: Arc::<EndpointState>::default(),
                },
            })
        })
        .collect()
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
