//! `outrigger completions SHELL`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{args::Cli, failure::Failure, output::print};

/// Print a shell's completion script.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  source <(outrigger completions bash)
  outrigger completions zsh > ~/.zfunc/_outrigger")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "outrigger", &mut script);
    Ok(print(&String::from_utf8(script)?)?)
}
