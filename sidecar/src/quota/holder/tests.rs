use outrigger_core::{Cluster, ClusterConfig, LimitsScope, Permit, SnapshotBuilder, Thresholds};
use outrigger_proto::outrigger::v1::Share;

use super::*;
use crate::testing;

const CLUSTER: &str = "outbound|80||reviews";

struct Site {
    start: Instant,
    cluster: Arc<Cluster>,
    holder: Holder,
    grants: u64,
}

impl Site {
    /// A cluster whose `http2MaxRequests` are 100 for the service.
    fn new() -> Self {
        let start = Instant::now();
        let config = ClusterConfig {
            name: CLUSTER.to_owned(),
            thresholds: Thresholds {
                max_requests: 100,
                ..Thresholds::default()
            },
            limits_scope: LimitsScope::Service,
            ..testing::cluster("reviews")
        };
        let cluster = Arc::new(Cluster::new(config, Vec::new(), None));
        let mut site = Self {
            start,
            cluster,
            holder: Holder::new(),
            grants: 0,
        };
        site.follow(0.0);
        site
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    fn follow(&mut self, seconds: f64) {
        let mut builder = SnapshotBuilder::default();
        builder.set_cluster(CLUSTER, Some(Arc::clone(&self.cluster)));
        self.holder.follow(&builder.build(), self.at(seconds));
    }

    fn open(&mut self, seconds: f64) -> LeaseRequest {
        self.grants = 0;
        self.holder.open(Node::default(), 7, self.at(seconds))
    }

    /// A grant that answers request number `answers`.
    fn grant(&mut self, seconds: f64, answers: u64, share: u32, fallback: u32) -> LeaseRequest {
        self.grants += 1;
        let share = Share {
            limited: Some(Limited {
                cluster: CLUSTER.to_owned(),
                limit: Limit::Http2MaxRequests.into(),
            }),
            share,
            fallback,
            limit: 100,
            sidecars: 5,
        };
        let grant = LeaseGrant {
            sequence: self.grants,
            answers,
            ttl: Some(prost_types::Duration {
                seconds: 10,
                nanos: 0,
            }),
            shares: vec![share],
        };
        let at = self.at(seconds);
        self.holder.apply(grant, at)
    }

    fn limit(&mut self, seconds: f64) -> u32 {
        let at = self.at(seconds);
        self.holder.tick(at);
        self.cluster.limits.requests.limit()
    }

    fn use_up(&self) -> Vec<Permit> {
        std::iter::from_fn(|| self.cluster.limits.requests.try_acquire(true)).collect()
    }
}

#[test]
fn without_a_word_from_the_control_plane_a_new_sidecar_may_have_one() {
    let mut site = Site::new();
    assert_eq!(site.limit(1.9), 0);
    assert!(!site.holder.is_settled(site.at(1.9)));
    assert_eq!(site.limit(2.0), 1);
    assert!(site.holder.is_settled(site.at(2.0)));
}

#[test]
fn a_stream_begins_with_everything_and_a_grant_is_answered() {
    let mut site = Site::new();
    let first = site.open(0.1);
    assert_eq!((first.sequence, first.applied, first.process), (1, 0, 7));
    assert!(first.renew && first.node.is_some());
    let [used] = first.uses.as_slice() else {
        panic!("{first:?}")
    };
    assert_eq!((used.held, used.first), (0, true));
    let answer = site.grant(0.2, 1, 20, 20);
    assert_eq!(
        (answer.sequence, answer.applied, answer.renew),
        (2, 1, false)
    );
    assert_eq!((answer.uses[0].held, answer.uses[0].first), (20, false));
    assert_eq!(site.limit(0.2), 20);
    assert_eq!(
        site.holder.request(site.at(1.0)),
        None,
        "nothing has changed"
    );
    let renewal = site.holder.request(site.at(5.2)).unwrap();
    assert!(renewal.renew);
}

#[test]
fn a_lease_lasts_from_when_the_request_was_sent() {
    let mut site = Site::new();
    site.open(1.0);
    site.grant(4.0, 1, 5, 20);
    assert_eq!(site.limit(10.9), 5);
    assert_eq!(site.limit(11.0), 5, "the smaller of share and fallback");
    assert_eq!(site.limit(33.9), 5, "who has borrowed may still use it");
    assert_eq!(site.limit(34.0), 20);
    assert_eq!(site.holder.counts().expired, 1);
    assert!(site.holder.falls_back(site.at(34.0)));
}

#[test]
fn what_was_borrowed_ends_with_the_lease() {
    let mut site = Site::new();
    site.open(0.0);
    site.grant(0.1, 1, 80, 20);
    assert_eq!(site.limit(9.9), 80);
    assert_eq!(site.limit(10.0), 20);
}

#[test]
fn after_the_lease_a_stream_begins_with_what_it_may_fall_back_to() {
    let mut site = Site::new();
    site.open(0.0);
    site.grant(0.1, 1, 5, 20);
    site.limit(12.0);
    assert_eq!(site.open(12.0).uses[0].held, 20);
}

#[test]
fn a_share_that_was_called_back_is_given_back_as_it_becomes_free() {
    let mut site = Site::new();
    site.open(0.0);
    site.grant(0.1, 1, 50, 20);
    let mut held = site.use_up();
    assert_eq!(held.len(), 50);
    let answer = site.grant(1.0, 2, 10, 20);
    assert_eq!(answer.uses[0].held, 50);
    assert_eq!(site.holder.counts().callbacks, 1);
    assert!(site.cluster.limits.requests.try_acquire(true).is_none());
    held.truncate(30);
    site.limit(1.1);
    let freed = site.holder.request(site.at(1.1)).unwrap();
    assert_eq!(freed.uses[0].held, 30);
    held.clear();
    let freed = site.holder.request(site.at(1.2)).unwrap();
    assert_eq!(freed.uses[0].held, 10);
}

#[test]
fn more_is_wanted_at_once_and_less_after_a_while() {
    let mut site = Site::new();
    site.open(0.0);
    site.grant(0.1, 1, 4, 4);
    let held = site.use_up();
    site.limit(0.2);
    let more = site.holder.request(site.at(0.2)).unwrap();
    assert_eq!((more.uses[0].in_use, more.uses[0].wanted), (4, 9));
    drop(held);
    site.limit(5.0);
    assert_eq!(site.holder.request(site.at(4.0)), None);
    site.holder.request(site.at(5.3));
    site.limit(10.3);
    let less = site.holder.request(site.at(10.3)).unwrap();
    assert_eq!(less.uses[0].wanted, 0);
}

#[test]
fn a_limit_that_is_the_services_no_more_is_released_and_whole() {
    let mut site = Site::new();
    site.open(0.0);
    site.grant(0.1, 1, 4, 4);
    let config = ClusterConfig {
        limits_scope: LimitsScope::Proxy,
        ..site.cluster.config.clone()
    };
    site.cluster = Arc::new(Cluster::new(config, Vec::new(), Some(&site.cluster)));
    site.follow(1.0);
    assert_eq!(site.limit(1.0), 100);
    let released = site.holder.request(site.at(1.0)).unwrap().released;
    assert_eq!(released.len(), 1);
    assert!(site.holder.is_empty());
}

#[test]
fn the_limit_of_a_cluster_that_is_gone_is_released_when_nothing_of_it_is_in_use() {
    let mut site = Site::new();
    site.open(0.0);
    site.grant(0.1, 1, 50, 20);
    let mut held = site.use_up();
    let none = SnapshotBuilder::default().build();
    site.holder.follow(&none, site.at(1.0));
    assert!(site.cluster.limits.requests.try_acquire(true).is_none());
    held.truncate(30);
    let told = site.holder.request(site.at(1.1)).unwrap();
    assert!(told.released.is_empty());
    assert_eq!((told.uses[0].held, told.uses[0].wanted), (30, 0));
    // A lease that ends gives it nothing.
    assert_eq!(site.limit(50.0), 0);
    held.clear();
    assert_eq!(site.limit(50.1), 0);
    let told = site.holder.request(site.at(50.1)).unwrap();
    assert_eq!((told.uses.len(), told.released.len()), (0, 1));
    assert!(site.holder.is_empty());
}

#[test]
fn a_cluster_that_comes_back_has_nothing_until_it_is_granted_again() {
    let mut site = Site::new();
    site.open(0.0);
    site.grant(0.1, 1, 50, 20);
    for in_use in [0, 50] {
        let mut held = site.use_up();
        held.truncate(in_use);
        let none = SnapshotBuilder::default().build();
        site.holder.follow(&none, site.at(1.0));
        site.follow(1.1);
        assert_eq!(site.limit(1.1), 0);
        let told = site.holder.request(site.at(1.2)).unwrap();
        assert!(told.released.is_empty(), "it is held again: {told:?}");
        assert!(told.uses[0].first);
        let answers = told.sequence;
        site.grant(1.3, answers, 50, 20);
        assert_eq!(site.limit(1.3), 50);
    }
}

#[test]
fn connections_that_are_kept_without_being_in_use_are_not_wanted() {
    let mut site = Site::new();
    site.open(0.0);
    site.grant(0.1, 1, 8, 8);
    let gauge = Arc::clone(&site.cluster.limits.requests);
    let held: Vec<_> = (0..8).filter_map(|_| gauge.try_acquire(true)).collect();
    site.holder.set_spare(vec![(gauge, 8)]);
    site.limit(0.2);
    let renewal = site.holder.request(site.at(5.1)).unwrap();
    assert_eq!((renewal.uses[0].in_use, renewal.uses[0].wanted), (8, 1));
    drop(held);
}
