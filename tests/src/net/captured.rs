//! A mesh over several hosts whose applications know nothing of it: rules of the kernel on each, a sidecar as a user of
//! its own, the control plane on a host apart.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard},
};

use super::{Host, Network, SIDECAR};
use crate::{Mesh, Process, eventually};

/// A control plane on a host, and more hosts.
#[derive(Debug)]
pub struct CapturedMesh {
    /// The switch.
    pub network: Network,
    /// The control plane, and its operator.
    pub mesh: Mesh,
}

/// A host with rules, a sidecar, and perhaps an application.
#[derive(Debug)]
pub struct Member {
    service: String,
    /// Where it runs.
    pub host: Host,
    args: Vec<String>,
    process: Mutex<Process>,
}

impl CapturedMesh {
    /// Starts the control plane. None, with a loud remark, where there can be no hosts.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// The same with further flags.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(flags: &[&str]) -> Option<Self> {
        let network = Network::start()?;
        let mesh = Mesh::start_on(&network.host("control"), flags).await;
        Some(Self { network, mesh })
    }

    /// A member that only calls others.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn client(&self, service: &str, rules: &str) -> Member {
        let host = self.network.host(service);
        self.join(service, host, rules, &[]).await
    }

    /// A member whose application listens on this port of the host, which others reach it at by this address of it.
    ///
    /// # Panics
    /// When it does not start, or is not healthy.
    pub async fn server(
        &self,
        service: &str,
        host: &Host,
        reached_at: IpAddr,
        port: u16,
        flags: &[&str],
    ) -> Member {
        let healthy = self.mesh.healthy(service);
        let (app, at, port) = (
            format!("127.0.0.1:{port}"),
            reached_at.to_string(),
            port.to_string(),
        );
        let mut args = vec!["--app", &app, "--port", &port, "--advertise-address", &at];
        args.extend_from_slice(flags);
        let member = self.join(service, host.clone(), "", &args).await;
        eventually(
            &format!("{service} is registered and healthy"),
            async || {
                let now = self.mesh.healthy(service);
                if now > healthy {
                    Ok(())
                } else {
                    Err(format!("{now} healthy instances"))
                }
            },
        )
        .await;
        member
    }

    /// Rules first, then the sidecar, which is ready when they bring it its own probe.
    async fn join(&self, service: &str, host: Host, rules: &str, args: &[&str]) -> Member {
        host.must_redirect(&format!("apply {rules}"));
        let given = args.iter().map(|word| (*word).to_owned());
        let args: Vec<String> = ["--service", service]
            .map(str::to_owned)
            .into_iter()
            .chain(given)
            .collect();
        let process = self.sidecar(&host, service, &args).await;
        Member {
            service: service.to_owned(),
            host,
            args,
            process: Mutex::new(process),
        }
    }

    async fn sidecar(&self, host: &Host, service: &str, further: &[String]) -> Process {
        let mut args: Vec<String> = [
            "sidecar",
            "--exit-with-parent",
            "--capture=redirect",
            "--dns=127.0.0.1:15053",
            "--workers=1",
            "--control-plane",
            &self.mesh.url(),
        ]
        .map(str::to_owned)
        .to_vec();
        args.extend_from_slice(further);
        let token = self.mesh.join_token("default", service);
        let env = [("OUTRIGGER_JOIN_TOKEN", token.as_str())];
        Process::ready(host.as_user(SIDECAR).spawn("sidecar", &args, &env)).await
    }

    /// Starts a member's sidecar again, which was killed.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn revive(&self, member: &Member) {
        let again = self
            .sidecar(&member.host, &member.service, &member.args)
            .await;
        *member.process() = again;
    }
}

impl Member {
    /// Its sidecar.
    ///
    /// # Panics
    /// When another thread has while it used it.
    pub fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("nobody else has panicked")
    }
}
