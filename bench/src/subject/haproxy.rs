//! HAProxy of the distribution, one process a side, from the files in `haproxy/`.

use std::{fs, net::SocketAddr, path::PathBuf};

use super::{
    Features, Missing, Setup, Subject, Topology, free_port, installed, listens, template::fill,
    tied, write,
};
use crate::process::Process;

/// What the two speak with each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    Http1,
    Http2,
}

pub(super) fn binary() -> anyhow::Result<PathBuf> {
    installed("haproxy", "haproxy")
}

pub(super) async fn start(setup: &Setup<'_>, between: Between) -> anyhow::Result<Subject> {
    binary()?;
    if setup.features != Features::default() {
        return Err(Missing("not set up for this".to_owned()).into());
    }
    let dir = tempfile::tempdir()?;
    let one = async |side: &str, template: &str, port: u16| {
        one(setup, between, dir.path().join(side), template, port).await
    };
    let port = setup.application().port();
    let (proxies, entry, inbound) = if setup.topology == Topology::OneHop {
        let template = include_str!("../../haproxy/one-hop.cfg");
        let (process, entry) = one("one-hop", template, port).await?;
        (vec![process], entry, None)
    } else {
        let template = include_str!("../../haproxy/inbound.cfg");
        let (called, inbound) = one("inbound", template, port).await?;
        let template = include_str!("../../haproxy/outbound.cfg");
        let (calling, entry) = one("outbound", template, inbound.port()).await?;
        (vec![calling, called], entry, Some(inbound))
    };
    Ok(Subject::peer(proxies, entry, inbound, dir))
}

async fn one(
    setup: &Setup<'_>,
    between: Between,
    dir: PathBuf,
    template: &str,
    port: u16,
) -> anyhow::Result<(Process, SocketAddr)> {
    fs::create_dir(&dir)?;
    let (mode, end, alpn, identity) = match (setup.topology, between) {
        (Topology::Tcp, _) => ("tcp", "", "", ""),
        // The client's certificate, as far as it can be said.
        (Topology::Grpc, _) => ("http", "proto h2", "alpn h2", IDENTITY),
        (_, Between::Http1) => ("http", "", "alpn http/1.1", IDENTITY),
        (_, Between::Http2) => ("http", "", "alpn h2", IDENTITY),
    };
    let entry = free_port()?;
    let config = fill(
        template,
        &[("IDENTITY", identity)],
        &[
            ("WORKERS", &setup.workers.to_string()),
            ("MODE", mode),
            ("ENTRY", &entry.to_string()),
            ("PORT", &port.to_string()),
            ("ENTRY_PROTOCOL", end),
            ("APPLICATION_PROTOCOL", end),
            ("ALPN", alpn),
            ("DIR", &setup.pki.display().to_string()),
        ],
    )?;
    let file = write(&dir, "haproxy.cfg", &config)?;
    let mut command = tied(&binary()?);
    command.args(["-q", "-db", "-f"]).arg(file);
    let process = Process::start("haproxy", command)?;
    let entry = listens(&process, entry).await?;
    Ok((process, entry))
}

const IDENTITY: &str = "http-request set-header x-forwarded-client-cert \"Subject=%{+Q}[ssl_c_s_dn];Serial=%[ssl_c_serial,hex]\"";
