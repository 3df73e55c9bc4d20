//! CDS: one cluster a port and subset of every host, and the cluster of the node's own application.

mod balancing;
mod connection;
mod limits;
mod own;

use std::{sync::Arc, time::Duration};

use outrigger_policy::{Client, MergedDestinationRule, Mesh, Protocol, Subset, TrafficPolicy};
use outrigger_proto::envoy::config::{
    cluster::v3::{
        CircuitBreakers, Cluster,
        cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy},
    },
    endpoint::v3::{
        ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
        lb_endpoint::HostIdentifier,
    },
};

use super::{
    any::{OUTRIGGER, address, ads, duration, metadata, object, text},
    endpoint::Assignment,
    locality::Preference,
    model::{Host, Port},
    node::Inbound,
    policy::effective,
    proxy_protocol, tls,
};
use crate::snapshot::{ResourceBytes, ResourceType};

/// Istio's default, where `connectTimeout` is not set.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `outbound|<port>|<subset>|<host>`
pub(super) fn name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// A host under one of its rules.
pub(super) struct Ruled<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) host: &'a Host,
    pub(super) rule: Option<&'a MergedDestinationRule>,
    pub(super) client: Client<'a>,
    pub(super) trust_domain: &'a str,
}

impl Ruled<'_> {
    /// Every cluster of the host, and what each is assigned.
    pub(super) fn clusters(&self) -> (Vec<Arc<ResourceBytes>>, Vec<Assignment>) {
        let subsets = self.rule.map_or(&[][..], |rule| &rule.rule.subsets);
        let (mut clusters, mut assignments) = (Vec::new(), Vec::new());
        for (&number, port) in &self.host.ports {
            for subset in std::iter::once(None).chain(subsets.iter().map(Some)) {
                let subset_name = subset.map(|subset| subset.name.value.as_str());
                let policy = effective(self.rule, subset_name, number);
                let mut cluster = self.outbound((number, port), subset, &policy);
                if self.host.as_connected {
                    to_original_destination(&mut cluster);
                } else {
                    assignments.push(Assignment {
                        cluster: cluster.name.clone(),
                        port: number,
                        subset: subset.cloned(),
                        preference: Preference::of(&policy),
                    });
                }
                clusters.push(ResourceBytes::new(
                    ResourceType::Cluster,
                    &cluster.name,
                    &cluster,
                ));
            }
        }
        (clusters, assignments)
    }

    fn outbound(
        &self,
        (number, port): (u16, &Port),
        subset: Option<&Subset>,
        policy: &TrafficPolicy,
    ) -> Cluster {
        let host = self.host;
        let subset_name = subset.map(|subset| subset.name.value.as_str());
        let further = self
            .mesh
            .destination_policy_for(&host.name, subset_name, self.client);
        let further = further.map(|(_, policy)| policy);
        let balancer = policy.load_balancer.as_ref().map(|at| &at.value);
        let pool = policy.connection_pool.as_ref().map(|at| &at.value);
        let outlier = policy.outlier_detection.as_ref().map(|at| &at.value);
        let budget = policy.retry_budget.as_ref().map(|at| &at.value);
        let service = host.name.as_str();
        let subset_name = subset_name.unwrap_or_default();
        let peer = tls::Peer {
            service,
            sni: format!("outbound_.{number}_.{subset_name}_.{service}"),
            identities: host.identities(),
            trust_domain: self.trust_domain,
            alpn: alpn(port.protocol),
        };
        let (transport_socket, transport_socket_matches) =
            peer.sockets(policy.tls.as_ref().map(|at| &at.value));
        let outside = transport_socket.is_some();
        let version = policy.proxy_protocol.as_ref().map(|at| at.value);
        let (transport_socket, transport_socket_matches) =
            proxy_protocol::around((transport_socket, transport_socket_matches), version);
        let (lb_policy, lb_config) = balancing::policy(balancer, further);
        let own = own::of(service, subset, self.rule, balancer, further);
        let connect_timeout = pool.and_then(|pool| pool.connect_timeout);
        Cluster {
            name: name(number, subset_name, service),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
            eds_cluster_config: Some(EdsClusterConfig {
                eds_config: Some(ads()),
                service_name: String::new(),
            }),
            connect_timeout: Some(duration(connect_timeout.unwrap_or(CONNECT_TIMEOUT))),
            lb_policy: lb_policy as i32,
            lb_config,
            common_lb_config: Some(balancing::common(balancer, further, outlier)),
            circuit_breakers: Some(limits::circuit_breakers(pool, budget)),
            outlier_detection: outlier.map(limits::outlier_detection),
            typed_extension_protocol_options: connection::http_options(
                port.protocol,
                pool,
                outside,
            ),
            upstream_connection_options: connection::options(pool),
            transport_socket,
            transport_socket_matches,
            metadata: Some(metadata([(OUTRIGGER, own)])),
            ..Cluster::default()
        }
    }
}

/// To where each connection was going to: there are no endpoints to choose from, nor to know anything of.
fn to_original_destination(cluster: &mut Cluster) {
    let kind = DiscoveryType::OriginalDst as i32;
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind));
    cluster.lb_policy = LbPolicy::ClusterProvided as i32;
    cluster.lb_config = None;
    cluster.common_lb_config = None;
    cluster.eds_cluster_config = None;
    cluster.outlier_detection = None;
    cluster.transport_socket_matches.clear();
}

/// What mTLS to a port says it carries. HTTP's clients say themselves which version they speak.
fn alpn(protocol: Protocol) -> &'static [&'static str] {
    // Of a port of which nobody knows, whoever finds out says it.
    if protocol.may_be_http() {
        &[]
    } else {
        &[tls::ALPN_ISTIO]
    }
}

/// `inbound|<port>||`: the application beside the sidecar, in plain text.
pub(super) fn inbound(to: &Inbound, service: Option<&str>) -> Arc<ResourceBytes> {
    let name = inbound_name(to.port);
    let own = service.map(|service| object([("service", text(service))]));
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(to.app)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints {
        lb_endpoints: vec![endpoint],
        ..LocalityLbEndpoints::default()
    };
    let cluster = Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        circuit_breakers: Some(limits::circuit_breakers(None, None)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![locality],
            ..ClusterLoadAssignment::default()
        }),
        typed_extension_protocol_options: connection::http_options(to.protocol, None, false),
        metadata: own.map(|own| metadata([(OUTRIGGER, own)])),
        transport_socket: proxy_protocol::around((None, Vec::new()), to.proxy_protocol).0,
        ..Cluster::default()
    };
    ResourceBytes::new(ResourceType::Cluster, &name, &cluster)
}

/// Thresholds of a cluster that no document limits.
pub(super) fn unlimited() -> CircuitBreakers {
    limits::circuit_breakers(None, None)
}

/// `inbound|<port>||`
pub(super) fn inbound_name(port: u16) -> String {
    format!("inbound|{port}||")
}
