//! How the control side is doing: what readiness answers from, and its metrics. Written by the tasks of the control
//! runtime, read by the admin ports.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::{Gauge, IntCounterVec, IntGauge, Opts, Registry};

use crate::{
    capture::probe,
    readiness::AppHealth,
    shared::Shared,
    xds::{engine::Tally, state::Kind},
};

/// One per process.
#[derive(Debug)]
pub(crate) struct Vitals {
    /// The first configuration was applied.
    pub(crate) configured: AtomicBool,
    app: std::sync::Mutex<Option<AppHealth>>,
    /// Seconds since the Unix epoch from which a missing renewal is a warning; 0 = no certificate.
    renewal_overdue_at: AtomicU64,
    needs_identity: bool,
    metrics: Metrics,
}

#[derive(Debug)]
struct Metrics {
    connected: IntGauge,
    resources: IntCounterVec,
    nacks: IntCounterVec,
    streams: IntCounterVec,
    lookups: IntCounterVec,
    certificate_expiry: IntGauge,
    time_left: OnceLock<Gauge>,
    registry: Registry,
    renewals: IntCounterVec,
    registered: IntGauge,
    app_ready: IntGauge,
}

/// What readiness answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Takes traffic; possibly with something that an operator should look at.
    Yes(Vec<String>),
    /// What is missing.
    No(Vec<String>),
}

impl Vitals {
    /// Without an application or an identity nothing waits for them.
    pub(crate) fn new(registry: &Registry, has_app: bool, needs_identity: bool) -> Self {
        Self::with(registry, registry, has_app, needs_identity)
    }

    /// Of a process that is no client of xDS: what it would count of it is not shown.
    pub(crate) fn without_xds(registry: &Registry, has_app: bool, needs_identity: bool) -> Self {
        Self::with(registry, &Registry::new(), has_app, needs_identity)
    }

    fn with(registry: &Registry, xds: &Registry, has_app: bool, needs_identity: bool) -> Self {
        let app = has_app.then_some(AppHealth::Unknown);
        Self {
            configured: AtomicBool::new(false),
            app: std::sync::Mutex::new(app),
            renewal_overdue_at: AtomicU64::new(0),
            needs_identity,
            metrics: Metrics::new(registry, xds),
        }
    }

    /// Whether calls can be made and taken, if there is somebody to take them: an application that waits for us is not
    /// waited for.
    pub(crate) fn started(&self, shared: &Shared, unix_now: u64) -> Ready {
        let mut missing = Vec::new();
        let mut warnings = Vec::new();
        match shared.identity.load_full() {
            None if self.needs_identity => missing.push("no certificate yet".to_owned()),
            Some(identity) if identity.not_after <= unix_now => {
                missing.push("certificate has expired".to_owned());
            }
            Some(identity) if self.renewal_overdue_at.load(Ordering::Relaxed) <= unix_now => {
                warnings.push(format!(
                    "certificate was not renewed and ends in {} s",
                    identity.not_after - unix_now
                ));
            }
            _ => {}
        }
        if self.configured.load(Ordering::Relaxed) {
            let [lacks, warns] = probe::verdict(shared);
            missing.extend(lacks);
            warnings.extend(warns);
        } else {
            missing.push("no configuration yet".to_owned());
        }
        if missing.is_empty() {
            Ready::Yes(warnings)
        } else {
            Ready::No(missing)
        }
    }

    /// What keeps us from having [`Self::started`].
    pub(crate) fn missing(&self, shared: &Shared, unix_now: u64) -> Vec<String> {
        match self.started(shared, unix_now) {
            Ready::Yes(_) => Vec::new(),
            Ready::No(missing) => missing,
        }
    }

    pub(crate) fn ready(&self, shared: &Shared, unix_now: u64) -> Ready {
        let (mut missing, warnings) = match self.started(shared, unix_now) {
            Ready::Yes(warnings) => (Vec::new(), warnings),
            Ready::No(missing) => (missing, Vec::new()),
        };
        if shared.draining.load(Ordering::Relaxed) {
            missing.insert(0, "draining".to_owned());
        }
        match self.app() {
            Some(AppHealth::Unknown) => missing.push("application has not answered yet".to_owned()),
            Some(AppHealth::Unhealthy) => missing.push("application is not ready".to_owned()),
            Some(AppHealth::Healthy) | None => {}
        }
        if missing.is_empty() {
            Ready::Yes(warnings)
        } else {
            Ready::No(missing)
        }
    }

