//! gRPC without a proxy: servers, and a client of gRPC's own xDS, both in one process of `tools/grpc_peer.py`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Mesh, Process, WorkloadIdentity,
    binary::workspace,
    tools::{missing, tool},
};

/// A running pair.
#[derive(Debug)]
pub struct GrpcPeer {
    process: Process,
    /// Ports of the servers by name.
    pub servers: BTreeMap<String, u16>,
    /// Files that it reads.
    _files: Option<(TempDir, WorkloadIdentity)>,
}

/// What came of some calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcomes {
    /// How often each server answered.
    pub names: BTreeMap<String, u64>,
    /// How often each error was seen: `UNAVAILABLE: why`.
    pub errors: BTreeMap<String, u64>,
    /// How long it took.
    pub seconds: f64,
}

impl GrpcPeer {
    /// Starts servers with these names, and a client that is the workload `service` and knows the address of the
    /// control plane. None, with a loud remark, if there is no grpcio.
    ///
    /// # Panics
    /// When it does not start, or is missing in CI.
    pub async fn start(mesh: &Mesh, service: &str, servers: &[&str]) -> Option<Self> {
        Self::start_with(mesh, service, servers, false).await
    }

    /// The same; its client has the workload's certificates for mTLS.
    ///
    /// # Panics
    /// When it does not start, or is missing in CI.
    pub async fn start_with_certificates(
        mesh: &Mesh,
        service: &str,
        servers: &[&str],
    ) -> Option<Self> {
        Self::start_with(mesh, service, servers, true).await
    }

    async fn start_with(
        mesh: &Mesh,
        service: &str,
        servers: &[&str],
        certificates: bool,
    ) -> Option<Self> {
        python()?;
        let dir = tempfile::tempdir().expect("a directory");
        let identity = WorkloadIdentity::join(mesh, service).await;
        let bootstrap = dir.path().join("bootstrap.json");
        fs::write(
            &bootstrap,
            bootstrap_of(mesh, service, &identity, certificates).to_string(),
        )
        .expect("written");
        let mut peer = Self::start_from(&bootstrap, servers).await?;
        peer._files = Some((dir, identity));
        Some(peer)
    }

    /// Starts servers and a client with nothing but this bootstrap file.
    ///
    /// # Panics
    /// When it does not start, or is missing in CI.
    pub async fn start_from(bootstrap: &Path, servers: &[&str]) -> Option<Self> {
        let [python, script] = Self::command()?;
        let mut args = vec![script];
        args.extend(servers.iter().map(|name| (*name).to_owned()));
        let file = bootstrap.display().to_string();
        let process = Process::spawn_tool(
            "grpc_peer",
            Path::new(&python),
            &args,
            &[("GRPC_XDS_BOOTSTRAP", file.as_str())],
        );
        Some(Self::of(process).await)
    }

    /// The same in Node.js: `@grpc/grpc-js` with `@grpc/grpc-js-xds`.
    ///
    /// # Panics
    /// When it does not start, or is missing in CI.
    pub async fn start_node_from(bootstrap: &Path, servers: &[&str]) -> Option<Self> {
        let mut args = vec![
            workspace()
                .join("tests/tools/node/grpc_peer.js")
                .display()
                .to_string(),
        ];
        args.extend(servers.iter().map(|name| (*name).to_owned()));
        let file = bootstrap.display().to_string();
        let environment = [("GRPC_XDS_BOOTSTRAP", file.as_str())];
        let process = Process::spawn_tool("grpc_peer.js", &node()?, &args, &environment);
        Some(Self::of(process).await)
    }

    /// The program and its script, for somebody else to start. None, with a loud remark, if there is no grpcio.
    ///
    /// # Panics
    /// When it is missing in CI.
    pub fn command() -> Option<[String; 2]> {
        let script = workspace().join("tests/tools/grpc_peer.py");
        Some([python()?, script].map(|path| path.display().to_string()))
    }

