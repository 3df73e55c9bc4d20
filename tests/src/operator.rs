//! The operator's connection, kept open: what applies documents faster than a command line can be started.

use std::{fs, io, sync::Arc};

use hyper_util::rt::TokioIo;
use outrigger_proto::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    outrigger::v1::{ApplyRequest, SourceFile, admin_client::AdminClient},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{Mesh, WorkloadIdentity, registry};

/// One gRPC connection to the control plane, with the admin token.
#[derive(Debug)]
pub struct Operator {
    client: AdminClient<Channel>,
    bearer: String,
}

impl Operator {
    /// Connects.
    ///
    /// # Panics
    /// When the control plane does not let it.
    pub async fn of(mesh: &Mesh) -> Self {
        let token = fs::read_to_string(mesh.data_dir().join("admin.token")).expect("a token");
        Self {
            client: AdminClient::new(channel(mesh).await),
            bearer: format!("Bearer {}", token.trim()),
        }
    }

    /// `outrigger apply` of one file.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn apply(&mut self, yaml: &str) {
        let mut request = Request::new(ApplyRequest {
            files: vec![SourceFile {
                name: "operator.yaml".to_owned(),
                text: yaml.to_owned(),
            }],
            ..ApplyRequest::default()
        });
        let bearer = self.bearer.parse().expect("a header's value");
        request.metadata_mut().insert("authorization", bearer);
        let answer = self.client.apply(request).await.expect("an answer");
        let answer = answer.into_inner();
        assert!(
            !answer.applied.is_empty(),
            "{:?}\n{yaml}",
            answer.diagnostics
        );
    }
}

impl Mesh {
    /// A gRPC connection to its control plane, of a client that shows this certificate or none.
    ///
    /// # Panics
    /// When the control plane does not let it.
    pub async fn channel(&self, identity: Option<&WorkloadIdentity>) -> Channel {
        let Some(identity) = identity else {
            return channel(self).await;
        };
        let chain = CertificateDer::pem_file_iter(&identity.certificate).expect("a chain");
        let chain = chain.map(|one| one.expect("a certificate")).collect();
        let key = PrivateKeyDer::from_pem_file(&identity.key).expect("a key");
        let tls = registry::trusting(self).with_client_auth_cert(chain, key);
        connect(self, tls.expect("a certificate and its key")).await
    }
}

impl Operator {
    /// What the control plane tells a node, as its operator may read it: requests are sent by the sender, answers come
    /// by the receiver.
    ///
    /// # Panics
    /// When the stream is refused.
    pub async fn reads(
        mesh: &Mesh,
    ) -> (
        mpsc::Sender<DeltaDiscoveryRequest>,
        Streaming<DeltaDiscoveryResponse>,
    ) {
        let token = fs::read_to_string(mesh.data_dir().join("admin.token")).expect("a token");
        let (sender, requests) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(requests));
        let bearer = format!("Bearer {}", token.trim()).parse();
        request
            .metadata_mut()
            .insert("authorization", bearer.expect("a header's value"));
        let mut client = AggregatedDiscoveryServiceClient::new(channel(mesh).await);
        let answers = client.delta_aggregated_resources(request).await;
        (sender, answers.expect("a stream").into_inner())
    }
}

/// A gRPC connection to the control plane, over TLS that it has proved.
pub(crate) async fn channel(mesh: &Mesh) -> Channel {
    connect(mesh, registry::tls(mesh)).await
}

async fn connect(mesh: &Mesh, mut tls: rustls::ClientConfig) -> Channel {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let (tls, address) = (TlsConnector::from(Arc::new(tls)), mesh.grpc());
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").expect("a name");
            Ok::<_, io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    let endpoint = Endpoint::from_static("https://localhost");
    let connected = endpoint.connect_with_connector(connector).await;
    connected.expect("a connection")
}
