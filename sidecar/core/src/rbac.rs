//! Who may do what: policies by name, decided without allocation. `Rules` are one action (allow, deny, log) and its
//! policies; a filter has rules that are in force, rules that are only counted, or both.
//!
//! ```text
//! ALLOW: some policy matches ──► allowed by it      DENY: some policy matches ──► denied by it
//!        none ──► denied, by none                          none ──► allowed
//! a policy matches ◄── one of its permissions holds (what is asked) AND one of its principals holds (who asks)
//! ```
//! Policies are looked at in the order of their names, so that which one decided is always the same one.
//! It never answers anybody: the caller does. Source: Envoy `envoy.config.rbac.v3`.

mod cidr;
mod claim;
mod condition;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{RequestView, jwt::Verified};
pub use cidr::Cidr;
pub use claim::{ClaimMatch, ValueMatch};
pub use condition::{Condition, Names};

/// What is decided about: a request, or a connection that carries none.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Who asks, and where.
    pub caller: Caller<'a>,
    /// None = a connection of bytes.
    pub request: Option<&'a RequestView<'a>>,
    /// What `x-forwarded-for` says is believed. If not, the remote address is the connection's.
    pub believes: bool,
    /// Addresses at the end of `x-forwarded-for` that are passed over. Default 0.
    pub trusted_hops: u32,
    /// What its verified tokens say.
    pub claims: &'a [(Arc<str>, Arc<Verified>)],
}

/// The connection that something came on.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Address of the other end.
    pub remote: IpAddr,
    /// Where it connected to.
    pub local: Option<SocketAddr>,
    /// Whom its certificate names; None = it has shown none.
    pub peer: Option<PeerNames<'a>>,
    /// Server name that its TLS asked for; empty = none.
    pub server_name: &'a str,
}

/// Names of a verified certificate.
#[derive(Clone, Copy, Debug)]
pub struct PeerNames<'a> {
    /// Its URI, e.g. `spiffe://cluster.local/ns/default/sa/reviews`.
    pub uri: &'a str,
    /// Its DNS names.
    pub dns: &'a [Box<str>],
    /// Its subject in the form of RFC 2253.
    pub subject: &'a str,
}

/// What rules do with what their policies match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RbacAction {
    /// Only what matches is let through.
    Allow,
    /// What matches is not let through.
    Deny,
    /// Everything is let through; what matches is counted.
    Log,
}

/// A named pair of conditions.
#[derive(Clone, Debug)]
pub struct Policy {
    /// E.g. `ns[default]-policy[viewers]-rule[0]`.
    pub name: Arc<str>,
    /// What is asked.
    permissions: Condition,
    /// Who asks.
    principals: Condition,
}

impl Policy {
    /// One of the permissions and one of the principals have to hold; of an empty list none does.
    #[must_use]
    pub fn new(name: &str, permissions: Vec<Condition>, principals: Vec<Condition>) -> Self {
        Self {
            name: name.into(),
            permissions: Condition::one_of(permissions),
            principals: Condition::one_of(principals),
        }
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        // Who asks is mostly cheaper: one look into a set.
        self.principals.holds(subject) && self.permissions.holds(subject)
    }
}

/// An action and its policies.
#[derive(Clone, Debug)]
pub struct Rules {
    action: RbacAction,
    /// By name.
    policies: Box<[Policy]>,
}

/// What rules say about one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement<'a> {
    /// It may go on.
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'a Arc<str>>,
}

impl Rules {
    /// Policies are sorted by name.
    #[must_use]
    pub fn new(action: RbacAction, mut policies: Vec<Policy>) -> Self {
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            action,
            policies: policies.into(),
        }
    }

    /// What they do with what matches.
    #[must_use]
    pub fn action(&self) -> RbacAction {
        self.action
    }

    /// The first policy that matches, and what follows from it.
    #[must_use]
    pub fn judge(&self, subject: &Subject<'_>) -> Judgement<'_> {
        let found = self.policies.iter().find(|policy| policy.matches(subject));
        let policy = found.map(|policy| &policy.name);
        Judgement {
            allowed: match self.action {
                RbacAction::Allow => policy.is_some(),
                RbacAction::Deny => policy.is_none(),
                RbacAction::Log => true,
            },
            policy,
        }
    }

    /// Why something is denied, in words.
    #[must_use]
    pub fn why(&self, judgement: &Judgement<'_>) -> String {
        if let Some(policy) = judgement.policy {
            return format!("policy {policy:?} denies it");
        }
        let names = self.policies.iter().take(SHOWN);
        let names: Vec<String> = names.map(|policy| format!("{:?}", policy.name)).collect();
        match self.policies.len().saturating_sub(SHOWN) {
            0 if names.is_empty() => "no policy allows anything".to_owned(),
            0 => format!("none of the policies {} allows it", names.join(", ")),
            more => format!(
                "none of the policies {} and {more} more allows it",
                names.join(", ")
            ),
        }
    }
}

/// Policies that a text names.
const SHOWN: usize = 5;

/// A filter's rules.
#[derive(Clone, Debug, Default)]
pub struct Rbac {
    /// In force; None = everything is let through.
    pub rules: Option<Rules>,
    /// Only counted.
    pub shadow: Option<Rules>,
    /// Where the policy of `shadow` that matches is left for filters behind this one; None = nobody asks.
    pub marks: Option<Arc<str>>,
}
