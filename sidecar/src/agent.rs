//! A workload that is a member of the mesh without a sidecar: an application whose gRPC library speaks xDS and mTLS of
//! its own. What it lacks is done here: join, renew the certificate, hand it over in files, register, leave.
//!
//! ```text
//! check settings ─► bind ports ─► certificate ─► files, bootstrap file ─► ready line, command ─► register
//!                                    └─(half of its life)─► files    SIGTERM, SIGINT, POST /drain ─► say so ─► command ─► end
//! ```
//! No request passes through it, and of xDS it asks for the trust bundle only. The application may also be an Envoy, the
//! sidecar of yet another one: that has its key over a socket.

mod bootstrap;
mod bundle;
mod check;
mod envoy;
pub(crate) mod files;
mod pages;
mod relay;
mod sds;
#[cfg(test)]
mod testing;

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use outrigger_proto::outrigger::v1::RegisterRequest;
use prometheus::Registry;
use tokio::{
    signal::unix::SignalKind,
    sync::{Notify, oneshot, watch},
    task::JoinSet,
};

use crate::{
    App, RunError, Workload,
    admin::{self, Port},
    command::{Command, CommandError, Environment},
    control::{Control, First, pinned_roots},
    identity::{
        Credential, IdentityStore, Issued, Issuer, chain, verify::sha256, workload_api::WorkloadApi,
    },
    life::{self, Life},
    readiness::{self, AppHealth},
    register::{self, Registered, Registrar},
    run::{CONTROL_THREADS, End, SETTLE, Signals, bind},
    shared::Shared,
    tls::files::Allowed,
    vitals::Vitals,
};

use bootstrap::Place;
use bundle::Roots;
pub use envoy::EnvoyListeners;
use files::CertificateFiles;
pub use files::FilesError;
use pages::AgentSite;
use relay::Relay;
use sds::Secrets;

/// Where gRPC libraries look for their bootstrap file.
const BOOTSTRAP: &str = "GRPC_XDS_BOOTSTRAP";

/// How long others may take to hear that the application leaves.
const PATIENT: Duration = Duration::from_secs(5);

/// Settings of one agent. Addresses with port 0 pick a free port; the ready line says which.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// `https://host:15012`, or `http://` for the plain-text port (loopback only; no identity then, and no `mtls`).
    pub control_plane: String,
    /// One-time credential, `<secret>.<root SHA-256>`; needed if `dir` holds no certificate that is still valid.
    pub join_token: Option<String>,
    /// File of the pod's token (Kubernetes projects it), instead of `join_token`; read whenever it is needed. Needs
    /// `root_ca`.
    pub token_file: Option<PathBuf>,
    /// Socket of SPIFFE's Workload API, instead of either: certificates come from there, and not from the control plane,
    /// which has to accept them. `root_ca` beside it is for the control plane's own certificate, if that is of another root.
    pub spiffe_endpoint: Option<PathBuf>,
    /// PEM of the control plane's root; default: the root that the join token pins.
    pub root_ca: Option<PathBuf>,
    /// Who the application is.
    pub workload: Workload,
    /// Where the application listens for others; None = it only calls others and is not registered.
    pub app: Option<App>,
    /// Address that others reach it at. Default: that of `app`, or the local address of the connection to the control plane.
    pub advertise_address: Option<IpAddr>,
    /// Whether the application uses its certificates: calls of others come over mTLS, and go out so. Default true.
    pub mtls: bool,
    /// The command is an Envoy, the sidecar of the application, which listens there. It has its key over a socket in
    /// `dir`. None = the application speaks xDS itself.
    pub envoy: Option<EnvoyListeners>,
    /// Where certificate, key, roots and the bootstrap file are written.
    pub dir: PathBuf,
    /// Admin. Default `127.0.0.1:15000`. Loopback only.
    pub admin: SocketAddr,
    /// Prometheus metrics. Default `0.0.0.0:15020`.
    pub metrics: SocketAddr,
    /// Readiness. Default `0.0.0.0:15021`.
    pub readiness: SocketAddr,
    /// Takes xDS in plain text for a library that has no TLS towards its management server, and passes it on with our
    /// certificate. Default off; loopback only.
    pub xds_relay: Option<SocketAddr>,
    /// Lifetime asked for certificates. Default 1 h, at most 24 h.
    pub certificate_ttl: Duration,
    /// Lease of the registration. Default 30 s.
    pub lease_ttl: Duration,
    /// Renewal of the registration. Default 10 s.
    pub heartbeat_interval: Duration,
    /// How long `command` may take to end when it is asked to. Default 30 s.
    pub drain_timeout: Duration,
    /// The application, if it is to be started here. Empty = somebody else starts it.
    pub command: Vec<String>,
}

