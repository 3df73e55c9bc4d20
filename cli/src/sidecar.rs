//! `outrigger sidecar`: flags and environment to a [`Config`].

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use outrigger_sidecar::{
    App, Bootstrap, Capture, CaptureCheck, CaptureMode, CommandError, Config, ControlPlaneError,
    Discovery, Dns, Limits, PolicyHeader, ProxyVersion, RunError, XdsProtocol,
};

use crate::{
    client::DEFAULT_ADDRESS,
    duration,
    failure::Failure,
    life::LifeArgs,
    member::{CredentialArgs, InstanceArgs, LeaseArgs, ReadinessArgs, SiteArgs},
    notify, open_files, otlp,
};

/// Run the sidecar of one application: its calls go out through it, others reach it over mutual TLS.
///
/// Prints `ready {…}` on standard output once it holds an identity and its configuration, and listens.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger sidecar --service reviews --label version=v2 --app 127.0.0.1:9080 --join-token-file reviews.token
  OUTRIGGER_JOIN_TOKEN=$(outrigger token create shopper) outrigger sidecar --service shopper
  outrigger sidecar --bootstrap envoy.yaml")]
pub(crate) struct SidecarArgs {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
    #[command(flatten)]
    app: AppArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    tuning: TuningArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    life: LifeArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Control plane")]
struct ControlArgs {
    /// Address of the control plane. `http://` for its plain-text port (loopback only; no identity then).
    #[arg(long, default_value = DEFAULT_ADDRESS, value_name = "URL", env = "OUTRIGGER_CONTROL_PLANE")]
    control_plane: String,
    /// Envoy bootstrap file (YAML or JSON) of somebody else's management server, in place of --control-plane: its node,
    /// dynamic_resources and the cluster that ads_config names. The sidecar has no identity then, takes no calls of
    /// others and is not registered.
    #[arg(
        long,
        value_name = "FILE",
        env = "OUTRIGGER_BOOTSTRAP",
        conflicts_with_all = ["control_plane", "join_token", "join_token_file", "token_file",
            "spiffe_endpoint_socket", "root_ca", "app", "labels", "locality",
            "weight", "advertise_address"]
    )]
    bootstrap: Option<PathBuf>,
    /// Form of xDS: delta, or sotw for State of the World. Default: api_type of the bootstrap file, else delta.
    #[arg(long, value_name = "FORM", value_parser = protocol, env = "OUTRIGGER_XDS_PROTOCOL")]
    xds_protocol: Option<XdsProtocol>,
    /// What is held: on-demand, what the application calls, from its first request to each host on (held back until the
    /// answer is here, 5 s at most), and what a Sidecar document names at once; all, everything that it may call, before
    /// the first request. Default: on-demand; all with --bootstrap and with --xds-protocol sotw, which has no other.
    #[arg(long, value_name = "WHAT", value_parser = discovery, env = "OUTRIGGER_DISCOVERY")]
    discovery: Option<Discovery>,
    #[command(flatten)]
    credential: CredentialArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Workload")]
struct WorkloadArgs {
    /// Service that the application is, e.g. `reviews`. Default with --bootstrap: the cluster of its node.
    #[arg(long, required_unless_present = "bootstrap", env = "OUTRIGGER_SERVICE")]
    service: Option<String>,
    #[command(flatten)]
    instance: InstanceArgs,
    /// Address that others reach us at. Default: the local address of the connection to the control plane.
    #[arg(long, value_name = "IP", env = "OUTRIGGER_ADVERTISE_ADDRESS")]
    advertise_address: Option<IpAddr>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Application")]
struct AppArgs {
    /// Where the application listens. Default: none; it only calls others and is not registered.
    #[arg(long, value_name = "ADDR", env = "OUTRIGGER_APP")]
    app: Option<SocketAddr>,
    /// The service's port as clients name it. Default: the port of --app.
    #[arg(long, requires = "app", value_parser = clap::value_parser!(u16).range(1..), env = "OUTRIGGER_PORT")]
    port: Option<u16>,
    /// What the application speaks: http, http2, grpc, tcp for anything else, or auto to have it found out. Default: auto
    /// with --capture, else http.
    #[arg(long, value_parser = ["http", "http2", "grpc", "tcp", "auto"], env = "OUTRIGGER_PROTOCOL")]
    protocol: Option<String>,
    /// PROXY protocol header that the application's connections begin with, so that it sees who calls: v1, v2, or off.
    #[arg(long, requires = "app", value_name = "VERSION", value_parser = proxy_protocol, env = "OUTRIGGER_APP_PROXY_PROTOCOL")]
    app_proxy_protocol: Option<AppProxyProtocol>,
    /// Path that answers 2xx when the application is ready. Default: a TCP connection is enough.
    #[arg(
        long,
        requires = "app",
        value_name = "PATH",
        env = "OUTRIGGER_READY_PATH"
    )]
    ready_path: Option<String>,
    #[command(flatten)]
    checks: ReadinessArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Listeners (port 0 picks a free one)")]
