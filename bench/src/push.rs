//! A large mesh and many xDS clients on one control plane: how long a change takes to all who use the service, what a
//! steady stream of changes costs, and what is sent again when everybody comes back.
//!
//! ```text
//! load ─► connect ─► one change at a time ─► changes at a rate ─► all clients come back      delta
//!                └─► one change at a time ─► changes at a rate                               state of the world
//! ```
//! The control plane is a process of its own, whose CPU and memory are counted; all clients are in this one. Each has a
//! TCP connection with mutual TLS of its own, as sidecars have.

mod board;
mod client;
mod connect;
mod figures;
mod fleet;
mod mesh;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{process::Command, time::Instant};

use crate::{
    outrigger, pki,
    process::{Process, Usage},
    report::progress,
};
use board::Board;
use connect::Door;
use figures::{Cost, Latencies, Report};
use fleet::Fleet;
use mesh::Mesh;

const ANY_PORT: &str = "127.0.0.1:0";

/// How to run it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Services; the control plane has at most 10,000
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    services: u32,
    /// Endpoints of all services together
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    endpoints: u32,
    /// Namespaces that services and clients are spread over
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    namespaces: u32,
    /// Clients of the incremental protocol
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(..=9000))]
    clients: u32,
    /// Clients of the state of the world
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(..=9000))]
    sotw_clients: u32,
    /// Services that each client uses: one that all use, the rest at random
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    uses: u32,
    /// Changes that are made one at a time: so many to services at random, and half of it to the one that all use
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    changes: u32,
    /// Changes a second, to services at random
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Seconds of changes at that rate
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Connect in plain text, without certificates
    #[arg(long)]
    plaintext: bool,
    /// Seconds that any step may take before it has failed
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    patience: u64,
    /// Which services are used, and changed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write everything as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.services <= options.endpoints,
        "--services {} needs at least as many --endpoints; found {}",
        options.services,
        options.endpoints
    );
    anyhow::ensure!(
        options.uses <= options.services,
        "--uses {} of only --services {}",
        options.uses,
        options.services
    );
    // A connection each.
    rlimit::increase_nofile_limit(u64::MAX).context("raising the limit of open files")?;
    let mut bench = Bench::start(options).await?;
    let report = bench.run().await;
    progress("")?;
    let report = report?;
    report.print()?;
    if let Some(file) = &bench.options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report.to_json())?)?;
    }
    report.verdict()
}

