//! What holds for one cluster, and which document said so.

use outrigger_policy::{MergedDestinationRule, ObjectKey, Position, Subset, TrafficPolicy};

/// What `rule` says of one port of its host, or of a subset of it.
pub(super) fn effective(
    rule: Option<&MergedDestinationRule>,
    subset: Option<&str>,
    port: u16,
) -> TrafficPolicy {
    rule.map(|rule| rule.rule.policy_of_port(subset, port))
        .unwrap_or_default()
}

/// The document behind a rule, or behind its subset, and where it stands.
pub(super) fn origin<'a>(
    rule: &'a MergedDestinationRule,
    subset: Option<&'a Subset>,
) -> Option<(&'a Position, &'a ObjectKey)> {
    let Some(subset) = subset else {
        let source = rule.sources.first()?;
        return Some((&source.position, &source.key));
    };
    let position = &subset.name.position;
    let same_file = rule
        .sources
        .iter()
        .filter(|object| object.position.file == position.file);
    // The last document of the file that starts before the subset does.
    let before = same_file.filter(|object| object.position.line <= position.line);
    let source = before
        .max_by_key(|object| object.position.line)
        .or_else(|| rule.sources.first())?;
    Some((position, &source.key))
}
