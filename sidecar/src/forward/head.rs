//! The form in which a listener wants the heads of its requests, before anything looks at them: path, Host, and what is
//! said about the caller. A listener that says nothing costs a comparison.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, header::HOST, request::Parts, uri::PathAndQuery,
};
use outrigger_core::{HeadSettings, StripPort};

use super::call::Call;
use crate::http::{
    answer::{Code, Problem},
    path,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts a request's head into the form that the listener asks for. Gives back the authority.
pub(crate) fn prepare(
    call: &Call,
    head: HeadSettings,
    parts: &mut Parts,
    authority: HeaderValue,
) -> Result<HeaderValue, Problem> {
    if head == HeadSettings::default() {
        return Ok(authority);
    }
    let bad = |rule: &str| Problem::new(Code::BadRequest, rule);
    if let Some(path) = path::rewritten(parts.uri.path(), head).map_err(bad)? {
        let target = match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let target = PathAndQuery::from_maybe_shared(Bytes::from(target))
            .map_err(|_syntax| bad("the path has characters that paths do not have"))?;
        parts.uri = Uri::from(target);
    }
    let port = match head.strip_port {
        StripPort::Never => None,
        StripPort::Matching => call.connection.local.map(|local| Some(local.port())),
        StripPort::Always => Some(None),
    };
    let authority = match port.and_then(|port| without_port(&authority, port)) {
        Some(stripped) => {
            parts.headers.insert(HOST, stripped.clone());
            stripped
        }
        None => authority,
    };
    if head.forwarded {
        append_forwarded(call, &mut parts.headers);
    }
    if head.request_id && !parts.headers.contains_key(REQUEST_ID) {
        let id = call.worker.rng.borrow_mut().u128(..);
        if let Ok(id) = HeaderValue::from_str(&uuid(id)) {
            parts.headers.insert(REQUEST_ID, id);
        }
    }
    Ok(authority)
}

/// None = it has none, or another than `only`.
fn without_port(authority: &HeaderValue, only: Option<u16>) -> Option<HeaderValue> {
    let (name, port) = authority.to_str().ok()?.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    if only.is_some_and(|only| only != port) {
        return None;
    }
    HeaderValue::from_str(name).ok()
}

fn append_forwarded(call: &Call, headers: &mut HeaderMap) {
    let address = call.connection.remote.ip().to_canonical().to_string();
    let values = headers.get_all(FORWARDED_FOR).iter();
    let before: Vec<&[u8]> = values.map(HeaderValue::as_bytes).collect();
    let all = match before.is_empty() {
        true => address.into_bytes(),
        false => [&before.join(&b","[..])[..], b",", address.as_bytes()].concat(),
    };
    if let Ok(all) = HeaderValue::from_maybe_shared(Bytes::from(all)) {
        headers.insert(FORWARDED_FOR, all);
    }
    let is_tls = call.connection.peer.is_some();
    let proto = HeaderValue::from_static(if is_tls { "https" } else { "http" });
    headers.insert(FORWARDED_PROTO, proto);
}

/// Of version 4 (RFC 9562).
fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}
