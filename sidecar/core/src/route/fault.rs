//! Faults that an operator asked for: a delay before a request is sent, an answer instead of sending it.
//!
//! Pure: says what to do; the caller waits and answers. Both are drawn on their own, the delay comes first. Source:
//! Envoy's fault filter.

use std::time::Duration;

use super::{HeaderMatch, RequestView, split::scale};

/// A share of requests, exact to one in a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Every request.
    pub const ALL: Self = Self(1_000_000);
    /// No request.
    pub const NONE: Self = Self(0);

    /// `numerator` of `denominator`; more than all is all (Envoy).
    #[must_use]
    pub fn new(numerator: u32, denominator: u32) -> Self {
        let millionths = u64::from(numerator) * 1_000_000 / u64::from(denominator.max(1));
        Self(u32::try_from(millionths).map_or(1_000_000, |n| n.min(1_000_000)))
    }

    /// Whether one request is among them.
    pub fn hits(self, rng: &mut fastrand::Rng) -> bool {
        self >= Self::ALL || scale(rng.u64(..), 1_000_000) < u64::from(self.0)
    }
}

/// What is done to some requests.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// Before the request is sent.
    pub delay: Option<(Duration, Share)>,
    /// Instead.
    pub abort: Option<(Abort, Share)>,
    /// Only requests that meet all of these.
    pub headers: Vec<HeaderMatch>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// HTTP status, 200 to 599.
    Http(u16),
    /// gRPC status, 0 to 16.
    Grpc(u16),
}

impl Fault {
    /// What becomes of one request.
    #[must_use]
    pub fn draw(
        &self,
        request: &RequestView<'_>,
        rng: &mut fastrand::Rng,
    ) -> (Option<Duration>, Option<Abort>) {
        if !self.headers.iter().all(|header| header.holds(request)) {
            return (None, None);
        }
        let mut hit = |share: Share| share.hits(rng);
        let delay = self.delay.filter(|(_, share)| hit(*share));
        let abort = self.abort.filter(|(_, share)| hit(*share));
        (delay.map(|(delay, _)| delay), abort.map(|(abort, _)| abort))
    }
}
