use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use super::{Limits, LimitsScope, Thresholds};

fn gauge(limit: u32) -> Arc<super::Gauge> {
    super::Gauge::with(limit, None)
}

fn requests(limit: u32) -> Thresholds {
    Thresholds {
        max_requests: limit,
        ..Thresholds::default()
    }
}

#[test]
fn a_gauge_admits_its_limit_and_counts_refusals() {
    let gauge = gauge(2);
    let held = [gauge.try_acquire(true), gauge.try_acquire(true)];
    assert!(held.iter().all(Option::is_some));
    assert!(gauge.try_acquire(true).is_none());
    assert!(gauge.try_acquire(false).is_none());
    assert_eq!((gauge.used(), gauge.overflows()), (2, 1));
    drop(held);
    assert_eq!(gauge.used(), 0);
    assert!(gauge.try_acquire(true).is_some());
}

#[test]
fn a_limit_of_zero_refuses_everything() {
    assert!(gauge(0).try_acquire(true).is_none());
}

#[test]
fn a_lowered_limit_refuses_until_enough_is_given_back() {
    let limits = Limits::new(Thresholds::default());
    let mut held: Vec<_> = (0..3)
        .map(|_| limits.connections.try_acquire(true).unwrap())
        .collect();
    limits.set(Thresholds {
        max_connections: 2,
        ..Thresholds::default()
    });
    held.pop();
    assert!(limits.connections.try_acquire(true).is_none());
    held.pop();
    assert!(limits.connections.try_acquire(true).is_some());
}

#[test]
fn threads_never_exceed_a_limit_and_are_never_refused_below_it() {
    const THREADS: u32 = 4;
    // As many as threads: nobody may ever be refused. One less: never more than that at once.
    for (limit, may_refuse) in [(THREADS, false), (THREADS - 1, true)] {
        let gauge = &gauge(limit);
        let (inside, refused) = (&AtomicU32::new(0), &AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        let Some(permit) = gauge.try_acquire(true) else {
                            refused.fetch_add(1, SeqCst);
                            continue;
                        };
                        assert!(inside.fetch_add(1, SeqCst) < limit);
                        inside.fetch_sub(1, SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(gauge.used(), 0);
        assert_eq!(gauge.overflows(), u64::from(refused.load(SeqCst)));
        assert!(may_refuse || gauge.overflows() == 0);
    }
}

#[test]
fn of_a_limit_of_the_service_nothing_may_be_used_before_a_share_comes() {
    let limits = Limits::scoped(requests(100), LimitsScope::Service);
    assert!(limits.requests.try_acquire(true).is_none());
    assert_eq!(limits.requests.set_share(1), 1);
    let one = limits.requests.try_acquire(true);
    assert!(one.is_some() && limits.requests.try_acquire(true).is_none());
    assert_eq!(
        (limits.requests.limit(), limits.requests.configured()),
        (1, 100)
    );
    // What has no limit is not shared.
    assert_eq!(limits.connections.share(), None);
    assert!(limits.connections.try_acquire(true).is_some());
}

#[test]
fn a_share_is_never_more_than_the_limit_and_ends_with_its_scope() {
    let limits = Limits::scoped(requests(10), LimitsScope::Service);
    limits.requests.set_share(50);
    assert_eq!(limits.requests.limit(), 10);
    limits.set(requests(20));
    assert_eq!(limits.requests.limit(), 20);
    limits.requests.set_share(5);
    assert_eq!(limits.requests.limit(), 20, "the limit is not shared now");
}

#[test]
fn a_limit_that_becomes_the_services_stays_until_the_first_share() {
    let limits = Limits::new(requests(10));
    limits.set_scoped(requests(8), LimitsScope::Service);
    assert_eq!(limits.requests.limit(), 8);
    limits.requests.set_share(3);
    limits.set_scoped(requests(100), LimitsScope::Service);
    assert_eq!(limits.requests.limit(), 3, "a new limit is no new share");
}

#[test]
fn a_smaller_share_says_what_is_still_in_use_above_it() {
    let limits = Limits::scoped(requests(10), LimitsScope::Service);
    limits.requests.set_share(5);
    let mut held: Vec<_> = std::iter::from_fn(|| limits.requests.try_acquire(true)).collect();
    assert_eq!(limits.requests.set_share(2), 5);
    held.truncate(3);
    assert_eq!(limits.requests.held(), 3);
    held.clear();
    assert_eq!(limits.requests.held(), 2);
}

#[test]
fn what_a_smaller_share_says_is_never_exceeded_afterwards() {
    let limits = &Limits::scoped(requests(64), LimitsScope::Service);
    let done = &AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                while done.load(SeqCst) == 0 {
                    let held: Vec<_> = (0..40)
                        .map_while(|_| limits.requests.try_acquire(true))
                        .collect();
                    drop(held);
                }
            });
        }
        for round in 0..2000 {
            limits.requests.set_share(64);
            let most = limits.requests.set_share(round % 60);
            for _ in 0..20 {
                assert!(limits.requests.used() <= most);
            }
        }
        done.store(1, SeqCst);
    });
}
