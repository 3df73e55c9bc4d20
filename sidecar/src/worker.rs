//! Worker threads: each owns its connections and its pools, and shares nothing mutable with the others but
//! the exact counters of `core`.
//!
//! ```text
//! acceptor thread ──Accepted──► worker thread: tokio current-thread runtime, LocalSet
//!                               connections, pools, snapshot, metric handles: all its own
//! ```

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outrigger_core::{
    Cluster, ClusterSlot, Direction, Moment, Outcome, Picked, Snapshot, jwt::TokenCaches,
    limits::Gauge,
};
use tokio::{
    runtime,
    sync::{mpsc, watch},
    task::LocalSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    Config,
    config::{Limits, PolicyHeader, Workload},
    http::replay::{Upload, Watched},
    listen::{
        Accepted, Acceptor, Seat,
        caps::{Caps, Handshakes, Peers},
    },
    pool::{Gates, Pools},
    shared::{Identity, Shared},
    tcp::copy::SCRATCH,
    telemetry::{HandleCache, Telemetry},
    tls::server::ServerTls,
};

pub(crate) mod connection;
pub(crate) mod downstream;
mod policy;

use connection::{Connection, Order};

/// Accepted connections and requests of other workers that one worker may have before it.
const COMMANDS: usize = 4096;
/// The tick that all coarse timers share.
const TICK: Duration = Duration::from_millis(500);
/// How often a drain looks whether all connections have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// What became of a listener of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenerState {
    /// Accepting here.
    Bound(SocketAddr),
    /// Not bound: takes what another hands over.
    Unbound,
    /// Could not be bound; tried again with every snapshot and every five seconds.
    Failed(String),
}

/// Connections of one cluster, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolStats {
    /// Cluster name.
    pub(crate) cluster: String,
    /// Open connections, being opened included.
    pub(crate) open: u32,
    /// Of these, pooled: idle, or HTTP/2 with room.
    pub(crate) idle: u32,
    /// Requests that wait for a connection.
    pub(crate) waiting: u32,
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A new connection.
    Accepted(Accepted),
    /// A request elsewhere waits for a connection of this cluster: give one up.
    Shed(ClusterSlot),
    /// Tell peers to go elsewhere; serve them until they have.
    Leave,
    /// End all connections gracefully.
    Drain,
    /// End.
    Stop,
}

/// The running data plane. Dropping it stops the threads.
#[derive(Debug)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    listeners: watch::Receiver<BTreeMap<String, ListenerState>>,
    stop_accepting: watch::Sender<bool>,
    seats: Arc<[Seat]>,
    gates: Arc<Gates>,
}

/// Starts the threads; returns as soon as they run. Listeners follow `shared.snapshot` from then on.
///
/// `prebound` are sockets that already listen: a listener of the snapshot with the same address takes over the socket.
///
/// # Errors
/// A thread or its runtime could not be made.
pub(crate) fn start(
    shared: &Arc<Shared>,
    config: &Config,
    prebound: Vec<std::net::TcpListener>,
    telemetry: &Arc<Telemetry>,
) -> io::Result<Workers> {
    start_with(
        shared,
        config,
        prebound,
        telemetry,
        Caps::of(&config.limits),
    )
}

/// As [`start`], with as many downstream connections as `caps` says.
pub(crate) fn start_with(
    shared: &Arc<Shared>,
    config: &Config,
    prebound: Vec<std::net::TcpListener>,
    telemetry: &Arc<Telemetry>,
    caps: Caps,
) -> io::Result<Workers> {
    let count = match config.workers {
        0 => thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..count).map(|_| mpsc::channel(COMMANDS)).unzip();
    let seats: Arc<[Seat]> = senders
        .iter()
        .map(|commands| Seat {
            commands: commands.clone(),
            connections: Arc::default(),
            inbound: Arc::default(),
            ticked: Arc::default(),
        })
        .collect();
    crate::telemetry::breakers::register(telemetry, shared);
    crate::telemetry::demand::register(telemetry, shared);
    let gates = Arc::new(Gates::new(senders.into()));
    let workload = Arc::new(config.workload.clone());
    let peers = Peers::new(caps.of_peer);
    for (number, commands) in receivers.into_iter().enumerate() {
        let seed = WorkerSeed {
            number,
            ticked: seats
                .get(number)
                .map(|seat| Arc::clone(&seat.ticked))
                .unwrap_or_default(),
            shared: Arc::clone(shared),
            telemetry: Arc::clone(telemetry),
            gates: Arc::clone(&gates),
            workload: Arc::clone(&workload),
            handshakes: caps.handshakes(count),
            peers: peers.clone(),
            limits: config.limits.clone(),
            drain_timeout: config.drain_timeout,
            policy_header: config.policy_header,
        };
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let local = LocalSet::new();
                local.block_on(&runtime, Worker::new(seed).run(commands));
            })?;
    }
    let (states, listeners) = watch::channel(BTreeMap::new());
    let (stop_accepting, stop) = watch::channel(false);
    let acceptor = Acceptor::new(shared, telemetry, &seats, prebound, states, (caps, peers));
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("acceptor".to_owned())
        .spawn(move || runtime.block_on(acceptor.run(stop)))?;
    Ok(Workers {
        shared: Arc::clone(shared),
        listeners,
        stop_accepting,
        seats,
        gates,
    })
}

