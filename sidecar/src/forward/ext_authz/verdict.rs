//! What an authorization server's answer means.
//!
//! gRPC: `CheckResponse`; status 0 = allowed. HTTP: 200 = allowed, 5xx = no verdict, anything else is the denial that the
//! caller gets. A verdict never changes how a message is framed, where it goes or who sent it: such edits are left out.

use bytes::{Buf as _, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
    header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, LOCATION, WWW_AUTHENTICATE},
    request::Parts,
};
use outrigger_core::{
    Edit, Facts, HttpCheck, Mutation, Put, StringMatch, may_change, names_header,
};
use outrigger_proto::envoy::{
    config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction},
    service::auth::v3::{
        CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
    },
};
use prost::Message as _;

use super::Reply;
use crate::http::answer::{GRPC_STATUS, Given};

const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
const FORBIDDEN: u16 = 403;

/// What was decided.
pub(super) enum Verdict {
    Allowed(Box<Allowed>),
    Denied(Box<Given>),
}

/// What is changed about a request that may go on.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    pub(super) request: Vec<Mutation>,
    pub(super) response: Vec<Mutation>,
    pub(super) query: Option<Query>,
}

/// Edits of a query.
#[derive(Debug)]
pub(super) struct Query {
    set: Vec<(String, String)>,
    remove: Vec<String>,
}

/// `Err`: no verdict.
pub(super) fn of_grpc(reply: &Reply) -> Result<Verdict, String> {
    if reply.head.status != StatusCode::OK {
        return Err(format!("it answered with status {}", reply.head.status));
    }
    let trailers = reply.trailers.as_ref();
    let status = trailers.and_then(|trailers| trailers.get(GRPC_STATUS));
    let status = status.or_else(|| reply.head.headers.get(GRPC_STATUS));
    match status.map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            return Err(format!("it answered with gRPC status {other}"));
        }
        None => return Err("its answer has no gRPC status".to_owned()),
    }
    let response = message(&reply.body)?;
    let is_ok = response
        .status
        .as_ref()
        .is_none_or(|status| status.code == 0);
    match response.http_response {
        Some(HttpResponse::OkResponse(ok)) if is_ok => Ok(allowed(&ok)),
        _ if is_ok => Ok(allowed(&OkHttpResponse::default())),
        Some(HttpResponse::ErrorResponse(error)) => {
            let code = error.status.map_or(0, |status| status.code);
            Err(format!("it says that it failed (status {code})"))
        }
        Some(HttpResponse::DeniedResponse(denied)) => Ok(Verdict::Denied(Box::new(given(denied)))),
        Some(HttpResponse::OkResponse(_)) | None => Ok(Verdict::Denied(Box::new(given(
            DeniedHttpResponse::default(),
        )))),
    }
}

/// The one message of an answer.
fn message(body: &Bytes) -> Result<CheckResponse, String> {
    let mut body = body.clone();
    let not_one = || "its answer is not one message of gRPC".to_owned();
    if body.remaining() < 5 || body.get_u8() != 0 {
        return Err(not_one());
    }
    let length = usize::try_from(body.get_u32()).unwrap_or(usize::MAX);
    if length != body.remaining() {
        return Err(not_one());
    }
    CheckResponse::decode(body).map_err(|error| format!("its answer is no CheckResponse: {error}"))
}

fn allowed(ok: &OkHttpResponse) -> Verdict {
    let mut request = Vec::with_capacity(ok.headers.len() + ok.headers_to_remove.len());
    request.extend(ok.headers.iter().filter_map(put).filter(is_free));
    let removed = ok
        .headers_to_remove
        .iter()
        .filter_map(|name| name.parse().ok());
    request.extend(removed.map(Mutation::Remove).filter(is_free));
    let response = ok.response_headers_to_add.iter().filter_map(put);
    let set = ok.query_parameters_to_set.iter();
    let query = Query {
        set: set
            .map(|one| (one.key.clone(), one.value.clone()))
            .collect(),
        remove: ok.query_parameters_to_remove.clone(),
    };
    Verdict::Allowed(Box::new(Allowed {
        request,
        response: response.filter(is_free).collect(),
        query: (!query.set.is_empty() || !query.remove.is_empty()).then_some(query),
    }))
}

fn given(denied: DeniedHttpResponse) -> Given {
    let code = denied.status.map_or(0, |status| status.code);
    let mut headers = HeaderMap::new();
    for mutation in denied.headers.iter().filter_map(put).filter(is_free) {
        mutation.apply(&mut headers, &Facts::default());
    }
    Given {
        status: final_status(code),
        headers,
        body: Bytes::from(denied.body),
    }
}

