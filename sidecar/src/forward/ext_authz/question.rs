//! What an authorization server is asked: the attributes of a request as Envoy fills them, or the request's own head.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE},
    request::Parts,
    uri::PathAndQuery,
};
use outrigger_core::{CheckService, ExtAuthz, HttpCheck};
use outrigger_proto::envoy::{
    config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{self, HttpRequest, Peer, TlsSession},
    },
};
use prost::Message as _;

use crate::{forward::call::Call, http::replay::Gathered};

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// Who a caller says that it is (Envoy).
const DOWNSTREAM: &str = "x-envoy-downstream-service-cluster";

/// A request to the server.
pub(super) struct Question {
    pub(super) head: Parts,
    pub(super) body: Bytes,
}

pub(super) fn make(
    call: &Call,
    check: &ExtAuthz,
    parts: &Parts,
    authority: &HeaderValue,
    body: Option<Gathered>,
    within: Duration,
) -> Result<Question, String> {
    match &check.service {
        CheckService::Grpc {
            authority: instead,
            headers,
        } => {
            let request = attributes(call, check, parts, authority, body);
            let host = instead.clone().unwrap_or_else(|| own_host(check));
            Ok(grpc(&request, host, headers, within))
        }
        CheckService::Http(http) => same(check, http, parts, authority, body),
    }
}

/// `outbound|9000||authz.default.svc` → its host, which any server can be called.
fn own_host(check: &ExtAuthz) -> HeaderValue {
    let host = check.cluster_name.rsplit('|').next().unwrap_or_default();
    HeaderValue::from_str(host).unwrap_or_else(|_| HeaderValue::from_static("authorization"))
}

fn grpc(
    request: &CheckRequest,
    host: HeaderValue,
    headers: &[(HeaderName, HeaderValue)],
    within: Duration,
) -> Question {
    let length = request.encoded_len();
    let mut framed = BytesMut::with_capacity(length + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed.put_slice(&request.encode_to_vec());
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::POST;
    head.uri = Uri::from_static(METHOD);
    head.headers.insert(HOST, host);
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers.insert(CONTENT_TYPE, grpc);
    head.headers
        .insert(TE, HeaderValue::from_static("trailers"));
    // Eight digits at most, which milliseconds of a day are.
    let millis = within.as_millis().min(99_999_999);
    if let Ok(text) = HeaderValue::from_str(&format!("{millis}m")) {
        head.headers.insert(GRPC_TIMEOUT, text);
    }
    for (name, value) in headers {
        head.headers.append(name.clone(), value.clone());
    }
    Question {
        head,
        body: framed.freeze(),
    }
}

fn attributes(
    call: &Call,
    check: &ExtAuthz,
    parts: &Parts,
    authority: &HeaderValue,
    body: Option<Gathered>,
) -> CheckRequest {
    let connection = &call.connection;
    let tls = connection.own_id.is_some();
    let scheme = if tls { "https" } else { "http" };
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let host = text(authority);
    let mut headers = headers(check, parts, &host, (path, scheme));
    let mut http = HttpRequest {
        id: call.worker.rng.borrow_mut().u64(..).to_string(),
        method: parts.method.as_str().to_owned(),
        path: path.to_owned(),
        host,
        scheme: scheme.to_owned(),
        size: size(call, &parts.headers),
        protocol: protocol(parts.version).to_owned(),
        ..HttpRequest::default()
    };
    if let Some(body) = body {
        let partial = if body.complete { "false" } else { "true" };
        headers.insert(PARTIAL.as_str().to_owned(), partial.to_owned());
        if check.body.is_some_and(|wanted| wanted.raw) {
            http.raw_body = body.bytes.to_vec();
        } else {
            http.body = String::from_utf8_lossy(&body.bytes).into_owned();
        }
    }
    http.headers = headers;
    let service = parts.headers.get(DOWNSTREAM).map(text);
    let peer = connection.peer.as_ref();
    let source = Peer {
        service: service.unwrap_or_default(),
        principal: peer.map_or_else(String::new, |peer| peer.svid.id.to_string()),
        ..at(Some(connection.remote))
    };
    let destination = Peer {
        principal: connection.own_id.as_deref().unwrap_or_default().to_owned(),
        ..at(connection.local)
    };
    let server_name = connection.server_name.as_deref();
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(source),
            destination: Some(destination),
            request: Some(attribute_context::Request {
                time: Some(timestamp(call.began())),
                http: Some(http),
            }),
            tls_session: (check.tells_server_name && tls).then(|| TlsSession {
                sni: server_name.unwrap_or_default().to_owned(),
            }),
            ..AttributeContext::default()
        }),
    }
}

/// By name; of several values one text.
fn headers(
    check: &ExtAuthz,
    parts: &Parts,
    host: &str,
    (path, scheme): (&str, &str),
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in &parts.headers {
        if *name == HOST || !check.tells(name.as_str(), true) {
            continue;
        }
        match all.get_mut(name.as_str()) {
            Some(known) => {
                known.push(',');
                known.push_str(&text(value));
            }
            None => drop(all.insert(name.as_str().to_owned(), text(value))),
        }
    }
    for (name, value) in [
        (":authority", host),
        (":method", parts.method.as_str()),
        (":path", path),
        (":scheme", scheme),
    ] {
        if check.tells(name, true) {
            all.insert(name.to_owned(), value.to_owned());
        }
    }
    all
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// -1 = unknown.
fn size(call: &Call, headers: &HeaderMap) -> i64 {
    let length = headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(if call.upload.is_empty() { 0 } else { -1 })
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

fn at(address: Option<SocketAddr>) -> Peer {
    let address = address.map(|address| Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_canonical().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..SocketAddress::default()
        })),
    });
    Peer {
        address,
        ..Peer::default()
    }
}

/// The request's own head, as far as the server is to see it.
fn same(
    check: &ExtAuthz,
    http: &HttpCheck,
    parts: &Parts,
    authority: &HeaderValue,
    body: Option<Gathered>,
) -> Result<Question, String> {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = parts.method.clone();
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = format!("{}{path}", http.path_prefix);
    head.uri = path
        .parse()
        .map_err(|error| format!("its pathPrefix makes no path of {path:?}: {error}"))?;
    for (name, value) in &parts.headers {
        let by_default = *name == AUTHORIZATION;
        let told = by_default || check.tells(name.as_str(), by_default);
        if told && *name != HOST && *name != CONTENT_LENGTH {
            head.headers.append(name.clone(), value.clone());
        }
    }
    head.headers.insert(HOST, authority.clone());
    let bytes = body.map(|body| {
        let partial = if body.complete { "false" } else { "true" };
        head.headers
            .insert(PARTIAL, HeaderValue::from_static(partial));
        body.bytes
    });
    for (name, value) in &http.headers {
        head.headers.insert(name.clone(), value.clone());
    }
    let body = bytes.unwrap_or_default();
    head.headers.insert(CONTENT_LENGTH, body.len().into());
    Ok(Question { head, body })
}
