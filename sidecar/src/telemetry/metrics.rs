//! Every metric of the data plane, with Istio's names for requests so that existing dashboards work.
//!
//! Full labels are on counters; histograms, which multiply by their buckets, carry few. What strangers could multiply
//! (series) is capped: beyond [`MAX_SERIES`] requests count under the label `other`.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use outrigger_core::Direction;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::Collector,
};

/// Label sets of requests.
pub(crate) const MAX_SERIES: usize = 4000;

/// Names of policies that have a label of their own.
const MAX_POLICIES: usize = 2000;

/// Labels of `istio_requests_total`, in order; the last four vary by response.
pub(crate) const REQUEST_LABELS: [&str; 26] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "connection_security_policy",
    "outrigger_subset",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
];

/// Labels of connections that are not HTTP: a request's without its answer.
const CONNECTION_LABELS: [&str; REQUEST_LABELS.len() - 2] = {
    let mut labels = [""; REQUEST_LABELS.len() - 2];
    let mut at = 0;
    while at < labels.len() {
        labels[at] = REQUEST_LABELS[at];
        at += 1;
    }
    // After `request_protocol`.
    labels[labels.len() - 1] = REQUEST_LABELS[REQUEST_LABELS.len() - 1];
    labels
};

/// Labels of the histograms, all of them among [`REQUEST_LABELS`].
pub(crate) const BUCKET_LABELS: [&str; 11] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "destination_workload",
    "destination_workload_namespace",
    "destination_version",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "connection_security_policy",
    "outrigger_subset",
];

/// Istio's buckets, in milliseconds.
const DURATION_BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
const SIZE_BUCKETS: [f64; 6] = [
    100.0,
    1000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
    10_000_000.0,
];

/// The registry and the families; other parts of the sidecar may register their own collectors in it.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) requests: IntCounterVec,
    pub(crate) duration: HistogramVec,
    pub(crate) request_bytes: HistogramVec,
    pub(crate) response_bytes: HistogramVec,
    pub(crate) tcp_opened: IntCounterVec,
    pub(crate) tcp_closed: IntCounterVec,
    pub(crate) tcp_sent_bytes: IntCounterVec,
    pub(crate) tcp_received_bytes: IntCounterVec,
    /// Own answers and connections refused, by code and hop.
    pub(crate) refusals: IntCounterVec,
    /// What access rules said, by hop, action, verdict and policy.
    authorization: IntCounterVec,
    /// Policies that have a label of their own.
    policies: Mutex<BTreeSet<String>>,
    /// What a PeerAuthentication in dry run would say of connections, by verdict.
    pub(crate) mtls_dry_run: IntCounterVec,
    /// Open connections that a changed policy ended, by reason.
    ended_by_policy: IntCounterVec,
    /// What became of tokens, by hop and verdict.
    pub(crate) tokens: IntCounterVec,
    /// Fetches of keys, by outcome.
    pub(crate) jwks_fetches: IntCounterVec,
    /// When keys were fetched last, by URL.
    pub(crate) jwks_fetched: GaugeVec,
    /// What local limits on requests said, by hop and verdict.
    pub(crate) rate_limits: IntCounterVec,
    /// What authorization servers said, by hop and verdict.
    pub(crate) ext_authz: IntCounterVec,
    /// Requests that wait for them.
    pub(crate) ext_authz_waiting: IntGauge,
    /// TLS handshakes that were refused, by reason and side.
    pub(crate) tls_refusals: IntCounterVec,
    /// Downstream connections accepted, by listener's direction.
    pub(crate) accepted: IntCounterVec,
    /// What callers went beyond, by hop and limit: see [`Metrics::exceeded`].
    exceeded: IntCounterVec,
    /// Connections that could not be taken, by reason: see [`Metrics::not_accepted`].
    not_accepted: IntCounterVec,
    /// What connections were found to speak, by hop, protocol and who showed it.
    detected: IntCounterVec,
    /// Upstream connections opened before it was known whether there is need of them, by what became of them.
    early: IntCounterVec,
    /// PROXY protocol headers: see [`Metrics::proxied`].
    proxied: IntCounterVec,
    pub(crate) connections: IntGauge,
    /// Requests that have become connections of bytes, open now.
    pub(crate) tunnels: IntGauge,
    /// Failed tries, by what was decided.
    pub(crate) retries: IntCounterVec,
    /// What faults, CORS, mirrors and hedges did.
    pub(crate) features: IntCounterVec,
    /// Requests by a route's `stat_prefix`.
    pub(crate) prefixes: IntCounterVec,
    pub(crate) ejections: IntCounter,
    pub(crate) upstream_connections: IntCounter,
    pub(crate) series_folded: IntCounter,
    pub(crate) spans_dropped: IntCounter,
    pub(crate) spans_exported: IntCounter,
    pub(crate) spans_failed: IntCounter,
}

