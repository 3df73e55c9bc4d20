//! Whether a request that failed is sent again, when, and how many may be at once.
//!
//! ```text
//!   provably unsent ────────────────────────────────────────────────┐
//!   broken off, timed out, answered ─► a condition that was written ├─► attempts ─► body ─► endpoint ─► budget ─► again
//!                                      (implied: idempotent only) ──┘
//! ```
//! What is provably unsent may be sent again with any method, as no server has seen it. What a server may have seen is
//! sent again where the document says so; where nobody wrote the conditions, only if that is harmless. Pure: the caller
//! waits and sends. Source: Envoy `RetryPolicy`, `RetryBudget`.

mod budget;
mod conditions;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Method};

use crate::Moment;
pub use budget::{RetryBudget, RetryPermit};
pub use conditions::RetryOn;

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No byte of the request can have been processed: connect failed, stream refused (h2
    /// `REFUSED_STREAM`, or above a GOAWAY's last stream), connection closed before the first byte left.
    Unsent,
    /// The server may have seen it, and it broke off before an answer.
    MaybeSent,
    /// The server may have seen it, and did not answer within the time of one try.
    TimedOut,
    /// A limit of ours: another try would meet the same one.
    Limited,
}

/// How often, how soon, and after what.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The first one included. Default 2. With 1 nothing is ever sent twice.
    pub attempts: u32,
    /// What else than "provably unsent" is retried. Default nothing.
    pub on: RetryOn,
    /// For [`RetryOn::STATUS_CODES`].
    pub codes: Vec<u16>,
    /// Nobody wrote the conditions: what a server may have seen is sent again only with idempotent methods.
    pub implied: bool,
    /// Of one try, from its start to the head of its answer. None = only the whole request is limited.
    pub per_try_timeout: Option<Duration>,
    /// Upper end of the first wait; doubles with each. Default 25 ms (Envoy).
    pub base_interval: Duration,
    /// Upper end of every wait. Default ten times the base (Envoy).
    pub max_interval: Duration,
    /// Endpoints that this request has tried are left out. Default true.
    pub other_host: bool,
    /// Where no untried endpoint is left, a tried one is tried again (as Envoy does). Default false: a document has to
    /// ask for it.
    pub same_host_at_last: bool,
    /// After every so many tries, other priorities than the tried ones come first. None = priorities as they are.
    pub other_priority_every: Option<u32>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: RetryOn::NOTHING,
            codes: Vec::new(),
            implied: false,
            per_try_timeout: None,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
            other_host: true,
            same_host_at_last: false,
            other_priority_every: None,
        }
    }
}

/// An attempt that did not bring what the caller wants.
#[derive(Clone, Copy, Debug)]
pub enum Failure<'a> {
    /// No answer.
    Without(Progress),
    /// An answer, by its head.
    Answered(u16, &'a HeaderMap),
}

/// All that a decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct Tried<'a> {
    /// How the last attempt failed.
    pub failure: Failure<'a>,
    /// Sending the request twice does what sending it once does; see [`is_idempotent`].
    pub idempotent: bool,
    /// Attempts so far.
    pub made: u32,
    /// The body can be sent again.
    pub replayable: bool,
    /// There is an endpoint for another attempt.
    pub endpoint_left: bool,
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The server may have seen the request, and no condition covers how it failed.
    MaybeSent,
    /// A condition covers it, but nobody wrote it and the method is not idempotent.
    NotIdempotent,
    /// A limit of ours, which every attempt would meet.
    Limited,
    /// Retries are switched off.
    Off,
    /// All attempts were used.
    Attempts,
    /// The body is no longer at hand.
    Body,
    /// No endpoint is left.
    Endpoints,
    /// Too many retries are in flight already.
    Budget,
    /// Too many requests were repeated in the last ten seconds.
    Window,
    /// A hop further down has retried already.
    Below,
}

