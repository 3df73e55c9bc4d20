use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{Cluster, ClusterConfig, EndpointConfig, Health, NoEndpoint, UpstreamTls};
use crate::{
    BreakerConfig, LbPolicy, Moment, Outcome, OutlierConfig, PickContext, RetryShare,
    SnapshotBuilder, Thresholds,
    fixture::{OK, cluster, config, ejecting, endpoint, outlier, secs},
};

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(1)
}

fn at_priority(port: u16, priority: u32, health: Health) -> EndpointConfig {
    EndpointConfig {
        priority,
        health,
        ..endpoint(port)
    }
}

#[test]
fn an_endpoint_that_stays_keeps_its_id_and_counts() {
    let before = cluster(LbPolicy::LeastRequest, [1, 2]);
    let held = before.by_port(1).begin();
    let heavier = EndpointConfig {
        weight: 9,
        health: Health::Draining,
        ..endpoint(1)
    };
    let after = Cluster::new(
        config(LbPolicy::RoundRobin),
        vec![endpoint(3), heavier],
        Some(&before),
    );
    let (old, new) = (before.by_port(1), after.by_port(1));
    assert_eq!((old.id, new.config.weight), (new.id, 9));
    assert_eq!(new.state.active_requests.load(Relaxed), 1);
    drop(held);
    assert_eq!(new.state.active_requests.load(Relaxed), 0);
    assert_ne!(before.by_port(2).id, after.by_port(3).id);
}

#[test]
fn an_endpoint_whose_connections_cannot_stay_is_another_one() {
    let before = cluster(LbPolicy::LeastRequest, [1]);
    let tls = EndpointConfig {
        mtls: true,
        ..endpoint(1)
    };
    let with_mtls = Cluster::new(config(LbPolicy::LeastRequest), vec![tls], Some(&before));
    assert_ne!(with_mtls.by_port(1).id, before.by_port(1).id);
    assert!(Arc::ptr_eq(
        &with_mtls.by_port(1).state,
        &before.by_port(1).state
    ));

    let other_identity = ClusterConfig {
        tls: Some(UpstreamTls {
            certificate: "default".to_owned(),
            validation: "ROOTCA".to_owned(),
            subject_alt_names: vec!["spiffe://cluster.local/ns/default/sa/reviews".to_owned()],
            ..UpstreamTls::default()
        }),
        ..config(LbPolicy::LeastRequest)
    };
    let renamed = Cluster::new(other_identity, vec![endpoint(1)], Some(&before));
    assert_ne!(renamed.by_port(1).id, before.by_port(1).id);
}

#[test]
fn an_endpoint_with_other_connections_is_still_ejected_loaded_and_slow() {
    let before = ejecting(outlier(), [1, 2]);
    assert!(before.fail(1, 5, secs(0)));
    let held = before.by_port(2).begin();
    let other_names = ClusterConfig {
        tls: Some(UpstreamTls::default()),
        ..before.config.clone()
    };
    let endpoints = vec![endpoint(1), endpoint(2)];
    let after = Cluster::new(other_names, endpoints, Some(&before));
    assert_eq!(after.ports_in_service(secs(1)), [2]);
    let active = || after.by_port(2).state.active_requests.load(Relaxed);
    assert_eq!(active(), 1);
    drop(held);
    assert_eq!(active(), 0);
}

#[test]
fn limits_change_live_and_keep_what_is_in_use() {
    let limited = |max_requests| ClusterConfig {
        thresholds: Thresholds {
            max_requests,
            ..Thresholds::default()
        },
        ..config(LbPolicy::LeastRequest)
    };
    let before = Cluster::new(limited(2), Vec::new(), None);
    let held = [true, true].map(|count| before.limits.requests.try_acquire(count).unwrap());
    let after = Cluster::new(limited(1), Vec::new(), Some(&before));
    assert_eq!(after.limits.requests.used(), 2);
    drop(held);
    let one = after.limits.requests.try_acquire(true);
    assert!(one.is_some());
    assert!(after.limits.requests.try_acquire(true).is_none());
    assert!(Arc::ptr_eq(&before.retries, &after.retries));
}

