//! The policies in force: one consistent mesh, replaced as a whole by `apply` and `delete`.
//!
//! ```text
//! files ─parse─► objects ─┬─► Mesh::build ─► no errors? ─► store ─► in force ─► (changed)
//! in force ───────────────┘                     └─► diagnostics, nothing changes
//! ```
//! A stored document that this version refuses is kept, shown, and left out of the mesh, until it is replaced or
//! deleted. One call at a time, on a thread that may block; a caller that goes away does not leave half of it. This
//! file decides nothing about a document: that is `outrigger-policy`'s work.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use outrigger_policy::{
    Analysis, Code, Diagnostic, Effect, HostName, Inventory, Kind, Mesh, MeshInput, Object,
    ObjectKey, ParseLimits, Position, Severity, analyze, effects, parse_again,
};
use tokio::sync::{Mutex, Notify};

use crate::{
    store::{
        Store, StoreError,
        policies::{self as stored, Record},
        unix_ms,
    },
    translate::{Dialect, unsupported::unsupported_by},
};

mod change;
mod inventory;

pub(crate) use inventory::inventory;

pub(crate) use change::{Change, Outcome, Request, What};

/// Objects in force.
pub(crate) const MAX_OBJECTS: usize = 10_000;
/// Their text, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 64 << 20;

/// What is in force, and the way to change it.
#[derive(Debug)]
pub(crate) struct Policies {
    store: Store,
    names: MeshNames,
    in_force: ArcSwap<InForce>,
    /// Held while one call reads, checks, writes and replaces.
    writing: Mutex<()>,
    changed: Notify,
}

/// One consistent set.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) revision: u64,
    pub(crate) objects: BTreeMap<ObjectKey, Held>,
    /// Stored documents that are not in force, by [`Record::id`].
    pub(crate) refused: BTreeMap<String, Arc<Refused>>,
    pub(crate) mesh: Arc<Mesh>,
    /// Remarks of the last build.
    pub(crate) remarks: Vec<Diagnostic>,
    /// Registered hosts that the mesh was built with.
    pub(crate) registered: BTreeSet<HostName>,
}

/// What names in documents are read with.
#[derive(Clone, Debug)]
pub(crate) struct MeshNames {
    /// e.g. `cluster.local`
    pub(crate) domain: Arc<str>,
    /// Whose security documents are for the whole mesh.
    pub(crate) root_namespace: Arc<str>,
}

#[cfg(test)]
impl MeshNames {
    pub(crate) fn for_tests() -> Self {
        Self {
            domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
        }
    }
}

/// One object, and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) object: Arc<Object>,
    pub(crate) revision: u64,
    pub(crate) author: Arc<str>,
    pub(crate) time_ms: u64,
}

/// A stored document that this version does not accept: another version wrote it.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) record: Record,
    pub(crate) diagnostic: Diagnostic,
}

impl Policies {
    /// Reads the store. Blocks.
    pub(crate) fn load(
        store: Store,
        names: &MeshNames,
        registered: BTreeSet<HostName>,
    ) -> Result<Self, StoreError> {
        let (revision, records) = stored::load(&store)?;
        let (mut objects, mut refused) = (BTreeMap::new(), BTreeMap::new());
        for record in records {
            match held(&record) {
                Ok(held) => drop(objects.insert(held.object.key.clone(), held)),
                Err(diagnostic) => {
                    let id = record.id();
                    tracing::error!(
                        policy = id,
                        %diagnostic,
                        "this version refuses a stored policy: it is not in force; replace or delete it"
                    );
                    let diagnostic = *diagnostic;
                    refused.insert(id, Arc::new(Refused { record, diagnostic }));
                }
            }
        }
        let in_force = InForce::build(revision, objects, refused, registered, names);
        for remark in &in_force.remarks {
            tracing::warn!(%remark, "stored policy");
        }
        Ok(Self {
            store,
            names: names.clone(),
            in_force: ArcSwap::from_pointee(in_force),
            writing: Mutex::const_new(()),
            changed: Notify::new(),
        })
    }

