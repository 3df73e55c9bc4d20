//! A local limit on requests → [`LocalRateLimit`].

use std::time::Duration;

use outrigger_core::{LocalRateLimit, Share, bucket::TokenBucket};
use outrigger_proto::envoy::{
    extensions::{
        common::ratelimit::v3::XRateLimitHeadersRfcVersion,
        filters::http::local_ratelimit::v3 as proto,
    },
    r#type::v3 as types,
};

use super::super::{Converted, duration, features, matches, refuse};

/// Envoy's least.
const SHORTEST_FILL: Duration = Duration::from_millis(50);
const TOO_MANY_REQUESTS: u16 = 429;
const UNAVAILABLE: u16 = 14;
const RESOURCE_EXHAUSTED: u16 = 8;

/// None = it has no bucket, and limits nothing by itself.
pub(super) fn convert(from: &proto::LocalRateLimit) -> Converted<Option<LocalRateLimit>> {
    let status = match from.status.map_or(0, |status| status.code) {
        0 => TOO_MANY_REQUESTS,
        code => match u16::try_from(code) {
            Ok(code @ 400..=599) => code,
            _ => return refuse("status.code", format!("{code}; must be 400 to 599")),
        },
    };
    let tells = match XRateLimitHeadersRfcVersion::try_from(from.enable_x_ratelimit_headers) {
        Ok(XRateLimitHeadersRfcVersion::Off) => false,
        Ok(XRateLimitHeadersRfcVersion::DraftVersion03) => true,
        Err(_unknown) => {
            let found = from.enable_x_ratelimit_headers;
            return refuse("enable_x_ratelimit_headers", format!("{found} is unknown"));
        }
    };
    let Some(found) = &from.token_bucket else {
        return Ok(None);
    };
    let share = |value: Option<&_>| value.map_or(Share::NONE, features::runtime_share);
    Ok(Some(LocalRateLimit {
        bucket: bucket(found).map_err(|error| error.under("token_bucket"))?,
        enabled: share(from.filter_enabled.as_ref()),
        enforced: share(from.filter_enforced.as_ref()),
        status,
        grpc_status: match from.rate_limited_as_resource_exhausted {
            true => RESOURCE_EXHAUSTED,
            false => UNAVAILABLE,
        },
        response_headers: matches::header_edits("response", &from.response_headers_to_add, &[])?,
        request_headers: matches::header_edits(
            "request",
            &from.request_headers_to_add_when_not_enforced,
            &[],
        )?,
        tells,
    }))
}

fn bucket(from: &types::TokenBucket) -> Converted<TokenBucket> {
    if from.max_tokens == 0 {
        return refuse("max_tokens", "0; must be more than zero");
    }
    let per_fill = from.tokens_per_fill.unwrap_or(1);
    if per_fill == 0 {
        return refuse("tokens_per_fill", "0; must be more than zero");
    }
    let Some(interval) = &from.fill_interval else {
        return refuse("fill_interval", "missing");
    };
    let interval = duration("fill_interval", interval)?;
    if interval < SHORTEST_FILL {
        let message = format!("{interval:?}; at least {SHORTEST_FILL:?}");
        return refuse("fill_interval", message);
    }
    match TokenBucket::new(from.max_tokens, per_fill, interval) {
        Some(bucket) => Ok(bucket),
        None => refuse(
            "fill_interval",
            format!("{interval:?}; the bucket would need more than a century to fill"),
        ),
    }
}
