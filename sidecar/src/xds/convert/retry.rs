//! `RetryPolicy` → [`RetryPolicy`](outrigger_core::RetryPolicy).

use std::time::Duration;

use outrigger_core::{RetryOn, RetryPolicy};
use outrigger_proto::envoy::{
    config::route::v3::{
        RetryPolicy as Proto,
        retry_policy::{self, RetryBackOff, RetryHostPredicate},
    },
    extensions::retry::{
        host::previous_hosts::v3::PreviousHostsPredicate,
        priority::previous_priorities::v3::PreviousPrioritiesConfig,
    },
};

use super::{Converted, FieldError, duration, positive, refuse, unpack};

/// More would only be a mistake: with full back-off, 100 tries take 25 s.
const MOST_RETRIES: u32 = 100;

/// `implied`: nobody wrote the conditions.
pub(super) fn convert(from: &Proto, implied: bool) -> Converted<RetryPolicy> {
    let on = RetryOn::parse(&from.retry_on)
        .map_err(|unknown| FieldError::new("retry_on", format!("{unknown:?} is not supported")))?;
    // Without conditions nothing is retried (Envoy).
    let retries = match from.num_retries {
        _ if from.retry_on.is_empty() => 0,
        Some(retries) if retries > MOST_RETRIES => {
            return refuse("num_retries", format!("{retries}; at most {MOST_RETRIES}"));
        }
        Some(retries) => retries,
        None => 1,
    };
    let (base_interval, max_interval) = match &from.retry_back_off {
        Some(back_off) => intervals(back_off).map_err(|error| error.under("retry_back_off"))?,
        None => {
            let default = RetryPolicy::default();
            (default.base_interval, default.max_interval)
        }
    };
    let mut other_host = false;
    for (index, predicate) in from.retry_host_predicate.iter().enumerate() {
        host_predicate(predicate)
            .map_err(|error| error.under(format!("retry_host_predicate[{index}]")))?;
        other_host = true;
    }
    Ok(RetryPolicy {
        attempts: retries + 1,
        on,
        codes: codes(&from.retriable_status_codes)?,
        implied,
        per_try_timeout: from
            .per_try_timeout
            .as_ref()
            .map(|timeout| duration("per_try_timeout", timeout))
            .transpose()?
            .filter(|timeout| !timeout.is_zero()),
        base_interval,
        max_interval,
        other_host,
        // More than what the control plane says of a route whose document is silent.
        same_host_at_last: on != RetryOn::NOTHING || retries > 1,
        other_priority_every: from.retry_priority.as_ref().map(priority).transpose()?,
    })
}

fn codes(from: &[u32]) -> Converted<Vec<u16>> {
    let code = |(index, code): (usize, &u32)| {
        u16::try_from(*code)
            .ok()
            .filter(|code| (100..600).contains(code))
            .ok_or_else(|| {
                FieldError::new(
                    format!("retriable_status_codes[{index}]"),
                    format!("{code}; must be 100 to 599"),
                )
            })
    };
    from.iter().enumerate().map(code).collect()
}

fn intervals(from: &RetryBackOff) -> Converted<(Duration, Duration)> {
    if from.base_interval.is_none() {
        return refuse("base_interval", "missing");
    }
    let base = positive("base_interval", from.base_interval.as_ref(), Duration::ZERO)?;
    let most = positive(
        "max_interval",
        from.max_interval.as_ref(),
        base.saturating_mul(10),
    )?;
    if most < base {
        return refuse("max_interval", format!("{most:?} is below {base:?}"));
    }
    Ok((base, most))
}

/// Our choice leaves tried endpoints out exactly: `host_selection_retry_max_attempts` is only how often Envoy may look.
fn host_predicate(from: &RetryHostPredicate) -> Converted<()> {
    let Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(any)) = &from.config_type
    else {
        return refuse("typed_config", "missing");
    };
    let name = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
    unpack::<PreviousHostsPredicate>(any, name)
        .map(drop)
        .map_err(|error| error.under("typed_config"))
}

fn priority(from: &retry_policy::RetryPriority) -> Converted<u32> {
    let Some(retry_policy::retry_priority::ConfigType::TypedConfig(any)) = &from.config_type else {
        return refuse("retry_priority.typed_config", "missing");
    };
    let name = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";
    let config: PreviousPrioritiesConfig =
        unpack(any, name).map_err(|error| error.under("retry_priority.typed_config"))?;
    match u32::try_from(config.update_frequency) {
        Ok(every) if every > 0 => Ok(every),
        _ => refuse(
            "retry_priority.typed_config.update_frequency",
            format!("{}; must be 1 or more", config.update_frequency),
        ),
    }
}
