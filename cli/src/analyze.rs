//! `outrigger analyze -f FILE`: what is wrong or odd with documents, without applying them.
//!
//! Offline it knows the documents alone; with `--with-cluster` also those in force, and who runs.

mod cluster;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use outrigger_policy::{
    Analysis, Code, Diagnostic, Inventory, Mesh, MeshInput, Object, ObjectKey, ParseLimits,
    Severity, analyze, parse,
};
use outrigger_proto::outrigger::v1::SourceFile;
use serde_json::json;

use crate::{
    client::{self, ConnectArgs},
    diagnostic,
    failure::Failure,
    output::{Output, OutputArgs, note, print, print_json},
    source,
};

/// Look for mistakes in policy documents, without applying them.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0 nothing found, 1 errors (or what --fail-on says), 2 misused.

Examples:
  outrigger analyze -f policies/
  outrigger analyze -f canary.yaml --with-cluster --fail-on warning"
)]
pub(crate) struct AnalyzeArgs {
    /// File, directory (its *.yaml and *.yml, sorted) or `-` for standard input; may be given several times.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Namespace of documents that name none.
    #[arg(short, long, default_value = "default", env = "OUTRIGGER_NAMESPACE")]
    namespace: String,
    /// DNS domain of the mesh.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    domain: String,
    /// Namespace whose security documents are for the whole mesh.
    #[arg(long, default_value = "istio-system", value_name = "NAME")]
    root_namespace: String,
    /// Look at them together with the documents in force and the services that run, as the control plane knows them.
    #[arg(long)]
    with_cluster: bool,
    /// Fail (status 1) from this severity on.
    #[arg(long, value_enum, default_value_t, value_name = "SEVERITY")]
    fail_on: FailOn,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FailOn {
    #[default]
    Error,
    Warning,
    Info,
}

impl FailOn {
    const fn takes(self, severity: Severity) -> bool {
        match severity {
            Severity::Error => true,
            Severity::Warning => matches!(self, Self::Warning | Self::Info),
            Severity::Info => matches!(self, Self::Info),
        }
    }
}

pub(crate) fn run(args: &AnalyzeArgs) -> Result<(), Failure> {
    let files = source::read(&args.files, &args.namespace)?;
    let cluster = if args.with_cluster {
        Some(client::block_on(async {
            cluster::read(&mut args.connect.connect().await?, &args.domain).await
        })??)
    } else {
        None
    };
    let names = (args.domain.as_str(), args.root_namespace.as_str());
    let found = findings(&files, &args.namespace, names, cluster);
    if args.output.output == Output::Json {
        let all: Vec<_> = found
            .iter()
            .map(|one| diagnostic::to_json(&diagnostic::from_policy(one)))
            .collect();
        print_json(&json!({ "findings": all }))?;
    } else {
        let remarks: Vec<_> = found.iter().map(diagnostic::from_policy).collect();
        print(&diagnostic::rendered(&remarks, &files))?;
        note(&summary(&found, args.with_cluster));
    }
    if found.iter().any(|one| args.fail_on.takes(one.severity)) {
        return Err(Failure::Reported);
    }
    Ok(())
}

fn summary(found: &[Diagnostic], with_cluster: bool) -> String {
    let count = |severity| found.iter().filter(|one| one.severity == severity).count();
    let offline = if with_cluster {
        ""
    } else {
        "; hosts and endpoints were not looked for (--with-cluster does)"
    };
    let explain = found.first().map_or_else(String::new, |one| {
        format!("; `outrigger explain {}` says more", one.code)
    });
    format!(
        "{} errors, {} warnings, {} remarks{explain}{offline}",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Info)
    )
}

