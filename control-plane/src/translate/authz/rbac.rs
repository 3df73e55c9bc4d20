//! AuthorizationPolicies of a workload → access rules: what is counted, what is refused, what is allowed.
//!
//! Dry runs are shadow rules: of DENY the dry runs alone, of ALLOW together with those in force, because what is
//! allowed by one document is allowed.

use std::collections::BTreeMap;

use outrigger_policy::{AuthorizationAction, AuthorizationPolicy, Object, Position};
use outrigger_proto::envoy::{
    config::{
        listener::v3::{Filter, filter},
        rbac::v3::{Policy, Rbac, rbac::Action},
    },
    extensions::filters::{
        http::rbac::v3::Rbac as HttpRbac,
        network::{http_connection_manager::v3::HttpFilter, rbac::v3::Rbac as NetworkRbac},
    },
};

use super::{
    super::{any::any, listener::filter as http_filter},
    Workload,
    rule::{self, Of},
};

/// Of one filter.
struct Set {
    /// The end of its name.
    name: &'static str,
    rules: Option<Rbac>,
    shadow: Option<Rbac>,
    /// What shadow rules are counted under (Istio's words).
    shadow_prefix: &'static str,
}

/// What the network filter's counters begin with (Istio's).
const STAT_PREFIX: &str = "tcp.";

/// The filters of HTTP.
pub(super) fn http(workload: &Workload<'_>) -> Vec<HttpFilter> {
    let filters = sets(workload, Of::Requests).into_iter().map(|set| {
        let config = HttpRbac {
            shadow_rules_stat_prefix: set.shadow_prefix().to_owned(),
            rules: set.rules,
            shadow_rules: set.shadow,
            ..HttpRbac::default()
        };
        http_filter(
            &format!("envoy.filters.http.rbac.{}", set.name),
            any("envoy.extensions.filters.http.rbac.v3.RBAC", &config),
        )
    });
    filters.collect()
}

/// The same of connections.
pub(super) fn network(workload: &Workload<'_>) -> Vec<Filter> {
    let filters = sets(workload, Of::Connections).into_iter().map(|set| {
        let config = NetworkRbac {
            stat_prefix: STAT_PREFIX.to_owned(),
            shadow_rules_stat_prefix: set.shadow_prefix().to_owned(),
            rules: set.rules,
            shadow_rules: set.shadow,
            ..NetworkRbac::default()
        };
        let config = any("envoy.extensions.filters.network.rbac.v3.RBAC", &config);
        Filter {
            name: format!("envoy.filters.network.rbac.{}", set.name),
            config_type: Some(filter::ConfigType::TypedConfig(config)),
        }
    });
    filters.collect()
}

/// Where each rule stands, by the name of its policy.
pub(super) fn positions<'a>(workload: &Workload<'a>) -> BTreeMap<String, &'a Position> {
    let documents = workload.mesh.authorization_policies(workload.view());
    let each = documents.flat_map(|(object, spec)| {
        let rules = spec.rules.iter().enumerate();
        let rules = rules.map(|(index, rule)| (rule_name(object, index), &rule.position));
        let none = spec.rules.is_empty();
        rules.chain(none.then(|| (policy_name(object), &object.position)))
    });
    each.collect()
}

impl Set {
    const fn shadow_prefix(&self) -> &'static str {
        if self.shadow.is_some() {
            self.shadow_prefix
        } else {
            ""
        }
    }
}

/// In the order in which they are asked.
fn sets(workload: &Workload<'_>, of: Of) -> Vec<Set> {
    let with = |action: &AuthorizationAction, dry_run: bool| {
        let all = workload.mesh.authorization_policies(workload.view());
        let mut all = all
            .filter(|(object, spec)| spec.action == *action && object.is_dry_run() == dry_run)
            .peekable();
        all.peek().is_some().then(|| {
            let policies = all.flat_map(|(object, spec)| policies(object, spec, workload, of));
            policies.collect::<BTreeMap<_, _>>()
        })
    };
    let audit = with(&AuthorizationAction::Audit, false);
    let (deny, tried_deny) = (
        with(&AuthorizationAction::Deny, false),
        with(&AuthorizationAction::Deny, true),
    );
    let (allow, tried_allow) = (
        with(&AuthorizationAction::Allow, false),
        with(&AuthorizationAction::Allow, true),
    );
    let tried_allow = tried_allow.map(|mut tried| {
        tried.extend(allow.clone().into_iter().flatten());
        tried
    });
    let rules = |action: Action, policies: Option<BTreeMap<String, Policy>>| {
        policies.map(|policies| Rbac {
            action: action as i32,
            policies,
            ..Rbac::default()
        })
    };
    let all = [
        Set {
            name: "audit",
            rules: rules(Action::Log, audit),
            shadow: None,
            shadow_prefix: "",
        },
        Set {
            name: "deny",
            rules: rules(Action::Deny, deny),
            shadow: rules(Action::Deny, tried_deny),
            shadow_prefix: "istio_dry_run_deny_",
        },
        Set {
            name: "allow",
            rules: rules(Action::Allow, allow),
            shadow: rules(Action::Allow, tried_allow),
            shadow_prefix: "istio_dry_run_allow_",
        },
    ];
    let asked = all.into_iter();
    asked
        .filter(|set| set.rules.is_some() || set.shadow.is_some())
        .collect()
}

/// One policy a rule. What can never match is there all the same, so that a refusal names it.
pub(in crate::translate) fn policies(
    object: &Object,
    spec: &AuthorizationPolicy,
    workload: &Workload<'_>,
    of: Of,
) -> Vec<(String, Policy)> {
    if spec.rules.is_empty() {
        return vec![(policy_name(object), rule::never())];
    }
    let rules = spec.rules.iter().enumerate();
    let policies = rules.map(|(index, rule)| {
        let policy = rule::policy(rule, &spec.action, workload, of);
        (rule_name(object, index), policy)
    });
    policies.collect()
}

/// `ns[default]-policy[viewers]`
fn policy_name(object: &Object) -> String {
    format!("ns[{}]-policy[{}]", object.key.namespace, object.key.name)
}

/// `ns[default]-policy[viewers]-rule[0]`
pub(in crate::translate) fn rule_name(object: &Object, index: usize) -> String {
    format!("{}-rule[{index}]", policy_name(object))
}
