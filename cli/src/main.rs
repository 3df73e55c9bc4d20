//! `outrigger`: the one binary. Parses the command line, sets up logging, runs one command, says how it ended.

mod agent;
mod analyze;
mod apply;
mod args;
mod authority;
mod can;
mod certs;
mod client;
mod completions;
mod configuration;
mod control_plane;
mod delete;
mod demo;
mod diagnostic;
mod duration;
mod effect;
mod explain;
mod failure;
mod get;
mod kind;
mod kubernetes;
mod leave;
mod life;
mod logging;
mod member;
mod notify;
mod open_files;
mod otlp;
mod output;
mod redirect;
mod run;
mod sidecar;
mod source;
mod status;
mod token;
mod version;
mod wait;
mod why;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    args::{Cli, Command},
    failure::Failure,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    logging::start(&cli.log, cli.command.default_log())?;
    match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::ControlPlane(args) => control_plane::run(*args),
        Command::Sidecar(args) => sidecar::run(*args),
        Command::Run(args) => run::run(*args),
        Command::Wait(args) => wait::run(&args),
        Command::Leave(args) => leave::run(&args),
        Command::Agent(args) => agent::run(*args),
        Command::Apply(args) => apply::run(&args),
        Command::Analyze(args) => analyze::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Can(args) => can::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Delete(args) => delete::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Certs(args) => certs::run(&args),
        Command::Token(args) => token::run(&args),
        Command::Redirect(args) => redirect::run(*args),
        Command::Version(args) => version::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::DemoApp(args) => Ok(outrigger_shop::run(args)?),
    }
}
