//! `outrigger run`: a sidecar and its application as one job, without root and without rules of the kernel.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use outrigger_sidecar::{Launch, ProxyEnv, run_with};

use crate::{
    duration,
    failure::Failure,
    notify, open_files,
    sidecar::{self, SidecarArgs},
};

#[derive(Args, Debug)]
#[command(
    about = "Run an application beside its sidecar: the sidecar first, the application when it can be used, as one job",
    long_about = "Run an application beside its sidecar: the sidecar first, the application when it can be used, as one job.

Takes every flag of outrigger sidecar. The application is told by http_proxy that its calls go through the sidecar, and by \
OUTRIGGER_OUTBOUND, OUTRIGGER_LISTENERS and others where the ports are. Signals are passed on. When one asks both to end, others \
first go elsewhere, then the application ends, then the sidecar. The exit code is the application's: 128 and the number of the \
signal that ended it, 127 if there is no such program, 1 if the sidecar did not become ready. Standard input and output are \
the application's; only warnings of the sidecar go to standard error.",
    after_help = "Examples:
  outrigger run --service reviews --app 127.0.0.1:9080 --join-token-file reviews.token -- ./reviews
  outrigger run --service report --free-ports -- curl -sf http://orders:8080/today"
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    sidecar: SidecarArgs,
    #[command(flatten)]
    launch: LaunchArgs,
    /// The application and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Start of the application")]
struct LaunchArgs {
    /// How long the sidecar may take until the application can be started; 0 is for ever.
    #[arg(long, default_value = "60s", value_parser = duration::parse_or_zero, env = "OUTRIGGER_START_TIMEOUT")]
    start_timeout: Duration,
    /// Write where the sidecar listens to this file, as one JSON object, before the application is started.
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_READY_FILE")]
    ready_file: Option<PathBuf>,
    /// Which calls go through the sidecar by the application's environment: http, http:// only (http_proxy); all,
    /// https:// as well (https_proxy, by CONNECT); off, none. What is no host of the mesh is refused there.
    #[arg(long, value_enum, default_value_t, env = "OUTRIGGER_PROXY_ENV")]
    proxy_env: Proxies,
    /// Every port of the sidecar that is not chosen by a flag is any free one, so that several run on one machine.
    #[arg(long, env = "OUTRIGGER_FREE_PORTS")]
    free_ports: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Proxies {
    #[default]
    Http,
    All,
    Off,
}

pub(crate) fn run(mut args: RunArgs) -> Result<(), Failure> {
    if args.sidecar.ends_with_parent() {
        return Err(Failure::Misused(
            "--exit-with-parent reads standard input, which is the application's".to_owned(),
        ));
    }
    if args.launch.free_ports {
        args.sidecar.free_ports();
    }
    let tells_port = args.sidecar.pick_app_port()?;
    let open_files = open_files::raise_limit_from();
    notify::start();
    let launch = Launch {
        command: args.command,
        proxy_env: match args.launch.proxy_env {
            Proxies::Http => ProxyEnv::Http,
            Proxies::All => ProxyEnv::All,
            Proxies::Off => ProxyEnv::Off,
        },
        ready_timeout: args.launch.start_timeout,
        ready_file: args.launch.ready_file,
        open_files,
        tells_port,
    };
    match run_with(sidecar::config(args.sidecar)?, launch) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Command(code)),
        Err(error) => Err(sidecar::failure(error)),
    }
}
