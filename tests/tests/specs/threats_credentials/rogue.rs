//! A workload of the mesh that wants what is not its own.

use outrigger_proto::{
    envoy::{
        config::core::v3::Node,
        service::{
            discovery::v3::{
                DeltaDiscoveryRequest, DiscoveryRequest,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
            load_stats::v3::{
                LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient,
            },
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
            status::v3::{
                ClientStatusRequest,
                client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
            },
        },
    },
    outrigger::v1::{
        DeregisterRequest, HeartbeatRequest, LeaseRequest, RegisterRequest, StatusRequest,
        admin_client::AdminClient, quota_client::QuotaClient, registry_client::RegistryClient,
    },
};
use prost_types::{Struct, Value, value::Kind};
use tonic::Streaming;

use super::*;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

fn node(namespace: &str, service_account: &str) -> Option<Node> {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let fields = [
        ("NAMESPACE".to_owned(), text(namespace)),
        ("SERVICE_ACCOUNT".to_owned(), text(service_account)),
    ];
    Some(Node {
        id: format!("sidecar~127.0.0.1~x.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct {
            fields: fields.into(),
        }),
        ..Node::default()
    })
}

fn once<T: Send + 'static>(message: T) -> impl futures_util::Stream<Item = T> + Send + 'static {
    use futures_util::StreamExt as _;
    // The stream stays open: what ends it is the server's refusal.
    futures_util::stream::once(async { message }).chain(futures_util::stream::pending())
}

async fn denied<T: std::fmt::Debug>(
    what: &str,
    opened: Result<tonic::Response<Streaming<T>>, Status>,
) {
    let status = match opened {
        Err(status) => status,
        Ok(stream) => {
            let mut stream = stream.into_inner();
            let next = tokio::time::timeout(Duration::from_secs(30), stream.message());
            next.await.expect("an answer").expect_err(what)
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_claims_to_be_another_is_told_nothing_over_any_stream() {
    let mesh = Mesh::start().await;
    let rogue = WorkloadIdentity::join(&mesh, "shopper").await;
    let channel = mesh.channel(Some(&rogue)).await;
    for (namespace, account) in [
        ("default", "reviews"),
        ("other", "shopper"),
        ("outrigger-system", "control-plane"),
    ] {
        let sotw = DiscoveryRequest {
            node: node(namespace, account),
            type_url: CLUSTER.to_owned(),
            ..DiscoveryRequest::default()
        };
        let delta = DeltaDiscoveryRequest {
            node: node(namespace, account),
            type_url: CLUSTER.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        let mut ads = AggregatedDiscoveryServiceClient::new(channel.clone());
        denied(
            "ADS",
            ads.stream_aggregated_resources(once(sotw.clone())).await,
        )
        .await;
        denied(
            "delta ADS",
            ads.delta_aggregated_resources(once(delta.clone())).await,
        )
        .await;
        let mut sds = SecretDiscoveryServiceClient::new(channel.clone());
        let secrets = DiscoveryRequest {
            type_url: SECRET.to_owned(),
            ..sotw
        };
        denied("SDS", sds.stream_secrets(once(secrets)).await).await;
        let secrets = DeltaDiscoveryRequest {
            type_url: SECRET.to_owned(),
            ..delta
        };
        denied("delta SDS", sds.delta_secrets(once(secrets)).await).await;
        let load = LoadStatsRequest {
            node: node(namespace, account),
            ..LoadStatsRequest::default()
        };
        let mut lrs = LoadReportingServiceClient::new(channel.clone());
        denied("LRS", lrs.stream_load_stats(once(load)).await).await;
        let lease = LeaseRequest {
            node: node(namespace, account),
            process: 1,
            sequence: 1,
            ..LeaseRequest::default()
        };
        let mut quota = QuotaClient::new(channel.clone());
        denied("shares of limits", quota.lease(once(lease)).await).await;
    }
    // What all clients hold is the operator's to see.
    let mut csds = ClientStatusDiscoveryServiceClient::new(channel.clone());
    let held = csds
        .stream_client_status(once(ClientStatusRequest::default()))
        .await;
    denied("CSDS", held).await;
    let fetched = csds
        .fetch_client_status(ClientStatusRequest::default())
        .await;
    refused(fetched, Code::PermissionDenied, "");
    let status = AdminClient::new(channel)
        .status(StatusRequest::default())
        .await;
    refused(status, Code::PermissionDenied, "is a workload");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_served_no_key_by_the_control_plane_not_even_its_own() {
    let mesh = Mesh::start().await;
    let shopper = WorkloadIdentity::join(&mesh, "shopper").await;
    let mut sds = SecretDiscoveryServiceClient::new(mesh.channel(Some(&shopper)).await);
    let names = [
        "default",
        "ROOTCA",
        "reviews",
        "spiffe://cluster.local/ns/default/sa/reviews",
    ];
    let request = DeltaDiscoveryRequest {
        node: node("default", "shopper"),
        type_url: SECRET.to_owned(),
        resource_names_subscribe: names.map(str::to_owned).to_vec(),
        ..DeltaDiscoveryRequest::default()
    };
    let stream = sds.delta_secrets(once(request)).await.unwrap();
    let answer = stream.into_inner().message().await.unwrap().unwrap();
    let served: Vec<&str> = answer
        .resources
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(served, ["ROOTCA"], "{answer:?}");
    assert_eq!(answer.removed_resources.len(), 3);
    let text = format!("{answer:?}");
    assert!(!text.contains("PRIVATE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_registers_and_removes_its_own_service_only() {
    let mesh = Mesh::start().await;
    let rogue = WorkloadIdentity::join(&mesh, "shopper").await;
    let mut registry = RegistryClient::new(mesh.channel(Some(&rogue)).await);
    let register = RegisterRequest {
        service: "reviews".to_owned(),
        namespace: "default".to_owned(),
        instance_id: "a".to_owned(),
        address: "127.0.0.1".to_owned(),
        port: 9080,
        ..RegisterRequest::default()
    };
    refused(
        registry.register(register).await,
        Code::PermissionDenied,
        "may register",
    );
    let heartbeat = HeartbeatRequest {
        service: "reviews".to_owned(),
        namespace: "default".to_owned(),
        instance_id: "a".to_owned(),
        ..HeartbeatRequest::default()
    };
    refused(
        registry.heartbeat(heartbeat).await,
        Code::PermissionDenied,
        "may register",
    );
    let remove = DeregisterRequest {
        service: "reviews".to_owned(),
        namespace: "default".to_owned(),
        instance_id: "a".to_owned(),
    };
    refused(
        registry.deregister(remove).await,
        Code::PermissionDenied,
        "may register",
    );
}