/// Names and labels are constants of this file: a failure to make one would be a typing error that the tests meet.
#[expect(
    clippy::expect_used,
    reason = "constant names, proved by the test below"
)]
impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            add(
                &registry,
                IntCounter::new(name, help).expect("a valid name"),
            )
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels);
            add(&registry, vec.expect("valid names"))
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let vec = HistogramVec::new(options, &BUCKET_LABELS);
            add(&registry, vec.expect("valid names"))
        };
        Self {
            requests: counters("istio_requests_total", "Requests.", &REQUEST_LABELS),
            duration: histogram(
                "istio_request_duration_milliseconds",
                "Time from the request's head to the response's end.",
                &DURATION_BUCKETS,
            ),
            request_bytes: histogram("istio_request_bytes", "Request bodies.", &SIZE_BUCKETS),
            response_bytes: histogram("istio_response_bytes", "Response bodies.", &SIZE_BUCKETS),
            tcp_opened: counters(
                "istio_tcp_connections_opened_total",
                "Connections of other protocols than HTTP that were opened.",
                &CONNECTION_LABELS,
            ),
            tcp_closed: counters(
                "istio_tcp_connections_closed_total",
                "Those of them that have ended.",
                &CONNECTION_LABELS,
            ),
            tcp_sent_bytes: counters(
                "istio_tcp_sent_bytes_total",
                "Bytes to the callers of such connections.",
                &CONNECTION_LABELS,
            ),
            tcp_received_bytes: counters(
                "istio_tcp_received_bytes_total",
                "Bytes from the callers of such connections.",
                &CONNECTION_LABELS,
            ),
            refusals: counters(
                "outrigger_refusals_total",
                "Requests answered by the sidecar itself, and connections that it closed for the same reasons.",
                &["hop", "code"],
            ),
            authorization: counters(
                "outrigger_authorization_total",
                "What access rules said of requests and connections, and the policy that decided.",
                &["hop", "action", "verdict", "policy"],
            ),
            policies: Mutex::default(),
            mtls_dry_run: counters(
                "outrigger_peer_authentication_dry_run_total",
                "Inbound connections that a PeerAuthentication in dry run would let in, or not.",
                &["verdict"],
            ),
            ended_by_policy: counters(
                "outrigger_connections_ended_by_policy_total",
                "Open connections that a changed policy ended.",
                &["reason"],
            ),
            tokens: counters(
                "outrigger_jwt_total",
                "What became of the tokens of requests; dry_run: where nothing comes of it.",
                &["hop", "verdict"],
            ),
            jwks_fetches: counters(
                "outrigger_jwks_fetches_total",
                "Fetches of the keys of issuers of tokens.",
                &["outcome"],
            ),
            jwks_fetched: add(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "outrigger_jwks_fetched_timestamp_seconds",
                        "When the keys in use were fetched.",
                    ),
                    &["uri"],
                )
                .expect("valid names"),
            ),
            rate_limits: counters(
                "outrigger_local_rate_limit_total",
                "What local limits said of requests; spared: without a token, and let through.",
                &["hop", "verdict"],
            ),
            ext_authz: counters(
                "outrigger_ext_authz_total",
                "What authorization servers said of requests; error: refused without a verdict; failed_open: let through without one.",
                &["hop", "verdict"],
            ),
            ext_authz_waiting: add(
                &registry,
                IntGauge::new(
                    "outrigger_ext_authz_waiting",
                    "Requests that wait for the verdict of an authorization server.",
                )
                .expect("a valid name"),
            ),
            tls_refusals: counters(
                "outrigger_tls_refusals_total",
                "TLS handshakes that were refused.",
                &["side", "reason"],
            ),
            accepted: counters(
                "outrigger_connections_accepted_total",
                "Downstream connections accepted.",
                &["direction"],
            ),
            exceeded: counters(
                "outrigger_limits_exceeded_total",
                "Callers that went beyond a limit of time, size or number, and were refused or cut for it.",
                &["hop", "limit"],
            ),
            not_accepted: counters(
                "outrigger_connections_refused_total",
                "Downstream connections for which there was no room, or that would come back for ever.",
                &["reason"],
            ),
            detected: counters(
                "outrigger_detected_connections_total",
                "Connections of ports without a declared protocol: what they speak, and who showed it.",
                &["hop", "protocol", "by"],
            ),
            early: counters(
                "outrigger_early_connections_total",
                "Connections to endpoints whose server may speak first, opened before the client had said anything.",
                &["outcome"],
            ),
            proxied: counters(
                "outrigger_proxy_protocol_total",
                "Downstream connections of listeners that take PROXY protocol headers, by what came.",
                &["outcome"],
            ),
            connections: add(
                &registry,
                IntGauge::new("outrigger_connections", "Downstream connections open.")
                    .expect("a valid name"),
            ),
            tunnels: add(
                &registry,
                IntGauge::new(
                    "outrigger_tunnels",
                    "Requests that have switched to another protocol (WebSocket, CONNECT), open now.",
                )
                .expect("a valid name"),
            ),
            retries: counters(
                "outrigger_retries_total",
                "Tries that failed, and what was done: again, or why not.",
                &["outcome"],
            ),
            features: counters(
                "outrigger_route_features_total",
                "What faults, CORS policies, mirrors, hedges and the memory of traces did; trace headers that were too large.",
                &["event"],
            ),
            prefixes: counters(
                "outrigger_route_requests_total",
                "Requests of routes with a statPrefix.",
                &["stat_prefix", "response_code_class"],
            ),
            ejections: counter(
                "outrigger_ejections_total",
                "Endpoints taken out for a while.",
            ),
            upstream_connections: counter(
                "outrigger_upstream_connections_total",
                "Connections opened to endpoints.",
            ),
            series_folded: counter(
                "outrigger_metrics_series_folded_total",
                "Label sets that count as other, because there are too many.",
            ),
            spans_dropped: counter(
                "outrigger_spans_dropped_total",
                "Spans lost because the exporter fell behind.",
            ),
            spans_exported: counter("outrigger_spans_exported_total", "Spans sent."),
            spans_failed: counter(
                "outrigger_spans_failed_total",
                "Spans the collector did not take.",
            ),
            registry,
        }
    }

    /// The counter of what access rules say. Policies come and go over the life of a process: beyond
    /// [`MAX_POLICIES`] names, they are counted in one.
    pub(crate) fn authorization(
        &self,
        hop: &str,
        action: &str,
        verdict: &str,
        policy: &str,
    ) -> Option<IntCounter> {
        let mut known = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let is_named = known.contains(policy)
            || (known.len() < MAX_POLICIES && known.insert(policy.to_owned()));
        let policy = if is_named { policy } else { "other" };
        let labels = [hop, action, verdict, policy];
        self.authorization
            .get_metric_with_label_values(&labels)
            .ok()
    }

    /// An open connection would not be let in any more: `not_admitted` (PeerAuthentication), `denied` (access rules),
    /// or it would be read as `another_protocol`.
    pub(crate) fn ended_by_policy(&self, reason: &'static str) {
        if let Ok(counter) = self.ended_by_policy.get_metric_with_label_values(&[reason]) {
            counter.inc();
        }
    }

    /// A caller went beyond a limit: of time (`first_byte`, `head_timeout`, `body_idle`, `write_idle`), size (`head_size`),
    /// or number (`http2_frames`, `http2_resets`, `http2_abuse`); or its bytes are no HTTP (`malformed`).
    pub(crate) fn exceeded(&self, hop: Direction, limit: &'static str) {
        let hop = match hop {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        if let Ok(counter) = self.exceeded.get_metric_with_label_values(&[hop, limit]) {
            counter.inc();
        }
    }

    /// What a connection speaks, `http1`, `http2`, `tls` or `tcp`; and what showed it: the `client`, the `server`, that
    /// the server has `closed`, or the `silence` of both.
    pub(crate) fn detected(&self, hop: &'static str, protocol: &'static str, by: &'static str) {
        let labels = [hop, protocol, by];
        if let Ok(counter) = self.detected.get_metric_with_label_values(&labels) {
            counter.inc();
        }
    }

    /// What became of an upstream connection that was opened early: `used`, `unused` (the client speaks HTTP), `failed`.
    pub(crate) fn early_connection(&self, outcome: &'static str) {
        if let Ok(counter) = self.early.get_metric_with_label_values(&[outcome]) {
            counter.inc();
        }
    }

    /// What came as a connection's PROXY protocol header: `taken`, `local` (the proxy speaks for itself), `absent` (and
    /// not needed), `refused`.
    pub(crate) fn proxied(&self, outcome: &'static str) {
        if let Ok(counter) = self.proxied.get_metric_with_label_values(&[outcome]) {
            counter.inc();
        }
    }

    /// A downstream connection was not taken: `accept_failed` (no file descriptor, no memory), `worker_behind` (no
    /// room in its queue), `too_many` connections are open, `too_many_of_address` or `too_many_of_identity` of them one peer's, or
    /// `too_many_handshakes` going on; or it was going to a port of this sidecar itself (`own_listener`).
    pub(crate) fn not_accepted(&self, reason: &'static str) {
        if let Ok(counter) = self.not_accepted.get_metric_with_label_values(&[reason]) {
            counter.inc();
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "each name occurs once, proved by the test below"
)]
fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry
        .register(Box::new(collector.clone()))
        .expect("a name that occurs once");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_its_own_valid_name() {
        let metrics = Metrics::new();
        metrics
            .refusals
            .with_label_values(&["inbound", "timeout"])
            .inc();
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&metrics.registry.gather())
            .unwrap();
        assert!(text.contains(r#"outrigger_refusals_total{code="timeout",hop="inbound"} 1"#));
        for label in BUCKET_LABELS {
            assert!(REQUEST_LABELS.contains(&label), "{label}");
        }
    }
}
