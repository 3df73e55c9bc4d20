//! What tests of the data plane share: certificates, applications, sidecars in one process on real sockets.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outrigger_core::{
    Action, ClusterChoice, ClusterConfig, Direction, DownstreamTls, EndpointConfig, FilterChain,
    FilterChains, HeaderEdits, Health, LbPolicy, Listener, Locality, PathMatch, PolicyPositions,
    Route, RouteMatch, RouteSource, RouteTable, SnapshotBuilder, UpstreamTls, VirtualHost,
    WeightedCluster,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType,
};
use rustls::{RootCertStore, crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{
    Config, Workload,
    listen::caps::Caps,
    shared::{Identity, Shared},
    telemetry::Telemetry,
    tls::files::Allowed,
    worker::{self, ListenerState, Workers},
};

pub(crate) mod app;

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A leaf in the making; the default is a good one.
pub(crate) struct Leaf {
    pub(crate) params: CertificateParams,
}

impl Leaf {
    pub(crate) fn of(id: &str) -> Self {
        Self::with_uris(&[id])
    }

    pub(crate) fn with_uris(ids: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "workload");
        params.subject_alt_names = ids
            .iter()
            .map(|id| SanType::URI((*id).try_into().unwrap()))
            .collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + Duration::from_secs(3600)).into();
        Self { params }
    }

    /// For a server that has a name.
    pub(crate) fn named(name: &str) -> Self {
        Self::with_uris(&[]).and(|params| {
            params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        })
    }

    pub(crate) fn and(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    pub(crate) fn sign(&self, leaf: &Leaf) -> Arc<CertifiedKey> {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf.params.signed_by(&key, &self.0).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing = aws_lc_rs::sign::any_supported_type(&private).unwrap();
        Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing))
    }

    /// Its certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A list of revoked certificates, in PEM, that holds until `next`.
    pub(crate) fn revokes(&self, serials: &[u64], next: SystemTime) -> String {
        let past = SystemTime::now() - Duration::from_secs(86_400);
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: past.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: past.into(),
            next_update: next.into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// Chain and key of a leaf, in PEM.
    pub(crate) fn sign_pem(&self, leaf: &Leaf) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf.params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// An identity of trust domain `cluster.local`, whose bundle is this authority.
    pub(crate) fn identity(&self, service_account: &str) -> Identity {
        let id = spiffe(service_account);
        let key = self.sign(&Leaf::of(&id));
        self.identity_with(&id, key)
    }

    /// An identity that shows `key`, whatever it is.
    pub(crate) fn identity_with(&self, id: &str, certified_key: Arc<CertifiedKey>) -> Identity {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Identity {
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
            spiffe_id: id.into(),
            certified_key,
            roots: self.roots(),
            not_after: now.as_secs() + 3600,
        }
    }
}

pub(crate) fn spiffe(service_account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{service_account}")
}

/// Settings of a sidecar that opens nothing by itself.
pub(crate) fn config() -> Config {
    let any = "127.0.0.1:0".parse().unwrap();
    Config {
        control_plane: "http://127.0.0.1:1".to_owned(),
        bootstrap: None,
        xds_protocol: None,
        discovery: None,
        join_token: None,
        token_file: None,
        spiffe_endpoint: None,
        root_ca: None,
        workload: Workload {
            service: "frontend".to_owned(),
            namespace: "default".to_owned(),
            service_account: "frontend".to_owned(),
            labels: BTreeMap::from([("version".to_owned(), "v1".to_owned())]),
            locality: [String::new(), String::new(), String::new()],
            weight: 1,
        },
        app: None,
        advertise_address: None,
        outbound: any,
        inbound: any,
        capture: crate::Capture::default(),
        admin: any,
        admin_users: Vec::new(),
        metrics: any,
        readiness: any,
        dns: None,
        tls_files: Vec::new(),
        workers: 2,
        otlp_endpoint: None,
        trace_sampling: 1.0,
        certificate_ttl: Duration::from_secs(3600),
        lease_ttl: Duration::from_secs(30),
        heartbeat_interval: Duration::from_secs(10),
        policy_header: crate::PolicyHeader::Mesh,
        drain_time: Duration::from_secs(5),
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(5),
        limits: crate::Limits::default(),
    }
}

