//! The upstream of a connection that may be one of bytes, opened before that is known: a server that speaks first has to be
//! heard to be known.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use outrigger_core::{Cluster, ClusterSlot, ConnectionRoute, Rbac};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{
    refusal::{Code, Refused},
    subject,
    upstream::{self, Target, Upstream},
};
use crate::{
    http::io::Io,
    worker::{Worker, connection::Connection},
};

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) struct Early {
    pub(super) slot: ClusterSlot,
    pub(super) cluster: Arc<Cluster>,
    pub(super) upstream: Upstream,
    /// Of the snapshot that it was chosen by.
    pub(super) version: u64,
    /// The server has spoken.
    pub(super) has_spoken: bool,
}

/// Why there is none, and whose fault that is.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(super) refused: Refused,
    pub(super) cluster: Option<(ClusterSlot, Arc<Cluster>)>,
}

impl Early {
    pub(crate) fn io(&mut self) -> &mut Io {
        &mut self.upstream.io
    }

    /// The same, with what its server has said.
    pub(crate) fn saying(mut self, said: Bytes) -> Self {
        self.has_spoken = !said.is_empty();
        self.upstream.io.put_back(said);
        self
    }
}

/// Whether access rules for connections let it through. Not counted: it is judged again when it is served.
pub(crate) fn is_allowed(connection: &Connection, route: &ConnectionRoute) -> bool {
    let subject = subject(connection);
    let allows = |rbac: &Rbac| {
        let rules = rbac.rules.as_ref();
        rules.is_none_or(|rules| rules.judge(&subject).allowed)
    };
    route.rbac.iter().all(allows)
}

/// Opens one, or says why there is none.
pub(crate) async fn open(
    worker: &Worker,
    connection: &Connection,
    route: Arc<ConnectionRoute>,
) -> Result<Early, Failed> {
    let refuse = |refused| Failed {
        refused,
        cluster: None,
    };
    let snapshot = worker.snapshot();
    let Some(weighted) = route.clusters.choose(&mut worker.rng.borrow_mut()) else {
        let refused = Refused::new(Code::ClusterUnknown, "the route names no cluster");
        return Err(refuse(refused));
    };
    let serving = {
        let rng = &mut worker.rng.borrow_mut();
        snapshot
            .serving(weighted.cluster, || worker.shared.now(), rng)
            .map(|(slot, cluster)| (slot, Arc::clone(cluster)))
    };
    let Some((slot, cluster)) = serving else {
        let message = format!(
            "the route names cluster {}, which has not arrived",
            weighted.name
        );
        return Err(refuse(Refused::new(Code::ClusterUnknown, message)));
    };
    let version = snapshot.version;
    // A connection may last for days: no snapshot is kept alive by it.
    drop(snapshot);
    let target = Target {
        slot,
        cluster: &cluster,
        route: &route,
        source: connection.remote.ip(),
        destination: connection.destination,
        ends: connection.ends(),
        direction: connection.bound.direction,
    };
    match upstream::open(worker, target).await {
        Ok(upstream) => Ok(Early {
            slot,
            upstream,
            cluster,
            version,
            has_spoken: false,
        }),
        Err(refused) => Err(Failed {
            refused,
            cluster: Some((slot, cluster)),
        }),
    }
}

/// What its caller has of it is not all there was.
pub(crate) fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "socket options were refused");
    }
}
