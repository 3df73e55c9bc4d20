//! The client's rules, in virtual time and without a socket.

use std::{collections::BTreeMap, time::Duration};

use outrigger_core::{LocalityPolicy, Snapshot, SnapshotBuilder};
use outrigger_proto::envoy::{
    config::core::v3::{Locality, Node},
    service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};
use prost::Message;
use tokio::time::Instant;

use super::{
    engine::Engine,
    state::{Kind, MISSING_AFTER, Status},
    testing::*,
};

mod converge;
mod fuzz;
mod istio;
mod listeners;
mod names;
mod naming;
mod on_demand;
mod sotw;
mod stream;

const R: &str = "outbound|9080||reviews.default.svc.cluster.local";
const Q: &str = "outbound|9080||ratings.default.svc.cluster.local";

/// An engine and what it asked for, in a story's words.
struct Story {
    engine: Engine,
    now: Instant,
    nonce: u32,
    /// Everything it sent, as `CDS +*`, `EDS +a -b`, `CDS ack 1`, `CDS nack 1`.
    sent: Vec<String>,
    nacks: Vec<String>,
    snapshot: std::sync::Arc<Snapshot>,
}

impl Story {
    fn connected() -> Self {
        Self::of(Node::default())
    }

    fn of(node: Node) -> Self {
        Self::with(Engine::new(node, true))
    }

    fn with(engine: Engine) -> Self {
        let mut story = Self {
            engine,
            now: Instant::now(),
            nonce: 0,
            sent: Vec::new(),
            nacks: Vec::new(),
            snapshot: SnapshotBuilder::default().build(),
        };
        story.connect();
        story
    }

    fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let requests = self.engine.connected(self.now);
        self.note(requests.clone());
        requests
    }

    /// What was sent since the last call.
    fn sent(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
    }

    fn note(&mut self, requests: Vec<DeltaDiscoveryRequest>) {
        for request in requests {
            let kind = short(Kind::from_type_url(&request.type_url).unwrap());
            if !request.response_nonce.is_empty() {
                let word = if request.error_detail.is_some() {
                    "nack"
                } else {
                    "ack"
                };
                self.sent
                    .push(format!("{kind} {word} {}", request.response_nonce));
            }
            let names = request
                .resource_names_subscribe
                .iter()
                .map(|name| format!(" +{name}"));
            let names = names.chain(
                request
                    .resource_names_unsubscribe
                    .iter()
                    .map(|n| format!(" -{n}")),
            );
            let names: String = names.collect();
            if !names.is_empty() {
                self.sent.push(format!("{kind}{names}"));
            }
            self.nacks
                .extend(request.error_detail.map(|status| status.message));
        }
        if let Some(snapshot) = self.engine.take_snapshot() {
            self.snapshot = snapshot;
        }
    }

    fn answer(&mut self, kind: Kind, resources: Vec<Resource>, removed: &[&str]) {
        self.nonce += 1;
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url(),
            nonce: self.nonce.to_string(),
            resources,
            removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        let requests = self.engine.response(response, self.now);
        self.note(requests);
    }

    fn clusters(&mut self, names: &[&str]) {
        let resources = names
            .iter()
            .map(|name| resource(Kind::Cluster, name, "1", &cluster(name)))
            .collect();
        self.answer(Kind::Cluster, resources, &[]);
    }

    fn endpoints(&mut self, name: &str, ports: &[u32]) {
        let ports: Vec<_> = ports.iter().map(|port| ("10.0.0.1", *port)).collect();
        let resources = vec![resource(
            Kind::Endpoint,
            name,
            "1",
            &assignment(name, &ports),
        )];
        self.answer(Kind::Endpoint, resources, &[]);
    }

    fn listener(&mut self, name: &str, routes: &str) {
        let resources = vec![resource(Kind::Listener, name, "1", &outbound(name, routes))];
        self.answer(Kind::Listener, resources, &[]);
    }

    fn routes(&mut self, name: &str, cluster: &str) {
        let resources = vec![resource(Kind::Route, name, "1", &routes(name, cluster))];
        self.answer(Kind::Route, resources, &[]);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let requests = self.engine.tick(self.now);
        self.note(requests);
    }

    /// Ports of a serving cluster's endpoints; None = it does not serve.
    fn serving(&self, name: &str) -> Option<Vec<u16>> {
        let (_, cluster) = self
            .snapshot
            .clusters()
            .find(|(_, c)| c.config.name == name)?;
        Some(
            cluster
                .endpoints
                .iter()
                .map(|endpoint| endpoint.config.address.port())
                .collect(),
        )
    }

    fn listeners(&self) -> Vec<&str> {
        self.snapshot.listeners.keys().map(String::as_str).collect()
    }
}