struct ListenArgs {
    /// HTTP proxy for the application's calls; loopback only.
    #[arg(
        long,
        default_value = "127.0.0.1:15080",
        value_name = "ADDR",
        env = "OUTRIGGER_OUTBOUND"
    )]
    outbound: SocketAddr,
    /// Mutual TLS for others.
    #[arg(
        long,
        default_value = "0.0.0.0:15006",
        value_name = "ADDR",
        env = "OUTRIGGER_INBOUND"
    )]
    inbound: SocketAddr,
    #[command(flatten)]
    capture: CaptureArgs,
    /// Admin: /ready, /config_dump, /stats, /clusters; loopback only.
    #[arg(
        long,
        default_value = "127.0.0.1:15000",
        value_name = "ADDR",
        env = "OUTRIGGER_ADMIN"
    )]
    admin: SocketAddr,
    /// User id whose processes may POST to the admin port (drain, log level), besides root and the sidecar's own user:
    /// the application may read there and no more. Repeatable.
    #[arg(
        long = "admin-user",
        value_name = "UID",
        env = "OUTRIGGER_ADMIN_USERS",
        value_delimiter = ','
    )]
    admin_users: Vec<u32>,
    #[command(flatten)]
    site: SiteArgs,
    #[command(flatten)]
    dns: DnsArgs,
}

#[derive(Args, Debug)]
struct DnsArgs {
    /// DNS server for the application, over UDP and TCP: names of the mesh are answered here, all others by
    /// --dns-upstream. Loopback only; of 127.0.0.1 also ::1. off: none. Default: 127.0.0.1:15053
    /// with --capture, else none.
    #[arg(long, value_name = "ADDR", value_parser = dns, env = "OUTRIGGER_DNS")]
    dns: Option<DnsAt>,
    /// Server that is asked for names outside of the mesh; port 53 unless said. Repeatable, 8 at most. Default: the
    /// servers of /etc/resolv.conf; where that has systemd's stub only, those behind it.
    #[arg(
        long = "dns-upstream",
        value_name = "ADDR",
        value_parser = dns_upstream,
        env = "OUTRIGGER_DNS_UPSTREAM",
        value_delimiter = ','
    )]
    dns_upstreams: Vec<SocketAddr>,
}

/// Istio's port, to which queries are redirected.
const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15053);

/// Where the DNS server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DnsAt {
    Off,
    Address(SocketAddr),
}

impl DnsArgs {
    /// On where connections are captured, unless something else is said.
    fn config(self, captured: bool) -> Result<Option<Dns>, Failure> {
        let usual = captured.then_some(DnsAt::Address(DNS));
        match self.dns.or(usual) {
            Some(DnsAt::Address(address)) => Ok(Some(Dns {
                address,
                upstreams: self.dns_upstreams,
            })),
            Some(DnsAt::Off) | None if self.dns_upstreams.is_empty() => Ok(None),
            Some(DnsAt::Off) | None => Err(Failure::Misused(
                "--dns-upstream needs --dns, e.g. --dns 127.0.0.1:15053".to_owned(),
            )),
        }
    }
}

