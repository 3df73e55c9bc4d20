//! The demo's processes: one control plane; for each service of the shop its program and its sidecar.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use outrigger_proto::outrigger::v1::{
    ApplyRequest, SourceFile, StatusResponse, diagnostic::Severity,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    hops::Hops,
    process::{Process, Start, address},
    traffic::Client,
};
use crate::{
    client::{Admin, ConnectArgs},
    diagnostic, status, token,
};

/// Service, version, copy. Two copies of reviews v1, so that one can be killed.
const PARTS: [(&str, &str, &str); 6] = [
    ("frontend", "v1", ""),
    ("productpage", "v1", ""),
    ("reviews", "v1", "-a"),
    ("reviews", "v1", "-b"),
    ("reviews", "v2", ""),
    ("ratings", "v1", ""),
];
const CANARY: &str = include_str!("../../../examples/shop/90-10.yaml");
const HALF: &str = include_str!("../../../examples/shop/50-50.yaml");
/// The services' port as their callers name it.
const PORT: u16 = 9080;
/// How long the mesh may take to settle. Usually well below a second; a busy two-core machine needs more.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub(super) struct Shop {
    // The processes before the directory, so that they are gone when it is removed.
    pub(super) control_plane: Process,
    parts: Vec<Part>,
    admin: Admin,
    grpc: SocketAddr,
    dir: TempDir,
}

/// One service: its program and its sidecar.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) app: Process,
    sidecar: Process,
    outbound: SocketAddr,
    inbound: SocketAddr,
}

impl Shop {
    pub(super) async fn start(otlp_endpoint: Option<&str>) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("outrigger-demo-")
            .tempdir()?;
        fs::create_dir(dir.path().join("logs"))?;
        for (name, text) in [("90-10.yaml", CANARY), ("50-50.yaml", HALF)] {
            fs::write(dir.path().join(name), text)?;
        }
        let (control_plane, grpc) = control_plane(dir.path()).await?;
        let connect = ConnectArgs::local(&format!("https://{grpc}"), &dir.path().join("state"))?;
        let mut admin = connect.connect().await?;
        let mut starting = JoinSet::new();
        for (index, (service, version, copy)) in PARTS.into_iter().enumerate() {
            let token =
                token::create(&mut admin, "default", service, Duration::from_secs(600)).await?;
            let plan = Plan {
                service,
                version,
                name: format!("{service}-{version}{copy}"),
                token: token.token,
                control_plane: grpc,
                otlp_endpoint: otlp_endpoint.map(str::to_owned),
                logs: dir.path().join("logs"),
            };
            starting.spawn(async move { anyhow::Ok((index, plan.start().await?)) });
        }
        let mut parts = Vec::new();
        while let Some(part) = starting.join_next().await {
            parts.push(part??);
        }
        parts.sort_by_key(|(index, _)| *index);
        let parts = parts.into_iter().map(|(_, part)| part).collect();
        let mut shop = Self {
            control_plane,
            parts,
            admin,
            grpc,
            dir,
        };
        shop.settle("every service is registered and healthy", |status| {
            let instances = status
                .services
                .iter()
                .flat_map(|service| &service.instances);
            instances
                .filter(|instance| instance.health == "HEALTHY")
                .count()
                >= PARTS.len()
        })
        .await?;
        Ok(shop)
    }

    /// Applies the 90/10 canary and waits until requests go all the way.
    pub(super) async fn apply_canary(&mut self) -> anyhow::Result<()> {
        let file = SourceFile {
            name: "90-10.yaml".to_owned(),
            text: CANARY.to_owned(),
        };
        let request = ApplyRequest {
            files: vec![file.clone()],
            default_namespace: "default".to_owned(),
            dry_run: false,
            author: "demo".to_owned(),
        };
        let remarks = self.admin.apply(request).await?.diagnostics;
        if remarks
            .iter()
            .any(|remark| remark.severity() == Severity::Error)
        {
            diagnostic::report(&remarks, &[file]);
            bail!("the demo's own documents were refused");
        }
        self.settle("every sidecar has accepted the canary", |status| {
            status.clients.len() >= PARTS.len() && status::synced(status)
        })
        .await?;
        let client = Client::new(self.frontend_proxy());
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let answer = client.get(&Hops::new_traceparent()).await;
            match answer {
                Ok((status, _)) if status.is_success() => return Ok(()),
                _ if Instant::now() < deadline => sleep(POLL).await,
                Ok((status, body)) => bail!("the shop does not answer: {status}: {body}"),
                Err(error) => return Err(error.context("the shop does not answer")),
            }
        }
    }

    async fn settle(
        &mut self,
        what: &str,
        settled: impl Fn(&StatusResponse) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let status = self.admin.status().await?;
            if settled(&status) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "waited {} s until {what}; it is not so: {status:#?}",
                    SETTLE_TIMEOUT.as_secs()
                );
            }
            sleep(POLL).await;
        }
    }

    /// Where the frontend's sidecar takes calls.
    pub(super) fn frontend_proxy(&self) -> SocketAddr {
        self.parts
            .first()
            .map_or_else(|| any_port(0), |part| part.outbound)
    }

    pub(super) const fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// Which processes have ended since the last call.
    pub(super) fn news(&mut self) -> Vec<String> {
        let parts = self
            .parts
            .iter_mut()
            .flat_map(|part| [part.app.news(), part.sidecar.news()]);
        std::iter::once(self.control_plane.news())
            .chain(parts)
            .flatten()
            .collect()
    }

    /// Whether an inbound port answers nobody who shows no certificate.
    pub(super) async fn refuses_plain_text(&self) -> bool {
        for part in &self.parts {
            let attempt = timeout(Duration::from_secs(5), plain_request(part.inbound)).await;
            // No answer in all that time is no refusal.
            if !matches!(attempt, Ok(Ok(answer)) if !answer.starts_with(b"HTTP/")) {
                return false;
            }
        }
        true
    }
}

