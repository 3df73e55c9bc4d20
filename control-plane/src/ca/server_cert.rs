//! The control plane's own certificate: made at start, made anew at half-life and with every change of the authority,
//! swapped without a restart.
//!
//! During a rotation it leads to the root that was there before, which everybody trusts to the end, and which join tokens
//! made before it pin ([`InForce::own`](super::state::InForce::own)).

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

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
/// How soon another try follows one that failed.
const AGAIN: Duration = Duration::from_secs(60);
/// How often the clock is looked at: it may have jumped.
const LOOK: Duration = Duration::from_secs(10);

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
    current: ArcSwap<Made>,
}

/// One certificate.
#[derive(Debug)]
struct Made {
    key: Arc<CertifiedKey>,
    /// When to make the next.
    renew_at: OffsetDateTime,
    not_after: OffsetDateTime,
    root: String,
}

impl ServerCert {
    /// `names` come beside `localhost` and the loopback addresses.
    pub(crate) fn new(
        authority: Arc<Authority>,
        names: &[String],
        now: OffsetDateTime,
    ) -> Result<Self, ServerCertError> {
        let id = SpiffeId::new(authority.trust_domain(), NAMESPACE, SERVICE_ACCOUNT)
            .map_err(ServerCertError::Identity)?;
        let defaults = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let names = defaults
            .iter()
            .chain(names)
            .map(|name| san(name))
            .collect::<Result<Vec<_>, _>>()?;
        let first = make(&authority, &id, &names, now)?;
        Ok(Self {
            authority,
            names,
            id,
            current: ArcSwap::from_pointee(first),
        })
    }

    /// Makes a new one at half-life of the old, and when another root is to be shown. Runs until it is dropped.
    pub(crate) async fn renew(self: Arc<Self>) {
        let mut changes = self.authority.changes();
        let mut failed: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = changes.changed() => failed = None,
            }
            if failed.is_some_and(|at| at.elapsed() < AGAIN) {
                continue;
            }
            failed = match self.follow(OffsetDateTime::now_utc()) {
                Ok(()) => None,
                Err(error) => {
                    tracing::error!(%error, "own certificate not renewed");
                    Some(tokio::time::Instant::now())
                }
            };
        }
    }

    /// Makes a new one if it is time.
    pub(crate) fn follow(&self, now: OffsetDateTime) -> Result<(), ServerCertError> {
        let current = self.current.load();
        let root = self.authority.in_force().own(now).root_sha256().to_owned();
        if now < current.renew_at && current.root == root {
            return Ok(());
        }
        let next = make(&self.authority, &self.id, &self.names, now)?;
        tracing::debug!(root, "own certificate renewed");
        self.current.store(Arc::new(next));
        Ok(())
    }

    /// When the one in use ends: connections that begin now end then at the latest.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.current.load().not_after.into()
    }

    /// Hex SHA-256 of the root that the one in use leads to.
    pub(crate) fn root(&self) -> String {
        self.current.load().root.clone()
    }

    /// The one in use.
    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.load().key)
    }
}

impl ResolvesServerCert for ServerCert {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn make(
    authority: &Authority,
    id: &SpiffeId,
    names: &[SanType],
    now: OffsetDateTime,
) -> Result<Made, ServerCertError> {
    let in_force = authority.in_force();
    let signer = in_force.own(now);
    let key = KeyPair::generate().map_err(ServerCertError::Sign)?;
    let leaf = signer
        .sign(&key, id, names.to_vec(), MAX_TTL, now)
        .map_err(ServerCertError::Sign)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = any_supported_type(&der).map_err(ServerCertError::Key)?;
    // With the root, so that a client that holds only its hash can check it.
    let mut chain = signer.chain_of(&leaf);
    chain.push(signer.root().clone());
    Ok(Made {
        key: Arc::new(CertifiedKey::new(chain, key)),
        renew_at: now + (leaf.not_after - now) / 2,
        not_after: leaf.not_after,
        root: signer.root_sha256().to_owned(),
    })
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
