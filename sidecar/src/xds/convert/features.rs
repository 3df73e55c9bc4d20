//! What few routes have → [`Features`]: faults, CORS, mirrors, hedging, counters, positions.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use outrigger_core::{Abort, Cors, Fault, Features, Hedge, Mirror, Positions, Share, StringMatch};
use outrigger_proto::envoy::{
    config::{
        core::v3::{Metadata, RuntimeFractionalPercent},
        route::v3::{Route, route_action::RequestMirrorPolicy},
    },
    extensions::filters::{
        common::fault::v3::{FaultDelay, fault_delay},
        http::{
            cors::v3::CorsPolicy,
            fault::v3::{FaultAbort, HttpFault, fault_abort},
        },
    },
    r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
};
use prost_types::{Struct, value::Kind};

use super::{
    Converted, FieldError, duration, filters::Levels, matches, refuse, route::Slots, string,
    unsupported,
};

pub(super) const CORS_FILTER: &str = "envoy.filters.http.cors";
pub(super) const FAULT_FILTER: &str = "envoy.filters.http.fault";
pub(super) const CORS_POLICY: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";

/// Our part of a route's metadata.
pub(super) fn metadata(from: Option<&Metadata>) -> Option<&Struct> {
    from?.filter_metadata.get("outrigger")
}

/// A flag in a struct; absent is false.
pub(super) fn flag(from: Option<&Struct>, key: &str) -> bool {
    let kind = from.and_then(|from| from.fields.get(key)?.kind.as_ref());
    matches!(kind, Some(Kind::BoolValue(true)))
}

/// All but the mirrors, which belong to the action. `around` is what table and host say about filters.
pub(super) fn convert(from: &Route, around: &Levels) -> Converted<Features> {
    let mut features = Features::default();
    around
        .and(&from.typed_per_filter_config)?
        .apply(&mut features)?;
    features.stat_prefix =
        Some(from.stat_prefix.as_str().into()).filter(|prefix: &Arc<str>| !prefix.is_empty());
    if let Some(ours) = metadata(from.metadata.as_ref()) {
        features.positions = positions(ours);
        features.hedge = hedge(ours)?;
    }
    Ok(features)
}

fn positions(ours: &Struct) -> Positions {
    let inner = structure(ours, "positions");
    let line = |key| inner.and_then(|inner| string(inner, key)).map(Into::into);
    Positions {
        timeout: line("timeout"),
        retries: line("retries"),
        fault: line("fault"),
        cors: line("cors"),
        mirrors: line("mirrors"),
    }
}

fn hedge(ours: &Struct) -> Converted<Option<Hedge>> {
    let Some(inner) = structure(ours, "hedge") else {
        return Ok(None);
    };
    let path = "metadata.outrigger.hedge";
    let after = number(inner, "after_ms").filter(|ms| (1.0..=3_600_000.0).contains(ms));
    let Some(after) = after else {
        return refuse(format!("{path}.after_ms"), "must be 1 to 3600000");
    };
    let percent = number(inner, "budget_percent").unwrap_or(DEFAULT_HEDGES);
    if !(0.0..=100.0).contains(&percent) {
        return refuse(format!("{path}.budget_percent"), "must be 0 to 100");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 100, checked above"
    )]
    let budget_percent = percent.ceil() as u32;
    Ok(Some(Hedge {
        after: Duration::from_secs_f64(after / 1000.0),
        budget_percent,
    }))
}

/// Percent of the requests of the last ten seconds, where the document is silent.
const DEFAULT_HEDGES: f64 = 10.0;

fn structure<'a>(from: &'a Struct, key: &str) -> Option<&'a Struct> {
    match from.fields.get(key)?.kind.as_ref()? {
        Kind::StructValue(inner) => Some(inner),
        _ => None,
    }
}

fn number(from: &Struct, key: &str) -> Option<f64> {
    match from.fields.get(key)?.kind.as_ref()? {
        Kind::NumberValue(number) => Some(*number),
        _ => None,
    }
}

/// None = switched off.
pub(super) fn cors(from: &CorsPolicy) -> Converted<Option<Cors>> {
    if from
        .filter_enabled
        .as_ref()
        .map_or(Share::ALL, runtime_share)
        != Share::ALL
    {
        // Envoy draws by request, and a preflight and its request would meet different policies.
        return refuse("filter_enabled", "must be 100 %");
    }
    if from.shadow_enabled.is_some() {
        return unsupported("shadow_enabled");
    }
    let mut allow_origins = Vec::with_capacity(from.allow_origin_string_match.len());
    for (index, matcher) in from.allow_origin_string_match.iter().enumerate() {
        let matcher: StringMatch = matches::string_match(matcher)
            .map_err(|error| error.under(format!("allow_origin_string_match[{index}]")))?;
        allow_origins.push(matcher.whole());
    }
    if from.allow_private_network_access.is_some() {
        return unsupported("allow_private_network_access");
    }
    Ok(Some(Cors {
        allow_origins,
        allow_methods: text("allow_methods", &from.allow_methods)?,
        allow_headers: text("allow_headers", &from.allow_headers)?,
        max_age: text("max_age", &from.max_age)?,
        expose_headers: text("expose_headers", &from.expose_headers)?,
        allow_credentials: from.allow_credentials.unwrap_or(false),
        forward_not_matching_preflights: from.forward_not_matching_preflights.unwrap_or(true),
    }))
}

