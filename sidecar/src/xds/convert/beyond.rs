//! What xDS has no field for, from `metadata.filter_metadata["outrigger"]` of a cluster: others ignore it.

use std::{sync::Arc, time::Duration};

use outrigger_core::BreakerConfig;
use outrigger_proto::envoy::config::core::v3::Metadata;
use prost_types::{Struct, value::Kind};

use super::{Converted, refuse, string};

/// Decay of peak EWMA where none is given (Finagle).
const DECAY_MS: u32 = 10_000;
const MINIMUM_ENDPOINTS: u32 = 6; // Envoy's min_cluster_size
const FAILURES: u32 = 5;
const RESET_MS: u32 = 30_000;
const OURS: &str = "metadata.filter_metadata[\"outrigger\"]";

/// Policy of ours.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    /// `balancer: {"type": "PEAK_EWMA", "decay_ms": 10000}`
    pub(super) peak_ewma: Option<Duration>,
    /// `zone_aware: {"minimum_endpoints": 6}`
    pub(super) zone_aware: Option<u32>,
    /// `circuit_breaker: {"consecutive_failures": 5, "reset_timeout_ms": 30000, "scope": "ENDPOINT"}`
    pub(super) breaker: Option<BreakerConfig>,
}

pub(super) fn read(metadata: Option<&Metadata>) -> Converted<Beyond> {
    let Some(ours) = metadata.and_then(|metadata| metadata.filter_metadata.get("outrigger")) else {
        return Ok(Beyond::default());
    };
    let under = |error: super::FieldError| error.under(OURS);
    Ok(Beyond {
        peak_ewma: part(ours, "balancer", balancer).map_err(under)?,
        zone_aware: part(ours, "zone_aware", |zone_aware| {
            number(zone_aware, "minimum_endpoints", MINIMUM_ENDPOINTS)
        })
        .map_err(under)?,
        breaker: part(ours, "circuit_breaker", breaker).map_err(under)?,
    })
}

fn balancer(from: &Struct) -> Converted<Duration> {
    match string(from, "type") {
        Some("PEAK_EWMA") => {
            let decay = number(from, "decay_ms", DECAY_MS)?;
            Ok(Duration::from_millis(decay.into()))
        }
        other => refuse("type", format!("{other:?} is unknown; must be PEAK_EWMA")),
    }
}

fn breaker(from: &Struct) -> Converted<BreakerConfig> {
    let (for_endpoints, for_service) = match string(from, "scope") {
        Some("ENDPOINT") => (true, false),
        Some("SERVICE") => (false, true),
        Some("BOTH") => (true, true),
        other => {
            let message = format!("{other:?} is unknown; must be ENDPOINT, SERVICE or BOTH");
            return refuse("scope", message);
        }
    };
    let reset = number(from, "reset_timeout_ms", RESET_MS)?;
    Ok(BreakerConfig {
        consecutive_failures: number(from, "consecutive_failures", FAILURES)?,
        reset_timeout: Duration::from_millis(reset.into()),
        for_endpoints,
        for_service,
        position: string(from, "position").map(Arc::from),
    })
}

/// The struct called `key`, if it is there.
fn part<T>(
    from: &Struct,
    key: &str,
    read: impl FnOnce(&Struct) -> Converted<T>,
) -> Converted<Option<T>> {
    match from.fields.get(key).and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => Ok(None),
        Some(Kind::StructValue(inner)) => read(inner).map(Some).map_err(|error| error.under(key)),
        Some(_) => refuse(key, "must be a struct"),
    }
}

/// A whole number of 1 or more.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole, and within u32"
)]
fn number(from: &Struct, key: &str, default: u32) -> Converted<u32> {
    match from.fields.get(key).and_then(|value| value.kind.as_ref()) {
        None => Ok(default),
        Some(Kind::NumberValue(value))
            if (1.0..=f64::from(u32::MAX)).contains(value) && value.fract() == 0.0 =>
        {
            Ok(*value as u32)
        }
        Some(Kind::NumberValue(value)) => refuse(
            key,
            format!("{value}; must be a whole number from 1 to {}", u32::MAX),
        ),
        Some(_) => refuse(key, "must be a number"),
    }
}
