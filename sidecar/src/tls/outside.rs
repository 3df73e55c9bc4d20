//! TLS to servers outside of the mesh: they have names instead of identities, and roots of the operator's choice. Ours
//! is shown if the document says so; the mesh's own certificate never is.
//! Source: Istio `ClientTLSSettings` SIMPLE and MUTUAL; RFC 9525 for names.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_core::UpstreamTls;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{Refusal, files::Material};

/// Of a name that a stranger wrote into a certificate.
const MAX_SHOWN: usize = 200;

/// What a connection to a server outside of the mesh shows, and whom it accepts.
///
/// # Errors
/// rustls refuses the provider.
pub(crate) fn client_config(
    tls: &UpstreamTls,
    material: &Material,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, Error> {
    let outside = tls.outside.as_deref();
    let provider = super::provider();
    let algorithms = provider.signature_verification_algorithms;
    let versions: &[&rustls::SupportedProtocolVersion] = match outside {
        Some(outside) if !outside.tls12 => &[&rustls::version::TLS13],
        _ => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let written = tls.subject_alt_names.as_slice();
    let names = if written.is_empty() {
        std::slice::from_ref(&tls.sni)
    } else {
        written
    };
    let verifier = Verifier {
        unverified: outside.is_some_and(|outside| outside.unverified),
        roots: Arc::clone(&material.roots),
        roots_from: material.roots_from.clone(),
        revoked: Arc::clone(&material.revoked),
        revoked_from: outside.and_then(|outside| outside.revoked.clone()),
        names: names.to_vec(),
        algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &material.key {
        Some(key) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))))
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Chain to the roots, and one of the names.
#[derive(Debug)]
struct Verifier {
    unverified: bool,
    roots: Arc<RootCertStore>,
    roots_from: PathBuf,
    revoked: Arc<[CertRevocationList<'static>]>,
    revoked_from: Option<PathBuf>,
    names: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let untrusted = |error: webpki::Error| self.untrusted(leaf, &error);
        let certificate = EndEntityCert::try_from(leaf).map_err(untrusted)?;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists)
            .ok()
            // A list of one authority says nothing of what others have issued.
            .map(|options| {
                options
                    .with_status_policy(UnknownStatusPolicy::Allow)
                    // Whoever was revoked since, it does not say.
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build()
            });
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.roots.roots,
                intermediates,
                now,
                KeyUsage::server_auth(),
                revocation,
                None,
            )
            .map_err(untrusted)?;
        let mut names = self.names.iter();
        if names.any(|name| has_name(&certificate, name)) {
            return Ok(());
        }
        Err(Refusal::UnexpectedPeer {
            found: presented(leaf),
            expected: self.names.join(" or "),
        })
    }

    fn untrusted(&self, leaf: &CertificateDer<'_>, error: &webpki::Error) -> Refusal {
        let reason = match error {
            webpki::Error::CertExpired { .. } => "it has expired".to_owned(),
            webpki::Error::CertNotValidYet { .. } => "it is not valid yet".to_owned(),
            webpki::Error::UnknownIssuer => "its issuer is not known".to_owned(),
            webpki::Error::InvalidSignatureForPublicKey => {
                "no root of its issuer's name has signed it".to_owned()
            }
            webpki::Error::CertRevoked => "it is revoked".to_owned(),
            webpki::Error::CrlExpired { .. } => {
                let lists = self.revoked_from.as_deref().map(Path::display);
                let lists = lists.map(|path| format!(" in {path}")).unwrap_or_default();
                format!("the revocation list of its issuer{lists} has expired (nextUpdate)")
            }
            other => other.to_string(),
        };
        Refusal::Chain(format!(
            "{reason}; the server presented {}, expected was one that leads to a root in {}",
            presented(leaf),
            self.roots_from.display()
        ))
    }
}

/// Names with a scheme are URIs; others hosts or addresses.
fn has_name(certificate: &EndEntityCert<'_>, name: &str) -> bool {
    if name.contains("://") {
        return certificate.valid_uri_names().any(|uri| uri == name);
    }
    let name = ServerName::try_from(name);
    name.is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

/// Whose certificate it says it is.
fn presented(leaf: &CertificateDer<'_>) -> String {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else {
        return "a certificate that does not parse".to_owned();
    };
    let names = leaf.subject_alternative_name().ok().flatten();
    let names: Vec<_> = names
        .map(|names| {
            names
                .value
                .general_names
                .iter()
                .map(ToString::to_string)
                .collect()
        })
        .unwrap_or_default();
    let text = format!(
        "a certificate for [{}], issued by [{}]",
        names.join(", "),
        leaf.issuer()
    );
    // Strangers wrote it: no line breaks into the log, no megabytes.
    let text: String = text.chars().take(MAX_SHOWN).collect();
    text.escape_debug().to_string()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.unverified {
            self.check(leaf, intermediates, now).map_err(|refusal| {
                Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(
                    refusal,
                ))))
            })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
