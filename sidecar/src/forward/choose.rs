//! Which endpoint a try goes to, and what is answered where there is none.

use std::sync::{Arc, atomic::Ordering};

use outrigger_core::{
    EndpointId, Moment, NoEndpoint, PickContext, Picked, capture::MAX_DESTINATIONS,
};

use super::{call::Call, tries::Plan};
use crate::http::answer::{Code, Problem};

/// An endpoint for the next try, as far as may be another one each time.
pub(super) fn pick(
    call: &Call,
    plan: &Plan<'_>,
    tried: &mut Vec<EndpointId>,
) -> Result<Picked, NoEndpoint> {
    let policy = &*plan.retry;
    if plan.cluster.config.original_dst {
        let now = call.worker.shared.now();
        return plan.cluster.toward(call.connection.destination, now);
    }
    let previous_priorities = previous_priorities(plan, tried);
    let attempt = |tried: &[EndpointId]| {
        plan.cluster.pick(&mut PickContext {
            hash: plan.hash,
            tried,
            previous_priorities: &previous_priorities,
            now: call.worker.shared.now(),
            rng: &mut call.worker.rng.borrow_mut(),
        })
    };
    if !policy.other_host {
        return attempt(&[]);
    }
    match attempt(tried) {
        Err(NoEndpoint::Exhausted) if policy.same_host_at_last => {
            // From the beginning, but not the same one twice running.
            let newest = tried.pop();
            tried.clear();
            tried.extend(newest);
            match attempt(tried) {
                Err(NoEndpoint::Exhausted) => attempt(&[]),
                picked => picked,
            }
        }
        picked => picked,
    }
}

/// An endpoint for a try beside another one.
pub(super) fn beside(call: &Call, plan: &Plan<'_>, tried: &[EndpointId]) -> Option<Picked> {
    if plan.cluster.config.original_dst {
        return None;
    }
    let picked = plan.cluster.pick(&mut PickContext {
        hash: plan.hash,
        tried,
        previous_priorities: &[],
        now: call.worker.shared.now(),
        rng: &mut call.worker.rng.borrow_mut(),
    });
    picked.ok()
}

/// The priorities tried so far, if it is time to leave them out. Those of the last, incomplete round still count as one.
fn previous_priorities(plan: &Plan<'_>, tried: &[EndpointId]) -> Vec<u32> {
    let every = plan.retry.other_priority_every;
    let Some(every) = every.and_then(|every| usize::try_from(every).ok()) else {
        return Vec::new();
    };
    let rounds = tried.get(..tried.len() / every.max(1) * every);
    let endpoints = &plan.cluster.endpoints;
    let of = |id: &EndpointId| endpoints.iter().find(|endpoint| endpoint.id == *id);
    let rounds = rounds.unwrap_or_default().iter().filter_map(of);
    rounds.map(|endpoint| endpoint.config.priority).collect()
}

/// Why there is none.
pub(super) fn no_endpoint(call: &Call, plan: &Plan<'_>, none: NoEndpoint) -> Problem {
    let config = &plan.cluster.config;
    let mut service = config.service.clone();
    if !config.subset.is_empty() {
        service += &format!(" in subset {:?}", config.subset);
    }
    match none {
        NoEndpoint::Empty => Problem::new(Code::NoEndpoints, format!("{service} has no endpoints")),
        NoEndpoint::NotRedirected => {
            let message = format!(
                "{service} leads to where a connection was going before it was redirected to this sidecar, and this one was going nowhere else"
            );
            Problem::new(Code::NoEndpoints, message)
        }
        NoEndpoint::TooManyDestinations => {
            let message = format!("{MAX_DESTINATIONS} destinations of {service} are in use");
            Problem::new(Code::OverflowRequests, message)
        }
        NoEndpoint::Unhealthy | NoEndpoint::Exhausted => {
            let all = &plan.cluster.endpoints;
            let now = call.worker.shared.now();
            let ejected = |endpoint: &&Arc<outrigger_core::Endpoint>| {
                endpoint.state.ejected_until.load(Ordering::Relaxed) > now.0
            };
            let mut message = format!(
                "none of the {} endpoints of {service} is healthy",
                all.len()
            );
            match all.iter().filter(ejected).count() {
                0 => {}
                out => {
                    message += &format!("; {out} ejected for how they answered (outlierDetection)");
                }
            }
            Problem::new(Code::NoHealthyEndpoints, message)
        }
        NoEndpoint::BreakerOpen { until, of_service } => {
            breaker_open(call, plan, &service, (until, of_service))
        }
    }
}

/// Names the line that set the breaker, and when it will be tried again.
fn breaker_open(
    call: &Call,
    plan: &Plan<'_>,
    service: &str,
    (until, of_service): (Moment, bool),
) -> Problem {
    let breaker = plan.cluster.config.breaker.as_ref();
    let position = breaker.and_then(|breaker| breaker.position.as_ref());
    if let Some(position) = position {
        *call.policy.borrow_mut() = Some(Arc::clone(position));
    }
    let failures = breaker.map_or(0, |breaker| breaker.consecutive_failures);
    let left = until.0.saturating_sub(call.worker.shared.now().0);
    let whose = if of_service {
        format!("the circuit breaker of {service} is open")
    } else {
        format!("the circuit breakers of all healthy endpoints of {service} are open")
    };
    let message = format!(
        "{whose} after {failures} failures in a row (circuitBreaker{}); next probe in {left} ms",
        position.map_or_else(String::new, |position| format!(", {position}"))
    );
    Problem::new(Code::BreakerOpen, message)
}
