//! What came of each applied document, below the line that says what changed: nothing if all of it is in force.
//! ```text
//! virtualservice.networking.istio.io/reviews configured
//!   in force in part: OUT0401 spec.http[2] (canary.yaml:21:3)
//! ```

use outrigger_proto::outrigger::v1::{Diagnostic, Effect, effect::State};
use serde_json::{Value, json};

use crate::diagnostic;

/// Reasons that are listed; all of them have been said as warnings before.
const MAX_REASONS: usize = 5;

pub(crate) fn render(effect: &Effect) -> String {
    if effect.state() == State::Effective {
        return String::new();
    }
    let shown: Vec<String> = effect
        .reasons
        .iter()
        .take(MAX_REASONS)
        .map(reason)
        .collect();
    let more = match effect.reasons.len().saturating_sub(MAX_REASONS) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("  {}: {}{more}\n", words(effect.state()), shown.join(", "))
}

fn reason(reason: &Diagnostic) -> String {
    let place = reason.position.clone().unwrap_or_default();
    format!(
        "{} {} ({}:{}:{})",
        reason.code, reason.path, place.file, place.line, place.column
    )
}

const fn words(state: State) -> &'static str {
    match state {
        State::Effective => "in force",
        State::Partly => "in force in part",
        State::Shadowed => "shadowed",
        State::MatchesNothing => "matches nothing",
        State::NotByClient => "in force, but not for every type of client",
    }
}

pub(crate) fn to_json(effect: &Effect) -> Value {
    let object = effect.object.clone().unwrap_or_default();
    json!({
        "kind": object.kind,
        "namespace": object.namespace,
        "name": object.name,
        "state": match effect.state() {
            State::Effective => "effective",
            State::Partly => "partly",
            State::Shadowed => "shadowed",
            State::MatchesNothing => "matches_nothing",
            State::NotByClient => "not_by_client",
        },
        "reasons": effect.reasons.iter().map(diagnostic::to_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use outrigger_proto::outrigger::v1::Position;

    use super::*;

    #[test]
    fn a_document_in_force_says_no_more_and_another_says_why() {
        let mut effect = Effect::default();
        assert_eq!(render(&effect), "");
        effect.set_state(State::Shadowed);
        let reason = Diagnostic {
            code: "OUT0401".to_owned(),
            path: "spec.http[1]".to_owned(),
            position: Some(Position {
                file: "a.yaml".to_owned(),
                line: 12,
                column: 3,
            }),
            ..Diagnostic::default()
        };
        effect.reasons = vec![reason];
        assert_eq!(
            render(&effect),
            "  shadowed: OUT0401 spec.http[1] (a.yaml:12:3)\n"
        );
        effect.reasons = vec![effect.reasons[0].clone(); 7];
        assert!(
            render(&effect).ends_with(", and 2 more\n"),
            "{}",
            render(&effect)
        );
    }
}