#[derive(Args, Debug)]
struct CaptureArgs {
    /// How the application's connections, and those of others to it, come to the sidecar: none, the application calls
    /// the ports above; redirect, `outrigger redirect apply` has made rules for it; tproxy, the same, and the
    /// application sees the addresses of its callers (needs CAP_NET_ADMIN).
    #[arg(long, default_value = "none", value_name = "HOW", value_parser = capture_mode, env = "OUTRIGGER_CAPTURE")]
    capture: CaptureMode,
    /// Port for redirected connections of the application, on loopback of both families.
    #[arg(
        long,
        default_value_t = 15001,
        value_name = "PORT",
        env = "OUTRIGGER_OUTBOUND_PORT"
    )]
    outbound_port: u16,
    /// What to do if nothing is redirected: required, not be ready; warn, say so on the readiness page; off, do not look.
    #[arg(long, default_value = "required", value_name = "WHAT", value_parser = capture_check, env = "OUTRIGGER_CAPTURE_CHECK")]
    capture_check: CaptureCheck,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Tuning")]
struct TuningArgs {
    /// Directory below which DestinationRules may name TLS files: caCertificates, clientCertificate, privateKey,
    /// caCrl. Repeatable. Default: none may be named.
    #[arg(
        long,
        value_name = "DIR",
        env = "OUTRIGGER_TLS_FILES",
        value_delimiter = ','
    )]
    tls_files: Vec<PathBuf>,
    /// Worker threads; 0 is one per core.
    #[arg(long, default_value_t = 0, value_name = "N", env = "OUTRIGGER_WORKERS")]
    workers: usize,
    /// Send spans by OTLP over gRPC to this address, e.g. http://127.0.0.1:4317; https is not supported yet.
    /// Default: no spans.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// Share of new traces that are sampled, 0.0 to 1.0. A caller's decision is kept.
    #[arg(long, default_value_t = 1.0, value_parser = share, value_name = "SHARE", env = "OUTRIGGER_TRACE_SAMPLING")]
    trace_sampling: f64,
    /// Lifetime of certificates; at most 24h.
    #[arg(long, default_value = "1h", value_parser = duration::parse, env = "OUTRIGGER_CERTIFICATE_TTL")]
    certificate_ttl: Duration,
    #[command(flatten)]
    lease: LeaseArgs,
    /// Who is told which policy denied a request, in x-outrigger-policy: mesh, callers with a verified identity;
    /// always, everybody; never, nobody. The log and the span always say it.
    #[arg(long, default_value = "mesh", value_name = "WHOM", value_parser = policy_header, env = "OUTRIGGER_POLICY_HEADER")]
    policy_header: PolicyHeader,
    /// How long a drain goes on serving what is new, at most: until others have heard that this instance leaves and have
    /// gone elsewhere, and the application does not listen any more.
    #[arg(long, default_value = "5s", value_parser = duration::parse, env = "OUTRIGGER_DRAIN_TIME")]
    drain_time: Duration,
    /// How long it does so at least: for a load balancer that looks at the readiness port every few seconds.
    #[arg(long, default_value = "0s", value_parser = duration::parse_or_zero, env = "OUTRIGGER_DRAIN_DELAY")]
    drain_delay: Duration,
    /// How long it then waits for requests in flight.
    #[arg(long, default_value = "30s", value_parser = duration::parse, env = "OUTRIGGER_DRAIN_TIMEOUT")]
    drain_timeout: Duration,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits for callers")]
struct LimitArgs {
    /// Connections of callers, all listeners together. Default: half of the files that the process may open.
    #[arg(long, value_name = "N", value_parser = positive, env = "OUTRIGGER_MAX_CONNECTIONS")]
    max_connections: Option<usize>,
    /// Of these, inbound ones of one address, and of one identity. Default: half of them.
    #[arg(long, value_name = "N", value_parser = positive, env = "OUTRIGGER_MAX_CONNECTIONS_PER_PEER")]
    max_connections_per_peer: Option<usize>,
    /// How long a caller may keep the body of its request waiting before it is answered with 408; not gRPC. 0s: for ever.
    #[arg(long, default_value = "30s", value_parser = duration::parse_or_zero, env = "OUTRIGGER_BODY_IDLE_TIMEOUT")]
    body_idle_timeout: Duration,
    /// How long a caller may take nothing of what is written to it. 0s: for ever.
    #[arg(long, default_value = "5m", value_parser = duration::parse_or_zero, env = "OUTRIGGER_WRITE_IDLE_TIMEOUT")]
    write_idle_timeout: Duration,
    /// Time for a TLS handshake, and for the first bytes after it.
    #[arg(long, default_value = "10s", value_parser = duration::parse, env = "OUTRIGGER_HANDSHAKE_TIMEOUT")]
    handshake_timeout: Duration,
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            connections_of_peer: self.max_connections_per_peer,
            body_idle: self.body_idle_timeout,
            write_idle: self.write_idle_timeout,
            handshake: self.handshake_timeout,
        }
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 would let nobody in; write 1 or more".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("\"{text}\" is no number")),
    }
}

