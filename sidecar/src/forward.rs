//! The way of one request: checked, routed, sent, answered. `inbound` adds what is particular to that direction.

use std::{borrow::Cow, convert::Infallible, rc::Rc, sync::Arc, time::SystemTime};

use http::{
    HeaderMap, HeaderValue, Request, Response, Version,
    header::{CONNECTION, CONTENT_TYPE, EXPECT, PROXY_AUTHORIZATION, SEC_WEBSOCKET_KEY},
    request::Parts,
};
use hyper::body::Incoming;
use outrigger_core::{
    Action, Cluster, ClusterSlot, Direction, Facts, Moment, NoRoute, PathMatch, RequestView, Route,
    RouteSource, RouteTable, WeightedCluster, retry::is_idempotent,
};
use tokio::time::timeout;

use crate::{
    http::{
        answer::{Code, Problem},
        body::DownBody,
        check::{self, Refused},
        headers::{self, claims},
    },
    worker::{View, Worker, connection::Connection},
};

pub(crate) mod attempt;
mod before;
pub(crate) mod call;
pub(crate) mod chain;
mod choose;
mod connect;
mod deadline;
mod ext_authz;
mod filters;
pub(crate) mod finish;
mod head;
pub(crate) mod hedge;
mod jwt;
mod mirror;
mod on_demand;
pub(crate) mod redirect;
mod steering;
pub(crate) mod tries;
pub(crate) mod tunnel;
pub(crate) mod upgrade;
pub(crate) mod upstream;

use call::Call;
use filters::Next;
use steering::Steering;
use tries::Plan;
use upgrade::Wanted;

/// The virtual host for every authority that is no service's, where only services may be called (Istio's name).
const BLOCK_ALL: &str = "block_all";

/// Answers one request; never fails, since every failure has its own answer. `introduction` is what the application
/// is told about the caller, see [`crate::inbound::introduction`].
pub(crate) async fn serve(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    introduction: Option<HeaderValue>,
    request: Request<Incoming>,
) -> Result<Response<DownBody>, Infallible> {
    let active = connection.begin();
    let (mut parts, incoming) = request.into_parts();
    let wanted = Wanted::of(&mut parts);
    // HTTP/2 has an answer end the upload of its stream. A caller that expects `100 Continue` sends its body only when
    // it is asked to; it will not be.
    let by_http2 = parts.version == Version::HTTP_2;
    let drains = !by_http2 && !parts.headers.contains_key(EXPECT);
    let call = Call::begin(&worker, &connection, &parts, incoming, wanted);
    let mut unanswered = Unanswered(by_http2.then(|| (&*connection, connection.now())));
    let mut response = match handle(&call, parts, introduction).await {
        Ok(response) => response,
        Err(problem) => {
            // An earlier try may have reached the application, whatever the last one did.
            call.refuse(&if call.maybe_sent.get() {
                problem.maybe_sent()
            } else {
                problem
            })
        }
    };
    if let Some(features) = call.features.get() {
        // Own answers too: or else a browser would not show them.
        if let (Some(cors), Some(origin)) = (&features.cors, &*call.origin.borrow()) {
            cors.mark(origin, response.headers_mut());
        }
    }
    if let Some(filtered) = call.filtered.get() {
        filtered.answer(&call, &mut response);
    }
    if (call.ends_connection.get() || call.upload.is_broken()) && !by_http2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    if drains && call.answered_here.get() && !call.upload.is_empty() {
        let upload = call.upload.clone();
        // Beside the answer, which must not wait for it; gives up after a time.
        tokio::task::spawn_local(async move { upload.drain().await });
    }
    unanswered.0 = None;
    let tunnel = call.tunnel.borrow_mut().take();
    if let Some(tunnel) = tunnel {
        tunnel.answered(active);
        return Ok(response);
    }
    Ok(response.map(|body| body.holding(active)))
}

/// A request over HTTP/2 whose caller may take it back.
struct Unanswered<'a>(Option<(&'a Connection, Moment)>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some((connection, began)) = self.0 {
            let after = connection.now().0.saturating_sub(began.0);
            connection.frames.taken_back(after);
        }
    }
}

