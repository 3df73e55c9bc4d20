//! Applications that do not speak HTTP, and those who speak to them.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::eventually;

const AT_MOST: Duration = Duration::from_secs(20);

/// A port of localhost that was free a moment ago: documents name theirs.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    listener.local_addr().expect("an address").port()
}

/// Says its name first, then everything that it is told.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(name: &str, mut stream: S) {
    if stream.write_all(name.as_bytes()).await.is_ok() {
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.ok();
        write.shutdown().await.ok();
    }
}

/// An application that speaks bytes: says its name first, then everything that it is told.
///
/// # Panics
/// When it cannot listen.
pub async fn echo_app(name: &'static str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a socket");
    let address = listener.local_addr().expect("a socket");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a socket");
            tokio::spawn(echo(name, stream));
        }
    });
    address
}

/// A server with TLS and this name: it echoes, or answers HTTP with `paid`.
/// Its address, and its certificate in PEM.
///
/// # Panics
/// When it cannot listen.
pub async fn tls_server(name: &'static str, speaks_http: bool) -> (SocketAddr, String) {
    let nobody = Arc::new(NoClientAuth);
    tls_server_that_asks(name, speaks_http, nobody).await
}

/// A server with TLS and this name that answers HTTP with `paid`, to who has the certificate of this PEM text only.
/// Its address, and its certificate in PEM.
///
/// # Panics
/// When it cannot listen, or `client` is no certificate.
pub async fn mutual_tls_server(name: &'static str, client: &str) -> (SocketAddr, String) {
    let mut roots = RootCertStore::empty();
    let client = CertificateDer::from_pem_slice(client.as_bytes()).expect("a certificate");
    roots.add(client).expect("a certificate");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let asks = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    tls_server_that_asks(name, true, asks.expect("a verifier")).await
}

async fn tls_server_that_asks(
    name: &'static str,
    speaks_http: bool,
    asks: Arc<dyn ClientCertVerifier>,
) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).expect("a socket");
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(asks)
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a socket");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a socket");
    let address = listener.local_addr().expect("a socket");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a socket");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                if !speaks_http {
                    echo(name, stream).await;
                    return;
                }
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let answer =
                    "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\npaid";
                stream.write_all(answer.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            });
        }
    });
    (address, cert.pem())
}

/// What comes back of `said` over a connection of its own; empty if it was closed.
///
/// # Panics
/// When it does not end.
pub async fn tell(to: SocketAddr, said: &str) -> String {
    let heard = tell_bytes(to, said).await;
    String::from_utf8_lossy(&heard).into_owned()
}

/// The same, of a server that may say what is no text.
///
/// # Panics
/// When the connection does not end.
pub async fn tell_bytes(to: SocketAddr, said: &str) -> Vec<u8> {
    let told = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        stream.write_all(said.as_bytes()).await.ok()?;
        stream.shutdown().await.ok()?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.ok()?;
        Some(heard)
    };
    let heard = timeout(AT_MOST, told).await.expect("the connection ends");
    heard.unwrap_or_default()
}

/// Waits until `said` is answered so.
///
/// # Panics
/// When that does not happen.
pub async fn until_heard(to: SocketAddr, said: &str, expected: &str) {
    eventually(&format!("{to} answers {expected:?}"), async || {
        let heard = tell(to, said).await;
        if heard == expected {
            Ok(())
        } else {
            Err(heard)
        }
    })
    .await;
}
