//! A connection that is not HTTP, from its first byte to its last.
//!
//! ```text
//! access rules ─► core: cluster ─► upstream (pick, connect, another) ─► copy both ways
//!     └─── refused ───┴──── refused ─────────┘  one line of the log, one counter, a close
//! ```
//! Bytes are passed on as they come; nothing is read that cannot be passed on, and nothing is sent twice.

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use outrigger_core::{
    Cluster, ClusterSlot, ConnectionRoute, Direction, PolicyPositions, Rbac, Subject,
};
use tokio::time::Instant;

pub(crate) mod copy;
pub(crate) mod early;
mod refusal;
pub(crate) mod upstream;

use copy::{Counts, End, Ends, Limits};
use early::{Early, Failed};
use refusal::{About, Refused};

use crate::{
    demand::Denied,
    hello::peek::NoHello,
    http::io::Io,
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
    mut down: Io,
    (route, policies): (&Arc<ConnectionRoute>, &PolicyPositions),
    early: Option<Result<Early, Failed>>,
) {
    // HTTP's clock looks for idle connections and slow heads: neither means anything here.
    let _busy = connection.begin();
    connection.is_bytes.set(true);
    let session = Session { worker, connection };
    if let Some(refused) = session.denied(route, policies) {
        session.refuse(&refused, Some(route), None);
        return;
    }
    session.lead(&mut down, route, early).await;
}

/// Nobody knows what the connection is.
pub(crate) fn refuse_greeting(worker: &Worker, connection: &Connection, why: &NoHello) {
    if let Some(refused) = Refused::no_hello(why) {
        Session { worker, connection }.refuse(&refused, None, None);
    }
}

/// Whether the address that it was going to has a listener of its own, nobody knows.
pub(crate) fn refuse_unknown(worker: &Worker, connection: &Connection, denied: &Denied) {
    let refused = Refused::unknown(connection, denied);
    Session { worker, connection }.refuse(&refused, None, None);
}

/// No filter chain is for such a connection.
pub(crate) fn refuse_unmatched(worker: &Worker, connection: &Connection) {
    let refused = Refused::unmatched(connection);
    Session { worker, connection }.refuse(&refused, None, None);
}

/// Whether the access rules of `route`, which may have come later than the connection, would still let it in. Only a
/// denial is counted.
pub(crate) fn is_denied_now(
    worker: &Worker,
    connection: &Connection,
    route: &ConnectionRoute,
    policies: &PolicyPositions,
) -> bool {
    let subject = subject(connection);
    let denies = |rbac: &Rbac| {
        let rules = rbac.rules.as_ref();
        rules.is_some_and(|rules| !rules.judge(&subject).allowed)
    };
    if !route.rbac.iter().any(denies) {
        return false;
    }
    let session = Session { worker, connection };
    if let Some(refused) = session.denied(route, policies) {
        session.log(&refused, Some(route), None);
    }
    true
}

fn subject(connection: &Connection) -> Subject<'_> {
    Subject {
        caller: connection.caller(),
        request: None,
        believes: false,
        trusted_hops: 0,
        claims: &[],
    }
}

/// A connection, and whose it is.
struct Session<'a> {
    worker: &'a Worker,
    connection: &'a Connection,
}

impl Session<'_> {
    /// What the access rules of the route say.
    fn denied(&self, route: &ConnectionRoute, policies: &PolicyPositions) -> Option<Refused> {
        if route.rbac.is_empty() {
            return None;
        }
        let subject = subject(self.connection);
        let counters = self.worker.handles.filters();
        let direction = self.connection.bound.direction;
        route.rbac.iter().find_map(|rbac| {
            let judged = counters.judge(direction, rbac, &subject, policies);
            let (rules, judgement) = judged.denied?;
            Some(Refused::denied(rules, &judgement, policies))
        })
    }

    async fn lead(
        &self,
        down: &mut Io,
        route: &Arc<ConnectionRoute>,
        early: Option<Result<Early, Failed>>,
    ) {
        let version = self.worker.shared.snapshot.version();
        // One that waited for a client may be no longer what would be chosen.
        let is_good = |early: &Early| early.has_spoken || early.version == version;
        let opened = match early.filter(|early| early.as_ref().is_ok_and(is_good) || early.is_err())
        {
            Some(opened) => opened,
            None => tokio::select! {
                biased;
                opened = early::open(self.worker, self.connection, Arc::clone(route)) => opened,
                _cut = self.connection.ordered(Order::EndGracefully) => return,
            },
        };
        let Early {
            slot,
            cluster,
            mut upstream,
            ..
        } = match opened {
            Ok(early) => early,
            Err(Failed { refused, cluster }) => {
                let of = cluster.as_ref().map(|(slot, cluster)| (*slot, &**cluster));
                self.refuse(&refused, Some(route), of);
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
            down,
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
            destination = self.connection.destination.map(|to| to.to_string()),
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

    /// Says why.
    fn log(&self, refused: &Refused, route: Option<&ConnectionRoute>, cluster: Option<&Cluster>) {
        let about = About {
            connection: self.connection,
            cluster,
            policy: route.and_then(|route| route.position.as_ref()),
        };
        about.log(refused);
        let handles = &self.worker.handles;
        handles.count_refusal(about.hop(), refused.code.as_str());
    }

    /// Says why, and counts. The caller sees a close.
    fn refuse(
        &self,
        refused: &Refused,
        route: Option<&ConnectionRoute>,
        cluster: Option<(ClusterSlot, &Cluster)>,
    ) {
        self.log(refused, route, cluster.map(|(_, cluster)| cluster));
        let handles = &self.worker.handles;
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
pub(crate) fn until(expires: u64) -> Option<Instant> {
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
pub(crate) struct Report<'a> {
    handles: &'a Handles,
    pub(crate) counts: Counts,
    told: Counts,
    flags: Cell<&'static str>,
}

impl<'a> Report<'a> {
    pub(crate) fn begin(handles: &'a Handles) -> Self {
        handles.tcp().opened();
        Self {
            handles,
            counts: Counts::default(),
            told: Counts::default(),
            flags: Cell::new("-"),
        }
    }

    pub(crate) fn end(&self, end: End) {
        self.flags.set(flags(end));
    }

    pub(crate) fn tell(&self) {
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
