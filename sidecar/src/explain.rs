//! What a sidecar would do with one request, step by step: for `outrigger why`.
//!
//! Computed by what serves requests: the xDS engine takes the resources, the request check admits the request, the route
//! table's own conditions are asked. Nothing is sent to anybody; counters and ejections of running sidecars are not known.

mod access;
mod words;

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header::HOST};
use outrigger_core::{
    Action, Cluster, Direction, Health, Listener, NoRoute, Route, RouteSource, RouteTable, Snapshot,
};
use outrigger_proto::envoy::{
    config::{core::v3::Node, listener::v3::Listener as ListenerResource},
    service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use prost::Message as _;
use tokio::time::Instant;

pub use access::{Access, AccessQuestion, AccessStep, AccessVerdict, Tried, WrittenMode};

use crate::{
    App, Discovery, Workload, forward,
    http::{
        answer::Code,
        check::{self, Refused},
        headers,
    },
    xds::{engine::Engine, node},
};

/// Where the HTTP proxy of the sidecar that we ask for would listen.
pub const PROXY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15_080);

/// Where the inbound side of the sidecar that we ask for would listen.
pub const INBOUND: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    15_006,
);

/// Takes the configuration that a workload's sidecar would get.
#[derive(Debug)]
pub struct Reader {
    engine: Engine,
    snapshot: Arc<Snapshot>,
    refused: Vec<String>,
    /// As it was sent: what a caller meets before a route does.
    inbound: Option<Box<ListenerResource>>,
}

impl Reader {
    /// For the inbound side of a node like `workload`'s in front of `app`.
    #[must_use]
    pub fn of_server(workload: &Workload, app: &App) -> Self {
        let ports = node::Ports {
            dns: false,
            outbound: PROXY,
            inbound: Some(INBOUND),
            captured: None,
            ipv6: false,
        };
        let ip = std::net::Ipv4Addr::LOCALHOST.into();
        // Nothing that it calls.
        let mut node = node::node(workload, Some(app), ip, ports, Discovery::OnDemand);
        node.id = node.id.replacen("-15006.", "-can.", 1);
        Self::reading(node)
    }

    /// Who of `question` may do what it asks.
    ///
    /// # Errors
    /// The inbound side has not arrived, or the sidecar would refuse it.
    pub fn access(&self, question: &AccessQuestion) -> Result<Access, String> {
        let inbound = self.inbound.as_deref();
        let inbound = inbound.ok_or("the control plane has sent no inbound listener")?;
        let mut access = access::judge(inbound, question)?;
        access.refused.clone_from(&self.refused);
        Ok(access)
    }

    fn reading(node: Node) -> Self {
        Self {
            engine: Engine::new(node, true),
            snapshot: Arc::default(),
            refused: Vec::new(),
            inbound: None,
        }
    }

    /// For a node like `workload`'s: an id of its own, so that it is not taken for the running one.
    #[must_use]
    pub fn new(workload: &Workload) -> Self {
        let ports = node::Ports {
            dns: false,
            outbound: PROXY,
            inbound: None,
            captured: None,
            ipv6: false,
        };
        let app: Option<&App> = None;
        let ip = std::net::Ipv4Addr::LOCALHOST.into();
        // Everything, so that what is said of a host does not depend on whether it was called.
        let mut node: Node = node::node(workload, app, ip, ports, Discovery::All);
        node.id = node.id.replacen("-15080.", "-why.", 1);
        Self::reading(node)
    }

    /// First requests of the stream.
    pub fn connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.engine.connected(Instant::now())
    }

    /// Takes an answer; gives what is to be sent next.
    pub fn response(&mut self, response: DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        let listeners = response
            .resources
            .iter()
            .filter(|one| one.name == "virtualInbound");
        for any in listeners.filter_map(|one| one.resource.as_ref()) {
            self.inbound = ListenerResource::decode(&*any.value).ok().map(Box::new);
        }
        let requests = self.engine.response(response, Instant::now());
        let refused = requests
            .iter()
            .filter_map(|request| request.error_detail.as_ref());
        self.refused
            .extend(refused.map(|error| error.message.clone()));
        if let Some(snapshot) = self.engine.take_snapshot() {
            self.snapshot = snapshot;
        }
        requests
    }

    /// Everything that the sidecar would wait for has arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.engine.is_configured(Instant::now())
    }

    /// What the sidecar would do.
    ///
    /// # Errors
    /// A name or value that no request can have.
    pub fn explain(&self, question: &Question) -> Result<Explanation, String> {
        let mut explanation = explain(&self.snapshot, question)?;
        explanation.refused.clone_from(&self.refused);
        Ok(explanation)
    }
}

/// A request that nobody sends.
#[derive(Clone, Debug)]
pub struct Question {
    /// Method.
    pub method: Method,
    /// `http://reviews:9080/reviews/1?x=y`; a host that is `localhost` or a loopback address means a local port.
    pub url: http::Uri,
    /// Headers as written.
    pub headers: Vec<(String, String)>,
}

