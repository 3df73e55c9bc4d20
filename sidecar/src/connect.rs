//! Opens a connection to an endpoint: TCP, then TLS where the endpoint has it. The cluster's connect timeout covers both.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_core::{Cluster, Endpoint, TcpKeepalive as Probes};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::{
    http::io::Transport,
    proxy_protocol::header::{self, Ends},
    shared::Shared,
    tls::{ALPN_H2, Refusal, Svid, svid},
};

/// How names of clusters begin that lead to the application.
const INBOUND: &str = "inbound|";

/// Why there is no connection. The request provably was not sent.
#[derive(Clone, Debug)]
pub(crate) enum ConnectError {
    /// TCP.
    Tcp(SocketAddr, String),
    /// The cluster's connect timeout.
    Timeout(SocketAddr, Duration),
    /// TLS.
    Tls(SocketAddr, Refusal),
    /// HTTP/2's first frames.
    Handshake(SocketAddr, String),
    /// It is an outbound port of this sidecar.
    OwnPort(SocketAddr),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(to, error) => write!(f, "connecting to {to}: {error}"),
            Self::Timeout(to, after) => {
                write!(f, "connecting to {to}: no connection within {after:?}")
            }
            Self::Tls(to, refusal) => write!(f, "TLS to {to}: {refusal}"),
            Self::Handshake(to, error) => write!(f, "HTTP/2 to {to}: {error}"),
            Self::OwnPort(to) => write!(
                f,
                "{to} is an outbound port of this sidecar: what is sent there comes back here"
            ),
        }
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) transport: Transport,
    /// Who answered, over mTLS.
    pub(crate) peer: Option<Svid>,
}

impl Opened {
    /// Leaf first, over mTLS.
    pub(crate) fn chain(&self) -> Option<Arc<[CertificateDer<'static>]>> {
        match &self.transport {
            Transport::Tls(stream) if self.peer.is_some() => {
                stream.get_ref().1.peer_certificates().map(Arc::from)
            }
            Transport::Tls(_) | Transport::Plain(_) | Transport::Stream(_) => None,
        }
    }
}

/// What the application is to see of a connection (TPROXY).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Who calls.
    pub(crate) source: IpAddr,
    /// Which address was called: one of this host that answers find their way back from.
    pub(crate) at: IpAddr,
}

/// For whom a connection is opened, as far as its other end is to know. Default: it is not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Whose {
    /// Told by a PROXY protocol header.
    pub(crate) ends: Option<Ends>,
    /// Told by its own addresses.
    pub(crate) seen: Option<Seen>,
}

impl Seen {
    async fn connect(self, to: SocketAddr) -> io::Result<TcpStream> {
        let to = if to.ip().is_loopback() {
            SocketAddr::new(self.at, to.port())
        } else {
            to
        };
        let source = SocketAddr::new(self.source, 0);
        let socket = match (source, to) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) => {
                let socket = TcpSocket::new_v4()?;
                SockRef::from(&socket).set_ip_transparent_v4(true)?;
                socket
            }
            (SocketAddr::V6(_), SocketAddr::V6(_)) => {
                let socket = TcpSocket::new_v6()?;
                SockRef::from(&socket).set_ip_transparent_v6(true)?;
                socket
            }
            // The application listens on the other family.
            _ => return TcpStream::connect(to).await,
        };
        socket.bind(source)?;
        socket.connect(to).await
    }
}

/// Ports of this sidecar.
#[derive(Debug, Default)]
pub(crate) struct OwnPorts(ArcSwap<Vec<OwnPort>>);

/// A listener that is bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnPort {
    pub(crate) address: SocketAddr,
    /// What is sent there is sent on.
    pub(crate) outbound: bool,
    /// Redirected connections come there, so that its number means it at whatever address of this host.
    pub(crate) captures: bool,
}

impl OwnPort {
    fn covers(self, to: SocketAddr) -> bool {
        let (own, ip) = (self.address.ip(), to.ip());
        let any = own.is_unspecified() && own.is_ipv4() == ip.is_ipv4();
        self.address.port() == to.port() && (own == ip || any)
    }
}

impl OwnPorts {
    pub(crate) fn set(&self, all: Vec<OwnPort>) {
        self.0.store(Arc::new(all));
    }

    /// An outbound one, which are on loopback only.
    fn contains(&self, to: SocketAddr) -> bool {
        let all = self.0.load();
        to.ip().is_loopback() && all.iter().any(|own| own.outbound && own.address == to)
    }

