//! What a sidecar is started with. The command line fills it; nothing else reads flags or environment.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use outrigger_core::ProxyVersion;

use crate::Bootstrap;

/// The form in which a management server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdsProtocol {
    /// Incremental.
    #[default]
    Delta,
    /// State of the World.
    Sotw,
}

/// What a sidecar holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// Everything that it may call, before the first request.
    All,
    /// What its application calls, from the first request to each host on; what a `Sidecar` document names at once.
    OnDemand,
}

/// Whom a refusal tells which policy, and which line of which document, decided: the header `x-outrigger-policy`, and
/// `policy` in a body of ours. The application that this sidecar belongs to is always told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyHeader {
    /// Callers with a verified identity.
    #[default]
    Mesh,
    /// Everybody.
    Always,
    /// Nobody; the log and the span still say it.
    Never,
}

impl PolicyHeader {
    /// Whether such a caller is told.
    pub(crate) fn tells(self, is_own_application: bool, has_identity: bool) -> bool {
        match self {
            Self::Mesh => is_own_application || has_identity,
            Self::Always => true,
            Self::Never => is_own_application,
        }
    }
}

/// Whether connections of the application, and those of others to it, are redirected to the sidecar by rules of the
/// kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureMode {
    /// They are not: the application calls ports of the sidecar.
    #[default]
    None,
    /// They are, and the application sees connections of its own host.
    Redirect,
    /// They are, and the application sees the addresses of its callers. Needs `CAP_NET_ADMIN` or `CAP_NET_RAW`.
    Tproxy,
}

/// What a sidecar does that finds that connections are not redirected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureCheck {
    /// It is not ready.
    #[default]
    Required,
    /// It warns.
    Warn,
    /// It does not look.
    Off,
}

/// Redirected connections.
#[derive(Clone, Copy, Debug)]
pub struct Capture {
    /// Whether there are such.
    pub mode: CaptureMode,
    /// Port, on loopback of both families, for those of the application. Default 15001.
    pub outbound_port: u16,
    /// What happens if there are none.
    pub check: CaptureCheck,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            mode: CaptureMode::None,
            outbound_port: 15001,
            check: CaptureCheck::Required,
        }
    }
}

impl Capture {
    /// Whether there are such.
    pub(crate) fn is_on(self) -> bool {
        self.mode != CaptureMode::None
    }
}

/// Settings of one sidecar. Addresses with port 0 pick a free port; the ready line says which.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://host:15012`, or `http://` for the plain-text port (loopback only; no identity then, so no inbound).
    pub control_plane: String,
    /// Somebody else's management server, in place of `control_plane`: no identity then, no inbound, no registration.
    pub bootstrap: Option<Bootstrap>,
    /// Default: as the bootstrap says; without one, delta.
    pub xds_protocol: Option<XdsProtocol>,
    /// Default: on demand; all from somebody else's management server, and in the State of the World, which has no
    /// other.
    pub discovery: Option<Discovery>,
    /// One-time credential, `<secret>.<root SHA-256>`; needed for the first certificate.
    pub join_token: Option<String>,
    /// File of the pod's token (Kubernetes projects it), instead of `join_token`; read whenever it is needed. Needs
    /// `root_ca`.
    pub token_file: Option<PathBuf>,
    /// Socket of SPIFFE's Workload API, instead of either: certificates come from there, and not from the control plane,
    /// which has to accept them. `root_ca` beside it is for the control plane's own certificate, if that is of another root.
    pub spiffe_endpoint: Option<PathBuf>,
    /// PEM of the control plane's root; default: the root that the join token pins.
    pub root_ca: Option<PathBuf>,
    /// Who the application is.
    pub workload: Workload,
    /// The application behind this sidecar; None = it only calls others and is not registered.
    pub app: Option<App>,
    /// Address that others reach us at. Default: the local address of the connection to the control plane.
    pub advertise_address: Option<IpAddr>,
    /// Explicit HTTP proxy for the application. Default `127.0.0.1:15080`. Loopback only.
    pub outbound: SocketAddr,
    /// mTLS for others. Default `0.0.0.0:15006`; with [`Capture`], of both families.
    pub inbound: SocketAddr,
    /// Redirected connections. Default: none.
    pub capture: Capture,
    /// Admin. Default `127.0.0.1:15000`. Loopback only.
    pub admin: SocketAddr,
    /// Users (uid) whose processes may change things there, besides root and the sidecar's own. Default none.
    pub admin_users: Vec<u32>,
    /// Prometheus metrics (`/stats/prometheus`, `/metrics`). Default `0.0.0.0:15020`.
    pub metrics: SocketAddr,
    /// Readiness (`/healthz/ready`). Default `0.0.0.0:15021`.
    pub readiness: SocketAddr,
    /// DNS server for the application. Default none.
    pub dns: Option<Dns>,
    /// Directories below which DestinationRules may name TLS files of this machine. Default none. Absolute.
    pub tls_files: Vec<PathBuf>,
    /// Worker threads; 0 = one per core.
    pub workers: usize,
    /// OTLP over gRPC, e.g. `http://127.0.0.1:4317`; None = no spans are made.
    pub otlp_endpoint: Option<String>,
    /// Share of new traces that are sampled, 0.0 to 1.0. Default 1.0. A caller's decision is kept.
    pub trace_sampling: f64,
    /// Lifetime asked for certificates. Default 1 h, at most 24 h.
    pub certificate_ttl: Duration,
    /// Lease of the registration. Default 30 s.
    pub lease_ttl: Duration,
    /// Renewal of the registration. Default 10 s.
    pub heartbeat_interval: Duration,
    /// Who is told which policy denied a request. Default: callers with a verified identity.
    pub policy_header: PolicyHeader,
    /// How long a drain goes on serving what is new, at most, so that others have time to go elsewhere. Default 5 s.
    pub drain_time: Duration,
    /// How long it does so at least, for those who only see that readiness says no. Default 0.
    pub drain_delay: Duration,
    /// How long a drain waits for requests in flight after that, and for a command that was asked to end. Default 30 s.
    pub drain_timeout: Duration,
    /// What callers may take.
    pub limits: Limits,
}

