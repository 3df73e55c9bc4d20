//! Connections as sidecars make them: TCP, mutual TLS 1.3, HTTP/2, one for each client. Each comes from an address of
//! its own of the loopback network, because the control plane counts handshakes by address.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::pki::Pair;

/// Where the control plane is, and who clients are there.
pub(super) struct Door {
    address: SocketAddr,
    /// By namespace; none = in plain text.
    identities: Vec<Arc<ClientConfig>>,
}

impl Door {
    pub(super) const fn plaintext(address: SocketAddr) -> Self {
        Self {
            address,
            identities: Vec::new(),
        }
    }

    pub(super) fn tls(address: SocketAddr, root: &str, leaves: &[Pair]) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
        let roots = Arc::new(roots);
        let identities = leaves.iter().map(|leaf| {
            let provider = Arc::new(aws_lc_rs::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(Arc::clone(&roots))
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes())?],
                    PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?,
                )?;
            config.alpn_protocols = vec![b"h2".to_vec()];
            Ok(Arc::new(config))
        });
        let identities = identities.collect::<anyhow::Result<_>>()?;
        Ok(Self {
            address,
            identities,
        })
    }

    /// A connection of client `number` of `namespace`.
    pub(super) async fn open(&self, number: u32, namespace: u32) -> anyhow::Result<Channel> {
        let address = self.address;
        let tls = self.identities.get(namespace as usize).cloned();
        let endpoint = Endpoint::from(Uri::from_static("https://localhost"))
            .connect_timeout(Duration::from_secs(30));
        let connector = tower::service_fn(move |_: Uri| connect(address, number, tls.clone()));
        let channel = endpoint.connect_with_connector(connector).await;
        channel.with_context(|| format!("client {number} at {address}"))
    }
}

/// Either kind of connection.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(
    to: SocketAddr,
    number: u32,
    tls: Option<Arc<ClientConfig>>,
) -> io::Result<TokioIo<Box<dyn Stream>>> {
    let stream = tcp(to, number).await?;
    let Some(config) = tls else {
        return Ok(TokioIo::new(Box::new(stream)));
    };
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(TokioIo::new(Box::new(stream)))
}

async fn tcp(to: SocketAddr, number: u32) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let [_, _, high, low] = number.to_be_bytes();
    socket.bind((Ipv4Addr::new(127, 1, high, low), 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
