mod property;

use std::time::Duration;

use outrigger_proto::envoy::service::discovery::v3::DiscoveryRequest;

use super::{
    super::{
        subscription::{Answer, Verdict},
        testing::{Conversation, brief, list, reconnect, subscribe},
        together::Others,
    },
    Protocol, Refusal,
};
use crate::snapshot::ResourceType::{self, Cluster, Endpoint, Listener, Route};

fn open(resources: &[(ResourceType, &str, &str)]) -> Conversation {
    Conversation::open(Protocol::Delta, resources)
}

/// A client that has `old` and routes to it.
fn settled() -> Conversation {
    let mut it = open(&[
        (Cluster, "old", "1"),
        (Endpoint, "old", "1"),
        (Listener, "l", "1"),
        (Route, "r", "to old"),
    ]);
    for (kind, names) in [
        (Cluster, "*"),
        (Endpoint, "old"),
        (Listener, "*"),
        (Route, "r"),
    ] {
        let answers = it.subscribe(kind, &[names]);
        it.settle(answers);
    }
    it
}

const NOTHING: [&str; 0] = [];

#[test]
fn new_clusters_go_before_new_routes_and_these_before_removals() {
    let mut it = settled();
    let make = it.change(|mesh| {
        mesh.set(Cluster, "new", "1");
        mesh.set(Endpoint, "new", "1");
        mesh.set(Route, "r", "to new");
        mesh.remove(Cluster, "old");
        mesh.remove(Endpoint, "old");
    });
    assert_eq!(brief(&make), ["CDS +new"]);
    assert_eq!(
        brief(&it.ack(&make[0])),
        NOTHING,
        "the endpoints are not there yet"
    );
    let endpoints = it.subscribe(Endpoint, &["new"]);
    assert_eq!(brief(&endpoints), ["EDS +new"]);
    let switch = it.ack(&endpoints[0]);
    assert_eq!(brief(&switch), ["RDS +r"]);
    assert_eq!(brief(&it.ack(&switch[0])), ["CDS -old", "EDS -old"]);
}

#[test]
fn new_endpoints_alone_go_in_one_step() {
    let mut it = settled();
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Endpoint, "old", "2"))),
        ["EDS +old"]
    );
}

#[test]
fn new_weights_alone_go_in_one_step() {
    let mut it = settled();
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Route, "r", "90 to old"))),
        ["RDS +r"]
    );
}

#[test]
fn endpoints_are_sent_again_after_their_cluster_changed() {
    let mut it = settled();
    let answers = it.change(|mesh| mesh.set(Cluster, "old", "2"));
    assert_eq!(brief(&answers), ["CDS +old", "EDS +old"]);
}

#[test]
fn endpoints_of_a_cluster_that_changed_while_the_client_was_away_are_sent_again() {
    let mut it = open(&[
        (Cluster, "a", "2"),
        (Endpoint, "a", "1"),
        (Endpoint, "b", "1"),
    ]);
    it.delta(&reconnect(Cluster, &["*"], &[("a", "1")]));
    let endpoints = it.delta(&reconnect(Endpoint, &["a", "b"], &[("a", "1"), ("b", "1")]));
    assert_eq!(brief(&endpoints), ["EDS +a"]);
}

#[test]
fn an_ack_that_does_not_come_holds_the_routes_for_a_second_only() {
    let mut it = settled();
    let make = it.change(|mesh| {
        mesh.set(Cluster, "old", "2");
        mesh.set(Route, "r", "2");
        mesh.remove(Listener, "l");
    });
    assert_eq!(brief(&make), ["CDS +old", "EDS +old"]);
    assert_eq!(it.deadline(), Some(Duration::from_secs(1)));
    assert_eq!(brief(&it.wait(Duration::from_millis(999))), NOTHING);
    assert_eq!(brief(&it.wait(Duration::from_millis(1))), ["RDS +r"]);
    assert_eq!(brief(&it.wait(Duration::from_secs(1))), ["LDS -l"]);
    assert_eq!(it.deadline(), None);
}

