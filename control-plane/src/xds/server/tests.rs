//! Real streams over loopback: tonic's client, our services, Worlds from a watch channel.

use std::collections::BTreeMap;

use outrigger_proto::envoy::service::{
    cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient,
    discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    route::v3::virtual_host_discovery_service_client::VirtualHostDiscoveryServiceClient,
};
use outrigger_proto::{
    envoy::{
        config::{self, core::v3::Node},
        service::status::v3::{
            ClientStatusRequest, ConfigStatus,
            client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
            client_status_discovery_service_server::ClientStatusDiscoveryServiceServer,
        },
        r#type::matcher::v3::{
            NodeMatcher, StringMatcher, StructMatcher, ValueMatcher,
            string_matcher::MatchPattern,
            struct_matcher::{PathSegment, path_segment::Segment},
            value_matcher,
        },
    },
    google,
};
use prometheus::Registry;
use prost_types::{Struct, Value, value::Kind};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code,
    service::{InterceptorLayer, Routes},
    transport::{Channel, Server as TonicServer},
};

use super::*;
use crate::{push, translate::testing::Given, world::World, xds::holdings::StatusService};

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";

fn reviews() -> Given {
    Given::default().instance("reviews", 9080, "v1", "10.0.0.1:15006")
}

/// A control plane's xDS side, for callers of one kind.
struct Server {
    worlds: watch::Sender<Arc<World>>,
    pushed: watch::Receiver<Arc<Pushed>>,
    clients: Arc<Clients>,
    metrics: XdsMetrics,
    channel: Channel,
    tasks: JoinSet<()>,
}

