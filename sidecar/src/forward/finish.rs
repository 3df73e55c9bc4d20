//! The end of a request that an upstream has answered: whatever ends the body ends here, once.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use outrigger_core::{Outcome, Permit, RetryPermit};

use super::{
    attempt::Attempt,
    call::{Call, Limit, Told},
};
use crate::{
    http::answer::{Code, GRPC_STATUS},
    pool::lease::Lease,
    tcp::copy::End,
    telemetry::Ended,
    worker::connection::Given,
};

/// How the body of a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Complete,
    /// The upstream broke off.
    UpstreamBroke,
    /// The request's time was over while the upstream kept us waiting.
    Timeout,
    /// The request's time was over while the downstream did not take what had come.
    TimeoutDownstream,
    /// The downstream left before the end.
    DownstreamGone,
    /// Of bytes: told to end, or certificates did.
    Ended,
}

/// Permits that a request holds until its end.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) _request: Permit,
    pub(crate) retry: Option<(RetryPermit, Permit)>,
}

/// A response on its way.
#[derive(Debug)]
pub(crate) struct Exchange {
    call: Rc<Call>,
    attempt: Attempt,
    /// None = the connection is the tunnel's.
    lease: Option<Lease>,
    status: u16,
    grpc_status: Option<u16>,
    received: u64,
    /// Of HTTP/2: its caller has not asked for more yet.
    given: Option<Given>,
    _held: Held,
}

impl Exchange {
    /// From the response's head on.
    pub(crate) fn new(
        call: &Rc<Call>,
        attempt: Attempt,
        lease: Option<Lease>,
        held: Held,
        status: u16,
        headers: &HeaderMap,
    ) -> Self {
        let mut this = Self {
            call: Rc::clone(call),
            attempt,
            lease,
            status,
            grpc_status: call.grpc.then(|| grpc_status(headers)).flatten(),
            received: 0,
            given: None,
            _held: held,
        };
        // A failure is known from its head on; what looks good may still break off, or be gRPC, which says how it
        // went at the end.
        if this.outcome().is_failure() {
            let outcome = this.outcome();
            this.attempt.report(outcome);
        }
        this
    }

    fn outcome(&self) -> Outcome {
        Outcome::Status(match self.grpc_status {
            Some(status) => http_of_grpc(status),
            None => self.status,
        })
    }

    /// By its head, it is an answer that a retry might have made up for.
    pub(crate) fn failed(&self) -> bool {
        self.status >= 500 || self.grpc_status.is_some_and(|status| status != 0)
    }

    /// The time of the whole request is over.
    pub(crate) fn times_out(&self, code: Code) {
        self.call.timed_out.set(Some(code));
    }

    pub(crate) fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.received += data.len() as u64;
            self.given = self.call.answers(data.len());
        } else if let (Some(trailers), true) = (frame.trailers_ref(), self.call.grpc) {
            self.grpc_status = grpc_status(trailers).or(self.grpc_status);
        }
    }

    /// Its caller asks for more.
    pub(crate) fn asked(&mut self) {
        self.given = None;
    }

    /// How long the request may still last; see [`Call::remains`].
    pub(crate) fn remains(&self, limit: &Limit) -> Duration {
        self.call.remains(limit)
    }

    /// Reports, counts, and gives the connection back if it can be used again.
    pub(crate) fn finish(mut self, ending: Ending) {
        let ending = match ending {
            // The caller's body broke off, and the upstream's connection with it.
            Ending::UpstreamBroke if self.call.upload.is_broken() => Ending::DownstreamGone,
            ending => ending,
        };
        let (flags, error) = match ending {
            Ending::Complete if self.call.delayed.get() => ("DI", None),
            Ending::Complete => ("-", None),
            Ending::UpstreamBroke => ("UPE", Some("upstream_closed")),
            Ending::Timeout | Ending::TimeoutDownstream => ("UT", Some(self.call.ends_with())),
            Ending::DownstreamGone => ("DC", Some("downstream_gone")),
            Ending::Ended => ("DT", None),
        };
        match ending {
            Ending::Complete => {
                let outcome = self.outcome();
                self.attempt.report(outcome);
            }
            Ending::UpstreamBroke => self.attempt.report(Outcome::LocalError),
            Ending::Timeout if self.attempt.had_its_time() => {
                self.attempt.report(Outcome::LocalError);
            }
            // Says nothing about the endpoint.
            Ending::Timeout
            | Ending::TimeoutDownstream
            | Ending::DownstreamGone
            | Ending::Ended => {}
        }
        let told = Told {
            status: Some(self.status),
            grpc_status: self.grpc_status,
            error,
        };
        self.call.end_server_span(told);
        let endpoint = self.attempt.end(told);
        let ended = Ended {
            grpc: self.call.grpc,
            status: self.status,
            grpc_status: self.grpc_status,
            flags,
        };
        let handles = self.call.handles(&endpoint.0);
        self.call.record(&handles, ended, self.received);
        if let (Ending::Complete, Some(lease)) = (ending, self.lease) {
            lease.release(&endpoint.1, &self.call.upload);
        }
    }

    /// It has switched to another protocol, and ends now.
    pub(crate) fn finish_bytes(mut self: Box<Self>, end: End, received: u64, sent: u64) {
        self.received += sent;
        self.call.upload_bytes.set(received);
        self.finish(match end {
            End::Closed | End::Idle => Ending::Complete,
            End::DownstreamReset => Ending::DownstreamGone,
            End::UpstreamReset => Ending::UpstreamBroke,
            End::TooOld | End::Expired | End::Drained => Ending::Ended,
        });
    }
}

pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.trim().parse().ok()
}

/// As Envoy maps them, for ejection.
pub(crate) fn http_of_grpc(status: u16) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