    /// None = there is no application.
    pub(crate) fn app(&self) -> Option<AppHealth> {
        *self
            .app
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn set_app(&self, health: AppHealth) {
        *self
            .app
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(health);
        self.metrics
            .app_ready
            .set(i64::from(health == AppHealth::Healthy));
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.metrics.connected.set(i64::from(connected));
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.metrics.connected.get() == 1
    }

    pub(crate) fn count_stream(&self, result: &str) {
        self.metrics.streams.with_label_values(&[result]).inc();
    }

    pub(crate) fn count_lookup(&self, found: bool) {
        let result = if found { "found" } else { "failed" };
        self.metrics.lookups.with_label_values(&[result]).inc();
    }

    pub(crate) fn count_resources(&self, kind: Kind, tally: Tally) {
        for (result, count) in [
            ("accepted", tally.accepted),
            ("refused", tally.refused),
            ("removed", tally.removed),
        ] {
            self.metrics
                .resources
                .with_label_values(&[kind.name(), result])
                .inc_by(count);
        }
        if tally.refused > 0 {
            self.metrics.nacks.with_label_values(&[kind.name()]).inc();
        }
    }

    pub(crate) fn set_certificate(&self, not_after: u64, overdue_at: u64) {
        self.renewal_overdue_at.store(overdue_at, Ordering::Relaxed);
        self.metrics
            .certificate_expiry
            .set(i64::try_from(not_after).unwrap_or(i64::MAX));
    }

    /// How long the certificate in force lasts. Shown from the first one on.
    pub(crate) fn set_time_left(&self, not_after: Duration, now: Duration) {
        let left = not_after.as_secs_f64() - now.as_secs_f64();
        let gauge = self.metrics.time_left.get_or_init(|| {
            let gauge = Gauge::new(
                "outrigger_seconds_to_first_outage",
                "Seconds until our certificate ends; it should be renewed at half of its life.",
            )
            .expect("a literal and valid metric name");
            register(&self.metrics.registry, gauge.clone());
            gauge
        });
        gauge.set(left);
    }

    pub(crate) fn count_renewal(&self) {
        self.metrics.renewals.with_label_values(&["done"]).inc();
    }

    pub(crate) fn count_renewal_failure(&self) {
        self.metrics.renewals.with_label_values(&["failed"]).inc();
    }

    pub(crate) fn set_registered(&self, registered: bool) {
        self.metrics.registered.set(i64::from(registered));
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.metrics.registered.get() == 1
    }
}

impl Metrics {
    fn new(registry: &Registry, xds: &Registry) -> Self {
        let gauge = |registry: &Registry, name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("a literal and valid metric name");
            register(registry, gauge.clone());
            gauge
        };
        let counter = |registry: &Registry, name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)
                .expect("a literal and valid metric name");
            register(registry, counter.clone());
            counter
        };
        let renewals = counter(
            registry,
            "outrigger_certificate_requests_total",
            "Certificates asked for, by result.",
            &["result"],
        );
        // Shown before the first one.
        for result in ["done", "failed"] {
            renewals.with_label_values(&[result]);
        }
        Self {
            renewals,
            time_left: OnceLock::new(),
            registry: registry.clone(),
            connected: gauge(
                xds,
                "outrigger_xds_connected",
                "1 while the configuration stream is open.",
            ),
            resources: counter(
                xds,
                "outrigger_xds_resources_total",
                "Resources received, by type and what became of them.",
                &["type", "result"],
            ),
            nacks: counter(
                xds,
                "outrigger_xds_nacks_total",
                "Answers refused at least in part.",
                &["type"],
            ),
            lookups: counter(
                xds,
                "outrigger_dns_lookups_total",
                "Names of clusters that were looked up, by what came of it.",
                &["result"],
            ),
            streams: counter(
                xds,
                "outrigger_xds_streams_total",
                "Configuration streams, by how they ended.",
                &["result"],
            ),
            certificate_expiry: gauge(
                registry,
                "outrigger_certificate_not_after_seconds",
                "End of our certificate, seconds since the Unix epoch.",
            ),
            registered: gauge(
                registry,
                "outrigger_registered",
                "1 while the control plane lists the application.",
            ),
            app_ready: gauge(
                registry,
                "outrigger_app_ready",
                "1 while the application's readiness check succeeds.",
            ),
        }
    }
}

/// A name that is taken is a mistake in the code; the metric is then simply not shown.
fn register(registry: &Registry, collector: impl prometheus::core::Collector + 'static) {
    if let Err(error) = registry.register(Box::new(collector)) {
        tracing::error!(%error, "metric could not be registered");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{identity::unix_now, testing::Authority};

    /// A configured sidecar with an application and a certificate that ends in an hour.
    fn sidecar() -> (Vitals, Arc<Shared>) {
        let vitals = Vitals::new(&Registry::new(), true, true);
        vitals.configured.store(true, Ordering::Relaxed);
        vitals.set_app(AppHealth::Healthy);
        let shared = Shared::new(crate::tls::files::Allowed::default());
        let identity = Authority::new().identity("reviews");
        vitals.set_certificate(identity.not_after, identity.not_after - 720);
        shared.identity.store(Some(Arc::new(identity)));
        (vitals, shared)
    }

    fn missing(words: &str) -> Ready {
        Ready::No(vec![words.to_owned()])
    }

    #[test]
    fn a_sidecar_with_everything_is_ready() {
        let (vitals, shared) = sidecar();
        assert_eq!(vitals.ready(&shared, unix_now()), Ready::Yes(Vec::new()));
    }

    #[test]
    fn a_certificate_that_was_not_renewed_is_a_warning_and_its_end_is_the_end() {
        let (vitals, shared) = sidecar();
        let ready = |later| vitals.ready(&shared, unix_now() + later);
        assert_eq!(ready(2800), Ready::Yes(Vec::new()));
        let Ready::Yes(warnings) = ready(3000) else {
            panic!("not ready")
        };
        assert!(warnings[0].starts_with("certificate was not renewed and ends in"));
        assert_eq!(ready(3700), missing("certificate has expired"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let (vitals, shared) = sidecar();
        vitals.set_app(AppHealth::Unhealthy);
        assert_eq!(
            vitals.ready(&shared, 0),
            missing("application is not ready")
        );
        vitals.set_app(AppHealth::Unknown);
        assert_eq!(
            vitals.ready(&shared, 0),
            missing("application has not answered yet")
        );
        vitals.set_app(AppHealth::Healthy);
        shared.identity.store(None);
        assert_eq!(vitals.ready(&shared, 0), missing("no certificate yet"));
    }

    #[test]
    fn without_an_identity_to_come_none_is_waited_for() {
        let vitals = Vitals::new(&Registry::new(), false, false);
        vitals.configured.store(true, Ordering::Relaxed);
        assert_eq!(
            vitals.ready(&Shared::new(crate::tls::files::Allowed::default()), 0),
            Ready::Yes(Vec::new())
        );
    }
}
