//! SDS for an Envoy on this machine: its key, its certificate and the roots, over a Unix socket that only its user can
//! open. What is new goes to every stream at once.
//!
//! ```text
//! certificate files' material ──► default (chain and key), ROOTCA (all roots) ──► streams in both forms
//! ```
//! The key leaves this process for the socket only: never for a port, the control plane, or a log.
//! Sources: Envoy's SDS; Istio's names of secrets.

mod stream;

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::Stream;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use outrigger_proto::envoy::service::{
    discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    secret::v3::secret_discovery_service_server::{
        SecretDiscoveryService, SecretDiscoveryServiceServer,
    },
};
use prometheus::{IntCounterVec, Opts, Registry};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::files::Material;
use stream::{Delta, Form, Sotw, Turn};

/// Its name in the directory.
pub(super) const SOCKET: &str = "sds.sock";
/// An Envoy has one connection for all of its secrets, another while it starts anew.
const MAX_CONNECTIONS: usize = 64;
/// One for each place that a secret is named in.
const MAX_STREAMS: u32 = 256;
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A request names two secrets; a refusal has some words.
const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// Serves the secrets of one workload.
#[derive(Clone, Debug)]
pub(super) struct Secrets {
    current: watch::Receiver<Option<Arc<Material>>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Metrics {
    /// By `result`: served, refused (another user's), failed.
    connections: IntCounterVec,
    /// By `event`: sent, acked, refused.
    pushes: IntCounterVec,
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        let make = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])
                .expect("a literal and valid metric name");
            for value in values {
                counters.with_label_values(&[value]);
            }
            if let Err(error) = registry.register(Box::new(counters.clone())) {
                tracing::error!(%error, "metric could not be registered");
            }
            counters
        };
        Self {
            connections: make(
                "outrigger_sds_connections_total",
                "Connections to the socket of secrets, by what became of them.",
                "result",
                &["served", "refused", "failed"],
            ),
            pushes: make(
                "outrigger_sds_answers_total",
                "Answers with secrets, and what clients said to them.",
                "event",
                &["sent", "acked", "refused"],
            ),
        }
    }
}

/// The socket, with nobody in it yet. Others' sockets and files are left alone.
///
/// # Errors
/// The path, and why it cannot be had.
pub(super) fn bind(path: &Path) -> Result<UnixListener, (PathBuf, io::Error)> {
    let at = |error| (path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            // Of a process before this one; the directory is this agent's alone.
            fs::remove_file(path).map_err(at)?;
        }
        Ok(_) => {
            let message = "is there, and is no socket";
            return Err(at(io::Error::new(io::ErrorKind::AlreadyExists, message)));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(error)),
    }
    // The directory has mode 0700 if we made it: nobody gets in before the mode is set.
    let listener = UnixListener::bind(path).map_err(at)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(at)?;
    Ok(listener)
}

impl Secrets {
    pub(super) fn new(
        current: watch::Receiver<Option<Arc<Material>>>,
        registry: &Registry,
    ) -> Self {
        Self {
            current,
            metrics: Arc::new(Metrics::new(registry)),
        }
    }

    /// Serves for ever.
    pub(super) async fn serve(self, listener: UnixListener) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _unnamed)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection to the socket of secrets could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !is_ours(&stream) {
                self.metrics
                    .connections
                    .with_label_values(&["refused"])
                    .inc();
                tracing::warn!(peer = ?stream.peer_cred().ok(), "another user's process asked for our secrets");
                continue;
            }
            let secrets = self.clone();
            tokio::spawn(async move {
                secrets.connection(stream).await;
                drop(slot);
            });
        }
    }

    async fn connection(self, stream: UnixStream) {
        let metrics = Arc::clone(&self.metrics);
        let service =
            SecretDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES);
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(KEEPALIVE)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .await;
        let result = if served.is_ok() { "served" } else { "failed" };
        metrics.connections.with_label_values(&[result]).inc();
        if let Err(error) = served {
            tracing::debug!(%error, "connection to the socket of secrets ended");
        }
    }

    /// One stream: requests in, what is new out.
    fn open<F: Form>(
        &self,
        request: Request<Streaming<F::Request>>,
        mut form: F,
    ) -> Responses<F::Response> {
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        let (mut current, metrics) = (self.current.clone(), Arc::clone(&self.metrics));
        tokio::spawn(async move {
            loop {
                let turn = tokio::select! {
                    request = requests.message() => match request {
                        Ok(Some(request)) => form.take(request),
                        Ok(None) => return,
                        Err(error) => {
                            tracing::debug!(%error, "stream of secrets ended");
                            return;
                        }
                    },
                    changed = current.changed() => match changed {
                        Ok(()) => Turn::Nothing,
                        Err(_ended) => return,
                    },
                    () = sender.closed() => return,
                };
                match turn {
                    Turn::Nothing => {}
                    Turn::Acked => metrics.pushes.with_label_values(&["acked"]).inc(),
                    Turn::Refused(message) => {
                        metrics.pushes.with_label_values(&["refused"]).inc();
                        tracing::warn!(error = message, "Envoy refuses our secrets");
                    }
                    Turn::Wrong(status) => {
                        // It is gone, if it does not hear that.
                        drop(sender.send(Err(status)).await);
                        return;
                    }
                }
                let material = current.borrow_and_update().clone();
                if let Some(response) = material.and_then(|material| form.next(&material)) {
                    metrics.pushes.with_label_values(&["sent"]).inc();
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}

/// Who is at the other end: our own user, or root, who could read our files anyway.
fn is_ours(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(Response::new(self.open(request, Delta::default())))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(Response::new(self.open(request, Sotw::default())))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let mut form = Sotw::default();
        if let Turn::Wrong(status) = form.take(request.into_inner()) {
            return Err(status);
        }
        let material = self.current.borrow().clone();
        let material = material.ok_or_else(|| Status::unavailable("no certificate yet"))?;
        let response = form.next(&material);
        response
            .map(Response::new)
            .ok_or_else(|| Status::not_found("no such secret; there are default and ROOTCA"))
    }
}

#[cfg(test)]
mod tests;
