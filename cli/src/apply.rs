//! `outrigger apply -f FILE`: sends documents, and shows what changed or what is wrong with them.

use std::path::PathBuf;

use clap::Args;
use outrigger_proto::outrigger::v1::{
    Applied, ApplyRequest, ApplyResponse, SourceFile, applied::Change, diagnostic::Severity,
};
use serde_json::json;

use crate::{
    client::{self, ConnectArgs},
    diagnostic, effect,
    failure::Failure,
    output::{Output, OutputArgs, print, print_json},
    source,
};

/// Put policy documents into force, all or none.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger apply -f canary.yaml
  sed 's/weight: 10$/weight: 20/' canary.yaml | outrigger apply --dry-run -f -")]
pub(crate) struct ApplyArgs {
    /// File, directory (its *.yaml and *.yml, sorted) or `-` for standard input; may be given several times.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ChangeArgs {
    /// Namespace of documents that name none.
    #[arg(short, long, default_value = "default", env = "OUTRIGGER_NAMESPACE")]
    pub(crate) namespace: String,
    /// Check everything, change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Who changes it; kept with the revision. Default: `$USER`, else `$LOGNAME`, else `operator` (over plain text `plaintext`).
    #[arg(long, env = "OUTRIGGER_AUTHOR")]
    author: Option<String>,
}

impl ChangeArgs {
    pub(crate) fn author(&self) -> String {
        let user = || {
            let names = ["USER", "LOGNAME"].into_iter();
            let mut set = names.filter_map(|name| std::env::var(name).ok());
            set.find(|name| !name.is_empty())
        };
        // Nobody: the control plane writes down whom it has let in.
        self.author.clone().or_else(user).unwrap_or_default()
    }
}

pub(crate) fn run(args: &ApplyArgs) -> Result<(), Failure> {
    let files = source::read(&args.files, &args.change.namespace)?;
    let answer = client::block_on(async {
        let mut admin = args.connect.connect().await?;
        let request = ApplyRequest {
            files: files.clone(),
            default_namespace: args.change.namespace.clone(),
            dry_run: args.change.dry_run,
            author: args.change.author(),
        };
        admin.apply(request).await
    })??;
    show(&answer, &files, args.change.dry_run, args.output.output)
}

/// Shows what a change did. Fails if it was refused.
pub(crate) fn show(
    answer: &ApplyResponse,
    files: &[SourceFile],
    dry_run: bool,
    output: Output,
) -> Result<(), Failure> {
    if output == Output::Json {
        print_json(&json!({
            "revision": answer.revision,
            "dry_run": dry_run,
            "applied": answer.applied.iter().map(applied_json).collect::<Vec<_>>(),
            "diagnostics": answer.diagnostics.iter().map(diagnostic::to_json).collect::<Vec<_>>(),
            "effects": answer.effects.iter().map(effect::to_json).collect::<Vec<_>>(),
        }))?;
    } else {
        diagnostic::report(&answer.diagnostics, files);
    }
    if answer
        .diagnostics
        .iter()
        .any(|remark| remark.severity() == Severity::Error)
    {
        if output == Output::Text {
            crate::output::note(&format!(
                "nothing was changed; revision {} stays in force",
                answer.revision
            ));
        }
        return Err(Failure::Reported);
    }
    if output == Output::Text {
        let suffix = if dry_run { " (dry run)" } else { "" };
        let mut text = String::new();
        for applied in &answer.applied {
            text.push_str(&format!("{}{suffix}\n", line(applied)));
            let own = answer
                .effects
                .iter()
                .find(|effect| effect.object == applied.object);
            text.push_str(&own.map(effect::render).unwrap_or_default());
        }
        text.push_str(&format!("revision {}{suffix}\n", answer.revision));
        print(&text)?;
    }
    Ok(())
}

/// As kubectl says it: `virtualservice.networking.istio.io/reviews created`.
fn line(applied: &Applied) -> String {
    let object = applied.object.clone().unwrap_or_default();
    let kind = object.kind.to_ascii_lowercase();
    let group = object
        .api_version
        .split_once('/')
        .map(|(group, _)| format!(".{group}"));
    let namespace = match object.namespace.as_str() {
        "" | "default" => String::new(),
        other => format!(" in {other}"),
    };
    let name = &object.name;
    format!(
        "{kind}{}/{name}{namespace} {}",
        group.unwrap_or_default(),
        word(applied.change())
    )
}

const fn word(change: Change) -> &'static str {
    match change {
        Change::Unchanged => "unchanged",
        Change::Created => "created",
        Change::Configured => "configured",
        Change::Deleted => "deleted",
    }
}

fn applied_json(applied: &Applied) -> serde_json::Value {
    let object = applied.object.clone().unwrap_or_default();
    json!({
        "api_version": object.api_version,
        "kind": object.kind,
        "namespace": object.namespace,
        "name": object.name,
        "change": word(applied.change()),
    })
}

#[cfg(test)]
mod tests {
    use outrigger_proto::outrigger::v1::ObjectRef;

    use super::*;

    fn applied(namespace: &str) -> Applied {
        Applied {
            object: Some(ObjectRef {
                api_version: "networking.istio.io/v1alpha3".to_owned(),
                kind: "VirtualService".to_owned(),
                namespace: namespace.to_owned(),
                name: "order-service".to_owned(),
            }),
            change: Change::Created.into(),
        }
    }

    #[test]
    fn a_change_is_told_as_kubectl_tells_it() {
        assert_eq!(
            line(&applied("default")),
            "virtualservice.networking.istio.io/order-service created"
        );
        assert_eq!(
            line(&applied("shop")),
            "virtualservice.networking.istio.io/order-service in shop created"
        );
    }
}
