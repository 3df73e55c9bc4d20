//! What the authority counts, and how long everything still goes well.

use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Causes of an outage to come: labels.
pub(crate) const CAUSES: [&str; 3] = ["root", "intermediate", "certificate"];

/// One a process.
#[derive(Debug)]
pub(crate) struct AuthorityMetrics {
    /// By `cause`; the least of them has no label of its own.
    pub(crate) outage: GaugeVec,
    /// The least.
    pub(crate) first_outage: prometheus::Gauge,
    /// 1 for the step that a rotation is in, by `step`: none, publish, sign.
    pub(crate) step: IntGaugeVec,
    /// 1 while a rotation is paused.
    pub(crate) paused: IntGauge,
    /// Clients that have not ACKed the bundle in force.
    pub(crate) unacked: IntGauge,
    /// Live certificates that are known.
    pub(crate) certificates: IntGauge,
    /// Of these, connected ones that should have been renewed.
    pub(crate) late: IntGauge,
    /// Records that were let go of before their end.
    pub(crate) records_dropped: IntGauge,
    /// Rotations by `result`: begun, switched, done, aborted.
    pub(crate) rotations: IntCounterVec,
    /// Looks at the operator's files that found something else, by `result`: loaded, refused.
    pub(crate) files: IntCounterVec,
}

impl AuthorityMetrics {
    /// Fails only if two metrics have one name.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counters = |name: &str, help: &str, values: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), &["result"])?;
            registry.register(Box::new(counters.clone()))?;
            for value in values {
                counters.with_label_values(&[*value]);
            }
            Ok::<_, prometheus::Error>(counters)
        };
        let outage = GaugeVec::new(
            Opts::new(
                "outrigger_seconds_to_outage",
                "Seconds until certificates end if nothing is done, by what ends",
            ),
            &["cause"],
        )?;
        registry.register(Box::new(outage.clone()))?;
        let first_outage = prometheus::Gauge::new(
            "outrigger_seconds_to_first_outage",
            "The least of outrigger_seconds_to_outage",
        )?;
        registry.register(Box::new(first_outage.clone()))?;
        let step = IntGaugeVec::new(
            Opts::new(
                "outrigger_root_rotation_step",
                "1 for the step that the rotation of the root is in",
            ),
            &["step"],
        )?;
        registry.register(Box::new(step.clone()))?;
        Ok(Self {
            outage,
            first_outage,
            step,
            paused: gauge(
                "outrigger_root_rotation_paused",
                "1 while a rotation of the root is paused",
            )?,
            unacked: gauge(
                "outrigger_bundle_unacked_clients",
                "Connected clients that have not ACKed the trust bundle in force",
            )?,
            certificates: gauge(
                "outrigger_certificates_live",
                "Certificates of workloads that are known and have not ended",
            )?,
            late: gauge(
                "outrigger_certificates_late",
                "Connected clients whose certificate is past four fifths of its life and not renewed",
            )?,
            records_dropped: gauge(
                "outrigger_certificate_records_dropped",
                "Records of certificates that were let go of before their end, for want of room",
            )?,
            rotations: counters(
                "outrigger_root_rotations_total",
                "Steps of root rotations",
                &["begun", "switched", "done", "aborted"],
            )?,
            files: counters(
                "outrigger_authority_files_total",
                "Changes of the operator's files of the authority",
                &["loaded", "refused"],
            )?,
        })
    }
}
