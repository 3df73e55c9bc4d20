//! One call of `apply` or `delete`: which objects it creates, configures, moves, deletes or leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use outrigger_policy::{
    Code, DestinationRule, Diagnostic, Effect, Object, ObjectKey, ParseLimits, Position, Severity,
    Spec, parse,
};

use super::{Held, InForce, Refused, error, id};
use crate::store::policies::Record;

/// Diagnostics that one call answers with.
const MAX_DIAGNOSTICS: usize = 200;

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) what: What,
    /// Name and text.
    pub(crate) files: Vec<(String, String)>,
    /// Of documents that name none.
    pub(crate) default_namespace: String,
    pub(crate) dry_run: bool,
    pub(crate) author: String,
}

/// What is to happen to the documents of the files.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// They shall be in force.
    Apply,
    /// They, and these, shall not.
    Delete(Vec<ObjectKey>),
}

/// What happened to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Unchanged,
    Created,
    Configured,
    Deleted,
}

/// What came of a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) revision: u64,
    pub(crate) applied: Vec<(ObjectKey, String, Change)>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Of the documents that were applied.
    pub(crate) effects: Vec<Effect>,
    pub(crate) refused: bool,
}

/// What a call would do.
#[derive(Debug)]
pub(super) struct Plan {
    changes: Vec<Planned>,
    /// To be deleted, though never in force.
    dropped: Vec<(ObjectKey, Arc<Refused>)>,
}

#[derive(Debug)]
struct Planned {
    object: Arc<Object>,
    change: Change,
    /// Unchanged, but it stands elsewhere in its file now.
    moved: bool,
}

impl Outcome {
    pub(super) fn refused(revision: u64, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.truncate(MAX_DIAGNOSTICS);
        Self {
            revision,
            applied: Vec::new(),
            diagnostics,
            effects: Vec::new(),
            refused: true,
        }
    }
}

/// Reads the files and compares them with what is in force.
pub(super) fn plan(before: &InForce, request: &Request) -> Result<Plan, Vec<Diagnostic>> {
    let objects = read(request)?;
    match &request.what {
        What::Apply => Ok(Plan {
            changes: objects
                .into_values()
                .map(|object| compare(before, object))
                .collect(),
            dropped: Vec::new(),
        }),
        What::Delete(keys) => delete(before, keys, &objects),
    }
}

fn read(request: &Request) -> Result<BTreeMap<ObjectKey, Arc<Object>>, Vec<Diagnostic>> {
    let mut objects: BTreeMap<ObjectKey, Arc<Object>> = BTreeMap::new();
    let mut errors = Vec::new();
    for (name, text) in &request.files {
        match parse(
            name,
            text,
            &request.default_namespace,
            &ParseLimits::default(),
        ) {
            Ok(found) => {
                for object in found {
                    if let Some(first) = objects.get(&object.key) {
                        errors.push(error(
                            Code::DocumentTwice,
                            object.position.clone(),
                            format!(
                                "{} is also at {}; keep one, or rename one",
                                object.key, first.position
                            ),
                        ));
                    } else {
                        objects.insert(object.key.clone(), Arc::new(object));
                    }
                }
            }
            Err(found) => errors.extend(found),
        }
        if errors.len() >= MAX_DIAGNOSTICS {
            break;
        }
    }
    if errors.is_empty() {
        Ok(objects)
    } else {
        Err(errors)
    }
}

fn compare(before: &InForce, object: Arc<Object>) -> Planned {
    let (change, moved) = match before.objects.get(&object.key) {
        None if before.refused.contains_key(&id(&object.key)) => (Change::Configured, false),
        None => (Change::Created, false),
        Some(held) if held.object.yaml == object.yaml => (
            Change::Unchanged,
            held.object.text_position != object.text_position,
        ),
        Some(_) => (Change::Configured, false),
    };
    Planned {
        object,
        change,
        moved,
    }
}

fn delete(
    before: &InForce,
    keys: &[ObjectKey],
    objects: &BTreeMap<ObjectKey, Arc<Object>>,
) -> Result<Plan, Vec<Diagnostic>> {
    let nowhere = Position {
        file: "".into(),
        line: 0,
        column: 0,
    };
    let by_name = keys.iter().map(|key| (key, &nowhere));
    let by_file = objects
        .values()
        .map(|object| (&object.key, &object.position));
    let wanted: BTreeMap<&ObjectKey, &Position> = by_name.chain(by_file).collect();
    let mut errors = Vec::new();
    let (mut changes, mut dropped) = (Vec::new(), Vec::new());
    for (key, position) in wanted {
        if let Some(refused) = before.refused.get(&id(key)) {
            dropped.push((key.clone(), Arc::clone(refused)));
            continue;
        }
        match before.objects.get(key) {
            Some(held) => changes.push(Planned {
                object: Arc::clone(&held.object),
                change: Change::Deleted,
                moved: false,
            }),
            None => errors.push(error(
                Code::NotInForce,
                position.clone(),
                format!("{key} is not in force"),
            )),
        }
    }
    if errors.is_empty() {
        Ok(Plan { changes, dropped })
    } else {
        Err(errors)
    }
}

impl Plan {
    /// Whether there is a new revision.
    pub(super) fn changes(&self) -> bool {
        !self.dropped.is_empty()
            || self
                .changes
                .iter()
                .any(|planned| planned.change != Change::Unchanged)
    }

