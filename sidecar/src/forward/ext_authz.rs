//! A request waits here for the verdict of an authorization server, which is asked as any service is: over the worker's
//! pools, under its cluster's limits, with mTLS and a span of its own.
//!
//! ```text
//! seat ──► body (bounded) ──► question ──► one endpoint, another if the first has not seen it ──► verdict
//! ```
//! No verdict in time is a refusal with a code of its own, unless the filter says that the request goes on then. What is
//! asked and what a verdict says is `question`'s and `verdict`'s.

mod question;
mod verdict;

use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, request::Parts, response};
use http_body_util::{BodyExt as _, Limited};
use outrigger_core::{
    CheckService, ExtAuthz, Facts, NoEndpoint, Outcome, PickContext, PolicyPositions,
};
use tokio::time::timeout;

use super::{
    call::{Call, CheckSpan},
    mirror::Told,
    upstream,
};
use crate::{
    http::{
        answer::{Code, Problem},
        replay::{Gathered, UpBody, Upload},
    },
    pool::{
        Protocol,
        acquire::{NoConnection, Target},
    },
    telemetry::filters::Checked,
    worker::View,
};
use question::Question;
use verdict::{Allowed, Verdict};

/// Questions of one worker that wait for their answers.
const AT_ONCE: u32 = 1024;
/// For the next part of a body that is sent along.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Of an answer.
const MOST_ANSWER: usize = 256 * 1024;
/// An endpoint that provably has not seen the question, or a connection that it had closed meanwhile, is not the last one.
const TRIES: u32 = 2;

/// Before the provider's name in a rule's (Istio's words).
const MARK: &str = "istio-ext-authz-";

const FAILURE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// An answer: its head, its body, its trailers.
struct Reply {
    head: response::Parts,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

/// How a request goes on that may.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Its route has to be looked for again.
    pub(super) reroute: bool,
    /// What is done to the answer that it gets.
    pub(super) answer: Vec<outrigger_core::Mutation>,
}

/// Asks, because of a document's rule, if one selects the request.
pub(super) async fn ask(
    call: &Rc<Call>,
    view: &View,
    check: &ExtAuthz,
    (policy, policies): (Option<&Arc<str>>, &PolicyPositions),
    parts: &mut Parts,
    authority: &HeaderValue,
) -> Result<Passed, Problem> {
    let asked = decide(call, view, check, parts, authority).await;
    if let (Err(problem), Some(policy)) = (&asked, policy) {
        let told = told(policy, policies);
        tracing::info!(
            remote = %call.connection.remote,
            peer = call.connection.peer.as_ref().map(|peer| &*peer.svid.id),
            policy = %told,
            why = %problem.message,
            "access denied"
        );
        *call.policy.borrow_mut() = Some(told);
    }
    asked
}

/// Without what it begins with for Envoy, and with its line: `ns[default]-policy[opa]-rule[0] (opa.yaml:12:5)`.
fn told(policy: &Arc<str>, policies: &PolicyPositions) -> Arc<str> {
    let position = policies.of(policy);
    let own = policy.strip_prefix(MARK).and_then(|rest| {
        let start = rest.find("-ns[")?;
        rest.get(start + 1..)
    });
    let own = own.unwrap_or(policy);
    match position {
        Some(position) => format!("{own} ({position})").into(),
        None => own.into(),
    }
}