async fn handle(
    call: &Rc<Call>,
    mut parts: Parts,
    introduction: Option<HeaderValue>,
) -> Result<Response<DownBody>, Problem> {
    let (local, settings) = (call.connection.local, &call.connection.settings);
    let authority = check::admit(&mut parts, local, settings.max_fields()).map_err(|refused| {
        // Where it ends, others may see differently.
        call.ends_connection.set(true);
        match refused {
            Refused::Bad(message) => Problem::new(Code::BadRequest, message),
            Refused::TooLarge(message) => Problem::new(Code::HeadersTooLarge, message),
            Refused::NotSupported(message) => Problem::new(Code::NotSupported, message),
        }
    })?;
    headers::strip_hop_by_hop(&mut parts.headers, call.wanted.is_some());
    let found = claims::strip_request(&mut parts.headers, call.connection.peer.is_some());
    if found.dropped {
        call.worker.handles.count_feature("trace_headers_dropped");
    }
    let steering = found
        .steers
        .then(|| Steering::take(&mut parts.headers, call.direction))
        .flatten();
    match call.direction {
        Direction::Inbound => {
            if let Some(introduction) = introduction {
                parts.headers.insert(headers::XFCC, introduction);
            }
        }
        // To us as the caller's proxy (RFC 9110 section 11.7.2), and nobody else's to know.
        Direction::Outbound => {
            if parts.headers.contains_key(PROXY_AUTHORIZATION) {
                headers::remove_in_order(&mut parts.headers, &[PROXY_AUTHORIZATION]);
            }
            let hops = claims::take_hops(&mut parts.headers);
            if hops >= claims::MOST_HOPS {
                let message =
                    format!("it has left {hops} sidecars already: it goes round in circles");
                return Err(Problem::new(Code::LoopDetected, message));
            }
            call.hops.set(hops);
        }
    }
    routed(call, parts, authority, steering, false).await
}

/// From the snapshot on. `asked` if the request has waited for its virtual host.
async fn routed(
    call: &Rc<Call>,
    mut parts: Parts,
    mut authority: HeaderValue,
    steering: Option<Steering>,
    asked: bool,
) -> Result<Response<DownBody>, Problem> {
    let snapshot = call.worker.snapshot();
    let listener = snapshot
        .listeners
        .get(&call.connection.bound.name)
        .ok_or_else(|| Problem::new(Code::Draining, "this listener is being closed"))?;
    let chain = call.connection.chain(&listener.chains).ok_or_else(|| {
        let message = "a changed policy does not let this connection in any more";
        Problem::new(Code::Draining, message)
    })?;
    if let (Some(settings), false) = (&chain.settings, asked) {
        authority = head::prepare(call, settings.head, &mut parts, authority)?;
    }
    let table = match &chain.routes {
        RouteSource::Inline(table) => table,
        RouteSource::Connection(_) => {
            let message = "this listener takes connections of another protocol now";
            return Err(Problem::new(Code::Draining, message));
        }
        RouteSource::Named(slot) => snapshot.routes(*slot).ok_or_else(|| {
            let message = "the routes of this listener have not arrived from the control plane";
            Problem::new(Code::NoRouteHost, message)
        })?,
    };
    let found = table.find(&view(&parts, &authority));
    let is_rest = |host| table.on_demand && table.is_rest(host);
    let (host, route) = match found {
        Ok((host, route)) if asked || !is_rest(host) => (host, route),
        // The rest is what the control plane knows no service for.
        Ok(_) | Err(NoRoute::Host) if table.on_demand && !asked => {
            let table = Arc::clone(table);
            drop(snapshot);
            // Boxed: the rare path, which comes back here.
            return Box::pin(demanded(call, table, parts, authority, steering)).await;
        }
        Ok(found) => found,
        Err(no_route) => {
            // Who may not know is not told what there is.
            if chain.settings.is_some() {
                filters::look(call, &snapshot, (chain, None), &mut parts, &authority).await?;
            }
            if let Some(wanted) = call.wanted.as_ref().filter(|wanted| wanted.is_connect()) {
                wanted.check(chain, None)?;
                if no_route == NoRoute::Path && call.direction == Direction::Outbound {
                    return connect::to_requests(call);
                }
            }
            return Err(nowhere(table, &parts, &authority, no_route));
        }
    };
    if let Some(uses) = &host.uses {
        uses.mark();
    }
    *call.policy.borrow_mut() = route.position.clone();
    if let Some(features) = &route.features {
        call.features.get_or_init(|| Arc::clone(features));
    }
    let next = match (&chain.settings, &route.features) {
        (Some(_), _) => {
            let of = (chain, Some(route));
            filters::look(call, &snapshot, of, &mut parts, &authority).await?
        }
        (None, Some(features)) => before::look(call, features, &parts, &authority)
            .await?
            .map_or(Next::GoOn, Next::Answer),
        (None, None) => Next::GoOn,
    };
    let route = match next {
        Next::Answer(response) => return Ok(response),
        Next::GoOn => route,
        Next::Reroute => match table.find(&view(&parts, &authority)) {
            Ok((_, route)) => {
                call.policy.borrow_mut().clone_from(&route.position);
                route
            }
            Err(no_route) => return Err(nowhere(table, &parts, &authority, no_route)),
        },
    };
    if let Some(wanted) = &call.wanted {
        wanted.check(chain, Some(route))?;
        wanted.keep(call, &parts, &authority);
    }
    let Action::Forward(choice) = &route.action else {
        if &*host.name == BLOCK_ALL {
            return Err(not_in_registry(call, &authority));
        }
        return Ok(direct(call, &parts, &authority, route));
    };
    let weighted = choice
        .choose(&mut call.worker.rng.borrow_mut())
        .ok_or_else(|| Problem::new(Code::ClusterUnknown, "the route names no cluster"))?;
    let serving = {
        let rng = &mut call.worker.rng.borrow_mut();
        snapshot.serving(weighted.cluster, || call.worker.shared.now(), rng)
    };
    let (slot, cluster) = serving.ok_or_else(|| {
        let message = format!(
            "the route names cluster {}, which has not arrived",
            weighted.name
        );
        Problem::new(Code::ClusterUnknown, message)
    })?;
    if call.policy.borrow().is_none() {
        call.policy
            .borrow_mut()
            .clone_from(&cluster.config.position);
    }
    call.goes_to(slot, cluster);
    if matches!(route.matches.path, PathMatch::Connect) {
        // Boxed: few requests are such.
        return Box::pin(connect::to_cluster(call, slot, cluster, choice)).await;
    }
    let way = Way {
        snapshot: &snapshot,
        route,
        weighted,
        slot,
        cluster,
        steering,
    };
    let plan = plan(call, &mut parts, &authority, way)?;
    within_timeout(call, plan, parts).await
}

