//! Whatever is changed, delayed, lost, refused and said twice, in either form: once everything was delivered, the sidecar
//! serves what the server has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use outrigger_core::RouteSource;
use outrigger_proto::envoy::{
    config::cluster::v3::Cluster,
    service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
};
use prost_types::Any;

use super::*;
use crate::xds::sotw::Sotw;

const SEEDS: u64 = 60;
const STEPS: usize = 300;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// One request or answer in a form that both ends of a test understand.
#[derive(Debug)]
enum Said {
    Delta(DeltaDiscoveryRequest),
    Sotw(DiscoveryRequest),
}

#[derive(Debug)]
enum Answer {
    Delta(DeltaDiscoveryResponse),
    Sotw(DiscoveryResponse),
}

/// What a server knows of one type on one stream.
#[derive(Debug, Default)]
struct Asked {
    names: BTreeSet<String>,
    wildcard: bool,
    /// Version by name, as far as it was sent (or said to be held).
    sent: BTreeMap<String, String>,
    nonce: String,
    due: bool,
}

/// A management server without a network: the newest state, and one stream.
struct Server {
    sotw: bool,
    rng: fastrand::Rng,
    truth: BTreeMap<Kind, BTreeMap<String, Vec<u8>>>,
    asked: BTreeMap<Kind, Asked>,
    nonce: u64,
}

impl Server {
    /// Something is there, is different, is gone, or is not what a client takes.
    fn change(&mut self) {
        let name = *self.rng.choice(&NAMES).unwrap();
        let port = self.rng.u32(1..1000);
        let (kind, key, value) = match self.rng.u8(..10) {
            0..4 => {
                let assignment = assignment(name, &[("10.0.0.1", port)]);
                (Kind::Endpoint, name, assignment.encode_to_vec())
            }
            4..7 => {
                let mut cluster = cluster(name);
                cluster.connect_timeout = Some(seconds(i64::from(port)));
                (Kind::Cluster, name, cluster.encode_to_vec())
            }
            7 => (
                Kind::Listener,
                "l",
                outbound("l", if self.rng.bool() { "r" } else { "s" }).encode_to_vec(),
            ),
            _ => {
                let table = if self.rng.bool() { "r" } else { "s" };
                (Kind::Route, table, routes(table, name).encode_to_vec())
            }
        };
        let truth = self.truth.entry(kind).or_default();
        match self.rng.u8(..10) {
            // Endpoints and routes cannot be taken back in the older form.
            0 | 1 if !self.sotw || matches!(kind, Kind::Cluster | Kind::Listener) => {
                drop(truth.remove(key));
            }
            2 => {
                // Refused, for a field that nobody reads.
                let bad = match kind {
                    Kind::Cluster => {
                        let mut bad = cluster(key);
                        bad.alt_stat_name = port.to_string();
                        bad.encode_to_vec()
                    }
                    _ => vec![0xff; 4],
                };
                truth.insert(key.to_owned(), bad);
            }
            _ => drop(truth.insert(key.to_owned(), value)),
        }
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Delta(request) => {
                let kind = Kind::from_type_url(&request.type_url).unwrap();
                let asked = self.asked.entry(kind).or_default();
                for (name, version) in request.initial_resource_versions {
                    asked.sent.insert(name, version);
                }
                for name in request.resource_names_unsubscribe {
                    asked.names.remove(&name);
                    asked.sent.remove(&name);
                }
                for name in request.resource_names_subscribe {
                    if name == "*" {
                        // An empty first answer is an answer.
                        asked.due |= !asked.wildcard;
                        asked.wildcard = true;
                    } else if asked.names.insert(name.clone()) && !asked.sent.contains_key(&name) {
                        asked.sent.insert(name, "never".to_owned());
                    }
                }
            }
            Said::Sotw(request) => {
                let kind = Kind::from_type_url(&request.type_url).unwrap();
                let version = self.version(kind);
                let asked = self.asked.entry(kind).or_default();
                let first = asked.nonce.is_empty() && request.response_nonce.is_empty();
                if !first && request.response_nonce != asked.nonce {
                    return;
                }
                asked.wildcard = matches!(kind, Kind::Cluster | Kind::Listener);
                let names: BTreeSet<String> = request.resource_names.into_iter().collect();
                let is_current = first && request.version_info == version && !version.is_empty();
                asked.due |= first && !is_current;
                if is_current {
                    let here = self.truth.get(&kind).into_iter().flatten();
                    let here = here.filter(|(name, _)| asked.wildcard || names.contains(*name));
                    asked.sent = here
                        .map(|(name, value)| (name.clone(), hash(value)))
                        .collect();
                }
                asked
                    .sent
                    .retain(|name, _| asked.wildcard || names.contains(name));
                asked.names = names;
            }
        }
    }

    /// Of all resources of a type, as the older form has it.
    fn version(&self, kind: Kind) -> String {
        let all = self.truth.get(&kind).into_iter().flatten();
        all.map(|(name, value)| format!("{name}={} ", hash(value)))
            .collect()
    }

    /// The next answer of some type that is due, if any is.
    fn say(&mut self) -> Option<Answer> {
        let mut kinds: Vec<Kind> = self.asked.keys().copied().collect();
        self.rng.shuffle(&mut kinds);
        kinds.into_iter().find_map(|kind| self.answer(kind))
    }

    fn answer(&mut self, kind: Kind) -> Option<Answer> {
        let version = self.version(kind);
        let empty = BTreeMap::new();
        let truth = self.truth.get(&kind).unwrap_or(&empty);
        let asked = self.asked.get_mut(&kind)?;
        let wanted = |name: &String| asked.wildcard || asked.names.contains(name);
        let mut changed: Vec<&String> = truth
            .iter()
            .filter(|(name, value)| wanted(name) && asked.sent.get(*name) != Some(&hash(value)))
            .map(|(name, _)| name)
            .collect();
        let is_told = |version: &String| version == "gone";
        let gone = asked
            .sent
            .iter()
            .filter(|(name, version)| !truth.contains_key(*name) && !is_told(version));
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        let whole = matches!(kind, Kind::Cluster | Kind::Listener);
        let has_news = !changed.is_empty() || (!gone.is_empty() && (whole || !self.sotw));
        if !has_news && !std::mem::take(&mut asked.due) {
            return None;
        }
        asked.due = false;
        self.nonce += 1;
        asked.nonce = self.nonce.to_string();
        if self.sotw {
            if whole {
                changed = truth.keys().collect();
            }
            for name in gone {
                asked.sent.remove(&name);
            }
            let resources = changed
                .iter()
                .map(|name| Any {
                    type_url: kind.type_url(),
                    value: truth[*name].clone(),
                })
                .collect();
            for name in changed {
                asked.sent.insert(name.clone(), hash(&truth[name]));
            }
            return Some(Answer::Sotw(DiscoveryResponse {
                version_info: version,
                type_url: kind.type_url(),
                nonce: asked.nonce.clone(),
                resources,
                ..DiscoveryResponse::default()
            }));
        }
        self.rng.shuffle(&mut changed);
        // Not all at once, now and then; one at least.
        let most = self.rng.usize(1..=changed.len().max(1));
        changed.truncate(most);
        let resources = changed.iter().map(|name| Resource {
            name: (*name).clone(),
            version: hash(&truth[*name]),
            resource: Some(Any {
                type_url: kind.type_url(),
                value: truth[*name].clone(),
            }),
            ..Resource::default()
        });
        let resources = resources.collect();
        for name in changed {
            asked.sent.insert(name.clone(), hash(&truth[name]));
        }
        for name in &gone {
            if asked.names.contains(name) {
                asked.sent.insert(name.clone(), "gone".to_owned());
            } else {
                asked.sent.remove(name);
            }
        }
        Some(Answer::Delta(DeltaDiscoveryResponse {
            type_url: kind.type_url(),
            nonce: asked.nonce.clone(),
            resources,
            removed_resources: gone,
            ..DeltaDiscoveryResponse::default()
        }))
    }
}

