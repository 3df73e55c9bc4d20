//! What is known of one request from its head to its end, shared by its tries.

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, Response, Version, request::Parts};
use hyper::body::Incoming;
use outrigger_core::{
    Cluster, ClusterSlot, Direction, Endpoint, Facts, Features, Positions, Route, WeightedCluster,
    jwt::TokenClaims,
};

use super::{
    Destination, chain::Held, deadline, filters::Filtered, is_grpc, tunnel::Tunnel, upgrade::Wanted,
};
use crate::{
    http::{
        answer::{self, Code, Problem},
        body::DownBody,
        expect,
        replay::Upload,
    },
    telemetry::{
        Ended, Handles, Span, Trace,
        propagate::{self, TraceContext},
        span::Kind,
    },
    worker::{
        Worker,
        connection::{Connection, Given},
    },
};

mod limits;

pub(crate) use limits::Limit;

/// One request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) worker: Rc<Worker>,
    pub(crate) connection: Rc<Connection>,
    pub(crate) direction: Direction,
    pub(crate) method: Method,
    pub(crate) grpc: bool,
    http2: bool,
    pub(crate) upload: Upload,
    /// Line of YAML that decided.
    pub(crate) policy: RefCell<Option<Arc<str>>>,
    /// The time of the whole request is over: what of.
    pub(crate) timed_out: Cell<Option<Code>>,
    /// What its route has beside the usual.
    pub(crate) features: OnceCell<Arc<Features>>,
    /// Of a browser's request, for whose answer there is a CORS policy.
    pub(crate) origin: RefCell<Option<HeaderValue>>,
    /// A fault has delayed it.
    pub(crate) delayed: Cell<bool>,
    /// Filters that its answer has to pass.
    pub(crate) filtered: OnceCell<Filtered>,
    /// What its verified tokens say.
    pub(crate) claims: RefCell<TokenClaims>,
    /// Whose answer is passed on.
    pub(crate) answered_by: Cell<Option<SocketAddr>>,
    /// Of two tries at once, one has won.
    pub(crate) hedged: Cell<bool>,
    /// Its retries are used up, here or further down.
    exhausted: Cell<bool>,
    /// Sidecars that it had left before it came here.
    pub(crate) hops: Cell<u8>,
    /// The application may have seen it.
    pub(crate) maybe_sent: Cell<bool>,
    /// Its caller sends the body when it is asked to.
    pub(crate) expects: bool,
    /// What it asks to switch to.
    pub(crate) wanted: Option<Box<Wanted>>,
    /// What came after it had switched.
    pub(crate) upload_bytes: Cell<u64>,
    /// It has switched.
    pub(crate) tunnel: RefCell<Option<Box<Tunnel>>>,
    destination: RefCell<Option<Destination>>,
    started: Instant,
    /// From when the route's timeout counts.
    clock: Cell<Instant>,
    /// Until when the caller waits, if that is known.
    deadline: Option<Instant>,
    /// Of the trace that it is part of.
    trace_id: Option<u128>,
    /// How long the caller waits, where its deadline counts from the end of the body.
    announced: Option<Duration>,
    /// Its place in the memory of its trace.
    held: Cell<Option<Held>>,
    /// It was answered here, and not by an upstream.
    pub(crate) answered_here: Cell<bool>,
    /// Of HTTP/1.1: nothing that follows it is read.
    pub(crate) ends_connection: Cell<bool>,
    trace: Option<Traced>,
    /// Tries that have a span of their own.
    spans: Cell<u32>,
}

/// What spans are made of.
#[derive(Debug)]
struct Traced {
    trace: Trace,
    /// Of the SERVER span.
    own: TraceContext,
    started: SystemTime,
    path: String,
    authority: String,
    version: Version,
}

/// How an attempt or a request ended, for its span.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) error: Option<&'static str>,
}

/// A question to an authorization server.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckSpan {
    /// None = nobody records it.
    pub(super) context: Option<TraceContext>,
    pub(super) started: SystemTime,
    pub(super) status: Option<u16>,
    pub(super) error: Option<&'static str>,
}

/// The line of YAML of the setting behind an own answer.
fn line(positions: &Positions, code: Code) -> Option<&Arc<str>> {
    match code {
        Code::Timeout => positions.timeout.as_ref(),
        Code::PerTryTimeout => positions.retries.as_ref(),
        Code::FaultInjected => positions.fault.as_ref(),
        _ => None,
    }
}

