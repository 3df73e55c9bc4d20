//! Clusters of names, and routes that must lead somewhere.

use std::net::IpAddr;

use outrigger_proto::envoy::config::{
    cluster::v3::{
        Cluster,
        cluster::{ClusterDiscoveryType, DiscoveryType},
    },
    core::v3::HealthStatus,
};

use super::*;

fn of_names(kind: DiscoveryType, host: &str) -> Cluster {
    let mut assignment = assignment("named", &[(host, 80)]);
    for endpoint in assignment
        .endpoints
        .iter_mut()
        .flat_map(|l| &mut l.lb_endpoints)
    {
        endpoint.metadata = None;
        endpoint.health_status = HealthStatus::Unknown as i32;
    }
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        eds_cluster_config: None,
        load_assignment: Some(assignment),
        transport_socket_matches: Vec::new(),
        ..cluster("named")
    }
}

fn say(story: &mut Story, cluster: &Cluster) {
    let resource = resource(Kind::Cluster, "named", "1", cluster);
    story.answer(Kind::Cluster, vec![resource], &[]);
}

#[tokio::test(start_paused = true)]
async fn listeners_are_asked_for_once_the_names_of_clusters_were_looked_up() {
    let mut story = Story::connected();
    say(
        &mut story,
        &of_names(DiscoveryType::StrictDns, "db.example"),
    );
    assert_eq!(story.sent(), ["CDS +*", "CDS ack 1"]);
    assert_eq!(story.serving("named"), None);
    assert_eq!(story.engine.due_names(story.now, 8), ["db.example"]);
    let found = vec![IpAddr::from([10, 0, 0, 9])];
    story.engine.name_found("db.example", Ok(found), story.now);
    story.pass(Duration::ZERO);
    assert_eq!(story.sent(), ["LDS +*"]);
    assert_eq!(story.serving("named"), Some(vec![80]));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_knows_leaves_its_cluster_without_endpoints_and_heals() {
    let mut story = Story::connected();
    say(
        &mut story,
        &of_names(DiscoveryType::LogicalDns, "db.example"),
    );
    story.engine.due_names(story.now, 8);
    story
        .engine
        .name_found("db.example", Err("unknown".to_owned()), story.now);
    story.pass(Duration::from_secs(5));
    assert_eq!(story.serving("named"), Some(vec![]));
    assert_eq!(story.engine.due_names(story.now, 8), ["db.example"]);
    let found = vec![IpAddr::from([10, 0, 0, 9]), IpAddr::from([10, 0, 0, 8])];
    story.engine.name_found("db.example", Ok(found), story.now);
    story.pass(Duration::ZERO);
    assert_eq!(story.serving("named"), Some(vec![80]));
}

#[tokio::test(start_paused = true)]
async fn a_removed_clusters_name_is_looked_up_no_more() {
    let mut story = Story::connected();
    say(
        &mut story,
        &of_names(DiscoveryType::StrictDns, "db.example"),
    );
    story.answer(Kind::Cluster, Vec::new(), &["named"]);
    assert_eq!(story.engine.due_names(story.now, 8), [""; 0]);
    assert_eq!(story.engine.next_name_due(story.now), None);
}

#[tokio::test(start_paused = true)]
async fn an_address_in_a_cluster_of_names_needs_no_look_up() {
    let mut story = Story::connected();
    say(&mut story, &of_names(DiscoveryType::StrictDns, "10.0.0.7"));
    assert_eq!(story.engine.due_names(story.now, 8), [""; 0]);
    assert_eq!(story.serving("named"), Some(vec![80]));
}

#[tokio::test(start_paused = true)]
async fn discovery_that_is_not_supported_is_refused_by_name() {
    let no_name = of_names(DiscoveryType::StrictDns, "what is this");
    let original = of_names(DiscoveryType::OriginalDst, "10.0.0.7");
    let mut custom = of_names(DiscoveryType::Static, "10.0.0.7");
    custom.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(
        outrigger_proto::envoy::config::cluster::v3::cluster::CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
            typed_config: None,
        },
    ));
    let mut refresh = of_names(DiscoveryType::Static, "10.0.0.7");
    refresh.dns_refresh_rate = Some(seconds(5));
    for (cluster, expected) in [
        (
            no_name,
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address",
        ),
        (
            original,
            "load_assignment: has no effect on a cluster of type ORIGINAL_DST",
        ),
        (
            custom,
            "cluster_type.name: \"envoy.clusters.dynamic_forward_proxy\" is not supported yet",
        ),
        (refresh, "dns_refresh_rate: has an effect on"),
    ] {
        let mut story = Story::connected();
        say(&mut story, &cluster);
        let nack = story.nacks.pop().unwrap();
        let expected = format!("Cluster \"named\": {expected}");
        assert!(nack.starts_with(&expected), "{nack} instead of {expected}");
    }
}

