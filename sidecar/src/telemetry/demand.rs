//! Routes that come as requests need them, as metrics, read when somebody asks.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::Telemetry;
use crate::{
    demand::{OUTCOMES, STATES},
    shared::Shared,
};

/// Adds the collector.
pub(crate) fn register(telemetry: &Telemetry, shared: &Arc<Shared>) {
    let collector = Demanded {
        shared: Arc::clone(shared),
        families: Families::new(),
    };
    let registered = telemetry.metrics.registry.register(Box::new(collector));
    if let Err(error) = registered {
        tracing::warn!(%error, "routes on demand have no metrics");
    }
}

struct Demanded {
    shared: Arc<Shared>,
    /// For their descriptions.
    families: Families,
}

struct Families {
    requests: IntCounterVec,
    waiting: IntGauge,
    names: IntGaugeVec,
    given_back: IntCounter,
}

impl Families {
    #[expect(
        clippy::expect_used,
        reason = "constant names, proved by every test that starts a worker"
    )]
    fn new() -> Self {
        Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "outrigger_on_demand_requests_total",
                    "Requests to hosts without routes at hand, by what came of asking for them.",
                ),
                &["outcome"],
            )
            .expect("valid names"),
            waiting: IntGauge::new(
                "outrigger_on_demand_requests_waiting",
                "Requests that wait for the routes of their host.",
            )
            .expect("valid names"),
            names: IntGaugeVec::new(
                Opts::new(
                    "outrigger_on_demand_hosts",
                    "Hosts that requests have asked for: held, absent (the control plane has none), pending.",
                ),
                &["state"],
            )
            .expect("valid names"),
            given_back: IntCounter::new(
                "outrigger_on_demand_given_back_total",
                "Hosts that were given back, unused or to make room.",
            )
            .expect("valid names"),
        }
    }

    fn collectors(&self) -> [&dyn Collector; 4] {
        [&self.requests, &self.waiting, &self.names, &self.given_back]
    }
}

impl Collector for Demanded {
    fn desc(&self) -> Vec<&Desc> {
        let collectors = self.families.collectors();
        collectors.into_iter().flat_map(|one| one.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let families = Families::new();
        let counts = &self.shared.demand.counts;
        for (outcome, count) in OUTCOMES.iter().zip(&counts.outcomes) {
            let counter = families.requests.with_label_values(&[outcome]);
            counter.inc_by(count.load(Relaxed));
        }
        for (state, count) in STATES.iter().zip(&counts.names) {
            let gauge = families.names.with_label_values(&[state]);
            gauge.set(i64::try_from(count.load(Relaxed)).unwrap_or(i64::MAX));
        }
        let waiting = counts.waiting.load(Relaxed);
        families
            .waiting
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        families.given_back.inc_by(counts.given_back.load(Relaxed));
        families
            .collectors()
            .iter()
            .flat_map(|one| one.collect())
            .collect()
    }
}
