//! TLS between sidecars: TLS 1.3, always mutual, never resumed, both ends named by SPIFFE ids.
//!
//! Resumption is off on both sides because a resumed session skips certificate verification: an expired or removed
//! identity would live on. Pools make full handshakes rare instead.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier as _},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, danger::ClientCertVerifier as _},
    sign::SingleCertAndKey,
};

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::shared::Identity;

pub(crate) mod files;
pub(crate) mod outside;
pub(crate) mod refusal;
pub(crate) mod server;
mod subject;
pub(crate) mod svid;
mod verify;

pub(crate) use refusal::Refusal;
pub(crate) use svid::Svid;

use verify::{ClientVerifier, ServerVerifier};

/// ALPN of the two protocols.
pub(crate) const ALPN_H2: &[u8] = b"h2";
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// aws-lc-rs with AES-128-GCM first (the cheapest here) and X25519MLKEM768 first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// What an inbound listener shows and demands under `identity`.
///
/// # Errors
/// The identity's own SPIFFE id is malformed, or rustls refuses the provider.
pub(crate) fn server_config(
    identity: &Identity,
    alpn: &[String],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let verifier = ClientVerifier::new(identity)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
            &identity.certified_key,
        ))));
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// What a connection to an endpoint shows, and whom it accepts: a server whose SPIFFE id is one of `expected`.
///
/// # Errors
/// As [`server_config`].
pub(crate) fn client_config(
    identity: &Identity,
    expected: &[String],
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let verifier = ServerVerifier::new(identity, expected)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
            &identity.certified_key,
        ))));
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Whether a peer that was let in before would be let in under `identity`.
pub(crate) fn still_trusted(
    identity: &Identity,
    chain: &[CertificateDer<'_>],
) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = chain
        .split_first()
        .ok_or(rustls::Error::NoCertificatesPresented)?;
    ClientVerifier::new(identity)?
        .verify_client_cert(leaf, intermediates, UnixTime::now())
        .map(|_verified| ())
}

/// Whether a server that was accepted before would be under `identity`.
pub(crate) fn still_accepted(
    identity: &Identity,
    expected: &[String],
    chain: &[CertificateDer<'_>],
) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = chain
        .split_first()
        .ok_or(rustls::Error::NoCertificatesPresented)?;
    // Its name says nothing: it is judged by its SPIFFE id.
    let nobody = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    ServerVerifier::new(identity, expected)?
        .verify_server_cert(leaf, intermediates, &nobody, &[], UnixTime::now())
        .map(|_verified| ())
}

#[cfg(test)]
mod tests;
