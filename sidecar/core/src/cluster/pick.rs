//! The choice of an endpoint, and what becomes of it.

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{Cluster, Endpoint, EndpointId, NoEndpoint, PickContext, Picked, build::next_id};
use crate::{
    Health, Moment, Outcome,
    balance::{Asked, Candidates, Leave},
    breaker::{BreakerConfig, Change, Trial},
    outlier::Standing,
};

/// What a report changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The endpoint was taken out for a while.
    pub ejected: bool,
    /// A circuit breaker opened, of the endpoint or of the service.
    pub breaker_opened: bool,
}

impl Cluster {
    /// Chooses an endpoint; healthy, not ejected, its breaker not open, not tried.
    ///
    /// Ejection is ignored while less than `min_health_percent` of the endpoints are in service or due for
    /// their probe, and when all healthy endpoints are ejected although `max_ejection_percent` is below 100 (others have left
    /// since). With 100 the operator asked for an open breaker: [`NoEndpoint::Unhealthy`] at once, one
    /// probe each time an ejection ends. A circuit breaker is never ignored.
    ///
    /// # Errors
    /// [`NoEndpoint`].
    pub fn pick(&self, context: &mut PickContext<'_>) -> Result<Picked, NoEndpoint> {
        if !self.arrived.load(Relaxed) {
            self.arrive(context.now);
        }
        let service_trial = self.pass_service(context.now)?;
        match self.choose(context) {
            Ok(picked) => Ok(Picked {
                service_trial,
                ..picked
            }),
            Err(none) => {
                if let Some(trial) = service_trial {
                    self.breakers.service.unused(trial, context.now);
                }
                if let NoEndpoint::BreakerOpen { .. } = none {
                    self.breakers.endpoint_counts.refused.fetch_add(1, Relaxed);
                }
                Err(none)
            }
        }
    }

    /// Of one of type `ORIGINAL_DST`: the endpoint at `destination`, where the connection was going.
    ///
    /// # Errors
    /// [`NoEndpoint::NotRedirected`], [`NoEndpoint::TooManyDestinations`].
    pub fn toward(
        &self,
        destination: Option<SocketAddr>,
        now: Moment,
    ) -> Result<Picked, NoEndpoint> {
        let to = destination.ok_or(NoEndpoint::NotRedirected)?;
        Ok(Picked {
            endpoint: self.destinations.at(to, now, next_id)?,
            leave: Leave::default(),
            service_trial: None,
        })
    }

    /// Of one of type `ORIGINAL_DST`: the endpoints of now.
    #[must_use]
    pub fn destination_ids(&self) -> Vec<EndpointId> {
        self.destinations.ids()
    }

    /// Tells ejection, circuit breakers and peak EWMA how a request to the endpoint it was given ended.
    pub fn report(&self, picked: &Picked, outcome: Outcome, now: Moment) -> Verdict {
        let failed = outcome.is_failure();
        let state = &picked.endpoint.state;
        if failed {
            state.total_failures.fetch_add(1, Relaxed);
            if let Some(decay_ms) = self.config.lb.decay_ms() {
                state.latency.observe_failure(decay_ms, now);
            }
        } else {
            state.reach.answered();
        }
        let breaker = self.config.breaker.as_ref();
        let verdict = Verdict {
            breaker_opened: breaker.is_some_and(|config| self.tell(config, picked, failed, now)),
            ejected: self.config.outlier.is_some_and(|config| {
                self.ejector
                    .report(&config, &self.endpoints, picked, outcome, now)
            }),
        };
        if verdict != Verdict::default() {
            self.ejector.changed();
        }
        verdict
    }

    /// Says that a request could not be sent because its endpoint could not be connected to: for a moment others are chosen
    /// instead, where there are any.
    pub fn unreachable(&self, picked: &Picked, now: Moment) {
        self.ejector
            .unreachable(picked.endpoint.state.reach.failed(now));
    }

