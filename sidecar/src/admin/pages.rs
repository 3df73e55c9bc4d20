//! The list of pages, and the short ones.

use std::sync::atomic::Ordering;

use http::StatusCode;
use serde_json::json;

use super::{LOG_CONTROL, Page, Port, Query, Site, clusters, dump, json as json_page, stats, text};
use crate::{
    identity::unix_now,
    shared::Shared,
    vitals::{Ready, Vitals},
    worker::ListenerState,
    xds::client::lock,
};

/// One page of a site.
pub(crate) struct Entry<S: 'static> {
    pub(crate) path: &'static str,
    pub(crate) ports: &'static [Port],
    /// `POST` instead of `GET`.
    pub(crate) changes: bool,
    pub(crate) help: &'static str,
    pub(crate) show: fn(&S, Query<'_>) -> Page,
}

#[rustfmt::skip]
pub(super) static PAGES: &[Entry<Site>] = &[
    Entry { path: "/certs", ports: &[Port::Admin], changes: false, help: "our identity and when its certificate ends", show: |site, _| certs(&site.shared) },
    Entry { path: "/clusters", ports: &[Port::Admin], changes: false, help: "clusters, limits and endpoints; ?format=json", show: clusters::show },
    Entry { path: "/config_dump", ports: &[Port::Admin], changes: false, help: "resources in force and refused; ?resource=cluster|endpoint|listener|route|virtual_host|secret|name_table, ?name=PART", show: dump::show },
    Entry { path: "/dns", ports: &[Port::Admin], changes: false, help: "names that the DNS server answers by itself, and what it did; ?name=PART", show: dns },
    Entry { path: "/drain", ports: &[Port::Admin], changes: true, help: "deregister, finish what is in flight, and end", show: drain },
    Entry { path: "/healthz/ready", ports: &[Port::Readiness], changes: false, help: "200 when this sidecar takes traffic", show: |site, _| ready(&site.vitals, &site.shared) },
    Entry { path: "/healthz/started", ports: &[Port::Readiness], changes: false, help: "200 once this sidecar can be used, whether its application is there or not", show: |site, _| started(&site.vitals, &site.shared) },
    Entry { path: "/help", ports: &[Port::Admin, Port::Metrics, Port::Readiness], changes: false, help: "this list", show: |_, _| help(PAGES) },
    Entry { path: "/leave", ports: &[Port::Admin], changes: true, help: "tell others to go elsewhere; everything is served all the same, until the end", show: leave },
    Entry { path: "/listeners", ports: &[Port::Admin], changes: false, help: "listeners and where they are bound; ?format=json", show: listeners },
    Entry { path: "/logging", ports: &[Port::Admin], changes: true, help: "change the log level; ?level=debug or any filter", show: |_, query| logging(query) },
    Entry { path: "/metrics", ports: &[Port::Metrics], changes: false, help: "Prometheus metrics", show: |site, _| stats::prometheus(&site.telemetry.metrics.registry) },
    Entry { path: "/ready", ports: &[Port::Admin], changes: false, help: "200 when this sidecar takes traffic", show: |site, _| ready(&site.vitals, &site.shared) },
    Entry { path: "/server_info", ports: &[Port::Admin], changes: false, help: "version, state, uptime, node", show: server_info },
    Entry { path: "/stats", ports: &[Port::Admin], changes: false, help: "metrics as `name: value`; ?filter=PART", show: stats::plain },
    Entry { path: "/stats/prometheus", ports: &[Port::Admin, Port::Metrics], changes: false, help: "Prometheus metrics", show: |site, _| stats::prometheus(&site.telemetry.metrics.registry) },
];

pub(super) fn find<S>(
    pages: &'static [Entry<S>],
    port: Port,
    path: &str,
) -> Option<&'static Entry<S>> {
    let path = if path == "/" { "/help" } else { path };
    pages
        .iter()
        .find(|page| page.path == path && page.ports.contains(&port))
}

pub(crate) fn help<S>(pages: &[Entry<S>]) -> Page {
    let mut body = String::new();
    for page in pages {
        let method = if page.changes { "POST" } else { "GET " };
        let ports: Vec<_> = page
            .ports
            .iter()
            .map(|port| format!("{port:?}").to_lowercase())
            .collect();
        body.push_str(&format!(
            "{method} {:<18} {} [{}]\n",
            page.path,
            page.help,
            ports.join(", ")
        ));
    }
    text(StatusCode::OK, body)
}

