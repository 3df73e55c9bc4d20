//! Retries and timeouts of a rule, and what they come to with each other and over several hops.

use std::{collections::BTreeMap, sync::Arc};

use super::finder::{Finder, listed, time};
use crate::{
    Code, HostName, HttpAction, HttpMatch, HttpRoute, Object, Retries, RetryOn, Spec, StringMatch,
};

/// Past these, more tries rarely find a healthy endpoint and always cost load.
const MANY_ATTEMPTS: u32 = 5;

/// Methods whose request may not be sent twice with the effect of once (RFC 9110, 9.2.2), of those that clients send.
const WRITES: [&str; 3] = ["POST", "PATCH", "CONNECT"];

/// Conditions under which a server may have done the work already.
const AFTER_THE_FACT: [&str; 4] = ["5xx", "gateway-error", "reset", "retriable-4xx"];

/// Whether a rule takes POST or PATCH.
pub(super) fn takes_writes(rule: &HttpRoute) -> bool {
    let writes = |found: &HttpMatch| match &found.method {
        Some(StringMatch::Exact(method)) => WRITES.contains(&method.as_str()),
        Some(StringMatch::Prefix(prefix)) => {
            "POST".starts_with(prefix.as_str()) || "PATCH".starts_with(prefix.as_str())
        }
        Some(StringMatch::Regex(regex)) => regex::Regex::new(&format!("^(?:{regex})$"))
            .is_ok_and(|regex| regex.is_match("POST") || regex.is_match("PATCH")),
        Some(StringMatch::Present) | None => true,
    };
    rule.matches.is_empty() || rule.matches.iter().any(writes)
}

/// Which of the conditions may do a write twice.
fn unsafe_conditions(on: &RetryOn) -> Vec<String> {
    let words = on
        .conditions
        .iter()
        .filter(|word| AFTER_THE_FACT.contains(&word.as_str()))
        .cloned();
    // 503 is what a server says that has not begun.
    let codes = on
        .status_codes
        .iter()
        .filter(|&&code| code >= 500 && code != 503)
        .map(u16::to_string);
    words.chain(codes).collect()
}

/// `place` is the rule's document and path.
pub(super) fn check<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    rule: &HttpRoute,
    place: (&'a Object, &str),
) {
    connect(finder, object, rule, place);
    check_retries(finder, place.0, rule, place.1);
}

pub(super) fn check_retries<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    rule: &HttpRoute,
    path: &str,
) {
    let Some(retries) = rule.retries.as_ref().map(|retries| &retries.value) else {
        return;
    };
    let path = format!("{path}.retries");
    if retries.attempts == 0 {
        return;
    }
    if let Some(on) = &retries.retry_on {
        let conditions = unsafe_conditions(on);
        if !conditions.is_empty() && takes_writes(rule) {
            let message = format!(
                "this rule takes POST, and after {} the server may have done the work: a retry does it twice; match GET in a rule of its \
                 own, or keep to connect-failure,refused-stream,reset-before-request",
                listed(conditions)
            );
            finder.find(
                Code::RetriedWrites,
                object,
                &format!("{path}.retryOn"),
                message,
            );
        }
    }
    if retries.attempts > MANY_ATTEMPTS {
        let message = format!(
            "{} more tries of a request that failed are load on a service that cannot bear it, and its callers have gone by then; 2 or 3 do",
            retries.attempts
        );
        finder.find(
            Code::ManyRetries,
            object,
            &format!("{path}.attempts"),
            message,
        );
    }
    within_timeout(finder, object, rule, retries, &path);
}

