//! An authorization server inside the test: over gRPC (`envoy.service.auth.v3.Authorization/Check`) and over HTTP, on one
//! port. It does what the request that it is asked about wants, and remembers what it was told.
//!
//! `x-authz` of that request: `allow` (also without the header), `edit` (allows, and changes what it can), `deny`
//! (401, a header, a body), `fail` (no verdict), `hang` (no answer).

use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use outrigger_proto::{
    envoy::{
        config::core::v3::{HeaderValue as Pair, HeaderValueOption, QueryParameter},
        service::auth::v3::{
            CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            check_response::HttpResponse,
        },
        r#type::v3::HttpStatus,
    },
    google::rpc::Status,
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};

/// A running server.
#[derive(Debug)]
pub struct Authorizer {
    address: SocketAddr,
    told: Arc<Told>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Told {
    checks: Mutex<Vec<CheckRequest>>,
    requests: Mutex<Vec<(Method, String, HeaderMap, Bytes)>>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Authorizer {
    /// Starts it on a free port of localhost.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let told = Arc::new(Told::default());
        let shared = Arc::clone(&told);
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let told = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(|request| {
                        let told = Arc::clone(&told);
                        async move { Ok::<_, Infallible>(answer(request, &told).await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            told,
            server,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was told over gRPC since the last call.
    ///
    /// # Panics
    /// When the server has.
    pub fn checks(&self) -> Vec<CheckRequest> {
        std::mem::take(&mut self.told.checks.lock().expect("the server runs"))
    }

    /// What it was told over HTTP since the last call: method, path, headers, body.
    ///
    /// # Panics
    /// When the server has.
    pub fn requests(&self) -> Vec<(Method, String, HeaderMap, Bytes)> {
        std::mem::take(&mut self.told.requests.lock().expect("the server runs"))
    }
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(request: Request<Incoming>, told: &Told) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/healthz" {
        return Response::new(full(""));
    }
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return pending().await,
    };
    if head.uri.path() == "/envoy.service.auth.v3.Authorization/Check" {
        let message = body.get(5..).unwrap_or_default();
        let check = CheckRequest::decode(message).expect("a CheckRequest");
        let word = word_of(&check);
        told.checks.lock().expect("no reader panics").push(check);
        return grpc(&word).await;
    }
    let word = head.headers.get("x-authz").map(HeaderValue::as_bytes);
    let word = String::from_utf8_lossy(word.unwrap_or_default()).into_owned();
    let path = head.uri.path_and_query().map(ToString::to_string);
    let request = (head.method, path.unwrap_or_default(), head.headers, body);
    told.requests
        .lock()
        .expect("no reader panics")
        .push(request);
    http(&word).await
}

fn word_of(check: &CheckRequest) -> String {
    let attributes = check.attributes.as_ref();
    let request = attributes.and_then(|all| all.request.as_ref()?.http.as_ref());
    let word = request.and_then(|http| http.headers.get("x-authz").cloned());
    word.unwrap_or_default()
}

fn full(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync()
}

fn option(name: &str, value: &str, append: bool) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(Pair {
            key: name.to_owned(),
            value: value.to_owned(),
            ..Pair::default()
        }),
        append: Some(append),
        ..HeaderValueOption::default()
    }
}

async fn grpc(word: &str) -> Response<Body> {
    let verdict = match word {
        "hang" => return pending().await,
        "fail" => {
            let mut response = Response::new(full(""));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static("14"));
            return response;
        }
        "deny" => CheckResponse {
            status: Some(Status {
                code: 7,
                ..Status::default()
            }),
            http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                status: Some(HttpStatus { code: 401 }),
                headers: vec![option("www-authenticate", "Basic", false)],
                body: "who are you?".to_owned(),
            })),
            ..CheckResponse::default()
        },
        "edit" => CheckResponse {
            status: Some(Status::default()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                headers: vec![
                    option("x-user", "alice", false),
                    option("x-list", "b", true),
                ],
                headers_to_remove: vec!["x-secret".to_owned()],
                response_headers_to_add: vec![option("x-checked", "yes", false)],
                query_parameters_to_set: vec![QueryParameter {
                    key: "user".to_owned(),
                    value: "alice".to_owned(),
                }],
                query_parameters_to_remove: vec!["token".to_owned()],
                ..OkHttpResponse::default()
            })),
            ..CheckResponse::default()
        },
        // What nobody may change.
        "forge" => CheckResponse {
            status: Some(Status::default()),
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                headers: vec![
                    option("host", "evil.example", false),
                    option("x-forwarded-client-cert", "URI=spiffe://evil/admin", false),
                    option("x_forwarded_client_cert", "URI=spiffe://evil/admin", false),
                    option("transfer-encoding", "chunked", false),
                ],
                headers_to_remove: vec!["x-forwarded-client-cert".to_owned(), "host".to_owned()],
                ..OkHttpResponse::default()
            })),
            ..CheckResponse::default()
        },
        _ => CheckResponse {
            status: Some(Status::default()),
            ..CheckResponse::default()
        },
    };
    let message = verdict.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a short message"));
    framed.put_slice(&message);
    let trailers = async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Ok(trailers))
    };
    let body = Full::new(framed.freeze()).with_trailers(trailers);
    let mut response = Response::new(body.boxed_unsync());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

async fn http(word: &str) -> Response<Body> {
    let response = Response::builder();
    let response = match word {
        "hang" => return pending().await,
        "fail" => response.status(503).body(full("broken")),
        "deny" => response
            .status(401)
            .header("www-authenticate", "Basic")
            .header("x-inner", "secret")
            .body(full("who are you?")),
        "edit" => response
            .header("x-user", "alice")
            .header("x-checked", "yes")
            .header("x-inner", "secret")
            .body(full("")),
        _ => response.body(full("")),
    };
    response.expect("a valid response")
}
