//! Where a connection goes that is not HTTP. Source: Envoy `TcpProxy`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use xxhash_rust::xxh64::xxh64;

use crate::{ClusterChoice, ClusterSlot, HeaderEdits, Rbac, WeightedCluster};

/// Where one connection goes.
#[derive(Clone, Debug)]
pub struct ConnectionRoute {
    /// The line of YAML that decided, if a document did.
    pub position: Option<Arc<str>>,
    /// Where to.
    pub clusters: ClusterChoice,
    /// Ends a connection on which nothing has moved for so long; None = never.
    pub idle_timeout: Option<Duration>,
    /// Ends a connection of this age; None = never.
    pub max_duration: Option<Duration>,
    /// Tries to connect, each to another endpoint. At least 1.
    pub attempts: u32,
    /// The source's address is what a consistent hash takes.
    pub hash_source_ip: bool,
    /// Who may connect: all of them have to agree.
    pub rbac: Vec<Rbac>,
}

impl ConnectionRoute {
    /// What a consistent hash takes of a connection from `source`, equal to Envoy's; None = chance.
    #[must_use]
    pub fn hash(&self, source: IpAddr) -> Option<u64> {
        self.hash_source_ip
            .then(|| xxh64(source.to_string().as_bytes(), 0))
    }
}

impl WeightedCluster {
    /// A share without edits of headers.
    #[must_use]
    pub fn plain(cluster: ClusterSlot, name: &str, weight: u32) -> Self {
        Self {
            cluster,
            name: name.into(),
            weight,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(position: &str) -> ConnectionRoute {
        let cluster = WeightedCluster::plain(ClusterSlot(0), "db", 1);
        ConnectionRoute {
            position: Some(position.into()),
            clusters: ClusterChoice::new(vec![cluster]).unwrap(),
            idle_timeout: None,
            max_duration: None,
            attempts: 1,
            hash_source_ip: true,
            rbac: Vec::new(),
        }
    }

    #[test]
    fn one_source_is_one_hash() {
        let route = route("a");
        let of = |ip: [u8; 4]| route.hash(IpAddr::from(ip));
        assert_eq!(of([10, 0, 0, 1]), Some(xxh64(b"10.0.0.1", 0)));
        assert_ne!(of([10, 0, 0, 1]), of([10, 0, 0, 2]));
    }
}
