//! Listeners of single addresses, asked for as connections need them.

use std::sync::Arc;

use outrigger_proto::envoy::config::listener::v3::AdditionalAddress;

use super::*;
use crate::xds::asked::{Answer, FORGET, IDLE, SWEEP};

const OWN: &str = "240.240.0.9_80";
const OWN_V6: &str = "2001:2::9_80";

impl Story {
    /// With a listener for everybody, and nothing that was asked for.
    fn redirected() -> Self {
        let mut story = Self::with(Engine::new(Node::default(), true).on_demand());
        assert_eq!(story.sent(), ["LDS +*"]);
        story.listener("virtualOutbound", "80");
        story.routes("80", R);
        story.clusters(&[R]);
        story.endpoints(R, &[1]);
        story.sent();
        story
    }

    fn ask_for(&mut self, name: &str) {
        let requests = self.engine.ask(&[name.to_owned()], self.now);
        self.note(requests);
    }

    /// The listener of both addresses, which was asked for by `alias`.
    fn own_listener(&mut self, alias: &str) {
        let mut listener = outbound(OWN, "80");
        listener.bind_to_port = Some(false);
        listener.address = Some(address("240.240.0.9", 80));
        listener.additional_addresses = vec![AdditionalAddress {
            address: Some(address("2001:2::9", 80)),
            ..AdditionalAddress::default()
        }];
        let resource = Resource {
            aliases: vec![alias.to_owned()],
            ..resource(Kind::Listener, OWN, "1", &listener)
        };
        self.answer(Kind::Listener, vec![resource], &[]);
    }

    fn is_at(&self, address: &str) -> bool {
        self.snapshot
            .listener_at(address.parse().unwrap())
            .is_some()
    }
}

fn told(name: &str, answer: Answer) -> Vec<(String, Answer)> {
    vec![(name.to_owned(), answer)]
}

#[tokio::test(start_paused = true)]
async fn a_listener_is_asked_for_by_its_address_and_given_back_when_it_was_not_used() {
    let mut story = Story::redirected();
    story.ask_for(OWN);
    assert_eq!(story.sent(), [format!("LDS +{OWN}")]);
    story.own_listener(OWN);
    assert_eq!(story.engine.take_answers(), told(OWN, Answer::Here));
    assert!(story.is_at("240.240.0.9:80") && story.is_at("[2001:2::9]:80"));
    story.sent();

    // As long as it has a connection, it stays.
    let users = Arc::clone(&story.snapshot.listeners[OWN].capture.users);
    let connection = users.begin();
    for _ in 0..2 * IDLE.as_secs() / SWEEP.as_secs() {
        story.pass(SWEEP);
    }
    assert!(story.is_at("240.240.0.9:80"));
    drop(connection);
    for _ in 0..2 * IDLE.as_secs() / SWEEP.as_secs() {
        story.pass(SWEEP);
    }
    assert!(!story.is_at("240.240.0.9:80"));
    assert_eq!(story.sent(), [format!("LDS -{OWN}")]);
    assert_eq!(story.listeners(), ["virtualOutbound"]);
    assert_eq!(story.engine.take_answers(), told(OWN, Answer::Forgotten));
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_have_another_name_than_was_asked_for() {
    let mut story = Story::redirected();
    story.ask_for(OWN_V6);
    assert_eq!(story.sent(), [format!("LDS +{OWN_V6}")]);
    story.own_listener(OWN_V6);
    assert_eq!(story.engine.take_answers(), told(OWN_V6, Answer::Here));
    assert!(story.is_at("[2001:2::9]:80"));
    story.answer(Kind::Listener, Vec::new(), &[OWN]);
    assert!(!story.is_at("[2001:2::9]:80"));
    assert_eq!(story.engine.take_answers(), told(OWN_V6, Answer::Absent));
}

#[tokio::test(start_paused = true)]
async fn an_address_without_a_listener_is_remembered_for_a_while() {
    let mut story = Story::redirected();
    story.ask_for(OWN);
    story.answer(Kind::Listener, Vec::new(), &[OWN]);
    assert_eq!(story.engine.take_answers(), told(OWN, Answer::Absent));
    story.sent();
    story.ask_for(OWN);
    assert_eq!(story.sent(), [""; 0], "it is known");
    story.engine.take_answers();
    story.pass(FORGET);
    story.pass(SWEEP);
    assert_eq!(story.sent(), [format!("LDS -{OWN}")]);
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_asks_for_everything_again() {
    let mut story = Story::redirected();
    story.ask_for(OWN);
    story.own_listener(OWN);
    story.engine.disconnected();
    story.sent();
    story.connect();
    let sent = story.sent();
    assert!(sent.contains(&format!("LDS +{OWN} +*")), "{sent:?}");
    assert!(story.is_at("240.240.0.9:80"), "and goes on meanwhile");
}
