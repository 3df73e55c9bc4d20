//! What a change of listeners means for connections that are open: whoever would not be let in any more comes to an
//! end. Rules about requests need nothing done, since each request reads the newest.
//!
//! ```text
//! listener gone                                            ──► ends after what is under way, within the drain timeout
//! chain gone, or of another kind (STRICT after PERMISSIVE) ──► HTTP: ends after what is under way    bytes: reset
//! access rules of connections deny it now                 ──► reset
//! ```

use std::rc::Weak;

use outrigger_core::{Direction, FilterChain, Listener, RouteSource, Snapshot};

use super::{
    Worker,
    connection::{Connection, Order},
};
use crate::tcp;

/// To be called when `next` takes the place of `before`.
pub(super) fn follow(worker: &Worker, before: &Snapshot, next: &Snapshot) {
    for (name, listener) in &before.listeners {
        // The sockets of those that are bound are closed by who accepts.
        if listener.capture.unbound && !next.listeners.contains_key(name) {
            let connections = worker.connections.borrow();
            let handed = connections
                .values()
                .filter(|one| one.handed.is_some() && one.bound.name == *name);
            handed.for_each(|one| one.bound.close());
        }
    }
    for (name, listener) in &next.listeners {
        let is_known = |old: &std::sync::Arc<Listener>| std::sync::Arc::ptr_eq(old, listener);
        // Listeners change seldom; there may be many connections.
        if before.listeners.get(name).is_none_or(is_known) {
            continue;
        }
        let connections = worker.connections.borrow();
        for connection in connections.values().filter(|one| one.bound.name == *name) {
            judge(worker, next, listener, connection);
        }
    }
}

fn judge(worker: &Worker, next: &Snapshot, listener: &Listener, connection: &Connection) {
    let reason = match connection.chain(&listener.chains) {
        // What the application asks of its own sidecar goes on as it began.
        None if connection.bound.direction == Direction::Outbound => return,
        None => "not_admitted",
        Some(chain)
            if !matches!(chain.routes, RouteSource::Connection(_))
                && !connection.switched.borrow().is_empty() =>
        {
            return judge_switched(worker, next, chain, connection);
        }
        Some(chain) => match (&chain.routes, connection.is_bytes.get()) {
            (RouteSource::Connection(route), true) => {
                if !tcp::is_denied_now(worker, connection, route, &chain.policies) {
                    return;
                }
                "denied"
            }
            (RouteSource::Connection(_), false) | (_, true) => "another_protocol",
            (_, false) => return,
        },
    };
    worker.telemetry.metrics.ended_by_policy(reason);
    tracing::info!(
        listener = %listener.name,
        remote = %connection.remote,
        peer = connection.peer.as_ref().map(|peer| &*peer.svid.id),
        reason,
        "a changed policy ends a connection"
    );
    if connection.is_bytes.get() && reason != "another_protocol" {
        connection.order(Order::Cut);
        return;
    }
    let grace = u64::try_from(worker.drain_timeout.as_millis()).unwrap_or(u64::MAX);
    let now = worker.shared.now();
    connection.end_by(outrigger_core::Moment(now.0.saturating_add(grace)));
}

/// Requests that have become bytes: each was let in by its head.
fn judge_switched(worker: &Worker, next: &Snapshot, chain: &FilterChain, connection: &Connection) {
    for switched in connection
        .switched
        .borrow()
        .iter()
        .filter_map(Weak::upgrade)
    {
        if switched.is_denied(next, chain) {
            worker.telemetry.metrics.ended_by_policy("denied");
            tracing::info!(
                listener = %connection.bound.name,
                remote = %connection.remote,
                peer = connection.peer.as_ref().map(|peer| &*peer.svid.id),
                "a changed policy ends a connection that a request has switched"
            );
            switched.cut();
        }
    }
}