struct Bench {
    options: Options,
    mesh: Mesh,
    door: Arc<Door>,
    random: fastrand::Rng,
    /// So far.
    changes: u32,
    control_plane: Process,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn start(options: Options) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let identities = (0..options.namespaces).map(client::identity);
        let (root, leaves) = pki::authority(identities)?;
        let (certificate, key) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
        std::fs::write(&certificate, &root.certificate)?;
        std::fs::write(&key, &root.key)?;
        let mut command = Command::new(outrigger::build().await?);
        command
            .args(["--log", "warn", "control-plane", "--exit-with-parent"])
            .args(["--grpc", ANY_PORT, "--http", ANY_PORT])
            .args(["--plaintext", ANY_PORT])
            .arg("--root-cert")
            .arg(certificate)
            .arg("--root-key")
            .arg(key)
            .env_clear()
            .env("OUTRIGGER_DATA_DIR", dir.path().join("data"));
        let (control_plane, ready) = Process::start_ready("the control plane", command).await?;
        let plaintext = outrigger::address(&ready, "plaintext")?;
        let door = if options.plaintext {
            Door::plaintext(plaintext)
        } else {
            Door::tls(
                outrigger::address(&ready, "grpc")?,
                &root.certificate,
                &leaves,
            )?
        };
        let patience = Duration::from_secs(options.patience);
        let mesh = Mesh::connect(plaintext, &options, patience).await?;
        Ok(Self {
            random: fastrand::Rng::with_seed(options.seed),
            door: Arc::new(door),
            changes: 0,
            options,
            mesh,
            control_plane,
            _dir: dir,
        })
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(&[self.control_plane.pid()?])
    }

    /// What `work` takes of the control plane.
    async fn cost<T>(
        &self,
        what: &str,
        work: impl AsyncFnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Cost)> {
        progress(what)?;
        let (before, begun) = (self.usage()?, Instant::now());
        let patience = Duration::from_secs(self.options.patience);
        let done = tokio::time::timeout(patience, work())
            .await
            .map_err(|_elapsed| anyhow::anyhow!("no end after {patience:?}"))
            .flatten()
            .with_context(|| what.to_owned())?;
        Ok((done, Cost::new(&before, &self.usage()?, begun.elapsed())))
    }

    async fn run(&mut self) -> anyhow::Result<Report> {
        let mut report = Report::new(&self.options);
        report.empty = self.usage()?.rss_kib;
        let loaded = self.cost("loading", async || self.mesh.load().await);
        report.loaded = loaded.await?.1;
        self.quiet().await?;
        for (protocol, clients) in [
            (client::Protocol::Delta, self.options.clients),
            (client::Protocol::Sotw, self.options.sotw_clients),
        ] {
            if clients > 0 {
                let one = self.protocol(protocol, clients).await?;
                report.protocols.push(one);
            }
        }
        Ok(report)
    }

    async fn protocol(
        &mut self,
        protocol: client::Protocol,
        clients: u32,
    ) -> anyhow::Result<figures::Protocol> {
        let name = protocol.name();
        let board = Arc::new(Board::new(self.options.services, self.changes));
        let mut fleet = Fleet::new(protocol, clients, self, &board);
        let connect = async || fleet.connect(&self.door, &board, fleet::GENTLE).await;
        let (connected, cost) = self
            .cost(&format!("{name}: {clients} clients connect"), connect)
            .await?;
        let mut found = figures::Protocol::new(name, clients, connected, cost);
        self.quiet().await?;
        found.rss_connected_kib = self.usage()?.rss_kib;

        let used = fleet.used().to_vec();
        let targets: Vec<u32> = (0..self.options.changes)
            .filter_map(|_| self.random.choice(&used).copied())
            .collect();
        let what = format!("{name}: single changes");
        found.single = self.one_by_one(&what, &board, targets).await?;
        let popular = vec![0; self.options.changes as usize / 2];
        let what = format!("{name}: changes for all");
        found.popular = self.one_by_one(&what, &board, popular).await?;
        let total = u64::from(self.options.rate) * self.options.seconds;
        let targets = (0..total).filter_map(|_| self.random.choice(&used).copied());
        let targets: Vec<u32> = targets.collect();
        let work = async || {
            self.mesh
                .change_at_rate(&board, &targets, self.options.rate)
                .await
        };
        let what = format!("{name}: changes at a rate");
        let (lag, cost) = self.cost(&what, work).await?;
        found.sustained = Latencies::of(&board.take(), cost);
        found.sustained_behind = lag;
        found.rss_after_kib = self.usage()?.rss_kib;

        if protocol == client::Protocol::Delta {
            fleet.hang_up().await?;
            let storm = async || fleet.connect(&self.door, &board, clients as usize).await;
            let (again, cost) = self.cost(&format!("{name}: all come back"), storm).await?;
            found.storm = Some((again, cost));
        }
        fleet.hang_up().await?;
        self.changes = board.last();
        Ok(found)
    }

    async fn one_by_one(
        &self,
        what: &str,
        board: &Arc<Board>,
        targets: Vec<u32>,
    ) -> anyhow::Result<Latencies> {
        let work = async || {
            for service in targets {
                self.mesh.change(board, service).await?;
                board.settled().await;
                // So that the next one is not of the same burst.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        let ((), cost) = self.cost(what, work).await?;
        Ok(Latencies::of(&board.take(), cost))
    }

    /// Until the control plane has nothing to do: less than 5 % of a core for half a second.
    async fn quiet(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.options.patience);
        loop {
            let before = self.usage()?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.usage()?.cpu_since(&before) < 0.025 {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the control plane is still busy after {} s",
                self.options.patience
            );
        }
    }
}
