//! From a request to a route: virtual host by authority, then the first route that matches.
//!
//! Everything is compiled when the table is built (regexes, lower-cased names, header values), so that
//! `find` allocates nothing. Source: Envoy `RouteConfiguration`; exact host before longest `*.suffix`
//! before longest `prefix.*` before `*`.

mod cors;
mod edit;
mod explain;
mod fault;
mod features;
mod format;
mod hash;
mod matching;
mod rewrite;
pub(crate) mod split;
mod table;
#[cfg(test)]
mod tests;
mod uses;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::{ClusterSlot, RetryPolicy};
pub use cors::{Cors, CorsVerdict};
pub use edit::{Edit, HeaderEdits};
pub use explain::Tried;
pub use fault::{Abort, Fault, Share};
pub use features::{Features, Hedge, Mirror, Positions};
pub use format::{Facts, Format, FormatError};
pub use hash::HashCookie;
pub(crate) use matching::path_of;
pub use rewrite::{Rewrite, Substitution};
pub use uses::Uses;

/// What routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Method.
    pub method: &'a Method,
    /// Host header or `:authority`, as sent: may have a port.
    pub authority: &'a str,
    /// Path and query, e.g. `/reviews?id=1`.
    pub path_and_query: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
}

/// Why there is no route. Answered with 404.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No virtual host has this authority.
    Host,
    /// The virtual host has no matching route.
    Path,
}

/// A compiled `RouteConfiguration`.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// RDS name.
    pub name: String,
    /// In the order given.
    pub virtual_hosts: Vec<VirtualHost>,
    /// It has only the virtual hosts that were asked for: an authority without one may have one all the same (VHDS).
    pub on_demand: bool,
    index: table::HostIndex,
}

/// A named group of domains and their routes. Cheap to clone, so that a table can be made anew when one more comes.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    /// Name, e.g. `reviews.default.svc.cluster.local:9080`.
    pub name: Arc<str>,
    /// `reviews`, `reviews:9080`, `*.example.com`, `*`.
    pub domains: Arc<[String]>,
    /// First match wins.
    pub routes: Arc<[Route]>,
    /// The ports of its service, for an error's text, where the domains do not tell them. Mostly empty.
    pub ports: Arc<[u16]>,
    /// Whether requests use it, for those that are given back when they do not; None = nobody asks.
    pub uses: Option<Uses>,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Name for logs and metrics; may be empty.
    pub name: String,
    /// The line of YAML that decided, e.g. `canary.yaml:12:5`, if a document did.
    pub position: Option<Arc<str>>,
    /// Condition.
    pub matches: RouteMatch,
    /// Consequence.
    pub action: Action,
    /// For the whole request; None = unlimited.
    pub timeout: Option<Duration>,
    /// On the way to the upstream.
    pub request_headers: HeaderEdits,
    /// On the way back.
    pub response_headers: HeaderEdits,
    /// What a consistent hash is made of; the first that yields a value and is `terminal` ends it.
    pub hash_policies: Vec<HashPolicy>,
    /// Changes the path.
    pub rewrite: Option<Rewrite>,
    /// Replaces the authority.
    pub host_rewrite: Option<HeaderValue>,
    /// Whether and when the request is sent again.
    pub retry: RetryPolicy,
    /// The upstream is told how many attempts there were (`x-envoy-attempt-count`).
    pub tells_attempts: bool,
    /// So is the downstream.
    pub answers_attempts: bool,
    /// What few routes have. Apart, so that the others pay one branch for all of it.
    pub features: Option<Arc<Features>>,
}

impl Route {
    /// A route that does this and nothing else, with the default retries.
    #[must_use]
    pub fn new(matches: RouteMatch, action: Action) -> Self {
        Self {
            name: String::new(),
            position: None,
            matches,
            action,
            timeout: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            hash_policies: Vec::new(),
            rewrite: None,
            host_rewrite: None,
            retry: RetryPolicy::default(),
            tells_attempts: false,
            answers_attempts: false,
            features: None,
        }
    }
}

