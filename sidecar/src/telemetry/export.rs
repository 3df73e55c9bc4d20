//! Sends spans to an OTLP collector in batches: 512, or what there is after a second. A collector that is slow or away
//! costs spans, never traffic.

use std::{borrow::Cow, time::Duration};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::span::{Kind, Message, Span};
use crate::Config;

const BATCH: usize = 512;
const BATCH_AGE: Duration = Duration::from_secs(1);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Semantic conventions that the attribute names follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Counters of the exporter.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub(crate) exported: prometheus::IntCounter,
    pub(crate) failed: prometheus::IntCounter,
}

/// Runs until every sender of `messages` is gone.
pub(crate) async fn run(
    endpoint: String,
    resource: Resource,
    mut messages: mpsc::Receiver<Message>,
    counters: Counters,
) {
    let mut exporter = match SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint.clone())
        .with_timeout(EXPORT_TIMEOUT)
        .build()
    {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::error!(%endpoint, %error, "no spans are exported");
            return;
        }
    };
    exporter.set_resource(&resource);
    let scope = InstrumentationScope::builder("outrigger")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(SCHEMA)
        .build();
    let mut batch = Vec::new();
    while let Some(first) = messages.recv().await {
        let until = Instant::now() + BATCH_AGE;
        let mut next = Some(first);
        let mut told = None;
        while let Some(message) = next.take() {
            match message {
                Message::Span(span) => batch.push(data(*span, &scope)),
                Message::Flush(tell) => {
                    told = Some(tell);
                    break;
                }
            }
            if batch.len() >= BATCH {
                break;
            }
            next = timeout_at(until, messages.recv()).await.ok().flatten();
        }
        export(&exporter, std::mem::take(&mut batch), &counters).await;
        if let Some(tell) = told {
            // Whoever asked may have stopped waiting.
            tell.send(()).ok();
        }
    }
}

async fn export(exporter: &SpanExporter, batch: Vec<SpanData>, counters: &Counters) {
    let count = batch.len() as u64;
    if count == 0 {
        return;
    }
    match exporter.export(batch).await {
        Ok(()) => counters.exported.inc_by(count),
        Err(error) => {
            counters.failed.inc_by(count);
            tracing::debug!(%error, spans = count, "spans were not exported");
        }
    }
}

/// Who we are, for the collector.
pub(crate) fn resource(config: &Config) -> Resource {
    let workload = &config.workload;
    let mut attributes = vec![
        KeyValue::new("service.name", workload.service.clone()),
        KeyValue::new("service.namespace", workload.namespace.clone()),
        KeyValue::new(
            "service.instance.id",
            format!("{}-{:016x}", workload.service, fastrand::u64(..)),
        ),
    ];
    if let Some(version) = workload.labels.get("version") {
        attributes.push(KeyValue::new("service.version", version.clone()));
    }
    if let Some(zone) = workload.locality.get(1).filter(|zone| !zone.is_empty()) {
        attributes.push(KeyValue::new("cloud.availability_zone", zone.clone()));
    }
    Resource::builder_empty()
        .with_schema_url(attributes, SCHEMA)
        .build()
}

fn data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let kind = match span.kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
    };
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(span.context.trace_id),
            SpanId::from(span.context.span_id),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        ),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: span.parent.is_some(),
        span_kind: kind,
        name: Cow::Owned(known_method(&span).to_owned()),
        start_time: span.started,
        end_time: span.ended,
        status: match error_type(&span) {
            Some(error) => Status::error(error),
            None => Status::Unset,
        },
        attributes: attributes(span),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        instrumentation_scope: scope.clone(),
    }
}

fn known_method(span: &Span) -> &str {
    match span.method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE"
        | "PATCH" | "QUERY") => known,
        _ => "_OTHER",
    }
}

/// 4xx is an error for the caller only; gRPC's own status comes before HTTP's.
fn error_type(span: &Span) -> Option<String> {
    if let Some(error) = span.error {
        return Some(error.to_owned());
    }
    match (span.grpc_status, span.status) {
        (Some(status), _) if status != 0 => Some(status.to_string()),
        (None, Some(status)) => {
            let least = if span.kind == Kind::Client { 400 } else { 500 };
            (status >= least).then(|| status.to_string())
        }
        _ => None,
    }
}

fn attributes(span: Span) -> Vec<KeyValue> {
    let mut out = Vec::with_capacity(20);
    let error = error_type(&span);
    let method = known_method(&span).to_owned();
    let mut put = |name: &'static str, value: opentelemetry::Value| {
        out.push(KeyValue::new(name, value));
    };
    if method == "_OTHER" {
        put(
            "http.request.method_original",
            span.method.as_str().to_owned().into(),
        );
    }
    put("http.request.method", method.into());
    if span.grpc {
        put("rpc.system", "grpc".into());
        let mut parts = span.path.trim_start_matches('/').splitn(2, '/');
        if let (Some(service), Some(method)) = (parts.next(), parts.next()) {
            put("rpc.service", service.to_owned().into());
            put("rpc.method", method.to_owned().into());
        }
        if let Some(status) = span.grpc_status {
            put("rpc.grpc.status_code", i64::from(status).into());
        }
    }
    put("url.path", span.path.into());
    put("url.scheme", "http".into());
    let (host, port) = split_authority(&span.authority);
    put("server.address", host.to_owned().into());
    if let Some(port) = port {
        put("server.port", i64::from(port).into());
    }
    put(
        "network.protocol.version",
        match span.version {
            http::Version::HTTP_2 => "2",
            http::Version::HTTP_10 => "1.0",
            _ => "1.1",
        }
        .into(),
    );
    if let Some(status) = span.status {
        put("http.response.status_code", i64::from(status).into());
    }
    if let Some(peer) = span.peer {
        put("network.peer.address", peer.ip().to_string().into());
        put("network.peer.port", i64::from(peer.port()).into());
        if span.kind == Kind::Client {
            put("outrigger.endpoint", peer.to_string().into());
        }
    }
    if span.resend_count > 0 {
        put(
            "http.request.resend_count",
            i64::from(span.resend_count).into(),
        );
    }
    if let Some(id) = span.peer_id {
        put("outrigger.peer", id.to_string().into());
    }
    if let Some(service) = span.service {
        put("outrigger.service", service.into());
    }
    if let Some(subset) = span.subset {
        put("outrigger.subset", subset.into());
    }
    if let Some(policy) = span.policy {
        put("outrigger.policy", policy.to_string().into());
    }
    if let Some(reason) = span.error {
        put("outrigger.reason", reason.into());
    }
    if let Some(error) = error {
        put("error.type", error.into());
    }
    out
}

/// Host and port of an authority; brackets go.
fn split_authority(authority: &str) -> (&str, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port.parse().ok()),
        _ => (authority, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}
