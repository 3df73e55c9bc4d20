//! One simulated client: asks for what it uses by name, acknowledges what it is sent, remembers versions, and tells the
//! board which changes have reached it. It reads names, versions and the number of the change, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use anyhow::Context as _;
use outrigger_proto::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use prost_types::{Struct, Value, value::Kind};
use tokio::sync::{SemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{board::Board, fleet::Tally, mesh};

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const VHDS: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

/// Which of the two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Delta,
    Sotw,
}

impl Protocol {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Sotw => "sotw",
        }
    }
}

/// The SPIFFE id of the clients of a namespace.
pub(super) fn identity(namespace: u32) -> String {
    format!("spiffe://cluster.local/ns/n-{namespace}/sa/client")
}

/// One client, between its connections too.
pub(super) struct Client {
    pub(super) number: u32,
    pub(super) namespace: u32,
    pub(super) protocol: Protocol,
    namespaces: u32,
    /// Services that it uses, with the last change that it has heard of.
    uses: BTreeMap<u32, u32>,
    /// Versions by type and name.
    held: BTreeMap<&'static str, BTreeMap<String, String>>,
}

/// A place among those who connect, and where to say that it can be given to another.
pub(super) type Ready<'a> = (SemaphorePermit<'a>, oneshot::Sender<()>);

/// Where clients report to.
#[derive(Clone, Copy)]
struct Reports<'a> {
    board: &'a Board,
    tally: &'a Tally,
}

impl Client {
    pub(super) fn new(
        number: u32,
        namespaces: u32,
        protocol: Protocol,
        uses: impl IntoIterator<Item = u32>,
    ) -> Self {
        Self {
            number,
            namespace: number % namespaces,
            namespaces,
            protocol,
            uses: uses.into_iter().map(|service| (service, 0)).collect(),
            held: BTreeMap::new(),
        }
    }

    pub(super) fn uses(&self) -> impl Iterator<Item = u32> {
        self.uses.keys().copied()
    }

    /// One connection, until `channel` is gone or `end` is. Says on `ready` that it holds all it asked for.
    pub(super) async fn live(
        &mut self,
        channel: Channel,
        board: &Board,
        tally: &Tally,
        ready: Ready<'_>,
        end: oneshot::Receiver<()>,
    ) -> anyhow::Result<()> {
        let reports = Reports { board, tally };
        let ads = AggregatedDiscoveryServiceClient::new(channel);
        tokio::select! {
            ended = async {
                match self.protocol {
                    Protocol::Delta => self.delta(ads, reports, ready).await,
                    Protocol::Sotw => self.sotw(ads, reports, ready).await,
                }
            } => ended.with_context(|| format!("client {}", self.number)),
            _ = end => Ok(()),
        }
    }

    async fn delta(
        &mut self,
        mut ads: AggregatedDiscoveryServiceClient<Channel>,
        reports: Reports<'_>,
        ready: Ready<'_>,
    ) -> anyhow::Result<()> {
        let (sender, receiver) = mpsc::channel(16);
        let mut node = Some(self.node());
        for (type_url, names) in self.wanted() {
            let held = self.held.get(type_url);
            let first = DeltaDiscoveryRequest {
                node: node.take(),
                type_url: type_url.to_owned(),
                resource_names_subscribe: names.into_iter().collect(),
                initial_resource_versions: held.cloned().unwrap_or_default(),
                ..DeltaDiscoveryRequest::default()
            };
            sender.send(first).await?;
        }
        let answers = ads.delta_aggregated_resources(ReceiverStream::new(receiver));
        let mut answers = answers.await?.into_inner();
        let mut ready = Some(ready);
        // The last request is for listeners, and a wildcard is always answered: what comes before it is all there is.
        let mut listening = false;
        while let Some(answer) = answers.message().await? {
            let ack = DeltaDiscoveryRequest {
                type_url: answer.type_url.clone(),
                response_nonce: answer.nonce.clone(),
                ..DeltaDiscoveryRequest::default()
            };
            listening |= answer.type_url == LDS;
            self.take_delta(answer, reports);
            sender.send(ack).await?;
            if ready.is_some()
                && listening
                && self.has_all()
                && let Some((place, ready)) = ready.take()
            {
                drop((place, ready.send(())));
            }
        }
        anyhow::bail!("the stream has ended")
    }

    fn take_delta(&mut self, answer: DeltaDiscoveryResponse, reports: Reports<'_>) {
        reports.tally.answers.fetch_add(1, Ordering::Relaxed);
        let type_url = known(&answer.type_url);
        for one in answer.resources {
            let value = one.resource.map(|any| any.value).unwrap_or_default();
            self.take(type_url, &one.name, one.version, &value, reports);
        }
        if let Some(held) = self.held.get_mut(type_url) {
            for name in answer.removed_resources {
                held.remove(&name);
            }
        }
    }

