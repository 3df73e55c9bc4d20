//! The demo's shop: `frontend` calls `productpage` calls `reviews` calls (from v2 on) `ratings`.
//!
//! One small HTTP/1.1 program plays all four. It knows nothing of the mesh: it calls `http://reviews:9080/`
//! through an HTTP proxy on localhost, which happens to be its sidecar, and forwards the headers that any
//! well-behaved service forwards (`traceparent` and the like). It answers with JSON that says who answered.

mod answer;
mod args;
mod life;
mod serve;
mod upstream;

use std::ffi::OsString;

use anyhow::Context as _;
use clap::Parser as _;

pub use crate::args::Args;

/// Runs one service of the shop until the process is ended.
///
/// `args` are a program's arguments, its name first. Prints `ready {"listen":"127.0.0.1:9080"}` on
/// standard output once it accepts connections.
///
/// # Errors
/// When the address cannot be bound, or the runtime does not start. Misuse ends the process with status 2
/// and a message, `--help` with status 0, as every `clap` program does.
pub fn shop_main(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    run(Args::parse_from(args))
}

/// As [`shop_main`], for a caller that has parsed the arguments already.
///
/// # Errors
/// When the address cannot be bound, or the runtime does not start.
pub fn run(args: Args) -> anyhow::Result<()> {
    // One thread: the shop should leave the processors to what it demonstrates.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(serve::serve(args))
}