fn text(path: &str, from: &str) -> Converted<Option<HeaderValue>> {
    if from.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(from)
        .map(Some)
        .map_err(|error| FieldError::new(path, error.to_string()))
}

/// None = nothing to do.
pub(super) fn fault(from: &HttpFault) -> Converted<Option<Fault>> {
    let delay = from.delay.as_ref().map(delay).transpose()?;
    let abort = from.abort.as_ref().map(abort).transpose()?;
    let mut headers = Vec::with_capacity(from.headers.len());
    for (index, header) in from.headers.iter().enumerate() {
        let header = matches::header_match(header)
            .map_err(|error| error.under(format!("headers[{index}]")))?;
        headers.push(header.whole());
    }
    if delay.is_none() && abort.is_none() {
        return Ok(None);
    }
    Ok(Some(Fault {
        delay,
        abort,
        headers,
    }))
}

fn delay(from: &FaultDelay) -> Converted<(Duration, Share)> {
    let share = share(from.percentage.as_ref());
    match &from.fault_delay_secifier {
        Some(fault_delay::FaultDelaySecifier::FixedDelay(fixed)) => {
            let fixed = duration("delay.fixed_delay", fixed)?;
            if fixed.is_zero() {
                return refuse("delay.fixed_delay", "0s; must be more than zero");
            }
            Ok((fixed, share))
        }
        Some(fault_delay::FaultDelaySecifier::HeaderDelay(_)) => unsupported("delay.header_delay"),
        None => refuse("delay.fixed_delay", "missing"),
    }
}

fn abort(from: &FaultAbort) -> Converted<(Abort, Share)> {
    let share = share(from.percentage.as_ref());
    let abort = match &from.error_type {
        Some(fault_abort::ErrorType::HttpStatus(status)) => match u16::try_from(*status) {
            Ok(status @ 200..=599) => Abort::Http(status),
            _ => return refuse("abort.http_status", format!("{status}; must be 200 to 599")),
        },
        Some(fault_abort::ErrorType::GrpcStatus(status)) => match u16::try_from(*status) {
            Ok(status @ 0..=16) => Abort::Grpc(status),
            _ => return refuse("abort.grpc_status", format!("{status}; must be 0 to 16")),
        },
        Some(fault_abort::ErrorType::HeaderAbort(_)) => {
            return unsupported("abort.header_abort");
        }
        None => {
            return refuse(
                "abort.http_status",
                "missing; one of http_status, grpc_status must be set",
            );
        }
    };
    Ok((abort, share))
}

/// Absent is none (Envoy).
fn share(from: Option<&FractionalPercent>) -> Share {
    let Some(from) = from else {
        return Share::NONE;
    };
    let of = match DenominatorType::try_from(from.denominator) {
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Ok(DenominatorType::Hundred) | Err(_) => 100,
    };
    Share::new(from.numerator, of)
}

/// There is no runtime here that could override the default.
pub(super) fn runtime_share(from: &RuntimeFractionalPercent) -> Share {
    share(from.default_value.as_ref())
}

pub(super) fn mirrors(
    from: &[RequestMirrorPolicy],
    slots: &mut Slots<'_>,
) -> Converted<Vec<Mirror>> {
    let mut mirrors = Vec::with_capacity(from.len());
    for (index, policy) in from.iter().enumerate() {
        let mirror = mirror(policy, slots)
            .map_err(|error| error.under(format!("request_mirror_policies[{index}]")))?;
        mirrors.push(mirror);
    }
    Ok(mirrors)
}

fn mirror(from: &RequestMirrorPolicy, slots: &mut Slots<'_>) -> Converted<Mirror> {
    if from.cluster.is_empty() {
        return refuse("cluster", "missing");
    }
    if from.trace_sampled != Some(false) {
        return refuse("trace_sampled", "must be false; copies have no spans");
    }
    Ok(Mirror {
        cluster: slots(&from.cluster),
        name: from.cluster.as_str().into(),
        share: from
            .runtime_fraction
            .as_ref()
            .map_or(Share::ALL, runtime_share),
        marks_host: !from.disable_shadow_host_suffix_append,
        host: text("host_rewrite_literal", &from.host_rewrite_literal)?,
    })
}
