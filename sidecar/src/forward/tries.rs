//! The tries of one request: another endpoint each time, as the route's retry rules say.

use std::{borrow::Cow, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Response, request::Parts};
use outrigger_core::{
    Cluster, ClusterSlot, EndpointId, Hedge, Outcome, Progress, RetryPolicy, Route,
    WeightedCluster,
    retry::{Failure, StopReason, Tried},
};

use super::{
    attempt::{Answered, Attempt, Failed},
    call::{Call, Limit, Told},
    choose, deadline,
    finish::{Exchange, Held, grpc_status, http_of_grpc},
    hedge::{self, Count},
    mirror,
    tunnel::Tunnel,
    upgrade::Wanted,
    upstream::{self, ATTEMPT_COUNT},
};
use crate::{
    http::{
        answer::{Code, Problem},
        body::DownBody,
        headers,
    },
    pool::{
        Protocol,
        lease::{Lease, Up},
    },
    worker::View,
};

/// What the route says about this request.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) slot: ClusterSlot,
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) route: &'a Route,
    /// The route's rules, or what the application made of them.
    pub(crate) retry: Cow<'a, RetryPolicy>,
    pub(crate) snapshot: &'a View,
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
    /// Another try may be sent beside a slow one.
    pub(crate) hedge: Option<Hedge>,
    /// For an answer whose headers speak of the request.
    pub(crate) asked: Option<Box<upstream::Asked>>,
    /// Of a request for a WebSocket that may go on in HTTP/2.
    pub(crate) websocket_key: Option<HeaderValue>,
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
    let policy = &*plan.retry;
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
    if plan.repeats || plan.hedge.is_some() {
        cluster.retries.count_request(call.worker.shared.now());
    }
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last = Last::Nothing;
    let mut made = 0;
    loop {
        let picked = match choose::pick(call, plan, &mut tried) {
            Ok(picked) => picked,
            Err(none) => {
                call.exhaust();
                let problem = choose::no_endpoint(call, plan, none);
                return settle(call, plan, held, last, Some(problem));
            }
        };
        if made == 0 {
            // Before the body is read, and not for requests that are refused.
            if let Some(wanted) = &call.wanted {
                wanted.ask(&mut head, plan.protocol, || {
                    call.worker.rng.borrow_mut().u128(..).to_be_bytes()
                });
            } else {
                mirror::send(call, plan, &head);
            }
            if let Err(problem) = upstream::address(&mut head, plan.protocol) {
                cluster.unused(&picked, call.worker.shared.now());
                return Err(problem);
            }
            upstream::frame(&mut head, plan.protocol, !call.upload.is_empty());
        }
        std::mem::replace(&mut last, Last::Nothing).discard(cluster);
        made += 1;
        tried.push(picked.endpoint.id);
        announce(call, plan, &mut head, made);
        let mut attempt = Attempt::begin(call, cluster, picked, made, head);
        let endpoint_left =
            policy.same_host_at_last || !policy.other_host || cluster.endpoints.len() > tried.len();
        let may_try_again = made < policy.attempts && endpoint_left;
        let hedge = plan.hedge.filter(|_| made == 1);
        if !may_try_again && hedge.is_none() {
            call.upload.keep_no_more();
        }
        let ended = match hedge {
            None => attempt.run(plan, may_try_again).await,
            Some(hedge) => {
                let count = Count {
                    tried: &mut tried,
                    made: &mut made,
                };
                // Boxed: few routes hedge.
                let race = hedge::race(call, plan, hedge, attempt, may_try_again, count);
                let ended;
                (attempt, ended) = Box::pin(race).await;
                ended
            }
        };
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
        let outcome = again(call, plan, &mut held, &tried_once);
        call.worker.handles.count_retry(outcome.word());
        match (next, outcome) {
            (Some(next), Again::After(wait)) => {
                head = next;
                // An answer may have come before all of the body was sent: that connection is of no more use, and its
                // place may be the one that the next try needs.
                call.upload.cut();
                tokio::time::sleep(wait).await;
            }
            (_, outcome) => {
                if let (Last::Problem(problem, _), Some(limit)) = (&mut last, outcome.limit()) {
                    problem.message += &format!("; not sent again: {limit}");
                }
                return settle(call, plan, held, last, None);
            }
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
        Ok(mut answered) => {
            answered.distrust(call);
            answered
        }
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

/// An answer that [`judge`] would not deliver.
pub(crate) fn is_failure(call: &Call, plan: &Plan<'_>, answered: &Answered) -> bool {
    let response = &answered.response;
    let (policy, status) = (&plan.retry, response.status().as_u16());
    answered.says_unsent(call)
        || (policy.reads_answers() && policy.names(status, response.headers()))
}

/// Ends a try whose failure another try has made up for, or may.
pub(crate) fn discard(
    call: &Call,
    plan: &Plan<'_>,
    attempt: Attempt,
    ended: Result<Answered, Failed>,
) {
    if let Verdict::Failed(last) = judge(call, &plan.retry, attempt, ended) {
        last.discard(plan.cluster);
    }
}

/// What the next hop is told about this try.
pub(crate) fn announce(call: &Call, plan: &Plan<'_>, head: &mut Parts, made: u32) {
    if plan.route.tells_attempts {
        head.headers.insert(ATTEMPT_COUNT, HeaderValue::from(made));
    }
    let whole = plan.limit.map(|limit| call.remains(&limit));
    let left = match (whole, plan.retry.per_try_timeout) {
        (Some(whole), Some(one)) => Some(whole.min(one)),
        (whole, one) => whole.or(one),
    };
    if let Some(left) = left {
        deadline::announce(&mut head.headers, left, call.grpc);
    }
}

/// What the retry rules say.
enum Again {
    After(Duration),
    Not(&'static str),
}

impl Again {
    /// For the counter.
    fn word(&self) -> &'static str {
        match self {
            Self::After(_) => "again",
            Self::Not(reason) => reason,
        }
    }

    /// The limit of ours that stands against another try.
    fn limit(&self) -> Option<&'static str> {
        let limits = [
            StopReason::Budget.as_str(),
            StopReason::Window.as_str(),
            Code::OverflowRetries.as_str(),
        ];
        limits.into_iter().find(|limit| *limit == self.word())
    }
}

/// Asks the retry rules.
fn again(call: &Rc<Call>, plan: &Plan<'_>, held: &mut Held, tried: &Tried<'_>) -> Again {
    let cluster = plan.cluster;
    // The last retry has ended.
    held.retry = None;
    let seen = match plan.retry.due(tried) {
        Ok(seen) => seen,
        Err(reason) => return stop(call, reason),
    };
    let Some(limit) = cluster.limits.retries.try_acquire(true) else {
        call.exhaust();
        return Again::Not(Code::OverflowRetries.as_str());
    };
    let spent = plan.retry.spend(
        (seen, tried.made),
        &cluster.retries,
        cluster.limits.requests.used(),
        call.worker.shared.now(),
        &mut call.worker.rng.borrow_mut(),
    );
    match spent {
        Ok((after, permit)) => {
            held.retry = Some((permit, limit));
            Again::After(after)
        }
        Err(reason) => stop(call, reason),
    }
}

fn stop(call: &Call, reason: StopReason) -> Again {
    if reason.is_exhaustion() {
        call.exhaust();
    }
    Again::Not(reason.as_str())
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
    let of_sidecar = answered.is_of_sidecar(call);
    let (mut head, incoming) = answered.response.into_parts();
    if let Some(seconds) = headers::keep_alive_timeout(&head.headers) {
        answered.lease.about().peer_keeps_for(seconds);
    }
    let status = head.status.as_u16();
    let (endpoint, attempts) = (attempt.address(), attempt.number());
    let (mut up, mut lease) = (None, Some(answered.lease));
    if let Some(wanted) = &call.wanted {
        // Boxed, with the rest of it: few requests switch.
        (up, lease) = switch(wanted, &mut head, lease);
    }
    let exchange = Exchange::new(call, attempt, lease, held, status, &head.headers);
    upstream::answer(call, &mut head, plan, endpoint, attempts, of_sidecar);
    if let (Some(up), Some(wanted)) = (up, &call.wanted) {
        wanted.answer(&mut head, plan.websocket_key.as_ref());
        let tunnel = Tunnel::switched(call, up, Box::new(exchange));
        *call.tunnel.borrow_mut() = Some(Box::new(tunnel));
        return Response::from_parts(head, DownBody::empty());
    }
    call.mark_exhausted(exchange.failed(), &mut head.headers);
    let body = DownBody::upstream(incoming, Box::new(exchange), plan.limit);
    Response::from_parts(head, body)
}

/// Takes the connection of an answer that has switched, and leaves it to all others.
fn switch(
    wanted: &Wanted,
    head: &mut http::response::Parts,
    lease: Option<Lease>,
) -> (Option<Up>, Option<Lease>) {
    let done = |lease: &Lease| wanted.is_done_by(head.status, &head.headers, lease.protocol());
    match lease {
        Some(lease) if done(&lease) => (lease.into_up(&mut head.extensions), None),
        lease => (None, lease),
    }
}
