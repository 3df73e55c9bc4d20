//! Calls to one service through the proxy on localhost, over connections that are kept.

use std::{fmt, sync::Mutex, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::life::Proxy;

/// Idle connections that are kept; more are closed after use.
const MAX_IDLE: usize = 64;
/// Bytes of an upstream's answer.
const MAX_ANSWER: usize = 1 << 20;
/// One call, from start to end.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

type Connection = SendRequest<Empty<Bytes>>;

/// One service that we call, e.g. `reviews:9080`.
pub(crate) struct Upstream {
    authority: HeaderValue,
    name: String,
    proxy: Proxy,
    idle: Mutex<Vec<Connection>>,
}

/// What an upstream answered.
pub(crate) struct Called {
    pub(crate) status: StatusCode,
    /// The mesh's word on a failure, if it was the mesh that answered.
    pub(crate) reason: Option<String>,
    pub(crate) body: Value,
}

/// Why no answer came.
#[derive(Debug)]
pub(crate) enum CallError {
    ProxyUnknown,
    TimedOut,
    Connect(std::io::Error),
    Http(hyper::Error),
    Body(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProxyUnknown => f.write_str("the proxy's address has not been told yet"),
            Self::TimedOut => write!(f, "no answer within {} s", CALL_TIMEOUT.as_secs()),
            Self::Connect(error) => write!(f, "connecting to the proxy: {error}"),
            Self::Http(error) => write!(f, "calling through the proxy: {error}"),
            Self::Body(error) => write!(f, "reading the answer: {error}"),
        }
    }
}

impl Upstream {
    pub(crate) fn new(authority: &str, proxy: Proxy) -> anyhow::Result<Self> {
        let name = authority.split(':').next().unwrap_or(authority).to_owned();
        Ok(Self {
            authority: HeaderValue::from_str(authority)
                .with_context(|| format!("--upstream {authority}: expected host:port"))?,
            name,
            proxy,
            idle: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `GET path` with these headers.
    pub(crate) async fn call(&self, path: &str, headers: HeaderMap) -> Result<Called, CallError> {
        timeout(CALL_TIMEOUT, self.call_unbounded(path, headers))
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }

    async fn call_unbounded(&self, path: &str, headers: HeaderMap) -> Result<Called, CallError> {
        let mut request = Request::new(Empty::new());
        // A path came in as a valid one; anything else cannot happen and would be `/`.
        *request.uri_mut() = path.parse().unwrap_or_default();
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.authority.clone());

        let (connection, response) = loop {
            let (mut connection, kept) = self.connection().await?;
            match connection.try_send_request(request).await {
                Ok(response) => break (connection, response),
                // The proxy had closed the kept connection and nothing was sent: take the next one.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(CallError::Http(error.into_error())),
                },
            }
        };
        let status = response.status();
        let reason = response
            .headers()
            .get("x-outrigger-reason")
            .and_then(|reason| reason.to_str().ok())
            .map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(CallError::Body)?
            .to_bytes();
        self.keep(connection);
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Ok(Called {
            status,
            reason,
            body,
        })
    }

    /// A connection, and whether it was used before.
    async fn connection(&self) -> Result<(Connection, bool), CallError> {
        while let Some(mut connection) = self.take() {
            if connection.ready().await.is_ok() {
                return Ok((connection, true));
            }
        }
        let proxy = (*self.proxy.borrow()).ok_or(CallError::ProxyUnknown)?;
        let stream = TcpStream::connect(proxy)
            .await
            .map_err(CallError::Connect)?;
        stream.set_nodelay(true).map_err(CallError::Connect)?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(CallError::Http)?;
        // Ends with the connection; its error also comes out of `send_request`.
        tokio::spawn(driver);
        Ok((connection, false))
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().ok()?.pop()
    }

    fn keep(&self, connection: Connection) {
        if let Ok(mut idle) = self.idle.lock()
            && idle.len() < MAX_IDLE
            && !connection.is_closed()
        {
            idle.push(connection);
        }
    }
}
