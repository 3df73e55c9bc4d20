//! Answers that a route gives by itself.

use bytes::Bytes;
use http::{HeaderValue, Response, request::Parts};
use outrigger_core::Action;

use crate::http::{answer, body::DownBody};

/// The answer to a redirect or direct response.
pub(crate) fn answer(
    action: &Action,
    parts: &Parts,
    authority: &HeaderValue,
) -> Response<DownBody> {
    match action {
        Action::DirectResponse { status, body } => {
            answer::direct(*status, None, Bytes::copy_from_slice(body))
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
            let path = path.as_deref().unwrap_or_else(|| parts.uri.path());
            let mut location = format!("{scheme}://{name}");
            if let Some(port) = port {
                location.push_str(&format!(":{port}"));
            }
            location.push_str(path);
            if let (Some(query), false) = (parts.uri.query(), *strip_query) {
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