impl Call {
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        connection: &Rc<Connection>,
        parts: &Parts,
        incoming: Incoming,
        wanted: Option<Box<Wanted>>,
    ) -> Rc<Self> {
        let trace = worker.telemetry.spans.is_some().then(|| {
            let mut rng = worker.rng.borrow_mut();
            let trace = Trace::of(&parts.headers, worker.telemetry.sampling, &mut rng);
            let host = parts.headers.get(http::header::HOST);
            let authority = match parts.uri.authority() {
                Some(authority) => authority.as_str(),
                None => host.and_then(|host| host.to_str().ok()).unwrap_or_default(),
            };
            // What nobody records need not be copied.
            let text = |text: &str| {
                if trace.sampled() {
                    text.to_owned()
                } else {
                    String::new()
                }
            };
            Traced {
                own: trace.child(&mut rng),
                trace,
                started: SystemTime::now(),
                path: text(parts.uri.path()),
                authority: text(authority),
                version: parts.version,
            }
        });
        let (direction, grpc) = (connection.bound.direction, is_grpc(&parts.headers));
        let trace_id = match (&trace, direction) {
            // What we made up here, the application passes on.
            (Some(traced), Direction::Inbound) => Some(traced.trace.id()),
            (Some(traced), Direction::Outbound) => traced.trace.came(),
            (None, _) => propagate::extract(&parts.headers)
                .parent
                .map(|parent| parent.trace_id),
        };
        let started = Instant::now();
        let chains = &worker.shared.chains;
        let upload = Upload::new(incoming);
        if !grpc {
            worker.awaits(&upload, direction);
        }
        let wait = deadline::announced(&parts.headers, grpc);
        let mut deadline = wait.map(|wait| limits::later(started, wait));
        let mut held = None;
        match (direction, trace_id) {
            // What strangers say of a trace must not change how long others of it may last.
            (Direction::Inbound, Some(_)) if connection.peer.is_none() => {}
            (Direction::Inbound, Some(trace)) => {
                // Nobody knows yet when a body will have ended, and with it until when the caller waits.
                let known = deadline.filter(|_| upload.is_empty());
                let place = chains.begin(trace, known, started);
                if known.is_some() && place == Held::Unlimited {
                    worker.handles.count_feature("trace_memory_full");
                }
                held = Some(place);
            }
            (Direction::Outbound, Some(trace)) if !chains.is_empty() => {
                deadline = match (deadline, chains.deadline(trace)) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
            }
            _ => {}
        }
        let waits_for_end = deadline.is_some() && !upload.is_empty();
        if waits_for_end {
            upload.measure();
        }
        let expects = !upload.is_empty() && expect::is_expected(&parts.headers);
        let call = Rc::new(Self {
            worker: Rc::clone(worker),
            connection: Rc::clone(connection),
            direction,
            method: parts.method.clone(),
            grpc,
            http2: parts.version == Version::HTTP_2,
            upload,
            policy: RefCell::new(None),
            timed_out: Cell::new(None),
            features: OnceCell::new(),
            origin: RefCell::new(None),
            delayed: Cell::new(false),
            filtered: OnceCell::new(),
            claims: RefCell::default(),
            answered_by: Cell::new(None),
            hedged: Cell::new(false),
            exhausted: Cell::new(false),
            hops: Cell::new(0),
            maybe_sent: Cell::new(false),
            wanted,
            upload_bytes: Cell::new(0),
            expects,
            tunnel: RefCell::new(None),
            destination: RefCell::new(None),
            started,
            clock: Cell::new(started),
            deadline,
            trace_id,
            announced: wait.filter(|_| waits_for_end),
            held: Cell::new(held),
            answered_here: Cell::new(false),
            ends_connection: Cell::new(false),
            trace,
            spans: Cell::new(0),
        });
        if waits_for_end && held.is_some() {
            call.upload.tell_end(Rc::downgrade(&call));
        }
        call
    }

    /// A part of the answer goes to the caller; over HTTP/2 it waits for a window.
    pub(super) fn answers(&self, bytes: usize) -> Option<Given> {
        self.http2.then(|| {
            self.connection.frames.answers(bytes);
            self.connection.given()
        })
    }

    pub(crate) fn goes_to(&self, slot: ClusterSlot, cluster: &Arc<Cluster>) {
        *self.destination.borrow_mut() = Some((slot, Arc::clone(cluster)));
    }

    /// What headers are made from, but for the request's own head.
    pub(crate) fn facts<'a>(
        &'a self,
        route: &'a Route,
        weighted: &'a WeightedCluster,
    ) -> Facts<'a> {
        let edits = [
            &weighted.request_headers,
            &weighted.response_headers,
            &route.request_headers,
            &route.response_headers,
        ];
        Facts {
            cluster: &weighted.name,
            route: &route.name,
            started: edits
                .iter()
                .any(|edits| edits.reads_time())
                .then(|| self.began()),
            ..self.facts_of_connection()
        }
    }

    fn facts_of_connection(&self) -> Facts<'_> {
        let connection = &self.connection;
        Facts {
            remote: Some(connection.remote),
            local: connection.local,
            peer_uri: connection.peer.as_ref().map(|peer| &*peer.svid.id),
            protocol: match self.http2 {
                true => "HTTP/2",
                false => "HTTP/1.1",
            },
            hostname: &self.worker.shared.hostname,
            ..Facts::default()
        }
    }

    /// By the clock of the day.
    pub(super) fn began(&self) -> SystemTime {
        SystemTime::now() - self.started.elapsed()
    }

    /// Makes the receiver of `headers` a child of this request: of its SERVER span inbound, of a new CLIENT span, which is
    /// returned, outbound.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) -> Option<TraceContext> {
        let traced = self.trace.as_ref()?;
        match self.direction {
            Direction::Inbound => {
                traced.trace.inject(headers, traced.own);
                None
            }
            Direction::Outbound => {
                let context = traced.trace.child(&mut self.worker.rng.borrow_mut());
                traced.trace.inject(headers, context);
                Some(context)
            }
        }
    }

    /// The same for a copy, which nobody follows.
    pub(crate) fn inject_unsampled(&self, headers: &mut HeaderMap) {
        if let Some(traced) = &self.trace {
            let context = TraceContext {
                sampled: false,
                ..traced.trace.child(&mut self.worker.rng.borrow_mut())
            };
            traced.trace.inject(headers, context);
        }
    }

    /// Makes the receiver of a question about this request, whose headers these are, a child of it.
    pub(super) fn begin_check(&self, headers: &mut HeaderMap) -> Option<TraceContext> {
        let traced = self.trace.as_ref()?;
        let context = traced.trace.child(&mut self.worker.rng.borrow_mut());
        traced.trace.inject(headers, context);
        Some(context)
    }

    /// Ends the CLIENT span of a question.
    pub(super) fn end_check(&self, span: &CheckSpan, cluster: &Cluster, endpoint: &Endpoint) {
        let (Some(traced), Some(sink), Some(context)) =
            (&self.trace, &self.worker.telemetry.spans, span.context)
        else {
            return;
        };
        if !context.sampled {
            return;
        }
        sink.send(Span {
            context,
            parent: match self.direction {
                Direction::Inbound => Some(traced.own.span_id),
                Direction::Outbound => traced.trace.parent(),
            },
            kind: Kind::Client,
            started: span.started,
            ended: SystemTime::now(),
            method: Method::POST,
            path: "/envoy.service.auth.v3.Authorization/Check".to_owned(),
            version: Version::HTTP_2,
            authority: cluster.config.service.clone(),
            status: span.status,
            grpc: false,
            grpc_status: None,
            error: span.error,
            peer: Some(endpoint.config.address),
            peer_id: None,
            service: Some(cluster.config.service.clone()),
            subset: None,
            policy: self.policy.borrow().clone(),
            resend_count: 0,
        });
    }

    /// What a filter makes headers of, but for the request's own head.
    pub(super) fn facts_of_filters(&self) -> Facts<'_> {
        Facts {
            method: self.method.as_str(),
            started: Some(self.began()),
            ..self.facts_of_connection()
        }
    }

    /// SPIFFE ids that the server of its cluster may have.
    pub(super) fn expected_ids(&self) -> Option<Arc<[String]>> {
        let destination = self.destination.borrow();
        let (_, cluster) = destination.as_ref()?;
        let tls = cluster.config.mesh_tls()?;
        Some(tls.subject_alt_names.as_slice().into())
    }

    /// The cluster's name, once it is known.
    pub(super) fn cluster_name(&self) -> Option<String> {
        let destination = self.destination.borrow();
        destination
            .as_ref()
            .map(|(_, cluster)| cluster.config.name.clone())
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2
    }

    /// The answer to a request that we do not, or could not, pass on.
    pub(crate) fn refuse(&self, problem: &Problem) -> Response<DownBody> {
        self.answered_here.set(true);
        let destination = self.destination.borrow();
        let policy = self.policy.borrow();
        let tells = self.worker.policy_header.tells(
            self.direction == Direction::Outbound,
            self.connection.peer.is_some(),
        );
        let line = self
            .features
            .get()
            .and_then(|f| line(&f.positions, problem.code));
        let mut response = answer::problem(
            problem,
            &answer::Context {
                direction: self.direction,
                grpc: self.grpc,
                service: destination.as_ref().map(|(_, c)| c.config.service.as_str()),
                policy: line.or(policy.as_ref()).filter(|_| tells),
            },
        );
        let code = problem.code;
        self.mark_exhausted(self.exhausted.get(), response.headers_mut());
        let hop = match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        self.worker.handles.count_refusal(hop, code.as_str());
        let status = response.status().as_u16();
        let grpc_status = self.grpc.then(|| problem.grpc_status());
        let ended = Ended {
            grpc: self.grpc,
            status,
            grpc_status,
            flags: code.flag(),
        };
        self.record(&self.own_handles(), ended, 0);
        let told = Told {
            status: Some(status),
            grpc_status,
            error: Some(code.as_str()),
        };
        match self.direction {
            Direction::Inbound => self.end_server_span(told),
            // Without a try there would be no sign of the request.
            Direction::Outbound if self.spans.get() == 0 => {
                if let Some(traced) = &self.trace {
                    self.send_span(Kind::Client, traced.own, traced.started, None, told);
                }
            }
            Direction::Outbound => {}
        }
        response
    }

    /// A redirect or a fixed answer was given.
    pub(crate) fn answered_directly(&self, status: u16) {
        self.answered_here.set(true);
        let ended = Ended {
            grpc: self.grpc,
            status,
            grpc_status: None,
            flags: "-",
        };
        self.record(&self.own_handles(), ended, 0);
        self.end_server_span(Told {
            status: Some(status),
            ..Told::default()
        });
    }

    fn own_handles(&self) -> Rc<Handles> {
        let destination = self.destination.borrow();
        let cache = &self.worker.handles;
        match self.direction {
            Direction::Outbound => {
                cache.nowhere(destination.as_ref().map(|(slot, c)| (*slot, &**c)))
            }
            Direction::Inbound => cache.inbound(
                destination.as_ref().map(|(slot, _)| *slot),
                self.connection.peer.as_ref().map(|peer| &peer.svid.id),
            ),
        }
    }

    /// Handles for a response of `endpoint`.
    pub(crate) fn handles(&self, endpoint: &Endpoint) -> Rc<Handles> {
        match (&*self.destination.borrow(), self.direction) {
            (Some((slot, cluster)), Direction::Outbound) => {
                self.worker.handles.outbound(*slot, cluster, endpoint)
            }
            _ => self.own_handles(),
        }
    }

    /// Counts the request.
    pub(crate) fn record(&self, handles: &Handles, ended: Ended, response_bytes: u64) {
        let prefix = self.features.get().and_then(|f| f.stat_prefix.as_ref());
        if let Some(prefix) = prefix {
            self.worker.handles.count_prefix(prefix, ended.status);
        }
        let millis = self.started.elapsed().as_secs_f64() * 1000.0;
        let request_bytes = self.upload.bytes() + self.upload_bytes.get();
        handles.record(ended, millis, request_bytes, response_bytes);
    }

    /// Ends the CLIENT span of a try.
    pub(crate) fn end_client_span(
        &self,
        context: TraceContext,
        started: SystemTime,
        endpoint: &Endpoint,
        number: u32,
        told: Told,
    ) {
        self.spans.set(self.spans.get() + 1);
        let to = Some((endpoint, number.saturating_sub(1)));
        self.send_span(Kind::Client, context, started, to, told);
    }

    /// Ends the SERVER span, if this is the application's side.
    pub(crate) fn end_server_span(&self, told: Told) {
        if let (Some(traced), Direction::Inbound) = (&self.trace, self.direction) {
            self.send_span(Kind::Server, traced.own, traced.started, None, told);
        }
    }

    /// `to`: an endpoint, and how often the request was sent before.
    fn send_span(
        &self,
        kind: Kind,
        context: TraceContext,
        started: SystemTime,
        to: Option<(&Endpoint, u32)>,
        told: Told,
    ) {
        let (Some(traced), Some(sink)) = (&self.trace, &self.worker.telemetry.spans) else {
            return;
        };
        if !traced.trace.sampled() {
            return;
        }
        let destination = self.destination.borrow();
        let config = destination.as_ref().map(|(_, cluster)| &cluster.config);
        let peer = match kind {
            Kind::Server => Some(self.connection.remote),
            Kind::Client => to.map(|(endpoint, _)| endpoint.config.address),
        };
        sink.send(Span {
            context,
            parent: traced.trace.parent(),
            kind,
            started,
            ended: SystemTime::now(),
            method: self.method.clone(),
            path: traced.path.clone(),
            version: traced.version,
            authority: traced.authority.clone(),
            status: told.status,
            grpc: self.grpc,
            grpc_status: told.grpc_status,
            error: told.error,
            peer,
            peer_id: self
                .connection
                .peer
                .as_ref()
                .map(|peer| Arc::clone(&peer.svid.id)),
            service: config.map(|c| c.service.clone()),
            subset: config.map(|c| c.subset.clone()).filter(|s| !s.is_empty()),
            policy: self.policy.borrow().clone(),
            resend_count: to.map_or(0, |(_, before)| before),
        });
    }
}
