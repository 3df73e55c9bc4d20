//! The way to the control plane: one HTTP/2 connection at a time, verified by SPIFFE id rather than by DNS name.
//!
//! ```text
//! first contact: chain must hold the root whose SHA-256 the join token pins (or lead to `root_ca`)
//! afterwards:    chain must lead to the trust bundle, and we show our own certificate
//! ```
//! A renewed certificate opens a new connection; the old one ends with its last stream.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use outrigger_core::UpstreamTls;
use rustls::{ClientConfig, RootCertStore, client::Resumption, sign::SingleCertAndKey};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::{
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use crate::{
    Bootstrap, Config,
    bootstrap::Place,
    identity::{
        unix_now,
        verify::{ControlPlaneVerifier, Trust},
    },
    shared::{Identity, Shared},
    tls::{
        files::{Allowed, TlsFiles},
        outside,
    },
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the settings for the control plane cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// Not a URL we can use.
    #[error(
        "control plane {0:?} is not a URL; expected https://host:15012 or http://127.0.0.1:15010"
    )]
    Url(String),
    /// Plain text to another machine.
    #[error("control plane {0:?}: plain text is for loopback addresses only; use https://")]
    PlainText(String),
    /// No way to get a first certificate.
    #[error(
        "a join token is needed for the first certificate (create one with `outrigger token create`), or --token-file"
    )]
    NoToken,
    /// A pod's token does not say which root to trust.
    #[error(
        "a token file needs --root-ca: the root certificate (PEM) that the control plane must prove"
    )]
    NoRoot,
    /// The token does not say which root to trust.
    #[error(
        "the join token must be <secret>.<SHA-256 of the root, 64 hex digits>, or a root certificate must be given"
    )]
    Token,
    /// The root certificate cannot be read.
    #[error("root certificate {0}")]
    Root(std::path::PathBuf, #[source] io::Error),
    /// The file holds no certificate.
    #[error("root certificate {0} holds no usable PEM certificate")]
    NotPem(std::path::PathBuf),
}

/// Checked settings; makes connections.
#[derive(Debug)]
pub(crate) struct Control {
    uri: Uri,
    /// The first that answers is used.
    addresses: Vec<Place>,
    /// Of our own control plane; None = plain text on loopback, or somebody else's server.
    first_trust: Option<Trust>,
    /// Of our own control plane, where our certificates come from somebody else: roots that it may lead to as well.
    also: Option<Arc<RootCertStore>>,
    /// A token begins anew where the certificate has ended.
    begins_anew: bool,
    /// Of somebody else's server; None = plain text.
    foreign: Option<UpstreamTls>,
    /// Goes with every stream.
    metadata: MetadataMap,
    shared: Arc<Shared>,
    /// Of the certificate it was made with.
    current: Mutex<Option<(u64, Channel)>>,
}

impl Control {
    pub(crate) fn new(config: &Config, shared: Arc<Shared>) -> Result<Self, ControlPlaneError> {
        if let Some(bootstrap) = &config.bootstrap {
            return Self::foreign(bootstrap, shared);
        }
        let first = First {
            join_token: config.join_token.as_deref(),
            token_file: config.token_file.is_some(),
            spiffe: config.spiffe_endpoint.is_some(),
            root_ca: config.root_ca.as_deref(),
        };
        Self::ours(&config.control_plane, first, shared)
    }

