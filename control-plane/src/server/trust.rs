//! When a connection loses its ground: its client's root has left the bundle, or the one that we showed has.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::time::Instant;

use super::tls::verify_chain;
use crate::ca::{Authority, server_cert::ServerCert};

/// Clients that saw a certificate of ours that is out of date come back over this long, not all at once.
const SPREAD_S: u16 = 30;

/// What a listener looks at connections with.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    pub(crate) authority: Arc<Authority>,
    pub(crate) own: Arc<ServerCert>,
}

/// What one connection stands on.
#[derive(Debug)]
pub(super) struct Ground {
    trust: Trust,
    /// Of the client; empty if it showed none.
    chain: Vec<CertificateDer<'static>>,
    /// Hex SHA-256 of the root that ours led to.
    own_root: String,
    own_ends: SystemTime,
}

impl Trust {
    /// Before the handshake: ours may be renewed during it.
    pub(super) fn ground(&self) -> Ground {
        Ground {
            trust: self.clone(),
            chain: Vec::new(),
            own_root: self.own.root(),
            own_ends: self.own.not_after(),
        }
    }
}

impl Ground {
    /// The client's chain, as verified. One that leads to roots of others is not ours to follow.
    pub(super) fn shown(&mut self, chain: &[CertificateDer<'_>]) {
        let owned = chain.iter().map(|der| der.clone().into_owned());
        self.chain = owned.collect();
        if !self.client_is_trusted() {
            self.chain.clear();
        }
    }

    /// When our own certificate ends.
    pub(super) fn ends(&self, now: Instant) -> Instant {
        let left = self.own_ends.duration_since(SystemTime::now());
        now + left.unwrap_or_default()
    }

    /// Waits until it is lost; says why. `spread` is any number.
    pub(super) async fn lost(self, spread: u16) -> &'static str {
        let mut changes = self.trust.authority.changes();
        loop {
            // A change during the handshake was not seen by it.
            if !self.client_is_trusted() {
                return "its client's root is not trusted any more";
            }
            if !self.is_shown_root_trusted() {
                tokio::time::sleep(Duration::from_secs(u64::from(spread % SPREAD_S))).await;
                return "the root of our own certificate is not trusted any more";
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn client_is_trusted(&self) -> bool {
        let Some((leaf, intermediates)) = self.chain.split_first() else {
            return true;
        };
        let in_force = self.trust.authority.in_force();
        match verify_chain(
            &in_force.bundle.anchors,
            leaf,
            intermediates,
            UnixTime::now(),
        ) {
            // Its end is looked after elsewhere.
            Ok(()) | Err(webpki::Error::CertExpired { .. }) => true,
            Err(_) => false,
        }
    }

    fn is_shown_root_trusted(&self) -> bool {
        let in_force = self.trust.authority.in_force();
        in_force.pins().contains(&self.own_root.as_str())
    }
}
