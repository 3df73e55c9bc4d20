//! A sidecar runs from somebody else's management server, in both wire forms, and keeps to the protocol whatever that
//! server does. The server is played here; see `ForeignServer`.

use std::{fs, net::SocketAddr, path::Path};

use outrigger_proto::envoy::{
    config::{
        cluster::v3::{
            Cluster,
            cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
        },
        core::v3::{
            Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
            config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
        },
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
            lb_endpoint::HostIdentifier,
        },
        listener::v3::{Filter, FilterChain, Listener, filter},
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
            route_action::ClusterSpecifier, route_match::PathSpecifier,
        },
    },
    extensions::filters::{
        http::router::v3::Router,
        network::http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier,
            http_filter,
        },
    },
};
use outrigger_tests::{
    Caller, Conversation, ForeignServer, Heard, Process, TestApp, XdsForm, eventually, free_port,
    packed,
};
use prost_types::Any;

mod bootstrap_files;
mod clusters;
mod secrets;

const CDS: &str = "envoy.config.cluster.v3.Cluster";
const EDS: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
pub(super) const LDS: &str = "envoy.config.listener.v3.Listener";
pub(super) const RDS: &str = "envoy.config.route.v3.RouteConfiguration";
const HCM: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
pub(super) const FORMS: [XdsForm; 2] = [XdsForm::Delta, XdsForm::Sotw];

fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3 as i32,
        ..ConfigSource::default()
    }
}

pub(super) fn at(host: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

pub(super) fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        }),
        ..Cluster::default()
    }
}

pub(super) fn assignment(name: &str, host: &str, port: u16) -> ClusterLoadAssignment {
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(at(host, port)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![endpoint],
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

pub(super) fn routes(name: &str, cluster: &str) -> RouteConfiguration {
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}

/// The manager of a listener for HTTP.
pub(super) type Manager = HttpConnectionManager;

pub(super) fn listener(
    address: SocketAddr,
    routes: &str,
    before: Vec<HttpFilter>,
    change: impl FnOnce(&mut Manager),
) -> Listener {
    let mut http_filters = before;
    http_filters.push(http_filter(
        "envoy.filters.http.router",
        packed(
            "envoy.extensions.filters.http.router.v3.Router",
            &Router::default(),
        ),
    ));
    let mut manager = HttpConnectionManager {
        stat_prefix: "all".to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: routes.to_owned(),
        })),
        http_filters,
        ..HttpConnectionManager::default()
    };
    change(&mut manager);
    Listener {
        name: "out".to_owned(),
        address: Some(at(&address.ip().to_string(), address.port())),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "hcm".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(packed(HCM, &manager))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
}

pub(super) fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