impl SidecarArgs {
    /// The port of the application is to be picked, and told to it.
    pub(crate) fn pick_app_port(&mut self) -> Result<bool, Failure> {
        let Some(app) = self.app.app.as_mut().filter(|app| app.port() == 0) else {
            return Ok(false);
        };
        if self.app.port.is_none() {
            return Err(Failure::Misused(format!(
                "--app {app} lets the application have any port, so --port has to say by which one others call it"
            )));
        }
        // Free now, and most likely still when the application takes it: the kernel gives such ports out in turn.
        let free = std::net::TcpListener::bind(*app).and_then(|listener| listener.local_addr());
        *app = free.with_context(|| format!("looking for a free port on {}", app.ip()))?;
        Ok(true)
    }

    /// Ports that nobody chose become any that is free.
    pub(crate) fn free_ports(&mut self) {
        let site = &mut self.listen.site;
        for (address, usual) in [
            (&mut self.listen.outbound, 15080),
            (&mut self.listen.inbound, 15006),
            (&mut self.listen.admin, 15000),
            (&mut site.metrics, 15020),
            (&mut site.readiness, 15021),
        ] {
            if address.port() == usual {
                address.set_port(0);
            }
        }
    }

    pub(crate) fn ends_with_parent(&self) -> bool {
        self.life.is_asked_for()
    }
}

pub(crate) fn run(args: SidecarArgs) -> Result<(), Failure> {
    args.life.watch()?;
    open_files::raise_limit();
    notify::start();
    outrigger_sidecar::run(config(args)?).map_err(failure)
}

/// Whether the command line asks for what cannot be, or something went wrong that it cannot know.
pub(crate) fn failure(error: RunError) -> Failure {
    match error {
        RunError::Setting { .. }
        | RunError::ControlPlane(
            ControlPlaneError::Url(_)
            | ControlPlaneError::PlainText(_)
            | ControlPlaneError::NoToken
            | ControlPlaneError::NoRoot
            | ControlPlaneError::Token,
        ) => Failure::Misused(error.to_string()),
        RunError::Command(error) => command_failure(error),
        other => other.into(),
    }
}

/// A command that did not start ends us as a shell says it.
pub(crate) fn command_failure(error: CommandError) -> Failure {
    match error {
        CommandError::Empty => Failure::Misused(error.to_string()),
        CommandError::Start { .. } | CommandError::Signals(_) => {
            Failure::NotStarted(error.exit_code(), error.into())
        }
    }
}

