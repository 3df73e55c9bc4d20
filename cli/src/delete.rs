//! `outrigger delete -f FILE` or `delete KIND NAME`: takes documents out of force.

use std::{collections::HashSet, path::PathBuf};

use clap::Args;
use outrigger_proto::outrigger::v1::{
    ApplyResponse, DeleteRequest, Diagnostic, GetRequest, ObjectRef, Position, diagnostic::Severity,
};

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
  outrigger delete -f canary.yaml --ignore-not-found
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
    /// Delete what is in force, and name what was not, instead of refusing all.
    #[arg(long)]
    ignore_not_found: bool,
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
    let mut request = DeleteRequest {
        objects: args.names.iter().map(object).collect(),
        files: files.clone(),
        default_namespace: args.change.namespace.clone(),
        dry_run: args.change.dry_run,
        author: args.change.author(),
    };
    let wanted = if args.ignore_not_found {
        wanted(&request)?
    } else {
        Vec::new()
    };
    let answer = client::block_on(async {
        let mut admin = args.connect.connect().await?;
        if !args.ignore_not_found {
            return admin.delete(request).await;
        }
        let mut missing = Vec::new();
        let mut revision = 0;
        request.objects.clear();
        request.files.clear();
        for (object, position) in wanted {
            let found = admin
                .get(GetRequest {
                    object: Some(object.clone()),
                    history: false,
                })
                .await?;
            revision = found.revision;
            if found.objects.is_empty() {
                missing.push(not_in_force(&object, position));
            } else {
                request.objects.push(object);
            }
        }
        let mut answer = if request.objects.is_empty() {
            ApplyResponse {
                revision,
                ..ApplyResponse::default()
            }
        } else {
            admin.delete(request).await?
        };
        missing.append(&mut answer.diagnostics);
        answer.diagnostics = missing;
        anyhow::Ok(answer)
    })??;
    show(&answer, &files, args.change.dry_run, args.output.output)
}

/// What a request names, each once, with its place if a file names it.
fn wanted(request: &DeleteRequest) -> Result<Vec<(ObjectRef, Option<Position>)>, Failure> {
    let by_name = request.objects.iter().cloned().map(|object| (object, None));
    let documents = source::documents(&request.files, &request.default_namespace)?;
    let by_file = documents.into_iter().map(|document| {
        let place = document.position;
        let object = ObjectRef {
            api_version: String::new(),
            kind: document.key.kind.as_str().to_owned(),
            namespace: document.key.namespace,
            name: document.key.name,
        };
        let position = Position {
            file: place.file.to_string(),
            line: place.line,
            column: place.column,
        };
        (object, Some(position))
    });
    let mut wanted: Vec<(ObjectRef, Option<Position>)> = Vec::new();
    let mut seen = HashSet::new();
    for (object, position) in by_name.chain(by_file) {
        let key = (
            object.kind.clone(),
            object.namespace.clone(),
            object.name.clone(),
        );
        if seen.insert(key) {
            wanted.push((object, position));
        }
    }
    Ok(wanted)
}

fn not_in_force(object: &ObjectRef, position: Option<Position>) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning.into(),
        position,
        path: String::new(),
        message: format!(
            "{} {}/{} was not in force",
            object.kind, object.namespace, object.name
        ),
        code: outrigger_policy::Code::NotInForce.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::outrigger::v1::SourceFile;

    use super::*;

    #[test]
    fn what_a_file_names_is_found_once_and_with_its_place() {
        let document = |name: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: {name}\nspec:\n  host: {name}\n"
            )
        };
        let request = DeleteRequest {
            files: vec![
                SourceFile {
                    name: "a.yaml".to_owned(),
                    text: ["a", "b"].map(document).concat(),
                },
                SourceFile {
                    name: "b.yaml".to_owned(),
                    text: document("a"),
                },
            ],
            default_namespace: "shop".to_owned(),
            ..DeleteRequest::default()
        };
        let found = wanted(&request).unwrap();
        let shown: Vec<_> = found
            .into_iter()
            .map(|(object, place)| {
                assert_eq!(object.namespace, "shop");
                (object.name, place.unwrap_or_default().line)
            })
            .collect();
        assert_eq!(shown, [("a".to_owned(), 2), ("b".to_owned(), 9)]);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_refused_before_anything_is_asked() {
        let request = DeleteRequest {
            files: vec![SourceFile {
                name: "a.yaml".to_owned(),
                text: "kind: Pod\n".to_owned(),
            }],
            ..DeleteRequest::default()
        };
        assert!(matches!(wanted(&request), Err(Failure::Reported)));
    }
}