async fn decide(
    call: &Rc<Call>,
    view: &View,
    check: &ExtAuthz,
    parts: &mut Parts,
    authority: &HeaderValue,
) -> Result<Passed, Problem> {
    let counters = call.worker.handles.filters();
    let verdict = match Seat::take(call) {
        Some(_seat) => {
            let body = body(call, check).await?;
            within(call, view, check, (parts, authority, body)).await
        }
        None => Err(format!("{AT_ONCE} requests wait for their verdicts")),
    };
    // The route's timeout counts from here on, as Envoy's does.
    call.restart_clock();
    match verdict {
        Ok(Verdict::Allowed(allowed)) => {
            counters.checked(call.direction, Checked::Allowed);
            Ok(go_on(check, *allowed, parts))
        }
        Ok(Verdict::Denied(given)) => {
            counters.checked(call.direction, Checked::Denied);
            let message = format!("{} denies it", check.cluster_name);
            Err(Problem::new(Code::ExtAuthzDenied, message).given(given))
        }
        Err(why) if check.fails_open => {
            counters.checked(call.direction, Checked::FailedOpen);
            tracing::debug!(cluster = %check.cluster_name, why, "no verdict: the request goes on");
            if check.tells_failure {
                let yes = HeaderValue::from_static("true");
                parts.headers.insert(FAILURE_ALLOWED, yes);
            }
            Ok(Passed::default())
        }
        Err(why) => {
            counters.checked(call.direction, Checked::Error);
            let message = format!("no verdict of {}: {why}", check.cluster_name);
            let problem = Problem::new(Code::ExtAuthzError, message);
            Err(problem.with_status(check.status_on_error))
        }
    }
}

/// One of the places for questions.
struct Seat<'a>(&'a Call);

impl<'a> Seat<'a> {
    fn take(call: &'a Call) -> Option<Self> {
        let taken = &call.worker.checks;
        (taken.get() < AT_ONCE).then(|| {
            taken.set(taken.get() + 1);
            call.worker.telemetry.metrics.ext_authz_waiting.inc();
            Self(call)
        })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let taken = &self.0.worker.checks;
        taken.set(taken.get().saturating_sub(1));
        self.0.worker.telemetry.metrics.ext_authz_waiting.dec();
    }
}

/// What of the body is sent along.
async fn body(call: &Call, check: &ExtAuthz) -> Result<Option<Gathered>, Problem> {
    let Some(wanted) = check.body.filter(|_| !call.upload.is_empty()) else {
        return Ok(None);
    };
    let gathered = call.upload.gather(wanted.most, BODY_WITHIN).await;
    let bad = |message: &str| Problem::new(Code::BadRequest, message);
    let gathered = gathered.map_err(|why| bad(why.as_str()))?;
    if !gathered.complete && !wanted.partial {
        let message = format!(
            "the body is longer than the {} bytes that {} looks at (maxRequestBytes)",
            wanted.most, check.cluster_name
        );
        return Err(bad(&message).with_status(413));
    }
    Ok(Some(gathered))
}

async fn within(
    call: &Call,
    view: &View,
    check: &ExtAuthz,
    about: (&Parts, &HeaderValue, Option<Gathered>),
) -> Result<Verdict, String> {
    let (parts, authority, body) = about;
    let limit = match call.caller_waits() {
        Some(left) => left.min(check.timeout),
        None => check.timeout,
    };
    let question = question::make(call, check, parts, authority, body, limit)?;
    let asked = timeout(limit, exchange(call, view, check, question)).await;
    let reply = asked.map_err(|_late| format!("nothing came within {limit:?}"))??;
    match &check.service {
        CheckService::Grpc { .. } => verdict::of_grpc(&reply),
        CheckService::Http(http) => verdict::of_http(http, &reply),
    }
}

