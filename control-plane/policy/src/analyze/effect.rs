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
    let mine = found.iter().filter(|one| stands_in(object, one));
    let reasons: Vec<Diagnostic> = mine
        .filter(|one| weight(one.code).is_some())
        .cloned()
        .collect();
    let of = |wanted: Effective| {
        reasons
            .iter()
            .filter(|one| weight(one.code) == Some(wanted))
            .count()
    };
    let (shadowed, nothing) = (of(Effective::Shadowed), of(Effective::MatchesNothing));
    let parts = parts(object);
    let effective = if nothing > 0 && nothing >= hosts(object) && whole(&reasons) {
        Effective::MatchesNothing
    } else if parts > 0 && rules_shadowed(&reasons) >= parts {
        Effective::Shadowed
    } else if shadowed + nothing > 0 {
        Effective::Partly
    } else if of(Effective::NotByClient) > 0 {
        Effective::NotByClient
    } else if reasons.is_empty() {
        Effective::Yes
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

/// Documents do not overlap, so the last that starts before it has it.
fn stands_in(object: &Object, found: &Diagnostic) -> bool {
    let lines = u32::try_from(object.yaml.lines().count()).unwrap_or(u32::MAX);
    let start = &object.text_position;
    found.severity != Severity::Error
        && found.position.file == start.file
        && found.position.line >= start.line
        && found.position.line < start.line.saturating_add(lines)
}

/// What a finding takes away, if anything.
const fn weight(code: Code) -> Option<Effective> {
    Some(match code {
        Code::AfterCatchAll | Code::RuleShadowed | Code::SameMatch | Code::MatchRepeated => {
            Effective::Shadowed
        }
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
        | Code::ConnectionRulesForHttp => Effective::MatchesNothing,
        Code::NotByClient => Effective::NotByClient,
        Code::FailoverWithoutEjection
        | Code::ServiceLimitsWithoutLimits
        | Code::BoundedLoadWithoutHash
        | Code::EjectionNever
        | Code::EjectionOfOnlyOne => Effective::Partly,
        _ => return None,
    })
}

/// Whether one of the reasons takes the whole document's object away, not one field's.
fn whole(reasons: &[Diagnostic]) -> bool {
    reasons.iter().any(|one| {
        matches!(
            one.code,
            Code::UnknownHost
                | Code::WorkloadUnselected
                | Code::SelectorSelectsNothing
                | Code::NoEndpoints
                | Code::SidecarSelectsNothing
        ) && (one.path == "spec.host" || !one.path.starts_with("spec.http"))
    })
}

/// Hosts that a document is for; 1 where it is for something else.
fn hosts(object: &Object) -> usize {
    match &object.spec {
        Spec::ServiceEntry(spec) if spec.workload_selector.is_none() => spec.hosts.len(),
        _ => 1,
    }
}

/// Rules of a VirtualService.
fn parts(object: &Object) -> usize {
    match &object.spec {
        Spec::VirtualService(spec) => spec.http.len(),
        _ => 0,
    }
}

/// Rules that are shadowed whole: told of the rule itself, or of each of its matches.
fn rules_shadowed(reasons: &[Diagnostic]) -> usize {
    let mut rules: Vec<&str> = reasons
        .iter()
        .filter(|one| {
            matches!(
                one.code,
                Code::AfterCatchAll | Code::RuleShadowed | Code::SameMatch
            )
        })
        .filter_map(|one| one.path.split(".match").next())
        .collect();
    rules.sort_unstable();
    rules.dedup();
    rules.len()
}