impl Server {
    async fn start(given: &Given, caller: Caller) -> Self {
        let (worlds, world) = watch::channel(Arc::new(given.world()));
        let (pushes, push) = push::start(world);
        let clients = Arc::new(Clients::default());
        let metrics = XdsMetrics::new(&Registry::new()).unwrap();
        let pushed = pushes.newest.clone();
        let xds = Xds::new(pushes, Arc::clone(&clients), metrics.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identify = InterceptorLayer::new(move |mut request: Request<()>| {
            request.extensions_mut().insert(caller.clone());
            Ok(request)
        });
        let holdings = StatusService(Arc::clone(&clients));
        let holdings = ClientStatusDiscoveryServiceServer::new(holdings);
        let routes = xds.add_services(Routes::default()).add_service(holdings);
        let server = TonicServer::builder().layer(identify).add_routes(routes);
        let mut tasks = JoinSet::new();
        tasks.spawn(push);
        tasks.spawn(async move {
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap();
        Self {
            worlds,
            pushed,
            clients,
            metrics,
            channel,
            tasks,
        }
    }

    fn resources_sent(&self) -> u64 {
        let of = |kind: ResourceType| {
            self.metrics
                .resources_sent
                .with_label_values(&[kind.short()])
        };
        ResourceType::ALL
            .into_iter()
            .map(|kind| of(kind).get())
            .sum()
    }

    async fn delta(&self) -> DeltaClient {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone());
        let stream = client
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await;
        DeltaClient {
            requests,
            answers: stream.unwrap().into_inner(),
            held: BTreeMap::new(),
        }
    }

    /// How a stream ends whose first request carries `node`.
    async fn refusal(&self, node: Option<Node>) -> Status {
        let (requests, receiver) = mpsc::channel(16);
        let request = DeltaDiscoveryRequest {
            node,
            type_url: Cluster.url().into(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(request).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone());
        match client
            .delta_aggregated_resources(ReceiverStream::new(receiver))
            .await
        {
            Ok(stream) => stream.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        }
    }
}

/// An incremental client that remembers what it holds.
struct DeltaClient {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
    held: BTreeMap<ResourceType, BTreeMap<String, String>>,
}

impl DeltaClient {
    async fn subscribe(&self, kind: ResourceType, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            node: Some(node("default", "frontend")),
            type_url: kind.url().into(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            initial_resource_versions: self.held.get(&kind).cloned().unwrap_or_default(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// Takes the next answer: its type and the names in it.
    async fn next(&mut self) -> (ResourceType, Vec<String>) {
        let answer = self.answers.message().await.unwrap().unwrap();
        let kind = ResourceType::from_url(&answer.type_url).unwrap();
        let held = self.held.entry(kind).or_default();
        let names = answer
            .resources
            .iter()
            .map(|one| one.name.clone())
            .collect();
        held.extend(
            answer
                .resources
                .into_iter()
                .map(|one| (one.name, one.version)),
        );
        let ack = DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(ack).await.unwrap();
        (kind, names)
    }
}

fn node(namespace: &str, account: &str) -> Node {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    let proxy = Struct {
        fields: [("HTTP_PROXY".to_owned(), text("127.0.0.1:15080"))].into(),
    };
    let proxy = Value {
        kind: Some(Kind::StructValue(proxy)),
    };
    let fields = [
        ("NAMESPACE".to_owned(), text(namespace)),
        ("SERVICE_ACCOUNT".to_owned(), text(account)),
        ("OUTRIGGER".to_owned(), proxy),
    ];
    Node {
        id: format!("sidecar~10.0.0.9~{account}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct {
            fields: fields.into(),
        }),
        user_agent_name: "outrigger".into(),
        ..Node::default()
    }
}

fn workload(namespace: &str, account: &str) -> Caller {
    Caller::Workload(SpiffeId::new("cluster.local", namespace, account).unwrap())
}

use ResourceType::{Cluster, Endpoint, Listener, Route, Secret};

/// Subscribes to all that a sidecar needs, in a sidecar's order.
async fn bootstrap(client: &mut DeltaClient) {
    client.subscribe(Cluster, &["*"]).await;
    assert_eq!(client.next().await, (Cluster, vec![REVIEWS.to_owned()]));
    client.subscribe(Secret, &["ROOTCA"]).await;
    assert_eq!(client.next().await, (Secret, vec!["ROOTCA".to_owned()]));
    client.subscribe(Endpoint, &[REVIEWS]).await;
    assert_eq!(client.next().await, (Endpoint, vec![REVIEWS.to_owned()]));
    client.subscribe(Listener, &["*"]).await;
    assert_eq!(
        client.next().await,
        (Listener, vec!["http_proxy".to_owned()])
    );
    client.subscribe(Route, &["http_proxy"]).await;
    assert_eq!(client.next().await, (Route, vec!["http_proxy".to_owned()]));
}

#[tokio::test]
async fn after_a_restart_nothing_unchanged_is_sent_again() {
    let given = reviews();
    let before = Server::start(&given, workload("default", "frontend")).await;
    let mut client = before.delta().await;
    bootstrap(&mut client).await;
    assert_eq!(before.resources_sent(), 5);
    let held = client.held;
    drop(before);

    let after = Server::start(&given, workload("default", "frontend")).await;
    let mut client = DeltaClient {
        held,
        ..after.delta().await
    };
    for (kind, names) in [
        (Endpoint, &[REVIEWS]),
        (Secret, &["ROOTCA"]),
        (Route, &["http_proxy"]),
        (Cluster, &["*"]),
        (Listener, &["*"]),
    ] {
        client.subscribe(kind, names).await;
    }
    // The answers to both wildcards come last and say that there is no more.
    assert_eq!(client.next().await, (Cluster, vec![]));
    assert_eq!(client.next().await, (Listener, vec![]));
    assert_eq!(after.resources_sent(), 0);

    let given = given.instance("reviews", 9080, "v2", "10.0.0.2:15006");
    after.worlds.send_replace(Arc::new(given.world()));
    assert_eq!(client.next().await, (Endpoint, vec![REVIEWS.to_owned()]));
    assert_eq!(after.resources_sent(), 1);
}

#[tokio::test]
async fn a_change_of_policy_reaches_an_open_stream() {
    let server = Server::start(&reviews(), Caller::Plaintext).await;
    let mut client = server.delta().await;
    bootstrap(&mut client).await;
    let canary = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: canary}
spec:
  hosts: [reviews]
  http: [{timeout: 1s, route: [{destination: {host: reviews}}]}]
";
    let given = reviews().policy("canary.yaml", canary);
    server.worlds.send_replace(Arc::new(given.world()));
    assert_eq!(client.next().await, (Route, vec!["http_proxy".to_owned()]));
}

#[tokio::test]
async fn a_client_is_shown_as_far_as_it_has_got() {
    let server = Server::start(&reviews(), workload("default", "frontend")).await;
    let mut client = server.delta().await;
    client.subscribe(Cluster, &["*"]).await;
    client.next().await;
    // An answered second request proves that the ACK before it has been read.
    client.subscribe(Secret, &["ROOTCA"]).await;
    client.next().await;
    let status = server.clients.status();
    let identity = "spiffe://cluster.local/ns/default/sa/frontend";
    assert_eq!(
        (status[0].identity.as_str(), status[0].protocol.as_str()),
        (identity, "delta")
    );
    let clusters = status[0]
        .types
        .iter()
        .find(|one| one.type_url == Cluster.url())
        .unwrap();
    assert_eq!(
        (clusters.sent, &clusters.nonce_acked),
        (1, &clusters.nonce_sent)
    );
    drop(client);
    drop(server.channel);
    while server.clients.len() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_workload_is_served_as_itself_only() {
    let server = Server::start(&reviews(), workload("default", "frontend")).await;
    for (namespace, account) in [("shop", "frontend"), ("default", "reviews")] {
        let status = server.refusal(Some(node(namespace, account))).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    let mut client = server.delta().await;
    client.subscribe(Cluster, &["*"]).await;
    assert_eq!(client.next().await, (Cluster, vec![REVIEWS.to_owned()]));
}

#[tokio::test]
async fn a_node_with_endless_text_is_refused() {
    let server = Server::start(&reviews(), Caller::Operator).await;
    let long = Node {
        id: "x".repeat(1025),
        ..node("default", "frontend")
    };
    let status = server.refusal(Some(long)).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("1025 bytes"), "{status}");

    let mut labelled = node("default", "frontend");
    let labels = (0..257).map(|n| (n.to_string(), Value::from("v")));
    let labels = Value {
        kind: Some(Kind::StructValue(Struct {
            fields: labels.collect(),
        })),
    };
    let metadata = labelled.metadata.as_mut().unwrap();
    metadata.fields.insert("LABELS".into(), labels);
    let status = server.refusal(Some(labelled)).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("257 labels"), "{status}");
}

#[tokio::test]
async fn the_operator_may_be_any_node() {
    let server = Server::start(&reviews(), Caller::Operator).await;
    let mut client = server.delta().await;
    client.subscribe(Cluster, &["*"]).await;
    assert_eq!(client.next().await, (Cluster, vec![REVIEWS.to_owned()]));
}

#[tokio::test]
async fn nobody_is_served_nothing() {
    let server = Server::start(&reviews(), Caller::Anonymous).await;
    let status = server.refusal(Some(node("default", "frontend"))).await;
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_node_that_makes_no_sense_is_told_why() {
    let server = Server::start(&reviews(), Caller::Operator).await;
    let mut bad = node("default", "frontend");
    let own = bad
        .metadata
        .as_mut()
        .unwrap()
        .fields
        .get_mut("OUTRIGGER")
        .unwrap();
    let Some(Kind::StructValue(own)) = &mut own.kind else {
        panic!()
    };
    let text = Value {
        kind: Some(Kind::StringValue("15080".into())),
    };
    own.fields.insert("HTTP_PROXY".into(), text);
    let status = server.refusal(Some(bad)).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().contains("HTTP_PROXY is \"15080\""),
        "{status}"
    );
    let status = server.refusal(None).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("node"), "{status}");
}

#[tokio::test]
async fn a_grpc_library_has_a_listener_for_what_it_calls_and_is_shown_as_one() {
    let server = Server::start(&reviews(), Caller::Operator).await;
    let mut client = AggregatedDiscoveryServiceClient::new(server.channel.clone());
    let request = DiscoveryRequest {
        node: Some(Node {
            user_agent_name: "gRPC C-core".into(),
            ..node("default", "x")
        }),
        type_url: Listener.url().into(),
        resource_names: vec!["reviews:9080".into()],
        ..DiscoveryRequest::default()
    };
    let (requests, receiver) = mpsc::channel(1);
    requests.send(request).await.unwrap();
    let stream = client
        .stream_aggregated_resources(ReceiverStream::new(receiver))
        .await
        .unwrap();
    let answer = stream.into_inner().message().await.unwrap().unwrap();
    assert_eq!(answer.resources.len(), 1);
    assert_eq!(server.clients.status()[0].dialect, "grpc");
}

#[tokio::test]
async fn per_type_services_serve_their_type_in_both_protocols() {
    let server = Server::start(&reviews(), Caller::Operator).await;
    let mut client = ClusterDiscoveryServiceClient::new(server.channel.clone());

    // A per-type request need not name its type.
    let request = DiscoveryRequest {
        node: Some(node("default", "x")),
        ..DiscoveryRequest::default()
    };
    let (requests, receiver) = mpsc::channel(1);
    requests.send(request).await.unwrap();
    let stream = client
        .stream_clusters(ReceiverStream::new(receiver))
        .await
        .unwrap();
    let answer = stream.into_inner().message().await.unwrap().unwrap();
    assert_eq!(
        (answer.type_url.as_str(), answer.resources.len()),
        (Cluster.url(), 1)
    );

    let request = DeltaDiscoveryRequest {
        node: Some(node("default", "x")),
        type_url: Route.url().into(),
        ..DeltaDiscoveryRequest::default()
    };
    let (requests, receiver) = mpsc::channel(1);
    requests.send(request).await.unwrap();
    let stream = client
        .delta_clusters(ReceiverStream::new(receiver))
        .await
        .unwrap();
    let status = stream.into_inner().message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "and no other");
}

#[tokio::test]
async fn virtual_hosts_come_by_the_authority_of_a_request() {
    let server = Server::start(&reviews(), Caller::Operator).await;
    let mut client = VirtualHostDiscoveryServiceClient::new(server.channel.clone());
    let (requests, receiver) = mpsc::channel(1);
    let request = DeltaDiscoveryRequest {
        node: Some(node("default", "x")),
        resource_names_subscribe: vec![
            "http_proxy/reviews:9080".into(),
            "http_proxy/nobody:80".into(),
        ],
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(request).await.unwrap();
    let stream = client
        .delta_virtual_hosts(ReceiverStream::new(receiver))
        .await
        .unwrap();
    let answer = stream.into_inner().message().await.unwrap().unwrap();
    let seen = answer.resources.iter().map(|one| {
        assert!(one.aliases.contains(&one.name), "what Envoy waits for");
        (one.name.as_str(), one.resource.is_some())
    });
    let seen: BTreeMap<_, _> = seen.collect();
    let expected = [
        ("http_proxy/nobody:80", false),
        ("http_proxy/reviews:9080", true),
    ];
    assert_eq!(seen, expected.into());
    assert_eq!(answer.removed_resources, Vec::<String>::new());
}

#[tokio::test]
async fn the_operator_reads_what_every_client_holds_and_refuses() {
    let server = Server::start(&reviews(), Caller::Operator).await;
    let mut good = server.delta().await;
    bootstrap(&mut good).await;
    let bad = server.delta().await;
    let node = Some(node("default", "bad"));
    let request = DeltaDiscoveryRequest {
        node,
        type_url: Cluster.url().into(),
        ..DeltaDiscoveryRequest::default()
    };
    bad.requests.send(request.clone()).await.unwrap();
    let mut answers = bad.answers;
    let answer = answers.message().await.unwrap().unwrap();
    let refusal = DeltaDiscoveryRequest {
        response_nonce: answer.nonce,
        error_detail: Some(google::rpc::Status {
            message: "no such balancer".into(),
            ..google::rpc::Status::default()
        }),
        ..request
    };
    bad.requests.send(refusal).await.unwrap();

    let mut client = ClientStatusDiscoveryServiceClient::new(server.channel.clone());
    let one = |account: &str| ClientStatusRequest {
        node_matchers: vec![NodeMatcher {
            node_id: Some(StringMatcher {
                match_pattern: Some(MatchPattern::Contains(format!("~{account}."))),
                ..StringMatcher::default()
            }),
            ..NodeMatcher::default()
        }],
        ..ClientStatusRequest::default()
    };
    // The refusal is on its way: another stream's.
    let refused = loop {
        let status = client.fetch_client_status(one("bad")).await.unwrap();
        let config = status.into_inner().config.remove(0);
        let resource = config.generic_xds_configs[0].clone();
        if resource.config_status() != ConfigStatus::Stale {
            break resource;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.config_status(), ConfigStatus::Error);
    assert_eq!(refused.error_state.unwrap().details, "no such balancer");

    let status = client.fetch_client_status(one("frontend")).await.unwrap();
    let held = &status.get_ref().config[0].generic_xds_configs;
    let cluster = held
        .iter()
        .find(|one| one.name == REVIEWS && one.type_url == Cluster.url());
    let cluster = cluster.unwrap();
    assert_eq!(cluster.config_status(), ConfigStatus::Synced);
    assert!(cluster.xds_config.is_some() && !cluster.version_info.is_empty());
    let updated = SystemTime::try_from(cluster.last_updated.unwrap()).unwrap();
    assert!(updated <= SystemTime::now());
    let everybody = client.fetch_client_status(ClientStatusRequest::default());
    assert_eq!(everybody.await.unwrap().get_ref().config.len(), 2);

    let account = StructMatcher {
        path: vec![PathSegment {
            segment: Some(Segment::Key("SERVICE_ACCOUNT".into())),
        }],
        value: Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(StringMatcher {
                match_pattern: Some(MatchPattern::Exact("bad".into())),
                ..StringMatcher::default()
            })),
        }),
    };
    let by_metadata = ClientStatusRequest {
        node_matchers: vec![NodeMatcher {
            node_metadatas: vec![account],
            ..NodeMatcher::default()
        }],
        ..ClientStatusRequest::default()
    };
    let status = client.fetch_client_status(by_metadata).await.unwrap();
    let config = &status.get_ref().config;
    assert_eq!(config.len(), 1);
    assert!(config[0].node.as_ref().unwrap().id.contains("~bad."));
    let unreadable = client.fetch_client_status(ClientStatusRequest {
        node_matchers: vec![NodeMatcher {
            node_metadatas: vec![StructMatcher::default()],
            ..NodeMatcher::default()
        }],
        ..ClientStatusRequest::default()
    });
    assert_eq!(unreadable.await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_workload_does_not_read_what_others_hold() {
    let server = Server::start(&reviews(), workload("default", "frontend")).await;
    let mut client = ClientStatusDiscoveryServiceClient::new(server.channel.clone());
    let status = client.fetch_client_status(ClientStatusRequest::default());
    assert_eq!(status.await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn streams_end_when_the_control_plane_stops() {
    let mut server = Server::start(&reviews(), Caller::Operator).await;
    let mut client = server.delta().await;
    client.subscribe(Cluster, &["*"]).await;
    client.next().await;
    // Translation ends with the last World; what is served goes on until then.
    drop(server.worlds);
    let _ended = server.tasks.join_next().await;
    let status = client.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let server = Server::start(&reviews(), Caller::Operator).await;
    let mut client = server.delta().await;
    tokio::time::pause();
    let status = client.answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_node_of_too_many_structs_inside_each_other_ends_the_stream_in_words() {
    let server = Server::start(&reviews(), Caller::Operator).await;
    let mut deep = Struct::default();
    for _ in 0..500 {
        let inner = Value {
            kind: Some(Kind::StructValue(deep)),
        };
        deep = Struct {
            fields: [("OUTRIGGER".to_owned(), inner)].into(),
        };
    }
    let refusal = server
        .refusal(Some(Node {
            metadata: Some(deep),
            ..node("default", "frontend")
        }))
        .await;
    assert!(refusal.message().contains("recursion limit"), "{refusal}");
    // The next one is served.
    let mut client = server.delta().await;
    bootstrap(&mut client).await;
}

/// The clusters of the first answer to a client of the state of the world with this version, and their version.
async fn all_clusters(server: &Server, version: &str) -> (Vec<String>, String) {
    let (requests, receiver) = mpsc::channel(1);
    let request = DiscoveryRequest {
        node: Some(node("default", "frontend")),
        type_url: Cluster.url().into(),
        version_info: version.to_owned(),
        ..DiscoveryRequest::default()
    };
    requests.send(request).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(server.channel.clone());
    let answers = client.stream_aggregated_resources(ReceiverStream::new(receiver));
    let mut answers = answers.await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let clusters = answer.resources.iter().map(|one| {
        let cluster = config::cluster::v3::Cluster::decode(one.value.as_slice()).unwrap();
        cluster.name
    });
    (clusters.collect(), answer.version_info)
}

#[tokio::test]
async fn a_client_keeps_what_went_while_the_control_plane_was_restarted() {
    let before = Server::start(&reviews(), Caller::Operator).await;
    let (_, version) = all_clusters(&before, "").await;
    drop(before);

    let mut after = Server::start(&reviews(), Caller::Operator).await;
    let mut pushed = after.pushed.clone();
    let ratings = Given::default().instance("ratings", 9080, "v1", "10.0.0.3:15006");
    after.worlds.send_replace(Arc::new(ratings.world()));
    pushed.changed().await.unwrap();
    let ratings = REVIEWS.replace("reviews", "ratings");
    let (clusters, _) = all_clusters(&after, &version).await;
    assert_eq!(clusters, [ratings.clone(), REVIEWS.to_owned()]);
    let (clusters, _) = all_clusters(&after, "of somebody else").await;
    assert_eq!(clusters, [ratings]);
    let returns = |set| after.metrics.returns.with_label_values(&[set]).get();
    assert_eq!((returns("known"), returns("unknown")), (1, 1));
    after.tasks.shutdown().await;
}
