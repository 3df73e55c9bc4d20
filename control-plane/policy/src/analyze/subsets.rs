//! Subsets of a DestinationRule: whom they select, who uses them, what they lose of the host's policy.

use super::finder::{Finder, listed};
use crate::{Code, ConnectionPool, DestinationRule, HostName, Object, Subset, TrafficPolicy};

pub(super) fn check<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    rule: &DestinationRule,
    host: &HostName,
) {
    let used = finder.used_subsets(host).cloned();
    let endpoints = finder.endpoints(host).unwrap_or_default();
    for (index, subset) in rule.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        if subset.labels.is_empty() {
            let message = format!(
                "without labels it is every endpoint of {host}; give the labels that its endpoints have"
            );
            finder.find(Code::SubsetOfAll, object, &path, message);
        } else if !endpoints.is_empty() && !endpoints.iter().any(|one| subset.selects(&one.labels))
        {
            let labels = listed(
                subset
                    .labels
                    .iter()
                    .map(|(name, value)| format!("{name}={value}")),
            );
            let mut there: Vec<String> = endpoints
                .iter()
                .flat_map(|one| &one.labels)
                .filter(|(name, _)| subset.labels.contains_key(*name))
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            there.sort();
            there.dedup();
            let message = format!(
                "none of the {} endpoints of {host} has {labels} (they have {}), so requests to this subset get 503; correct the labels, or start it",
                endpoints.len(),
                if there.is_empty() {
                    "no such label".to_owned()
                } else {
                    listed(there)
                }
            );
            finder.find(
                Code::SubsetWithoutEndpoints,
                object,
                &format!("{path}.labels"),
                message,
            );
        }
        let twin = |other: &&Subset| other.labels == subset.labels && !subset.labels.is_empty();
        if let Some(twin) = rule.subsets.iter().take(index).find(twin) {
            let message = format!(
                "is the same endpoints as the subset {:?}; was another label meant?",
                twin.name.value
            );
            finder.find(
                Code::SubsetsAlike,
                object,
                &format!("{path}.labels"),
                message,
            );
        }
        if let Some(used) = &used
            && !used.contains(subset.name.value.as_str())
        {
            let message = format!("no route leads to it; routes lead to {}", listed(used));
            finder.find(Code::SubsetUnused, object, &format!("{path}.name"), message);
        }
        dropped(finder, object, rule, subset, &path);
    }
}

/// A subset's part replaces the host's part as a whole.
fn dropped<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    rule: &DestinationRule,
    subset: &Subset,
    path: &str,
) {
    if let (Some(above), Some(here)) = (
        &rule.traffic_policy.connection_pool,
        &subset.traffic_policy.connection_pool,
    ) {
        let here = written(&here.value);
        let lost: Vec<&str> = written(&above.value)
            .into_iter()
            .filter(|field| !here.contains(field))
            .collect();
        if !lost.is_empty() {
            let message = format!(
                "takes the place of the host's connectionPool as a whole: its {} do not hold for the subset {:?}; repeat them here",
                listed(lost),
                subset.name.value
            );
            finder.find(
                Code::SubsetDropsSettings,
                object,
                &format!("{path}.trafficPolicy.connectionPool"),
                message,
            );
        }
    }
    if let (Some(above), Some(here)) = (
        &rule.traffic_policy.load_balancer,
        &subset.traffic_policy.load_balancer,
    ) {
        let mut lost = Vec::new();
        if above.value.locality.is_some() && here.value.locality.is_none() {
            lost.push("localityLbSetting");
        }
        if above.value.warmup.is_some() && here.value.warmup.is_none() {
            lost.push("warmup");
        }
        if !lost.is_empty() {
            let message = format!(
                "takes the place of the host's loadBalancer as a whole: its {} does not hold for the subset {:?}; repeat it here",
                listed(lost),
                subset.name.value
            );
            finder.find(
                Code::SubsetDropsSettings,
                object,
                &format!("{path}.trafficPolicy.loadBalancer"),
                message,
            );
        }
    }
}

/// Fields of a pool that say something.
fn written(pool: &ConnectionPool) -> Vec<&'static str> {
    let fields = [
        ("maxConnections", pool.max_connections.is_some()),
        ("connectTimeout", pool.connect_timeout.is_some()),
        (
            "http1MaxPendingRequests",
            pool.http1_max_pending_requests.is_some(),
        ),
        ("http2MaxRequests", pool.http2_max_requests.is_some()),
        (
            "maxRequestsPerConnection",
            pool.max_requests_per_connection.is_some(),
        ),
        ("maxRetries", pool.max_retries.is_some()),
        (
            "idleTimeout",
            pool.idle_timeout.is_some() || pool.tcp_idle_timeout.is_some(),
        ),
        (
            "maxConcurrentStreams",
            pool.max_concurrent_streams.is_some(),
        ),
        ("tcpKeepalive", pool.tcp_keepalive.is_some()),
        (
            "maxConnectionDuration",
            pool.max_connection_duration.is_some(),
        ),
    ];
    fields
        .into_iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| name)
        .collect()
}

impl TrafficPolicy {
    /// Names of the parts that say something, those for single ports left out.
    pub(super) fn parts(&self) -> Vec<&'static str> {
        let parts = [
            ("loadBalancer", self.load_balancer.is_some()),
            ("connectionPool", self.connection_pool.is_some()),
            ("outlierDetection", self.outlier_detection.is_some()),
            ("tls", self.tls.is_some()),
            ("retryBudget", self.retry_budget.is_some()),
            ("proxyProtocol", self.proxy_protocol.is_some()),
        ];
        parts
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| name)
            .collect()
    }
}
