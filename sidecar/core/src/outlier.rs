//! Takes failing endpoints out of a cluster for a while and lets them back.
//! ```text
//!   in service --(n failures in a row)--> ejected --(base_ejection_time x times ejected, capped)--> probe due
//!       ^                                    ^                                                      |
//!       |                                    +------------ failure ------------+            the next request
//!       +--------------------------- success ------------------------------ probing <---------------+
//! ```
//! Pure: outcomes and time come in. Shared atomics only: an answer that is no failure costs two loads.
//! It never closes a connection. Source: Envoy `OutlierDetection`; the probe is ours (Envoy lets everything
//! back in at once). How other requests to an endpoint end while it is out is ignored: they began before.
//!
//! **How many.** At most `max_ejection_percent`, but one always may be (Envoy's `always_eject_one_host`).
//! The last endpoint in service stays, whatever it answers, unless `max_ejection_percent` is 100: an
//! operator who writes that wants an open breaker to fail fast.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    Endpoint, Health, Moment,
    cluster::{EndpointState, Picked},
};

/// When and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierConfig {
    /// 5xx answers and local errors in a row; 0 = off. Default 5.
    pub consecutive_5xx: u32,
    /// 502, 503, 504 and local errors in a row; 0 = off. Default 0 (Istio).
    pub consecutive_gateway_failure: u32,
    /// `Some`: local errors are counted apart, and so many in a row eject (0 = they never do). Any answer ends the row.
    /// None (default): they count as 503 answers in the two rows above (Envoy).
    pub split_local: Option<u32>,
    /// How often an endpoint that was good is forgiven one ejection. Default 10 s.
    pub interval: Duration,
    /// First ejection; the n-th lasts n times as long. Default 30 s.
    pub base_ejection_time: Duration,
    /// Default 300 s, at least `base_ejection_time`.
    pub max_ejection_time: Duration,
    /// 0 to 100, default 10; at least one endpoint may always be ejected (Envoy), if another is left.
    pub max_ejection_percent: u32,
    /// Below this share of endpoints that are healthy and not ejected, ejection is ignored (Istio `minHealthPercent`); one
    /// whose ejection is over counts as such. Default 0.
    pub min_health_percent: u32,
}

/// How a request to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status.
    Status(u16),
    /// Could not connect, TLS failed, timed out, reset.
    LocalError,
}

/// Where an endpoint is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Takes traffic.
    InService,
    /// Takes none.
    Ejected {
        /// Then it is due for its probe.
        until: Moment,
    },
    /// Its time is over: the next request that chooses it is its probe.
    ProbeDue,
    /// One request decides whether it comes back.
    Probing {
        /// If the probe does not report by then, another may try.
        until: Moment,
    },
}

/// That a request decides whether an ejected endpoint comes back. The last moment at which it does, which no two
/// probes of an endpoint have in common, is its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    lease: u64,
}

/// What the ejection of a cluster's endpoints shares; kept over snapshots.
#[derive(Debug, Default)]
pub(crate) struct Ejector {
    /// Held while one endpoint is ejected, so that two at once cannot exceed the percentage.
    busy: AtomicBool,
    next_interval: AtomicU64,
    /// How often endpoints left service or came back, as far as it was noticed at once.
    changes: AtomicU64,
    /// Until then some endpoint may not be reachable.
    trouble_until: AtomicU64,
}

/// Whether enough endpoints are healthy for ejection to be heeded; looked up by each request, and computed anew when an
/// endpoint leaves service or comes back, and every [`REFRESH_MS`] as an ejection may just have ended.
#[derive(Debug, Default)]
pub(crate) struct Heeds {
    /// Of which changes it knows, plus 1; 0 = it was never computed.
    seen: AtomicU64,
    until: AtomicU64,
    heeds: AtomicBool,
}

const REFRESH_MS: u64 = 100;

