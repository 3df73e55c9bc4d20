//! `outrigger get`: the documents in force, as a table, as the YAML that was applied, or as JSON.

use clap::{Args, ValueEnum};
use outrigger_proto::outrigger::v1::{GetRequest, GetResponse, ObjectRef, StoredObject};
use serde_json::{Value, json};

use crate::{
    client::{self, ConnectArgs},
    failure::Failure,
    kind,
    output::{Table, note, print, print_json, seconds},
};

/// Show the policy documents in force.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  outrigger get
  outrigger get virtualservice reviews -o yaml --history")]
pub(crate) struct GetArgs {
    /// Only this kind, e.g. `virtualservice` or `vs`.
    #[arg(value_parser = kind::parse)]
    kind: Option<String>,
    /// Only the document of this name.
    #[arg(requires = "kind")]
    name: Option<String>,
    /// Only this namespace. Default: all of them.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE")]
    namespace: Option<String>,
    /// Also earlier revisions and what is deleted, newest first.
    #[arg(long)]
    history: bool,
    /// How to show them.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Form {
    #[default]
    Table,
    Yaml,
    Json,
}

pub(crate) fn run(args: &GetArgs) -> Result<(), Failure> {
    let mut answer = client::block_on(async {
        let mut admin = args.connect.connect().await?;
        let request = GetRequest {
            object: Some(ObjectRef {
                api_version: String::new(),
                kind: args.kind.clone().unwrap_or_default(),
                namespace: args.namespace.clone().unwrap_or_default(),
                name: args.name.clone().unwrap_or_default(),
            }),
            history: args.history,
        };
        admin.get(request).await
    })??;
    if args.history {
        newest_first(&mut answer.objects);
    }
    match args.output {
        Form::Json => print_json(&to_json(&answer))?,
        Form::Yaml => print(&yaml(&answer.objects))?,
        Form::Table => print(&table(&answer.objects))?,
    }
    if answer.objects.is_empty() {
        // One that was asked for by name and is not there is a failure; an empty list is an answer.
        if let (Some(kind), Some(name)) = (&args.kind, &args.name) {
            return Err(anyhow::anyhow!("there is no {kind} \"{name}\"").into());
        }
        note("no documents are in force");
    }
    Ok(())
}

/// Over all documents: the history of the mesh reads from top to bottom. Those of one revision stay together in order.
fn newest_first(objects: &mut [StoredObject]) {
    objects.sort_by_key(|stored| std::cmp::Reverse(stored.revision));
}

fn table(objects: &[StoredObject]) -> String {
    let mut table = Table::new(&[
        "KIND",
        "NAMESPACE",
        "NAME",
        "REVISION",
        "APPLIED",
        "BY",
        "FROM",
    ]);
    for stored in objects {
        let object = stored.object.clone().unwrap_or_default();
        let mut revision = stored.revision.to_string();
        if stored.deleted {
            revision.push_str(" (deleted)");
        }
        table.row(vec![
            object.kind,
            object.namespace,
            object.name,
            revision,
            seconds(stored.time.as_ref()),
            stored.author.clone(),
            place(stored),
        ]);
    }
    if table.is_empty() {
        String::new()
    } else {
        table.render()
    }
}

/// Byte for byte as applied; several documents are separated as YAML separates them.
fn yaml(objects: &[StoredObject]) -> String {
    let mut text = String::new();
    for stored in objects {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&stored.yaml);
        if !stored.yaml.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

fn to_json(answer: &GetResponse) -> Value {
    let object = |stored: &StoredObject| {
        let object = stored.object.clone().unwrap_or_default();
        let position = stored.position.clone().unwrap_or_default();
        json!({
            "api_version": object.api_version,
            "kind": object.kind,
            "namespace": object.namespace,
            "name": object.name,
            "revision": stored.revision,
            "time": stored.time.as_ref().map(ToString::to_string),
            "author": stored.author,
            "deleted": stored.deleted,
            "position": { "file": position.file, "line": position.line, "column": position.column },
            "yaml": stored.yaml,
        })
    };
    json!({
        "revision": answer.revision,
        "objects": answer.objects.iter().map(object).collect::<Vec<_>>(),
    })
}

fn place(stored: &StoredObject) -> String {
    stored
        .position
        .as_ref()
        .map(|position| format!("{}:{}", position.file, position.line))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_newest_first_over_all_documents() {
        let stored = |name: &str, revision, deleted| StoredObject {
            object: Some(ObjectRef {
                name: name.to_owned(),
                ..ObjectRef::default()
            }),
            revision,
            deleted,
            ..StoredObject::default()
        };
        let mut objects = [
            stored("a", 3, false),
            stored("a", 1, false),
            stored("b", 1, false),
            stored("c", 4, true),
            stored("c", 2, false),
        ];
        newest_first(&mut objects);
        let order: Vec<_> = objects
            .iter()
            .map(|stored| {
                (
                    stored.revision,
                    stored.object.clone().unwrap_or_default().name,
                )
            })
            .collect();
        let expected = [(4, "c"), (3, "a"), (2, "c"), (1, "a"), (1, "b")];
        assert_eq!(
            order,
            expected.map(|(revision, name)| (revision, name.to_owned()))
        );
    }
}
