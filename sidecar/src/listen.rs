//! Accepts connections, and gives each, once, to the worker that has fewest. Listeners follow the snapshot.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use outrigger_core::{Direction, Listener, Snapshot};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    connect::OwnPort,
    listen::caps::{Caps, PeerSeat, Peers, Seldom},
    shared::Shared,
    telemetry::Telemetry,
    worker::{Command, ListenerState},
};

pub(crate) mod caps;

/// What the ports that a sidecar binds before it asks for configuration are called (`docs/WIRE.md`).
const OWN: [&str; 3] = ["http_proxy", "virtualInbound", "virtualOutbound"];
/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 4096;
/// Listeners that could not be bound are tried again this often.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of something (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener with its socket; what its connections remember of it.
#[derive(Debug)]
pub(crate) struct Bound {
    /// LDS name.
    pub(crate) name: String,
    pub(crate) direction: Direction,
    closing: AtomicBool,
}

impl Bound {
    pub(crate) fn new(name: &str, direction: Direction) -> Self {
        Self {
            name: name.to_owned(),
            direction,
            closing: AtomicBool::new(false),
        }
    }

    /// See [`Self::is_closing`].
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Its connections end after the response in flight.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) remote: SocketAddr,
    pub(crate) bound: Arc<Bound>,
    pub(crate) load: Load,
}

/// A worker as the acceptor sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) connections: Arc<AtomicUsize>,
    /// Those of them that others have opened.
    pub(crate) inbound: Arc<AtomicUsize>,
    /// When the worker last looked at its connections, in milliseconds since the process started.
    pub(crate) ticked: Arc<AtomicU64>,
}

/// Counts one connection of a worker until it is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    connections: Arc<AtomicUsize>,
    inbound: Option<Arc<AtomicUsize>>,
    total: prometheus::IntGauge,
    /// Of its address, inbound.
    _peer: Option<PeerSeat>,
}

impl Load {
    fn new(
        seat: &Seat,
        direction: Direction,
        telemetry: &Telemetry,
        peer: Option<PeerSeat>,
    ) -> Self {
        seat.connections.fetch_add(1, Ordering::Relaxed);
        let inbound = (direction == Direction::Inbound).then(|| Arc::clone(&seat.inbound));
        if let Some(inbound) = &inbound {
            inbound.fetch_add(1, Ordering::Relaxed);
        }
        let total = telemetry.metrics.connections.clone();
        total.inc();
        Self {
            connections: Arc::clone(&seat.connections),
            inbound,
            total,
            _peer: peer,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(inbound) = &self.inbound {
            inbound.fetch_sub(1, Ordering::Relaxed);
        }
        self.total.dec();
    }
}

/// Everything the acceptor needs.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) seats: Arc<[Seat]>,
    pub(crate) prebound: Vec<TcpListener>,
    pub(crate) states: watch::Sender<BTreeMap<String, ListenerState>>,
    caps: (Caps, Peers),
    open: BTreeMap<String, Open>,
}

#[derive(Debug)]
struct Open {
    configured: Vec<SocketAddr>,
    /// What its sockets really have.
    addresses: Vec<SocketAddr>,
    bound: Arc<Bound>,
    tasks: Vec<JoinHandle<()>>,
    captures: bool,
}

