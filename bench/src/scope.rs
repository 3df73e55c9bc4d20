//! What a sidecar holds, by the size of the mesh: the same services are called in a small mesh and in a large one, and
//! the sidecar's memory is read. `outrigger-bench scope`.
//!
//! ```text
//! documents (N services) ─► control plane ◄── sidecar (--discovery on-demand | all) ◄── GET of each used service
//! ```
//! Each figure is a sidecar of its own. What the backend and the control plane use is not in it.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use clap::Args;
use tokio::time::sleep;

use crate::{
    backend::Backend,
    outrigger,
    process::{Process, Usage},
};

/// Memory is read when it has stood still for this long.
const STILL: Duration = Duration::from_secs(2);
/// It counts as still within this much.
const STILL_KIB: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(120);
/// Services of one document file; more would not fit into one request.
const DOCUMENTS: usize = 1_000;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Services that the control plane knows, smallest first; the first is what the others are compared with
    #[arg(long, value_delimiter = ',', default_values_t = [5, 10_000])]
    services: Vec<usize>,
    /// Services that the application calls, once each
    #[arg(long, default_value_t = 5)]
    used: usize,
    /// Worker threads of the sidecar
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Sidecars to read, by what they hold
    #[arg(long, value_delimiter = ',', default_values_t = ["on-demand".to_owned(), "all".to_owned()])]
    discovery: Vec<String>,
    /// Fail if a sidecar on demand has more than this over the smallest mesh, in MiB
    #[arg(long)]
    at_most: Option<f64>,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let backend = Backend::start().await?;
    let application = backend.http;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "services   used   sidecar        memory MiB   over the first"
    )?;
    let mut first = vec![None; options.discovery.len()];
    let mut worst = 0.0_f64;
    for known in &options.services {
        let used = options.used.min(*known);
        let mesh = outrigger::Mesh::start().await?;
        for from in (0..*known).step_by(DOCUMENTS) {
            let documents = documents(from..(from + DOCUMENTS).min(*known), application);
            mesh.apply(&documents).await?;
        }
        for (discovery, first) in options.discovery.iter().zip(&mut first) {
            let flags = ["--discovery", discovery];
            let (sidecar, entry) = mesh
                .sidecar("shopper", options.workers, &flags)
                .await
                .with_context(|| format!("{known} services, {discovery}"))?;
            for service in 0..used {
                outrigger::answers(entry, &host(service)).await?;
            }
            let kib = settled(&sidecar).await?;
            let over = mib(kib) - mib(*first.get_or_insert(kib));
            if discovery == "on-demand" {
                worst = worst.max(over);
            }
            writeln!(
                out,
                "{known:>8} {used:>6}   {discovery:<12} {:>12.1} {over:>16.1}",
                mib(kib)
            )?;
        }
    }
    if let Some(most) = options.at_most {
        anyhow::ensure!(worst <= most, "{worst:.1} MiB more; at most {most} MiB");
    }
    Ok(())
}

/// A service each, of one endpoint.
fn documents(numbers: std::ops::Range<usize>, application: SocketAddr) -> String {
    let of = |number| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: service-{number}}}
spec:
  hosts: [{}]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {}}}]
  endpoints: [{{address: {}}}]
",
            host(number),
            application.port(),
            application.ip()
        )
    };
    numbers.map(of).collect()
}

fn host(number: usize) -> String {
    format!("service-{number}.default.svc.cluster.local")
}

/// Resident memory once it no longer changes.
async fn settled(sidecar: &Process) -> anyhow::Result<u64> {
    let pid = sidecar.pid()?;
    let mut last = Usage::of(&[pid])?.rss_kib;
    let mut waited = Duration::ZERO;
    while waited < PATIENCE {
        sleep(STILL).await;
        waited += STILL;
        let now = Usage::of(&[pid])?.rss_kib;
        if now.abs_diff(last) <= STILL_KIB {
            return Ok(now);
        }
        last = now;
    }
    anyhow::bail!("memory does not come to rest within {PATIENCE:?}")
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