    /// What would still be refused.
    pub(super) fn refused(&self, before: &InForce) -> BTreeMap<String, Arc<Refused>> {
        let mut refused = before.refused.clone();
        let changed = self.changes.iter().map(|planned| &planned.object.key);
        for key in changed.chain(self.dropped.iter().map(|(key, _)| key)) {
            refused.remove(&id(key));
        }
        refused
    }

    /// What would be in force.
    pub(super) fn objects(
        &self,
        before: &InForce,
        revision: u64,
        author: &str,
        time_ms: u64,
    ) -> BTreeMap<ObjectKey, Held> {
        let author: Arc<str> = author.into();
        let mut objects = before.objects.clone();
        for Planned { object, change, .. } in &self.changes {
            match change {
                Change::Deleted => drop(objects.remove(&object.key)),
                Change::Created | Change::Configured => {
                    let held = Held {
                        object: Arc::clone(object),
                        revision,
                        author: Arc::clone(&author),
                        time_ms,
                    };
                    objects.insert(object.key.clone(), held);
                }
                Change::Unchanged => {
                    // The position may be new.
                    if let Some(held) = objects.get_mut(&object.key) {
                        held.object = Arc::clone(object);
                    }
                }
            }
        }
        objects
    }

    /// What is to be written: what changed, and what only stands elsewhere.
    pub(super) fn records(
        &self,
        before: &InForce,
        after: &InForce,
        author: &str,
        time_ms: u64,
    ) -> (Vec<Record>, Vec<Record>) {
        let (mut changed, mut moved) = (Vec::new(), Vec::new());
        changed.extend(self.dropped.iter().map(|(_, refused)| Record {
            revision: after.revision,
            author: author.to_owned(),
            time_ms,
            deleted: true,
            ..refused.record.clone()
        }));
        for planned in &self.changes {
            let key = &planned.object.key;
            match planned.change {
                Change::Deleted => {
                    if let Some(held) = before.objects.get(key) {
                        changed.push(Record {
                            revision: after.revision,
                            author: author.to_owned(),
                            time_ms,
                            deleted: true,
                            ..record(held)
                        });
                    }
                }
                Change::Created | Change::Configured => {
                    changed.extend(after.objects.get(key).map(record));
                }
                Change::Unchanged if planned.moved => {
                    moved.extend(after.objects.get(key).map(record));
                }
                Change::Unchanged => {}
            }
        }
        (changed, moved)
    }

    /// A subset that is missing elsewhere after this call is the call's fault: names the document that had it.
    pub(super) fn blame(&self, before: &InForce, diagnostics: &mut [Diagnostic]) {
        let had: Vec<(&Planned, &DestinationRule)> = self
            .changes
            .iter()
            .filter_map(
                |planned| match &before.objects.get(&planned.object.key)?.object.spec {
                    Spec::DestinationRule(spec) => Some((planned, spec)),
                    _ => None,
                },
            )
            .collect();
        let own: BTreeSet<&ObjectKey> = self.changes.iter().map(|one| &one.object.key).collect();
        for one in diagnostics {
            let Some(routing) = one.object.as_ref().filter(|key| !own.contains(key)) else {
                continue;
            };
            if one.code != Code::UnknownSubset || one.severity != Severity::Error {
                continue;
            }
            let culprit = had.iter().find_map(|(planned, spec)| {
                let mut names = spec.subsets.iter().map(|subset| subset.name.value.as_str());
                let name = names.find(|name| one.message.contains(&format!("subset {name:?}")))?;
                Some((planned, name))
            });
            let Some((planned, name)) = culprit else {
                continue;
            };
            let (key, what) = (&planned.object.key, planned.change);
            let done = if what == Change::Deleted {
                "be deleted"
            } else {
                "be changed so"
            };
            one.message = format!(
                "{key} cannot {done}: {routing} routes to its subset {name:?} here; change or delete that one first, or with it"
            );
            one.code = Code::SubsetTakenAway;
            one.object = Some(key.clone());
        }
    }

    /// The objects of the call that are in force after it.
    pub(super) fn in_force(&self) -> BTreeSet<ObjectKey> {
        let staying = self
            .changes
            .iter()
            .filter(|planned| planned.change != Change::Deleted);
        staying.map(|planned| planned.object.key.clone()).collect()
    }

    pub(super) fn outcome(
        &self,
        revision: u64,
        mut diagnostics: Vec<Diagnostic>,
        effects: Vec<Effect>,
    ) -> Outcome {
        diagnostics.truncate(MAX_DIAGNOSTICS);
        let dropped = self.dropped.iter().map(|(key, refused)| {
            let api_version = refused.record.api_version.clone();
            (key.clone(), api_version, Change::Deleted)
        });
        let changes = self.changes.iter().map(|planned| {
            let object = &planned.object;
            let api_version = object.api_version.clone();
            (object.key.clone(), api_version, planned.change)
        });
        let applied = changes.chain(dropped).collect();
        Outcome {
            revision,
            applied,
            diagnostics,
            effects,
            refused: false,
        }
    }
}

fn record(held: &Held) -> Record {
    let object = &held.object;
    Record {
        api_version: object.api_version.clone(),
        kind: object.key.kind.as_str().to_owned(),
        namespace: object.key.namespace.clone(),
        name: object.key.name.clone(),
        file: object.text_position.file.to_string(),
        line: object.text_position.line,
        column: object.text_position.column,
        yaml: object.yaml.to_string(),
        revision: held.revision,
        author: held.author.to_string(),
        time_ms: held.time_ms,
        deleted: false,
    }
}