pub(crate) fn config(args: SidecarArgs) -> Result<Config, Failure> {
    let SidecarArgs {
        mut control,
        workload,
        app,
        listen,
        tuning,
        limits,
        life: _,
    } = args;
    if tuning.lease.heartbeat_interval >= tuning.lease.lease_ttl {
        return Err(Failure::Misused(format!(
            "--heartbeat-interval {:?} must be shorter than --lease-ttl {:?}; a third of it is usual",
            tuning.lease.heartbeat_interval, tuning.lease.lease_ttl
        )));
    }
    let credential = control.credential.take()?;
    let bootstrap = control.bootstrap.map(|file| Bootstrap::read(&file));
    let bootstrap = bootstrap
        .transpose()
        .map_err(|error| Failure::Misused(format!("{:#}", anyhow::Error::new(error))))?;
    let service = service(workload.service, bootstrap.as_ref());
    let mut member = workload.instance.workload(service);
    if let Some(bootstrap) = &bootstrap {
        member.locality = bootstrap.locality();
    }
    Ok(Config {
        control_plane: control.control_plane,
        bootstrap,
        xds_protocol: control.xds_protocol,
        discovery: control.discovery,
        join_token: credential.join_token,
        token_file: credential.token_file,
        spiffe_endpoint: credential.spiffe_endpoint,
        root_ca: control.credential.root_ca,
        workload: member,
        app: app.app.map(|address| App {
            address,
            port: app.port.unwrap_or_else(|| address.port()),
            protocol: app.protocol.unwrap_or_else(|| {
                let captured = listen.capture.capture != CaptureMode::None;
                if captured { "auto" } else { "http" }.to_owned()
            }),
            proxy_protocol: app.app_proxy_protocol.and_then(|said| said.0),
            readiness: app.checks.readiness(app.ready_path),
        }),
        advertise_address: workload.advertise_address,
        outbound: listen.outbound,
        inbound: listen.inbound,
        capture: Capture {
            mode: listen.capture.capture,
            outbound_port: listen.capture.outbound_port,
            check: listen.capture.capture_check,
        },
        admin: listen.admin,
        admin_users: listen.admin_users,
        metrics: listen.site.metrics,
        readiness: listen.site.readiness,
        dns: listen
            .dns
            .config(listen.capture.capture != CaptureMode::None)?,
        tls_files: tuning.tls_files,
        workers: tuning.workers,
        otlp_endpoint: otlp::endpoint(tuning.otlp_endpoint)?,
        trace_sampling: tuning.trace_sampling,
        certificate_ttl: tuning.certificate_ttl,
        lease_ttl: tuning.lease.lease_ttl,
        heartbeat_interval: tuning.lease.heartbeat_interval,
        policy_header: tuning.policy_header,
        drain_time: tuning.drain_time,
        drain_delay: tuning.drain_delay,
        drain_timeout: tuning.drain_timeout,
        limits: limits.limits(),
    })
}

/// What telemetry calls us: as said, else as the node of a bootstrap is called, with `-` for what no name has.
fn service(said: Option<String>, bootstrap: Option<&Bootstrap>) -> String {
    said.unwrap_or_else(|| {
        let node = bootstrap.map(Bootstrap::service).unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        node.chars()
            .map(|c| if plain(c) { c } else { '-' })
            .collect()
    })
}

fn capture_mode(text: &str) -> Result<CaptureMode, String> {
    match text {
        "none" => Ok(CaptureMode::None),
        "redirect" => Ok(CaptureMode::Redirect),
        "tproxy" => Ok(CaptureMode::Tproxy),
        _ => Err(format!(
            "\"{text}\" is no way; write redirect, tproxy or none"
        )),
    }
}

fn capture_check(text: &str) -> Result<CaptureCheck, String> {
    match text {
        "required" => Ok(CaptureCheck::Required),
        "warn" => Ok(CaptureCheck::Warn),
        "off" => Ok(CaptureCheck::Off),
        _ => Err(format!("\"{text}\"; write required, warn or off")),
    }
}

fn policy_header(text: &str) -> Result<PolicyHeader, String> {
    match text {
        "mesh" => Ok(PolicyHeader::Mesh),
        "always" => Ok(PolicyHeader::Always),
        "never" => Ok(PolicyHeader::Never),
        _ => Err(format!("\"{text}\" is nobody; write mesh, always or never")),
    }
}

/// None = off.
#[derive(Clone, Copy, Debug)]
struct AppProxyProtocol(Option<ProxyVersion>);

fn proxy_protocol(text: &str) -> Result<AppProxyProtocol, String> {
    match text {
        "v1" => Ok(AppProxyProtocol(Some(ProxyVersion::V1))),
        "v2" => Ok(AppProxyProtocol(Some(ProxyVersion::V2))),
        "off" => Ok(AppProxyProtocol(None)),
        _ => Err(format!(
            "\"{text}\" is no version of the PROXY protocol; write v1, v2 or off"
        )),
    }
}

fn dns(text: &str) -> Result<DnsAt, String> {
    match text {
        "off" => Ok(DnsAt::Off),
        _ => text.parse().map(DnsAt::Address).map_err(|_error| {
            format!("\"{text}\" is no address; write e.g. 127.0.0.1:15053, or off")
        }),
    }
}

fn dns_upstream(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse();
    let without = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
    with_port
        .or(without)
        .map_err(|_error| format!("\"{text}\" is no address; write e.g. 10.0.0.2 or 10.0.0.2:5353"))
}