fn hash(value: &[u8]) -> String {
    // FNV-1a: any will do.
    let hash: u64 = value.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:x}")
}

/// Both ends and what is on its way between them.
struct Link {
    server: Server,
    engine: Engine,
    form: Option<Sotw>,
    now: Instant,
    up: VecDeque<Said>,
    down: VecDeque<Answer>,
    snapshot: std::sync::Arc<Snapshot>,
}

impl Link {
    fn new(seed: u64, sotw: bool) -> Self {
        let mut link = Self {
            server: Server {
                sotw,
                rng: fastrand::Rng::with_seed(seed),
                truth: BTreeMap::new(),
                asked: BTreeMap::new(),
                nonce: 0,
            },
            engine: Engine::new(Node::default(), true),
            form: sotw.then(Sotw::default),
            now: Instant::now(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            snapshot: SnapshotBuilder::default().build(),
        };
        let requests = link.engine.connected(link.now);
        link.send(requests, true);
        link
    }

    fn send(&mut self, requests: Vec<DeltaDiscoveryRequest>, first: bool) {
        match &mut self.form {
            None => self.up.extend(requests.into_iter().map(Said::Delta)),
            Some(form) if first => self
                .up
                .extend(form.connected(requests).into_iter().map(Said::Sotw)),
            Some(form) => self
                .up
                .extend(form.requests(requests).into_iter().map(Said::Sotw)),
        }
        if let Some(snapshot) = self.engine.take_snapshot() {
            self.snapshot = snapshot;
        }
    }

    fn hear(&mut self, answer: Answer) {
        let answer = match (answer, &mut self.form) {
            (Answer::Delta(answer), _) => answer,
            (Answer::Sotw(answer), Some(form)) => {
                let held =
                    Kind::from_type_url(&answer.type_url).map(|kind| self.engine.state(kind));
                form.response(answer, held)
            }
            (Answer::Sotw(_), None) => unreachable!("one form a link"),
        };
        let nonce = answer.nonce.clone();
        let requests = self.engine.response(answer, self.now);
        let answered = requests
            .iter()
            .filter(|request| request.response_nonce == nonce)
            .count();
        assert_eq!(answered, 1, "each answer is answered once");
        self.send(requests, false);
    }

    fn step(&mut self) {
        match self.server.rng.u8(..100) {
            0..20 => self.server.change(),
            20..50 => {
                if let Some(answer) = self.server.say() {
                    self.down.push_back(answer);
                }
            }
            50..72 => {
                if let Some(said) = self.up.pop_front() {
                    self.server.hear(said);
                }
            }
            72..94 => {
                if let Some(answer) = self.down.pop_front() {
                    self.hear(answer);
                }
            }
            94..97 => {
                // The stream is lost with all that is on it.
                self.engine.disconnected();
                self.up.clear();
                self.down.clear();
                self.server.asked.clear();
                let requests = self.engine.connected(self.now);
                self.send(requests, true);
            }
            _ => {
                self.now += Duration::from_secs(self.server.rng.u64(1..20));
                let requests = self.engine.tick(self.now);
                self.send(requests, false);
            }
        }
    }

    /// Everything is delivered, and nobody has anything to say.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if let Some(said) = self.up.pop_front() {
                self.server.hear(said);
            } else if let Some(answer) = self.down.pop_front().or_else(|| self.server.say()) {
                self.hear(answer);
            } else if self.engine.deadline().is_some() {
                self.now += MISSING_AFTER;
                let requests = self.engine.tick(self.now);
                self.send(requests, false);
            } else {
                return;
            }
        }
        panic!("client and server do not come to an end");
    }

    /// `a 5s [80]` of each cluster, and the listener with its routes.
    fn serving(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .snapshot
            .clusters()
            .map(|(_, cluster)| {
                let ports = cluster.endpoints.iter().map(|e| e.config.address.port());
                let timeout = cluster.config.connect_timeout;
                format!(
                    "{} {timeout:?} {:?}",
                    cluster.config.name,
                    ports.collect::<Vec<_>>()
                )
            })
            .collect();
        all.sort();
        all
    }
}

