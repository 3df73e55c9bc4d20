//! What xDS has no field for: `metadata.filter_metadata["outrigger"]` of a cluster.

use outrigger_policy::{
    BreakerScope, DestinationPolicy, LoadBalancer, MergedDestinationRule, OwnBalancer, Subset,
};
use prost_types::{Struct, Value};

use super::{
    super::{
        any::{decided_by, millis, nested, number, object, text},
        locality::distributes,
        policy::origin,
    },
    balancing::{is_hash, own_balancer},
};

/// `service` and `subset`, who decided, and what a DestinationPolicy asks for.
pub(super) fn of(
    service: &str,
    subset: Option<&Subset>,
    rule: Option<&MergedDestinationRule>,
    balancer: Option<&LoadBalancer>,
    own: Option<&DestinationPolicy>,
) -> Struct {
    let name = subset.map_or("", |subset| subset.name.value.as_str());
    let decided = rule.and_then(|rule| origin(rule, subset));
    let decided = decided.map(|(position, document)| decided_by(position, document));
    let identity = [("service", text(service)), ("subset", text(name))];
    object(
        identity
            .into_iter()
            .chain(decided.into_iter().flatten())
            .chain(own_balancer(balancer, own).map(own_balancing))
            .chain(own.into_iter().flat_map(|own| further(balancer, own))),
    )
}

fn own_balancing(balancer: OwnBalancer) -> (&'static str, Value) {
    let OwnBalancer::PeakEwma { decay } = balancer;
    let of = [("type", text("PEAK_EWMA")), ("decay_ms", millis(decay))];
    ("balancer", nested(object(of)))
}

fn further(
    balancer: Option<&LoadBalancer>,
    own: &DestinationPolicy,
) -> impl Iterator<Item = (&'static str, Value)> {
    // A hash looks at the key alone, and shares that a person wrote are not to be corrected.
    let zones = balancer.is_none_or(|balancer| !is_hash(balancer) && !distributes(balancer));
    let zone_aware = own.zone_aware.as_ref().filter(|_| zones);
    let zone_aware = zone_aware.map(|at| {
        let of = [("minimum_endpoints", number(at.value.minimum_endpoints))];
        ("zone_aware", nested(object(of)))
    });
    let breaker = own.circuit_breaker.as_ref().map(|at| {
        let scope = match at.value.scope {
            BreakerScope::Endpoint => "ENDPOINT",
            BreakerScope::Service => "SERVICE",
            BreakerScope::Both => "BOTH",
        };
        let of = [
            (
                "consecutive_failures",
                number(at.value.consecutive_failures),
            ),
            ("reset_timeout_ms", millis(at.value.reset_timeout)),
            ("scope", text(scope)),
            ("position", text(at.position.to_string())),
        ];
        ("circuit_breaker", nested(object(of)))
    });
    let limits = own.service_limits.as_ref();
    let limits = limits.map(|_| ("limits_scope", text("SERVICE")));
    [zone_aware, breaker, limits].into_iter().flatten()
}
