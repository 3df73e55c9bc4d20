//! An application inside the test: answers who it is and what it was asked, remembers it, waits when told to.
//!
//! A request may say how it wants to be answered, so that one application serves a whole table of tests:
//! `x-app-status: 503`, `x-app-header: name=value` (any number of them), `x-app-delay-ms: 300`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// Requests that are remembered; older ones are forgotten.
const MAX_REMEMBERED: usize = 50_000;

/// A running application: HTTP/1.1 and HTTP/2 in plain text.
#[derive(Debug)]
pub struct TestApp {
    name: String,
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

/// One request as the application saw it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Which connection brought it, counted from 0.
    pub connection: usize,
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

#[derive(Debug)]
struct State {
    name: String,
    received: Mutex<Vec<Received>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    healthy: AtomicBool,
    status: AtomicU16,
    waiting: AtomicUsize,
    most_waiting: AtomicUsize,
    held: watch::Sender<bool>,
}

impl TestApp {
    /// Starts it on a free port of localhost.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::start_on(name, listener)
    }

    /// Starts it on a socket that listens already.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_on(name: &str, listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a bound port has an address");
        let state = Arc::new(State {
            name: name.to_owned(),
            received: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
            status: AtomicU16::new(200),
            waiting: AtomicUsize::new(0),
            most_waiting: AtomicUsize::new(0),
            held: watch::Sender::new(false),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self {
            name: name.to_owned(),
            address,
            state,
            server,
        }
    }

    /// What it answers as `name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `/healthz` answers 200 or 503.
    pub fn set_healthy(&self, healthy: bool) {
        self.state.healthy.store(healthy, Ordering::SeqCst);
    }

    /// From now on every request is answered with this status, unless it wants another.
    pub fn answer_with(&self, status: u16) {
        self.state.status.store(status, Ordering::SeqCst);
    }

    /// From now on requests wait for [`Self::release`].
    pub fn hold(&self) {
        self.state.held.send_replace(true);
    }

    /// Answers what waits, and from now on at once.
    pub fn release(&self) {
        self.state.held.send_replace(false);
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> usize {
        self.state.waiting.load(Ordering::SeqCst)
    }

    /// The requests so far, without health checks.
    ///
    /// # Panics
    /// When the application has.
    pub fn received(&self) -> Vec<Received> {
        self.state
            .received
            .lock()
            .expect("the application runs")
            .clone()
    }

    /// Forgets the requests so far.
    ///
    /// # Panics
    /// When the application has.
    pub fn forget(&self) {
        self.state
            .received
            .lock()
            .expect("the application runs")
            .clear();
    }

    /// How many requests each connection has brought, by connection.
    pub fn requests_by_connection(&self) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for received in self.received() {
            *counts.entry(received.connection).or_default() += 1;
        }
        counts
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// The most requests that were here at the same time.
    pub fn most_waiting(&self) -> usize {
        self.state.most_waiting.load(Ordering::SeqCst)
    }

    /// The most connections that were open at the same time.
    pub fn most_connections(&self) -> usize {
        self.state.most_open.load(Ordering::SeqCst)
    }

    /// Stops as a killed program would: connections are reset or closed, the port is closed.
    pub fn stop(self) {}
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.server.abort();
        self.release();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task: no connection outlives the application.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        stream.set_nodelay(true).ok();
        let connection = state.accepted.fetch_add(1, Ordering::SeqCst);
        let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_open.fetch_max(open, Ordering::SeqCst);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(request, connection, &state).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            builder
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    state: &State,
) -> Response<Full<Bytes>> {
    if request.uri().path() == "/healthz" {
        let status = if state.healthy.load(Ordering::SeqCst) {
            200
        } else {
            503
        };
        return respond(status, Bytes::new());
    }
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return respond(400, Bytes::new());
    };
    let body = body.to_bytes();
    let wanted = Wanted::of(&head.headers, state.status.load(Ordering::SeqCst));
    let answer = json!({
        "name": state.name,
        "connection": connection,
        "body_bytes": body.len(),
        "version": format!("{:?}", head.version),
        "method": head.method.as_str(),
        "authority": head.uri.authority().map(http::uri::Authority::as_str),
        "path": head.uri.path_and_query().map(http::uri::PathAndQuery::as_str),
        "headers": pairs(&head.headers),
    });
    if let Ok(mut received) = state.received.lock() {
        if received.len() == MAX_REMEMBERED {
            received.clear();
        }
        received.push(Received {
            connection,
            method: head.method,
            path: head
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            headers: head.headers,
            body: body.clone(),
        });
    }
    let waiting = state.waiting.fetch_add(1, Ordering::SeqCst) + 1;
    state.most_waiting.fetch_max(waiting, Ordering::SeqCst);
    let mut held = state.held.subscribe();
    // The sender lives in the state, which we hold.
    held.wait_for(|held| !held).await.ok();
    if !wanted.delay.is_zero() {
        tokio::time::sleep(wanted.delay).await;
    }
    state.waiting.fetch_sub(1, Ordering::SeqCst);
    let mut response = respond(wanted.status, Bytes::from(format!("{answer}\n")));
    for (name, value) in wanted.headers {
        response.headers_mut().append(name, value);
    }
    response
}

/// How a request wants to be answered.
struct Wanted {
    status: u16,
    delay: Duration,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Wanted {
    fn of(request: &HeaderMap, usual: u16) -> Self {
        let text = |name| request.get(name).and_then(|value| value.to_str().ok());
        let number = |name| text(name).and_then(|text| text.parse().ok());
        let headers = request.get_all("x-app-header").iter();
        Self {
            status: text("x-app-status")
                .and_then(|text| text.parse().ok())
                .unwrap_or(usual),
            delay: Duration::from_millis(number("x-app-delay-ms").unwrap_or(0)),
            headers: headers
                .filter_map(|header| {
                    let (name, value) = header.to_str().ok()?.split_once('=')?;
                    Some((name.parse().ok()?, value.parse().ok()?))
                })
                .collect(),
        }
    }
}

fn pairs(headers: &HeaderMap) -> Vec<(&str, String)> {
    let headers = headers.iter();
    headers
        .map(|(name, value)| {
            (
                name.as_str(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

fn respond(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a valid status");
    response
}
