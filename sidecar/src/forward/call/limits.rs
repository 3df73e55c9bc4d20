//! How long a request may last, and what its trace has to know of it: see [`crate::forward::chain`].

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use outrigger_core::{Direction, retry::EXHAUSTED};

use super::Call;
use crate::http::answer::{Code, Problem};

/// How much longer than the calling sidecar we wait for the application: it knows better why it waited so long, and its
/// answer is the one that the caller should see.
const GRACE: Duration = Duration::from_millis(5);

/// What a caller's deadline has to leave an endpoint for its silence to count against that.
const FAIR: Duration = Duration::from_millis(250);

/// How long a body may keep a request with a limit waiting at a stretch. Envoy's default `stream_idle_timeout`.
const LONGEST_SILENCE: Duration = Duration::from_secs(300);

/// How often at most a body that keeps us waiting is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Until when a request may last, if its body does not last longer: see [`Call::remains`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    until: Instant,
    /// From its beginning.
    pub(crate) within: Duration,
    grace: Duration,
    /// [`Code::Timeout`] or [`Code::DeadlineExceeded`].
    pub(crate) code: Code,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let (Some(held), Some(trace)) = (self.held.get(), self.trace_id) {
            self.worker.shared.chains.end(trace, held);
        }
    }
}

impl Call {
    /// How much longer the request may last, as it looks now. The time counts from the end of the request (Envoy), and
    /// before that from the last part of its body that a try took; it stands still while the caller keeps a try waiting.
    pub(crate) fn remains(&self, limit: &Limit) -> Duration {
        self.left_of(limit.until, limit.within + limit.grace)
    }

    /// The same for something that began at `since` and may last `within`.
    pub(crate) fn remains_since(&self, since: Instant, within: Duration) -> Duration {
        self.left_of(later(since, within), within)
    }

    fn left_of(&self, until: Instant, within: Duration) -> Duration {
        let now = Instant::now();
        let moved = self.upload.moved();
        if self.upload.waits_for_caller() {
            let silent = now.saturating_duration_since(moved.unwrap_or(self.started));
            return within.max(LOOK).min(LONGEST_SILENCE.saturating_sub(silent));
        }
        let until = moved.map_or(until, |moved| until.max(later(moved, within)));
        until.saturating_duration_since(now)
    }

    /// Why there is no answer when a limit is over.
    pub(crate) fn is_over(&self, limit: &Limit) -> Problem {
        // What is dropped with the run learns from this why.
        self.timed_out.set(Some(limit.code));
        let within = limit.within;
        if self.upload.waits_for_caller() {
            let message =
                format!("the caller sent nothing of the request's body for {LONGEST_SILENCE:?}");
            return Problem::new(limit.code, message);
        }
        let message = match limit.code {
            Code::Timeout => format!("no response within the route's timeout of {within:?}"),
            _ => format!("no response within {within:?}, and the caller waits no longer"),
        };
        Problem::new(limit.code, message)
    }

    /// Whether a try that was cut off after it had `waited` so long says something about its endpoint.
    pub(crate) fn had_its_time(&self, waited: Duration) -> bool {
        let enough = self.timed_out.get() != Some(Code::DeadlineExceeded) || waited >= FAIR;
        enough && !self.upload.waits_for_caller()
    }

    /// The body has come to its end: from now on the time of the whole request counts.
    pub(crate) fn upload_ended(&self) {
        let (Some(wait), Some(trace)) = (self.announced, self.trace_id) else {
            return;
        };
        if let Some(held) = self.held.get() {
            let now = Instant::now();
            let chains = &self.worker.shared.chains;
            self.held
                .set(Some(chains.limit(trace, held, later(now, wait), now)));
        }
    }

    /// The time for the whole request, and what it is the time of: the route's timeout, or less if the caller waits less.
    pub(crate) fn limit(&self, timeout: Option<Duration>) -> Option<Limit> {
        let by_route = timeout.map(|timeout| Limit {
            until: later(self.clock.get(), timeout),
            within: timeout,
            grace: Duration::ZERO,
            code: Code::Timeout,
        });
        let Some(until) = self.deadline else {
            return by_route;
        };
        let grace = match self.direction {
            Direction::Inbound => GRACE,
            Direction::Outbound => Duration::ZERO,
        };
        let by_caller = Limit {
            until: later(until, grace),
            within: until.saturating_duration_since(self.started),
            grace,
            code: Code::DeadlineExceeded,
        };
        Some(match by_route {
            Some(by_route) if by_route.until <= until => by_route,
            _ => by_caller,
        })
    }

    /// How much longer the caller waits, if that is known.
    pub(crate) fn caller_waits(&self) -> Option<Duration> {
        let until = self.deadline?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// The route's timeout counts from now.
    pub(crate) fn restart_clock(&self) {
        self.clock.set(Instant::now());
    }

    /// What a request whose time is over is counted as.
    pub(crate) fn ends_with(&self) -> &'static str {
        self.timed_out.get().unwrap_or(Code::Timeout).as_str()
    }

    /// Nothing that hops above could do would help: they are told so.
    pub(crate) fn exhaust(&self) {
        self.exhausted.set(true);
        if let (Direction::Outbound, Some(trace)) = (self.direction, self.trace_id) {
            let chains = &self.worker.shared.chains;
            if !chains.exhaust(trace, Instant::now()) {
                self.worker.handles.count_feature("trace_memory_full");
            }
        }
    }

    /// Marks an answer, ours or the upstream's, if hops above need not try again.
    pub(crate) fn mark_exhausted(&self, failed: bool, headers: &mut HeaderMap) {
        if !failed {
            return;
        }
        match self.direction {
            // A hop below says it, of an answer that nothing here would repeat.
            Direction::Outbound if !self.exhausted.get() && headers.contains_key(EXHAUSTED) => {
                self.exhaust();
            }
            Direction::Outbound => {}
            Direction::Inbound => {
                let chains = &self.worker.shared.chains;
                let knows =
                    |trace| !chains.is_empty() && chains.is_exhausted(trace, Instant::now());
                self.exhausted.set(self.trace_id.is_some_and(knows));
            }
        }
        if self.exhausted.get() {
            headers.insert(EXHAUSTED, HeaderValue::from_static("exhausted"));
        }
    }
}

/// What no clock reaches is as good as never.
pub(super) fn later(from: Instant, by: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    from.checked_add(by).unwrap_or_else(|| from + NEVER)
}
