//! The few things that the control side (xDS, identity, registration, admin) and the workers share. Written by the
//! control side, read by the workers without a lock.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use outrigger_core::{Moment, Snapshot};
use rustls::{RootCertStore, sign::CertifiedKey};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    capture::Capturing, connect::OwnPorts, demand::Demand, detect::memory::Memory,
    dns::names::Names, forward::chain::Chains, jwks::Jwks,
};

use crate::tls::files::{Allowed, TlsFiles};

/// The newest snapshot and its version number.
#[derive(Debug)]
pub(crate) struct SnapshotCell {
    version: AtomicU64,
    current: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
}

impl SnapshotCell {
    pub(crate) fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            current: ArcSwap::from_pointee(Snapshot::default()),
            changed: watch::Sender::new(0),
        }
    }

    /// Publishes `next`; workers see it at their next request, listeners are opened and closed at once.
    pub(crate) fn publish(&self, next: Arc<Snapshot>) {
        let version = next.version;
        self.current.store(next);
        self.version.store(version, Ordering::Release);
        self.changed.send_replace(version);
    }

    /// Version number only: what a worker compares per request.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Our certificate with its key, the trust bundle, and the identity in it. Replaced as a whole.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Rises with every replacement: what TLS configurations are cached by.
    pub(crate) generation: u64,
    /// `spiffe://cluster.local/ns/default/sa/reviews`
    pub(crate) spiffe_id: Arc<str>,
    /// Chain (leaf first, no root) and key. The key was made in this process and never leaves it.
    pub(crate) certified_key: Arc<CertifiedKey>,
    /// Trust bundle of our trust domain.
    pub(crate) roots: Arc<RootCertStore>,
    /// Seconds since the Unix epoch at which the certificate ends.
    pub(crate) not_after: u64,
}

/// Shared state of the process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) snapshot: SnapshotCell,
    /// None until the first certificate.
    pub(crate) identity: ArcSwapOption<Identity>,
    /// What connections to servers outside of the mesh are made with.
    pub(crate) tls_files: TlsFiles,
    /// No new work; finish the old.
    pub(crate) draining: AtomicBool,
    /// Notified once when draining starts.
    pub(crate) drain: watch::Sender<bool>,
    /// Notified by a worker that could not connect to the application: check its readiness now.
    pub(crate) app_unreachable: Notify,
    /// Ports of this sidecar, as far as they are bound.
    pub(crate) own_ports: OwnPorts,
    /// What was found out of destinations whose protocol nobody has declared.
    pub(crate) protocols: Memory,
    /// What is known of redirected connections.
    pub(crate) capture: Capturing,
    /// What requests of one trace know of each other.
    pub(crate) chains: Chains,
    /// Hosts whose routes requests wait for.
    pub(crate) demand: Demand,
    /// Names that the DNS server answers by itself.
    pub(crate) names: Arc<Names>,
    /// Keys that tokens are verified with, as far as they are fetched.
    pub(crate) jwks: Jwks,
    /// This machine's name.
    pub(crate) hostname: String,
    started: Instant,
}

impl Shared {
    pub(crate) fn new(files: Allowed) -> Arc<Self> {
        Arc::new(Self {
            tls_files: TlsFiles::new(files),
            snapshot: SnapshotCell::new(),
            identity: ArcSwapOption::empty(),
            draining: AtomicBool::new(false),
            drain: watch::Sender::new(false),
            app_unreachable: Notify::new(),
            own_ports: OwnPorts::default(),
            protocols: Memory::default(),
            capture: Capturing::default(),
            chains: Chains::default(),
            demand: Demand::default(),
            names: Arc::default(),
            jwks: Jwks::default(),
            hostname: hostname(),
            started: Instant::now(),
        })
    }

    /// Milliseconds since the process started.
    pub(crate) fn now(&self) -> Moment {
        Moment(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}