impl Acceptor {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        telemetry: &Arc<Telemetry>,
        seats: &Arc<[Seat]>,
        prebound: Vec<TcpListener>,
        states: watch::Sender<BTreeMap<String, ListenerState>>,
        caps: (Caps, Peers),
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            telemetry: Arc::clone(telemetry),
            seats: Arc::clone(seats),
            prebound,
            states,
            caps,
            open: BTreeMap::new(),
        }
    }

    /// Follows the snapshot until `stop` says otherwise; then all sockets are closed.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changed = self.shared.snapshot.subscribe();
        let mut again = interval(BIND_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let snapshot = self.shared.snapshot.load();
            self.follow(&snapshot).await;
            tokio::select! {
                stopped = stop.wait_for(|stop| *stop) => {
                    drop(stopped);
                    break;
                }
                change = changed.changed() => {
                    if change.is_err() {
                        break;
                    }
                }
                _ = again.tick() => {}
            }
        }
        for open in self.open.values() {
            open.tasks.iter().for_each(JoinHandle::abort);
        }
        self.prebound.clear();
    }

    async fn follow(&mut self, snapshot: &Snapshot) {
        let mut states = BTreeMap::new();
        let gone = self.open.extract_if(.., |name, open| {
            snapshot.listeners.get(name).is_none_or(|listener| {
                listener.capture.unbound
                    || !listener.addresses().eq(open.configured.iter().copied())
                    || listener.direction != open.bound.direction
            })
        });
        for (_, open) in gone.collect::<Vec<_>>() {
            open.bound.close();
            for task in open.tasks {
                task.abort();
                // Ends at once, and only then is its address free for another. How it ended says nothing.
                drop(task.await);
            }
        }
        // Of two that want one address, the sidecar's own port has it.
        let (own, others): (Vec<_>, Vec<_>) = snapshot
            .listeners
            .iter()
            .partition(|(name, _)| OWN.contains(&name.as_str()));
        for (name, listener) in own.into_iter().chain(others) {
            let known = self.states.borrow().get(name).cloned();
            let state = match (self.open.contains_key(name), known) {
                (true, Some(state)) => state,
                _ if listener.capture.unbound => ListenerState::Unbound,
                (_, known) => match self.open(name, listener) {
                    Ok(address) => ListenerState::Bound(address),
                    Err(error) => {
                        let message = format!("binding {}: {error}", listener.address);
                        let failed = ListenerState::Failed(message);
                        // It is tried again all the time: what has been said is not news.
                        if known.as_ref() != Some(&failed) {
                            tracing::warn!(listener = %name, address = %listener.address, %error, "listener is not open; trying again every 5 s");
                        }
                        failed
                    }
                },
            };
            states.insert(name.clone(), state);
        }
        for (name, open) in &mut self.open {
            let listener = snapshot.listeners.get(name);
            open.captures = listener.is_some_and(|listener| listener.capture.restores);
        }
        let own = self.open.values().flat_map(|open| {
            open.addresses.iter().map(|address| OwnPort {
                address: *address,
                outbound: open.bound.direction == Direction::Outbound,
                captures: open.captures,
            })
        });
        self.shared.own_ports.set(own.collect());
        self.states.send_if_modified(|old| {
            let modified = *old != states;
            *old = states;
            modified
        });
    }

    fn open(&mut self, name: &str, listener: &Listener) -> io::Result<SocketAddr> {
        let configured: Vec<SocketAddr> = listener.addresses().collect();
        let mut sockets = Vec::with_capacity(configured.len());
        for address in &configured {
            let socket = match self.adopt(|at| at == *address) {
                Some(socket) => Ok(socket),
                None => bind(*address, listener.capture.transparent),
            };
            match socket {
                Ok(socket) => sockets.push(socket),
                Err(error) => {
                    // The next try finds them again.
                    self.prebound.append(&mut sockets);
                    return Err(error);
                }
            }
        }
        // The same port of the other family was bound for the same listener.
        while let Some(socket) = self.adopt(|at| is_sibling(at, listener.address)) {
            sockets.push(socket);
        }
        let bound = Arc::new(Bound::new(name, listener.direction));
        let mut addresses = Vec::with_capacity(sockets.len());
        let mut tasks = Vec::with_capacity(sockets.len());
        for socket in sockets {
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            addresses.push(address);
            let accepting = Accepting {
                socket: tokio::net::TcpListener::from_std(socket)?,
                bound: Arc::clone(&bound),
                seats: Arc::clone(&self.seats),
                telemetry: Arc::clone(&self.telemetry),
                most: self.caps.0.connections,
                peers: self.caps.1.clone(),
                warned: Seldom::default(),
            };
            tracing::info!(listener = %name, %address, "listener open");
            // Aborted when the listener goes.
            tasks.push(tokio::spawn(accepting.run()));
        }
        let address = addresses.first().copied().unwrap_or(listener.address);
        self.open.insert(
            name.to_owned(),
            Open {
                configured,
                addresses,
                bound,
                tasks,
                captures: listener.capture.restores,
            },
        );
        Ok(address)
    }

    fn adopt(&mut self, is_wanted: impl Fn(SocketAddr) -> bool) -> Option<TcpListener> {
        let mut sockets = self.prebound.iter();
        let at = sockets.position(|socket| socket.local_addr().is_ok_and(&is_wanted))?;
        Some(self.prebound.swap_remove(at))
    }
}

