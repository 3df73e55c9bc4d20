use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{Outcome, OutlierConfig, Standing};
use crate::{
    Cluster, Moment, PickContext, Picked,
    fixture::{BROKEN, OK, ejecting, outlier, secs},
};

fn pick(cluster: &Cluster, now: Moment) -> u16 {
    let mut rng = fastrand::Rng::with_seed(now.0);
    cluster.pick_with(&mut rng, None, &[], now).unwrap()
}

/// Picks until the probe of `port` was taken.
fn probe(cluster: &Cluster, port: u16, now: Moment) -> Picked {
    let mut rng = fastrand::Rng::with_seed(now.0);
    let mut pick = || {
        let mut context = PickContext {
            hash: None,
            tried: &[],
            previous_priorities: &[],
            now,
            rng: &mut rng,
        };
        cluster.pick(&mut context).unwrap()
    };
    let found = (0..100)
        .map(|_| pick())
        .find(|picked| picked.endpoint.config.address.port() == port);
    found.unwrap_or_else(|| panic!("no probe at {now:?}"))
}

fn times(cluster: &Cluster, port: u16) -> u32 {
    cluster.by_port(port).state.ejections.load(Relaxed)
}

#[test]
fn the_fifth_failure_in_a_row_ejects_and_no_earlier() {
    let cluster = ejecting(outlier(), [1, 2]);
    assert!(!cluster.fail(1, 4, secs(0)));
    assert_eq!(cluster.ports_in_service(secs(0)), [1, 2]);
    assert!(cluster.fail(1, 1, secs(0)));
    assert_eq!(cluster.ports_in_service(secs(0)), [2]);
    assert!((0..50).all(|_| pick(&cluster, secs(29)) == 2));
}

#[test]
fn a_success_in_between_starts_the_count_again() {
    let cluster = ejecting(outlier(), [1, 2]);
    cluster.fail(1, 4, secs(0));
    cluster.report(&cluster.picked(1), OK, secs(0));
    assert!(!cluster.fail(1, 4, secs(0)));
    assert!(cluster.fail(1, 1, secs(0)));
}

#[test]
fn what_counts_as_a_failure() {
    let gateway_only = OutlierConfig {
        consecutive_5xx: 0,
        consecutive_gateway_failure: 3,
        ..outlier()
    };
    let any = OutlierConfig {
        consecutive_5xx: 3,
        ..outlier()
    };
    let off = OutlierConfig {
        consecutive_5xx: 0,
        ..outlier()
    };
    let ejects = |config, outcomes: [Outcome; 3]| {
        let cluster = ejecting(config, [1, 2]);
        let report = |outcome| cluster.report(&cluster.picked(1), outcome, secs(0)).ejected;
        outcomes.into_iter().any(report)
    };
    let status = Outcome::Status;
    for (outcomes, by_gateway, by_any) in [
        ([status(503), status(502), status(504)], true, true),
        ([Outcome::LocalError; 3], true, true),
        ([status(503), Outcome::LocalError, status(504)], true, true),
        ([status(500); 3], false, true),
        ([status(503), status(500), status(503)], false, true),
        ([status(404); 3], false, false),
        ([status(503), status(200), status(503)], false, false),
    ] {
        assert_eq!(ejects(gateway_only, outcomes), by_gateway, "{outcomes:?}");
        assert_eq!(ejects(any, outcomes), by_any, "{outcomes:?}");
        assert!(!ejects(off, outcomes), "{outcomes:?}");
    }
}

#[test]
fn an_ejected_endpoint_returns_after_its_time_by_one_good_probe() {
    let cluster = ejecting(outlier(), [1, 2]);
    cluster.fail(1, 5, secs(0));
    let standing = |now| cluster.by_port(1).state.standing(secs(now));
    assert_eq!(standing(29), Standing::Ejected { until: secs(30) });
    assert_eq!(standing(30), Standing::ProbeDue);
    let probe = probe(&cluster, 1, secs(30));
    assert_eq!(standing(31), Standing::Probing { until: secs(60) });
    assert!((0..50).all(|_| pick(&cluster, secs(31)) == 2), "one probe");
    cluster.report(&probe, OK, secs(32));
    assert_eq!(standing(32), Standing::InService);
    assert_eq!(cluster.ports_in_service(secs(32)), [1, 2]);
}

#[test]
fn a_failed_probe_ejects_again_for_longer() {
    let cluster = ejecting(outlier(), [1, 2]);
    cluster.fail(1, 5, secs(0));
    let probe = probe(&cluster, 1, secs(30));
    assert!(cluster.report(&probe, BROKEN, secs(31)).ejected);
    let standing = |now| cluster.by_port(1).state.standing(secs(now));
    assert_eq!(standing(90), Standing::Ejected { until: secs(91) });
    assert_eq!(standing(91), Standing::ProbeDue);
}

#[test]
fn a_probe_that_never_reports_leaves_its_place_to_another() {
    let cluster = ejecting(outlier(), [1, 2]);
    cluster.fail(1, 5, secs(0));
    probe(&cluster, 1, secs(30));
    assert!((0..50).all(|_| pick(&cluster, secs(59)) == 2));
    let second = probe(&cluster, 1, secs(60));
    // One that says so leaves it at once.
    cluster.unused(&second, secs(61));
    probe(&cluster, 1, secs(61));
}

#[test]
fn only_the_probe_decides_whether_an_endpoint_comes_back() {
    let cluster = ejecting(outlier(), [1, 2]);
    let before = || cluster.picked(1);
    cluster.fail(1, 5, secs(0));
    let late = probe(&cluster, 1, secs(30));
    let current = probe(&cluster, 1, secs(60));
    let standing = || cluster.by_port(1).state.standing(secs(61));
    for other in [before(), late] {
        cluster.unused(&other, secs(61));
        assert!(!cluster.report(&other, BROKEN, secs(61)).ejected);
        cluster.report(&other, OK, secs(61));
        assert_eq!(standing(), Standing::Probing { until: secs(90) });
    }
    cluster.report(&current, OK, secs(61));
    assert_eq!(standing(), Standing::InService);
}