/// What a sidecar would do with a request, and why.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// Name and address of the listener that takes it.
    pub listener: Option<(String, SocketAddr)>,
    /// Virtual host, and its domains.
    pub virtual_host: Option<(String, Vec<String>)>,
    /// Routes that were looked at, in order.
    pub tried: Vec<Step>,
    /// What is done.
    pub outcome: Outcome,
    /// What holds for the request as a whole: name, value.
    pub policy: Vec<(&'static str, String)>,
    /// Where it may go.
    pub clusters: Vec<Destination>,
    /// Resources of the control plane that the sidecar would refuse.
    pub refused: Vec<String>,
}

/// A route that was looked at.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// The line of YAML that it comes from.
    pub position: Option<String>,
    /// Its first condition that does not hold; None = it matches.
    pub failed: Option<String>,
}

/// What is done with a request.
#[derive(Clone, Debug, Default)]
pub enum Outcome {
    /// Sent to one of [`Explanation::clusters`].
    #[default]
    Forward,
    /// Answered with a redirect of this status.
    Redirect(u16),
    /// Answered as the document says, with this status.
    Direct(u16),
    /// The sidecar's own answer.
    Answer(OwnAnswer),
    /// No listener takes it: why.
    NoListener(String),
}

/// An answer that the sidecar makes itself.
#[derive(Clone, Debug)]
pub struct OwnAnswer {
    /// `x-outrigger-reason`.
    pub code: &'static str,
    /// Status.
    pub status: u16,
    /// What is said.
    pub message: String,
}

impl OwnAnswer {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code.as_str(),
            status: code.status().as_u16(),
            message: message.into(),
        }
    }
}

/// A cluster that a route leads to.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Name.
    pub name: String,
    /// Weight.
    pub weight: u32,
    /// In percent of the sum.
    pub share: f64,
    /// The line of YAML of its policy.
    pub position: Option<String>,
    /// Name, value.
    pub policy: Vec<(&'static str, String)>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointState>,
    /// What would be answered instead, if none can be used.
    pub answer: Option<OwnAnswer>,
}

/// An endpoint as the control plane knows it.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// Where.
    pub address: SocketAddr,
    /// `healthy`, `unhealthy`, `draining`.
    pub health: &'static str,
    /// Weight.
    pub weight: u32,
    /// 0 = first.
    pub priority: u32,
    /// How it is spoken to: `none`, `mutual` (the mesh's), `simple`, `mutual with files`; `unverified` if any server will do.
    pub tls: &'static str,
    /// `region/zone/sub-zone`.
    pub locality: String,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
}

fn explain(snapshot: &Snapshot, question: &Question) -> Result<Explanation, String> {
    let mut explanation = Explanation::default();
    let Some(listener) = listener(snapshot, question) else {
        explanation.outcome = Outcome::NoListener(match local_port(&question.url) {
            Some(port) => format!(
                "nothing listens on port {port}: connections are refused; a Sidecar document opens local ports"
            ),
            None => "the HTTP proxy's listener has not arrived".to_owned(),
        });
        return Ok(explanation);
    };
    explanation.listener = Some((listener.name.clone(), listener.address));
    let table = match listener.chains.only().map(|chain| &chain.routes) {
        Some(RouteSource::Inline(table)) => Some(table),
        Some(RouteSource::Named(slot)) => snapshot.routes(*slot),
        Some(RouteSource::Connection(_)) | None => {
            let message = "this port takes connections, not requests: bytes are passed on, and no rule looks at them";
            explanation.outcome = Outcome::Answer(OwnAnswer::new(Code::NotSupported, message));
            return Ok(explanation);
        }
    };
    let Some(table) = table else {
        let message = "the routes of this listener have not arrived from the control plane";
        explanation.outcome = Outcome::Answer(OwnAnswer::new(Code::NoRouteHost, message));
        return Ok(explanation);
    };
    route(snapshot, table, question, &mut explanation)?;
    Ok(explanation)
}

fn local_port(url: &http::Uri) -> Option<u16> {
    let host = url.host()?.trim_matches(['[', ']']);
    let local = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    local.then(|| url.port_u16().unwrap_or(80))
}

fn listener<'s>(snapshot: &'s Snapshot, question: &Question) -> Option<&'s Listener> {
    let mut outbound = snapshot
        .listeners
        .values()
        .filter(|listener| listener.direction == Direction::Outbound);
    let port = local_port(&question.url).filter(|port| *port != PROXY.port());
    let found = match port {
        Some(port) => outbound.find(|listener| listener.address.port() == port),
        None => outbound.find(|listener| listener.address == PROXY),
    };
    found.map(|listener| &**listener)
}

