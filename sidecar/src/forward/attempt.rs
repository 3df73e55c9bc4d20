//! One try of a request at one endpoint.

use std::{
    cell::Cell,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{Request, StatusCode, Version, request::Parts};
use outrigger_core::{
    Cluster, Endpoint, InFlight, Outcome, Permit, Picked, Progress, retry::is_idempotent,
};
use tokio::time::timeout;

use super::{
    call::{Call, Told},
    tries::Plan,
};
use crate::{
    connect::ConnectError,
    http::{
        answer::{Code, Problem},
        check,
        expect::Gate,
        replay::UpBody,
    },
    inbound,
    pool::{
        Protocol,
        acquire::{NoConnection, Target},
        lease::Lease,
    },
    proxy_protocol::header::Ends,
    telemetry::propagate::TraceContext,
};

mod answered;
mod errors;

pub(crate) use answered::Answered;
use errors::{chain, closed_before_answer, refused_stream, was_reset};

/// Connections in a row that their server may have closed by the time of the request.
const MOST_STALE: u32 = 3;

/// A try. Dropped before its end, it was cancelled: by the route's timeout, or because the caller left.
#[derive(Debug)]
pub(crate) struct Attempt {
    call: Rc<Call>,
    cluster: Arc<Cluster>,
    picked: Picked,
    number: u32,
    started: SystemTime,
    span: Option<TraceContext>,
    ended: bool,
    /// The endpoint was connected to, or a connection to it was at hand. Until then what passes is our own time.
    reached: Cell<bool>,
    /// Apart from the last sending, the application may have seen the request.
    sent_before: bool,
    /// What was sent last, the application may have seen.
    sent: Cell<bool>,
    /// The ejection rules know the outcome.
    reported: bool,
    /// The request's head, before it is sent, and while it may be needed again.
    head: Option<Parts>,
    /// Sent instead of what the caller still uploads: another try is reading that.
    body: Option<UpBody>,
    beside: bool,
    /// Longer than this it did not have to wait for another try to be sent beside it.
    patience: Option<Duration>,
    /// Of a try beside another one.
    permits: Option<Extra>,
    _in_flight: InFlight,
}

/// What a try beside another one takes of the cluster's limits: one of `http2MaxRequests`, and one of `maxRetries`.
pub(crate) type Extra = (Permit, Permit);

/// A try that brought no response.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) problem: Problem,
    pub(crate) progress: Progress,
}

impl Attempt {
    pub(crate) fn begin(
        call: &Rc<Call>,
        cluster: &Arc<Cluster>,
        picked: Picked,
        number: u32,
        mut head: Parts,
    ) -> Self {
        Self {
            call: Rc::clone(call),
            cluster: Arc::clone(cluster),
            number,
            started: SystemTime::now(),
            span: call.inject(&mut head.headers),
            ended: false,
            reached: Cell::new(false),
            sent_before: false,
            sent: Cell::new(false),
            reported: false,
            head: Some(head),
            body: None,
            beside: false,
            patience: None,
            permits: None,
            _in_flight: picked.endpoint.begin(),
            picked,
        }
    }

    /// Sends the request and waits for the head of its response, as long as one try may last.
    pub(crate) async fn run(
        &mut self,
        plan: &Plan<'_>,
        may_try_again: bool,
    ) -> Result<Answered, Failed> {
        let Some(limit) = plan.retry.per_try_timeout else {
            return self.send(plan, may_try_again).await;
        };
        let call = Rc::clone(&self.call);
        call.upload.measure();
        let begun = Instant::now();
        let by_caller = {
            let mut sending = pin!(self.send(plan, may_try_again));
            let mut left = limit;
            while !left.is_zero() {
                if let Ok(ended) = timeout(left, sending.as_mut()).await {
                    return ended;
                }
                left = call.remains_since(begun, limit);
            }
            // Asked before the try lets go of the body.
            call.upload.waits_for_caller()
        };
        Err(self.timed_out(limit, by_caller))
    }

    /// Runs to its end.
    pub(crate) async fn into_end(
        mut self,
        plan: &Plan<'_>,
        may_try_again: bool,
    ) -> (Self, Result<Answered, Failed>) {
        let ended = self.run(plan, may_try_again).await;
        (self, ended)
    }

    /// Beside another try, with a body of its own.
    pub(crate) fn with_body(mut self, body: UpBody, permits: Extra) -> Self {
        self.body = Some(body);
        self.beside = true;
        self.permits = Some(permits);
        self
    }

