//! From settings to a running sidecar, and to its end.
//!
//! ```text
//! check settings ─► bind ports ─► workers ─► certificate ─► xDS ─► first configuration ─► ready line ─► register
//!                                                            SIGTERM, SIGINT, POST /drain ─► say so ─► drain ─► end
//! ```

pub(crate) mod check;
mod launch;
mod leave;
mod signals;
mod sockets;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use outrigger_proto::envoy::config::core::v3::Node;
use tokio::{
    signal::unix::SignalKind,
    sync::{Notify, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    CaptureCheck, Config, Discovery, XdsProtocol,
    admin::{self, Port, Site},
    capture::{Setup, probe},
    command::{Command, CommandError},
    control::{Control, ControlPlaneError},
    dns,
    dns::names::Scope,
    identity::{
        Credential, IdentityStore, Issuer, chain, delivered::Delivered, unix_now,
        workload_api::WorkloadApi,
    },
    jwks,
    life::{self, Life},
    quota::{self, client::Shares},
    readiness::{self, AppHealth},
    register::{self, Registered, Registrar},
    shared::Shared,
    telemetry::Telemetry,
    tls::files::{Allowed, LOOK_EVERY},
    vitals::Vitals,
    worker::{self, ListenerState, Workers},
    xds::{
        client::Client,
        engine::Engine,
        node::{self, Ports},
    },
};

pub use launch::{Launch, ProxyEnv};
pub(crate) use signals::{End, Signals};
pub(crate) use sockets::bind;
use sockets::{Addresses, Sockets};

/// Threads for xDS, identity, registration, admin and export; the workers have their own.
pub(crate) const CONTROL_THREADS: usize = 2;
/// How long others may take to hear that this instance drains, before it stops to accept.
pub(crate) const SETTLE: Duration = Duration::from_millis(500);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a sidecar did not start, or ended otherwise than by a drain.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A setting that cannot be.
    #[error("--{flag} {value}: {expected}")]
    Setting {
        /// Name of the flag, without dashes.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A port could not be had.
    #[error("cannot listen on {address} (--{flag}); is it taken? Port 0 picks a free one")]
    Bind {
        /// What was to be bound.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The settings for the control plane.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// The control plane does not give us an identity; asking again would not help.
    #[error("no certificate: {0}")]
    Identity(String),
    /// Threads, signals or standard output.
    #[error("cannot start")]
    Start(#[from] io::Error),
    /// Further signals ended the process before it was drained.
    #[error("ended by a further signal before the drain was over")]
    Interrupted,
    /// There is nothing to start the application for.
    #[error(
        "the sidecar was not ready after {waited:?} (--start-timeout), the command was not started: {missing}; \
         is the control plane at {control_plane} up?"
    )]
    NotReady {
        /// As set.
        control_plane: String,
        /// As set.
        waited: Duration,
        /// In words.
        missing: String,
    },
    /// Where the ready line is to be written.
    #[error("cannot write --ready-file {}", path.display())]
    ReadyFile {
        /// As set.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The application.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Runs a sidecar until a signal or `POST /drain` ends it. Prints the ready line on standard output.
///
/// # Errors
/// [`RunError`].
pub fn run(config: Config) -> Result<(), RunError> {
    start(config, None).map(drop)
}

/// Runs a sidecar, and an application once the sidecar is ready; ends with the application, or asks it to end when a
/// signal or `POST /drain` comes. Gives the application's exit code. Standard input and output are the application's.
///
/// # Errors
/// [`RunError`].
pub fn run_with(config: Config, launch: Launch) -> Result<u8, RunError> {
    start(config, Some(launch))
}

fn start(config: Config, launch: Option<Launch>) -> Result<u8, RunError> {
    check::check(&config)?;
    let shared = Shared::new(Allowed::new(&config.tls_files));
    let control = Arc::new(Control::new(&config, Arc::clone(&shared))?);
    let sockets = Sockets::bind(&config, control.is_tls() && config.app.is_some())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let parts = Parts {
        config,
        launch,
        shared,
        control,
    };
    let result = runtime.block_on(supervise(parts, sockets));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// What is made before anything runs.
struct Parts {
    config: Config,
    launch: Option<Launch>,
    shared: Arc<Shared>,
    control: Arc<Control>,
}

async fn supervise(parts: Parts, sockets: Sockets) -> Result<u8, RunError> {
    let Parts {
        config,
        launch,
        shared,
        control,
    } = parts;
    let addresses = Addresses::of(&sockets)?;
    let telemetry = Telemetry::start(&config);
    let registry = &telemetry.metrics.registry;
    let vitals = Arc::new(Vitals::new(
        registry,
        config.app.is_some(),
        control.is_tls() || config.has_delivered_identity(),
    ));
    let Sockets {
        outbound,
        inbound,
        captured,
        inbound_v6,
        admin,
        metrics,
        readiness,
        dns,
    } = sockets;
    let prebound = [outbound].into_iter().chain(inbound);
    let prebound = prebound.chain(captured).chain(inbound_v6).collect();
    if addresses.captured.is_some() {
        shared.capture.start(Setup {
            mode: config.capture.mode,
            check: config.capture.check,
            inbound: addresses.inbound,
            app: config.app.as_ref().map(|app| app.address),
            ipv6: addresses.ipv6,
        });
    }
    let workers = Arc::new(worker::start(&shared, &config, prebound, &telemetry)?);
    let site = Arc::new(Site {
        shared: Arc::clone(&shared),
        vitals: Arc::clone(&vitals),
        telemetry: Arc::clone(&telemetry),
        workers: Arc::clone(&workers),
        engine: OnceLock::new(),
        dns: OnceLock::new(),
        drain: Notify::new(),
        leave: Notify::new(),
        left: AtomicBool::new(false),
        started: std::time::Instant::now(),
    });
    let mut tasks = JoinSet::new();
    if let (Some(sockets), Some(settings)) = (dns, &config.dns) {
        let upstreams = &settings.upstreams;
        let running = dns::start(sockets, upstreams, &shared.names, registry, &mut tasks)?;
        site.dns.get_or_init(|| running);
    }
    let users: Arc<[u32]> = config.admin_users.as_slice().into();
    for (listener, port) in [
        (admin, Port::Admin),
        (metrics, Port::Metrics),
        (readiness, Port::Readiness),
    ] {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tasks.spawn(admin::serve(
            listener,
            port,
            Arc::clone(&site),
            Arc::clone(&users),
        ));
    }
    if let Some(setup) = shared.capture.setup()
        && setup.check != CaptureCheck::Off
    {
        tasks.spawn(probe::run(Arc::clone(&shared), setup.ipv6));
    }
    tasks.spawn(sweep(Arc::clone(&shared)));
    tasks.spawn(life::beat(Arc::clone(&shared), Arc::clone(&workers)));
    tasks.spawn(reread(Arc::clone(&shared)));
    tasks.spawn(jwks::run(Arc::clone(&shared), Arc::clone(&telemetry)));
    let mut signals = Signals::new()?;
    let (hurry, hurried) = watch::channel(false);
    let mut sidecar = Sidecar {
        shares: Shares::new(&shared),
        give_up: None,
        config,
        launch,
        command: None,
        typed: signals.typed(),
        shared,
        control,
        vitals,
        telemetry,
        workers,
        site,
        addresses,
        tasks,
        leave: None,
        registered: None,
        hurried,
    };
    let site = Arc::clone(&sidecar.site);
    let end = tokio::select! {
        ended = sidecar.serve() => End::Command(ended?),
        signal = signals.next() => End::Asked(signal),
        () = site.drain.notified() => End::Asked(SignalKind::terminate()),
    };
    tokio::select! {
        code = sidecar.drain(end) => code,
        () = signals.twice(&hurry) => Err(RunError::Interrupted),
    }
}

async fn sweep(shared: Arc<Shared>) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        worker::sweep(&shared);
    }
}

/// A job is ready as soon as it was started, a service once it answers.
async fn tell_when_healthy(health: Option<watch::Receiver<AppHealth>>) {
    let is_there = |health: &AppHealth| *health == AppHealth::Healthy;
    let answers = match health {
        Some(mut health) => health.wait_for(is_there).await.is_ok(),
        None => true,
    };
    if answers {
        life::tell(Life::Ready);
    }
}

/// Looks whether TLS files have changed.
async fn reread(shared: Arc<Shared>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let shared = Arc::clone(&shared);
        // A disk that hangs must not hold a thread of the control side.
        let read = tokio::task::spawn_blocking(move || {
            // The one before may still wait for its disk: it is enough that one does.
            shared
                .tls_files
                .follow(&shared.snapshot.load(), Duration::ZERO)
        });
        if let Err(error) = read.await {
            tracing::warn!(%error, "TLS files were not looked at");
        }
    }
}

/// Everything that runs.
struct Sidecar {
    config: Config,
    launch: Option<Launch>,
    command: Option<Command>,
    /// Set while what is typed reaches the command without us.
    typed: Arc<AtomicBool>,
    shared: Arc<Shared>,
    control: Arc<Control>,
    vitals: Arc<Vitals>,
    telemetry: Arc<Telemetry>,
    workers: Arc<Workers>,
    site: Arc<Site>,
    addresses: Addresses,
    /// Ended with the sidecar.
    tasks: JoinSet<()>,
    shares: Shares,
    /// Gives up all shares, and tells when it has.
    give_up: Option<oneshot::Sender<oneshot::Sender<()>>>,
    /// Tells the registrar to say goodbye.
    leave: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<Registered>)>,
    /// Once it was told.
    registered: Option<Registered>,
    /// There is no time to wait for others.
    hurried: watch::Receiver<bool>,
}

