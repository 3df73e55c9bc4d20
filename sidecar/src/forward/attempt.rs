//! One try of a request at one endpoint.

use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::{Method, Request, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use outrigger_core::{Cluster, Direction, Endpoint, InFlight, Outcome, Picked, Progress};

use super::{
    call::{Call, Told},
    tries::Plan,
};
use crate::{
    connect::ConnectError,
    http::{
        answer::{Code, Problem},
        headers::UNSENT,
    },
    inbound,
    pool::{
        acquire::{NoConnection, Target},
        lease::Lease,
    },
    telemetry::propagate::TraceContext,
};

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
    /// The ejection rules know the outcome.
    reported: bool,
    _in_flight: InFlight,
}

/// A try that brought a response.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    /// The request's head, kept while a further try is possible.
    pub(crate) spare: Option<Parts>,
}

impl Answered {
    /// A sidecar, known by its certificate, says that its application has not seen the request.
    pub(crate) fn says_unsent(&self, call: &Call) -> bool {
        call.direction == Direction::Outbound
            && self.lease.is_mtls()
            && self.response.headers().contains_key(UNSENT)
    }
}

/// A try that brought no response.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) problem: Problem,
    pub(crate) progress: Progress,
    /// The request's head, for the next try.
    pub(crate) head: Option<Parts>,
}

impl Attempt {
    pub(crate) fn begin(
        call: &Rc<Call>,
        cluster: &Arc<Cluster>,
        picked: Picked,
        number: u32,
        head: &mut Parts,
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
            reported: false,
            _in_flight: picked.endpoint.begin(),
            picked,
        }
    }

    /// Sends the request and waits for the head of its response.
    pub(crate) async fn run(
        &mut self,
        plan: &Plan<'_>,
        head: Parts,
        may_try_again: bool,
    ) -> Result<Answered, Failed> {
        let mut head = head;
        let mut fresh = false;
        loop {
            let target = Target {
                slot: plan.slot,
                cluster: plan.cluster,
                endpoint: &self.picked.endpoint,
                protocol: plan.protocol,
                fresh,
                reached: &self.reached,
            };
            let pools = Rc::clone(&self.call.worker.pools);
            let mut lease = match pools.acquire(target).await {
                Ok(lease) => lease,
                Err(error) => return Err(self.not_connected(&error, head)),
            };
            self.reached.set(true);
            let spare = self
                .keeps_head(&lease, plan, may_try_again)
                .then(|| head.clone());
            let request = Request::from_parts(head, self.call.upload.next_try());
            let sent = plan.cluster.measures().then(Instant::now);
            // Cancelled from here on, hyper may have sent it.
            self.sent_before = self.call.maybe_sent.replace(true);
            let mut error = match lease.send(request).await {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(self.unasked_upgrade());
                }
                Ok(response) => {
                    self.measured(sent, response.status());
                    return Ok(Answered {
                        response,
                        lease,
                        spare,
                    });
                }
                Err(error) => error,
            };
            let back = error.take_message().map(|request| request.into_parts().0);
            let given_back = back.is_some();
            let error = error.into_error();
            let silent = !lease.heard() && closed_before_answer(&error);
            // A pooled connection that its server had closed meanwhile says nothing about the server.
            let stale = lease.reused && !fresh && (given_back || (self.may_repeat() && silent));
            match (stale, back.or(spare)) {
                (true, Some(again)) => {
                    if given_back {
                        self.was_not_sent();
                    }
                    head = again;
                    fresh = true;
                }
                (_, head) => {
                    let heard = lease.heard() && !given_back;
                    return Err(self.broken(&error, given_back, heard, head));
                }
            }
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
        let idempotent = [
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::PUT,
            Method::DELETE,
        ];
        self.call.upload.is_empty() && idempotent.contains(&self.call.method)
    }

    /// The head may be needed again after hyper has taken it.
    fn keeps_head(&self, lease: &Lease, plan: &Plan<'_>, may_try_again: bool) -> bool {
        let refusable = plan.protocol == crate::pool::Protocol::Http2 || lease.is_mtls();
        (may_try_again && refusable) || (lease.reused && self.may_repeat())
    }

    fn not_connected(&mut self, error: &NoConnection, head: Parts) -> Failed {
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
                (Code::OverflowPending, Progress::MaybeSent, message)
            }
            NoConnection::NoneFree(within) => {
                let message = format!(
                    "all {} connections to {} are in use (maxConnections), and none became free within {within:?}",
                    self.cluster.limits.connections.limit(),
                    self.cluster.config.service,
                );
                (Code::OverflowPending, Progress::MaybeSent, message)
            }
            NoConnection::Connect(error) => {
                let code = match error {
                    ConnectError::Tls(..) => Code::TlsFailed,
                    ConnectError::Tcp(..)
                    | ConnectError::Timeout(..)
                    | ConnectError::Handshake(..) => Code::ConnectFailed,
                };
                inbound::unreachable(&self.call);
                self.report(Outcome::LocalError);
                (code, Progress::Unsent, error.to_string())
            }
        };
        self.end_with(code);
        Failed {
            problem: Problem::new(code, message).at(to, self.number),
            progress,
            head: Some(head),
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
            head: None,
        }
    }

    /// `heard`: a part of a response had come.
    fn broken(
        &mut self,
        error: &hyper::Error,
        given_back: bool,
        heard: bool,
        head: Option<Parts>,
    ) -> Failed {
        let to = self.picked.endpoint.config.address;
        let unsent = given_back || refused_stream(error);
        if unsent {
            self.was_not_sent();
        }
        let code = if closed_before_answer(error) || given_back {
            Code::UpstreamClosed
        } else {
            Code::UpstreamReset
        };
        let message = match code {
            Code::UpstreamClosed if heard => {
                format!("{to} closed the connection in the middle of its response's head")
            }
            Code::UpstreamClosed => format!("{to} closed the connection before it answered"),
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
            head,
        }
    }

    /// The application provably has not seen what was sent last.
    pub(crate) fn was_not_sent(&self) {
        self.call.maybe_sent.set(self.sent_before);
    }

    /// Tells the ejection rules, unless they were told.
    pub(crate) fn report(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let worker = &self.call.worker;
        let verdict = self
            .cluster
            .report(&self.picked, outcome, worker.shared.now());
        if verdict.breaker_opened {
            tracing::info!(
                cluster = %self.cluster.config.name,
                endpoint = %self.picked.endpoint.config.address,
                "circuit breaker opened"
            );
        }
        if verdict.ejected {
            worker.telemetry.metrics.ejections.inc();
            tracing::info!(
                cluster = %self.cluster.config.name,
                endpoint = %self.picked.endpoint.config.address,
                "endpoint ejected"
            );
        }
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
            if self.call.timed_out.get() {
                if self.reached.get() {
                    self.report(Outcome::LocalError);
                }
                self.end_with(Code::Timeout);
            } else {
                self.close_span(Told {
                    error: Some("downstream_gone"),
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

/// The peer ended the connection, and no head of a response had come.
fn closed_before_answer(error: &hyper::Error) -> bool {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return true;
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::BrokenPipe
                    | std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::ConnectionAborted
            );
        }
        source = inner.source();
    }
    false
}

/// HTTP/2's word that the request was not processed: `REFUSED_STREAM`, or above the last stream of a graceful GOAWAY.
fn refused_stream(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            let above = h2.is_go_away() && h2.reason() == Some(h2::Reason::NO_ERROR);
            return h2.is_remote() && (refused || above);
        }
        source = inner.source();
    }
    false
}

/// An error with its causes.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
