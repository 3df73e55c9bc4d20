//! Heads as they cross: the request's on its way up, the response's on its way down.

use http::{
    HeaderValue, Uri, Version,
    header::{HOST, SET_COOKIE},
    request, response,
    uri::{Authority, PathAndQuery, Scheme},
};
use outrigger_core::{Cluster, Direction, Route, UpstreamProtocol, WeightedCluster};

use crate::{
    http::headers::{self, REASON, UNSENT},
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
pub(crate) fn edit(parts: &mut request::Parts, route: &Route, weighted: &WeightedCluster) {
    if route.prefix_rewrite.is_some() {
        let old = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let new = route.rewrite_path(old).into_owned();
        // A rewrite that makes no valid path is left out; the control plane refuses such documents.
        if let Ok(new) = PathAndQuery::from_maybe_shared(bytes::Bytes::from(new)) {
            parts.uri = Uri::from(new);
        }
    }
    if let Some(host) = &route.host_rewrite {
        parts.headers.insert(HOST, host.clone());
    }
    // Envoy's order, so that the route has the last word.
    for edits in [&weighted.request_headers, &route.request_headers] {
        if !edits.is_empty() {
            edits.apply(&mut parts.headers);
        }
    }
}

/// Puts the head in the protocol's form. Hop-by-hop fields are gone already.
pub(crate) fn address(parts: &mut request::Parts, protocol: Protocol) {
    match protocol {
        Protocol::Http1 => {
            headers::join_cookies(&mut parts.headers, parts.version);
            parts.version = Version::HTTP_11;
        }
        Protocol::Http2 => {
            let authority = parts
                .headers
                .remove(HOST)
                .and_then(|host| Authority::try_from(host.as_bytes()).ok());
            parts.version = Version::HTTP_2;
            if let Some(authority) = authority {
                let mut uri = std::mem::take(&mut parts.uri).into_parts();
                uri.scheme = Some(Scheme::HTTP);
                uri.authority = Some(authority);
                uri.path_and_query
                    .get_or_insert_with(|| PathAndQuery::from_static("/"));
                parts.uri = Uri::from_parts(uri).unwrap_or_default();
            }
        }
    }
}

/// Cleans and edits the head of a response.
pub(crate) fn answer(
    head: &mut response::Parts,
    direction: Direction,
    route: &Route,
    weighted: &WeightedCluster,
    cookies: &[HeaderValue],
) {
    // The server side of the connection writes its own version.
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers);
    head.headers.remove(UNSENT);
    if direction == Direction::Inbound {
        // Ours to say, not the application's.
        head.headers.remove(REASON);
    }
    for edits in [&weighted.response_headers, &route.response_headers] {
        if !edits.is_empty() {
            edits.apply(&mut head.headers);
        }
    }
    for cookie in cookies {
        head.headers.append(SET_COOKIE, cookie.clone());
    }
}