#[test]
fn a_new_cluster_behind_an_ack_that_does_not_come_goes_before_its_routes() {
    let mut it = settled();
    let slow = it.change(|mesh| {
        mesh.set(Cluster, "old", "2");
        mesh.set(Endpoint, "old", "2");
    });
    assert_eq!(brief(&slow), ["CDS +old", "EDS +old"]);
    assert_eq!(brief(&it.wait(Duration::from_secs(2))), NOTHING);
    let queued = it.change(|mesh| {
        mesh.set(Cluster, "new", "1");
        mesh.set(Endpoint, "new", "1");
        mesh.set(Route, "r", "to new");
    });
    assert_eq!(brief(&queued), NOTHING);
    assert_eq!(brief(&it.wait(Duration::from_secs(2))), NOTHING);
    let make = it.ack(&slow[0]);
    assert_eq!(brief(&make), ["CDS +new"]);
    assert_eq!(brief(&it.subscribe(Endpoint, &["new"])), NOTHING);
    assert_eq!(brief(&it.ack(&make[0])), NOTHING);
    assert_eq!(
        brief(&it.wait(Duration::from_secs(2))),
        NOTHING,
        "the endpoints are not sent yet"
    );
    let endpoints = it.ack(&slow[1]);
    assert_eq!(brief(&endpoints), ["EDS +new"]);
    assert_eq!(brief(&it.ack(&endpoints[0])), ["RDS +r"]);
}

#[test]
fn a_new_cluster_goes_before_its_routes_while_endpoints_change_all_the_time() {
    let mut it = settled();
    let mut answers = it.change(|mesh| mesh.set(Endpoint, "old", "2"));
    for content in ["3", "4", "5"] {
        it.skip(|mesh| mesh.set(Endpoint, "old", content));
        assert_eq!(brief(&it.wait(Duration::from_millis(500))), NOTHING);
        answers = it.ack(&answers[0]);
        assert_eq!(brief(&answers), ["EDS +old"]);
    }
    it.skip(|mesh| {
        mesh.set(Endpoint, "old", "6");
        mesh.set(Cluster, "new", "1");
        mesh.set(Endpoint, "new", "1");
        mesh.set(Route, "r", "to new");
    });
    let make = it.ack(&answers[0]);
    assert_eq!(brief(&make), ["CDS +new", "EDS +old"]);
    assert_eq!(brief(&it.ack(&make[0])), NOTHING);
    assert_eq!(brief(&it.subscribe(Endpoint, &["new"])), NOTHING);
    let endpoints = it.ack(&make[1]);
    assert_eq!(brief(&endpoints), ["EDS +new"]);
    assert_eq!(brief(&it.ack(&endpoints[0])), ["RDS +r"]);
}

#[test]
fn nothing_is_taken_away_before_routes_that_wait_behind_an_ack() {
    let mut it = settled();
    let slow = it.change(|mesh| mesh.set(Route, "r", "2"));
    assert_eq!(brief(&slow), ["RDS +r"]);
    assert_eq!(brief(&it.wait(Duration::from_secs(2))), NOTHING);
    let queued = it.change(|mesh| {
        mesh.set(Route, "r", "elsewhere");
        mesh.remove(Cluster, "old");
        mesh.remove(Endpoint, "old");
    });
    assert_eq!(brief(&queued), NOTHING);
    let switch = it.ack(&slow[0]);
    assert_eq!(brief(&switch), ["RDS +r"]);
    assert_eq!(brief(&it.ack(&switch[0])), ["CDS -old", "EDS -old"]);
}

#[test]
fn clusters_that_change_all_the_time_do_not_hold_the_routes_for_ever() {
    let mut it = settled();
    let mut answers = it.change(|mesh| {
        mesh.set(Cluster, "c0", "1");
        mesh.set(Route, "r", "2");
    });
    let mut waited = Duration::ZERO;
    loop {
        assert_eq!(brief(&answers), ["CDS +c0"]);
        it.skip(|mesh| mesh.set(Cluster, "c0", &format!("{waited:?}")));
        waited += Duration::from_millis(500);
        if brief(&it.wait(Duration::from_millis(500))) == ["RDS +r"] {
            break;
        }
        answers = it.ack(&answers[0]);
    }
    assert_eq!(waited, Duration::from_secs(31));
}

