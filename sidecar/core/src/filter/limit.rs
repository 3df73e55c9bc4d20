//! A limit on requests, by a bucket of tokens of this proxy's own.

use crate::{HeaderEdits, Moment, Share, bucket::TokenBucket};

/// Source: Envoy's local rate limit filter.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// Shared by all workers.
    pub bucket: TokenBucket,
    /// Requests that take a token. Default: none (Envoy).
    pub enabled: Share,
    /// Of those without a token, the ones that are refused. Default: none (Envoy).
    pub enforced: Share,
    /// Of a refusal, 400 to 599. Default 429.
    pub status: u16,
    /// Of a refusal of a gRPC call: 14, or 8.
    pub grpc_status: u16,
    /// On a refusal.
    pub response_headers: HeaderEdits,
    /// On a request without a token that goes on.
    pub request_headers: HeaderEdits,
    /// Answers tell the bucket's state: `x-ratelimit-limit`, `-remaining`, `-reset`.
    pub tells: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateVerdict {
    /// It is not among those that take a token.
    NotAsked,
    /// It has its token.
    Allowed,
    /// There was none; it goes on.
    Spared,
    /// There was none.
    Refused,
}

impl LocalRateLimit {
    /// Takes a token, if the request is among those that need one.
    pub fn judge(&self, now: Moment, rng: &mut fastrand::Rng) -> RateVerdict {
        if !self.enabled.hits(rng) {
            RateVerdict::NotAsked
        } else if self.bucket.take(now) {
            RateVerdict::Allowed
        } else if self.enforced.hits(rng) {
            RateVerdict::Refused
        } else {
            RateVerdict::Spared
        }
    }

    pub(super) fn changes_answers(&self) -> bool {
        self.tells || !self.response_headers.is_empty()
    }
}
