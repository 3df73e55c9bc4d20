//! Stolen tokens: of the operator's making, and of Kubernetes'.

use std::{collections::BTreeMap, fs, path::Path};

use outrigger_proto::{
    istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
    outrigger::v1::{
        RegisterRequest, StatusRequest, admin_client::AdminClient, registry_client::RegistryClient,
    },
};
use outrigger_tests::{Kubernetes, TestApp, eventually, within};
use serde_json::{Value, json};

use super::*;

const REVIEWS: &str = "spiffe://cluster.local/ns/default/sa/reviews";

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_that_was_used_buys_a_thief_nothing_and_is_told() {
    let mesh = Mesh::start().await;
    let token = mesh.join_token("default", "reviews");
    // The thief asks for somebody else, and is given what the token is for.
    let mut admin = CertificateParams::default();
    let uri = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";
    admin
        .subject_alt_names
        .push(rcgen::SanType::URI(uri.try_into().unwrap()));
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let issued = ask(&mesh, &token, request(&admin, &key)).await.unwrap();
    assert_eq!(issued.spiffe_id, REVIEWS);

    refused(
        ask(&mesh, &token, request(&admin, &other)).await,
        Code::Unauthenticated,
        "has been used",
    );
    let log = mesh.log();
    assert!(log.contains("join token used a second time"), "{log}");
    assert!(log.contains("peer=127.0.0.1"), "who it was: {log}");
    assert!(log.contains("join token used"), "{log}");
    // A certificate is renewed by itself only, not by the token that began it.
    refused(
        ask(&mesh, &token, csr()).await,
        Code::Unauthenticated,
        "has been used",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_is_good_for_its_time_only() {
    let mesh = Mesh::start().await;
    let output = mesh.cli(&["token", "create", "reviews", "--ttl", "1s"]);
    let token = output.stdout.trim().to_owned();
    eventually("it has expired", async || {
        // Not a request that could use it up.
        match ask(&mesh, &token, b"no request".to_vec()).await {
            Err(status) if status.message().contains("expired") => Ok(()),
            Err(status) if status.code() == Code::InvalidArgument => Err(status.to_string()),
            other => panic!("{other:?}"),
        }
    })
    .await;
    refused(
        ask(&mesh, &token, csr()).await,
        Code::Unauthenticated,
        "has expired",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_opens_nothing_but_its_certificate_and_is_not_kept() {
    let mesh = Mesh::start().await;
    let token = mesh.join_token("default", "reviews");
    let bearer = format!("Bearer {token}");
    let channel = mesh.channel(None).await;
    let with = |mut request: Request<_>| {
        let bearer = bearer.parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        request
    };
    let register = RegisterRequest {
        service: "reviews".to_owned(),
        namespace: "default".to_owned(),
        instance_id: "a".to_owned(),
        address: "127.0.0.1".to_owned(),
        port: 9080,
        ..RegisterRequest::default()
    };
    let registered = RegistryClient::new(channel.clone())
        .register(with(Request::new(register)))
        .await;
    refused(registered, Code::Unauthenticated, "only buys a certificate");
    let mut request = Request::new(StatusRequest::default());
    let value = bearer.parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let listed = AdminClient::new(channel).status(request).await;
    refused(listed, Code::Unauthenticated, "is not the operator's");
    let secret = token.split('.').next().unwrap();
    for file in files(&mesh.data_dir()) {
        let bytes = fs::read(&file).unwrap();
        let found = bytes
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "{} holds the token", file.display());
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_file()).collect()
}

async fn with_keys(cluster: &Kubernetes) -> Mesh {
    let flags = cluster.by_keys();
    Mesh::start_with(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_joins_by_its_projected_token_and_serves() {
    let cluster = Kubernetes::start().await;
    let mesh = with_keys(&cluster).await;
    let root = mesh.data_dir().join("root.pem").display().to_string();
    let app = TestApp::start("v1").await;
    let joined = |service: &'static str| {
        let token = cluster.project(service).display().to_string();
        let service = mesh.service(service).flag("--token-file", &token);
        service.flag("--root-ca", &root)
    };
    let _reviews = joined("reviews").app(&app).start().await;
    let shopper = joined("shopper").start().await;
    let caller = shopper.caller();
    eventually("reviews answer", async || {
        let reply = caller.get("reviews:9080", "/").await;
        (reply.status == 200)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
    let received = app.received();
    let client = received.last().unwrap().headers["x-forwarded-client-cert"].to_str();
    assert!(client.unwrap().contains("/ns/default/sa/shopper"));

    // Istio's agents ask so.
    let mut request = Request::new(IstioCertificateRequest {
        csr: pem("CERTIFICATE REQUEST", &csr()),
        validity_duration: 86_400,
        ..IstioCertificateRequest::default()
    });
    let mut claims = Kubernetes::claims("default", "details");
    claims["aud"] = json!(["istio-ca"]);
    let bearer = format!("Bearer {}", cluster.sign(&claims)).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let issued = IstioCertificateServiceClient::new(mesh.channel(None).await)
        .create_certificate(request)
        .await;
    assert_eq!(issued.unwrap().into_inner().cert_chain.len(), 2);
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_kubernetes_token_is_good_for_its_audience_its_time_and_its_identity_only() {
    let (cluster, elsewhere) = (Kubernetes::start().await, Kubernetes::start().await);
    let mesh = with_keys(&cluster).await;
    let changed = |path: &str, value: Value| {
        let mut claims = Kubernetes::claims("default", "reviews");
        *claims.pointer_mut(path).unwrap() = value;
        cluster.sign(&claims)
    };
    let table = BTreeMap::from([
        // For the API server: what every pod has, and what leaks most.
        (
            "audience",
            changed(
                "/aud",
                json!(["https://kubernetes.default.svc.cluster.local"]),
            ),
        ),
        ("has expired", changed("/exp", json!(1_700_000_000))),
        ("begins in", changed("/nbf", json!(4_000_000_000_u64))),
        ("issuer", changed("/iss", json!("https://elsewhere"))),
        (
            "bound to no pod",
            changed("/kubernetes.io/pod", Value::Null),
        ),
        (
            "bound to the service account reviews",
            changed("/sub", json!("system:serviceaccount:default:admin")),
        ),
        ("signature is not the cluster's", elsewhere.token("reviews")),
        ("not a JSON web token", "a.b.c".to_owned()),
    ]);
    for (words, token) in &table {
        refused(ask(&mesh, token, csr()).await, Code::Unauthenticated, words);
    }
    let counted = mesh.metric("outrigger_kubernetes_tokens_total").await;
    assert!((counted - 8.0).abs() < f64::EPSILON, "{counted}");
    // A good one buys its own identity, whatever the request says, and nothing else.
    let mut params = CertificateParams::default();
    let uri = "spiffe://cluster.local/ns/default/sa/admin";
    params
        .subject_alt_names
        .push(rcgen::SanType::URI(uri.try_into().unwrap()));
    let key = KeyPair::generate().unwrap();
    let token = cluster.token("reviews");
    let issued = ask(&mesh, &token, request(&params, &key)).await.unwrap();
    assert_eq!(issued.spiffe_id, REVIEWS);
    let mut request = Request::new(StatusRequest::default());
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let listed = AdminClient::new(mesh.channel(None).await)
        .status(request)
        .await;
    refused(listed, Code::Unauthenticated, "is not the operator's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_deleted_pod_is_refused_where_the_api_server_is_asked() {
    let cluster = Kubernetes::start().await;
    let flags = cluster.by_review();
    let mesh = Mesh::start_with(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let token = cluster.token("reviews");
    assert_eq!(ask(&mesh, &token, csr()).await.unwrap().spiffe_id, REVIEWS);
    cluster.delete_pod("reviews");
    refused(
        ask(&mesh, &token, csr()).await,
        Code::Unauthenticated,
        "pod has been deleted",
    );
    // What is wrong in itself is not even asked.
    let asked = cluster.asked();
    let mut claims = Kubernetes::claims("default", "shopper");
    claims["aud"] = json!(["somebody"]);
    refused(
        ask(&mesh, &cluster.sign(&claims), csr()).await,
        Code::Unauthenticated,
        "audience",
    );
    assert_eq!(cluster.asked(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_are_looked_for_once_in_ten_seconds_however_many_tokens_come() {
    let (cluster, elsewhere) = (Kubernetes::start().await, Kubernetes::start().await);
    let mesh = with_keys(&cluster).await;
    ask(&mesh, &cluster.token("reviews"), csr()).await.unwrap();
    elsewhere.rotate("unknown");
    for _ in 0..20 {
        refused(
            ask(&mesh, &elsewhere.token("reviews"), csr()).await,
            Code::Unauthenticated,
            "which the cluster does not have",
        );
    }
    assert!(cluster.asked() <= 3, "{}", cluster.asked());
    // A key that is new is found.
    cluster.rotate("second");
    within(
        Duration::from_secs(40),
        "the new key is found",
        async || {
            let issued = ask(&mesh, &cluster.token("reviews"), csr()).await;
            issued.map(drop).map_err(|status| status.to_string())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_does_not_start_with_somebody_elses_token() {
    let cluster = Kubernetes::start().await;
    let mesh = with_keys(&cluster).await;
    let token = cluster.project("shopper");
    let output = std::process::Command::new(outrigger_tests::outrigger())
        .args([
            "sidecar",
            "--service",
            "reviews",
            "--control-plane",
            &mesh.url(),
            "--token-file",
        ])
        .arg(&token)
        .arg("--root-ca")
        .arg(mesh.data_dir().join("root.pem"))
        .args([
            "--outbound",
            "127.0.0.1:0",
            "--inbound",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .args(["--metrics", "127.0.0.1:0", "--readiness", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("the token is for") && said.contains("/sa/shopper"),
        "{said}"
    );
}