/// A cluster named `outbound|80||<host>` without limits.
pub(crate) fn cluster(host: &str) -> ClusterConfig {
    ClusterConfig {
        name: format!("outbound|80||{host}.default.svc.cluster.local"),
        service: format!("{host}.default.svc.cluster.local"),
        lb: LbPolicy::RoundRobin,
        connect_timeout: Duration::from_secs(5),
        ..ClusterConfig::default()
    }
}

/// mTLS to a server that must be one of `accounts`.
pub(crate) fn mtls(accounts: &[&str]) -> Option<UpstreamTls> {
    Some(UpstreamTls {
        certificate: "default".to_owned(),
        validation: "ROOTCA".to_owned(),
        subject_alt_names: accounts.iter().map(|account| spiffe(account)).collect(),
        sni: "outbound_.80_._.reviews.default.svc.cluster.local".to_owned(),
        ..UpstreamTls::default()
    })
}

pub(crate) fn endpoint(address: SocketAddr, mtls: bool) -> EndpointConfig {
    EndpointConfig {
        address,
        weight: 1,
        health: Health::Healthy,
        priority: 0,
        locality: Locality::default(),
        locality_weight: 0,
        mtls,
        labels: BTreeMap::new(),
    }
}

/// A route to one cluster for everything.
pub(crate) fn route(builder: &mut SnapshotBuilder, cluster: &str) -> Route {
    let weighted = WeightedCluster {
        cluster: builder.cluster_slot(cluster),
        name: cluster.into(),
        weight: 1,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    };
    let matches = RouteMatch {
        path: PathMatch::Prefix("/".to_owned()),
        case_sensitive: true,
        headers: Vec::new(),
        query_parameters: Vec::new(),
    };
    let action = Action::Forward(ClusterChoice::new(vec![weighted]).unwrap());
    Route {
        name: "default".to_owned(),
        position: Some("canary.yaml:12:5".into()),
        ..Route::new(matches, action)
    }
}

/// A running data plane.
pub(crate) struct Sidecar {
    pub(crate) shared: Arc<Shared>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) workers: Workers,
    pub(crate) builder: SnapshotBuilder,
}

impl Sidecar {
    pub(crate) fn start(config: &Config, identity: Option<Identity>) -> Self {
        Self::start_with(config, identity, Vec::new())
    }

    pub(crate) fn start_with(
        config: &Config,
        identity: Option<Identity>,
        prebound: Vec<std::net::TcpListener>,
    ) -> Self {
        Self::start_capped(config, identity, prebound, Caps::of(&config.limits))
    }

    pub(crate) fn start_capped(
        config: &Config,
        identity: Option<Identity>,
        prebound: Vec<std::net::TcpListener>,
        caps: Caps,
    ) -> Self {
        let shared = Shared::new(Allowed::new(&config.tls_files));
        shared.identity.store(identity.map(Arc::new));
        let telemetry = Telemetry::start(config);
        let workers = worker::start_with(&shared, config, prebound, &telemetry, caps).unwrap();
        Self {
            shared,
            telemetry,
            workers,
            builder: SnapshotBuilder::default(),
        }
    }

    /// A sidecar in front of `app`; says where it accepts mTLS.
    pub(crate) async fn inbound(identity: Identity, app: SocketAddr) -> (Self, SocketAddr) {
        Self::inbound_with(&config(), identity, app).await
    }

    pub(crate) async fn inbound_with(
        config: &Config,
        identity: Identity,
        app: SocketAddr,
    ) -> (Self, SocketAddr) {
        let mut this = Self::start(config, Some(identity));
        let address = this.open_inbound(app).await;
        (this, address)
    }

