//! `outrigger control-plane`: flags and environment to a [`Config`].

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use outrigger_control_plane::{
    Config, OutboundTrafficPolicy, PathNormalization, RunError, Subnet, VipPools,
};

use crate::{
    authority::AuthorityArgs,
    client::DataDirArgs,
    duration,
    failure::Failure,
    kubernetes::KubernetesArgs,
    life::{self, LifeArgs},
    notify, open_files,
};

/// See `--help`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Normalization {
    /// merge-slashes for workloads whose access rules look at paths, base for others
    #[default]
    Auto,
    /// Dot segments are resolved (always so)
    Base,
    /// Several slashes in a row become one
    MergeSlashes,
    /// %2F and %5C become slashes, too
    DecodeAndMergeSlashes,
    /// As merge-slashes, and a path with %2F or %5C is refused
    RejectEscapedSlashes,
}

impl From<Normalization> for PathNormalization {
    fn from(said: Normalization) -> Self {
        match said {
            Normalization::Auto => Self::Auto,
            Normalization::Base => Self::Base,
            Normalization::MergeSlashes => Self::MergeSlashes,
            Normalization::DecodeAndMergeSlashes => Self::DecodeAndMergeSlashes,
            Normalization::RejectEscapedSlashes => Self::RejectEscapedSlashes,
        }
    }
}

/// See `--help`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Outbound {
    /// They go where they were going to, as they are (Istio's default)
    #[default]
    AllowAny,
    /// They are closed; requests are answered with 502
    RegistryOnly,
}

impl From<Outbound> for OutboundTrafficPolicy {
    fn from(said: Outbound) -> Self {
        match said {
            Outbound::AllowAny => Self::AllowAny,
            Outbound::RegistryOnly => Self::RegistryOnly,
        }
    }
}

/// Run the control plane: policies, registry, certificates, xDS.
///
/// Prints `ready {…}` on standard output once it listens.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger control-plane
  outrigger control-plane --data-dir /var/lib/outrigger --server-name mesh.example.org")]
pub(crate) struct ControlPlaneArgs {
    /// xDS, admin, registry and certificates over TLS; port 0 picks a free one.
    #[arg(
        long,
        default_value = "0.0.0.0:15012",
        value_name = "ADDR",
        env = "OUTRIGGER_GRPC"
    )]
    grpc: SocketAddr,
    /// The same in plain text, where every caller counts as the operator; loopback only. Default: off.
    #[arg(long, value_name = "ADDR", env = "OUTRIGGER_PLAINTEXT")]
    plaintext: Option<SocketAddr>,
    /// Metrics and health over HTTP; port 0 picks a free one.
    #[arg(
        long,
        default_value = "0.0.0.0:15014",
        value_name = "ADDR",
        env = "OUTRIGGER_HTTP"
    )]
    http: SocketAddr,
    #[command(flatten)]
    data_dir: DataDirArgs,
    /// SPIFFE trust domain; fixed once the root exists.
    #[arg(
        long,
        default_value = "cluster.local",
        value_name = "NAME",
        env = "OUTRIGGER_TRUST_DOMAIN"
    )]
    trust_domain: String,
    /// DNS domain of short service names.
    #[arg(
        long,
        default_value = "cluster.local",
        value_name = "NAME",
        env = "OUTRIGGER_DOMAIN"
    )]
    domain: String,
    /// Namespace whose PeerAuthentication, AuthorizationPolicy and RequestAuthentication are for the whole mesh.
    #[arg(
        long,
        default_value = "istio-system",
        value_name = "NAME",
        env = "OUTRIGGER_ROOT_NAMESPACE"
    )]
    root_namespace: String,
    /// What becomes of paths before access rules, routes and applications see them (Istio's pathNormalization).
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "HOW",
        env = "OUTRIGGER_PATH_NORMALIZATION"
    )]
    path_normalization: Normalization,
    /// Network that services have addresses from, for redirected connections; once for IPv4, once for IPv6. A change moves
    /// every service. Default: 240.240.0.0/16 and 2001:2::/48 (Istio's).
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        env = "OUTRIGGER_VIP_CIDR"
    )]
    vip_cidr: Vec<Subnet>,
    /// What becomes of redirected connections to where no service is, where no Sidecar document says.
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "POLICY",
        env = "OUTRIGGER_OUTBOUND_TRAFFIC_POLICY"
    )]
    outbound_traffic_policy: Outbound,
    /// Root certificate (PEM) to sign with, instead of one made at first start.
    #[arg(
        long,
        value_name = "FILE",
        requires = "root_key",
        env = "OUTRIGGER_ROOT_CERT"
    )]
    root_cert: Option<PathBuf>,
    /// Private key (PEM) of the root certificate.
    #[arg(
        long,
        value_name = "FILE",
        requires = "root_cert",
        env = "OUTRIGGER_ROOT_KEY"
    )]
    root_key: Option<PathBuf>,
    #[command(flatten)]
    authority: AuthorityArgs,
    /// How long a registration lasts that asks for nothing else.
    #[arg(long, default_value = "30s", value_parser = duration::parse, env = "OUTRIGGER_LEASE_TTL")]
    lease_ttl: Duration,
    /// How often registrants are told to renew.
    #[arg(long, default_value = "10s", value_parser = duration::parse, env = "OUTRIGGER_HEARTBEAT_INTERVAL")]
    heartbeat_interval: Duration,
    /// Another name (DNS or IP) that clients reach it by; may be given several times.
    #[arg(
        long = "server-name",
        value_name = "NAME",
        value_delimiter = ',',
        env = "OUTRIGGER_SERVER_NAMES"
    )]
    server_names: Vec<String>,
    /// Roots (PEM) of another authority, e.g. SPIRE's bundle: clients may have its certificates, of our trust domain. Read
    /// again every 10s. Default: our own only.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_SPIFFE_BUNDLE")]
    spiffe_bundle: Option<PathBuf>,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    /// End when the data directory is removed.
    #[arg(long, hide = true)]
    exit_without_data_dir: bool,
    #[command(flatten)]
    life: LifeArgs,
}

