//! Connections that are nobody else's: one downstream connection of bytes has one to its endpoint, and both end
//! together. They count against `maxConnections` like all others, and never wait for room: what a caller of bytes would
//! see of a queue is silence.

use std::{rc::Rc, sync::Arc};

use outrigger_core::{Cluster, ClusterSlot, Endpoint};

use super::{ClusterPool, Pools, gate::Slot};
use crate::{
    connect::{self, ConnectError, Opened},
    tls::Refusal,
};

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
        let tls = if cluster.config.tls.is_some() && endpoint.config.mtls {
            let refused = |refusal| ConnectError::Tls(endpoint.config.address, refusal);
            let identity = pools.shared.identity.load_full();
            let identity = identity.ok_or_else(|| refused(Refusal::NoIdentity))?;
            let config = self.pool.tls(cluster, &identity, None);
            Some(config.map_err(refused)?)
        } else {
            None
        };
        let opened = connect::open(cluster, endpoint, tls).await?;
        pools.opened.inc();
        Ok(opened)
    }
}
