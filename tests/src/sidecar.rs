//! A sidecar process, and where it listens.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard},
};

use crate::{Caller, Mesh, Process, TestApp, eventually};

/// A service that is about to be started beside its sidecar.
#[derive(Debug)]
pub struct Service<'a> {
    mesh: &'a Mesh,
    name: String,
    app: Option<SocketAddr>,
    args: Vec<String>,
}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    process: Mutex<Process>,
    /// HTTP proxy for its application.
    pub outbound: SocketAddr,
    /// mTLS for others; None if it only calls.
    pub inbound: Option<SocketAddr>,
    /// Admin.
    pub admin: SocketAddr,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
    /// Readiness.
    pub readiness: SocketAddr,
}

/// The port under which others call every service of the tests.
const PORT: &str = "9080";

impl<'a> Service<'a> {
    pub(crate) fn new(mesh: &'a Mesh, name: &str) -> Self {
        Self {
            mesh,
            name: name.to_owned(),
            app: None,
            args: Vec::new(),
        }
    }

    /// A label, e.g. `version`, `v2`.
    #[must_use]
    pub fn label(self, name: &str, value: &str) -> Self {
        self.flag("--label", &format!("{name}={value}"))
    }

    /// The application behind it.
    #[must_use]
    pub fn app(self, app: &TestApp) -> Self {
        self.app_at(app.address())
    }

    /// The application behind it, which listens here.
    #[must_use]
    pub fn app_at(mut self, address: SocketAddr) -> Self {
        self.app = Some(address);
        self.flag("--ready-path", "/healthz")
    }

    /// An application that speaks gRPC, which is ready when it can be connected to.
    #[must_use]
    pub fn grpc_app_at(mut self, address: SocketAddr) -> Self {
        self.app = Some(address);
        self.flag("--protocol", "grpc")
    }

    /// An application that speaks neither, which is ready when it can be connected to.
    #[must_use]
    pub fn tcp_app_at(mut self, address: SocketAddr) -> Self {
        self.app = Some(address);
        self.flag("--protocol", "tcp")
    }

    /// Any flag of `outrigger sidecar`.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Shows something else than a join token.
    fn has_credential(&self) -> bool {
        let others = ["--token-file", "--spiffe-endpoint-socket"];
        self.args.iter().any(|word| others.contains(&word.as_str()))
    }

    /// Starts the sidecar; with an application, waits until it is registered and healthy.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self) -> Sidecar {
        let healthy = self.mesh.healthy(&self.name);
        let token = match self.has_credential() {
            true => String::new(),
            false => self.mesh.join_token("default", &self.name),
        };
        let mut args: Vec<String> = ["sidecar", "--exit-with-parent"]
            .map(str::to_owned)
            .to_vec();
        let mut flag = |flag: &str, value: &str| args.extend([flag.to_owned(), value.to_owned()]);
        flag("--control-plane", &self.mesh.url());
        flag("--service", &self.name);
        for listener in [
            "--outbound",
            "--inbound",
            "--admin",
            "--metrics",
            "--readiness",
        ] {
            if !self.args.iter().any(|said| said == listener) {
                flag(listener, "127.0.0.1:0");
            }
        }
        if let Some(app) = self.app {
            flag("--app", &app.to_string());
            flag("--port", PORT);
            flag("--advertise-address", "127.0.0.1");
        }
        args.extend(self.args);
        let name = format!("sidecar of {}", self.name);
        let process = Process::start(&name, &args, &[("OUTRIGGER_JOIN_TOKEN", &token)]).await;
        let address = |field| process.ready_text(field).parse().expect("an address");
        let sidecar = Sidecar {
            outbound: address("outbound"),
            inbound: process.ready["inbound"]
                .as_str()
                .map(|text| text.parse().expect("an address")),
            admin: address("admin"),
            metrics: address("metrics"),
            readiness: address("readiness"),
            process: Mutex::new(process),
        };
        if self.app.is_some() {
            eventually(
                &format!("{} is registered and healthy", self.name),
                async || {
                    let now = self.mesh.healthy(&self.name);
                    if now > healthy {
                        Ok(())
                    } else {
                        Err(format!("{now} healthy instances"))
                    }
                },
            )
            .await;
        }
        sidecar
    }
}

impl Sidecar {
    /// Calls others as its application does.
    pub fn caller(&self) -> Caller {
        Caller::through(self.outbound)
    }

    /// The process.
    ///
    /// # Panics
    /// When another thread has while it used the process.
    pub fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("nobody else has panicked")
    }

    /// Waits for its end, and gives its exit code; -1 if a signal ended it.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&self) -> i32 {
        eventually("the sidecar ends", async || {
            let status = self.process().ended();
            status.map_or_else(
                || Err("it runs".to_owned()),
                |status| Ok(status.code().unwrap_or(-1)),
            )
        })
        .await
    }

    /// The address of a listener that a `Sidecar` document declared, e.g. `127.0.0.1_9080`.
    pub fn listener(&self, name: &str) -> Option<SocketAddr> {
        self.process().ready["listeners"][name]
            .as_str()?
            .parse()
            .ok()
    }

    /// `GET path` of its admin side.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn admin(&self, path: &str) -> String {
        let reply = Caller::through(self.admin)
            .get(&self.admin.to_string(), path)
            .await;
        String::from_utf8_lossy(&reply.body).into_owned()
    }

    /// Its metrics: the sum of all series of one name.
    ///
    /// # Panics
    /// When the metrics cannot be read.
    pub async fn metric(&self, name: &str) -> f64 {
        metric(self.metrics, "/stats/prometheus", name).await
    }
}

/// The sum of all series of one name in Prometheus text.
pub(crate) async fn metric(address: SocketAddr, path: &str, name: &str) -> f64 {
    let reply = Caller::through(address)
        .get(&address.to_string(), path)
        .await;
    let text = String::from_utf8_lossy(&reply.body);
    assert!(reply.status.is_success(), "{path}: {}", reply.text());
    assert!(
        text.contains(&format!("# TYPE {name} ")),
        "no metric {name} in\n{text}"
    );
    text.lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
