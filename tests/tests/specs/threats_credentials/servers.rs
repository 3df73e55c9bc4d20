//! Servers that are not the control plane, and what a management server may not make a sidecar do.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use outrigger_proto::envoy::{
    config::{
        accesslog::v3::AccessLog,
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
        },
        core::v3::{
            Address, AggregatedConfigSource, ConfigSource, DataSource, PathConfigSource,
            SocketAddress, TransportSocket, address, config_source::ConfigSourceSpecifier,
            data_source::Specifier, socket_address::PortSpecifier, transport_socket::ConfigType,
        },
        listener::v3::{Filter, FilterChain, Listener, filter},
    },
    extensions::{
        filters::{
            http::router::v3::Router,
            network::http_connection_manager::v3::{
                HttpConnectionManager, http_connection_manager::RouteSpecifier,
            },
        },
        transport_sockets::tls::v3::{
            CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsCertificate,
            UpstreamTlsContext, common_tls_context::ValidationContextType,
            subject_alt_name_matcher::SanType,
        },
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};
use outrigger_tests::{Caller, ForeignRoot, TestApp, XdsForm, packed};
use prost_types::Any;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use super::{
    super::foreign_server::{self, Joined},
    *,
};

/// A TLS server that shows this certificate, perhaps with a root behind it, and counts who says anything to it.
struct Impostor {
    url: String,
    heard: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Impostor {
    async fn start(identity: &WorkloadIdentity, root: Option<&std::path::Path>) -> Self {
        let mut chain: Vec<_> = CertificateDer::pem_file_iter(&identity.certificate)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        if let Some(root) = root {
            chain.push(CertificateDer::from_pem_file(root).unwrap());
        }
        let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (heard, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&heard), Arc::clone(&refused));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let read = match acceptor.accept(stream).await {
                    Ok(mut tls) => tls.read(&mut [0; 64]).await.unwrap_or(0),
                    Err(_) => 0,
                };
                let count = if read > 0 { &counts.0 } else { &counts.1 };
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            url,
            heard,
            refused,
        }
    }

    /// A sidecar with this credential is sent there; gives what it logs.
    async fn tempts(&self, credential: &[&str]) -> String {
        let free = [
            "--outbound",
            "--inbound",
            "--admin",
            "--metrics",
            "--readiness",
        ];
        let mut args = [
            "sidecar",
            "--service",
            "reviews",
            "--control-plane",
            &self.url,
        ]
        .map(str::to_owned)
        .to_vec();
        args.extend(credential.iter().map(|word| (*word).to_owned()));
        for flag in free {
            args.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
        }
        args.push("--exit-with-parent".to_owned());
        let process = outrigger_tests::Process::spawn("tempted sidecar", &args, &[]);
        outrigger_tests::eventually("it has tried twice", async || {
            let tried = self.refused.load(Ordering::SeqCst) + self.heard.load(Ordering::SeqCst);
            (tried >= 2).then_some(()).ok_or_else(|| tried.to_string())
        })
        .await;
        outrigger_tests::eventually("it says why", async || {
            let log = process.log();
            log.contains("no certificate yet").then_some(()).ok_or(log)
        })
        .await;
        process.log()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_to_no_server_without_the_pinned_root_and_the_control_planes_name() {
    let mesh = Mesh::start().await;
    let token = mesh.join_token("default", "reviews");
    let root = mesh.data_dir().join("root.pem");
    let name = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";
    // Somebody else's root with the right name; a workload of the mesh with the right root.
    let foreign = ForeignRoot::new().issue(name);
    let workload = WorkloadIdentity::join(&mesh, "shopper").await;
    for (identity, root, why) in [
        (
            &foreign,
            None,
            "does not include the root that the join token pins",
        ),
        (&workload, Some(root.as_path()), "is not the control plane"),
    ] {
        let impostor = Impostor::start(identity, root).await;
        let log = impostor.tempts(&["--join-token", &token]).await;
        assert!(log.contains(why), "{log}");
        assert_eq!(impostor.heard.load(Ordering::SeqCst), 0, "{why}");
    }
    // The token is unused.
    ask(&mesh, &token, csr()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_is_shown_to_no_server_without_the_root_that_was_given() {
    let mesh = Mesh::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "a.b.c").unwrap();
    let root = mesh.data_dir().join("root.pem").display().to_string();
    let name = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";
    let foreign = ForeignRoot::new().issue(name);
    let impostor = Impostor::start(&foreign, None).await;
    let token = file.display().to_string();
    let credential = ["--token-file", token.as_str(), "--root-ca", root.as_str()];
    let log = impostor.tempts(&credential).await;
    assert!(log.contains("control plane's certificate refused"), "{log}");
    assert_eq!(impostor.heard.load(Ordering::SeqCst), 0);
}

/// A management server that has turned bad wants files, other ports, other servers and programs.
#[tokio::test(flavor = "multi_thread")]
async fn a_malicious_management_server_opens_reads_and_runs_nothing_and_what_was_good_serves_on() {
    let app = TestApp::start("v1").await;
    let mut joined = Joined::start(XdsForm::Delta).await;
    joined.configure(&app).await;
    let attacks = [
        // Passwords as roots, and a key that is somebody else's.
        (
            CDS,
            reading("/etc/passwd", None),
            "trusted_ca.filename",
            "--tls-files",
        ),
        (
            CDS,
            reading("/etc/ssl/certs/ca-certificates.crt", Some("/etc/shadow")),
            "tls_certificates[0].certificate_chain.filename",
            "--tls-files",
        ),
        // The proxy port, for everybody; the admin port, taken over.
        (LDS, listening("0.0.0.0", 15080), "address", "loopback"),
        (LDS, listening("169.254.169.254", 80), "address", "loopback"),
        // Configuration from a file of this machine.
        (
            CDS,
            by_file("/etc/passwd"),
            "path_config_source",
            "not supported",
        ),
        // A program that Envoy would run or a place that it would call.
        (LDS, logging(), "access_log", "not supported"),
    ];
    for (index, (kind, any, field, words)) in attacks.into_iter().enumerate() {
        let nonce = format!("attack-{index}");
        let name = if kind == CDS { "app" } else { "out" };
        let resources = vec![(name, any)];
        joined.stream.say(kind, "9", &nonce, resources, &[]).await;
        let nack = joined.stream.answer_to(&nonce).await.error;
        let nack = nack.unwrap_or_else(|| panic!("{nonce} was accepted"));
        assert!(
            nack.contains(field) && nack.contains(words),
            "{nonce}: {nack}"
        );
        let reply = Caller::through(joined.out).get("anything", "/").await;
        assert_eq!(reply.status, 200, "{nonce}");
    }
}

const CDS: &str = "envoy.config.cluster.v3.Cluster";
const LDS: &str = "envoy.config.listener.v3.Listener";

fn file(path: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::Filename(path.to_owned())),
        ..DataSource::default()
    }
}