    /// Opens the listener in front of `app`; says where.
    pub(crate) async fn open_inbound(&mut self, app: SocketAddr) -> SocketAddr {
        let this = self;
        this.set_cluster(
            ClusterConfig {
                name: "inbound|80||".to_owned(),
                ..cluster("app")
            },
            vec![endpoint(app, false)],
        );
        let route = route(&mut this.builder, "inbound|80||");
        let table = table("inbound|80||", vec![("*", vec![route])]);
        this.builder.set_listener(
            "virtualInbound",
            Some(Listener {
                name: "virtualInbound".to_owned(),
                address: "127.0.0.1:0".parse().unwrap(),
                direction: Direction::Inbound,
                chains: FilterChains::one(FilterChain {
                    tls: Some(DownstreamTls {
                        certificate: "default".to_owned(),
                        validation: "ROOTCA".to_owned(),
                        alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
                    }),
                    routes: RouteSource::Inline(Arc::new(table)),
                    settings: None,
                    policies: PolicyPositions::default(),
                }),
                dry_run: None,
                capture: outrigger_core::Capture::default(),
            }),
        );
        this.publish("virtualInbound").await
    }

    /// A sidecar in front of a caller, with one service `reviews`; says where its HTTP proxy is.
    pub(crate) async fn outbound(
        config: &Config,
        identity: Option<Identity>,
        cluster: ClusterConfig,
        endpoints: Vec<EndpointConfig>,
        change: impl FnOnce(&mut Route),
    ) -> (Self, SocketAddr) {
        let mut this = Self::start(config, identity);
        let name = cluster.name.clone();
        this.set_cluster(cluster, endpoints);
        let mut route = route(&mut this.builder, &name);
        change(&mut route);
        let table = table("http_proxy", vec![("reviews", vec![route])]);
        let slot = this.builder.route_slot("http_proxy");
        this.builder.set_routes("http_proxy", Some(Arc::new(table)));
        this.builder.set_listener(
            "http_proxy",
            Some(Listener {
                name: "http_proxy".to_owned(),
                address: "127.0.0.1:0".parse().unwrap(),
                direction: Direction::Outbound,
                chains: FilterChains::one(FilterChain {
                    tls: None,
                    routes: RouteSource::Named(slot),
                    settings: None,
                    policies: PolicyPositions::default(),
                }),
                dry_run: None,
                capture: outrigger_core::Capture::default(),
            }),
        );
        let address = this.publish("http_proxy").await;
        (this, address)
    }

    pub(crate) fn set_cluster(&mut self, config: ClusterConfig, endpoints: Vec<EndpointConfig>) {
        self.builder.put_cluster(config, endpoints);
    }

    /// Publishes; says where `listener` is bound.
    pub(crate) async fn publish(&mut self, listener: &str) -> SocketAddr {
        self.shared.snapshot.publish(self.builder.build());
        let mut states = self.workers.listeners();
        let states = states
            .wait_for(|states| states.contains_key(listener))
            .await
            .unwrap();
        match &states[listener] {
            ListenerState::Bound(address) => *address,
            ListenerState::Unbound => panic!("{listener} is not bound"),
            ListenerState::Failed(error) => panic!("{error}"),
        }
    }

    /// Waits until a metric is at least `least`.
    pub(crate) async fn until_metric(&self, start: &str, least: f64) {
        while self.metric(start) < least {
            tokio::task::yield_now().await;
        }
    }

    /// Value of a metric, by the start of its line in the exposition.
    pub(crate) fn metric(&self, start: &str) -> f64 {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&self.telemetry.metrics.registry.gather())
            .unwrap();
        text.lines()
            .filter(|line| line.starts_with(start))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

pub(crate) fn table(name: &str, hosts: Vec<(&str, Vec<Route>)>) -> RouteTable {
    let hosts = hosts
        .into_iter()
        .map(|(domain, routes)| VirtualHost::new(domain, vec![domain.to_owned()], routes))
        .collect();
    RouteTable::new(name.to_owned(), hosts)
}