fn short(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "CDS",
        Kind::Endpoint => "EDS",
        Kind::Listener => "LDS",
        Kind::Route => "RDS",
        Kind::VirtualHost => "VHDS",
        Kind::Secret => "SDS",
        Kind::NameTable => "NDS",
    }
}

fn resource(kind: Kind, name: &str, version: &str, message: &impl Message) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(any(kind.message(), message)),
        ..Resource::default()
    }
}

/// A mesh of one service behind one listener, complete.
fn complete() -> Story {
    let mut story = Story::connected();
    story.clusters(&[R]);
    story.endpoints(R, &[1]);
    story.listener("127.0.0.1_9080", "9080");
    story.routes("9080", R);
    story.sent();
    story
}

#[tokio::test(start_paused = true)]
async fn everything_is_asked_for_in_order_and_dependents_before_the_ack() {
    let mut story = Story::connected();
    assert_eq!(story.sent(), ["CDS +*"]);
    story.clusters(&[R]);
    assert_eq!(
        story.sent(),
        [
            format!("EDS +{R}"),
            "SDS +ROOTCA".into(),
            "CDS ack 1".into()
        ]
    );
    story.endpoints(R, &[1]);
    assert_eq!(story.sent(), ["EDS ack 2", "LDS +*"]);
    story.listener("127.0.0.1_9080", "9080");
    assert_eq!(story.sent(), ["RDS +9080", "LDS ack 3"]);
    assert!(!story.engine.is_configured(story.now));
    story.routes("9080", R);
    assert_eq!(story.sent(), ["RDS ack 4"]);
    assert!(story.engine.is_configured(story.now));
}

#[tokio::test(start_paused = true)]
async fn an_empty_mesh_is_complete_at_once() {
    let mut story = Story::connected();
    story.clusters(&[]);
    assert_eq!(story.sent(), ["CDS +*", "CDS ack 1", "LDS +*"]);
    story.answer(Kind::Listener, Vec::new(), &[]);
    assert!(story.engine.is_configured(story.now));
}

#[tokio::test(start_paused = true)]
async fn a_new_cluster_serves_once_its_endpoints_are_here() {
    let mut story = Story::connected();
    story.clusters(&[R]);
    assert_eq!(story.serving(R), None);
    story.endpoints(R, &[1, 2]);
    assert_eq!(story.serving(R), Some(vec![1, 2]));
}