/// All parts must hold.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    /// Path without the query.
    pub path: PathMatch,
    /// Compare `path` (exact and prefix) with letter case. Default true.
    pub case_sensitive: bool,
    /// Header conditions; the pseudo headers `:method`, `:authority`, `:scheme`, `:path` work too.
    pub headers: Vec<HeaderMatch>,
    /// Query parameter conditions.
    pub query_parameters: Vec<(String, StringMatch)>,
}

/// Condition on the path.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Equal.
    Exact(String),
    /// Starts with; `/` = everything.
    Prefix(String),
    /// Equal to, or continues after a `/`.
    SeparatedPrefix(String),
    /// Matches as a whole.
    Regex(regex::Regex),
    /// The request is CONNECT, which has no path; and no other condition on a path holds for one.
    Connect,
}

/// Condition on a string.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// Equal; the flag ignores ASCII case.
    Exact(String, bool),
    /// Starts with.
    Prefix(String, bool),
    /// Ends with.
    Suffix(String, bool),
    /// Contains.
    Contains(String, bool),
    /// Matches as a whole.
    Regex(regex::Regex),
    /// Is there (true) or is not (false).
    Present(bool),
}

/// Condition on one header. Of several values of one name, any one is enough.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Lower case; may be a pseudo header.
    pub name: String,
    /// Condition.
    pub value: StringMatch,
    /// Turns the result round.
    pub invert: bool,
    /// A missing header counts as the empty string instead of "no match".
    pub treat_missing_as_empty: bool,
}

/// What to do with a matching request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send it on.
    Forward(ClusterChoice),
    /// Answer with a redirect.
    Redirect {
        /// New scheme.
        scheme: Option<String>,
        /// New host.
        host: Option<String>,
        /// New port.
        port: Option<u16>,
        /// New path.
        path: RedirectPath,
        /// Drop the query.
        strip_query: bool,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// Answer at once.
    DirectResponse {
        /// 200 to 599.
        status: u16,
        /// Body.
        body: Arc<[u8]>,
    },
}

/// The path of a redirect.
#[derive(Clone, Debug)]
pub enum RedirectPath {
    /// The request's.
    Same,
    /// This one. If it has a query, the request's is dropped.
    Whole(String),
    /// The request's, rewritten.
    Rewritten(Rewrite),
}

/// One cluster, or several with weights. Made by [`ClusterChoice::new`].
#[derive(Clone, Debug)]
pub struct ClusterChoice {
    /// At least one; weights sum to more than 0.
    pub clusters: Vec<WeightedCluster>,
    /// Sum of the weights.
    pub total_weight: u64,
    /// Requests so far; see [`split`].
    turns: Arc<AtomicU64>,
}

/// A cluster and its share.
#[derive(Clone, Debug)]
pub struct WeightedCluster {
    /// Which.
    pub cluster: ClusterSlot,
    /// Its name, for errors while it is unknown.
    pub name: Arc<str>,
    /// Share of the sum.
    pub weight: u32,
    /// Edits before the route's, which has the last word (Envoy).
    pub request_headers: HeaderEdits,
    /// Edits before the route's.
    pub response_headers: HeaderEdits,
}

/// What a consistent hash is made of.
#[derive(Clone, Debug)]
pub enum HashPolicy {
    /// Values of a header.
    Header(HeaderName),
    /// A cookie; with a TTL the answer sets it where it was missing.
    Cookie {
        /// Name.
        name: String,
        /// Path attribute.
        path: String,
        /// None = never generated; zero = session cookie.
        ttl: Option<Duration>,
        /// Further attributes as they stand in `Set-Cookie`: each `; Name` or `; Name=value`.
        attributes: String,
    },
    /// Address of the client.
    SourceIp,
    /// First value of a query parameter.
    QueryParameter(String),
    /// Ends the list if there is a hash by now: Envoy's `terminal`, put after its policy.
    Terminal,
}