    /// What is in force now.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// Waits until [`Self::in_force`] would say something new.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The store, for history.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Checks and, unless it is a dry run, carries out a change. `who` runs now. Blocks.
    pub(crate) fn change(&self, request: &Request, who: &Inventory) -> Result<Outcome, StoreError> {
        let registered: BTreeSet<HostName> = who.services.keys().cloned().collect();
        let _writing = self.writing.blocking_lock();
        let before = self.in_force();
        let plan = match change::plan(&before, request) {
            Ok(plan) => plan,
            Err(diagnostics) => return Ok(Outcome::refused(before.revision, diagnostics)),
        };
        let now_ms = unix_ms(SystemTime::now());
        let next = before.revision + u64::from(plan.changes());
        let objects = plan.objects(&before, next, &request.author, now_ms);
        let refused = plan.refused(&before);
        let touched = plan.in_force();
        let known = before.errors_with(&registered, &self.names);
        let after = InForce::build(next, objects, refused, registered, &self.names);
        let mut diagnostics = after.diagnostics_for(&touched, &known);
        plan.blame(&before, &mut diagnostics);
        let findings = after.findings(&touched, who);
        diagnostics.extend(
            findings
                .iter()
                .filter(|one| one.severity == Severity::Warning)
                .cloned(),
        );
        if diagnostics
            .iter()
            .any(|remark| remark.severity == Severity::Error)
        {
            diagnostics.retain(|remark| remark.severity == Severity::Error);
            return Ok(Outcome::refused(before.revision, diagnostics));
        }
        if let Err(diagnostic) = after.check_size() {
            return Ok(Outcome::refused(before.revision, vec![*diagnostic]));
        }
        let effects = after.effects(&touched, &findings);
        if request.dry_run {
            return Ok(plan.outcome(before.revision, diagnostics, effects));
        }
        let (changed, moved) = plan.records(&before, &after, &request.author, now_ms);
        if !changed.is_empty() || !moved.is_empty() {
            self.store.write_blocking(move |txn| {
                if !changed.is_empty() {
                    stored::commit(txn, next, &changed)?;
                }
                stored::moved(txn, &moved)
            })?;
            self.in_force.store(Arc::new(after));
            self.changed.notify_one();
        }
        Ok(plan.outcome(next, diagnostics, effects))
    }

    /// Builds the mesh anew for other registered hosts. Blocks.
    pub(crate) fn rebuild(&self, registered: BTreeSet<HostName>) {
        let _writing = self.writing.blocking_lock();
        let before = self.in_force();
        if before.registered == registered {
            return;
        }
        let after = InForce::build(
            before.revision,
            before.objects.clone(),
            before.refused.clone(),
            registered,
            &self.names,
        );
        for remark in &after.remarks {
            if remark.severity == Severity::Error && !before.remarks.contains(remark) {
                tracing::error!(%remark, "policy contradicts a registered service");
            }
        }
        self.in_force.store(Arc::new(after));
    }
}

impl InForce {
    fn build(
        revision: u64,
        objects: BTreeMap<ObjectKey, Held>,
        refused: BTreeMap<String, Arc<Refused>>,
        registered: BTreeSet<HostName>,
        names: &MeshNames,
    ) -> Self {
        // Oldest first, so that of two documents that contradict each other the newer one is refused.
        let mut by_age: Vec<&Held> = objects.values().collect();
        by_age.sort_by_key(|held| held.revision);
        let list: Vec<Arc<Object>> = by_age.iter().map(|held| Arc::clone(&held.object)).collect();
        let input = MeshInput {
            objects: &list,
            domain: &names.domain,
            root_namespace: &names.root_namespace,
            registered: &registered,
        };
        let (mesh, remarks) = Mesh::build(&input);
        Self {
            revision,
            mesh: Arc::new(mesh),
            remarks,
            registered,
            objects,
            refused,
        }
    }

    /// What is wrong already, without any change, once `registered` are.
    fn errors_with(&self, registered: &BTreeSet<HostName>, names: &MeshNames) -> Vec<Diagnostic> {
        let mut remarks = if self.registered == *registered {
            self.remarks.clone()
        } else {
            let (objects, refused) = (self.objects.clone(), self.refused.clone());
            Self::build(self.revision, objects, refused, registered.clone(), names).remarks
        };
        remarks.retain(|remark| remark.severity == Severity::Error);
        remarks
    }

