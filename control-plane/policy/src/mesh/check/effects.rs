//! Settings that fit their document, and have no effect beside what others say; or that contradict it.

use std::sync::Arc;

use super::Checker;
use crate::{
    At, Balancer, Code, ConnectionMatch, DestinationPolicy, DestinationRule, LoadBalancer, Object,
    PortPolicy, Position, Retries, TrafficPolicy, mesh::merge::named,
};

impl Checker<'_> {
    /// Conditions that need something which an operator cannot write, or nobody sends.
    pub(super) fn retries(&mut self, object: &Object, retries: Option<&At<Retries>>, rule: &str) {
        let Some(retries) = retries else {
            return;
        };
        let Some(on) = &retries.value.retry_on else {
            return;
        };
        for condition in &on.conditions {
            let why = match condition.as_str() {
                "retriable-status-codes" if on.status_codes.is_empty() => {
                    "no status code is in the list; write one, such as 503"
                }
                "retriable-headers" => {
                    "it needs names of headers, which a request has in x-envoy-retriable-header-names"
                }
                "http3-post-connect-failure" => "HTTP/3 is not spoken to upstreams",
                _ => continue,
            };
            let message = format!("{condition} has no effect: {why}");
            let path = format!("{rule}.retries.retryOn");
            let code = Code::RetryConditionWithoutEffect;
            self.found
                .warn(code, object, &retries.position, path, message);
        }
    }

    /// Where a connection was going to is known only where it was redirected.
    pub(super) fn subnets<'m>(
        &mut self,
        object: &Object,
        matches: impl Iterator<Item = &'m ConnectionMatch>,
        position: &Position,
        rule: &str,
    ) {
        for (number, one) in matches.enumerate() {
            if one.destination_subnets.is_empty() {
                continue;
            }
            let message = "holds only where connections are redirected (outrigger sidecar --capture): of one to a port of localhost nobody knows where it was going to";
            let path = format!("{rule}.match[{number}].destinationSubnets");
            let code = Code::SubnetNeverKnown;
            self.found
                .info(code, object, position, path, message.to_owned());
        }
    }

    /// What of a rule's policies has no effect beside the rest of it.
    pub(super) fn destination_rule(&mut self, object: &Arc<Object>, spec: &DestinationRule) {
        self.known(object, &spec.host, "spec.host");
        self.policy(
            object,
            spec,
            &spec.traffic_policy,
            None,
            "spec.trafficPolicy",
        );
        for (index, subset) in spec.subsets.iter().enumerate() {
            let path = format!("spec.subsets[{index}].trafficPolicy");
            let name = subset.name.value.as_str();
            self.policy(object, spec, &subset.traffic_policy, Some(name), &path);
        }
    }

    fn policy(
        &mut self,
        object: &Arc<Object>,
        spec: &DestinationRule,
        written: &TrafficPolicy,
        subset: Option<&str>,
        path: &str,
    ) {
        let effective = spec.effective_policy(subset);
        self.failover(object, written, effective.outlier_detection.is_some(), path);
        if let (Some(budget), Some(pool)) = (&effective.retry_budget, &effective.connection_pool)
            && pool.value.max_retries.is_some()
            && (written.retry_budget.is_some() || written.connection_pool.is_some())
        {
            let message = format!(
                "has no effect beside the retryBudget at {}; remove one of them",
                budget.position
            );
            let path = format!("{path}.connectionPool.http.maxRetries");
            let code = Code::RetriesLimitBesideBudget;
            self.found.warn(code, object, &pool.position, path, message);
        }
        let host = self.mesh.host(&spec.host.value, &object.key.namespace);
        for (port, PortPolicy { index, policy }) in &written.ports {
            let path = format!("{path}.portLevelSettings[{index}]");
            self.failover(object, policy, policy.outlier_detection.is_some(), &path);
            let place = At {
                value: spec.host.value.clone(),
                position: policy.position().unwrap_or(&spec.host.position).clone(),
            };
            let code = Code::PortPolicyUnknownPort;
            self.port(
                (code, object),
                &host,
                *port,
                &place,
                &format!("{path}.port.number"),
            );
        }
    }

    /// Without ejection nothing ever fails over (Istio).
    fn failover(&mut self, object: &Object, policy: &TrafficPolicy, ejects: bool, path: &str) {
        let Some(balancer) = policy.load_balancer.as_ref().filter(|_| !ejects) else {
            return;
        };
        let Some(setting) = balancer.value.locality.as_ref().filter(|each| each.enabled) else {
            return;
        };
        if setting.failover.is_empty() && setting.failover_priority.is_empty() {
            return;
        }
        let message = "has no effect without outlierDetection, which says when an endpoint has failed; add that";
        let path = format!("{path}.loadBalancer.localityLbSetting");
        let code = Code::FailoverWithoutEjection;
        self.found
            .warn(code, object, &balancer.position, path, message.to_owned());
    }

    /// What of a DestinationPolicy does not go with the DestinationRules for its host.
    pub(super) fn beside_rules(&mut self, object: &Arc<Object>, spec: &DestinationPolicy) {
        let host = self.mesh.host(&spec.host.value, &object.key.namespace);
        let subset = spec.subset.as_ref().map(|subset| subset.value.as_str());
        let mesh = self.mesh;
        // What others write for their own calls does not go together with it, and need not.
        let own_namespace = object.key.namespace.as_str();
        let homes: Vec<&str> = mesh.namespaces_of(&host).collect();
        let rules = mesh.destination_rules_of(&host).filter(|merged| {
            merged.sources.iter().any(|source| {
                let home = source.key.namespace.as_str();
                home == own_namespace || homes.is_empty() || homes.contains(&home)
            })
        });
        let rules: Vec<_> = rules.collect();
        let policies = || {
            rules.iter().flat_map(|merged| {
                // Without a subset it is for all of them.
                let every = merged
                    .rule
                    .subsets
                    .iter()
                    .map(|each| each.name.value.as_str());
                let names = every.filter(|name| subset.is_none_or(|subset| subset == *name));
                let own = subset.is_none().then_some(None);
                own.into_iter()
                    .chain(names.map(Some))
                    .map(|name| (*merged, merged.rule.effective_policy(name)))
            })
        };
        let hashed = policies().find_map(|(merged, policy)| {
            let balancer = policy.load_balancer.filter(hashes)?;
            Some((merged, balancer))
        });
        if let (Some(own), Some((merged, balancer))) = (&spec.balancer, &hashed)
            && let Some(rule) = merged.sources.first()
        {
            if self.found.newer(rule, object) && rule.key.namespace != own_namespace {
                // The service's own document is not refused for what a client has written.
                let message = format!(
                    "has no effect: {} hashes requests to {host} consistently",
                    named(rule)
                );
                let code = Code::BalancerBesideHash;
                self.found
                    .warn(code, object, &own.position, "spec.balancer", message);
            } else if self.found.newer(rule, object) {
                let message = format!(
                    "hashes consistently, and {} chooses another balancer for {host}; keep one of them",
                    named(object)
                );
                let path = "spec.trafficPolicy.loadBalancer.consistentHash";
                self.found.error(
                    Code::BalancerBesideHash,
                    rule,
                    &balancer.position,
                    path,
                    message,
                );
            } else {
                let message = format!(
                    "chooses a balancer for {host}, and {} hashes consistently; keep one of them",
                    named(rule)
                );
                let path = "spec.balancer";
                self.found.error(
                    Code::BalancerBesideHash,
                    object,
                    &own.position,
                    path,
                    message,
                );
            }
        }
        if let Some(bound) = spec.bounded_load.as_ref().filter(|_| hashed.is_none()) {
            let message =
                format!("has no effect: no DestinationRule hashes requests to {host} consistently");
            let code = Code::BoundedLoadWithoutHash;
            self.found
                .warn(code, object, &bound.position, "spec.boundedLoad", message);
        }
        let limited = policies().any(|(_, policy)| policy.connection_pool.is_some());
        if let Some(limits) = spec.service_limits.as_ref().filter(|_| !limited) {
            let message =
                format!("has no effect: no DestinationRule has a connectionPool for {host}");
            let code = Code::ServiceLimitsWithoutLimits;
            self.found
                .warn(code, object, &limits.position, "spec.limits", message);
        }
    }
}

fn hashes(balancer: &At<LoadBalancer>) -> bool {
    matches!(balancer.value.algorithm, Balancer::ConsistentHash { .. })
}
