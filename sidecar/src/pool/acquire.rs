//! How a request comes by a connection.

use std::{cell::Cell, convert::Infallible, pin::pin, rc::Rc, sync::Arc, time::Duration};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use outrigger_core::{Cluster, ClusterSlot, Endpoint, Permit};
use tokio::{sync::oneshot, time::sleep};

use super::{
    ClusterPool, Policy, Pools, Protocol,
    about::About,
    endpoint::{EndpointPool, Judge},
    gate::{Grant, Slot, Wait},
    lease::{Http1, Lease, Switch, give_back},
    turns::Opens,
};
use crate::{
    connect::{self, ConnectError, Whose},
    http::{
        MAX_HEADER_BYTES, READ_BUFFER,
        io::{Holds, Io},
    },
    proxy_protocol::header::Ends,
};

pub(super) mod http2;

/// Why a request got no connection. It provably was not sent.
#[derive(Clone, Debug)]
pub(crate) enum NoConnection {
    /// `maxConnections` are in use and `http1MaxPendingRequests` wait.
    QueueFull,
    /// Over HTTP/2: `maxConnections` are in use, and none became free within the connect timeout.
    NoneFree(Duration),
    /// The connection could not be opened.
    Connect(ConnectError),
}

/// Whom a request goes to, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) slot: ClusterSlot,
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) endpoint: &'a Arc<Endpoint>,
    pub(crate) protocol: Protocol,
    /// Not one that was used before.
    pub(crate) fresh: bool,
    /// For whom, if the cluster's connections tell that; None = for ourselves.
    pub(crate) ends: Option<Ends>,
    /// Set when a connection to the endpoint is begun for this request.
    pub(crate) reached: &'a Cell<bool>,
}

impl Pools {
    /// A connection for one request.
    pub(crate) async fn acquire(
        self: &Rc<Self>,
        target: Target<'_>,
    ) -> Result<Lease, NoConnection> {
        let cluster = self.cluster(target.slot, target.cluster);
        let endpoint = cluster.endpoint(target.endpoint);
        match target.protocol {
            Protocol::Http1 => self.acquire_http1(target, cluster, endpoint).await,
            Protocol::Http2 => self.acquire_http2(target, cluster, endpoint).await,
        }
    }

    fn judge<'a>(&self, target: Target<'a>, policy: &'a Rc<Policy>) -> Judge<'a> {
        // Only connections that are encrypted ask for the generation.
        let generation = match (
            target.cluster.config.mesh_tls(),
            target.endpoint.config.mtls,
        ) {
            (Some(_), true) => self.shared.identity.load().as_ref().map(|i| i.generation),
            _ => None,
        };
        Judge {
            cluster: target.cluster,
            policy,
            endpoint: target.endpoint,
            now: self.shared.now(),
            generation,
            ends: target.ends,
        }
    }

    async fn acquire_http1(
        self: &Rc<Self>,
        target: Target<'_>,
        cluster: Rc<ClusterPool>,
        endpoint: Rc<EndpointPool>,
    ) -> Result<Lease, NoConnection> {
        let gate = &cluster.gate;
        let policy = cluster.policy(target.cluster);
        if !target.fresh {
            let judge = self.judge(target, &policy);
            if let Some(connection) = endpoint.take_idle(gate, self.worker, judge) {
                return Ok(Lease::http1(connection, self, cluster, endpoint));
            }
        }
        let slot = match gate.try_slot() {
            Some(slot) => slot,
            None => {
                let may_wait = gate.may_wait().ok_or(NoConnection::QueueFull)?;
                let queued = self.queue(&cluster, &endpoint, target.protocol, &may_wait);
                match queued.await? {
                    Granted::Slot(slot) => slot,
                    Granted::Connection(connection) => {
                        return Ok(Lease::http1(connection, self, cluster, endpoint));
                    }
                }
            }
        };
        let turn = match self.turn(target, &policy, &cluster, &endpoint).await? {
            Turn::Open(turn) => turn,
            Turn::Idle(connection) => {
                drop(slot);
                return Ok(Lease::http1(connection, self, cluster, endpoint));
            }
        };
        let opened = self.open(target, &policy, &cluster, slot).await;
        if let Err(NoConnection::Connect(error)) = &opened {
            endpoint.turns.failed(error);
        }
        let (io, about, torn) = opened?;
        drop(turn);
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .max_header_size(MAX_HEADER_BYTES)
            .max_buf_size(READ_BUFFER)
            .handshake(io)
            .await
            .map_err(|error| handshake_failed(target, &error))?;
        let ended = about.ended(&self.shared);
        let (used, unused) = oneshot::channel();
        let bound = Farewell::new(unused, target.cluster, torn);
        let (leave, left) = oneshot::channel();
        let switch = Switch {
            asked: Rc::default(),
            left,
        };
        let asked = Rc::clone(&switch.asked);
        let driver = tokio::task::spawn_local(async move {
            let driven = async move {
                let mut connection = connection;
                match (&mut connection).await {
                    Err(error) => tracing::debug!(%error, "upstream connection ended"),
                    // Not shut down: hyper knows that its answer was a switch.
                    Ok(()) if asked.get() => {
                        let parts = connection.into_parts();
                        drop(leave.send(parts.io.into_inner().before(parts.read_buf)));
                    }
                    Ok(()) => {}
                }
            };
            bound.drive(driven).await;
            ended();
        });
        let connection = Http1::new(sender, driver.abort_handle(), about, switch, used);
        Ok(Lease::http1(connection, self, cluster, endpoint))
    }

