//! One HTTP call to a server that the operator has named, and its answer: a cluster's keys, a review of a token.
//!
//! Bounded in time and in bytes; follows no redirects. Plain text is for this machine only.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// The whole call, from the look-up of the name to the last byte.
const DEADLINE: Duration = Duration::from_secs(5);
/// A set of keys has a few KiB.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// As the operator wrote it.
    #[error("{0:?} is not a URL; write https://host/path (http:// for loopback addresses only)")]
    Url(String),
    /// The file of roots.
    #[error("root certificates {}", .0.display())]
    Roots(PathBuf, #[source] io::Error),
    /// Nothing in it.
    #[error("{} holds no usable PEM certificate", .0.display())]
    NoRoots(PathBuf),
    /// Connection, TLS or HTTP.
    #[error("calling {0}")]
    Call(
        String,
        #[source] Box<dyn std::error::Error + Send + Sync + 'static>,
    ),
    /// Too slow.
    #[error("calling {0}: no answer within 5 s")]
    Late(String),
    /// Not what was asked for.
    #[error("{0} answered {1}")]
    Status(String, StatusCode),
}

/// Where to, and whom to believe.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    url: Uri,
    host: String,
    port: u16,
    /// PEM, read for each call: it may be replaced. None = plain text.
    roots: Option<PathBuf>,
}

impl Server {
    /// `roots` are for `https://`.
    ///
    /// # Errors
    /// [`FetchError::Url`].
    pub(crate) fn new(url: &str, roots: &Path) -> Result<Self, FetchError> {
        let bad = || FetchError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_syntax| bad())?;
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']);
        let host = host.to_owned();
        let local = host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        let (port, roots) = match uri.scheme_str() {
            Some("https") => (443, Some(roots.to_owned())),
            Some("http") if local => (80, None),
            _ => return Err(bad()),
        };
        Ok(Self {
            port: uri.port_u16().unwrap_or(port),
            url: uri,
            host,
            roots,
        })
    }

    /// `GET`, or `POST` of `json`.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(crate) async fn call(
        &self,
        bearer: Option<&str>,
        json: Option<Vec<u8>>,
    ) -> Result<Bytes, FetchError> {
        timeout(DEADLINE, self.call_now(bearer, json))
            .await
            .unwrap_or_else(|_elapsed| Err(FetchError::Late(self.url.to_string())))
    }

    async fn call_now(
        &self,
        bearer: Option<&str>,
        json: Option<Vec<u8>>,
    ) -> Result<Bytes, FetchError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            FetchError::Call(self.url.to_string(), error)
        };
        let request = self
            .request(bearer, json)
            .map_err(|error| failed(error.into()))?;
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| failed(error.into()))?;
        let Some(roots) = &self.roots else {
            return self.exchange(tcp, request).await;
        };
        let config = tls(roots).await?;
        let name = ServerName::try_from(self.host.clone()).map_err(|error| failed(error.into()))?;
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        let tls = tls.map_err(|error| failed(error.into()))?;
        // Boxed: a TLS stream is a kilobyte, and the call is rare.
        Box::pin(self.exchange(tls, request)).await
    }

    fn request(
        &self,
        bearer: Option<&str>,
        json: Option<Vec<u8>>,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.url.authority().map_or("", |name| name.as_str());
        let method = if json.is_some() {
            Method::POST
        } else {
            Method::GET
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, "application/json")
            .header(
                header::USER_AGENT,
                concat!("outrigger/", env!("CARGO_PKG_VERSION")),
            );
        if json.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(bearer) = bearer {
            let mut value = HeaderValue::try_from(format!("Bearer {bearer}"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request.body(Full::from(json.unwrap_or_default()))
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Bytes, FetchError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            FetchError::Call(self.url.to_string(), error)
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.into()))?;
        let answer = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| failed(error.into()))?;
            if !response.status().is_success() {
                return Err(FetchError::Status(self.url.to_string(), response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
            let body = body.collect().await.map_err(failed)?;
            Ok(body.to_bytes())
        };
        // The connection is driven here, so that it ends with the call.
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                // Closed after the answer, which may still be here.
                Ok(()) => answer.await,
                Err(error) => Err(failed(error.into())),
            },
        }
    }
}

async fn tls(roots: &Path) -> Result<Arc<ClientConfig>, FetchError> {
    let failed = |error| FetchError::Roots(roots.to_owned(), error);
    let pem = tokio::fs::read(roots).await.map_err(failed)?;
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if store.is_empty() {
        return Err(FetchError::NoRoots(roots.to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Call("TLS".to_owned(), error.into()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
