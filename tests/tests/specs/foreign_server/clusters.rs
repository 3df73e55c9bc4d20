//! Clusters whose endpoints do not come by EDS.

use outrigger_proto::envoy::{
    config::cluster::v3::cluster::{CustomClusterType, LbPolicy},
    extensions::clusters::aggregate::v3::ClusterConfig as Aggregate,
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_names_is_looked_up_and_served() {
    let app = TestApp::start("v1").await;
    for (form, kind) in FORMS
        .into_iter()
        .zip([DiscoveryType::StrictDns, DiscoveryType::LogicalDns])
    {
        let mut joined = Joined::start(form).await;
        let named = Cluster {
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
            eds_cluster_config: None,
            dns_lookup_family: 1, // V4_ONLY
            load_assignment: Some(assignment("app", "localhost", app.address().port())),
            ..cluster("app")
        };
        joined.clusters("1", "c1", &[named]).await;
        joined
            .stream
            .heard_one(|heard| heard.kind == "Listener")
            .await;
        joined.listener("1", "l1", "r", Vec::new()).await;
        joined.routes("1", "r1", "r", "app").await;
        joined.serves(&app).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_fails_over_to_its_next_cluster() {
    let (near, far) = (TestApp::start("near").await, TestApp::start("far").await);
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        let members = Aggregate {
            clusters: vec!["app".to_owned(), "far".to_owned()],
        };
        let both = Cluster {
            name: "both".to_owned(),
            cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
                name: "envoy.clusters.aggregate".to_owned(),
                typed_config: Some(packed(
                    "envoy.extensions.clusters.aggregate.v3.ClusterConfig",
                    &members,
                )),
            })),
            lb_policy: LbPolicy::ClusterProvided as i32,
            ..Cluster::default()
        };
        let clusters = [both, cluster("app"), cluster("far")];
        joined.clusters("1", "c1", &clusters).await;
        assert_eq!(joined.stream.answer_to("c1").await.error, None);
        let here = [
            ("app", near.address().port()),
            ("far", far.address().port()),
        ];
        let assignments = here.map(|(name, port)| assignment(name, "127.0.0.1", port));
        let named = ["app", "far"].into_iter().zip(&assignments);
        let packed = named.map(|(name, found)| (name, packed(EDS, found)));
        joined
            .stream
            .say(EDS, "1", "e1", packed.collect(), &[])
            .await;
        joined
            .stream
            .heard_one(|heard| heard.kind == "Listener")
            .await;
        joined.listener("1", "l1", "r", Vec::new()).await;
        joined.routes("1", "r1", "r", "both").await;
        joined.serves(&near).await;
        let none = ClusterLoadAssignment {
            cluster_name: "app".to_owned(),
            ..ClusterLoadAssignment::default()
        };
        let resources = vec![("app", super::packed(EDS, &none))];
        joined.stream.say(EDS, "2", "e2", resources, &[]).await;
        joined.serves(&far).await;
        joined.endpoints("3", "e3", &near).await;
        joined.serves(&near).await;
    }
}