/// Binds and listens. `transparent`: also for addresses that are not this host's, which needs `CAP_NET_ADMIN`.
///
/// # Errors
/// The operating system's.
pub(crate) fn bind(address: SocketAddr, transparent: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match address {
        SocketAddr::V4(_) if transparent => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) if transparent => socket.set_ip_transparent_v6(true)?,
        SocketAddr::V4(_) | SocketAddr::V6(_) => {}
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The loopback or wildcard address of the other family, same port.
fn is_sibling(one: SocketAddr, other: SocketAddr) -> bool {
    let both = |is: fn(&IpAddr) -> bool| is(&one.ip()) && is(&other.ip());
    one.port() == other.port()
        && one.is_ipv4() != other.is_ipv4()
        && (both(IpAddr::is_unspecified) || both(IpAddr::is_loopback))
}

struct Accepting {
    socket: tokio::net::TcpListener,
    bound: Arc<Bound>,
    seats: Arc<[Seat]>,
    telemetry: Arc<Telemetry>,
    /// Connections of all listeners.
    most: usize,
    peers: Peers,
    warned: Seldom,
}

impl Accepting {
    async fn run(self) {
        loop {
            let accepted = self.socket.accept().await;
            // Out of this thread's reactor: the worker registers it in its own.
            match accepted.and_then(|(stream, remote)| Ok((stream.into_std()?, remote))) {
                Ok((stream, remote)) => self.seat(stream, remote),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.telemetry.metrics.not_accepted("accept_failed");
                    tracing::warn!(listener = %self.bound.name, %error, "accepting failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn seat(&self, stream: TcpStream, remote: SocketAddr) {
        let metrics = &self.telemetry.metrics;
        let open = |seat: &Seat| seat.connections.load(Ordering::Relaxed);
        if self.seats.iter().map(open).sum::<usize>() >= self.most {
            metrics.not_accepted("too_many");
            if self.warned.now() {
                let (listener, most) = (&self.bound.name, self.most);
                tracing::warn!(%listener, most, "as many downstream connections as may be are open: closing new ones");
            }
            return;
        }
        // Outbound everybody is the application.
        let peer = match self.bound.direction {
            Direction::Inbound => match self.peers.of_address(remote.ip()) {
                None => {
                    metrics.not_accepted("too_many_of_address");
                    if self.warned.now() {
                        let listener = &self.bound.name;
                        tracing::warn!(%listener, address = %remote.ip(), "one address has as many connections as it may: closing its new ones");
                    }
                    return;
                }
                seat => seat,
            },
            Direction::Outbound => None,
        };
        let direction = match self.bound.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        if let Ok(counter) = metrics.accepted.get_metric_with_label_values(&[direction]) {
            counter.inc();
        }
        let fewest = self.seats.iter().min_by_key(|seat| open(seat));
        let Some(seat) = fewest else {
            return;
        };
        let accepted = Accepted {
            stream,
            remote,
            bound: Arc::clone(&self.bound),
            load: Load::new(seat, self.bound.direction, &self.telemetry, peer),
        };
        if seat.commands.try_send(Command::Accepted(accepted)).is_err() {
            // The worker is far behind: a closed connection tells the caller sooner than a queue would.
            metrics.not_accepted("worker_behind");
        }
    }
}

/// Errors of accept(2) that concern one caller.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
