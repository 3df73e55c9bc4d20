//! Puts the parts together, says when they are ready, and ends them.
//!
//! ```text
//! data directory ─► store ─► root ─► registrations ─► policies ─► World ─► translation ─► ports ─► ready
//! ```
//! In this order, so that a second control plane stops at the store, and nobody is answered before everything
//! that was known is known again.

use std::{
    error::Error,
    fs, io,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use outrigger_proto::{
    envoy::service::{
        load_stats::v3::load_reporting_service_server::LoadReportingServiceServer,
        status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer,
    },
    outrigger::v1::quota_server::QuotaServer,
};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;

use crate::{
    admin::AdminService,
    ca::{
        self, Authority, keeper::Keeper, kubernetes::KubernetesTokens, limit::IssueLimit,
        metrics::AuthorityMetrics, root, server_cert::ServerCert, service::IdentityService,
    },
    clients::Clients,
    config::Config,
    life::{self, Life},
    loads::{self, LoadService, Loads},
    metrics::Metrics,
    policies::{MeshNames, Policies},
    publish::Publisher,
    push,
    quota::{
        self,
        metrics::QuotaMetrics,
        server::{Leases, QuotaService},
    },
    registry::{Limits, Registry, service as registry_service, service::RegistryService},
    server::{
        self, Listener, Serves, auth::Authenticator, client_roots::ClientRoots, routes, tls,
        trust::Trust,
    },
    spiffe,
    store::{self, Store, StoreError},
    vips::Addresses,
    xds::{self, holdings::StatusService},
};

/// Threads of [`run`]. Most work is waiting; translation and writing have threads of their own.
const WORKERS: usize = 2;
/// File in the data directory with the operator's bearer token.
const ADMIN_TOKEN_FILE: &str = "admin.token";
/// An admin token that was written by hand has at least this many characters.
const MIN_ADMIN_TOKEN_CHARS: usize = 32;
/// How long the end may take.
const STOP: Duration = Duration::from_secs(10);

/// The control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A setting that contradicts another or itself.
    #[error("{0}")]
    Setting(String),
    /// A port cannot be had.
    #[error("cannot listen on {address}; {flag} chooses another address (port 0: any free port)")]
    Bind {
        /// As set.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another control plane has the data directory.
    #[error(
        "{data_dir} is in use by another control plane; stop that one or choose another --data-dir"
    )]
    Locked {
        /// As set.
        data_dir: PathBuf,
    },
    /// A file or directory cannot be used.
    #[error("{doing} {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A part does not start.
    #[error("{part}")]
    Start {
        /// Which part.
        part: &'static str,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// The ready line's content: where everything is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// The main port: gRPC and HTTP/JSON over TLS.
    pub grpc: SocketAddr,
    /// The same in plain text, if it was asked for.
    pub plaintext: Option<SocketAddr>,
    /// Metrics and health.
    pub http: SocketAddr,
    /// Store, root, admin token.
    pub data_dir: PathBuf,
    /// Hex SHA-256 of the root's DER.
    pub root_sha256: String,
}

/// A running control plane. Dropping it cuts everything off; [`Self::stop`] lets connections end.
#[derive(Debug)]
pub struct ControlPlane {
    ready: Ready,
    is_ready: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
    /// While it runs, xDS streams stay open.
    push: AbortHandle,
    tasks: JoinSet<()>,
    writer: store::Writer,
}

