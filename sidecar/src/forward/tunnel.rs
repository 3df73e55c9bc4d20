//! A request that has become a connection of bytes (an upgrade, CONNECT): what it holds, and how it ends.
//!
//! ```text
//! answer 101 ──► the worker takes the downstream connection out of hyper (or the HTTP/2 stream), the pool the upstream's
//!            ──► copied as connections of bytes are: idle, age, certificates, drain ──► counted and told as one request
//! ```
//! What it had as a request it keeps to its end: the place under the cluster's limits, the connection's slot, the
//! endpoint's count of requests in flight. Nothing of it is ever sent twice.

use std::rc::Rc;

use hyper_util::rt::TokioIo;
use outrigger_core::Direction;

use super::{call::Call, finish::Exchange};
use crate::{
    http::io::{Io, Transport},
    pool::lease::Up,
    tcp::{
        copy::{self, Counts, End, Ends, Limits},
        until,
    },
    worker::{
        Worker,
        connection::{ActiveRequest, Connection, Server},
    },
};

/// A request that has switched, with its upstream side.
#[derive(Debug)]
pub(crate) struct Tunnel {
    call: Rc<Call>,
    up: Option<Up>,
    /// None = it is told.
    exchange: Option<Box<Exchange>>,
    /// Keeps the downstream connection busy.
    active: Option<ActiveRequest>,
    counts: Counts,
}

impl Tunnel {
    pub(crate) fn new(call: &Rc<Call>, up: Up, exchange: Box<Exchange>) -> Self {
        Self {
            call: Rc::clone(call),
            up: Some(up),
            exchange: Some(exchange),
            active: None,
            counts: Counts::default(),
        }
    }

    /// Its answer is on its way down. One of HTTP/2 begins beside it; one of HTTP/1.1 when its connection is its own.
    pub(crate) fn answered(mut self, active: ActiveRequest) {
        self.active = Some(active);
        let call = Rc::clone(&self.call);
        let stream = call.wanted.as_ref().and_then(|wanted| wanted.stream());
        let Some(stream) = stream.cloned() else {
            *call.connection.tunnel.borrow_mut() = Some(Box::new(self));
            return;
        };
        tokio::task::spawn_local(async move {
            // Its connection has ended otherwise: dropped, it tells so.
            if let Ok(stream) = stream.await {
                let stream = Transport::Stream(Box::new(TokioIo::new(stream)));
                self.run(Io::new(stream)).await;
            }
        });
    }

    /// To its end.
    pub(crate) async fn run(mut self, mut down: Io) {
        let Some(up) = self.up.take() else { return };
        let Some((mut up, under)) = up.io().await else {
            down.reset_on_close();
            self.finish(End::UpstreamReset);
            return;
        };
        let (worker, connection) = (&self.call.worker, &self.call.connection);
        self.owns_connection(worker, connection, &up.io, under.generation);
        let limits = Limits {
            idle: None,
            age: None,
            drain: worker.drain_timeout,
            until: until(under.expires),
        };
        let ends = Ends {
            down: &mut down,
            up: &mut up.io,
        };
        let end = copy::both(
            ends,
            &worker.scratch,
            connection,
            limits,
            &self.counts,
            || {},
        )
        .await;
        tracing::debug!(
            listener = %connection.bound.name,
            remote = %connection.remote,
            ?end,
            sent = self.counts.sent.get(),
            received = self.counts.received.get(),
            "a connection that a request has switched ended"
        );
        self.finish(end);
    }

    /// All of a connection of HTTP/1.1 is bytes from now on; of HTTP/2's, one stream is.
    fn owns_connection(
        &self,
        worker: &Worker,
        connection: &Connection,
        up: &Io,
        generation: Option<u64>,
    ) {
        let is_stream = self
            .call
            .wanted
            .as_ref()
            .is_some_and(|w| w.stream().is_some());
        if is_stream || self.call.direction == Direction::Inbound {
            return;
        }
        let Some(chain) = up.peer_chain() else { return };
        let expected = self.call.expected_ids();
        *connection.server.borrow_mut() = expected.map(|expected| Server { chain, expected });
        worker.check_server(connection, generation);
    }

    fn finish(&mut self, end: End) {
        if let Some(exchange) = self.exchange.take() {
            exchange.finish_bytes(end, self.counts.received.get(), self.counts.sent.get());
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // The downstream went away before it began, or with its connection.
        self.finish(End::DownstreamReset);
    }
}
