//! A request that wants its connection, or its stream, to become one of bytes: what it asks for, whether it may, and how
//! that is said in either version of HTTP.
//!
//! ```text
//! HTTP/1.1   GET, Connection: Upgrade, Upgrade: websocket    ◄──►    101, Upgrade: websocket
//! HTTP/2     CONNECT, :protocol websocket (RFC 8441)         ◄──►    200
//! ```
//! Rules, filters and routes see the first form, whichever came (Envoy). `Upgrade: h2c` is nobody's to ask for here: it
//! is dropped, like every hop-by-hop field.

use std::{cell::OnceCell, rc::Rc};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    request::Parts,
    response,
};
use hyper::{ext::Protocol as H2Protocol, upgrade::OnUpgrade};
use outrigger_core::{FilterChain, Route, Upgrades};

use super::{call::Call, tunnel::Switched};
use crate::{
    http::answer::{Code, Problem},
    pool::Protocol,
};

const WEBSOCKET: &[u8] = b"websocket";
/// What a server appends to the key of a handshake (RFC 6455 section 1.3).
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request wants to switch to.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// As it was written.
    protocol: HeaderValue,
    /// Where the bytes of an HTTP/2 stream will be; None = the connection itself becomes them.
    stream: Option<OnUpgrade>,
    is_connect: bool,
    switched: OnceCell<Rc<Switched>>,
}

impl Wanted {
    /// What a request asks for. One of HTTP/2 is brought into the form of HTTP/1.1.
    pub(crate) fn of(parts: &mut Parts) -> Option<Box<Self>> {
        if parts.version == Version::HTTP_2 {
            if parts.method != Method::CONNECT {
                return None;
            }
            let stream = parts.extensions.remove::<OnUpgrade>();
            let Some(protocol) = parts.extensions.remove::<H2Protocol>() else {
                return Some(Box::new(Self::connect(stream)));
            };
            // A token, or nobody lets it through.
            let protocol = HeaderValue::from_str(protocol.as_str());
            let protocol = protocol.unwrap_or(HeaderValue::from_static("?"));
            parts.method = Method::GET;
            parts.headers.insert(UPGRADE, protocol.clone());
            let connection = HeaderValue::from_static("Upgrade");
            parts.headers.insert(CONNECTION, connection);
            return Some(Box::new(Self {
                stream,
                ..Self::of_name(protocol)
            }));
        }
        if parts.method == Method::CONNECT {
            return Some(Box::new(Self::connect(None)));
        }
        if !parts.headers.contains_key(UPGRADE) || parts.version != Version::HTTP_11 {
            return None;
        }
        // Without it, somebody before us has passed on what was for him (RFC 9110 section 7.8).
        tokens(&parts.headers, &CONNECTION).find(|token| token.eq_ignore_ascii_case(b"upgrade"))?;
        let asked =
            tokens(&parts.headers, &UPGRADE).filter(|token| !token.eq_ignore_ascii_case(b"h2c"));
        let asked: Vec<&[u8]> = asked.collect();
        if asked.is_empty() {
            return None;
        }
        let protocol = HeaderValue::from_bytes(&asked.join(&b", "[..])).ok()?;
        if parts.headers.get(UPGRADE) != Some(&protocol) {
            parts.headers.insert(UPGRADE, protocol.clone());
        }
        Some(Box::new(Self::of_name(protocol)))
    }

    fn of_name(protocol: HeaderValue) -> Self {
        Self {
            protocol,
            stream: None,
            is_connect: false,
            switched: OnceCell::new(),
        }
    }

    fn connect(stream: Option<OnUpgrade>) -> Self {
        Self {
            stream,
            is_connect: true,
            ..Self::of_name(HeaderValue::from_static("CONNECT"))
        }
    }

    /// It wants a connection to somebody, and not another protocol.
    pub(crate) fn is_connect(&self) -> bool {
        self.is_connect
    }

