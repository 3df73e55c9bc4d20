//! A whole control plane in this process, called over real sockets.

use std::{collections::BTreeMap, sync::Arc};

use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_proto::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
    outrigger::v1::{
        self as api, admin_client::AdminClient, identity_client::IdentityClient,
        registry_client::RegistryClient,
    },
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint, Uri},
};

use super::*;

fn config(dir: &TempDir) -> Config {
    Config {
        plaintext: Some(([127, 0, 0, 1], 0).into()),
        ..Config::for_tests(&dir.path().join("data"))
    }
}

/// What a caller shows.
#[derive(Clone, Debug, Default)]
struct Credential {
    bearer: Option<String>,
    certificate: Option<(CertificateDer<'static>, Vec<u8>)>,
    plaintext: bool,
}

struct Mesh {
    dir: TempDir,
    control_plane: ControlPlane,
}

impl Mesh {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control_plane = ControlPlane::start(config(&dir)).await.unwrap();
        Self { dir, control_plane }
    }

    async fn restart(self) -> Self {
        self.control_plane.stop().await;
        let control_plane = ControlPlane::start(config(&self.dir)).await.unwrap();
        Self {
            dir: self.dir,
            control_plane,
        }
    }

    fn operator(&self) -> Credential {
        let path = self.control_plane.ready().data_dir.join(ADMIN_TOKEN_FILE);
        let token = fs::read_to_string(path).unwrap().trim().to_owned();
        Credential {
            bearer: Some(token),
            ..Credential::default()
        }
    }

    fn plaintext(&self) -> Credential {
        assert!(self.control_plane.ready().plaintext.is_some());
        Credential {
            plaintext: true,
            ..Credential::default()
        }
    }

    async fn token(&self, service_account: &str) -> Credential {
        let request = api::CreateJoinTokenRequest {
            service_account: service_account.into(),
            ..Default::default()
        };
        let mut admin = self.admin(&self.operator()).await;
        let token = admin
            .create_join_token(request)
            .await
            .unwrap()
            .into_inner()
            .token;
        Credential {
            bearer: Some(token),
            ..Credential::default()
        }
    }

    async fn workload(&self, service_account: &str) -> Credential {
        let token = self.token(service_account).await;
        let (key, csr) = csr();
        let mut identity = self.identity(&token).await;
        let issued = identity.issue_certificate(csr).await.unwrap().into_inner();
        let leaf = CertificateDer::from(issued.chain_der[0].clone());
        Credential {
            certificate: Some((leaf, key)),
            ..Credential::default()
        }
    }

    async fn admin(&self, who: &Credential) -> AdminClient<Called> {
        AdminClient::new(self.channel(who).await)
    }

    async fn registry(&self, who: &Credential) -> RegistryClient<Called> {
        RegistryClient::new(self.channel(who).await)
    }

    async fn identity(&self, who: &Credential) -> IdentityClient<Called> {
        IdentityClient::new(self.channel(who).await)
    }

