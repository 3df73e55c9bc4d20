//! Calls services as an application does: through its sidecar's HTTP proxy on localhost.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

/// One call, from start to end.
const TIMEOUT: Duration = Duration::from_secs(20);

type Connection = SendRequest<Full<Bytes>>;

/// Calls through one proxy over HTTP/1.1, on connections that are kept.
#[derive(Clone, Debug)]
pub struct Caller {
    proxy: SocketAddr,
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Caller {
    /// Calls through the proxy at this address.
    pub fn through(proxy: SocketAddr) -> Self {
        Self {
            proxy,
            idle: Arc::default(),
        }
    }

    /// `GET path` of `host`, e.g. `reviews:9080`.
    ///
    /// # Panics
    /// When no answer comes; an error answer is an answer.
    pub async fn get(&self, host: &str, path: &str) -> Reply {
        self.send(request(host, path)).await
    }

    /// `GET /` of `host` with one header.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn get_with(&self, host: &str, name: &str, value: &str) -> Reply {
        let mut with = request(host, "/");
        with.headers_mut().insert(
            http::HeaderName::from_bytes(name.as_bytes()).expect("a header's name"),
            value.parse().expect("a header's value"),
        );
        self.send(with).await
    }

    /// Sends any request, which has a `Host` header.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        self.try_send(request)
            .await
            .unwrap_or_else(|why| panic!("no answer: {why}"))
    }

    /// Sends any request; `Err` says why no answer came.
    ///
    /// # Errors
    /// When the connection fails, or there is no answer within 20 s.
    pub async fn try_send(&self, request: Request<Full<Bytes>>) -> Result<Reply, String> {
        let sent = timeout(TIMEOUT, self.send_unbounded(request)).await;
        sent.unwrap_or_else(|_| Err(format!("nothing within {TIMEOUT:?}")))
    }

    async fn send_unbounded(&self, mut request: Request<Full<Bytes>>) -> Result<Reply, String> {
        let (connection, response) = loop {
            let (mut connection, kept) = self.connection().await?;
            match connection.try_send_request(request).await {
                Ok(response) => break (connection, response),
                // The proxy had closed the kept connection, and nothing was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(format!("{:?}", error.into_error())),
                },
            }
        };
        let (head, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| format!("reading the body: {error:?}"))?;
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(connection);
        }
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    async fn connection(&self) -> Result<(Connection, bool), String> {
        while let Some(mut connection) = self.idle.lock().ok().and_then(|mut idle| idle.pop()) {
            if connection.ready().await.is_ok() {
                return Ok((connection, true));
            }
        }
        let stream = TcpStream::connect(self.proxy).await;
        let stream = stream.map_err(|error| format!("connecting to {}: {error}", self.proxy))?;
        stream.set_nodelay(true).ok();
        let (connection, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(driver);
        Ok((connection, false))
    }
}

impl Reply {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The `name` of the [`crate::TestApp`] that answered; empty if none did.
    pub fn name(&self) -> String {
        self.json()
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    /// `x-outrigger-reason`, if a sidecar answered itself.
    pub fn reason(&self) -> Option<&str> {
        self.headers.get("x-outrigger-reason")?.to_str().ok()
    }

    /// Status and body, for messages.
    pub fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

/// `GET path` of `host`.
pub(crate) fn request(host: &str, path: &str) -> Request<Full<Bytes>> {
    Request::get(path)
        .header(http::header::HOST, host)
        .body(Full::default())
        .expect("a valid request")
}