/// What the server has, as it should be served.
fn expected(server: &Server) -> Vec<String> {
    let clusters = server.truth.get(&Kind::Cluster).into_iter().flatten();
    let clusters = clusters.map(|(name, value)| {
        let cluster = Cluster::decode(value.as_slice()).unwrap();
        let timeout = cluster.connect_timeout.unwrap().seconds.unsigned_abs();
        format!("{name} {:?} [7]", Duration::from_secs(timeout))
    });
    clusters.collect()
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_on_the_way_the_newest_state_serves_in_the_end() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("OUTRIGGER_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seeds = number("OUTRIGGER_FUZZ_ROUNDS").unwrap_or(SEEDS);
    for seed in (0..seeds).map(|offset| first.wrapping_add(offset)) {
        for sotw in [false, true] {
            println!("OUTRIGGER_SEED={seed} sotw={sotw}");
            let mut link = Link::new(seed, sotw);
            for _ in 0..STEPS {
                link.step();
            }
            // All that is wrong is put right; then nothing changes any more.
            for name in NAMES {
                let assignment = assignment(name, &[("10.0.0.1", 7)]);
                let truth = &mut link.server.truth;
                truth
                    .entry(Kind::Endpoint)
                    .or_default()
                    .insert(name.to_owned(), assignment.encode_to_vec());
                if let Some(bad) = truth.entry(Kind::Cluster).or_default().get_mut(name) {
                    *bad = cluster(name).encode_to_vec();
                }
            }
            for table in ["r", "s"] {
                let truth = link.server.truth.entry(Kind::Route).or_default();
                truth.insert(table.to_owned(), routes(table, "a").encode_to_vec());
            }
            let listener = outbound("l", "r").encode_to_vec();
            link.server
                .truth
                .entry(Kind::Listener)
                .or_default()
                .insert("l".to_owned(), listener);
            link.settle();
            assert_eq!(link.serving(), expected(&link.server));
            let RouteSource::Named(slot) =
                link.snapshot.listeners["l"].chains.only().unwrap().routes
            else {
                panic!("routes come by name");
            };
            assert_eq!(link.snapshot.routes(slot).unwrap().name, "r");
        }
    }
}
