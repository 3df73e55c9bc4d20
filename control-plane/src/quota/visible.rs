//! Which limits a node may lease: those of the clusters that it is sent, as they are written there.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_proto::envoy::config::cluster::v3::Cluster;
use prost::Message as _;
use prost_types::{Struct, value};

use super::allocate::{Kind, PoolKey};
use crate::{
    push::Pushed,
    translate::{NodeInfo, NodeResources},
};

/// One node's view of the mesh, and what it has been read of it.
#[derive(Debug)]
pub(super) struct Visible {
    node: NodeInfo,
    own: NodeResources,
    /// By cluster: its version, and its limits if they are the service's.
    read: BTreeMap<Arc<str>, (Arc<str>, Option<Limits>)>,
}

/// Limits of a cluster that hold for all sidecars together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Limits {
    rule: Arc<str>,
    by_kind: [(Kind, u32); 4],
}

impl Visible {
    pub(super) fn new(node: NodeInfo) -> Self {
        Self {
            own: NodeResources::of(&node),
            node,
            read: BTreeMap::new(),
        }
    }

    /// Of each cluster and limit, what it means: if the node sees the cluster, and the limit is the service's. May
    /// translate what nobody has asked for since the last push: not to be called under a lock.
    pub(super) fn limits<'a>(
        &mut self,
        pushed: &Pushed,
        named: impl IntoIterator<Item = (&'a str, Kind)>,
    ) -> Vec<Option<(PoolKey, u32)>> {
        let snapshot = pushed.shared.snapshot(&self.node, &self.own);
        let find = |(cluster, kind): (&str, Kind)| {
            let resource = snapshot.clusters.get(cluster)?;
            let fresh = self.read.get(&resource.name);
            if fresh.is_none_or(|(version, _)| *version != resource.version) {
                let limits = limits(&resource.any.value);
                self.read.insert(
                    Arc::clone(&resource.name),
                    (Arc::clone(&resource.version), limits),
                );
            }
            let (_, limits) = self.read.get(&resource.name)?;
            let limits = limits.as_ref()?;
            let (_, limit) = limits.by_kind.iter().find(|(of, _)| *of == kind)?;
            let key = PoolKey {
                cluster: Arc::clone(&resource.name),
                rule: Arc::clone(&limits.rule),
                kind,
            };
            (*limit != u32::MAX).then_some((key, *limit))
        };
        named.into_iter().map(find).collect()
    }
}

fn limits(cluster: &[u8]) -> Option<Limits> {
    // Our own bytes.
    let cluster = Cluster::decode(cluster).ok()?;
    let ours = cluster
        .metadata
        .as_ref()?
        .filter_metadata
        .get("outrigger")?;
    if text(ours, "limits_scope") != Some("SERVICE") {
        return None;
    }
    let thresholds = cluster.circuit_breakers?.thresholds.into_iter().next()?;
    let or_none = |limit: Option<u32>| limit.unwrap_or(u32::MAX);
    Some(Limits {
        rule: text(ours, "document").unwrap_or_default().into(),
        by_kind: [
            (Kind::Connections, or_none(thresholds.max_connections)),
            (Kind::Pending, or_none(thresholds.max_pending_requests)),
            (Kind::Requests, or_none(thresholds.max_requests)),
            (Kind::Retries, or_none(thresholds.max_retries)),
        ],
    })
}

fn text<'a>(from: &'a Struct, key: &str) -> Option<&'a str> {
    match &from.fields.get(key)?.kind {
        Some(value::Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::translate::testing::{Given, node};

    const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";

    fn limit(scoped: bool, kind: Kind, more: &str) -> Option<(String, u32)> {
        let mut yaml = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: reviews }
spec:
  host: reviews
  trafficPolicy: { connectionPool: { http: { http2MaxRequests: 100 } } }
"
        .to_owned();
        if scoped {
            yaml += "\
---
apiVersion: outrigger.dev/v1
kind: DestinationPolicy
metadata: { name: reviews }
spec: { host: reviews, limits: { scope: SERVICE } }
";
        }
        let given = Given::default()
            .instance("reviews", 9080, "v1", "10.0.0.1:9080")
            .instance("ratings", 9080, "v1", "10.0.0.2:9080")
            .policy("f.yaml", &(yaml + more));
        let pushed = Pushed {
            shared: Arc::new(given.shared()),
            since: Instant::now(),
        };
        let found = Visible::new(node()).limits(&pushed, [(REVIEWS, kind)]);
        let found = found.into_iter().next().flatten();
        found.map(|(key, limit)| (key.rule.to_string(), limit))
    }

    #[test]
    fn a_limit_is_leased_if_its_scope_is_the_service() {
        let found = limit(true, Kind::Requests, "");
        assert_eq!(
            found,
            Some(("DestinationRule default/reviews".to_owned(), 100))
        );
        assert_eq!(limit(true, Kind::Connections, ""), None, "it is not set");
        assert_eq!(limit(false, Kind::Requests, ""), None);
    }

    #[test]
    fn a_limit_of_a_cluster_that_the_node_does_not_see_is_not_leased() {
        let elsewhere = "\
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: { name: default }
spec: { egress: [{ hosts: [./ratings.default.svc.cluster.local] }] }
";
        assert_eq!(limit(true, Kind::Requests, elsewhere), None);
    }
}