fn within_timeout<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    rule: &HttpRoute,
    retries: &Retries,
    path: &str,
) {
    let Some(timeout) = rule.timeout.as_ref().map(|at| at.value) else {
        return;
    };
    if let Some(backoff) = retries.backoff.filter(|backoff| *backoff >= timeout) {
        let message = format!(
            "the wait before the second try, {}, is not over before the timeout, {}; write a smaller one",
            time(backoff),
            time(timeout)
        );
        finder.find(
            Code::BackoffPastTimeout,
            object,
            &format!("{path}.backoff"),
            message,
        );
    }
    let tries = retries.attempts.saturating_add(1);
    match retries.per_try_timeout {
        Some(each) if each >= timeout => {
            let message = format!(
                "the rule's timeout of {} ends the first try before its {} are over, and then there is none left; write less than {}",
                time(timeout),
                time(each),
                time(timeout / tries)
            );
            finder.find(
                Code::PerTryPastTimeout,
                object,
                &format!("{path}.perTryTimeout"),
                message,
            );
        }
        Some(each) if each.saturating_mul(tries) > timeout => {
            let message = format!(
                "{tries} tries of {} are {}, but the rule's timeout is {}: the last ones never happen; write at most {}, or a timeout of {}",
                time(each),
                time(each.saturating_mul(tries)),
                time(timeout),
                time(timeout / tries),
                time(each.saturating_mul(tries))
            );
            finder.find(
                Code::RetriesPastTimeout,
                object,
                &format!("{path}.perTryTimeout"),
                message,
            );
        }
        None if retries.retry_on.is_some() => {
            let message = format!(
                "a first try that hangs uses up the whole timeout of {}, and nothing is retried; give a perTryTimeout of at most {}",
                time(timeout),
                time(timeout / tries)
            );
            finder.find(Code::TryWithoutLimit, object, path, message);
        }
        _ => {}
    }
}

/// A connection may take longer than the request that waits for it.
/// `object` has the destinations, `place` the timeout.
pub(super) fn connect<'a>(
    finder: &mut Finder<'a>,
    object: &Object,
    rule: &HttpRoute,
    (writer, path): (&'a Object, &str),
) {
    let (Some(timeout), HttpAction::Route(to)) =
        (rule.timeout.as_ref().map(|at| at.value), &rule.action)
    else {
        return;
    };
    for one in to {
        let host = finder.host(object, &one.host);
        let policy = finder.mesh.traffic_policy(
            &host,
            one.subset.as_ref().map(|subset| subset.value.as_str()),
        );
        let connect = policy
            .connection_pool
            .and_then(|pool| pool.value.connect_timeout);
        if let Some(connect) = connect.filter(|connect| *connect > timeout) {
            let message = format!(
                "the timeout of {} is shorter than the connectTimeout of {host}, {}: an endpoint that does not answer is a timeout (504), \
                 never a failed connection that could be retried; write a connectTimeout below it",
                time(timeout),
                time(connect)
            );
            finder.find(
                Code::TimeoutBelowConnect,
                writer,
                &format!("{path}.timeout"),
                message,
            );
        }
    }
}

/// Services on which a chain of retries would multiply.
const HOPS: usize = 3;

/// Retries on several hosts: in a chain of calls they multiply.
pub(super) fn check_hops(finder: &mut Finder<'_>) {
    let mut retried: BTreeMap<HostName, (&Arc<Object>, usize, u32)> = BTreeMap::new();
    let objects = finder.objects;
    for object in objects {
        let Spec::VirtualService(spec) = &object.spec else {
            continue;
        };
        for (index, rule) in spec.rules() {
            let attempts = rule.retries.as_ref().map(|retries| &retries.value);
            let Some(attempts) = attempts
                .filter(|one| one.retry_on.is_some() && one.attempts > 1)
                .map(|one| one.attempts)
            else {
                continue;
            };
            for host in &spec.hosts {
                retried
                    .entry(finder.host(object, host))
                    .or_insert((object, index, attempts));
            }
        }
    }
    if retried.len() < HOPS {
        return;
    }
    let worst = retried.values().fold(1_u64, |product, (_, _, attempts)| {
        product.saturating_mul(u64::from(*attempts) + 1)
    });
    let message = format!(
        "{} retry, each on its own: if they call each other, one request can become {worst} at the last; retry at one hop, the one \
         nearest to what fails",
        listed(retried.keys())
    );
    if let Some((object, index, _)) = retried.values().last() {
        finder.find(
            Code::RetriesMultiply,
            object,
            &format!("spec.http[{index}].retries"),
            message,
        );
    }
}