/// Not one that would leave the caller waiting.
fn final_status(code: i32) -> u16 {
    match u16::try_from(code) {
        Ok(code @ 200..=599) => code,
        _ => FORBIDDEN,
    }
}

/// None = no header that there can be.
fn put(option: &HeaderValueOption) -> Option<Mutation> {
    let header = option.header.as_ref()?;
    let name: HeaderName = header.key.parse().ok()?;
    let value = match header.raw_value.as_slice() {
        [] => HeaderValue::from_str(&header.value).ok()?,
        raw => HeaderValue::from_bytes(raw).ok()?,
    };
    // The old way to say it wins where it is used (Envoy).
    let put = match (
        option.append,
        HeaderAppendAction::try_from(option.append_action),
    ) {
        (Some(true), _) => Put::Append,
        (Some(false), _) => Put::Overwrite,
        (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => Put::Append,
        (None, Ok(HeaderAppendAction::AddIfAbsent)) => Put::IfAbsent,
        (None, Ok(HeaderAppendAction::OverwriteIfExists)) => Put::OverwriteExisting,
        (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) | Err(_)) => Put::Overwrite,
    };
    Some(Mutation::Put(name, Edit::Plain(value), put))
}

fn is_free(mutation: &Mutation) -> bool {
    match mutation {
        Mutation::Remove(name) | Mutation::Put(name, ..) => may_change(name),
        Mutation::RemoveMatching(_) => false,
    }
}

/// `Err`: no verdict.
pub(super) fn of_http(check: &HttpCheck, reply: &Reply) -> Result<Verdict, String> {
    let (status, headers) = (reply.head.status, &reply.head.headers);
    if status.is_server_error() {
        return Err(format!("it answered with status {status}"));
    }
    let is_in = |all: &[StringMatch], name: &HeaderName| names_header(all, name.as_str());
    let put = |name: &HeaderName, value: &HeaderValue, put| {
        Mutation::Put(name.clone(), Edit::Plain(value.clone()), put)
    };
    if status != StatusCode::OK {
        let usual = [LOCATION, WWW_AUTHENTICATE, CONTENT_TYPE];
        let mut told = HeaderMap::new();
        for (name, value) in headers {
            let wanted = match &check.client {
                None => true,
                Some(all) => usual.contains(name) || is_in(all, name),
            };
            if wanted && *name != DATE && may_change(name) {
                told.append(name.clone(), value.clone());
            }
        }
        return Ok(Verdict::Denied(Box::new(Given {
            status: status.as_u16().max(200),
            headers: told,
            body: reply.body.clone(),
        })));
    }
    let mut allowed = Allowed::default();
    let mut seen: Vec<&HeaderName> = Vec::new();
    for (name, value) in headers {
        if is_in(&check.upstream, name) {
            // All values of one header, in place of those that came.
            let how = match seen.contains(&name) {
                true => Put::Append,
                false => Put::Overwrite,
            };
            seen.push(name);
            allowed.request.push(put(name, value, how));
        }
        if is_in(&check.upstream_added, name) {
            allowed.request.push(put(name, value, Put::Append));
        }
        if *name != CONTENT_LENGTH && is_in(&check.client_on_success, name) {
            allowed.response.push(put(name, value, Put::Append));
        }
    }
    for value in headers.get_all(TO_REMOVE) {
        let names = value.as_bytes().split(|byte| *byte == b',');
        let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
        allowed.request.extend(names.map(Mutation::Remove));
    }
    allowed.request.retain(is_free);
    allowed.response.retain(is_free);
    Ok(Verdict::Allowed(Box::new(allowed)))
}

impl Query {
    /// What would make no path is left as it is.
    pub(super) fn apply(&self, parts: &mut Parts) {
        let path = parts.uri.path();
        let mut left: Vec<(&str, Option<&str>)> = Vec::new();
        let named = |name: &str| {
            self.remove.iter().any(|one| one == name) || self.set.iter().any(|(one, _)| one == name)
        };
        for pair in parts.uri.query().unwrap_or_default().split('&') {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (pair, None),
            };
            if !pair.is_empty() && !named(name) {
                left.push((name, value));
            }
        }
        left.extend(
            self.set
                .iter()
                .map(|(name, value)| (name.as_str(), Some(value.as_str()))),
        );
        let query: Vec<String> = left
            .iter()
            .map(|(name, value)| {
                value.map_or_else(|| (*name).to_owned(), |value| format!("{name}={value}"))
            })
            .collect();
        let whole = match query.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{}", query.join("&")),
        };
        match whole.parse::<Uri>() {
            Ok(uri) => parts.uri = uri,
            Err(error) => tracing::debug!(%error, whole, "a verdict's query makes no path"),
        }
    }
}
