//! One rule → one policy: its `to` are permissions, its `from` principals, its `when` goes to each of those that it is
//! about.
//!
//! Connections have no paths. Of them an ALLOW rule that asks for one allows nothing, and any other rule is read without
//! what they do not have: in doubt less is allowed, and more refused (Istio).

use outrigger_policy::{AuthorizationAction, AuthorizationRule, Clause};
use outrigger_proto::envoy::config::rbac::v3::{Permission, Policy, Principal};

use super::{Workload, term::Term};

/// What there is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::translate) enum Of {
    Requests,
    Connections,
}

/// One that matches nothing.
pub(super) fn never() -> Policy {
    Policy {
        permissions: vec![Permission::never()],
        principals: vec![Principal::never()],
        ..Policy::default()
    }
}

pub(super) fn policy(
    rule: &AuthorizationRule,
    action: &AuthorizationAction,
    workload: &Workload<'_>,
    of: Of,
) -> Policy {
    let missing = |clause: &Clause| of == Of::Connections && clause.attribute.is_http_only();
    if *action == AuthorizationAction::Allow && rule.clauses().any(missing) {
        return never();
    }
    let when = |destination: bool| {
        let all = rule.when.iter();
        all.filter(move |clause| clause.attribute.is_of_the_destination() == destination)
    };
    let there = |clause: &&Clause| !missing(clause);
    Policy {
        permissions: groups(&rule.to, || when(true), there, workload),
        principals: groups(&rule.from, || when(false), there, workload),
        ..Policy::default()
    }
}

/// One term for each of `groups`, or one for none.
fn groups<'r, T: Term, W: Iterator<Item = &'r Clause>>(
    groups: &'r [Vec<Clause>],
    when: impl Fn() -> W,
    there: impl Fn(&&'r Clause) -> bool,
    workload: &Workload<'_>,
) -> Vec<T> {
    let one = |group: &'r [Clause]| {
        let all = group.iter().chain(when()).filter(|clause| there(clause));
        T::all_of(
            all.flat_map(|clause| clause_terms(clause, workload))
                .collect(),
        )
    };
    if groups.is_empty() {
        return vec![one(&[])];
    }
    groups.iter().map(|group| one(group)).collect()
}

/// One of the values, and none of the others.
fn clause_terms<T: Term>(clause: &Clause, workload: &Workload<'_>) -> Vec<T> {
    let terms = |values: &[_]| -> Option<T> {
        let all = values.iter();
        let all: Vec<T> = all
            .map(|value: &outrigger_policy::At<_>| T::of(&clause.attribute, &value.value, workload))
            .collect();
        (!all.is_empty()).then(|| T::one_of(all))
    };
    let wanted = terms(&clause.values);
    let unwanted = terms(&clause.not_values).map(T::opposite);
    wanted.into_iter().chain(unwanted).collect()
}
