//! What documents ask for and a kind of client cannot do. It is sent the closest thing that it can; the operator is told.
//! Pure. Which clients are connected, and whether they see the hosts, is the reader's business.

use outrigger_policy::{At, DestinationPolicy, Mesh, NamespacePolicies, ObjectKey, Position};

use super::node::Dialect;

/// A setting that clients of one kind do not follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsupported {
    /// The document.
    pub(crate) object: ObjectKey,
    /// Where it is written.
    pub(crate) position: Position,
    /// The field, e.g. `spec.balancer`.
    pub(crate) path: &'static str,
    /// What such a client does instead.
    pub(crate) instead: &'static str,
}

/// Everything in `mesh` that clients of `dialect` do not follow, by position. Our own sidecar follows everything;
/// what a gRPC library does not is known when one asks (`grpc`).
pub(crate) fn unsupported_by(dialect: Dialect, mesh: &Mesh) -> Vec<Unsupported> {
    let mut all = match dialect {
        Dialect::Outrigger | Dialect::Grpc(_) => Vec::new(),
        Dialect::Envoy => {
            let policies = mesh.destination_policies.values();
            let policies = policies.flat_map(NamespacePolicies::values);
            policies
                .flat_map(|(object, policy)| {
                    unknown_to_envoy(policy).map(|(position, path, instead)| Unsupported {
                        object: object.key.clone(),
                        position,
                        path,
                        instead,
                    })
                })
                .collect()
        }
    };
    all.sort_by(|a, b| (&a.position, a.path).cmp(&(&b.position, b.path)));
    all
}

/// Where it is written, which field, and what happens instead.
type Found = (Position, &'static str, &'static str);

fn unknown_to_envoy(policy: &DestinationPolicy) -> impl Iterator<Item = Found> + use<> {
    [
        found(
            policy.balancer.as_ref(),
            "spec.balancer",
            "takes the endpoint with the fewest requests, whatever their latency",
        ),
        found(
            policy.zone_aware.as_ref(),
            "spec.zoneAware",
            "uses endpoints of all zones alike",
        ),
        found(
            policy.circuit_breaker.as_ref(),
            "spec.circuitBreaker",
            "goes on calling; outlierDetection is what it has",
        ),
        found(
            policy.service_limits.as_ref(),
            "spec.limits.scope",
            "holds the limits for itself alone",
        ),
        found(
            policy.hedging.as_ref(),
            "spec.hedging",
            "sends one copy and waits",
        ),
    ]
    .into_iter()
    .flatten()
}

fn found<T>(setting: Option<&At<T>>, path: &'static str, instead: &'static str) -> Option<Found> {
    Some((setting?.position.clone(), path, instead))
}
