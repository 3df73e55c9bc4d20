//! EDS: one `ClusterLoadAssignment` a cluster, one `LocalityLbEndpoints` a locality.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use outrigger_policy::Subset;
use outrigger_proto::envoy::config::{
    core::v3::{HealthStatus, Locality},
    endpoint::v3::{
        ClusterLoadAssignment, Endpoint as XdsEndpoint, LbEndpoint, LocalityLbEndpoints,
        lb_endpoint::HostIdentifier,
    },
};

use super::{
    any::{OUTRIGGER, address, metadata, nested, object, text},
    model::{Endpoint, Port},
};
use crate::{
    snapshot::{ResourceBytes, ResourceType},
    world::InstanceHealth,
};

/// The assignment of `cluster`: endpoints of `port`, or those of them in `subset`. Empty if there are none: then
/// the answer is "no endpoints" and not a wait for something that never comes.
pub(super) fn assignment(
    cluster: &str,
    port: &Port,
    subset: Option<&Subset>,
) -> Arc<ResourceBytes> {
    let mut localities = BTreeMap::<&[String; 3], Vec<(&SocketAddr, &Endpoint)>>::new();
    for (socket, endpoint) in &port.endpoints {
        if subset.is_none_or(|subset| subset.selects(&endpoint.labels)) {
            localities
                .entry(&endpoint.locality)
                .or_default()
                .push((socket, endpoint));
        }
    }
    let message = ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: localities
            .into_iter()
            .map(|(name, members)| locality(name, &members))
            .collect(),
        ..ClusterLoadAssignment::default()
    };
    ResourceBytes::new(ResourceType::Endpoint, cluster, &message)
}

fn locality(name: &[String; 3], members: &[(&SocketAddr, &Endpoint)]) -> LocalityLbEndpoints {
    let [region, zone, sub_zone] = name.clone();
    let weight = members
        .iter()
        .fold(0_u32, |sum, (_, member)| sum.saturating_add(member.weight));
    LocalityLbEndpoints {
        locality: Some(Locality {
            region,
            zone,
            sub_zone,
        }),
        lb_endpoints: members
            .iter()
            .map(|(socket, member)| endpoint(**socket, member))
            .collect(),
        load_balancing_weight: Some(weight),
        ..LocalityLbEndpoints::default()
    }
}

fn endpoint(socket: SocketAddr, endpoint: &Endpoint) -> LbEndpoint {
    let labels = endpoint
        .labels
        .iter()
        .map(|(key, value)| (key.as_str(), text(value)));
    let own = object([
        ("id", text(&endpoint.id)),
        ("labels", nested(object(labels))),
    ]);
    let tls = endpoint
        .identity
        .as_ref()
        .map(|_| object([("tlsMode", text("istio"))]));
    let tls = tls.map(|tls| ("envoy.transport_socket_match", tls));
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(XdsEndpoint {
            address: Some(address(socket)),
            ..XdsEndpoint::default()
        })),
        health_status: match endpoint.health {
            InstanceHealth::Healthy => HealthStatus::Healthy,
            InstanceHealth::Unhealthy => HealthStatus::Unhealthy,
            InstanceHealth::Draining => HealthStatus::Draining,
        } as i32,
        metadata: Some(metadata(tls.into_iter().chain([(OUTRIGGER, own)]))),
        load_balancing_weight: Some(endpoint.weight),
    }
}