    /// Whether [`Self::observe`] wants to know response times.
    #[must_use]
    pub fn measures(&self) -> bool {
        self.config.lb.decay_ms().is_some()
    }

    /// The head of an answer that is no failure came `latency` after the request was sent.
    pub fn observe(&self, picked: &Picked, latency: Duration, now: Moment) {
        if let Some(decay_ms) = self.config.lb.decay_ms() {
            let micros = latency.as_secs_f32() * 1e6;
            picked.endpoint.state.latency.observe(micros, decay_ms, now);
        }
    }

    /// Says that a request will not use the endpoint it was given (the client left, a limit was hit), so
    /// that there is no outcome. If it was the probe of an ejected endpoint or of a breaker, the next request is.
    pub fn unused(&self, picked: &Picked, now: Moment) {
        let state = &picked.endpoint.state;
        if let Some(probe) = picked.leave.probe {
            state.return_probe(probe, now);
        }
        if let Some(trial) = picked.leave.trial {
            state.breaker.unused(trial, now);
        }
        if let Some(trial) = picked.service_trial {
            self.breakers.service.unused(trial, now);
        }
    }

    /// Forgives endpoints that were good for an interval, and dates new ones. To be called about once a second. (An
    /// endpoint whose ejection is over needs no call: [`Self::pick`] sees that and sends its probe.)
    pub fn sweep(&self, now: Moment) {
        if !self.arrived.load(Relaxed) {
            self.arrive(now);
        }
        if self.config.original_dst {
            self.destinations.sweep(now);
        }
        if let Some(config) = &self.config.outlier {
            self.ejector.sweep(config, &self.endpoints, now);
        }
    }

    /// Endpoints that take traffic now: healthy and not ejected.
    pub fn in_service(&self, now: Moment) -> impl Iterator<Item = &Arc<Endpoint>> {
        let ejects = self.config.outlier.is_some();
        self.endpoints.iter().filter(move |endpoint| {
            endpoint.config.health == Health::Healthy
                && (!ejects || endpoint.state.standing(now) == Standing::InService)
        })
    }

    /// How much of its load each priority can take, in parts of [`ONE`](crate::balance::ONE).
    pub(crate) fn capabilities(&self, now: Moment) -> impl Iterator<Item = u64> {
        let changes = self.ejector.changes();
        self.priorities
            .capabilities(changes, now, move || self.candidates(&[], now))
    }

    fn candidates<'a>(&'a self, tried: &'a [EndpointId], now: Moment) -> Candidates<'a> {
        let breaker = self.config.breaker.as_ref();
        Candidates {
            endpoints: &self.endpoints,
            tried,
            now,
            heed_ejection: self.heeds_ejection(now),
            heed_reach: self.ejector.has_trouble(now),
            probe_ms: self.config.outlier.map_or(0, |outlier| outlier.probe_ms()),
            breaker: breaker.filter(|breaker| breaker.for_endpoints),
            slow_start: self.config.slow_start.as_ref(),
            decay_ms: self.config.lb.decay_ms().unwrap_or(0.0),
            leave: Cell::default(),
        }
    }

    fn choose(&self, context: &mut PickContext<'_>) -> Result<Picked, NoEndpoint> {
        let now = context.now;
        let mut candidates = self.candidates(context.tried, now);
        if let Some(picked) = self.pick_from(&candidates, context) {
            return Ok(picked);
        }
        if std::mem::take(&mut candidates.heed_reach)
            && let Some(picked) = self.pick_from(&candidates, context)
        {
            return Ok(picked);
        }
        let untried = Candidates {
            tried: &[],
            leave: Cell::default(),
            ..candidates
        };
        let tiers = &self.priorities.tiers;
        if tiers.iter().any(|tier| tier.any_usable(&untried)) {
            return Err(NoEndpoint::Exhausted);
        }
        let fails_fast = self
            .config
            .outlier
            .is_none_or(|outlier| outlier.max_ejection_percent >= 100);
        if candidates.heed_ejection && !fails_fast {
            candidates.heed_ejection = false;
            if let Some(picked) = self.pick_from(&candidates, context) {
                return Ok(picked);
            }
        }
        Err(self.why_none(candidates.breaker.is_some(), now))
    }

