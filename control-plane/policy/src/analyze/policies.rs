//! Our own kinds: DestinationPolicy, what has no effect without, or beside, something in the DestinationRule;
//! ExtensionProvider, what nobody asks.

use super::finder::{Finder, listed, time};
use crate::{Code, HostName, HttpAction, Object, Spec, TrafficPolicy};

pub(super) fn check(finder: &mut Finder<'_>) {
    let mesh = finder.mesh;
    let all = mesh.destination_policies.iter();
    let all = all.flat_map(|(key, by_home)| by_home.values().map(move |found| (key, found)));
    for ((host, subset), (object, own)) in all {
        third(finder, object, host, "spec.host");
        let subset = Some(subset.as_str()).filter(|subset| !subset.is_empty());
        let policy = mesh.traffic_policy(host, subset);
        if own.service_limits.is_some() && policy.connection_pool.is_some() && !limited(&policy) {
            let message = format!(
                "no connectionPool of {host} has a limit that sidecars could share; give one in a DestinationRule, or remove this"
            );
            finder.find(
                Code::ServiceLimitsWithoutLimits,
                object,
                "spec.limits",
                message,
            );
        }
        if let Some(hedging) = &own.hedging {
            hedged(finder, object, host, hedging.value.after);
        }
    }
    for (object, _) in mesh.providers() {
        if !mesh.is_asked(object) {
            let message = "no AuthorizationPolicy with action CUSTOM asks it; name it in spec.provider.name of one, or delete it";
            finder.find(Code::ProviderUnused, object, "metadata.name", message);
        }
    }
}

/// A document of a namespace that is not the service's holds for calls from there alone.
pub(super) fn third<'a>(finder: &mut Finder<'a>, object: &'a Object, host: &HostName, path: &str) {
    let own = object.key.namespace.as_str();
    let homes: Vec<&str> = finder.mesh.namespaces_of(host).collect();
    if homes.is_empty() || homes.contains(&own) {
        return;
    }
    let message = format!(
        "holds for clients of {own} alone: {host} is of {}, whose documents hold for everybody; write it there if it is to",
        listed(homes)
    );
    finder.find(Code::PolicyOfThird, object, path, message);
}

fn limited(policy: &TrafficPolicy) -> bool {
    policy.connection_pool.as_ref().is_some_and(|pool| {
        let pool = &pool.value;
        [
            pool.max_connections,
            pool.http1_max_pending_requests,
            pool.http2_max_requests,
            pool.max_retries,
        ]
        .iter()
        .any(Option::is_some)
    })
}

fn hedged<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    host: &HostName,
    after: std::time::Duration,
) {
    for other in finder.objects {
        let Spec::VirtualService(spec) = &other.spec else {
            continue;
        };
        for rule in &spec.http {
            let HttpAction::Route(to) = &rule.action else {
                continue;
            };
            let leads_here = to.iter().any(|one| finder.host(other, &one.host) == *host);
            if let Some(timeout) = rule
                .timeout
                .as_ref()
                .map(|at| at.value)
                .filter(|timeout| leads_here && *timeout <= after)
            {
                let message = format!(
                    "a second copy is sent after {}, but the rule at {} gives up after {}; write less than that",
                    time(after),
                    rule.position,
                    time(timeout)
                );
                finder.find(
                    Code::HedgingPastTimeout,
                    object,
                    "spec.hedging.after",
                    message,
                );
                return;
            }
        }
    }
}
