//! A connection that is not HTTP, from its first byte to its last.
//!
//! ```text
//! peek (TLS port: the server name) ─► core: route, cluster ─► upstream (pick, connect, another) ─► copy both ways
//!        └──────────────── refused ───────┴──── refused ─────────┘  one line of the log, one counter, a close
//! ```
//! Bytes are passed on as they come; nothing is read that cannot be passed on, and nothing is sent twice.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use outrigger_core::{Cluster, ClusterSlot, ConnectionRoute, ConnectionRoutes, Direction, Subject};
use tokio::time::Instant;

pub(crate) mod copy;
mod hello;
mod peek;
mod refusal;
mod upstream;

use copy::{Counts, End, Ends, Limits};
use refusal::{About, Code, Refused};
use upstream::Target;

use crate::{
    http::io::{Io, Transport},
    telemetry::Handles,
    worker::{
        Worker,
        connection::{Connection, Order},
        unix_now,
    },
};

/// Serves a connection to its end.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    transport: Transport,
    routes: &ConnectionRoutes,
) {
    // HTTP's clock looks for idle connections and slow heads: neither means anything here.
    let _busy = connection.begin();
    let mut down = Io::new(transport);
    let mut server_name = None;
    if let Some(within) = routes.hello_timeout() {
        let found = tokio::select! {
            biased;
            found = peek::server_name(&mut down, within) => found,
            // Told to end before it has begun.
            _order = connection.ordered(Order::Serve) => return,
        };
        match found {
            Ok((name, first)) => {
                server_name = name;
                down = down.before(first);
            }
            Err(why) => {
                if let Some(refused) = Refused::no_hello(&why) {
                    let session = Session::new(worker, connection, None);
                    session.refuse(&refused, None, None);
                }
                return;
            }
        }
    }
    let session = Session::new(worker, connection, server_name.as_deref());
    let Some(route) = routes.find(server_name.as_deref()) else {
        session.refuse(&Refused::no_route(server_name.as_deref()), None, None);
        return;
    };
    if let Some(refused) = session.denied(route) {
        session.refuse(&refused, Some(route), None);
        return;
    }
    session.lead(down, route).await;
}

/// A connection whose server name is known, if it has one.
struct Session<'a> {
    worker: &'a Rc<Worker>,
    connection: &'a Rc<Connection>,
    server_name: Option<&'a str>,
}

impl<'a> Session<'a> {
    fn new(
        worker: &'a Rc<Worker>,
        connection: &'a Rc<Connection>,
        server_name: Option<&'a str>,
    ) -> Self {
        Self {
            worker,
            connection,
            server_name,
        }
    }

    /// What the access rules of the route say.
    fn denied(&self, route: &ConnectionRoute) -> Option<Refused> {
        if route.rbac.is_empty() {
            return None;
        }
        let subject = Subject {
            caller: self.connection.caller(self.server_name),
            request: None,
            believes: false,
            trusted_hops: 0,
        };
        let counters = self.worker.handles.filters();
        let direction = self.connection.bound.direction;
        route.rbac.iter().find_map(|rbac| {
            let (rules, judgement) = counters.judge(direction, rbac, &subject)?;
            Some(Refused::denied(rules, &judgement))
        })
    }

