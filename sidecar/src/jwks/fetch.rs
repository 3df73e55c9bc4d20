//! One fetch of a set of keys, through the cluster that leads to it: its endpoints, its TLS, its limits. A connection of
//! its own, closed with the answer: there is one every few minutes.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderValue, Request, StatusCode, Uri, Version,
    header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_core::{
    Cluster, Endpoint, Outcome, PickContext, Picked, UpstreamProtocol,
    jwt::{KeySet, MAX_KEY_SET, RemoteKeys},
};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    connect::{self, Whose},
    http::{MAX_HEADER_BYTES, io::Transport},
    identity::chain,
    shared::Shared,
    tls,
};

/// The keys, or why there are none.
pub(super) async fn fetch(shared: &Arc<Shared>, keys: &RemoteKeys) -> Result<KeySet, String> {
    let name = &keys.name;
    let cluster = {
        let snapshot = shared.snapshot.load();
        let slot = keys.slot.get().copied();
        let serving = slot
            .and_then(|slot| snapshot.serving(slot, || shared.now(), &mut fastrand::Rng::new()));
        serving.map(|(_, cluster)| Arc::clone(cluster))
    };
    let Some(cluster) = cluster else {
        return Err(format!("cluster {} has not arrived", name.cluster));
    };
    let limits = &cluster.limits;
    let over = |what: &str| format!("{what} of {} are in use", name.cluster);
    let _request = limits
        .requests
        .try_acquire(true)
        .ok_or_else(|| over("http2MaxRequests"))?;
    let _connection = limits
        .connections
        .try_acquire(true)
        .ok_or_else(|| over("maxConnections"))?;
    let picked = cluster.pick(&mut PickContext {
        hash: None,
        tried: &[],
        previous_priorities: &[],
        now: shared.now(),
        rng: &mut fastrand::Rng::new(),
    });
    let picked = picked.map_err(|none| format!("{}: {none:?}", name.cluster))?;
    let mut told = Told {
        shared,
        cluster: &cluster,
        picked,
        reported: false,
    };
    let _in_flight = told.picked.endpoint.begin();
    let answered = exchange(shared, &cluster, &told.picked.endpoint, &name.uri).await;
    told.report(match &answered {
        Ok((status, _)) => Outcome::Status(status.as_u16()),
        Err(_) => Outcome::LocalError,
    });
    let (status, body) = answered?;
    if status != StatusCode::OK {
        return Err(format!("answered with {status}"));
    }
    KeySet::parse(&body).map_err(|error| error.to_string())
}

async fn exchange(
    shared: &Shared,
    cluster: &Cluster,
    endpoint: &Endpoint,
    uri: &str,
) -> Result<(StatusCode, Bytes), String> {
    let http2 = cluster.config.protocol == UpstreamProtocol::Http2;
    let tls = client_tls(shared, cluster, endpoint, http2)?;
    let opened = connect::open(cluster, endpoint, tls, Whose::default(), shared).await;
    let opened = opened.map_err(|error| error.to_string())?;
    match opened.transport {
        Transport::Plain(stream) => send(stream, uri, http2).await,
        Transport::Tls(stream) => send(*stream, uri, http2).await,
        Transport::Stream(_) => Err("not a connection of its own".to_owned()),
    }
}

/// As pools make it.
fn client_tls(
    shared: &Shared,
    cluster: &Cluster,
    endpoint: &Endpoint,
    http2: bool,
) -> Result<Option<Arc<ClientConfig>>, String> {
    let policy = cluster.config.tls.as_ref().filter(|_| endpoint.config.mtls);
    let Some(policy) = policy else {
        return Ok(None);
    };
    let alpn: &[&[u8]] = if http2 {
        &[tls::ALPN_H2]
    } else {
        &[tls::ALPN_HTTP1]
    };
    if let Some(outside) = &policy.outside {
        let material = shared.tls_files.material(outside);
        let material = material.map_err(|why| format!("TLS files: {why}"))?;
        return tls::outside::client_config(policy, &material, alpn)
            .map(Some)
            .map_err(|error| chain(&error));
    }
    let identity = shared.identity.load_full();
    let identity = identity.ok_or("mTLS without a certificate of our own")?;
    tls::client_config(&identity, &policy.subject_alt_names, alpn)
        .map(Some)
        .map_err(|error| chain(&error))
}

async fn send<S>(stream: S, uri: &str, http2: bool) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let uri: Uri = uri
        .parse()
        .map_err(|_syntax| format!("{uri:?} is no URL"))?;
    let io = TokioIo::new(stream);
    let failed = |error: hyper::Error| chain(&error);
    if http2 {
        let request = Request::get(uri).version(Version::HTTP_2);
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(io)
            .await
            .map_err(failed)?;
        let _driven = Driven::of(connection);
        let response = sender
            .send_request(finished(request)?)
            .await
            .map_err(failed)?;
        read(response).await
    } else {
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        let host = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
        let path = uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        let request = Request::get(path).header(HOST, host);
        let (mut sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEADER_BYTES)
            .handshake(io)
            .await
            .map_err(failed)?;
        let _driven = Driven::of(connection);
        let response = sender
            .send_request(finished(request)?)
            .await
            .map_err(failed)?;
        read(response).await
    }
}

fn finished(request: http::request::Builder) -> Result<Request<Empty<Bytes>>, String> {
    request
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("outrigger/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
        .map_err(|error| error.to_string())
}

async fn read(
    response: http::Response<hyper::body::Incoming>,
) -> Result<(StatusCode, Bytes), String> {
    let (head, body) = response.into_parts();
    if head.status.is_redirection() {
        let to = head.headers.get(LOCATION).and_then(|to| to.to_str().ok());
        return Err(format!(
            "answered with {} to {}; write the URL that it leads to",
            head.status,
            to.unwrap_or("?")
        ));
    }
    let body = Limited::new(body, MAX_KEY_SET).collect().await;
    let body = body.map_err(|error| {
        let kind = head.headers.get(CONTENT_TYPE);
        format!("its body ({kind:?}) cannot be read: {error}")
    })?;
    Ok((head.status, body.to_bytes()))
}

/// Drives a connection until the answer is read.
struct Driven(tokio::task::JoinHandle<()>);

impl Driven {
    fn of<E: std::fmt::Display>(
        connection: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Self {
        Self(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a server of keys ended");
            }
        }))
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the ejection rules learn from a fetch.
struct Told<'a> {
    shared: &'a Shared,
    cluster: &'a Cluster,
    picked: Picked,
    reported: bool,
}

impl Told<'_> {
    fn report(&mut self, outcome: Outcome) {
        self.reported = true;
        // Counted where requests are.
        let _verdict = self
            .cluster
            .report(&self.picked, outcome, self.shared.now());
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.cluster.unused(&self.picked, self.shared.now());
        }
    }
}
