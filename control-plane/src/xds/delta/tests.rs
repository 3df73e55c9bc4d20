use std::time::Duration;

use outrigger_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::super::{
    stream::{Protocol, Refusal},
    subscription::{MAX_ANSWER_BYTES, MAX_NAMES, Verdict},
    testing::{Conversation, brief, reconnect, subscribe},
};
use crate::snapshot::ResourceType::{self, Cluster, Endpoint, Listener, NameTable, Route, Secret};

fn open(resources: &[(ResourceType, &str, &str)]) -> Conversation {
    Conversation::open(Protocol::Delta, resources)
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_first_request_without_names_means_everything_for_clusters_and_listeners() {
    let mut it = open(&[(Cluster, "a", "1"), (Listener, "l", "1"), (Route, "r", "1")]);
    assert_eq!(brief(&it.subscribe(Listener, &[])), ["LDS +l"]);
    assert_eq!(brief(&it.subscribe(Cluster, &[])), ["CDS +a"]);
    assert_eq!(
        brief(&it.subscribe(Route, &[])),
        NOTHING,
        "and for no other type"
    );
}

#[test]
fn a_star_means_everything_for_any_type() {
    let mut it = open(&[(Cluster, "a", "1"), (Secret, "s", "1")]);
    assert_eq!(brief(&it.subscribe(Secret, &["*"])), ["SDS +s"]);
    assert_eq!(brief(&it.subscribe(Cluster, &["*"])), ["CDS +a"]);
}

#[test]
fn a_first_request_without_names_means_all_names_of_hosts() {
    let mut it = open(&[(NameTable, "a", "1"), (NameTable, "b", "1")]);
    assert_eq!(brief(&it.subscribe(NameTable, &[])), ["NDS +a +b"]);
    let mut it = open(&[(NameTable, "a", "1"), (NameTable, "b", "1")]);
    assert_eq!(brief(&it.subscribe(NameTable, &["b"])), ["NDS +b"]);
}

#[test]
fn what_is_made_for_who_asks_is_not_among_everything() {
    let mut it = open(&[(Listener, "l", "1")]);
    it.skip(|mesh| mesh.make(Listener, "v", "1"));
    let first = it.subscribe(Listener, &["*"]);
    assert_eq!(brief(&first), ["LDS +l"]);
    it.settle(first);
    let named = it.subscribe(Listener, &["v", "w"]);
    assert_eq!(brief(&named), ["LDS +v -w"]);
    it.settle(named);
    let changed = it.change(|mesh| {
        mesh.make(Listener, "v", "2");
        mesh.make(Listener, "u", "1");
    });
    assert_eq!(brief(&changed), ["LDS +v"]);
    it.settle(changed);
    let given_up = DeltaDiscoveryRequest {
        type_url: Listener.url().into(),
        resource_names_unsubscribe: vec!["v".into()],
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(brief(&it.delta(&given_up)), ["LDS -v"]);
}

#[test]
fn a_wildcard_on_nothing_is_answered_at_once() {
    let mut it = open(&[]);
    assert_eq!(brief(&it.subscribe(Cluster, &[])), ["CDS"]);
    assert_eq!(brief(&it.subscribe(Listener, &["*"])), ["LDS"]);
}

#[test]
fn a_change_sends_the_changed_only() {
    let mut it = open(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let first = it.subscribe(Cluster, &["*"]);
    it.settle(first);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Cluster, "b", "2"))),
        ["CDS +b"]
    );
}

#[test]
fn a_change_of_what_nobody_asked_for_sends_nothing() {
    let mut it = open(&[(Endpoint, "a", "1"), (Endpoint, "b", "1")]);
    let first = it.subscribe(Endpoint, &["a"]);
    it.settle(first);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Endpoint, "b", "2"))),
        NOTHING
    );
}