/// Where a request goes.
struct Way<'a> {
    snapshot: &'a View,
    route: &'a Route,
    weighted: &'a WeightedCluster,
    /// Not the route's own where that is an aggregate.
    slot: ClusterSlot,
    cluster: &'a Arc<Cluster>,
    steering: Option<Steering>,
}

async fn within_timeout(
    call: &Rc<Call>,
    plan: Plan<'_>,
    parts: Parts,
) -> Result<Response<DownBody>, Problem> {
    let Some(limit) = plan.limit else {
        return tries::run(call, &plan, parts).await;
    };
    call.upload.measure();
    let mut run = Box::pin(tries::run(call, &plan, parts));
    loop {
        let left = call.remains(&limit);
        if left.is_zero() {
            return Err(call.is_over(&limit));
        }
        if let Ok(response) = timeout(left, run.as_mut()).await {
            return response;
        }
    }
}

pub(crate) fn view<'a>(parts: &'a Parts, authority: &'a HeaderValue) -> RequestView<'a> {
    RequestView {
        method: &parts.method,
        // Checked at the door: ASCII.
        authority: authority.to_str().unwrap_or_default(),
        path_and_query: parts
            .uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str),
        scheme: "http",
        headers: &parts.headers,
    }
}

/// A request whose virtual host was not at hand.
async fn demanded(
    call: &Rc<Call>,
    table: Arc<RouteTable>,
    mut parts: Parts,
    authority: HeaderValue,
    steering: Option<Steering>,
) -> Result<Response<DownBody>, Problem> {
    if let Err(problem) = on_demand::arrival(call, &table, &authority).await {
        // It is no service, or nobody can say and its address is not one of the mesh.
        let goes_on = problem.code == Code::NoRouteHost || !on_demand::is_to_mesh(call);
        if table.rest().is_some() && goes_on {
            drop(table);
            return routed(call, parts, authority, steering, true).await;
        }
        let snapshot = call.worker.snapshot();
        let listener = snapshot.listeners.get(&call.connection.bound.name);
        let chain = listener.and_then(|listener| call.connection.chain(&listener.chains));
        if let Some(chain) = chain {
            filters::look(call, &snapshot, (chain, None), &mut parts, &authority).await?;
        }
        return Err(problem);
    }
    drop(table);
    routed(call, parts, authority, steering, true).await
}

/// What requests get that are for no service, where only services may be called.
fn not_in_registry(call: &Call, authority: &HeaderValue) -> Problem {
    let to = call.connection.destination;
    let to = to.map_or_else(String::new, |to| format!(", which was going to {to},"));
    let message = format!(
        "{:?}{to} is no service of the registry, and only services may be called (outboundTrafficPolicy: REGISTRY_ONLY)",
        authority.to_str().unwrap_or_default()
    );
    Problem::new(Code::NotInRegistry, message)
}

