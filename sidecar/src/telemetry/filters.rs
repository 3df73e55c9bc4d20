//! What filters decided, counted: handles that are resolved once, since most requests of a listener with filters are
//! counted by them.

use std::{cell::OnceCell, sync::Arc};

use outrigger_core::{Direction, Judgement, RateVerdict, Rbac, RbacAction, Rules, Subject};
use prometheus::{IntCounter, IntCounterVec};

use super::Telemetry;

const RBAC: [&str; 5] = [
    "allowed",
    "denied",
    "logged",
    "shadow_allowed",
    "shadow_denied",
];
const LIMITS: [&str; 3] = ["allowed", "spared", "refused"];

/// A worker's counters.
#[derive(Debug)]
pub(crate) struct FilterCounters {
    telemetry: Arc<Telemetry>,
    rbac: [Row<5>; 2],
    limits: [Row<3>; 2],
}

/// By verdict.
type Row<const N: usize> = [OnceCell<Option<IntCounter>>; N];

impl FilterCounters {
    pub(crate) fn new(telemetry: &Arc<Telemetry>) -> Self {
        Self {
            telemetry: Arc::clone(telemetry),
            rbac: Default::default(),
            limits: Default::default(),
        }
    }

    /// What access rules say, counted; the rules that deny it, if they do.
    pub(crate) fn judge<'a>(
        &self,
        direction: Direction,
        rbac: &'a Rbac,
        subject: &Subject<'_>,
    ) -> Option<(&'a Rules, Judgement<'a>)> {
        let count = |verdict| {
            let family = &self.telemetry.metrics.rbac;
            count(&self.rbac, direction, &RBAC, verdict, family);
        };
        if let Some(shadow) = &rbac.shadow {
            count(if shadow.judge(subject).allowed { 3 } else { 4 });
        }
        let rules = rbac.rules.as_ref()?;
        let judgement = rules.judge(subject);
        let is_logged = rules.action() == RbacAction::Log && judgement.policy.is_some();
        count(match judgement.allowed {
            true if is_logged => 2,
            true => 0,
            false => 1,
        });
        (!judgement.allowed).then_some((rules, judgement))
    }

    /// What a limit said.
    pub(crate) fn limited(&self, direction: Direction, verdict: RateVerdict) {
        let place = match verdict {
            RateVerdict::NotAsked => return,
            RateVerdict::Allowed => 0,
            RateVerdict::Spared => 1,
            RateVerdict::Refused => 2,
        };
        let family = &self.telemetry.metrics.rate_limits;
        count(&self.limits, direction, &LIMITS, place, family);
    }
}

fn count<const N: usize>(
    rows: &[Row<N>; 2],
    direction: Direction,
    verdicts: &[&str; N],
    verdict: usize,
    family: &IntCounterVec,
) {
    let [inbound, outbound] = rows;
    let (row, hop) = match direction {
        Direction::Inbound => (inbound, "inbound"),
        Direction::Outbound => (outbound, "outbound"),
    };
    let (Some(cell), Some(name)) = (row.get(verdict), verdicts.get(verdict)) else {
        return;
    };
    let counter = cell.get_or_init(|| family.get_metric_with_label_values(&[hop, name]).ok());
    if let Some(counter) = counter {
        counter.inc();
    }
}
