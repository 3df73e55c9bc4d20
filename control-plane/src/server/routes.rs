//! What is served where: the gRPC services, the HTTP/JSON registry, metrics and health.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing,
};
use http::{StatusCode, header};
use outrigger_proto::{
    istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer,
    outrigger::v1::{
        admin_server::AdminServer, identity_server::IdentityServer, registry_server::RegistryServer,
    },
};
use tonic::{Code, Status, service::Routes};

use crate::{
    admin::{self, AdminService},
    ca::service::IdentityService,
    caller::Caller,
    metrics::Metrics,
    refusal::Refusal,
    registry::{json, service::RegistryService},
    store::Store,
};

/// Largest message of the registry and the authority; their own limits are below it.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// How long a store that failed may take to open again before the answer is that it is not ready.
const STORE_PATIENCE: Duration = Duration::from_secs(1);
/// Longest answer, except of streams.
const DEADLINE: Duration = Duration::from_secs(60);

/// The routes of the main port: our own services, then those of `xds`.
pub(crate) fn main(
    admin: AdminService,
    registry: RegistryService,
    identity: IdentityService,
    xds: Routes,
) -> Router {
    let metrics = Arc::clone(&registry.metrics);
    let grpc = Routes::default()
        .add_service(AdminServer::new(admin).max_decoding_message_size(admin::MAX_REQUEST_BYTES))
        .add_service(
            RegistryServer::new(registry.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            IdentityServer::new(identity.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            IstioCertificateServiceServer::new(identity)
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .into_axum_router()
        .reset_fallback();
    grpc.merge(json::router(registry))
        .layer(middleware::from_fn_with_state(metrics, early))
        .merge(xds.into_axum_router().reset_fallback())
        .fallback(nothing_here)
}

/// Before a body is read: who may not administer need not send 32 MiB first. And nothing takes forever.
async fn early(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with("/outrigger.v1.Admin/")
        && let Err(denied) = Caller::of(request.extensions()).may_administer()
    {
        metrics.denied.with_label_values(&["admin"]).inc();
        return refuse(&request, denied.into());
    }
    let grpc = is_grpc(&request);
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            let message = format!("not done within {} s", DEADLINE.as_secs());
            answer(grpc, Refusal::new(Code::Unavailable, message))
        }
    }
}

async fn nothing_here(request: Request) -> Response {
    if is_grpc(&request) {
        return Status::unimplemented(format!("{} is not served here", request.uri().path()))
            .into_http();
    }
    refuse(
        &request,
        Refusal::new(Code::NotFound, format!("no {}", request.uri().path())),
    )
}

/// Answers in the caller's manner.
pub(crate) fn refuse<B>(request: &http::Request<B>, refusal: Refusal) -> Response {
    answer(is_grpc(request), refusal)
}

fn answer(grpc: bool, refusal: Refusal) -> Response {
    if grpc {
        Status::from(refusal).into_http()
    } else {
        refusal.into_response()
    }
}

fn is_grpc<B>(request: &http::Request<B>) -> bool {
    request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// What the metrics port needs.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) metrics: Arc<Metrics>,
    /// True from the ready line to the signal that ends the process.
    pub(crate) ready: Arc<AtomicBool>,
    pub(crate) store: Store,
}

/// The routes of the metrics port.
pub(crate) fn health(health: Health) -> Router {
    Router::new()
        .route("/metrics", routing::get(metrics))
        .route("/healthz", routing::get(|| async { "ok\n" }))
        .route("/readyz", routing::get(readyz))
        .with_state(health)
}

async fn metrics(State(health): State<Health>) -> Response {
    match health.metrics.text() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, &'static str) {
    if !health.store.is_usable() {
        // The next change opens the store again; this one changes nothing.
        let again = tokio::time::timeout(STORE_PATIENCE, health.store.write(|_| Ok(())));
        if !matches!(again.await, Ok(Ok(()))) {
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                "the store cannot be written\n",
            );
        }
    }
    if health.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}
