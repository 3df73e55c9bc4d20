//! `outrigger demo`: a control plane, a small shop with a sidecar for each service, a canary and traffic, as separate
//! processes on this machine.
//! ```text
//! traffic ─► sidecar ═► sidecar ─► frontend ─► sidecar ═► … productpage ═► reviews (v1, v1, v2) ═► ratings
//!            └─ the frontend's ─┘              ═► is mutual TLS
//! ```
//! Needs no root. Everything that it starts and writes is gone when it ends, however it ends.

mod advice;
mod histogram;
mod hops;
mod process;
mod report;
mod shop;
mod tally;
mod traffic;

use std::time::Duration;

use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at},
};

use self::{
    report::{Summary, heading, row},
    shop::Shop,
    traffic::Traffic,
};
use crate::{
    duration,
    failure::Failure,
    otlp,
    output::{note, print, print_json},
};

/// Run a small shop behind sidecars, with a 90/10 canary and traffic, and show what happens.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  outrigger demo
  outrigger demo --once --json")]
pub(crate) struct DemoArgs {
    /// Requests per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "N", env = "OUTRIGGER_DEMO_RATE")]
    rate: u32,
    /// How long to send traffic, e.g. 1m. Default: until Ctrl-C, or 10s with --once.
    #[arg(long, value_parser = duration::parse, env = "OUTRIGGER_DEMO_DURATION")]
    duration: Option<Duration>,
    /// Send traffic for --duration, print a summary, and fail if anything promised was not seen.
    #[arg(long)]
    once: bool,
    /// Print the summary as one JSON object.
    #[arg(long, requires = "once")]
    json: bool,
    /// Send every sidecar's spans by OTLP over gRPC to this address, e.g. http://127.0.0.1:4317; https is not supported yet.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
}

const ONCE: Duration = Duration::from_secs(10);

pub(crate) fn run(args: DemoArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        // Dropping the demo's future ends every process and removes the directory.
        tokio::select! {
            result = Box::pin(play(args)) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
            _ = terminate.recv() => Ok(()),
            _ = hang_up.recv() => Ok(()),
        }
    })
}

async fn play(args: DemoArgs) -> Result<(), Failure> {
    let otlp_endpoint = otlp::endpoint(args.otlp_endpoint)?;
    note("starting a control plane, six instances of four services and their sidecars");
    let mut shop = Shop::start(otlp_endpoint.as_deref()).await?;
    shop.apply_canary().await?;
    if !args.once {
        note(&advice::text(&shop));
    }
    let duration = args.duration.or_else(|| args.once.then_some(ONCE));
    let traffic = Traffic::start(shop.frontend_proxy(), args.rate);
    let started = Instant::now();
    let end = duration.map(|duration| started + duration);

    if !args.json {
        print(&heading())?;
    }
    let second = Duration::from_secs(1);
    let mut ticks = interval_at(started + second, second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        let shown = traffic.tally().close_second();
        if !args.json {
            print(&row(now - started, &shown))?;
        }
        for news in shop.news() {
            note(&news);
        }
        if end.is_some_and(|end| now >= end) {
            break;
        }
    }
    if !args.once {
        return Ok(());
    }
    let total = traffic.finish().await;
    let summary = Summary::new(&total, started.elapsed(), shop.refuses_plain_text().await);
    if args.json {
        print_json(&summary.to_json())?;
    } else {
        print(&summary.text())?;
    }
    if summary.kept() {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}
