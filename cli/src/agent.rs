//! `outrigger agent`: flags and environment to an [`AgentConfig`].

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgAction, Args};
use outrigger_sidecar::{AgentConfig, AgentError, App, EnvoyListeners, run_agent};

use crate::{
    client::DEFAULT_ADDRESS,
    duration,
    failure::Failure,
    life::LifeArgs,
    member::{CredentialArgs, InstanceArgs, LeaseArgs, ReadinessArgs, SiteArgs},
    notify, open_files, sidecar,
};

/// Make an application a member of the mesh without a sidecar: for gRPC libraries with xDS, or any server with mutual TLS.
///
/// Joins, writes certificate, key and roots into a directory and renews them, writes the bootstrap file of a gRPC library
/// (GRPC_XDS_BOOTSTRAP), and registers the application. Prints `ready {…}` once the files are there; with a command, starts
/// it then, passes signals on, and ends with its exit code.
#[derive(Args, Debug)]
#[command(
    after_help = "Files in --dir: cert.pem (chain), key.pem (0600), root.pem, bootstrap.json; with --envoy
envoy.json and the socket sds.sock (0600). They are switched together when the
certificate is renewed, at half of its life; an agent that is started again goes on with them and needs no new token.

Examples:
  outrigger agent --service reviews --app 0.0.0.0:50051 --dir /run/reviews --join-token-file reviews.token -- ./reviews
  OUTRIGGER_JOIN_TOKEN=$(outrigger token create shopper) outrigger agent --service shopper --dir /run/shopper
  outrigger agent --envoy --service reviews --app 127.0.0.1:9080 --dir /run/reviews -- envoy -c {bootstrap}"
)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
    #[command(flatten)]
    app: AppArgs,
    #[command(flatten)]
    envoy: EnvoyArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    tuning: TuningArgs,
    #[command(flatten)]
    life: LifeArgs,
    /// The application: started when the files are there, with GRPC_XDS_BOOTSTRAP set. Default: somebody else starts it.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Control plane")]
struct ControlArgs {
    /// Address of the control plane. `http://` for its plain-text port (loopback only; no certificates then, and
    /// --mtls false).
    #[arg(long, default_value = DEFAULT_ADDRESS, value_name = "URL", env = "OUTRIGGER_CONTROL_PLANE")]
    control_plane: String,
    #[command(flatten)]
    credential: CredentialArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Workload")]
struct WorkloadArgs {
    /// Service that the application is, e.g. `reviews`.
    #[arg(long, env = "OUTRIGGER_SERVICE")]
    service: String,
    #[command(flatten)]
    instance: InstanceArgs,
    /// Address that others reach the application at. Default: that of --app, or the local address of the connection to
    /// the control plane.
    #[arg(long, value_name = "IP", env = "OUTRIGGER_ADVERTISE_ADDRESS")]
    advertise_address: Option<IpAddr>,
    /// Whether the application uses its certificates: others call it over mutual TLS, and it calls others so. false: both
    /// in plain text.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL", env = "OUTRIGGER_MTLS")]
    mtls: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Application")]
struct AppArgs {
    /// Where the application listens for others, e.g. `0.0.0.0:50051`. Default: none; it only calls others and is not
    /// registered. It is ready while it takes TCP connections.
    #[arg(long, value_name = "ADDR", env = "OUTRIGGER_APP")]
    app: Option<SocketAddr>,
    /// The service's port as clients name it. Default: the port of --app.
    #[arg(long, requires = "app", value_parser = clap::value_parser!(u16).range(1..), env = "OUTRIGGER_PORT")]
    port: Option<u16>,
    /// What the application speaks: grpc, http2, http, or tcp for anything else. Default: grpc; http with --envoy.
    #[arg(long, value_parser = ["grpc", "http2", "http", "tcp"], env = "OUTRIGGER_PROTOCOL")]
    protocol: Option<String>,
    #[command(flatten)]
    checks: ReadinessArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Envoy as the sidecar")]
struct EnvoyArgs {
    /// COMMAND is an Envoy, the sidecar of the application: `{bootstrap}` in it is the path of a bootstrap file that
    /// leads to the control plane, and to a Unix socket in --dir where Envoy has its key and roots from (SDS).
    #[arg(long, conflicts_with = "xds_relay", env = "OUTRIGGER_ENVOY")]
    envoy: bool,
    /// Envoy's HTTP proxy for the application's calls; loopback only.
    #[arg(
        long,
        requires = "envoy",
        default_value = "127.0.0.1:15080",
        value_name = "ADDR",
        env = "OUTRIGGER_OUTBOUND"
    )]
    outbound: SocketAddr,
    /// Envoy's mutual TLS for others.
    #[arg(
        long,
        requires = "envoy",
        default_value = "0.0.0.0:15006",
        value_name = "ADDR",
        env = "OUTRIGGER_INBOUND"
    )]
    inbound: SocketAddr,
    /// Envoy's own admin side; loopback only.
    #[arg(
        long,
        requires = "envoy",
        default_value = "127.0.0.1:15004",
        value_name = "ADDR",
        env = "OUTRIGGER_ENVOY_ADMIN"
    )]
    envoy_admin: SocketAddr,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Listeners (port 0 picks a free one)")]
