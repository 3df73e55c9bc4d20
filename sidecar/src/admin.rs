//! Three small HTTP servers: admin (loopback), metrics, readiness.
//!
//! `GET` never changes anything. Browsers are kept out: the host must be a loopback name (DNS rebinding), and a page of
//! another origin may not post. Nor may a process of another user than root and ours: the application reads.

mod clusters;
mod dump;
pub(crate) mod pages;
mod peer;
pub(crate) mod stats;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
};

use pages::Entry;

use crate::{
    shared::Shared, telemetry::Telemetry, vitals::Vitals, worker::Workers, xds::engine::Engine,
};

/// Connections of one port.
const MAX_CONNECTIONS: usize = 64;
/// A connection that has not sent its next request by then is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Sets the log level of the process; gives the level in force, or why not.
pub type LogControl = Box<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

static LOG_CONTROL: OnceLock<LogControl> = OnceLock::new();

/// Lets `POST /logging?level=` change the log level. The first caller of the process wins.
pub fn set_log_control(control: LogControl) {
    if LOG_CONTROL.set(control).is_err() {
        tracing::debug!("log control was set already");
    }
}

/// Which pages a port has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Admin,
    Metrics,
    Readiness,
}

/// What the pages show.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) shared: Arc<Shared>,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) workers: Arc<Workers>,
    /// Set once there is a client.
    pub(crate) engine: OnceLock<Arc<Mutex<Engine>>>,
    /// The DNS server, if there is one.
    pub(crate) dns: OnceLock<crate::dns::Running>,
    /// Notified by `POST /drain`.
    pub(crate) drain: Notify,
    /// Notified by `POST /leave`.
    pub(crate) leave: Notify,
    /// Nobody is sent to us any more, and nobody is connected, or the time for that is over.
    pub(crate) left: AtomicBool,
    pub(crate) started: std::time::Instant,
}

pub(crate) type Page = Response<Full<Bytes>>;

/// A site: what its pages show, and the list of them.
pub(crate) trait Pages: Send + Sync + Sized + 'static {
    fn pages() -> &'static [Entry<Self>];
}

impl Pages for Site {
    fn pages() -> &'static [Entry<Self>] {
        pages::PAGES
    }
}

/// Serves for ever. `users` may change things besides root and this process's own.
pub(crate) async fn serve<S: Pages>(
    listener: TcpListener,
    port: Port,
    site: Arc<S>,
    users: Arc<[u32]>,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(?port, %error, "connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (site, users) = (Arc::clone(&site), Arc::clone(&users));
        let own = stream.local_addr();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let changes = port == Port::Admin && request.method() == Method::POST;
                let refused = match &own {
                    _ if !changes => Ok(()),
                    // Reads a table of the kernel's: short, and only when somebody changes something.
                    Ok(own) => peer::may_change(peer, *own, &users),
                    Err(error) => Err(error.to_string()),
                };
                let page = match refused {
                    Ok(()) => respond(port, &*site, &request),
                    Err(why) => {
                        tracing::warn!(%peer, path = ?request.uri().path(), %why, "change refused");
                        text(StatusCode::FORBIDDEN, format!("{why}\n"))
                    }
                };
                async move { Ok::<_, Infallible>(page) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(?port, %error, "connection ended");
            }
            drop(slot);
        });
    }
}

/// The page for a request; bodies are not read.
pub(crate) fn respond<S: Pages, B>(port: Port, site: &S, request: &Request<B>) -> Page {
    if port == Port::Admin && !is_local(request) {
        return text(
            StatusCode::FORBIDDEN,
            "only for this machine: the host must be localhost or a loopback address\n",
        );
    }
    let (method, path) = (request.method(), request.uri().path());
    let Some(page) = pages::find(S::pages(), port, path) else {
        return text(StatusCode::NOT_FOUND, "no such page; see /help\n");
    };
    let is_allowed = if page.changes {
        method == Method::POST
    } else {
        method == Method::GET || method == Method::HEAD
    };
    if !is_allowed {
        let allow = if page.changes { "POST" } else { "GET, HEAD" };
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allow}\n"));
        refused
            .headers_mut()
            .insert(header::ALLOW, http::HeaderValue::from_static(allow));
        return refused;
    }
    (page.show)(site, Query(request.uri().query().unwrap_or_default()))
}

/// Parameters of a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn value(self, name: &str) -> Option<&'a str> {
        self.0.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

fn is_local<B>(request: &Request<B>) -> bool {
    let host = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => header_text(request.headers(), header::HOST),
    };
    let origin = header_text(request.headers(), header::ORIGIN);
    let is_ours = |origin: &str| {
        origin
            .split_once("://")
            .is_some_and(|(_, authority)| is_loopback_authority(authority))
    };
    host.is_some_and(is_loopback_authority) && origin.is_none_or(is_ours)
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

fn is_loopback_authority(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<http::uri::Authority>() else {
        return false;
    };
    let host = authority.host().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Page {
    page(status, "text/plain; charset=utf-8", body)
}

pub(crate) fn json(value: &serde_json::Value) -> Page {
    page(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(
        "x-content-type-options",
        http::HeaderValue::from_static("nosniff"),
    );
    page
}
