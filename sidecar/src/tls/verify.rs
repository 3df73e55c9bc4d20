//! The verifiers that rustls calls: webpki for the chain, `svid` for the rest. The stock ones accept any URI, several
//! URIs, and other trust domains.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::{Refusal, svid};
use crate::shared::Identity;

/// Chain and SPIFFE rules, for one trust domain.
#[derive(Debug)]
struct Rules {
    roots: Arc<RootCertStore>,
    trust_domain: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Rules {
    fn new(identity: &Identity) -> Result<Self, Error> {
        let (domain, _) = svid::parse_id(&identity.spiffe_id).map_err(|rule| {
            Error::General(format!("own identity {}: {rule}", identity.spiffe_id))
        })?;
        Ok(Self {
            roots: Arc::clone(&identity.roots),
            trust_domain: domain.to_owned(),
            algorithms: aws_lc_rs::default_provider().signature_verification_algorithms,
        })
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<svid::Svid, Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(chain_error)?;
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.roots.roots,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(chain_error)?;
        for signer in intermediates {
            svid::check_signer(signer, &self.trust_domain)?;
        }
        Ok(svid::check_leaf(leaf, &self.trust_domain)?)
    }
}

fn chain_error(error: webpki::Error) -> Error {
    match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired.into(),
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        other => Refusal::Chain(other.to_string()).into(),
    }
}

/// Demands a client certificate of our trust domain.
#[derive(Debug)]
pub(super) struct ClientVerifier(Rules);

impl ClientVerifier {
    pub(super) fn new(identity: &Identity) -> Result<Self, Error> {
        Rules::new(identity).map(Self)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0
            .check(leaf, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// Demands a server whose SPIFFE id is in a list.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    rules: Rules,
    expected: Vec<String>,
}

impl ServerVerifier {
    pub(super) fn new(identity: &Identity, expected: &[String]) -> Result<Self, Error> {
        Ok(Self {
            rules: Rules::new(identity)?,
            expected: expected.to_vec(),
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = self
            .rules
            .check(leaf, intermediates, now, KeyUsage::server_auth())?;
        // An empty list refuses everyone: nobody told us who may answer.
        if self.expected.iter().any(|id| **id == *peer.id) {
            return Ok(ServerCertVerified::assertion());
        }
        let expected = match self.expected.as_slice() {
            [] => "nobody: the cluster names no identity".to_owned(),
            ids => ids.join(" or "),
        };
        Err(Refusal::UnexpectedPeer {
            found: peer.id.to_string(),
            expected,
        }
        .into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.rules.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.algorithms.supported_schemes()
    }
}
