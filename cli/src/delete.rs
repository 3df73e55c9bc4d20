//! `outrigger delete -f FILE` or `delete KIND NAME`: takes documents out of force.

use std::path::PathBuf;

use clap::Args;
use outrigger_proto::outrigger::v1::{DeleteRequest, ObjectRef};

use crate::{
    apply::{ChangeArgs, show},
    client::{self, ConnectArgs},
    failure::Failure,
    kind,
    output::OutputArgs,
    source,
};

/// Take policy documents out of force, all or none.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger delete -f canary.yaml
  outrigger delete virtualservice reviews -n shop")]
pub(crate) struct DeleteArgs {
    /// The document's kind, e.g. `virtualservice` or `vs`.
    #[arg(value_parser = kind::parse, requires = "names", required_unless_present = "files", conflicts_with = "files")]
    kind: Option<String>,
    /// The documents' names.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Delete what this file, directory or standard input (`-`) names; may be given several times.
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) fn run(args: &DeleteArgs) -> Result<(), Failure> {
    let files = source::read(&args.files, &args.change.namespace)?;
    let kind = args.kind.clone().unwrap_or_default();
    let object = |name: &String| ObjectRef {
        api_version: String::new(),
        kind: kind.clone(),
        namespace: args.change.namespace.clone(),
        name: name.clone(),
    };
    let request = DeleteRequest {
        objects: args.names.iter().map(object).collect(),
        files: files.clone(),
        default_namespace: args.change.namespace.clone(),
        dry_run: args.change.dry_run,
        author: args.change.author(),
    };
    let answer = client::block_on(async {
        let mut admin = args.connect.connect().await?;
        let answer = admin
            .delete(request)
            .await
            .map_err(|status| client::refused(&status))?;
        anyhow::Ok(answer.into_inner())
    })??;
    show(&answer, &files, args.change.dry_run, args.output.output)
}
