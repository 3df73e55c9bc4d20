//! What a service says: who it is, who called it, and what its upstreams said.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request::Parts};
use serde_json::{Map, Value, json};

use crate::upstream::{CallError, Called};

/// What any service behind a mesh hands on, so that one request is one trace, and the headers that the
/// shop's routes may look at.
const FORWARDED: &[&str] = &[
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-request-id",
    "canary",
    "user-id",
    "end-user",
];

/// The headers of `from` that belong to every call made on its behalf.
pub(crate) fn forwarded(from: &HeaderMap) -> HeaderMap {
    let mut to = HeaderMap::new();
    for name in FORWARDED {
        let name = HeaderName::from_static(name);
        for value in from.get_all(&name) {
            to.append(&name, value.clone());
        }
    }
    to
}

pub(crate) struct Answer {
    body: Map<String, Value>,
    upstreams: Map<String, Value>,
    failed: bool,
}

impl Answer {
    pub(crate) fn new(service: &str, version: &str, instance: &str, request: &Parts) -> Self {
        let mut body = Map::new();
        body.insert("service".to_owned(), json!(service));
        body.insert("version".to_owned(), json!(version));
        body.insert("instance".to_owned(), json!(instance));
        body.insert("path".to_owned(), json!(request.uri.path()));
        body.insert("client".to_owned(), json!(client(&request.headers)));
        body.insert("trace_id".to_owned(), json!(trace_id(&request.headers)));
        if service == "ratings" {
            body.insert("stars".to_owned(), json!(5));
        }
        Self {
            body,
            upstreams: Map::new(),
            failed: false,
        }
    }

    pub(crate) fn add(&mut self, upstream: &str, called: Result<Called, CallError>) {
        let value = match called {
            Ok(called) if called.status.is_success() => called.body,
            Ok(called) => {
                self.failed = true;
                json!({
                    "status": called.status.as_u16(),
                    "reason": called.reason,
                    "body": called.body,
                })
            }
            Err(error) => {
                self.failed = true;
                json!({ "error": error.to_string() })
            }
        };
        self.upstreams.insert(upstream.to_owned(), value);
    }

    pub(crate) fn fail(&mut self, why: &str) {
        self.body.insert("error".to_owned(), json!(why));
    }

    pub(crate) const fn status(&self) -> StatusCode {
        if self.failed {
            StatusCode::BAD_GATEWAY
        } else {
            StatusCode::OK
        }
    }

    pub(crate) fn json(mut self) -> Value {
        if !self.upstreams.is_empty() {
            self.body
                .insert("upstreams".to_owned(), Value::Object(self.upstreams));
        }
        Value::Object(self.body)
    }
}

/// Who called, as the sidecar before us has verified: the last `URI=` of `x-forwarded-client-cert`.
fn client(headers: &HeaderMap) -> Option<&str> {
    let value = text(headers.get("x-forwarded-client-cert")?)?;
    value
        .rsplit([';', ','])
        .find_map(|part| part.trim().strip_prefix("URI="))
}

/// The trace that the request belongs to: `00-<trace id>-<span id>-01`.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    text(headers.get("traceparent")?)?.split('-').nth(1)
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn trace_headers_are_handed_on_and_credentials_are_not() {
        let from = headers(&[
            ("traceparent", "00-a-b-01"),
            ("authorization", "x"),
            ("canary", "true"),
        ]);
        assert_eq!(
            forwarded(&from),
            headers(&[("traceparent", "00-a-b-01"), ("canary", "true")])
        );
    }

    #[test]
    fn the_client_is_the_last_verified_identity() {
        let value = "By=spiffe://c/ns/n/sa/b;URI=spiffe://c/ns/n/sa/a";
        let with = headers(&[("x-forwarded-client-cert", value)]);
        assert_eq!(client(&with), Some("spiffe://c/ns/n/sa/a"));
        assert_eq!(client(&HeaderMap::new()), None);
    }
}
