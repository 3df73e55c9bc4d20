//! Which listener a redirected connection belongs to.
//!
//! ```text
//! not redirected ──► inbound: to the application    outbound: refused at once (it would come back for ever)
//! to one of our own ports ──► refused at once
//! to the probe's address ──► noted, closed
//! exactly that address ──► of the mesh, and not here: asked for by name, bounded ──► that port at any address ──► as accepted
//! ```

use std::{net::SocketAddr, sync::Arc, time::Duration};

use outrigger_core::{Direction, Listener};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::rewritten;
use crate::{
    demand::{Denied, PATIENCE},
    listen::Bound,
    tcp,
    worker::{Worker, connection::Connection},
};

/// Puts into `connection` where it was going and the listener that it belongs to. False = it has come to its end.
pub(crate) async fn find(worker: &Worker, connection: &mut Connection, stream: &TcpStream) -> bool {
    let snapshot = worker.snapshot();
    let Some(listener) = snapshot.listeners.get(&connection.bound.name) else {
        return false;
    };
    if !listener.capture.restores {
        return true;
    }
    let listener = Arc::clone(listener);
    drop(snapshot);
    let Some(local) = connection.local else {
        return false;
    };
    let capturing = &worker.shared.capture;
    let Some(destination) = destination(worker, connection, stream, local) else {
        return go_direct(worker, connection, stream, local);
    };
    if connection.bound.direction == Direction::Outbound && capturing.probe.notes(destination) {
        return false;
    }
    let own_ports = &worker.shared.own_ports;
    if own_ports.leads_here(destination, |ip| capturing.host.has(ip)) {
        refuse(worker, connection, stream, destination);
        return false;
    }
    connection.local = Some(destination);
    connection.destination = Some(destination);
    if !listener.capture.hands_over {
        return true;
    }
    let snapshot = worker.snapshot();
    let exact = snapshot.listener_at(destination).cloned();
    let of_port = snapshot.listener_of_port(destination).cloned();
    let is_alone = of_port.as_ref().is_some_and(|one| one.capture.alone);
    let found = match exact {
        None if !is_alone && listener.capture.asks_for(destination) => {
            drop(snapshot);
            match ask(worker, destination).await {
                Ok(found) => found,
                Err(denied) => {
                    tcp::refuse_unknown(worker, connection, &denied);
                    return false;
                }
            }
        }
        None => of_port,
        exact => exact,
    };
    if let Some(found) = found {
        hand_over(connection, &found);
    }
    true
}

/// None = it was not redirected.
fn destination(
    worker: &Worker,
    connection: &Connection,
    stream: &TcpStream,
    local: SocketAddr,
) -> Option<SocketAddr> {
    let shared = &worker.shared;
    if connection.bound.direction == Direction::Inbound
        && let Some(to) = shared.capture.hairpins.take(connection.remote)
    {
        return Some(to);
    }
    // Where nothing is rewritten (TPROXY), it was accepted as what it was going to.
    let accepted = || (!shared.own_ports.covers(local)).then_some(local);
    rewritten(stream, local).or_else(accepted)
}

/// It came to our port by its own will.
fn go_direct(
    worker: &Worker,
    connection: &mut Connection,
    stream: &TcpStream,
    local: SocketAddr,
) -> bool {
    let app = worker.shared.capture.setup().and_then(|setup| setup.app);
    match (connection.bound.direction, app) {
        // As sidecars do that know of no redirection.
        (Direction::Inbound, Some(app)) => {
            let to = SocketAddr::new(local.ip(), app.port());
            connection.local = Some(to);
            connection.destination = Some(to);
            true
        }
        _ => {
            refuse(worker, connection, stream, local);
            false
        }
    }
}

fn refuse(worker: &Worker, connection: &Connection, stream: &TcpStream, to: SocketAddr) {
    worker.telemetry.metrics.not_accepted("own_listener");
    // A reset: nobody waits for the rest.
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "socket options were refused");
    }
    if worker.shared.capture.warned.now() {
        tracing::warn!(
            listener = %connection.bound.name,
            remote = %connection.remote,
            destination = %to,
            "connection refused: it is going to a port of this sidecar itself, and would come back for ever"
        );
    }
}

/// The listener of an address of the mesh, which may have to come.
async fn ask(worker: &Worker, destination: SocketAddr) -> Result<Option<Arc<Listener>>, Denied> {
    let name = format!("{}_{}", destination.ip(), destination.port());
    let mut drain = worker.shared.drain.subscribe();
    let came = tokio::select! {
        biased;
        came = worker.shared.demand.come(&name, PATIENCE) => came,
        _draining = drain.wait_for(|draining| *draining) => Err(Denied::Away),
    };
    let snapshot = worker.snapshot();
    if let Some(exact) = snapshot.listener_at(destination) {
        return Ok(Some(Arc::clone(exact)));
    }
    let of_port = snapshot.listener_of_port(destination).cloned();
    match came {
        Ok(()) | Err(Denied::Absent) => Ok(of_port),
        // Whether it has one of its own, nobody knows. Requests are told apart by their host anyway.
        Err(_unknown) if of_port.is_some() => Ok(of_port),
        Err(denied) => Err(denied),
    }
}

fn hand_over(connection: &mut Connection, to: &Arc<Listener>) {
    connection.bound = Arc::new(Bound::new(&to.name, to.direction));
    connection.handed = Some(to.capture.users.begin());
}
