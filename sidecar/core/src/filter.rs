//! What a listener does to each request before its route's action: filters in order, by name, and what routes change
//! about them.
//!
//! ```text
//! request ──► filter 1 ──► filter 2 ──► ... ──► route's action       what a route says about a filter's name replaces
//!         ◄── answers pass them again ◄──                            the listener's words (header mutations: adds to)
//! ```
//! Pure: decides; who asks waits, answers and counts. Source: Envoy `HttpConnectionManager.http_filters`,
//! `typed_per_filter_config`.

mod ext_authz;
mod limit;
mod mutation;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use http::HeaderValue;

use crate::{Upgrades, jwt::JwtAuthn, rbac::Rbac};
pub use ext_authz::{
    CheckBody, CheckService, ExtAuthz, HttpCheck, Marking, Markings, NotSelected, may_change,
    names_header,
};
pub use limit::{LocalRateLimit, RateVerdict};
pub use mutation::{HeaderMutation, Mutation, Put};

/// What a listener says about its requests. Default: nothing.
#[derive(Clone, Debug, Default)]
pub struct HttpSettings {
    /// All but the router, in order.
    pub filters: Vec<HttpFilter>,
    /// What is done to a request's head before anything looks at it.
    pub head: HeadSettings,
    /// Proxies before us whose addresses at the end of `x-forwarded-for` are passed over.
    pub trusted_hops: u32,
    /// The address at the end of `x-forwarded-for` is nobody's word: we have written it ourselves.
    pub own_address: bool,
    /// Written into answers. None = what the upstream says stays.
    pub server: Option<(HeaderValue, Put)>,
    /// Of its connections.
    pub connection: ConnectionSettings,
    /// Protocols that requests may switch to.
    pub upgrades: Upgrades,
}

/// See the fields. Default: nothing is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadSettings {
    /// Several slashes in a row of the path become one.
    pub merge_slashes: bool,
    /// `%2F` and `%5C` in the path.
    pub escaped_slashes: EscapedSlashes,
    /// The port in Host is taken away.
    pub strip_port: StripPort,
    /// The caller's address is appended to `x-forwarded-for`, and `x-forwarded-proto` says how it came.
    pub forwarded: bool,
    /// A request without `x-request-id` gets one.
    pub request_id: bool,
}

/// What becomes of `%2F` and `%5C` in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// The request is refused.
    Reject,
    /// They become slashes.
    Unescape,
}

/// Which port in Host is taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    #[default]
    Never,
    /// The one that the caller has connected to.
    Matching,
    /// Any.
    Always,
}

/// Ends of a listener's connections. Default: none but our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Without a request for so long. Zero = never.
    pub idle_timeout: Option<Duration>,
    /// Of this age.
    pub max_age: Option<Duration>,
    /// After so many requests.
    pub max_requests: Option<u32>,
    /// Time for the head of a request, from its first byte. Zero = none.
    pub head_timeout: Option<Duration>,
    /// Most bytes of the head of a request.
    pub max_head: Option<u32>,
    /// Most fields of the head of a request.
    pub max_fields: Option<u32>,
    /// Most streams at a time on a connection of HTTP/2.
    pub max_streams: Option<u32>,
}

impl ConnectionSettings {
    /// Default 100 (hyper's, and Envoy's).
    #[must_use]
    pub fn max_fields(&self) -> usize {
        let most = self.max_fields.and_then(|most| usize::try_from(most).ok());
        most.unwrap_or(100)
    }
}

/// A filter under the name that routes call it by.
#[derive(Clone, Debug)]
pub struct HttpFilter {
    /// E.g. `envoy.filters.http.rbac`.
    pub name: Arc<str>,
    /// Off, unless a route switches it on.
    pub disabled: bool,
    /// What it does where no route says otherwise.
    pub filter: Filter,
}

/// What a filter does.
#[derive(Clone, Debug)]
pub enum Filter {
    /// The route's CORS policy.
    Cors,
    /// The route's faults.
    Fault,
    /// Access rules.
    Rbac(Arc<Rbac>),
    /// An authorization server is asked.
    ExtAuthz(Arc<ExtAuthz>),
    /// Tokens.
    JwtAuthn(Arc<JwtAuthn>),
    /// A limit; None = none but those of routes.
    LocalRateLimit(Option<Arc<LocalRateLimit>>),
    /// Edits of headers.
    HeaderMutation {
        /// The listener's own, always first.
        own: Arc<HeaderMutation>,
        /// Of those of routes, the most specific come last, and so have the last word. Default: first (Envoy).
        most_specific_wins: bool,
    },
}

/// What a route, its virtual host and its table say about one filter, together.
#[derive(Clone, Debug, Default)]
pub struct Override {
    /// Whether the filter is on: the most specific word.
    pub on: bool,
    /// Instead of the listener's.
    pub settings: Option<Settings>,
}

