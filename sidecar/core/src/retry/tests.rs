use std::{sync::Arc, time::Duration};

use super::{Progress, RetryBudget, RetryDecision, RetryPolicy, StopReason};

fn decide(policy: &RetryPolicy, progress: Progress, made: u32) -> RetryDecision {
    let budget = Arc::<RetryBudget>::default();
    policy.decide(progress, made, &budget, 1, &mut fastrand::Rng::with_seed(1))
}

#[test]
fn only_what_is_provably_unsent_is_sent_again() {
    let policy = RetryPolicy::default();
    assert!(matches!(
        decide(&policy, Progress::Unsent, 1),
        RetryDecision::Again { .. }
    ));
    assert!(matches!(
        decide(&policy, Progress::MaybeSent, 1),
        RetryDecision::Stop(StopReason::MaybeSent)
    ));
}

#[test]
fn two_attempts_and_no_more() {
    assert!(matches!(
        decide(&RetryPolicy::default(), Progress::Unsent, 2),
        RetryDecision::Stop(StopReason::Attempts)
    ));
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
        let waits: Vec<Duration> = (0..1000)
            .map(
                |_| match policy.decide(Progress::Unsent, made, &budget, 1, &mut rng) {
                    RetryDecision::Again { after, .. } => after,
                    RetryDecision::Stop(reason) => panic!("{reason:?}"),
                },
            )
            .collect();
        assert!(waits.iter().all(|wait| *wait <= bound));
        assert!(waits.iter().any(|wait| *wait < bound / 10));
        assert!(waits.iter().any(|wait| *wait > bound * 9 / 10));
    }
}

#[test]
fn retries_are_a_fifth_of_the_requests_in_flight_but_three_always() {
    for (in_flight, allowed) in [(0, 3), (1, 3), (15, 3), (20, 4), (1000, 200)] {
        let budget = Arc::<RetryBudget>::default();
        let held: Vec<_> = std::iter::from_fn(|| budget.try_acquire(in_flight)).collect();
        assert_eq!(held.len(), allowed, "of {in_flight}");
        assert_eq!(budget.refused(), 1);
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}
