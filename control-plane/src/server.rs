//! One listening port: accepts connections, knows who calls, and hands requests to the routes.
//!
//! ```text
//! accept ─► connection limit ─► TLS (10 s) ─► caller ─► HTTP/1.1 or HTTP/2 ─► routes
//! ```
//! A connection ends when its client's certificate does; one without a certificate ends after [`STRANGER`],
//! unless the operator uses it, and has few places to compete for. Resumption is off, so that every connection has been
//! verified by today's rules ([`tls`]). What may be called by whom is the services' business.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::{
    caller::{Caller, Peer, Shown},
    metrics::Metrics,
    server::{
        auth::Authenticator,
        handshakes::Handshakes,
        trust::{Ground, Trust},
    },
};

pub(crate) mod auth;
pub(crate) mod client_roots;
mod handshakes;
pub(crate) mod routes;
pub(crate) mod tls;
pub(crate) mod trust;

/// Connections of one listener.
const MAX_CONNECTIONS: usize = 10_000;
/// Of these, on the main port, without a client certificate: newcomers with a join token, and the operator.
const MAX_STRANGERS: usize = MAX_CONNECTIONS / 4;
/// A connection without a client certificate ends after this long. Its calls are short.
const STRANGER: Duration = Duration::from_secs(120);
/// From accept to the end of the TLS handshake, or to the first byte in plain text.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// From one HTTP/1.1 request to the end of the next one's headers. Longer than the default heartbeat, so
/// that a service that heartbeats over HTTP/1.1 keeps its connection.
const HEADERS: Duration = Duration::from_secs(30);
/// Header section, in bytes.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// Headers of an HTTP/1.1 request.
const MAX_HEADERS: usize = 100;
/// Requests in flight on one HTTP/2 connection. A sidecar has one stream and a call now and then.
const MAX_STREAMS: u32 = 100;
/// Pings on a silent HTTP/2 connection, and how long an answer may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// How long requests may take to end when the connection has to.
const DRAIN: Duration = Duration::from_secs(5);

/// A bound port.
#[derive(Debug)]
pub(crate) struct Listener {
    /// `grpc`, `plaintext` or `http`: a label of metrics.
    pub(crate) name: &'static str,
    pub(crate) socket: TcpListener,
    pub(crate) metrics: Arc<Metrics>,
}

/// What a port serves, and to whom.
#[derive(Clone)]
pub(crate) enum Serves {
    /// TLS; the caller is who its certificate or bearer token says.
    Tls(Tls),
    /// Plain text, where everybody is the operator. Loopback only.
    Plaintext(Router),
    /// HTTP/1.1 without callers: metrics and health.
    Http(Router),
}

/// The main port.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) trust: Trust,
    pub(crate) router: Router,
}

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Connection {
    peer: SocketAddr,
    caller: Conn,
    router: Router,
}

#[derive(Clone)]
enum Conn {
    Tls(Option<tls::Client>, Arc<Authenticator>),
    Plaintext,
    Http,
}

/// Until when a connection may stay.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Never,
    /// With its client's certificate.
    Certificate(Instant),
    /// It has none; the operator may stay.
    Stranger(Instant),
}

/// What connections of one listener compete for.
#[derive(Clone)]
struct Places {
    strangers: Arc<Semaphore>,
    handshakes: Arc<Handshakes>,
}

impl Listener {
    /// Serves until `stop` changes; then lets connections end, for [`DRAIN`] at most.
    pub(crate) async fn serve(self, serves: Serves, mut stop: watch::Receiver<bool>) {
        let all = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let places = Places {
            strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
            handshakes: Arc::default(),
        };
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                _ = stop.changed() => break,
                // Also takes those that ended out of the set.
                Some(_) = connections.join_next() => continue,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.accept_failed(&error).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&all).try_acquire_owned() else {
                self.refused("limit");
                continue;
            };
            let (places, serves, stop, metrics, name) = (
                places.clone(),
                serves.clone(),
                stop.clone(),
                Arc::clone(&self.metrics),
                self.name,
            );
            connections.spawn(async move {
                let open = metrics.connections.with_label_values(&[name]);
                open.inc();
                if let Err(reason) = handle(stream, peer, serves, &places, stop).await {
                    metrics
                        .connections_refused
                        .with_label_values(&[reason])
                        .inc();
                }
                open.dec();
                drop(place);
            });
        }
        drop(self.socket);
        let drained = async { while connections.join_next().await.is_some() {} };
        // What is still open after that is cut.
        let _cut = timeout(DRAIN + Duration::from_secs(1), drained).await;
    }

    async fn accept_failed(&self, error: &io::Error) {
        // Of this connection only, or of the process (no descriptors left): then let some end.
        if !matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
        ) {
            tracing::warn!(listener = self.name, %error, "accept failed");
            self.refused("accept");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn refused(&self, reason: &str) {
        self.metrics
            .connections_refused
            .with_label_values(&[reason])
            .inc();
    }
}

