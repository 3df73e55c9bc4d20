//! Answers that a route gives by itself.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE, request::Parts};
use outrigger_core::{Action, RedirectPath, Route};

use crate::http::{answer, body::DownBody};

/// The answer to a redirect or direct response.
pub(crate) fn answer(route: &Route, parts: &Parts, authority: &HeaderValue) -> Response<DownBody> {
    match &route.action {
        Action::DirectResponse { status, body } => {
            let mut response = answer::direct(*status, None, Bytes::copy_from_slice(body));
            if !body.is_empty() {
                // As Envoy; the route's own headers come after and may say better.
                let plain = HeaderValue::from_static("text/plain");
                response.headers_mut().insert(CONTENT_TYPE, plain);
            }
            response
        }
        Action::Redirect {
            scheme,
            host,
            port,
            path,
            strip_query,
            status,
        } => {
            let scheme = scheme.as_deref().unwrap_or("http");
            let own = authority.to_str().unwrap_or_default();
            let (name, own_port) = split(own);
            let name = host.as_deref().unwrap_or(name);
            // A new scheme has another default port: the old number would be wrong (Envoy).
            let port = match (port, host, scheme) {
                (Some(port), ..) => Some(*port),
                (None, None, "http") => own_port,
                _ => None,
            };
            let mut location = format!("{scheme}://{name}");
            if let Some(port) = port {
                location.push_str(&format!(":{port}"));
            }
            let asked = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let (path, query) = match path {
                RedirectPath::Same => (Cow::Borrowed(parts.uri.path()), parts.uri.query()),
                // A query that was written stays, whatever the request has (Envoy).
                RedirectPath::Whole(path) if path.contains('?') => {
                    location.push_str(path);
                    return answer::direct(*status, Some(&location), Bytes::new());
                }
                RedirectPath::Whole(path) => (Cow::Borrowed(path.as_str()), parts.uri.query()),
                RedirectPath::Rewritten(rewrite) => {
                    let path = asked.split('?').next().unwrap_or(asked);
                    (route.rewritten(rewrite, path), parts.uri.query())
                }
            };
            location.push_str(&path);
            if let (Some(query), false) = (query, *strip_query) {
                location.push('?');
                location.push_str(query);
            }
            answer::direct(*status, Some(&location), Bytes::new())
        }
        Action::Forward(_) => answer::direct(500, None, Bytes::new()),
    }
}

fn split(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_not_a_port) => (authority, None),
        },
        _ => (authority, None),
    }
}
