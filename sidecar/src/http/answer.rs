//! Our own answers: never an empty 503, always who, what, and the line of YAML that decided.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
};
use outrigger_core::Direction;
use serde::Serialize;

use super::{
    body::DownBody,
    headers::{POLICY, REASON, UNSENT},
};

/// What went wrong, as operators search for it. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Code {
    NoRouteHost,
    NoRoutePath,
    NoRouteYet,
    NotInRegistry,
    NoEndpoints,
    NoHealthyEndpoints,
    BreakerOpen,
    ClusterUnknown,
    OverflowOnDemand,
    OverflowPending,
    OverflowRequests,
    OverflowRetries,
    ConnectFailed,
    TlsFailed,
    UpstreamReset,
    UpstreamClosed,
    Timeout,
    PerTryTimeout,
    DeadlineExceeded,
    FaultInjected,
    RbacDenied,
    ExtAuthzDenied,
    ExtAuthzError,
    JwtMissing,
    JwtMalformed,
    JwtTooLarge,
    JwtTooMany,
    JwtExpired,
    JwtNotYetValid,
    JwtIssuer,
    JwtAudience,
    JwtClaims,
    JwtNoKey,
    JwtSignature,
    JwtKeysAway,
    JwtRequirement,
    RateLimited,
    BadRequest,
    BodyTimeout,
    HeadersTooLarge,
    NotSupported,
    UpgradeNotAllowed,
    LoopDetected,
    Draining,
}

impl Code {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoRouteHost => "no_route_host",
            Self::NoRoutePath => "no_route_path",
            Self::NoRouteYet => "no_route_yet",
            Self::NotInRegistry => "not_in_registry",
            Self::NoEndpoints => "no_endpoints",
            Self::NoHealthyEndpoints => "no_healthy_endpoints",
            Self::BreakerOpen => "breaker_open",
            Self::ClusterUnknown => "cluster_unknown",
            Self::OverflowOnDemand => "overflow_on_demand",
            Self::OverflowPending => "overflow_pending",
            Self::OverflowRequests => "overflow_requests",
            Self::OverflowRetries => "overflow_retries",
            Self::ConnectFailed => "connect_failed",
            Self::TlsFailed => "tls_failed",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamClosed => "upstream_closed",
            Self::Timeout => "timeout",
            Self::PerTryTimeout => "per_try_timeout",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::FaultInjected => "fault_injected",
            Self::RbacDenied => "rbac_denied",
            Self::ExtAuthzDenied => "ext_authz_denied",
            Self::ExtAuthzError => "ext_authz_error",
            Self::JwtMissing => "jwt_missing",
            Self::JwtMalformed => "jwt_malformed",
            Self::JwtTooLarge => "jwt_too_large",
            Self::JwtTooMany => "jwt_too_many",
            Self::JwtExpired => "jwt_expired",
            Self::JwtNotYetValid => "jwt_not_yet_valid",
            Self::JwtIssuer => "jwt_issuer",
            Self::JwtAudience => "jwt_audience",
            Self::JwtClaims => "jwt_claims",
            Self::JwtNoKey => "jwt_no_key",
            Self::JwtSignature => "jwt_signature",
            Self::JwtKeysAway => "jwt_keys_away",
            Self::JwtRequirement => "jwt_requirement",
            Self::RateLimited => "rate_limited",
            Self::BadRequest => "bad_request",
            Self::BodyTimeout => "body_timeout",
            Self::HeadersTooLarge => "headers_too_large",
            Self::NotSupported => "not_supported",
            Self::UpgradeNotAllowed => "upgrade_not_allowed",
            Self::LoopDetected => "loop_detected",
            Self::Draining => "draining",
        }
    }

    fn is_of_tokens(self) -> bool {
        (Self::JwtMissing..=Self::JwtRequirement).contains(&self)
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::NoRouteHost | Self::NoRoutePath => StatusCode::NOT_FOUND,
            Self::Timeout | Self::PerTryTimeout | Self::DeadlineExceeded => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::RbacDenied
            | Self::ExtAuthzDenied
            | Self::ExtAuthzError
            | Self::UpgradeNotAllowed
            | Self::JwtAudience
            | Self::JwtRequirement => StatusCode::FORBIDDEN,
            _ if self.is_of_tokens() => StatusCode::UNAUTHORIZED,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NotInRegistry => StatusCode::BAD_GATEWAY,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotSupported => StatusCode::NOT_IMPLEMENTED,
            Self::LoopDetected => StatusCode::LOOP_DETECTED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Status of gRPC: 4 deadline, 7 permission denied, 16 unauthenticated, 12 unimplemented (as gRPC maps 404), 13 internal (as it maps 400), 14 unavailable.
    pub(crate) fn grpc_status(self) -> u16 {
        match self {
            Self::Timeout | Self::PerTryTimeout | Self::DeadlineExceeded => 4,
            Self::NoRouteHost | Self::NoRoutePath | Self::NotSupported => 12,
            Self::RbacDenied
            | Self::ExtAuthzDenied
            | Self::ExtAuthzError
            | Self::UpgradeNotAllowed
            | Self::JwtAudience
            | Self::JwtRequirement => 7,
            _ if self.is_of_tokens() => 16,
            Self::BadRequest => 13,
            // As gRPC maps 431 and 408.
            Self::HeadersTooLarge | Self::BodyTimeout => 2,
            // Not to be tried again.
            Self::LoopDetected => 9,
            _ => 14,
        }
    }

    /// Envoy's response flag.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::NotInRegistry | Self::NoRouteHost | Self::NoRoutePath | Self::NoRouteYet => "NR",
            Self::NoEndpoints | Self::NoHealthyEndpoints => "UH",
            Self::ClusterUnknown => "NC",
            Self::BreakerOpen
            | Self::OverflowOnDemand
            | Self::OverflowPending
            | Self::OverflowRequests
            | Self::OverflowRetries => "UO",
            Self::ConnectFailed | Self::TlsFailed => "UF",
            Self::UpstreamReset => "UR",
            Self::UpstreamClosed => "UC",
            Self::Timeout | Self::PerTryTimeout | Self::DeadlineExceeded => "UT",
            Self::FaultInjected => "FI",
            Self::ExtAuthzDenied | Self::ExtAuthzError => "UAEX",
            // Envoy has none for them.
            Self::RbacDenied
            | Self::LoopDetected
            | Self::JwtMissing
            | Self::JwtMalformed
            | Self::JwtTooLarge
            | Self::JwtTooMany
            | Self::JwtExpired
            | Self::JwtNotYetValid
            | Self::JwtIssuer
            | Self::JwtAudience
            | Self::JwtClaims
            | Self::JwtNoKey
            | Self::JwtSignature
            | Self::JwtKeysAway
            | Self::JwtRequirement => "-",
            Self::RateLimited => "RL",
            Self::BadRequest
            | Self::HeadersTooLarge
            | Self::NotSupported
            | Self::UpgradeNotAllowed => "DPE",
            Self::BodyTimeout => "SI",
            Self::Draining => "DT",
        }
    }
}

