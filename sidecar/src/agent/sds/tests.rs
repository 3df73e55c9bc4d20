use std::os::unix::fs::PermissionsExt as _;

use hyper_util::rt::TokioIo;
use outrigger_proto::envoy::{
    extensions::transport_sockets::tls::v3::{Secret, secret},
    service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};

use super::*;

fn material(certificate: &str, roots: &str) -> Arc<Material> {
    Arc::new(Material {
        certificate: certificate.to_owned(),
        key: format!("key of {certificate}"),
        roots: roots.to_owned(),
    })
}

fn asks(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

fn subscribes(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn names(response: &DiscoveryResponse) -> Vec<String> {
    let secrets = response.resources.iter();
    secrets
        .map(|any| Secret::decode(any.value.as_slice()).unwrap().name)
        .collect()
}

#[test]
fn a_stream_is_sent_what_it_asks_for_and_again_what_is_new() {
    let mut form = Sotw::default();
    assert!(form.next(&material("c1", "r1")).is_none());
    form.take(asks(&["default"]));
    let first = form.next(&material("c1", "r1")).unwrap();
    assert_eq!(names(&first), ["default"]);
    let ack = DiscoveryRequest {
        response_nonce: first.nonce.clone(),
        version_info: first.version_info.clone(),
        ..asks(&["default"])
    };
    assert!(matches!(form.take(ack.clone()), Turn::Acked));
    assert!(form.next(&material("c1", "r1")).is_none());
    // Other roots are not its business.
    assert!(form.next(&material("c1", "r2")).is_none());
    let second = form.next(&material("c2", "r2")).unwrap();
    assert_ne!(second.version_info, first.version_info);
    // An ACK that is late changes nothing.
    assert!(matches!(form.take(ack), Turn::Nothing));
    assert!(form.next(&material("c2", "r2")).is_none());
}

#[test]
fn what_is_refused_is_not_sent_again_and_what_is_newer_is() {
    let mut form = Sotw::default();
    form.take(asks(&["ROOTCA"]));
    let first = form.next(&material("c1", "r1")).unwrap();
    let nack = DiscoveryRequest {
        response_nonce: first.nonce,
        error_detail: Some(outrigger_proto::google::rpc::Status {
            message: "no".to_owned(),
            ..Default::default()
        }),
        ..asks(&["ROOTCA"])
    };
    assert!(matches!(form.take(nack), Turn::Refused(message) if message == "no"));
    assert!(form.next(&material("c1", "r1")).is_none());
    assert!(form.next(&material("c1", "r2")).is_some());
}

#[test]
fn the_incremental_form_tells_what_is_not_there_once() {
    let mut form = Delta::default();
    form.take(subscribes(&["default", "ROOTCA", "kubernetes://other"]));
    let first = form.next(&material("c1", "r1")).unwrap();
    assert_eq!(first.resources.len(), 2);
    assert_eq!(first.removed_resources, ["kubernetes://other"]);
    form.take(DeltaDiscoveryRequest {
        response_nonce: first.nonce,
        ..subscribes(&[])
    });
    assert!(form.next(&material("c1", "r1")).is_none());
    let second = form.next(&material("c1", "r2")).unwrap();
    assert_eq!(second.resources.len(), 1);
    assert_eq!(second.resources[0].name, "ROOTCA");
}

#[test]
fn who_comes_back_is_sent_only_what_it_does_not_have() {
    let mut form = Delta::default();
    form.take(subscribes(&["default", "ROOTCA"]));
    let first = form.next(&material("c1", "r1")).unwrap();
    let mut again = Delta::default();
    again.take(DeltaDiscoveryRequest {
        initial_resource_versions: first
            .resources
            .iter()
            .map(|one| (one.name.clone(), one.version.clone()))
            .collect(),
        ..subscribes(&["default", "ROOTCA"])
    });
    assert!(again.next(&material("c1", "r1")).is_none());
    assert_eq!(
        again.next(&material("c2", "r1")).unwrap().resources.len(),
        1
    );
}

#[test]
fn nothing_but_secrets_is_served() {
    let clusters = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
    let request = DiscoveryRequest {
        type_url: clusters,
        ..asks(&[])
    };
    assert!(matches!(Sotw::default().take(request), Turn::Wrong(_)));
    let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(Sotw::default().take(asks(&many)), Turn::Wrong(_)));
    assert!(matches!(
        Delta::default().take(subscribes(&many)),
        Turn::Wrong(_)
    ));
}

async fn client(path: PathBuf) -> SecretDiscoveryServiceClient<Channel> {
    let connect = tower::service_fn(move |_uri: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await;
    SecretDiscoveryServiceClient::new(channel.unwrap())
}

#[tokio::test]
async fn the_socket_is_its_owners_and_serves_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET);
    let listener = bind(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (sender, current) = watch::channel(Some(material("c1", "r1")));
    tokio::spawn(Secrets::new(current, &Registry::new()).serve(listener));
    let mut client = client(path.clone()).await;

    let fetched = client.fetch_secrets(asks(&["default"])).await.unwrap();
    let secret = Secret::decode(fetched.into_inner().resources[0].value.as_slice()).unwrap();
    let Some(secret::Type::TlsCertificate(own)) = secret.r#type else {
        panic!("no certificate");
    };
    let key = own.private_key.unwrap().specifier.unwrap();
    assert!(format!("{key:?}").contains("InlineBytes"));
    let absent = client.fetch_secrets(asks(&["other"])).await.unwrap_err();
    assert_eq!(absent.code(), tonic::Code::NotFound);

    let (requests, receiver) = mpsc::channel(1);
    requests.send(asks(&["default"])).await.unwrap();
    let mut responses = client
        .stream_secrets(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let first = responses.message().await.unwrap().unwrap();
    // Without being asked.
    sender.send_replace(Some(material("c2", "r1")));
    let second = responses.message().await.unwrap().unwrap();
    assert_ne!(first.version_info, second.version_info);

    // One that was left behind by a killed process is taken over; a file is not.
    drop(bind(&path).unwrap());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    assert!(bind(&path).is_err());
}
