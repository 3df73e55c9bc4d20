//! Which endpoint next.
//!
//! ```text
//! cluster ── by health ──► tier (one priority) ── locality or zone ──► group ── policy ──► endpoint
//!                             └─ ring or table over the whole tier ───────────────────────────┘
//! ```
//! State is shared by all workers (in-flight counts, one turn counter a group): the spread is even over the proxy, not
//! over each worker. A part that turns out to have nothing to use hands over to the others, in order.

mod ewma;
mod group;
mod maglev;
mod ring;
mod rotation;
mod shares;
mod slow_start;
mod table;
#[cfg(test)]
mod tests;
mod tier;
mod weights;

use std::{
    cell::Cell,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

pub(crate) use ewma::Ewma;
use group::Warming;
pub(crate) use shares::ONE;
pub use slow_start::SlowStart;
pub(crate) use table::{Bound, HashTable};
pub(crate) use tier::{Asked, Priorities, Tier, TierSeed};

use crate::{
    Endpoint, EndpointId, Health, Moment,
    breaker::{BreakerConfig, Trial},
    outlier::{Probe, Standing, take_probe},
};

/// Balancing policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum LbPolicy {
    /// Power of two choices on shared in-flight counts, weights respected.
    #[default]
    LeastRequest,
    /// Smooth weighted round robin over the proxy.
    RoundRobin,
    /// By weight.
    Random,
    /// Power of two choices on the expected time: a peak-sensitive average of response times, times requests in
    /// flight. An endpoint that was never measured is asked first.
    PeakEwma {
        /// Time in which old measurements lose 63 % of their weight. Default 10 s.
        decay: Duration,
    },
    /// A consistent-hash ring of our own: half of `minimum_ring_size` places for each unit of weight.
    RingHash {
        /// Default 1024.
        minimum_ring_size: u64,
        /// Default and bound 8,388,608 (Envoy).
        maximum_ring_size: u64,
    },
    /// Maglev table.
    Maglev {
        /// Prime, default 65,537, at most 5,000,011 (Envoy). Another number is raised to the next prime.
        table_size: u64,
    },
}

impl LbPolicy {
    /// A key has an endpoint.
    pub(crate) fn is_hash(&self) -> bool {
        matches!(self, Self::RingHash { .. } | Self::Maglev { .. })
    }

    /// Of [`Self::PeakEwma`].
    pub(crate) fn decay_ms(&self) -> Option<f32> {
        match self {
            Self::PeakEwma { decay } => Some(decay.as_secs_f32() * 1000.0),
            _ => None,
        }
    }
}

/// What may be chosen by one request.
#[derive(Debug)]
pub(crate) struct Candidates<'a> {
    pub(crate) endpoints: &'a [Arc<Endpoint>],
    pub(crate) tried: &'a [EndpointId],
    pub(crate) now: Moment,
    /// False where ejection is not configured or is overruled.
    pub(crate) heed_ejection: bool,
    /// False where all can be connected to, as far as is known, or where nothing else is left.
    pub(crate) heed_reach: bool,
    /// For how long a probe keeps others away, unless its end is reported before; 0 = ejection is not configured.
    pub(crate) probe_ms: u64,
    /// Each endpoint has a circuit breaker.
    pub(crate) breaker: Option<&'a BreakerConfig>,
    pub(crate) slow_start: Option<&'a SlowStart>,
    /// Of peak EWMA.
    pub(crate) decay_ms: f32,
    /// What was taken with the choice.
    pub(crate) leave: Cell<Leave>,
}

/// What makes a request decide about the endpoint that it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leave {
    /// Whether the endpoint, which was ejected, comes back.
    pub(crate) probe: Option<Probe>,
    /// Whether its circuit breaker closes.
    pub(crate) trial: Option<Trial>,
}

