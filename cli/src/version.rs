//! `outrigger version`.

use clap::Args;
use serde_json::json;

use crate::{
    failure::Failure,
    output::{Output, OutputArgs, print, print_json},
};

/// Print the version.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger version
  outrigger version -o json")]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &VersionArgs) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match args.output.output {
        Output::Text => print(&format!("outrigger {version}\n"))?,
        Output::Json => print_json(&json!({ "version": version }))?,
    }
    Ok(())
}
