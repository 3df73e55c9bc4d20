//! Names for the DNS server.

use std::sync::Arc;

use outrigger_proto::istio::networking::nds::v1::{NameTable, name_table::NameInfo};

use super::*;
use crate::{
    dns::names::{Names, Scope},
    xds::asked::{Answer, FORGET, IDLE, SWEEP},
};

struct Naming {
    story: Story,
    names: Arc<Names>,
}

fn names(on_demand: bool) -> Arc<Names> {
    let names: Arc<Names> = Arc::default();
    let id = "sidecar~10.0.0.1~a-1.default~default.svc.cluster.local";
    names.begin(Scope::of_node(id, on_demand));
    names
}

impl Naming {
    fn on_demand() -> Self {
        let names = names(true);
        let engine = Engine::new(Node::default(), true)
            .on_demand()
            .naming(Arc::clone(&names));
        let mut story = Story::with(engine);
        assert_eq!(story.sent(), ["LDS +*"]);
        Self { story, names }
    }

    fn all() -> Self {
        let names = names(false);
        let engine = Engine::new(Node::default(), true).naming(Arc::clone(&names));
        let mut story = Story::with(engine);
        assert_eq!(story.sent(), ["CDS +*", "NDS +*"]);
        Self { story, names }
    }

    fn ask(&mut self, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let requests = self.story.engine.ask_names(&names, self.story.now);
        self.story.note(requests);
    }

    fn answer(&mut self, resources: Vec<Resource>, removed: &[&str]) {
        self.story.answer(Kind::NameTable, resources, removed);
    }

    fn answers(&mut self) -> Vec<(String, Answer)> {
        self.story.engine.take_named()
    }

    fn address(&self, name: &str) -> Option<String> {
        let record = self.names.book().find(name)?;
        record.v4.first().map(ToString::to_string)
    }
}

fn table(resource_name: &str, hosts: &[(&str, &str)]) -> Resource {
    let hosts = hosts.iter().map(|(host, ip)| {
        let (short, rest) = host.split_once('.').unwrap_or((host, ""));
        let namespace = rest.split('.').next().unwrap_or_default();
        let info = NameInfo {
            ips: vec![(*ip).to_owned()],
            shortname: short.to_owned(),
            namespace: namespace.to_owned(),
            ..NameInfo::default()
        };
        ((*host).to_owned(), info)
    });
    let table = NameTable {
        table: hosts.collect(),
    };
    resource(Kind::NameTable, resource_name, "1", &table)
}

#[test]
fn a_name_is_asked_for_known_and_given_back_when_nobody_looks_it_up() {
    let mut naming = Naming::on_demand();
    naming.ask(&["orders"]);
    assert_eq!(naming.story.sent(), ["NDS +orders"]);
    naming.answer(vec![table("orders", &[("orders", "240.240.0.1")])], &[]);
    assert_eq!(naming.story.sent(), ["NDS ack 1"]);
    assert_eq!(naming.answers(), [("orders".to_owned(), Answer::Here)]);
    assert_eq!(naming.address("orders").as_deref(), Some("240.240.0.1"));
    for _ in 0..(IDLE.as_secs() / SWEEP.as_secs()) {
        naming.story.pass(SWEEP);
        naming.names.book().find("orders");
    }
    assert_eq!(naming.story.sent(), Vec::<String>::new());
    naming.story.pass(SWEEP);
    naming.story.pass(IDLE);
    assert_eq!(naming.story.sent(), ["NDS -orders"]);
    assert_eq!(naming.address("orders"), None);
    assert_eq!(naming.answers(), [("orders".to_owned(), Answer::Forgotten)]);
}

#[test]
fn a_name_that_is_none_is_remembered_until_it_is_born_or_nobody_asks() {
    let mut naming = Naming::on_demand();
    naming.ask(&["example.com", "cart"]);
    naming.answer(Vec::new(), &["example.com", "cart"]);
    let absent = |name: &str| (name.to_owned(), Answer::Absent);
    assert_eq!(naming.answers(), [absent("example.com"), absent("cart")]);
    naming.story.sent();
    naming.answer(vec![table("cart", &[("cart", "240.240.0.2")])], &[]);
    assert_eq!(naming.answers(), [("cart".to_owned(), Answer::Here)]);
    assert_eq!(naming.address("cart").as_deref(), Some("240.240.0.2"));
    naming.answer(Vec::new(), &["cart"]);
    assert_eq!(naming.answers(), [absent("cart")]);
    assert_eq!(naming.address("cart"), None);
    naming.story.sent();
    naming.story.pass(FORGET + SWEEP);
    assert_eq!(naming.story.sent(), ["NDS -cart -example.com"]);
}

