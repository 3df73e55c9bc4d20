//! Registration over HTTP and JSON, as a program without a sidecar does it, with the operator's credentials.

use std::{fs, sync::Arc};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, client::WantsClientCert, crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Mesh, Reply};

/// The control plane's HTTP registry.
#[derive(Debug)]
pub struct HttpRegistry<'a> {
    mesh: &'a Mesh,
    tls: Arc<ClientConfig>,
    token: String,
}

impl<'a> HttpRegistry<'a> {
    /// Of this mesh, as its operator.
    ///
    /// # Panics
    /// When the control plane has not written its files.
    pub fn of(mesh: &'a Mesh) -> Self {
        let token = fs::read_to_string(mesh.data_dir().join("admin.token")).expect("a token");
        Self {
            mesh,
            tls: Arc::new(tls(mesh)),
            token: token.trim().to_owned(),
        }
    }

    /// One call, e.g. `PUT /v1/services/reviews/instances/a`.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Reply {
        let stream = TcpStream::connect(self.mesh.grpc())
            .await
            .expect("the control plane listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await;
        let stream = TokioIo::new(stream.expect("its certificate is good"));
        let (mut send, connection) = http1::handshake(stream).await.expect("it speaks HTTP/1.1");
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {}", self.token))
            .body(Full::new(Bytes::from(body.to_string())))
            .expect("a valid request");
        let (head, body) = send
            .send_request(request)
            .await
            .expect("an answer")
            .into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        Reply {
            status: head.status,
            headers: head.headers,
            body,
        }
    }
}

/// Trust in the mesh's control plane.
pub(crate) fn tls(mesh: &Mesh) -> ClientConfig {
    trusting(mesh).with_no_client_auth()
}

/// The same, with what a client shows to be chosen.
pub(crate) fn trusting(mesh: &Mesh) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    let file = mesh.data_dir().join("root.pem");
    let root = CertificateDer::from_pem_file(&file).expect("the control plane writes its root");
    roots.add(root).expect("a root certificate");
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .with_root_certificates(roots)
}
