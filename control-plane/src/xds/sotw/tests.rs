use std::time::Duration;

use outrigger_proto::{envoy::service::discovery::v3::DiscoveryRequest, google::rpc::Status};

use super::super::{
    stream::Protocol,
    subscription::{MAX_ANSWER_BYTES, Verdict},
    testing::{Conversation, brief, list},
};
use crate::snapshot::ResourceType::{self, Cluster, Endpoint, Listener, NameTable, Route};

fn open(resources: &[(ResourceType, &str, &str)]) -> Conversation {
    Conversation::open(Protocol::Sotw, resources)
}

const NOTHING: [&str; 0] = [];

#[test]
fn no_names_ever_means_everything_for_clusters_and_listeners() {
    let mut it = open(&[(Cluster, "a", "1"), (Listener, "l", "1"), (Route, "r", "1")]);
    assert_eq!(brief(&it.list(Listener, &[], None)), ["LDS +l"]);
    assert_eq!(brief(&it.list(Cluster, &[], None)), ["CDS +a"]);
    assert_eq!(brief(&it.list(Route, &[], None)), NOTHING);
}

#[test]
fn all_names_of_hosts_are_one_resource() {
    let mut it = open(&[(NameTable, "", "all"), (NameTable, "a", "1")]);
    let first = it.list(NameTable, &[], None);
    assert_eq!(first[0].resources.len(), 1);
    assert_eq!(&*first[0].resources[0].name, "");
    assert_eq!(brief(&it.list(NameTable, &[], Some(&first[0]))), NOTHING);
    let changed = it.change(|mesh| mesh.set(NameTable, "", "more"));
    assert_eq!(changed[0].resources.len(), 1);
    let mut it = open(&[(NameTable, "", "all"), (NameTable, "a", "1")]);
    assert_eq!(brief(&it.list(NameTable, &["a"], None)), ["NDS +a"]);
}

#[test]
fn after_a_name_an_empty_list_means_nothing() {
    let mut it = open(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let first = it.list(Cluster, &["a"], None);
    assert_eq!(brief(&first), ["CDS +a"]);
    assert_eq!(brief(&it.list(Cluster, &[], Some(&first[0]))), NOTHING);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Cluster, "a", "2"))),
        NOTHING
    );
    assert_eq!(
        brief(&it.list(Cluster, &["*"], None)),
        ["CDS +a +b"],
        "a star is explicit"
    );
}

#[test]
fn names_and_star_may_be_mixed() {
    let mut it = open(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let first = it.list(Cluster, &["*", "a"], None);
    assert_eq!(brief(&first), ["CDS +a +b"]);
    assert_eq!(brief(&it.list(Cluster, &["a"], Some(&first[0]))), NOTHING);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Cluster, "b", "2"))),
        NOTHING
    );
}

#[test]
fn clusters_and_listeners_are_always_sent_as_the_full_set() {
    let mut it = open(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let first = it.list(Cluster, &[], None);
    it.list(Cluster, &[], Some(&first[0]));
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Cluster, "b", "2"))),
        ["CDS +a +b"]
    );
}

#[test]
fn the_last_one_to_go_leaves_an_empty_answer() {
    let mut it = open(&[(Cluster, "a", "1")]);
    let first = it.list(Cluster, &[], None);
    it.list(Cluster, &[], Some(&first[0]));
    assert_eq!(brief(&it.change(|mesh| mesh.remove(Cluster, "a"))), ["CDS"]);
}

#[test]
fn an_empty_first_answer_is_sent() {
    let mut it = open(&[]);
    assert_eq!(brief(&it.list(Cluster, &[], None)), ["CDS"]);
    assert_eq!(brief(&it.list(Listener, &["x"], None)), ["LDS"]);
}