    async fn channel(&self, who: &Credential) -> Called {
        let ready = self.control_plane.ready();
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = if who.plaintext {
            let address = ready.plaintext.unwrap();
            let connect = move |_: Uri| async move {
                Ok::<_, io::Error>(TokioIo::new(TcpStream::connect(address).await?))
            };
            endpoint
                .connect_with_connector(tower::service_fn(connect))
                .await
                .unwrap()
        } else {
            let (address, connector) = (ready.grpc, self.tls(who, b"h2"));
            let connect = move |_: Uri| {
                let connector = connector.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(tls(address, connector).await?)) }
            };
            endpoint
                .connect_with_connector(tower::service_fn(connect))
                .await
                .unwrap()
        };
        let bearer = who
            .bearer
            .as_ref()
            .map(|token| format!("Bearer {token}").parse().unwrap());
        tonic::service::interceptor::InterceptedService::new(channel, Bearer(bearer))
    }

    fn tls(&self, who: &Credential, alpn: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let root = self.control_plane.ready().data_dir.join("root.pem");
        roots
            .add(CertificateDer::from_pem_file(root).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &who.certificate {
            None => builder.with_no_client_auth(),
            Some((leaf, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.clone()));
                builder
                    .with_client_auth_cert(vec![leaf.clone()], key)
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// One HTTP/1.1 request to the JSON registry.
    async fn json(
        &self,
        who: &Credential,
        method: &str,
        path: &str,
        body: &str,
    ) -> (StatusCode, serde_json::Value) {
        let ready = self.control_plane.ready();
        let stream = tls(ready.grpc, self.tls(who, b"http/1.1")).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json");
        if let Some(token) = &who.bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request
            .body(Full::new(bytes::Bytes::from(body.to_owned())))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

type Called = tonic::service::interceptor::InterceptedService<Channel, Bearer>;

#[derive(Clone)]
struct Bearer(Option<MetadataValue<tonic::metadata::Ascii>>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

async fn tls(address: SocketAddr, connector: TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    connector
        .connect("localhost".try_into().unwrap(), stream)
        .await
}

/// A key and a request for a certificate.
fn csr() -> (Vec<u8>, api::IssueCertificateRequest) {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let request = api::IssueCertificateRequest {
        csr_der: csr.der().to_vec(),
        ttl: None,
    };
    (key.serialize_der(), request)
}

fn reviews() -> api::RegisterRequest {
    api::RegisterRequest {
        service: "reviews".into(),
        address: "10.0.0.1".into(),
        port: 9080,
        labels: BTreeMap::from([("version".into(), "v1".into())]),
        mtls: true,
        ..Default::default()
    }
}

const CANARY: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: reviews
spec:
  hosts: [reviews.example.com]
  ports:
  - {number: 9080, name: http, protocol: HTTP}
  resolution: STATIC
  endpoints:
  - address: 10.1.2.3
";

fn canary() -> api::ApplyRequest {
    api::ApplyRequest {
        files: vec![api::SourceFile {
            name: "canary.yaml".into(),
            text: CANARY.into(),
        }],
        ..Default::default()
    }
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn each_cell_of_the_table_of_rights_holds() {
    use Code::{Ok as Yes, PermissionDenied as Forbidden, Unauthenticated as Unknown};
    let mesh = Mesh::start().await;
    let callers = [
        // caller, admin, own service, other service, certificate, xDS
        ("operator", mesh.operator(), [Yes, Yes, Yes, Forbidden, Yes]),
        (
            "plaintext",
            mesh.plaintext(),
            [Yes, Yes, Yes, Forbidden, Yes],
        ),
        (
            "workload",
            mesh.workload("reviews").await,
            [Forbidden, Yes, Forbidden, Yes, Yes],
        ),
        (
            "join token",
            mesh.token("reviews").await,
            [Unknown, Unknown, Unknown, Yes, Unknown],
        ),
        ("nobody", Credential::default(), [Unknown; 5]),
    ];
    for (name, who, expected) in callers {
        let mut admin = mesh.admin(&who).await;
        let mut registry = mesh.registry(&who).await;
        let mut identity = mesh.identity(&who).await;
        let mut xds = AggregatedDiscoveryServiceClient::new(mesh.channel(&who).await);
        let ratings = api::RegisterRequest {
            service: "ratings".into(),
            ..reviews()
        };
        let found = [
            code(admin.status(api::StatusRequest {}).await),
            code(registry.register(reviews()).await),
            code(registry.register(ratings).await),
            code(identity.issue_certificate(csr().1).await),
            code(
                xds.delta_aggregated_resources(tokio_stream::pending::<DeltaDiscoveryRequest>())
                    .await,
            ),
        ];
        assert_eq!(found, expected, "{name}");
        // All calls of a service share their rule.
        let others = [
            code(admin.get(api::GetRequest::default()).await),
            code(admin.apply(api::ApplyRequest::default()).await),
            code(admin.delete(api::DeleteRequest::default()).await),
        ];
        assert_eq!(others, [expected[0]; 3], "{name}");
        let instance_id = "10.0.0.1:9080";
        for (service, expected) in [("reviews", expected[1]), ("ratings", expected[2])] {
            let heartbeat = api::HeartbeatRequest {
                service: service.into(),
                instance_id: instance_id.into(),
                ..Default::default()
            };
            assert_eq!(
                code(registry.heartbeat(heartbeat).await),
                expected,
                "{name} {service}"
            );
            let path = format!("/v1/services/{service}");
            if !who.plaintext {
                let (status, _) = mesh.json(&who, "GET", &path, "").await;
                assert_eq!(
                    status == StatusCode::OK,
                    expected == Yes,
                    "{name} {service}"
                );
            }
        }
    }
    mesh.control_plane.stop().await;
}

#[tokio::test]
async fn a_join_token_buys_one_key_a_certificate() {
    let mesh = Mesh::start().await;
    let token = mesh.token("reviews").await;
    let mut identity = mesh.identity(&token).await;
    // What is wrong with the request does not cost the token.
    let bad = api::IssueCertificateRequest {
        csr_der: vec![1, 2, 3],
        ttl: None,
    };
    assert_eq!(
        code(identity.issue_certificate(bad).await),
        Code::InvalidArgument
    );
    // The answer may get lost: who asks again with the same key is answered again.
    let request = csr().1;
    for _ in 0..2 {
        let issued = identity.issue_certificate(request.clone()).await;
        assert_eq!(
            issued.unwrap().into_inner().spiffe_id,
            "spiffe://cluster.local/ns/default/sa/reviews"
        );
    }
    let again = identity.issue_certificate(csr().1).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);
    assert!(again.message().contains("has been used"), "{again}");
    let metrics = String::from_utf8(metrics(&mesh).await).unwrap();
    assert!(
        metrics.contains("outrigger_join_tokens_total{event=\"reused\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_made_up_join_token_costs_no_write() {
    let mesh = Mesh::start().await;
    mesh.token("reviews").await;
    let writes = async || {
        let text = String::from_utf8(metrics(&mesh).await).unwrap();
        let line = |line: &&str| line.starts_with("outrigger_store_write_seconds_count");
        text.lines().find(line).unwrap().to_owned()
    };
    let before = writes().await;
    let made_up = Credential {
        bearer: Some(ca::tokens::new_secret().unwrap()),
        ..Credential::default()
    };
    let mut identity = mesh.identity(&made_up).await;
    // Nor is anything else of the request looked at.
    let bad = api::IssueCertificateRequest {
        csr_der: vec![1, 2, 3],
        ttl: None,
    };
    assert_eq!(
        code(identity.issue_certificate(bad).await),
        Code::Unauthenticated
    );
    assert_eq!(writes().await, before);
}

async fn metrics(mesh: &Mesh) -> Vec<u8> {
    let stream = TcpStream::connect(mesh.control_plane.ready().http)
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/metrics").header("host", "localhost");
    let request = request.body(Full::new(bytes::Bytes::new())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    response
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes()
        .to_vec()
}

#[tokio::test]
async fn a_restart_keeps_policies_registrations_and_trust() {
    let mesh = Mesh::start().await;
    let before = mesh.control_plane.ready().root_sha256.clone();
    let workload = mesh.workload("reviews").await;
    mesh.registry(&workload)
        .await
        .register(reviews())
        .await
        .unwrap();
    let applied = mesh
        .admin(&mesh.operator())
        .await
        .apply(canary())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (applied.revision, applied.diagnostics.len()),
        (1, 0),
        "{applied:?}"
    );

    let mesh = mesh.restart().await;
    assert_eq!(mesh.control_plane.ready().root_sha256, before);
    let mut admin = mesh.admin(&mesh.operator()).await;
    let status = admin
        .status(api::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let hosts: Vec<&str> = status
        .services
        .iter()
        .map(|service| &*service.host)
        .collect();
    assert_eq!(
        hosts,
        ["reviews.default.svc.cluster.local", "reviews.example.com"]
    );
    let instance = &status.services[0].instances[0];
    assert_eq!(
        instance.identity,
        "spiffe://cluster.local/ns/default/sa/reviews"
    );
    assert!(instance.lease_left.as_ref().unwrap().seconds >= 25);
    let again = admin.apply(canary()).await.unwrap().into_inner();
    assert_eq!(again.revision, 1);
    assert_eq!(again.applied[0].change(), api::applied::Change::Unchanged);
    // Certificates of before are good.
    let heartbeat = api::HeartbeatRequest {
        service: "reviews".into(),
        instance_id: "10.0.0.1:9080".into(),
        ..Default::default()
    };
    mesh.registry(&workload)
        .await
        .heartbeat(heartbeat)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_text_of_twenty_megabytes_gets_an_answer_with_its_place() {
    let mesh = Mesh::start().await;
    let mut request = canary();
    request.files[0].text = format!("{CANARY}# {}\n", "x".repeat(20 << 20));
    let answer = mesh
        .admin(&mesh.operator())
        .await
        .apply(request)
        .await
        .unwrap()
        .into_inner();
    let first = &answer.diagnostics[0];
    let position = first.position.as_ref().unwrap();
    assert_eq!(
        (position.file.as_str(), answer.revision),
        ("canary.yaml", 0)
    );
    assert!(position.line > 0 && position.column > 0, "{first:?}");
}

#[tokio::test]
async fn istios_agent_gets_its_chain() {
    let mesh = Mesh::start().await;
    let token = mesh.token("reviews").await;
    let mut istio = IstioCertificateServiceClient::new(mesh.channel(&token).await);
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap();
    let request = IstioCertificateRequest {
        csr,
        validity_duration: 86_400,
        metadata: None,
    };
    let chain = istio
        .create_certificate(request)
        .await
        .unwrap()
        .into_inner()
        .cert_chain;
    let root = fs::read_to_string(mesh.control_plane.ready().data_dir.join("root.pem")).unwrap();
    assert_eq!((chain.len(), chain.last()), (2, Some(&root)));
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let id = tls::identity(&leaf).unwrap().id;
    assert_eq!(&**id.uri(), "spiffe://cluster.local/ns/default/sa/reviews");
}

#[tokio::test]
async fn an_instance_registers_over_json() {
    let mesh = Mesh::start().await;
    let operator = mesh.operator();
    let path = "/v1/services/reviews/instances/a";
    let body = r#"{"address": "10.0.0.1", "port": 9080, "ttl": 3, "labels": {"version": "v1"}}"#;
    let (status, answer) = mesh.json(&operator, "PUT", path, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        answer,
        serde_json::json!({
            "instance_id": "a", "heartbeat_interval": 1.0, "ttl": 3.0,
            "host": "reviews.default.svc.cluster.local",
        })
    );
    let (status, answer) = mesh
        .json(&operator, "POST", &format!("{path}/heartbeat"), "")
        .await;
    assert_eq!(
        (status, answer),
        (
            StatusCode::OK,
            serde_json::json!({"heard": false, "ttl": 3.0})
        )
    );
    let (_, services) = mesh
        .json(&operator, "GET", "/v1/services?namespace=default", "")
        .await;
    assert_eq!(
        services["services"][0]["instances"][0]["labels"]["version"],
        "v1"
    );
    let (status, _) = mesh.json(&operator, "DELETE", path, "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, answer) = mesh.json(&operator, "DELETE", path, "").await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::NOT_FOUND, &"not_found".into())
    );
}

#[tokio::test]
async fn json_errors_name_code_and_field() {
    let mesh = Mesh::start().await;
    let operator = mesh.operator();
    let path = "/v1/services/reviews/instances/a";
    let table = [
        (
            "PUT",
            path,
            r#"{"address": "10.0.0.1", "port": 0}"#,
            400,
            Some("port"),
        ),
        (
            "PUT",
            path,
            r#"{"address": "10.0.0.1", "port": 1, "instance_id": "b"}"#,
            400,
            Some("instance_id"),
        ),
        (
            "PUT",
            path,
            r#"{"address": "10.0.0.1", "prot": 1}"#,
            400,
            None,
        ),
        (
            "PUT",
            path,
            r#"{"address": "10.0.0.1", "port": 1, "ttl": -1}"#,
            400,
            Some("ttl"),
        ),
        ("PUT", path, "{", 400, None),
        (
            "PUT",
            "/v1/services/Reviews/instances/a",
            "{}",
            400,
            Some("service"),
        ),
        ("GET", "/v1/services/reviews", "", 404, None),
        ("GET", "/v1/services?nonsense=1", "", 400, None),
        ("GET", "/v1/nonsense", "", 404, None),
        ("PATCH", path, "", 405, None),
    ];
    for (method, path, body, status, field) in table {
        let (found, answer) = mesh.json(&operator, method, path, body).await;
        assert_eq!(found.as_u16(), status, "{method} {path} {body}: {answer}");
        assert!(
            answer["error"]["message"].is_string(),
            "{method} {path} {body}: {answer}"
        );
        assert_eq!(
            answer["error"]["field"].as_str(),
            field,
            "{method} {path} {body}: {answer}"
        );
    }
    let big = format!(r#"{{"address": "{}"}}"#, "1".repeat(70_000));
    let (status, answer) = mesh.json(&operator, "PUT", path, &big).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("too large"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_taken_port_names_the_address_and_the_flag() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let refused = ControlPlane::start(Config {
        grpc: address,
        ..config(&dir)
    })
    .await;
    let message = refused.unwrap_err().to_string();
    assert!(
        message.contains(&address.to_string()) && message.contains("--grpc"),
        "{message}"
    );
}

#[tokio::test]
async fn a_second_control_plane_in_the_same_directory_is_refused() {
    let mesh = Mesh::start().await;
    let refused = ControlPlane::start(config(&mesh.dir)).await.unwrap_err();
    assert!(matches!(refused, RunError::Locked { .. }), "{refused}");
}

#[tokio::test]
async fn settings_that_contradict_themselves_are_refused() {
    type Change = fn(&mut Config);
    let table: [(&str, Change); 6] = [
        ("loopback", |c| c.plaintext = Some(([0, 0, 0, 0], 0).into())),
        ("trust domain", |c| c.trust_domain = "Cluster".into()),
        ("--domain", |c| c.domain = "a..b".into()),
        ("--heartbeat-interval", |c| {
            c.lease_ttl = Duration::from_secs(5);
        }),
        ("root", |c| c.root_cert = Some("/x".into())),
        ("certificate", |c| c.server_names = vec!["a b".into()]),
    ];
    for (word, change) in table {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir);
        change(&mut config);
        let message = ControlPlane::start(config).await.unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
}

#[tokio::test]
async fn files_with_secrets_are_for_their_owner_only() {
    let mesh = Mesh::start().await;
    let dir = &mesh.control_plane.ready().data_dir;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir), 0o700);
    for file in ["root.pem", "root-encryption.key", ADMIN_TOKEN_FILE] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn the_server_shows_its_identity_and_the_root() {
    let mesh = Mesh::start().await;
    let connector = mesh.tls(&Credential::default(), b"h2");
    let stream = tls(mesh.control_plane.ready().grpc, connector)
        .await
        .unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    let id = tls::identity(&chain[0]).unwrap().id;
    assert_eq!(
        &**id.uri(),
        "spiffe://cluster.local/ns/outrigger-system/sa/control-plane"
    );
    let sha256 = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &chain[1]);
    assert_eq!(
        ca::hex(sha256.as_ref()),
        mesh.control_plane.ready().root_sha256
    );
}

#[tokio::test]
async fn http2_goes_without_tls_on_the_plain_text_port_too() {
    let mesh = Mesh::start().await;
    let stream = TcpStream::connect(mesh.control_plane.ready().plaintext.unwrap())
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://localhost/v1/services");
    let request = request.body(Full::new(bytes::Bytes::new())).unwrap();
    assert_eq!(
        sender.send_request(request).await.unwrap().status(),
        StatusCode::OK
    );
}
