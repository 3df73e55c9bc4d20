//! The commands. What each takes stands in its own file.

use clap::{Parser, Subcommand};

use crate::{
    agent::AgentArgs, analyze::AnalyzeArgs, apply::ApplyArgs, can::CanArgs, certs::CertsArgs,
    completions::CompletionsArgs, control_plane::ControlPlaneArgs, delete::DeleteArgs,
    demo::DemoArgs, explain::ExplainArgs, get::GetArgs, leave::LeaveArgs, logging::LogArgs,
    redirect::RedirectArgs, run::RunArgs, sidecar::SidecarArgs, status::StatusArgs,
    token::TokenArgs, version::VersionArgs, wait::WaitArgs, why::WhyArgs,
};

/// A service mesh: Istio's policy documents in, canaries over mutual TLS out.
#[derive(Debug, Parser)]
#[command(
    name = "outrigger",
    version,
    propagate_version = false,
    after_help = "Examples:
  outrigger demo
  outrigger apply -f canary.yaml"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(DemoArgs),
    ControlPlane(Box<ControlPlaneArgs>),
    Sidecar(Box<SidecarArgs>),
    Run(Box<RunArgs>),
    Wait(WaitArgs),
    Leave(LeaveArgs),
    Agent(Box<AgentArgs>),
    Redirect(Box<RedirectArgs>),
    Apply(ApplyArgs),
    Analyze(AnalyzeArgs),
    Explain(ExplainArgs),
    Why(Box<WhyArgs>),
    Can(Box<CanArgs>),
    Get(GetArgs),
    Delete(DeleteArgs),
    Status(StatusArgs),
    Certs(CertsArgs),
    Token(TokenArgs),
    Version(VersionArgs),
    Completions(CompletionsArgs),
    /// One service of the demo's shop.
    #[command(hide = true)]
    DemoApp(outrigger_shop::Args),
}

impl Command {
    /// The log filter of a command that is not told one: servers say what changes, tools only what is odd.
    pub(crate) const fn default_log(&self) -> &'static str {
        match self {
            Self::ControlPlane(_) | Self::Sidecar(_) | Self::Agent(_) => "info",
            // Standard error is the application's first.
            Self::Run(_)
            | Self::Wait(_)
            | Self::Leave(_)
            | Self::Demo(_)
            | Self::Redirect(_)
            | Self::Apply(_)
            | Self::Analyze(_)
            | Self::Explain(_)
            | Self::Why(_)
            | Self::Can(_)
            | Self::Get(_)
            | Self::Delete(_)
            | Self::Status(_)
            | Self::Certs(_)
            | Self::Token(_)
            | Self::Version(_)
            | Self::Completions(_)
            | Self::DemoApp(_) => "warn",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_starts_with_a_purpose_and_ends_with_two_invocations() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let name = command.get_name();
            let about = command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(!about.is_empty(), "{name} says no purpose");
            let after = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let invocations = after
                .lines()
                .filter(|line| line.contains("outrigger "))
                .count();
            assert!(invocations >= 2, "{name} shows {invocations} invocations");
        }
    }
}
