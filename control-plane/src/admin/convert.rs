//! Between what the policies say and what the messages say.

use outrigger_policy::{Diagnostic, Effect, Effective, ObjectKey, Position, Severity};
use outrigger_proto::outrigger::v1 as api;

use super::time;
use crate::{
    policies::{Change, Held, Outcome},
    store::policies::Record,
};

pub(super) fn outcome(outcome: Outcome) -> api::ApplyResponse {
    api::ApplyResponse {
        revision: outcome.revision,
        applied: outcome
            .applied
            .into_iter()
            .map(|(key, api_version, change)| api::Applied {
                object: Some(object_ref(&key, api_version)),
                change: match change {
                    Change::Unchanged => api::applied::Change::Unchanged,
                    Change::Created => api::applied::Change::Created,
                    Change::Configured => api::applied::Change::Configured,
                    Change::Deleted => api::applied::Change::Deleted,
                }
                .into(),
            })
            .collect(),
        diagnostics: outcome.diagnostics.iter().map(diagnostic).collect(),
        effects: outcome.effects.iter().map(effect).collect(),
    }
}

fn effect(effect: &Effect) -> api::Effect {
    api::Effect {
        object: Some(object_ref(&effect.key, effect.api_version.clone())),
        state: match effect.effective {
            Effective::Yes => api::effect::State::Effective,
            Effective::Partly => api::effect::State::Partly,
            Effective::Shadowed => api::effect::State::Shadowed,
            Effective::MatchesNothing => api::effect::State::MatchesNothing,
            Effective::NotByClient => api::effect::State::NotByClient,
        }
        .into(),
        reasons: effect.reasons.iter().map(diagnostic).collect(),
    }
}

pub(super) fn diagnostic(diagnostic: &Diagnostic) -> api::Diagnostic {
    api::Diagnostic {
        severity: match diagnostic.severity {
            Severity::Error => api::diagnostic::Severity::Error,
            Severity::Warning => api::diagnostic::Severity::Warning,
            Severity::Info => api::diagnostic::Severity::Info,
        }
        .into(),
        position: Some(position(&diagnostic.position)),
        path: diagnostic.path.clone(),
        message: diagnostic.message.clone(),
        code: diagnostic.code.to_string(),
    }
}

pub(super) fn held(held: &Held) -> api::StoredObject {
    let object = &held.object;
    api::StoredObject {
        object: Some(object_ref(&object.key, object.api_version.clone())),
        revision: held.revision,
        author: held.author.to_string(),
        time: time(held.time_ms),
        yaml: object.yaml.to_string(),
        position: Some(position(&object.position)),
        deleted: false,
    }
}

pub(super) fn record(record: Record) -> api::StoredObject {
    api::StoredObject {
        object: Some(api::ObjectRef {
            api_version: record.api_version,
            kind: record.kind,
            namespace: record.namespace,
            name: record.name,
        }),
        revision: record.revision,
        author: record.author,
        time: time(record.time_ms),
        yaml: record.yaml,
        position: Some(api::Position {
            file: record.file,
            line: record.line,
            column: record.column,
        }),
        deleted: record.deleted,
    }
}

fn object_ref(key: &ObjectKey, api_version: String) -> api::ObjectRef {
    api::ObjectRef {
        api_version,
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

fn position(position: &Position) -> api::Position {
    api::Position {
        file: position.file.to_string(),
        line: position.line,
        column: position.column,
    }
}
