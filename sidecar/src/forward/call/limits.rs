//! How long a request may last, and what its trace has to know of it: see [`crate::forward::chain`].

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use outrigger_core::{Direction, retry::EXHAUSTED};

use super::Call;
use crate::http::answer::Code;

/// How much longer than the calling sidecar we wait for the application: it knows better why it waited so long, and its
/// answer is the one that the caller should see.
const GRACE: Duration = Duration::from_millis(5);

/// Until when a request may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) until: Instant,
    /// From its beginning.
    pub(crate) within: Duration,
    /// [`Code::Timeout`] or [`Code::DeadlineExceeded`].
    pub(crate) code: Code,
}

impl Limit {
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let (Direction::Inbound, Some(trace)) = (self.direction, self.trace_id) {
            let chains = &self.worker.shared.chains;
            if self.remembered || !chains.is_empty() {
                chains.end(trace, self.remembered);
            }
        }
    }
}

impl Call {
    /// The time for the whole request, and what it is the time of: the route's timeout, or less if the caller waits less.
    pub(crate) fn limit(&self, timeout: Option<Duration>) -> Option<Limit> {
        let by_route = timeout.map(|timeout| Limit {
            until: self.clock.get() + timeout,
            within: timeout,
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
            until: until + grace,
            within: until.saturating_duration_since(self.started),
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
                let knows = |trace| !chains.is_empty() && chains.is_exhausted(trace);
                self.exhausted.set(self.trace_id.is_some_and(knows));
            }
        }
        if self.exhausted.get() {
            headers.insert(EXHAUSTED, HeaderValue::from_static("exhausted"));
        }
    }
}
