//! What is measured: an address to send requests to, and the processes that are paid for it.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use tokio::process::Command;

use crate::{
    backend::Backend,
    load, outrigger,
    process::{Process, Usage, pss_kib},
};

pub(crate) mod envoy;
mod haproxy;
mod nginx;
mod ours;
mod template;

/// Which subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// The application without any proxy
    Direct,
    /// Our control plane and sidecars
    Outrigger,
    /// The same from another binary (--baseline)
    Baseline,
    /// Envoy, with HTTP/1.1 between two
    Envoy,
    /// Envoy, with HTTP/2 between two
    EnvoyH2,
    /// HAProxy, with HTTP/1.1 between two
    Haproxy,
    /// HAProxy, with HTTP/2 between two
    HaproxyH2,
    /// nginx
    Nginx,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Outrigger => "outrigger",
            Self::Baseline => "baseline",
            Self::Envoy => "envoy",
            Self::EnvoyH2 => "envoy-h2",
            Self::Haproxy => "haproxy",
            Self::HaproxyH2 => "haproxy-h2",
            Self::Nginx => "nginx",
        }
    }

    /// The program's name and version, or why there is none.
    pub(crate) async fn version(self, binaries: &Binaries) -> anyhow::Result<Option<String>> {
        let (binary, flag) = match self {
            Self::Direct => return Ok(None),
            Self::Outrigger => (binaries.outrigger()?, "--version"),
            Self::Baseline => (binaries.baseline()?, "--version"),
            Self::Envoy | Self::EnvoyH2 => (envoy::binary()?, "--version"),
            Self::Haproxy | Self::HaproxyH2 => (haproxy::binary()?, "-v"),
            Self::Nginx => (nginx::binary()?, "-v"),
        };
        let output = Command::new(binary).arg(flag).output().await?;
        // nginx says it on standard error (`nginx version: nginx/1.22.1`), Envoy after an empty line.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find(|line| !line.trim().is_empty());
        let line = line.unwrap_or_default().trim();
        // Envoy's: `/path/envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`; HAProxy's ends with an address.
        let envoy = line
            .rsplit_once("version: ")
            .and_then(|(_, rest)| rest.split('/').nth(1));
        let line = line.split(" - ").next().unwrap_or(line);
        Ok(Some(envoy.map_or_else(
            || line.to_owned(),
            |version| format!("envoy {version}"),
        )))
    }
}

/// The way from the load generator to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One proxy, HTTP/1.1, nothing encrypted.
    OneHop,
    /// Two, mutual TLS between them; HTTP/1.1 at both ends.
    TwoHop,
    /// The same with HTTP/2 all the way.
    Grpc,
    /// The same with bytes.
    Tcp,
}

/// What is switched on beyond the subject's own defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Features {
    /// Percent of new traces that are sampled. Default: ours 1, the peers none; 0 = no spans at all
    pub(crate) sampling: Option<f64>,
    /// One JSON line a request, at both proxies
    pub(crate) access_log: bool,
    /// Rules that the calling side tries before the one that matches
    pub(crate) routes: usize,
    /// Callers that may call; the last is the one that does
    pub(crate) rules: usize,
}

/// Everything that a subject is started with.
pub(crate) struct Setup<'a> {
    pub(crate) topology: Topology,
    pub(crate) features: Features,
    pub(crate) workers: usize,
    pub(crate) application: &'a Backend,
    pub(crate) collector: &'a Backend,
    pub(crate) binaries: &'a Binaries,
    /// Holds what `pki::write` writes.
    pub(crate) pki: &'a Path,
}

impl Setup<'_> {
    fn application(&self) -> SocketAddr {
        match self.topology {
            Topology::Tcp => self.application.tcp,
            Topology::OneHop | Topology::TwoHop | Topology::Grpc => self.application.http,
        }
    }
}

/// Ours.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) outrigger: Option<PathBuf>,
    pub(crate) baseline: Option<PathBuf>,
}

impl Binaries {
    fn outrigger(&self) -> anyhow::Result<PathBuf> {
        let binary = self.outrigger.clone();
        binary.ok_or_else(|| Missing("no binary of outrigger".to_owned()).into())
    }

    fn baseline(&self) -> anyhow::Result<PathBuf> {
        let binary = self.baseline.clone();
        binary.ok_or_else(|| Missing("name a binary with --baseline".to_owned()).into())
    }
}