#[test]
fn an_absent_name_is_answered_as_removed_at_once_and_sent_when_born() {
    let mut it = open(&[]);
    let first = it.subscribe(Endpoint, &["a"]);
    assert_eq!(brief(&first), ["EDS -a"]);
    assert_eq!(brief(&it.settle(first)), ["EDS -a"], "said once");
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Endpoint, "a", "1"))),
        ["EDS +a"]
    );
}

#[test]
fn a_known_name_subscribed_again_is_answered_with_the_resource() {
    let mut it = open(&[(Endpoint, "a", "1")]);
    let first = it.subscribe(Endpoint, &["a"]);
    it.settle(first);
    assert_eq!(brief(&it.subscribe(Endpoint, &["a"])), ["EDS +a"]);
}

#[test]
fn an_absent_name_subscribed_again_is_answered_again() {
    let mut it = open(&[]);
    let first = it.subscribe(Endpoint, &["a"]);
    it.settle(first);
    assert_eq!(brief(&it.subscribe(Endpoint, &["a"])), ["EDS -a"]);
}

#[test]
fn an_unsubscribed_name_is_neither_sent_nor_removed() {
    let mut it = open(&[(Endpoint, "a", "1")]);
    let first = it.subscribe(Endpoint, &["a"]);
    it.settle(first);
    assert_eq!(brief(&it.unsubscribe(Endpoint, &["a"])), NOTHING);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Endpoint, "a", "2"))),
        NOTHING
    );
    assert_eq!(
        brief(&it.change(|mesh| mesh.remove(Endpoint, "a"))),
        NOTHING
    );
}

#[test]
fn an_unsubscribed_name_that_comes_back_is_sent_unchanged() {
    let mut it = open(&[(Endpoint, "a", "1")]);
    let first = it.subscribe(Endpoint, &["a"]);
    it.settle(first);
    it.unsubscribe(Endpoint, &["a"]);
    assert_eq!(brief(&it.subscribe(Endpoint, &["a"])), ["EDS +a"]);
}

#[test]
fn unsubscribing_a_name_under_a_wildcard_is_answered() {
    let mut it = open(&[(Cluster, "a", "1")]);
    let first = it.subscribe(Cluster, &["*", "a", "b"]);
    it.settle(first);
    let answers = it.unsubscribe(Cluster, &["a", "b"]);
    assert_eq!(brief(&answers), ["CDS +a -b"]);
    it.settle(answers);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Cluster, "b", "1"))),
        ["CDS +b"]
    );
}

#[test]
fn unknown_unsubscriptions_are_ignored() {
    let mut it = open(&[(Cluster, "a", "1")]);
    let first = it.subscribe(Cluster, &["*"]);
    it.settle(first);
    assert_eq!(brief(&it.unsubscribe(Cluster, &["x"])), NOTHING);
}

#[test]
fn a_wildcard_can_be_given_up_and_names_kept() {
    let mut it = open(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let first = it.subscribe(Cluster, &["*", "a"]);
    it.settle(first);
    assert_eq!(brief(&it.unsubscribe(Cluster, &["*"])), NOTHING);
    let changed = it.change(|mesh| {
        mesh.set(Cluster, "a", "2");
        mesh.set(Cluster, "b", "2");
    });
    assert_eq!(brief(&changed), ["CDS +a"]);
}

#[test]
fn a_silent_wildcard_outlives_a_name_beside_it() {
    let mut it = open(&[(Cluster, "a", "1")]);
    let first = it.subscribe(Cluster, &[]);
    it.settle(first);
    let named = it.subscribe(Cluster, &["x"]);
    assert_eq!(brief(&named), ["CDS -x"]);
    it.settle(named);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Cluster, "b", "1"))),
        ["CDS +b"]
    );
}

#[test]
fn a_star_asked_for_again_sends_everything_again() {
    let mut it = open(&[(Cluster, "a", "1")]);
    let first = it.subscribe(Cluster, &["*"]);
    it.settle(first);
    assert_eq!(brief(&it.subscribe(Cluster, &["*"])), ["CDS +a"]);
}