impl Sidecar {
    /// Starts everything; ends when the command does, with its code.
    async fn serve(&mut self) -> Result<u8, RunError> {
        let limit = self.launch.as_ref().map(|launch| launch.ready_timeout);
        // One that runs already is known before it is registered.
        let running = limit.is_none().then(|| self.watch_app()).flatten();
        let prepared = match limit.filter(|limit| !limit.is_zero()) {
            None => self.prepare().await,
            Some(limit) => timeout(limit, self.prepare())
                .await
                .unwrap_or_else(|_elapsed| Err(self.not_ready(limit))),
        };
        let ip = prepared?;
        let ready = self.addresses.ready(&self.shown());
        match self.launch.take() {
            None => {
                let mut stdout = io::stdout().lock();
                writeln!(stdout, "ready {ready}")?;
                stdout.flush()?;
                life::tell(Life::Ready);
            }
            Some(launch) => {
                self.launch(&launch, &ready)?;
                self.launch = Some(launch);
            }
        }
        let health = running.or_else(|| self.watch_app());
        if self.command.is_some() {
            self.tasks.spawn(tell_when_healthy(health.clone()));
        }
        self.start_registration(ip, health);
        let site = Arc::clone(&self.site);
        loop {
            let ended = async {
                match &mut self.command {
                    Some(command) => command.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                code = ended => return Ok(code?),
                () = site.leave.notified(), if !site.left.load(Ordering::Relaxed) => {}
            }
            // A command that ends meanwhile is heard of afterwards: it takes no longer than its end would.
            self.go_away(Duration::ZERO, &self.hurried.clone()).await;
        }
    }

    /// Until requests can be served. Gives the address that others reach us at.
    async fn prepare(&mut self) -> Result<IpAddr, RunError> {
        let store = IdentityStore::new(Arc::clone(&self.shared));
        let roots_come_along =
            self.config.spiffe_endpoint.is_some() || self.config.has_delivered_identity();
        let store = Arc::new(if roots_come_along {
            store.keeping_bundle()
        } else {
            store
        });
        if self.control.is_tls() {
            self.get_identity(&store).await?;
        }
        if let Some(delivered) = self.delivered(&store) {
            let mut first = store.renewals();
            self.tasks.spawn(delivered.follow());
            first.changed().await.map_err(io::Error::other)?;
        }
        let ip = self.advertised_ip().await;
        let configured = self.start_xds(ip, store);
        self.wait_until_configured(configured).await?;
        self.vitals.configured.store(true, Ordering::Relaxed);
        Ok(ip)
    }

    fn not_ready(&self, waited: Duration) -> RunError {
        let missing = self.vitals.missing(&self.shared, unix_now());
        RunError::NotReady {
            control_plane: self.config.control_plane.clone(),
            waited,
            missing: missing.join("; "),
        }
    }

    fn launch(&mut self, launch: &Launch, ready: &serde_json::Value) -> Result<(), RunError> {
        if let Some(path) = &launch.ready_file {
            launch::write_ready(path, ready).map_err(|source| RunError::ReadyFile {
                path: path.clone(),
                source,
            })?;
        }
        tracing::info!(%ready, "starting the command");
        let app = self.config.app.as_ref();
        let port = app.map(|app| app.address.port());
        let environment = launch::environment_here(launch, &self.addresses, ready, port);
        self.command = Some(Command::start(&launch.command, &environment)?);
        self.typed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn has_identity(&self) -> bool {
        self.control.is_tls() || self.config.has_delivered_identity()
    }

    fn watch_app(&mut self) -> Option<watch::Receiver<AppHealth>> {
        let app = self.config.app.clone()?;
        let (sender, receiver) = watch::channel(AppHealth::Unknown);
        let (shared, vitals) = (Arc::clone(&self.shared), Arc::clone(&self.vitals));
        self.tasks
            .spawn(readiness::watch(app, shared, vitals, sender));
        Some(receiver)
    }

    async fn get_identity(&mut self, store: &Arc<IdentityStore>) -> Result<(), RunError> {
        if let Some(socket) = &self.config.spiffe_endpoint {
            let mut first = store.renewals();
            let api = WorkloadApi {
                socket: socket.clone(),
                store: Arc::clone(store),
                vitals: Arc::clone(&self.vitals),
                workload: self.config.workload.clone(),
            };
            self.tasks.spawn(api.follow());
            return first
                .changed()
                .await
                .map_err(|ended| RunError::Identity(ended.to_string()));
        }
        let issuer = Issuer {
            control: Arc::clone(&self.control),
            store: Arc::clone(store),
            vitals: Arc::clone(&self.vitals),
            credential: Credential {
                join_token: self.config.join_token.clone(),
                token_file: self.config.token_file.clone(),
            },
            workload: self.config.workload.clone(),
            ttl: self.config.certificate_ttl,
        };
        issuer
            .first()
            .await
            .map_err(|error| RunError::Identity(chain(&error)))?;
        self.tasks.spawn(issuer.renew());
        Ok(())
    }

    /// Who an agent beside us says that we are, where somebody else's bootstrap leads to one.
    fn delivered(&self, store: &Arc<IdentityStore>) -> Option<Delivered> {
        let bootstrap = self.config.bootstrap.as_ref()?;
        Some(Delivered {
            socket: bootstrap.secrets.clone()?,
            node: bootstrap.node.clone(),
            store: Arc::clone(store),
            vitals: Arc::clone(&self.vitals),
        })
    }

    /// Where others reach us.
    async fn advertised_ip(&self) -> IpAddr {
        if let Some(ip) = self.config.advertise_address {
            return ip;
        }
        self.control.local_ip_in_time().await
    }

    fn start_xds(&mut self, ip: IpAddr, store: Arc<IdentityStore>) -> watch::Receiver<bool> {
        let ports = Ports {
            dns: self.config.dns.is_some(),
            outbound: self.addresses.outbound,
            inbound: self.addresses.inbound,
            captured: self
                .addresses
                .captured
                .map(|at| (self.config.capture.mode, at)),
            ipv6: self.addresses.ipv6,
        };
        let bootstrap = self.config.bootstrap.as_ref();
        let protocol = self.config.xds_protocol();
        let discovery = self.config.discovery();
        let node = match bootstrap {
            Some(bootstrap) => bootstrap.node.clone(),
            None => {
                let (workload, app) = (&self.config.workload, self.config.app.as_ref());
                node::node(workload, app, ip, ports, discovery)
            }
        };
        let tls_files = Allowed::new(&self.config.tls_files);
        let mut engine = Engine::new(node.clone(), self.has_identity()).allowing(tls_files);
        if protocol == XdsProtocol::Sotw {
            engine = engine.whole();
        }
        if discovery == Discovery::OnDemand {
            engine = engine.on_demand();
        }
        if self.config.dns.is_some() {
            let names = &self.shared.names;
            names.begin(Scope::of_node(&node.id, discovery == Discovery::OnDemand));
            engine = engine.naming(Arc::clone(names));
        }
        let engine = Arc::new(Mutex::new(engine));
        self.site.engine.get_or_init(|| Arc::clone(&engine));
        self.start_leases(node);
        let (sender, receiver) = watch::channel(false);
        let client = Client {
            engine,
            control: Arc::clone(&self.control),
            shared: Arc::clone(&self.shared),
            store,
            vitals: Arc::clone(&self.vitals),
            protocol,
            shares: self.shares.clone(),
            configured: sender,
        };
        self.tasks.spawn(client.run());
        receiver
    }

    /// Shares of limits, as soon as a cluster has such limits.
    fn start_leases(&mut self, node: Node) {
        let client = quota::client::Client::new(
            self.shares.clone(),
            Arc::clone(&self.control),
            Arc::clone(&self.workers),
            node,
            &self.telemetry.metrics.registry,
        );
        let (give_up, left) = oneshot::channel();
        self.give_up = Some(give_up);
        self.tasks.spawn(client.run(left));
    }

    /// First configuration applied, listeners bound.
    async fn wait_until_configured(
        &self,
        mut configured: watch::Receiver<bool>,
    ) -> Result<(), RunError> {
        if configured.wait_for(|configured| *configured).await.is_err() {
            return Err(io::Error::other("the configuration task ended").into());
        }
        self.shares.settled().await;
        let wanted: Vec<String> = self
            .shared
            .snapshot
            .load()
            .listeners
            .keys()
            .cloned()
            .collect();
        let mut listeners = self.workers.listeners();
        let bound = listeners
            .wait_for(|states| wanted.iter().all(|name| states.contains_key(name)))
            .await;
        bound.map(drop).map_err(io::Error::other)?;
        Ok(())
    }

    /// The listeners of the ready line.
    fn shown(&self) -> Vec<(String, SocketAddr)> {
        let states = self.workers.listeners();
        let states = states.borrow();
        let bound = states.iter().filter_map(|(name, state)| match state {
            ListenerState::Bound(address) => Some((name.clone(), *address)),
            // What is not open has been said where it was tried.
            ListenerState::Unbound | ListenerState::Failed(_) => None,
        });
        bound
            .filter(|(_, address)| !self.is_fixed(*address))
            .collect()
    }

    fn is_fixed(&self, address: SocketAddr) -> bool {
        address == self.addresses.outbound || Some(address) == self.addresses.inbound
    }

    fn start_registration(&mut self, ip: IpAddr, health: Option<watch::Receiver<AppHealth>>) {
        let (Some(app), Some(inbound), Some(health)) =
            (&self.config.app, self.addresses.inbound, health)
        else {
            return;
        };
        let registrar = Registrar {
            control: Arc::clone(&self.control),
            vitals: Arc::clone(&self.vitals),
            registration: register::registration(&self.config, app, ip, inbound),
            heartbeat_interval: self.config.heartbeat_interval,
            known: false,
        };
        let (leave, left) = oneshot::channel();
        self.leave = Some((leave, tokio::spawn(registrar.run(health, left))));
    }
}
