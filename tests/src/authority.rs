//! A root that a mesh signs with and whose key the test holds too, what it may be made to sign, and clients and servers
//! that show such certificates without asking what the other side shows.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A root certificate with its key, in files that a control plane can be started with.
#[derive(Debug)]
pub struct MeshRoot {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A chain, leaf first, and the leaf's key.
#[derive(Debug)]
pub struct Shown {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the leaf.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl MeshRoot {
    /// A root of trust domain `cluster.local`.
    ///
    /// # Panics
    /// When rcgen cannot make it.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "a root of a test");
        // Room for signers below it, so that nothing but what is tried is wrong.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let uri = "spiffe://cluster.local".try_into().expect("ASCII");
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.not_before = (SystemTime::now() - Duration::from_secs(300)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(30 * 86_400)).into();
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a root");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("root.pem"), issuer.pem()).expect("a file");
        fs::write(dir.path().join("root.key"), issuer.key().serialize_pem()).expect("a file");
        Self { issuer, dir }
    }

    /// The certificate's file.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    /// The key's file.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("root.key")
    }

    /// What a control plane is started with to sign with it.
    pub fn flags(&self) -> [String; 4] {
        let file = |path: PathBuf| path.display().to_string();
        [
            "--root-cert".to_owned(),
            file(self.certificate()),
            "--root-key".to_owned(),
            file(self.key()),
        ]
    }

    /// A leaf with the names, times and uses that are asked for, whatever they are.
    ///
    /// # Panics
    /// When rcgen cannot make it.
    pub fn sign(&self, leaf: &CertificateParams) -> Shown {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf.signed_by(&key, &self.issuer).expect("a certificate");
        shown(vec![certificate.der().clone()], &key)
    }

    /// A leaf signed by a key whose own certificate is `signer`, and is signed by the root.
    ///
    /// # Panics
    /// When rcgen cannot make it.
    pub fn sign_below(&self, signer: CertificateParams, leaf: &CertificateParams) -> Shown {
        let above = KeyPair::generate().expect("a key");
        let above = CertifiedIssuer::signed_by(signer, above, &self.issuer).expect("a signer");
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf.signed_by(&key, &above).expect("a certificate");
        shown(vec![certificate.der().clone(), above.der().clone()], &key)
    }
}

impl Default for MeshRoot {
    fn default() -> Self {
        Self::new()
    }
}

fn shown(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Shown {
    Shown {
        chain,
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
    }
}

/// A leaf as the mesh's own authority would make it, but for its URIs.
///
/// # Panics
/// When a URI is not ASCII.
pub fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "workload");
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().expect("ASCII")))
        .collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
    params
}

/// A TLS client that believes every server, and shows this.
///
/// # Panics
/// When rustls does not take the key.
pub fn credulous(show: Option<Shown>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match show {
        Some(shown) => builder
            .with_client_auth_cert(shown.chain, shown.key)
            .expect("a key that fits"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(64);
    config
}

/// What `GET /` over TLS brings back; nothing if the other side ends it.
///
/// # Panics
/// When nobody listens.
pub async fn ask_over_tls(to: SocketAddr, config: ClientConfig) -> String {
    let stream = TcpStream::connect(to).await.expect("somebody listens");
    let name = ServerName::try_from("reviews").expect("a name");
    let connect = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let mut heard = Vec::new();
    if let Ok(mut stream) = connect.await {
        let request = b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";
        if stream.write_all(request).await.is_ok() {
            // An alert shows as an error here; what came before it counts.
            stream.read_to_end(&mut heard).await.ok();
        }
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// A TLS server that takes every client, answers `impostor`, and counts the requests that came so far.
#[derive(Debug)]
pub struct TlsImpostor {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl TlsImpostor {
    /// Starts it with what it shows. It hands out tickets, and takes early data.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(show: Shown) -> Self {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(show.chain, show.key)
                .expect("a key that fits");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.max_early_data_size = 16_384;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    let answer =
                        "HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\nimpostor";
                    stream.write_all(answer.as_bytes()).await.ok();
                    stream.shutdown().await.ok();
                });
            }
        });
        Self {
            address,
            requests,
            server,
        }
    }

    /// Requests whose head has come.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for TlsImpostor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Believes every server.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
