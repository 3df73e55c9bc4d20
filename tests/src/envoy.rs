//! Stock Envoy as the sidecar of a service, configured by our control plane and nothing else.
//!
//! It is in r1/z1/s1, and says about itself what our sidecar says (`docs/WIRE.md`, Node) and holds the operator's token instead of an
//! identity: it calls endpoints in plain text only, because private keys never come over xDS.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Caller, Mesh, Process, binary::workspace, eventually, tools::missing};

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    /// HTTP proxy for its application.
    pub outbound: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
    _dir: TempDir,
}

/// How it asks for its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asks {
    /// In the state-of-the-world protocol instead of the incremental one.
    pub sotw: bool,
    /// For virtual hosts and clusters as requests need them.
    pub on_demand: bool,
    /// For clusters and for listeners on a stream each, and for the rest over ADS.
    pub apart: bool,
    /// Another address than the control plane's own.
    pub through: Option<SocketAddr>,
}

impl Envoy {
    /// Starts it as a sidecar of `service` with these labels, and waits until it listens. None, with a loud remark,
    /// if there is no Envoy.
    ///
    /// # Panics
    /// When it does not start, or is missing in CI.
    pub async fn start(mesh: &Mesh, service: &str, labels: &[(&str, &str)]) -> Option<Self> {
        Self::start_asking(mesh, service, labels, Asks::default()).await
    }

    /// The same, with another way to ask.
    ///
    /// # Panics
    /// When it does not start, or is missing in CI.
    pub async fn start_asking(
        mesh: &Mesh,
        service: &str,
        labels: &[(&str, &str)],
        asks: Asks,
    ) -> Option<Self> {
        let program = program()?;
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("bootstrap.json");
        let admin_file = dir.path().join("admin");
        fs::write(&config, bootstrap(mesh, service, labels, asks).to_string()).expect("written");
        let args = [
            "--config-path",
            &config.display().to_string(),
            "--admin-address-path",
            &admin_file.display().to_string(),
            // Its limits and turns hold for each worker.
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--disable-hot-restart",
        ];
        let mut process = Process::spawn_foreign("envoy", &program, &args.map(str::to_owned));
        let (admin, outbound) = eventually("Envoy listens", async || {
            assert!(process.ended().is_none(), "Envoy ended: {}", process.log());
            listening(&admin_file).await
        })
        .await;
        Some(Self {
            process,
            outbound,
            admin,
            _dir: dir,
        })
    }

    /// Calls others as its application does.
    pub fn caller(&self) -> Caller {
        Caller::through(self.outbound)
    }

    /// What it has logged: warnings and errors, each refused resource among them.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// `GET path` of its admin side.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn admin(&self, path: &str) -> String {
        let reply = Caller::through(self.admin).get("admin", path).await;
        String::from_utf8_lossy(&reply.body).into_owned()
    }
}

async fn listening(admin_file: &Path) -> Result<(SocketAddr, SocketAddr), String> {
    let admin = fs::read_to_string(admin_file).map_err(|error| error.to_string())?;
    let admin: SocketAddr = admin
        .trim()
        .parse()
        .map_err(|error| format!("{admin:?}: {error}"))?;
    Ok((admin, ready(admin).await?))
}

/// Where its HTTP proxy listens, once it does.
pub(crate) async fn ready(admin: SocketAddr) -> Result<SocketAddr, String> {
    let there = tokio::net::TcpStream::connect(admin).await;
    there.map_err(|error| error.to_string())?;
    let ready = Caller::through(admin).get("admin", "/ready").await;
    if ready.status != 200 {
        return Err(String::from_utf8_lossy(&ready.body).into_owned());
    }
    let reply = Caller::through(admin).get("admin", "/listeners").await;
    let text = String::from_utf8_lossy(&reply.body);
    let proxy = text
        .lines()
        .find_map(|line| line.strip_prefix("http_proxy::"))
        .and_then(|address| address.trim().parse().ok());
    proxy.ok_or_else(|| format!("listeners: {text}"))
}

/// Where `bench/setup.sh` puts it, or `ENVOY_BIN`. The executable inside the wheel: its launcher in `bin/` would be a
/// Python process in between.
pub(crate) fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY_BIN") {
        return Some(PathBuf::from(path));
    }
    let found = fs::read_dir(workspace().join("bench/.venv/lib"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.exists());
    if found.is_none() {
        missing("Envoy", "run bench/setup.sh once");
    }
    found
}

/// A node as our sidecar's, all of xDS over one stream to our control plane, its load reports, and nothing else.
fn bootstrap(mesh: &Mesh, service: &str, labels: &[(&str, &str)], asks: Asks) -> Value {
    let token = fs::read_to_string(mesh.data_dir().join("admin.token")).expect("a token");
    let labels: serde_json::Map<String, Value> = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
        .collect();
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    let any = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } });
    let http2 = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { "http2_protocol_options": {} },
    });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "localhost",
        "common_tls_context": {
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
            "alpn_protocols": ["h2"],
            "validation_context": {
                "trusted_ca": { "filename": mesh.data_dir().join("root.pem") },
                "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "localhost" } }],
            },
        },
    });
    let grpc = asks.through.unwrap_or_else(|| mesh.grpc());
    let endpoint = json!({ "socket_address": { "address": grpc.ip().to_string(), "port_value": grpc.port() } });
    let grpc_service = json!({
        "envoy_grpc": { "cluster_name": "control-plane" },
        "initial_metadata": [{ "key": "authorization", "value": format!("Bearer {}", token.trim()) }],
    });
    let api_type = if asks.sotw { "GRPC" } else { "DELTA_GRPC" };
    let over_grpc = json!({
        "api_type": api_type,
        "transport_api_version": "V3",
        "set_node_on_first_message_only": true,
        "grpc_services": [grpc_service],
    });
    let source = if asks.apart {
        json!({ "api_config_source": over_grpc, "resource_api_version": "V3" })
    } else {
        ads
    };
    json!({
        "cluster_manager": { "load_stats_config": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [grpc_service],
        }},
        "node": {
            "id": format!("sidecar~127.0.0.1~{service}-envoy.default~default.svc.cluster.local"),
            "cluster": format!("{service}.default"),
            "locality": { "region": "r1", "zone": "z1", "sub_zone": "s1" },
            "metadata": {
                "NAMESPACE": "default",
                "SERVICE_ACCOUNT": service,
                "WORKLOAD_NAME": service,
                "LABELS": labels,
                "OUTRIGGER": { "HTTP_PROXY": "127.0.0.1:0", "SERVICE": service, "ON_DEMAND": asks.on_demand },
            },
        },
        "admin": { "address": any },
        "dynamic_resources": {
            "ads_config": over_grpc,
            "lds_config": source,
            // Without it no clusters but those that requests need.
            "cds_config": if asks.on_demand { Value::Null } else { source },
        },
        "static_resources": { "clusters": [{
            "name": "control-plane",
            "type": "STATIC",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2,
            },
            "load_assignment": {
                "cluster_name": "control-plane",
                "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": endpoint } }] }],
            },
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
        }] },
    })
}