#[tokio::test(start_paused = true)]
async fn routes_that_want_their_clusters_validated_are_refused_if_one_is_missing() {
    let mut story = complete();
    let strict = |cluster: &str| {
        let mut strict = routes("9080", cluster);
        strict.validate_clusters = Some(true);
        vec![resource(Kind::Route, "9080", "2", &strict)]
    };
    story.answer(Kind::Route, strict("nobody"), &[]);
    assert_eq!(
        story.nacks,
        [
            "RouteConfiguration \"9080\": validate_clusters: a route leads to cluster \"nobody\", which is not there"
        ]
    );
    story.answer(Kind::Route, strict(R), &[]);
    assert_eq!(story.nacks.len(), 1);
}

/// As control planes write it for a failover between clusters.
fn aggregate(members: &[&str]) -> Cluster {
    use outrigger_proto::envoy::{
        config::cluster::v3::cluster::{CustomClusterType, LbPolicy},
        extensions::clusters::aggregate::v3::ClusterConfig,
    };
    let members = ClusterConfig {
        clusters: members.iter().map(|name| (*name).to_owned()).collect(),
    };
    let name = "envoy.extensions.clusters.aggregate.v3.ClusterConfig";
    Cluster {
        name: "all".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: "envoy.clusters.aggregate".to_owned(),
            typed_config: Some(any(name, &members)),
        })),
        connect_timeout: Some(seconds(1)),
        lb_policy: LbPolicy::ClusterProvided as i32,
        ..Cluster::default()
    }
}

#[tokio::test(start_paused = true)]
async fn an_aggregate_serves_by_its_members_whenever_they_come_and_needs_no_endpoints_of_its_own() {
    let mut story = Story::connected();
    let all = resource(Kind::Cluster, "all", "1", &aggregate(&["later", R, Q]));
    story.answer(Kind::Cluster, vec![all], &[]);
    let (slot, _) = story.snapshot.clusters().next().unwrap();
    let serving = |story: &Story| {
        let now = || outrigger_core::Moment(1);
        let rng = &mut fastrand::Rng::with_seed(5);
        let (_, cluster) = story.snapshot.serving(slot, now, rng).unwrap();
        cluster.config.name.clone()
    };
    assert_eq!(serving(&story), "all");
    story.clusters(&[R, Q]);
    story.endpoints(R, &[80]);
    story.endpoints(Q, &[80]);
    assert_eq!(serving(&story), R);
    story.answer(Kind::Cluster, Vec::new(), &[R]);
    assert_eq!(serving(&story), Q);
    assert_eq!(story.nacks, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_effect_on_an_aggregate_is_refused_by_name() {
    let mut own_policy = aggregate(&[R]);
    own_policy.lb_policy = 1;
    let mut ejecting = aggregate(&[R]);
    ejecting.outlier_detection =
        Some(outrigger_proto::envoy::config::cluster::v3::OutlierDetection::default());
    for (cluster, expected) in [
        (
            aggregate(&[]),
            "cluster_type.typed_config.clusters: is empty",
        ),
        (own_policy, "lb_policy: must be CLUSTER_PROVIDED"),
        (ejecting, "outlier_detection: has no effect on an aggregate"),
    ] {
        let mut story = Story::connected();
        story.answer(
            Kind::Cluster,
            vec![resource(Kind::Cluster, "all", "1", &cluster)],
            &[],
        );
        let nack = story.nacks.pop().unwrap();
        assert!(
            nack.starts_with(&format!("Cluster \"all\": {expected}")),
            "{nack}"
        );
    }
}
