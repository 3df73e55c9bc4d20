//! New endpoints begin with a small part of their share, which grows to all of it.
//!
//! Draws accept an endpoint with the probability of its warmth, compared with that of the warmest in its group, and draw
//! again otherwise: a group in which all are equally new loses nothing. Scans weigh exactly.
//! Source: Envoy `SlowStartConfig`.

use std::time::Duration;

use crate::{Moment, cluster::EndpointState};

/// How an endpoint warms up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// From its first appearance (or return to health) to its full share.
    pub window: Duration,
    /// More than 0, default 1 = linear; with a higher one shares grow faster at first.
    pub aggression: f64,
    /// At least this part of its weight from the start: 0 to 100, default 10.
    pub min_weight_percent: f64,
}

impl SlowStart {
    pub(super) fn window_ms(&self) -> u64 {
        u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX)
    }

    /// Part of its weight that an endpoint gets which was first seen at `since`: above 0, at most 1.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share needs no last millisecond"
    )]
    pub(super) fn warmth(&self, since: u64, now: Moment) -> f64 {
        let (age, window) = (now.0.saturating_sub(since).max(1), self.window_ms());
        if age >= window {
            return 1.0;
        }
        let part = age as f64 / window as f64;
        let part = if self.aggression > 0.0 && self.aggression != 1.0 {
            part.powf(self.aggression.recip())
        } else {
            part
        };
        part.max(self.min_weight_percent / 100.0).clamp(1e-6, 1.0)
    }

    pub(super) fn warmth_of(&self, state: &EndpointState, now: Moment) -> f64 {
        self.warmth(state.since(), now)
    }
}
