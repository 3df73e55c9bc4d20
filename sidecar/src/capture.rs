//! Connections that were going elsewhere and were redirected to this sidecar by rules of the kernel: where they were
//! going, whose they are, and whether the rules are there at all.
//!
//! ```text
//! app ── connect(240.240.0.9:5432) ──rule──► 127.0.0.1:15001 virtualOutbound ─► place: 240.240.0.9_5432 | 0.0.0.0_5432 | its own chains
//! others ── connect(10.0.0.5:9080) ──rule──► [::]:15006 virtualInbound
//! ```
//! The rules are made by others (`outrigger redirect`): this process needs no privilege, but for the addresses of
//! callers in mode `tproxy`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{
    config::{CaptureCheck, CaptureMode},
    listen::caps::Seldom,
};

pub(crate) mod hairpin;
pub(crate) mod host;
pub(crate) mod place;
pub(crate) mod probe;

use hairpin::Hairpins;
use host::Host;
use probe::Probe;

/// What the sidecar was started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) mode: CaptureMode,
    pub(crate) check: CaptureCheck,
    /// Where redirected connections of others come.
    pub(crate) inbound: Option<SocketAddr>,
    /// Where the application listens.
    pub(crate) app: Option<SocketAddr>,
    /// Both families are redirected.
    pub(crate) ipv6: bool,
}

/// One per process.
#[derive(Debug, Default)]
pub(crate) struct Capturing {
    setup: OnceLock<Setup>,
    pub(crate) host: Host,
    pub(crate) hairpins: Hairpins,
    pub(crate) probe: Probe,
    warned: Seldom,
}

impl Capturing {
    /// Connections are redirected from now on.
    pub(crate) fn start(&self, setup: Setup) {
        self.setup.get_or_init(|| setup);
    }

    /// None = they are not.
    pub(crate) fn setup(&self) -> Option<&Setup> {
        self.setup.get()
    }

    pub(crate) fn keeps_sources(&self) -> bool {
        self.setup()
            .is_some_and(|setup| setup.mode == CaptureMode::Tproxy)
    }

    /// Where to dial instead of `to`: an address of this host whose port is redirected for everybody but ourselves, so
    /// that a connection of ours would get around our own inbound side.
    pub(crate) fn way_round(&self, to: SocketAddr, is_mesh: bool) -> Option<SocketAddr> {
        let setup = self.setup()?;
        let inbound = setup.inbound?;
        let is_app = setup.app.is_some_and(|app| app.port() == to.port());
        if to.ip().is_loopback() || to.port() == inbound.port() || !(is_mesh || is_app) {
            return None;
        }
        if !self.host.has(to.ip()) {
            return None;
        }
        // From and to the same address: that is who calls, for access rules.
        Some(if inbound.ip().is_unspecified() {
            SocketAddr::new(to.ip(), inbound.port())
        } else {
            inbound
        })
    }
}

/// Where a connection was going before it was redirected; None = to `local`, where it was accepted.
///
/// The kernel tells it of what it has rewritten (`SO_ORIGINAL_DST`), and knows nothing (`ENOENT`, `ENOPROTOOPT`) or the
/// very same address of what it has not.
fn rewritten(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let told: io::Result<_> = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let told = told.ok()?.as_socket()?;
    let told = SocketAddr::new(told.ip().to_canonical(), told.port());
    (told != local).then_some(told)
}

#[cfg(test)]
mod tests;
