//! What comes of each document: in force, in force in part, or not at all, and why.

use std::sync::Arc;

use crate::{Code, Diagnostic, Object, ObjectKey, Severity, Spec};

/// What comes of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effective {
    /// All of it is in force.
    Yes,
    /// In force, but for the parts of which [`Effect::reasons`] speak.
    Partly,
    /// Nothing of it: another document or rule comes first.
    Shadowed,
    /// Nothing of it: no host, workload or request is what it is for.
    MatchesNothing,
    /// In force, but one type of client does not follow some of it.
    NotByClient,
}

/// The effect of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Which.
    pub key: ObjectKey,
    /// `apiVersion` as written.
    pub api_version: String,
    /// What comes of it.
    pub effective: Effective,
    /// Why it is less than [`Effective::Yes`].
    pub reasons: Vec<Diagnostic>,
}

/// The effect of each of `objects`, given all that was found about them. What one type of client does not follow
/// ([`Code::NotByClient`]) comes from whoever translates for clients, among `found`.
#[must_use]
pub fn effects(objects: &[Arc<Object>], found: &[Diagnostic]) -> Vec<Effect> {
    objects.iter().map(|object| effect(object, found)).collect()
}

fn effect(object: &Object, found: &[Diagnostic]) -> Effect {
    let reasons: Vec<Diagnostic> = found
        .iter()
        .filter(|one| one.object.as_ref() == Some(&object.key))
        .filter(|one| one.severity != Severity::Error && weight(one.code).is_some())
        .cloned()
        .collect();
    let has = |wanted: Effective| reasons.iter().any(|one| weight(one.code) == Some(wanted));
    let dead = dead_rules(object, &reasons);
    let effective = if nowhere(object, &reasons) {
        Effective::MatchesNothing
    } else if dead && has(Effective::Shadowed) {
        Effective::Shadowed
    } else if dead {
        Effective::MatchesNothing
    } else if reasons.is_empty() {
        Effective::Yes
    } else if has(Effective::Shadowed) || has(Effective::MatchesNothing) {
        Effective::Partly
    } else if has(Effective::NotByClient) {
        Effective::NotByClient
    } else {
        Effective::Partly
    };
    Effect {
        key: object.key.clone(),
        api_version: object.api_version.clone(),
        effective,
        reasons,
    }
}

/// What a finding takes away, if anything.
const fn weight(code: Code) -> Option<Effective> {
    Some(match code {
        Code::AfterCatchAll | Code::RuleShadowed | Code::SameMatch | Code::MatchRepeated => {
            Effective::Shadowed
        }
        Code::PeerAuthenticationShadowed => Effective::Shadowed,
        Code::UnknownHost
        | Code::EgressHostUnknown
        | Code::EgressOtherNamespace
        | Code::WorkloadUnselected
        | Code::SelectorSelectsNothing
        | Code::SubsetWithoutEndpoints
        | Code::NoEndpoints
        | Code::SidecarSelectsNothing
        | Code::PortPolicyUnknownPort
        | Code::MatchPortUnknown
        | Code::SourceNamespaceUnknown
        | Code::SourceLabelsUnknown
        | Code::HopByHopMatch
        | Code::RegexOfNothing
        | Code::QueryInPath
        | Code::MethodCase
        | Code::AuthorityElsewhere
        | Code::HeaderInAndOut
        | Code::HttpRulesWithoutHttp
        | Code::DelegateUnused
        | Code::ExportToNowhere
        | Code::WildcardOfNothing
        | Code::SchemeUnknown
        | Code::PathNeverSent
        | Code::HeaderValueSpaces
        | Code::SecuritySelectsNothing
        | Code::SecurityPortUnknown
        | Code::PrincipalOfNobody
        | Code::RuleNeverHolds
        | Code::ConnectionRulesForHttp => Effective::MatchesNothing,
        Code::NotByClient => Effective::NotByClient,
        Code::FailoverWithoutEjection
        | Code::ServiceLimitsWithoutLimits
        | Code::BoundedLoadWithoutHash
        | Code::SubsetNotForAll
        | Code::EjectionNever
        | Code::EjectionOfOnlyOne => Effective::Partly,
        _ => return None,
    })
}

/// Whether the reasons take the whole document's object away, not one field's: all hosts that it is for, or whom.
fn nowhere(object: &Object, reasons: &[Diagnostic]) -> bool {
    let for_nobody = |one: &Diagnostic| {
        matches!(
            one.code,
            Code::WorkloadUnselected
                | Code::SidecarSelectsNothing
                | Code::ExportToNowhere
                | Code::DelegateUnused
        )
    };
    let mut gone: Vec<&str> = reasons
        .iter()
        .filter(|one| match one.code {
            Code::UnknownHost | Code::WildcardOfNothing => one.path.starts_with("spec.host"),
            Code::SelectorSelectsNothing | Code::NoEndpoints => true,
            _ => false,
        })
        .map(|one| one.path.as_str())
        .collect();
    gone.sort_unstable();
    gone.dedup();
    reasons.iter().any(for_nobody) || (!gone.is_empty() && gone.len() >= hosts(object))
}

/// Hosts that a document is for; 1 where it is for something else.
fn hosts(object: &Object) -> usize {
    match &object.spec {
        Spec::ServiceEntry(spec) if spec.workload_selector.is_none() => spec.hosts.len(),
        Spec::VirtualService(spec) => spec.hosts.len().max(1),
        _ => 1,
    }
}

/// Whether no rule of a VirtualService is ever taken.
fn dead_rules(object: &Object, reasons: &[Diagnostic]) -> bool {
    let Spec::VirtualService(spec) = &object.spec else {
        return false;
    };
    let gone: Vec<&str> = reasons
        .iter()
        // What may never be there is never there: the match holds always.
        .filter(|one| one.code != Code::HopByHopMatch || !one.path.contains(".withoutHeaders."))
        .filter(|one| {
            matches!(
                weight(one.code),
                Some(Effective::Shadowed | Effective::MatchesNothing)
            )
        })
        .map(|one| one.path.as_str())
        .collect();
    // The list, the rule, or each of its matches.
    let dead = |list: &str, index: usize, matches: usize| {
        let list = format!("spec.{list}");
        let rule = format!("{list}[{index}]");
        let every = (0..matches).all(|number| {
            let own = format!("{rule}.match[{number}]");
            gone.iter().any(|path| within(path, &own))
        });
        gone.iter().any(|path| *path == list || *path == rule) || (matches > 0 && every)
    };
    let http = spec
        .rules()
        .map(|(index, rule)| (index, rule.matches.len()));
    let delegated = spec.delegations.iter();
    let delegated = delegated.map(|rule| (rule.index, rule.settings.matches.len()));
    let mut rules = http
        .chain(delegated)
        .map(|(index, matches)| ("http", index, matches))
        .chain(numbered(
            "tls",
            spec.tls.iter().map(|rule| rule.matches.len()),
        ))
        .chain(numbered(
            "tcp",
            spec.tcp.iter().map(|rule| rule.matches.len()),
        ))
        .peekable();
    rules.peek().is_some() && rules.all(|(list, index, matches)| dead(list, index, matches))
}

fn numbered(
    list: &'static str,
    rules: impl Iterator<Item = usize>,
) -> impl Iterator<Item = (&'static str, usize, usize)> {
    rules
        .enumerate()
        .map(move |(index, matches)| (list, index, matches))
}

/// Whether `path` is `field` or something in it.
fn within(path: &str, field: &str) -> bool {
    path.strip_prefix(field)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
