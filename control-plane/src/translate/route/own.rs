//! What xDS has no field for: `metadata.filter_metadata["outrigger"]` of a route.

use outrigger_policy::{Hedging, HttpRoute, Object, Position};
use prost_types::{Struct, Value};

use super::{
    super::any::{decided_by, flag, millis, nested, number, object, text},
    retry::is_implied,
};

/// `hedging` of all destinations of a route.
pub(super) struct Hedge {
    pub(super) of: Hedging,
    pub(super) position: Position,
}

/// Of a route that a document made.
pub(super) fn of_rule(rule: &HttpRoute, document: &Object, hedge: Option<&Hedge>) -> Struct {
    let retries = rule.retries.as_ref();
    let implied = retries.filter(|at| is_implied(&at.value));
    let implied = implied.map(|_| ("retry_implied", flag(true)));
    let decided = decided_by(&rule.position, &document.key);
    let of = [
        ("cors", rule.cors.as_ref().map(|at| &at.position)),
        ("fault", rule.fault.as_ref().map(|at| &at.position)),
        ("hedge", hedge.map(|hedge| &hedge.position)),
        ("mirrors", rule.mirrors.first().map(|first| &first.position)),
        ("retries", retries.map(|at| &at.position)),
        ("timeout", rule.timeout.as_ref().map(|at| &at.position)),
    ];
    object(
        decided
            .into_iter()
            .chain(implied)
            .chain(positions(of))
            .chain(hedge.map(hedging)),
    )
}

/// Of a route that nobody wrote.
pub(super) fn of_default(hedge: Option<&Hedge>) -> Option<Struct> {
    let hedge = hedge?;
    let of = [("hedge", Some(&hedge.position))];
    Some(object(positions(of).into_iter().chain([hedging(hedge)])))
}

/// Which lines the parts of a rule stand in, for errors and `why`.
fn positions<'a>(
    of: impl IntoIterator<Item = (&'static str, Option<&'a Position>)>,
) -> Option<(&'static str, Value)> {
    let known = of.into_iter();
    let known: Vec<_> = known
        .filter_map(|(part, position)| Some((part, text(position?.to_string()))))
        .collect();
    (!known.is_empty()).then(|| ("positions", nested(object(known))))
}

fn hedging(hedge: &Hedge) -> (&'static str, Value) {
    let of = [
        ("after_ms", millis(hedge.of.after)),
        ("budget_percent", number(hedge.of.budget_percent)),
    ];
    ("hedge", nested(object(of)))
}