/// Settings of a filter for a route.
#[derive(Clone, Debug)]
pub enum Settings {
    /// The most specific one. Without rules, everything is let through.
    Rbac(Arc<Rbac>),
    /// The name of what is required instead of what the filter's rules say: the most specific one.
    JwtRequirement(Arc<str>),
    /// The most specific one.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// All of them, the most specific last.
    HeaderMutation(Vec<Arc<HeaderMutation>>),
}

/// By name of the filter. Few.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<(Arc<str>, Override)>);

/// What a filter does to one request.
#[derive(Clone, Copy, Debug)]
pub enum InForce<'a> {
    /// See [`Filter::Cors`].
    Cors,
    /// See [`Filter::Fault`].
    Fault,
    /// Access rules.
    Rbac(&'a Rbac),
    /// An authorization server is asked.
    ExtAuthz(&'a ExtAuthz),
    /// Tokens, and the name of what a route requires.
    JwtAuthn(&'a Arc<JwtAuthn>, Option<&'a str>),
    /// A limit.
    LocalRateLimit(&'a Arc<LocalRateLimit>),
    /// Edits of headers.
    HeaderMutation(Mutations<'a>),
}

/// Edits of all levels.
#[derive(Clone, Copy, Debug)]
pub struct Mutations<'a> {
    own: &'a HeaderMutation,
    /// The most specific last.
    more: &'a [Arc<HeaderMutation>],
    most_specific_wins: bool,
}

impl<'a> Mutations<'a> {
    /// In the order in which they are applied.
    pub fn each(self) -> impl Iterator<Item = &'a HeaderMutation> {
        let count = self.more.len();
        let place = move |turn: usize| match self.most_specific_wins {
            true => turn,
            false => count - 1 - turn,
        };
        let more = (0..count).filter_map(move |turn| self.more.get(place(turn)));
        std::iter::once(self.own).chain(more.map(|one| &**one))
    }
}

impl Overrides {
    /// What is said by name; each name once.
    #[must_use]
    pub fn new(all: Vec<(Arc<str>, Override)>) -> Self {
        Self(all)
    }

    /// Nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is said about a filter.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&Override> {
        let mut all = self.0.iter();
        all.find_map(|(about, said)| (**about == *name).then_some(said))
    }
}

impl HttpSettings {
    /// What is done to a request whose route says `overrides`, in order.
    pub fn in_force<'a>(
        &'a self,
        overrides: Option<&'a Overrides>,
    ) -> impl DoubleEndedIterator<Item = InForce<'a>> {
        let all = self.filters.iter();
        all.filter_map(move |filter| {
            filter.in_force(overrides.and_then(|all| all.of(&filter.name)))
        })
    }

    /// Whether an answer has to pass the filters, too.
    #[must_use]
    pub fn change_answers(&self, overrides: Option<&Overrides>) -> bool {
        self.server.is_some()
            || self.in_force(overrides).any(|filter| match filter {
                InForce::Cors | InForce::Fault | InForce::Rbac(_) | InForce::JwtAuthn(..) => false,
                // It may say what is added to an answer.
                InForce::ExtAuthz(_) => true,
                InForce::LocalRateLimit(limit) => limit.changes_answers(),
                InForce::HeaderMutation(mutations) => {
                    mutations.each().any(|one| !one.response.is_empty())
                }
            })
    }
}

impl HttpFilter {
    /// None = it is off. Settings for a filter of another kind, which a route may have under this name, mean nothing
    /// (Envoy).
    fn in_force<'a>(&'a self, said: Option<&'a Override>) -> Option<InForce<'a>> {
        if !said.map_or(!self.disabled, |said| said.on) {
            return None;
        }
        let settings = said.and_then(|said| said.settings.as_ref());
        Some(match (&self.filter, settings) {
            (Filter::Cors, _) => InForce::Cors,
            (Filter::Fault, _) => InForce::Fault,
            (Filter::Rbac(_), Some(Settings::Rbac(of_route))) => InForce::Rbac(of_route),
            (Filter::Rbac(own), _) => InForce::Rbac(own),
            (Filter::ExtAuthz(own), _) => InForce::ExtAuthz(own),
            (Filter::JwtAuthn(own), Some(Settings::JwtRequirement(name))) => {
                InForce::JwtAuthn(own, Some(name))
            }
            (Filter::JwtAuthn(own), _) => InForce::JwtAuthn(own, None),
            (Filter::LocalRateLimit(_), Some(Settings::LocalRateLimit(of_route))) => {
                InForce::LocalRateLimit(of_route)
            }
            (Filter::LocalRateLimit(own), _) => InForce::LocalRateLimit(own.as_ref()?),
            (
                Filter::HeaderMutation {
                    own,
                    most_specific_wins,
                },
                settings,
            ) => InForce::HeaderMutation(Mutations {
                own,
                more: match settings {
                    Some(Settings::HeaderMutation(more)) => more,
                    _ => &[],
                },
                most_specific_wins: *most_specific_wins,
            }),
        })
    }
}
