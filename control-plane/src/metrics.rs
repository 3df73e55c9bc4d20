//! What the control plane counts. One registry per process part, no globals: two control planes in one
//! test do not mix.

use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// All counters. Label values come from closed sets.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// By `result`: created, changed, renewed.
    pub(crate) registrations: IntCounterVec,
    /// By `reason`.
    pub(crate) registry_refusals: IntCounterVec,
    /// Leases that ran out.
    pub(crate) lease_expiries: IntCounter,
    /// Instances that were taken away by their owner.
    pub(crate) deregistrations: IntCounter,
    /// Renewals by heartbeat.
    pub(crate) heartbeats: IntCounter,
    /// Leases in force.
    pub(crate) leases: IntGauge,
    /// Heartbeats that wait until clients have heard of a change.
    pub(crate) waiting_to_be_heard: IntGauge,
    /// By `result`: all, late, overflow.
    pub(crate) heard: IntCounterVec,
    /// By `result`: applied, unchanged, refused, dry_run.
    pub(crate) applies: IntCounterVec,
    /// Revision in force.
    pub(crate) policy_revision: IntGauge,
    /// Stored policies that this version leaves out of the mesh.
    pub(crate) policies_refused: IntGauge,
    /// By `result`: issued, refused, limited.
    pub(crate) certificates: IntCounterVec,
    /// By `event`: created, redeemed, reused, expired, unknown.
    pub(crate) join_tokens: IntCounterVec,
    /// By `event`: accepted, or the rule that was broken.
    pub(crate) kubernetes_tokens: IntCounterVec,
    /// Calls without the right to make them, by `service`: admin. (The others count their refusals.)
    pub(crate) denied: IntCounterVec,
    /// Open connections by `listener`: grpc, plaintext, http.
    pub(crate) connections: IntGaugeVec,
    /// By `reason`: limit, handshake, timeout.
    pub(crate) connections_refused: IntCounterVec,
    /// Addresses of services by `state`: given, resting, missing.
    pub(crate) addresses: IntGaugeVec,
    /// States of the mesh handed to translation.
    pub(crate) worlds: IntCounter,
    /// Seconds per durable write.
    pub(crate) store_write_seconds: Histogram,
}

impl Metrics {
    /// Fails only if two metrics have one name.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let make = Maker {
            registry: Registry::new(),
        };
        Ok(Self {
            registrations: make.counters(
                "outrigger_registrations_total",
                "Accepted registrations",
                &["result"],
            )?,
            registry_refusals: make.counters(
                "outrigger_registry_refusals_total",
                "Refused calls of the registry",
                &["reason"],
            )?,
            lease_expiries: make
                .counter("outrigger_lease_expiries_total", "Leases that ran out")?,
            deregistrations: make
                .counter("outrigger_deregistrations_total", "Instances deregistered")?,
            heartbeats: make.counter("outrigger_heartbeats_total", "Leases renewed")?,
            leases: make.gauge("outrigger_leases", "Leases in force")?,
            waiting_to_be_heard: make.gauge(
                "outrigger_registry_waits",
                "Heartbeats that wait until clients have acknowledged a change",
            )?,
            heard: make.counters(
                "outrigger_registry_waits_total",
                "Heartbeats that waited until clients had acknowledged a change",
                &["result"],
            )?,
            applies: make.counters(
                "outrigger_policy_applies_total",
                "Calls of Apply and Delete",
                &["result"],
            )?,
            policy_revision: make.gauge("outrigger_policy_revision", "Revision in force")?,
            policies_refused: make.gauge(
                "outrigger_policies_refused",
                "Stored policies that are not in force because this version refuses them",
            )?,
            certificates: make.counters(
                "outrigger_certificates_total",
                "Calls for a certificate",
                &["result"],
            )?,
            join_tokens: make.counters("outrigger_join_tokens_total", "Join tokens", &["event"])?,
            kubernetes_tokens: make.counters(
                "outrigger_kubernetes_tokens_total",
                "Kubernetes tokens shown for a certificate",
                &["event"],
            )?,
            denied: make.counters(
                "outrigger_denied_total",
                "Calls refused for want of a right",
                &["service"],
            )?,
            connections: make.gauges("outrigger_connections", "Open connections", &["listener"])?,
            connections_refused: make.counters(
                "outrigger_connections_refused_total",
                "Connections closed before the first request",
                &["reason"],
            )?,
            addresses: make.gauges(
                "outrigger_service_addresses",
                "Services with an address of the pools, those whose address rests, those that found none",
                &["state"],
            )?,
            worlds: make.counter(
                "outrigger_worlds_total",
                "States of the mesh handed to translation",
            )?,
            store_write_seconds: make.histogram(
                "outrigger_store_write_seconds",
                "Time of one durable write",
                &[
                    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
                ],
            )?,
            registry: make.registry,
        })
    }

    /// For parts that keep their own counters (xDS).
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Prometheus' text format.
    pub(crate) fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

struct Maker {
    registry: Registry,
}

impl Maker {
    fn register<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: M,
    ) -> Result<M, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, prometheus::Error> {
        self.register(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        )?)
    }
}
