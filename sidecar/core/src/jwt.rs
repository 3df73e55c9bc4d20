//! Tokens of requests (JWT): who may have issued them, where they are looked for, what becomes of what they say.
//!
//! ```text
//! request ─► first rule that matches ─► what it requires ─► each token that its providers look for
//!                                            form ─► issuer ─► time ─► audience ─► signature
//! verified: token taken out, claims into headers and to access rules     not: 401, and why
//! ```
//! Pure: the time and the keys come in, and what is to be done goes out. Keys that are not here are named
//! ([`Found::Wants`]); the caller fetches them and asks again. Every token that is found has to be good, where Envoy
//! overlooks a bad one beside a good one: the application might take the wrong one.
//! Source: Envoy `envoy.extensions.filters.http.jwt_authn.v3`, RFC 7515, 7517, 7519, 8725.

mod apply;
mod cache;
mod claims;
mod judge;
mod keys;
mod locate;
#[cfg(test)]
mod tests;
mod token;

use std::{
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::HeaderName;

use crate::{ClusterSlot, RouteMatch, StringMatch};
pub use cache::TokenCaches;
pub use claims::{Claim, Claims};
pub use judge::{Found, Good, Refusal};
use keys::Alg;
pub use keys::{KeySet, KeySetError, MAX_KEY_SET, MAX_KEYS};
pub use token::MAX_TOKEN;
use token::TokenFacts;

/// The filter.
#[derive(Clone, Debug)]
pub struct JwtAuthn {
    /// Those that requirements name by their place.
    pub providers: Vec<Arc<Provider>>,
    /// The first that matches decides; without one nothing is looked at.
    pub rules: Vec<(RouteMatch, Option<Requirement>)>,
    /// For routes that name one.
    pub named: Vec<(Box<str>, Requirement)>,
    /// A browser's question in advance, which has no token, is let through.
    pub bypass_cors_preflight: bool,
    /// The body does not say why.
    pub silent: bool,
    /// Nothing comes of it: it is there to be counted.
    pub dry_run: bool,
    /// Headers that only this filter may write, in lower case with dashes.
    written: Vec<HeaderName>,
}

/// Who issues tokens.
#[derive(Debug)]
pub struct Provider {
    /// E.g. `origins-0`.
    pub name: Arc<str>,
    /// What `iss` has to be; None = anything, or nothing.
    pub issuer: Option<Arc<str>>,
    /// One of them has to be in `aud`; none = not looked at.
    pub audiences: Vec<Box<str>>,
    /// What `sub` has to be.
    pub subjects: Option<StringMatch>,
    /// A token without `exp` is refused.
    pub require_expiration: bool,
    /// How far ahead `exp` may be.
    pub max_lifetime: Option<Duration>,
    /// How far clocks may be apart. Default 60 s (Envoy).
    pub clock_skew: Duration,
    /// With what its tokens are verified.
    pub keys: Keys,
    /// Where its tokens are; none = `Authorization: Bearer`, and the query's `access_token`.
    pub locations: Vec<Location>,
    /// A good token stays in the request.
    pub forward: bool,
    /// Gets the payload as it was sent, in base64url; true = padded.
    pub payload_header: Option<(HeaderName, bool)>,
    /// Headers that get a claim.
    pub claim_headers: Vec<(HeaderName, Box<str>)>,
    /// Under which name access rules find the claims; None = not at all.
    pub metadata: Option<Arc<str>>,
    /// Claims whose words are a list to access rules.
    pub space_delimited: Vec<Box<str>>,
    /// How many verified tokens a worker remembers; 0 = none.
    pub cache_size: usize,
    /// The longest token that is remembered.
    pub cache_token_size: usize,
}

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Written in the configuration.
    Local(Arc<KeySet>),
    /// Fetched.
    Remote(Arc<RemoteKeys>),
}

/// What names a set of keys that is fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemoteName {
    /// `https://idp.example.com/keys`
    pub uri: Box<str>,
    /// The cluster that leads there.
    pub cluster: Box<str>,
    /// For one fetch, and for a request that waits for it.
    pub timeout: Duration,
    /// How long keys count as new.
    pub cache_duration: Duration,
    /// How long after a failed fetch the next is due.
    pub retry_after: Duration,
}

/// Keys that are fetched: whoever has the same name has the same keys, in whatever configuration.
#[derive(Debug)]
pub struct RemoteKeys {
    /// Its name.
    pub name: RemoteName,
    /// The cluster's place, set before it serves.
    pub slot: OnceLock<ClusterSlot>,
    /// The newest; None = they were never here, or too long ago.
    pub current: ArcSwapOption<KeySet>,
    /// Fetches that have ended, well or not.
    pub attempts: AtomicU64,
}

