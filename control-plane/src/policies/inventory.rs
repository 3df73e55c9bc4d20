//! Who runs, as `analyze` looks at it: registered services, and the sidecars that are connected.

use std::collections::BTreeSet;

use outrigger_policy::{ClientFacts, EndpointFacts, HostName, Inventory, ServiceFacts};

use crate::{registry::Services, world::Service};

/// `nodes` are the ids of the connected clients.
pub(crate) fn inventory(services: &Services, nodes: &[String]) -> Inventory {
    let mut inventory = Inventory::default();
    for (host, service) in services.iter() {
        let with_sidecar = service.instances.values();
        let with_sidecar = with_sidecar.filter(|instance| instance.identity.is_some());
        inventory
            .clients
            .extend(with_sidecar.map(|instance| ClientFacts {
                namespace: service.namespace.clone(),
                labels: Some(instance.labels.clone()),
            }));
        inventory.services.insert(host.clone(), facts(service));
    }
    // `orders.shop.` of `orders.shop.svc.cluster.local`.
    let name = |host: &HostName| Some(format!("{}.", host.as_str().split_once(".svc.")?.0));
    let registered: BTreeSet<String> = services.keys().filter_map(name).collect();
    let others = nodes.iter().filter_map(|node| ClientFacts::of_node(node));
    inventory.clients.extend(
        others
            .filter(|(name, _)| !registered.contains(name))
            .map(|(_, client)| client),
    );
    inventory
}

fn facts(service: &Service) -> ServiceFacts {
    let endpoints = service.instances.values();
    let endpoints = endpoints.map(|instance| EndpointFacts {
        address: format!("{}:{}", instance.address, instance.target_port),
        labels: instance.labels.clone(),
        mtls: instance.identity.is_some(),
    });
    let ports = service.ports.iter();
    ServiceFacts {
        ports: ports
            .map(|(port, protocol)| (*port, Some(*protocol)))
            .collect(),
        endpoints: endpoints.collect(),
    }
}
