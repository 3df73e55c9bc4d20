//! Somebody else's management server, played by a test: it hears every request and says what it is told to, in either
//! wire form. Written against the public messages; shares nothing with our control plane.

use std::{
    collections::BTreeMap, net::SocketAddr, path::Path, pin::Pin, sync::Arc, time::Duration,
};

use futures_util::Stream;
use outrigger_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    },
};
use prost::Message;
use prost_types::Any;
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixListener},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{
    StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

/// The client has to say something within this time; a name that is withheld is given up after 15 s.
const PATIENCE: Duration = Duration::from_secs(25);

/// A wire form of xDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdsForm {
    /// Incremental.
    Delta,
    /// State of the World.
    Sotw,
}

/// The server. Streams wait for [`Self::accept`].
#[derive(Debug)]
pub struct ForeignServer {
    address: SocketAddr,
    conversations: mpsc::Receiver<Conversation>,
    server: JoinHandle<()>,
}

/// One stream.
#[derive(Debug)]
pub struct Conversation {
    form: XdsForm,
    metadata: MetadataMap,
    heard: mpsc::Receiver<Heard>,
    answers: Answers,
}

#[derive(Debug)]
enum Answers {
    Delta(mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>),
    Sotw(mpsc::Sender<Result<DiscoveryResponse, Status>>),
}

/// A request, in the words of both forms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// `Cluster`, `ClusterLoadAssignment`, `Listener`, `RouteConfiguration`, `Secret`.
    pub kind: String,
    /// Of the node, if it is there.
    pub node: Option<String>,
    /// Delta: newly subscribed. State of the World: all.
    pub names: Vec<String>,
    /// Delta: unsubscribed.
    pub dropped: Vec<String>,
    /// State of the World.
    pub version: String,
    /// Delta: what it holds on a new stream.
    pub held: BTreeMap<String, String>,
    /// The answer that it answers.
    pub nonce: String,
    /// Of a NACK.
    pub error: Option<String>,
}

struct Script(mpsc::Sender<Conversation>);

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Script {
    type DeltaAggregatedResourcesStream = Out<DeltaDiscoveryResponse>;
    type StreamAggregatedResourcesStream = Out<DiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (answers, queue) = mpsc::channel(64);
        let metadata = request.metadata().clone();
        let heard = listen(request.into_inner(), |request| Heard {
            kind: short(&request.type_url),
            node: request.node.map(|node| node.id),
            names: request.resource_names_subscribe,
            dropped: request.resource_names_unsubscribe,
            version: String::new(),
            held: request.initial_resource_versions,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
        });
        self.begin(XdsForm::Delta, metadata, heard, Answers::Delta(answers))
            .await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (answers, queue) = mpsc::channel(64);
        let metadata = request.metadata().clone();
        let heard = listen(request.into_inner(), |request| Heard {
            kind: short(&request.type_url),
            node: request.node.map(|node| node.id),
            names: request.resource_names,
            version: request.version_info,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            ..Heard::default()
        });
        self.begin(XdsForm::Sotw, metadata, heard, Answers::Sotw(answers))
            .await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

impl Script {
    async fn begin(
        &self,
        form: XdsForm,
        metadata: MetadataMap,
        heard: mpsc::Receiver<Heard>,
        answers: Answers,
    ) -> Result<(), Status> {
        let conversation = Conversation {
            form,
            metadata,
            heard,
            answers,
        };
        let handed = self.0.send(conversation).await;
        handed.map_err(|_error| Status::unavailable("the test is over"))
    }
}

/// Ends with the stream, or when nobody listens.
fn listen<R: Send + 'static>(
    mut requests: Streaming<R>,
    read: impl Fn(R) -> Heard + Send + 'static,
) -> mpsc::Receiver<Heard> {
    let (sender, heard) = mpsc::channel(256);
    tokio::spawn(async move {
        while let Some(Ok(request)) = requests.next().await {
            if sender.send(read(request)).await.is_err() {
                break;
            }
        }
    });
    heard
}

fn short(type_url: &str) -> String {
    type_url
        .rsplit(['.', '/'])
        .next()
        .unwrap_or_default()
        .to_owned()
}

