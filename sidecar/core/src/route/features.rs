//! What few routes have: faults, CORS, mirrors, hedging, counters of their own, and the lines that asked for them.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use super::{Cors, Fault, Route, Share};
use crate::{ClusterSlot, Overrides, Upgrades};

/// See the fields. Default: none of it.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// Delays and aborts.
    pub fault: Option<Fault>,
    /// Answers for browsers of other origins.
    pub cors: Option<Cors>,
    /// Copies of requests.
    pub mirrors: Vec<Mirror>,
    /// A second try beside a slow first one.
    pub hedge: Option<Hedge>,
    /// Counted under this name.
    pub stat_prefix: Option<Arc<str>>,
    /// What is said about filters of the listener.
    pub overrides: Overrides,
    /// Protocols that requests may switch to, or may not.
    pub upgrades: Upgrades,
    /// Lines of YAML.
    pub positions: Positions,
}

impl Features {
    /// There is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fault.is_none()
            && self.cors.is_none()
            && self.mirrors.is_empty()
            && self.hedge.is_none()
            && self.stat_prefix.is_none()
            && self.overrides.is_empty()
            && self.upgrades.is_empty()
            && self.positions == Positions::default()
    }
}

/// The lines of YAML of a route's settings, e.g. `canary.yaml:14:7`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// `timeout`
    pub timeout: Option<Arc<str>>,
    /// `retries`
    pub retries: Option<Arc<str>>,
    /// `fault`
    pub fault: Option<Arc<str>>,
    /// `corsPolicy`
    pub cors: Option<Arc<str>>,
    /// `mirror`, `mirrors`
    pub mirrors: Option<Arc<str>>,
}

/// A copy of requests that nobody waits for.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where to.
    pub cluster: ClusterSlot,
    /// Its name.
    pub name: Arc<str>,
    /// Of how many.
    pub share: Share,
    /// `-shadow` is appended to the host. Default true.
    pub marks_host: bool,
    /// Replaces the host; None = the request's.
    pub host: Option<HeaderValue>,
}

/// A second try beside the first, if that is slow. For idempotent requests whose body is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// How long the first one has.
    pub after: Duration,
    /// At most so many second tries, of the requests of the last ten seconds. At least one.
    pub budget_percent: u32,
}

impl Route {
    /// What few routes have, if this one has.
    #[must_use]
    pub fn features(&self) -> Option<&Features> {
        self.features.as_deref()
    }
}
