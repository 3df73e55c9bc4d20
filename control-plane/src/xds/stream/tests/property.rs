//! Whatever is changed, delayed, refused, lost and connected again, in whatever order: a client ends with the newest state.
//!
//! The client is a model of a careful one: clusters and listeners by wildcard, endpoints of the clusters it holds, routes by
//! name. It refuses what is called bad and keeps what it had; before the end, what is bad is made good.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use outrigger_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    google::rpc::Status,
};
use prost::Message as _;

use super::*;
use crate::xds::{
    subscription::Answer,
    testing::{list, version_of},
};

const SEEDS: u64 = 40;
const STEPS: usize = 250;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const KINDS: [ResourceType; 4] = [Cluster, Endpoint, Listener, Route];

type Contents = BTreeMap<ResourceType, BTreeMap<String, String>>;

struct Model {
    protocol: Protocol,
    talk: Conversation,
    random: fastrand::Rng,
    mesh: Contents,
    held: Contents,
    /// What it asked for by name.
    asked: BTreeMap<ResourceType, BTreeSet<String>>,
    routes: BTreeSet<String>,
    under_way: VecDeque<Answer>,
    /// The last answer of each type that it read.
    read: BTreeMap<ResourceType, Answer>,
    /// The last one that it did not refuse, on any stream.
    taken: BTreeMap<ResourceType, Answer>,
}

impl Model {
    fn new(protocol: Protocol, seed: u64) -> Self {
        let mut model = Self {
            protocol,
            talk: Conversation::open(protocol, &[]),
            random: fastrand::Rng::with_seed(seed),
            mesh: Contents::new(),
            held: Contents::new(),
            asked: BTreeMap::new(),
            routes: BTreeSet::new(),
            under_way: VecDeque::new(),
            read: BTreeMap::new(),
            taken: BTreeMap::new(),
        };
        model.connect();
        model
    }

    /// Opens a stream, on which it says what it holds.
    fn connect(&mut self) {
        self.under_way.clear();
        self.read.clear();
        self.asked.clear();
        self.talk.connect(self.protocol);
        for kind in [Cluster, Listener] {
            let answers = match self.protocol {
                Protocol::Delta => {
                    let versions = self.held.get(&kind).into_iter().flatten();
                    let versions = versions.map(|(name, text)| (name.clone(), version_of(text)));
                    self.talk.delta(&DeltaDiscoveryRequest {
                        type_url: kind.url().into(),
                        initial_resource_versions: versions.collect(),
                        ..DeltaDiscoveryRequest::default()
                    })
                }
                Protocol::Sotw => self.talk.sotw(&DiscoveryRequest {
                    response_nonce: String::new(),
                    ..list(kind, &[], self.taken.get(&kind))
                }),
            };
            self.under_way.extend(answers);
        }
        self.ask();
    }

    /// Asks for the endpoints of its clusters, and for its routes.
    fn ask(&mut self) {
        let clusters = self.held.get(&Cluster).into_iter().flatten();
        let clusters: BTreeSet<String> = clusters.map(|(name, _)| name.clone()).collect();
        for (kind, wanted) in [(Endpoint, clusters), (Route, self.routes.clone())] {
            let first = !self.asked.contains_key(&kind);
            let before = self.asked.insert(kind, wanted.clone()).unwrap_or_default();
            if wanted == before {
                continue;
            }
            let held = self.held.entry(kind).or_default();
            held.retain(|name, _| wanted.contains(name));
            let answers = match self.protocol {
                Protocol::Delta => {
                    let versions = held.iter().filter(|_| first);
                    let versions = versions.map(|(name, text)| (name.clone(), version_of(text)));
                    self.talk.delta(&DeltaDiscoveryRequest {
                        type_url: kind.url().into(),
                        resource_names_subscribe: wanted.difference(&before).cloned().collect(),
                        resource_names_unsubscribe: before.difference(&wanted).cloned().collect(),
                        initial_resource_versions: versions.collect(),
                        ..DeltaDiscoveryRequest::default()
                    })
                }
                Protocol::Sotw => {
                    let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
                    self.talk.sotw(&list(kind, &names, self.read.get(&kind)))
                }
            };
            self.under_way.extend(answers);
        }
    }