impl Heeds {
    pub(crate) fn get(
        &self,
        config: &OutlierConfig,
        all: &[Arc<Endpoint>],
        changes: u64,
        now: Moment,
    ) -> bool {
        let percent = usize::try_from(config.min_health_percent).unwrap_or(100);
        if percent == 0 {
            return true;
        }
        if self.seen.load(Relaxed) == changes.wrapping_add(1) && now.0 < self.until.load(Relaxed) {
            return self.heeds.load(Relaxed);
        }
        // One whose time is over counts: else nobody would ever be ejected again once too many were.
        let able = |one: &&Arc<Endpoint>| {
            one.config.health == Health::Healthy && one.state.is_candidate(now)
        };
        let heeds = all.iter().filter(able).count() * 100 >= percent * all.len();
        self.heeds.store(heeds, Relaxed);
        self.until.store(now.0.saturating_add(REFRESH_MS), Relaxed);
        self.seen.store(changes.wrapping_add(1), Relaxed);
        heeds
    }
}

impl Outcome {
    /// A 5xx answer or a local error.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::Status(status) => (500..600).contains(&status),
            Self::LocalError => true,
        }
    }

    /// 502, 503, 504 or a local error.
    fn is_gateway_failure(self) -> bool {
        matches!(self, Self::Status(502..=504) | Self::LocalError)
    }
}

impl OutlierConfig {
    /// How long a probe keeps others away: as long as a first ejection.
    pub(crate) fn probe_ms(&self) -> u64 {
        millis(self.base_ejection_time).max(1)
    }

    /// Whether the outcome is a failure in any row that may eject.
    fn counts(&self, outcome: Outcome) -> bool {
        if let (Some(limit), Outcome::LocalError) = (self.split_local, outcome) {
            return limit > 0;
        }
        (self.consecutive_5xx > 0 && outcome.is_failure())
            || (self.consecutive_gateway_failure > 0 && outcome.is_gateway_failure())
    }
}

impl EndpointState {
    /// In service, or due for the probe that brings it back.
    pub(crate) fn is_candidate(&self, now: Moment) -> bool {
        self.ejected_until.load(Relaxed) <= now.0
    }

    /// Whether it takes traffic, as far as ejection goes.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Standing {
        let until = Moment(self.ejected_until.load(Relaxed));
        if until == Moment(0) {
            Standing::InService
        } else if until <= now {
            Standing::ProbeDue
        } else if self.probing.load(Relaxed) {
            Standing::Probing { until }
        } else {
            Standing::Ejected { until }
        }
    }

    pub(crate) fn return_probe(&self, probe: Probe, now: Moment) {
        self.end_probe(probe, now.0.max(1));
    }

    /// True if `probe` is still the one that decides: then the endpoint is out until `next`.
    fn end_probe(&self, probe: Probe, next: u64) -> bool {
        let ended = self
            .ejected_until
            .compare_exchange(probe.lease, next, Relaxed, Relaxed)
            .is_ok();
        if ended {
            self.probing.store(false, Relaxed);
        }
        ended
    }

    fn reset_counters(&self) {
        for counter in [
            &self.consecutive_5xx,
            &self.consecutive_gateway,
            &self.consecutive_local,
        ] {
            // A store would take the cache line from every other worker, with every good answer.
            if counter.load(Relaxed) != 0 {
                counter.store(0, Relaxed);
            }
        }
    }

    /// Counts an ejection that begins now; says until when it lasts.
    fn next_ejection(&self, config: &OutlierConfig, now: Moment) -> u64 {
        let base = millis(config.base_ejection_time);
        let most = millis(config.max_ejection_time).max(base);
        let times = self.ejections.load(Relaxed);
        let times = if base.saturating_mul(u64::from(times)) < most {
            times + 1
        } else {
            times.max(1)
        };
        self.ejections.store(times, Relaxed);
        self.total_ejections.fetch_add(1, Relaxed);
        let length = base.saturating_mul(u64::from(times)).clamp(1, most.max(1));
        self.reset_counters();
        now.0.saturating_add(length)
    }
}

/// Leave to send a request, which is the probe if the endpoint was due for one. None: another request is.
pub(crate) fn take_probe(
    state: &EndpointState,
    now: Moment,
    probe_ms: u64,
) -> Option<Option<Probe>> {
    let until = state.ejected_until.load(Relaxed);
    if until == 0 {
        return Some(None);
    }
    let lease = now.0.saturating_add(probe_ms).max(1);
    let taken = until <= now.0
        && state
            .ejected_until
            .compare_exchange(until, lease, Relaxed, Relaxed)
            .is_ok();
    if taken {
        state.probing.store(true, Relaxed);
    }
    taken.then_some(Some(Probe { lease }))
}

impl Ejector {
    /// An endpoint could not be connected to.
    pub(crate) fn unreachable(&self, until: Moment) {
        self.trouble_until.fetch_max(until.0, Relaxed);
    }

