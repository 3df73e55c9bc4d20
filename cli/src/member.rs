//! Flags that whoever joins the mesh has, with a proxy or without.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use outrigger_sidecar::{Readiness, Workload, spiffe_endpoint};

use crate::{
    duration,
    failure::Failure,
    sidecar::{join_token, label, locality},
};

/// What shows us to the control plane at first contact, and it to us.
#[derive(Args, Debug)]
pub(crate) struct CredentialArgs {
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
    /// File of a token that shows who the pod is (Kubernetes: a projected service-account token of audience outrigger-ca or
    /// istio-ca), in place of a join token. Read anew whenever it is needed. Needs --root-ca.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Take key, certificates and roots from SPIFFE's Workload API (SPIRE) at this socket instead of the control plane,
    /// which has to accept them (--spiffe-bundle there). With --root-ca if its own certificate is of another root.
    #[arg(long, value_name = "unix:///PATH", env = "SPIFFE_ENDPOINT_SOCKET")]
    spiffe_endpoint_socket: Option<String>,
    /// Root certificate (PEM) that the control plane must prove. Default: the root that the join token pins.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_ROOT_CA")]
    pub(crate) root_ca: Option<PathBuf>,
}

/// One of these, or none where there is a certificate already.
#[derive(Debug, Default)]
pub(crate) struct Credential {
    pub(crate) join_token: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) spiffe_endpoint: Option<PathBuf>,
}

impl CredentialArgs {
    /// What was given. A variable that is set to nothing is not set.
    pub(crate) fn take(&mut self) -> Result<Credential, Failure> {
        let join_token = join_token(self.join_token.take(), self.join_token_file.take())?;
        let spiffe = self.spiffe_endpoint_socket.take();
        let spiffe = spiffe.filter(|text| !text.trim().is_empty());
        let spiffe = spiffe.as_deref().map(spiffe_endpoint).transpose();
        let credential = Credential {
            join_token,
            token_file: self.token_file.take(),
            spiffe_endpoint: spiffe.map_err(|error| {
                Failure::Misused(format!(
                    "--spiffe-endpoint-socket (SPIFFE_ENDPOINT_SOCKET): {error}"
                ))
            })?,
        };
        let given = [
            ("--join-token", credential.join_token.is_some()),
            ("--token-file", credential.token_file.is_some()),
            (
                "--spiffe-endpoint-socket",
                credential.spiffe_endpoint.is_some(),
            ),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given);
        let names: Vec<&str> = given.map(|(name, _)| name).collect();
        if names.len() > 1 {
            return Err(Failure::Misused(format!(
                "{} were given, by flag or environment; one of them says who we are",
                names.join(" and ")
            )));
        }
        Ok(credential)
    }
}

/// Who the application is, beside its service.
#[derive(Args, Debug)]
pub(crate) struct InstanceArgs {
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
}

impl InstanceArgs {
    pub(crate) fn workload(self, service: String) -> Workload {
        Workload {
            service_account: self
                .service_account
                .unwrap_or_else(|| service.split('.').next().unwrap_or_default().to_owned()),
            service,
            namespace: self.namespace,
            labels: self.labels.into_iter().collect(),
            locality: self.locality,
            weight: self.weight,
        }
    }
}

/// How it is found out whether the application is ready.
#[derive(Args, Debug)]
pub(crate) struct ReadinessArgs {
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

impl ReadinessArgs {
    /// `http_path`: None = a TCP connection is enough.
    pub(crate) fn readiness(self, http_path: Option<String>) -> Readiness {
        Readiness {
            http_path,
            interval: self.ready_interval,
            timeout: self.ready_timeout,
            unhealthy_threshold: self.unhealthy_threshold,
            healthy_threshold: self.healthy_threshold,
        }
    }
}

/// Ports for those who watch.
#[derive(Args, Debug)]
pub(crate) struct SiteArgs {
    /// Prometheus metrics.
    #[arg(
        long,
        default_value = "0.0.0.0:15020",
        value_name = "ADDR",
        env = "OUTRIGGER_METRICS"
    )]
    pub(crate) metrics: SocketAddr,
    /// Readiness for orchestrators: /healthz/ready.
    #[arg(
        long,
        default_value = "0.0.0.0:15021",
        value_name = "ADDR",
        env = "OUTRIGGER_READINESS"
    )]
    pub(crate) readiness: SocketAddr,
}

/// How long others believe that the application is there.
#[derive(Args, Debug)]
pub(crate) struct LeaseArgs {
    /// How long the registration lasts without a heartbeat.
    #[arg(long, default_value = "30s", value_parser = duration::parse, env = "OUTRIGGER_LEASE_TTL")]
    pub(crate) lease_ttl: Duration,
    /// Time between two heartbeats.
    #[arg(long, default_value = "10s", value_parser = duration::parse, env = "OUTRIGGER_HEARTBEAT_INTERVAL")]
    pub(crate) heartbeat_interval: Duration,
}