/// What is wrong with `files`, among the documents of the cluster if there is one.
fn findings(
    files: &[SourceFile],
    namespace: &str,
    (domain, root_namespace): (&str, &str),
    cluster: Option<cluster::Cluster>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut own: Vec<Arc<Object>> = Vec::new();
    for file in files {
        match parse(&file.name, &file.text, namespace, &ParseLimits::default()) {
            Ok(objects) => own.extend(objects.into_iter().map(Arc::new)),
            Err(errors) => found.extend(errors),
        }
    }
    twice(&mut own, &mut found);
    let touched: BTreeSet<ObjectKey> = own.iter().map(|object| object.key.clone()).collect();
    let (in_force, inventory) = cluster.map_or((Vec::new(), None), |cluster| {
        (cluster.objects, Some(cluster.inventory))
    });
    // The new ones last: of two that contradict each other the newer gets the error.
    let mut objects: Vec<Arc<Object>> = in_force
        .into_iter()
        .filter(|object| !touched.contains(&object.key))
        .collect();
    objects.extend(own);
    let registered = inventory
        .iter()
        .flat_map(|all: &Inventory| all.services.keys().cloned())
        .collect();
    let input = MeshInput {
        objects: &objects,
        domain,
        root_namespace,
        registered: &registered,
    };
    let (mesh, remarks) = Mesh::build(&input);
    let about = remarks
        .into_iter()
        .filter(|one| one.object.as_ref().is_some_and(|key| touched.contains(key)));
    found.extend(about.filter(|one| inventory.is_some() || !unknowable(one.code)));
    let analysis = Analysis {
        mesh: &mesh,
        objects: &objects,
        inventory: inventory.as_ref(),
        only: Some(&touched),
    };
    found.extend(analyze(&analysis));
    found.sort_by(|a, b| (a.severity, &a.position, a.code).cmp(&(b.severity, &b.position, b.code)));
    found
}

/// Found only where it is known who runs.
const fn unknowable(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownHost
            | Code::EgressHostUnknown
            | Code::EgressOtherNamespace
            | Code::WorkloadUnselected
    )
}

/// Of one document in two files, the first is kept.
fn twice(own: &mut Vec<Arc<Object>>, found: &mut Vec<Diagnostic>) {
    let mut kept: Vec<Arc<Object>> = Vec::new();
    for object in own.drain(..) {
        if let Some(first) = kept.iter().find(|first| first.key == object.key) {
            found.push(Diagnostic {
                code: Code::DocumentTwice,
                severity: Severity::Error,
                object: Some(object.key.clone()),
                position: object.position.clone(),
                path: String::new(),
                message: format!(
                    "{} is also at {}; keep one, or rename one",
                    object.key, first.position
                ),
            });
        } else {
            kept.push(object);
        }
    }
    *own = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> SourceFile {
        SourceFile {
            name: name.to_owned(),
            text: text.to_owned(),
        }
    }

    fn codes(files: &[SourceFile]) -> Vec<String> {
        findings(files, "default", ("cluster.local", "istio-system"), None)
            .iter()
            .map(|one| one.code.to_string())
            .collect()
    }

    #[test]
    fn offline_a_host_that_nobody_is_known_to_serve_is_no_finding() {
        let story = Code::UnknownHost.story();
        assert_eq!(
            codes(&[file("a.yaml", &story.wrong.yaml())]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn several_files_are_looked_at_together() {
        let rule = Code::AfterCatchAll.story().wrong.yaml();
        assert_eq!(codes(&[file("a.yaml", &rule)]), ["OUT0401"]);
        assert_eq!(
            codes(&[file("a.yaml", &rule), file("b.yaml", &rule)]),
            ["OUT0108", "OUT0401"]
        );
        assert_eq!(
            codes(&[file("a.yaml", &rule), file("b.yaml", "kind: x")])
                .first()
                .map(String::as_str),
            Some("OUT0109")
        );
    }

    #[test]
    fn the_severity_decides_who_fails() {
        assert!(FailOn::Error.takes(Severity::Error) && !FailOn::Error.takes(Severity::Warning));
        assert!(FailOn::Warning.takes(Severity::Warning) && !FailOn::Warning.takes(Severity::Info));
        assert!(FailOn::Info.takes(Severity::Info));
    }
}
