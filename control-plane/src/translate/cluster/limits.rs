//! How much of a cluster may be in use at once, and when an endpoint is taken out.

use outrigger_policy::{ConnectionPool, OutlierDetection, RetryBudget};
use outrigger_proto::envoy::{
    config::cluster::v3::{
        CircuitBreakers, OutlierDetection as XdsOutlierDetection,
        circuit_breakers::{Thresholds, thresholds::RetryBudget as XdsRetryBudget},
    },
    r#type::v3::Percent,
};

use super::super::any::duration;

/// Envoy's own default for an absent limit is 1024; Istio's, and ours, is none.
const UNLIMITED: u32 = u32::MAX;

pub(super) fn circuit_breakers(
    pool: Option<&ConnectionPool>,
    budget: Option<&RetryBudget>,
) -> CircuitBreakers {
    let limit = |of: fn(&ConnectionPool) -> Option<u32>| pool.and_then(of).or(Some(UNLIMITED));
    let thresholds = Thresholds {
        max_connections: limit(|pool| pool.max_connections),
        max_pending_requests: limit(|pool| pool.http1_max_pending_requests),
        max_requests: limit(|pool| pool.http2_max_requests),
        max_retries: limit(|pool| pool.max_retries),
        retry_budget: budget.map(|budget| XdsRetryBudget {
            budget_percent: Some(Percent {
                value: budget.percent,
            }),
            min_retry_concurrency: Some(budget.min_retry_concurrency),
        }),
        ..Thresholds::default()
    };
    CircuitBreakers {
        thresholds: vec![thresholds],
        ..CircuitBreakers::default()
    }
}

pub(super) fn outlier_detection(outlier: &OutlierDetection) -> XdsOutlierDetection {
    let (errors, gateway) = (
        outlier.consecutive_5xx_errors,
        outlier.consecutive_gateway_errors,
    );
    let enforced = |count: u32| Some(if count > 0 { 100 } else { 0 });
    let count = |count: u32| (count > 0).then_some(count);
    let all = XdsOutlierDetection {
        consecutive_5xx: count(errors),
        enforcing_consecutive_5xx: enforced(errors),
        consecutive_gateway_failure: count(gateway),
        enforcing_consecutive_gateway_failure: enforced(gateway),
        interval: Some(duration(outlier.interval)),
        base_ejection_time: Some(duration(outlier.base_ejection_time)),
        max_ejection_percent: Some(outlier.max_ejection_percent),
        // Or else the default of 10 % would be nothing for a service with fewer than ten endpoints.
        always_eject_one_host: Some(true),
        // Istio offers consecutive errors only; Envoy's success-rate sweep is on unless switched off.
        enforcing_success_rate: Some(0),
        ..XdsOutlierDetection::default()
    };
    if !outlier.split_external_local_origin_errors {
        return all;
    }
    let local = outlier.consecutive_local_origin_failures;
    XdsOutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: count(local),
        enforcing_consecutive_local_origin_failure: enforced(local),
        enforcing_local_origin_success_rate: Some(0),
        ..all
    }
}