fn eds(source: ConfigSourceSpecifier) -> Cluster {
    Cluster {
        name: "app".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ConfigSource {
                config_source_specifier: Some(source),
                ..ConfigSource::default()
            }),
            service_name: String::new(),
        }),
        ..Cluster::default()
    }
}

fn by_file(path: &str) -> Any {
    let source = PathConfigSource {
        path: path.to_owned(),
        ..PathConfigSource::default()
    };
    let cluster = eds(ConfigSourceSpecifier::PathConfigSource(source));
    packed(CDS, &cluster)
}

fn reading(roots: &str, key: Option<&str>) -> Any {
    let names = SubjectAltNameMatcher {
        san_type: SanType::Dns as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact("app.example".to_owned())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    };
    let roots = if key.is_some() {
        "/etc/ssl/certs/ca-certificates.crt"
    } else {
        roots
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: key
                .map(|key| TlsCertificate {
                    certificate_chain: Some(file(key)),
                    private_key: Some(file(key)),
                    ..TlsCertificate::default()
                })
                .into_iter()
                .collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(
                CertificateValidationContext {
                    trusted_ca: Some(file(roots)),
                    match_typed_subject_alt_names: vec![names],
                    ..CertificateValidationContext::default()
                },
            )),
            ..CommonTlsContext::default()
        }),
        sni: "app.example".to_owned(),
        ..UpstreamTlsContext::default()
    };
    let tls = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let cluster = Cluster {
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(packed(tls, &context))),
        }),
        ..eds(ConfigSourceSpecifier::Ads(AggregatedConfigSource {}))
    };
    packed(CDS, &cluster)
}

fn listener(address: &str, port: u32, manager: &HttpConnectionManager) -> Any {
    let hcm = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let listener = Listener {
        name: "out".to_owned(),
        address: Some(Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: address.to_owned(),
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..SocketAddress::default()
            })),
        }),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "hcm".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(packed(hcm, manager))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    };
    packed(LDS, &listener)
}

fn manager() -> HttpConnectionManager {
    let router = "envoy.extensions.filters.http.router.v3.Router";
    HttpConnectionManager {
        stat_prefix: "all".to_owned(),
        route_specifier: Some(RouteSpecifier::RouteConfig(foreign_server::routes(
            "r", "app",
        ))),
        http_filters: vec![foreign_server::http_filter(
            "envoy.filters.http.router",
            packed(router, &Router::default()),
        )],
        ..HttpConnectionManager::default()
    }
}

fn listening(address: &str, port: u32) -> Any {
    listener(address, port, &manager())
}

fn logging() -> Any {
    let log = AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        ..AccessLog::default()
    };
    let manager = HttpConnectionManager {
        access_log: vec![log],
        ..manager()
    };
    listener("127.0.0.1", 15080, &manager)
}
