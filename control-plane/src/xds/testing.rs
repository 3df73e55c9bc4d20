//! A conversation with one stream, without network: requests in, brief words for the answers out.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use outrigger_proto::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    google::rpc::Status,
};

use super::{
    sets::Sets,
    stream::{Protocol, Refusal, StreamState},
    subscription::{Answer, Verdict},
};
use crate::snapshot::{
    OnDemand, ResourceBytes, ResourceType, Resources, Snapshot, TypeMap, View, next_generation,
};

/// Resources by type, name and content.
pub(super) struct Mesh {
    contents: BTreeMap<ResourceType, BTreeMap<String, String>>,
    maps: BTreeMap<ResourceType, Arc<TypeMap>>,
    /// Made for who asks by name.
    made: BTreeMap<ResourceType, BTreeMap<String, String>>,
    none: Arc<TypeMap>,
}

impl Mesh {
    pub(super) fn set(&mut self, kind: ResourceType, name: &str, content: &str) {
        self.contents
            .entry(kind)
            .or_default()
            .insert(name.into(), content.into());
    }

    pub(super) fn make(&mut self, kind: ResourceType, name: &str, content: &str) {
        let of = self.made.entry(kind).or_default();
        of.insert(name.into(), content.into());
    }

    pub(super) fn remove(&mut self, kind: ResourceType, name: &str) {
        self.contents.entry(kind).or_default().remove(name);
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut of = |kind| {
            let contents = self.contents.entry(kind).or_default();
            let resources = contents
                .iter()
                .map(|(name, text)| ResourceBytes::new(kind, name, text));
            let map = TypeMap::following(self.maps.get(&kind), resources);
            self.maps.insert(kind, Arc::clone(&map));
            Resources {
                shared: map,
                own: Arc::clone(&self.none),
                view: self.made.get(&kind).cloned().map_or(View::AsIs, |made| {
                    View::Beside(OnDemand::new(next_generation(), move |name| {
                        let content = made.get(name)?;
                        Some(ResourceBytes::new(kind, name, content))
                    }))
                }),
            }
        };
        Snapshot {
            clusters: of(ResourceType::Cluster),
            endpoints: of(ResourceType::Endpoint),
            secrets: of(ResourceType::Secret),
            listeners: of(ResourceType::Listener),
            routes: of(ResourceType::Route),
            virtual_hosts: of(ResourceType::VirtualHost),
            names: of(ResourceType::NameTable),
        }
    }
}

/// Version of a resource with this content.
pub(super) fn version_of(content: &str) -> String {
    let resource = ResourceBytes::new(ResourceType::Cluster, "any", &content.to_owned());
    resource.version.to_string()
}

/// One stream and its client.
pub(super) struct Conversation {
    pub(super) state: StreamState,
    sets: Arc<Sets>,
    mesh: Mesh,
    now: Instant,
    /// Last verdict that the server read.
    pub(super) heard: Option<Verdict>,
}

impl Conversation {
    /// Opens a stream on a mesh where `CDS a` has the content `1` is written `(Cluster, "a", "1")`.
    pub(super) fn open(protocol: Protocol, resources: &[(ResourceType, &str, &str)]) -> Self {
        let mut mesh = Mesh {
            contents: BTreeMap::new(),
            maps: BTreeMap::new(),
            made: BTreeMap::new(),
            none: TypeMap::empty(),
        };
        for (kind, name, content) in resources {
            mesh.set(*kind, name, content);
        }
        let sets = Arc::<Sets>::default();
        let mut state = StreamState::new(protocol, "s", Arc::clone(&sets));
        state.set_snapshot(mesh.snapshot());
        Self {
            state,
            sets,
            mesh,
            now: Instant::now(),
            heard: None,
        }
    }