struct ListenArgs {
    /// Admin: /ready, /certs, /drain, /logging; loopback only.
    #[arg(
        long,
        default_value = "127.0.0.1:15000",
        value_name = "ADDR",
        env = "OUTRIGGER_ADMIN"
    )]
    admin: SocketAddr,
    #[command(flatten)]
    site: SiteArgs,
    /// xDS in plain text for a library that has no TLS towards its xDS server (Node.js), passed on with this workload's
    /// certificate; loopback only. A fixed port lets the agent start again under a running application. Default: off.
    #[arg(long, value_name = "ADDR", env = "OUTRIGGER_XDS_RELAY")]
    xds_relay: Option<SocketAddr>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Files and times")]
struct TuningArgs {
    /// Directory for certificate, key, roots and bootstrap file, of this agent alone; made with mode 0700 if it is not
    /// there. The application must run as the same user.
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_AGENT_DIR")]
    dir: PathBuf,
    /// Lifetime of certificates, 10s to 24h; renewed at half of it. Libraries read the files again every twentieth of it
    /// (1s to 600s).
    #[arg(long, default_value = "1h", value_parser = duration::parse, env = "OUTRIGGER_CERTIFICATE_TTL")]
    certificate_ttl: Duration,
    #[command(flatten)]
    lease: LeaseArgs,
    /// How long COMMAND may take to end when it is asked to; then it is killed.
    #[arg(long, default_value = "30s", value_parser = duration::parse, env = "OUTRIGGER_DRAIN_TIMEOUT")]
    drain_timeout: Duration,
}

pub(crate) fn run(args: AgentArgs) -> Result<(), Failure> {
    args.life.watch()?;
    open_files::raise_limit();
    notify::start();
    match run_agent(config(args)?) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Command(code)),
        Err(error) => Err(failure(error)),
    }
}

fn failure(error: AgentError) -> Failure {
    match error {
        AgentError::Run(error) => sidecar::failure(error),
        AgentError::Command(error) => sidecar::command_failure(error),
        error @ (AgentError::Files(_) | AgentError::Socket { .. }) => error.into(),
    }
}