    /// Keeps what a changed policy has to look at once it has switched.
    pub(crate) fn keep(&self, call: &Rc<Call>, parts: &Parts, authority: &HeaderValue) {
        self.switched
            .get_or_init(|| Switched::new(call, parts, authority));
    }

    pub(crate) fn switched(&self) -> Option<&Rc<Switched>> {
        self.switched.get()
    }

    /// Where the bytes of an HTTP/2 stream will be.
    pub(crate) fn stream(&self) -> Option<&OnUpgrade> {
        self.stream.as_ref()
    }

    /// Whether listener and route let it switch.
    pub(crate) fn check(&self, chain: &FilterChain, route: Option<&Route>) -> Result<(), Problem> {
        let name = self.protocol.to_str().unwrap_or_default();
        let listener = chain.settings.as_ref().map(|settings| &settings.upgrades);
        let route = route
            .and_then(Route::features)
            .map(|features| &features.upgrades);
        if name
            .split(',')
            .all(|one| Upgrades::allow(listener, route, one.trim()))
        {
            return Ok(());
        }
        if self.is_connect {
            let message =
                "CONNECT is not taken on this port; send the request itself, with its Host";
            return Err(Problem::new(Code::NotSupported, message));
        }
        let message = format!(
            "requests may not switch to {name:?} here (upgrade_configs of the listener and the route)"
        );
        Err(Problem::new(Code::UpgradeNotAllowed, message))
    }

    /// Puts the request's head into the form of `protocol`; the target comes later.
    pub(crate) fn ask(
        &self,
        parts: &mut Parts,
        protocol: Protocol,
        key: impl FnOnce() -> [u8; 16],
    ) {
        match protocol {
            Protocol::Http1 => {
                // A server of HTTP/1.1 needs one, a client of HTTP/2 has none (RFC 8441 section 5).
                if self.is_websocket() && !parts.headers.contains_key(SEC_WEBSOCKET_KEY) {
                    let key = STANDARD.encode(key());
                    if let Ok(key) = HeaderValue::from_str(&key) {
                        parts.headers.insert(SEC_WEBSOCKET_KEY, key);
                    }
                }
            }
            Protocol::Http2 => {
                parts.method = Method::CONNECT;
                parts.headers.remove(CONNECTION);
                parts.headers.remove(UPGRADE);
                let name = self.protocol.to_str().unwrap_or_default();
                parts.extensions.insert(H2Protocol::from(name));
            }
        }
    }

    /// Whether an answer says that what is asked for is done; a 101 for anything else is nobody's wish.
    pub(crate) fn is_done_by(&self, status: StatusCode, headers: &HeaderMap, by: Protocol) -> bool {
        match by {
            Protocol::Http2 => status.is_success(),
            Protocol::Http1 => {
                let mut done = tokens(headers, &UPGRADE);
                status == StatusCode::SWITCHING_PROTOCOLS
                    && done.next().is_some_and(|done| self.names(done))
                    && done.next().is_none()
            }
        }
    }

    fn names(&self, protocol: &[u8]) -> bool {
        let mut asked = self.protocol.as_bytes().split(|b| *b == b',');
        asked.any(|asked| asked.trim_ascii().eq_ignore_ascii_case(protocol))
    }

    fn is_websocket(&self) -> bool {
        self.names(WEBSOCKET)
    }

