//! Connections that are nobody else's: one downstream connection of bytes has one to its endpoint, and both end
//! together. They count against `maxConnections` like all others, and never wait for room: what a caller of bytes would
//! see of a queue is silence.

use std::{rc::Rc, sync::Arc};

use outrigger_core::{Cluster, ClusterSlot, Endpoint};

use super::{ClusterPool, Pools, gate::Slot};
use crate::connect::{self, ConnectError, Opened, Whose};

/// The right to one connection, until dropped.
#[derive(Debug)]
pub(crate) struct Exclusive {
    pool: Rc<ClusterPool>,
    _slot: Slot,
}

/// What a connection was opened under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Under {
    /// Unix seconds of the earlier end of both certificates.
    pub(crate) expires: u64,
    /// Of our identity, if it was shown.
    pub(crate) generation: Option<u64>,
}

impl Pools {
    /// None at `maxConnections`, which is counted.
    pub(crate) fn exclusive(&self, slot: ClusterSlot, cluster: &Cluster) -> Option<Exclusive> {
        let pool = self.cluster(slot, cluster);
        let slot = pool.gate.try_exclusive()?;
        Some(Exclusive { pool, _slot: slot })
    }
}

impl Exclusive {
    /// Opens a connection to `endpoint` for `ends`; again after a failure, if wanted. Also says what it was opened under.
    pub(crate) async fn connect(
        &self,
        pools: &Pools,
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
        whose: Whose,
    ) -> Result<(Opened, Under), ConnectError> {
        let refused = |refusal| ConnectError::Tls(endpoint.config.address, refusal);
        let chosen = self.pool.client_tls(&pools.shared, cluster, endpoint, None);
        let chosen = chosen.map_err(refused)?;
        let ours = chosen.as_ref().map_or(u64::MAX, |chosen| chosen.expires);
        let generation = chosen.as_ref().and_then(|chosen| chosen.generation);
        let tls = chosen.map(|chosen| chosen.config);
        let opened = connect::open(cluster, endpoint, tls, whose, &pools.shared).await?;
        pools.opened.inc();
        let theirs = opened.peer.as_ref().map_or(u64::MAX, |peer| peer.not_after);
        let under = Under {
            expires: ours.min(theirs),
            generation,
        };
        Ok((opened, under))
    }
}
