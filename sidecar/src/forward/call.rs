//! What is known of one request from its head to its end, shared by its tries.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method, Response, Version, request::Parts};
use hyper::body::Incoming;
use outrigger_core::{Cluster, ClusterSlot, Direction, Endpoint};

use super::{Destination, is_grpc};
use crate::{
    http::{
        answer::{self, Problem},
        body::DownBody,
        replay::Upload,
    },
    telemetry::{Ended, Handles, Span, Trace, propagate::TraceContext, span::Kind},
    worker::{Worker, connection::Connection},
};

/// One request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) worker: Rc<Worker>,
    pub(crate) connection: Rc<Connection>,
    pub(crate) direction: Direction,
    pub(crate) method: Method,
    pub(crate) grpc: bool,
    pub(crate) upload: Upload,
    /// Line of YAML that decided.
    pub(crate) policy: RefCell<Option<Arc<str>>>,
    /// The route's timeout ended it.
    pub(crate) timed_out: Cell<bool>,
    /// The application may have seen it.
    pub(crate) maybe_sent: Cell<bool>,
    destination: RefCell<Option<Destination>>,
    started: Instant,
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

impl Call {
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        connection: &Rc<Connection>,
        parts: &Parts,
        incoming: Incoming,
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
        Rc::new(Self {
            worker: Rc::clone(worker),
            connection: Rc::clone(connection),
            direction: connection.bound.direction,
            method: parts.method.clone(),
            grpc: is_grpc(&parts.headers),
            upload: Upload::new(incoming),
            policy: RefCell::new(None),
            timed_out: Cell::new(false),
            maybe_sent: Cell::new(false),
            destination: RefCell::new(None),
            started: Instant::now(),
            trace,
            spans: Cell::new(0),
        })
    }

    pub(crate) fn goes_to(&self, slot: ClusterSlot, cluster: &Arc<Cluster>) {
        *self.destination.borrow_mut() = Some((slot, Arc::clone(cluster)));
    }

    /// What is left of `limit`, counted from the head of the request.
    pub(crate) fn time_left(&self, limit: Option<Duration>) -> Option<Duration> {
        limit.map(|limit| limit.saturating_sub(self.started.elapsed()))
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

    /// The answer to a request that we do not, or could not, pass on.
    pub(crate) fn refuse(&self, problem: &Problem) -> Response<DownBody> {
        let destination = self.destination.borrow();
        let policy = self.policy.borrow();
        let response = answer::problem(
            problem,
            &answer::Context {
                direction: self.direction,
                grpc: self.grpc,
                service: destination.as_ref().map(|(_, c)| c.config.service.as_str()),
                policy: policy.as_ref(),
            },
        );
        let code = problem.code;
        let hop = match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        self.worker.handles.count_refusal(hop, code.as_str());
        let status = response.status().as_u16();
        let grpc_status = self.grpc.then(|| code.grpc_status());
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
        let millis = self.started.elapsed().as_secs_f64() * 1000.0;
        handles.record(ended, millis, self.upload.bytes(), response_bytes);
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
