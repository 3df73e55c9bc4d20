//! Spans as plain structs: made on the request path, given to the exporter through a bounded channel, dropped and
//! counted where that is full.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, Method, Version};
use tokio::sync::mpsc;

use super::propagate::{self, Extracted, TraceContext};

/// Whose view a span tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One a request, at the application's own sidecar.
    Server,
    /// One an attempt, at the caller's sidecar.
    Client,
}

/// A span that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) context: TraceContext,
    pub(crate) parent: Option<u64>,
    pub(crate) kind: Kind,
    pub(crate) started: SystemTime,
    pub(crate) ended: SystemTime,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) version: Version,
    pub(crate) authority: String,
    pub(crate) status: Option<u16>,
    pub(crate) grpc: bool,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) error: Option<&'static str>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) peer_id: Option<Arc<str>>,
    pub(crate) service: Option<String>,
    pub(crate) subset: Option<String>,
    pub(crate) policy: Option<Arc<str>>,
    pub(crate) resend_count: u32,
}

/// A request's trace, once something is made of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    trace_id: u128,
    parent: Option<u64>,
    sampled: bool,
    came: Extracted,
}

impl Trace {
    /// Continues what the headers carry, or starts a new trace of which `share` are sampled.
    pub(crate) fn of(headers: &HeaderMap, share: f64, rng: &mut fastrand::Rng) -> Self {
        let came = propagate::extract(headers);
        match came.parent {
            Some(parent) => Self {
                trace_id: parent.trace_id,
                parent: Some(parent.span_id),
                sampled: parent.sampled,
                came,
            },
            None => Self {
                trace_id: rng.u128(1..),
                parent: None,
                sampled: came.sampled.unwrap_or_else(|| rng.f64() < share),
                came,
            },
        }
    }

    /// Its id, if it was not made up here.
    pub(crate) fn came(&self) -> Option<u128> {
        self.came.parent.map(|parent| parent.trace_id)
    }

    pub(crate) fn id(&self) -> u128 {
        self.trace_id
    }

    /// A child span's context.
    pub(crate) fn child(&self, rng: &mut fastrand::Rng) -> TraceContext {
        TraceContext {
            trace_id: self.trace_id,
            span_id: rng.u64(1..),
            sampled: self.sampled,
        }
    }

    /// Makes `context` the parent of whoever reads `headers`.
    pub(crate) fn inject(&self, headers: &mut HeaderMap, context: TraceContext) {
        propagate::inject(headers, context, self.came.form, self.came.parent.is_some());
    }

    pub(crate) fn parent(&self) -> Option<u64> {
        self.parent
    }

    pub(crate) fn sampled(&self) -> bool {
        self.sampled
    }
}

/// Where spans go.
#[derive(Clone, Debug)]
pub(crate) struct SpanSink {
    pub(crate) channel: mpsc::Sender<Message>,
    pub(crate) dropped: prometheus::IntCounter,
}

/// What the exporter is sent.
#[derive(Debug)]
pub(crate) enum Message {
    // Boxed: a full channel of spans would take its room even when it is empty.
    Span(Box<Span>),
    /// Send what you have, then say so.
    Flush(tokio::sync::oneshot::Sender<()>),
}

impl SpanSink {
    pub(crate) fn send(&self, span: Span) {
        if self
            .channel
            .try_send(Message::Span(Box::new(span)))
            .is_err()
        {
            self.dropped.inc();
        }
    }
}
