//! What is asked for as requests need it.

use outrigger_core::{NoRoute, RequestView, RouteSource};
use outrigger_proto::envoy::config::route::v3::{RouteConfiguration, Vhds, VirtualHost};

use super::*;
use crate::xds::asked::{Answer, FORGET, IDLE, MAX_ABSENT, MAX_PENDING, SWEEP};

const PROXY: &str = "http_proxy";

/// What a request would be led to, from the snapshot.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    To(Vec<String>),
    /// There is no virtual host, but one may be asked for.
    Unknown,
}

impl Story {
    /// On demand, with the HTTP proxy's listener and routes, and nothing that was asked for.
    fn on_demand() -> Self {
        let mut story = Self::with(Engine::new(Node::default(), true).on_demand());
        assert_eq!(story.sent(), ["LDS +*"]);
        story.listener(PROXY, PROXY);
        assert_eq!(story.sent(), ["RDS +http_proxy", "LDS ack 1"]);
        story.growing(PROXY);
        story.sent();
        assert!(story.engine.is_configured(story.now));
        story
    }

    fn growing(&mut self, name: &str) {
        let vhds = Vhds {
            config_source: Some(ads()),
        };
        let table = RouteConfiguration {
            name: name.to_owned(),
            vhds: Some(vhds),
            ..RouteConfiguration::default()
        };
        let resources = vec![resource(Kind::Route, name, "1", &table)];
        self.answer(Kind::Route, resources, &[]);
    }

    fn ask(&mut self, authorities: &[&str]) {
        let names: Vec<String> = authorities.iter().map(|a| format!("{PROXY}/{a}")).collect();
        let requests = self.engine.ask(&names, self.now);
        self.note(requests);
    }

    fn host(&mut self, authority: &str, version: &str, clusters: &[(&str, u32)]) {
        let resource = virtual_host(authority, version, clusters);
        self.answer(Kind::VirtualHost, vec![resource], &[]);
    }

    /// "There is none."
    fn no_host(&mut self, authority: &str) {
        let name = format!("{PROXY}/{authority}");
        let resource = Resource {
            aliases: vec![name.clone()],
            name,
            ..Resource::default()
        };
        self.answer(Kind::VirtualHost, vec![resource], &[]);
    }

    fn answers(&mut self) -> Vec<(String, Answer)> {
        self.engine
            .take_answers()
            .into_iter()
            .map(|(mut name, answer)| (name.split_off(PROXY.len() + 1), answer))
            .collect()
    }

    fn found(&self, authority: &str) -> Found {
        let listener = &self.snapshot.listeners[PROXY];
        let RouteSource::Named(slot) = &listener.chains.only().unwrap().routes else {
            panic!("inline")
        };
        let request = RequestView {
            method: &http::Method::GET,
            authority,
            path_and_query: "/",
            scheme: "http",
            headers: &http::HeaderMap::new(),
        };
        let table = self.snapshot.routes(*slot).unwrap();
        match table.find(&request) {
            Ok((host, route)) => {
                host.uses.as_ref().unwrap().mark();
                let outrigger_core::Action::Forward(choice) = &route.action else {
                    panic!("not forwarded")
                };
                let clusters = choice.clusters.iter();
                Found::To(clusters.map(|c| c.name.to_string()).collect())
            }
            Err(no_route) => {
                assert_eq!(no_route, NoRoute::Host);
                assert!(table.on_demand);
                Found::Unknown
            }
        }
    }

    /// With `reviews` led to `R`.
    fn calling_reviews() -> Self {
        let mut story = Self::on_demand();
        story.ask(&["reviews"]);
        story.host("reviews", "1", &[(R, 1)]);
        story.clusters(&[R]);
        story.endpoints(R, &[1]);
        assert_eq!(story.answers(), [here("reviews")]);
        story.sent();
        story
    }
}

fn here(authority: &str) -> (String, Answer) {
    (authority.to_owned(), Answer::Here)
}

