//! What holds for one cluster, and which document said so.

use outrigger_policy::{
    DestinationRule, MergedDestinationRule, Object, ObjectKey, Position, Spec, Subset,
    TrafficPolicy,
};

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
    let mut sources = rule.sources.iter().map(|source| &**source);
    let Some(subset) = subset else {
        // The one that has the policy, of several that were put together.
        let with_policy =
            |source: &&Object| spec_of(source).is_some_and(|spec| !spec.traffic_policy.is_empty());
        let source = sources
            .clone()
            .find(with_policy)
            .or_else(|| sources.next())?;
        return Some((&source.position, &source.key));
    };
    // By what it says, not by where: several documents may have come from files of one name.
    let source = sources.find(|source| {
        spec_of(source).is_some_and(|spec| spec.subsets.iter().any(|own| own.name == subset.name))
    })?;
    Some((&subset.name.position, &source.key))
}

fn spec_of(document: &Object) -> Option<&DestinationRule> {
    match &document.spec {
        Spec::DestinationRule(spec) => Some(spec),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use outrigger_policy::{Client, HostName};

    use super::super::testing::{DOMAIN, Given};
    use super::origin;

    #[test]
    fn a_subset_is_of_the_document_that_has_it_whatever_its_file_is_called() {
        let document = |name: &str, lines: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec:\n{lines}  host: orders\n"
            )
        };
        let world = Given::default()
            .policy("-", &document("b", "  subsets: [{name: v2}]\n"))
            .policy(
                "-",
                &document("a", "  subsets:\n  - labels: {version: v1}\n    name: v1\n"),
            )
            .policy(
                "-",
                &document(
                    "c",
                    "  trafficPolicy: {connectionPool: {http: {maxRetries: 1}}}\n",
                ),
            )
            .world();
        let host = HostName::canonical("orders", "default", DOMAIN);
        let client = Client {
            namespace: "default",
            labels: &std::collections::BTreeMap::new(),
        };
        let rule = world.mesh.destination_rule_for(&host, client).unwrap();
        for (subset, document) in [(Some("v1"), "a"), (Some("v2"), "b"), (None, "c")] {
            let subset = subset.map(|name| rule.rule.subset(name).unwrap());
            let (_, key) = origin(rule, subset).unwrap();
            assert_eq!(key.name, document);
        }
    }
}
