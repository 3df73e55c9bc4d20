//! Tokens: who verifies them for whom, and access rules about tokens that nobody verifies.

use std::collections::BTreeMap;

use super::finder::Finder;
use crate::{Attribute, AuthorizationPolicy, Code, Object, RequestAuthentication, Spec};

type Labels = BTreeMap<String, String>;

pub(super) fn check<'a>(finder: &mut Finder<'a>) {
    for object in finder.objects {
        match &object.spec {
            Spec::RequestAuthentication(spec) => issuers(finder, object, spec),
            Spec::AuthorizationPolicy(spec) => asked(finder, object, spec),
            _ => {}
        }
    }
}

/// Each issuer of an older document that may be for the same workloads.
fn issuers<'a>(finder: &mut Finder<'a>, object: &'a Object, spec: &'a RequestAuthentication) {
    for (index, rule) in spec.rules.iter().enumerate() {
        let before = finder.mesh.tokens.iter();
        let mut before = before.take_while(|(other, _)| other.key != object.key);
        let same = before.find(|(other, found)| {
            other.is_dry_run() == object.is_dry_run()
                && meet(finder, (object, labels(spec)), (other, labels(found)))
                && found
                    .rules
                    .iter()
                    .any(|one| one.issuer.value == rule.issuer.value)
        });
        if let Some((other, _)) = same {
            let message = format!(
                "{} ({}) has a rule for {:?} too, and may be for the same workloads: a token that is good for either is let in; put both rules together",
                other.key, other.position, rule.issuer.value
            );
            let path = format!("spec.jwtRules[{index}].issuer");
            finder.find(Code::IssuerInTwo, object, &path, message);
        }
    }
}

fn asked<'a>(finder: &mut Finder<'a>, object: &'a Object, spec: &'a AuthorizationPolicy) {
    let own = spec.selector.as_ref().map(|labels| &labels.value);
    let mut all = finder.mesh.tokens.iter();
    let is_verified = all.any(|(other, found)| {
        meet(finder, (object, own), (other, labels(found))) && !other.is_dry_run()
    });
    if is_verified {
        return;
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        let about_tokens = rule.clauses().find(|clause| {
            matches!(
                clause.attribute,
                Attribute::RequestPrincipal
                    | Attribute::RequestAudiences
                    | Attribute::RequestPresenter
                    | Attribute::RequestClaim(_)
            )
        });
        if let Some(clause) = about_tokens {
            let message = "looks at a verified token, but no RequestAuthentication is for these workloads, so that there never is one; add one with the issuer and its keys";
            let path = format!("spec.rules[{index}].{}", clause.path);
            finder.find(Code::TokensNotVerified, object, &path, message);
        }
    }
}

fn labels(spec: &RequestAuthentication) -> Option<&Labels> {
    spec.selector.as_ref().map(|labels| &labels.value)
}

/// Whether one workload may have both: nothing in their namespaces and labels is against it.
fn meet(finder: &Finder<'_>, a: (&Object, Option<&Labels>), b: (&Object, Option<&Labels>)) -> bool {
    let root = finder.mesh.root_namespace();
    let of = |object: &Object| object.key.namespace.clone();
    let (first, second) = (of(a.0), of(b.0));
    let near = first == second || first == root || second == root;
    let (Some(own), Some(other)) = (a.1, b.1) else {
        return near;
    };
    near && own
        .iter()
        .all(|(name, value)| other.get(name).is_none_or(|found| found == value))
}