fn virtual_host(authority: &str, version: &str, clusters: &[(&str, u32)]) -> Resource {
    use outrigger_proto::envoy::config::route::v3::{
        RouteAction, WeightedCluster, route::Action, route_action::ClusterSpecifier,
        weighted_cluster::ClusterWeight,
    };
    let weight = |(name, weight): &(&str, u32)| ClusterWeight {
        name: (*name).to_owned(),
        weight: Some(*weight),
        ..ClusterWeight::default()
    };
    let mut route = route_to("x");
    route.action = Some(Action::Route(RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: clusters.iter().map(weight).collect(),
            ..WeightedCluster::default()
        })),
        ..RouteAction::default()
    }));
    let host = VirtualHost {
        name: authority.to_owned(),
        domains: vec![authority.to_owned()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    let name = format!("{PROXY}/{authority}");
    Resource {
        aliases: vec![name.clone()],
        ..resource(Kind::VirtualHost, &name, version, &host)
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_is_asked_for_and_serves_once_its_clusters_are_there() {
    let mut story = Story::on_demand();
    assert_eq!(story.found("reviews"), Found::Unknown);

    story.ask(&["reviews"]);
    assert_eq!(story.sent(), ["VHDS +http_proxy/reviews"]);
    story.host("reviews", "1", &[(R, 90), (Q, 10)]);
    assert_eq!(
        story.sent(),
        [format!("CDS +{Q} +{R}"), "VHDS ack 3".to_owned()]
    );
    story.clusters(&[R, Q]);
    assert_eq!(
        story.sent(),
        [
            format!("EDS +{Q} +{R}"),
            "SDS +ROOTCA".to_owned(),
            "CDS ack 4".to_owned()
        ]
    );
    story.endpoints(R, &[1]);
    assert_eq!(story.found("reviews"), Found::Unknown);
    assert_eq!(story.answers(), []);
    story.endpoints(Q, &[1]);
    assert_eq!(
        story.found("reviews"),
        Found::To(vec![R.to_owned(), Q.to_owned()])
    );
    assert_eq!(story.answers(), [here("reviews")]);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_once_however_many_requests_need_it() {
    let mut story = Story::on_demand();
    story.ask(&["reviews"]);
    story.ask(&["reviews", "ratings"]);
    assert_eq!(
        story.sent(),
        ["VHDS +http_proxy/reviews", "VHDS +http_proxy/ratings"]
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_what_is_here_is_told_at_once() {
    let mut story = Story::calling_reviews();
    story.ask(&["reviews"]);
    assert_eq!(story.answers(), [here("reviews")]);
    assert_eq!(story.sent(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_there_is_not_is_told_and_serves_when_it_is_born() {
    let mut story = Story::on_demand();
    story.ask(&["reviews"]);
    story.no_host("reviews");
    assert_eq!(story.answers(), [("reviews".to_owned(), Answer::Absent)]);
    let status = story
        .engine
        .state(Kind::VirtualHost)
        .status("http_proxy/reviews");
    assert_eq!(status, Some(Status::DoesNotExist));
    story.host("reviews", "1", &[(R, 1)]);
    story.clusters(&[R]);
    story.endpoints(R, &[1]);
    assert_eq!(story.answers(), [here("reviews")]);
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_removed_is_gone_with_what_only_it_led_to() {
    let mut story = Story::calling_reviews();
    story.answer(Kind::VirtualHost, Vec::new(), &["http_proxy/reviews"]);
    assert_eq!(story.found("reviews"), Found::Unknown);
    assert_eq!(story.answers(), [("reviews".to_owned(), Answer::Absent)]);
    assert_eq!(
        story.sent(),
        [
            format!("CDS -{R}"),
            format!("EDS -{R}"),
            "SDS -ROOTCA".to_owned(),
            "VHDS ack 6".to_owned()
        ]
    );
    assert_eq!(story.serving(R), None);
}

#[tokio::test(start_paused = true)]
async fn a_changed_host_serves_as_it_was_until_its_new_clusters_are_there() {
    let mut story = Story::calling_reviews();
    story.host("reviews", "2", &[(Q, 1)]);
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
    // The server counts R as out of use, and removes it before Q has its endpoints.
    story.answer(
        Kind::Cluster,
        vec![resource(Kind::Cluster, Q, "1", &cluster(Q))],
        &[R],
    );
    story.answer(Kind::Endpoint, Vec::new(), &[R]);
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
    assert_eq!(story.serving(R), Some(vec![1]));

    story.endpoints(Q, &[2]);
    assert_eq!(story.found("reviews"), Found::To(vec![Q.to_owned()]));
    assert_eq!(story.serving(R), None);
    assert_eq!(story.serving(Q), Some(vec![2]));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_there_is_not_holds_its_host_back_only_until_that_is_known() {
    let mut story = Story::on_demand();
    story.ask(&["reviews", "ratings"]);
    story.host("reviews", "1", &[(R, 1)]);
    story.answer(Kind::Cluster, Vec::new(), &[R]);
    assert_eq!(story.found("reviews"), Found::Unknown);
    let due = story.engine.deadline().unwrap();
    story.pass(due - story.now);
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
    assert_eq!(story.answers(), [here("reviews")]);

    story.host("ratings", "1", &[(Q, 1)]);
    story.pass(MISSING_AFTER - Duration::from_secs(1));
    assert_eq!(story.found("ratings"), Found::Unknown);
    story.pass(Duration::from_secs(1));
    assert_eq!(story.found("ratings"), Found::To(vec![Q.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_moved_on_meanwhile_costs_nothing() {
    let mut story = Story::calling_reviews();
    story.host("reviews", "2", &[(Q, 1)]);
    // It has neither any more when it hears of Q.
    story.answer(Kind::Cluster, Vec::new(), &[Q, R]);
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
    assert_eq!(story.serving(R), Some(vec![1]));
    story.pass(Duration::from_secs(1));
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
    // What it has moved on to.
    story.host("reviews", "3", &[(CLUSTER, 1)]);
    story.clusters(&[CLUSTER]);
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
    story.endpoints(CLUSTER, &[3]);
    assert_eq!(story.found("reviews"), Found::To(vec![CLUSTER.to_owned()]));
    assert_eq!(story.serving(R), None);

    // Or it still has the cluster, and no longer its endpoints.
    story.host("reviews", "3b", &[(Q, 1)]);
    story.clusters(&[CLUSTER, Q]);
    story.answer(Kind::Endpoint, Vec::new(), &[Q]);
    assert_eq!(story.found("reviews"), Found::To(vec![CLUSTER.to_owned()]));

    // Or it means what it says.
    story.host("reviews", "4", &[(Q, 1)]);
    story.answer(Kind::Cluster, Vec::new(), &[Q]);
    story.pass(MISSING_AFTER);
    assert_eq!(story.found("reviews"), Found::To(vec![Q.to_owned()]));
    assert_eq!(story.serving(Q), None);
}

#[tokio::test(start_paused = true)]
async fn a_word_that_comes_before_that_of_the_route_empties_nothing_for_15_s() {
    for is_cluster in [false, true] {
        let mut story = Story::calling_reviews();
        let kind = [Kind::Endpoint, Kind::Cluster][usize::from(is_cluster)];
        story.answer(kind, Vec::new(), &[R]);
        assert_eq!(story.serving(R), Some(vec![1]));
        story.pass(MISSING_AFTER - Duration::from_millis(1));
        assert_eq!(story.serving(R), Some(vec![1]));
        story.pass(Duration::from_millis(1));
        let expected = (!is_cluster).then(Vec::new);
        assert_eq!(story.serving(R), expected, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_host_is_refused_and_its_last_good_form_serves() {
    let mut story = Story::calling_reviews();
    story.host("reviews", "2", &[]);
    let [nack] = story.nacks.as_slice() else {
        panic!("{:?}", story.nacks)
    };
    assert!(nack.contains("http_proxy/reviews"), "{nack}");
    assert!(nack.contains("weighted_clusters"), "{nack}");
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
    assert_eq!(story.answers(), []);

    story.ask(&["ratings"]);
    story.host("ratings", "1", &[]);
    let answers = story.answers();
    assert!(
        matches!(answers.as_slice(), [(name, Answer::Refused(why))] if name == "ratings" && why.contains("weighted_clusters")),
        "{answers:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_begins_with_the_names_and_what_is_held_of_them() {
    let mut story = Story::calling_reviews();
    story.ask(&["ratings"]);
    story.no_host("ratings");
    story.engine.disconnected();
    // Asked for while nobody could be asked.
    story.ask(&["details"]);
    story.sent();
    let requests = story.connect();
    assert_eq!(
        story.sent(),
        [
            format!("CDS +{R}"),
            format!("EDS +{R}"),
            "LDS +*".to_owned(),
            "RDS +http_proxy".to_owned(),
            "VHDS +http_proxy/details +http_proxy/ratings +http_proxy/reviews".to_owned(),
            "SDS +ROOTCA".to_owned(),
        ]
    );
    let held: Vec<_> = requests
        .iter()
        .map(|request| request.initial_resource_versions.len())
        .collect();
    assert_eq!(held, [1, 1, 1, 1, 1, 0]);
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn what_no_request_uses_is_given_back_and_what_one_uses_is_not() {
    let mut story = Story::calling_reviews();
    story.ask(&["ratings"]);
    story.host("ratings", "1", &[(Q, 1)]);
    story.clusters(&[R, Q]);
    story.endpoints(Q, &[1]);
    story.answers();
    story.sent();
    let mut passed = Duration::ZERO;
    while passed < IDLE {
        story.pass(SWEEP);
        passed += SWEEP;
        assert_ne!(story.found("reviews"), Found::Unknown);
    }
    assert_eq!(story.found("ratings"), Found::Unknown);
    assert_eq!(story.answers(), [("ratings".to_owned(), Answer::Forgotten)]);
    assert_eq!(
        story.sent(),
        [
            format!("CDS -{Q}"),
            format!("EDS -{Q}"),
            "VHDS -http_proxy/ratings".to_owned()
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_back_while_nobody_could_be_asked_again() {
    let mut story = Story::calling_reviews();
    story.engine.disconnected();
    story.pass(IDLE * 2);
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_counts_as_use() {
    let mut story = Story::calling_reviews();
    let (_, cluster) = story.snapshot.clusters().next().unwrap();
    let request = cluster.limits.requests.try_acquire(false).unwrap();
    for _ in 0..2 * IDLE.as_secs() / SWEEP.as_secs() {
        story.pass(SWEEP);
    }
    assert_ne!(story.found("reviews"), Found::Unknown);
    drop(request);
    for _ in 0..2 * IDLE.as_secs() / SWEEP.as_secs() {
        story.pass(SWEEP);
    }
    assert_eq!(story.found("reviews"), Found::Unknown);
}

#[tokio::test(start_paused = true)]
async fn names_of_strangers_are_bounded_and_the_oldest_are_given_back() {
    let mut story = Story::calling_reviews();
    let names: Vec<String> = (0..10_000).map(|n| format!("nobody-{n}")).collect();
    for name in &names {
        story.now += Duration::from_millis(1);
        story.ask(&[name]);
        story.no_host(name);
    }
    assert_eq!(story.engine.asked(), [1, MAX_ABSENT, 0]);
    let state = story.engine.state(Kind::VirtualHost);
    assert_eq!(state.entries().len(), MAX_ABSENT + 1);
    assert_eq!(state.status("http_proxy/nobody-0"), None);
    assert!(state.wants("http_proxy/nobody-9999"));
    assert_ne!(story.found("reviews"), Found::Unknown);

    story.pass(FORGET);
    story.pass(SWEEP);
    assert_eq!(story.engine.asked(), [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn names_without_an_answer_are_bounded_too() {
    let mut story = Story::on_demand();
    for number in 0..2 * MAX_PENDING {
        story.ask(&[&format!("nobody-{number}")]);
    }
    assert_eq!(story.engine.asked(), [0, 0, MAX_PENDING]);
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_is_pinned_comes_as_a_whole_and_is_complete_with_its_clusters() {
    let mut story = Story::with(Engine::new(Node::default(), true).on_demand());
    story.listener(PROXY, PROXY);
    story.routes(PROXY, R);
    assert!(!story.engine.is_configured(story.now));
    assert_eq!(story.listeners(), [""; 0]);
    story.clusters(&[R]);
    assert!(!story.engine.is_configured(story.now));
    story.endpoints(R, &[1]);
    assert_eq!(story.listeners(), [PROXY]);
    story.pass(Duration::ZERO);
    assert!(story.engine.is_configured(story.now));
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_becomes_pinned_takes_over_when_it_is_complete() {
    let mut story = Story::calling_reviews();
    story.routes(PROXY, Q);
    assert_eq!(story.found("reviews"), Found::To(vec![R.to_owned()]));
    story.clusters(&[R, Q]);
    story.endpoints(Q, &[1]);
    let listener = &story.snapshot.listeners[PROXY];
    let RouteSource::Named(slot) = &listener.chains.only().unwrap().routes else {
        panic!("inline")
    };
    assert!(!story.snapshot.routes(*slot).unwrap().on_demand);
    story.pass(Duration::ZERO);
    assert_eq!(story.engine.asked(), [0, 0, 0]);
    assert_eq!(story.serving(R), None);
    assert_eq!(story.serving(Q), Some(vec![1]));
}

#[tokio::test(start_paused = true)]
async fn other_peoples_hosts_have_names_of_their_own_and_are_found_by_their_aliases() {
    let mut story = Story::on_demand();
    story.ask(&["reviews", "reviews:9080"]);
    let mut resource = virtual_host("reviews", "1", &[(R, 1)]);
    resource.name = "http_proxy/all-of-reviews".to_owned();
    resource.aliases.push("http_proxy/reviews:9080".to_owned());
    let host = VirtualHost {
        name: "all-of-reviews".to_owned(),
        domains: vec!["reviews".to_owned(), "reviews:9080".to_owned()],
        routes: vec![route_to(R)],
        ..VirtualHost::default()
    };
    resource.resource = Some(any(Kind::VirtualHost.message(), &host));
    story.answer(Kind::VirtualHost, vec![resource], &[]);
    story.clusters(&[R]);
    story.endpoints(R, &[1]);
    assert_eq!(story.answers(), [here("reviews"), here("reviews:9080")]);
    assert_eq!(story.found("reviews:9080"), Found::To(vec![R.to_owned()]));

    story.answer(
        Kind::VirtualHost,
        Vec::new(),
        &["http_proxy/all-of-reviews"],
    );
    assert_eq!(story.found("reviews"), Found::Unknown);
    assert_eq!(story.found("reviews:9080"), Found::Unknown);
}

#[tokio::test(start_paused = true)]
async fn hosts_come_on_demand_to_a_client_of_all_clusters_too() {
    let mut story = Story::connected();
    story.clusters(&[R]);
    story.endpoints(R, &[1]);
    story.listener(PROXY, PROXY);
    story.growing(PROXY);
    story.sent();
    story.ask(&["reviews"]);
    assert_eq!(story.sent(), ["VHDS +http_proxy/reviews"]);
    story.host("reviews", "1", &[(R, 1)]);
    assert_eq!(story.sent(), ["VHDS ack 5"]);
    assert_eq!(story.answers(), [here("reviews")]);
}

#[tokio::test(start_paused = true)]
async fn the_state_of_the_world_has_no_hosts_on_demand() {
    let mut story = Story::with(Engine::new(Node::default(), true).whole());
    story.clusters(&[R]);
    story.endpoints(R, &[1]);
    story.listener(PROXY, PROXY);
    story.growing(PROXY);
    let [nack] = story.nacks.as_slice() else {
        panic!("{:?}", story.nacks)
    };
    assert!(
        nack.contains("vhds: virtual hosts on demand need"),
        "{nack}"
    );
}
