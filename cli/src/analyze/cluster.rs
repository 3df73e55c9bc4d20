//! What the control plane knows: the documents in force, and who runs, as `analyze` looks at it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use outrigger_policy::{
    ClientFacts, EndpointFacts, HostName, Inventory, Object, ParseLimits, Position, Protocol,
    ServiceFacts, parse_again,
};
use outrigger_proto::outrigger::v1::{GetRequest, ServiceStatus, StatusResponse};

use crate::client::Admin;

pub(super) struct Cluster {
    pub(super) objects: Vec<Arc<Object>>,
    pub(super) inventory: Inventory,
}

pub(super) async fn read(admin: &mut Admin, domain: &str) -> anyhow::Result<Cluster> {
    let stored = admin.get(GetRequest::default()).await?;
    let status = admin.status().await?;
    let mut in_force: Vec<_> = stored.objects.iter().filter(|one| !one.deleted).collect();
    in_force.sort_by_key(|one| one.revision);
    let mut objects = Vec::new();
    for one in in_force {
        let place = one.position.clone().unwrap_or_default();
        let start = Position {
            file: place.file.as_str().into(),
            line: place.line,
            column: place.column,
        };
        let namespace = one
            .object
            .as_ref()
            .map_or("default", |object| object.namespace.as_str());
        // One that this version does not read is not in force for it; `get` shows it.
        if let Ok(read) = parse_again(&start, &one.yaml, namespace, &ParseLimits::default()) {
            objects.extend(read.into_iter().map(Arc::new));
        }
    }
    Ok(Cluster {
        objects,
        inventory: inventory(&status, domain),
    })
}

fn inventory(status: &StatusResponse, domain: &str) -> Inventory {
    let mut inventory = Inventory {
        trust_domain: Some(status.trust_domain.clone()),
        ..Inventory::default()
    };
    for service in status
        .services
        .iter()
        .filter(|service| service.source == "registration")
    {
        let host = HostName::canonical(&service.host, "default", domain);
        inventory.clients.extend(clients(service));
        inventory.services.insert(host, facts(service));
    }
    // Those that only call others do not register.
    let names = inventory.services.keys();
    let names = names.filter_map(|host| Some(format!("{}.", host.as_str().split_once(".svc.")?.0)));
    let registered: BTreeSet<String> = names.collect();
    for client in &status.clients {
        let Some((host, facts)) = ClientFacts::of_node(&client.node_id) else {
            continue;
        };
        if !registered.contains(&host) {
            inventory.clients.push(facts);
        }
    }
    inventory
}

fn facts(service: &ServiceStatus) -> ServiceFacts {
    let ports = service
        .ports
        .iter()
        .filter_map(|port| u16::try_from(*port).ok());
    let endpoints = service.instances.iter().map(|instance| EndpointFacts {
        address: instance.address.clone(),
        labels: labels(&instance.labels),
        mtls: !instance.identity.is_empty(),
    });
    ServiceFacts {
        ports: ports
            .map(|port| {
                let spoken = service.protocols.get(&u32::from(port));
                (port, spoken.and_then(|name| Protocol::named(name)))
            })
            .collect(),
        endpoints: endpoints.collect(),
    }
}

/// Instances with an identity have a sidecar, which calls with their labels.
fn clients(service: &ServiceStatus) -> impl Iterator<Item = ClientFacts> {
    let namespace = service.host.split('.').nth(1).unwrap_or("default");
    let with_sidecar = service
        .instances
        .iter()
        .filter(|instance| !instance.identity.is_empty());
    with_sidecar.map(move |instance| ClientFacts {
        namespace: namespace.to_owned(),
        labels: Some(labels(&instance.labels)),
    })
}

fn labels<'l>(
    found: impl IntoIterator<Item = (&'l String, &'l String)>,
) -> BTreeMap<String, String> {
    found
        .into_iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use outrigger_proto::outrigger::v1::{ClientStatus, InstanceStatus};

    use super::*;

    #[test]
    fn who_runs_is_known_with_protocols_and_those_who_only_call() {
        let client = |id: &str| ClientStatus {
            node_id: id.to_owned(),
            ..ClientStatus::default()
        };
        let status = StatusResponse {
            services: vec![ServiceStatus {
                host: "orders.shop.svc.cluster.local".to_owned(),
                ports: vec![80, 81],
                protocols: [(80, "TCP".to_owned())].into(),
                instances: vec![InstanceStatus {
                    identity: "spiffe://x".to_owned(),
                    ..InstanceStatus::default()
                }],
                load: None,
                addresses: Vec::new(),
                source: "registration".to_owned(),
            }],
            clients: vec![
                client("sidecar~10.0.0.1~orders-8080.shop~shop.svc.cluster.local"),
                client("sidecar~10.0.0.2~batch-15080.jobs~jobs.svc.cluster.local"),
            ],
            ..StatusResponse::default()
        };
        let known = inventory(&status, "cluster.local");
        let ports: Vec<_> = known
            .services
            .values()
            .flat_map(|one| one.ports.values())
            .collect();
        assert_eq!(ports, [&Some(Protocol::Tcp), &None]);
        let clients: Vec<_> = known
            .clients
            .iter()
            .map(|one| (one.namespace.as_str(), one.labels.is_some()))
            .collect();
        assert_eq!(clients, [("shop", true), ("jobs", false)]);
    }
}
