//! xDS for a library that can speak plain text only to its management server (grpc-js): taken on loopback, passed on with
//! the workload's certificate, message by message, unread.
//!
//! Whoever reaches the port can read what the workload may read, as with a sidecar's admin port; nothing else is passed on.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, Method, Request, Response, header};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus::{IntCounterVec, Opts, Registry};
use tokio::{net::TcpListener, sync::Semaphore};
use tonic::{Status, body::Body};
use tower::{Service as _, ServiceExt as _};

use crate::control::Control;

/// What a library calls: configuration in both forms, and load reports.
const PASSED_ON: [&str; 3] = [
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats",
];
/// Of one application there is one, or one a channel.
const MAX_CONNECTIONS: usize = 64;
const MAX_STREAMS: u32 = 64;
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A connection to the control plane has to be there by then.
const READY: Duration = Duration::from_secs(10);
/// Not the library's to say: who it is, the certificate tells.
const DROPPED: [HeaderName; 2] = [header::AUTHORIZATION, header::HOST];

/// Passes streams on.
#[derive(Debug)]
pub(super) struct Relay {
    control: Arc<Control>,
    streams: IntCounterVec,
}

impl Relay {
    pub(super) fn new(control: Arc<Control>, registry: &Registry) -> Self {
        let options = Opts::new(
            "outrigger_relay_streams_total",
            "Streams of the application to the control plane, by what became of them.",
        );
        let streams =
            IntCounterVec::new(options, &["result"]).expect("a literal and valid metric name");
        for result in ["passed_on", "refused", "failed"] {
            streams.with_label_values(&[result]);
        }
        if let Err(error) = registry.register(Box::new(streams.clone())) {
            tracing::error!(%error, "metric could not be registered");
        }
        Self { control, streams }
    }

    /// Serves for ever.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection to the relay could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let relay = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let relay = Arc::clone(&relay);
                    async move { Ok::<_, Infallible>(relay.answer(request).await) }
                });
                let served = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(MAX_STREAMS)
                    .keep_alive_interval(KEEPALIVE)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "connection to the relay ended");
                }
                drop(slot);
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (result, answer) = if is_passed_on(&request) {
            match self.pass_on(request).await {
                Ok(answer) => ("passed_on", answer),
                Err(status) => ("failed", status.into_http()),
            }
        } else {
            let message = format!("{} is not passed on by the relay", request.uri().path());
            ("refused", Status::unimplemented(message).into_http())
        };
        self.streams.with_label_values(&[result]).inc();
        answer
    }

    async fn pass_on(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Status> {
        for name in DROPPED {
            request.headers_mut().remove(name);
        }
        let failed = |error: tonic::transport::Error| {
            let error = crate::identity::chain(&error);
            Status::unavailable(format!("the control plane is not reached: {error}"))
        };
        let mut channel = self.control.channel();
        let channel = tokio::time::timeout(READY, channel.ready())
            .await
            .map_err(|_elapsed| Status::unavailable("the control plane is not reached in time"))?
            .map_err(failed)?;
        channel.call(request.map(Body::new)).await.map_err(failed)
    }
}

fn is_passed_on<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && PASSED_ON.contains(&request.uri().path())
}

/// Loopback only: plain text, and in the workload's name.
pub(super) const fn may_listen(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(address) => address.ip().is_loopback(),
        SocketAddr::V6(address) => address.ip().is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configuration_and_load_reports_are_passed_on() {
        let asks = |method: Method, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(format!("http://127.0.0.1{path}"));
            is_passed_on(&request.body(()).unwrap())
        };
        for path in PASSED_ON {
            assert!(asks(Method::POST, path), "{path}");
            assert!(!asks(Method::GET, path), "{path}");
        }
        for path in [
            "/",
            "/outrigger.v1.Admin/Apply",
            "/outrigger.v1.Identity/IssueCertificate",
            "/outrigger.v1.Registry/Register",
        ] {
            assert!(!asks(Method::POST, path), "{path}");
        }
    }
}