    /// Leave to open a connection, or one that came back while others were opening theirs.
    async fn turn(
        &self,
        target: Target<'_>,
        policy: &Rc<Policy>,
        cluster: &ClusterPool,
        endpoint: &Rc<EndpointPool>,
    ) -> Result<Turn, NoConnection> {
        let since = endpoint.turns.failures();
        loop {
            if let Some(turn) = Opens::take(endpoint) {
                return Ok(Turn::Open(turn));
            }
            endpoint.turns.changed(target.fresh).await;
            if let Some(error) = endpoint.turns.failure_since(since) {
                return Err(NoConnection::Connect(error));
            }
            if target.fresh {
                continue;
            }
            let judge = self.judge(target, policy);
            if let Some(connection) = endpoint.take_idle(&cluster.gate, self.worker, judge) {
                // This one opens none: somebody else may.
                endpoint.turns.pass_on();
                return Ok(Turn::Idle(connection));
            }
        }
    }

    /// Waits for a slot or a connection; gives what arrives too late to the next.
    async fn queue(
        self: &Rc<Self>,
        cluster: &Rc<ClusterPool>,
        endpoint: &Rc<EndpointPool>,
        protocol: Protocol,
        may_wait: &Permit,
    ) -> Result<Granted, NoConnection> {
        let gate = &cluster.gate;
        let wait = gate.wait(self.worker, endpoint.id, protocol, may_wait);
        let mut place = Place {
            wait,
            pools: self,
            cluster,
            endpoint,
        };
        let grant = place.wait.granted().await;
        match grant {
            Some(Grant::Slot(slot)) => Ok(Granted::Slot(slot)),
            Some(Grant::Handed) => place
                .take_handed()
                .map(Granted::Connection)
                .ok_or(NoConnection::QueueFull),
            None => Err(NoConnection::QueueFull),
        }
    }

    async fn open(
        self: &Rc<Self>,
        target: Target<'_>,
        policy: &Rc<Policy>,
        pool: &ClusterPool,
        slot: Slot,
    ) -> Result<(TokioIo<Io>, About, Rc<Cell<bool>>), NoConnection> {
        let cluster = target.cluster;
        let chosen = pool
            .client_tls(
                &self.shared,
                cluster,
                target.endpoint,
                Some(target.protocol),
            )
            .map_err(|refusal| {
                NoConnection::Connect(ConnectError::Tls(target.endpoint.config.address, refusal))
            })?;
        let files = pool.files.get();
        let generation = chosen.as_ref().and_then(|chosen| chosen.generation);
        let mut expires = chosen.as_ref().map_or(u64::MAX, |chosen| chosen.expires);
        let tls = chosen.map(|chosen| chosen.config);
        target.reached.set(true);
        let whose = Whose {
            ends: target.ends,
            seen: None,
        };
        let opened = connect::open(cluster, target.endpoint, tls, whose, &self.shared)
            .await
            .map_err(NoConnection::Connect)?;
        self.opened.inc();
        if let Some(peer) = &opened.peer {
            expires = expires.min(peer.not_after);
        }
        let now = self.shared.now();
        let encrypted = generation.map(|generation| (generation, expires));
        let state = &target.endpoint.state;
        let about = About::new(
            cluster,
            state,
            Rc::clone(policy),
            encrypted,
            (files, &pool.files),
            now,
        )
        .opened_for(target.ends);
        let torn = Rc::new(Cell::new(false));
        let io = Io::new(opened.transport)
            .telling(about.heard())
            .holding(Holds::new(slot, &torn));
        Ok((TokioIo::new(io), about, torn))
    }
}

/// The end of a connection that nobody uses any more: as long as connecting may take, for what has to be said and
/// flushed. A peer that does not read would else keep the socket, and its slot with it, for ever.
#[derive(Debug)]
struct Farewell {
    /// Ends when nobody uses the connection any more.
    unused: oneshot::Receiver<Infallible>,
    within: Duration,
    torn: Rc<Cell<bool>>,
}

impl Farewell {
    fn new(unused: oneshot::Receiver<Infallible>, cluster: &Cluster, torn: Rc<Cell<bool>>) -> Self {
        Self {
            unused,
            within: cluster.config.connect_timeout,
            torn,
        }
    }

    /// Drives what owns the socket to its end.
    async fn drive(self, connection: impl Future) {
        // Dropped at the end of this function: after it is known how.
        let mut connection = pin!(connection);
        let late = async {
            drop(self.unused.await);
            sleep(self.within).await;
        };
        tokio::select! {
            biased;
            _ = connection.as_mut() => {}
            () = late => {
                tracing::debug!(within = ?self.within, "an upstream did not read the end of a connection");
                self.torn.set(true);
            }
        }
    }
}

fn handshake_failed(target: Target<'_>, error: &hyper::Error) -> NoConnection {
    NoConnection::Connect(ConnectError::Handshake(
        target.endpoint.config.address,
        error.to_string(),
    ))
}

#[expect(clippy::large_enum_variant, reason = "made and taken apart at once")]
enum Turn {
    Open(Opens),
    Idle(Http1),
}

#[expect(clippy::large_enum_variant, reason = "made and taken apart at once")]
enum Granted {
    Slot(Slot),
    Connection(Http1),
}

/// A place in the queue that is given up when the request goes away.
struct Place<'a> {
    wait: Wait,
    pools: &'a Rc<Pools>,
    cluster: &'a Rc<ClusterPool>,
    endpoint: &'a Rc<EndpointPool>,
}

impl Place<'_> {
    fn take_handed(&self) -> Option<Http1> {
        let key = (self.cluster.gate.slot, self.wait.number);
        self.pools.handed.borrow_mut().remove(&key)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let late = self.wait.leave();
        if let Some(connection) = self.take_handed() {
            give_back(self.pools, self.cluster, self.endpoint, connection);
        }
        drop(late);
    }
}