    /// Reads one answer, and says whether it is good.
    fn read(&mut self) {
        let Some(answer) = self.under_way.pop_front() else {
            return;
        };
        let kind = ResourceType::from_url(&answer.type_url).unwrap();
        let held = self.held.entry(kind).or_default();
        let mut refused = false;
        if self.protocol == Protocol::Sotw && kind.is_full_state() {
            let named: BTreeSet<&str> = answer.resources.iter().map(|one| &*one.name).collect();
            held.retain(|name, _| named.contains(name.as_str()));
        }
        for resource in &answer.resources {
            let text = String::decode(resource.any.value.as_slice()).unwrap();
            if text.starts_with("bad") {
                refused = true;
            } else if kind.is_full_state() || self.asked[&kind].contains(&*resource.name) {
                held.insert(resource.name.to_string(), text);
            }
        }
        for name in &answer.removed {
            held.remove(&**name);
        }
        let error = refused.then(|| Status {
            message: "bad".into(),
            ..Status::default()
        });
        let answers = match self.protocol {
            Protocol::Delta => self.talk.delta(&DeltaDiscoveryRequest {
                type_url: kind.url().into(),
                response_nonce: answer.nonce.clone(),
                error_detail: error,
                ..DeltaDiscoveryRequest::default()
            }),
            Protocol::Sotw => {
                let names = self.asked.get(&kind).into_iter().flatten();
                let names: Vec<&str> = names.map(String::as_str).collect();
                self.talk.sotw(&DiscoveryRequest {
                    error_detail: error,
                    ..list(kind, &names, Some(&answer))
                })
            }
        };
        if !refused {
            self.taken.insert(kind, answer.clone());
        }
        self.read.insert(kind, answer);
        self.under_way.extend(answers);
        self.ask();
    }

    fn set(&mut self, kind: ResourceType, name: &str, text: Option<&str>) {
        let all = self.mesh.entry(kind).or_default();
        match text {
            Some(text) => all.insert(name.to_owned(), text.to_owned()),
            None => all.remove(name),
        };
        let answers = self.talk.change(|mesh| match text {
            Some(text) => mesh.set(kind, name, text),
            None => mesh.remove(kind, name),
        });
        self.under_way.extend(answers);
    }

    fn step(&mut self, number: usize) {
        let kind = KINDS[self.random.usize(..KINDS.len())];
        let name = NAMES[self.random.usize(..NAMES.len())];
        match self.random.u8(..20) {
            0..6 => {
                let quality = if self.random.u8(..5) == 0 {
                    "bad"
                } else {
                    "good"
                };
                self.set(kind, name, Some(&format!("{quality} {number}")));
            }
            6..8 => self.set(kind, name, None),
            8..15 => self.read(),
            15 => {
                let time = Duration::from_millis(self.random.u64(..40_000));
                let answers = self.talk.wait(time);
                self.under_way.extend(answers);
            }
            16..19 => {
                if !self.routes.remove(name) {
                    self.routes.insert(name.to_owned());
                }
                self.ask();
            }
            _ => self.connect(),
        }
    }

    /// Until nothing happens any more.
    fn settle(&mut self) {
        for (kind, name, text) in self.all_bad() {
            self.set(kind, &name, Some(&text.replace("bad", "better")));
        }
        for _ in 0..1000 {
            while !self.under_way.is_empty() {
                self.read();
            }
            let Some(wait) = self.talk.deadline() else {
                return;
            };
            let answers = self.talk.wait(wait);
            self.under_way.extend(answers);
        }
        panic!("it never comes to rest");
    }

    fn all_bad(&self) -> Vec<(ResourceType, String, String)> {
        let all = self.mesh.iter().flat_map(|(kind, all)| {
            all.iter()
                .map(|(name, text)| (*kind, name.clone(), text.clone()))
        });
        all.filter(|(_, _, text)| text.starts_with("bad")).collect()
    }

    fn assert_newest(&self, seed: u64) {
        for kind in KINDS {
            let mesh = self.mesh.get(&kind).cloned().unwrap_or_default();
            let wanted: BTreeMap<String, String> = match self.asked.get(&kind) {
                Some(asked) => mesh
                    .into_iter()
                    .filter(|(name, _)| asked.contains(name))
                    .collect(),
                None => mesh,
            };
            let mut held = self.held.get(&kind).cloned().unwrap_or_default();
            if self.protocol == Protocol::Sotw && !kind.is_full_state() {
                // There is no way to say that one of these is gone.
                held.retain(|name, _| wanted.contains_key(name));
            }
            assert_eq!(
                held,
                wanted,
                "seed {seed}, {:?}, {}",
                self.protocol,
                kind.short()
            );
        }
    }
}

#[test]
fn changes_refusals_losses_and_reconnects_in_any_order_end_in_the_newest_state() {
    for seed in 0..SEEDS {
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let mut model = Model::new(protocol, seed);
            for number in 0..STEPS {
                model.step(number);
            }
            model.settle();
            model.assert_newest(seed);
        }
    }
}