#[test]
fn endpoints_and_routes_are_sent_as_far_as_they_changed() {
    let mut it = open(&[(Endpoint, "a", "1"), (Endpoint, "b", "1")]);
    let first = it.list(Endpoint, &["a", "b"], None);
    assert_eq!(brief(&first), ["EDS +a +b"]);
    it.list(Endpoint, &["a", "b"], Some(&first[0]));
    let second = it.change(|mesh| mesh.set(Endpoint, "b", "2"));
    assert_eq!(brief(&second), ["EDS +b"]);
    it.list(Endpoint, &["a", "b"], Some(&second[0]));
    assert_eq!(
        brief(&it.change(|mesh| mesh.remove(Endpoint, "a"))),
        NOTHING,
        "no way to say it"
    );
}

#[test]
fn an_absent_endpoint_is_sent_when_born() {
    let mut it = open(&[]);
    assert_eq!(brief(&it.list(Endpoint, &["a"], None)), NOTHING);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Endpoint, "a", "1"))),
        ["EDS +a"]
    );
}

#[test]
fn a_name_that_comes_back_is_sent_again() {
    let mut it = open(&[(Endpoint, "a", "1"), (Endpoint, "b", "1")]);
    let first = it.list(Endpoint, &["a", "b"], None);
    it.list(Endpoint, &["a"], Some(&first[0]));
    assert_eq!(
        brief(&it.list(Endpoint, &["a", "b"], Some(&first[0]))),
        ["EDS +b"]
    );
}

