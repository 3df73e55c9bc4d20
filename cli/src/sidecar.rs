//! `outrigger sidecar`: flags and environment to a [`Config`].

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use outrigger_sidecar::{
    App, Bootstrap, Config, ControlPlaneError, Discovery, Readiness, RunError, Workload,
    XdsProtocol,
};

use crate::{
    client::DEFAULT_ADDRESS, duration, failure::Failure, life::LifeArgs, open_files, otlp,
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
        conflicts_with_all = ["control_plane", "join_token", "join_token_file", "root_ca", "app", "labels", "locality",
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
    /// One-time credential for the first certificate. Prefer the environment: arguments can be seen by others.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "OUTRIGGER_JOIN_TOKEN",
        hide_env_values = true
    )]
    join_token: Option<String>,
    /// File that holds the join token.
    #[arg(
        long,
        value_name = "FILE",
        env = "OUTRIGGER_JOIN_TOKEN_FILE",
        conflicts_with = "join_token"
    )]
    join_token_file: Option<PathBuf>,
    /// Root certificate (PEM) that the control plane must prove. Default: the root that the join token pins.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_ROOT_CA")]
    root_ca: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Workload")]
struct WorkloadArgs {
    /// Service that the application is, e.g. `reviews`. Default with --bootstrap: the cluster of its node.
    #[arg(long, required_unless_present = "bootstrap", env = "OUTRIGGER_SERVICE")]
    service: Option<String>,
    /// The service's namespace.
    #[arg(short, long, default_value = "default", env = "OUTRIGGER_NAMESPACE")]
    namespace: String,
    /// Account in the identity. Default: the service's first label.
    #[arg(long, value_name = "NAME", env = "OUTRIGGER_SERVICE_ACCOUNT")]
    service_account: Option<String>,
    /// Label of this instance, e.g. `version=v2`; may be given several times.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label, value_delimiter = ',', env = "OUTRIGGER_LABELS")]
    labels: Vec<(String, String)>,
    /// Where it runs: `region`, `region/zone` or `region/zone/sub-zone`.
    #[arg(long, default_value = "", hide_default_value = true, value_parser = locality, env = "OUTRIGGER_LOCALITY")]
    locality: [String; 3],
    /// Share of the service's traffic, 1 or more, relative to the other instances.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), env = "OUTRIGGER_WEIGHT")]
    weight: u32,
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
    /// What the application speaks: http, http2, grpc, or tcp for anything else.
    #[arg(long, default_value = "http", value_parser = ["http", "http2", "grpc", "tcp"], env = "OUTRIGGER_PROTOCOL")]
    protocol: String,
    /// Path that answers 2xx when the application is ready. Default: a TCP connection is enough.
    #[arg(
        long,
        requires = "app",
        value_name = "PATH",
        env = "OUTRIGGER_READY_PATH"
    )]
    ready_path: Option<String>,
    /// Time between two readiness checks.
    #[arg(long, default_value = "10s", value_parser = duration::parse, env = "OUTRIGGER_READY_INTERVAL")]
    ready_interval: Duration,
    /// How long a readiness check may take.
    #[arg(long, default_value = "5s", value_parser = duration::parse, env = "OUTRIGGER_READY_TIMEOUT")]
    ready_timeout: Duration,
    /// Failed checks in a row after which it is not ready.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), env = "OUTRIGGER_UNHEALTHY_THRESHOLD")]
    unhealthy_threshold: u32,
    /// Good checks in a row after which it is ready again.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), env = "OUTRIGGER_HEALTHY_THRESHOLD")]
    healthy_threshold: u32,
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
    /// Admin: /ready, /config_dump, /stats, /clusters; loopback only.
    #[arg(
        long,
        default_value = "127.0.0.1:15000",
        value_name = "ADDR",
        env = "OUTRIGGER_ADMIN"
    )]
    admin: SocketAddr,
    /// Prometheus metrics.
    #[arg(
        long,
        default_value = "0.0.0.0:15020",
        value_name = "ADDR",
        env = "OUTRIGGER_METRICS"
    )]
    metrics: SocketAddr,
    /// Readiness for orchestrators: /healthz/ready.
    #[arg(
        long,
        default_value = "0.0.0.0:15021",
        value_name = "ADDR",
        env = "OUTRIGGER_READINESS"
    )]
    readiness: SocketAddr,
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
    /// How long the registration lasts without a heartbeat.
    #[arg(long, default_value = "30s", value_parser = duration::parse, env = "OUTRIGGER_LEASE_TTL")]
    lease_ttl: Duration,
    /// Time between two heartbeats.
    #[arg(long, default_value = "10s", value_parser = duration::parse, env = "OUTRIGGER_HEARTBEAT_INTERVAL")]
    heartbeat_interval: Duration,
    /// How long a drain waits for requests in flight.
    #[arg(long, default_value = "30s", value_parser = duration::parse, env = "OUTRIGGER_DRAIN_TIMEOUT")]
    drain_timeout: Duration,
}