impl StopReason {
    /// A label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaybeSent => "maybe_sent",
            Self::NotIdempotent => "not_idempotent",
            Self::Limited => "limited",
            Self::Off => "off",
            Self::Attempts => "attempts",
            Self::Body => "body",
            Self::Endpoints => "no_endpoint",
            Self::Budget => "budget",
            Self::Window => "budget_window",
            Self::Below => "exhausted_below",
        }
    }

    /// A retry was due and is used up: hops above need not try again (they would multiply).
    #[must_use]
    pub fn is_exhaustion(self) -> bool {
        match self {
            Self::MaybeSent | Self::NotIdempotent | Self::Limited | Self::Off => false,
            Self::Attempts
            | Self::Body
            | Self::Endpoints
            | Self::Budget
            | Self::Window
            | Self::Below => true,
        }
    }
}

/// On an answer: hops below have retried as often as they may.
pub const EXHAUSTED: HeaderName = HeaderName::from_static("x-outrigger-retries");

impl RetryPolicy {
    /// Whether an answer can be a reason to send again, so that its head has to be looked at.
    #[must_use]
    pub fn reads_answers(&self) -> bool {
        self.attempts > 1 && self.on.reads_answers()
    }

    /// Whether something that a server may have seen can be sent again.
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        self.attempts > 1 && self.on != RetryOn::NOTHING
    }

    /// Whether this answer is one that the conditions name, retries being possible or not.
    #[must_use]
    pub fn names(&self, status: u16, headers: &HeaderMap) -> bool {
        self.on.answered(status, headers, &self.codes)
    }

    /// Takes what the budget has left for another try, of a request for which [`Self::due`] says `seen`: how long to wait, between
    /// zero and the interval (full jitter, so that callers that failed together part),
    /// before it, and what stands for it. `in_flight` counts the cluster's requests now, this one included. To be asked
    /// after every other limit, as what the budget gave for ten seconds is not given back.
    ///
    /// # Errors
    /// Which budget is used up.
    pub fn spend(
        &self,
        (seen, made): (bool, u32),
        budget: &Arc<RetryBudget>,
        in_flight: u32,
        now: Moment,
        rng: &mut fastrand::Rng,
    ) -> Result<(Duration, RetryPermit), StopReason> {
        let permit = budget.try_acquire(in_flight).ok_or(StopReason::Budget)?;
        if seen && !budget.try_repeat(now) {
            return Err(StopReason::Window);
        }
        budget.count();
        Ok((self.interval(made).mul_f64(rng.f64()), permit))
    }

    /// Whether the rules, budgets apart, allow another try; Ok(whether a server may have seen the request).
    ///
    /// # Errors
    /// Why not.
    pub fn due(&self, tried: &Tried<'_>) -> Result<bool, StopReason> {
        let seen = match tried.failure {
            Failure::Without(Progress::Unsent) => false,
            Failure::Without(Progress::Limited) => return Err(StopReason::Limited),
            Failure::Without(Progress::MaybeSent | Progress::TimedOut) => {
                self.allows(self.on.broken(), tried.idempotent)?;
                true
            }
            Failure::Answered(status, headers) => {
                self.allows(self.names(status, headers), tried.idempotent)?;
                if headers.contains_key(EXHAUSTED) {
                    return Err(StopReason::Below);
                }
                true
            }
        };
        if self.attempts <= 1 {
            return Err(StopReason::Off);
        }
        if tried.made >= self.attempts {
            return Err(StopReason::Attempts);
        }
        if !tried.replayable {
            return Err(StopReason::Body);
        }
        if !tried.endpoint_left {
            return Err(StopReason::Endpoints);
        }
        Ok(seen)
    }

    fn allows(&self, named: bool, idempotent: bool) -> Result<(), StopReason> {
        match (named, self.implied && !idempotent) {
            (false, _) => Err(StopReason::MaybeSent),
            (true, true) => Err(StopReason::NotIdempotent),
            (true, false) => Ok(()),
        }
    }

    /// Upper end of the wait after `made` attempts.
    fn interval(&self, made: u32) -> Duration {
        let factor = 1_u32
            .checked_shl(made.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.base_interval
            .saturating_mul(factor)
            .min(self.max_interval)
    }
}

/// RFC 9110 section 9.2.2. gRPC uses POST for everything.
#[must_use]
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}