impl Workers {
    /// Listeners by LDS name; changes are announced.
    pub(crate) fn listeners(&self) -> watch::Receiver<BTreeMap<String, ListenerState>> {
        self.listeners.clone()
    }

    /// Downstream connections open now.
    pub(crate) fn connections(&self) -> usize {
        let of = |seat: &Seat| seat.connections.load(Ordering::Relaxed);
        self.seats.iter().map(of).sum()
    }

    /// Of these, the ones that others have opened.
    pub(crate) fn inbound_connections(&self) -> usize {
        let of = |seat: &Seat| seat.inbound.load(Ordering::Relaxed);
        self.seats.iter().map(of).sum()
    }

    /// A worker that has not looked at its connections for so long, by its number.
    pub(crate) fn hanging(&self, now: Moment, longest: Duration) -> Option<usize> {
        let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        self.seats.iter().position(|seat| {
            let ticked = seat.ticked.load(Ordering::Relaxed);
            now.0.saturating_sub(ticked) >= longest
        })
    }

    /// One entry for every cluster that has had a connection.
    pub(crate) fn pools(&self) -> Vec<PoolStats> {
        self.gates.stats()
    }

    /// Connections that are not in use, by the gauge of connections that is a share.
    pub(crate) fn spare_of_shares(&self) -> Vec<(Arc<Gauge>, u32)> {
        self.gates.spare_of_shares()
    }

    /// To be called after shares of limits may have changed.
    pub(crate) fn follow_shares(&self) {
        self.gates.follow_shares();
    }

    /// From now on what others have opened ends after a response (`Connection: close`, GOAWAY), the first one of a new
    /// connection as well. One that is idle stays: its peer may be sending a request at this moment.
    pub(crate) fn leave(&self) {
        self.tell(|| Command::Leave);
    }

    /// As [`Self::drain_until`], without a hurry.
    #[cfg(test)]
    pub(crate) async fn drain(&self, timeout: Duration) -> usize {
        self.drain_until(timeout, std::future::pending()).await
    }

