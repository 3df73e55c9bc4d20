//! mTLS under somebody else's management server, with the identity that the agent of the bootstrap delivers.

use outrigger_proto::envoy::{
    config::core::v3::{
        ApiConfigSource, ApiVersion, ConfigSource, GrpcService, TransportSocket,
        api_config_source::ApiType,
        config_source::ConfigSourceSpecifier,
        grpc_service::{EnvoyGrpc, TargetSpecifier},
        transport_socket::ConfigType,
    },
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, SdsSecretConfig, SubjectAltNameMatcher,
        UpstreamTlsContext,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
        subject_alt_name_matcher::SanType,
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};
use outrigger_tests::{Load, Mesh, within};

use super::*;

const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// A secret from this cluster of the bootstrap.
fn secret(name: &str, cluster: &str) -> SdsSecretConfig {
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    };
    let source = ApiConfigSource {
        api_type: ApiType::Grpc as i32,
        transport_api_version: ApiVersion::V3 as i32,
        grpc_services: vec![service],
        ..ApiConfigSource::default()
    };
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
            resource_api_version: ApiVersion::V3 as i32,
            ..ConfigSource::default()
        }),
    }
}

/// `app` over mTLS, answered for by `service`, as istiod writes it.
fn mutual(own: SdsSecretConfig, service: &str) -> Cluster {
    let name = format!("spiffe://cluster.local/ns/default/sa/{service}");
    let names = SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name)),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: vec![names],
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(secret("ROOTCA", "sds-grpc")),
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![own],
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                combined,
            )),
            ..CommonTlsContext::default()
        }),
        sni: "outbound_.80_._.app".to_owned(),
        ..UpstreamTlsContext::default()
    };
    Cluster {
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(packed(TLS, &context))),
        }),
        ..cluster("app")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_calls_over_mtls_with_what_the_bootstraps_agent_delivers_and_renews() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("v1").await;
    let reviews = mesh.service("reviews").app(&app).start().await;
    // It serves secrets as Istio's agent does: `default` and `ROOTCA`, on a Unix socket.
    let agent = mesh.agent("shopper").switch("--envoy");
    let agent = agent.flag("--certificate-ttl", "10s").start().await;
    let socket = agent.dir.path().join("files/sds.sock");
    let rest = format!(
        "  - name: sds-grpc
    type: STATIC
    load_assignment:
      cluster_name: sds-grpc
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {}}}}}}}}}]}}]
",
        socket.display()
    );
    let mut joined = Joined::start_with(XdsForm::Delta, &rest).await;
    joined.stream.heard().await;
    let own = || secret("default", "sds-grpc");
    joined
        .clusters("1", "c1", &[mutual(own(), "reviews")])
        .await;
    assert_eq!(joined.stream.answer_to("c1").await.error, None);
    let port = reviews.inbound.unwrap().port();
    let endpoints = assignment("app", "127.0.0.1", port);
    let resources = vec![("app", packed(EDS, &endpoints))];
    joined.stream.say(EDS, "1", "e1", resources, &[]).await;
    joined.listener("1", "l1", "r", Vec::new()).await;
    joined.routes("1", "r1", "r", "app").await;
    joined.serves(&app).await;
    let received = app.received();
    let seen = received.last().unwrap().headers["x-forwarded-client-cert"].to_str();
    let shopper = "URI=spiffe://cluster.local/ns/default/sa/shopper";
    let seen = seen.unwrap();
    assert!(seen.contains(shopper), "{seen}");

    // The agent renews; the sidecar follows, and no request fails.
    let load = Load::get(&Caller::through(joined.out), 50, "anything");
    within(
        std::time::Duration::from_secs(60),
        "three certificates later",
        async || {
            let sent = agent.metric("outrigger_certificate_requests_total").await;
            (sent >= 4.0).then_some(()).ok_or_else(|| sent.to_string())
        },
    )
    .await;
    let report = load.finish().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);

    // Somebody else is expected; then secrets that nobody has for us.
    joined
        .clusters("2", "c2", &[mutual(own(), "somebody")])
        .await;
    joined.answers("503 tls_failed").await;
    for (own, words) in [
        (secret("other", "sds-grpc"), "only \"default\" is supported"),
        (
            secret("default", "vault"),
            "or GRPC of the bootstrap's cluster \"sds-grpc\"",
        ),
    ] {
        joined.clusters("3", words, &[mutual(own, "reviews")]).await;
        let nack = joined.stream.answer_to(words).await.error.unwrap();
        assert!(
            nack.contains("tls_certificate_sds_secret_configs[0]"),
            "{nack}"
        );
        assert!(nack.contains(words), "{nack}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_a_socket_of_this_machine_only() {
    let rest = "  - name: sds-grpc
    type: STATIC
    load_assignment:
      cluster_name: sds-grpc
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]
";
    let file = bootstrap(XdsForm::Delta, 1, rest);
    let output = std::process::Command::new(outrigger_tests::outrigger())
        .args(["sidecar", "--bootstrap"])
        .arg(file.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "static_resources.clusters[1].load_assignment: must have a Unix socket (pipe)";
    assert!(said.contains(expected), "{said}");
}
