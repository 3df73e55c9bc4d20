//! The tries of one request: another endpoint each time, as the route's retry rules say.

use std::{rc::Rc, sync::Arc};

use http::{HeaderValue, Response, request::Parts};
use outrigger_core::{
    Cluster, ClusterSlot, EndpointId, Moment, NoEndpoint, Outcome, PickContext, Picked, Progress,
    RetryDecision, RetryPolicy, Route, WeightedCluster,
    retry::{Failure, Tried},
};

use super::{
    attempt::{Answered, Attempt, Failed},
    call::{Call, Limit, Told},
    deadline,
    finish::{Exchange, Held, grpc_status, http_of_grpc},
    upstream::{self, ATTEMPT_COUNT},
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
    /// None = it may last for ever.
    pub(crate) limit: Option<Limit>,
    /// Sent twice, it does what it does once.
    pub(crate) idempotent: bool,
    /// What the application may have seen can be due for another try.
    pub(crate) repeats: bool,
    /// For an answer whose headers speak of the request.
    pub(crate) asked: Option<Box<upstream::Asked>>,
}

/// What the last try left.
enum Last {
    Nothing,
    Problem(Problem, Progress),
    /// An answer that another try may make up for.
    // Boxed: the rare case would make every request's future larger.
    Answer(Box<Kept>),
}

/// An answer that is not passed on yet.
struct Kept {
    answered: Answered,
    attempt: Attempt,
    /// A sidecar says that its application has not seen the request.
    unsent: bool,
}

impl Last {
    fn failure(&self) -> Failure<'_> {
        match self {
            Self::Nothing => Failure::Without(Progress::Limited),
            Self::Problem(_, progress) => Failure::Without(*progress),
            Self::Answer(kept) if kept.unsent => Failure::Without(Progress::Unsent),
            Self::Answer(kept) => {
                let response = &kept.answered.response;
                Failure::Answered(response.status().as_u16(), response.headers())
            }
        }
    }

    /// Another try begins: this one's answer is nobody's.
    fn discard(self, cluster: &Arc<Cluster>) {
        if let Self::Answer(kept) = self {
            kept.attempt.end(Told {
                status: Some(kept.answered.response.status().as_u16()),
                error: Some(if kept.unsent { "unsent" } else { "retried" }),
                ..Told::default()
            });
            kept.answered.discard(cluster);
        }
    }
}

/// Sends the request until something answers.
pub(crate) async fn run(
    call: &Rc<Call>,
    plan: &Plan<'_>,
    mut head: Parts,
) -> Result<Response<DownBody>, Problem> {
    let cluster = plan.cluster;
    let policy = &plan.route.retry;
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
    if plan.repeats {
        cluster.retries.count_request(call.worker.shared.now());
    }
    upstream::address(&mut head, plan.protocol);
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last = Last::Nothing;
    let mut made = 0;
    loop {
        let picked = match pick(call, plan, &mut tried) {
            Ok(picked) => picked,
            Err(none) => {
                call.exhaust();
                let problem = no_endpoint(call, plan, none);
                return settle(call, plan, held, last, Some(problem));
            }
        };
        std::mem::replace(&mut last, Last::Nothing).discard(cluster);
        made += 1;
        tried.push(picked.endpoint.id);
        announce(call, plan, &mut head, made);
        let mut attempt = Attempt::begin(call, cluster, picked, made, head);
        let endpoint_left =
            policy.same_host_at_last || !policy.other_host || cluster.endpoints.len() > tried.len();
        let may_try_again = made < policy.attempts && endpoint_left;
        if !may_try_again {
            call.upload.keep_no_more();
        }
        let ended = attempt.run(plan, may_try_again).await;
        let next = attempt.take_head();
        last = match judge(call, policy, attempt, ended) {
            Verdict::Deliver(attempt, answered) => {
                return Ok(deliver(call, plan, held, attempt, answered));
            }
            Verdict::Failed(last) => last,
        };
        let tried_once = Tried {
            failure: last.failure(),
            idempotent: plan.idempotent,
            made,
            replayable: next.is_some() && call.upload.can_be_sent_again(),
            endpoint_left,
        };
        let again = again(call, plan, &mut held, &tried_once).await;
        match next {
            Some(next) if again => head = next,
            _ => return settle(call, plan, held, last, None),
        }
    }
}

