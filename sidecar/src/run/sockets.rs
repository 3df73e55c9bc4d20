//! The ports of a sidecar, all bound before anything else starts.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use super::RunError;
use crate::{Capture, CaptureMode, Config, dns, listen};

/// All ports, bound before anything else so that the numbers we tell are real.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) outbound: TcpListener,
    /// None = nothing to take calls for, or no identity to take them with.
    pub(super) inbound: Option<TcpListener>,
    /// For redirected connections of the application, IPv4 first. None = there are none.
    pub(super) captured: Vec<TcpListener>,
    /// The inbound port of the other family.
    pub(super) inbound_v6: Option<TcpListener>,
    pub(super) admin: TcpListener,
    pub(super) metrics: TcpListener,
    pub(super) readiness: TcpListener,
    pub(super) dns: Option<dns::sockets::Sockets>,
}

/// Binds the port that `flag` names.
pub(crate) fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address)
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .map_err(|source| RunError::Bind {
            address,
            flag,
            source,
        })
}

impl Sockets {
    pub(super) fn bind(config: &Config, has_inbound: bool) -> Result<Self, RunError> {
        let captured = captured(config.capture)?;
        // The host has no IPv6 otherwise.
        let ipv6 = captured.len() > 1;
        let (inbound, inbound_v6) = if has_inbound {
            inbound(config, ipv6)?
        } else {
            (None, None)
        };
        Ok(Self {
            outbound: bind("outbound", config.outbound)?,
            inbound,
            captured,
            inbound_v6,
            admin: bind("admin", config.admin)?,
            metrics: bind("metrics", config.metrics)?,
            readiness: bind("readiness", config.readiness)?,
            dns: config.dns.as_ref().map(bind_dns).transpose()?,
        })
    }
}

/// The same port on loopback of both families, or of IPv4 if the host has no other.
fn captured(capture: Capture) -> Result<Vec<TcpListener>, RunError> {
    if !capture.is_on() {
        return Ok(Vec::new());
    }
    let flag = "outbound-port";
    let refused = |address: SocketAddr| {
        move |source| RunError::Bind {
            address,
            flag,
            source,
        }
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, capture.outbound_port));
    let first = listen::bind(address, false).map_err(refused(address))?;
    let port = first.local_addr()?.port();
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    match listen::bind(address, false) {
        Ok(second) => Ok(vec![first, second]),
        Err(error) if has_no_family(&error) => Ok(vec![first]),
        Err(error) => Err(refused(address)(error)),
    }
}

fn has_no_family(error: &io::Error) -> bool {
    let is_unknown = error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    is_unknown || error.kind() == io::ErrorKind::AddrNotAvailable
}

type Inbound = (Option<TcpListener>, Option<TcpListener>);

/// With redirected connections, of both families if it is for every address.
fn inbound(config: &Config, ipv6: bool) -> Result<Inbound, RunError> {
    let transparent = config.capture.mode == CaptureMode::Tproxy;
    let bind = |address: SocketAddr| {
        listen::bind(address, transparent).map_err(|source| RunError::Bind {
            address,
            flag: "inbound",
            source,
        })
    };
    if !config.capture.is_on() {
        return Ok((Some(self::bind("inbound", config.inbound)?), None));
    }
    let first = bind(config.inbound)?;
    let both = ipv6 && config.inbound.ip() == IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let second = both.then(|| {
        let port = first.local_addr()?.port();
        bind((Ipv6Addr::UNSPECIFIED, port).into())
    });
    Ok((Some(first), second.transpose()?))
}

fn bind_dns(config: &crate::Dns) -> Result<dns::sockets::Sockets, RunError> {
    let sockets = dns::sockets::bind(config.address).map_err(|source| RunError::Bind {
        address: config.address,
        flag: "dns",
        source,
    })?;
    match dns::own_upstream(&config.upstreams, &sockets.addresses) {
        None => Ok(sockets),
        Some(own) => Err(RunError::Setting {
            flag: "dns-upstream",
            value: own.to_string(),
            expected: "is this sidecar's own DNS server; name another",
        }),
    }
}

/// Where everything listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) outbound: SocketAddr,
    pub(super) inbound: Option<SocketAddr>,
    /// For redirected connections of the application.
    pub(super) captured: Option<SocketAddr>,
    /// Redirected connections are of both families.
    pub(super) ipv6: bool,
    pub(super) admin: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) readiness: SocketAddr,
    pub(super) dns: Option<SocketAddr>,
}

impl Addresses {
    pub(super) fn of(sockets: &Sockets) -> io::Result<Self> {
        Ok(Self {
            outbound: sockets.outbound.local_addr()?,
            inbound: sockets
                .inbound
                .as_ref()
                .map(TcpListener::local_addr)
                .transpose()?,
            captured: sockets
                .captured
                .first()
                .map(TcpListener::local_addr)
                .transpose()?,
            ipv6: sockets.captured.len() > 1,
            admin: sockets.admin.local_addr()?,
            metrics: sockets.metrics.local_addr()?,
            readiness: sockets.readiness.local_addr()?,
            dns: sockets
                .dns
                .as_ref()
                .and_then(|dns| dns.addresses.first().copied()),
        })
    }

    /// The object of the ready line.
    pub(super) fn ready(&self, listeners: &[(String, SocketAddr)]) -> serde_json::Value {
        let listeners: serde_json::Map<_, _> = listeners
            .iter()
            .map(|(name, address)| (name.clone(), address.to_string().into()))
            .collect();
        serde_json::json!({
            "inbound": self.inbound.map(|address| address.to_string()),
            "outbound": self.outbound.to_string(),
            "admin": self.admin.to_string(),
            "metrics": self.metrics.to_string(),
            "readiness": self.readiness.to_string(),
            "dns": self.dns.map(|address| address.to_string()),
            "listeners": listeners,
        })
    }
}
