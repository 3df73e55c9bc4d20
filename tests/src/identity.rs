//! Certificates in files, for tools that are not ours: a workload's of the mesh, and one of a root that nobody knows.

use std::{fs, path::PathBuf, sync::Arc};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use outrigger_proto::outrigger::v1::{IssueCertificateRequest, identity_client::IdentityClient};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use tempfile::TempDir;
use tonic::Request;

use crate::{Mesh, operator};

/// A workload's certificate and key as PEM files.
#[derive(Debug)]
pub struct WorkloadIdentity {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who it is.
    pub spiffe_id: String,
    _dir: TempDir,
}

impl WorkloadIdentity {
    /// Joins the mesh as `service_account` with a key of its own.
    ///
    /// # Panics
    /// When the authority does not issue it.
    pub async fn join(mesh: &Mesh, service_account: &str) -> Self {
        Self::join_in(mesh, "default", service_account).await
    }

    /// The same in another namespace.
    ///
    /// # Panics
    /// When the authority does not issue it.
    pub async fn join_in(mesh: &Mesh, namespace: &str, service_account: &str) -> Self {
        let token = mesh.join_token(namespace, service_account);
        let key = KeyPair::generate().expect("a key");
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .expect("a request");
        let channel = operator::channel(mesh).await;
        let mut request = Request::new(IssueCertificateRequest {
            csr_der: csr.der().to_vec(),
            ttl: None,
        });
        let bearer = format!("Bearer {token}").parse().expect("a header's value");
        request.metadata_mut().insert("authorization", bearer);
        let issued = IdentityClient::new(channel)
            .issue_certificate(request)
            .await;
        let issued = issued
            .expect("the authority issues a certificate")
            .into_inner();
        let chain: String = issued
            .chain_der
            .iter()
            .map(|der| pem("CERTIFICATE", der))
            .collect();
        Self::write(&chain, &key.serialize_pem(), issued.spiffe_id)
    }

    /// TLS of a client that shows this certificate, and takes whatever the server shows: what is looked at is the
    /// server's side.
    ///
    /// # Panics
    /// When the files are not what they were.
    pub fn client_tls(&self) -> ClientConfig {
        let chain = CertificateDer::pem_file_iter(&self.certificate).expect("certificates");
        let chain: Result<Vec<_>, _> = chain.collect();
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("a key");
        let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3 is there")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(chain.expect("certificates"), key)
            .expect("a key that fits");
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tls
    }

    fn write(certificate: &str, key: &str, spiffe_id: String) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        Self {
            certificate: file("certificate.pem", certificate),
            key: file("key.pem", key),
            spiffe_id,
            _dir: dir,
        }
    }
}

/// A root certificate that the mesh does not know.
#[derive(Debug)]
pub struct ForeignRoot(CertifiedIssuer<'static, KeyPair>);

impl ForeignRoot {
    /// Makes one.
    ///
    /// # Panics
    /// When rcgen cannot.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a root"))
    }

    /// A certificate that claims `spiffe_id`.
    ///
    /// # Panics
    /// When rcgen cannot make it.
    pub fn issue(&self, spiffe_id: &str) -> WorkloadIdentity {
        let mut params = CertificateParams::default();
        let uri = spiffe_id.try_into().expect("an ASCII URI");
        params.subject_alt_names.push(SanType::URI(uri));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        WorkloadIdentity::write(
            &certificate.pem(),
            &key.serialize_pem(),
            spiffe_id.to_owned(),
        )
    }
}

impl Default for ForeignRoot {
    fn default() -> Self {
        Self::new()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = BASE64_STANDARD.encode(der);
    let lines = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let body = lines.fold(String::new(), |text, line| text + &line + "\n");
    format!("-----BEGIN {label}-----\n{body}-----END {label}-----\n")
}

/// Takes any server.
#[derive(Debug)]
struct Anybody;

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
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
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
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
