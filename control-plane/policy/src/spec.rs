//! The typed content of each kind: what Istio's reference says, as far as it is effective here.
//! Source: Istio's networking API reference, v1. A field that is missing here is refused by `parse`.

mod destination;
mod destination_policy;
mod extension_provider;
mod http;
mod layer4;
mod security;
mod token;

use std::collections::{BTreeMap, BTreeSet};

pub use destination::*;
pub use destination_policy::*;
pub use extension_provider::*;
pub use http::*;
pub use layer4::*;
pub use security::*;
pub use token::*;

use crate::Position;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub position: Position,
}

/// Content of a document.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is documented at its type")]
#[expect(
    clippy::large_enum_variant,
    reason = "one a document, which is shared behind an Arc"
)]
pub enum Spec {
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
    DestinationPolicy(DestinationPolicy),
    ServiceEntry(ServiceEntry),
    WorkloadEntry(WorkloadEntry),
    Sidecar(Sidecar),
    PeerAuthentication(PeerAuthentication),
    AuthorizationPolicy(AuthorizationPolicy),
    ExtensionProvider(ExtensionProvider),
    RequestAuthentication(RequestAuthentication),
}

/// `exportTo`: the namespaces whose workloads a document is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExportTo {
    /// `*`, or no `exportTo`.
    #[default]
    All,
    /// These alone; `.` has become the document's own namespace.
    Only(BTreeSet<String>),
}

impl ExportTo {
    /// Whether workloads of `namespace` see it.
    #[must_use]
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(namespaces) => namespaces.contains(namespace),
        }
    }
}

/// Routing of requests to `hosts`.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualService {
    /// Hosts as written: short, full, or `*.suffix`. None = a delegate: others name it.
    pub hosts: Vec<At<String>>,
    /// Whose workloads it is for.
    pub export_to: ExportTo,
    /// Tried in order; the first match wins. Without those that delegate.
    pub http: Vec<HttpRoute>,
    /// Rules of `http` that delegate, in order.
    pub delegations: Vec<Delegation>,
    /// For connections whose TLS is passed through, by server name. Tried in order.
    pub tls: Vec<TlsRoute>,
    /// For connections of other protocols. Tried in order.
    pub tcp: Vec<TcpRoute>,
}

/// A service and, with STATIC resolution, its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    /// Hosts as written.
    pub hosts: Vec<At<String>>,
    /// What its hosts' names mean to redirected connections, in place of addresses that the mesh gives. Empty = those.
    pub addresses: Vec<At<Subnet>>,
    /// At least one.
    pub ports: Vec<ServicePort>,
    /// Given here (resolution STATIC).
    pub endpoints: Vec<WorkloadEntry>,
    /// Registered instances and WorkloadEntries of the namespace with all of these labels, if set.
    pub workload_selector: Option<BTreeMap<String, String>>,
    /// `MESH_INTERNAL` endpoints may have mTLS; `MESH_EXTERNAL` (default) ones are plain.
    pub mesh_internal: bool,
    /// How it is known where to connect.
    pub resolution: Resolution,
}

/// `ServiceEntry.resolution`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// To the endpoints.
    #[default]
    Static,
    /// To the address that the application connected to (`NONE`).
    AsConnected,
}

/// `ports[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// 1 to 65535.
    pub number: u16,
    /// Unique in the entry.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// `targetPort`, default `number`.
    pub target_port: Option<u16>,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.1 (`HTTP`).
    Http,
    /// HTTP/2 with prior knowledge (`HTTP2`).
    Http2,
    /// gRPC: HTTP/2 (`GRPC`).
    Grpc,
    /// Bytes (`TCP`, `MONGO`, `REDIS`, `MYSQL`: no more is known of them than of others).
    Tcp,
    /// TLS that is passed through, routed by its server name (`TLS`, `HTTPS`).
    Tls,
    /// Nobody said: HTTP or bytes, as each connection's first bytes tell.
    Auto,
}

impl Protocol {
    /// HTTP in some version: requests are routed, not connections.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// HTTP, or possibly so: requests to it can be routed.
    #[must_use]
    pub const fn may_be_http(self) -> bool {
        self.is_http() || matches!(self, Self::Auto)
    }

    /// By the beginning of a port's name (Istio's convention): `http-web`, `grpc`, `mysql-a`. None if it says nothing.
    #[must_use]
    pub fn of_port_name(name: &str) -> Option<Self> {
        let word = name.split('-').next()?.to_ascii_lowercase();
        match word.as_str() {
            "http" => Some(Self::Http),
            "http2" => Some(Self::Http2),
            "grpc" => Some(Self::Grpc),
            "tcp" | "mongo" | "redis" | "mysql" => Some(Self::Tcp),
            "tls" | "https" => Some(Self::Tls),
            _ => None,
        }
    }

    /// `HTTP`, `HTTP2`, `GRPC`, `TCP`, `TLS`, `AUTO`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Auto => "AUTO",
        }
    }

    /// Of one of the names of [`Self::as_str`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Self::Http,
            Self::Http2,
            Self::Grpc,
            Self::Tcp,
            Self::Tls,
            Self::Auto,
        ];
        all.into_iter().find(|one| one.as_str() == name)
    }
}

/// One instance. As a document of its own it also joins every service whose selector matches.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadEntry {
    /// Where it stands.
    pub position: Position,
    /// IP address.
    pub address: At<String>,
    /// Port name to number.
    pub ports: BTreeMap<String, u16>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `region/zone/sub_zone`.
    pub locality: Option<String>,
    /// Weight, default 1, never 0.
    pub weight: u32,
    /// `serviceAccount`; set = expect mesh mTLS with this identity.
    pub service_account: Option<String>,
}

/// What the selected workloads see.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// None = every workload of the namespace.
    pub workload_selector: Option<BTreeMap<String, String>>,
    /// At least one.
    pub egress: Vec<EgressListener>,
    /// What becomes of redirected connections to where no service is. None = what the mesh says.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

/// `outboundTrafficPolicy.mode`: what becomes of redirected connections to where no service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboundTrafficPolicy {
    /// They go where they were going to, as they are (`ALLOW_ANY`). Istio's default.
    #[default]
    AllowAny,
    /// They are closed; requests are answered with 502 (`REGISTRY_ONLY`).
    RegistryOnly,
}

/// `captureMode`: how connections come to an egress listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureMode {
    /// As the workload's connections do: redirected if they are, else to a port of its own (`DEFAULT`).
    #[default]
    Default,
    /// Redirected (`IPTABLES`).
    Redirected,
    /// To a port of its own (`NONE`).
    Bound,
}

/// One group of callable hosts, with or without a local port of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct EgressListener {
    /// Where it stands.
    pub position: Position,
    /// Local port; None = the hosts are callable through the HTTP proxy port.
    pub port: Option<ServicePort>,
    /// Address to bind, default 127.0.0.1 when `port` is set.
    pub bind: Option<String>,
    /// How connections come to it.
    pub capture_mode: CaptureMode,
    /// `namespace/dnsName`, each part possibly `*`; `./` = own namespace, `~/` = none.
    pub hosts: Vec<At<EgressHost>>,
}

/// `namespace/dnsName`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressHost {
    /// `*`, `.`, `~` or a name.
    pub namespace: String,
    /// `*`, `*.suffix`, or a host.
    pub host: String,
}
