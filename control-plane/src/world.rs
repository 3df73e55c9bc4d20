//! Everything that translation reads: policies, services, trust. One immutable [`World`] per change.
//!
//! ```text
//! admin ─► store ─► Mesh ─┐
//! registry (leases) ──────┼─► World (watch channel) ─► translate ─► xds
//! ca (roots) ─────────────┘
//! ```

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use outrigger_policy::{HostName, Mesh, OutboundTrafficPolicy, Protocol};
use serde::{Deserialize, Serialize};

use crate::{
    config::{PathNormalization, VipPools},
    sorted::SortedMap,
    vips::Vips,
};

/// One consistent state of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// Store revision of the policies.
    pub(crate) revision: u64,
    /// Policies.
    pub(crate) mesh: Arc<Mesh>,
    /// Registered services (not those of ServiceEntries, which are in `mesh`).
    pub(crate) services: SortedMap<HostName, Arc<Service>>,
    /// Trust bundle, PEM.
    pub(crate) roots_pem: Arc<str>,
    /// e.g. `cluster.local`
    pub(crate) trust_domain: Arc<str>,
    /// e.g. `cluster.local`
    pub(crate) domain: Arc<str>,
    /// Of requests that workloads are sent.
    pub(crate) path_normalization: PathNormalization,
    /// What becomes of redirected connections to where no service is, if no document says.
    pub(crate) outbound_traffic_policy: OutboundTrafficPolicy,
    /// Where addresses of services come from.
    pub(crate) vip_pools: VipPools,
    /// The addresses that services have from there.
    pub(crate) vips: Vips,
}

/// A service that instances registered.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Canonical host.
    pub(crate) host: HostName,
    /// Namespace.
    pub(crate) namespace: String,
    /// Ports by number, as clients name them. A port stays while the process lives, even without instances,
    /// so that its cluster answers 503 rather than 404.
    pub(crate) ports: BTreeMap<u16, Protocol>,
    /// By id.
    pub(crate) instances: BTreeMap<String, Arc<Instance>>,
}

/// One registered instance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instance {
    /// Unique in the service.
    pub(crate) id: String,
    /// Where to connect.
    pub(crate) address: IpAddr,
    /// Where `address` listens.
    pub(crate) target_port: u16,
    /// The service's port.
    pub(crate) port: u16,
    /// Labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Region, zone, sub-zone.
    pub(crate) locality: [String; 3],
    /// 1 or more.
    pub(crate) weight: u32,
    /// Health.
    pub(crate) health: InstanceHealth,
    /// SPIFFE id of a sidecar that speaks mesh mTLS; None = plain text.
    pub(crate) identity: Option<Arc<str>>,
}

/// Health of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InstanceHealth {
    /// Takes traffic.
    #[default]
    Healthy,
    /// Does not.
    Unhealthy,
    /// Finishes what it has.
    Draining,
}