pub(crate) fn run(args: SidecarArgs) -> Result<(), Failure> {
    args.life.watch()?;
    open_files::raise_limit();
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
            | ControlPlaneError::Token,
        ) => Failure::Misused(error.to_string()),
        other => other.into(),
    }
}

fn config(args: SidecarArgs) -> Result<Config, Failure> {
    let SidecarArgs {
        control,
        workload,
        app,
        listen,
        tuning,
        life: _,
    } = args;
    if tuning.heartbeat_interval >= tuning.lease_ttl {
        return Err(Failure::Misused(format!(
            "--heartbeat-interval {:?} must be shorter than --lease-ttl {:?}; a third of it is usual",
            tuning.heartbeat_interval, tuning.lease_ttl
        )));
    }
    let join_token = join_token(control.join_token, control.join_token_file)?;
    let bootstrap = control.bootstrap.map(|file| Bootstrap::read(&file));
    let bootstrap = bootstrap
        .transpose()
        .map_err(|error| Failure::Misused(format!("{:#}", anyhow::Error::new(error))))?;
    let service = service(workload.service, bootstrap.as_ref());
    let locality = bootstrap
        .as_ref()
        .map_or(workload.locality, Bootstrap::locality);
    Ok(Config {
        control_plane: control.control_plane,
        bootstrap,
        xds_protocol: control.xds_protocol,
        discovery: control.discovery,
        join_token,
        root_ca: control.root_ca,
        workload: Workload {
            service_account: workload
                .service_account
                .unwrap_or_else(|| service.split('.').next().unwrap_or_default().to_owned()),
            service,
            namespace: workload.namespace,
            labels: workload.labels.into_iter().collect::<BTreeMap<_, _>>(),
            locality,
            weight: workload.weight,
        },
        app: app.app.map(|address| App {
            address,
            port: app.port.unwrap_or_else(|| address.port()),
            protocol: app.protocol,
            readiness: Readiness {
                http_path: app.ready_path,
                interval: app.ready_interval,
                timeout: app.ready_timeout,
                unhealthy_threshold: app.unhealthy_threshold,
                healthy_threshold: app.healthy_threshold,
            },
        }),
        advertise_address: workload.advertise_address,
        outbound: listen.outbound,
        inbound: listen.inbound,
        admin: listen.admin,
        metrics: listen.metrics,
        readiness: listen.readiness,
        tls_files: tuning.tls_files,
        workers: tuning.workers,
        otlp_endpoint: otlp::endpoint(tuning.otlp_endpoint)?,
        trace_sampling: tuning.trace_sampling,
        certificate_ttl: tuning.certificate_ttl,
        lease_ttl: tuning.lease_ttl,
        heartbeat_interval: tuning.heartbeat_interval,
        drain_timeout: tuning.drain_timeout,
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
