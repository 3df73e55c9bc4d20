//! The client against a scripted management server over real sockets.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::Stream;
use outrigger_proto::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::{
    StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming};

use super::{R, resource};
use crate::{
    Config,
    control::Control,
    identity::IdentityStore,
    settings_for_tests::config,
    shared::Shared,
    vitals::Vitals,
    xds::{
        client::Client,
        engine::Engine,
        state::Kind,
        testing::{assignment, cluster, outbound, routes},
    },
};

type Answers = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

/// One accepted stream: what the client sent, and what it is to be told.
struct Conversation {
    requests: Streaming<DeltaDiscoveryRequest>,
    answers: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

/// Hands every stream to the test.
struct Script(mpsc::Sender<Conversation>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Script {
    type DeltaAggregatedResourcesStream = Answers;
    type StreamAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (answers, queue) = mpsc::channel(16);
        let conversation = Conversation {
            requests: request.into_inner(),
            answers,
        };
        self.0
            .send(conversation)
            .await
            .map_err(|_error| Status::unavailable("test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("the client speaks delta"))
    }
}

impl Conversation {
    async fn heard(&mut self) -> DeltaDiscoveryRequest {
        let heard = timeout(Duration::from_secs(10), self.requests.next()).await;
        heard
            .expect("the client is silent")
            .expect("the client left")
            .expect("a valid request")
    }

    async fn say(&self, kind: Kind, nonce: &str, resources: Vec<super::Resource>) {
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url(),
            nonce: nonce.to_owned(),
            resources,
            ..DeltaDiscoveryResponse::default()
        };
        self.answers.send(Ok(response)).await.unwrap();
    }
}

struct Rig {
    conversations: mpsc::Receiver<Conversation>,
    shared: Arc<Shared>,
    configured: watch::Receiver<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Rig {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (script, conversations) = mpsc::channel(4);
        let server = tokio::spawn(async move {
            let server = tonic::transport::Server::builder()
                .add_service(AggregatedDiscoveryServiceServer::new(Script(script)))
                .serve_with_incoming(TcpListenerStream::new(listener));
            server.await.unwrap();
        });
        let config = Config {
            control_plane: format!("http://{address}"),
            ..config()
        };
        let shared = Shared::new(crate::tls::files::Allowed::default());
        let (configured, watch) = watch::channel(false);
        let client = Client {
            engine: Arc::new(Mutex::new(Engine::new(
                Node {
                    id: "me".to_owned(),
                    ..Node::default()
                },
                true,
            ))),
            control: Arc::new(Control::new(&config, Arc::clone(&shared)).unwrap()),
            store: Arc::new(IdentityStore::new(Arc::clone(&shared))),
            vitals: Arc::new(Vitals::new(&prometheus::Registry::new(), false, false)),
            protocol: crate::XdsProtocol::Delta,
            shares: crate::quota::client::Shares::new(&shared),
            shared: Arc::clone(&shared),
            configured,
        };
        let client = tokio::spawn(client.run());
        Self {
            conversations,
            shared,
            configured: watch,
            tasks: vec![server, client],
        }
    }

    async fn accept(&mut self) -> Conversation {
        let stream = timeout(Duration::from_secs(10), self.conversations.recv()).await;
        stream
            .expect("the client does not come")
            .expect("the server runs")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Plays a whole first configuration.
async fn configure(stream: &mut Conversation) {
    assert_eq!(stream.heard().await.node.unwrap().id, "me");
    stream
        .say(
            Kind::Cluster,
            "c1",
            vec![resource(Kind::Cluster, R, "v1", &cluster(R))],
        )
        .await;
    let eds = stream.heard().await;
    assert_eq!(eds.resource_names_subscribe, [R]);
    assert_eq!(stream.heard().await.resource_names_subscribe, ["ROOTCA"]);
    assert_eq!(stream.heard().await.response_nonce, "c1");
    let endpoints = assignment(R, &[("10.0.0.1", 80)]);
    stream
        .say(
            Kind::Endpoint,
            "e1",
            vec![resource(Kind::Endpoint, R, "v1", &endpoints)],
        )
        .await;
    assert_eq!(stream.heard().await.response_nonce, "e1");
    assert_eq!(stream.heard().await.resource_names_subscribe, ["*"]);
    let listener = outbound("127.0.0.1_9080", "9080");
    stream
        .say(
            Kind::Listener,
            "l1",
            vec![resource(Kind::Listener, "127.0.0.1_9080", "v1", &listener)],
        )
        .await;
    assert_eq!(stream.heard().await.resource_names_subscribe, ["9080"]);
    assert_eq!(stream.heard().await.response_nonce, "l1");
    stream
        .say(
            Kind::Route,
            "r1",
            vec![resource(Kind::Route, "9080", "v1", &routes("9080", R))],
        )
        .await;
    assert_eq!(stream.heard().await.response_nonce, "r1");
}

#[tokio::test]
async fn a_configuration_travels_from_the_server_into_the_snapshot() {
    let mut rig = Rig::start().await;
    let mut stream = rig.accept().await;
    configure(&mut stream).await;
    timeout(
        Duration::from_secs(10),
        rig.configured.wait_for(|done| *done),
    )
    .await
    .unwrap()
    .unwrap();
    let snapshot = rig.shared.snapshot.load();
    assert_eq!(snapshot.clusters().count(), 1);
    assert!(snapshot.listeners.contains_key("127.0.0.1_9080"));
}

#[tokio::test]
async fn a_lost_stream_is_opened_again_with_the_versions_held_and_nothing_stops_serving() {
    let mut rig = Rig::start().await;
    let mut stream = rig.accept().await;
    configure(&mut stream).await;
    stream
        .answers
        .send(Err(Status::unavailable("restarting")))
        .await
        .unwrap();
    drop(stream);
    let mut stream = rig.accept().await;
    let first = stream.heard().await;
    assert_eq!(first.node.unwrap().id, "me");
    assert_eq!(first.initial_resource_versions[R], "v1");
    assert_eq!(stream.heard().await.initial_resource_versions[R], "v1");
    assert_eq!(
        stream.heard().await.initial_resource_versions["127.0.0.1_9080"],
        "v1"
    );
    assert_eq!(stream.heard().await.initial_resource_versions["9080"], "v1");
    assert_eq!(rig.shared.snapshot.load().clusters().count(), 1);
}

#[tokio::test]
async fn a_refusal_names_resource_and_field_to_the_server() {
    let mut rig = Rig::start().await;
    let mut stream = rig.accept().await;
    stream.heard().await;
    let mut bad = cluster(R);
    bad.lb_policy = 99;
    stream
        .say(
            Kind::Cluster,
            "c1",
            vec![resource(Kind::Cluster, R, "v1", &bad)],
        )
        .await;
    let nack = stream.heard().await;
    assert_eq!(nack.response_nonce, "c1");
    assert_eq!(
        nack.error_detail.unwrap().message,
        format!("Cluster {R:?}: lb_policy: 99 is unknown")
    );
}