#[test]
fn a_new_stream_asks_for_the_same_names_and_what_is_known_goes_on_meanwhile() {
    let mut naming = Naming::on_demand();
    naming.ask(&["orders"]);
    naming.answer(vec![table("orders", &[("orders", "240.240.0.1")])], &[]);
    naming.story.engine.disconnected();
    assert_eq!(naming.address("orders").as_deref(), Some("240.240.0.1"));
    naming.ask(&["cart"]);
    naming.story.sent();
    let requests = naming.story.connect();
    assert!(
        naming
            .story
            .sent()
            .contains(&"NDS +cart +orders".to_owned())
    );
    let nds = requests
        .iter()
        .find(|request| request.type_url == Kind::NameTable.type_url());
    assert_eq!(nds.unwrap().initial_resource_versions["orders"], "1");
}

#[test]
fn a_table_that_is_refused_is_named_and_the_last_good_one_stays() {
    let mut naming = Naming::on_demand();
    naming.ask(&["orders", "cart"]);
    naming.answer(vec![table("orders", &[("orders", "240.240.0.1")])], &[]);
    naming.answers();
    let bad = |name: &str| table(name, &[(name, "nine")]);
    naming.answer(vec![bad("orders"), bad("cart")], &[]);
    assert!(
        naming.story.nacks[0].contains("NameTable \"orders\": table[\"orders\"].ips[0]: \"nine\""),
        "{:?}",
        naming.story.nacks
    );
    assert_eq!(naming.address("orders").as_deref(), Some("240.240.0.1"));
    let answers = naming.answers();
    assert!(
        matches!(&answers[..], [(name, Answer::Refused(_))] if name == "cart"),
        "{answers:?}"
    );
}

#[test]
fn all_names_come_as_one_table_or_as_one_for_each_host() {
    for (first, second) in [("", ""), ("a", "b")] {
        let mut naming = Naming::all();
        let a = ("a.default.svc.cluster.local", "240.240.0.1");
        let b = ("b.shop.svc.cluster.local", "240.240.0.2");
        match first.is_empty() {
            true => naming.answer(vec![table("", &[a, b])], &[]),
            false => naming.answer(vec![table(first, &[a]), table(second, &[b])], &[]),
        }
        for name in ["a", "a.default", "a.default.svc", a.0, "b.shop", b.0] {
            assert!(naming.address(name).is_some(), "{name}");
        }
        assert_eq!(naming.address("b"), None);
        match first.is_empty() {
            true => naming.answer(vec![table("", &[b])], &[]),
            false => naming.answer(Vec::new(), &["a"]),
        }
        assert_eq!(
            (naming.address("a"), naming.address("b.shop").is_some()),
            (None, true)
        );
    }
}

#[test]
fn a_server_that_sends_no_names_does_not_keep_the_sidecar_waiting_for_ever() {
    let mut naming = Naming::all();
    naming.story.clusters(&[]);
    naming.story.answer(Kind::Listener, Vec::new(), &[]);
    assert!(!naming.story.engine.is_configured(naming.story.now));
    naming.story.pass(MISSING_AFTER);
    assert!(naming.story.engine.is_configured(naming.story.now));
    // Said once, and no reason to look again at once.
    assert_eq!(naming.story.engine.deadline(), None);
}

#[test]
fn names_that_nobody_asked_for_are_none_of_ours() {
    let mut story = Story::connected();
    story.answer(
        Kind::NameTable,
        vec![table("", &[("a", "240.240.0.1")])],
        &[],
    );
    let mut naming = Naming::on_demand();
    naming.answer(vec![table("a", &[("a", "240.240.0.1")])], &[]);
    assert_eq!(naming.address("a"), None);
}
