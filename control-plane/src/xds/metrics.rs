//! What the xDS server counts.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use crate::snapshot::ResourceType;

/// Counters of all streams. `type` is `CDS`, `EDS`, `SDS`, `LDS`, `RDS` or `other`.
#[derive(Clone, Debug)]
pub(crate) struct XdsMetrics {
    /// Open streams by `protocol`.
    pub(crate) streams: IntGaugeVec,
    /// Responses by `type`.
    pub(crate) pushes: IntCounterVec,
    /// Resources in them. Stands still when a client comes back and nothing has changed.
    pub(crate) resources_sent: IntCounterVec,
    /// Removals in them.
    pub(crate) resources_removed: IntCounterVec,
    /// Refused responses by `type`.
    pub(crate) nacks: IntCounterVec,
    /// Streams that were not served, by `reason`: identity, node, limit.
    pub(crate) streams_refused: IntCounterVec,
    /// Clients of the state of the world that came back, by whether it is known what they hold: `known`, `unknown`.
    pub(crate) returns: IntCounterVec,
    /// Streams that do not wait for others of their node, because it has too many.
    pub(crate) streams_alone: IntCounter,
    /// Streams ended because their client read nothing for too long.
    pub(crate) streams_stuck: IntCounter,
    /// From a change to the response that carries it.
    pub(crate) push_seconds: Histogram,
    /// From a response to its ACK.
    pub(crate) ack_seconds: Histogram,
}

impl XdsMetrics {
    /// Enters the metrics into `registry`. Fails only if it has them already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            enter(
                registry,
                IntCounterVec::new(Opts::new(name, help), &[label])?,
            )
        };
        Ok(Self {
            streams: enter(
                registry,
                IntGaugeVec::new(
                    Opts::new("outrigger_xds_streams", "Open xDS streams"),
                    &["protocol"],
                )?,
            )?,
            pushes: counters("outrigger_xds_pushes_total", "xDS responses sent", "type")?,
            resources_sent: counters(
                "outrigger_xds_resources_sent_total",
                "Resources sent in xDS responses",
                "type",
            )?,
            resources_removed: counters(
                "outrigger_xds_resources_removed_total",
                "Resources removed by xDS responses",
                "type",
            )?,
            nacks: counters("outrigger_xds_nacks_total", "xDS responses refused", "type")?,
            streams_refused: counters(
                "outrigger_xds_streams_refused_total",
                "xDS streams that were not served",
                "reason",
            )?,
            returns: counters(
                "outrigger_xds_returns_total",
                "Clients of the state of the world that came back, by whether what they hold is known",
                "set",
            )?,
            streams_alone: enter(
                registry,
                IntCounter::new(
                    "outrigger_xds_streams_alone_total",
                    "xDS streams that do not wait for the many others of their node",
                )?,
            )?,
            streams_stuck: enter(
                registry,
                IntCounter::new(
                    "outrigger_xds_streams_stuck_total",
                    "xDS streams ended because the client did not read",
                )?,
            )?,
            push_seconds: seconds(
                registry,
                "outrigger_xds_push_seconds",
                "From a change of the mesh to a response that carries it",
            )?,
            ack_seconds: seconds(
                registry,
                "outrigger_xds_ack_seconds",
                "From an xDS response to its ACK",
            )?,
        })
    }
}

/// Label value of a type.
pub(super) fn label(kind: Option<ResourceType>) -> &'static str {
    kind.map_or("other", ResourceType::short)
}

fn seconds(registry: &Registry, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
    let buckets = vec![
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    ];
    enter(
        registry,
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?,
    )
}

fn enter<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
