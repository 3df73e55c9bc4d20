//! The tries of one request: another endpoint each time, and only what is provably unsent.

use std::{rc::Rc, sync::Arc};

use http::{HeaderValue, Response, request::Parts};
use outrigger_core::{
    Cluster, ClusterSlot, EndpointId, Moment, NoEndpoint, Outcome, PickContext, Picked, Progress,
    RetryDecision, RetryPolicy, Route, StopReason, WeightedCluster,
};

use super::{
    attempt::{Answered, Attempt},
    call::{Call, Told},
    finish::{Exchange, Held},
    upstream,
};
use crate::{
    http::{
        answer::{Code, Problem},
        body::DownBody,
        headers,
    },
    pool::Protocol,
};

/// What the route says about this request.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) slot: ClusterSlot,
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) route: &'a Route,
    pub(crate) weighted: &'a WeightedCluster,
    pub(crate) hash: Option<u64>,
    /// Cookies to set on the response.
    pub(crate) cookies: Vec<HeaderValue>,
    pub(crate) protocol: Protocol,
}

/// What the last try left.
enum Last {
    Nothing,
    Problem(Problem),
    /// A sidecar's answer that its application has not seen the request.
    // Boxed: the rare case would make every request's future larger.
    Answer(Box<(Answered, Attempt)>),
}

/// Sends the request until something answers.
pub(crate) async fn run(
    call: &Rc<Call>,
    plan: &Plan<'_>,
    mut head: Parts,
) -> Result<Response<DownBody>, Problem> {
    let cluster = plan.cluster;
    let request = cluster.limits.requests.try_acquire(true).ok_or_else(|| {
        let message = format!(
            "{} requests to {} are in flight (http2MaxRequests)",
            cluster.limits.requests.limit(),
            cluster.config.service
        );
        Problem::new(Code::OverflowRequests, message)
    })?;
    let mut held = Held {
        _request: request,
        retry: None,
    };
    upstream::address(&mut head, plan.protocol);
    let policy = RetryPolicy::default();
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last = Last::Nothing;
    let mut made = 0;
    loop {
        let picked = match pick(call, plan, &tried) {
            Ok(picked) => picked,
            Err(none) => {
                let problem = no_endpoint(call, plan, none);
                return settle(call, plan, held, last, Some(problem));
            }
        };
        if let Last::Answer(answer) = std::mem::replace(&mut last, Last::Nothing) {
            let (answered, attempt) = *answer;
            attempt.end(Told {
                status: Some(answered.response.status().as_u16()),
                error: Some("unsent"),
                ..Told::default()
            });
            drop(answered.response);
            answered.lease.release(cluster);
        }
        made += 1;
        tried.push(picked.endpoint.id);
        let mut attempt = Attempt::begin(call, cluster, picked, made, &mut head);
        let may_try_again = made < policy.attempts && cluster.endpoints.len() > tried.len();
        if !may_try_again {
            call.upload.keep_no_more();
        }
        let (progress, next) = match attempt.run(plan, head, may_try_again).await {
            Ok(mut answered) => {
                if !answered.says_unsent(call) {
                    return Ok(deliver(call, plan, held, attempt, answered));
                }
                attempt.was_not_sent();
                // gRPC says it with status 200.
                attempt.report(Outcome::Status(503));
                let spare = answered.spare.take();
                last = Last::Answer(Box::new((answered, attempt)));
                (Progress::Unsent, spare)
            }
            Err(failed) => {
                last = Last::Problem(failed.problem);
                (failed.progress, failed.head)
            }
        };
        let next = next.filter(|_| may_try_again && call.upload.can_be_sent_again());
        let Some(next) = next else {
            return settle(call, plan, held, last, None);
        };
        head = next;
        if !again(call, plan, &mut held, progress, made).await {
            return settle(call, plan, held, last, None);
        }
    }
}

fn pick(call: &Call, plan: &Plan<'_>, tried: &[EndpointId]) -> Result<Picked, NoEndpoint> {
    plan.cluster.pick(&mut PickContext {
        hash: plan.hash,
        tried,
        previous_priorities: &[],
        now: call.worker.shared.now(),
        rng: &mut call.worker.rng.borrow_mut(),
    })
}

fn no_endpoint(call: &Call, plan: &Plan<'_>, none: NoEndpoint) -> Problem {
    let config = &plan.cluster.config;
    let mut service = config.service.clone();
    if !config.subset.is_empty() {
        service += &format!(" in subset {:?}", config.subset);
    }
    match none {
        NoEndpoint::Empty => Problem::new(Code::NoEndpoints, format!("{service} has no endpoints")),
        NoEndpoint::Unhealthy | NoEndpoint::Exhausted => Problem::new(
            Code::NoHealthyEndpoints,
            format!(
                "none of the {} endpoints of {service} is healthy",
                plan.cluster.endpoints.len()
            ),
        ),
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

/// Asks the retry rules; waits as they say.
async fn again(
    call: &Rc<Call>,
    plan: &Plan<'_>,
    held: &mut Held,
    progress: Progress,
    made: u32,
) -> bool {
    let cluster = plan.cluster;
    let decision = RetryPolicy::default().decide(
        progress,
        made,
        &cluster.retries,
        cluster.limits.requests.used(),
        &mut call.worker.rng.borrow_mut(),
    );
    let (outcome, wait) = match decision {
        RetryDecision::Again { after, permit } => match cluster.limits.retries.try_acquire(true) {
            Some(limit) => {
                held.retry = Some((permit, limit));
                ("again", Some(after))
            }
            None => (Code::OverflowRetries.as_str(), None),
        },
        RetryDecision::Stop(StopReason::MaybeSent) => ("maybe_sent", None),
        RetryDecision::Stop(StopReason::Attempts) => ("attempts", None),
        RetryDecision::Stop(StopReason::Budget) => ("budget", None),
    };
    call.worker.handles.count_retry(outcome);
    if let Some(after) = wait {
        tokio::time::sleep(after).await;
    }
    wait.is_some()
}

/// There is no further try: what the last one left is the answer.
fn settle(
    call: &Rc<Call>,
    plan: &Plan<'_>,
    held: Held,
    last: Last,
    none: Option<Problem>,
) -> Result<Response<DownBody>, Problem> {
    match (last, none) {
        (Last::Answer(answer), _) => {
            let (answered, attempt) = *answer;
            Ok(deliver(call, plan, held, attempt, answered))
        }
        (Last::Problem(problem), _) | (Last::Nothing, Some(problem)) => Err(problem),
        (Last::Nothing, None) => Err(Problem::new(Code::NoEndpoints, "no endpoint was tried")),
    }
}

/// Passes a response on.
fn deliver(
    call: &Rc<Call>,
    plan: &Plan<'_>,
    held: Held,
    attempt: Attempt,
    answered: Answered,
) -> Response<DownBody> {
    call.upload.forget();
    let (mut head, incoming) = answered.response.into_parts();
    if let Some(seconds) = headers::keep_alive_timeout(&head.headers) {
        answered.lease.about().peer_keeps_for(seconds);
    }
    let status = head.status.as_u16();
    let exchange = Exchange::new(call, attempt, answered.lease, held, status, &head.headers);
    upstream::answer(
        &mut head,
        call.direction,
        plan.route,
        plan.weighted,
        &plan.cookies,
    );
    let left = call.time_left(plan.route.timeout);
    Response::from_parts(head, DownBody::upstream(incoming, Box::new(exchange), left))
}