/// A bootstrap file for a server on this port; `rest` of its cluster.
pub(super) fn bootstrap(form: XdsForm, port: u16, rest: &str) -> tempfile::NamedTempFile {
    let api_type = match form {
        XdsForm::Delta => "DELTA_GRPC",
        XdsForm::Sotw => "GRPC",
    };
    let text = format!(
        "node: {{id: foreign-1, cluster: caller}}
dynamic_resources:
  lds_config: {{ads: {{}}, resource_api_version: V3}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]
static_resources:
  clusters:
  - name: xds
    type: STATIC
    load_assignment:
      cluster_name: xds
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
{rest}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

pub(super) fn arguments(bootstrap: &Path, out: SocketAddr) -> Vec<String> {
    let bootstrap = bootstrap.display().to_string();
    let out = out.to_string();
    let fixed = [
        "sidecar",
        "--exit-with-parent",
        "--bootstrap",
        &bootstrap,
        "--outbound",
        &out,
    ];
    let ports = ["--inbound", "--admin", "--metrics", "--readiness"];
    let ports = ports.into_iter().flat_map(|port| [port, "127.0.0.1:0"]);
    fixed.into_iter().chain(ports).map(str::to_owned).collect()
}

/// A sidecar that was started with a bootstrap file, and its server.
pub(super) struct Joined {
    server: ForeignServer,
    pub(super) stream: Conversation,
    sidecar: tokio::task::JoinHandle<Process>,
    pub(super) out: SocketAddr,
    _bootstrap: tempfile::NamedTempFile,
}

impl Joined {
    pub(super) async fn start(form: XdsForm) -> Self {
        Self::start_with(form, "").await
    }

    /// With this behind the management server's cluster in the bootstrap.
    async fn start_with(form: XdsForm, rest: &str) -> Self {
        let mut server = ForeignServer::start().await;
        let bootstrap = bootstrap(form, server.address().port(), rest);
        let out = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let args = arguments(bootstrap.path(), out);
        let sidecar =
            tokio::spawn(async move { Process::start("foreign sidecar", &args, &[]).await });
        let stream = server.accept().await;
        assert_eq!(stream.form(), form);
        Self {
            server,
            stream,
            sidecar,
            out,
            _bootstrap: bootstrap,
        }
    }

    /// A whole first configuration: one cluster `app` behind routes `r`.
    pub(super) async fn configure(&mut self, app: &TestApp) {
        let first = self.stream.heard().await;
        assert_eq!(first.node.as_deref(), Some("foreign-1"));
        assert_eq!(first.kind, "Cluster");
        self.clusters("1", "c1", &[cluster("app")]).await;
        self.stream.answer_to("c1").await;
        self.endpoints("1", "e1", app).await;
        self.stream.answer_to("e1").await;
        self.listener("1", "l1", "r", Vec::new()).await;
        self.stream.answer_to("l1").await;
        self.routes("1", "r1", "r", "app").await;
        self.stream.answer_to("r1").await;
        self.serves(app).await;
    }

    async fn clusters(&self, version: &str, nonce: &str, clusters: &[Cluster]) {
        let packed = clusters.iter().map(|c| (c.name.as_str(), packed(CDS, c)));
        self.stream
            .say(CDS, version, nonce, packed.collect(), &[])
            .await;
    }

    async fn endpoints(&self, version: &str, nonce: &str, app: &TestApp) {
        let assignment = assignment("app", "127.0.0.1", app.address().port());
        let resources = vec![("app", packed(EDS, &assignment))];
        self.stream.say(EDS, version, nonce, resources, &[]).await;
    }

    pub(super) async fn listener(
        &self,
        version: &str,
        nonce: &str,
        routes: &str,
        before: Vec<HttpFilter>,
    ) {
        let listener = listener(self.out, routes, before, |_| {});
        let resources = vec![("out", packed(LDS, &listener))];
        self.stream.say(LDS, version, nonce, resources, &[]).await;
    }

    /// A listener for the routes `r` whose connection manager is changed.
    pub(super) async fn manager(
        &self,
        version: &str,
        nonce: &str,
        before: Vec<HttpFilter>,
        change: impl FnOnce(&mut Manager),
    ) {
        let listener = listener(self.out, "r", before, change);
        let resources = vec![("out", packed(LDS, &listener))];
        self.stream.say(LDS, version, nonce, resources, &[]).await;
    }

    async fn routes(&self, version: &str, nonce: &str, name: &str, cluster: &str) {
        let resources = vec![(name, packed(RDS, &routes(name, cluster)))];
        self.stream.say(RDS, version, nonce, resources, &[]).await;
    }

    /// `GET /`: status, and who answered.
    async fn get(&self) -> String {
        let request = Caller::through(self.out);
        let reply = request.get("anything", "/").await;
        match reply.reason() {
            Some(reason) => format!("{} {reason}", reply.status.as_u16()),
            None => format!("{} {}", reply.status.as_u16(), reply.name()),
        }
    }

    /// Waits until this is the answer.
    async fn answers(&self, expected: &str) {
        eventually(&format!("the answer is {expected}"), async || {
            let found = self.get().await;
            if found == expected {
                Ok(())
            } else {
                Err(found)
            }
        })
        .await;
    }

    async fn serves(&self, app: &TestApp) {
        self.answers(&format!("200 {}", app.name())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_serves_from_a_foreign_server_and_follows_its_changes_and_removals() {
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&v1).await;
        joined.endpoints("2", "e2", &v2).await;
        joined.serves(&v2).await;
        assert_eq!(joined.stream.answer_to("e2").await.error, None);
        // A deletion: by absence, or in words.
        joined.clusters("2", "c2", &[cluster("other")]).await;
        let gone = vec![("other", packed(CDS, &cluster("other")))];
        joined.stream.say(CDS, "3", "c3", gone, &["app"]).await;
        joined.answers("503 cluster_unknown").await;
        let unsubscribed = joined.stream.answer_to("c3").await;
        assert_eq!(unsubscribed.error, None, "{form:?}");
        joined.sidecar.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_resource_is_refused_by_name_and_field_and_its_last_good_form_serves() {
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&v1).await;
        let mut bad = cluster("app");
        bad.alt_stat_name = "x".to_owned();
        joined.clusters("2", "c2", &[bad, cluster("good")]).await;
        let nack = joined.stream.answer_to("c2").await;
        assert_eq!(
            nack.error.as_deref(),
            Some("Cluster \"app\": alt_stat_name: not supported yet")
        );
        if form == XdsForm::Sotw {
            assert_eq!(nack.version, "1");
        }
        let message = ClusterLoadAssignment {
            cluster_name: "app".to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                priority: 500,
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        };
        let bad = vec![("app", packed(EDS, &message))];
        joined.stream.say(EDS, "2", "e2", bad, &[]).await;
        let nack = joined.stream.answer_to("e2").await.error.unwrap();
        assert_eq!(
            nack,
            "ClusterLoadAssignment \"app\": endpoints[0].priority: 500; at most 128"
        );
        assert_eq!(joined.get().await, "200 v1");
        // The good one of the bad answer is in use, and what is repaired is, too.
        joined.endpoints("3", "e3", &v2).await;
        joined.serves(&v2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_listener_serves_in_its_old_form_while_its_routes_are_withheld() {
    let app = TestApp::start("v1").await;
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&app).await;
        joined.listener("2", "l2", "later", Vec::new()).await;
        let asked = joined.stream.heard().await;
        assert!(asked.names.contains(&"later".to_owned()), "{asked:?}");
        joined.stream.answer_to("l2").await;
        assert_eq!(joined.get().await, "200 v1");
        joined.routes("2", "r2", "later", "nobody").await;
        joined.answers("503 cluster_unknown").await;
        let mut dropped = Vec::new();
        while dropped.last().is_none_or(|last: &Heard| last.nonce != "r2") {
            dropped.push(joined.stream.heard().await);
        }
        assert!(
            dropped
                .iter()
                .any(|heard| heard.dropped == ["r"] || heard.names == ["later"]),
            "{dropped:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_unasked_answers_are_each_answered_once_and_change_nothing() {
    let app = TestApp::start("v1").await;
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&app).await;
        for nonce in ["e2", "e3"] {
            joined.endpoints("1", nonce, &app).await;
        }
        let other = assignment("unasked", "127.0.0.1", 1);
        let resources = vec![("unasked", packed(EDS, &other))];
        joined.stream.say(EDS, "9", "e4", resources, &[]).await;
        let unknown = "envoy.service.runtime.v3.Runtime";
        joined.stream.say(unknown, "1", "x1", Vec::new(), &[]).await;
        joined.endpoints("1", "e5", &app).await;
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last: &String| last != "e5") {
            heard.push(joined.stream.heard().await.nonce);
        }
        assert_eq!(heard, ["e2", "e3", "e4", "x1", "e5"], "{form:?}");
        assert_eq!(joined.get().await, "200 v1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_costs_no_request_and_the_next_begins_with_what_is_held() {
    let (v1, v2) = (TestApp::start("v1").await, TestApp::start("v2").await);
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&v1).await;
        joined.stream.hang_up().await;
        for _ in 0..50 {
            assert_eq!(joined.get().await, "200 v1");
        }
        joined.stream = joined.server.accept().await;
        let mut first = Vec::new();
        while first.len() < 4 {
            first.push(joined.stream.heard().await);
        }
        assert_eq!(first[0].node.as_deref(), Some("foreign-1"));
        for heard in &first {
            assert_eq!(heard.nonce, "", "{heard:?}");
            let says_version = match form {
                XdsForm::Delta => heard.held.values().all(|v| v == "1") && heard.held.len() == 1,
                XdsForm::Sotw => heard.version == "1",
            };
            assert!(says_version, "{heard:?}");
        }
        assert_eq!(joined.get().await, "200 v1");
        joined.endpoints("2", "n1", &v2).await;
        joined.serves(&v2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_never_come_are_missing_after_15_s_and_heal_when_they_do() {
    let app = TestApp::start("v1").await;
    let mut joined = Joined::start(XdsForm::Sotw).await;
    joined.clusters("1", "c1", &[cluster("app")]).await;
    // No answer to the endpoints: listeners are asked for once they count as missing.
    let listeners = joined.stream.heard_one(|heard| heard.kind == "Listener");
    listeners.await;
    joined.listener("1", "l1", "r", Vec::new()).await;
    joined.routes("1", "r1", "r", "app").await;
    joined.answers("503 no_endpoints").await;
    joined.endpoints("1", "e1", &app).await;
    joined.serves(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_nobody_knows_is_refused_by_name_unless_it_is_optional() {
    let app = TestApp::start("v1").await;
    for form in FORMS {
        let mut joined = Joined::start(form).await;
        joined.configure(&app).await;
        let unknown = http_filter("wasm", packed("example.Wasm", &Router::default()));
        joined.listener("2", "l2", "r", vec![unknown.clone()]).await;
        let nack = joined.stream.answer_to("l2").await.error.unwrap();
        assert!(
            nack.starts_with(
                "Listener \"out\": filter_chains[0].filters[0].typed_config.http_filters[0]"
            ) && nack.contains("Wasm"),
            "{nack}"
        );
        assert_eq!(joined.get().await, "200 v1");
        let optional = HttpFilter {
            is_optional: true,
            ..unknown
        };
        joined.listener("3", "l3", "r", vec![optional]).await;
        assert_eq!(joined.stream.answer_to("l3").await.error, None);
        assert_eq!(joined.get().await, "200 v1");
    }
}
