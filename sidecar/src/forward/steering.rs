//! Headers by which an application steers its own sidecar, request by request, as Envoy's and Istio's users do:
//! `x-envoy-upstream-rq-timeout-ms`, `x-envoy-max-retries`, `x-envoy-retry-on` and what belongs to them.
//!
//! They are for the sidecar of the application that wrote them, and for nobody behind it: all of them end here, and the
//! sidecar in front of an application obeys none. Source: Envoy `RouterFilter`, `RetryStateImpl`.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderName};
use outrigger_core::{Direction, RetryOn, RetryPolicy};

/// More would only be a mistake; the same for documents.
const MOST_RETRIES: u32 = 100;

const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
/// Read by nobody here, and nobody's behind us.
const OTHERS: [HeaderName; 5] = [
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-stream-duration-ms"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// What an application says about one request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Steering {
    /// Zero = none.
    timeout: Option<Duration>,
    per_try: Option<Duration>,
    retries: Option<u32>,
    /// Conditions besides the route's; None = it does not ask.
    on: Option<RetryOn>,
    codes: Vec<u16>,
}

impl Steering {
    /// Takes the headers out; None = nothing is to be obeyed.
    pub(super) fn take(headers: &mut HeaderMap, direction: Direction) -> Option<Self> {
        let mut text = |name| {
            let value = headers.remove(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let mut millis = |name| text(name)?.trim().parse().ok().map(Duration::from_millis);
        let (timeout, per_try) = (millis(TIMEOUT), millis(PER_TRY));
        let retries = text(RETRIES).and_then(|text| text.trim().parse().ok());
        let on = match (text(ON), text(GRPC_ON)) {
            (None, None) => None,
            (http, grpc) => Some(conditions(&http) | conditions(&grpc)),
        };
        let codes = text(CODES).unwrap_or_default();
        let codes = codes.split(',').filter_map(|code| code.trim().parse().ok());
        let this = Self {
            timeout,
            per_try: per_try.filter(|limit| !limit.is_zero()),
            retries,
            on,
            codes: codes.collect(),
        };
        for name in OTHERS {
            headers.remove(name);
        }
        (direction == Direction::Outbound && this != Self::default()).then_some(this)
    }

    pub(super) fn timeout(&self, of_route: Option<Duration>) -> Option<Duration> {
        match self.timeout {
            Some(timeout) => Some(timeout).filter(|timeout| !timeout.is_zero()),
            None => of_route,
        }
    }

    pub(super) fn retry<'a>(&self, of_route: &'a RetryPolicy) -> Cow<'a, RetryPolicy> {
        if self.on.is_none() && self.retries.is_none() && self.per_try.is_none() {
            return Cow::Borrowed(of_route);
        }
        let mut retry = of_route.clone();
        if let Some(on) = self.on {
            retry.on |= on;
            retry.codes.extend(&self.codes);
            // It asks for them, whatever the method.
            retry.implied = false;
            retry.same_host_at_last = true;
            retry.attempts = retry.attempts.max(2);
        }
        if let Some(retries) = self.retries
            && retry.attempts > 1
        {
            retry.attempts = retries.min(MOST_RETRIES) + 1;
        }
        retry.per_try_timeout = self.per_try.or(retry.per_try_timeout);
        Cow::Owned(retry)
    }
}

/// What is no condition counts as none (Envoy).
fn conditions(text: &Option<String>) -> RetryOn {
    let words = text.as_deref().unwrap_or_default().split(',');
    words
        .filter_map(|word| RetryOn::parse(word).ok())
        .fold(RetryOn::NOTHING, |all, one| all | one)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn said(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_an_application_says_takes_the_place_of_what_the_route_says() {
        let route = RetryPolicy::default();
        let off = RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        };
        for (given, route, attempts, on) in [
            (&[("x-envoy-max-retries", "4")][..], &route, 5, ""),
            (&[("x-envoy-max-retries", "0")], &route, 1, ""),
            (&[("x-envoy-max-retries", "4000")], &route, 101, ""),
            (&[("x-envoy-max-retries", "4")], &off, 1, ""),
            (&[("x-envoy-max-retries", "x")], &route, 2, ""),
            (
                &[("x-envoy-retry-on", "5xx, oh,reset")],
                &off,
                2,
                "5xx,reset",
            ),
            (
                &[
                    ("x-envoy-retry-grpc-on", "unavailable"),
                    ("x-envoy-max-retries", "3"),
                ],
                &route,
                4,
                "unavailable",
            ),
        ] {
            let steering = Steering::take(&mut said(given), Direction::Outbound);
            let found = steering.unwrap_or_default().retry(route).into_owned();
            assert_eq!(found.attempts, attempts, "{given:?}");
            assert_eq!(found.on, RetryOn::parse(on).unwrap(), "{given:?}");
        }
        let one = Some(Duration::from_secs(1));
        for (given, want) in [
            ("250", Some(Duration::from_millis(250))),
            ("0", None),
            ("x", one),
        ] {
            let given = [("x-envoy-upstream-rq-timeout-ms", given)];
            let steering = Steering::take(&mut said(&given), Direction::Outbound);
            assert_eq!(steering.unwrap_or_default().timeout(one), want, "{given:?}");
        }
    }

    #[test]
    fn nothing_of_it_is_passed_on_and_inbound_nothing_is_obeyed() {
        let all = [
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
            ("x-envoy-max-retries", "1"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-retry-grpc-on", "internal"),
            ("x-envoy-retriable-status-codes", "404"),
            ("x-envoy-upstream-alt-stat-name", "a"),
            ("x-envoy-hedge-on-per-try-timeout", "true"),
            ("x-envoy-expected-rq-timeout-ms", "5"),
        ];
        let mut headers = said(&all);
        assert_eq!(Steering::take(&mut headers, Direction::Inbound), None);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-envoy-expected-rq-timeout-ms"]);
    }
}
