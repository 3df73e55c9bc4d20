use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    EXHAUSTED, Failure, Progress, RetryBudget, RetryOn, RetryPermit, RetryPolicy, StopReason,
    Tried, is_idempotent,
};
use crate::Moment;

const START: Moment = Moment(1_000_000);

fn tried(failure: Failure<'_>) -> Tried<'_> {
    Tried {
        failure,
        idempotent: false,
        made: 1,
        replayable: true,
        endpoint_left: true,
    }
}

/// As the sidecar asks.
fn again(
    policy: &RetryPolicy,
    tried: &Tried<'_>,
    budget: &Arc<RetryBudget>,
    rng: &mut fastrand::Rng,
) -> Result<(Duration, RetryPermit), StopReason> {
    let seen = policy.due(tried)?;
    policy.spend((seen, tried.made), budget, 1, START, rng)
}

/// None = again.
fn decide(policy: &RetryPolicy, tried: &Tried<'_>) -> Option<StopReason> {
    let budget = Arc::<RetryBudget>::default();
    let mut rng = fastrand::Rng::with_seed(1);
    again(policy, tried, &budget, &mut rng).err()
}

fn asked(on: &str, codes: &[u16]) -> RetryPolicy {
    RetryPolicy {
        attempts: 3,
        on: RetryOn::parse(on).unwrap(),
        codes: codes.to_vec(),
        ..RetryPolicy::default()
    }
}

fn head(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    };
    pairs.iter().map(pair).collect()
}

#[test]
fn by_default_only_what_is_provably_unsent_is_sent_again() {
    let policy = RetryPolicy::default();
    let headers = HeaderMap::new();
    for (failure, stop) in [
        (Failure::Without(Progress::Unsent), None),
        (
            Failure::Without(Progress::MaybeSent),
            Some(StopReason::MaybeSent),
        ),
        (
            Failure::Without(Progress::TimedOut),
            Some(StopReason::MaybeSent),
        ),
        (
            Failure::Without(Progress::Limited),
            Some(StopReason::Limited),
        ),
        (
            Failure::Answered(503, &headers),
            Some(StopReason::MaybeSent),
        ),
    ] {
        for idempotent in [false, true] {
            let tried = Tried {
                idempotent,
                ..tried(failure)
            };
            assert_eq!(decide(&policy, &tried), stop, "{failure:?}");
        }
    }
}

