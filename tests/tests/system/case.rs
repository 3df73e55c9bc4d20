//! One row of the table: documents, the requests that are sent under them, and what has to be seen.
//!
//! A request is a line, so that a table of them can be read:
//! ```text
//! GET /a?x=1 | x-user: ann | host: HOST:80 -> 200; v1; >x-user=ann; >!x-removed; <x-answer=1
//! ```
//! after `->` the status, then in any order: the application that answers, `>` what it received (a header, `:path`,
//! `:method`), `<` what came back, `!` = it is not there. `HOST` stands for the row's host everywhere. Of `-> 400 ~~ why`
//! Envoy's answer has to differ, for a reason that `docs/POLICY.md` gives in the same words.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use outrigger_tests::{Caller, Reply, TestApp};

use super::observed::Observed;

/// Documents and requests.
#[derive(Debug)]
pub(crate) struct Case {
    /// Its name and its host.
    pub(crate) host: &'static str,
    documents: String,
    pub(crate) asks: Vec<Ask>,
    /// Which application answers is chance: only that one does is compared.
    pub(crate) any_upstream: bool,
    localities: &'static [&'static str],
}

/// A request and what is expected.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) line: String,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    status: Option<u16>,
    claims: Vec<Claim>,
    /// Why Envoy does otherwise.
    pub(crate) unlike_envoy: Option<String>,
}

#[derive(Clone, Debug)]
enum Claim {
    Upstream(String),
    Request(String, Option<String>),
    Response(String, Option<String>),
}

/// The applications behind every host, and the subset that each is.
pub(crate) const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];

impl Case {
    /// A host with these rules under `spec.http`, and a subset for each application. `$v1` in them is a route to
    /// that subset.
    pub(crate) fn http(host: &'static str, rules: &str) -> Self {
        let service = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: HOST}}\nspec:\n  hosts: [HOST]\n  http:\n{}",
            indented(rules, 2)
        );
        Self::documents(host, &[&subsets(""), &service])
    }

    /// A host with this `spec.trafficPolicy`, no rules, and a subset for each application.
    pub(crate) fn policy(host: &'static str, policy: &str) -> Self {
        let policy = format!("  trafficPolicy:\n{}", indented(policy, 4));
        Self::documents(host, &[&subsets(&policy)])
    }

    /// A host with any documents beside its ServiceEntry.
    pub(crate) fn documents(host: &'static str, documents: &[&str]) -> Self {
        Self {
            host,
            documents: documents.join("\n---\n"),
            asks: Vec::new(),
            any_upstream: false,
            localities: &[],
        }
    }

    /// The requests, one a line.
    pub(crate) fn asks(mut self, lines: &[&str]) -> Self {
        let lines = lines.iter().map(|line| Ask::parse(line, self.host));
        self.asks.extend(lines);
        self
    }

    /// Any application may answer.
    pub(crate) fn any_upstream(mut self) -> Self {
        self.any_upstream = true;
        self
    }

    /// Where the applications are, one after the other.
    pub(crate) fn localities(mut self, localities: &'static [&'static str]) -> Self {
        self.localities = localities;
        self
    }

    /// With a kind of our own, which Envoy hears nothing of.
    pub(crate) fn is_ours_alone(&self) -> bool {
        self.documents.contains("outrigger.dev/")
    }

    /// All its documents, one of them the ServiceEntry with `apps` behind it.
    pub(crate) fn yaml(&self, apps: &[TestApp]) -> String {
        let mut yaml = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: HOST}\nspec:\n  \
            hosts: [HOST.default.svc.cluster.local]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
            ports: [{number: 80, name: http, protocol: HTTP}]\n  endpoints:\n"
            .to_owned();
        for (at, app) in apps.iter().enumerate() {
            let locality = self.localities.get(at);
            let locality = locality.map(|name| format!(", locality: {name}"));
            yaml += &format!(
                "  - {{address: 127.0.0.1, ports: {{http: {}}}, labels: {{version: {}}}{}}}\n",
                app.address().port(),
                app.name(),
                locality.unwrap_or_default()
            );
        }
        yaml = yaml + "---\n" + &self.documents;
        for version in VERSIONS {
            yaml = yaml.replace(
                &format!("${version}"),
                &format!("[{{destination: {{host: HOST, subset: {version}}}}}]"),
            );
        }
        let yaml = yaml.replace("_HOST%", "\0").replace("HOST", self.host);
        yaml.replace('\0', "_HOST%")
    }
}