    /// It is the only one now, and the request's own permits are enough.
    pub(crate) fn is_alone(&mut self) {
        self.permits = None;
    }

    /// Another try is sent beside it after this time, and whoever answers first wins.
    pub(crate) fn may_lose_after(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Being cut off now says something about its endpoint.
    pub(crate) fn had_its_time(&self) -> bool {
        let waited = self.started.elapsed().unwrap_or_default();
        self.call.had_its_time(waited)
    }

    /// It lost a race for which it had more time than it was given.
    fn is_slow(&self) -> bool {
        let waited = self.started.elapsed().unwrap_or_default();
        self.sent.get() && self.patience.is_some_and(|patience| waited >= patience)
    }

    pub(crate) fn copy_head(&self) -> Option<Parts> {
        self.head.clone()
    }

    /// The request's head, if it was kept.
    pub(crate) fn take_head(&mut self) -> Option<Parts> {
        self.head.take()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.picked.endpoint.config.address
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// For whom its connection is opened, if that matters.
    fn ends(&self) -> Option<Ends> {
        self.cluster.config.proxy_protocol?;
        self.call.connection.ends()
    }

    async fn send(&mut self, plan: &Plan<'_>, may_try_again: bool) -> Result<Answered, Failed> {
        let mut stale = 0;
        loop {
            let target = Target {
                slot: plan.slot,
                cluster: plan.cluster,
                endpoint: &self.picked.endpoint,
                protocol: plan.protocol,
                fresh: stale > 0,
                ends: self.ends(),
                reached: &self.reached,
            };
            let pools = Rc::clone(&self.call.worker.pools);
            let mut lease = match pools.acquire(target).await {
                Ok(lease) => lease,
                Err(error) => return Err(self.not_connected(&error)),
            };
            self.reached.set(true);
            if self.call.wanted.is_some()
                && !lease
                    .takes_connect(plan.cluster.config.connect_timeout)
                    .await
            {
                return Err(self.takes_no_connect());
            }
            let spare = if self.keeps_head(&lease, plan, may_try_again) {
                self.head.clone()
            } else {
                None
            };
            let Some(head) = std::mem::replace(&mut self.head, spare) else {
                return Err(self.without_head());
            };
            let body = self.body.take();
            let body = body.unwrap_or_else(|| self.call.upload.next_try());
            let expects = self.call.expects && lease.protocol() == Protocol::Http1;
            let gate = expects.then(Gate::default);
            let body = match &gate {
                Some(gate) => body.held_by(gate.clone()),
                None => body,
            };
            let mut request = Request::from_parts(head, body);
            if let Some(gate) = &gate {
                gate.listen(&mut request);
            }
            let sent = plan.cluster.measures().then(Instant::now);
            lease.may_switch(self.call.wanted.is_some());
            // Cancelled from here on, hyper may have sent it.
            self.sent_before = self.call.maybe_sent.replace(true);
            self.sent.set(true);
            let mut error = match lease.send(request).await {
                Ok(mut response) => {
                    if let Some(gate) = &gate {
                        gate.shut();
                    }
                    let (status, headers) = (response.status(), response.headers());
                    let by = lease.protocol();
                    let wanted = self.call.wanted.as_deref();
                    if !wanted.is_some_and(|wanted| wanted.is_done_by(status, headers, by)) {
                        lease.may_switch(false);
                        if status == StatusCode::SWITCHING_PROTOCOLS {
                            return Err(self.unasked_upgrade());
                        }
                    }
                    // HTTP/2 has its own framing, which h2 has checked.
                    if response.version() != Version::HTTP_2
                        && let Err(rule) = check::admit_answer(response.headers_mut())
                    {
                        return Err(self.malformed(rule));
                    }
                    self.measured(sent, response.status());
                    return Ok(Answered { response, lease });
                }
                Err(error) => error,
            };
            let back = error.take_message().map(|request| request.into_parts().0);
            let given_back = back.is_some();
            if given_back {
                self.head = back;
            }
            let error = error.into_error();
            let silent = !lease.heard() && closed_before_answer(&error);
            // A pooled connection that its server had closed meanwhile says nothing about the server.
            let repeats = plan.retry.attempts > 1 && self.may_repeat() && silent;
            // At `maxConnections` even a fresh one may have been used before.
            let again = lease.reused && stale < MOST_STALE && (given_back || repeats);
            // A body of its own has gone with the first sending.
            if !again || self.beside || self.head.is_none() {
                let heard = lease.heard() && !given_back;
                return Err(self.broken(&error, given_back, heard));
            }
            if given_back {
                self.was_not_sent();
            }
            stale += 1;
        }
    }

    /// Tells peak EWMA how long the head of an answer took. (What a failure counts for, it learns from the report.)
    fn measured(&self, sent: Option<Instant>, status: StatusCode) {
        if let Some(sent) = sent
            && !status.is_server_error()
        {
            let now = self.call.worker.shared.now();
            self.cluster.observe(&self.picked, sent.elapsed(), now);
        }
    }

    /// Without a body and idempotent: a repeat on a new connection is harmless (RFC 9110 section 9.2.2).
    fn may_repeat(&self) -> bool {
        self.call.upload.is_empty() && is_idempotent(&self.call.method)
    }

    /// The head may be needed again after hyper has taken it.
    fn keeps_head(&self, lease: &Lease, plan: &Plan<'_>, may_try_again: bool) -> bool {
        let refusable = plan.protocol == Protocol::Http2 || lease.is_mtls();
        (may_try_again && (refusable || plan.repeats)) || (lease.reused && self.may_repeat())
    }

    fn not_connected(&mut self, error: &NoConnection) -> Failed {
        let to = self.picked.endpoint.config.address;
        let (code, progress, message) = match error {
            NoConnection::QueueFull => {
                let limits = &self.cluster.limits;
                let message = format!(
                    "all {} connections to {} are in use and {} requests wait (maxConnections, http1MaxPendingRequests)",
                    limits.connections.limit(),
                    self.cluster.config.service,
                    limits.pending.limit(),
                );
                // Another endpoint of the same cluster has the same limit: no reason to try it.
                (Code::OverflowPending, Progress::Limited, message)
            }
            NoConnection::NoneFree(within) => {
                let message = format!(
                    "all {} connections to {} are in use (maxConnections), and none became free within {within:?}",
                    self.cluster.limits.connections.limit(),
                    self.cluster.config.service,
                );
                (Code::OverflowPending, Progress::Limited, message)
            }
            NoConnection::Connect(error) => {
                let code = match error {
                    ConnectError::Tls(..) => Code::TlsFailed,
                    ConnectError::Tcp(..)
                    | ConnectError::Timeout(..)
                    | ConnectError::Handshake(..)
                    | ConnectError::OwnPort(_) => Code::ConnectFailed,
                };
                inbound::unreachable(&self.call);
                if code == Code::ConnectFailed {
                    let now = self.call.worker.shared.now();
                    self.cluster.unreachable(&self.picked, now);
                }
                self.report(Outcome::LocalError);
                (code, Progress::Unsent, error.to_string())
            }
        };
        self.end_with(code);
        Failed {
            problem: Problem::new(code, message).at(to, self.number),
            progress,
        }
    }

    /// One try took longer than it may; `by_caller`: while its body was awaited.
    fn timed_out(&mut self, limit: Duration, by_caller: bool) -> Failed {
        let to = self.picked.endpoint.config.address;
        if self.reached.get() && !by_caller {
            self.report(Outcome::LocalError);
        }
        self.end_with(Code::PerTryTimeout);
        let message = if by_caller {
            "the caller sent nothing of the request's body for too long".to_owned()
        } else {
            format!("{to} did not answer within {limit:?}, the time of one try")
        };
        Failed {
            problem: Problem::new(Code::PerTryTimeout, message).at(to, self.number),
            progress: match self.sent.get() {
                _ if by_caller => Progress::Limited,
                true => Progress::TimedOut,
                false => Progress::Unsent,
            },
        }
    }

    /// Cannot be: nobody takes the head before it is sent.
    fn without_head(&mut self) -> Failed {
        self.end_with(Code::UpstreamReset);
        Failed {
            problem: Problem::new(Code::UpstreamReset, "the request's head is gone"),
            progress: Progress::Limited,
        }
    }

    fn takes_no_connect(&mut self) -> Failed {
        let to = self.picked.endpoint.config.address;
        self.end_with(Code::NotSupported);
        let message = format!(
            "{to} does not take WebSocket over HTTP/2 (RFC 8441), which its port is spoken to in"
        );
        Failed {
            problem: Problem::new(Code::NotSupported, message).at(to, self.number),
            progress: Progress::Unsent,
        }
    }

    fn unasked_upgrade(&mut self) -> Failed {
        let to = self.picked.endpoint.config.address;
        self.report(Outcome::LocalError);
        self.end_with(Code::UpstreamReset);
        let message = format!("{to} switched protocols, which nobody had asked for");
        Failed {
            problem: Problem::new(Code::UpstreamReset, message)
                .at(to, self.number)
                .maybe_sent(),
            progress: Progress::MaybeSent,
        }
    }

    /// The connection goes with the answer: nobody knows where that ends.
    fn malformed(&mut self, rule: &str) -> Failed {
        let to = self.picked.endpoint.config.address;
        self.report(Outcome::LocalError);
        self.end_with(Code::UpstreamReset);
        let message = format!("{to} sent an answer with {rule}");
        Failed {
            problem: Problem::new(Code::UpstreamReset, message)
                .at(to, self.number)
                .maybe_sent(),
            progress: Progress::MaybeSent,
        }
    }

    /// `heard`: a part of a response had come.
    fn broken(&mut self, error: &hyper::Error, given_back: bool, heard: bool) -> Failed {
        let to = self.picked.endpoint.config.address;
        let unsent = given_back || refused_stream(error);
        if unsent {
            self.was_not_sent();
        } else if self.call.upload.is_broken() {
            return self.upload_broken();
        }
        let code = if closed_before_answer(error) || given_back {
            Code::UpstreamClosed
        } else {
            Code::UpstreamReset
        };
        let how = if was_reset(error) { "reset" } else { "closed" };
        let message = match code {
            Code::UpstreamClosed if heard => {
                format!("{to} {how} the connection in the middle of its response's head")
            }
            Code::UpstreamClosed => format!("{to} {how} the connection before it answered"),
            _ => format!("{to}: {}", chain(error)),
        };
        self.report(Outcome::LocalError);
        self.end_with(code);
        let problem = Problem::new(code, message).at(to, self.number);
        Failed {
            problem: if unsent {
                problem
            } else {
                problem.maybe_sent()
            },
            progress: if unsent {
                Progress::Unsent
            } else {
                Progress::MaybeSent
            },
        }
    }

    /// The caller's doing: it says nothing about the endpoint.
    fn upload_broken(&mut self) -> Failed {
        let (code, message) = match self.call.upload.is_late() {
            true => (
                Code::BodyTimeout,
                "its sender sent nothing of the request's body for too long",
            ),
            false => (
                Code::BadRequest,
                "the body of the request was broken off by its sender",
            ),
        };
        self.end_with(code);
        Failed {
            problem: Problem::new(code, message)
                .at(self.picked.endpoint.config.address, self.number)
                .maybe_sent(),
            // No other try could do better.
            progress: Progress::Limited,
        }
    }

    /// The application provably has not seen what was sent last.
    pub(crate) fn was_not_sent(&self) {
        self.call.maybe_sent.set(self.sent_before);
        self.sent.set(false);
    }

    /// Tells the ejection rules, unless they were told.
    pub(crate) fn report(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let worker = &self.call.worker;
        worker.report(&self.cluster, &self.picked, outcome);
    }

    fn end_with(&mut self, code: Code) {
        self.close_span(Told {
            error: Some(code.as_str()),
            ..Told::default()
        });
    }

    fn close_span(&mut self, told: Told) {
        self.ended = true;
        if let Some(context) = self.span.take() {
            self.call.end_client_span(
                context,
                self.started,
                &self.picked.endpoint,
                self.number,
                told,
            );
        }
    }

    /// Ends the span; says whom the try was for.
    pub(crate) fn end(mut self, told: Told) -> (Arc<Endpoint>, Arc<Cluster>) {
        self.close_span(told);
        let endpoint = Arc::clone(&self.picked.endpoint);
        (endpoint, Arc::clone(&self.cluster))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.ended {
            if let Some(code) = self.call.timed_out.get() {
                if self.reached.get() && self.had_its_time() {
                    self.report(Outcome::LocalError);
                }
                self.end_with(code);
            } else {
                let lost = self.call.hedged.get();
                if lost && self.is_slow() {
                    // Or else an endpoint that hangs would be rescued for ever, and never found out.
                    self.report(Outcome::LocalError);
                }
                self.close_span(Told {
                    error: Some(if lost { "hedged" } else { "downstream_gone" }),
                    ..Told::default()
                });
            }
        }
        if !self.reported {
            self.cluster
                .unused(&self.picked, self.call.worker.shared.now());
        }
    }
}
