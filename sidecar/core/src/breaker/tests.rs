use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use super::{BreakerConfig, BreakerState};
use crate::{
    Cluster, ClusterConfig, EndpointConfig, Health, LbPolicy, Moment, NoEndpoint, Outcome,
    PickContext, Picked,
    fixture::{BROKEN, OK, config, endpoint, secs},
};

/// The seeds' numbers: 5 failures, 30 s.
fn breaker(for_endpoints: bool, for_service: bool) -> BreakerConfig {
    BreakerConfig {
        consecutive_failures: 5,
        reset_timeout: Duration::from_secs(30),
        for_endpoints,
        for_service,
        position: Some("dp.yaml:7:3".into()),
    }
}

fn with(breaker: BreakerConfig, ports: impl IntoIterator<Item = u16>) -> Cluster {
    let config = ClusterConfig {
        breaker: Some(breaker),
        ..config(LbPolicy::RoundRobin)
    };
    Cluster::new(config, ports.into_iter().map(endpoint).collect(), None)
}

fn pick(cluster: &Cluster, now: Moment) -> Result<Picked, NoEndpoint> {
    cluster.pick(&mut PickContext {
        hash: None,
        tried: &[],
        previous_priorities: &[],
        now,
        rng: &mut fastrand::Rng::with_seed(now.0),
    })
}

fn send(cluster: &Cluster, outcome: Outcome, now: Moment) -> bool {
    let picked = pick(cluster, now).unwrap();
    cluster.report(&picked, outcome, now).breaker_opened
}

fn open_by_failures(cluster: &Cluster, now: Moment) {
    while !send(cluster, BROKEN, now) {}
}

fn open(until: Moment, of_service: bool) -> NoEndpoint {
    NoEndpoint::BreakerOpen { until, of_service }
}

fn refusal(cluster: &Cluster, now: Moment) -> NoEndpoint {
    pick(cluster, now).expect_err("an open breaker")
}

#[test]
fn it_opens_at_the_fifth_failure_and_is_half_open_after_thirty_seconds() {
    for of_service in [true, false] {
        let cluster = with(breaker(!of_service, of_service), [1]);
        for second in 0..4 {
            assert!(!send(&cluster, BROKEN, secs(second)), "failure at {second}");
        }
        assert!(send(&cluster, BROKEN, secs(4)), "the fifth");
        for second in [4, 20, 33] {
            assert_eq!(refusal(&cluster, secs(second)), open(secs(34), of_service));
        }
        let probe = pick(&cluster, secs(34)).unwrap();
        for second in [34, 40, 63] {
            assert_eq!(refusal(&cluster, secs(second)), open(secs(64), of_service));
        }
        // It fails: open again, and one more probe.
        assert!(cluster.report(&probe, BROKEN, secs(40)).breaker_opened);
        assert_eq!(refusal(&cluster, secs(69)), open(secs(70), of_service));
        let probe = pick(&cluster, secs(70)).unwrap();
        cluster.report(&probe, OK, secs(71));
        // Closed, and it counts from the start.
        assert!((0..4).all(|_| !send(&cluster, BROKEN, secs(71))));
        assert!(send(&cluster, BROKEN, secs(71)));
        let counts = if of_service {
            &cluster.breakers.service_counts
        } else {
            &cluster.breakers.endpoint_counts
        };
        assert_eq!(counts.opened.load(Relaxed), 3);
        assert_eq!(counts.refused.load(Relaxed), 7);
    }
}

#[test]
fn any_good_answer_starts_the_count_again() {
    let cluster = with(breaker(true, true), [1]);
    for _ in 0..10 {
        assert!((0..4).all(|_| !send(&cluster, BROKEN, secs(0))));
        send(&cluster, Outcome::Status(404), secs(0));
    }
    assert!((0..4).all(|_| !send(&cluster, Outcome::LocalError, secs(0))));
    assert!(send(&cluster, Outcome::LocalError, secs(0)));
}

