//! TLS of the main port: 1.3 only, no resumption, a client certificate asked for but not required, and a
//! shown one held to SPIFFE's rules, which webpki alone does not check.
//! Source: X.509-SVID, sections 4 and 5.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    },
    server::{
        NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::client_roots::ClientRoots;
use crate::{
    ca::{Authority, hex},
    spiffe::SpiffeId,
};

/// What a client's certificate says.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Hexadecimal.
    pub(crate) serial: Arc<str>,
    /// DER of the name that signed it.
    pub(crate) issuer: Vec<u8>,
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
    let verifier = SpiffeVerifier {
        authority: Arc::clone(authority),
        algorithms: provider.signature_verification_algorithms,
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

/// Verifies against the roots in force at the moment of the handshake.
#[derive(Debug)]
struct SpiffeVerifier {
    authority: Arc<Authority>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Roots of others that clients may have.
    also: Option<Arc<ClientRoots>>,
}

/// Whether a chain leads to one of `roots` now.
pub(crate) fn verify_chain(
    roots: &RootCertStore,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), webpki::Error> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    EndEntityCert::try_from(leaf)?.verify_for_usage(
        algorithms.all,
        &roots.roots,
        intermediates,
        now,
        KeyUsage::client_auth(),
        None,
        None,
    )?;
    Ok(())
}

impl ClientCertVerifier for SpiffeVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let client = identity(leaf).map_err(Error::General)?;
        // One that has ended is looked at as of its last second: it may still renew itself, and nothing else
        // (`Caller::Expired`).
        let end = client.not_after.duration_since(UNIX_EPOCH);
        let last = UnixTime::since_unix_epoch(
            end.unwrap_or_default()
                .saturating_sub(Duration::from_secs(1)),
        );
        let at = if last < now { last } else { now };
        let in_force = self.authority.in_force();
        if let Err(error) = verify_chain(&in_force.bundle.anchors, leaf, intermediates, at) {
            let also = self.also.as_ref();
            if also.is_none_or(|also| also.verify(leaf, intermediates, now).is_err()) {
                return Err(Error::General(error.to_string()));
            }
        }
        let trust_domain = self.authority.trust_domain();
        if client.id.trust_domain() != &**trust_domain {
            return Err(Error::General(format!(
                "{} is not of the trust domain {trust_domain}",
                client.id
            )));
        }
        Ok(ClientCertVerified::assertion())
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
    let validity = cert.validity();
    Ok(Client {
        id: SpiffeId::parse(uri)?,
        not_before: validity.not_before.to_datetime().into(),
        not_after: validity.not_after.to_datetime().into(),
        serial: hex(cert.raw_serial()).into(),
        issuer: cert.issuer().as_raw().to_vec(),
    })
}

#[cfg(test)]
mod tests;
