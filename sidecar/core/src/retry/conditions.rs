//! The words of `retry_on`, and what they name.
//!
//! Source: Envoy `x-envoy-retry-on`, `x-envoy-retry-grpc-on`, `RetryStateImpl`. What is provably unsent
//! (`connect-failure`, `refused-stream`, `reset-before-request`) is retried without being named.

use std::ops::{BitOr, BitOrAssign};

use http::{HeaderMap, HeaderName, HeaderValue};

/// A set of conditions under which what a server may have seen is sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u16);

impl RetryOn {
    /// Only what is provably unsent.
    pub const NOTHING: Self = Self(0);
    /// `5xx`: any such answer, or none.
    pub const SERVER_ERROR: Self = Self(1);
    /// `gateway-error`: 502, 503, 504, or no answer.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// `reset`: no answer.
    pub const RESET: Self = Self(1 << 2);
    /// `retriable-4xx`: 409.
    pub const CONFLICT: Self = Self(1 << 3);
    /// `retriable-status-codes`: those of the policy.
    pub const STATUS_CODES: Self = Self(1 << 4);
    /// `envoy-ratelimited`: an answer with that header, which no other condition covers.
    pub const RATE_LIMITED: Self = Self(1 << 5);
    /// `cancelled`: gRPC status 1 in the answer's head, and so on.
    pub const CANCELLED: Self = Self(1 << 6);
    /// `deadline-exceeded`: 4.
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 7);
    /// `internal`: 13.
    pub const INTERNAL: Self = Self(1 << 8);
    /// `resource-exhausted`: 8.
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 9);
    /// `unavailable`: 14.
    pub const UNAVAILABLE: Self = Self(1 << 10);

    /// Reads a comma-separated list.
    ///
    /// # Errors
    /// The first word that is no condition.
    pub fn parse(text: &str) -> Result<Self, &str> {
        let mut on = Self::NOTHING;
        for word in text.split(',').map(str::trim) {
            on |= match word {
                "" | "connect-failure" | "refused-stream" | "reset-before-request" => Self::NOTHING,
                "5xx" => Self::SERVER_ERROR,
                "gateway-error" => Self::GATEWAY_ERROR,
                "reset" => Self::RESET,
                "retriable-4xx" => Self::CONFLICT,
                "retriable-status-codes" => Self::STATUS_CODES,
                "envoy-ratelimited" => Self::RATE_LIMITED,
                "cancelled" => Self::CANCELLED,
                "deadline-exceeded" => Self::DEADLINE_EXCEEDED,
                "internal" => Self::INTERNAL,
                "resource-exhausted" => Self::RESOURCE_EXHAUSTED,
                "unavailable" => Self::UNAVAILABLE,
                unknown => return Err(unknown),
            };
        }
        Ok(on)
    }

    /// The words of [`Self::parse`] that stand for what is in it.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let words = [
            "5xx",
            "gateway-error",
            "reset",
            "retriable-4xx",
            "retriable-status-codes",
            "envoy-ratelimited",
            "cancelled",
            "deadline-exceeded",
            "internal",
            "resource-exhausted",
            "unavailable",
        ];
        words
            .into_iter()
            .filter(move |word| Self::parse(word).is_ok_and(|one| self.has(one)))
    }

    /// At least one of `others` is in it.
    #[must_use]
    pub const fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether an answer can be named at all.
    pub(super) const fn reads_answers(self) -> bool {
        self.0 & !Self::RESET.0 != 0
    }

    /// The server may have seen the request, and there is no answer. Envoy counts that as a 5xx and as a gateway error.
    pub(super) const fn broken(self) -> bool {
        self.0 & (Self::RESET.0 | Self::SERVER_ERROR.0 | Self::GATEWAY_ERROR.0) != 0
    }

    /// An answer is named.
    pub(super) fn answered(self, status: u16, headers: &HeaderMap, codes: &[u16]) -> bool {
        if headers.contains_key(RATE_LIMITED) {
            return self.has(Self::RATE_LIMITED);
        }
        (self.has(Self::SERVER_ERROR) && (500..600).contains(&status))
            || (self.has(Self::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (self.has(Self::CONFLICT) && status == 409)
            || (self.has(Self::STATUS_CODES) && codes.contains(&status))
            || (self.0 >= Self::CANCELLED.0 && self.has(Self::of_grpc(headers)))
    }

    fn of_grpc(headers: &HeaderMap) -> Self {
        let status = headers.get(GRPC_STATUS).map(HeaderValue::as_bytes);
        match status {
            Some(b"1") => Self::CANCELLED,
            Some(b"4") => Self::DEADLINE_EXCEEDED,
            Some(b"8") => Self::RESOURCE_EXHAUSTED,
            Some(b"13") => Self::INTERNAL,
            Some(b"14") => Self::UNAVAILABLE,
            _ => Self::NOTHING,
        }
    }
}

impl BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for RetryOn {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
