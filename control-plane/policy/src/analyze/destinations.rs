//! One DestinationRule: what its policies come to with the endpoints that there are.

use std::time::Duration;

use super::{
    finder::{Finder, listed, time},
    policies, routes, subsets, visibility,
};
use crate::{
    Balancer, Code, ConnectionPool, DestinationRule, HashKey, HostName, LoadBalancer, Object,
    OutlierDetection, PortPolicy, Protocol, TlsMode, TrafficPolicy,
};

/// Past these, servers and the middle boxes between have closed an idle connection.
const LONG_IDLE: Duration = Duration::from_secs(3_600);

pub(super) fn check<'a>(finder: &mut Finder<'a>, object: &'a Object, rule: &DestinationRule) {
    routes::elsewhere(finder, object, &rule.host, "spec.host");
    let host = finder.host(object, &rule.host);
    visibility::host(finder, object, &rule.host, "spec.host");
    visibility::export_to(finder, object, &rule.export_to);
    policies::third(finder, object, &host, "spec.host");
    subsets::check(finder, object, rule, &host);
    let endpoints = finder.endpoints(&host);
    let all = endpoints.as_ref().map(Vec::len);
    let own = Place {
        host: &host,
        path: "spec.trafficPolicy",
        endpoints: all,
    };
    policy(finder, object, &rule.traffic_policy, own);
    for (index, subset) in rule.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}].trafficPolicy");
        let members = endpoints
            .as_ref()
            .map(|all| all.iter().filter(|one| subset.selects(&one.labels)).count());
        policy(
            finder,
            object,
            &subset.traffic_policy,
            Place {
                host: &host,
                path: &path,
                endpoints: members,
            },
        );
    }
}

/// What a policy is for.
#[derive(Clone, Copy)]
struct Place<'p> {
    host: &'p HostName,
    path: &'p str,
    /// How many there are, if that is known.
    endpoints: Option<usize>,
}

/// `own` is what is written there.
fn policy<'a>(finder: &mut Finder<'a>, object: &'a Object, own: &TrafficPolicy, place: Place<'_>) {
    if let Some(balancer) = &own.load_balancer {
        let path = format!("{}.loadBalancer", place.path);
        load_balancer(finder, object, &balancer.value, &path);
    }
    if let Some(pool) = &own.connection_pool {
        connection_pool(finder, object, &pool.value, place);
    }
    if let Some(outlier) = &own.outlier_detection {
        outlier_detection(finder, object, &outlier.value, place);
    }
    tls(finder, object, own, place);
    ports(finder, object, own, place);
}

fn load_balancer<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    balancer: &LoadBalancer,
    path: &str,
) {
    if let Balancer::ConsistentHash { key, .. } = &balancer.algorithm {
        let path = format!("{path}.consistentHash");
        match key {
            HashKey::SourceIp => {
                let message = "the caller of a sidecar is the one application beside it, so that all requests of an instance go to one \
                               endpoint; hash a header or cookie of the user";
                finder.find(
                    Code::HashBySourceIp,
                    object,
                    &format!("{path}.useSourceIp"),
                    message,
                );
            }
            HashKey::Cookie {
                name, ttl: None, ..
            } => {
                let message = format!(
                    "nobody sets the cookie {name} unless an application does; requests without it go anywhere: give it a ttl (0s for a \
                     session), and the sidecar sets it"
                );
                finder.find(
                    Code::HashCookieNeverSet,
                    object,
                    &format!("{path}.httpCookie"),
                    message,
                );
            }
            _ => {}
        }
    }
}

fn connection_pool<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    pool: &ConnectionPool,
    place: Place<'_>,
) {
    let path = format!("{}.connectionPool", place.path);
    if let (Some(most), Some(endpoints)) = (pool.max_connections, place.endpoints)
        && usize::try_from(most).is_ok_and(|most| most < endpoints)
    {
        let message = format!(
            "{most} connections of a sidecar are fewer than the {endpoints} endpoints of {}: each change of endpoint closes a connection and \
             opens another, and requests wait for it; write at least {endpoints}",
            place.host
        );
        finder.find(
            Code::ConnectionsBelowEndpoints,
            object,
            &format!("{path}.tcp.maxConnections"),
            message,
        );
    }
    if pool.max_requests_per_connection == Some(1) {
        let message = "every request opens a connection of its own, with its TLS handshake; that is right to look for an error, or for a \
                       server that leaks: otherwise remove it";
        finder.find(
            Code::OneRequestPerConnection,
            object,
            &format!("{path}.http.maxRequestsPerConnection"),
            message,
        );
    }
    if let Some(idle) = pool.idle_timeout.filter(|idle| *idle > LONG_IDLE) {
        let message = format!(
            "connections are kept for {}, but servers close theirs after 5 s (Node), 60 s (nginx) or an hour at most: a request may meet one that \
             is just closing; write less than the server's keep-alive",
            time(idle)
        );
        finder.find(
            Code::LongIdleTimeout,
            object,
            &format!("{path}.http.idleTimeout"),
            message,
        );
    }
}

