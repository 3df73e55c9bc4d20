//! The registry over HTTP/JSON, for services that have no gRPC at hand: the same calls, the same rules.
//!
//! ```text
//! PUT    /v1/services/{service}/instances/{id}             RegisterRequest → RegisterResponse
//! POST   /v1/services/{service}/instances/{id}/heartbeat   {"health": …, "wait": …}? → {"ttl": …, "heard": …}
//! DELETE /v1/services/{service}/instances/{id}             204
//! GET    /v1/services[/{service}]
//! ```
//! Field names as in `RegisterRequest`; durations are seconds. An error is
//! `{"error": {"code", "message", "field"}}`.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequestParts, Path, Query, Request, State},
    response::{IntoResponse, Response},
    routing,
};
use http::{HeaderValue, StatusCode, header, request::Parts};
use http_body_util::LengthLimitError;
use outrigger_proto::outrigger::v1 as api;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tonic::Code;

use super::{service::RegistryService, validate};
use crate::{
    caller::{Caller, Peer},
    refusal::Refusal,
    world::{Instance, Service},
};

/// Largest body. A registration with every label at its limit is 37 KiB.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The routes above.
pub(crate) fn router(service: RegistryService) -> Router {
    Router::new()
        .route("/v1/services", routing::get(list))
        .route("/v1/services/{service}", routing::get(show))
        .route(
            "/v1/services/{service}/instances/{id}",
            routing::put(register).delete(deregister),
        )
        .route(
            "/v1/services/{service}/instances/{id}/heartbeat",
            routing::post(heartbeat),
        )
        .method_not_allowed_fallback(not_allowed)
        .with_state(service)
}

