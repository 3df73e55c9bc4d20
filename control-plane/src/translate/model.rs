//! One host of the mesh with its ports and endpoints, whoever declared them: the registry,
//! ServiceEntries, WorkloadEntries. Conflicts are settled here, so that nobody asks again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use outrigger_policy::{
    HostName, MtlsMode, Object, Protocol, Resolution, ServiceEntry, ServicePort, WorkloadEntry,
    WorkloadView,
};

use crate::world::{Instance, InstanceHealth, World};

/// A callable host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: HostName,
    pub(super) ports: BTreeMap<u16, Port>,
    /// Connections go where the application connected to.
    pub(super) as_connected: bool,
}

/// One port of it.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) protocol: Protocol,
    /// By socket address, each once (gRPC refuses an assignment that names one twice).
    pub(super) endpoints: BTreeMap<SocketAddr, Endpoint>,
}

/// One address that serves it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoint {
    pub(super) id: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) locality: [String; 3],
    pub(super) weight: u32,
    pub(super) health: InstanceHealth,
    /// SPIFFE id of who answers; None = it has none, and is spoken to in plain text.
    pub(super) identity: Option<Arc<str>>,
    /// A document says that it is spoken to in plain text all the same.
    pub(super) plain: bool,
}

impl Host {
    /// Every identity that may answer for this host, on whatever port or subset.
    pub(super) fn identities(&self) -> BTreeSet<&str> {
        let endpoints = self.ports.values().flat_map(|port| port.endpoints.values());
        endpoints
            .filter_map(|endpoint| endpoint.identity.as_deref())
            .collect()
    }

    /// Merges what registry and documents say of `name`. None if nobody knows it.
    pub(super) fn merge(world: &World, name: &HostName) -> Option<Self> {
        let registered = world.services.get(name);
        let entries = world
            .mesh
            .service_entries
            .get(name)
            .map_or(&[][..], Vec::as_slice);
        if registered.is_none() && entries.is_empty() {
            return None;
        }
        let mut host = Self {
            name: name.clone(),
            ports: BTreeMap::new(),
            // Who has endpoints is called there.
            as_connected: registered.is_none()
                && entries
                    .iter()
                    .all(|(_, entry)| entry.resolution == Resolution::AsConnected),
        };
        if let Some(service) = registered {
            for (&number, &protocol) in &service.ports {
                host.ports.insert(
                    number,
                    Port {
                        protocol,
                        endpoints: BTreeMap::new(),
                    },
                );
            }
            for instance in service.instances.values() {
                let plain = is_plain(world, &service.namespace, &instance.labels, instance.port);
                host.join(instance.port, instance.target_port, instance, plain);
            }
        }
        for (object, entry) in entries {
            host.declare(world, object, entry);
        }
        Some(host)
    }

    /// Adds what one ServiceEntry says. Its protocol wins over a registration's, because a person wrote it.
    fn declare(&mut self, world: &World, object: &Object, entry: &ServiceEntry) {
        for port in &entry.ports {
            self.ports
                .entry(port.number)
                .or_insert_with(|| Port {
                    protocol: port.protocol,
                    endpoints: BTreeMap::new(),
                })
                .protocol = port.protocol;
        }
        let namespace = object.key.namespace.as_str();
        for (index, workload) in entry.endpoints.iter().enumerate() {
            let id = format!("{}/{}/{index}", namespace, object.key.name);
            self.join_workload(world, entry, namespace, workload, &id);
        }
        for (document, workload) in world.mesh.selected_workloads(namespace, entry) {
            let id = format!("{}/{}", document.key.namespace, document.key.name);
            self.join_workload(world, entry, namespace, workload, &id);
        }
        let services = world
            .services
            .values()
            .filter(|service| service.namespace == namespace);
        let instances = services.flat_map(|service| service.instances.values());
        for instance in instances.filter(|instance| entry.selects(&instance.labels)) {
            for port in entry
                .ports
                .iter()
                .filter(|port| serves(instance, port, entry))
            {
                let plain = is_plain(world, namespace, &instance.labels, instance.port);
                self.join(port.number, instance.target_port, instance, plain);
            }
        }
    }

    fn join(&mut self, number: u16, target_port: u16, instance: &Instance, plain: bool) {
        let Some(port) = self.ports.get_mut(&number) else {
            return;
        };
        port.endpoints
            .entry(SocketAddr::new(instance.address, target_port))
            .or_insert_with(|| Endpoint::registered(instance, plain));
    }

    fn join_workload(
        &mut self,
        world: &World,
        entry: &ServiceEntry,
        namespace: &str,
        workload: &WorkloadEntry,
        id: &str,
    ) {
        // `parse` refuses an address that is not an IP address.
        let Ok(address) = workload.address.value.parse::<IpAddr>() else {
            return;
        };
        for port in &entry.ports {
            let Some(known) = self.ports.get_mut(&port.number) else {
                continue;
            };
            let target = workload.ports.get(&port.name).copied();
            let target = target.or(port.target_port).unwrap_or(port.number);
            let account = workload
                .service_account
                .as_deref()
                .filter(|_| entry.mesh_internal);
            known
                .endpoints
                .entry(SocketAddr::new(address, target))
                .or_insert_with(|| Endpoint {
                    id: id.to_owned(),
                    labels: workload.labels.clone(),
                    locality: locality(workload.locality.as_deref()),
                    weight: workload.weight.max(1),
                    health: InstanceHealth::Healthy,
                    identity: account.map(|account| {
                        format!(
                            "spiffe://{}/ns/{namespace}/sa/{account}",
                            world.trust_domain
                        )
                        .into()
                    }),
                    plain: is_plain(world, namespace, &workload.labels, target),
                });
        }
    }
}

impl Endpoint {
    fn registered(instance: &Instance, plain: bool) -> Self {
        Self {
            id: instance.id.clone(),
            labels: instance.labels.clone(),
            locality: instance.locality.clone(),
            weight: instance.weight.max(1),
            health: instance.health,
            identity: instance.identity.clone(),
            plain,
        }
    }
}

/// Whether a document says that calls to this port of a workload are plain text: the port that it is registered with, or
/// that its WorkloadEntry names.
fn is_plain(world: &World, namespace: &str, labels: &BTreeMap<String, String>, port: u16) -> bool {
    let workload = WorkloadView { namespace, labels };
    world.mesh.disables_mtls() && world.mesh.peer_mode(workload, port).mode == MtlsMode::Disable
}

/// A registered instance listens on its own target port only. It serves the entry's port of the same
/// number, or whose `targetPort` it listens on, or the only one.
fn serves(instance: &Instance, port: &ServicePort, entry: &ServiceEntry) -> bool {
    instance.port == port.number
        || port.target_port == Some(instance.target_port)
        || entry.ports.len() == 1
}

/// `region/zone/sub_zone`, each part possibly missing.
fn locality(text: Option<&str>) -> [String; 3] {
    let mut parts = text.unwrap_or_default().splitn(3, '/').map(str::to_owned);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}
