//! `outrigger run`: a sidecar and its application as one process of the test's.

use crate::{Mesh, Process};

/// A sidecar with its application that is about to be started.
#[derive(Debug)]
pub struct RunBuilder<'a> {
    mesh: &'a Mesh,
    service: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    url: String,
}

impl Mesh {
    /// A service as `outrigger run` starts it, on free ports.
    pub fn run(&self, service: &str) -> RunBuilder<'_> {
        RunBuilder {
            mesh: self,
            service: service.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            url: self.url(),
        }
    }
}

impl RunBuilder<'_> {
    /// Any flag of `outrigger run`.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// It looks for its control plane here.
    #[must_use]
    pub fn control_plane(mut self, url: &str) -> Self {
        url.clone_into(&mut self.url);
        self
    }

    /// Its application is a server, whose port it is told as `PORT`; others call it by 9080.
    #[must_use]
    pub fn app(self) -> Self {
        self.flag("--app", "127.0.0.1:0")
            .flag("--port", "9080")
            .flag("--advertise-address", "127.0.0.1")
    }

    /// The arguments of `outrigger`, with a join token in the environment.
    pub fn arguments(&self, command: &[&str]) -> (Vec<String>, Vec<(String, String)>) {
        let mut args = vec!["run".to_owned()];
        let mut flag = |flag: &str, value: &str| args.extend([flag.to_owned(), value.to_owned()]);
        flag("--control-plane", &self.url);
        flag("--service", &self.service);
        let free = [
            "--outbound",
            "--inbound",
            "--admin",
            "--metrics",
            "--readiness",
        ];
        for listener in free {
            if !self.args.iter().any(|said| said == listener) {
                flag(listener, "127.0.0.1:0");
            }
        }
        args.extend(self.args.iter().cloned());
        args.push("--".to_owned());
        args.extend(command.iter().map(|word| (*word).to_owned()));
        let token = self.mesh.join_token("default", &self.service);
        let mut env = self.env.clone();
        env.push(("OUTRIGGER_JOIN_TOKEN".to_owned(), token));
        (args, env)
    }

    /// Starts it; standard input and output are the command's.
    pub fn spawn(self, command: &[&str]) -> Process {
        let (args, env) = self.arguments(command);
        let env: Vec<_> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        Process::spawn(&format!("{} and its sidecar", self.service), &args, &env)
    }
}