/// Gives the reason if there was no HTTP connection.
async fn handle(
    stream: TcpStream,
    peer: SocketAddr,
    serves: Serves,
    places: &Places,
    stop: watch::Receiver<bool>,
) -> Result<(), &'static str> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    // Fails only on a socket that is dead already.
    let _dead = stream.set_nodelay(true);
    match serves {
        Serves::Tls(tls) => {
            let begun = Instant::now();
            let mut ground = tls.trust.ground();
            let handshake = places.handshakes.begin(peer.ip()).ok_or("handshakes")?;
            let stream = match timeout(HANDSHAKE, tls.acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "TLS handshake failed");
                    return Err("handshake");
                }
                Err(_elapsed) => return Err("timeout"),
            };
            drop(handshake);
            let (_, session) = stream.get_ref();
            let h2 = session.alpn_protocol() == Some(b"h2");
            let client = match session.peer_certificates().and_then(<[_]>::split_first) {
                None => None,
                // The verifier has read it already; it cannot say otherwise now.
                Some((leaf, intermediates)) => {
                    ground.shown(session.peer_certificates().unwrap_or_default());
                    let client = tls::identity(leaf).map_err(|_error| "handshake")?;
                    tls.trust.authority.saw(&client, intermediates);
                    Some(client)
                }
            };
            let (ends, _place) = match &client {
                Some(client) if !client.left().is_zero() => {
                    let ends = (begun + client.left()).min(ground.ends(begun));
                    (Ends::Certificate(ends), None)
                }
                // One that has ended comes to renew it: as long as a newcomer.
                _ => {
                    let place = Arc::clone(&places.strangers).try_acquire_owned();
                    let place = place.map_err(|_full| "strangers")?;
                    (Ends::Stranger(begun + STRANGER), Some(place))
                }
            };
            let connection = Connection {
                peer,
                caller: Conn::Tls(client, tls.authenticator),
                router: tls.router,
            };
            let builder = if h2 {
                http().http2_only()
            } else {
                http().http1_only()
            };
            Box::pin(connection.serve(builder, stream, (ends, Some(ground)), stop)).await;
        }
        Serves::Plaintext(router) => {
            first_byte(&stream).await?;
            let connection = Connection {
                peer,
                caller: Conn::Plaintext,
                router,
            };
            Box::pin(connection.serve(http(), stream, (Ends::Never, None), stop)).await;
        }
        Serves::Http(router) => {
            let connection = Connection {
                peer,
                caller: Conn::Http,
                router,
            };
            Box::pin(connection.serve(http().http1_only(), stream, (Ends::Never, None), stop))
                .await;
        }
    }
    Ok(())
}

/// In plain text the version is told by the first bytes, for which hyper sets no deadline.
async fn first_byte(stream: &TcpStream) -> Result<(), &'static str> {
    let mut byte = [0];
    match timeout(HANDSHAKE, stream.peek(&mut byte)).await {
        Ok(Ok(1)) => Ok(()),
        Ok(_) => Err("handshake"),
        Err(_elapsed) => Err("timeout"),
    }
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES);
    builder
}

impl Connection {
    async fn serve(
        self,
        builder: auto::Builder<TokioExecutor>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        (ends, ground): (Ends, Option<Ground>),
        mut stop: watch::Receiver<bool>,
    ) {
        let peer = self.peer;
        let operator = Arc::new(AtomicBool::new(false));
        let service = {
            let operator = Arc::clone(&operator);
            service_fn(move |request| self.clone().answer(request, Arc::clone(&operator)))
        };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = async {
            match ends {
                Ends::Certificate(at) => {
                    tokio::time::sleep_until(at).await;
                    "its client's certificate has expired"
                }
                Ends::Stranger(at) => {
                    tokio::time::sleep_until(at).await;
                    if operator.load(Ordering::Relaxed) {
                        std::future::pending::<()>().await;
                    }
                    "it has no client certificate, and its time is over"
                }
                Ends::Never => std::future::pending().await,
            }
        };
        let lost = async {
            match ground {
                Some(ground) => ground.lost(peer.port()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
            _ = stop.changed() => {}
            reason = ended => tracing::debug!(%peer, reason, "connection ends"),
            reason = lost => tracing::info!(%peer, reason, "connection ends"),
        }
        connection.as_mut().graceful_shutdown();
        // A stream that goes on longer is cut; its client connects again.
        let _cut = timeout(DRAIN, connection).await;
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        operator: Arc<AtomicBool>,
    ) -> Result<axum::response::Response, Infallible> {
        let mut request = request.map(axum::body::Body::new);
        let caller = match &self.caller {
            Conn::Tls(client, authenticator) => {
                if let Some(client) = client {
                    request.extensions_mut().insert(Shown {
                        serial: Arc::clone(&client.serial),
                        not_after: client.not_after,
                    });
                }
                Some(authenticator.caller(client.as_ref(), request.headers()))
            }
            Conn::Plaintext => match auth::not_a_web_page(&request) {
                Ok(()) => Some(Caller::Plaintext),
                Err(refusal) => return Ok(routes::refuse(&request, refusal)),
            },
            Conn::Http => None,
        };
        if caller == Some(Caller::Operator) {
            operator.store(true, Ordering::Relaxed);
        }
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        request.extensions_mut().insert(Peer(self.peer));
        self.router.oneshot(request).await
    }
}

/// Whether only this machine can reach the address.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests;
