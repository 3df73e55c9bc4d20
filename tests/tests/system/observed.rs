//! What a request did: the answer, and what the application behind received; and how two of them differ.

use std::collections::BTreeMap;

use outrigger_tests::Reply;
use serde_json::Value;

/// What is told apart between the two sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) status: u16,
    /// The application that answered, if one did.
    pub(crate) upstream: Option<String>,
    /// What it received: headers, `:method`, `:path`.
    pub(crate) request: BTreeMap<String, Vec<String>>,
    /// What came back.
    pub(crate) response: BTreeMap<String, Vec<String>>,
    /// The body of an answer that a document wrote.
    pub(crate) body: Option<String>,
    /// Code of an answer that our sidecar made because something was wrong.
    pub(crate) reason: Option<String>,
}

/// Headers of requests that differ, each with its reason.
const REQUEST_HEADERS: [(&str, &str); 7] = [
    (
        "x-request-id",
        "Envoy makes one up where it is missing; ours leaves the request as its caller wrote it",
    ),
    (
        "x-forwarded-proto",
        "Envoy makes one up where it is missing; ours leaves the request as its caller wrote it",
    ),
    (
        "x-envoy-original-path",
        "Envoy says what it has rewritten; ours says it in the span",
    ),
    (
        "x-envoy-original-host",
        "Envoy says what it has rewritten; ours says it in the span",
    ),
    (
        "proxy-authorization",
        "meant for the proxy that the caller speaks to (RFC 9110, 11.7.2): ours keeps it",
    ),
    ("expect", "takes the header out; ours passes it on"),
    (
        "x-outrigger-hops",
        "ours counts hops, so that a request that goes round is stopped",
    ),
];

/// Headers of answers that differ, each with its reason.
const RESPONSE_HEADERS: [(&str, &str); 6] = [
    ("connection", "of one connection only"),
    ("transfer-encoding", "of one connection only"),
    ("date", "the time of day"),
    (
        "server",
        "Envoy writes its own name; ours leaves the application's",
    ),
    (
        "x-envoy-upstream-service-time",
        "Envoy's; ours says it in metrics and spans",
    ),
    (
        "content-length",
        "of test applications that tell what they received, the differences above included",
    ),
];

/// Both lists.
pub(crate) fn known() -> impl Iterator<Item = (&'static str, &'static str)> {
    REQUEST_HEADERS.into_iter().chain(RESPONSE_HEADERS)
}

impl Observed {
    pub(crate) fn of(reply: &Reply) -> Self {
        let json = reply.json();
        let upstream = json.get("name").and_then(Value::as_str).map(str::to_owned);
        let reason = reply.reason().map(str::to_owned);
        let mut request = BTreeMap::<String, Vec<String>>::new();
        if upstream.is_some() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            for pair in json["headers"].as_array().into_iter().flatten() {
                request
                    .entry(text(&pair[0]))
                    .or_default()
                    .push(text(&pair[1]));
            }
            request.insert(":path".to_owned(), vec![text(&json["path"])]);
            request.insert(":method".to_owned(), vec![text(&json["method"])]);
        }
        let mut response = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in &reply.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            response.entry(name.to_string()).or_default().push(value);
        }
        let body = upstream.is_none() && reason.is_none();
        Self {
            status: reply.status.as_u16(),
            upstream,
            request,
            response,
            body: body.then(|| String::from_utf8_lossy(&reply.body).into_owned()),
            reason,
        }
    }

    /// How `envoy`'s differs, in words.
    pub(crate) fn differences(&self, envoy: &Self, any_upstream: bool) -> Vec<String> {
        let mut all = Vec::new();
        if self.status != envoy.status {
            all.push(format!(
                "status: ours {}, Envoy's {}",
                self.status, envoy.status
            ));
        }
        let same = if any_upstream {
            self.upstream.is_some() == envoy.upstream.is_some()
        } else {
            self.upstream == envoy.upstream
        };
        if !same {
            all.push(format!(
                "application: ours {:?}, Envoy's {:?}",
                self.upstream, envoy.upstream
            ));
        }
        all.extend(headers(
            "request",
            &self.request,
            &envoy.request,
            &REQUEST_HEADERS,
        ));
        // Our own answers say why, in a body; Envoy's say nothing, or a word.
        if self.reason.is_none() {
            all.extend(headers(
                "answer",
                &self.response,
                &envoy.response,
                &RESPONSE_HEADERS,
            ));
            if self.body != envoy.body {
                all.push(format!(
                    "body: ours {:?}, Envoy's {:?}",
                    self.body, envoy.body
                ));
            }
        }
        all
    }
}

fn headers<'a>(
    of: &'a str,
    ours: &'a BTreeMap<String, Vec<String>>,
    envoys: &'a BTreeMap<String, Vec<String>>,
    known: &'a [(&str, &str)],
) -> impl Iterator<Item = String> + 'a {
    let names: std::collections::BTreeSet<_> = ours.keys().chain(envoys.keys()).collect();
    names
        .into_iter()
        .filter(|name| !known.iter().any(|(known, _)| known == name))
        // Two fields of one name are one with a comma (RFC 9110, 5.3): Envoy joins those that it knows.
        .filter(|name| joined(ours, name) != joined(envoys, name))
        .map(move |name| {
            format!(
                "{of} {name}: ours {:?}, Envoy's {:?}",
                ours.get(name),
                envoys.get(name)
            )
        })
}

fn joined(headers: &BTreeMap<String, Vec<String>>, name: &str) -> Option<String> {
    let joined = headers.get(name).map(|values| values.join(","));
    // What is left of the timeout.
    if name == "x-envoy-expected-rq-timeout-ms" {
        return joined.map(|_| "some".to_owned());
    }
    // Envoy writes the length of an empty body.
    joined.filter(|value| name != "content-length" || value != "0")
}
