//! A program with a certificate of the mesh that says whatever it likes to an inbound port, byte by byte.

use std::{fs::File, io::BufReader, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::WorkloadIdentity;

/// Longer than any wait of a sidecar that it is used for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes any server: it is the client that is tried here.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a client with this certificate (None = it has none) and these application protocols says.
///
/// # Panics
/// When the files are not what they should be.
pub fn tls_client(identity: Option<&WorkloadIdentity>, alpn: &[&str]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let file = File::open(&identity.certificate).expect("a certificate's file");
            let chain = CertificateDer::pem_reader_iter(BufReader::new(file));
            let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
            let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
            builder
                .with_client_auth_cert(chain, key)
                .expect("a certificate and its key")
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// Connects under TLS.
///
/// # Errors
/// The handshake's.
///
/// # Panics
/// When nothing listens.
pub async fn tls_connect(
    config: ClientConfig,
    to: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await.expect("somebody listens");
    let name = ServerName::try_from("reviews").expect("a name");
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    timeout(PATIENCE, connected)
        .await
        .expect("the handshake ends")
}

/// What is answered to these bytes until the end; a reset is one, too.
///
/// # Panics
/// When it does not end.
pub async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, said: &[u8]) -> String {
    let mut heard = Vec::new();
    let talk = async {
        if stream.write_all(said).await.is_ok() && stream.flush().await.is_ok() {
            stream.read_to_end(&mut heard).await.ok();
        }
    };
    timeout(PATIENCE, talk).await.expect("it ends");
    String::from_utf8_lossy(&heard).into_owned()
}

/// The same over plain TCP.
///
/// # Panics
/// When nothing listens, or it does not end.
pub async fn say_plainly(to: SocketAddr, said: &[u8]) -> String {
    say(
        TcpStream::connect(to).await.expect("somebody listens"),
        said,
    )
    .await
}
