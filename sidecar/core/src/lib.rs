//! Everything a request needs to know and every decision about it, without socket, clock or task.
//!
//! ```text
//! xDS client ──configs──► Snapshot ──► route::RouteTable::find ──► Route
//!                                         Route::choose_cluster ──► Cluster ──► pick ──► Endpoint
//!                                                     limits (exact, shared) ┘     └► outlier
//! ```
//! Time comes in as [`Moment`], chance as a seeded [`fastrand::Rng`], so that two runs agree.
//! Counters that must be exact over the proxy (limits, in-flight, ejection) are atomics that survive
//! a new snapshot: a rebuilt [`Cluster`] takes over the state of the endpoints it keeps.

mod aggregate;
pub mod balance;
pub mod breaker;
pub mod bucket;
pub mod capture;
pub mod chain;
pub mod cluster;
pub mod connection;
pub mod filter;
#[cfg(test)]
mod fixture;
pub mod jwt;
pub mod keepalive;
pub mod limits;
pub mod outlier;
pub mod proxy_protocol;
pub mod rbac;
mod reach;
pub mod retry;
pub mod route;
pub mod snapshot;
pub mod upgrade;

pub use balance::{LbPolicy, SlowStart};
pub use breaker::{Breaker, BreakerConfig, BreakerState, Breakers};
pub use capture::{Capture, InUse, Users};
pub use chain::{
    ChainLookup, ChainMatch, FilterChain, FilterChains, Greeting, HTTP1, HTTP2, Inspect,
    MatchedTwice, PolicyPositions,
};
pub use cluster::{
    Cluster, ClusterConfig, Endpoint, EndpointConfig, EndpointId, EndpointState, Health, InFlight,
    Locality, LocalityPolicy, NoEndpoint, OutsideTls, PickContext, Picked, RetryShare,
    TcpKeepalive, UpstreamProtocol, UpstreamTls, Verdict,
};
pub use connection::ConnectionRoute;
pub use filter::{
    CheckBody, CheckService, ConnectionSettings, EscapedSlashes, ExtAuthz, Filter, HeadSettings,
    HeaderMutation, HttpCheck, HttpFilter, HttpSettings, InForce, LocalRateLimit, Marking,
    Markings, Mutation, NotSelected, Override, Overrides, Put, RateVerdict, Settings, StripPort,
    may_change, names_header,
};
pub use jwt::JwtAuthn;
pub use keepalive::KeepAlive;
pub use limits::{Limits, LimitsScope, Overflow, Permit, Thresholds};
pub use outlier::{Outcome, OutlierConfig, Standing};
pub use proxy_protocol::{ProxyProtocol, ProxyVersion};
pub use rbac::{
    Caller, Cidr, ClaimMatch, Condition, Judgement, Names, PeerNames, Policy, Rbac, RbacAction,
    Rules, Subject, ValueMatch,
};
pub use retry::{Progress, RetryBudget, RetryOn, RetryPermit, RetryPolicy, StopReason};
pub use route::{
    Abort, Action, ClusterChoice, Cors, CorsVerdict, Edit, Facts, Fault, Features, Format,
    HashCookie, HashPolicy, HeaderEdits, HeaderMatch, Hedge, Mirror, NoRoute, PathMatch, Positions,
    RedirectPath, RequestView, Rewrite, Route, RouteMatch, RouteTable, Share, StringMatch,
    Substitution, Uses, VirtualHost, WeightedCluster,
};
pub use snapshot::{
    ClusterSlot, Direction, DownstreamTls, DryRun, Listener, RouteSlot, RouteSource, Snapshot,
    SnapshotBuilder,
};
pub use upgrade::Upgrades;

/// Milliseconds on a clock that never goes back; the caller owns the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);
