//! Rules for HTTP requests: what they match, where they lead, what happens on the way.
//! Source: Istio `networking/v1` VirtualService.

use std::{collections::BTreeMap, time::Duration};

use super::{At, ExportTo};
use crate::Position;

/// One rule of a [`VirtualService`](super::VirtualService).
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// Where the rule stands: what `why` and the span's `outrigger.policy` name.
    pub position: Position,
    /// Whose workloads it is for: what its document says; for a delegate's rule, what the document says that delegates.
    pub export_to: ExportTo,
    /// `name`, for logs and metrics.
    pub name: Option<String>,
    /// Any of these; empty = every request.
    pub matches: Vec<HttpMatch>,
    /// What to do.
    pub action: HttpAction,
    /// Time for the whole request. None = unlimited. Never zero, but in a delegate, where `0s` undoes the other's.
    pub timeout: Option<At<Duration>>,
    /// Header edits on the way there and back.
    pub headers: HeaderEdits,
    /// `rewrite`.
    pub rewrite: Option<Rewrite>,
    /// `retries`; None = the mesh's default: 2 tries for what is provably unsent.
    pub retries: Option<At<Retries>>,
    /// `fault`.
    pub fault: Option<At<Fault>>,
    /// `mirrors`, or `mirror` with its percentage.
    pub mirrors: Vec<Mirror>,
    /// `corsPolicy`.
    pub cors: Option<At<CorsPolicy>>,
}

/// A rule that leaves what is done to another document (`delegate`). It is gone from the merged rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Delegation {
    /// Its place in the document's list of rules, among which [`VirtualService::http`](super::VirtualService::http) has the others.
    pub index: usize,
    /// `delegate.name`: of a VirtualService without hosts.
    pub name: At<String>,
    /// `delegate.namespace`; None = the document's own.
    pub namespace: Option<String>,
    /// What holds for all of the delegate's rules, where they do not say otherwise.
    pub settings: RuleSettings,
}

/// All of a rule but what it does.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each field is documented at HttpRoute")]
pub struct RuleSettings {
    pub position: Position,
    pub name: Option<String>,
    pub matches: Vec<HttpMatch>,
    pub timeout: Option<At<Duration>>,
    pub headers: HeaderEdits,
    pub rewrite: Option<Rewrite>,
    pub retries: Option<At<Retries>>,
    pub fault: Option<At<Fault>>,
    pub mirrors: Vec<Mirror>,
    pub cors: Option<At<CorsPolicy>>,
}

/// What a rule does with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpAction {
    /// `route`: weighted destinations; weights sum to more than 0. One without `weight` counts 100 if
    /// alone; 0 if beside others (Istio).
    Route(Vec<WeightedDestination>),
    /// `redirect`.
    Redirect(Redirect),
    /// `directResponse`.
    DirectResponse {
        /// 200 to 599.
        status: u16,
        /// Body, possibly empty: the text, or the bytes that were given as base64.
        body: Vec<u8>,
    },
}

/// One destination of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedDestination {
    /// Where it stands.
    pub position: Position,
    /// Host as written.
    pub host: At<String>,
    /// Subset of the host's DestinationRule.
    pub subset: Option<At<String>>,
    /// Port; None = the request's, or the service's only one.
    pub port: Option<u16>,
    /// Share of the sum.
    pub weight: u32,
    /// Header edits for this destination, after the route's.
    pub headers: HeaderEdits,
}

/// All parts must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    /// `name`.
    pub name: Option<String>,
    /// Path without the query.
    pub uri: Option<StringMatch>,
    /// Compare `uri` (exact, prefix) without case.
    pub ignore_uri_case: bool,
    /// `:scheme`.
    pub scheme: Option<StringMatch>,
    /// Method.
    pub method: Option<StringMatch>,
    /// Host header.
    pub authority: Option<StringMatch>,
    /// Each must match. [`StringMatch::Present`] = the header only has to be there.
    pub headers: BTreeMap<String, StringMatch>,
    /// None may match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// Each must match.
    pub query_params: BTreeMap<String, StringMatch>,
    /// The port that the request was addressed to.
    pub port: Option<u16>,
    /// Labels that the calling workload must have.
    pub source_labels: BTreeMap<String, String>,
    /// Namespace of the calling workload.
    pub source_namespace: Option<String>,
    /// Name of the route's own statistics.
    pub stat_prefix: Option<String>,
}

/// Istio's `StringMatch`.
#[derive(Clone, Debug, PartialEq)]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// Matches as a whole; RE2 syntax, checked by `parse`.
    Regex(String),
    /// `{}`: anything, as long as it is there.
    Present,
}

/// `headers`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// On the way to the destination.
    pub request: HeaderOps,
    /// On the way back.
    pub response: HeaderOps,
}

/// `remove`, then `set`, then `add` (Envoy's order).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderOps {
    /// Overwrite.
    pub set: BTreeMap<String, String>,
    /// Append.
    pub add: BTreeMap<String, String>,
    /// Remove.
    pub remove: Vec<String>,
}