fn outlier_detection<'a>(
    finder: &mut Finder<'a>,
    object: &'a Object,
    outlier: &OutlierDetection,
    place: Place<'_>,
) {
    let path = format!("{}.outlierDetection", place.path);
    // With 100 even the last one may be ejected.
    if place.endpoints == Some(1) && outlier.max_ejection_percent < 100 {
        let message = format!(
            "{} has one endpoint, which is never ejected, as nothing would be left; run a second one, or remove this",
            place.host
        );
        finder.find(Code::EjectionOfOnlyOne, object, &path, message);
    }
    let local =
        outlier.split_external_local_origin_errors && outlier.consecutive_local_origin_failures > 0;
    if outlier.max_ejection_percent == 0 {
        let message = "no endpoint may be ejected; give a percentage, or remove outlierDetection";
        finder.find(
            Code::EjectionNever,
            object,
            &format!("{path}.maxEjectionPercent"),
            message,
        );
    } else if outlier.consecutive_5xx_errors == 0
        && outlier.consecutive_gateway_errors == 0
        && !local
    {
        let message = "both kinds of error are off (0), so nothing is ever counted; give consecutive5xxErrors, or remove outlierDetection";
        finder.find(Code::EjectionNever, object, &path, message);
    }
    if outlier.base_ejection_time < outlier.interval {
        let message = format!(
            "endpoints are let back only at the end of an interval, so {} are really {}; write at least the interval",
            time(outlier.base_ejection_time),
            time(outlier.interval)
        );
        finder.find(
            Code::EjectionBelowInterval,
            object,
            &format!("{path}.baseEjectionTime"),
            message,
        );
    }
    if outlier.max_ejection_percent == 100 {
        let message = "all endpoints may be ejected at once, after which every request fails with 503 for baseEjectionTime; 50 leaves half of them";
        finder.find(
            Code::EjectsAll,
            object,
            &format!("{path}.maxEjectionPercent"),
            message,
        );
    }
    let (gateway, any) = (
        outlier.consecutive_gateway_errors,
        outlier.consecutive_5xx_errors,
    );
    if gateway > 0 && any > 0 && gateway >= any {
        let message = format!(
            "502, 503 and 504 count as 5xx, too, and {any} of those eject first; write fewer than {any}, or consecutive5xxErrors: 0"
        );
        finder.find(
            Code::GatewayErrorsNeverFirst,
            object,
            &format!("{path}.consecutiveGatewayErrors"),
            message,
        );
    }
}

fn tls<'a>(finder: &mut Finder<'a>, object: &'a Object, own: &TrafficPolicy, place: Place<'_>) {
    let Some(tls) = own.tls.as_ref().map(|tls| &tls.value) else {
        return;
    };
    let path = format!("{}.tls", place.path);
    let host = place.host;
    let endpoints = finder.endpoints(host).unwrap_or_default();
    let mtls = endpoints.iter().filter(|one| one.mtls).count();
    match tls.mode {
        TlsMode::Disable if mtls > 0 => {
            let message = format!(
                "{mtls} of {} endpoints of {host} expect the mesh's mutual TLS and close a connection in plain text; remove tls, or write \
                 ISTIO_MUTUAL",
                endpoints.len()
            );
            finder.find(Code::PlainToMtls, object, &format!("{path}.mode"), message);
        }
        TlsMode::Simple | TlsMode::Mutual if mtls > 0 => {
            let message = format!(
                "{mtls} of {} endpoints of {host} expect the mesh's mutual TLS and refuse other certificates; remove tls, or write ISTIO_MUTUAL",
                endpoints.len()
            );
            finder.find(
                Code::TlsToMeshEndpoints,
                object,
                &format!("{path}.mode"),
                message,
            );
        }
        _ => {}
    }
    if tls.insecure_skip_verify {
        let message = "whoever answers is believed, so the encryption protects from nobody; give caCertificates and subjectAltNames";
        finder.find(
            Code::NoVerification,
            object,
            &format!("{path}.insecureSkipVerify"),
            message,
        );
    }
    if matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual)
        && let Some(ports) = finder.ports(host)
    {
        let wrapped = ports
            .iter()
            .filter(|(_, protocol)| **protocol == Some(Protocol::Tls))
            .map(|(port, _)| port);
        let wrapped: Vec<_> = wrapped.collect();
        if !wrapped.is_empty() && wrapped.len() == ports.len() {
            let message = format!(
                "the client speaks TLS on port {} already, and this wraps it once more, which the server does not understand; declare the port \
                 as HTTP if the sidecar is to speak TLS, or remove this",
                listed(wrapped)
            );
            finder.find(Code::TlsInTls, object, &format!("{path}.mode"), message);
        }
    }
}

fn ports<'a>(finder: &mut Finder<'a>, object: &'a Object, own: &TrafficPolicy, place: Place<'_>) {
    let known = finder.ports(place.host);
    for (
        number,
        PortPolicy {
            index,
            policy: policy_of_port,
        },
    ) in &own.ports
    {
        let path = format!("{}.portLevelSettings[{index}]", place.path);
        if let Some(known) = known.as_ref().filter(|known| !known.contains_key(number)) {
            let message = format!(
                "{} has no port {number}; it has {}",
                place.host,
                listed(known.keys())
            );
            finder.find(
                Code::PortPolicyUnknownPort,
                object,
                &format!("{path}.port.number"),
                message,
            );
        }
        let (here, above) = (policy_of_port.parts(), own.parts());
        let lost: Vec<&str> = above
            .into_iter()
            // A retry budget is of all ports.
            .filter(|part| *part != "retryBudget" && !here.contains(part))
            .collect();
        if !lost.is_empty() {
            let message = format!(
                "settings for a port take the place of all others: for port {number} the {} above does not hold; repeat it here if it is to",
                listed(lost)
            );
            finder.find(Code::PortDropsSettings, object, &path, message);
        }
        policy(
            finder,
            object,
            policy_of_port,
            Place {
                path: &path,
                ..place
            },
        );
    }
}