    async fn sotw(
        &mut self,
        mut ads: AggregatedDiscoveryServiceClient<Channel>,
        reports: Reports<'_>,
        ready: Ready<'_>,
    ) -> anyhow::Result<()> {
        let (sender, receiver) = mpsc::channel(16);
        let mut node = Some(self.node());
        let wanted: BTreeMap<_, _> = self.wanted().into_iter().collect();
        let request = |type_url: &str| DiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names: wanted
                .get(type_url)
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
            ..DiscoveryRequest::default()
        };
        for type_url in [CDS, EDS, SDS, RDS, LDS] {
            let first = DiscoveryRequest {
                node: node.take(),
                ..request(type_url)
            };
            sender.send(first).await?;
        }
        let answers = ads.stream_aggregated_resources(ReceiverStream::new(receiver));
        let mut answers = answers.await?.into_inner();
        let mut ready = Some(ready);
        while let Some(answer) = answers.message().await? {
            let ack = DiscoveryRequest {
                version_info: answer.version_info.clone(),
                response_nonce: answer.nonce.clone(),
                ..request(&answer.type_url)
            };
            self.take_sotw(answer, reports);
            sender.send(ack).await?;
            if ready.is_some()
                && self.has_all()
                && let Some((place, ready)) = ready.take()
            {
                drop((place, ready.send(())));
            }
        }
        anyhow::bail!("the stream has ended")
    }

    /// Names are inside of the resources: the first field of all types that are asked for here.
    fn take_sotw(&mut self, answer: DiscoveryResponse, reports: Reports<'_>) {
        reports.tally.answers.fetch_add(1, Ordering::Relaxed);
        let type_url = known(&answer.type_url);
        for one in answer.resources {
            let name = first_field(&one.value).unwrap_or_default().to_owned();
            let version = answer.version_info.clone();
            self.take(type_url, &name, version, &one.value, reports);
        }
    }

    fn take(
        &mut self,
        type_url: &'static str,
        name: &str,
        version: String,
        value: &[u8],
        Reports { board, tally }: Reports<'_>,
    ) {
        tally.resources.fetch_add(1, Ordering::Relaxed);
        tally.bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
        if type_url == EDS
            && let (Some(service), Some(number)) = (mesh::service_of(name), mesh::change_in(value))
            && let Some(heard) = self.uses.get_mut(&service)
            && number > *heard
        {
            board.arrived(service, *heard, number);
            *heard = number;
        }
        let held = self.held.entry(type_url).or_default();
        held.insert(name.to_owned(), version);
    }

    fn has_all(&self) -> bool {
        let wanted = self.wanted().into_iter();
        // Virtual hosts come to delta clients only.
        let mut wanted =
            wanted.filter(|(type_url, _)| *type_url != VHDS || self.protocol == Protocol::Delta);
        wanted.all(|(type_url, names)| {
            let held = self.held.get(type_url);
            held.is_some_and(|held| {
                !held.is_empty() && names.iter().all(|name| held.contains_key(name))
            })
        })
    }

    /// By type, in this order. No names = all there are.
    fn wanted(&self) -> [(&'static str, BTreeSet<String>); 6] {
        let clusters = || {
            let uses = self.uses.keys();
            uses.map(|service| mesh::cluster(*service, self.namespaces))
                .collect()
        };
        let hosts = self.uses.keys().map(|service| {
            let authority = mesh::authority(*service, self.namespaces);
            format!("http_proxy/{authority}")
        });
        [
            (CDS, clusters()),
            (EDS, clusters()),
            (SDS, ["ROOTCA".to_owned()].into()),
            (RDS, ["http_proxy".to_owned()].into()),
            (VHDS, hosts.collect()),
            (LDS, BTreeSet::new()),
        ]
    }

    fn node(&self) -> Node {
        let (number, namespace) = (self.number, format!("n-{}", self.namespace));
        let text = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        let own = [
            ("HTTP_PROXY", text("127.0.0.1:15080")),
            (
                "ON_DEMAND",
                Value {
                    kind: Some(Kind::BoolValue(true)),
                },
            ),
        ];
        let metadata = [
            ("NAMESPACE", text(&namespace)),
            ("SERVICE_ACCOUNT", text("client")),
            (
                "LABELS",
                Value {
                    kind: Some(Kind::StructValue(object([("app", text("client"))]))),
                },
            ),
            (
                "OUTRIGGER",
                Value {
                    kind: Some(Kind::StructValue(object(own))),
                },
            ),
        ];
        Node {
            id: format!(
                "sidecar~10.9.0.1~client-{number}.{namespace}~{namespace}.svc.cluster.local"
            ),
            cluster: format!("client.{namespace}"),
            user_agent_name: "outrigger".to_owned(),
            metadata: Some(object(metadata)),
            ..Node::default()
        }
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    let fields = fields.into_iter();
    Struct {
        fields: fields.map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

fn known(type_url: &str) -> &'static str {
    let all = [CDS, EDS, SDS, LDS, RDS, VHDS];
    all.into_iter()
        .find(|known| *known == type_url)
        .unwrap_or_default()
}

/// Field 1, a string, if the message begins with it and it is shorter than 128 bytes.
fn first_field(message: &[u8]) -> Option<&str> {
    let [10, length, rest @ ..] = message else {
        return None;
    };
    std::str::from_utf8(rest.get(..usize::from(*length))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_is_the_name() {
        assert_eq!(first_field(b"\x0a\x02ab\x12\x01c"), Some("ab"));
        assert_eq!(first_field(b"\x0a\x09ab"), None);
        assert_eq!(first_field(b""), None);
    }
}