/// `rewrite`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// Replaces the matched prefix, or the whole path of an exact match. Not beside `uri_regex`.
    pub uri: Option<String>,
    /// Replaces the Host header.
    pub authority: Option<String>,
    /// `uriRegexRewrite`: replaces every place of the path (without query) that the expression matches.
    pub uri_regex: Option<RegexRewrite>,
}

/// `uriRegexRewrite`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexRewrite {
    /// RE2, checked by `parse`.
    pub pattern: String,
    /// What takes the place of a match; `\\1` to `\\9` are its groups, `\\0` the whole (RE2). Groups are checked by `parse`.
    pub substitution: String,
}

/// `retries`.
#[derive(Clone, Debug, PartialEq)]
pub struct Retries {
    /// Tries after the first; 0 = never, not even what is provably unsent.
    pub attempts: u32,
    /// Time for each try; None = what is left of the rule's timeout.
    pub per_try_timeout: Option<Duration>,
    /// `retryOn`: what was written is asked for, for every method. None = the document does not say: Istio's default
    /// conditions, of which those that a server may have seen are for idempotent methods only.
    pub retry_on: Option<RetryOn>,
    /// `retryRemoteLocalities`: prefer another locality than the one that failed.
    pub retry_remote_localities: bool,
    /// `retryIgnorePreviousHosts`: choose another endpoint than those tried. Default true.
    pub retry_ignore_previous_hosts: bool,
    /// `backoff`: upper end of the first wait, doubled with each. Default 25 ms. Never zero.
    pub backoff: Option<Duration>,
}

/// `retryOn`, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// Envoy's conditions, as written, in lower case: `5xx`, `gateway-error`, `reset`, `reset-before-request`,
    /// `connect-failure`, `refused-stream`, `envoy-ratelimited`, `retriable-4xx`, `retriable-status-codes`,
    /// `retriable-headers`, `http3-post-connect-failure`, `cancelled`, `deadline-exceeded`, `internal`,
    /// `resource-exhausted`, `unavailable`.
    pub conditions: Vec<String>,
    /// Status codes that were written in the list.
    pub status_codes: Vec<u16>,
}

/// A share of requests in millionths: 0 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

impl Share {
    /// All requests.
    pub const ALL: Self = Self(1_000_000);
}

/// `fault`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Waits before the request is sent on.
    pub delay: Option<FaultDelay>,
    /// Answers instead of sending on; after the delay, if there is one.
    pub abort: Option<FaultAbort>,
}

/// `fault.delay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    /// Of how many requests. Istio: all if not given.
    pub share: Share,
    /// `fixedDelay`, at least 1 ms.
    pub fixed_delay: Duration,
}

/// `fault.abort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    /// Of how many requests. Istio: all if not given.
    pub share: Share,
    /// What is answered.
    pub status: AbortStatus,
}

/// What an injected fault answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// `httpStatus`, 200 to 599.
    Http(u16),
    /// `grpcStatus`, 0 to 16, given as number or name.
    Grpc(u16),
}

/// A copy of requests, whose answers nobody reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Where it stands.
    pub position: Position,
    /// Host as written.
    pub host: At<String>,
    /// Subset of the host's DestinationRule.
    pub subset: Option<At<String>>,
    /// Port; None = the request's, or the service's only one.
    pub port: Option<u16>,
    /// Of how many requests. Istio: all if not given.
    pub share: Share,
    /// Its path in the rule: `mirror`, or `mirrors[1].destination`.
    pub path: String,
}

/// `corsPolicy`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CorsPolicy {
    /// `allowOrigins` (`allowOrigin` is its old form, exact). Empty = no origin is.
    pub allow_origins: Vec<StringMatch>,
    /// `allowMethods`.
    pub allow_methods: Vec<String>,
    /// `allowHeaders`.
    pub allow_headers: Vec<String>,
    /// `exposeHeaders`.
    pub expose_headers: Vec<String>,
    /// `maxAge`.
    pub max_age: Option<Duration>,
    /// `allowCredentials`.
    pub allow_credentials: bool,
    /// `unmatchedPreflights`: `IGNORE` = a preflight of another origin is answered here, without allowing anything;
    /// `FORWARD` (default) = it is sent on.
    pub forward_unmatched_preflights: bool,
}

/// `redirect`.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// New path.
    pub uri: Option<RedirectUri>,
    /// New host.
    pub authority: Option<String>,
    /// New port.
    pub port: Option<RedirectPort>,
    /// New scheme.
    pub scheme: Option<String>,
    /// 301 (default), 302, 303, 307, 308.
    pub redirect_code: u16,
}

/// `redirect.uri`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectUri {
    /// The whole path.
    Path(String),
    /// `%PREFIX()%` stood in it: what replaces the matched prefix.
    Prefix(String),
}

/// `redirect.port` or `redirect.derivePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// `port`.
    Number(u16),
    /// `FROM_PROTOCOL_DEFAULT`: 80 or 443, which is not written.
    OfScheme,
    /// `FROM_REQUEST_PORT`: the port that the request was addressed to.
    OfRequest,
}
