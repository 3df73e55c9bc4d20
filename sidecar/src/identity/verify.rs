//! Is this the control plane? A certificate proves it by its chain and by its SPIFFE id, never by a DNS name.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

/// Path of the control plane's identity in every trust domain.
pub(crate) const CONTROL_PLANE: &str = "/ns/outrigger-system/sa/control-plane";

/// What a control plane is verified against.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// SHA-256 of roots' DER, from a join token; the chain must include one of them.
    Pinned(Vec<[u8; 32]>),
    /// A file of roots.
    Roots(Arc<RootCertStore>),
    /// Our trust bundle; the control plane must be of our trust domain.
    Bundle {
        roots: Arc<RootCertStore>,
        our_id: Arc<str>,
    },
}

#[derive(Debug)]
pub(crate) struct ControlPlaneVerifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ControlPlaneVerifier {
    pub(crate) fn new(trust: Trust, provider: &CryptoProvider) -> Self {
        Self {
            trust,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn verify_chain(
        &self,
        leaf: &EndEntityCert<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let pinned;
        let anchors: &[TrustAnchor<'_>] = match &self.trust {
            Trust::Pinned(hashes) => {
                let root = chain
                    .iter()
                    .find(|certificate| hashes.contains(&sha256(certificate)));
                let Some(root) = root else {
                    return Err(refused(
                        "the chain does not include the root that the join token pins",
                    ));
                };
                pinned =
                    [webpki::anchor_from_trusted_cert(root)
                        .map_err(|e| refused(&e.to_string()))?];
                &pinned
            }
            Trust::Roots(roots) | Trust::Bundle { roots, .. } => &roots.roots,
        };
        leaf.verify_for_usage(
            self.algorithms.all,
            anchors,
            chain,
            now,
            KeyUsage::server_auth(),
            None,
            None,
        )
        .map(drop)
        .map_err(|error| refused(&error.to_string()))
    }

    fn verify_id(&self, leaf: &EndEntityCert<'_>) -> Result<(), Error> {
        let ids: Vec<&str> = leaf.valid_uri_names().collect();
        let [id] = ids.as_slice() else {
            return Err(refused(&format!(
                "it names {} URIs; must be one",
                ids.len()
            )));
        };
        let domain = id
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_suffix(CONTROL_PLANE));
        let ours = match &self.trust {
            Trust::Bundle { our_id, .. } => trust_domain(our_id),
            Trust::Pinned(_) | Trust::Roots(_) => None,
        };
        match domain {
            Some(domain)
                if !domain.is_empty()
                    && !domain.contains('/')
                    && ours.is_none_or(|ours| ours == domain) =>
            {
                Ok(())
            }
            _ => Err(refused(&format!("{id} is not the control plane"))),
        }
    }
}

/// `cluster.local` of `spiffe://cluster.local/ns/default/sa/reviews`.
pub(crate) fn trust_domain(id: &str) -> Option<&str> {
    id.strip_prefix("spiffe://")?
        .split('/')
        .next()
        .filter(|domain| !domain.is_empty())
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

fn refused(why: &str) -> Error {
    Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(
        std::io::Error::other(format!("control plane's certificate refused: {why}")),
    ))))
}

impl ServerCertVerifier for ControlPlaneVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = EndEntityCert::try_from(end_entity).map_err(|e| refused(&e.to_string()))?;
        self.verify_chain(&leaf, intermediates, now)?;
        self.verify_id(&leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused("TLS 1.2 is not spoken here"))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
