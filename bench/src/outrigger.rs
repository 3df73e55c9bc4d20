//! Our control plane and two sidecars, as an operator would start them: real processes of the release
//! build, ports picked free, identities by join token. Nothing is tuned but the number of workers.

use std::{env, net::SocketAddr, path::PathBuf, process::Stdio, time::Instant};

use anyhow::Context as _;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Command,
};

use crate::process::{Process, START};

const ANY_PORT: &str = "127.0.0.1:0";

/// A control plane, and what starts sidecars of it.
pub(crate) struct Mesh {
    outrigger: Outrigger,
    control_plane: Process,
    url: String,
}

impl Mesh {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(more: &[&str]) -> anyhow::Result<Self> {
        Self::start_from(build().await?, more).await
    }

    /// All of this binary.
    pub(crate) async fn start_from(binary: PathBuf, more: &[&str]) -> anyhow::Result<Self> {
        let outrigger = Outrigger {
            binary,
            dir: tempfile::tempdir()?,
        };
        let mut command = outrigger.command("control-plane");
        command.args(["--grpc", ANY_PORT, "--http", ANY_PORT]);
        command.args(more);
        let (control_plane, ready) = Process::start_ready("the control plane", command).await?;
        let url = format!("https://{}", address(&ready, "grpc")?);
        Ok(Self {
            outrigger,
            control_plane,
            url,
        })
    }

    /// A sidecar, and what it says when it is ready.
    pub(crate) async fn ready(
        &self,
        service: &str,
        workers: usize,
        more: &[&str],
    ) -> anyhow::Result<(Process, Value)> {
        self.outrigger
            .sidecar(service, &self.url, workers, more)
            .await
    }

    /// The control plane, and the directory of all files.
    pub(crate) fn into_parts(self) -> (Process, tempfile::TempDir) {
        (self.control_plane, self.outrigger.dir)
    }

    /// A sidecar, and its HTTP proxy's address.
    pub(crate) async fn sidecar(
        &self,
        service: &str,
        workers: usize,
        more: &[&str],
    ) -> anyhow::Result<(Process, SocketAddr)> {
        let (sidecar, ready) = self.ready(service, workers, more).await?;
        Ok((sidecar, address(&ready, "outbound")?))
    }

    /// A sidecar with an application, and its inbound port's address.
    pub(crate) async fn inbound(
        &self,
        service: &str,
        application: SocketAddr,
    ) -> anyhow::Result<(Process, SocketAddr)> {
        let application = application.to_string();
        let more = ["--app", &application, "--port", "80"];
        let (sidecar, ready) = self.ready(service, 1, &more).await?;
        Ok((sidecar, address(&ready, "inbound")?))
    }

    /// Applies documents as an operator would.
    pub(crate) async fn apply(&self, documents: &str) -> anyhow::Result<()> {
        let file = self.outrigger.dir.path().join("documents.yaml");
        std::fs::write(&file, documents)?;
        let mut command = self.outrigger.command("apply");
        command.arg("-f").arg(&file);
        command.args(["--control-plane", &self.url]);
        let output = command.stderr(Stdio::inherit()).output().await?;
        anyhow::ensure!(output.status.success(), "apply: {}", output.status);
        Ok(())
    }
}

struct Outrigger {
    binary: PathBuf,
    dir: tempfile::TempDir,
}

impl Outrigger {
    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["--log", "error", subcommand])
            // Whatever the operator's shell says must not reach the measurement.
            .env_clear()
            .env("OUTRIGGER_DATA_DIR", self.dir.path());
        if matches!(subcommand, "control-plane" | "sidecar") {
            command.arg("--exit-with-parent");
        }
        command
    }

    async fn sidecar(
        &self,
        service: &str,
        control_plane: &str,
        workers: usize,
        more: &[&str],
    ) -> anyhow::Result<(Process, Value)> {
        let mut command = self.command("token");
        command.args(["create", service, "--control-plane", control_plane]);
        let output = command.stderr(Stdio::inherit()).output().await?;
        anyhow::ensure!(output.status.success(), "token create: {}", output.status);
        let token = String::from_utf8(output.stdout)?;

        let mut command = self.command("sidecar");
        command
            .args(["--control-plane", control_plane, "--service", service])
            .args(["--outbound", ANY_PORT, "--inbound", ANY_PORT])
            .args(["--admin", ANY_PORT, "--metrics", ANY_PORT])
            .args(["--readiness", ANY_PORT])
            .args(["--workers", &workers.to_string()])
            .args(more)
            .env("OUTRIGGER_JOIN_TOKEN", token.trim());
        Process::start_ready(&format!("the sidecar of {service}"), command).await
    }
}

pub(crate) fn address(ready: &Value, field: &str) -> anyhow::Result<SocketAddr> {
    let text = ready.get(field).and_then(Value::as_str);
    text.and_then(|text| text.parse().ok())
        .with_context(|| format!("no address {field:?} in {ready}"))
}

/// The binary that `OUTRIGGER_BIN` names; else brings the release build up to date, and says where it is: beside this
/// program.
pub(crate) async fn build() -> anyhow::Result<PathBuf> {
    if let Some(binary) = env::var_os("OUTRIGGER_BIN") {
        let binary = PathBuf::from(binary);
        anyhow::ensure!(binary.is_file(), "OUTRIGGER_BIN: no {}", binary.display());
        return Ok(binary);
    }
    let release = env::current_exe()?
        .parent()
        .context("no directory")?
        .to_owned();
    // Set by `cargo run`; without it whatever is there is measured.
    if let Some(cargo) = env::var_os("CARGO") {
        let status = Command::new(cargo)
            .args(["build", "--release", "--package", "outrigger"])
            .arg("--target-dir")
            .arg(release.parent().context("no target directory")?)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .await?;
        anyhow::ensure!(status.success(), "cargo build: {status}");
    }
    let binary = release.join("outrigger");
    anyhow::ensure!(binary.exists(), "no {}", binary.display());
    Ok(binary)
}

/// Until the first request got through: both sidecars are ready, the registration may still be on its way.
pub(crate) async fn answers(proxy: SocketAddr, host: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + START / 2;
    loop {
        let answer = first_line(proxy, host, "/").await?;
        if answer.starts_with("HTTP/1.1 200") {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{host} cannot be reached through the sidecar: {answer:?}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Of a server's answer to `GET path`. It may keep the connection, or not.
pub(crate) async fn first_line(
    server: SocketAddr,
    host: &str,
    path: &str,
) -> anyhow::Result<String> {
    let one = async {
        let mut stream = TcpStream::connect(server).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok(answer.trim_end().to_owned())
    };
    tokio::time::timeout(START, one).await?
}