impl Candidates<'_> {
    fn endpoint(&self, place: u32) -> Option<&Endpoint> {
        Some(self.endpoints.get(usize::try_from(place).ok()?)?)
    }

    /// Healthy, not tried, not left alone, not ejected and its breaker not open (or due for a probe).
    pub(crate) fn usable(&self, place: u32) -> bool {
        self.endpoint(place).is_some_and(|endpoint| {
            self.admits(endpoint)
                && !self.tried.contains(&endpoint.id)
                && !(self.heed_reach && endpoint.state.reach.is_left_alone(self.now))
        })
    }

    fn admits(&self, endpoint: &Endpoint) -> bool {
        let state = &endpoint.state;
        endpoint.config.health == Health::Healthy
            && (!self.heed_ejection
                || matches!(
                    state.standing(self.now),
                    Standing::InService | Standing::ProbeDue
                ))
            && (self.breaker.is_none() || state.breaker.refuses_until(self.now).is_none())
    }

    /// As [`Self::usable`], whether tried or not.
    pub(crate) fn in_service(&self, place: u32) -> bool {
        self.endpoint(place).is_some_and(|one| self.admits(one))
    }

    fn take(&self, place: u32) -> bool {
        self.usable(place) && self.claim(place)
    }

    /// For one that is usable: false if another request took its probe in the meantime.
    fn claim(&self, place: u32) -> bool {
        let may_try = |one: &Endpoint| one.state.reach.may_try(self.now);
        if self.heed_reach && !self.endpoint(place).is_some_and(may_try) {
            return false;
        }
        if self.probe_ms == 0 && self.breaker.is_none() {
            return true;
        }
        let Some(endpoint) = self.endpoint(place) else {
            return false;
        };
        let state = &endpoint.state;
        let mut leave = Leave::default();
        // Overruled means that one which is out is used all the same. One that is due gets its probe in any case: without,
        // nothing that is out would ever come back while ejection is overruled.
        if self.probe_ms > 0 {
            match take_probe(state, self.now, self.probe_ms) {
                Some(probe) => leave.probe = probe,
                None if self.heed_ejection => return false,
                None => {}
            }
        }
        if let Some(breaker) = self.breaker {
            match state.breaker.pass(breaker, self.now) {
                Ok(trial) => leave.trial = trial,
                Err(_until) => {
                    if let Some(probe) = leave.probe {
                        state.return_probe(probe, self.now);
                    }
                    return false;
                }
            }
        }
        self.leave.set(leave);
        true
    }

    fn active(&self, place: u32) -> (u32, u32) {
        self.endpoint(place).map_or((0, 1), |endpoint| {
            let active = endpoint.state.active_requests.load(Relaxed);
            (active, endpoint.config.weight)
        })
    }

    fn less_loaded(&self, one: u32, other: u32, warming: Option<Warming<'_>>) -> bool {
        let ((active, weight), (other_active, other_weight)) =
            (self.active(one), self.active(other));
        if let Some(warming) = warming {
            let load = |place, active: u32, weight: u32| {
                f64::from(active) / (f64::from(weight) * self.warmth(place, warming))
            };
            return load(one, active, weight) < load(other, other_active, other_weight);
        }
        u64::from(active) * u64::from(other_weight) < u64::from(other_active) * u64::from(weight)
    }

    fn warmth(&self, place: u32, warming: Warming<'_>) -> f64 {
        self.endpoint(place)
            .map_or(1.0, |one| warming.slow.warmth_of(&one.state, self.now))
    }

    /// Draws one that is new as often as its warmth says.
    fn accepts(&self, place: u32, warming: Option<Warming<'_>>, rng: &mut fastrand::Rng) -> bool {
        warming.is_none_or(|warming| rng.f64() * warming.best < self.warmth(place, warming))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive; a weight beyond u32 is as good as the largest"
    )]
    fn warm_weight(&self, place: u32, weight: u32, warming: Option<Warming<'_>>) -> u32 {
        // Fine enough for weights of 1, and for the coldest to be drawn at times.
        const FINE: f64 = 65_536.0;
        warming.map_or(weight, |warming| {
            let part = self.warmth(place, warming) / warming.best;
            (f64::from(weight) * part * FINE).max(1.0) as u32
        })
    }

    /// Nobody has measured it, and nobody is about to.
    fn is_unmeasured(&self, place: u32) -> bool {
        self.endpoint(place).is_some_and(|one| {
            !one.state.latency.is_measured() && one.state.active_requests.load(Relaxed) == 0
        })
    }

    /// Expected time of one more request. One that was never measured comes first, and while it is being measured last.
    fn cost(&self, place: u32, decay_ms: f32) -> f32 {
        self.endpoint(place).map_or(f32::MAX, |one| {
            let active = one.state.active_requests.load(Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "compared with a float")]
            let next = active as f32 + 1.0;
            match one.state.latency.expected(decay_ms, self.now) {
                Some(micros) => micros * next,
                None if active == 0 => 0.0,
                None => f32::MAX / 1e9 * next,
            }
        })
    }

    /// One more request would not be more than its part.
    fn has_room(&self, place: u32, bound: Bound) -> bool {
        let (active, weight) = self.active(place);
        let average = u128::from(bound.in_flight) * u128::from(weight) * u128::from(bound.percent);
        let most = average.div_ceil(u128::from(bound.weights.max(1)) * 100);
        u128::from(active) < most
    }
}