/// Runs a control plane until SIGTERM or SIGINT, and prints the ready line. Blocks.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(config: Config) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("control-plane")
        .enable_all()
        .build()
        .map_err(|error| start("the runtime does not start", error))?;
    runtime.block_on(async {
        // Before the start, so that a signal during it is not lost.
        let mut ends = Signals::new()?;
        let control_plane = ControlPlane::start(config).await?;
        control_plane.announce()?;
        life::tell(Life::Ready);
        let alive = tokio::spawn(life::live());
        ends.wait().await;
        tracing::info!("stopping");
        life::tell(Life::Stopping);
        alive.abort();
        control_plane.stop().await;
        Ok(())
    })
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, RunError> {
        let on = |kind| signal(kind).map_err(|error| start("signals cannot be caught", error));
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl ControlPlane {
    /// Starts everything; returns when it is ready to serve.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub async fn start(mut config: Config) -> Result<Self, RunError> {
        check(&config)?;
        // The ready line is read by others, who may stand elsewhere.
        config.data_dir =
            std::path::absolute(&config.data_dir).map_err(|source| RunError::File {
                doing: "finding the data directory",
                path: config.data_dir.clone(),
                source,
            })?;
        prepare_dir(&config.data_dir)?;
        let metrics =
            Arc::new(Metrics::new().map_err(|error| start("metrics cannot be registered", error))?);
        let (store, writer) = Store::open(&config.data_dir, metrics.store_write_seconds.clone())
            .map_err(|error| match error {
                StoreError::Locked { .. } => RunError::Locked {
                    data_dir: config.data_dir.clone(),
                },
                error => start("the store cannot be opened", error),
            })?;
        let now = OffsetDateTime::now_utc();
        let authority = Authority::open(store.clone(), &config, now)
            .await
            .map_err(|error| start("the root certificate cannot be used", error))?;
        let authority = Arc::new(authority);
        let admin_token = admin_token(&config.data_dir)?;
        let own = Arc::new(
            ServerCert::new(Arc::clone(&authority), &config.server_names, now)
                .map_err(|error| start("the control plane has no certificate", error))?,
        );
        let mut tasks = JoinSet::new();
        let also = client_roots(&config, &mut tasks)?;
        let tls = tls::server_config(&authority, Arc::clone(&own) as _, also)
            .map_err(|error| start("TLS cannot be set up", error))?;

        let trust = Trust {
            authority: Arc::clone(&authority),
            own: Arc::clone(&own),
        };
        tasks.spawn(own.renew());
        let parts = Parts::load(&config, store, authority, metrics, &mut tasks)?;
        let main = bind(config.grpc, "--grpc", "grpc", &parts.metrics)?;
        let http = bind(config.http, "--http", "http", &parts.metrics)?;
        let plaintext = match config.plaintext {
            None => None,
            Some(address) => Some(bind(address, "--plaintext", "plaintext", &parts.metrics)?),
        };
        let ready = Ready {
            grpc: main.1,
            plaintext: plaintext.as_ref().map(|(_, address)| *address),
            http: http.1,
            data_dir: config.data_dir,
            root_sha256: parts.authority.in_force().active.root_sha256().to_owned(),
        };

        let (stop, stopped) = watch::channel(false);
        let is_ready = Arc::new(AtomicBool::new(true));
        let health = routes::Health {
            metrics: Arc::clone(&parts.metrics),
            ready: Arc::clone(&is_ready),
            store: parts.registry.store.clone(),
        };
        let (router, push) = parts.router(&mut tasks)?;
        let mut listeners = JoinSet::new();
        let serves = Serves::Tls(server::Tls {
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            authenticator: Arc::new(Authenticator::new(&admin_token)),
            trust,
            router: router.clone(),
        });
        listeners.spawn(main.0.serve(serves, stopped.clone()));
        if let Some((listener, _)) = plaintext {
            listeners.spawn(listener.serve(Serves::Plaintext(router), stopped.clone()));
        }
        listeners.spawn(http.0.serve(Serves::Http(routes::health(health)), stopped));
        Ok(Self {
            ready,
            is_ready,
            stop,
            listeners,
            push,
            tasks,
            writer,
        })
    }

    /// Where everything is.
    #[must_use]
    pub const fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Prints the ready line.
    fn announce(&self) -> Result<(), RunError> {
        let json = serde_json::to_string(&self.ready)
            .map_err(|error| start("the ready line cannot be written", error))?;
        let mut out = io::stdout().lock();
        writeln!(out, "ready {json}")
            .and_then(|()| out.flush())
            .map_err(|error| start("the ready line cannot be written", error))
    }

    /// Lets requests end, closes the ports and the store.
    pub async fn stop(mut self) {
        self.is_ready.store(false, Ordering::Relaxed);
        self.stop.send_replace(true);
        self.push.abort();
        let listeners = async { while self.listeners.join_next().await.is_some() {} };
        if timeout(STOP, listeners).await.is_err() {
            tracing::warn!("connections cut");
            self.listeners.shutdown().await;
        }
        self.tasks.shutdown().await;
        // The last handle on the store is gone: the writer ends, and the file is closed.
        let closed = tokio::task::spawn_blocking(|| self.writer.join());
        if timeout(STOP, closed).await.is_err() {
            tracing::warn!("the store is still busy");
        }
    }
}

/// Roots of others, and the task that reads them again.
fn client_roots(
    config: &Config,
    tasks: &mut JoinSet<()>,
) -> Result<Option<Arc<ClientRoots>>, RunError> {
    let Some(path) = &config.spiffe_bundle else {
        return Ok(None);
    };
    let roots = ClientRoots::read(path.clone()).map_err(|error| {
        RunError::Setting(format!("--spiffe-bundle {}: {error}", path.display()))
    })?;
    tasks.spawn(Arc::clone(&roots).follow());
    Ok(Some(roots))
}

