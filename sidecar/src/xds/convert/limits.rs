//! How much a cluster takes, and when it takes an endpoint out: `circuit_breakers` and `outlier_detection`.

use std::time::Duration;

use outrigger_core::{LimitsScope, OutlierConfig, RetryShare, Thresholds};
use outrigger_proto::envoy::config::{
    cluster::v3::{CircuitBreakers, OutlierDetection, circuit_breakers::thresholds::RetryBudget},
    core::v3::RoutingPriority,
};

use super::{Converted, positive, refuse};

/// Unset = unlimited. A retry budget takes the place of `max_retries` (Envoy).
pub(super) fn thresholds(from: Option<&CircuitBreakers>) -> Converted<(Thresholds, RetryShare)> {
    let mut found = Thresholds::default();
    let mut share = RetryShare::default();
    for (index, limits) in from
        .iter()
        .flat_map(|all| all.thresholds.iter().enumerate())
    {
        if limits.priority != i32::from(RoutingPriority::Default) {
            return refuse(
                format!("thresholds[{index}].priority"),
                "HIGH is not supported yet",
            );
        }
        if index > 0 {
            return refuse(
                format!("thresholds[{index}]"),
                "a second entry for priority DEFAULT",
            );
        }
        found = Thresholds {
            max_connections: limits.max_connections.unwrap_or(u32::MAX),
            max_pending_requests: limits.max_pending_requests.unwrap_or(u32::MAX),
            max_requests: limits.max_requests.unwrap_or(u32::MAX),
            max_retries: limits.max_retries.unwrap_or(u32::MAX),
        };
        if let Some(budget) = &limits.retry_budget {
            found.max_retries = u32::MAX;
            share = retry_share(budget)
                .map_err(|error| error.under(format!("thresholds[{index}].retry_budget")))?;
        }
    }
    Ok((found, share))
}

fn retry_share(from: &RetryBudget) -> Converted<RetryShare> {
    let default = RetryShare::default();
    let percent = from.budget_percent.as_ref();
    let percent = percent.map_or(default.percent, |percent| percent.value);
    if !(0.0..=100.0).contains(&percent) {
        let message = format!("{percent}; must be 0 to 100");
        return refuse("budget_percent.value", message);
    }
    Ok(RetryShare {
        percent,
        least: from.min_retry_concurrency.unwrap_or(default.least),
        written: true,
    })
}

/// `metadata.filter_metadata["outrigger"].limits_scope`; unset = `PROXY`.
pub(super) fn scope(from: Option<&str>) -> Converted<LimitsScope> {
    match from {
        None | Some("PROXY") => Ok(LimitsScope::Proxy),
        Some("SERVICE") => Ok(LimitsScope::Service),
        Some(other) => refuse(
            "metadata.filter_metadata[\"outrigger\"].limits_scope",
            format!("{other:?}; PROXY or SERVICE"),
        ),
    }
}

/// `panic` is Envoy's panic threshold, which is how `minHealthPercent` arrives.
pub(super) fn outlier(
    from: Option<&OutlierDetection>,
    panic: f64,
) -> Converted<Option<OutlierConfig>> {
    let path = "common_lb_config.healthy_panic_threshold.value";
    if !(0.0..=100.0).contains(&panic) {
        return refuse(path, format!("{panic}; must be 0 to 100"));
    }
    let Some(from) = from else {
        if panic > 0.0 {
            return refuse(
                path,
                "not supported yet without outlier_detection; must be 0",
            );
        }
        return Ok(None);
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 100, checked above"
    )]
    let min_health_percent = panic.round() as u32;
    ejection(from, min_health_percent)
        .map(Some)
        .map_err(|error| error.under("outlier_detection"))
}

fn ejection(from: &OutlierDetection, min_health_percent: u32) -> Converted<OutlierConfig> {
    for (path, value) in [
        ("enforcing_success_rate", from.enforcing_success_rate),
        (
            "enforcing_local_origin_success_rate",
            from.enforcing_local_origin_success_rate,
        ),
        (
            "enforcing_failure_percentage",
            from.enforcing_failure_percentage,
        ),
    ] {
        if value.is_some_and(|value| value > 0) {
            return refuse(path, "not supported yet; must be 0");
        }
    }
    if from
        .max_ejection_time_jitter
        .is_some_and(|jitter| jitter.seconds != 0 || jitter.nanos != 0)
    {
        return refuse("max_ejection_time_jitter", "not supported yet; must be 0s");
    }
    if from.always_eject_one_host == Some(false) {
        return refuse("always_eject_one_host", "false is not supported yet");
    }
    let max_ejection_percent = from.max_ejection_percent.unwrap_or(10);
    if max_ejection_percent > 100 {
        return refuse(
            "max_ejection_percent",
            format!("{max_ejection_percent}; at most 100"),
        );
    }
    let base_ejection_time = positive(
        "base_ejection_time",
        from.base_ejection_time.as_ref(),
        Duration::from_secs(30),
    )?;
    let max_ejection_time = positive(
        "max_ejection_time",
        from.max_ejection_time.as_ref(),
        Duration::from_secs(300),
    )?
    .max(base_ejection_time);
    Ok(OutlierConfig {
        consecutive_5xx: enforced(
            "consecutive_5xx",
            from.consecutive_5xx,
            from.enforcing_consecutive_5xx,
            100,
        )?,
        consecutive_gateway_failure: enforced(
            "consecutive_gateway_failure",
            from.consecutive_gateway_failure,
            from.enforcing_consecutive_gateway_failure,
            0,
        )?,
        split_local: split_local(from)?,
        interval: positive("interval", from.interval.as_ref(), Duration::from_secs(10))?,
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent,
        min_health_percent,
    })
}

fn split_local(from: &OutlierDetection) -> Converted<Option<u32>> {
    let name = "consecutive_local_origin_failure";
    if !from.split_external_local_origin_errors {
        return match from.consecutive_local_origin_failure {
            Some(1..) => refuse(
                name,
                "has no effect without split_external_local_origin_errors: true",
            ),
            Some(0) | None => Ok(None),
        };
    }
    let enforcing = from.enforcing_consecutive_local_origin_failure;
    let count = from.consecutive_local_origin_failure;
    enforced(name, count, enforcing, 100).map(Some)
}

/// A count (default 5) that is enforced always or never; 0 = off.
fn enforced(
    name: &str,
    count: Option<u32>,
    enforcing: Option<u32>,
    default_enforcing: u32,
) -> Converted<u32> {
    match enforcing.unwrap_or(default_enforcing) {
        100 => Ok(count.unwrap_or(5)),
        0 if enforcing.is_none() && count.is_some_and(|count| count > 0) => {
            refuse(name, format!("has no effect without enforcing_{name}: 100"))
        }
        0 => Ok(0),
        part => refuse(
            format!("enforcing_{name}"),
            format!("{part} is not supported yet; 0 or 100"),
        ),
    }
}