#[test]
fn answers_to_requests_from_before_the_ejection_change_nothing() {
    let cluster = ejecting(outlier(), [1, 2]);
    cluster.fail(1, 5, secs(0));
    assert!(!cluster.fail(1, 50, secs(1)));
    cluster.report(&cluster.picked(1), OK, secs(2));
    assert_eq!(
        cluster.by_port(1).state.standing(secs(3)),
        Standing::Ejected { until: secs(30) }
    );
}

#[test]
fn ejections_grow_to_the_maximum_and_shrink_with_good_intervals() {
    let cluster = ejecting(
        OutlierConfig {
            max_ejection_time: Duration::from_secs(75),
            ..outlier()
        },
        [1, 2],
    );
    let mut now = 0;
    cluster.fail(1, 5, secs(now));
    for length in [30, 60, 75, 75] {
        assert_eq!(
            cluster.by_port(1).state.standing(secs(now)),
            Standing::Ejected {
                until: secs(now + length)
            }
        );
        now += length;
        let probe = probe(&cluster, 1, secs(now));
        cluster.report(&probe, BROKEN, secs(now));
    }
    now += 75;
    let probe = probe(&cluster, 1, secs(now));
    cluster.report(&probe, OK, secs(now));
    assert_eq!(times(&cluster, 1), 3);
    // Every second, as the caller does; forgiven once in ten.
    for second in 0..20 {
        cluster.sweep(secs(now + second));
    }
    assert_eq!(times(&cluster, 1), 1);
    for second in 20..60 {
        cluster.sweep(secs(now + second));
    }
    assert_eq!(times(&cluster, 1), 0);
}

#[test]
fn an_endpoint_that_is_out_is_not_forgiven() {
    let cluster = ejecting(outlier(), [1, 2]);
    cluster.fail(1, 5, secs(0));
    for second in 0..100 {
        cluster.sweep(secs(second));
    }
    assert_eq!(times(&cluster, 1), 1);
}

#[test]
fn no_more_are_ejected_than_the_percentage_but_one_always() {
    for (endpoints, percent, most) in [(10, 10, 1), (10, 35, 3), (4, 10, 1), (4, 50, 2), (1, 99, 0)]
    {
        let config = OutlierConfig {
            max_ejection_percent: percent,
            ..outlier()
        };
        let cluster = ejecting(config, 1..=endpoints);
        let ejected = (1..=endpoints)
            .filter(|port| cluster.fail(*port, 5, secs(0)))
            .count();
        assert_eq!(ejected, most, "{percent} % of {endpoints}");
    }
}

#[test]
fn ejections_survive_a_new_snapshot() {
    let before = ejecting(outlier(), [1, 2]);
    before.fail(1, 5, secs(0));
    let endpoints = before.endpoints.iter().map(|one| one.config.clone());
    let after = Cluster::new(before.config.clone(), endpoints.collect(), Some(&before));
    assert_eq!(after.ports_in_service(secs(1)), [2]);
}

#[test]
fn workers_that_report_at_once_never_eject_too_many() {
    let config = OutlierConfig {
        consecutive_5xx: 1,
        max_ejection_percent: 50,
        ..outlier()
    };
    for _ in 0..50 {
        let cluster = &ejecting(config, 1..=8);
        std::thread::scope(|scope| {
            for port in 1..=8 {
                scope.spawn(move || cluster.fail(port, 20, secs(0)));
            }
        });
        assert_eq!(cluster.ports_in_service(secs(1)).len(), 4);
    }
}

#[test]
fn local_errors_are_counted_apart_where_they_are_split() {
    let split = |limit| OutlierConfig {
        split_local: Some(limit),
        consecutive_5xx: 3,
        consecutive_gateway_failure: 3,
        ..outlier()
    };
    const LOCAL: Outcome = Outcome::LocalError;
    const BAD: Outcome = Outcome::Status(503);
    for (limit, outcomes, ejects) in [
        (2, [LOCAL, LOCAL, OK, OK], true),
        (3, [LOCAL, LOCAL, OK, OK], false),
        (0, [LOCAL, LOCAL, LOCAL, LOCAL], false),
        // Each kind has its own row: neither ends nor lengthens the other's...
        (3, [BAD, BAD, LOCAL, BAD], true),
        (4, [BAD, LOCAL, LOCAL, BAD], false),
        // ...except that an answer, even a bad one, shows that the endpoint can be reached.
        (3, [LOCAL, LOCAL, BAD, LOCAL], false),
        (2, [BAD, LOCAL, OK, LOCAL], false),
    ] {
        let cluster = ejecting(split(limit), [1, 2]);
        let report = |outcome| cluster.report(&cluster.picked(1), outcome, secs(0)).ejected;
        assert_eq!(
            outcomes.into_iter().any(report),
            ejects,
            "{limit} {outcomes:?}"
        );
    }
}

#[test]
fn a_probe_is_judged_by_the_rows_that_may_eject() {
    let ignoring_local = OutlierConfig {
        split_local: Some(0),
        ..outlier()
    };
    let cluster = ejecting(ignoring_local, [1, 2]);
    cluster.fail(1, 5, secs(0));
    let probe = probe(&cluster, 1, secs(30));
    assert!(
        !cluster
            .report(&probe, Outcome::LocalError, secs(31))
            .ejected
    );
    assert_eq!(cluster.ports_in_service(secs(31)), [1, 2]);
}
