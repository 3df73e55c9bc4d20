//! What an operator sees of shares beside `/clusters`.

use prometheus::{IntCounter, IntGauge, Registry};

use super::holder::Holder;

#[derive(Debug)]
pub(super) struct Metrics {
    limits: IntGauge,
    beyond: IntGauge,
    fallback: IntGauge,
    grants: IntCounter,
    callbacks: IntCounter,
    expired: IntCounter,
}

#[expect(
    clippy::expect_used,
    reason = "constant names that occur once, met by every test that starts a sidecar"
)]
impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("a valid name");
            registry
                .register(Box::new(gauge.clone()))
                .expect("a new name");
            gauge
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("a valid name");
            registry
                .register(Box::new(counter.clone()))
                .expect("a new name");
            counter
        };
        Self {
            limits: gauge(
                "outrigger_quota_limits",
                "Limits of which this sidecar leases a share.",
            ),
            beyond: gauge(
                "outrigger_quota_clusters_beyond",
                "Clusters whose limits are not leased, because there are too many; each limit is 1.",
            ),
            fallback: gauge(
                "outrigger_quota_fallback_active",
                "1 = no lease: shares are what they fall back to.",
            ),
            grants: counter("outrigger_quota_grants_total", "Grants applied."),
            callbacks: counter("outrigger_quota_callbacks_total", "Shares called back."),
            expired: counter(
                "outrigger_quota_leases_expired_total",
                "Leases that ran out.",
            ),
        }
    }

    pub(super) fn show(&self, holder: &Holder, now: std::time::Instant) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.limits.set(count(holder.len()));
        self.beyond.set(count(holder.beyond));
        self.fallback.set(i64::from(holder.falls_back(now)));
        let counts = holder.counts();
        for (counter, count) in [
            (&self.grants, counts.grants),
            (&self.callbacks, counts.callbacks),
            (&self.expired, counts.expired),
        ] {
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}