    fn why_none(&self, breakers: bool, now: Moment) -> NoEndpoint {
        let healthy = |one: &&Arc<Endpoint>| one.config.health == Health::Healthy;
        let open = self
            .endpoints
            .iter()
            .filter(|_| breakers)
            .filter(healthy)
            .filter_map(|one| one.state.breaker.refuses_until(now));
        match open.min() {
            Some(until) => NoEndpoint::BreakerOpen {
                until,
                of_service: false,
            },
            None if self.endpoints.is_empty() => NoEndpoint::Empty,
            None => NoEndpoint::Unhealthy,
        }
    }

    fn pick_from(
        &self,
        candidates: &Candidates<'_>,
        context: &mut PickContext<'_>,
    ) -> Option<Picked> {
        let key = match context.hash {
            _ if !self.config.lb.is_hash() => 0,
            Some(key) => key,
            None => context.rng.u64(..),
        };
        let bound = self.config.hash_balance_percent;
        let mut asked = Asked {
            key,
            bound: bound.map(|percent| (percent, self.in_flight())),
            changes: self.ejector.changes(),
            left_out: context.previous_priorities,
            rng: context.rng,
        };
        let place = self.priorities.pick(candidates, &mut asked)?;
        let endpoint = self.endpoints.get(usize::try_from(place).ok()?)?;
        Some(Picked {
            endpoint: Arc::clone(endpoint),
            leave: candidates.leave.get(),
            service_trial: None,
        })
    }

    /// Requests, this one included; on a cluster that only has connections, those.
    fn in_flight(&self) -> u32 {
        match self.limits.requests.used() {
            0 => self.limits.connections.used().max(1),
            requests => requests,
        }
    }

    /// Dates what is new: endpoints warm up from then on.
    fn arrive(&self, now: Moment) {
        for endpoint in &self.endpoints {
            endpoint.state.appears(now);
        }
        for tier in &self.priorities.tiers {
            tier.arrive(&self.endpoints);
        }
        self.arrived.store(true, Relaxed);
    }

    fn heeds_ejection(&self, now: Moment) -> bool {
        self.config.outlier.is_some_and(|config| {
            self.heeds
                .get(&config, &self.endpoints, self.ejector.changes(), now)
        })
    }

    fn pass_service(&self, now: Moment) -> Result<Option<Trial>, NoEndpoint> {
        let Some(config) = self.config.breaker.as_ref().filter(|one| one.for_service) else {
            return Ok(None);
        };
        self.breakers.service.pass(config, now).map_err(|until| {
            self.breakers.service_counts.refused.fetch_add(1, Relaxed);
            NoEndpoint::BreakerOpen {
                until,
                of_service: true,
            }
        })
    }

    /// True if a breaker opened.
    fn tell(&self, config: &BreakerConfig, picked: &Picked, failed: bool, now: Moment) -> bool {
        let (state, breakers) = (&picked.endpoint.state, &self.breakers);
        let Leave { trial, .. } = picked.leave;
        let of_endpoint = config
            .for_endpoints
            .then(|| state.breaker.report(config, trial, failed, now));
        let of_service = config.for_service.then(|| {
            breakers
                .service
                .report(config, picked.service_trial, failed, now)
        });
        let mut opened = false;
        for (change, counts) in [
            (of_endpoint, &breakers.endpoint_counts),
            (of_service, &breakers.service_counts),
        ] {
            match change {
                Some(Change::Opened) => {
                    counts.opened.fetch_add(1, Relaxed);
                    opened = true;
                }
                Some(Change::Closed) => self.ejector.changed(),
                Some(Change::None) | None => {}
            }
        }
        opened
    }
}
