//! What the leases of shares are counted by.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

use super::allocate::Allocator;

/// Counters of all streams.
#[derive(Clone, Debug)]
pub(crate) struct QuotaMetrics {
    limits: IntGauge,
    shares: IntGauge,
    callbacks: IntCounter,
    expired: IntCounter,
    crowded: IntCounter,
    /// Grants sent.
    pub(crate) grants: IntCounter,
    refused: IntCounterVec,
}

impl QuotaMetrics {
    /// Enters the metrics into `registry`. Fails only if it has them already.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            limits: enter(
                registry,
                IntGauge::new("outrigger_quota_limits", "Limits shared by sidecars")?,
            )?,
            shares: enter(
                registry,
                IntGauge::new("outrigger_quota_shares", "Shares under lease")?,
            )?,
            callbacks: enter(
                registry,
                IntCounter::new("outrigger_quota_callbacks_total", "Shares called back")?,
            )?,
            expired: enter(
                registry,
                IntCounter::new(
                    "outrigger_quota_leases_expired_total",
                    "Leases that ran out",
                )?,
            )?,
            crowded: enter(
                registry,
                IntCounter::new(
                    "outrigger_quota_crowded_total",
                    "Limits not shared with one more sidecar, because too many share them",
                )?,
            )?,
            grants: enter(
                registry,
                IntCounter::new("outrigger_quota_grants_total", "Grants sent")?,
            )?,
            refused: enter(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "outrigger_quota_refused_total",
                        "Streams, or limits on them, that were refused",
                    ),
                    &["reason"],
                )?,
            )?,
        })
    }

    /// `identity`, `node`, `limit` (too many), `cluster` (not seen by the node, or its limits are not the service's).
    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(super) fn show(&self, allocator: &Allocator) {
        let (limits, shares) = allocator.size();
        self.limits.set(i64::try_from(limits).unwrap_or(i64::MAX));
        self.shares.set(i64::try_from(shares).unwrap_or(i64::MAX));
        let counts = allocator.counts();
        for (counter, count) in [
            (&self.callbacks, counts.callbacks),
            (&self.expired, counts.expired),
            (&self.crowded, counts.crowded),
        ] {
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}

fn enter<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
