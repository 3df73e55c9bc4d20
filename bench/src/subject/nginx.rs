//! nginx of the distribution, a master and its workers a side, from the files in `nginx/`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{
    Features, Missing, Setup, Subject, Topology, free_port, installed, listens, template::fill,
    tied, write,
};
use crate::process::Process;

/// Where Debian has the module for bytes, which is not built in.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(super) fn binary() -> anyhow::Result<PathBuf> {
    installed("nginx", "nginx-light libnginx-mod-stream")
}

pub(super) async fn start(setup: &Setup<'_>) -> anyhow::Result<Subject> {
    binary()?;
    if setup.features != Features::default() {
        return Err(Missing("not set up for this".to_owned()).into());
    }
    if setup.topology == Topology::Tcp && !Path::new(STREAM).exists() {
        let how = "sudo apt-get install libnginx-mod-stream";
        return Err(Missing(format!("no {STREAM}: {how}")).into());
    }
    let dir = tempfile::tempdir()?;
    let one = async |side: &str, template: &str, port: u16| {
        one(setup, side, dir.path().join(side), template, port).await
    };
    let port = setup.application().port();
    let (outbound, inbound) = match setup.topology {
        Topology::OneHop => {
            let template = include_str!("../../nginx/one-hop.conf");
            let (process, entry) = one("one-hop", template, port).await?;
            return Ok(Subject::peer(vec![process], entry, None, dir));
        }
        Topology::TwoHop => (
            include_str!("../../nginx/outbound.conf"),
            include_str!("../../nginx/inbound.conf"),
        ),
        Topology::Grpc => (
            include_str!("../../nginx/grpc-outbound.conf"),
            include_str!("../../nginx/grpc-inbound.conf"),
        ),
        Topology::Tcp => (
            include_str!("../../nginx/tcp-outbound.conf"),
            include_str!("../../nginx/tcp-inbound.conf"),
        ),
    };
    let (called, inbound) = one("inbound", inbound, port).await?;
    let (calling, entry) = one("outbound", outbound, inbound.port()).await?;
    Ok(Subject::peer(
        vec![calling, called],
        entry,
        Some(inbound),
        dir,
    ))
}

async fn one(
    setup: &Setup<'_>,
    side: &str,
    dir: PathBuf,
    template: &str,
    port: u16,
) -> anyhow::Result<(Process, SocketAddr)> {
    fs::create_dir(&dir)?;
    let module = if setup.topology == Topology::Tcp {
        format!("load_module {STREAM};")
    } else {
        String::new()
    };
    let entry = free_port()?;
    let files = dir.display().to_string();
    let config = fill(
        template,
        &[
            ("GLOBAL", include_str!("../../nginx/global.conf")),
            ("HTTP", include_str!("../../nginx/http.conf")),
            ("STREAM_MODULE", &module),
        ],
        &[
            ("WORKERS", &setup.workers.to_string()),
            ("ENTRY", &entry.to_string()),
            ("PORT", &port.to_string()),
            ("DIR", &setup.pki.display().to_string()),
            ("FILES", &files),
            ("SIDE", side),
        ],
    )?;
    let file = write(&dir, "nginx.conf", &config)?;
    let mut command = tied(&binary()?);
    command.args(["-e", "stderr", "-c"]).arg(file);
    let process = Process::start("nginx", command)?;
    let entry = listens(&process, entry).await?;
    Ok((process, entry))
}