fn protocol(text: &str) -> Result<XdsProtocol, String> {
    match text {
        "delta" => Ok(XdsProtocol::Delta),
        "sotw" => Ok(XdsProtocol::Sotw),
        _ => Err(format!("\"{text}\" is no form of xDS; write delta or sotw")),
    }
}

/// As said, or from the file.
pub(crate) fn join_token(
    said: Option<String>,
    file: Option<PathBuf>,
) -> anyhow::Result<Option<String>> {
    match (said, file) {
        // A variable that is set to nothing is not set.
        (Some(token), _) => Ok(Some(token).filter(|token| !token.trim().is_empty())),
        (None, Some(path)) => token(&path).map(Some),
        (None, None) => Ok(None),
    }
}

fn discovery(text: &str) -> Result<Discovery, String> {
    match text {
        "on-demand" => Ok(Discovery::OnDemand),
        "all" => Ok(Discovery::All),
        _ => Err(format!(
            "\"{text}\" is no way to discover services; write on-demand or all"
        )),
    }
}

fn token(path: &Path) -> anyhow::Result<String> {
    let token = fs::read_to_string(path)
        .with_context(|| format!("reading the join token file {}", path.display()))?;
    let token = token.trim();
    if token.is_empty() {
        bail!(
            "the join token file {} is empty; did \"outrigger token create\" fail?",
            path.display()
        );
    }
    Ok(token.to_owned())
}

pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!(
            "\"{text}\" is not a label; write name=value, e.g. version=v2"
        )),
    }
}