#[test]
fn names_are_bounded_in_number_and_in_bytes() {
    let long = "x".repeat(1025);
    let refused = |request| open(&[]).try_delta(&request).unwrap_err();
    assert_eq!(refused(subscribe(Route, &[&long])), Refusal::LongName(1025));
    assert_eq!(
        refused(reconnect(Route, &["*"], &[(&long, "1")])),
        Refusal::LongName(1025)
    );
    let many: Vec<String> = (0..100_001).map(|n| n.to_string()).collect();
    let held: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(
        refused(reconnect(Cluster, &["*"], &held)),
        Refusal::TooManyNames
    );
    let large: Vec<String> = (0..34_000).map(|n| format!("{n:01000}")).collect();
    let large: Vec<&str> = large.iter().map(String::as_str).collect();
    assert_eq!(refused(subscribe(Route, &large)), Refusal::TooManyNames);
}

#[test]
fn what_a_client_says_about_a_refused_answer_is_cut() {
    let mut it = open(&[(Cluster, "a", "1")]);
    let answers = it.subscribe(Cluster, &["*"]);
    it.nack(&answers[0], &"é".repeat(10_000));
    let Some(Verdict::Nack { words, .. }) = &it.heard else {
        panic!()
    };
    assert_eq!(words.len(), 4096);
}

#[test]
fn a_refused_cluster_does_not_hold_the_routes() {
    let mut it = settled();
    let make = it.change(|mesh| {
        mesh.set(Cluster, "bad", "1");
        mesh.set(Endpoint, "bad", "1");
        mesh.set(Route, "r", "2");
    });
    assert_eq!(brief(&make), ["CDS +bad"]);
    assert_eq!(brief(&it.nack(&make[0], "no")), ["RDS +r"]);
}

#[test]
fn a_client_without_clusters_gets_its_listeners_at_once() {
    let mut it = open(&[(Listener, "l", "1"), (Route, "r", "1"), (Cluster, "a", "1")]);
    assert_eq!(brief(&it.subscribe(Listener, &["l"])), ["LDS +l"]);
    assert_eq!(brief(&it.subscribe(Route, &["r"])), ["RDS +r"]);
}

#[test]
fn clusters_by_name_do_not_wait_for_endpoints_that_are_never_asked_for() {
    let mut it = open(&[
        (Cluster, "a", "1"),
        (Endpoint, "a", "1"),
        (Endpoint, "b", "1"),
    ]);
    let endpoints = it.subscribe(Endpoint, &["b"]);
    it.settle(endpoints);
    let clusters = it.subscribe(Cluster, &["a"]);
    it.settle(clusters);
    let answers = it.change(|mesh| {
        mesh.set(Cluster, "a", "2");
        mesh.remove(Endpoint, "b");
    });
    assert_eq!(brief(&answers), ["CDS +a"]);
    assert_eq!(brief(&it.ack(&answers[0])), ["EDS -b"]);
}

#[test]
fn a_stream_that_missed_changes_is_brought_to_the_latest() {
    let mut it = settled();
    // The state machine looks at a snapshot only when it is polled: the one in between is never seen.
    for content in ["2", "3"] {
        it.skip(|mesh| {
            mesh.set(Endpoint, "old", content);
            mesh.set(Cluster, &format!("c{content}"), "1");
        });
    }
    assert_eq!(brief(&it.wait(Duration::ZERO)), ["CDS +c2 +c3", "EDS +old"]);
}

/// A first request on another stream: what it holds is said by its version.
fn back(kind: ResourceType, names: &[&str], answer: &Answer) -> DiscoveryRequest {
    DiscoveryRequest {
        response_nonce: String::new(),
        ..list(kind, names, Some(answer))
    }
}

