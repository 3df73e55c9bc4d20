use std::sync::atomic::Ordering;

use http_body_util::BodyExt as _;
use outrigger_core::{
    BreakerConfig, Cluster, EndpointConfig, Outcome, PickContext, SnapshotBuilder,
};
use outrigger_proto::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryResponse, Resource},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use super::*;
use crate::{
    settings_for_tests::config,
    worker,
    xds::{
        convert,
        state::Kind,
        testing::{CLUSTER, any, assignment, bundle, cluster},
    },
};

async fn site() -> Arc<Site> {
    let shared = Shared::new(crate::tls::files::Allowed::default());
    let config = config();
    let telemetry = Telemetry::start(&config);
    let workers = worker::start(&shared, &config, Vec::new(), &telemetry).unwrap();
    Arc::new(Site {
        vitals: Arc::new(Vitals::new(&telemetry.metrics.registry, false, false)),
        shared,
        telemetry,
        workers: Arc::new(workers),
        engine: OnceLock::new(),
        dns: OnceLock::new(),
        drain: Notify::new(),
        leave: Notify::new(),
        left: AtomicBool::new(false),
        started: std::time::Instant::now(),
    })
}

fn ask(site: &Site, port: Port, method: &str, target: &str) -> Page {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "127.0.0.1:15000");
    respond(port, site, &request.body(()).unwrap())
}