/// `?namespace=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct RegisterBody {
    service: Option<String>,
    namespace: Option<String>,
    instance_id: Option<String>,
    address: String,
    port: u32,
    target_port: u32,
    protocol: String,
    labels: BTreeMap<String, String>,
    locality: Option<LocalityBody>,
    weight: u32,
    ttl: Option<f64>,
    health: String,
    mtls: bool,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct LocalityBody {
    region: String,
    zone: String,
    sub_zone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HeartbeatBody {
    health: String,
    wait: Option<f64>,
}

#[derive(Debug, Serialize)]
struct RegisteredBody {
    instance_id: String,
    heartbeat_interval: f64,
    ttl: f64,
    host: String,
}

#[derive(Debug, Serialize)]
struct HeartbeatAnswer {
    ttl: f64,
    heard: bool,
}

#[derive(Debug, Serialize)]
struct ServicesBody {
    services: Vec<ServiceBody>,
}

#[derive(Debug, Serialize)]
struct ServiceBody {
    host: String,
    namespace: String,
    ports: BTreeMap<u16, &'static str>,
    instances: Vec<InstanceBody>,
}

#[derive(Debug, Serialize)]
struct InstanceBody {
    instance_id: String,
    address: String,
    port: u16,
    target_port: u16,
    labels: BTreeMap<String, String>,
    locality: LocalityBody,
    weight: u32,
    health: &'static str,
    identity: Option<String>,
    lease_left: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorDetail<'a> {
    code: &'a str,
    message: &'a str,
    field: Option<&'a str>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: ErrorDetail {
                code: self.name(),
                message: &self.message,
                field: self.field,
            },
        };
        let mut response = (self.http_status(), Json(body)).into_response();
        if self.code == Code::Unauthenticated {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

async fn register(
    State(registry): State<RegistryService>,
    Of(Path((service, id))): Of<Path<(String, String)>>,
    Of(Query(scope)): Of<Query<Scope>>,
    request: Request,
) -> Result<Json<RegisteredBody>, Refusal> {
    let (caller, peer) = who(&request);
    registry.check(&caller, &service, &scope.namespace)?;
    let body: RegisterBody = read(request).await?;
    same("service", body.service.as_deref(), &service)?;
    same("instance_id", body.instance_id.as_deref(), &id)?;
    let namespace = match body.namespace {
        Some(namespace) if scope.namespace.is_empty() => namespace,
        other => {
            same("namespace", other.as_deref(), &scope.namespace)?;
            scope.namespace
        }
    };
    let request = api::RegisterRequest {
        service,
        namespace,
        instance_id: id,
        address: body.address,
        port: body.port,
        target_port: body.target_port,
        protocol: body.protocol,
        labels: body.labels,
        locality: body.locality.map(|locality| api::Locality {
            region: locality.region,
            zone: locality.zone,
            sub_zone: locality.sub_zone,
        }),
        weight: body.weight,
        ttl: body.ttl.map(|ttl| seconds("ttl", ttl)).transpose()?,
        health: body.health,
        mtls: body.mtls,
    };
    let answer = registry
        .register(&caller, peer.map(|peer| peer.0.ip()), request)
        .await?;
    Ok(Json(RegisteredBody {
        instance_id: answer.instance_id,
        heartbeat_interval: as_seconds(answer.heartbeat_interval),
        ttl: as_seconds(answer.ttl),
        host: answer.host,
    }))
}

async fn heartbeat(
    State(registry): State<RegistryService>,
    Of(Path((service, instance_id))): Of<Path<(String, String)>>,
    Of(Query(scope)): Of<Query<Scope>>,
    request: Request,
) -> Result<Json<HeartbeatAnswer>, Refusal> {
    let (caller, _) = who(&request);
    registry.check(&caller, &service, &scope.namespace)?;
    let body: HeartbeatBody = read(request).await?;
    let request = api::HeartbeatRequest {
        service,
        namespace: scope.namespace,
        instance_id,
        health: body.health,
        wait: body.wait.map(|wait| seconds("wait", wait)).transpose()?,
    };
    let answer = registry.heartbeat(&caller, request).await?;
    Ok(Json(HeartbeatAnswer {
        ttl: as_seconds(answer.ttl),
        heard: answer.heard,
    }))
}

async fn deregister(
    State(registry): State<RegistryService>,
    Of(Path((service, instance_id))): Of<Path<(String, String)>>,
    Of(Query(scope)): Of<Query<Scope>>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let (caller, _) = who(&request);
    let request = api::DeregisterRequest {
        service,
        namespace: scope.namespace,
        instance_id,
    };
    registry.deregister(&caller, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(
    State(registry): State<RegistryService>,
    Of(Query(scope)): Of<Query<Scope>>,
    request: Request,
) -> Result<Json<ServicesBody>, Refusal> {
    let (caller, _) = who(&request);
    let services = registry.list(&caller, &scope.namespace)?;
    let services = services
        .iter()
        .map(|service| service_body(&registry, service))
        .collect();
    Ok(Json(ServicesBody { services }))
}

async fn show(
    State(registry): State<RegistryService>,
    Of(Path(service)): Of<Path<String>>,
    Of(Query(scope)): Of<Query<Scope>>,
    request: Request,
) -> Result<Json<ServiceBody>, Refusal> {
    let (caller, _) = who(&request);
    let name = registry.check(&caller, &service, &scope.namespace)?;
    match registry.registry.services().get(&name.host) {
        Some(service) => Ok(Json(service_body(&registry, service))),
        None => Err(Refusal::new(
            Code::NotFound,
            format!("{} has never been registered", name.host),
        )),
    }
}

fn service_body(registry: &RegistryService, service: &Service) -> ServiceBody {
    let now = Instant::now();
    let body = |instance: &Instance| {
        let [region, zone, sub_zone] = instance.locality.clone();
        InstanceBody {
            instance_id: instance.id.clone(),
            address: instance.address.to_string(),
            port: instance.port,
            target_port: instance.target_port,
            labels: instance.labels.clone(),
            locality: LocalityBody {
                region,
                zone,
                sub_zone,
            },
            weight: instance.weight,
            health: validate::health_text(instance.health),
            identity: instance.identity.as_deref().map(str::to_owned),
            lease_left: registry
                .registry
                .lease_left(&service.host, &instance.id, now)
                .map(|left| left.as_secs_f64()),
        }
    };
    ServiceBody {
        host: service.host.to_string(),
        namespace: service.namespace.clone(),
        ports: service
            .ports
            .iter()
            .map(|(port, protocol)| (*port, validate::protocol_text(*protocol)))
            .collect(),
        instances: service
            .instances
            .values()
            .map(|instance| body(instance))
            .collect(),
    }
}

fn who(request: &Request) -> (Caller, Option<Peer>) {
    (
        Caller::of(request.extensions()),
        request.extensions().get::<Peer>().copied(),
    )
}

/// Reads a JSON body; an empty one is `{}`.
async fn read<T: DeserializeOwned + Default>(request: Request) -> Result<T, Refusal> {
    let wrong = |message: String| Refusal::new(Code::InvalidArgument, message);
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY_BYTES)
        .await
        .map_err(|error| {
            let too_large = error.into_inner().is::<LengthLimitError>();
            wrong(if too_large {
                format!("the body is too large; at most {MAX_BODY_BYTES} bytes")
            } else {
                "the body ended early".to_owned()
            })
        })?;
    if body.is_empty() {
        return Ok(T::default());
    }
    let is_json = |value: &HeaderValue| value.as_bytes().starts_with(b"application/json");
    if !parts.headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
        return Err(wrong(
            "the body has to be JSON: content-type: application/json".to_owned(),
        ));
    }
    serde_json::from_slice(&body).map_err(|error| wrong(format!("the body: {error}")))
}

/// An extractor of axum's that refuses in our manner.
struct Of<T>(T);

impl<S, T> FromRequestParts<S> for Of<T>
where
    S: Send + Sync,
    T: FromRequestParts<S, Rejection: std::fmt::Display>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match T::from_request_parts(parts, state).await {
            Ok(value) => Ok(Self(value)),
            Err(error) => Err(Refusal::new(Code::InvalidArgument, error.to_string())),
        }
    }
}

async fn not_allowed(request: Request) -> Response {
    let message = format!(
        "{} is not served at {}",
        request.method(),
        request.uri().path()
    );
    let mut response = Refusal::new(Code::Unimplemented, message).into_response();
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

fn same(field: &'static str, body: Option<&str>, path: &str) -> Result<(), Refusal> {
    match body {
        Some(body) if body != path => Err(Refusal::invalid(
            field,
            format!("the body says {body:?}, the URL {path:?}; leave it out of the body"),
        )),
        _ => Ok(()),
    }
}

fn seconds(field: &'static str, seconds: f64) -> Result<prost_types::Duration, Refusal> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|length| prost_types::Duration::try_from(length).ok())
        .ok_or_else(|| Refusal::invalid(field, format!("{seconds} is not a number of seconds")))
}

fn as_seconds(length: Option<prost_types::Duration>) -> f64 {
    length
        .and_then(|length| outrigger_proto::length(&length))
        .map_or(0.0, |length| length.as_secs_f64())
}