/// The question's way there, and the answer's way back.
async fn exchange(
    call: &Call,
    view: &View,
    check: &ExtAuthz,
    question: Question,
) -> Result<Reply, String> {
    let worker = &call.worker;
    let serving = {
        let now = || worker.shared.now();
        view.serving(check.cluster, now, &mut worker.rng.borrow_mut())
    };
    let (slot, cluster) = serving.ok_or("its cluster has not arrived")?;
    let protocol = match check.service {
        CheckService::Grpc { .. } => Protocol::Http2,
        CheckService::Http(_) => upstream::protocol(cluster, false),
    };
    let Question { mut head, body } = question;
    upstream::address(&mut head, protocol).map_err(|problem| problem.message)?;
    let mut tried = Vec::new();
    let mut made = 0;
    loop {
        made += 1;
        let Some(_request) = cluster.limits.requests.try_acquire(true) else {
            let limit = cluster.limits.requests.limit();
            return Err(format!(
                "{limit} requests to it are in flight (http2MaxRequests)"
            ));
        };
        let picked = cluster.pick(&mut PickContext {
            hash: None,
            tried: &tried,
            previous_priorities: &[],
            now: worker.shared.now(),
            rng: &mut worker.rng.borrow_mut(),
        });
        let picked = match picked {
            Ok(picked) => picked,
            Err(NoEndpoint::Exhausted) if !tried.is_empty() => {
                tried.clear();
                continue;
            }
            Err(none) => return Err(no_endpoint(&none).to_owned()),
        };
        tried.push(picked.endpoint.id);
        let endpoint = Arc::clone(&picked.endpoint);
        let _in_flight = endpoint.begin();
        let mut told = Told::new(worker, cluster, picked);
        let reached = Cell::new(false);
        let target = Target {
            slot,
            cluster,
            endpoint: &endpoint,
            protocol,
            fresh: made > 1,
            ends: None,
            reached: &reached,
        };
        let started = SystemTime::now();
        let mut sent = head.clone();
        let span = call.begin_check(&mut sent.headers);
        let end = |status, error| {
            call.end_check(
                &CheckSpan {
                    context: span,
                    started,
                    status,
                    error,
                },
                cluster,
                &endpoint,
            );
        };
        let mut lease = match worker.pools.acquire(target).await {
            Ok(lease) => lease,
            Err(NoConnection::Connect(error)) => {
                told.report(Outcome::LocalError);
                end(None, Some("connect_failed"));
                if made < TRIES {
                    continue;
                }
                return Err(error.to_string());
            }
            Err(NoConnection::QueueFull | NoConnection::NoneFree(_)) => {
                end(None, Some("overflow_pending"));
                return Err("all connections to it are in use (maxConnections)".to_owned());
            }
        };
        let request = Request::from_parts(sent, UpBody::of(body.clone()));
        let response = match lease.send(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                // Asking again does nothing but ask.
                let stale = lease.reused && !lease.heard();
                if (unsent || stale) && made < TRIES {
                    end(None, Some("upstream_closed"));
                    continue;
                }
                told.report(Outcome::LocalError);
                end(None, Some("upstream_reset"));
                return Err(format!(
                    "{}: {}",
                    endpoint.config.address,
                    error.into_error()
                ));
            }
        };
        let (head, incoming) = response.into_parts();
        let collected = Limited::new(incoming, MOST_ANSWER).collect().await;
        let collected = match collected {
            Ok(collected) => collected,
            Err(error) => {
                told.report(Outcome::LocalError);
                end(Some(head.status.as_u16()), Some("upstream_reset"));
                return Err(format!("{}: {error}", endpoint.config.address));
            }
        };
        told.report(Outcome::Status(head.status.as_u16()));
        end(Some(head.status.as_u16()), None);
        lease.release(cluster, &Upload::default());
        let trailers = collected.trailers().cloned();
        return Ok(Reply {
            head,
            body: collected.to_bytes(),
            trailers,
        });
    }
}

fn no_endpoint(none: &NoEndpoint) -> &'static str {
    match none {
        NoEndpoint::Empty => "it has no endpoints",
        NoEndpoint::NotRedirected | NoEndpoint::TooManyDestinations => {
            "a cluster of type ORIGINAL_DST has no server to ask"
        }
        NoEndpoint::Unhealthy | NoEndpoint::Exhausted => "none of its endpoints is healthy",
        NoEndpoint::BreakerOpen { .. } => "its circuit breaker is open",
    }
}

/// Edits the request as the verdict says.
fn go_on(check: &ExtAuthz, allowed: Allowed, parts: &mut Parts) -> Passed {
    let facts = Facts::default();
    let changed = !allowed.request.is_empty() || allowed.query.is_some();
    for mutation in &allowed.request {
        mutation.apply(&mut parts.headers, &facts);
    }
    if let Some(query) = allowed.query {
        query.apply(parts);
    }
    Passed {
        reroute: check.clears_route && changed,
        answer: allowed.response,
    }
}