/// Why a subject cannot be measured on this machine, or in this way. Reported, not fatal.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// A running subject. Its processes end when it is dropped.
pub(crate) struct Subject {
    /// Where requests go.
    pub(crate) entry: SocketAddr,
    /// Where a caller's proxy connects to, under mutual TLS.
    pub(crate) inbound: Option<SocketAddr>,
    /// Host header that leads to the application.
    pub(crate) host: String,
    /// The processes whose CPU and memory count: the calling side, the called side.
    pub(crate) proxies: Vec<Process>,
    /// Needed, but not on the request's way (a control plane).
    #[expect(dead_code, reason = "held for its drop")]
    others: Vec<Process>,
    /// Their files; dropped after the processes.
    #[expect(dead_code, reason = "held for its drop")]
    dir: Option<tempfile::TempDir>,
}

impl Subject {
    /// One of the peers: its proxies, and nothing beside them.
    fn peer(
        proxies: Vec<Process>,
        entry: SocketAddr,
        inbound: Option<SocketAddr>,
        dir: tempfile::TempDir,
    ) -> Self {
        Self {
            entry,
            inbound,
            host: "server".to_owned(),
            proxies,
            others: Vec::new(),
            dir: Some(dir),
        }
    }

    /// Started, and seen to answer.
    pub(crate) async fn start(kind: Kind, setup: &Setup<'_>) -> anyhow::Result<Self> {
        let subject = match kind {
            Kind::Direct => Self {
                entry: setup.application(),
                inbound: None,
                host: "server".to_owned(),
                proxies: Vec::new(),
                others: Vec::new(),
                dir: None,
            },
            Kind::Outrigger => ours::start(setup, setup.binaries.outrigger()?).await?,
            Kind::Baseline => ours::start(setup, setup.binaries.baseline()?).await?,
            Kind::Envoy => envoy::start(setup, envoy::Between::Http1).await?,
            Kind::EnvoyH2 => envoy::start(setup, envoy::Between::Http2).await?,
            Kind::Haproxy => haproxy::start(setup, haproxy::Between::Http1).await?,
            Kind::HaproxyH2 => haproxy::start(setup, haproxy::Between::Http2).await?,
            Kind::Nginx => nginx::start(setup).await?,
        };
        subject.answers(setup.topology).await?;
        Ok(subject)
    }

    async fn answers(&self, topology: Topology) -> anyhow::Result<()> {
        let (entry, host) = (self.entry, self.host.as_str());
        match topology {
            Topology::OneHop | Topology::TwoHop => outrigger::answers(entry, host).await,
            Topology::Grpc => until(async || load::one_call(entry, host).await).await,
            Topology::Tcp => until(async || load::one_connection(entry).await).await,
        }
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(&self.pids()?)
    }

    pub(crate) fn pss_kib(&self) -> anyhow::Result<u64> {
        pss_kib(&self.pids()?)
    }

    fn pids(&self) -> anyhow::Result<Vec<u32>> {
        self.proxies.iter().map(Process::pid).collect()
    }
}

/// How long what was started may take until it works.
const UNTIL: Duration = Duration::from_secs(15);

/// Tries until it works.
async fn until(works: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let deadline = Instant::now() + UNTIL;
    while let Err(error) = works().await {
        if Instant::now() > deadline {
            return Err(error.context(format!("nothing gets through within {UNTIL:?}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// An executable of the operating system.
fn installed(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        // Where Debian has them, and users' paths do not.
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            let how = "bench/setup.sh does it as root";
            Missing(format!("no {name}: sudo apt-get install {package} ({how})")).into()
        })
}

/// A command that ends with this process, however that ends, where the system has `setpriv`.
fn tied(binary: &Path) -> Command {
    match installed("setpriv", "util-linux") {
        Ok(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(binary);
            command
        }
        Err(_) => Command::new(binary),
    }
}

/// A port that was free a moment ago, for programs that cannot say which one they got.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Until somebody listens there.
async fn listens(process: &Process, port: u16) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    until(async || {
        process.pid()?;
        tokio::net::TcpStream::connect(address).await?;
        Ok(())
    })
    .await?;
    Ok(address)
}

fn write(dir: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = dir.join(name);
    fs::write(&file, text)?;
    Ok(file)
}
