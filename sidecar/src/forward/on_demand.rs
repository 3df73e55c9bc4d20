//! A request to a host whose routes are not here yet waits until they are, for a bounded time.

use std::{rc::Rc, time::Duration};

use http::HeaderValue;
use outrigger_core::RouteTable;

use super::{call::Call, unknown_host};
use crate::{
    demand::{Denied, PATIENCE},
    http::answer::{Code, Problem},
};

/// The listener that redirected connections come to.
const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// A DNS name has 253 characters at most, a colon and a port 6. Nothing longer is asked for.
const LONGEST_AUTHORITY: usize = 260;

/// Waits until the virtual host of `authority` is in the newest snapshot.
pub(super) async fn arrival(
    call: &Rc<Call>,
    table: &RouteTable,
    authority: &HeaderValue,
) -> Result<(), Problem> {
    // Host names have no case.
    let authority = authority.to_str().unwrap_or_default().to_ascii_lowercase();
    let most = call.caller_waits().unwrap_or(PATIENCE);
    // A star is part of patterns, which would take the requests of others.
    if authority.len() > LONGEST_AUTHORITY || authority.contains('*') {
        return Err(unknown(call, table, &authority).await);
    }
    let came = come(call, table, &authority, most).await;
    call.restart_clock();
    match came {
        Ok(()) => Ok(()),
        Err(Denied::Absent) => Err(unknown(call, table, &authority).await),
        Err(denied) => Err(problem(&denied, &authority)),
    }
}

async fn come(call: &Call, table: &RouteTable, host: &str, most: Duration) -> Result<(), Denied> {
    let name = format!("{}/{host}", table.name);
    call.worker.shared.demand.come(&name, most).await
}

fn problem(denied: &Denied, authority: &str) -> Problem {
    let what = format!("the routes of {authority:?}, which are asked for when they are needed,");
    match denied {
        Denied::Absent => Problem::new(
            Code::NoRouteHost,
            format!("no service is known as {authority:?} here"),
        ),
        Denied::Refused(why) => {
            Problem::new(Code::NoRouteYet, format!("{what} cannot be used: {why}"))
        }
        Denied::Late(waited) => Problem::new(
            Code::NoRouteYet,
            format!(
                "{what} did not come from the control plane within {} ms",
                waited.as_millis()
            ),
        ),
        Denied::Away => Problem::new(
            Code::NoRouteYet,
            format!("{what} are not here, and the control plane is away"),
        ),
        Denied::Overflow(what) => Problem::new(
            Code::OverflowOnDemand,
            format!("as many {what} as may; {authority:?} is not among them"),
        ),
    }
}

/// Whether the connection was going to an address of a service.
pub(super) fn is_to_mesh(call: &Call) -> bool {
    let snapshot = call.worker.snapshot();
    let listener = snapshot.listeners.get(VIRTUAL_OUTBOUND);
    let to = call.connection.destination;
    listener
        .zip(to)
        .is_some_and(|(listener, to)| listener.capture.asks_for(to))
}

/// There is none. What the host is known at instead is asked for as well, so that the answer can say so.
async fn unknown(call: &Rc<Call>, table: &RouteTable, authority: &str) -> Problem {
    if table.rest().is_some() {
        // It has an answer of its own.
        return problem(&Denied::Absent, authority);
    }
    let host = authority.rsplit_once(':').map(|(host, _)| host);
    if let Some(host) = host.filter(|host| host.len() <= LONGEST_AUTHORITY && !host.contains('*')) {
        // Whatever comes of it: without, the answer says less.
        drop(come(call, table, host, PATIENCE).await);
    }
    let snapshot = call.worker.snapshot();
    let newest = match snapshot.listeners.get(&call.connection.bound.name) {
        Some(listener) => match call
            .connection
            .chain(&listener.chains)
            .map(|one| &one.routes)
        {
            Some(outrigger_core::RouteSource::Named(slot)) => snapshot.routes(*slot),
            _ => None,
        },
        None => None,
    };
    let table = newest.map_or(table, |newest| &**newest);
    Problem::new(Code::NoRouteHost, unknown_host(table, authority))
}
