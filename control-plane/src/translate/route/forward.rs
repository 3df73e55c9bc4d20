//! Where requests go: clusters by weight, mirrors, what is hashed, rewrites, timeout and retries.

use outrigger_policy::{
    Balancer, HashKey, Hedging, HostName, HttpRoute, Mirror, WeightedDestination,
};
use outrigger_proto::envoy::{
    config::{
        core::v3::RuntimeFractionalPercent,
        route::v3::{
            RouteAction, WeightedCluster,
            route_action::{
                ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy,
                hash_policy::{
                    ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier,
                    QueryParameter,
                },
            },
            weighted_cluster::ClusterWeight,
        },
    },
    r#type::matcher::v3::RegexMatchAndSubstitute,
};

use super::{Builder, filters::fraction, headers::Edits, own::Hedge, retry};
use crate::translate::{
    any::duration, caller::is_by_caller, cluster, matching::re2, policy::effective,
};

impl Builder<'_> {
    /// All requests to one port of `host`, as nobody said otherwise.
    pub(super) fn forward_to(&mut self, host: &HostName, port: u16) -> RouteAction {
        self.destinations.insert(host.clone());
        let name = cluster::name(port, "", host.as_str());
        RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(name)),
            hash_policy: self.hash_policy(host, None, port).into_iter().collect(),
            // Absent would mean 15 s to Envoy; 0 = no limit (Istio's default).
            timeout: Some(prost_types::Duration::default()),
            retry_policy: Some(retry::policy(None)),
            ..RouteAction::default()
        }
    }

    /// What `rule`, of a document of `namespace`, does with requests to `port`.
    pub(super) fn forward(
        &mut self,
        port: u16,
        namespace: &str,
        rule: &HttpRoute,
        destinations: &[WeightedDestination],
    ) -> RouteAction {
        let (specifier, hash_policy) = self.split(port, namespace, destinations);
        let mirrors = rule.mirrors.iter().filter(|mirror| mirror.share.0 > 0);
        let mirrors = mirrors.map(|mirror| self.mirror(port, namespace, mirror));
        let mirrors = mirrors.collect();
        let rewrite = rule.rewrite.as_ref();
        let path = rewrite.and_then(|rewrite| rewrite.uri.clone());
        let regex = rewrite.and_then(|rewrite| rewrite.uri_regex.as_ref());
        let authority = rewrite.and_then(|rewrite| rewrite.authority.clone());
        RouteAction {
            cluster_specifier: Some(specifier),
            hash_policy,
            timeout: Some(duration(
                rule.timeout.as_ref().map(|at| at.value).unwrap_or_default(),
            )),
            retry_policy: Some(retry::policy(rule.retries.as_ref().map(|at| &at.value))),
            prefix_rewrite: path.unwrap_or_default(),
            regex_rewrite: regex.map(|regex| RegexMatchAndSubstitute {
                pattern: Some(re2(&regex.pattern)),
                substitution: regex.substitution.clone(),
            }),
            host_rewrite_specifier: authority.map(HostRewriteSpecifier::HostRewriteLiteral),
            request_mirror_policies: mirrors,
            ..RouteAction::default()
        }
    }

    fn split(
        &mut self,
        port: u16,
        namespace: &str,
        destinations: &[WeightedDestination],
    ) -> (ClusterSpecifier, Vec<HashPolicy>) {
        let mut hash_policy = Vec::new();
        let mut weights = Vec::new();
        // A weight of 0 gets nothing (Istio), and Envoy refuses one.
        for destination in destinations
            .iter()
            .filter(|destination| destination.weight > 0)
        {
            let host = self.mesh.host(&destination.host.value, namespace);
            let subset = destination.subset.as_ref().map(|at| at.value.as_str());
            let number = destination
                .port
                .unwrap_or_else(|| self.port_of(&host, port));
            let policy = self.hash_policy(&host, subset, number);
            hash_policy.extend(policy.filter(|policy| !hash_policy.contains(policy)));
            weights.push(weighted(
                destination,
                cluster::name(number, subset.unwrap_or_default(), host.as_str()),
            ));
            self.destinations.insert(host);
        }
        let specifier = match weights.as_slice() {
            [only] if is_bare(only) => ClusterSpecifier::Cluster(only.name.clone()),
            _ => ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: weights,
                ..WeightedCluster::default()
            }),
        };
        (specifier, hash_policy)
    }

    fn mirror(&mut self, port: u16, namespace: &str, mirror: &Mirror) -> RequestMirrorPolicy {
        let host = self.mesh.host(&mirror.host.value, namespace);
        let subset = mirror.subset.as_ref().map_or("", |at| at.value.as_str());
        let number = mirror.port.unwrap_or_else(|| self.port_of(&host, port));
        let cluster = cluster::name(number, subset, host.as_str());
        self.destinations.insert(host);
        RequestMirrorPolicy {
            cluster,
            runtime_fraction: Some(RuntimeFractionalPercent {
                default_value: Some(fraction(mirror.share)),
                ..RuntimeFractionalPercent::default()
            }),
            // A copy that nobody waits for has no place in the caller's trace (Istio).
            trace_sampled: Some(false),
            ..RequestMirrorPolicy::default()
        }
    }

    /// Where no port is written: the one of the request, or the only one there is.
    fn port_of(&self, host: &HostName, requested: u16) -> u16 {
        let Some(known) = self.hosts.get(host) else {
            return requested;
        };
        match known.ports.keys().next() {
            Some(&only) if known.ports.len() == 1 => only,
            _ => requested,
        }
    }

    fn hash_policy(
        &mut self,
        host: &HostName,
        subset: Option<&str>,
        port: u16,
    ) -> Option<HashPolicy> {
        self.by_caller |= is_by_caller(self.mesh, host);
        let rule = self.mesh.destination_rule_for(host, self.caller.client());
        let balancer = effective(rule, subset, port).load_balancer?;
        let Balancer::ConsistentHash { key, .. } = &balancer.value.algorithm else {
            return None;
        };
        Some(HashPolicy {
            policy_specifier: Some(hashed(key)),
            terminal: false,
        })
    }

    /// What all `destinations` say of hedging; if they differ, the more careful of it. None if one says nothing.
    pub(super) fn hedging<'h>(
        &mut self,
        destinations: impl IntoIterator<Item = (&'h HostName, Option<&'h str>)>,
    ) -> Option<Hedge> {
        let (mesh, client) = (self.mesh, self.caller.client());
        let mut by_caller = false;
        let all = destinations.into_iter().map(|(host, subset)| {
            by_caller |= is_by_caller(mesh, host);
            let (_, policy) = mesh.destination_policy_for(host, subset, client)?;
            let hedging = policy.hedging.as_ref()?;
            Some(Hedge {
                of: hedging.value,
                position: hedging.position.clone(),
            })
        });
        // All of them, so that each is asked whether callers are told apart.
        let all: Vec<Option<Hedge>> = all.collect();
        self.by_caller |= by_caller;
        let mut all = all.into_iter();
        let first = all.next()??;
        all.try_fold(first, |sum, next| {
            let next = next?;
            let of = Hedging {
                after: sum.of.after.max(next.of.after),
                budget_percent: sum.of.budget_percent.min(next.of.budget_percent),
            };
            Some(Hedge { of, ..sum })
        })
    }
}

fn hashed(key: &HashKey) -> PolicySpecifier {
    match key.clone() {
        HashKey::Header(name) => PolicySpecifier::Header(Header {
            header_name: name.to_ascii_lowercase(),
            ..Header::default()
        }),
        HashKey::Cookie {
            name,
            path,
            ttl,
            attributes,
        } => PolicySpecifier::Cookie(Cookie {
            name,
            path,
            ttl: ttl.map(duration),
            attributes: attributes
                .into_iter()
                .map(|(name, value)| CookieAttribute { name, value })
                .collect(),
        }),
        HashKey::SourceIp => {
            PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
        }
        HashKey::QueryParameter(name) => PolicySpecifier::QueryParameter(QueryParameter { name }),
    }
}

fn weighted(destination: &WeightedDestination, name: String) -> ClusterWeight {
    let edits = Edits::of(&destination.headers);
    ClusterWeight {
        name,
        weight: Some(destination.weight),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        ..ClusterWeight::default()
    }
}

fn is_bare(cluster: &ClusterWeight) -> bool {
    *cluster
        == ClusterWeight {
            name: cluster.name.clone(),
            weight: cluster.weight,
            ..ClusterWeight::default()
        }
}