    /// Whether [`Self::unreachable`] was said not long ago.
    pub(crate) fn has_trouble(&self, now: Moment) -> bool {
        now.0 < self.trouble_until.load(Relaxed)
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Relaxed);
    }

    /// One outcome. True if it ejected the endpoint.
    pub(crate) fn report(
        &self,
        config: &OutlierConfig,
        all: &[Arc<Endpoint>],
        picked: &Picked,
        outcome: Outcome,
        now: Moment,
    ) -> bool {
        let endpoint = &picked.endpoint;
        let state = &endpoint.state;
        if state.ejected_until.load(Relaxed) != 0 {
            let Some(probe) = picked.leave.probe else {
                return false;
            };
            let ejects = end_probe(config, state, probe, outcome, now);
            self.changed();
            return ejects;
        }
        if !outcome.is_failure() {
            state.reset_counters();
            return false;
        }
        if !is_row_full(config, state, outcome) {
            return false;
        }
        // Where another is being ejected right now, the next failure tries again.
        if self.busy.swap(true, std::sync::atomic::Ordering::Acquire) {
            return false;
        }
        let ejects = state.ejected_until.load(Relaxed) == 0 && may_eject(config, all, endpoint);
        if ejects {
            let until = state.next_ejection(config, now);
            state.ejected_until.store(until, Relaxed);
        } else {
            state.reset_counters();
        }
        self.busy.store(false, std::sync::atomic::Ordering::Release);
        ejects
    }

    /// Once an interval, forgives every endpoint in service one ejection (Envoy).
    pub(crate) fn sweep(&self, config: &OutlierConfig, all: &[Arc<Endpoint>], now: Moment) {
        let next = self.next_interval.load(Relaxed);
        let following = now.0.saturating_add(millis(config.interval).max(1));
        let mine = next <= now.0
            && self
                .next_interval
                .compare_exchange(next, following, Relaxed, Relaxed)
                .is_ok();
        if !mine {
            return;
        }
        for state in all.iter().map(|endpoint| &endpoint.state) {
            let times = state.ejections.load(Relaxed);
            if times > 0 && state.standing(now) == Standing::InService {
                state.ejections.store(times - 1, Relaxed);
            }
        }
    }
}

/// Counts a failure; true if one of its rows is as long as it may be.
fn is_row_full(config: &OutlierConfig, state: &EndpointState, outcome: Outcome) -> bool {
    let longer = |row: &AtomicU32, limit: u32| {
        let count = row.fetch_add(1, Relaxed) + 1;
        limit > 0 && count >= limit
    };
    if let Some(limit) = config.split_local {
        if outcome == Outcome::LocalError {
            return longer(&state.consecutive_local, limit);
        }
        state.consecutive_local.store(0, Relaxed);
    }
    let any = longer(&state.consecutive_5xx, config.consecutive_5xx);
    let gateway = if outcome.is_gateway_failure() {
        longer(
            &state.consecutive_gateway,
            config.consecutive_gateway_failure,
        )
    } else {
        state.consecutive_gateway.store(0, Relaxed);
        false
    };
    any || gateway
}

fn end_probe(
    config: &OutlierConfig,
    state: &EndpointState,
    probe: Probe,
    outcome: Outcome,
    now: Moment,
) -> bool {
    if !config.counts(outcome) {
        if state.end_probe(probe, 0) {
            state.reset_counters();
        }
        return false;
    }
    // One that took too long has left its place: what it says comes too late.
    if state.ejected_until.load(Relaxed) != probe.lease {
        return false;
    }
    let until = state.next_ejection(config, now);
    state.end_probe(probe, until)
}

fn may_eject(config: &OutlierConfig, all: &[Arc<Endpoint>], endpoint: &Endpoint) -> bool {
    let out = |one: &Endpoint| one.state.ejected_until.load(Relaxed) != 0;
    let ejected = all.iter().filter(|one| out(one)).count();
    let another_left = all
        .iter()
        .any(|one| one.id != endpoint.id && one.config.health == Health::Healthy && !out(one));
    let percent = usize::try_from(config.max_ejection_percent).unwrap_or(100);
    let within = (ejected + 1) * 100 <= all.len() * percent;
    (within || ejected == 0) && (another_left || percent >= 100)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