    /// One that was started so; waits until it is ready.
    ///
    /// # Panics
    /// When it is not.
    pub async fn of(mut process: Process) -> Self {
        let line = process.line().await;
        let ready = line.strip_prefix("ready ").expect("it is ready");
        Self {
            process,
            servers: serde_json::from_str(ready).expect("ports by name"),
            _files: None,
        }
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Makes calls: `{"target": "xds:///reviews:9080", "count": 10, …}`, see the script.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn call(&mut self, asked: Value) -> Outcomes {
        self.process.tell(&asked.to_string());
        outcomes(&parse(&self.process.line().await))
    }

    /// Calls about a hundred times a second, until [`Self::stop`].
    ///
    /// # Panics
    /// When it does not begin.
    pub async fn hammer(&mut self, target: &str) {
        self.process
            .tell(&json!({ "target": target, "hammer": true }).to_string());
        self.process.line().await;
    }

    /// Ends what [`Self::hammer`] began.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn stop(&mut self) -> Outcomes {
        self.process.tell(&json!({ "stop": true }).to_string());
        let told = parse(&self.process.line().await);
        let mut sum = Outcomes::default();
        for one in told.as_array().into_iter().flatten().map(outcomes) {
            for (name, count) in one.names {
                *sum.names.entry(name).or_default() += count;
            }
            for (error, count) in one.errors {
                *sum.errors.entry(error).or_default() += count;
            }
        }
        sum
    }
}

impl Outcomes {
    /// All that were made.
    pub fn total(&self) -> u64 {
        self.names.values().chain(self.errors.values()).sum()
    }

    /// How many of a hundred a server answered.
    pub fn percent(&self, name: &str) -> u64 {
        self.names.get(name).copied().unwrap_or_default() * 100 / self.total().max(1)
    }
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

fn outcomes(told: &Value) -> Outcomes {
    let counts = |key: &str| {
        let counts = told[key].as_object().into_iter().flatten();
        let counts = counts.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
        counts.collect()
    };
    Outcomes {
        names: counts("names"),
        errors: counts("errors"),
        seconds: told["seconds"].as_f64().unwrap_or_default(),
    }
}

/// Of the virtual environment that `.ci/setup` makes.
fn python() -> Option<PathBuf> {
    let python = workspace().join("tests/.venv/bin/python");
    let found = Path::exists(&python).then_some(python);
    if found.is_none() {
        missing("grpcio", "run .ci/setup once");
    }
    found
}

/// Of the virtual environment, or this machine's, if `.ci/setup` has installed what it needs.
fn node() -> Option<PathBuf> {
    let own = workspace().join("tests/.venv/bin/node");
    let packages = workspace().join("tests/tools/node/node_modules/@grpc/grpc-js-xds");
    if !packages.is_dir() {
        missing("grpc-js", "run .ci/setup once");
        return None;
    }
    if own.is_file() {
        return Some(own);
    }
    tool("node", "run .ci/setup once")
}

/// A node as WIRE.md has it, reached over mTLS with certificates from files.
fn bootstrap_of(
    mesh: &Mesh,
    service: &str,
    identity: &WorkloadIdentity,
    certificates: bool,
) -> Value {
    let files = json!({
        "ca_certificate_file": mesh.data_dir().join("root.pem"),
        "certificate_file": identity.certificate,
        "private_key_file": identity.key,
        "refresh_interval": "600s",
    });
    let mut metadata = json!({ "NAMESPACE": "default", "SERVICE_ACCOUNT": service });
    let mut providers = json!({});
    if certificates {
        metadata["OUTRIGGER"] = json!({ "CERTIFICATE_PROVIDER": "default" });
        providers["default"] = json!({ "plugin_name": "file_watcher", "config": files });
    }
    json!({
        "xds_servers": [{
            "server_uri": format!("localhost:{}", mesh.grpc().port()),
            "channel_creds": [{ "type": "tls", "config": files }],
            "server_features": ["xds_v3"],
        }],
        "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
        "certificate_providers": providers,
        "node": {
            "id": format!("grpc~127.0.0.1~{service}-grpc.default~default.svc.cluster.local"),
            "cluster": format!("{service}.default"),
            "metadata": metadata,
        },
    })
}