pub(crate) fn locality(text: &str) -> Result<[String; 3], String> {
    let parts: Vec<&str> = text.split('/').collect();
    let part = |n: usize| parts.get(n).copied().unwrap_or_default().to_owned();
    if parts.len() > 3 {
        return Err(format!(
            "\"{text}\" has {} parts; write region/zone/sub-zone",
            parts.len()
        ));
    }
    Ok([part(0), part(1), part(2)])
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!(
            "\"{text}\" is not a share; write 0.0 (nothing) to 1.0 (everything)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &str) -> Result<Config, Failure> {
        let words = ["outrigger", "sidecar"].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words)
            .map_err(|error| Failure::Misused(error.to_string()))?
            .command
        {
            Command::Sidecar(args) => config(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_said_has_the_documented_default() {
        let config = parsed("--service reviews.shop --app 127.0.0.1:9080").unwrap();
        assert_eq!(config.workload.service_account, "reviews");
        assert_eq!(config.app.as_ref().map(|app| app.port), Some(9080));
        assert_eq!(config.outbound.port(), 15080);
        assert_eq!(config.heartbeat_interval, Duration::from_secs(10));
    }

    #[test]
    fn a_bootstrap_stands_in_for_what_it_says_itself() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cluster = "{name: x, load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {address: \
                       {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]}}";
        let text = format!(
            "{{node: {{id: n, cluster: some/app, locality: {{zone: z}}}}, static_resources: {{clusters: [{cluster}]}}, \
             dynamic_resources: {{lds_config: {{ads: {{}}}}, cds_config: {{ads: {{}}}}, ads_config: {{api_type: GRPC, \
             grpc_services: [{{envoy_grpc: {{cluster_name: x}}}}]}}}}}}"
        );
        fs::write(file.path(), text).unwrap();
        let line = format!("--bootstrap {}", file.path().display());
        let config = parsed(&line).unwrap();
        assert_eq!(config.workload.service, "some-app");
        assert_eq!(config.workload.locality[1], "z");
        assert_eq!(config.xds_protocol, None);
        let config = parsed(&format!("{line} --xds-protocol delta")).unwrap();
        assert_eq!(config.xds_protocol, Some(XdsProtocol::Delta));
        for beside in [
            "--control-plane https://x",
            "--app 127.0.0.1:1",
            "--locality a",
            "--label a=b",
        ] {
            assert!(parsed(&format!("{line} {beside}")).is_err(), "{beside}");
        }
        assert!(
            parsed("--xds-protocol delta").is_err(),
            "a service is needed"
        );
    }

    #[test]
    fn a_dns_server_has_an_address_and_may_have_servers_of_its_own() {
        let dns = |line: &str| parsed(&format!("--service a {line}")).unwrap().dns;
        assert_eq!(dns("--workers 1"), None);
        assert_eq!(dns("--dns off"), None);
        assert_eq!(dns("--capture redirect --dns off"), None);
        assert_eq!(dns("--capture redirect").unwrap().address, DNS);
        let found = dns(
            "--dns 127.0.0.1:15053 --dns-upstream 10.0.0.2,[2001:db8::1]:5353 --dns-upstream 2001:db8::2",
        );
        let expected = ["10.0.0.2:53", "[2001:db8::1]:5353", "[2001:db8::2]:53"];
        let found = found.unwrap();
        assert_eq!(found.address, "127.0.0.1:15053".parse().unwrap());
        assert_eq!(found.upstreams, expected.map(|text| text.parse().unwrap()));
    }

    #[test]
    fn labels_and_locality_are_taken_apart() {
        let config =
            parsed("--service a --label version=v2 --label x=y --locality eu/eu-1").unwrap();
        assert_eq!(config.workload.labels["version"], "v2");
        assert_eq!(config.workload.labels["x"], "y");
        assert_eq!(
            config.workload.locality,
            ["eu".to_owned(), "eu-1".to_owned(), String::new()]
        );
    }

    #[test]
    fn what_makes_no_sense_is_misuse() {
        for line in [
            "--service a --label version",
            "--service a --locality a/b/c/d",
            "--service a --trace-sampling 2",
            "--service a --port 80",
            "--service a --protocol smtp",
            "--service a --lease-ttl 10s",
            "--service a --lease-ttl 0s",
            "--service a --otlp-endpoint foo",
            "--service a --app 127.0.0.1:1 --app-proxy-protocol 2",
            "--service a --dns localhost",
            "--service a --dns-upstream 10.0.0.2",
            "--service a --dns off --dns-upstream 10.0.0.2",
            "--service a --dns 127.0.0.1:0 --dns-upstream dns.example.com",
            "--service a --otlp-endpoint https://127.0.0.1:4317",
        ] {
            assert!(matches!(parsed(line), Err(Failure::Misused(_))), "{line}");
        }
    }

    #[test]
    fn what_the_sidecar_refuses_of_its_flags_is_misuse() {
        let token = format!("secret.{}", "0".repeat(64));
        for (line, expected) in [
            (
                format!("--service Rat/ings --join-token {token}"),
                "--service",
            ),
            (
                format!("--service a --outbound 0.0.0.0:0 --join-token {token}"),
                "--outbound",
            ),
            (
                format!("--service a --admin 0.0.0.0:0 --join-token {token}"),
                "--admin",
            ),
            (
                format!("--service a --certificate-ttl 25h --join-token {token}"),
                "--certificate-ttl",
            ),
            (
                format!("--service a --dns 0.0.0.0:0 --join-token {token}"),
                "--dns",
            ),
            (
                format!(
                    "--service a --dns 127.0.0.1:0 --dns-upstream 10.0.0.2:0 --join-token {token}"
                ),
                "--dns-upstream",
            ),
            (
                "--service a --join-token abc".to_owned(),
                "join token must be",
            ),
            ("--service a".to_owned(), "join token is needed"),
            (
                "--service a --join-token=".to_owned(),
                "join token is needed",
            ),
            (
                format!("--service a --control-plane 127.0.0.1:1 --join-token {token}"),
                "is not a URL",
            ),
            (
                "--service a --control-plane ftp://127.0.0.1:1".to_owned(),
                "is not a URL",
            ),
            (
                "--service a --control-plane http://192.0.2.1:1".to_owned(),
                "loopback",
            ),
        ] {
            let config = parsed(&line).unwrap();
            match outrigger_sidecar::run(config).map_err(failure) {
                Err(Failure::Misused(error)) => assert!(error.contains(expected), "{error}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_empty_token_file_says_what_may_have_happened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reviews.token");
        fs::write(&path, "\n").unwrap();
        let error = token(&path).unwrap_err().to_string();
        let expected = format!(
            "the join token file {} is empty; did \"outrigger token create\" fail?",
            path.display()
        );
        assert_eq!(error, expected);
    }
}