/// A client of the state of the world that has `old` and routes to it, and its answers.
fn settled_in_full() -> (Conversation, [Answer; 3]) {
    let mut it = Conversation::open(
        Protocol::Sotw,
        &[
            (Cluster, "old", "1"),
            (Endpoint, "old", "1"),
            (Listener, "l", "1"),
            (Route, "r", "to old"),
        ],
    );
    let all: [(ResourceType, &[&str]); 4] = [
        (Cluster, &[]),
        (Endpoint, &["old"]),
        (Listener, &[]),
        (Route, &["r"]),
    ];
    let [clusters, _, listeners, routes] = all.map(|(kind, names)| {
        let mut answers = it.list(kind, names, None);
        let answer = answers.remove(0);
        it.list(kind, names, Some(&answer));
        answer
    });
    (it, [clusters, listeners, routes])
}

fn swap(mesh: &mut super::super::testing::Mesh) {
    mesh.set(Cluster, "new", "1");
    mesh.set(Endpoint, "new", "1");
    mesh.set(Route, "r", "to new");
    mesh.remove(Cluster, "old");
    mesh.remove(Endpoint, "old");
    mesh.remove(Listener, "l");
}

#[test]
fn a_client_that_was_away_in_a_swap_keeps_what_it_had_until_its_routes_are_new() {
    let (mut it, [clusters, listeners, routes]) = settled_in_full();
    it.skip(swap);
    it.connect(Protocol::Sotw);
    let make = it.sotw(&back(Cluster, &[], &clusters));
    assert_eq!(brief(&make), ["CDS +new +old"]);
    assert_eq!(brief(&it.list(Endpoint, &["old"], None)), NOTHING);
    assert_eq!(brief(&it.sotw(&back(Listener, &[], &listeners))), NOTHING);
    assert_eq!(brief(&it.sotw(&back(Route, &["r"], &routes))), NOTHING);

    // Lost again: it holds both now.
    it.connect(Protocol::Sotw);
    let make = it.sotw(&back(Cluster, &[], &make[0]));
    assert_eq!(brief(&make), ["CDS +new +old"]);
    let endpoints = it.list(Endpoint, &["new", "old"], None);
    assert_eq!(brief(&endpoints), ["EDS +new"]);
    it.sotw(&back(Listener, &[], &listeners));
    it.sotw(&back(Route, &["r"], &routes));
    assert_eq!(
        brief(&it.list(Endpoint, &["new", "old"], Some(&endpoints[0]))),
        NOTHING
    );
    let switch = it.list(Cluster, &[], Some(&make[0]));
    assert_eq!(brief(&switch), ["LDS +l", "RDS +r"]);
    it.list(Listener, &[], Some(&switch[0]));
    let broken = it.list(Route, &["r"], Some(&switch[1]));
    assert_eq!(brief(&broken), ["LDS", "CDS +new"]);
}

#[test]
fn a_client_that_asks_for_clusters_by_name_keeps_what_it_had_and_asks_for() {
    let mut it = Conversation::open(
        Protocol::Sotw,
        &[
            (Cluster, "old", "1"),
            (Cluster, "other", "1"),
            (Route, "r", "to old"),
        ],
    );
    let clusters = it.list(Cluster, &["old", "other"], None);
    it.list(Cluster, &["old", "other"], Some(&clusters[0]));
    it.skip(|mesh| {
        mesh.remove(Cluster, "old");
        mesh.remove(Cluster, "other");
    });
    it.connect(Protocol::Sotw);
    let make = it.sotw(&back(Cluster, &["old"], &clusters[0]));
    assert_eq!(brief(&make), ["CDS +old"], "the other one it has dropped");
    assert_eq!(brief(&it.list(Cluster, &["old"], Some(&make[0]))), ["CDS"]);
}

#[test]
fn a_client_with_a_version_that_nobody_knows_is_sent_what_there_is() {
    let (mut it, [clusters, ..]) = settled_in_full();
    it.skip(swap);
    it.connect(Protocol::Sotw);
    let unknown = Answer {
        version: "unknown".to_owned(),
        ..clusters
    };
    assert_eq!(brief(&it.sotw(&back(Cluster, &[], &unknown))), ["CDS +new"]);
}

/// Lets a stream wait for others of its node.
fn waiting_for(it: &mut Conversation, make: bool, switch: bool) -> Vec<Answer> {
    it.state.set_others(Others { make, switch });
    it.wait(Duration::ZERO)
}