    /// Puts the head of an answer that has switched into the form in which the request came. `key`: as the request had it.
    pub(crate) fn answer(&self, head: &mut response::Parts, key: Option<&HeaderValue>) {
        if self.stream.is_some() {
            head.status = StatusCode::OK;
            head.headers.remove(CONNECTION);
            head.headers.remove(UPGRADE);
            return;
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        // It was HTTP/2's.
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        let connection = HeaderValue::from_static("Upgrade");
        head.headers.insert(CONNECTION, connection);
        head.headers.insert(UPGRADE, self.protocol.clone());
        if let Some(accept) = key.map(accept)
            && self.is_websocket()
            && !head.headers.contains_key(SEC_WEBSOCKET_ACCEPT)
            && let Ok(accept) = HeaderValue::from_str(&accept)
        {
            head.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
    }
}

/// The members of a field that is a list.
fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &http::HeaderName,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let values = headers.get_all(name).into_iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    tokens
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// `Sec-WebSocket-Accept` for a key.
fn accept(key: &HeaderValue) -> String {
    let mut digest = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(WEBSOCKET_GUID);
    STANDARD.encode(digest.finish())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn wanted(request: http::request::Builder) -> (Option<Box<Wanted>>, Parts) {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        (Wanted::of(&mut parts), parts)
    }

    fn get() -> http::request::Builder {
        Request::get("/").header("host", "x")
    }

    #[test]
    fn an_upgrade_is_asked_for_by_both_fields_of_http_1_1() {
        let asks = |upgrade: &str, connection: &str| {
            let request = get().header("upgrade", upgrade);
            wanted(request.header("connection", connection)).0.is_some()
        };
        assert!(asks("websocket", "keep-alive, Upgrade"));
        assert!(asks("h2c, websocket", "upgrade"));
        assert!(!asks("h2c", "upgrade, http2-settings"));
        assert!(!asks("websocket", "keep-alive"));
        assert!(wanted(get().header("upgrade", "websocket")).0.is_none());
        let old = get()
            .version(Version::HTTP_10)
            .header("upgrade", "websocket");
        assert!(wanted(old.header("connection", "upgrade")).0.is_none());
    }

    #[test]
    fn an_extended_connect_is_the_get_that_http_1_1_would_send() {
        let request = Request::connect("http://x/chat").version(Version::HTTP_2);
        let request = request.extension(H2Protocol::from_static("websocket"));
        let (found, mut parts) = wanted(request);
        let found = found.unwrap();
        assert_eq!(parts.method, Method::GET);
        assert_eq!(parts.headers[UPGRADE], "websocket");
        found.ask(&mut parts, Protocol::Http1, || [0; 16]);
        assert_eq!(parts.headers[SEC_WEBSOCKET_KEY], "AAAAAAAAAAAAAAAAAAAAAA==");
        found.ask(&mut parts, Protocol::Http2, || [0; 16]);
        assert_eq!(parts.method, Method::CONNECT);
        assert!(!parts.headers.contains_key(UPGRADE) && !parts.headers.contains_key(CONNECTION));
    }

    #[test]
    fn a_connect_names_no_protocol() {
        let (found, parts) = wanted(Request::connect("db:5432"));
        assert!(found.unwrap().is_connect());
        assert_eq!(parts.method, Method::CONNECT);
        let (found, _) = wanted(Request::connect("db:5432").version(Version::HTTP_2));
        assert!(found.unwrap().is_connect());
    }

    #[test]
    fn only_what_was_asked_for_is_switched_to() {
        let request = get().header("upgrade", "foo, WebSocket");
        let found = wanted(request.header("connection", "upgrade")).0.unwrap();
        let done = |status: u16, upgrade: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_str(upgrade).unwrap());
            found.is_done_by(
                StatusCode::from_u16(status).unwrap(),
                &headers,
                Protocol::Http1,
            )
        };
        assert!(done(101, "websocket"));
        assert!(!done(101, "h2c"));
        assert!(!done(101, "websocket, h2c"));
        assert!(!done(200, "websocket"));
        let none = HeaderMap::new();
        assert!(!found.is_done_by(StatusCode::SWITCHING_PROTOCOLS, &none, Protocol::Http1));
        assert!(found.is_done_by(StatusCode::OK, &none, Protocol::Http2));
    }

    #[test]
    fn the_answer_to_a_key_is_the_one_of_the_standard() {
        // RFC 6455 section 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