    /// Redirected connections of the application are taken.
    pub(crate) fn captures_outbound(&self) -> bool {
        let all = self.0.load();
        all.iter().any(|own| own.outbound && own.captures)
    }

    /// One of them listens there, if the address is one of this host.
    pub(crate) fn covers(&self, to: SocketAddr) -> bool {
        self.0.load().iter().any(|own| own.covers(to))
    }

    /// A connection there comes back here. `is_host` says whether an address is one of this host.
    pub(crate) fn leads_here(&self, to: SocketAddr, is_host: impl Fn(IpAddr) -> bool) -> bool {
        let all = self.0.load();
        let mut same = all.iter().filter(|own| own.address.port() == to.port());
        same.any(|own| own.captures || own.covers(to)) && is_host(to.ip())
    }
}

/// Opens one. `tls` is what mTLS to this cluster uses.
pub(crate) async fn open(
    cluster: &Cluster,
    endpoint: &Endpoint,
    tls: Option<Arc<ClientConfig>>,
    whose: Whose,
    shared: &Shared,
) -> Result<Opened, ConnectError> {
    let to = endpoint.config.address;
    if shared.own_ports.contains(to) {
        return Err(ConnectError::OwnPort(to));
    }
    let within = cluster.config.connect_timeout;
    match timeout(within, open_unbounded(cluster, to, tls, (whose, shared))).await {
        Ok(opened) => opened,
        Err(_elapsed) => Err(ConnectError::Timeout(to, within)),
    }
}

async fn open_unbounded(
    cluster: &Cluster,
    to: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    (Whose { ends, seen }, shared): (Whose, &Shared),
) -> Result<Opened, ConnectError> {
    let capture = &shared.capture;
    let config = &cluster.config;
    let round = if config.original_dst || config.name.starts_with(INBOUND) {
        None
    } else {
        capture.way_round(to, tls.is_some() && config.mesh_tls().is_some())
    };
    let stream = match (round, seen) {
        (Some(inbound), _) => capture.hairpins.connect(inbound, to).await,
        (None, Some(seen)) => seen.connect(to).await,
        (None, None) => TcpStream::connect(to).await,
    };
    let mut stream = stream.map_err(|error| ConnectError::Tcp(to, error.to_string()))?;
    tune(&stream, &cluster.config.tcp_keepalive);
    if let Some(version) = cluster.config.proxy_protocol {
        // Before TLS, as in Envoy.
        let header = header::write(version, ends);
        let written = stream.write_all(&header).await;
        written.map_err(|error| ConnectError::Tcp(to, error.to_string()))?;
    }
    let Some(config) = tls else {
        return Ok(Opened {
            transport: Transport::Plain(stream),
            peer: None,
        });
    };
    let refused = |refusal| ConnectError::Tls(to, refusal);
    let name = server_name(cluster, to);
    let wants_h2 = config.alpn_protocols == [ALPN_H2];
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| refused(Refusal::of(&error)))?;
    if cluster.config.mesh_tls().is_none() {
        // Without a word on it, a server outside of the mesh speaks HTTP/1.1.
        if wants_h2 && stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            let reason =
                "the server does not agree to HTTP/2 (ALPN h2), which the port's protocol asks for";
            return Err(refused(Refusal::Protocol(reason.to_owned())));
        }
        return Ok(Opened {
            transport: Transport::Tls(Box::new(TlsStream::Client(stream))),
            peer: None,
        });
    }
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or_else(|| refused(Refusal::NotAnSvid("the server showed no certificate")))
        .and_then(|leaf| svid::reread(leaf).map_err(refused))?;
    Ok(Opened {
        transport: Transport::Tls(Box::new(TlsStream::Client(stream))),
        peer: Some(peer),
    })
}

/// The server name, seen by observers only; whoever answers is judged by its SPIFFE id.
fn server_name(cluster: &Cluster, to: SocketAddr) -> ServerName<'static> {
    cluster
        .config
        .tls
        .as_ref()
        .and_then(|tls| ServerName::try_from(tls.sni.clone()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(to.ip().into()))
}

/// No delay for small writes; dead peers are noticed.
pub(crate) fn tune(stream: &TcpStream, probes: &Probes) {
    let keepalive = TcpKeepalive::new()
        .with_time(probes.time)
        .with_interval(probes.interval)
        .with_retries(probes.probes);
    let socket = SockRef::from(stream);
    let tuned: io::Result<()> = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "socket options were refused");
    }
}
