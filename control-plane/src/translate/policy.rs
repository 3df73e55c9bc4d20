//! What holds for one cluster: the rule's policy, its port's and its subset's put together, and which document said so.

use outrigger_policy::{
    At, ClientTls, ConnectionPool, LoadBalancer, MergedDestinationRule, ObjectKey,
    OutlierDetection, Position, RetryBudget, Subset, TrafficPolicy,
};

/// The policy in force for one port of a host, or of a subset of it. None = the default.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effective<'a> {
    pub(super) load_balancer: Option<&'a At<LoadBalancer>>,
    pub(super) connection_pool: Option<&'a At<ConnectionPool>>,
    pub(super) outlier_detection: Option<&'a At<OutlierDetection>>,
    pub(super) tls: Option<&'a At<ClientTls>>,
    pub(super) retry_budget: Option<&'a At<RetryBudget>>,
}

impl<'a> Effective<'a> {
    /// The host's policy for the port; what the subset sets takes its place; what the subset sets for the port takes
    /// the place of all of that (Istio).
    pub(super) fn of(
        rule: Option<&'a MergedDestinationRule>,
        subset: Option<&'a Subset>,
        port: u16,
    ) -> Self {
        let Some(rule) = rule else {
            return Self::default();
        };
        let host = Self::default().under(&rule.rule.traffic_policy, port);
        subset.map_or(host, |subset| host.under(&subset.traffic_policy, port))
    }

    fn under(self, policy: &'a TrafficPolicy, port: u16) -> Self {
        let retry_budget = policy.retry_budget.as_ref().or(self.retry_budget);
        match policy.ports.get(&port) {
            // A port's settings inherit nothing, but they have no word for the retry budget.
            Some(port) => Self {
                load_balancer: port.load_balancer.as_ref(),
                connection_pool: port.connection_pool.as_ref(),
                outlier_detection: port.outlier_detection.as_ref(),
                tls: port.tls.as_ref(),
                retry_budget: port.retry_budget.as_ref().or(retry_budget),
            },
            None => Self {
                load_balancer: policy.load_balancer.as_ref().or(self.load_balancer),
                connection_pool: policy.connection_pool.as_ref().or(self.connection_pool),
                outlier_detection: policy.outlier_detection.as_ref().or(self.outlier_detection),
                tls: policy.tls.as_ref().or(self.tls),
                retry_budget,
            },
        }
    }
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
