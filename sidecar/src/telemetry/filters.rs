//! What filters decided, counted: handles that are resolved once, since most requests of a listener with filters are
//! counted by them.

use std::{cell::OnceCell, sync::Arc};

use outrigger_core::{Direction, PolicyPositions, RateVerdict, Rbac, Subject};
use prometheus::{IntCounter, IntCounterVec};

use super::{
    Telemetry,
    authorization::{Authorization, Judged},
};

const CHECKS: [&str; 4] = ["allowed", "denied", "error", "failed_open"];
const TOKENS: [&str; 7] = [
    "verified",
    "missing",
    "refused",
    "spared",
    "dry_run_verified",
    "dry_run_missing",
    "dry_run_refused",
];
const LIMITS: [&str; 3] = ["allowed", "spared", "refused"];

/// A worker's counters.
#[derive(Debug)]
pub(crate) struct FilterCounters {
    telemetry: Arc<Telemetry>,
    authorization: Authorization,
    tokens: [Row<7>; 2],
    limits: [Row<3>; 2],
    checks: [Row<4>; 2],
}

/// What became of a question to an authorization server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    Allowed,
    Denied,
    /// No verdict: refused.
    Error,
    /// No verdict, and the request went on.
    FailedOpen,
}

/// What became of a request's tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TokenVerdict {
    Verified,
    /// There is none, and none is needed.
    Missing,
    Refused,
    /// Let through all the same.
    Spared,
}

/// By verdict.
type Row<const N: usize> = [OnceCell<Option<IntCounter>>; N];

impl FilterCounters {
    pub(crate) fn new(telemetry: &Arc<Telemetry>) -> Self {
        Self {
            telemetry: Arc::clone(telemetry),
            authorization: Authorization::new(telemetry),
            tokens: Default::default(),
            limits: Default::default(),
            checks: Default::default(),
        }
    }

    /// What access rules say, counted.
    pub(crate) fn judge<'a>(
        &self,
        direction: Direction,
        rbac: &'a Rbac,
        subject: &Subject<'_>,
        policies: &PolicyPositions,
    ) -> Judged<'a> {
        self.authorization.judge(direction, rbac, subject, policies)
    }

    /// What a PeerAuthentication in dry run would say of a connection.
    pub(crate) fn dry_run_of_mtls(&self, allowed: bool) {
        let verdict = if allowed { "allowed" } else { "denied" };
        let family = &self.telemetry.metrics.mtls_dry_run;
        if let Ok(counter) = family.get_metric_with_label_values(&[verdict]) {
            counter.inc();
        }
    }

    /// What became of a question.
    pub(crate) fn checked(&self, direction: Direction, checked: Checked) {
        let place = match checked {
            Checked::Allowed => 0,
            Checked::Denied => 1,
            Checked::Error => 2,
            Checked::FailedOpen => 3,
        };
        let family = &self.telemetry.metrics.ext_authz;
        count(&self.checks, direction, &CHECKS, place, family);
    }

    /// What became of a request's tokens.
    pub(crate) fn tokens(&self, direction: Direction, dry_run: bool, verdict: TokenVerdict) {
        let place = match (verdict, dry_run) {
            (TokenVerdict::Verified, false) => 0,
            (TokenVerdict::Missing, false) => 1,
            (TokenVerdict::Refused, false) => 2,
            (TokenVerdict::Spared, false) => 3,
            (TokenVerdict::Verified, true) => 4,
            (TokenVerdict::Missing, true) => 5,
            (TokenVerdict::Refused | TokenVerdict::Spared, true) => 6,
        };
        let family = &self.telemetry.metrics.tokens;
        count(&self.tokens, direction, &TOKENS, place, family);
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
