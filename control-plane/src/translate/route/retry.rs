//! `retries` as an xDS `RetryPolicy`. Every forwarding route has one: a route without would leave it to the client
//! what is sent twice.
//! Source: Istio's `ConvertPolicy`; Envoy's `x-envoy-retry-on`.

use std::time::Duration;

use outrigger_policy::{Retries, RetryOn};
use outrigger_proto::envoy::{
    config::route::v3::{
        RetryPolicy,
        retry_policy::{
            RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
        },
    },
    extensions::retry::{
        host::previous_hosts::v3::PreviousHostsPredicate,
        priority::previous_priorities::v3::PreviousPrioritiesConfig,
    },
};

use super::super::any::{any, duration};

/// No byte of the request can have reached the application.
const UNSENT: &str = "connect-failure,refused-stream,reset-before-request";
/// Istio's default conditions, with `reset-before-request` for what breaks before a byte was sent.
const IMPLIED: &str = "connect-failure,refused-stream,reset-before-request,unavailable,cancelled,retriable-status-codes";
const STATUS_CODES: &str = "retriable-status-codes";
/// How often an endpoint is chosen anew because the choice had been tried already (Istio).
const SELECTION_ATTEMPTS: i64 = 5;
/// Envoy's relation of the longest wait to the first.
const LONGEST_WAIT: u32 = 10;

/// What `retries` asks for.
pub(super) fn policy(retries: Option<&Retries>) -> RetryPolicy {
    let Some(retries) = retries else {
        return RetryPolicy {
            retry_on: UNSENT.to_owned(),
            num_retries: Some(1),
            ..elsewhere()
        };
    };
    if retries.attempts == 0 {
        // Not the same as none: nothing is sent twice, not even what is unsent.
        return RetryPolicy {
            num_retries: Some(0),
            ..RetryPolicy::default()
        };
    }
    let (retry_on, codes) = match &retries.retry_on {
        Some(written) => (conditions(written), written.status_codes.clone()),
        None => (IMPLIED.to_owned(), vec![503]),
    };
    RetryPolicy {
        retry_on,
        retriable_status_codes: codes.into_iter().map(u32::from).collect(),
        num_retries: Some(retries.attempts),
        per_try_timeout: retries.per_try_timeout.map(duration),
        retry_back_off: retries.backoff.map(back_off),
        retry_priority: retries.retry_remote_localities.then(other_priorities),
        ..if retries.retry_ignore_previous_hosts {
            elsewhere()
        } else {
            RetryPolicy::default()
        }
    }
}

/// Whether the conditions are the default's: then what a server may have seen is for idempotent methods only.
pub(super) fn is_implied(retries: &Retries) -> bool {
    retries.attempts > 0 && retries.retry_on.is_none()
}

fn conditions(written: &RetryOn) -> String {
    let mut all: Vec<&str> = written.conditions.iter().map(String::as_str).collect();
    if !written.status_codes.is_empty() && !all.contains(&STATUS_CODES) {
        all.push(STATUS_CODES);
    }
    all.join(",")
}

/// Each try goes to another endpoint than those before, if there is one.
fn elsewhere() -> RetryPolicy {
    let config = any(
        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        &PreviousHostsPredicate {},
    );
    RetryPolicy {
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(config)),
        }],
        host_selection_retry_max_attempts: SELECTION_ATTEMPTS,
        ..RetryPolicy::default()
    }
}

fn other_priorities() -> RetryPriority {
    let config = any(
        "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        // Priorities that were tried are left out from the second try on (Istio).
        &PreviousPrioritiesConfig {
            update_frequency: 2,
        },
    );
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(retry_priority::ConfigType::TypedConfig(config)),
    }
}

fn back_off(base: Duration) -> RetryBackOff {
    RetryBackOff {
        base_interval: Some(duration(base)),
        max_interval: Some(duration(base.saturating_mul(LONGEST_WAIT))),
    }
}