/// An own answer in the making.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) attempt: u32,
    /// The application provably has not seen the request.
    pub(crate) unsent: bool,
    /// Other than the code's own.
    instead: Option<Instead>,
    /// The whole body, in place of ours.
    text: Option<&'static str>,
    /// How the caller may show who it is.
    challenge: Option<Box<HeaderValue>>,
    /// An authorization server's own answer, in place of ours.
    given: Option<Box<Given>>,
}

/// An answer that somebody else has made.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// 200 to 599.
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A status that a document asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instead {
    /// 200 to 599.
    pub(crate) status: u16,
    /// For gRPC callers.
    pub(crate) grpc: u16,
}

impl Problem {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            endpoint: None,
            attempt: 0,
            unsent: true,
            instead: None,
            text: None,
            challenge: None,
            given: None,
        }
    }

    /// With an HTTP status that somebody asked for, and what gRPC makes of it.
    pub(crate) fn with_status(self, status: u16) -> Self {
        let grpc = grpc_of_http(status);
        self.answered(Instead { status, grpc })
    }

    /// With somebody else's answer; who decided is in a header.
    pub(crate) fn given(self, given: Box<Given>) -> Self {
        let status = given.status;
        Self {
            given: Some(given),
            ..self.with_status(status)
        }
    }

    /// With another status than the code's.
    pub(crate) fn answered(self, instead: Instead) -> Self {
        Self {
            instead: Some(instead),
            ..self
        }
    }

    /// With the body that Envoy gives. Who decided is in a header then.
    pub(crate) fn saying(self, text: &'static str) -> Self {
        Self {
            text: Some(text),
            ..self
        }
    }

    /// With a `www-authenticate`.
    pub(crate) fn challenging(self, challenge: Option<HeaderValue>) -> Self {
        Self {
            challenge: challenge.map(Box::new),
            ..self
        }
    }

    /// The body is not ours, so that it does not name the policy.
    fn is_told_apart(&self) -> bool {
        self.text.is_some() || self.given.is_some()
    }

    fn status(&self) -> StatusCode {
        self.instead
            .and_then(|instead| StatusCode::from_u16(instead.status).ok())
            .unwrap_or_else(|| self.code.status())
    }

    pub(crate) fn grpc_status(&self) -> u16 {
        self.instead
            .map_or_else(|| self.code.grpc_status(), |instead| instead.grpc)
    }

    pub(crate) fn at(self, endpoint: SocketAddr, attempt: u32) -> Self {
        Self {
            endpoint: Some(endpoint),
            attempt,
            ..self
        }
    }

    /// The application may have seen it.
    pub(crate) fn maybe_sent(self) -> Self {
        Self {
            unsent: false,
            ..self
        }
    }
}

