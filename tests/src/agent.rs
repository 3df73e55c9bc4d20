//! `outrigger agent` beside an application without a sidecar.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tempfile::TempDir;

use crate::{Mesh, Process, eventually, process};

/// An agent that is about to be started.
#[derive(Debug)]
pub struct AgentBuilder<'a> {
    mesh: &'a Mesh,
    service: String,
    app: Option<u16>,
    args: Vec<String>,
    dir: Arc<TempDir>,
    token: bool,
    plain: bool,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    /// What a gRPC library is told by `GRPC_XDS_BOOTSTRAP`.
    pub bootstrap: PathBuf,
    /// Its files; they stay while somebody holds them.
    pub dir: Arc<TempDir>,
    metrics: SocketAddr,
}

impl<'a> AgentBuilder<'a> {
    pub(crate) fn new(mesh: &'a Mesh, service: &str) -> Self {
        Self {
            mesh,
            service: service.to_owned(),
            app: None,
            args: Vec::new(),
            dir: Arc::new(tempfile::tempdir().expect("a directory")),
            token: true,
            plain: false,
        }
    }

    /// Its application listens on this port, which others call by 9080.
    #[must_use]
    pub fn app(mut self, port: u16) -> Self {
        self.app = Some(port);
        self
    }

    /// Any flag of `outrigger agent`.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// A flag without a value.
    #[must_use]
    pub fn switch(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    /// Begins with what another agent has left, and without a token.
    #[must_use]
    pub fn resuming(mut self, before: &Agent) -> Self {
        self.dir = Arc::clone(&before.dir);
        self.token = false;
        self
    }

    /// It has its identity from somebody else.
    #[must_use]
    pub fn without_token(mut self) -> Self {
        self.token = false;
        self
    }

    /// Without certificates: by the control plane's port of plain text.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self.token = false;
        self.flag("--mtls", "false")
    }

    /// The command line; the token is in the environment.
    fn arguments(&self) -> Vec<String> {
        let mut args = vec!["agent".to_owned()];
        let mut flag = |flag: &str, value: &str| args.extend([flag.to_owned(), value.to_owned()]);
        let url = if self.plain {
            format!("http://{}", self.mesh.plaintext())
        } else {
            self.mesh.url()
        };
        flag("--control-plane", &url);
        flag("--service", &self.service);
        flag(
            "--dir",
            &self.dir.path().join("files").display().to_string(),
        );
        for listener in ["--admin", "--metrics", "--readiness"] {
            flag(listener, "127.0.0.1:0");
        }
        if let Some(port) = self.app {
            flag("--app", &format!("127.0.0.1:{port}"));
            flag("--port", "9080");
        }
        args.extend(self.args.iter().cloned());
        args
    }

    fn token(&self) -> String {
        let token = self
            .token
            .then(|| self.mesh.join_token("default", &self.service));
        token.unwrap_or_default()
    }

    /// Starts it and waits for its files.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self) -> Agent {
        let mut args = self.arguments();
        args.push("--exit-with-parent".to_owned());
        let token = self.token();
        let name = format!("agent of {}", self.service);
        let process = Process::start(&name, &args, &[("OUTRIGGER_JOIN_TOKEN", &token)]).await;
        Agent {
            bootstrap: process.ready_text("bootstrap").into(),
            metrics: process.ready_text("metrics").parse().expect("an address"),
            dir: self.dir,
            process,
        }
    }

    /// Starts it with a command, whose standard input and output are the process's. Give its directory up last.
    pub fn run(self, command: &[&str]) -> (Process, Arc<TempDir>) {
        let mut args = self.arguments();
        args.push("--".to_owned());
        args.extend(command.iter().map(|word| (*word).to_owned()));
        let token = self.token();
        let name = format!("agent and command of {}", self.service);
        let process = Process::spawn(&name, &args, &[("OUTRIGGER_JOIN_TOKEN", &token)]);
        (process, self.dir)
    }
}

impl Agent {
    /// Its metrics: the sum of all series of one name.
    ///
    /// # Panics
    /// When the metrics cannot be read.
    pub async fn metric(&self, name: &str) -> f64 {
        crate::sidecar::metric(self.metrics, "/metrics", name).await
    }

    /// Waits for its end, and gives its exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> i32 {
        process::ended(&mut self.process).await
    }
}

impl Mesh {
    /// An application without a sidecar.
    pub fn agent(&self, service: &str) -> AgentBuilder<'_> {
        AgentBuilder::new(self, service)
    }

    /// Waits until a service has so many healthy instances.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn has_healthy(&self, service: &str, count: usize) {
        eventually(
            &format!("{service} has {count} healthy instances"),
            async || {
                let found = self.healthy(service);
                (found == count)
                    .then_some(())
                    .ok_or_else(|| found.to_string())
            },
        )
        .await;
    }
}
