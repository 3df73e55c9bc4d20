//! What one client sees: rules whose documents are for it, matches that it can meet, and the policy towards a host.
//! Source: Istio's order of looking a DestinationRule up: the client's namespace, then the service's, and no other.

use std::{borrow::Cow, collections::BTreeSet};

use super::{
    Client, HostName, MergedDestinationRule, MergedVirtualService, Mesh, select::Labels,
    select::includes,
};
use crate::{
    ConnectionMatch, DestinationRule, ExportTo, HttpMatch, HttpRoute, Object, Spec, Subset,
    TcpRoute, TlsRoute, TrafficPolicy,
};

impl Mesh {
    /// The rule for `host` towards `client`: of its own namespace (one whose `workloadSelector` takes it before one
    /// without), else of the service's. Another namespace's is for its own calls. A host that belongs to no namespace has
    /// that of the first one by name that exports one. In each, the host's own before that of the longest `*.suffix`.
    #[must_use]
    pub fn destination_rule_for(
        &self,
        host: &HostName,
        client: Client<'_>,
    ) -> Option<&MergedDestinationRule> {
        let own = client.namespace;
        if let Some(rule) = self.rule_of(host, own, client) {
            return Some(rule);
        }
        let mut homes = self.namespaces_of(host).peekable();
        if homes.peek().is_none() {
            let mut all = self.namespaces_with(host);
            return all.find_map(|(rules, _)| rules.seen_from(own));
        }
        homes
            .filter(|home| *home != own)
            .find_map(|home| self.rule_of(host, home, client))
    }

    /// The rule that the documents of `home` make.
    fn rule_of(
        &self,
        host: &HostName,
        home: &str,
        client: Client<'_>,
    ) -> Option<&MergedDestinationRule> {
        spellings(host).find_map(|host| {
            let rules = self.destination_rules.get(&host)?.get(home)?;
            let selecting = || {
                let mut rules = rules.selecting().iter();
                rules.find(|rule| rule.rule.selects(client.labels))
            };
            let own = if home == client.namespace {
                selecting()
            } else {
                None
            };
            own.or_else(|| rules.seen_from(client.namespace))
        })
    }

    /// The rule for `host` as its own namespace sees it, or any namespace if there is none. For where no client is
    /// known; what holds for one: [`Self::destination_rule_for`].
    #[must_use]
    pub fn destination_rule(&self, host: &HostName) -> Option<&MergedDestinationRule> {
        let labels = Labels::new();
        for namespace in self.namespaces_of(host) {
            let labels = &labels;
            let client = Client { namespace, labels };
            if let Some(rule) = self.destination_rule_for(host, client) {
                return Some(rule);
            }
        }
        let mut all = self.namespaces_with(host);
        all.find_map(|(rules, home)| rules.seen_from(home).or_else(|| rules.iter().next()))
    }

