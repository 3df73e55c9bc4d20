//! What the ports show: the sidecar's own pages, as far as there is something to show.

use std::sync::{Arc, atomic::Ordering};

use http::StatusCode;
use prometheus::Registry;
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    admin::{
        self, Page, Pages, Port,
        pages::{self, Entry},
        stats,
    },
    identity::unix_now,
    shared::Shared,
    vitals::{Ready, Vitals},
};

/// What the pages show.
#[derive(Debug)]
pub(super) struct AgentSite {
    pub(super) shared: Arc<Shared>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) registry: Registry,
    /// Notified by `POST /drain`.
    pub(super) drain: Notify,
    pub(super) started: std::time::Instant,
}

#[rustfmt::skip]
static PAGES: &[Entry<AgentSite>] = &[
    Entry { path: "/certs", ports: &[Port::Admin], changes: false, help: "our identity and when its certificate ends", show: |site, _| pages::certs(&site.shared) },
    Entry { path: "/drain", ports: &[Port::Admin], changes: true, help: "deregister, end the command, and end", show: |site, _| drain(site) },
    Entry { path: "/healthz/ready", ports: &[Port::Readiness], changes: false, help: "200 when certificates are valid and the application answers", show: |site, _| pages::ready(&site.vitals, &site.shared) },
    Entry { path: "/help", ports: &[Port::Admin, Port::Metrics, Port::Readiness], changes: false, help: "this list", show: |_, _| pages::help(PAGES) },
    Entry { path: "/logging", ports: &[Port::Admin], changes: true, help: "change the log level; ?level=debug or any filter", show: |_, query| pages::logging(query) },
    Entry { path: "/metrics", ports: &[Port::Metrics], changes: false, help: "Prometheus metrics", show: |site, _| stats::prometheus(&site.registry) },
    Entry { path: "/ready", ports: &[Port::Admin], changes: false, help: "200 when certificates are valid and the application answers", show: |site, _| pages::ready(&site.vitals, &site.shared) },
    Entry { path: "/server_info", ports: &[Port::Admin], changes: false, help: "version, state, uptime", show: |site, _| server_info(site) },
    Entry { path: "/stats/prometheus", ports: &[Port::Admin, Port::Metrics], changes: false, help: "Prometheus metrics", show: |site, _| stats::prometheus(&site.registry) },
];

impl Pages for AgentSite {
    fn pages() -> &'static [Entry<Self>] {
        PAGES
    }
}

fn drain(site: &AgentSite) -> Page {
    site.drain.notify_one();
    admin::text(StatusCode::ACCEPTED, "draining\n")
}

fn server_info(site: &AgentSite) -> Page {
    let state = match site.vitals.ready(&site.shared, unix_now()) {
        _ if site.shared.draining.load(Ordering::Relaxed) => "DRAINING",
        Ready::Yes(_) => "LIVE",
        Ready::No(_) => "INITIALIZING",
    };
    admin::json(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "uptime_seconds": site.started.elapsed().as_secs(),
        "registered": site.vitals.is_registered(),
    }))
}
