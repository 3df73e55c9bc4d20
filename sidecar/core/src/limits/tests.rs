use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::{Gauge, Limits, Thresholds};

#[test]
fn a_gauge_admits_its_limit_and_counts_refusals() {
    let gauge = Gauge::new(2);
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
    assert!(Gauge::new(0).try_acquire(true).is_none());
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
        let gauge = &Gauge::new(limit);
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