type Heads<'a> = &'a [(u16, &'a HeaderMap)];

#[test]
fn each_condition_names_what_envoys_does() {
    let none = head(&[]);
    let grpc = |status| head(&[("grpc-status", status)]);
    let limited = head(&[("x-envoy-ratelimited", "true")]);
    // Condition; whether no answer is named; answers that are, and that are not.
    let table: [(&str, bool, Heads<'_>, Heads<'_>); 12] = [
        (
            "5xx",
            true,
            &[(500, &none), (599, &none)],
            &[(499, &none), (503, &limited)],
        ),
        (
            "gateway-error",
            true,
            &[(502, &none), (503, &none), (504, &none)],
            &[(500, &none), (505, &none)],
        ),
        ("reset", true, &[], &[(503, &none)]),
        ("retriable-4xx", false, &[(409, &none)], &[(404, &none)]),
        (
            "retriable-status-codes",
            false,
            &[(418, &none)],
            &[(503, &none)],
        ),
        (
            "envoy-ratelimited",
            false,
            &[(429, &limited)],
            &[(429, &none)],
        ),
        (
            "cancelled",
            false,
            &[(200, &grpc("1"))],
            &[(200, &grpc("14"))],
        ),
        (
            "deadline-exceeded",
            false,
            &[(200, &grpc("4"))],
            &[(200, &grpc("0"))],
        ),
        (
            "internal",
            false,
            &[(200, &grpc("13"))],
            &[(200, &grpc("2"))],
        ),
        (
            "resource-exhausted",
            false,
            &[(200, &grpc("8"))],
            &[(200, &none)],
        ),
        ("unavailable", false, &[(200, &grpc("14"))], &[(503, &none)]),
        (
            "connect-failure,refused-stream,reset-before-request",
            false,
            &[],
            &[(503, &none)],
        ),
    ];
    for (on, broken, named, unnamed) in table {
        let policy = asked(on, &[418]);
        for (status, headers) in named {
            let tried = tried(Failure::Answered(*status, headers));
            assert_eq!(decide(&policy, &tried), None, "{on}: {status} {headers:?}");
        }
        for (status, headers) in unnamed {
            let tried = tried(Failure::Answered(*status, headers));
            let stop = decide(&policy, &tried);
            assert_eq!(stop, Some(StopReason::MaybeSent), "{on}: {status}");
        }
        for progress in [Progress::MaybeSent, Progress::TimedOut] {
            let stop = decide(&policy, &tried(Failure::Without(progress)));
            assert_eq!(stop.is_none(), broken, "{on}: {progress:?}");
        }
        assert_eq!(policy.reads_answers(), !named.is_empty(), "{on}");
    }
}

#[test]
fn conditions_that_nobody_wrote_are_for_idempotent_methods() {
    let policy = RetryPolicy {
        implied: true,
        ..asked("retriable-status-codes,unavailable", &[503])
    };
    let headers = HeaderMap::new();
    for (failure, idempotent, stop) in [
        (Failure::Answered(503, &headers), true, None),
        (
            Failure::Answered(503, &headers),
            false,
            Some(StopReason::NotIdempotent),
        ),
        (Failure::Without(Progress::Unsent), false, None),
    ] {
        let tried = Tried {
            idempotent,
            ..tried(failure)
        };
        assert_eq!(decide(&policy, &tried), stop, "{tried:?}");
    }
    for (method, idempotent) in [
        (Method::GET, true),
        (Method::HEAD, true),
        (Method::OPTIONS, true),
        (Method::TRACE, true),
        (Method::PUT, true),
        (Method::DELETE, true),
        (Method::POST, false),
        (Method::PATCH, false),
    ] {
        assert_eq!(is_idempotent(&method), idempotent, "{method}");
    }
}

#[test]
fn what_stands_in_the_way_is_named() {
    let headers = HeaderMap::new();
    let exhausted = HeaderMap::from_iter([(EXHAUSTED, HeaderValue::from_static("exhausted"))]);
    let failed = tried(Failure::Answered(503, &headers));
    let off = RetryPolicy {
        attempts: 1,
        ..asked("5xx", &[])
    };
    let policy = asked("5xx", &[]);
    for (policy, tried, reason, exhaustion) in [
        (&off, failed, StopReason::Off, false),
        (
            &policy,
            Tried { made: 3, ..failed },
            StopReason::Attempts,
            true,
        ),
        (
            &policy,
            Tried {
                replayable: false,
                ..failed
            },
            StopReason::Body,
            true,
        ),
        (
            &policy,
            Tried {
                endpoint_left: false,
                ..failed
            },
            StopReason::Endpoints,
            true,
        ),
        (
            &policy,
            tried(Failure::Answered(503, &exhausted)),
            StopReason::Below,
            true,
        ),
    ] {
        assert_eq!(decide(policy, &tried), Some(reason));
        assert_eq!(reason.is_exhaustion(), exhaustion, "{reason:?}");
    }
}

#[test]
fn an_unknown_condition_is_named() {
    assert_eq!(RetryOn::parse("5xx, nope"), Err("nope"));
}

#[test]
fn waits_are_spread_from_zero_to_a_bound_that_doubles_up_to_ten_times() {
    let policy = RetryPolicy {
        attempts: u32::MAX,
        ..RetryPolicy::default()
    };
    let budget = Arc::<RetryBudget>::default();
    let mut rng = fastrand::Rng::with_seed(2);
    for (made, bound) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (64, 250)] {
        let bound = Duration::from_millis(bound);
        let tried = Tried {
            made,
            ..tried(Failure::Without(Progress::Unsent))
        };
        let waits: Vec<Duration> = (0..1000)
            .map(|_| again(&policy, &tried, &budget, &mut rng).unwrap().0)
            .collect();
        assert!(waits.iter().all(|wait| *wait <= bound));
        assert!(waits.iter().any(|wait| *wait < bound / 10));
        assert!(waits.iter().any(|wait| *wait > bound * 9 / 10));
    }
}

#[test]
fn retries_are_a_share_of_the_requests_in_flight_but_a_few_always() {
    let default = None;
    for (share, in_flight, allowed) in [
        (default, 0, 3),
        (default, 1, 3),
        (default, 15, 3),
        (default, 20, 4),
        (default, 1000, 200),
        (Some((50.0, 1)), 1, 1),
        (Some((50.0, 1)), 10, 5),
    ] {
        let budget = Arc::<RetryBudget>::default();
        if let Some((percent, least)) = share {
            budget.set_share(percent, least);
        }
        let held: Vec<_> = std::iter::from_fn(|| budget.try_acquire(in_flight)).collect();
        assert_eq!(held.len(), allowed, "of {in_flight}");
        assert_eq!(budget.refused(), 1);
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn repeats_are_a_fifth_of_the_last_ten_seconds_but_three_always() {
    let budget = &RetryBudget::default();
    let at = |second: u64| Moment(START.0 + second * 1000);
    let repeats = |now| std::iter::repeat_with(move || budget.try_repeat(now)).take_while(|ok| *ok);
    assert_eq!(repeats(at(0)).count(), 3, "of nothing");
    (0..50).for_each(|_| budget.count_request(at(1)));
    assert_eq!(repeats(at(1)).count(), 7, "of fifty, three were just now");
    assert_eq!(repeats(at(9)).count(), 0);
    assert_eq!(repeats(at(10)).count(), 3, "the first three are forgotten");
    assert_eq!(
        repeats(at(11)).count(),
        0,
        "of nothing, and three were just now"
    );
    assert_eq!(repeats(at(60)).count(), 3);
}

#[test]
fn a_budget_that_somebody_wrote_has_no_window() {
    let budget = RetryBudget::default();
    budget.set_written(true);
    assert!((0..100).all(|_| budget.try_repeat(START)));
    budget.set_written(false);
    let allowed = (0..100).filter(|_| budget.try_repeat(START)).count();
    assert_eq!(allowed, 3);
}

#[test]
fn what_the_window_refuses_is_no_retry() {
    let policy = asked("5xx", &[]);
    let budget = Arc::<RetryBudget>::default();
    let mut rng = fastrand::Rng::with_seed(3);
    let tried = tried(Failure::Without(Progress::MaybeSent));
    for _ in 0..10 {
        drop(again(&policy, &tried, &budget, &mut rng));
    }
    assert_eq!((budget.total(), budget.refused()), (3, 7));
}

#[test]
fn the_window_of_repeats_stops_only_what_a_server_may_have_seen() {
    let policy = asked("5xx", &[]);
    let budget = Arc::<RetryBudget>::default();
    let mut rng = fastrand::Rng::with_seed(3);
    let mut outcomes = |progress, times| -> Vec<Option<StopReason>> {
        let tried = tried(Failure::Without(progress));
        std::iter::repeat_with(|| again(&policy, &tried, &budget, &mut rng).err())
            .take(times)
            .collect()
    };
    assert_eq!(
        outcomes(Progress::MaybeSent, 4),
        [None, None, None, Some(StopReason::Window)]
    );
    assert_eq!(outcomes(Progress::Unsent, 2), [None, None]);
}

#[test]
fn hedges_are_a_share_of_the_last_ten_seconds_and_one() {
    let budget = RetryBudget::default();
    let mut sent = 0;
    for _ in 0..200 {
        budget.count_request(START);
        sent += u32::from(budget.try_hedge(10, START));
    }
    assert_eq!(sent, 21);
}
