//! Connections that are nobody else's: one downstream connection of bytes has one to its endpoint, and both end
//! together. They count against `maxConnections` like all others, and never wait for room: what a caller of bytes would
//! see of a queue is silence.

use std::{rc::Rc, sync::Arc};

use outrigger_core::{Cluster, ClusterSlot, Endpoint};

use super::{ClusterPool, Pools, gate::Slot};
use crate::connect::{self, ConnectError, Opened};

/// The right to one connection, until dropped.
#[derive(Debug)]
pub(crate) struct Exclusive {
    pool: Rc<ClusterPool>,
    _slot: Slot,
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
    /// Opens a connection to `endpoint`; again after a failure, if wanted.
    pub(crate) async fn connect(
        &self,
        pools: &Pools,
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
    ) -> Result<Opened, ConnectError> {
        let refused = |refusal| ConnectError::Tls(endpoint.config.address, refusal);
        let chosen = self.pool.client_tls(&pools.shared, cluster, endpoint, None);
        let tls = chosen.map_err(refused)?.map(|chosen| chosen.config);
        let opened = connect::open(cluster, endpoint, tls).await?;
        pools.opened.inc();
        Ok(opened)
    }
}