/// What the ports serve from.
struct Parts {
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    registry: RegistryService,
    policies: Arc<Policies>,
    publisher: Publisher,
    renewal_grace: Duration,
    kubernetes: Option<Arc<KubernetesTokens>>,
}

impl Parts {
    fn load(
        config: &Config,
        store: Store,
        authority: Arc<Authority>,
        metrics: Arc<Metrics>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, RunError> {
        let domain: Arc<str> = config.domain.as_str().into();
        let registry = Arc::new(Registry::new(Limits::default()));
        let restored = registry_service::restore(&store, &registry, &domain, Instant::now())
            .map_err(|error| start("the registrations cannot be read", error))?;
        metrics
            .leases
            .set(i64::try_from(registry.leases()).unwrap_or(i64::MAX));
        let names = MeshNames {
            domain: Arc::clone(&domain),
            root_namespace: config.root_namespace.as_str().into(),
        };
        let policies = Policies::load(store.clone(), &names, registry.hosts())
            .map_err(|error| start("the policies cannot be read", error))?;
        let policies = Arc::new(policies);
        let revision = policies.in_force().revision;
        metrics
            .policy_revision
            .set(i64::try_from(revision).unwrap_or(i64::MAX));
        metrics
            .policies_refused
            .set(i64::try_from(policies.in_force().refused.len()).unwrap_or(i64::MAX));
        tracing::info!(restored, revision, "store read");
        let addresses = Addresses::load(store.clone(), config.vip_pools, metrics.addresses.clone())
            .map_err(|error| start("the addresses of services cannot be read", error))?;
        let publisher = Publisher {
            policies: Arc::clone(&policies),
            registry: Arc::clone(&registry),
            authority: Arc::clone(&authority),
            metrics: Arc::clone(&metrics),
            domain: Arc::clone(&domain),
            path_normalization: config.path_normalization,
            outbound_traffic_policy: config.outbound_traffic_policy,
            addresses: Arc::new(addresses),
        };
        let registry = RegistryService {
            registry,
            store,
            metrics: Arc::clone(&metrics),
            domain,
            trust_domain: Arc::clone(authority.trust_domain()),
            lease_ttl: config.lease_ttl,
            heartbeat_interval: config.heartbeat_interval,
            pushes: None,
        };
        tasks.spawn(registry.clone().sweep());
        let kubernetes = config.kubernetes.as_ref().map(KubernetesTokens::new);
        let kubernetes = kubernetes
            .transpose()
            .map_err(|error| RunError::Setting(error.to_string()))?;
        Ok(Self {
            kubernetes: kubernetes.map(Arc::new),
            renewal_grace: config.renewal_grace,
            authority,
            metrics,
            registry,
            policies,
            publisher,
        })
    }

    /// Everything that is served, and the task whose end ends all xDS streams.
    fn router(self, tasks: &mut JoinSet<()>) -> Result<(axum::Router, AbortHandle), RunError> {
        let addresses = Arc::clone(&self.publisher.addresses);
        let (worlds, world) = watch::channel(Arc::new(self.publisher.world()));
        tasks.spawn(self.publisher.run(worlds));
        let clients = Arc::new(Clients::default());
        let (pushes, push) = push::start(world);
        let registry = RegistryService {
            pushes: Some(pushes.clone()),
            ..self.registry
        };
        let push = tasks.spawn(push);
        let quota_metrics = QuotaMetrics::new(self.metrics.registry())
            .map_err(|error| start("metrics cannot be registered", error))?;
        let leases = Leases::new(pushes.newest.clone(), quota_metrics);
        tasks.spawn(Arc::clone(&leases).run());
        let xds_metrics = xds::metrics::XdsMetrics::new(self.metrics.registry())
            .map_err(|error| start("metrics cannot be registered", error))?;
        let xds = xds::server::Xds::new(pushes, Arc::clone(&clients), xds_metrics);
        let identity = IdentityService {
            authority: Arc::clone(&self.authority),
            store: registry.store.clone(),
            metrics: Arc::clone(&self.metrics),
            limit: Arc::new(IssueLimit::default()),
            renewal_grace: self.renewal_grace,
            kubernetes: self.kubernetes,
        };
        let loads = Arc::new(Loads::default());
        let holdings = ClientStatusDiscoveryServiceServer::new(StatusService(Arc::clone(&clients)));
        let reports = LoadReportingServiceServer::new(LoadService(Arc::clone(&loads)));
        let reports = reports.max_decoding_message_size(loads::MAX_REQUEST_BYTES);
        let keeper_metrics = AuthorityMetrics::new(self.metrics.registry())
            .map_err(|error| start("metrics cannot be registered", error))?;
        let changes = self.authority.changes();
        let keeper = Keeper::new(
            Arc::clone(&self.authority),
            Arc::clone(&clients),
            keeper_metrics,
        );
        let keeper = Arc::new(keeper);
        tasks.spawn(Arc::clone(&keeper).run(changes));
        let admin = AdminService {
            keeper,
            policies: self.policies,
            registry: Arc::clone(&registry.registry),
            identity: identity.clone(),
            clients,
            leases: Arc::clone(&leases),
            loads: Arc::clone(&loads),
            addresses,
            metrics: self.metrics,
            started: SystemTime::now(),
        };
        let quota = QuotaServer::new(QuotaService(leases));
        let quota = quota.max_decoding_message_size(quota::server::MAX_REQUEST_BYTES);
        let xds = xds.add_services(Routes::default());
        let xds = xds
            .add_service(quota)
            .add_service(holdings)
            .add_service(reports);
        Ok((routes::main(admin, registry, identity, xds), push))
    }
}

fn check(config: &Config) -> Result<(), RunError> {
    let wrong = |text: String| Err(RunError::Setting(text));
    spiffe::check_trust_domain(&config.trust_domain).map_err(RunError::Setting)?;
    spiffe::check_label("--root-namespace", &config.root_namespace).map_err(RunError::Setting)?;
    for label in config.domain.split('.') {
        spiffe::check_label("--domain", label).map_err(RunError::Setting)?;
    }
    if let Some(address) = config.plaintext
        && !server::is_loopback(address.ip())
    {
        return wrong(format!(
            "--plaintext {address} is not a loopback address; everybody who reaches that port is the operator, so use 127.0.0.1 or ::1"
        ));
    }
    let day = Duration::from_secs(86_400);
    if config.root_ttl < day || config.root_ttl > day * 36_500 {
        return wrong(format!(
            "--root-ttl {} s is out of range; use 1 day to 36500 days",
            config.root_ttl.as_secs()
        ));
    }
    if config.renewal_grace > day * 30 {
        return wrong(format!(
            "--renewal-grace {} s is too long; at most 30 days",
            config.renewal_grace.as_secs()
        ));
    }
    let second = Duration::from_secs(1);
    if config.lease_ttl < second || config.lease_ttl > Duration::from_secs(86_400) {
        return wrong(format!(
            "--lease-ttl {} s is out of range; use 1 s to 86400 s",
            config.lease_ttl.as_secs_f64()
        ));
    }
    if config.heartbeat_interval.is_zero() || config.heartbeat_interval >= config.lease_ttl {
        return wrong(format!(
            "--heartbeat-interval {} s has to be less than --lease-ttl {} s, better a third of it",
            config.heartbeat_interval.as_secs_f64(),
            config.lease_ttl.as_secs_f64()
        ));
    }
    Ok(())
}

fn prepare_dir(path: &Path) -> Result<(), RunError> {
    let failed = |doing, source| RunError::File {
        doing,
        path: path.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| failed("creating the data directory", error))?;
    let mode = fs::metadata(path)
        .map_err(|error| failed("looking at the data directory", error))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        let mode = format!("{:o}", mode & 0o777);
        tracing::warn!(path = %path.display(), mode, "others can look into the data directory; chmod 700");
    }
    Ok(())
}