impl RemoteKeys {
    /// Without keys yet.
    #[must_use]
    pub fn new(name: RemoteName) -> Self {
        Self {
            name,
            slot: OnceLock::new(),
            current: ArcSwapOption::empty(),
            attempts: AtomicU64::new(0),
        }
    }
}

/// Where a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A header's value; behind this text, if there is one, in whatever letter case (RFC 9110 section 11.1).
    Header(HeaderName, Box<str>),
    /// A parameter of the query.
    Query(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// What a request needs.
#[derive(Clone, Debug)]
pub enum Requirement {
    /// A good token of this provider, with these audiences instead of its own.
    Provider(usize, Option<Vec<Box<str>>>),
    /// One of them.
    Any(Vec<Self>),
    /// All of them.
    All(Vec<Self>),
    /// No token where these providers look, or good ones.
    AllowMissing(Vec<usize>),
    /// Nothing; good tokens count.
    AllowMissingOrFailed(Vec<usize>),
}

/// Why a token is refused. The texts are Envoy's, as far as it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is none.
    Missing,
    /// It is none.
    Malformed(&'static str),
    /// Longer than [`MAX_TOKEN`].
    TooLarge,
    /// More tokens than are looked at.
    TooMany,
    /// After `exp`.
    Expired,
    /// Before `nbf`.
    NotYetValid,
    /// Nobody's, or nobody's who is looked for there.
    Issuer,
    /// For somebody else.
    Audience,
    /// `sub`, or how long it holds.
    Claims(&'static str),
    /// No key of this `kid` and `alg`.
    NoKey,
    /// Not made by any of the keys.
    Signature,
    /// There are no keys.
    KeysAway,
    /// A route names a requirement that there is not.
    Requirement,
}

impl Fault {
    /// Envoy's text.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::Malformed(text) | Self::Claims(text) => text,
            Self::TooLarge => "Jwt is longer than 16384 bytes",
            Self::TooMany => "Found multiple Jwt tokens",
            Self::Expired => "Jwt is expired",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Issuer => "Jwt issuer is not configured",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Signature => "Jwt verification fails",
            Self::KeysAway => "Jwks remote fetch is failed",
            Self::Requirement => "Failed JWT authentication: unknown requirement_name",
        }
    }
}

/// A token whose signature was verified.
#[derive(Debug)]
pub struct Verified {
    facts: TokenFacts,
    /// As it was sent.
    payload: Box<str>,
    claims: Claims,
}

impl Verified {
    /// Everything in it.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
}

/// What access rules see: claims by the name under which their provider puts them.
pub type TokenClaims = Vec<(Arc<str>, Arc<Verified>)>;

impl JwtAuthn {
    /// A filter with these providers and rules.
    #[must_use]
    pub fn new(
        providers: Vec<Arc<Provider>>,
        mut rules: Vec<(RouteMatch, Option<Requirement>)>,
    ) -> Self {
        for (matches, _) in &mut rules {
            matches.anchor();
        }
        let of = |provider: &Arc<Provider>| {
            let claims = provider.claim_headers.iter().map(|(name, _)| name.clone());
            let payload = provider.payload_header.iter().map(|(name, _)| name.clone());
            claims.chain(payload).collect::<Vec<_>>()
        };
        Self {
            written: providers.iter().flat_map(of).collect(),
            providers,
            rules,
            named: Vec::new(),
            bypass_cors_preflight: false,
            silent: false,
            dry_run: false,
        }
    }

    /// Keys that have to be fetched.
    pub fn remotes(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.providers
            .iter()
            .filter_map(|provider| match &provider.keys {
                Keys::Remote(remote) => Some(remote),
                Keys::Local(_) => None,
            })
    }

    /// Puts what `known` gives in the place of each set of keys that is fetched, while nobody else has the filter.
    pub fn adopt(&mut self, mut known: impl FnMut(&Arc<RemoteKeys>) -> Arc<RemoteKeys>) {
        for provider in self.providers.iter_mut().filter_map(Arc::get_mut) {
            if let Keys::Remote(remote) = &mut provider.keys {
                *remote = known(remote);
            }
        }
    }
}

impl Provider {
    /// One that only says who issues and with which keys.
    #[must_use]
    pub fn new(name: &str, issuer: Option<&str>, keys: Keys) -> Self {
        Self {
            name: name.into(),
            issuer: issuer.map(Arc::from),
            audiences: Vec::new(),
            subjects: None,
            require_expiration: false,
            max_lifetime: None,
            clock_skew: CLOCK_SKEW,
            keys,
            locations: Vec::new(),
            forward: false,
            payload_header: None,
            claim_headers: Vec::new(),
            metadata: None,
            space_delimited: Vec::new(),
            cache_size: 0,
            cache_token_size: CACHED_TOKEN,
        }
    }
}

/// Envoy's default.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Envoy's default.
pub const CACHED_TOKEN: usize = 4096;