#[test]
fn a_lower_priority_is_used_only_when_the_higher_has_nothing_left() {
    use Health::{Healthy, Unhealthy};
    let pick = |endpoints: &[(u16, u32, Health)], tried: &[u16]| {
        let endpoints = endpoints
            .iter()
            .map(|(port, priority, health)| at_priority(*port, *priority, *health))
            .collect();
        let cluster = Cluster::new(config(LbPolicy::LeastRequest), endpoints, None);
        let tried: Vec<_> = tried.iter().map(|port| cluster.by_port(*port).id).collect();
        cluster.pick_with(&mut rng(), None, &tried, secs(1))
    };
    let both = [(1, 0, Healthy), (2, 1, Healthy)];
    assert_eq!(pick(&both, &[]), Ok(1));
    assert_eq!(pick(&both, &[1]), Ok(2));
    assert_eq!(pick(&both, &[1, 2]), Err(NoEndpoint::Exhausted));
    assert_eq!(pick(&[(1, 0, Unhealthy), (2, 7, Healthy)], &[]), Ok(2));
    let none = [(1, 0, Unhealthy), (2, 1, Unhealthy)];
    assert_eq!(pick(&none, &[]), Err(NoEndpoint::Unhealthy));
    assert_eq!(pick(&[], &[]), Err(NoEndpoint::Empty));
}

#[test]
fn a_retry_budget_is_the_clusters_and_changes_live() {
    let with = |percent, least, previous: Option<&Cluster>| {
        let config = ClusterConfig {
            retry_share: RetryShare {
                percent,
                least,
                written: true,
            },
            ..config(LbPolicy::LeastRequest)
        };
        Cluster::new(config, Vec::new(), previous)
    };
    let most = |cluster: &Cluster| {
        let held: Vec<_> = std::iter::from_fn(|| cluster.retries.try_acquire(40)).collect();
        held.len()
    };
    let before = with(50.0, 1, None);
    assert_eq!(most(&before), 20);
    assert_eq!(most(&with(2.5, 0, Some(&before))), 1);
    assert_eq!(most(&with(0.0, 7, Some(&before))), 7);
}

#[test]
fn one_address_given_twice_is_one_endpoint() {
    let twice = vec![endpoint(1), endpoint(2), endpoint(1)];
    let cluster = Cluster::new(config(LbPolicy::RoundRobin), twice, None);
    assert_eq!(cluster.endpoints.len(), 2);
}

#[test]
fn when_all_that_is_left_is_ejected_it_is_used() {
    // 1 and 2 are ejected while 3 is in service; then 3 leaves.
    let before = ejecting(outlier(), [1, 2, 3]);
    assert!(before.fail(1, 5, secs(0)) && before.fail(2, 5, secs(0)));
    let left = vec![endpoint(1), endpoint(2)];
    let after = Cluster::new(before.config.clone(), left, Some(&before));
    assert!(after.pick_with(&mut rng(), None, &[], secs(1)).is_ok());
}

#[test]
fn an_operator_who_allows_all_to_be_ejected_gets_an_open_breaker() {
    let all = OutlierConfig {
        max_ejection_percent: 100,
        ..outlier()
    };
    let cluster = ejecting(all, [1]);
    assert!(cluster.fail(1, 5, secs(0)));
    let pick = |now| cluster.pick_with(&mut rng(), None, &[], secs(now));
    assert_eq!(pick(29), Err(NoEndpoint::Unhealthy));
    assert_eq!(pick(30), Ok(1), "the probe");
    assert_eq!(pick(30), Err(NoEndpoint::Unhealthy), "one only");
}