    /// All remarks about the `touched` documents, and the errors elsewhere that are not `known`: a registration may have
    /// made a document wrong, which is no reason to refuse another.
    fn diagnostics_for(
        &self,
        touched: &BTreeSet<ObjectKey>,
        known: &[Diagnostic],
    ) -> Vec<Diagnostic> {
        self.remarks
            .iter()
            .filter(|remark| {
                let new = remark.severity == Severity::Error && !known.contains(remark);
                let about = remark.object.as_ref();
                new || about.is_some_and(|key| touched.contains(key))
            })
            .cloned()
            .collect()
    }

    /// What is odd about these documents, beyond the mesh's own remarks.
    fn findings(&self, touched: &BTreeSet<ObjectKey>, who: &Inventory) -> Vec<Diagnostic> {
        let objects: Vec<Arc<Object>> = self
            .objects
            .values()
            .map(|held| Arc::clone(&held.object))
            .collect();
        let mut found = analyze(&Analysis {
            mesh: &self.mesh,
            objects: &objects,
            inventory: Some(who),
            only: Some(touched),
        });
        let elsewhere = unsupported_by(Dialect::Envoy, &self.mesh).into_iter();
        found.extend(elsewhere.map(|one| Diagnostic {
            code: Code::NotByClient,
            severity: Code::NotByClient.severity(),
            object: Some(one.object),
            position: one.position,
            path: one.path.to_owned(),
            message: format!("Envoy does not know this: it {}", one.instead),
        }));
        found
    }

    /// What comes of these documents.
    fn effects(&self, touched: &BTreeSet<ObjectKey>, findings: &[Diagnostic]) -> Vec<Effect> {
        let objects: Vec<Arc<Object>> = touched
            .iter()
            .filter_map(|key| self.objects.get(key))
            .map(|held| Arc::clone(&held.object))
            .collect();
        let found: Vec<Diagnostic> = self.remarks.iter().chain(findings).cloned().collect();
        effects(&objects, &found)
    }

    fn check_size(&self) -> Result<(), Box<Diagnostic>> {
        let bytes: usize = self
            .objects
            .values()
            .map(|held| held.object.yaml.len())
            .sum();
        let problem = if self.objects.len() > MAX_OBJECTS {
            format!(
                "{} objects would be in force; at most {MAX_OBJECTS}",
                self.objects.len()
            )
        } else if bytes > MAX_TEXT_BYTES {
            format!("{bytes} bytes of policy would be in force; at most {MAX_TEXT_BYTES}")
        } else {
            return Ok(());
        };
        let nowhere = Position {
            file: "".into(),
            line: 0,
            column: 0,
        };
        Err(Box::new(error(Code::TooLarge, nowhere, problem)))
    }
}

fn held(record: &Record) -> Result<Held, Box<Diagnostic>> {
    let start = Position {
        file: record.file.as_str().into(),
        line: record.line,
        column: record.column,
    };
    let nothing = || error(Code::Syntax, start.clone(), "nothing was read".to_owned());
    let objects = parse_again(
        &start,
        &record.yaml,
        &record.namespace,
        &ParseLimits::default(),
    )
    .map_err(|found| Box::new(found.into_iter().next().unwrap_or_else(nothing)))?;
    let object = objects
        .into_iter()
        .next()
        .ok_or_else(|| Box::new(nothing()))?;
    Ok(Held {
        object: Arc::new(object),
        revision: record.revision,
        author: record.author.as_str().into(),
        time_ms: record.time_ms,
    })
}

/// As [`Record::id`].
fn id(key: &ObjectKey) -> String {
    format!("{}/{}/{}", key.kind.as_str(), key.namespace, key.name)
}

/// A diagnostic of ours.
fn error(code: Code, position: Position, message: String) -> Diagnostic {
    Diagnostic {
        code,
        severity: Severity::Error,
        object: None,
        position,
        path: String::new(),
        message,
    }
}

/// The kind of that name; else says which there are.
pub(crate) fn kind(name: &str) -> Result<Kind, String> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == name)
        .ok_or_else(|| {
            let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("kind {name:?} is not known; use one of {}", all.join(", "))
        })
}

#[cfg(test)]
mod tests;