fn config(args: AgentArgs) -> Result<AgentConfig, Failure> {
    let AgentArgs {
        mut control,
        workload,
        app,
        envoy,
        listen,
        tuning,
        life: _,
        command,
    } = args;
    let credential = control.credential.take()?;
    Ok(AgentConfig {
        join_token: credential.join_token,
        control_plane: control.control_plane,
        token_file: credential.token_file,
        spiffe_endpoint: credential.spiffe_endpoint,
        root_ca: control.credential.root_ca,
        workload: workload.instance.workload(workload.service),
        app: app.app.map(|address| App {
            proxy_protocol: None,
            address,
            port: app.port.unwrap_or_else(|| address.port()),
            protocol: app.protocol.unwrap_or_else(|| {
                let usual = if envoy.envoy { "http" } else { "grpc" };
                usual.to_owned()
            }),
            readiness: app.checks.readiness(None),
        }),
        advertise_address: workload.advertise_address,
        mtls: workload.mtls,
        dir: tuning.dir,
        admin: listen.admin,
        metrics: listen.site.metrics,
        readiness: listen.site.readiness,
        xds_relay: listen.xds_relay,
        envoy: envoy.envoy.then_some(EnvoyListeners {
            outbound: envoy.outbound,
            inbound: envoy.inbound,
            admin: envoy.envoy_admin,
        }),
        certificate_ttl: tuning.certificate_ttl,
        lease_ttl: tuning.lease.lease_ttl,
        heartbeat_interval: tuning.lease.heartbeat_interval,
        drain_timeout: tuning.drain_timeout,
        command,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &str) -> Result<AgentConfig, Failure> {
        let words = ["outrigger", "agent"]
            .into_iter()
            .chain(line.split_whitespace());
        let cli =
            Cli::try_parse_from(words).map_err(|error| Failure::Misused(error.to_string()))?;
        match cli.command {
            Command::Agent(args) => config(*args),
            _ => unreachable!("the line says agent"),
        }
    }

    fn refusal(line: &str) -> String {
        match parsed(line).and_then(|config| run_agent(config).map_err(failure)) {
            Err(Failure::Misused(error)) => error,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_name_and_a_directory_are_enough_to_call_others() {
        let config = parsed("--service shopper --dir d").unwrap();
        assert_eq!(config.workload.service_account, "shopper");
        assert!(config.mtls && config.app.is_none() && config.command.is_empty());
    }

    #[test]
    fn a_server_speaks_grpc_at_its_own_port_unless_told_otherwise() {
        let config = parsed("--service reviews --dir d --app 0.0.0.0:50051").unwrap();
        let app = config.app.unwrap();
        assert_eq!((app.port, app.protocol.as_str()), (50051, "grpc"));
        let config = parsed("--service reviews --dir d --app 0.0.0.0:50051 --port 80").unwrap();
        assert_eq!(config.app.unwrap().port, 80);
    }

    #[test]
    fn what_follows_two_dashes_is_the_application_with_its_own_flags() {
        let config = parsed("--service a --dir d -- ./app --dir x").unwrap();
        assert_eq!(config.command, ["./app", "--dir", "x"]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_flag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let line = |more: &str| {
            format!(
                "--service a --dir {path} --admin 127.0.0.1:0 --metrics 127.0.0.1:0 --readiness 127.0.0.1:0 {more}"
            )
        };
        for (more, expected) in [
            ("", "join token is needed"),
            ("--join-token abc", "join token must be"),
            ("--control-plane ftp://x", "is not a URL"),
            (
                "--control-plane http://127.0.0.1:1",
                "--mtls true: must be false",
            ),
            (
                "--control-plane http://192.0.2.1:1 --mtls false",
                "loopback",
            ),
            ("--app 127.0.0.1:0", "--app 127.0.0.1:0"),
            ("--port 80", "--app"),
            ("--mtls maybe", "--mtls"),
            ("--heartbeat-interval 40s", "--heartbeat-interval 40s"),
            ("--certificate-ttl 25h", "--certificate-ttl"),
            ("--advertise-address 0.0.0.0", "--advertise-address 0.0.0.0"),
            ("--admin 0.0.0.0:0", "--admin"),
            ("--xds-relay 0.0.0.0:0", "--xds-relay 0.0.0.0:0"),
        ] {
            let more = if more.starts_with("--admin") {
                line("").replace("--admin 127.0.0.1:0", more)
            } else {
                line(more)
            };
            let found = refusal(&more);
            assert!(found.contains(expected), "{more}: {found}");
        }
        assert!(refusal("--service a").contains("--dir"));
    }

    #[test]
    fn a_directory_with_somebody_elses_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cert.pem"), "mine").unwrap();
        let line = format!("--service a --dir {}", dir.path().display());
        let error = run_agent(parsed(&line).unwrap()).map_err(failure);
        match error {
            Err(Failure::Failed(error)) => {
                let text = format!("{error:#}");
                assert!(text.contains("cert.pem is there"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        let kept = std::fs::read_to_string(dir.path().join("cert.pem")).unwrap();
        assert_eq!(kept, "mine");
    }
}