async fn body(page: Page) -> String {
    let bytes = page.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn get(site: &Site, target: &str) -> String {
    let page = ask(site, Port::Admin, "GET", target);
    assert_eq!(page.status(), StatusCode::OK, "{target}");
    body(page).await
}

#[tokio::test]
async fn get_never_changes_anything() {
    let site = site().await;
    for page in ["/drain", "/logging?level=debug"] {
        let refused = ask(&site, Port::Admin, "GET", page);
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.headers()["allow"], "POST");
    }
    let refused = ask(&site, Port::Admin, "POST", "/config_dump");
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(!site.shared.draining.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_post_drains() {
    let site = site().await;
    assert_eq!(
        ask(&site, Port::Admin, "POST", "/drain").status(),
        StatusCode::ACCEPTED
    );
    tokio::time::timeout(Duration::from_secs(5), site.drain.notified())
        .await
        .unwrap();
}

#[tokio::test]
async fn only_loopback_names_and_pages_of_our_own_may_ask() {
    let site = site().await;
    let status = |host: &str, origin: Option<&str>| {
        let mut request = Request::post("/drain").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        respond(Port::Admin, &*site, &request.body(()).unwrap()).status()
    };
    let table = [
        ("localhost:15000", None, StatusCode::ACCEPTED),
        ("127.0.0.1", None, StatusCode::ACCEPTED),
        ("[::1]:15000", None, StatusCode::ACCEPTED),
        (
            "localhost:15000",
            Some("http://localhost:15000"),
            StatusCode::ACCEPTED,
        ),
        ("evil.example", None, StatusCode::FORBIDDEN),
        ("10.0.0.1:15000", None, StatusCode::FORBIDDEN),
        ("localhost.evil.example", None, StatusCode::FORBIDDEN),
        (
            "localhost:15000",
            Some("https://evil.example"),
            StatusCode::FORBIDDEN,
        ),
        ("localhost:15000", Some("null"), StatusCode::FORBIDDEN),
    ];
    for (host, origin, expected) in table {
        assert_eq!(status(host, origin), expected, "{host} {origin:?}");
    }
    let no_host = Request::get("/ready").body(()).unwrap();
    assert_eq!(
        respond(Port::Admin, &*site, &no_host).status(),
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn each_port_has_its_own_pages() {
    let site = site().await;
    let table = [
        (Port::Admin, "/config_dump", true),
        (Port::Metrics, "/config_dump", false),
        (Port::Metrics, "/metrics", true),
        (Port::Metrics, "/stats/prometheus", true),
        (Port::Metrics, "/drain", false),
        (Port::Readiness, "/metrics", false),
        (Port::Admin, "/nothing", false),
    ];
    for (port, path, expected) in table {
        let found = ask(&site, port, "GET", path).status() != StatusCode::NOT_FOUND;
        assert_eq!(found, expected, "{port:?} {path}");
    }
    assert!(get(&site, "/help").await.contains("POST /drain"));
}

#[tokio::test]
async fn ready_says_what_is_missing() {
    let site = site().await;
    let waiting = ask(&site, Port::Readiness, "GET", "/healthz/ready");
    assert_eq!(waiting.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body(waiting).await, "NOT READY: no configuration yet\n");
    site.vitals.configured.store(true, Ordering::Relaxed);
    assert_eq!(get(&site, "/ready").await, "LIVE\n");
    site.shared.draining.store(true, Ordering::Relaxed);
    let draining = ask(&site, Port::Admin, "GET", "/ready");
    assert_eq!(body(draining).await, "NOT READY: draining\n");
}

#[tokio::test]
async fn metrics_come_in_both_forms() {
    let site = site().await;
    site.vitals.set_connected(true);
    assert!(
        get(&site, "/stats/prometheus")
            .await
            .contains("\noutrigger_xds_connected 1\n")
    );
    let plain = get(&site, "/stats?filter=xds_connected").await;
    assert_eq!(plain, "outrigger_xds_connected: 1\n");
}

#[tokio::test]
async fn clusters_show_limits_and_endpoints() {
    let site = site().await;
    let parsed = convert::cluster::convert(&cluster(CLUSTER)).unwrap();
    let endpoints: Vec<EndpointConfig> =
        convert::endpoint::convert(&assignment(CLUSTER, &[("10.0.0.1", 80)])).unwrap();
    let mut builder = SnapshotBuilder::default();
    let built = Cluster::new(parsed.config, endpoints, None);
    builder.set_cluster(CLUSTER, Some(Arc::new(built)));
    site.shared.snapshot.publish(builder.build());
    let plain = get(&site, "/clusters").await;
    assert!(plain.contains(&format!(
        "{CLUSTER}::default_priority::max_connections::100\n"
    )));
    assert!(plain.contains(&format!("{CLUSTER}::10.0.0.1:80::health_flags::healthy\n")));
    let json: Value = serde_json::from_str(&get(&site, "/clusters?format=json").await).unwrap();
    let shown = &json["clusters"][0];
    assert_eq!(shown["name"], CLUSTER);
    assert_eq!(shown["position"], "dr.yaml:3:1");
    assert_eq!(shown["limits"]["connections"]["limit"], 100);
    assert_eq!(shown["limits"]["requests"]["limit"], Value::Null);
    assert_eq!(shown["endpoints"][0]["address"], "10.0.0.1:80");
    assert_eq!(shown["endpoints"][0]["ejected"], false);
    assert_eq!(shown["breaker"], Value::Null);
}

#[tokio::test]
async fn clusters_show_their_circuit_breakers() {
    let site = site().await;
    let mut parsed = convert::cluster::convert(&cluster(CLUSTER)).unwrap();
    parsed.config.breaker = Some(BreakerConfig {
        consecutive_failures: 1,
        reset_timeout: Duration::from_secs(30),
        for_endpoints: true,
        for_service: true,
        position: Some("dp.yaml:7:3".into()),
    });
    let endpoints = convert::endpoint::convert(&assignment(CLUSTER, &[("10.0.0.1", 80)])).unwrap();
    let built = Cluster::new(parsed.config, endpoints, None);
    let mut context = PickContext {
        hash: None,
        tried: &[],
        previous_priorities: &[],
        now: site.shared.now(),
        rng: &mut fastrand::Rng::with_seed(1),
    };
    let picked = built.pick(&mut context).unwrap();
    built.report(&picked, Outcome::LocalError, site.shared.now());
    let mut builder = SnapshotBuilder::default();
    builder.set_cluster(CLUSTER, Some(Arc::new(built)));
    site.shared.snapshot.publish(builder.build());
    let plain = get(&site, "/clusters").await;
    for line in [
        "breaker::state::open",
        "breaker::endpoint_opened::1",
        "10.0.0.1:80::breaker::open",
    ] {
        assert!(plain.contains(&format!("{CLUSTER}::{line}\n")), "{plain}");
    }
    let json: Value = serde_json::from_str(&get(&site, "/clusters?format=json").await).unwrap();
    let shown = &json["clusters"][0];
    assert_eq!(shown["breaker"]["service"], "open");
    assert_eq!(shown["breaker"]["opened"], 2);
    assert_eq!(shown["breaker"]["position"], "dp.yaml:7:3");
    assert_eq!(shown["endpoints"][0]["breaker"], "open");
}

#[tokio::test]
async fn the_dump_shows_what_is_in_force_and_what_was_refused() {
    let site = site().await;
    let mut engine = Engine::new(
        Node {
            id: "me".to_owned(),
            ..Node::default()
        },
        true,
    );
    engine.connected(Instant::now());
    let mut answer = |version: &str, message| {
        let resource = Resource {
            name: CLUSTER.to_owned(),
            version: version.to_owned(),
            resource: Some(any(Kind::Cluster.message(), &message)),
            ..Resource::default()
        };
        let response = DeltaDiscoveryResponse {
            type_url: Kind::Cluster.type_url(),
            resources: vec![resource],
            ..DeltaDiscoveryResponse::default()
        };
        engine.response(response, Instant::now());
    };
    answer("1", cluster(CLUSTER));
    let mut bad = cluster(CLUSTER);
    bad.lb_policy = 99;
    answer("2", bad);
    site.engine.get_or_init(|| Arc::new(Mutex::new(engine)));
    let dump: Value =
        serde_json::from_str(&get(&site, "/config_dump?resource=clusters").await).unwrap();
    assert_eq!(dump["node"]["id"], "me");
    let shown = &dump["generic_xds_configs"][0];
    assert_eq!(
        (
            shown["version_info"].as_str(),
            shown["client_status"].as_str()
        ),
        (Some("1"), Some("NACKED"))
    );
    assert_eq!(shown["xds_config"]["name"], CLUSTER);
    let tls =
        &shown["xds_config"]["transport_socket_matches"][0]["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"], "outbound_.9080_.v1_.reviews");
    assert_eq!(shown["error_state"]["version_info"], "2");
    assert!(
        shown["error_state"]["details"]
            .as_str()
            .unwrap()
            .contains("lb_policy: 99 is unknown")
    );
    let none: Value = serde_json::from_str(&get(&site, "/config_dump?name=nobody").await).unwrap();
    assert_eq!(none["generic_xds_configs"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_private_key_from_a_server_never_reaches_the_dump() {
    use outrigger_proto::envoy::{
        config::core::v3::{DataSource, data_source},
        extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret},
    };
    let site = site().await;
    let mut engine = Engine::new(Node::default(), true);
    let now = Instant::now();
    engine.connected(now);
    let tell = |engine: &mut Engine, kind: Kind, name: &str, any| {
        let resource = Resource {
            name: name.to_owned(),
            resource: Some(any),
            ..Resource::default()
        };
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url(),
            resources: vec![resource],
            ..DeltaDiscoveryResponse::default()
        };
        engine.response(response, now)
    };
    tell(
        &mut engine,
        Kind::Cluster,
        CLUSTER,
        any(Kind::Cluster.message(), &cluster(CLUSTER)),
    );
    let key = DataSource {
        specifier: Some(data_source::Specifier::InlineString(
            "TOP-SECRET".to_owned(),
        )),
        ..DataSource::default()
    };
    let secret = Secret {
        r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
            private_key: Some(key),
            ..TlsCertificate::default()
        })),
        ..bundle("")
    };
    tell(
        &mut engine,
        Kind::Secret,
        "ROOTCA",
        any(Kind::Secret.message(), &secret),
    );
    site.engine.get_or_init(|| Arc::new(Mutex::new(engine)));
    let dump = get(&site, "/config_dump").await;
    assert!(dump.contains("tls_certificate: not supported yet"));
    assert!(!dump.contains("TOP-SECRET") && !dump.contains("VE9QLVNFQ1JFV"));
}

#[tokio::test]
async fn pages_are_served_over_a_socket() {
    let site = site().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, Port::Metrics, site, Arc::default()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: anything\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("outrigger_registered 0"),
        "{answer}"
    );
    server.abort();
}
