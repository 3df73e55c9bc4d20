//! Heads as they cross: the request's on its way up, the response's on its way down.

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version,
    header::{CONTENT_LENGTH, HOST, SET_COOKIE, TRANSFER_ENCODING},
    request, response,
    uri::{Authority, PathAndQuery, Scheme},
};
use outrigger_core::{Cluster, Facts, Route, UpstreamProtocol, WeightedCluster};

use super::{call::Call, tries::Plan};
use crate::{
    http::{
        answer::{Code, Problem},
        headers::{self, UNSENT, claims},
    },
    pool::Protocol,
};

/// What the cluster is spoken to in.
pub(crate) fn protocol(cluster: &Cluster, came_by_http2: bool) -> Protocol {
    let tls = cluster.config.tls.as_ref();
    let is_mesh = tls.is_none_or(|tls| tls.outside.is_none());
    match cluster.config.protocol {
        UpstreamProtocol::Http1 => Protocol::Http1,
        UpstreamProtocol::Http2 => Protocol::Http2,
        // Outside of the mesh an HTTP port speaks HTTP/1.1; HTTP/2 is what a port has to be declared for.
        UpstreamProtocol::AsDownstream if came_by_http2 && is_mesh => Protocol::Http2,
        UpstreamProtocol::AsDownstream => Protocol::Http1,
    }
}

/// What the route and the chosen cluster change.
pub(crate) fn edit(
    call: &Call,
    parts: &mut request::Parts,
    authority: &HeaderValue,
    route: &Route,
    weighted: &WeightedCluster,
) -> Result<(), Problem> {
    let edits = [&weighted.request_headers, &route.request_headers];
    if edits.iter().any(|edits| !edits.is_empty()) {
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let facts = Facts {
            method: parts.method.as_str(),
            path,
            authority: authority.to_str().unwrap_or_default(),
            ..call.facts(route, weighted)
        };
        // Envoy's order, so that the route has the last word.
        for edits in edits {
            edits.apply(&mut parts.headers, &facts);
        }
    }
    if route.rewrite.is_some() {
        let old = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let new = route.rewrite_path(old).into_owned();
        // The old path is not what the document wants, and there is no other.
        let path = PathAndQuery::from_maybe_shared(bytes::Bytes::from(new)).map_err(|error| {
            let message = format!("the route's rewrite makes no path of {old:?}: {error}");
            Problem::new(Code::BadRequest, message)
        })?;
        parts.uri = Uri::from(path);
    }
    if let Some(host) = &route.host_rewrite {
        parts.headers.insert(HOST, host.clone());
    }
    Ok(())
}

/// The head as it was sent, for an answer whose headers speak of it.
#[derive(Debug)]
pub(crate) struct Asked {
    path: String,
    authority: HeaderValue,
    headers: HeaderMap,
}

impl Asked {
    /// None where no header does.
    pub(crate) fn of(
        parts: &request::Parts,
        route: &Route,
        weighted: &WeightedCluster,
    ) -> Option<Box<Self>> {
        let edits = [&weighted.response_headers, &route.response_headers];
        edits.iter().any(|edits| edits.reads_request()).then(|| {
            let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
            let empty = HeaderValue::from_static("");
            Box::new(Self {
                path: path.to_owned(),
                authority: parts.headers.get(HOST).cloned().unwrap_or(empty),
                headers: parts.headers.clone(),
            })
        })
    }
}

/// Puts the head in the protocol's form. Hop-by-hop fields are gone already.
pub(crate) fn address(parts: &mut request::Parts, protocol: Protocol) -> Result<(), Problem> {
    match protocol {
        Protocol::Http1 => {
            headers::join_cookies(&mut parts.headers, parts.version);
            parts.version = Version::HTTP_11;
        }
        Protocol::Http2 => {
            parts.headers.remove(TRANSFER_ENCODING);
            let host = parts.headers.remove(HOST);
            let host = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
            let authority = Authority::try_from(host).map_err(|error| {
                let shown = String::from_utf8_lossy(host);
                let message = format!("Host {shown:?} cannot be said in HTTP/2: {error}");
                Problem::new(Code::BadRequest, message)
            })?;
            parts.version = Version::HTTP_2;
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(authority);
            uri.path_and_query
                .get_or_insert_with(|| PathAndQuery::from_static("/"));
            parts.uri = Uri::from_parts(uri).unwrap_or_default();
        }
    }
    Ok(())
}

/// HTTP/1.1 says that there is a body; hyper takes none for granted of a method that seldom has one.
pub(crate) fn frame(parts: &mut request::Parts, protocol: Protocol, has_body: bool) {
    if has_body
        && protocol == Protocol::Http1
        && matches!(parts.method, Method::GET | Method::HEAD)
        && !parts.headers.contains_key(CONTENT_LENGTH)
        && !parts.headers.contains_key(TRANSFER_ENCODING)
    {
        let chunked = HeaderValue::from_static("chunked");
        parts.headers.insert(TRANSFER_ENCODING, chunked);
    }
}

/// Cleans and edits the head of a response from `endpoint`.
pub(crate) fn answer(
    call: &Call,
    head: &mut response::Parts,
    plan: &Plan<'_>,
    endpoint: SocketAddr,
    attempts: u32,
    of_sidecar: bool,
) {
    call.answered_by.set(Some(endpoint));
    // The server side of the connection writes its own version.
    head.version = Version::HTTP_11;
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
    headers::strip_hop_by_hop(&mut head.headers, switches);
    if of_sidecar {
        // Was for us.
        head.headers.remove(UNSENT);
    } else {
        // Ours to say, not an application's.
        claims::strip_response(&mut head.headers);
    }
    if plan.route.answers_attempts {
        head.headers
            .insert(ATTEMPT_COUNT, HeaderValue::from(attempts));
    }
    let edits = [
        &plan.weighted.response_headers,
        &plan.route.response_headers,
    ];
    if edits.iter().any(|edits| !edits.is_empty()) {
        let asked = plan.asked.as_deref();
        let facts = Facts {
            method: call.method.as_str(),
            path: asked.map_or("", |asked| &asked.path),
            authority: asked
                .and_then(|asked| asked.authority.to_str().ok())
                .unwrap_or_default(),
            request: asked.map(|asked| &asked.headers),
            status: Some(head.status.as_u16()),
            upstream: Some(endpoint),
            ..call.facts(plan.route, plan.weighted)
        };
        for edits in edits {
            edits.apply(&mut head.headers, &facts);
        }
    }
    for cookie in &plan.cookies {
        head.headers.append(SET_COOKIE, cookie.clone());
    }
}

/// How often a request was sent, this time included.
pub(crate) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