pub(crate) fn run(args: ControlPlaneArgs) -> Result<(), Failure> {
    args.life.watch()?;
    open_files::raise_limit();
    notify::start();
    if args.heartbeat_interval >= args.lease_ttl {
        return Err(Failure::Misused(format!(
            "--heartbeat-interval {:?} must be shorter than --lease-ttl {:?}; a third of it is usual",
            args.heartbeat_interval, args.lease_ttl
        )));
    }
    let data_dir = args.data_dir.resolve()?;
    if args.exit_without_data_dir {
        life::watch_dir(&data_dir)?;
    }
    let root_encryption = args.authority.root_encryption()?;
    let config = Config {
        grpc: args.grpc,
        plaintext: args.plaintext,
        http: args.http,
        data_dir,
        trust_domain: args.trust_domain,
        domain: args.domain,
        root_namespace: args.root_namespace,
        path_normalization: args.path_normalization.into(),
        vip_pools: VipPools::with(&args.vip_cidr)
            .map_err(|error| Failure::Misused(format!("--vip-cidr {error}")))?,
        outbound_traffic_policy: args.outbound_traffic_policy.into(),
        root_cert: args.root_cert,
        root_key: args.root_key,
        ca_dir: args.authority.ca_dir,
        root_encryption,
        root_ttl: args.authority.root_ttl,
        renewal_grace: args.authority.renewal_grace,
        lease_ttl: args.lease_ttl,
        heartbeat_interval: args.heartbeat_interval,
        server_names: args.server_names,
        spiffe_bundle: args.spiffe_bundle,
        kubernetes: args.kubernetes.config()?,
    };
    outrigger_control_plane::run(config).map_err(|error| match error {
        RunError::Setting(message) => Failure::Misused(message),
        other => other.into(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn what_the_control_plane_refuses_of_its_flags_is_misuse() {
        let dir = tempfile::tempdir().unwrap();
        for (flag, value) in [
            ("--plaintext", "0.0.0.0:0"),
            ("--lease-ttl", "2d"),
            ("--heartbeat-interval", "1m"),
            ("--trust-domain", "Not/One"),
            ("--domain", "a b"),
            ("--root-namespace", "a b"),
            ("--vip-cidr", "10.0.0.0/31"),
        ] {
            let mut args = ["outrigger", "control-plane", "--data-dir"]
                .map(std::ffi::OsString::from)
                .to_vec();
            args.extend([dir.path().into(), flag.into(), value.into()]);
            let Command::ControlPlane(args) = Cli::try_parse_from(args).unwrap().command else {
                panic!("another command");
            };
            assert!(matches!(run(*args), Err(Failure::Misused(_))), "{flag}");
        }
    }
}