async fn plain_request(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut answer = Vec::new();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n")
        .await?;
    match stream.take(1_024).read_to_end(&mut answer).await {
        // Closed without a word, or with a TLS alert.
        Ok(_) => Ok(answer),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(answer),
        Err(error) => Err(error),
    }
}

async fn control_plane(dir: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let state = dir.join("state");
    let mut args: Vec<OsString> = vec!["control-plane".into()];
    push(&mut args, "--grpc", usual(15012).to_string());
    push(&mut args, "--http", usual(15014).to_string());
    push(&mut args, "--data-dir", &state);
    // Should the demo be killed without a chance to clean up.
    push(&mut args, "--remove-at-exit", dir);
    let start = Start {
        name: "control-plane".to_owned(),
        args,
        env: Vec::new(),
    };
    let (process, ready) = Process::start(start, &dir.join("logs")).await?;
    let grpc = address(&ready, "grpc")?;
    Ok((process, grpc))
}

/// What it takes to start one part; owned, because parts start side by side.
struct Plan {
    service: &'static str,
    version: &'static str,
    name: String,
    token: String,
    control_plane: SocketAddr,
    otlp_endpoint: Option<String>,
    logs: PathBuf,
}

impl Plan {
    async fn start(self) -> anyhow::Result<Part> {
        let (mut app, ready) = Process::start(self.app(), &self.logs).await?;
        let listen = address(&ready, "listen")?;
        let (sidecar, ready) = Process::start(self.sidecar(listen), &self.logs).await?;
        let outbound = address(&ready, "outbound")?;
        let inbound = address(&ready, "inbound").context("a sidecar without an inbound port")?;
        app.tell(&outbound.to_string()).await?;
        Ok(Part {
            name: self.name,
            app,
            sidecar,
            outbound,
            inbound,
        })
    }

    fn app(&self) -> Start {
        let mut args: Vec<OsString> = vec!["demo-app".into(), self.service.into()];
        push(&mut args, "--version", self.version);
        push(&mut args, "--instance", &self.name);
        push(&mut args, "--listen", any_port(0).to_string());
        push(&mut args, "--proxy", "-");
        Start {
            name: self.name.clone(),
            args,
            env: Vec::new(),
        }
    }

    fn sidecar(&self, app: SocketAddr) -> Start {
        // Only the frontend's has the usual ports: it is the one that people talk to.
        let port = if self.service == "frontend" {
            usual
        } else {
            |_| any_port(0)
        };
        let mut args: Vec<OsString> = vec!["sidecar".into()];
        push(
            &mut args,
            "--control-plane",
            format!("https://{}", self.control_plane),
        );
        push(&mut args, "--service", self.service);
        push(&mut args, "--label", format!("version={}", self.version));
        push(&mut args, "--app", app.to_string());
        push(&mut args, "--port", PORT.to_string());
        push(&mut args, "--ready-path", "/healthz");
        push(&mut args, "--advertise-address", "127.0.0.1");
        push(&mut args, "--outbound", port(15080).to_string());
        push(&mut args, "--inbound", port(15006).to_string());
        push(&mut args, "--admin", port(15000).to_string());
        push(&mut args, "--metrics", port(15020).to_string());
        push(&mut args, "--readiness", port(15021).to_string());
        // Six sidecars share this machine.
        push(&mut args, "--workers", "1");
        if let Some(endpoint) = &self.otlp_endpoint {
            push(&mut args, "--otlp-endpoint", endpoint);
        }
        Start {
            name: format!("{}-sidecar", self.name),
            args,
            env: vec![("OUTRIGGER_JOIN_TOKEN", self.token.clone())],
        }
    }
}

fn push(args: &mut Vec<OsString>, flag: &str, value: impl Into<OsString>) {
    args.push(flag.into());
    args.push(value.into());
}

const fn any_port(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// The usual port if nobody has it, else any.
fn usual(port: u16) -> SocketAddr {
    let usual = any_port(port);
    if TcpListener::bind(usual).is_ok() {
        usual
    } else {
        any_port(0)
    }
}
