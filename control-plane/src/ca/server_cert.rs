//! The control plane's own certificate: made at start, made anew at half-life, swapped without a restart.

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rcgen::{KeyPair, SanType};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::{Authority, MAX_TTL};
use crate::spiffe::SpiffeId;

/// Namespace and service account of the control plane (`docs/WIRE.md`).
const NAMESPACE: &str = "outrigger-system";
const SERVICE_ACCOUNT: &str = "control-plane";

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerCertError {
    /// A name in the settings.
    #[error("{name:?} is neither a DNS name nor an IP address; correct --server-name")]
    Name { name: String },
    /// Signing.
    #[error("signing the control plane's certificate")]
    Sign(#[source] rcgen::Error),
    /// The key.
    #[error("using the control plane's key")]
    Key(#[source] rustls::Error),
    /// The trust domain.
    #[error("{0}")]
    Identity(String),
}

/// Gives handshakes the newest certificate.
#[derive(Debug)]
pub(crate) struct ServerCert {
    authority: Arc<Authority>,
    names: Vec<SanType>,
    id: SpiffeId,
    current: ArcSwap<CertifiedKey>,
}

impl ServerCert {
    /// `names` come beside `localhost` and the loopback addresses.
    pub(crate) fn new(
        authority: Arc<Authority>,
        names: &[String],
    ) -> Result<Self, ServerCertError> {
        let id = SpiffeId::new(authority.trust_domain(), NAMESPACE, SERVICE_ACCOUNT)
            .map_err(ServerCertError::Identity)?;
        let defaults = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let names = defaults
            .iter()
            .chain(names)
            .map(|name| san(name))
            .collect::<Result<Vec<_>, _>>()?;
        let first = make(&authority, &id, &names)?;
        Ok(Self {
            authority,
            names,
            id,
            current: ArcSwap::from_pointee(first),
        })
    }

    /// Makes a new one at half-life of the old. Runs until it is dropped.
    pub(crate) async fn renew(self: Arc<Self>) {
        let mut wait = MAX_TTL / 2;
        loop {
            tokio::time::sleep(wait).await;
            match make(&self.authority, &self.id, &self.names) {
                Ok(key) => {
                    self.current.store(Arc::new(key));
                    wait = MAX_TTL / 2;
                    tracing::debug!("own certificate renewed");
                }
                Err(error) => {
                    wait = Duration::from_secs(60);
                    tracing::error!(%error, "own certificate not renewed");
                }
            }
        }
    }
}

impl ResolvesServerCert for ServerCert {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn make(
    authority: &Authority,
    id: &SpiffeId,
    names: &[SanType],
) -> Result<CertifiedKey, ServerCertError> {
    let key = KeyPair::generate().map_err(ServerCertError::Sign)?;
    let issued = authority
        .sign(&key, id, names.to_vec(), MAX_TTL, OffsetDateTime::now_utc())
        .map_err(ServerCertError::Sign)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = any_supported_type(&der).map_err(ServerCertError::Key)?;
    // With the root, so that a client that holds only its hash can check it.
    Ok(CertifiedKey::new(
        vec![issued.leaf, authority.root().clone()],
        key,
    ))
}

fn san(name: &str) -> Result<SanType, ServerCertError> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let dns = rustls_pki_types::DnsName::try_from(name);
    match (dns, name.to_owned().try_into()) {
        (Ok(_), Ok(name)) => Ok(SanType::DnsName(name)),
        _ => Err(ServerCertError::Name {
            name: name.to_owned(),
        }),
    }
}
