//! `retries`: what is sent twice, to whom, and on whose word.

use std::time::Duration;

use outrigger_policy::{Hedging, Retries, RetryOn};

use super::*;

/// `reviews` with one rule and these retries, as they arrive.
fn with(retries: Option<Retries>) -> Given {
    let given = given_routes("  - route: [{destination: {host: reviews}}]\n");
    given.rule(move |rule| {
        rule.retries = retries.clone().map(|retries| at(3, retries));
    })
}

fn route(given: &Given) -> Value {
    let seen = given.seen_by(&node());
    seen.routes("http_proxy", "reviews.default.svc.cluster.local:9080")[0].clone()
}

fn retries() -> Retries {
    Retries {
        attempts: 3,
        per_try_timeout: None,
        retry_on: None,
        retry_remote_localities: false,
        retry_ignore_previous_hosts: true,
        backoff: None,
    }
}

fn elsewhere() -> Value {
    json!([{
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
    }])
}

#[test]
fn without_a_word_only_what_is_unsent_is_sent_again() {
    for given in [reviews(), with(None)] {
        let route = route(&given);
        let default = json!({
            "retryOn": "connect-failure,refused-stream,reset-before-request",
            "numRetries": 1,
            "retryHostPredicate": elsewhere(),
            "hostSelectionRetryMaxAttempts": "5",
        });
        assert_eq!(route["route"]["retryPolicy"], default);
    }
}

#[test]
fn no_attempts_is_never_even_what_is_unsent() {
    let given = with(Some(Retries {
        attempts: 0,
        ..retries()
    }));
    let route = route(&given);
    assert_eq!(route["route"]["retryPolicy"], json!({"numRetries": 0}));
    let own = &route["metadata"]["filterMetadata"]["outrigger"];
    assert_eq!(own["retry_implied"], Value::Null);
}

#[test]
fn attempts_without_conditions_are_marked_as_implied() {
    let given = with(Some(retries()));
    let route = route(&given);
    let policy = &route["route"]["retryPolicy"];
    assert_eq!(
        policy["retryOn"],
        "connect-failure,refused-stream,reset-before-request,unavailable,cancelled,retriable-status-codes"
    );
    assert_eq!(policy["retriableStatusCodes"], json!([503]));
    assert_eq!(policy["numRetries"], 3);
    let own = &route["metadata"]["filterMetadata"]["outrigger"];
    assert_eq!(own["retry_implied"], true);
    assert_eq!(own["positions"], json!({"retries": "f.yaml:3:5"}));
    envoy::accepts(&given);
}

#[test]
fn everything_that_is_written_is_asked_for() {
    let on = |conditions: &[&str], codes: &[u16]| {
        Some(RetryOn {
            conditions: conditions.iter().map(|&one| one.to_owned()).collect(),
            status_codes: codes.to_vec(),
        })
    };
    let given = with(Some(Retries {
        per_try_timeout: Some(Duration::from_millis(1500)),
        retry_on: on(&["5xx", "reset"], &[429, 503]),
        retry_remote_localities: true,
        backoff: Some(Duration::from_millis(40)),
        ..retries()
    }));
    let full = route(&given);
    let policy = &full["route"]["retryPolicy"];
    let priorities = "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";
    let expected = json!({
        "retryOn": "5xx,reset,retriable-status-codes",
        "retriableStatusCodes": [429, 503],
        "numRetries": 3,
        "perTryTimeout": "1.500s",
        "retryBackOff": {"baseInterval": "0.040s", "maxInterval": "0.400s"},
        "retryHostPredicate": elsewhere(),
        "hostSelectionRetryMaxAttempts": "5",
        "retryPriority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typedConfig": {"@type": priorities, "updateFrequency": 2},
        },
    });
    assert_eq!(*policy, expected);
    let own = &full["metadata"]["filterMetadata"]["outrigger"];
    assert_eq!(own["retry_implied"], Value::Null);
    envoy::accepts(&given);

    let same_host = with(Some(Retries {
        retry_on: on(&["retriable-status-codes"], &[500]),
        retry_ignore_previous_hosts: false,
        ..retries()
    }));
    let policy = &route(&same_host)["route"]["retryPolicy"];
    let expected = json!({
        "retryOn": "retriable-status-codes", "retriableStatusCodes": [500], "numRetries": 3,
    });
    assert_eq!(*policy, expected);
}

#[test]
fn hedging_is_the_most_careful_of_what_all_destinations_say() {
    let hedging = |after, budget_percent| Hedging {
        after: Duration::from_millis(after),
        budget_percent,
    };
    let two = "  - route:
    - {destination: {host: reviews}, weight: 50}
    - {destination: {host: ratings}, weight: 50}
";
    let table = [
        (
            Some(hedging(20, 10.0)),
            Some(hedging(50, 5.5)),
            json!({"after_ms": 50, "budget_percent": 5.5}),
        ),
        (Some(hedging(20, 10.0)), None, Value::Null),
        (None, None, Value::Null),
    ];
    for (reviews, ratings, expected) in table {
        let given = given_routes(two)
            .destination_policy("reviews", "", move |policy| {
                policy.hedging = reviews.map(|of| at(7, of));
            })
            .destination_policy("ratings", "", move |policy| {
                policy.hedging = ratings.map(|of| at(8, of));
            });
        let own = &route(&given)["metadata"]["filterMetadata"]["outrigger"];
        let wanted = |value: &Value| value.as_f64();
        for key in ["after_ms", "budget_percent"] {
            assert_eq!(wanted(&own["hedge"][key]), wanted(&expected[key]), "{key}");
        }
        let position = (!expected.is_null()).then_some("f.yaml:7:5");
        assert_eq!(own["positions"]["hedge"].as_str(), position);
    }
}
