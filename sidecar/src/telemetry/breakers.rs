//! Circuit breakers as metrics, read from the snapshot when somebody asks.
//!
//! Labels: the cluster (only those with a breaker, [`MOST`] at most, the others together as `other`) and the scope, of
//! which there are two. Endpoints, which come and go, are counted and not named.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use outrigger_core::{BreakerState, Cluster, Health};
use prometheus::{
    IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::Telemetry;
use crate::shared::Shared;

/// Clusters with lines of their own.
const MOST: usize = 500;

/// Adds the collector.
pub(crate) fn register(telemetry: &Telemetry, shared: &Arc<Shared>) {
    let collector = Breakers {
        shared: Arc::clone(shared),
    };
    let registered = telemetry.metrics.registry.register(Box::new(collector));
    if let Err(error) = registered {
        tracing::warn!(%error, "circuit breakers have no metrics");
    }
}

struct Breakers {
    shared: Arc<Shared>,
}

struct Families {
    state: IntGaugeVec,
    open_endpoints: IntGaugeVec,
    opened: IntCounterVec,
    refused: IntCounterVec,
}

impl Families {
    #[expect(
        clippy::expect_used,
        reason = "constant names, proved by the test below"
    )]
    fn new() -> Self {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels).expect("valid names")
        };
        let counter = |name: &str, help: &str| {
            IntCounterVec::new(Opts::new(name, help), &["cluster", "scope"]).expect("valid names")
        };
        Self {
            state: gauge(
                "outrigger_breaker_state",
                "Circuit breaker of a service: 0 closed, 1 half-open, 2 open.",
                &["cluster"],
            ),
            open_endpoints: gauge(
                "outrigger_breaker_endpoints_open",
                "Healthy endpoints whose circuit breaker is open or half-open.",
                &["cluster"],
            ),
            opened: counter(
                "outrigger_breaker_opened_total",
                "Times that a circuit breaker opened.",
            ),
            refused: counter(
                "outrigger_breaker_refused_total",
                "Requests that an open circuit breaker refused.",
            ),
        }
    }

    fn add(&self, name: &str, cluster: &Cluster) {
        let Some(config) = &cluster.config.breaker else {
            return;
        };
        let breakers = &cluster.breakers;
        if config.for_service {
            let state = number(breakers.service.state());
            // The worst of those that share a line.
            let gauge = self.state.with_label_values(&[name]);
            gauge.set(gauge.get().max(state));
        }
        if config.for_endpoints {
            let healthy = cluster.endpoints.iter();
            let open = healthy
                .filter(|one| one.config.health == Health::Healthy)
                .filter(|one| number(one.state.breaker.state()) > 0)
                .count();
            let gauge = self.open_endpoints.with_label_values(&[name]);
            gauge.add(i64::try_from(open).unwrap_or(i64::MAX));
        }
        for (scope, counts, is_on) in [
            ("service", &breakers.service_counts, config.for_service),
            ("endpoint", &breakers.endpoint_counts, config.for_endpoints),
        ] {
            if is_on {
                let labels = [name, scope];
                let add = |family: &IntCounterVec, count: u64| {
                    family.with_label_values(&labels).inc_by(count);
                };
                add(&self.opened, counts.opened.load(Relaxed));
                add(&self.refused, counts.refused.load(Relaxed));
            }
        }
    }
}

impl Collector for Breakers {
    fn desc(&self) -> Vec<&Desc> {
        // Without descriptions a registry does not compare names; ours are constants that occur once.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let families = Families::new();
        let snapshot = self.shared.snapshot.load();
        let with = snapshot.clusters().map(|(_, cluster)| cluster);
        let with = with.filter(|cluster| cluster.config.breaker.is_some());
        for (at, cluster) in with.enumerate() {
            let name = if at < MOST {
                cluster.config.name.as_str()
            } else {
                "other"
            };
            families.add(name, cluster);
        }
        [
            families.state.collect(),
            families.open_endpoints.collect(),
            families.opened.collect(),
            families.refused.collect(),
        ]
        .concat()
    }
}

/// 0 closed, 1 half-open, 2 open.
fn number(state: BreakerState) -> i64 {
    match state {
        BreakerState::Closed { .. } => 0,
        BreakerState::HalfOpen { .. } => 1,
        BreakerState::Open { .. } => 2,
    }
}
