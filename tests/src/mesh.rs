//! A control plane of the test's own, and the operator's command line against it.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Host, Process, Service, eventually, outrigger};

/// A control plane with its own data directory.
#[derive(Debug)]
pub struct Mesh {
    // The process before its directory.
    control_plane: Mutex<Process>,
    grpc: SocketAddr,
    http: SocketAddr,
    extra: Vec<String>,
    /// Where it runs, and its operator. None: here.
    host: Option<Host>,
    dir: TempDir,
}

/// How a command of the operator ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit status.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Mesh {
    /// Starts a control plane on free ports.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further flags.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(extra: &[&str]) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::start_at(None, [any, any], extra).await
    }

    /// Starts a control plane at the usual ports of a host.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_on(host: &Host, extra: &[&str]) -> Self {
        let ports = [15012, 15014].map(|port| SocketAddr::new(host.v4(), port));
        let name = host.v4().to_string();
        let extra = [&["--server-name", name.as_str()], extra].concat();
        Self::start_at(Some(host.clone()), ports, &extra).await
    }

    async fn start_at(host: Option<Host>, at: [SocketAddr; 2], extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let extra: Vec<String> = extra.iter().map(|flag| (*flag).to_owned()).collect();
        let control_plane = control_plane(host.as_ref(), dir.path(), at, &extra).await;
        let address = |field| control_plane.ready_text(field).parse().expect("an address");
        Self {
            grpc: address("grpc"),
            http: address("http"),
            control_plane: Mutex::new(control_plane),
            extra,
            host,
            dir,
        }
    }

    /// `kill -9` of the control plane.
    ///
    /// # Panics
    /// When another thread has while it did the same.
    pub fn kill_control_plane(&self) {
        self.control_plane
            .lock()
            .expect("nobody else has panicked")
            .kill();
    }

    /// Starts the control plane again, where it was and with what it had.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart_control_plane(&self) {
        let at = [self.grpc, self.http];
        let again = control_plane(self.host.as_ref(), self.dir.path(), at, &self.extra).await;
        *self.control_plane.lock().expect("nobody else has panicked") = again;
    }

    /// What the control plane has logged since it was started.
    ///
    /// # Panics
    /// When a reader of logs has.
    pub fn log(&self) -> String {
        self.control_plane
            .lock()
            .expect("nobody else has panicked")
            .log()
    }

    /// The control plane's process number.
    ///
    /// # Panics
    /// When another thread has while it used the process.
    pub fn control_plane_pid(&self) -> u32 {
        self.control_plane
            .lock()
            .expect("nobody else has panicked")
            .pid()
    }

    /// Where the control plane listens, as sidecars are told.
    pub fn url(&self) -> String {
        format!("https://{}", self.grpc)
    }

    /// Where it listens in plain text, if it was told to.
    ///
    /// # Panics
    /// When it was not.
    pub fn plaintext(&self) -> SocketAddr {
        let process = self.control_plane.lock().expect("nobody else has panicked");
        let address = process.ready_text("plaintext");
        address.parse().expect("an address")
    }

    /// Address of its TLS port.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A service to start beside a sidecar; without an application it only calls others.
    pub fn service(&self, name: &str) -> Service<'_> {
        Service::new(self, name)
    }

    /// Runs `outrigger args… --control-plane … --data-dir …`, as its operator would.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn cli(&self, args: &[&str]) -> Output {
        self.cli_with_input(args, "")
    }

    /// The same with something on its standard input.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn cli_with_input(&self, args: &[&str], input: &str) -> Output {
        let mut command = match &self.host {
            Some(host) => host.command(&host.outrigger()),
            None => Command::new(outrigger()),
        };
        let mut child = command
            .args(args)
            .args(["--control-plane", &self.url(), "--data-dir"])
            .arg(self.data_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("outrigger runs");
        let mut stdin = child.stdin.take().expect("a pipe was asked for");
        let input = input.to_owned();
        // Beside the reading, or a command that says much before it reads would block us both.
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).ok());
        let output = child.wait_with_output().expect("outrigger ends");
        writer.join().ok();
        Output {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// `outrigger apply -f -`.
    ///
    /// # Panics
    /// When it is refused.
    pub fn apply(&self, yaml: &str) -> String {
        let output = self.cli_with_input(&["apply", "-f", "-"], yaml);
        assert_eq!(output.status, 0, "{}\n{yaml}", output.stderr);
        output.stdout
    }

    /// `outrigger status -o json`.
    ///
    /// # Panics
    /// When it fails.
    pub fn status(&self) -> Value {
        let output = self.cli(&["status", "-o", "json"]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        serde_json::from_str(&output.stdout).expect("status gives JSON")
    }

    /// `outrigger token create`.
    ///
    /// # Panics
    /// When it fails.
    pub fn join_token(&self, namespace: &str, service_account: &str) -> String {
        let output = self.cli(&["token", "create", service_account, "-n", namespace]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        output.stdout.trim().to_owned()
    }

    /// Waits until every connected sidecar has accepted the newest configuration.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn synced(&self) {
        eventually("every sidecar is synced", async || {
            let status = self.status();
            let states: Vec<&Value> = status["sidecars"]
                .as_array()
                .map(|sidecars| sidecars.iter().map(|sidecar| &sidecar["state"]).collect())
                .unwrap_or_default();
            if !states.is_empty() && states.iter().all(|state| *state == "synced") {
                Ok(())
            } else {
                Err(status["sidecars"].to_string())
            }
        })
        .await;
    }

    /// The number of healthy instances of a service, by its short name.
    pub fn healthy(&self, service: &str) -> usize {
        let status = self.status();
        let services = status["services"].as_array().into_iter().flatten();
        services
            .filter(|found| {
                found["host"]
                    .as_str()
                    .and_then(|host| host.split('.').next())
                    == Some(service)
            })
            .flat_map(|found| found["instances"].as_array().into_iter().flatten())
            .filter(|instance| instance["health"] == "HEALTHY")
            .count()
    }

    /// The control plane's metrics: the sum of all series of one name.
    ///
    /// # Panics
    /// When the metrics cannot be read.
    pub async fn metric(&self, name: &str) -> f64 {
        crate::sidecar::metric(self.http, "/metrics", name).await
    }
}

async fn control_plane(
    host: Option<&Host>,
    dir: &Path,
    [grpc, http]: [SocketAddr; 2],
    extra: &[String],
) -> Process {
    let mut args: Vec<String> = ["control-plane", "--exit-with-parent"]
        .map(str::to_owned)
        .to_vec();
    for (flag, value) in [
        ("--grpc", grpc.to_string()),
        ("--http", http.to_string()),
        ("--data-dir", dir.join("state").display().to_string()),
    ] {
        args.extend([flag.to_owned(), value]);
    }
    args.extend_from_slice(extra);
    match host {
        Some(host) => Process::ready(host.spawn("control-plane", &args, &[])).await,
        None => Process::start("control-plane", &args, &[]).await,
    }
}