#[test]
fn ejection_is_ignored_below_the_minimum_of_healthy_endpoints() {
    let half = OutlierConfig {
        min_health_percent: 50,
        ..outlier()
    };
    let cluster = ejecting(half, 1..=4);
    let used = || {
        let mut ports: Vec<u16> = (0..100)
            .map(|_| cluster.pick_with(&mut rng(), None, &[], secs(1)).unwrap())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    assert!(cluster.fail(1, 5, secs(0)) && cluster.fail(2, 5, secs(0)));
    assert_eq!(used(), [3, 4]);
    assert!(cluster.fail(3, 5, secs(0)));
    assert_eq!(used(), [1, 2, 3, 4]);
}

#[test]
fn ejection_is_heeded_again_once_ejections_end() {
    for (min_health_percent, count, bad) in [(50, 4_u16, 3_u16), (60, 2, 1), (100, 3, 1)] {
        let cluster = ejecting(
            OutlierConfig {
                min_health_percent,
                ..outlier()
            },
            1..=count,
        );
        let mut rng = rng();
        let mut pick = |now| {
            let mut context = PickContext {
                hash: None,
                tried: &[],
                previous_priorities: &[],
                now,
                rng: &mut rng,
            };
            cluster.pick(&mut context).unwrap()
        };
        for port in 1..=bad {
            assert!(cluster.fail(port, 5, secs(0)));
        }
        // Their answers are good again: whoever is due for its probe is asked and comes back.
        for _ in 0..100 {
            let picked = pick(secs(30));
            cluster.report(&picked, Outcome::Status(200), secs(30));
        }
        assert_eq!(cluster.ports_in_service(secs(30)).len(), usize::from(count));
        // And the next that fails is left out, as long as enough others are in service.
        assert!(cluster.fail(count, 5, secs(31)));
        let avoided = (0..100).all(|_| pick(secs(31)).endpoint.config.address.port() != count);
        let may_be = (count - 1) * 100 >= count * u16::try_from(min_health_percent).unwrap();
        assert_eq!(avoided, may_be, "{min_health_percent} % of {count}");
    }
}

#[test]
fn a_cluster_that_comes_back_counts_what_is_still_open() {
    let reviews = || ClusterConfig {
        thresholds: Thresholds {
            max_connections: 2,
            ..Thresholds::default()
        },
        breaker: Some(BreakerConfig {
            consecutive_failures: 1,
            reset_timeout: Duration::from_secs(30),
            for_endpoints: false,
            for_service: true,
            position: None,
        }),
        ..config(LbPolicy::LeastRequest)
    };
    let name = reviews().name;
    let mut builder = SnapshotBuilder::default();
    builder.put_cluster(reviews(), vec![endpoint(1)]);
    let before = Arc::clone(builder.cluster(&name).unwrap());
    let held = [true; 2].map(|count| before.limits.connections.try_acquire(count).unwrap());
    assert!(
        before
            .report(&before.picked(1), Outcome::LocalError, secs(0))
            .breaker_opened
    );
    builder.set_cluster(&name, None);
    builder.set_cluster(&name, None);
    builder.build();
    builder.put_cluster(reviews(), vec![endpoint(1)]);
    let after = builder.cluster(&name).unwrap();
    assert!(after.limits.connections.try_acquire(true).is_none());
    drop(held);
    assert!(after.limits.connections.try_acquire(true).is_some());
    let pick = after.pick_with(&mut rng(), None, &[], secs(1));
    assert!(matches!(pick, Err(NoEndpoint::BreakerOpen { .. })));
}

#[test]
fn an_endpoint_that_cannot_be_connected_to_is_left_alone_while_there_are_others() {
    for lb in [LbPolicy::LeastRequest, LbPolicy::RoundRobin] {
        let cluster = cluster(lb, [1, 2, 3]);
        let mut rng = fastrand::Rng::with_seed(1);
        cluster.unreachable(&cluster.picked(1), Moment(1_000));
        let mut at = |ms| cluster.pick_with(&mut rng, None, &[], Moment(ms)).unwrap();
        assert!((0..200).all(|_| at(1_099) != 1));
        // One tries again, and the others do not wait for it.
        let again = (0..200).filter(|_| at(1_100) == 1).count();
        assert_eq!(again, 1);
        cluster.report(&cluster.picked(1), OK, Moment(1_101));
        assert!((0..200).any(|_| at(1_102) == 1));
    }
}

#[test]
fn one_that_cannot_be_connected_to_is_used_where_nothing_else_is_left() {
    let cluster = cluster(LbPolicy::LeastRequest, [1, 2]);
    let mut rng = fastrand::Rng::with_seed(1);
    for port in [1, 2] {
        cluster.unreachable(&cluster.picked(port), Moment(1_000));
    }
    let picked = cluster.pick_with(&mut rng, None, &[], Moment(1_001));
    assert!(picked.is_ok());
    let tried = [cluster.by_port(1).id];
    let picked = cluster.pick_with(&mut rng, None, &tried, Moment(1_001));
    assert_eq!(picked, Ok(2));
}
