//! The same rules in the other wire form: State of the World.

use outrigger_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use prost_types::Any;

use super::*;
use crate::xds::sotw::Sotw;

/// An engine behind the form, and what went over the wire: `CDS [a b] v1/n1`, with `nack` where it is one.
struct World {
    engine: Engine,
    form: Sotw,
    now: Instant,
    count: u32,
    sent: Vec<String>,
    nacks: Vec<String>,
    snapshot: std::sync::Arc<Snapshot>,
}

impl World {
    fn connected() -> Self {
        let mut world = Self {
            engine: Engine::new(Node::default(), true),
            form: Sotw::default(),
            now: Instant::now(),
            count: 0,
            sent: Vec::new(),
            nacks: Vec::new(),
            snapshot: SnapshotBuilder::default().build(),
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        let requests = self.engine.connected(self.now);
        let requests = self.form.connected(requests);
        assert!(requests[0].node.is_some());
        self.note(requests);
    }

    fn note(&mut self, requests: Vec<DiscoveryRequest>) {
        for request in requests {
            let kind = short(Kind::from_type_url(&request.type_url).unwrap());
            let nack = if request.error_detail.is_some() {
                " nack"
            } else {
                ""
            };
            self.sent.push(format!(
                "{kind} [{}] {}/{}{nack}",
                request.resource_names.join(" "),
                request.version_info,
                request.response_nonce
            ));
            self.nacks
                .extend(request.error_detail.map(|status| status.message));
        }
        if let Some(snapshot) = self.engine.take_snapshot() {
            self.snapshot = snapshot;
        }
    }

    fn say(&mut self, kind: Kind, version: &str, resources: Vec<Any>) {
        self.count += 1;
        let response = DiscoveryResponse {
            version_info: version.to_owned(),
            type_url: kind.type_url(),
            nonce: format!("n{}", self.count),
            resources,
            ..DiscoveryResponse::default()
        };
        let answer = self.form.response(response, Some(self.engine.state(kind)));
        let requests = self.engine.response(answer, self.now);
        let requests = self.form.requests(requests);
        self.note(requests);
    }

    fn sent(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
    }

    fn clusters(&mut self, version: &str, names: &[&str]) {
        let clusters = names
            .iter()
            .map(|name| packed(Kind::Cluster, &cluster(name)));
        self.say(Kind::Cluster, version, clusters.collect());
    }

    fn endpoints(&mut self, version: &str, name: &str, port: u32) {
        let assignment = assignment(name, &[("10.0.0.1", port)]);
        self.say(
            Kind::Endpoint,
            version,
            vec![packed(Kind::Endpoint, &assignment)],
        );
    }

    fn listener(&mut self, version: &str, rds: &str) {
        let listener = outbound("l", rds);
        self.say(
            Kind::Listener,
            version,
            vec![packed(Kind::Listener, &listener)],
        );
    }

    fn routes(&mut self, version: &str, name: &str) {
        self.say(
            Kind::Route,
            version,
            vec![packed(Kind::Route, &routes(name, "a"))],
        );
    }

    fn serving(&self) -> Vec<String> {
        let clusters = self.snapshot.clusters().map(|(_, c)| {
            let ports = c.endpoints.iter().map(|e| e.config.address.port());
            format!("{}{:?}", c.config.name, ports.collect::<Vec<_>>())
        });
        let mut clusters: Vec<_> = clusters.collect();
        clusters.sort();
        clusters
    }
}

fn packed(kind: Kind, message: &impl Message) -> Any {
    any(kind.message(), message)
}

/// Clusters `a` and `b`, a listener with routes `r`, complete.
fn whole() -> World {
    let mut world = World::connected();
    world.clusters("1", &["a", "b"]);
    world.endpoints("1", "a", 1);
    world.endpoints("1", "b", 2);
    world.listener("1", "r");
    world.routes("1", "r");
    world.sent();
    world
}

#[tokio::test(start_paused = true)]
async fn everything_is_asked_for_in_order_with_all_names_version_and_nonce() {
    let mut world = World::connected();
    assert_eq!(world.sent(), ["CDS [] /"]);
    world.clusters("1", &["a", "b"]);
    assert_eq!(
        world.sent(),
        ["EDS [a b] /", "SDS [ROOTCA] /", "CDS [] 1/n1"]
    );
    world.endpoints("7", "a", 1);
    assert_eq!(world.sent(), ["EDS [a b] 7/n2"]);
    world.endpoints("8", "b", 2);
    assert_eq!(world.sent(), ["EDS [a b] 8/n3", "LDS [] /"]);
    world.listener("1", "r");
    assert_eq!(world.sent(), ["RDS [r] /", "LDS [] 1/n4"]);
    world.routes("1", "r");
    assert_eq!(world.sent(), ["RDS [r] 1/n5"]);
    assert!(world.engine.is_configured(world.now));
}

#[tokio::test(start_paused = true)]
async fn an_absent_cluster_is_deleted_and_its_endpoints_are_asked_for_no_more() {
    let mut world = whole();
    world.clusters("2", &["a"]);
    assert_eq!(world.serving(), ["a[1]"]);
    assert_eq!(world.sent(), ["EDS [a] 1/n3", "CDS [] 2/n6"]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_deletes_all_clusters_and_listeners() {
    let mut world = whole();
    world.say(Kind::Listener, "2", Vec::new());
    assert!(world.snapshot.listeners.is_empty());
    world.say(Kind::Cluster, "2", Vec::new());
    assert_eq!(world.serving(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn absent_endpoints_and_routes_are_never_deleted() {
    let mut world = whole();
    world.endpoints("2", "a", 9);
    assert_eq!(world.serving(), ["a[9]", "b[2]"]);
    world.say(Kind::Endpoint, "3", Vec::new());
    world.say(Kind::Route, "3", Vec::new());
    assert_eq!(world.serving(), ["a[9]", "b[2]"]);
    assert!(world.snapshot.listeners.contains_key("l"));
    assert!(world.engine.is_configured(world.now));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_changes_its_routes_travels_to_them_with_one_answer_a_nonce() {
    let mut world = whole();
    world.listener("2", "other");
    assert_eq!(world.sent(), ["RDS [other r] 1/n5", "LDS [] 2/n6"]);
    world.routes("2", "other");
    // The shorter list is the acknowledgement.
    assert_eq!(world.sent(), ["RDS [other] 2/n7"]);
}

#[tokio::test(start_paused = true)]
async fn a_nack_has_the_last_good_version_and_good_resources_of_the_answer_are_applied() {
    let mut world = whole();
    let mut bad = cluster("a");
    bad.alt_stat_name = "x".to_owned();
    let answer = vec![
        packed(Kind::Cluster, &bad),
        packed(Kind::Cluster, &cluster("c")),
    ];
    world.say(Kind::Cluster, "2", answer);
    assert_eq!(world.sent(), ["EDS [a c] 1/n3", "CDS [] 1/n6 nack"]);
    assert_eq!(
        world.nacks,
        ["Cluster \"a\": alt_stat_name: not supported yet"]
    );
    // The bad one is there, in its last good form; `b` is not.
    assert_eq!(world.serving(), ["a[1]"]);
    world.endpoints("4", "c", 3);
    assert_eq!(world.serving(), ["a[1]", "c[3]"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_deletes_nothing_by_what_seems_to_be_absent() {
    let mut world = whole();
    let garbage = Any {
        type_url: Kind::Cluster.type_url(),
        value: vec![0xff; 8],
    };
    world.say(Kind::Cluster, "2", vec![garbage]);
    assert_eq!(world.sent(), ["CDS [] 1/n6 nack"]);
    assert_eq!(world.serving(), ["a[1]", "b[2]"]);
}

#[tokio::test(start_paused = true)]
async fn unreadable_endpoints_are_refused_and_not_overlooked() {
    let mut world = whole();
    let garbage = Any {
        type_url: Kind::Endpoint.type_url(),
        value: vec![0xff; 8],
    };
    world.say(Kind::Endpoint, "2", vec![garbage]);
    assert_eq!(world.sent(), ["EDS [a b] 1/n6 nack"]);
}

#[tokio::test(start_paused = true)]
async fn a_wrapped_resource_is_unwrapped() {
    let mut world = whole();
    let assignment = assignment("a", &[("10.0.0.1", 5)]);
    let wrapped = Resource {
        name: "a".to_owned(),
        resource: Some(packed(Kind::Endpoint, &assignment)),
        ..Resource::default()
    };
    let wrapped = any("envoy.service.discovery.v3.Resource", &wrapped);
    world.say(Kind::Endpoint, "2", vec![wrapped]);
    assert_eq!(world.serving(), ["a[5]", "b[2]"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_starts_with_the_versions_held_and_no_nonce() {
    let mut world = whole();
    world.engine.disconnected();
    world.connect();
    assert_eq!(
        world.sent(),
        [
            "CDS [] 1/",
            "EDS [a b] 1/",
            "LDS [] 1/",
            "RDS [r] 1/",
            "SDS [ROOTCA] /"
        ]
    );
    assert_eq!(world.serving(), ["a[1]", "b[2]"]);
}

#[tokio::test(start_paused = true)]
async fn a_type_of_which_something_is_not_held_is_asked_for_anew_on_a_new_stream() {
    let mut world = whole();
    world.clusters("2", &["a", "b", "c"]);
    world.engine.disconnected();
    world.sent();
    world.connect();
    // With a version, a server might take `c` for delivered.
    assert_eq!(world.sent()[1], "EDS [a b c] /");
}

#[tokio::test(start_paused = true)]
async fn names_that_are_new_on_a_new_stream_are_asked_for_without_the_version_of_the_old_one() {
    let mut world = whole();
    world.say(Kind::Listener, "2", Vec::new());
    world.engine.disconnected();
    world.sent();
    world.connect();
    world.sent();
    world.listener("3", "other");
    assert_eq!(world.sent(), ["RDS [other] /", "LDS [] 3/n7"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_dropped_and_asked_for_again_under_an_old_nonce_is_asked_for_anew() {
    let mut world = whole();
    world.say(Kind::Listener, "2", Vec::new());
    world.listener("3", "r");
    // The server had said this before it could hear of either.
    world.sent();
    world.say(Kind::Route, "2", Vec::new());
    assert_eq!(world.sent(), ["RDS [] 2/n8", "RDS [r] 2/n8"]);
    world.routes("2", "r");
    assert_eq!(world.sent(), ["RDS [r] 2/n9"]);
    assert!(world.snapshot.listeners.contains_key("l"));
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_does_not_come_is_missing_after_15_s_and_heals_when_it_does() {
    let mut world = World::connected();
    world.clusters("1", &["a"]);
    world.sent();
    world.now += MISSING_AFTER;
    let requests = world.engine.tick(world.now);
    let requests = world.form.requests(requests);
    world.note(requests);
    assert_eq!(world.sent(), ["LDS [] /"]);
    assert_eq!(world.serving(), ["a[]"]);
    world.endpoints("1", "a", 1);
    assert_eq!(world.serving(), ["a[1]"]);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_is_gone_and_comes_back_serves_again() {
    let mut world = whole();
    world.say(Kind::Listener, "2", Vec::new());
    assert_eq!(world.sent(), ["RDS [] 1/n5", "LDS [] 2/n6"]);
    world.listener("3", "r");
    assert_eq!(world.sent(), ["RDS [r] 1/n5", "LDS [] 3/n7"]);
    assert!(world.snapshot.listeners.is_empty());
    world.routes("1", "r");
    assert!(world.snapshot.listeners.contains_key("l"));
}