/// Why an agent did not start, or ended otherwise than by a drain.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// What a sidecar may meet as well.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The directory of the certificates.
    #[error("--dir cannot be used")]
    Files(#[from] FilesError),
    /// The application does not start.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The socket that an Envoy has its key from.
    #[error("the socket of secrets {} cannot be had", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Runs until a signal, `POST /drain` or the end of the command ends it; gives the exit code, which is the command's if
/// there is one. Without a command the ready line is printed on standard output.
///
/// # Errors
/// [`AgentError`].
pub fn run(config: AgentConfig) -> Result<u8, AgentError> {
    check::check(&config)?;
    let shared = Shared::new(Allowed::default());
    let store = IdentityStore::new(Arc::clone(&shared));
    let files = Arc::new(CertificateFiles::open(&config.dir)?);
    let is_plain = config.control_plane.starts_with("http://");
    let store = store.writing(Arc::clone(&files));
    let is_spiffe = config.spiffe_endpoint.is_some();
    let store = if is_spiffe {
        store.keeping_bundle()
    } else {
        store
    };
    // What the Workload API says now is worth more than what it said to a process before this one.
    if !is_plain && !is_spiffe {
        resume(&config, &files, &store);
    }
    let first = First {
        join_token: config.join_token.as_deref(),
        token_file: config.token_file.is_some(),
        spiffe: config.spiffe_endpoint.is_some(),
        root_ca: config.root_ca.as_deref(),
    };
    let control = Control::ours(&config.control_plane, first, Arc::clone(&shared))
        .map_err(RunError::ControlPlane)?;
    let sockets = Sockets::bind(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(RunError::Start)?;
    let parts = Parts {
        config,
        shared,
        store: Arc::new(store),
        control: Arc::new(control),
        files,
    };
    let result = runtime.block_on(supervise(parts, sockets));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// A join token is good for one process; one that is started again goes on with what the one before has left.
fn resume(config: &AgentConfig, files: &CertificateFiles, store: &IdentityStore) {
    let Workload {
        namespace,
        service_account,
        ..
    } = &config.workload;
    let ours = format!("/ns/{namespace}/sa/{service_account}");
    let pinned = config.join_token.as_deref().and_then(pinned_roots);
    let is_elsewhere = |kept: &Issued| {
        pinned
            .as_ref()
            .is_some_and(|pins| !kept.roots_der.iter().any(|der| pins.contains(&sha256(der))))
    };
    match files.kept() {
        None => {}
        Some(Ok(kept)) if is_elsewhere(&kept) => {
            tracing::warn!(id = %kept.spiffe_id, "the certificate that is there is another mesh's, a new one is asked for");
        }
        Some(Ok(kept)) if kept.spiffe_id.ends_with(&ours) => {
            tracing::info!(id = %kept.spiffe_id, not_after = kept.not_after, "going on with the certificate that is there");
            store.install(kept);
            files.go_on();
        }
        Some(Ok(kept)) => {
            tracing::warn!(id = %kept.spiffe_id, "the certificate that is there is somebody else's, a new one is asked for");
        }
        Some(Err(error)) => {
            tracing::info!(%error, "the certificate that is there is of no use, a new one is asked for");
        }
    }
}

/// What is made before anything runs.
struct Parts {
    config: AgentConfig,
    shared: Arc<Shared>,
    store: Arc<IdentityStore>,
    control: Arc<Control>,
    files: Arc<CertificateFiles>,
}

/// All bound before anything else, so that the numbers we tell are real.
struct Sockets {
    sites: [(TcpListener, Port); 3],
    relay: Option<TcpListener>,
}

impl Sockets {
    fn bind(config: &AgentConfig) -> Result<Self, RunError> {
        let relay = config.xds_relay;
        Ok(Self {
            sites: [
                (bind("admin", config.admin)?, Port::Admin),
                (bind("metrics", config.metrics)?, Port::Metrics),
                (bind("readiness", config.readiness)?, Port::Readiness),
            ],
            relay: relay.map(|at| bind("xds-relay", at)).transpose()?,
        })
    }
}

async fn supervise(parts: Parts, sockets: Sockets) -> Result<u8, AgentError> {
    let Parts {
        config,
        shared,
        store,
        control,
        files,
    } = parts;
    let registry = Registry::new();
    let has_app = config.app.is_some();
    let vitals = Arc::new(Vitals::without_xds(&registry, has_app, control.is_tls()));
    let relay = sockets
        .relay
        .map(|listener| {
            let relay = Arc::new(Relay::new(Arc::clone(&control), &registry));
            Ok((
                listener.local_addr()?,
                tokio::net::TcpListener::from_std(listener)?,
                relay,
            ))
        })
        .transpose()
        .map_err(RunError::Start)?;
    let site = Arc::new(AgentSite {
        shared: Arc::clone(&shared),
        vitals: Arc::clone(&vitals),
        registry,
        drain: Notify::new(),
        started: std::time::Instant::now(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(life::live());
    let mut addresses = Vec::new();
    let relayed = relay.as_ref().map(|(address, ..)| *address);
    if let Some((_, listener, relay)) = relay {
        tasks.spawn(relay.serve(listener));
    }
    for (listener, port) in sockets.sites {
        addresses.push(listener.local_addr().map_err(RunError::Start)?);
        let listener = tokio::net::TcpListener::from_std(listener).map_err(RunError::Start)?;
        tasks.spawn(admin::serve(
            listener,
            port,
            Arc::clone(&site),
            Arc::default(),
        ));
    }
    let mut signals = Signals::new().map_err(RunError::Start)?;
    let mut agent = Agent {
        typed: signals.typed(),
        site: Arc::clone(&site),
        config,
        shared,
        store,
        control,
        files,
        vitals,
        addresses,
        relayed,
        tasks,
        command: None,
        leave: None,
    };
    let end = tokio::select! {
        ended = agent.serve() => End::Command(ended?),
        signal = signals.next() => End::Asked(signal),
        () = site.drain.notified() => End::Asked(SignalKind::terminate()),
    };
    tokio::select! {
        code = agent.drain(end) => code,
        _ = signals.next() => Err(RunError::Interrupted.into()),
    }
}

/// Everything that runs.
struct Agent {
    site: Arc<AgentSite>,
    config: AgentConfig,
    shared: Arc<Shared>,
    store: Arc<IdentityStore>,
    control: Arc<Control>,
    files: Arc<CertificateFiles>,
    vitals: Arc<Vitals>,
    /// Admin, metrics, readiness.
    addresses: Vec<SocketAddr>,
    /// Where the relay listens.
    relayed: Option<SocketAddr>,
    /// Ended with the agent.
    tasks: JoinSet<()>,
    command: Option<Command>,
    /// Set while what is typed reaches the command without us.
    typed: Arc<AtomicBool>,
    /// Tells the registrar to say goodbye.
    leave: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<Registered>)>,
}

impl Agent {
    /// Starts everything; ends when the command does, with its code.
    async fn serve(&mut self) -> Result<u8, AgentError> {
        let is_tls = self.control.is_tls();
        if is_tls {
            self.get_identity().await?;
        }
        let ip = self.advertised_ip().await?;
        let target = self.control.target();
        self.follow_roots(ip);
        let (file, command) = match self.config.envoy {
            None => (
                self.write_bootstrap(&target, ip)?,
                self.config.command.clone(),
            ),
            Some(listeners) => self.prepare_envoy(&listeners, &target, ip)?,
        };
        self.vitals.configured.store(true, Ordering::Relaxed);
        if command.is_empty() {
            self.say_ready(&file, ip).map_err(RunError::Start)?;
            life::tell(Life::Ready);
        } else {
            tracing::info!(bootstrap = %file.display(), "starting the command");
            let environment = Environment::without_ours().with(BOOTSTRAP, &file);
            self.command = Some(Command::start(&command, &environment)?);
            self.typed.store(true, Ordering::Relaxed);
            life::tell(Life::Ready);
        }
        let health = self.watch_app();
        self.start_registration(ip, health);
        match &mut self.command {
            Some(command) => Ok(command.ended().await.map_err(RunError::Start)?),
            None => std::future::pending().await,
        }
    }

    /// For a gRPC library.
    fn write_bootstrap(&self, target: &str, ip: IpAddr) -> Result<PathBuf, AgentError> {
        let is_tls = self.control.is_tls();
        let relayed = self.relayed.map(|address| address.to_string());
        let place = Place {
            server: relayed.as_deref().unwrap_or(target),
            is_plain: self.relayed.is_some() || !is_tls,
            ip,
            admin: self.address(0),
        };
        let files = is_tls.then_some(&*self.files);
        let text = bootstrap::bootstrap(&self.config, &place, files);
        Ok(self
            .files
            .write_beside(bootstrap::FILE, &format!("{text:#}\n"))?)
    }

    /// The socket of secrets, the bootstrap file, and the command with its path.
    fn prepare_envoy(
        &mut self,
        listeners: &EnvoyListeners,
        target: &str,
        ip: IpAddr,
    ) -> Result<(PathBuf, Vec<String>), AgentError> {
        let path = self.files.path(sds::SOCKET);
        let listener =
            sds::bind(&path).map_err(|(path, source)| AgentError::Socket { path, source })?;
        let secrets = Secrets::new(self.files.current(), &self.site.registry);
        self.tasks.spawn(secrets.serve(listener));
        let identity = self.shared.identity.load_full();
        let place = envoy::Place {
            server: target,
            ip,
            socket: &path,
            spiffe_id: identity.as_deref().map_or("", |own| &own.spiffe_id),
        };
        let text = envoy::bootstrap(&self.config, listeners, &place);
        let file = self
            .files
            .write_beside(envoy::FILE, &format!("{text:#}\n"))?;
        let command = envoy::with_path(&self.config.command, &file);
        Ok((file, command))
    }

    /// Without certificates there are no roots; the Workload API tells of its own.
    fn follow_roots(&mut self, ip: IpAddr) {
        if !self.control.is_tls() || self.config.spiffe_endpoint.is_some() {
            return;
        }
        let roots = Roots {
            control: Arc::clone(&self.control),
            store: Arc::clone(&self.store),
            files: Arc::clone(&self.files),
            node: bundle::node(&self.config.workload, ip, self.address(0).port()),
        };
        self.tasks.spawn(roots.follow());
    }

    fn address(&self, n: usize) -> SocketAddr {
        self.addresses.get(n).copied().unwrap_or(self.config.admin)
    }

    async fn get_identity(&mut self) -> Result<(), AgentError> {
        if let Some(socket) = &self.config.spiffe_endpoint {
            let mut first = self.store.renewals();
            let api = WorkloadApi {
                socket: socket.clone(),
                store: Arc::clone(&self.store),
                vitals: Arc::clone(&self.vitals),
                workload: self.config.workload.clone(),
            };
            self.tasks.spawn(api.follow());
            return first
                .changed()
                .await
                .map_err(|ended| RunError::Identity(ended.to_string()).into());
        }
        let issuer = Issuer {
            control: Arc::clone(&self.control),
            store: Arc::clone(&self.store),
            vitals: Arc::clone(&self.vitals),
            credential: Credential {
                join_token: self.config.join_token.clone(),
                token_file: self.config.token_file.clone(),
            },
            workload: self.config.workload.clone(),
            ttl: self.config.certificate_ttl,
        };
        match self.shared.identity.load_full() {
            Some(kept) => issuer.goes_on_with(kept.not_after),
            None => issuer
                .first()
                .await
                .map_err(|error| RunError::Identity(chain(&error)))?,
        }
        self.tasks.spawn(issuer.renew());
        Ok(())
    }

    /// Where others reach the application.
    async fn advertised_ip(&self) -> Result<IpAddr, RunError> {
        if let Some(ip) = self.config.advertise_address {
            return Ok(ip);
        }
        let listens = match (&self.config.app, &self.config.envoy) {
            (Some(_), Some(envoy)) => Some(envoy.inbound.ip()),
            (app, _) => app.as_ref().map(|app| app.address.ip()),
        };
        if let Some(ip) = listens.filter(|ip| !ip.is_unspecified() && !ip.is_loopback()) {
            return Ok(ip);
        }
        let ip = self.control.local_ip_in_time().await;
        match listens {
            Some(listens) if listens.is_loopback() && !ip.is_loopback() => Err(RunError::Setting {
                flag: "app",
                value: listens.to_string(),
                expected: "others cannot reach a loopback address; let the application listen on 0.0.0.0, or give \
                        --advertise-address",
            }),
            _ => Ok(ip),
        }
    }

    fn say_ready(&self, bootstrap: &std::path::Path, ip: IpAddr) -> io::Result<()> {
        let app = self.config.app.as_ref();
        let app = app.map(|app| SocketAddr::new(ip, self.port_of(app)).to_string());
        let [admin, metrics, readiness] = [0, 1, 2].map(|n| self.address(n).to_string());
        let line = serde_json::json!({
            "bootstrap": bootstrap,
            "app": app,
            "admin": admin,
            "metrics": metrics,
            "readiness": readiness,
            "xds_relay": self.relayed.map(|address| address.to_string()),
            "sds": self.config.envoy.map(|_| self.files.path(sds::SOCKET)),
        });
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "ready {line}")?;
        stdout.flush()
    }

    fn watch_app(&mut self) -> Option<watch::Receiver<AppHealth>> {
        let mut app = self.config.app.clone()?;
        if app.address.ip().is_unspecified() {
            // Whoever listens everywhere listens here, too.
            let here: IpAddr = match app.address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            app.address.set_ip(here);
        }
        let (sender, receiver) = watch::channel(AppHealth::Unknown);
        let (shared, vitals) = (Arc::clone(&self.shared), Arc::clone(&self.vitals));
        let every = app.readiness.interval;
        self.tasks
            .spawn(readiness::watch(app, shared, vitals, sender));
        let Some(listeners) = self.config.envoy else {
            return Some(receiver);
        };
        let (seen, through) = watch::channel(AppHealth::Unknown);
        self.tasks
            .spawn(envoy::gate(listeners.inbound, receiver, seen, every));
        Some(through)
    }

    /// Where others connect to: the application, or the Envoy before it.
    fn port_of(&self, app: &App) -> u16 {
        let listens = self.config.envoy.map(|envoy| envoy.inbound);
        listens.unwrap_or(app.address).port()
    }

    fn start_registration(&mut self, ip: IpAddr, health: Option<watch::Receiver<AppHealth>>) {
        let (Some(app), Some(health)) = (&self.config.app, health) else {
            return;
        };
        let registrar = Registrar {
            control: Arc::clone(&self.control),
            vitals: Arc::clone(&self.vitals),
            registration: registration(&self.config, app, SocketAddr::new(ip, self.port_of(app))),
            heartbeat_interval: self.config.heartbeat_interval,
            known: false,
        };
        let (leave, left) = oneshot::channel();
        self.leave = Some((leave, tokio::spawn(registrar.run(health, left))));
    }

    /// Others first hear that we leave, then the command ends what it has, then the registration goes.
    async fn drain(mut self, end: End) -> Result<u8, AgentError> {
        tracing::info!("draining");
        self.shared.draining.store(true, Ordering::Release);
        life::tell(Life::Draining);
        let mut registered = None;
        if let Some((leave, registrar)) = self.leave.take() {
            if leave.send(()).is_err() {
                tracing::debug!("the registrar has ended already");
            }
            registered = registrar.await.ok();
            let is_here = matches!(end, End::Asked(_));
            let patient = self.config.drain_timeout.min(PATIENT);
            let patient = if is_here { patient } else { Duration::ZERO };
            if let Some(registered) = &registered
                && !registered.say_goodbye(patient).await
                && is_here
            {
                tokio::time::sleep(SETTLE.min(self.config.drain_timeout)).await;
            }
        }
        if let (End::Asked(_), Some(_), Some(envoy)) = (end, &self.command, self.config.envoy) {
            envoy::drain(envoy.admin, self.config.drain_timeout).await;
        }
        let code = match (end, &mut self.command) {
            (End::Command(code), _) => code,
            (End::Asked(signal), Some(command)) => command
                .end(signal, self.config.drain_timeout)
                .await
                .map_err(RunError::Start)?,
            (End::Asked(_), None) => 0,
        };
        if let Some(registered) = registered {
            registered.deregister().await;
        }
        self.tasks.abort_all();
        tracing::info!("drained");
        Ok(code)
    }
}

/// The application as others reach it.
fn registration(config: &AgentConfig, app: &App, address: SocketAddr) -> RegisterRequest {
    RegisterRequest {
        mtls: config.mtls,
        ..register::instance(&config.workload, app, address, config.lease_ttl)
    }
}

#[cfg(test)]
mod tests;
