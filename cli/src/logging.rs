//! Logs: to standard error, as text for people or JSON for programs.

use std::io;

use clap::{Args, ValueEnum};
use outrigger_sidecar::set_log_control;
use tracing_subscriber::{EnvFilter, reload};

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
        Format::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            set_log_control(Box::new(move |level| {
                changed(level, |filter| handle.reload(filter))
            }));
            builder.init();
        }
        Format::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            set_log_control(Box::new(move |level| {
                changed(level, |filter| handle.reload(filter))
            }));
            builder.init();
        }
    }
    Ok(())
}

/// Puts another filter into force while the process runs (the sidecar's `POST /logging?level=`).
fn changed(
    level: &str,
    reload: impl Fn(EnvFilter) -> Result<(), reload::Error>,
) -> Result<String, String> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| format!("{level:?} is no log filter, e.g. debug: {error}"))?;
    let text = filter.to_string();
    reload(filter).map_err(|error| error.to_string())?;
    Ok(text)
}
