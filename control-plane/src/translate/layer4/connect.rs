//! CONNECT through the proxy port: the route to a port that is not HTTP, for programs that know a proxy and no mesh.
//! Source: Envoy `RouteMatch.connect_matcher`, `RouteAction.UpgradeConfig.ConnectConfig`.

use std::collections::BTreeSet;

use outrigger_policy::{HostName, Protocol};
use outrigger_proto::envoy::config::route::v3::{
    Route, RouteAction, RouteMatch, WeightedCluster,
    route::Action,
    route_action::{ClusterSpecifier, UpgradeConfig, upgrade_config::ConnectConfig},
    route_match::{ConnectMatcher, PathSpecifier},
    weighted_cluster::ClusterWeight,
};

use super::{Layer4, direct};
use crate::translate::{
    any::{OUTRIGGER, decided_by, metadata, object},
    cluster,
};

/// What listeners and routes call it.
pub(in crate::translate) const CONNECT: &str = "CONNECT";

impl Layer4<'_> {
    /// Where CONNECT to this port leads: by the first tcp rule that holds, or to the host itself; and the hosts behind it.
    pub(in crate::translate) fn connect(
        &self,
        host: &HostName,
        port: u16,
        protocol: Protocol,
    ) -> (Route, BTreeSet<HostName>) {
        let rules = self.rules(host);
        // What rules of TLS look at, nobody has seen yet.
        let rules = rules
            .as_ref()
            .filter(|_| matches!(protocol, Protocol::Tcp | Protocol::Auto));
        let rules = rules.map_or(&[][..], |service| &service.tcp);
        let rule = rules.iter().find(|(_, rule)| {
            rule.matches.is_empty() || rule.matches.iter().any(|one| self.holds(one, port))
        });
        let target = match rule {
            Some((object, rule)) => self.routed(object, &rule.position, &rule.route, port),
            None => direct(host, port),
        };
        let named = target.clusters.iter().map(|(host, subset, port, weight)| {
            let name = cluster::name(*port, subset.unwrap_or_default(), host.as_str());
            (name, *weight)
        });
        let named: Vec<_> = named.collect();
        let specifier = match named.as_slice() {
            [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
            several => ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: several
                    .iter()
                    .map(|(name, weight)| ClusterWeight {
                        name: name.clone(),
                        weight: Some(*weight),
                        ..ClusterWeight::default()
                    })
                    .collect(),
                ..WeightedCluster::default()
            }),
        };
        let action = RouteAction {
            cluster_specifier: Some(specifier),
            upgrade_configs: vec![UpgradeConfig {
                upgrade_type: CONNECT.to_owned(),
                connect_config: Some(ConnectConfig::default()),
                ..UpgradeConfig::default()
            }],
            timeout: Some(prost_types::Duration::default()),
            ..RouteAction::default()
        };
        let decided = target.decided.map(|(position, document)| {
            metadata([(OUTRIGGER, object(decided_by(position, &document.key)))])
        });
        let route = Route {
            name: "connect".to_owned(),
            r#match: Some(RouteMatch {
                path_specifier: Some(PathSpecifier::ConnectMatcher(ConnectMatcher::default())),
                ..RouteMatch::default()
            }),
            action: Some(Action::Route(action)),
            metadata: decided,
            ..Route::default()
        };
        let hosts = target.clusters.iter().map(|(host, ..)| host.clone());
        (route, hosts.collect())
    }
}