fn nowhere(
    table: &RouteTable,
    parts: &Parts,
    authority: &HeaderValue,
    no_route: NoRoute,
) -> Problem {
    let authority = view(parts, authority).authority;
    match no_route {
        NoRoute::Host => Problem::new(Code::NoRouteHost, unknown_host(table, authority)),
        NoRoute::Path => Problem::new(
            Code::NoRoutePath,
            format!(
                "no route of {authority:?} matches {} and its headers",
                parts.uri.path()
            ),
        ),
    }
}

pub(crate) fn unknown_host(table: &RouteTable, authority: &str) -> String {
    let ports: Vec<String> = table
        .ports_of(authority)
        .iter()
        .map(u16::to_string)
        .collect();
    if ports.is_empty() {
        format!("no service is known as {authority:?} here")
    } else {
        format!(
            "the service is not known as {authority:?} here; its ports are {}",
            ports.join(", ")
        )
    }
}

/// Redirects and fixed answers.
fn direct(
    call: &Rc<Call>,
    parts: &Parts,
    authority: &HeaderValue,
    route: &Route,
) -> Response<DownBody> {
    let mut response = redirect::answer(route, parts, authority);
    if !route.response_headers.is_empty() {
        let facts = Facts {
            method: call.method.as_str(),
            path: view(parts, authority).path_and_query,
            authority: authority.to_str().unwrap_or_default(),
            request: Some(&parts.headers),
            status: Some(response.status().as_u16()),
            route: &route.name,
            remote: Some(call.connection.remote),
            local: call.connection.local,
            hostname: &call.worker.shared.hostname,
            started: Some(SystemTime::now()),
            ..Facts::default()
        };
        let edits = &route.response_headers;
        edits.apply(response.headers_mut(), &facts);
    }
    call.answered_directly(response.status().as_u16());
    response
}

/// Edits the request as the route says, and collects what its tries need.
fn plan<'a>(
    call: &Rc<Call>,
    parts: &mut Parts,
    authority: &HeaderValue,
    way: Way<'a>,
) -> Result<Plan<'a>, Problem> {
    let Way {
        snapshot,
        route,
        weighted,
        slot,
        cluster,
        steering,
    } = way;
    let request = view(parts, authority);
    let mut cookies = Vec::new();
    let mut hash = None;
    if !route.hash_policies.is_empty() {
        let client = Some(call.connection.remote.ip());
        let mut missing = route.missing_cookies(&parts.headers).peekable();
        hash = if missing.peek().is_some() {
            let value = format!("{:016x}", call.worker.rng.borrow_mut().u64(..));
            cookies.extend(missing.filter_map(|cookie| cookie.set_cookie(&value)));
            route.hash_with_cookie(&request, client, Some(&value))
        } else {
            route.hash_with_cookie(&request, client, None)
        };
    }
    upstream::edit(call, parts, authority, route, weighted)?;
    let config = &cluster.config;
    let has_outside_tls = config.tls.as_ref().is_some_and(|tls| tls.outside.is_some());
    let is_outside = has_outside_tls || config.original_dst;
    if call.direction == Direction::Outbound && !is_outside {
        claims::put_hops(&mut parts.headers, call.hops.get());
    }
    let mut timeout = route.timeout;
    let mut retry = Cow::Borrowed(&route.retry);
    if let Some(steering) = steering {
        timeout = steering.timeout(timeout);
        retry = steering.retry(&route.retry);
    }
    let idempotent = !call.grpc && is_idempotent(&call.method);
    Ok(Plan {
        limit: call.limit(timeout),
        idempotent,
        hedge: route
            .features()
            .and_then(|f| f.hedge.filter(|_| idempotent && call.wanted.is_none())),
        repeats: retry.may_repeat() && (idempotent || !retry.implied),
        asked: upstream::Asked::of(parts, route, weighted),
        slot,
        cluster,
        route,
        retry,
        snapshot,
        weighted,
        hash,
        cookies,
        protocol: upstream::protocol(cluster, parts.version == Version::HTTP_2),
        websocket_key: call
            .wanted
            .as_ref()
            .and_then(|_| parts.headers.get(SEC_WEBSOCKET_KEY).cloned()),
    })
}

/// `application/grpc`, with or without `+proto` and parameters.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The cluster that a request was meant for, if it came so far.
pub(crate) type Destination = (ClusterSlot, Arc<Cluster>);

#[cfg(test)]
mod tests;
