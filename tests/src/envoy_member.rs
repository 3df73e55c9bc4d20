//! Stock Envoy as a member of the mesh: `outrigger agent --envoy` beside it, which it has its key and its bootstrap file
//! from.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tempfile::TempDir;

use crate::{Caller, Mesh, Process, TestApp, bytes::free_port, envoy, eventually};

/// An agent with its Envoy.
#[derive(Debug)]
pub struct EnvoyMember {
    process: Process,
    /// HTTP proxy for its application.
    pub outbound: SocketAddr,
    /// mTLS for others.
    pub inbound: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
    dir: Arc<TempDir>,
}

impl EnvoyMember {
    /// Starts it as the sidecar of `service`, with its application if there is one, and waits until Envoy listens. None,
    /// with a loud remark, if there is no Envoy.
    ///
    /// # Panics
    /// When it does not start, or is missing in CI.
    pub async fn start(
        mesh: &Mesh,
        service: &str,
        app: Option<&TestApp>,
        flags: &[(&str, &str)],
    ) -> Option<Self> {
        let program = envoy::program()?.display().to_string();
        let [outbound, inbound, admin] =
            [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut agent = mesh
            .agent(service)
            .flag("--outbound", &outbound.to_string())
            .flag("--inbound", &inbound.to_string())
            .flag("--envoy-admin", &admin.to_string())
            .switch("--envoy")
            .switch("--exit-with-parent");
        if let Some(app) = app {
            agent = agent.app(app.address().port());
        }
        for (flag, value) in flags {
            agent = agent.flag(flag, value);
        }
        let command = [
            program.as_str(),
            "-c",
            "{bootstrap}",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--disable-hot-restart",
        ];
        let (mut process, dir) = agent.run(&command);
        eventually("Envoy listens", async || {
            assert!(
                process.ended().is_none(),
                "the agent ended: {}",
                process.log()
            );
            envoy::ready(admin).await.map(drop)
        })
        .await;
        Some(Self {
            process,
            outbound,
            inbound,
            admin,
            dir,
        })
    }

    /// Calls others as its application does.
    pub fn caller(&self) -> Caller {
        Caller::through(self.outbound)
    }

    /// What agent and Envoy have logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The agent's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The agent's directory.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// `GET path` of Envoy's admin side.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn admin(&self, path: &str) -> String {
        let reply = Caller::through(self.admin).get("admin", path).await;
        String::from_utf8_lossy(&reply.body).into_owned()
    }

    /// The sum of Envoy's counters whose name ends so.
    pub async fn count(&self, suffix: &str) -> u64 {
        let page = self.admin("/stats").await;
        let counts = page.lines().filter_map(|line| {
            let (name, count) = line.split_once(": ")?;
            name.ends_with(suffix).then(|| count.parse::<u64>().ok())?
        });
        counts.sum()
    }
}
