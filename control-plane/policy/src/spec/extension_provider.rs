//! Servers that answer for the mesh: whom AuthorizationPolicies with action CUSTOM ask.
//! Source: Istio `MeshConfig.ExtensionProvider`, which is no document there; `envoyExtAuthzHttp`, `envoyExtAuthzGrpc`.

use std::{collections::BTreeMap, time::Duration};

use super::At;

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtensionProvider {
    /// The service's host as written, without a namespace before it.
    pub service: At<String>,
    /// Namespace in which a short host is looked for. None = the document's.
    pub namespace: Option<String>,
    /// Its port.
    pub port: u16,
    /// For one question. Default 10 s (Istio's 600 s would have a caller wait for a dead server).
    pub timeout: Duration,
    /// Without a verdict the request goes on. Default: it is refused.
    pub fail_open: bool,
    /// The route is looked for again where the verdict has changed the request.
    pub clear_route_cache: bool,
    /// Of a refusal without a verdict, 400 to 599. Default 403.
    pub status_on_error: Option<u16>,
    /// What of the body is sent along.
    pub body: Option<BodyInCheck>,
    /// How it is asked.
    pub protocol: CheckProtocol,
}

/// How a server is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckProtocol {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// The request's own head.
    Http(Box<HttpCheck>),
}

/// `envoyExtAuthzHttp` beside what both have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpCheck {
    /// Before the request's path.
    pub path_prefix: Option<String>,
    /// Headers that the server is told beside Host, Method, Path, Content-Length and Authorization.
    pub include_request_headers: Vec<NamePattern>,
    /// Headers with fixed values.
    pub include_additional_headers: BTreeMap<String, String>,
    /// Headers of its approval that are set on the request.
    pub to_upstream_on_allow: Vec<NamePattern>,
    /// Headers of its denial that the caller gets; empty = all.
    pub to_downstream_on_deny: Vec<NamePattern>,
    /// Headers of its approval that the caller gets.
    pub to_downstream_on_allow: Vec<NamePattern>,
}

/// Names of headers, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    /// `abc`
    Exact(String),
    /// `abc*`
    Prefix(String),
    /// `*abc`
    Suffix(String),
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyInCheck {
    /// 1 to 1,048,576.
    pub max_request_bytes: u32,
    /// A longer body is cut, and not refused.
    pub allow_partial_message: bool,
    /// In `raw_body`, and not as text. gRPC only.
    pub pack_as_bytes: bool,
}