fn subsets(policy: &str) -> String {
    let subsets = VERSIONS.map(|v| format!("{{name: {v}, labels: {{version: {v}}}}}"));
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: HOST}}\nspec:\n  host: HOST\n  subsets: [{}]\n{policy}",
        subsets.join(", ")
    )
}

fn indented(text: &str, by: usize) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let own = lines
        .clone()
        .map(|line| line.len() - line.trim_start().len());
    let own = own.min().unwrap_or(0);
    lines.fold(String::new(), |all, line| {
        all + &" ".repeat(by) + &line[own..] + "\n"
    })
}

impl Ask {
    pub(crate) fn parse(line: &str, host: &str) -> Self {
        let line = line.replace("HOST", host);
        let (line, unlike_envoy) = match line.split_once(" ~~ ") {
            Some((line, why)) => (line.to_owned(), Some(why.to_owned())),
            None => (line, None),
        };
        let (request, expected) = match line.split_once(" -> ") {
            Some((request, expected)) => (request, expected),
            None => (line.as_str(), ""),
        };
        let mut parts = request.split(" | ");
        let (method, target) = parts.next().unwrap().trim().split_once(' ').unwrap();
        let mut headers: Vec<_> = parts
            .map(|header| header.split_once(':').unwrap_or_else(|| panic!("{line}")))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect();
        if !headers.iter().any(|(name, _)| name == "host") {
            headers.insert(0, ("host".to_owned(), host.to_owned()));
        }
        let mut expected = expected.split("; ").filter(|claim| !claim.is_empty());
        let status = expected.next().map(|status| status.trim().parse().unwrap());
        Self {
            method: method.to_owned(),
            target: target.trim().to_owned(),
            headers,
            status,
            claims: expected.map(Claim::parse).collect(),
            unlike_envoy,
            line,
        }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(&self.target);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = if matches!(self.method.as_str(), "POST" | "PUT") {
            Bytes::from_static(b"body")
        } else {
            Bytes::new()
        };
        request
            .body(Full::new(body))
            .unwrap_or_else(|error| panic!("{}: {error}", self.line))
    }

    /// Sends it. No answer is a status of its own, 599.
    pub(crate) async fn send(&self, through: &Caller) -> Reply {
        let sent = through.try_send(self.request()).await;
        sent.unwrap_or_else(|why| Reply {
            status: http::StatusCode::from_u16(599).unwrap(),
            headers: http::HeaderMap::new(),
            body: Bytes::from(why),
        })
    }

    /// What is not as expected.
    pub(crate) fn wrong(&self, seen: &Observed) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.status.is_some_and(|status| status != seen.status) {
            wrong.push(format!("status {}", seen.status));
        }
        for claim in &self.claims {
            let (what, expected, found) = match claim {
                Claim::Upstream(name) => ("application", Some(name), seen.upstream.clone()),
                Claim::Request(name, value) => {
                    (name.as_str(), value.as_ref(), found(&seen.request, name))
                }
                Claim::Response(name, value) => {
                    (name.as_str(), value.as_ref(), found(&seen.response, name))
                }
            };
            if expected != found.as_ref() {
                wrong.push(format!("{what} is {found:?} instead of {expected:?}"));
            }
        }
        wrong
    }
}

fn found(headers: &BTreeMap<String, Vec<String>>, name: &str) -> Option<String> {
    headers.get(name).map(|values| values.join(","))
}

impl Claim {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        let header = |text: &str| match text.strip_prefix('!') {
            Some(name) => (name.to_owned(), None),
            None => {
                let (name, value) = text.split_once('=').unwrap_or_else(|| panic!("{text}"));
                (name.to_owned(), Some(value.to_owned()))
            }
        };
        if let Some(rest) = text.strip_prefix('>') {
            let (name, value) = header(rest);
            Self::Request(name, value)
        } else if let Some(rest) = text.strip_prefix('<') {
            let (name, value) = header(rest);
            Self::Response(name, value)
        } else {
            Self::Upstream(text.to_owned())
        }
    }
}