    /// Every rule that some client has for `host`.
    pub fn destination_rules_of<'m, 'h>(
        &'m self,
        host: &'h HostName,
    ) -> impl Iterator<Item = &'m MergedDestinationRule> + use<'m, 'h> {
        self.namespaces_with(host)
            .flat_map(|(rules, _)| rules.iter())
    }

    /// Namespaces of which a document is for `host`.
    pub(super) fn namespaces_with_rules<'m>(&'m self, host: &HostName) -> BTreeSet<&'m str> {
        self.namespaces_with(host).map(|(_, home)| home).collect()
    }

    /// By specificity, then by name.
    fn namespaces_with<'m, 'h>(
        &'m self,
        host: &'h HostName,
    ) -> impl Iterator<Item = (&'m super::NamespaceRules, &'m str)> + use<'m, 'h> {
        spellings(host)
            .filter_map(|host| self.destination_rules.get(&host))
            .flat_map(|all| all.iter().map(|(home, rules)| (rules, home.as_str())))
    }

    /// Whether a document of `client` is for `host` and its own clients.
    pub(super) fn has_rule_of(&self, host: &HostName, client: &str) -> bool {
        spellings(host)
            .filter_map(|host| self.destination_rules.get(&host)?.get(client))
            .any(|rules| rules.seen_from(client).is_some() || !rules.selecting().is_empty())
    }

    /// Namespaces with documents or services whose workloads have this subset of `host`.
    pub(super) fn clients_with_subset<'m>(
        &'m self,
        host: &'m HostName,
        name: &'m str,
    ) -> impl Iterator<Item = &'m str> {
        let known = self.names.namespaces();
        known.filter(move |client| self.has_subset(host, name, client))
    }

    /// Whether some workload of the namespace `client` has this subset of `host`.
    pub(super) fn has_subset(&self, host: &HostName, name: &str, client: &str) -> bool {
        let labels = Labels::new();
        let plain = Client {
            namespace: client,
            labels: &labels,
        };
        let of_all = self.destination_rule_for(host, plain);
        let selecting = spellings(host)
            .filter_map(|host| self.destination_rules.get(&host)?.get(client))
            .flat_map(super::NamespaceRules::selecting);
        of_all
            .into_iter()
            .chain(selecting)
            .any(|merged| merged.rule.subset(name).is_some())
    }

    /// What holds for `host`, or for one subset of it, whatever the port; empty where no rule says anything. As
    /// [`Self::destination_rule`] without a client.
    #[must_use]
    pub fn traffic_policy(&self, host: &HostName, subset: Option<&str>) -> TrafficPolicy {
        self.destination_rule(host)
            .map(|merged| merged.rule.effective_policy(subset))
            .unwrap_or_default()
    }

    /// What holds for `client` towards one port of `host`, or of one subset of it; its `ports` are empty.
    #[must_use]
    pub fn traffic_policy_for(
        &self,
        host: &HostName,
        subset: Option<&str>,
        port: u16,
        client: Client<'_>,
    ) -> TrafficPolicy {
        self.destination_rule_for(host, client)
            .map(|merged| merged.rule.policy_of_port(subset, port))
            .unwrap_or_default()
    }

    /// The rules for `host` that are for `client`: its own, else those of the longest `*.suffix` of which some are.
    /// Matches that the client cannot meet (`sourceLabels`, `sourceNamespace`) are left out, the others no longer ask.
    #[must_use]
    pub fn virtual_service_for(
        &self,
        host: &HostName,
        client: Client<'_>,
    ) -> Option<Cow<'_, MergedVirtualService>> {
        spellings(host).find_map(|host| {
            let merged = self.virtual_services.get(&host)?;
            merged.for_client(client)
        })
    }

    /// Every set of labels that a document asks of a calling workload (`sourceLabels`, a rule's `workloadSelector`), with
    /// the namespace it is asked in (None = any). Two workloads of one namespace that have the same of them see the same.
    #[must_use]
    pub fn client_selectors(&self) -> BTreeSet<(Option<String>, Labels)> {
        let mut all = BTreeSet::new();
        let mut add = |namespace: Option<&String>, labels: &Labels| {
            if !labels.is_empty() {
                all.insert((namespace.cloned(), labels.clone()));
            }
        };
        for service in self.virtual_services.values() {
            let http = service.http.iter().flat_map(|(_, rule)| &rule.matches);
            for each in http {
                add(each.source_namespace.as_ref(), &each.source_labels);
            }
            let tls = service.tls.iter().flat_map(|(_, rule)| &rule.matches);
            let tcp = service.tcp.iter().flat_map(|(_, rule)| &rule.matches);
            for each in tls.map(|each| &each.common).chain(tcp) {
                add(each.source_namespace.as_ref(), &each.source_labels);
            }
        }
        for (home, rules) in self.destination_rules.values().flatten() {
            for rule in rules.selecting() {
                if let Some(selector) = &rule.rule.workload_selector {
                    add(Some(home), &selector.value);
                }
            }
        }
        all
    }
}

/// The host, then the wildcards it falls under, the longest first.
fn spellings(host: &HostName) -> impl Iterator<Item = HostName> {
    std::iter::once(host.clone()).chain(host.wildcards())
}

