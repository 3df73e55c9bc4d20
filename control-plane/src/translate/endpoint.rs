//! EDS: one `ClusterLoadAssignment` a cluster, one `LocalityLbEndpoints` a locality and priority.

use std::{net::SocketAddr, sync::Arc};

use outrigger_policy::Subset;
use outrigger_proto::envoy::config::{
    core::v3::{HealthStatus, Locality as XdsLocality},
    endpoint::v3::{
        ClusterLoadAssignment, Endpoint as XdsEndpoint, LbEndpoint, LocalityLbEndpoints,
        lb_endpoint::HostIdentifier,
    },
};

use super::{
    any::{OUTRIGGER, address, metadata, nested, object, text},
    caller::Labels,
    locality::{Group, Locality, Located, Place, Preference, plain},
    model::{Endpoint, Host},
};
use crate::{
    snapshot::{ResourceBytes, ResourceType},
    world::InstanceHealth,
};

/// What one cluster is assigned: endpoints of a port, or those of them in a subset. Empty if there are none: then
/// the answer is "no endpoints" and not a wait for something that never comes.
#[derive(Debug)]
pub(super) struct Assignment {
    pub(super) cluster: String,
    pub(super) port: u16,
    pub(super) subset: Option<Subset>,
    /// None = all callers get the same.
    pub(super) preference: Option<Preference>,
}

/// An endpoint and where it is reached.
type Member<'a> = (&'a SocketAddr, &'a Endpoint);

impl Assignment {
    /// For callers that prefer nothing.
    pub(super) fn plain(&self, host: &Host) -> Arc<ResourceBytes> {
        self.of(plain(self.members(host)))
    }

    /// For callers at `place`.
    pub(super) fn at(&self, place: &Place, host: &Host) -> Arc<ResourceBytes> {
        match &self.preference {
            Some(preference) => self.of(preference.arrange(place, self.members(host))),
            None => self.plain(host),
        }
    }

    /// Whether two callers may get different ones.
    pub(super) fn depends_on_place(&self, host: &Host) -> bool {
        let preference = self.preference.as_ref();
        preference.is_some_and(|preference| preference.matters(self.members(host)))
    }

    fn members<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = Member<'a>> {
        let port = host.ports.get(&self.port);
        let all = port.into_iter().flat_map(|port| &port.endpoints);
        all.filter(|(_, endpoint)| {
            let subset = self.subset.as_ref();
            subset.is_none_or(|subset| subset.selects(&endpoint.labels))
        })
    }

    fn of(&self, groups: Vec<Group<Member<'_>>>) -> Arc<ResourceBytes> {
        let message = ClusterLoadAssignment {
            cluster_name: self.cluster.clone(),
            endpoints: groups.into_iter().map(locality).collect(),
            ..ClusterLoadAssignment::default()
        };
        ResourceBytes::new(ResourceType::Endpoint, &self.cluster, &message)
    }
}

impl Located for Member<'_> {
    fn locality(&self) -> &Locality {
        &self.1.locality
    }

    fn labels(&self) -> &Labels {
        &self.1.labels
    }

    fn weight(&self) -> u32 {
        self.1.weight
    }
}

fn locality(group: Group<Member<'_>>) -> LocalityLbEndpoints {
    let [region, zone, sub_zone] = group.locality;
    LocalityLbEndpoints {
        locality: Some(XdsLocality {
            region,
            zone,
            sub_zone,
        }),
        lb_endpoints: group
            .members
            .into_iter()
            .map(|(socket, member)| endpoint(*socket, member))
            .collect(),
        load_balancing_weight: Some(group.weight),
        priority: group.priority,
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
        .filter(|_| !endpoint.plain)
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