#[test]
fn a_name_said_twice_is_sent_once() {
    let mut it = open(&[(Endpoint, "a", "1")]);
    assert_eq!(brief(&it.subscribe(Endpoint, &["a", "a"])), ["EDS +a"]);
}

#[test]
fn a_removed_resource_is_named() {
    let mut it = open(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let first = it.subscribe(Cluster, &["*"]);
    it.settle(first);
    assert_eq!(
        brief(&it.change(|mesh| mesh.remove(Cluster, "a"))),
        ["CDS -a"]
    );
}

#[test]
fn a_client_that_comes_back_is_sent_what_changed_and_told_what_is_gone() {
    let mut it = open(&[(Endpoint, "same", "1"), (Endpoint, "changed", "2")]);
    let names = ["same", "changed", "gone", "never"];
    let held = [("same", "1"), ("changed", "1"), ("gone", "1")];
    let answers = it.delta(&reconnect(Endpoint, &names, &held));
    assert_eq!(
        brief(&it.settle(answers)),
        ["EDS +changed -never", "EDS -gone"]
    );
}

#[test]
fn a_client_that_comes_back_to_an_unchanged_mesh_is_sent_nothing() {
    let mut it = open(&[(Cluster, "a", "1"), (Endpoint, "a", "1"), (Route, "r", "1")]);
    let everything = it.delta(&reconnect(Cluster, &["*"], &[("a", "1")]));
    assert_eq!(
        brief(&everything),
        ["CDS"],
        "an empty answer: there is no more to wait for"
    );
    assert_eq!(
        brief(&it.delta(&reconnect(Endpoint, &["a"], &[("a", "1")]))),
        NOTHING
    );
    assert_eq!(
        brief(&it.delta(&reconnect(Route, &["r"], &[("r", "1")]))),
        NOTHING
    );
}

#[test]
fn versions_that_a_client_claims_later_than_first_are_not_believed() {
    let mut it = open(&[(Endpoint, "a", "1"), (Endpoint, "b", "1")]);
    let first = it.subscribe(Endpoint, &["a"]);
    it.settle(first);
    assert_eq!(
        brief(&it.delta(&reconnect(Endpoint, &["b"], &[("b", "1")]))),
        ["EDS +b"]
    );
}

#[test]
fn what_a_client_holds_but_does_not_ask_for_is_not_removed() {
    let mut it = open(&[(Endpoint, "a", "1")]);
    assert_eq!(
        brief(&it.delta(&reconnect(Endpoint, &["a"], &[("a", "1"), ("x", "1")]))),
        NOTHING
    );
}

#[test]
fn one_answer_a_type_is_outstanding_and_the_latest_state_follows_once() {
    let mut it = open(&[(Endpoint, "a", "1")]);
    let first = it.subscribe(Endpoint, &["a"]);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Endpoint, "a", "2"))),
        NOTHING
    );
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Endpoint, "a", "3"))),
        NOTHING
    );
    let second = it.ack(&first[0]);
    assert_eq!(brief(&second), ["EDS +a"]);
    assert_eq!(
        *second[0].resources[0].version,
        super::super::testing::version_of("3")
    );
    assert_eq!(brief(&it.ack(&second[0])), NOTHING);
}

#[test]
fn a_change_that_is_taken_back_before_the_ack_is_never_sent() {
    let mut it = open(&[(Endpoint, "a", "1")]);
    let first = it.subscribe(Endpoint, &["a"]);
    it.change(|mesh| mesh.set(Endpoint, "a", "2"));
    it.change(|mesh| mesh.set(Endpoint, "a", "1"));
    assert_eq!(brief(&it.ack(&first[0])), NOTHING);
}

