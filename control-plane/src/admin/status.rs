//! What `outrigger status` shows: services, instances, leases, clients, remarks.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use outrigger_policy::{HostName, Object, ServiceEntry};
use outrigger_proto::outrigger::v1 as api;
use tokio::time::Instant;

use super::{AdminService, convert};
use crate::{
    loads::Load,
    policies::InForce,
    quota::allocate::{Kind, PoolStatus},
    registry::validate::health_text,
    vips::addresses,
    world::Service,
};

impl AdminService {
    pub(super) fn report(&self) -> api::StatusResponse {
        let in_force = self.policies.in_force();
        let now = Instant::now();
        let registered = self.registry.services();
        let mut services: Vec<api::ServiceStatus> = registered
            .values()
            .map(|service| self.registered(service, now))
            .collect();
        for (host, entries) in &in_force.mesh.service_entries {
            services.extend(
                entries
                    .iter()
                    .map(|(object, entry)| declared(host, object, entry)),
            );
        }
        let loads = self.loads.by_host(std::time::Instant::now());
        let given = self.addresses.given();
        for service in &mut services {
            service.load = loads.get(&service.host).map(load);
            let host = service.host.as_str();
            let addresses = addresses(&in_force.mesh, &given, host);
            service.addresses = addresses.iter().map(ToString::to_string).collect();
        }
        services.sort_by(|a, b| a.host.cmp(&b.host));
        let authority = &self.identity.authority;
        api::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: in_force.revision,
            started: Some(self.started.into()),
            trust_domain: authority.trust_domain().to_string(),
            root_not_after: Some(SystemTime::from(authority.in_force().active.not_after()).into()),
            services,
            clients: self.clients.status(),
            warnings: warnings(&in_force),
            object_counts: counts(&in_force),
            limits: self.leases.status().iter().map(limit).collect(),
        }
    }

    fn registered(&self, service: &Service, now: Instant) -> api::ServiceStatus {
        let instances = service
            .instances
            .values()
            .map(|instance| api::InstanceStatus {
                id: instance.id.clone(),
                address: SocketAddr::new(instance.address, instance.target_port).to_string(),
                labels: instance.labels.clone(),
                health: health_text(instance.health).to_owned(),
                identity: instance.identity.as_deref().unwrap_or_default().to_owned(),
                locality: instance.locality.join("/").trim_end_matches('/').to_owned(),
                lease_left: self
                    .registry
                    .lease_left(&service.host, &instance.id, now)
                    .and_then(|left| prost_types::Duration::try_from(left).ok()),
            });
        api::ServiceStatus {
            host: service.host.to_string(),
            ports: service.ports.keys().map(|port| u32::from(*port)).collect(),
            instances: instances.collect(),
            source: "registration".to_owned(),
            protocols: service
                .ports
                .iter()
                .map(|(port, protocol)| (u32::from(*port), protocol.as_str().to_owned()))
                .collect(),
            load: None,
            addresses: Vec::new(),
        }
    }
}

fn load(of: &Load) -> api::ServiceLoad {
    api::ServiceLoad {
        clients: of.clients,
        succeeded_per_s: of.succeeded_per_s,
        failed_per_s: of.failed_per_s,
        dropped_per_s: of.dropped_per_s,
        in_progress: of.in_progress,
    }
}

fn limit(pool: &PoolStatus) -> api::ServiceLimitStatus {
    let name = match pool.key.kind {
        Kind::Connections => "maxConnections",
        Kind::Pending => "http1MaxPendingRequests",
        Kind::Requests => "http2MaxRequests",
        Kind::Retries => "maxRetries",
    };
    api::ServiceLimitStatus {
        cluster: pool.key.cluster.to_string(),
        rule: pool.key.rule.to_string(),
        name: name.to_owned(),
        limit: pool.limit,
        leased: pool.leased,
        sidecars: pool.sidecars,
        silent: pool.lost,
        in_use: pool.in_use,
    }
}

/// Endpoints that a ServiceEntry itself lists; those that its selector finds are shown where they are from.
fn declared(host: &HostName, object: &Object, entry: &ServiceEntry) -> api::ServiceStatus {
    let mut instances = Vec::new();
    for port in &entry.ports {
        for (n, endpoint) in entry.endpoints.iter().enumerate() {
            let target = endpoint
                .ports
                .get(&port.name)
                .copied()
                .or(port.target_port)
                .unwrap_or(port.number);
            let address = &endpoint.address.value;
            instances.push(api::InstanceStatus {
                id: format!("{}[{n}]", object.key),
                address: match address.parse() {
                    Ok(ip) => SocketAddr::new(ip, target).to_string(),
                    Err(_name) => format!("{address}:{target}"),
                },
                labels: endpoint.labels.clone(),
                health: "HEALTHY".to_owned(),
                identity: String::new(),
                locality: endpoint.locality.clone().unwrap_or_default(),
                lease_left: None,
            });
        }
    }
    api::ServiceStatus {
        host: host.to_string(),
        ports: entry
            .ports
            .iter()
            .map(|port| u32::from(port.number))
            .collect(),
        instances,
        source: object.key.to_string(),
        protocols: entry
            .ports
            .iter()
            .map(|port| (u32::from(port.number), port.protocol.as_str().to_owned()))
            .collect(),
        load: None,
        addresses: Vec::new(),
    }
}

/// What is left out of the mesh, then what is said about the mesh.
fn warnings(in_force: &InForce) -> Vec<api::Diagnostic> {
    let refused = in_force.refused.iter().map(|(id, refused)| {
        let mut diagnostic = convert::diagnostic(&refused.diagnostic);
        diagnostic.message = format!(
            "the stored policy {id} is not in force, because this version refuses it: {}",
            diagnostic.message
        );
        diagnostic
    });
    let remarks = in_force.remarks.iter().map(convert::diagnostic);
    refused.chain(remarks).collect()
}

fn counts(in_force: &InForce) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for key in in_force.objects.keys() {
        *counts.entry(key.kind.as_str().to_owned()).or_insert(0) += 1;
    }
    counts
}