impl Config {
    /// The form in force.
    pub(crate) fn xds_protocol(&self) -> XdsProtocol {
        let of_bootstrap = self.bootstrap.as_ref().map(|bootstrap| bootstrap.protocol);
        self.xds_protocol.or(of_bootstrap).unwrap_or_default()
    }

    /// Somebody else's agent says who we are.
    pub(crate) fn has_delivered_identity(&self) -> bool {
        let bootstrap = self.bootstrap.as_ref();
        bootstrap.is_some_and(|bootstrap| bootstrap.secrets.is_some())
    }

    /// What is held.
    pub(crate) fn discovery(&self) -> Discovery {
        let possible = self.bootstrap.is_none() && self.xds_protocol() == XdsProtocol::Delta;
        self.discovery.unwrap_or(if possible {
            Discovery::OnDemand
        } else {
            Discovery::All
        })
    }
}

/// The DNS server for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// UDP and TCP; of `127.0.0.1` also `[::1]`. Loopback only.
    pub address: SocketAddr,
    /// Who is asked for names outside of the mesh. Empty = the servers of `/etc/resolv.conf`. At most 8; none of them may
    /// be `address`.
    pub upstreams: Vec<SocketAddr>,
}

/// What strangers may take of this process. `docs/SECURITY.md` has all limits; here are those of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Downstream connections. Default: half of the files that the process may open.
    pub connections: Option<usize>,
    /// Of these, inbound ones of one address, and of one identity. Default: half of them.
    pub connections_of_peer: Option<usize>,
    /// How long a caller may keep the body of its request waiting before it is answered. Default 30 s; zero = for ever.
    /// gRPC is left alone: who calls may say nothing for as long as it likes.
    pub body_idle: Duration,
    /// How long a caller may take nothing of what is written to it. Default 5 min (Envoy's `stream_idle_timeout`): who
    /// reads may stop to think, and what is held meanwhile is bounded. Zero = for ever.
    pub write_idle: Duration,
    /// For a TLS handshake, and for the first bytes after it. Default 10 s.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            connections_of_peer: None,
            body_idle: Duration::from_secs(30),
            write_idle: Duration::from_secs(300),
            handshake: Duration::from_secs(10),
        }
    }
}

/// Who the application is.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Service name, short (`reviews`) or full. Client-only workloads have one too (for telemetry and identity).
    pub service: String,
    /// Default `default`.
    pub namespace: String,
    /// Default: the service's first label, e.g. `reviews`.
    pub service_account: String,
    /// e.g. `version: v1`.
    pub labels: BTreeMap<String, String>,
    /// Region, zone, sub-zone; each possibly empty.
    pub locality: [String; 3],
    /// 1 or more; default 1.
    pub weight: u32,
}

/// The application.
#[derive(Clone, Debug)]
pub struct App {
    /// Where it listens, e.g. `127.0.0.1:9080`.
    pub address: SocketAddr,
    /// The service's port as clients name it. Default: the port of `address`.
    pub port: u16,
    /// `http` (default), `http2`, `grpc` or `tcp`.
    pub protocol: String,
    /// Header that tells the application for whom each connection is opened. Default none.
    pub proxy_protocol: Option<ProxyVersion>,
    /// When it counts as ready.
    pub readiness: Readiness,
}

/// Readiness check of the application. Seeds: every 10 s, timeout 5 s, unhealthy after 3, healthy after 2;
/// before the first success it is tried every 250 ms; a refused connection on live traffic checks at once.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// Path that answers 2xx; None = a TCP connection is enough.
    pub http_path: Option<String>,
    /// Default 10 s.
    pub interval: Duration,
    /// Default 5 s.
    pub timeout: Duration,
    /// Default 3.
    pub unhealthy_threshold: u32,
    /// Default 2.
    pub healthy_threshold: u32,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            http_path: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        }
    }
}
