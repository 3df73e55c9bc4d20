//! Until when a caller waits, as headers say it: Envoy's `x-envoy-expected-rq-timeout-ms` and gRPC's `grpc-timeout`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long the sender of `headers` waits; None = it does not say.
pub(crate) fn announced(headers: &HeaderMap, grpc: bool) -> Option<Duration> {
    let expected = headers
        .get(EXPECTED)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_millis);
    let own = grpc
        .then(|| headers.get(GRPC_TIMEOUT))
        .flatten()
        .and_then(|value| grpc_timeout(value.to_str().ok()?));
    match (expected, own) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
    // Envoy's word for "no limit", in both.
    .filter(|wait| !wait.is_zero())
}

/// Says how long we wait.
pub(crate) fn announce(headers: &mut HeaderMap, left: Duration, grpc: bool) {
    // 0 would be no limit; what is left of less than a millisecond is one.
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    headers.insert(EXPECTED, HeaderValue::from(millis));
    if grpc {
        let text = match millis {
            ..=MOST => format!("{millis}m"),
            _ => format!("{}S", (millis / 1000).min(MOST)),
        };
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

/// gRPC allows eight digits.
const MOST: u64 = 99_999_999;

fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_shorter_of_both_headers_counts() {
        let envoy = "x-envoy-expected-rq-timeout-ms";
        for (given, grpc, want) in [
            (&[][..], true, None),
            (&[(envoy, "1500")], false, Some(1500)),
            (&[(envoy, "x")], false, None),
            (&[("grpc-timeout", "2S")], true, Some(2000)),
            (&[("grpc-timeout", "2S")], false, None),
            (&[("grpc-timeout", "1H")], true, Some(3_600_000)),
            (&[("grpc-timeout", "3M")], true, Some(180_000)),
            (&[("grpc-timeout", "70m")], true, Some(70)),
            (&[("grpc-timeout", "5000u")], true, Some(5)),
            (&[("grpc-timeout", "123456789m")], true, None),
            (&[("grpc-timeout", "5")], true, None),
            (&[("grpc-timeout", "0m")], true, None),
            (&[(envoy, "0")], false, None),
            (&[("grpc-timeout", "5X")], true, None),
            (&[("grpc-timeout", "2S"), (envoy, "90")], true, Some(90)),
        ] {
            let found = announced(&map(given), grpc);
            assert_eq!(found, want.map(Duration::from_millis), "{given:?}");
        }
    }

    #[test]
    fn what_is_announced_is_understood() {
        for millis in [1, 1500, MOST, MOST + 1000] {
            let mut headers = map(&[("grpc-timeout", "1n")]);
            announce(&mut headers, Duration::from_millis(millis), true);
            let found = announced(&headers, true).unwrap();
            let lost = Duration::from_millis(millis) - found;
            assert!(lost < Duration::from_secs(1), "{millis}: {found:?}");
        }
    }
}