impl MergedVirtualService {
    /// What of it is for `client`; None if nothing is.
    #[must_use]
    pub fn for_client(&self, client: Client<'_>) -> Option<Cow<'_, Self>> {
        let whole = self.http.iter().all(|(_, rule)| is_plain(rule))
            && self
                .tls
                .iter()
                .all(|(o, rule)| for_all(o) && is_plain_tls(rule))
            && self
                .tcp
                .iter()
                .all(|(o, rule)| for_all(o) && is_plain_tcp(rule));
        if whole {
            return Some(Cow::Borrowed(self));
        }
        let (mut http, mut tls, mut tcp) = (Vec::new(), Vec::new(), Vec::new());
        for (object, rule) in &self.http {
            if !rule.export_to.includes(client.namespace) {
                continue;
            }
            if let Some(matches) = met(&rule.matches, |each| for_http(each, client)) {
                let rule = HttpRoute {
                    matches,
                    ..rule.clone()
                };
                http.push((object.clone(), rule));
            }
        }
        for (object, rule) in self.tls.iter().filter(|(object, _)| is_for(object, client)) {
            let own = |each: &crate::TlsMatch| {
                let common = for_connection(&each.common, client)?;
                Some(crate::TlsMatch {
                    common,
                    ..each.clone()
                })
            };
            if let Some(matches) = met(&rule.matches, own) {
                let rule = TlsRoute {
                    matches,
                    ..rule.clone()
                };
                tls.push((object.clone(), rule));
            }
        }
        for (object, rule) in self.tcp.iter().filter(|(object, _)| is_for(object, client)) {
            if let Some(matches) = met(&rule.matches, |each| for_connection(each, client)) {
                let rule = TcpRoute {
                    matches,
                    ..rule.clone()
                };
                tcp.push((object.clone(), rule));
            }
        }
        if http.is_empty() && tls.is_empty() && tcp.is_empty() {
            return None;
        }
        Some(Cow::Owned(Self {
            host: self.host.clone(),
            http,
            tls,
            tcp,
        }))
    }
}

fn export_to(object: &Object) -> Option<&ExportTo> {
    match &object.spec {
        Spec::VirtualService(spec) => Some(&spec.export_to),
        _ => None,
    }
}

fn for_all(object: &Object) -> bool {
    export_to(object) == Some(&ExportTo::All)
}

fn is_for(object: &Object, client: Client<'_>) -> bool {
    export_to(object).is_some_and(|export_to| export_to.includes(client.namespace))
}

fn is_plain(rule: &HttpRoute) -> bool {
    let asks = |each: &HttpMatch| each.source_namespace.is_some() || !each.source_labels.is_empty();
    rule.export_to == ExportTo::All && !rule.matches.iter().any(asks)
}

fn asks(each: &ConnectionMatch) -> bool {
    each.source_namespace.is_some() || !each.source_labels.is_empty()
}

fn is_plain_tls(rule: &TlsRoute) -> bool {
    !rule.matches.iter().any(|each| asks(&each.common))
}

fn is_plain_tcp(rule: &TcpRoute) -> bool {
    !rule.matches.iter().any(asks)
}

/// The matches that `decide` leaves. None if there were some and none is left: the rule never matches.
fn met<T>(matches: &[T], decide: impl Fn(&T) -> Option<T>) -> Option<Vec<T>> {
    let left: Vec<T> = matches.iter().filter_map(decide).collect();
    (matches.is_empty() || !left.is_empty()).then_some(left)
}

fn for_http(each: &HttpMatch, client: Client<'_>) -> Option<HttpMatch> {
    meets(each.source_namespace.as_ref(), &each.source_labels, client).then(|| HttpMatch {
        source_namespace: None,
        source_labels: Labels::new(),
        ..each.clone()
    })
}

fn for_connection(each: &ConnectionMatch, client: Client<'_>) -> Option<ConnectionMatch> {
    meets(each.source_namespace.as_ref(), &each.source_labels, client).then(|| ConnectionMatch {
        source_namespace: None,
        source_labels: Labels::new(),
        ..each.clone()
    })
}

fn meets(namespace: Option<&String>, labels: &Labels, client: Client<'_>) -> bool {
    namespace.is_none_or(|namespace| namespace == client.namespace)
        && includes(client.labels, labels)
}

impl DestinationRule {
    /// Whether its `workloadSelector`, if it has one, takes a workload with `labels`.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        let selector = self.workload_selector.as_ref();
        selector.is_none_or(|selector| includes(labels, &selector.value))
    }

    /// The subset of this name.
    #[must_use]
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| subset.name.value == name)
    }

    /// The host's policy, each of its parts replaced by the subset's where that has one (Istio). `ports` are the
    /// subset's where it has some; what holds for one port: [`Self::policy_of_port`].
    #[must_use]
    pub fn effective_policy(&self, subset: Option<&str>) -> TrafficPolicy {
        let host = self.traffic_policy.clone();
        let Some(subset) = subset.and_then(|name| self.subset(name)) else {
            return host;
        };
        let own = subset.traffic_policy.clone();
        let ports = if own.ports.is_empty() {
            host.ports.clone()
        } else {
            own.ports.clone()
        };
        TrafficPolicy {
            ports,
            ..host.replaced_by(own)
        }
    }

    /// What holds for one port: the host's for that port, its parts replaced by the subset's; all of that replaced by
    /// what the subset says for that port (Istio). Its `ports` are empty.
    #[must_use]
    pub fn policy_of_port(&self, subset: Option<&str>, port: u16) -> TrafficPolicy {
        let host = self.traffic_policy.at_port(port);
        let Some(subset) = subset.and_then(|name| self.subset(name)) else {
            return host;
        };
        let policy = &subset.traffic_policy;
        let merged = host.replaced_by(policy.clone());
        let merged = TrafficPolicy {
            ports: policy.ports.clone(),
            ..merged
        };
        merged.at_port(port)
    }
}

impl TrafficPolicy {
    /// Part by part, `own` where it says something. `ports` are left out.
    fn replaced_by(self, own: Self) -> Self {
        Self {
            load_balancer: own.load_balancer.or(self.load_balancer),
            connection_pool: own.connection_pool.or(self.connection_pool),
            outlier_detection: own.outlier_detection.or(self.outlier_detection),
            tls: own.tls.or(self.tls),
            retry_budget: own.retry_budget.or(self.retry_budget),
            proxy_protocol: own.proxy_protocol.or(self.proxy_protocol),
            ports: std::collections::BTreeMap::new(),
        }
    }

    /// What it says for one port, else what it says for all. `retryBudget` and `proxyProtocol` are the same for all ports
    /// (Istio).
    pub(super) fn at_port(&self, port: u16) -> Self {
        let of_port = self.ports.get(&port).map_or(self, |own| &own.policy);
        Self {
            retry_budget: self.retry_budget.clone(),
            proxy_protocol: self.proxy_protocol.clone(),
            ports: std::collections::BTreeMap::new(),
            ..of_port.clone()
        }
    }
}
