//! Logs: to standard error, as text for people or JSON for programs.

use std::io;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

#[derive(Args, Debug)]
#[command(next_help_heading = "Logs (to standard error)")]
pub(crate) struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or a filter like `info,outrigger_sidecar=debug`.
    /// Default: `RUST_LOG`, else info for servers and warn for tools.
    #[arg(long, global = true, value_name = "FILTER", env = "OUTRIGGER_LOG")]
    log: Option<String>,
    /// How to log.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "OUTRIGGER_LOG_FORMAT"
    )]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

pub(crate) fn start(args: &LogArgs, default: &str) -> Result<(), Failure> {
    let rust_log = std::env::var("RUST_LOG").ok();
    let filter = args
        .log
        .as_deref()
        .or(rust_log.as_deref())
        .unwrap_or(default);
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::Misused(format!("--log {filter}: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    match args.log_format {
        Format::Text => builder.init(),
        Format::Json => builder.json().init(),
    }
    Ok(())
}
