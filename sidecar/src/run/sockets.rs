//! The ports of a sidecar, all bound before anything else starts.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use super::RunError;
use crate::{Config, dns};

/// All ports, bound before anything else so that the numbers we tell are real.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) outbound: TcpListener,
    /// None = nothing to take calls for, or no identity to take them with.
    pub(super) inbound: Option<TcpListener>,
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
        Ok(Self {
            outbound: bind("outbound", config.outbound)?,
            inbound: if has_inbound {
                Some(bind("inbound", config.inbound)?)
            } else {
                None
            },
            admin: bind("admin", config.admin)?,
            metrics: bind("metrics", config.metrics)?,
            readiness: bind("readiness", config.readiness)?,
            dns: config.dns.as_ref().map(bind_dns).transpose()?,
        })
    }
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