#[test]
fn an_endpoint_that_fails_is_left_alone_while_others_serve() {
    let cluster = with(breaker(true, false), [1, 2]);
    for _ in 0..5 {
        cluster.report(&cluster.picked(1), BROKEN, secs(0));
    }
    let ports = |now| {
        let mut ports: Vec<u16> = (0..20)
            .map(|_| pick(&cluster, now).unwrap().endpoint.config.address.port())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    assert_eq!(ports(secs(29)), [2]);
    // The probe of 1 is among twenty picks, and the only one.
    assert_eq!(ports(secs(30)), [1, 2]);
    assert_eq!(ports(secs(59)), [2]);
    // What is refused without a reason of the breaker's stays what it was.
    let none = with(breaker(true, true), []);
    assert_eq!(refusal(&none, secs(0)), NoEndpoint::Empty);
    let sick = EndpointConfig {
        health: Health::Unhealthy,
        ..endpoint(1)
    };
    let sick = Cluster::new(cluster.config.clone(), vec![sick], None);
    assert_eq!(refusal(&sick, secs(0)), NoEndpoint::Unhealthy);
}

#[test]
fn the_breaker_of_a_service_counts_over_its_endpoints() {
    let cluster = with(breaker(false, true), 1..=10);
    assert!((0..4).all(|_| !send(&cluster, BROKEN, secs(0))));
    assert!(send(&cluster, BROKEN, secs(0)));
    assert_eq!(refusal(&cluster, secs(1)), open(secs(30), true));
}

#[test]
fn a_probe_that_is_not_sent_leaves_its_place_to_the_next() {
    let cluster = with(breaker(true, true), [1]);
    open_by_failures(&cluster, secs(0));
    let probe = pick(&cluster, secs(30)).unwrap();
    cluster.unused(&probe, secs(31));
    let probe = pick(&cluster, secs(31)).unwrap();
    // One that never reports does so after another reset timeout.
    assert!(pick(&cluster, secs(60)).is_err());
    let second = pick(&cluster, secs(61)).unwrap();
    assert!(
        !cluster.report(&probe, BROKEN, secs(62)).breaker_opened,
        "too late"
    );
    cluster.report(&second, OK, secs(62));
    assert!(pick(&cluster, secs(62)).is_ok());
}

#[test]
fn a_service_probe_that_finds_no_endpoint_is_not_lost() {
    let cluster = with(breaker(false, true), [1]);
    open_by_failures(&cluster, secs(0));
    let config = cluster.config.clone();
    let none = Cluster::new(config.clone(), Vec::new(), Some(&cluster));
    assert_eq!(refusal(&none, secs(30)), NoEndpoint::Empty);
    let again = Cluster::new(config, vec![endpoint(1)], Some(&none));
    assert!(pick(&again, secs(30)).is_ok());
}

#[test]
fn what_began_before_it_opened_changes_nothing() {
    let cluster = with(breaker(true, true), [1]);
    let early: Vec<Picked> = (0..20).map(|_| pick(&cluster, secs(0)).unwrap()).collect();
    let (first, late) = early.split_at(5);
    for one in first {
        cluster.report(one, BROKEN, secs(1));
    }
    for (one, outcome) in late.iter().zip([BROKEN, OK].into_iter().cycle()) {
        assert!(!cluster.report(one, outcome, secs(2)).breaker_opened);
    }
    assert_eq!(refusal(&cluster, secs(30)), open(secs(31), true));
    let state = cluster.by_port(1).state.breaker.state();
    assert_eq!(state, BreakerState::Open { until: secs(31) });
}

#[test]
fn breakers_survive_a_new_snapshot() {
    let before = with(breaker(true, true), [1]);
    open_by_failures(&before, secs(0));
    let after = Cluster::new(before.config.clone(), vec![endpoint(1)], Some(&before));
    assert_eq!(refusal(&after, secs(1)), open(secs(30), true));
}

#[test]
fn of_many_threads_exactly_one_sends_the_probe() {
    const THREADS: u64 = 8;
    for of_service in [true, false] {
        let cluster = &with(breaker(!of_service, of_service), [1]);
        let mut now = 0;
        for round in 0..200_u64 {
            if round == 0 {
                open_by_failures(cluster, secs(now));
            }
            now += 30;
            let sent = &AtomicU32::new(0);
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    scope.spawn(move || {
                        for turn in 0..5 {
                            // Clocks of workers differ a little.
                            let now = Moment(now * 1000 + (thread + turn) % 3);
                            if let Ok(probe) = pick(cluster, now) {
                                sent.fetch_add(1, Relaxed);
                                cluster.report(&probe, BROKEN, now);
                            }
                        }
                    });
                }
            });
            assert_eq!(sent.load(Relaxed), 1, "round {round}");
            now += 1;
        }
    }
}

#[test]
fn failures_of_many_threads_open_it_once_and_at_the_fifth() {
    for _ in 0..200 {
        let cluster = &with(breaker(true, true), [1]);
        let picked: Vec<Picked> = (0..8).map(|_| pick(cluster, secs(0)).unwrap()).collect();
        let opened = &AtomicU32::new(0);
        std::thread::scope(|scope| {
            for one in &picked {
                scope.spawn(move || {
                    let verdict = cluster.report(one, BROKEN, secs(0));
                    opened.fetch_add(u32::from(verdict.breaker_opened), Relaxed);
                });
            }
        });
        let counts = &cluster.breakers;
        assert_eq!(counts.service_counts.opened.load(Relaxed), 1);
        assert_eq!(counts.endpoint_counts.opened.load(Relaxed), 1);
        assert!((1..=2).contains(&opened.load(Relaxed)));
    }
}