#[test]
fn a_longer_list_of_clusters_by_name_is_answered_in_full() {
    let mut it = open(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let first = it.list(Cluster, &["a"], None);
    assert_eq!(
        brief(&it.list(Cluster, &["a", "b"], Some(&first[0]))),
        ["CDS +a +b"]
    );
}

#[test]
fn an_empty_nonce_after_the_first_request_is_not_stale() {
    let mut it = open(&[(Endpoint, "a", "1"), (Endpoint, "b", "1")]);
    let first = it.list(Endpoint, &["a"], None);
    assert_eq!(
        brief(&it.list(Endpoint, &["a", "b"], None)),
        NOTHING,
        "one answer at a time"
    );
    assert_eq!(
        brief(&it.list(Endpoint, &["a", "b"], Some(&first[0]))),
        ["EDS +b"]
    );
}

#[test]
fn a_stale_request_changes_nothing() {
    let mut it = open(&[(Endpoint, "a", "1"), (Endpoint, "b", "1")]);
    let first = it.list(Endpoint, &["a"], None);
    it.list(Endpoint, &["a"], Some(&first[0]));
    let second = it.change(|mesh| mesh.set(Endpoint, "a", "2"));
    assert_eq!(
        brief(&it.list(Endpoint, &["a", "b"], Some(&first[0]))),
        NOTHING
    );
    assert_eq!(it.heard, None);
    assert_eq!(
        brief(&it.list(Endpoint, &["a", "b"], Some(&second[0]))),
        ["EDS +b"]
    );
}

#[test]
fn a_name_that_was_gone_in_a_stale_request_is_sent_again_when_it_is_back() {
    let mut it = open(&[(Route, "a", "1"), (Route, "b", "1")]);
    let first = it.list(Route, &["a", "b"], None);
    it.list(Route, &["a", "b"], Some(&first[0]));
    let second = it.change(|mesh| mesh.set(Route, "b", "2"));
    // Before it has read the second.
    assert_eq!(brief(&it.list(Route, &["b"], Some(&first[0]))), NOTHING);
    assert_eq!(
        brief(&it.list(Route, &["a", "b"], Some(&first[0]))),
        NOTHING
    );
    let after = it.list(Route, &["a", "b"], Some(&second[0]));
    assert_eq!(brief(&after), ["RDS +a"]);
}

#[test]
fn a_refusal_is_known_by_its_error_whatever_its_version() {
    for new_version in [false, true] {
        let mut it = open(&[(Cluster, "a", "bad")]);
        let first = it.list(Cluster, &[], None);
        let version = if new_version {
            first[0].version.clone()
        } else {
            String::new()
        };
        let nack = DiscoveryRequest {
            version_info: version,
            error_detail: Some(Status {
                message: "no".into(),
                ..Status::default()
            }),
            ..list(Cluster, &[], Some(&first[0]))
        };
        assert_eq!(brief(&it.sotw(&nack)), NOTHING);
        assert!(matches!(it.heard, Some(Verdict::Nack { .. })));
        assert_eq!(brief(&it.wait(Duration::from_secs(60))), NOTHING);
        assert_eq!(
            brief(&it.change(|mesh| mesh.set(Cluster, "a", "good"))),
            ["CDS +a"]
        );
    }
}

#[test]
fn versions_belong_to_the_set_and_not_to_the_stream() {
    let resources = [(Endpoint, "a", "1"), (Endpoint, "b", "1")];
    let version = || {
        let mut it = open(&resources);
        it.list(Endpoint, &["a", "b"], None)[0].version.clone()
    };
    assert_eq!(version(), version());
    let mut other = open(&[(Endpoint, "a", "1"), (Endpoint, "b", "2")]);
    assert_ne!(
        other.list(Endpoint, &["a", "b"], None)[0].version,
        version()
    );
}

#[test]
fn a_client_that_comes_back_is_sent_everything_even_if_its_version_is_the_latest() {
    let resources = [(Endpoint, "a", "1")];
    let mut before = open(&resources);
    let held = before.list(Endpoint, &["a"], None);
    let mut after = open(&resources);
    let request = DiscoveryRequest {
        version_info: held[0].version.clone(),
        ..list(Endpoint, &["a"], None)
    };
    assert_eq!(brief(&after.sotw(&request)), ["EDS +a"]);
}

#[test]
fn a_large_assignment_list_is_split_below_the_limit_of_grpc_clients() {
    let megabyte = "x".repeat(1024 * 1024);
    let names: Vec<_> = (0..9).map(|n| format!("e{n}")).collect();
    let resources: Vec<_> = names
        .iter()
        .map(|name| (Endpoint, name.as_str(), megabyte.as_str()))
        .collect();
    let mut it = open(&resources);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut answers = it.list(Endpoint, &names, None);
    let mut seen = 0;
    while let Some(answer) = answers.pop() {
        seen += answer.resources.len();
        answers = it.list(Endpoint, &names, Some(&answer));
        let bytes = prost::Message::encoded_len(&super::response(answer));
        assert!(bytes < MAX_ANSWER_BYTES, "{bytes}");
    }
    assert_eq!(seen, 9);
}

#[test]
fn a_cluster_that_goes_stays_in_the_set_until_the_new_routes_are_taken() {
    let mut it = open(&[(Cluster, "old", "1"), (Route, "r", "to old")]);
    let clusters = it.list(Cluster, &[], None);
    it.list(Cluster, &[], Some(&clusters[0]));
    let routes = it.list(Route, &["r"], None);
    it.list(Route, &["r"], Some(&routes[0]));
    let make = it.change(|mesh| {
        mesh.remove(Cluster, "old");
        mesh.set(Cluster, "new", "1");
        mesh.set(Route, "r", "to new");
    });
    assert_eq!(brief(&make), ["CDS +new +old"]);
    let switch = it.list(Cluster, &[], Some(&make[0]));
    assert_eq!(brief(&switch), ["RDS +r"]);
    assert_eq!(
        brief(&it.list(Route, &["r"], Some(&switch[0]))),
        ["CDS +new"]
    );
}

#[test]
fn types_that_are_not_served_are_tolerated() {
    let mut it = open(&[]);
    let runtime = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".into(),
        resource_names: vec!["rtds".into()],
        ..DiscoveryRequest::default()
    };
    assert_eq!(brief(&it.sotw(&runtime)), NOTHING);
}