    /// To our own control plane. Who has an identity already needs nothing for a first one.
    pub(crate) fn ours(
        url: &str,
        first: First<'_>,
        shared: Arc<Shared>,
    ) -> Result<Self, ControlPlaneError> {
        let bad = || ControlPlaneError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_error| bad())?;
        let host = uri
            .host()
            .ok_or_else(bad)?
            .trim_matches(['[', ']'])
            .to_owned();
        let (is_tls, default_port) = match uri.scheme_str() {
            Some("https") => (true, 15012),
            Some("http") => (false, 15010),
            _ => return Err(bad()),
        };
        if !is_tls && !is_loopback(&host) {
            return Err(ControlPlaneError::PlainText(url.to_owned()));
        }
        let known = shared.identity.load_full().as_deref().map(bundle);
        let first_trust = match known {
            _ if !is_tls => None,
            Some(known) => Some(known),
            None => Some(first.trust()?),
        };
        let port = uri.port_u16().unwrap_or(default_port);
        Ok(Self {
            uri,
            addresses: vec![Place::Tcp(host, port)],
            first_trust,
            also: if first.spiffe { first.roots()? } else { None },
            begins_anew: first.token_file,
            foreign: None,
            metadata: MetadataMap::new(),
            shared,
            current: Mutex::new(None),
        })
    }

    /// To somebody else's management server.
    fn foreign(bootstrap: &Bootstrap, shared: Arc<Shared>) -> Result<Self, ControlPlaneError> {
        let server = &bootstrap.server;
        let scheme = if server.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let authority = match server.addresses.first() {
            Some(place @ Place::Tcp(..)) => place.to_string(),
            Some(Place::Pipe(_)) | None => "localhost".to_owned(),
        };
        let url = format!("{scheme}://{authority}");
        let uri = url.parse().map_err(|_error| ControlPlaneError::Url(url))?;
        Ok(Self {
            uri,
            addresses: server.addresses.clone(),
            first_trust: None,
            also: None,
            begins_anew: false,
            foreign: server.tls.clone(),
            metadata: server.metadata.clone(),
            shared,
            current: Mutex::new(None),
        })
    }

    /// `host:port`, as gRPC libraries write it.
    pub(crate) fn target(&self) -> String {
        self.addresses
            .first()
            .map(Place::to_string)
            .unwrap_or_default()
    }

    /// What goes with every stream.
    pub(crate) fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    /// Whether we get an identity.
    pub(crate) fn is_tls(&self) -> bool {
        self.first_trust.is_some()
    }

    /// The address that connections to the control plane leave from. Sends nothing.
    async fn local_ip(&self) -> io::Result<IpAddr> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
        let (host, port) = match self.addresses.first() {
            Some(Place::Tcp(host, port)) => (host.as_str(), *port),
            // On this machine, and from nowhere else.
            Some(Place::Pipe(_)) | None => return Ok(Ipv4Addr::LOCALHOST.into()),
        };
        for address in tokio::net::lookup_host((host, port)).await? {
            let any: SocketAddr = if address.is_ipv4() {
                ([0, 0, 0, 0], 0).into()
            } else {
                ([0u16; 8], 0).into()
            };
            let local = UdpSocket::bind(any).and_then(|socket| {
                socket.connect(address)?;
                socket.local_addr()
            });
            match local {
                Ok(local) => return Ok(local.ip()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The same, asked for until it is known.
    pub(crate) async fn local_ip_in_time(&self) -> IpAddr {
        loop {
            match self.local_ip().await {
                Ok(ip) => return ip,
                Err(error) => {
                    tracing::warn!(%error, "the way to the control plane is not known yet");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// A new connection, made now; later [`Self::channel`]s share it.
    pub(crate) async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let (generation, endpoint, connector) = self.dial();
        let channel = endpoint.connect_with_connector(connector).await?;
        *self.lock() = Some((generation, channel.clone()));
        Ok(channel)
    }

    /// The connection in use, or one that is made with the first call.
    pub(crate) fn channel(&self) -> Channel {
        let (generation, endpoint, connector) = self.dial();
        match &mut *self.lock() {
            Some((made_with, channel)) if *made_with == generation => channel.clone(),
            place => {
                let channel = endpoint.connect_with_connector_lazy(connector);
                *place = Some((generation, channel.clone()));
                channel
            }
        }
    }

    /// Our bundle, and what was given beside it.
    fn trusted(&self, own: &Identity) -> Trust {
        let Some(also) = &self.also else {
            return bundle(own);
        };
        let mut roots = RootCertStore::clone(&own.roots);
        roots.extend(also.roots.iter().cloned());
        Trust::Bundle {
            roots: Arc::new(roots),
            our_id: Arc::clone(&own.spiffe_id),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(u64, Channel)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dial(&self) -> (u64, Endpoint, Connector) {
        let identity = self.shared.identity.load_full();
        // The connector does TLS itself: tonic must see plain text, requests must say https.
        let endpoint = Endpoint::from(self.uri.clone())
            .origin(self.uri.clone())
            .user_agent(concat!("outrigger/", env!("CARGO_PKG_VERSION")))
            .unwrap_or_else(|_| Endpoint::from(self.uri.clone()))
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let ours = self.first_trust.clone().map(|first| {
            let trust = identity.as_deref().map_or(first, |own| self.trusted(own));
            // With one that has ended nobody would look at the token.
            let key = identity
                .as_ref()
                .filter(|identity| !self.begins_anew || identity.not_after > unix_now())
                .map(|identity| Arc::clone(&identity.certified_key));
            Tls::Ours(Arc::new(client_config(trust, key)))
        });
        let foreign = self.foreign.clone().map(|tls| Tls::Foreign(Arc::new(tls)));
        // Somebody else's server is shown files, not our identity.
        let generation = match (&self.first_trust, identity) {
            (Some(_), Some(identity)) => identity.generation,
            (None, _) | (_, None) => 0,
        };
        let connector = Connector {
            addresses: self.addresses.clone().into(),
            tls: ours.or(foreign),
        };
        (generation, endpoint, connector)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What shows the control plane at first contact, and us to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First<'a> {
    pub(crate) join_token: Option<&'a str>,
    /// A pod's token is there instead.
    pub(crate) token_file: bool,
    /// The Workload API tells whom to trust.
    pub(crate) spiffe: bool,
    pub(crate) root_ca: Option<&'a Path>,
}

impl First<'_> {
    /// Those of `root_ca`.
    fn roots(self) -> Result<Option<Arc<RootCertStore>>, ControlPlaneError> {
        let Some(path) = self.root_ca else {
            return Ok(None);
        };
        let pem =
            std::fs::read(path).map_err(|error| ControlPlaneError::Root(path.to_owned(), error))?;
        let mut roots = RootCertStore::empty();
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(ControlPlaneError::NotPem(path.to_owned()));
        }
        Ok(Some(Arc::new(roots)))
    }

    fn trust(self) -> Result<Trust, ControlPlaneError> {
        if self.join_token.is_none() && !self.token_file && !self.spiffe {
            return Err(ControlPlaneError::NoToken);
        }
        if let Some(roots) = self.roots()? {
            return Ok(Trust::Roots(roots));
        }
        if self.spiffe {
            // Nobody, before we know whom to.
            return Ok(Trust::Roots(Arc::new(RootCertStore::empty())));
        }
        let token = self.join_token.ok_or(ControlPlaneError::NoRoot)?;
        pinned_roots(token)
            .map(Trust::Pinned)
            .ok_or(ControlPlaneError::Token)
    }
}

/// SHA-256 of each root that a join token pins: `<secret>.<root>`, or `<secret>.<root>.<root>` if it was made while one
/// root took the place of another.
pub(crate) fn pinned_roots(token: &str) -> Option<Vec<[u8; 32]>> {
    let (_, hashes) = token.split_once('.')?;
    hashes.split('.').map(sha256_from_hex).collect()
}

fn bundle(identity: &Identity) -> Trust {
    Trust::Bundle {
        roots: Arc::clone(&identity.roots),
        our_id: Arc::clone(&identity.spiffe_id),
    }
}

fn sha256_from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

fn client_config(trust: Trust, key: Option<Arc<rustls::sign::CertifiedKey>>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("aws-lc-rs has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ControlPlaneVerifier::new(trust, &provider)));
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip verification.
    config.resumption = Resumption::disabled();
    config
}

/// Opens TCP, then TLS.
#[derive(Clone, Debug)]
struct Connector {
    addresses: Arc<[Place]>,
    tls: Option<Tls>,
}

/// Who is believed, and what we show.
#[derive(Clone, Debug)]
enum Tls {
    Ours(Arc<ClientConfig>),
    /// Files, which are read for each connection: the operator may have replaced them.
    Foreign(Arc<UpstreamTls>),
}

type Stream = TokioIo<Box<dyn Duplex>>;

/// What both kinds of connections can do.
trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for T {}

impl Connector {
    async fn open(self) -> io::Result<Stream> {
        let (host, open) = self.connect().await?;
        let (config, name) = match self.tls {
            None => return Ok(TokioIo::new(open)),
            Some(Tls::Ours(config)) => (config, host),
            Some(Tls::Foreign(tls)) => {
                let name = if tls.sni.is_empty() {
                    host
                } else {
                    tls.sni.clone()
                };
                let read = tokio::task::spawn_blocking(move || foreign_config(&tls));
                (read.await.map_err(io::Error::other)??, name)
            }
        };
        let name = ServerName::try_from(name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let tls = TlsConnector::from(config).connect(name, open).await?;
        Ok(TokioIo::new(Box::new(tls)))
    }
}

impl Connector {
    /// A connection, and the name that its certificate has to prove.
    async fn connect(&self) -> io::Result<(String, Box<dyn Duplex>)> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
        // One that does not answer must leave time for those after it.
        let each = CONNECT_TIMEOUT / u32::try_from(self.addresses.len().max(1)).unwrap_or(u32::MAX);
        for place in self.addresses.iter() {
            last = match tokio::time::timeout(each, open(place)).await {
                Ok(Ok(open)) => return Ok(open),
                Ok(Err(error)) => io::Error::new(error.kind(), format!("{place}: {error}")),
                Err(_elapsed) => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{place}: no connection within {each:?}"),
                ),
            };
        }
        Err(last)
    }
}

async fn open(place: &Place) -> io::Result<(String, Box<dyn Duplex>)> {
    match place {
        Place::Tcp(host, port) => {
            let tcp = TcpStream::connect((host.as_str(), *port)).await?;
            tcp.set_nodelay(true)?;
            Ok((host.clone(), Box::new(tcp)))
        }
        Place::Pipe(path) => {
            let unix = UnixStream::connect(path).await?;
            Ok(("localhost".to_owned(), Box::new(unix)))
        }
    }
}

/// The operator has named these files, so that they may be anywhere.
fn foreign_config(tls: &UpstreamTls) -> io::Result<Arc<ClientConfig>> {
    let files = TlsFiles::new(Allowed::new(&[std::path::PathBuf::from("/")]));
    let outside = tls.outside.clone().unwrap_or_default();
    let material = files.load(&outside).map_err(io::Error::other)?;
    outside::client_config(tls, &material, &[b"h2"]).map_err(io::Error::other)
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = futures_util::future::BoxFuture<'static, io::Result<Stream>>;

    fn poll_ready(
        &mut self,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), io::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let open = self.clone().open();
        Box::pin(async move {
            tokio::time::timeout(CONNECT_TIMEOUT, open)
                .await
                .unwrap_or_else(|_elapsed| {
                    Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "connection or TLS handshake took too long",
                    ))
                })
        })
    }
}