#[test]
fn routes_on_a_stream_of_their_own_wait_for_the_clusters_on_another() {
    let mut it = open(&[(Route, "r", "1")]);
    let answers = it.subscribe(Route, &["r"]);
    it.settle(answers);
    waiting_for(&mut it, true, true);
    assert_eq!(brief(&it.change(|mesh| mesh.set(Route, "r", "2"))), NOTHING);
    assert_eq!(it.deadline(), Some(Duration::from_secs(1)));
    assert_eq!(brief(&waiting_for(&mut it, false, true)), ["RDS +r"]);
    waiting_for(&mut it, true, true);
    it.change(|mesh| mesh.set(Route, "r", "3"));
    assert_eq!(
        brief(&it.wait(Duration::from_secs(1))),
        NOTHING,
        "the one before is not answered"
    );
}

#[test]
fn others_that_never_come_so_far_are_waited_for_a_second_each_time() {
    let mut it = open(&[(Listener, "l", "1")]);
    let answers = it.subscribe(Listener, &["*"]);
    it.settle(answers);
    waiting_for(&mut it, true, true);
    for content in ["2", "3"] {
        assert_eq!(
            brief(&it.change(|mesh| mesh.set(Listener, "l", content))),
            NOTHING
        );
        assert_eq!(brief(&it.wait(Duration::from_millis(999))), NOTHING);
        let sent = it.wait(Duration::from_millis(1));
        assert_eq!(brief(&sent), ["LDS +l"]);
        it.ack(&sent[0]);
        it.wait(Duration::from_secs(5));
    }
}

#[test]
fn clusters_on_a_stream_of_their_own_go_when_the_routes_on_another_are_new() {
    let mut it = open(&[(Cluster, "old", "1")]);
    let answers = it.subscribe(Cluster, &["*"]);
    it.settle(answers);
    waiting_for(&mut it, true, true);
    let make = it.change(|mesh| {
        mesh.set(Cluster, "new", "1");
        mesh.remove(Cluster, "old");
    });
    assert_eq!(brief(&make), ["CDS +new"]);
    assert!(it.state.open().make);
    assert_eq!(brief(&it.ack(&make[0])), NOTHING);
    assert!(!it.state.open().make, "the others may go on");
    assert_eq!(brief(&waiting_for(&mut it, false, false)), ["CDS -old"]);
}

#[test]
fn a_stream_with_everything_waits_for_no_other() {
    let mut it = settled();
    waiting_for(&mut it, true, true);
    assert_eq!(
        brief(&it.change(|mesh| mesh.set(Route, "r", "2"))),
        ["RDS +r"]
    );
}

#[test]
fn endpoints_on_another_stream_are_sent_again_after_their_cluster_changed() {
    let mut clusters = open(&[(Cluster, "a", "1"), (Endpoint, "a", "1")]);
    let answers = clusters.subscribe(Cluster, &["*"]);
    clusters.settle(answers);
    assert_eq!(clusters.state.take_owed(), ["a".into()].into());
    let mut endpoints = open(&[(Endpoint, "a", "1")]);
    let answers = endpoints.subscribe(Endpoint, &["a"]);
    endpoints.settle(answers);
    endpoints
        .state
        .owe_too(["a".into(), "not asked for".into()].into());
    assert_eq!(brief(&endpoints.wait(Duration::ZERO)), ["EDS +a"]);
    assert!(endpoints.state.take_owed().is_empty());
}

#[test]
fn routes_wait_until_the_endpoints_of_another_streams_clusters_are_asked_for() {
    let mut it = open(&[(Endpoint, "old", "1"), (Route, "r", "1")]);
    for (kind, name) in [(Endpoint, "old"), (Route, "r")] {
        let answers = it.subscribe(kind, &[name]);
        it.settle(answers);
    }
    it.state.owe_too(["new".into()].into());
    let held = it.change(|mesh| {
        mesh.set(Endpoint, "new", "1");
        mesh.set(Route, "r", "2");
    });
    assert_eq!(brief(&held), NOTHING);
    let endpoints = it.subscribe(Endpoint, &["new"]);
    assert_eq!(brief(&endpoints), ["EDS +new"]);
    assert_eq!(brief(&it.ack(&endpoints[0])), ["RDS +r"]);
}