fn admin_token(data_dir: &Path) -> Result<String, RunError> {
    let path = data_dir.join(ADMIN_TOKEN_FILE);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().chars().count() >= MIN_ADMIN_TOKEN_CHARS => {
            Ok(text.trim().to_owned())
        }
        Ok(_) => Err(RunError::Setting(format!(
            "{} holds fewer than {MIN_ADMIN_TOKEN_CHARS} characters; delete it to get a new token",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = ca::tokens::new_secret()
                .map_err(|error| start("no random bytes for the admin token", error))?;
            root::write_private(&path, format!("{token}\n").as_bytes())
                .map_err(|error| start("the admin token cannot be kept", error))?;
            Ok(token)
        }
        Err(source) => Err(RunError::File {
            doing: "reading",
            path,
            source,
        }),
    }
}

/// Connections that wait to be accepted. After a restart all sidecars come at once; one that finds no room tries again
/// a second later. The system may allow fewer.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind(
    address: SocketAddr,
    flag: &'static str,
    name: &'static str,
    metrics: &Arc<Metrics>,
) -> Result<(Listener, SocketAddr), RunError> {
    let failed = |source| RunError::Bind {
        address,
        flag,
        source,
    };
    let socket = listen(address).map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((
        Listener {
            name,
            socket,
            metrics: Arc::clone(metrics),
        },
        bound,
    ))
}

fn start(part: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> RunError {
    RunError::Start {
        part,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests;