pub(crate) fn ready(vitals: &Vitals, shared: &Shared) -> Page {
    page_of(vitals.ready(shared, unix_now()))
}

/// What an application that waits for its sidecar asks.
pub(crate) fn started(vitals: &Vitals, shared: &Shared) -> Page {
    page_of(vitals.started(shared, unix_now()))
}

fn page_of(ready: Ready) -> Page {
    match ready {
        Ready::Yes(warnings) => {
            let warnings: String = warnings.iter().map(|w| format!("warning: {w}\n")).collect();
            text(StatusCode::OK, format!("LIVE\n{warnings}"))
        }
        Ready::No(missing) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("NOT READY: {}\n", missing.join("; ")),
        ),
    }
}

pub(crate) fn certs(shared: &Shared) -> Page {
    let certificates: Vec<_> = shared
        .identity
        .load_full()
        .iter()
        .map(|identity| {
            json!({
                "spiffe_id": identity.spiffe_id.as_ref(),
                "not_after": timestamp(identity.not_after),
                "seconds_left": identity.not_after.saturating_sub(unix_now()),
                "generation": identity.generation,
                "roots": identity.roots.roots.len(),
            })
        })
        .collect();
    json_page(&json!({ "certificates": certificates }))
}

fn server_info(site: &Site, _query: Query<'_>) -> Page {
    let state = match site.vitals.ready(&site.shared, unix_now()) {
        _ if site.left.load(Ordering::Relaxed) => "LEFT",
        _ if site.shared.draining.load(Ordering::Relaxed) => "DRAINING",
        Ready::Yes(_) => "LIVE",
        Ready::No(_) => "INITIALIZING",
    };
    let engine = site.engine.get().map(|engine| {
        let engine = lock(engine);
        (engine.node().id.clone(), engine.warming())
    });
    let (node, warming) = engine.unwrap_or_default();
    json_page(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state,
        "uptime_seconds": site.started.elapsed().as_secs(),
        "node": node,
        "snapshot": site.shared.snapshot.version(),
        "control_plane_connected": site.vitals.is_connected(),
        "registered": site.vitals.is_registered(),
        "downstream_connections": site.workers.connections(),
        "warming": warming,
    }))
}

fn listeners(site: &Site, query: Query<'_>) -> Page {
    let states = site.workers.listeners().borrow().clone();
    if query.value("format") == Some("json") {
        let all: Vec<_> = states
            .iter()
            .map(|(name, state)| match state {
                ListenerState::Bound(address) => {
                    json!({"name": name, "address": address.to_string()})
                }
                ListenerState::Unbound => json!({"name": name, "bound": false}),
                ListenerState::Failed(error) => json!({"name": name, "error": error}),
            })
            .collect();
        return json_page(&json!({ "listeners": all }));
    }
    let body: String = states
        .iter()
        .map(|(name, state)| match state {
            ListenerState::Bound(address) => format!("{name}::{address}\n"),
            ListenerState::Unbound => format!("{name}::redirected connections\n"),
            ListenerState::Failed(error) => format!("{name}::failed: {error}\n"),
        })
        .collect();
    text(StatusCode::OK, body)
}

fn dns(site: &Site, query: Query<'_>) -> Page {
    match site.dns.get() {
        Some(running) => {
            let part = query.value("name").unwrap_or_default();
            text(StatusCode::OK, crate::dns::show(running, part))
        }
        None => text(
            StatusCode::OK,
            "off; --dns 127.0.0.1:15053 switches it on\n",
        ),
    }
}

fn leave(site: &Site, _query: Query<'_>) -> Page {
    site.leave.notify_one();
    text(StatusCode::ACCEPTED, "leaving\n")
}

fn drain(site: &Site, _query: Query<'_>) -> Page {
    site.drain.notify_one();
    text(StatusCode::ACCEPTED, "draining\n")
}

pub(crate) fn logging(query: Query<'_>) -> Page {
    let Some(control) = LOG_CONTROL.get() else {
        return text(
            StatusCode::NOT_IMPLEMENTED,
            "this process has no adjustable log\n",
        );
    };
    let Some(level) = query.value("level") else {
        return text(
            StatusCode::BAD_REQUEST,
            "say ?level=error|warn|info|debug|trace|off\n",
        );
    };
    match control(level) {
        Ok(level) => text(StatusCode::OK, format!("log level: {level}\n")),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// RFC 3339.
pub(super) fn timestamp(unix: u64) -> String {
    let seconds = i64::try_from(unix).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: 0 }.to_string()
}
