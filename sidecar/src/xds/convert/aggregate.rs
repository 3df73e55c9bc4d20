//! Clusters of clusters → the names of their members.

use outrigger_core::ClusterConfig;
use outrigger_proto::envoy::{
    config::cluster::v3::{
        self as proto,
        cluster::{CustomClusterType, LbConfig, LbPolicy},
    },
    extensions::clusters::aggregate::v3::ClusterConfig as Aggregate,
};

use super::{Converted, duration, ours, refuse, unpack};

const NAME: &str = "envoy.clusters.aggregate";
const CONFIG: &str = "envoy.extensions.clusters.aggregate.v3.ClusterConfig";
/// Members of one aggregate.
const MAX_MEMBERS: usize = 128;

/// Names of the members, the most wanted first.
pub(super) fn members(from: &CustomClusterType) -> Converted<Vec<String>> {
    if from.name != NAME {
        return refuse(
            "name",
            format!("{:?} is not supported yet; {NAME:?}", from.name),
        );
    }
    let Some(any) = &from.typed_config else {
        return refuse("typed_config", "missing");
    };
    let path = "typed_config.clusters";
    let found: Aggregate = unpack(any, CONFIG).map_err(|error| error.under("typed_config"))?;
    match found.clusters.len() {
        0 => refuse(path, "is empty; an aggregate has at least one member"),
        many if many > MAX_MEMBERS => refuse(path, format!("{many}; at most {MAX_MEMBERS}")),
        _ => Ok(found.clusters),
    }
}

/// What is left of a cluster whose requests are served by others, with their settings.
pub(super) fn config(from: &proto::Cluster) -> Converted<ClusterConfig> {
    let policy = LbPolicy::try_from(from.lb_policy);
    // Envoy takes the one, gRPC the other; both mean the same here.
    if !matches!(policy, Ok(LbPolicy::ClusterProvided | LbPolicy::RoundRobin)) {
        return refuse(
            "lb_policy",
            "must be CLUSTER_PROVIDED: each member has its own",
        );
    }
    let lb_config = match &from.lb_config {
        Some(LbConfig::MaglevLbConfig(_)) => "maglev_lb_config",
        Some(LbConfig::LeastRequestLbConfig(_)) => "least_request_lb_config",
        Some(LbConfig::RoundRobinLbConfig(_)) => "round_robin_lb_config",
        Some(LbConfig::OriginalDstLbConfig(_)) => "original_dst_lb_config",
        Some(LbConfig::RingHashLbConfig(_)) | None => "ring_hash_lb_config",
    };
    for (field, is_there) in [
        ("load_assignment", from.load_assignment.is_some()),
        ("eds_cluster_config", from.eds_cluster_config.is_some()),
        (
            "load_balancing_policy",
            from.load_balancing_policy.is_some(),
        ),
        (lb_config, from.lb_config.is_some()),
        ("common_lb_config", from.common_lb_config.is_some()),
        ("circuit_breakers", from.circuit_breakers.is_some()),
        ("outlier_detection", from.outlier_detection.is_some()),
        ("transport_socket", from.transport_socket.is_some()),
        (
            "transport_socket_matches",
            !from.transport_socket_matches.is_empty(),
        ),
        (
            "upstream_connection_options",
            from.upstream_connection_options.is_some(),
        ),
        (
            "typed_extension_protocol_options",
            !from.typed_extension_protocol_options.is_empty(),
        ),
    ] {
        if is_there {
            let message = "has no effect on an aggregate; it belongs to the clusters that it names";
            return refuse(field, message);
        }
    }
    // No connection is opened to an aggregate, but every server sends it.
    if let Some(timeout) = &from.connect_timeout {
        duration("connect_timeout", timeout)?;
    }
    let ours = ours(from.metadata.as_ref());
    Ok(ClusterConfig {
        name: from.name.clone(),
        service: ours.service.unwrap_or_else(|| from.name.clone()),
        subset: ours.subset.unwrap_or_default(),
        position: ours.position,
        ..ClusterConfig::default()
    })
}