/// What a try's end means.
// An answer is what most requests come to.
#[expect(clippy::large_enum_variant, reason = "made and taken apart at once")]
enum Verdict {
    Deliver(Attempt, Answered),
    Failed(Last),
}

fn judge(
    call: &Call,
    policy: &RetryPolicy,
    mut attempt: Attempt,
    ended: Result<Answered, Failed>,
) -> Verdict {
    let answered = match ended {
        Ok(answered) => answered,
        Err(failed) => return Verdict::Failed(Last::Problem(failed.problem, failed.progress)),
    };
    let unsent = answered.says_unsent(call);
    let (status, headers) = (
        answered.response.status().as_u16(),
        answered.response.headers(),
    );
    if unsent {
        attempt.was_not_sent();
        // gRPC says it with status 200.
        attempt.report(Outcome::Status(503));
    } else if policy.reads_answers() && policy.names(status, headers) {
        let grpc = call.grpc.then(|| grpc_status(headers)).flatten();
        attempt.report(Outcome::Status(grpc.map_or(status, http_of_grpc)));
    } else {
        return Verdict::Deliver(attempt, answered);
    }
    Verdict::Failed(Last::Answer(Box::new(Kept {
        answered,
        attempt,
        unsent,
    })))
}

/// What the next hop is told about this try.
fn announce(call: &Call, plan: &Plan<'_>, head: &mut Parts, made: u32) {
    if plan.route.tells_attempts {
        head.headers.insert(ATTEMPT_COUNT, HeaderValue::from(made));
    }
    let whole = plan.limit.map(|limit| limit.left());
    let left = match (whole, plan.route.retry.per_try_timeout) {
        (Some(whole), Some(one)) => Some(whole.min(one)),
        (whole, one) => whole.or(one),
    };
    if let Some(left) = left {
        deadline::announce(&mut head.headers, left, call.grpc);
    }
}

fn pick(call: &Call, plan: &Plan<'_>, tried: &mut Vec<EndpointId>) -> Result<Picked, NoEndpoint> {
    let policy = &plan.route.retry;
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

/// The priorities tried so far, if it is time to leave them out. Those of the last, incomplete round still count as one.
fn previous_priorities(plan: &Plan<'_>, tried: &[EndpointId]) -> Vec<u32> {
    let every = plan.route.retry.other_priority_every;
    let Some(every) = every.and_then(|every| usize::try_from(every).ok()) else {
        return Vec::new();
    };
    let rounds = tried.get(..tried.len() / every.max(1) * every);
    let endpoints = &plan.cluster.endpoints;
    let of = |id: &EndpointId| endpoints.iter().find(|endpoint| endpoint.id == *id);
    let rounds = rounds.unwrap_or_default().iter().filter_map(of);
    rounds.map(|endpoint| endpoint.config.priority).collect()
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
async fn again(call: &Rc<Call>, plan: &Plan<'_>, held: &mut Held, tried: &Tried<'_>) -> bool {
    let cluster = plan.cluster;
    // The last retry has ended.
    held.retry = None;
    let decision = plan.route.retry.decide(
        tried,
        &cluster.retries,
        cluster.limits.requests.used(),
        call.worker.shared.now(),
        &mut call.worker.rng.borrow_mut(),
    );
    let (outcome, wait) = match decision {
        RetryDecision::Again { after, permit } => match cluster.limits.retries.try_acquire(true) {
            Some(limit) => {
                held.retry = Some((permit, limit));
                ("again", Some(after))
            }
            None => {
                call.exhaust();
                (Code::OverflowRetries.as_str(), None)
            }
        },
        RetryDecision::Stop(reason) => {
            if reason.is_exhaustion() {
                call.exhaust();
            }
            (reason.as_str(), None)
        }
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
        (Last::Answer(kept), _) => Ok(deliver(call, plan, held, kept.attempt, kept.answered)),
        (Last::Problem(problem, _), _) | (Last::Nothing, Some(problem)) => Err(problem),
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
    let (endpoint, attempts) = (attempt.address(), attempt.number());
    let exchange = Exchange::new(call, attempt, answered.lease, held, status, &head.headers);
    upstream::answer(call, &mut head, plan, endpoint, attempts);
    call.mark_exhausted(exchange.failed(), &mut head.headers);
    let left = plan.limit.map(|limit| (limit.left(), limit.code));
    let body = DownBody::upstream(incoming, Box::new(exchange), left);
    Response::from_parts(head, body)
}
