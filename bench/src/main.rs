//! Puts one and the same load on the bare application, on our sidecars and on Envoy, HAProxy and nginx, and says
//! what each cost. `README.md` beside this crate says how to run it and how to read it. `push` has the control
//! plane alone as its subject.
//!
//! ```text
//! rig (this process): starts, alternates, reads /proc, prints
//!    load  ──────────────────────────────────────────► backend     direct
//!    load ──► proxy ─────────────────────────────────► backend     one hop
//!    load ──► calling proxy ══ mTLS ══► called proxy ─► backend    two hops
//! ```
//! `load` and `backend` are processes of their own, so that their work is never counted as a proxy's.

mod backend;
mod h2;
mod handshakes;
mod load;
mod micro;
mod outrigger;
mod pki;
mod process;
mod push;
mod report;
mod rig;
mod scope;
mod subject;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "One load on us and on our peers, side by side", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The same load on ours, Envoy, HAProxy and nginx, in turn: CPU, latency, memory; about half an hour
    Rig(rig::Options),
    /// What a sidecar holds of a small mesh and of a large one
    Scope(scope::Options),
    /// Nanoseconds of core's operations: route, pick, limits
    Micro(micro::Options),
    /// Full mutual handshakes a second and CPU of each, our inbound port beside Envoy's; about a minute
    Handshakes(handshakes::Options),
    /// A large mesh pushed to many xDS clients: how fast, for how much CPU and memory; under five minutes
    Push(push::Options),
    /// The load generator
    #[command(hide = true)]
    Load(load::Options),
    /// The application
    #[command(hide = true)]
    Backend(backend::Options),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match cli.command {
        Command::Rig(options) => runtime.block_on(rig::run(options)),
        Command::Scope(options) => runtime.block_on(scope::run(options)),
        Command::Micro(options) => micro::run(&options),
        Command::Handshakes(options) => runtime.block_on(handshakes::run(options)),
        Command::Push(options) => runtime.block_on(push::run(options)),
        Command::Load(options) => runtime.block_on(load::run(options)),
        Command::Backend(options) => runtime.block_on(backend::run(options)),
    }
}
