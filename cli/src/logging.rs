//! Logs: to standard error, as text for people or JSON for programs.

use std::io;

use clap::{Args, ValueEnum};
use outrigger_sidecar::set_log_control;
use tracing_subscriber::{EnvFilter, reload};

use crate::failure::Failure;

const LEVELS: &str = "error, warn, info, debug, trace, off";
/// Crates in this program that log, beside our own: a filter may name them without a level.
const LOGGING_CRATES: [&str; 16] = [
    "axum",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "opentelemetry",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "redb",
    "rustls",
    "tokio",
    "tokio_rustls",
    "tokio_util",
    "tonic",
    "tower",
    "want",
];

#[derive(Args, Debug)]
#[command(next_help_heading = "Logs (to standard error)")]
pub(crate) struct LogArgs {
    /// What to log: error, warn, info, debug, trace, off, or a filter like `info,outrigger_sidecar=debug`.
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
    // Set to nothing is not set, as for other programs that know this variable.
    let rust_log = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let (source, text) = match (&args.log, &rust_log) {
        (Some(text), _) => ("--log", text.as_str()),
        (None, Some(text)) => ("RUST_LOG", text.as_str()),
        (None, None) => ("--log", default),
    };
    let filter =
        filter(text).map_err(|error| Failure::Misused(format!("{source} {text:?}: {error}")))?;
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
    let filter = filter(level)?;
    let text = filter.to_string();
    reload(filter).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Reads a filter. `EnvFilter` takes a bare word that is no level for the name of a target and logs that target
/// alone, so that a mistyped level would switch everything off: only what can be a target passes here.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let directives: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
        .collect();
    if directives.is_empty() {
        return Err(format!(
            "an empty filter logs nothing; say what you want: {LEVELS}"
        ));
    }
    for directive in &directives {
        // `target`, `target=level` or `target[span{field=value}]=level`, each part optional.
        let (target, level) = match directive.rsplit_once(']') {
            Some((_, "")) => continue,
            Some((_, after)) => ("", after.strip_prefix('=').unwrap_or(after)),
            None => directive.split_once('=').unwrap_or((directive, directive)),
        };
        if !is_level(level) && (target != level || !may_be_target(target)) {
            return Err(format!("{level:?} is no level: {LEVELS}"));
        }
    }
    // Without the blanks, which it would take for part of a name.
    EnvFilter::try_new(directives.join(","))
        .map_err(|error| format!("{text:?} is no log filter: {error}"))
}

fn is_level(text: &str) -> bool {
    LEVELS
        .split(", ")
        .any(|level| level.eq_ignore_ascii_case(text))
}

fn may_be_target(text: &str) -> bool {
    let name = text.split("::").next().unwrap_or_default();
    text.contains("::") || name.starts_with("outrigger") || LOGGING_CRATES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_targets_and_spans_are_filters() {
        for text in [
            "info",
            "DEBUG",
            "off",
            "info,outrigger_sidecar=debug",
            "warn, h2=trace",
            "outrigger_sidecar",
            "some_crate::module",
            "rustls",
            "warn,some_crate=info",
            "[request]",
            "[request{path=x}]=debug",
            "info,",
        ] {
            assert!(filter(text).is_ok(), "{text}: {:?}", filter(text).err());
        }
    }

    #[test]
    fn a_mistyped_level_is_refused_with_the_levels() {
        for (text, word) in [
            ("warning", "warning"),
            ("infoo", "infoo"),
            ("info,debugg", "debugg"),
            ("3", "3"),
            ("outrigger_sidecar=verbose", "verbose"),
            ("h2=", ""),
        ] {
            let error = filter(text).err().unwrap_or_default();
            assert_eq!(
                error,
                format!("{word:?} is no level: error, warn, info, debug, trace, off"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_empty_filter_is_refused() {
        for text in ["", " ", ",", " , "] {
            let error = filter(text).err().unwrap_or_default();
            assert!(error.contains("empty filter"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_refused_change_leaves_the_filter_in_force() {
        let never = |_: EnvFilter| -> Result<(), reload::Error> { panic!("reloaded") };
        assert!(changed("warning", never).is_err());
        assert!(changed("", never).is_err());
        assert_eq!(changed("debug", |_| Ok(())), Ok("debug".to_owned()));
    }
}