    /// Stops accepting, ends every connection after its last response (`Connection: close`, GOAWAY), waits at most
    /// `timeout` and until `hurry`, then ends the threads. Says how many connections were cut off.
    pub(crate) async fn drain_until(
        &self,
        timeout: Duration,
        hurry: impl Future<Output = ()>,
    ) -> usize {
        let until = Instant::now() + timeout;
        self.shared.draining.store(true, Ordering::Relaxed);
        self.shared.drain.send_replace(true);
        self.stop_accepting.send_replace(true);
        self.tell(|| Command::Drain);
        let ended = async {
            while self.connections() > 0 && Instant::now() < until {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = hurry => {}
        }
        let cut = self.connections();
        self.tell(|| Command::Stop);
        cut
    }

    fn tell(&self, command: fn() -> Command) {
        for seat in self.seats.iter() {
            if let Err(error) = seat.commands.try_send(command()) {
                tracing::debug!(%error, "a worker could not be told");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop_accepting.send_replace(true);
        self.tell(|| Command::Stop);
    }
}

/// Lets ejected endpoints back; to be called about once a second.
pub(crate) fn sweep(shared: &Shared) {
    let now = shared.now();
    for (_, cluster) in shared.snapshot.load().clusters() {
        cluster.sweep(now);
    }
}

/// What a worker is made of; unlike the worker itself it may cross threads.
struct WorkerSeed {
    number: usize,
    ticked: Arc<AtomicU64>,
    shared: Arc<Shared>,
    telemetry: Arc<Telemetry>,
    gates: Arc<Gates>,
    workload: Arc<Workload>,
    handshakes: u32,
    peers: Peers,
    limits: Limits,
    drain_timeout: Duration,
    policy_header: PolicyHeader,
}

/// A worker's own reference to the snapshot.
#[derive(Debug)]
pub(crate) struct View(Arc<Snapshot>);

impl std::ops::Deref for View {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// One worker's world.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) rng: RefCell<fastrand::Rng>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) handles: HandleCache,
    pub(crate) tls: ServerTls,
    /// What bytes are read into on their way; borrowed for the moment between a read and a write.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// How long a connection without requests may go on after it was told to end.
    pub(crate) drain_timeout: Duration,
    pub(crate) policy_header: PolicyHeader,
    /// Copies of requests in flight.
    pub(crate) mirrors: Rc<Cell<u32>>,
    /// Requests that wait for an authorization server.
    pub(crate) checks: Cell<u32>,
    /// Tokens that were verified.
    pub(crate) tokens: RefCell<TokenCaches>,
    pub(crate) handshakes: Handshakes,
    /// Downstream connections of each peer, over all workers.
    pub(crate) peers: Peers,
    pub(crate) limits: Limits,
    /// Bodies of requests that are on their way.
    uploads: RefCell<Vec<(Watched, Direction)>>,
    // Counted by itself: cloning the shared one would make all workers write to one cache line.
    snapshot: RefCell<Rc<View>>,
    now: Rc<Cell<Moment>>,
    connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    next_connection: Cell<u64>,
    ticked: Arc<AtomicU64>,
    leaving: Cell<bool>,
    draining: Cell<bool>,
    identity: Cell<Option<u64>>,
}

impl Worker {
    fn new(seed: WorkerSeed) -> Rc<Self> {
        let now = seed.shared.now();
        Rc::new(Self {
            rng: RefCell::new(fastrand::Rng::new()),
            pools: Rc::new(Pools::new(
                seed.number,
                &seed.shared,
                &seed.gates,
                &seed.telemetry,
            )),
            handles: HandleCache::new(&seed.telemetry, &seed.workload),
            tls: ServerTls::default(),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            drain_timeout: seed.drain_timeout,
            policy_header: seed.policy_header,
            mirrors: Rc::default(),
            checks: Cell::new(0),
            tokens: RefCell::default(),
            handshakes: Handshakes::new(seed.handshakes),
            peers: seed.peers,
            limits: seed.limits,
            uploads: RefCell::default(),
            snapshot: RefCell::new(Rc::new(View(seed.shared.snapshot.load()))),
            now: Rc::new(Cell::new(now)),
            connections: RefCell::new(BTreeMap::new()),
            next_connection: Cell::new(0),
            ticked: seed.ticked,
            leaving: Cell::new(false),
            draining: Cell::new(false),
            identity: Cell::new(None),
            shared: seed.shared,
            telemetry: seed.telemetry,
        })
    }

    /// The newest snapshot. A request asks once and keeps it to its end.
    pub(crate) fn snapshot(&self) -> Rc<View> {
        let version = self.shared.snapshot.version();
        if self.snapshot.borrow().version != version {
            let next = Rc::new(View(self.shared.snapshot.load()));
            self.pools.follow(&next);
            self.handles.forget(None);
            let before = self.snapshot.replace(Rc::clone(&next));
            policy::follow(self, &before, &next);
        }
        Rc::clone(&self.snapshot.borrow())
    }

    /// Tells ejection and circuit breakers how a request, or a connection, to `picked` ended.
    pub(crate) fn report(&self, cluster: &Cluster, picked: &Picked, outcome: Outcome) {
        let verdict = cluster.report(picked, outcome, self.shared.now());
        if verdict.breaker_opened {
            tracing::info!(
                cluster = %cluster.config.name,
                endpoint = %picked.endpoint.config.address,
                "circuit breaker opened"
            );
        }
        if verdict.ejected {
            self.telemetry.metrics.ejections.inc();
            tracing::info!(
                cluster = %cluster.config.name,
                endpoint = %picked.endpoint.config.address,
                "endpoint ejected"
            );
        }
    }

    async fn run(self: Rc<Self>, mut commands: mpsc::Receiver<Command>) {
        let mut changed = self.shared.snapshot.subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Accepted(accepted)) => {
                        // Ends with its connection.
                        drop(tokio::task::spawn_local(downstream::serve(Rc::clone(&self), accepted)));
                    }
                    Some(Command::Shed(slot)) => self.pools.shed(slot),
                    Some(Command::Leave) => self.leave(),
                    Some(Command::Drain) => self.drain(),
                    Some(Command::Stop) | None => break,
                },
                change = changed.changed() => {
                    if change.is_err() {
                        break;
                    }
                    self.snapshot();
                }
                _ = tick.tick() => self.tick(),
            }
        }
        self.pools.close();
    }

    fn tick(&self) {
        let now = self.shared.now();
        let unix_now = unix_now();
        self.now.set(now);
        self.ticked.store(now.0, Ordering::Relaxed);
        self.follow_identity();
        self.tokens.borrow_mut().sweep();
        self.pools.tick(now, unix_now);
        for connection in self.connections.borrow().values() {
            if let Some(limit) = connection.check(now, unix_now, self.limits.write_idle) {
                self.exceeded(connection.bound.direction, limit);
            }
        }
        self.look_at_uploads();
    }

    /// A caller went beyond a limit of time, size or number.
    pub(crate) fn exceeded(&self, direction: Direction, limit: &'static str) {
        self.telemetry.metrics.exceeded(direction, limit);
    }

    /// Watches that the caller does not keep this body waiting for ever.
    pub(crate) fn awaits(&self, upload: &Upload, direction: Direction) {
        if !self.limits.body_idle.is_zero()
            && let Some(watched) = upload.watch()
        {
            self.uploads.borrow_mut().push((watched, direction));
        }
    }

    fn look_at_uploads(&self) {
        let looks = self.limits.body_idle.as_millis() / TICK.as_millis();
        let most = u32::try_from(looks).unwrap_or(u32::MAX).max(1);
        self.uploads.borrow_mut().retain(|(watched, direction)| {
            match watched.look(most) {
                Some(true) => self.exceeded(*direction, "body_idle"),
                Some(false) => return true,
                None => {}
            }
            false
        });
    }

    /// After a change of identity: connections whose peer the new trust bundle does not verify come to an end.
    fn follow_identity(&self) {
        let identity = self.shared.identity.load_full();
        let generation = identity.as_ref().map(|identity| identity.generation);
        if self.identity.replace(generation) == generation {
            return;
        }
        let Some(identity) = identity else {
            return;
        };
        self.handles.forget(Some(Arc::clone(&identity.spiffe_id)));
        for connection in self.connections.borrow().values() {
            if let Some(peer) = &connection.peer
                && let Err(refusal) = crate::tls::still_trusted(&identity, &peer.chain)
            {
                tracing::info!(peer = %peer.svid.id, %refusal, "peer is no longer trusted");
                connection.order(Order::EndGracefully);
            }
            judge_server(&identity, connection);
        }
    }

    /// Ends a connection of bytes whose server we do not trust any more: the identity is another than that of
    /// `generation`, under which it was opened.
    pub(crate) fn check_server(&self, connection: &Connection, generation: Option<u64>) {
        if let (Some(identity), Some(generation)) = (&*self.shared.identity.load(), generation)
            && identity.generation != generation
        {
            judge_server(identity, connection);
        }
    }

    fn leave(&self) {
        self.leaving.set(true);
        for connection in self.connections.borrow().values() {
            connection.leave();
        }
    }

    fn drain(&self) {
        self.draining.set(true);
        for connection in self.connections.borrow().values() {
            connection.order(Order::EndGracefully);
        }
    }

    /// Watches a connection until the guard is dropped.
    fn watch(self: &Rc<Self>, connection: &Rc<Connection>) -> Listed {
        let number = self.next_connection.get();
        self.next_connection.set(number + 1);
        self.connections
            .borrow_mut()
            .insert(number, Rc::clone(connection));
        if self.leaving.get() {
            connection.leave();
        }
        if self.draining.get() {
            connection.order(Order::EndGracefully);
        }
        Listed {
            worker: Rc::clone(self),
            number,
        }
    }
}

/// A connection in its worker's list.
#[derive(Debug)]
struct Listed {
    worker: Rc<Worker>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.number);
    }
}

fn judge_server(identity: &Identity, connection: &Connection) {
    if let Some(server) = &*connection.server.borrow()
        && let Err(refusal) = crate::tls::still_accepted(identity, &server.expected, &server.chain)
    {
        tracing::info!(remote = %connection.remote, %refusal, "an upstream is no longer trusted");
        connection.order(Order::EndGracefully);
    }
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
