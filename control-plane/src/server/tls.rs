//! TLS of the main port: 1.3 only, no resumption, a client certificate asked for but not required, and a
//! shown one held to SPIFFE's rules, which webpki alone does not check.
//! Source: X.509-SVID, sections 4 and 5.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::aws_lc_rs,
    server::{
        NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::client_roots::ClientRoots;
use crate::{ca::Authority, spiffe::SpiffeId};

/// What a client's certificate says.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: SpiffeId,
    pub(crate) not_after: SystemTime,
}

impl Client {
    /// Until the certificate ends.
    pub(crate) fn left(&self) -> Duration {
        self.not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }
}

/// Settings of the main port.
pub(crate) fn server_config(
    authority: &Arc<Authority>,
    own: Arc<dyn ResolvesServerCert>,
    also: Option<Arc<ClientRoots>>,
) -> Result<ServerConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone())?;
    let webpki =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
    let verifier = SpiffeVerifier {
        webpki,
        trust_domain: Arc::clone(authority.trust_domain()),
        also,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would not be verified again, and would outlive its certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

#[derive(Debug)]
struct SpiffeVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    trust_domain: Arc<str>,
    /// Roots of others that clients may have.
    also: Option<Arc<ClientRoots>>,
}

impl ClientCertVerifier for SpiffeVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = match (
            self.webpki.verify_client_cert(leaf, intermediates, now),
            &self.also,
        ) {
            (Err(_), Some(also)) if also.verify(leaf, intermediates, now).is_ok() => {
                ClientCertVerified::assertion()
            }
            (verified, _) => verified?,
        };
        let client = identity(leaf).map_err(Error::General)?;
        if client.id.trust_domain() != &*self.trust_domain {
            return Err(Error::General(format!(
                "{} is not of the trust domain {}",
                client.id, self.trust_domain
            )));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// The identity of an X.509-SVID whose signature somebody else has verified.
pub(crate) fn identity(leaf: &CertificateDer<'_>) -> Result<Client, String> {
    let (_, cert) = parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
    if cert.is_ca() {
        return Err("a CA certificate is no identity".to_owned());
    }
    match cert.key_usage() {
        Ok(Some(usage))
            if usage.value.digital_signature()
                && !usage.value.key_cert_sign()
                && !usage.value.crl_sign() => {}
        _ => return Err("the key usage has to be digitalSignature, without signing".to_owned()),
    }
    let Ok(Some(names)) = cert.subject_alternative_name() else {
        return Err("no subject alternative name".to_owned());
    };
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err("an identity has exactly one URI".to_owned());
    };
    let not_after = SystemTime::from(cert.validity().not_after.to_datetime());
    Ok(Client {
        id: SpiffeId::parse(uri)?,
        not_after,
    })
}

#[cfg(test)]
mod tests;
