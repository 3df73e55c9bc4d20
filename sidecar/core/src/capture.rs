//! What listeners and clusters know of connections that were going elsewhere and were redirected to this sidecar.
//!
//! ```text
//! virtualOutbound (bound, hands over) ──► <ip>_<port> ──► 0.0.0.0_<port> ──► its own chains    (listeners that are not bound)
//! ```
//! Source: Envoy `use_original_dst`, `bind_to_port`, clusters of type `ORIGINAL_DST`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{Cidr, Endpoint, EndpointConfig, EndpointId, Moment, NoEndpoint};

/// What a listener has to do with connections that were going elsewhere. Default: nothing, it is bound as all are.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// It is for these as well.
    pub more_addresses: Vec<SocketAddr>,
    /// It is not bound, and takes what another hands over.
    pub unbound: bool,
    /// It gives connections to the listener that is for their original destination, if there is one.
    pub hands_over: bool,
    /// A connection's destination is where it was going before it was redirected.
    pub restores: bool,
    /// Its socket takes connections to addresses that are not this host's (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// Destinations whose listeners come as they are asked for. None unless it hands over.
    pub mesh_addresses: Arc<[Cidr]>,
    /// No address has a listener of its own with its port.
    pub alone: bool,
    /// By whom it is used; kept over its changes.
    pub users: Arc<Users>,
}

impl Capture {
    /// Whether the listener of `destination` is to be asked for.
    #[must_use]
    pub fn asks_for(&self, destination: SocketAddr) -> bool {
        let mut ranges = self.mesh_addresses.iter();
        ranges.any(|range| range.contains(destination.ip()))
    }
}

/// Connections of a listener.
#[derive(Debug, Default)]
pub struct Users {
    open: AtomicUsize,
    came: AtomicBool,
}

impl Users {
    /// One connection, until the guard is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InUse {
        self.open.fetch_add(1, Relaxed);
        self.came.store(true, Relaxed);
        InUse(Arc::clone(self))
    }

    /// Whether it has connections, or had one since the last call.
    pub fn take_used(&self) -> bool {
        self.came.swap(false, Relaxed) || self.open.load(Relaxed) > 0
    }
}

/// A connection of a listener.
#[derive(Debug)]
pub struct InUse(Arc<Users>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// Destinations that a cluster of type `ORIGINAL_DST` has at a time. Each has a pool of its own.
pub const MAX_DESTINATIONS: usize = 4_096;
/// How long one is remembered that nobody uses.
const UNUSED_FOR_MS: u64 = 60_000;

/// The endpoints of a cluster of type `ORIGINAL_DST`: where its connections were going. Locked for the look-up of one
/// address.
#[derive(Debug, Default)]
pub(crate) struct Destinations(Mutex<BTreeMap<SocketAddr, Known>>);

#[derive(Debug)]
struct Known {
    endpoint: Arc<Endpoint>,
    used: Moment,
}

impl Destinations {
    /// The endpoint at `to`.
    ///
    /// # Errors
    /// [`NoEndpoint::TooManyDestinations`].
    pub(crate) fn at(
        &self,
        to: SocketAddr,
        now: Moment,
        id: impl FnOnce() -> EndpointId,
    ) -> Result<Arc<Endpoint>, NoEndpoint> {
        let mut known = self.lock();
        if let Some(known) = known.get_mut(&to) {
            known.used = now;
            return Ok(Arc::clone(&known.endpoint));
        }
        if known.len() >= MAX_DESTINATIONS {
            let unused = known.iter().filter(|(_, one)| one.is_free());
            let oldest = unused
                .min_by_key(|(_, one)| one.used)
                .map(|(address, _)| *address);
            known.remove(&oldest.ok_or(NoEndpoint::TooManyDestinations)?);
        }
        let endpoint = Arc::new(Endpoint {
            id: id(),
            config: EndpointConfig::plain(to),
            state: Arc::default(),
        });
        let one = Known {
            endpoint: Arc::clone(&endpoint),
            used: now,
        };
        known.insert(to, one);
        Ok(endpoint)
    }

    /// Those of now.
    pub(crate) fn ids(&self) -> Vec<EndpointId> {
        self.lock().values().map(|one| one.endpoint.id).collect()
    }

    /// Forgets what nobody has used for long enough.
    pub(crate) fn sweep(&self, now: Moment) {
        self.lock()
            .retain(|_, one| !one.is_free() || now.0.saturating_sub(one.used.0) < UNUSED_FOR_MS);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_free(&self) -> bool {
        self.endpoint.state.active_requests.load(Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cluster, ClusterConfig};

    fn cluster() -> Cluster {
        let config = ClusterConfig {
            name: "PassthroughCluster".to_owned(),
            original_dst: true,
            ..ClusterConfig::default()
        };
        Cluster::new(config, Vec::new(), None)
    }

    fn to(number: usize) -> SocketAddr {
        let [a, b] = u16::try_from(number).unwrap().to_be_bytes();
        SocketAddr::from(([10, 0, a, b], 443))
    }

    #[test]
    fn a_connection_goes_where_it_was_going_and_nowhere_if_it_was_not_redirected() {
        let cluster = cluster();
        let now = Moment(1);
        let picked = cluster.toward(Some(to(1)), now).unwrap();
        assert_eq!(picked.endpoint.config.address, to(1));
        let again = cluster.toward(Some(to(1)), now).unwrap();
        assert_eq!(again.endpoint.id, picked.endpoint.id, "one pool");
        let other = cluster.toward(Some(to(2)), now).unwrap();
        assert_ne!(other.endpoint.id, picked.endpoint.id);
        let none = cluster.toward(None, now).unwrap_err();
        assert_eq!(none, NoEndpoint::NotRedirected);
    }

    #[test]
    fn destinations_are_bounded_and_those_in_use_stay() {
        let cluster = cluster();
        let mut busy = Vec::new();
        for number in 0..MAX_DESTINATIONS {
            let moment = Moment(u64::try_from(number).unwrap());
            let picked = cluster.toward(Some(to(number)), moment).unwrap();
            if number != 7 {
                busy.push(picked.endpoint.begin());
            }
        }
        let now = Moment(10_000);
        assert!(
            cluster.toward(Some(to(5_000)), now).is_ok(),
            "in place of 7"
        );
        let ids = cluster.destination_ids();
        assert_eq!(ids.len(), MAX_DESTINATIONS);
        let last = cluster.toward(Some(to(5_000)), now).unwrap();
        busy.push(last.endpoint.begin());
        let none = cluster.toward(Some(to(6_000)), now).unwrap_err();
        assert_eq!(none, NoEndpoint::TooManyDestinations);
        busy.clear();
        cluster.sweep(Moment(10_000 + UNUSED_FOR_MS));
        assert_eq!(cluster.destination_ids(), []);
    }

    #[test]
    fn a_listener_is_used_while_it_has_a_connection_or_had_one_since_the_last_look() {
        let users = Arc::<Users>::default();
        assert!(!users.take_used());
        let connection = users.begin();
        assert!(users.take_used());
        assert!(users.take_used());
        drop(connection);
        drop(users.begin());
        assert!(users.take_used());
        assert!(!users.take_used());
    }
}