    async fn lead(&self, mut down: Io, route: &Arc<ConnectionRoute>) {
        let snapshot = self.worker.snapshot();
        let Some(weighted) = route.clusters.choose(&mut self.worker.rng.borrow_mut()) else {
            let refused = Refused::new(Code::ClusterUnknown, "the route names no cluster");
            self.refuse(&refused, Some(route), None);
            return;
        };
        let serving = {
            let rng = &mut self.worker.rng.borrow_mut();
            snapshot
                .serving(weighted.cluster, || self.worker.shared.now(), rng)
                .map(|(slot, cluster)| (slot, Arc::clone(cluster)))
        };
        let Some((slot, cluster)) = serving else {
            let message = format!(
                "the route names cluster {}, which has not arrived",
                weighted.name
            );
            let refused = Refused::new(Code::ClusterUnknown, message);
            self.refuse(&refused, Some(route), None);
            return;
        };
        // A connection may last for days: no snapshot is kept alive by it.
        drop(snapshot);
        let target = Target {
            slot,
            cluster: &cluster,
            route,
            source: self.connection.remote.ip(),
            direction: self.connection.bound.direction,
        };
        let opened = tokio::select! {
            biased;
            opened = upstream::open(self.worker, target) => opened,
            _cut = self.connection.ordered(Order::EndGracefully) => return,
        };
        let mut upstream = match opened {
            Ok(upstream) => upstream,
            Err(refused) => {
                self.refuse(&refused, Some(route), Some((slot, &cluster)));
                return;
            }
        };
        let handles = self.handles(slot, &cluster, Some(&upstream.endpoint));
        let report = Report::begin(&handles);
        let limits = Limits {
            idle: route.idle_timeout,
            age: route.max_duration,
            drain: self.worker.drain_timeout,
            until: until(upstream.under.expires),
        };
        *self.connection.server.borrow_mut() = upstream.server.take();
        // The identity may have changed while it was being opened.
        self.worker
            .check_server(self.connection, upstream.under.generation);
        drop(cluster);
        let ends = Ends {
            down: &mut down,
            up: &mut upstream.io,
        };
        let tell = || report.tell();
        let scratch = &self.worker.scratch;
        let end = copy::both(ends, scratch, self.connection, limits, &report.counts, tell).await;
        report.flags.set(flags(end));
        let endpoint: SocketAddr = upstream.endpoint.config.address;
        tracing::debug!(
            listener = %self.connection.bound.name,
            remote = %self.connection.remote,
            %endpoint,
            ?end,
            sent = report.counts.sent.get(),
            received = report.counts.received.get(),
            "connection ended"
        );
    }

    fn handles(
        &self,
        slot: ClusterSlot,
        cluster: &Cluster,
        endpoint: Option<&outrigger_core::Endpoint>,
    ) -> Rc<Handles> {
        let handles = &self.worker.handles;
        match (self.connection.bound.direction, endpoint) {
            (Direction::Inbound, _) => {
                let peer = self.connection.peer.as_ref().map(|peer| &peer.svid.id);
                handles.inbound(Some(slot), peer)
            }
            (Direction::Outbound, Some(endpoint)) => handles.outbound(slot, cluster, endpoint),
            (Direction::Outbound, None) => handles.nowhere(Some((slot, cluster))),
        }
    }

    /// Says why, and counts. The caller sees a close.
    fn refuse(
        &self,
        refused: &Refused,
        route: Option<&ConnectionRoute>,
        cluster: Option<(ClusterSlot, &Cluster)>,
    ) {
        let about = About {
            connection: self.connection,
            server_name: self.server_name,
            cluster: cluster.map(|(_, cluster)| cluster),
            policy: route.and_then(|route| route.position.as_ref()),
        };
        about.log(refused);
        let handles = &self.worker.handles;
        handles.count_refusal(about.hop(), refused.code.as_str());
        let peer = self.connection.peer.as_ref().map(|peer| &peer.svid.id);
        let handles = match (cluster, self.connection.bound.direction) {
            (Some((slot, cluster)), _) => self.handles(slot, cluster, None),
            (None, Direction::Inbound) => handles.inbound(None, peer),
            (None, Direction::Outbound) => handles.nowhere(None),
        };
        Report::begin(&handles).flags.set(refused.code.flags());
    }
}

/// None = certificates do not end it.
fn until(expires: u64) -> Option<Instant> {
    let left = expires.saturating_sub(unix_now());
    Instant::now().checked_add(Duration::from_secs(left))
}

/// Envoy's response flags.
fn flags(end: End) -> &'static str {
    match end {
        End::Closed | End::Idle => "-",
        End::TooOld | End::Expired => "DT",
        End::Drained => "SI",
        End::DownstreamReset => "DC",
        End::UpstreamReset => "UC",
    }
}

/// One connection in the metrics: counted as opened now, and as closed when it is dropped, whatever ends it.
struct Report<'a> {
    handles: &'a Handles,
    counts: Counts,
    told: Counts,
    flags: Cell<&'static str>,
}

impl<'a> Report<'a> {
    fn begin(handles: &'a Handles) -> Self {
        handles.tcp().opened();
        Self {
            handles,
            counts: Counts::default(),
            told: Counts::default(),
            flags: Cell::new("-"),
        }
    }

    fn tell(&self) {
        let new = |now: &Cell<u64>, told: &Cell<u64>| now.get() - told.replace(now.get());
        let sent = new(&self.counts.sent, &self.told.sent);
        let received = new(&self.counts.received, &self.told.received);
        self.handles.tcp().bytes(sent, received);
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        self.tell();
        self.handles.tcp().closed(self.flags.get());
    }
}

#[cfg(test)]
mod tests;