#[tokio::test(start_paused = true)]
async fn a_changed_cluster_uses_the_endpoints_at_hand() {
    let mut story = complete();
    let mut changed = cluster(R);
    changed.connect_timeout = Some(seconds(3));
    story.answer(
        Kind::Cluster,
        vec![resource(Kind::Cluster, R, "2", &changed)],
        &[],
    );
    assert_eq!(story.serving(R), Some(vec![1]));
    let (_, serving) = story.snapshot.clusters().next().unwrap();
    assert_eq!(serving.config.connect_timeout, Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_change_leave_every_other_cluster_alone() {
    let mut story = Story::connected();
    story.clusters(&[R, Q]);
    story.endpoints(R, &[1]);
    story.endpoints(Q, &[2]);
    let of = |story: &Story, name: &str| {
        let (_, cluster) = story
            .snapshot
            .clusters()
            .find(|(_, c)| c.config.name == name)
            .unwrap();
        std::sync::Arc::as_ptr(cluster)
    };
    let (r, q) = (of(&story, R), of(&story, Q));
    story.endpoints(R, &[1, 3]);
    assert_ne!(of(&story, R), r);
    assert_eq!(of(&story, Q), q);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_again_unchanged_makes_no_new_snapshot() {
    let mut story = complete();
    let version = story.snapshot.version;
    story.clusters(&[R]);
    story.endpoints(R, &[1]);
    assert_eq!(story.snapshot.version, version);
}

#[tokio::test(start_paused = true)]
async fn a_listener_stays_closed_until_its_routes_are_here() {
    let mut story = Story::connected();
    story.clusters(&[]);
    story.listener("127.0.0.1_9080", "9080");
    assert!(story.listeners().is_empty());
    story.routes("9080", R);
    assert_eq!(story.listeners(), ["127.0.0.1_9080"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_listener_serves_in_its_old_form_until_the_new_one_is_ready() {
    let mut story = complete();
    let mut changed = outbound("127.0.0.1_9080", "other");
    changed.address = Some(address("127.0.0.1", 9081));
    story.answer(
        Kind::Listener,
        vec![resource(Kind::Listener, "127.0.0.1_9080", "2", &changed)],
        &[],
    );
    assert_eq!(story.sent(), ["RDS +other", "LDS ack 5"]);
    assert_eq!(
        story.snapshot.listeners["127.0.0.1_9080"].address.port(),
        9080
    );
    story.routes("other", R);
    assert_eq!(
        story.snapshot.listeners["127.0.0.1_9080"].address.port(),
        9081
    );
    assert_eq!(story.sent(), ["RDS -9080", "RDS ack 6"]);
}

#[tokio::test(start_paused = true)]
async fn a_route_to_an_unknown_cluster_is_accepted() {
    let mut story = complete();
    story.routes("9080", "nobody");
    assert_eq!(story.sent(), ["RDS ack 5"]);
    assert_eq!(story.serving("nobody"), None);
}

#[tokio::test(start_paused = true)]
async fn good_resources_of_a_bad_answer_are_applied_and_the_bad_one_keeps_its_last_form() {
    let mut story = complete();
    let mut bad = cluster(R);
    bad.alt_stat_name = "x".to_owned();
    bad.connect_timeout = Some(seconds(3));
    let resources = vec![
        resource(Kind::Cluster, R, "2", &bad),
        resource(Kind::Cluster, Q, "1", &cluster(Q)),
    ];
    story.answer(Kind::Cluster, resources, &[]);
    assert_eq!(story.sent(), [format!("EDS +{Q}"), "CDS nack 5".into()]);
    assert_eq!(
        story.nacks,
        [format!("Cluster {R:?}: alt_stat_name: not supported yet")]
    );
    let (_, serving) = story.snapshot.clusters().next().unwrap();
    assert_eq!(serving.config.connect_timeout, Duration::from_secs(10));
    let entry = &story.engine.state(Kind::Cluster).entries()[R];
    assert_eq!(
        (entry.status, entry.version.as_str()),
        (Status::Nacked, "1")
    );
    assert_eq!(entry.refusal.as_ref().unwrap().version, "2");
}

#[tokio::test(start_paused = true)]
async fn a_refused_resource_heals_with_its_next_version() {
    let mut story = complete();
    let mut bad = cluster(R);
    bad.alt_stat_name = "x".to_owned();
    story.answer(
        Kind::Cluster,
        vec![resource(Kind::Cluster, R, "2", &bad)],
        &[],
    );
    let mut good = cluster(R);
    good.connect_timeout = Some(seconds(3));
    story.answer(
        Kind::Cluster,
        vec![resource(Kind::Cluster, R, "3", &good)],
        &[],
    );
    let entry = &story.engine.state(Kind::Cluster).entries()[R];
    assert_eq!((entry.status, entry.version.as_str()), (Status::Acked, "3"));
    assert!(entry.refusal.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_is_there_twice_or_under_another_name_is_refused() {
    let mut story = Story::connected();
    story.clusters(&[R, R]);
    assert_eq!(
        story.nacks,
        [format!(
            "Cluster {R:?}: is in the answer twice; Cluster {R:?}: is in the answer twice"
        )]
    );
    story.answer(
        Kind::Cluster,
        vec![resource(Kind::Cluster, Q, "1", &cluster(R))],
        &[],
    );
    assert_eq!(
        story.nacks[1],
        format!("Cluster {Q:?}: name: {R:?} differs from the resource's name")
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_not_asked_for_is_ignored() {
    let mut story = complete();
    story.endpoints(Q, &[9]);
    story.routes("other", Q);
    assert_eq!(story.sent(), ["EDS ack 5", "RDS ack 6"]);
    assert!(story.engine.state(Kind::Endpoint).status(Q).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_type_that_was_not_asked_for_is_refused_and_the_stream_goes_on() {
    let mut story = complete();
    let response = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned(),
        nonce: "x".to_owned(),
        ..DeltaDiscoveryResponse::default()
    };
    let requests = story.engine.response(response, story.now);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].response_nonce, "x");
    assert!(requests[0].error_detail.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_removed_cluster_is_gone_and_its_endpoints_are_no_longer_asked_for() {
    let mut story = complete();
    story.answer(Kind::Cluster, Vec::new(), &[R]);
    assert_eq!(story.serving(R), None);
    assert_eq!(
        story.sent(),
        [
            format!("EDS -{R}"),
            "SDS -ROOTCA".into(),
            "CDS ack 5".into()
        ]
    );
    story.clusters(&[R]);
    assert_eq!(
        story.serving(R),
        None,
        "endpoints of before are not used again unseen"
    );
    story.endpoints(R, &[7]);
    assert_eq!(story.serving(R), Some(vec![7]));
}

#[tokio::test(start_paused = true)]
async fn a_removed_listener_is_closed() {
    let mut story = complete();
    story.answer(Kind::Listener, Vec::new(), &["127.0.0.1_9080"]);
    assert!(story.listeners().is_empty());
    assert_eq!(story.sent(), ["RDS -9080", "LDS ack 5"]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_do_not_exist_leave_a_cluster_without_any() {
    let mut story = Story::connected();
    story.clusters(&[R]);
    story.answer(Kind::Endpoint, Vec::new(), &[R]);
    assert_eq!(story.serving(R), Some(vec![]));
    assert_eq!(
        story.engine.state(Kind::Endpoint).status(R),
        Some(Status::DoesNotExist)
    );
    assert!(story.sent().contains(&"LDS +*".to_owned()));
    story.endpoints(R, &[1]);
    assert_eq!(story.serving(R), Some(vec![1]), "it heals when they arrive");
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_never_come_hold_nothing_up_for_longer_than_fifteen_seconds() {
    let mut story = Story::connected();
    story.clusters(&[R]);
    story.sent();
    story.pass(MISSING_AFTER - Duration::from_millis(1));
    assert!(story.sent().is_empty());
    story.pass(Duration::from_millis(1));
    assert_eq!(story.sent(), ["LDS +*"]);
    assert_eq!(story.serving(R), Some(vec![]));
    assert_eq!(
        story.engine.state(Kind::Endpoint).status(R),
        Some(Status::Timeout)
    );
    story.endpoints(R, &[1]);
    assert_eq!(story.serving(R), Some(vec![1]));
}

#[tokio::test(start_paused = true)]
async fn clusters_that_never_come_do_not_hold_up_listeners() {
    let mut story = Story::connected();
    assert_eq!(story.engine.deadline(), Some(story.now + MISSING_AFTER));
    story.pass(MISSING_AFTER);
    assert_eq!(story.sent(), ["CDS +*", "LDS +*"]);
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_routes_never_come_stays_closed_and_opens_when_they_do() {
    let mut story = Story::connected();
    story.clusters(&[]);
    story.listener("127.0.0.1_9080", "9080");
    story.pass(MISSING_AFTER);
    assert!(story.engine.is_configured(story.now));
    assert!(story.listeners().is_empty());
    assert_eq!(
        story.engine.warming(),
        ["127.0.0.1_9080 waits for routes 9080 (TIMEOUT)"]
    );
    story.routes("9080", R);
    assert_eq!(story.listeners(), ["127.0.0.1_9080"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_says_what_is_held_and_keeps_serving() {
    let mut story = complete();
    story.engine.disconnected();
    assert_eq!(story.serving(R), Some(vec![1]));
    let requests = story.connect();
    let versions = |names: &[&str]| -> BTreeMap<String, String> {
        names
            .iter()
            .map(|name| ((*name).to_owned(), "1".to_owned()))
            .collect()
    };
    assert_eq!(
        story.sent(),
        [
            "CDS +*".into(),
            format!("EDS +{R}"),
            "LDS +*".into(),
            "RDS +9080".into(),
            "SDS +ROOTCA".to_owned()
        ]
    );
    let held: Vec<_> = requests
        .iter()
        .map(|r| r.initial_resource_versions.clone())
        .collect();
    let expected = [
        versions(&[R]),
        versions(&[R]),
        versions(&["127.0.0.1_9080"]),
        versions(&["9080"]),
        versions(&[]),
    ];
    assert_eq!(held, expected);
    assert!(requests[0].node.is_some() && requests[1..].iter().all(|r| r.node.is_none()));
    assert!(requests.iter().all(|r| r.response_nonce.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn the_timer_of_a_missing_resource_runs_only_while_connected_and_not_for_what_is_held() {
    let mut story = Story::connected();
    story.clusters(&[R, Q]);
    story.endpoints(R, &[1]);
    story.pass(Duration::from_secs(10));
    story.engine.disconnected();
    assert_eq!(story.engine.deadline(), None);
    story.pass(Duration::from_secs(60));
    assert_eq!(
        story.engine.state(Kind::Endpoint).status(Q),
        Some(Status::Requested)
    );
    story.connect();
    assert_eq!(story.engine.deadline(), Some(story.now + MISSING_AFTER));
    story.pass(MISSING_AFTER);
    assert_eq!(
        story.engine.state(Kind::Endpoint).status(Q),
        Some(Status::Timeout)
    );
    assert_eq!(
        story.engine.state(Kind::Endpoint).status(R),
        Some(Status::Acked)
    );
}

#[tokio::test(start_paused = true)]
async fn what_vanished_while_away_is_dropped() {
    let mut story = complete();
    story.engine.disconnected();
    story.connect();
    story.answer(Kind::Listener, Vec::new(), &["127.0.0.1_9080"]);
    story.answer(Kind::Cluster, Vec::new(), &[R]);
    assert!(story.listeners().is_empty());
    assert_eq!(story.serving(R), None);
}

#[tokio::test(start_paused = true)]
async fn without_an_identity_listeners_with_tls_are_refused_and_clusters_are_not() {
    let mut story = Story::connected();
    story.engine = Engine::new(Node::default(), false);
    story.connect();
    story.clusters(&[R]);
    assert!(story.nacks.is_empty());
    let listener = resource(
        Kind::Listener,
        "virtualInbound",
        "1",
        &inbound("virtualInbound"),
    );
    story.answer(Kind::Listener, vec![listener], &[]);
    assert!(
        story.nacks[0].contains("TLS needs an identity"),
        "{:?}",
        story.nacks
    );
}

#[tokio::test(start_paused = true)]
async fn a_long_list_of_refusals_is_cut() {
    let mut story = Story::connected();
    let names: Vec<String> = (0..1000)
        .map(|index| format!("cluster-{index:04}"))
        .collect();
    let resources = names
        .iter()
        .map(|name| {
            let mut bad = cluster(name);
            bad.alt_stat_name = "x".to_owned();
            resource(Kind::Cluster, name, "1", &bad)
        })
        .collect();
    story.answer(Kind::Cluster, resources, &[]);
    assert!(story.nacks[0].len() < 5000);
    assert!(story.nacks[0].ends_with("more"), "{}", story.nacks[0]);
}

#[test]
fn a_zone_aware_cluster_knows_where_this_sidecar_runs() {
    let own = |zone: &str| Node {
        locality: Some(Locality {
            region: "eu".to_owned(),
            zone: zone.to_owned(),
            sub_zone: "rack-7".to_owned(),
        }),
        ..Node::default()
    };
    let zone = |name: &str| {
        let locality = Locality {
            region: "eu".to_owned(),
            zone: name.to_owned(),
            ..Locality::default()
        };
        let port = if name == "a" { 1 } else { 2 };
        let mut group = assignment(R, &[("10.0.0.1", port)]).endpoints.remove(0);
        group.locality = Some(locality);
        group
    };
    for (here, port) in [("a", 1), ("b", 2)] {
        let mut story = Story::of(own(here));
        let mut message = cluster(R);
        let ours = message.metadata.as_mut().unwrap();
        let ours = ours.filter_metadata.get_mut("outrigger").unwrap();
        let minimum = prost_types::Struct {
            fields: BTreeMap::from([(
                "minimum_endpoints".to_owned(),
                prost_types::value::Kind::NumberValue(2.0).into(),
            )]),
        };
        let minimum = prost_types::value::Kind::StructValue(minimum);
        ours.fields.insert("zone_aware".to_owned(), minimum.into());
        let resources = vec![resource(Kind::Cluster, R, "1", &message)];
        story.answer(Kind::Cluster, resources, &[]);
        let mut both = assignment(R, &[]);
        both.endpoints = vec![zone("a"), zone("b")];
        let resources = vec![resource(Kind::Endpoint, R, "1", &both)];
        story.answer(Kind::Endpoint, resources, &[]);
        assert_eq!(story.nacks, Vec::<String>::new());
        let (_, cluster) = story.snapshot.clusters().next().unwrap();
        let zones = LocalityPolicy::ZoneAware {
            minimum_endpoints: 2,
        };
        assert_eq!(cluster.config.localities, zones);
        for seed in 0..20 {
            let mut context = outrigger_core::PickContext {
                hash: None,
                tried: &[],
                previous_priorities: &[],
                now: outrigger_core::Moment(1),
                rng: &mut fastrand::Rng::with_seed(seed),
            };
            let picked = cluster.pick(&mut context).unwrap();
            assert_eq!(picked.endpoint.config.address.port(), port);
        }
    }
}
