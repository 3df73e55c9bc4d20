//! What is measured: an address to send requests to, and the processes that are paid for it.

use std::net::SocketAddr;

use clap::ValueEnum;

use crate::{
    envoy::{self, Between},
    outrigger,
    process::{Process, Usage},
};

/// Which subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The application without any proxy.
    Direct,
    /// Our control plane and two sidecars.
    Outrigger,
    /// Two Envoys with HTTP/1.1 between them.
    Envoy,
    /// Two Envoys with HTTP/2 between them.
    EnvoyH2,
}

/// A running subject. Its processes end when it is dropped.
pub(crate) struct Subject {
    /// As in the report.
    pub(crate) name: &'static str,
    /// Where requests go.
    pub(crate) entry: SocketAddr,
    /// Host header that leads to the application.
    pub(crate) host: String,
    /// The processes whose CPU and memory count.
    pub(crate) proxies: Vec<Process>,
    /// Needed, but not on the request's way (a control plane).
    #[expect(dead_code, reason = "held for its drop")]
    pub(crate) others: Vec<Process>,
    /// Their files; dropped after the processes.
    #[expect(dead_code, reason = "held for its drop")]
    pub(crate) dir: Option<tempfile::TempDir>,
}

impl Subject {
    pub(crate) async fn start(
        kind: Kind,
        application: SocketAddr,
        workers: usize,
    ) -> anyhow::Result<Self> {
        match kind {
            Kind::Direct => Ok(Self {
                name: "direct",
                entry: application,
                host: "server".to_owned(),
                proxies: Vec::new(),
                others: Vec::new(),
                dir: None,
            }),
            Kind::Outrigger => outrigger::start(application, workers).await,
            Kind::Envoy => envoy::start("envoy", application, workers, Between::Http1).await,
            Kind::EnvoyH2 => envoy::start("envoy-h2", application, workers, Between::Http2).await,
        }
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let pids: Result<Vec<u32>, _> = self.proxies.iter().map(Process::pid).collect();
        Usage::of(&pids?)
    }
}