/// What an answer says beside the problem itself.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) direction: Direction,
    pub(crate) grpc: bool,
    pub(crate) service: Option<&'a str>,
    pub(crate) policy: Option<&'a Arc<str>>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    code: &'static str,
    message: &'a str,
    hop: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    #[serde(skip_serializing_if = "is_zero")]
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde calls"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The response that tells `problem`.
pub(crate) fn problem(problem: &Problem, context: &Context<'_>) -> Response<DownBody> {
    let inbound = context.direction == Direction::Inbound;
    let body = Envelope {
        error: Inner {
            code: problem.code.as_str(),
            message: &problem.message,
            hop: if inbound { "inbound" } else { "outbound" },
            service: context.service,
            endpoint: problem.endpoint,
            attempt: problem.attempt,
            policy: context.policy.map(|p| &**p),
        },
    };
    let (body, content_type) = match (problem.text, &problem.given) {
        (_, Some(given)) => (given.body.clone(), "text/plain"),
        (Some(text), None) => (Bytes::from_static(text.as_bytes()), "text/plain"),
        (None, None) => {
            let body = serde_json::to_vec(&body).unwrap_or_default();
            (Bytes::from(body), "application/json")
        }
    };
    let mut response = Response::new(DownBody::empty());
    let reason = HeaderValue::from_static(problem.code.as_str());
    if context.grpc {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(problem.grpc_status()));
        if let Ok(message) = HeaderValue::from_str(&percent_encoded(&body)) {
            headers.insert(GRPC_MESSAGE, message);
        }
    } else {
        *response.status_mut() = problem.status();
        let headers = response.headers_mut();
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        *response.body_mut() = DownBody::own(body);
        if let Some(given) = &problem.given {
            // It may say another type of content than ours.
            for name in given.headers.keys() {
                response.headers_mut().remove(name);
            }
            response.headers_mut().extend(given.headers.clone());
        }
    }
    let headers = response.headers_mut();
    if let (true, Some(policy)) = (problem.is_told_apart(), context.policy)
        && let Ok(policy) = HeaderValue::from_str(&percent_encoded(policy.as_bytes()))
    {
        headers.insert(POLICY, policy);
    }
    if let Some(challenge) = &problem.challenge {
        headers.insert(WWW_AUTHENTICATE, (**challenge).clone());
    }
    let passing = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    if inbound && problem.unsent && passing.contains(&problem.status()) {
        headers.insert(UNSENT, reason.clone());
    }
    headers.insert(REASON, reason);
    response
}

/// As Envoy maps them.
pub(crate) fn grpc_of_http(status: u16) -> u16 {
    match status {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// A redirect or a fixed answer that a route asked for.
pub(crate) fn direct(status: u16, location: Option<&str>, body: Bytes) -> Response<DownBody> {
    let mut response = Response::new(DownBody::own(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(location) = location.and_then(|l| HeaderValue::from_str(l).ok()) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// gRPC's form of text in a header: everything but printable ASCII, and `%`, as `%XX`.
fn percent_encoded(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod documented;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecar_of_an_application_says_what_it_provably_has_not_seen() {
        let new = |code| Problem::new(code, "why");
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        for (given, direction, says) in [
            (new(Code::ConnectFailed), inbound, true),
            (new(Code::Timeout), inbound, true),
            (new(Code::Timeout).maybe_sent(), inbound, false),
            (new(Code::UpstreamClosed).maybe_sent(), inbound, false),
            // Would be the same everywhere.
            (new(Code::NoRoutePath), inbound, false),
            (new(Code::ConnectFailed), outbound, false),
        ] {
            let context = Context {
                direction,
                grpc: false,
                service: None,
                policy: None,
            };
            let response = problem(&given, &context);
            assert_eq!(response.headers().contains_key(UNSENT), says, "{given:?}");
        }
    }
}
