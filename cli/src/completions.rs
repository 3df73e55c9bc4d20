//! `outrigger completions SHELL`.

use clap::{Args, Command, CommandFactory as _};
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
    Ok(print(&script(args.shell)?)?)
}

fn script(shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    let mut command = visible(&Cli::command());
    clap_complete::generate(shell, &mut command, "outrigger", &mut script);
    Ok(String::from_utf8(script)?)
}

/// The same without what is hidden from `--help`: the generators offer it.
fn visible(command: &Command) -> Command {
    let mut shown = Command::new(command.get_name().to_owned())
        .args(
            command
                .get_arguments()
                .filter(|arg| !arg.is_hide_set())
                .cloned(),
        )
        .subcommands(
            command
                .get_subcommands()
                .filter(|command| !command.is_hide_set())
                .map(visible),
        );
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    shown
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn completions_offer_what_the_help_shows_and_nothing_else() {
        for shell in Shell::value_variants() {
            let script = script(*shell).unwrap();
            for shown in [
                "control-plane",
                "advertise-address",
                "log-format",
                "version",
            ] {
                assert!(script.contains(shown), "{shell}: {shown}");
            }
            for hidden in ["demo-app", "exit-with-parent", "exit-without-data-dir"] {
                assert!(!script.contains(hidden), "{shell}: {hidden}");
            }
        }
    }
}