    /// Another stream on the same mesh: the one before is lost.
    pub(super) fn connect(&mut self, protocol: Protocol) {
        self.state = StreamState::new(protocol, "again", Arc::clone(&self.sets));
        self.state.set_snapshot(self.mesh.snapshot());
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Mesh)) -> Vec<Answer> {
        change(&mut self.mesh);
        self.state.set_snapshot(self.mesh.snapshot());
        self.state.poll(self.now)
    }

    /// A change that the stream was too busy to look at.
    pub(super) fn skip(&mut self, change: impl FnOnce(&mut Mesh)) {
        change(&mut self.mesh);
        self.state.set_snapshot(self.mesh.snapshot());
    }

    pub(super) fn wait(&mut self, time: Duration) -> Vec<Answer> {
        self.now += time;
        self.state.poll(self.now)
    }

    /// Until the stream's own deadline, if it has one.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.state.deadline(self.now).map(|at| at - self.now)
    }

    pub(super) fn try_delta(
        &mut self,
        request: &DeltaDiscoveryRequest,
    ) -> Result<Vec<Answer>, Refusal> {
        self.heard = self.state.delta_request(request, self.now)?;
        Ok(self.state.poll(self.now))
    }

    pub(super) fn delta(&mut self, request: &DeltaDiscoveryRequest) -> Vec<Answer> {
        self.try_delta(request).unwrap()
    }

    pub(super) fn sotw(&mut self, request: &DiscoveryRequest) -> Vec<Answer> {
        self.heard = self.state.sotw_request(request, self.now).unwrap();
        self.state.poll(self.now)
    }

    /// Takes an answer; gives what the server sends next.
    pub(super) fn ack(&mut self, answer: &Answer) -> Vec<Answer> {
        self.delta(&DeltaDiscoveryRequest {
            type_url: answer.type_url.to_string(),
            response_nonce: answer.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Takes all answers, and those that follow, until there are none; gives them in order.
    pub(super) fn settle(&mut self, mut answers: Vec<Answer>) -> Vec<Answer> {
        let mut all = Vec::new();
        while !answers.is_empty() {
            let answer = answers.remove(0);
            answers.extend(self.ack(&answer));
            all.push(answer);
        }
        all
    }

    pub(super) fn nack(&mut self, answer: &Answer, words: &str) -> Vec<Answer> {
        self.delta(&DeltaDiscoveryRequest {
            type_url: answer.type_url.to_string(),
            response_nonce: answer.nonce.clone(),
            error_detail: Some(Status {
                message: words.into(),
                ..Status::default()
            }),
            ..DeltaDiscoveryRequest::default()
        })
    }

    pub(super) fn subscribe(&mut self, kind: ResourceType, names: &[&str]) -> Vec<Answer> {
        self.delta(&subscribe(kind, names))
    }

    pub(super) fn unsubscribe(&mut self, kind: ResourceType, names: &[&str]) -> Vec<Answer> {
        self.delta(&DeltaDiscoveryRequest {
            type_url: kind.url().into(),
            resource_names_unsubscribe: strings(names),
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// A state-of-the-world request that lists `names` after `answer` (None = with an empty nonce).
    pub(super) fn list(
        &mut self,
        kind: ResourceType,
        names: &[&str],
        answer: Option<&Answer>,
    ) -> Vec<Answer> {
        self.sotw(&list(kind, names, answer))
    }
}

pub(super) fn subscribe(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().into(),
        resource_names_subscribe: strings(names),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A first request of a client that holds `(name, content)` already.
pub(super) fn reconnect(
    kind: ResourceType,
    names: &[&str],
    held: &[(&str, &str)],
) -> DeltaDiscoveryRequest {
    let held = held
        .iter()
        .map(|(name, content)| ((*name).to_owned(), version_of(content)));
    DeltaDiscoveryRequest {
        initial_resource_versions: held.collect(),
        ..subscribe(kind, names)
    }
}

pub(super) fn list(
    kind: ResourceType,
    names: &[&str],
    answer: Option<&Answer>,
) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: kind.url().into(),
        resource_names: strings(names),
        version_info: answer
            .map(|answer| answer.version.clone())
            .unwrap_or_default(),
        response_nonce: answer
            .map(|answer| answer.nonce.clone())
            .unwrap_or_default(),
        ..DiscoveryRequest::default()
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// `CDS +a +b -c`, one an answer.
pub(super) fn brief(answers: &[Answer]) -> Vec<String> {
    let line = |answer: &Answer| {
        let kind = ResourceType::from_url(&answer.type_url);
        let mut line = kind.map_or("other", ResourceType::short).to_owned();
        for resource in &answer.resources {
            line += &format!(" +{}", resource.name);
        }
        for name in &answer.removed {
            line += &format!(" -{name}");
        }
        line
    };
    answers.iter().map(line).collect()
}