impl ForeignServer {
    /// Starts it on a free port of localhost.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port has an address");
        let (script, conversations) = mpsc::channel(8);
        let server = tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(Script(script)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.expect("the server runs") });
        Self {
            address,
            conversations,
            server,
        }
    }

    /// The same behind TLS: it proves `name`, and asks for the certificate of this PEM text. The port for TLS, and the
    /// server's certificate in PEM.
    ///
    /// # Panics
    /// When it cannot listen, or `client` is no certificate.
    pub async fn start_with_tls(name: &str, client: &str) -> (Self, u16, String) {
        let plain = Self::start().await;
        let mut roots = RootCertStore::empty();
        let client = CertificateDer::from_pem_slice(client.as_bytes()).expect("a certificate");
        roots.add(client).expect("a certificate");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let asks = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .expect("a verifier");
        let own = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(asks)
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("a certificate and its key");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let behind = plain.address;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let (Ok(mut tls), Ok(mut plain)) = (
                        acceptor.accept(stream).await,
                        TcpStream::connect(behind).await,
                    ) {
                        copy_bidirectional(&mut tls, &mut plain).await.ok();
                    }
                });
            }
        });
        (plain, port, own.cert.pem())
    }

    /// A Unix socket at `path` that leads to it.
    ///
    /// # Panics
    /// When it cannot be bound.
    pub fn listen_at(&self, path: &Path) {
        let listener = UnixListener::bind(path).expect("a path for a socket");
        let behind = self.address;
        tokio::spawn(async move {
            while let Ok((mut unix, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut plain) = TcpStream::connect(behind).await {
                        copy_bidirectional(&mut unix, &mut plain).await.ok();
                    }
                });
            }
        });
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next stream.
    ///
    /// # Panics
    /// When none is opened.
    pub async fn accept(&mut self) -> Conversation {
        let next = timeout(PATIENCE, self.conversations.recv()).await;
        next.expect("nobody opens a stream")
            .expect("the server runs")
    }
}

impl Drop for ForeignServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Conversation {
    /// What came with the stream under this name.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.to_str().ok()
    }

    /// The form that the client chose.
    pub fn form(&self) -> XdsForm {
        self.form
    }

    /// The next request.
    ///
    /// # Panics
    /// When the client is silent or gone.
    pub async fn heard(&mut self) -> Heard {
        let heard = timeout(PATIENCE, self.heard.recv()).await;
        heard
            .expect("the client is silent")
            .expect("the client is gone")
    }

    /// The next request that `is_meant`; others before it are forgotten.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn heard_one(&mut self, is_meant: impl Fn(&Heard) -> bool) -> Heard {
        loop {
            let heard = self.heard().await;
            if is_meant(&heard) {
                return heard;
            }
        }
    }

    /// The answer to `nonce`.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn answer_to(&mut self, nonce: &str) -> Heard {
        self.heard_one(|heard| heard.nonce == nonce).await
    }

    /// Says these resources; `removed` means something in delta only.
    ///
    /// # Panics
    /// When the client is gone.
    pub async fn say(
        &self,
        message: &str,
        version: &str,
        nonce: &str,
        resources: Vec<(&str, Any)>,
        removed: &[&str],
    ) {
        let type_url = format!("type.googleapis.com/{message}");
        let sent = match &self.answers {
            Answers::Delta(answers) => {
                let resources = resources.into_iter().map(|(name, any)| Resource {
                    name: name.to_owned(),
                    version: version.to_owned(),
                    resource: Some(any),
                    ..Resource::default()
                });
                let answer = DeltaDiscoveryResponse {
                    type_url,
                    nonce: nonce.to_owned(),
                    resources: resources.collect(),
                    removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
                    ..DeltaDiscoveryResponse::default()
                };
                answers.send(Ok(answer)).await.is_ok()
            }
            Answers::Sotw(answers) => {
                let answer = DiscoveryResponse {
                    type_url,
                    version_info: version.to_owned(),
                    nonce: nonce.to_owned(),
                    resources: resources.into_iter().map(|(_, any)| any).collect(),
                    ..DiscoveryResponse::default()
                };
                answers.send(Ok(answer)).await.is_ok()
            }
        };
        assert!(sent, "the client is gone");
    }

    /// Ends the stream with an error.
    pub async fn hang_up(&self) {
        let status = Status::unavailable("going away");
        match &self.answers {
            Answers::Delta(answers) => drop(answers.send(Err(status)).await),
            Answers::Sotw(answers) => drop(answers.send(Err(status)).await),
        }
    }
}

/// Packs a message.
pub fn packed(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}
