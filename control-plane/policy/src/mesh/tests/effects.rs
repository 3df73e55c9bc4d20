//! Settings that have no effect beside what others say.

use super::{TO_A, world};

fn found(documents: &[(&str, &str)]) -> Vec<String> {
    let mut world = world().registered(&["a"]);
    for (number, (kind, spec)) in documents.iter().enumerate() {
        world = world.apply(&format!("{number}"), kind, "x", spec);
    }
    world.diagnostics()
}

#[test]
fn conditions_of_retries_that_nothing_can_meet_are_remarked_upon() {
    let spec = |on: &str| {
        format!("{{hosts: [a], http: [{{retries: {{attempts: 1, retryOn: '{on}'}}, {TO_A}}}]}}")
    };
    assert_eq!(
        found(&[("VirtualService", &spec("5xx,retriable-status-codes,503"))]),
        Vec::<String>::new()
    );
    assert_eq!(
        found(&[("VirtualService", &spec("5xx,retriable-status-codes"))]),
        [
            "Warning 0:4:37: spec.http[0].retries.retryOn: retriable-status-codes has no effect: no status code is in \
             the list; write one, such as 503"
        ]
    );
    let two = found(&[(
        "VirtualService",
        &spec("retriable-headers,http3-post-connect-failure"),
    )]);
    assert_eq!(two.len(), 2);
}

#[test]
fn where_a_connection_was_going_to_is_known_of_redirected_ones() {
    let rules = "tcp: [{match: [{port: 1}, {destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: a}}]}]";
    let found = found(&[("VirtualService", &format!("{{hosts: [a], {rules}}}"))]);
    assert_eq!(found.len(), 1, "{found:?}");
    let expected =
        "spec.tcp[0].match[1].destinationSubnets: holds only where connections are redirected";
    assert!(
        found[0].starts_with("Info") && found[0].contains(expected),
        "{found:?}"
    );
}

#[test]
fn a_failover_needs_to_know_what_has_failed() {
    let spec = |rest: &str| {
        format!(
            "{{host: a, trafficPolicy: {{loadBalancer: {{localityLbSetting: {{failoverPriority: [b]}}}}{rest}}}}}"
        )
    };
    assert_eq!(
        found(&[("DestinationRule", &spec(", outlierDetection: {}"))]),
        Vec::<String>::new()
    );
    assert_eq!(
        found(&[("DestinationRule", &spec(""))]),
        [
            "Warning 0:4:47: spec.trafficPolicy.loadBalancer.localityLbSetting: has no effect without \
             outlierDetection, which says when an endpoint has failed; add that"
        ]
    );
}

#[test]
fn a_limit_of_retries_has_no_effect_beside_a_budget() {
    let spec = "{host: a, trafficPolicy: {retryBudget: {percent: 5}, connectionPool: {http: {maxRetries: 1}}}}";
    assert_eq!(
        found(&[("DestinationRule", spec)]),
        [
            "Warning 0:4:76: spec.trafficPolicy.connectionPool.http.maxRetries: has no effect beside the retryBudget at \
             0:4:46; remove one of them"
        ]
    );
}

const HASHED: &str =
    "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}";
const EWMA: &str = "{host: a, balancer: {peakEwma: {}}}";

#[test]
fn a_balancer_beside_a_hash_is_refused_naming_both() {
    assert_eq!(
        found(&[("DestinationRule", HASHED), ("DestinationPolicy", EWMA)]),
        [
            "Error 1:4:27: spec.balancer: chooses a balancer for a.shop.svc.cluster.local, and DestinationRule shop/x \
             (0:1:1) hashes consistently; keep one of them"
        ]
    );
    assert_eq!(
        found(&[("DestinationPolicy", EWMA), ("DestinationRule", HASHED)]),
        [
            "Error 1:4:47: spec.trafficPolicy.loadBalancer.consistentHash: hashes consistently, and DestinationPolicy \
             shop/x (0:1:1) chooses another balancer for a.shop.svc.cluster.local; keep one of them"
        ]
    );
}

#[test]
fn what_bounds_nothing_is_remarked_upon() {
    let policy = "{host: a, boundedLoad: {percent: 125}, limits: {scope: SERVICE}}";
    assert_eq!(
        found(&[("DestinationPolicy", policy)]),
        [
            "Warning 0:4:30: spec.boundedLoad: has no effect: no DestinationRule hashes requests to \
             a.shop.svc.cluster.local consistently",
            "Warning 0:4:54: spec.limits: has no effect: no DestinationRule has a connectionPool for \
             a.shop.svc.cluster.local",
        ]
    );
    let rule = "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}, connectionPool: {tcp: \
                {maxConnections: 1}}}}";
    assert_eq!(
        found(&[("DestinationRule", rule), ("DestinationPolicy", policy)]),
        Vec::<String>::new()
    );
}