fn route(
    snapshot: &Snapshot,
    table: &RouteTable,
    question: &Question,
    into: &mut Explanation,
) -> Result<(), String> {
    let mut parts = parts(question)?;
    let authority = match check::admit(&mut parts, None, usize::MAX) {
        Ok(authority) => authority,
        Err(refused) => {
            let (code, message) = match refused {
                Refused::Bad(message) => (Code::BadRequest, message),
                Refused::TooLarge(message) => (Code::HeadersTooLarge, message),
                Refused::NotSupported(message) => (Code::NotSupported, message.to_owned()),
            };
            into.outcome = Outcome::Answer(OwnAnswer::new(code, message));
            return Ok(());
        }
    };
    headers::strip_hop_by_hop(&mut parts.headers, false);
    headers::claims::strip_request(&mut parts.headers, false);
    let view = forward::view(&parts, &authority);
    let (host, tried) = match table.explain(&view) {
        Ok(found) => found,
        Err(NoRoute::Host | NoRoute::Path) => {
            let message = forward::unknown_host(table, view.authority);
            into.outcome = Outcome::Answer(OwnAnswer::new(Code::NoRouteHost, message));
            return Ok(());
        }
    };
    into.virtual_host = Some((host.name.to_string(), host.domains.to_vec()));
    into.tried = tried
        .iter()
        .map(|tried| Step {
            name: tried.route.name.clone(),
            position: tried.route.position.as_deref().map(str::to_owned),
            failed: tried.failed.clone(),
        })
        .collect();
    match tried.last().filter(|last| last.failed.is_none()) {
        Some(chosen) => act(snapshot, chosen.route, into),
        None => {
            let message = format!(
                "no route of {} matches {} {}",
                host.name, view.method, view.path_and_query
            );
            into.outcome = Outcome::Answer(OwnAnswer::new(Code::NoRoutePath, message));
        }
    }
    Ok(())
}

/// As it would come from the application.
fn parts(question: &Question) -> Result<http::request::Parts, String> {
    let authority = question
        .url
        .authority()
        .map_or("", |authority| authority.as_str());
    let given = question
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = given.map_or(authority, |(_, value)| value.as_str());
    let path = question
        .url
        .path_and_query()
        .map_or("/", |path| path.as_str());
    // To a proxy in absolute form, which a Host header does not change; to a local port with the path alone.
    let uri = if local_port(&question.url).is_some() || given.is_some() {
        path.to_owned()
    } else {
        question.url.to_string()
    };
    let request = Request::builder()
        .method(&question.method)
        .uri(uri)
        .header(HOST, host)
        .body(());
    let (mut parts, ()) = request
        .map_err(|error| format!("{}: {error}", question.url))?
        .into_parts();
    let mut headers = HeaderMap::new();
    for (name, value) in question
        .headers
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
    {
        let key =
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("{name}: {error}"))?;
        let value = HeaderValue::from_str(value).map_err(|error| format!("{name}: {error}"))?;
        headers.append(key, value);
    }
    parts.headers.extend(headers);
    Ok(parts)
}

fn act(snapshot: &Snapshot, route: &Route, into: &mut Explanation) {
    let choice = match &route.action {
        Action::Forward(choice) => choice,
        Action::Redirect { status, .. } => {
            into.outcome = Outcome::Redirect(*status);
            return;
        }
        Action::DirectResponse { status, .. } => {
            into.outcome = Outcome::Direct(*status);
            return;
        }
    };
    into.policy = words::route(route);
    for weighted in &choice.clusters {
        let share = 100.0 * f64::from(weighted.weight) / words::float(choice.total_weight.max(1));
        let mut to = Destination {
            name: weighted.name.to_string(),
            weight: weighted.weight,
            share,
            position: None,
            policy: Vec::new(),
            endpoints: Vec::new(),
            answer: None,
        };
        match snapshot.cluster(weighted.cluster) {
            Some(cluster) => describe(cluster, &mut to),
            None => {
                // The whole configuration is here: it is not to come.
                let message = match weighted.name.split('|').nth(2) {
                    Some(subset) if !subset.is_empty() => format!(
                        "the route names cluster {}, which there is not: no DestinationRule that this caller sees defines the subset {subset:?}",
                        weighted.name
                    ),
                    _ => format!(
                        "the route names cluster {}, which there is not: nobody serves its host and port",
                        weighted.name
                    ),
                };
                to.answer = Some(OwnAnswer::new(Code::ClusterUnknown, message));
            }
        }
        into.clusters.push(to);
    }
}

fn describe(cluster: &Cluster, to: &mut Destination) {
    let config = &cluster.config;
    to.position = config.position.as_deref().map(str::to_owned);
    to.policy = words::cluster(config);
    to.endpoints = cluster
        .endpoints
        .iter()
        .map(|endpoint| EndpointState {
            address: endpoint.config.address,
            health: words::health(endpoint.config.health),
            weight: endpoint.config.weight,
            priority: endpoint.config.priority,
            tls: config
                .tls
                .as_ref()
                .filter(|_| endpoint.config.mtls)
                .map_or("none", words::tls),
            locality: words::locality(&endpoint.config.locality),
            labels: endpoint.config.labels.clone(),
        })
        .collect();
    if cluster.endpoints.is_empty() {
        to.answer = Some(OwnAnswer::new(
            Code::NoEndpoints,
            format!("{} has no endpoints", config.service),
        ));
    } else if cluster
        .endpoints
        .iter()
        .all(|endpoint| endpoint.config.health != Health::Healthy)
    {
        let message = format!(
            "none of the {} endpoints of {} is healthy",
            cluster.endpoints.len(),
            config.service
        );
        to.answer = Some(OwnAnswer::new(Code::NoHealthyEndpoints, message));
    }
}