#[test]
fn a_refused_answer_is_not_sent_again_but_the_next_change_is() {
    let mut it = open(&[(Cluster, "a", "bad")]);
    let first = it.subscribe(Cluster, &["*"]);
    assert_eq!(brief(&it.nack(&first[0], "no")), NOTHING);
    let nonce = first[0].nonce.clone();
    assert_eq!(
        it.heard,
        Some(Verdict::Nack {
            nonce,
            words: "no".into()
        })
    );
    assert_eq!(brief(&it.wait(Duration::from_secs(60))), NOTHING);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Cluster, "a", "good"))),
        ["CDS +a"]
    );
}

#[test]
fn an_ack_with_a_foreign_nonce_frees_nothing_but_its_subscription_counts() {
    let mut it = open(&[(Endpoint, "a", "1"), (Endpoint, "b", "1")]);
    let first = it.subscribe(Endpoint, &["a"]);
    let request = DeltaDiscoveryRequest {
        response_nonce: "from-another-stream".into(),
        ..subscribe(Endpoint, &["b"])
    };
    assert_eq!(brief(&it.delta(&request)), NOTHING);
    assert_eq!(it.heard, None);
    assert_eq!(brief(&it.ack(&first[0])), ["EDS +b"]);
}

#[test]
fn nonces_differ_within_a_stream() {
    let mut it = open(&[(Endpoint, "a", "1")]);
    let first = it.subscribe(Endpoint, &["a"]);
    it.settle(first.clone());
    let second = it.change(|mesh| mesh.set(Endpoint, "a", "2"));
    assert_ne!(first[0].nonce, second[0].nonce);
}

#[test]
fn an_answer_that_is_never_acknowledged_does_not_block_its_type_for_ever() {
    let mut it = open(&[(Endpoint, "a", "1")]);
    it.subscribe(Endpoint, &["a"]);
    it.change(|mesh| mesh.set(Endpoint, "a", "2"));
    assert_eq!(brief(&it.wait(Duration::from_secs(29))), NOTHING);
    assert_eq!(it.deadline(), Some(Duration::from_secs(1)));
    assert_eq!(brief(&it.wait(Duration::from_secs(1))), ["EDS +a"]);
}

#[test]
fn a_large_answer_is_split_below_the_limit_of_grpc_clients() {
    let megabyte = "x".repeat(1024 * 1024);
    let names: Vec<_> = (0..9).map(|n| format!("e{n}")).collect();
    let resources: Vec<_> = names
        .iter()
        .map(|name| (Endpoint, name.as_str(), megabyte.as_str()))
        .collect();
    let mut it = open(&resources);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let first = it.subscribe(Endpoint, &names);
    let all = it.settle(first);
    assert_eq!(all.len(), 3);
    for answer in all {
        let bytes = prost::Message::encoded_len(&super::response(answer));
        assert!(bytes < MAX_ANSWER_BYTES, "{bytes}");
    }
}

#[test]
fn types_that_are_not_served_do_not_end_the_stream() {
    let mut it = open(&[]);
    let runtime = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".into(),
        resource_names_subscribe: vec!["rtds".into()],
        ..DeltaDiscoveryRequest::default()
    };
    let answers = it.delta(&runtime);
    assert_eq!(
        brief(&answers),
        ["other -rtds"],
        "so that Envoy does not wait for it"
    );
    assert_eq!(brief(&it.settle(answers)), ["other -rtds"]);
}

#[test]
fn a_client_that_makes_up_types_without_end_is_refused() {
    let mut it = open(&[]);
    let made_up = |n: usize| DeltaDiscoveryRequest {
        type_url: format!("t/{n}"),
        ..DeltaDiscoveryRequest::default()
    };
    for n in 0..16 {
        it.delta(&made_up(n));
    }
    assert_eq!(it.try_delta(&made_up(16)), Err(Refusal::TooManyTypes));
}

#[test]
fn a_client_that_names_things_without_end_is_refused() {
    let mut it = open(&[]);
    let names: Vec<_> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(
        it.try_delta(&subscribe(Endpoint, &names)),
        Err(Refusal::TooManyNames)
    );
}
