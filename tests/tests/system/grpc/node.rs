//! grpc-js, which is stricter than grpcio and ends its process over what it does not expect. It has no TLS towards its
//! xDS server: what `outrigger agent` writes for a control plane in plain text is all that it is given.

use std::time::Instant;

use outrigger_tests::{Agent, GrpcPeer, Mesh, eventually, free_port};
use serde_json::json;

use super::{
    limits::{an_endpoint_that_fails_is_ejected, at_most_so_many_calls},
    scenarios::{
        TARGET, canary, every_name, faults_and_retries, headers_and_methods, its_load_is_known,
        nothing_is_refused, restart, ring_hash, rules, service, swapped_endpoints, timeouts,
        what_it_does_not_do,
    },
};

/// A mesh with a port in plain text, and a client with two servers. None without Node.js.
async fn start() -> Option<(Mesh, Agent, GrpcPeer)> {
    let plaintext = format!("127.0.0.1:{}", free_port());
    let mesh = Mesh::start_with(&["--plaintext", &plaintext]).await;
    let agent = mesh.agent("shopper").plain().start().await;
    let peer = GrpcPeer::start_node_from(&agent.bootstrap, &["v1", "v2"]).await?;
    mesh.apply(&service(&peer, ""));
    Some((mesh, agent, peer))
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_for_node_follows_documents_without_a_sidecar() {
    let started = Instant::now();
    let Some((mesh, _agent, mut peer)) = start().await else {
        return;
    };
    every_name(&mut peer).await;
    canary(&mesh, &mut peer).await;
    headers_and_methods(&mesh, &mut peer).await;
    timeouts(&mesh, &mut peer).await;
    faults_and_retries(&mesh, &mut peer).await;
    ring_hash(&mesh, &mut peer).await;
    its_load_is_known(&mesh, &mut peer).await;
    swapped_endpoints(&mesh, &mut peer).await;
    restart(&mesh, &mut peer).await;
    what_it_does_not_do(&mesh, &mut peer).await;
    nothing_is_refused(&mesh);
    eprintln!("{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_for_node_holds_limits_and_ejects() {
    let Some((mesh, _agent, mut peer)) = start().await else {
        return;
    };
    every_name(&mut peer).await;
    // It counts calls once they have begun: of those that begin at the same moment it refuses none.
    at_most_so_many_calls(&mesh, &mut peer, 0.2).await;
    an_endpoint_that_fails_is_ejected(&mesh, &mut peer).await;
    nothing_is_refused(&mesh);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_for_node_outlives_whatever_documents_may_say() {
    let Some((mesh, _agent, mut peer)) = start().await else {
        return;
    };
    every_name(&mut peer).await;
    // Each has ended the process, or is refused by it, if it is sent as Envoy takes it.
    let policies = [
        "outlierDetection: {consecutive5xxErrors: 1, consecutiveGatewayErrors: 1, interval: 1s}",
        "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 0, maxEjectionPercent: 100}",
        "loadBalancer: {consistentHash: {httpHeaderName: x-user, minimumRingSize: 8388608}}",
        "loadBalancer: {consistentHash: {httpHeaderName: x-user, maglev: {}}}",
        "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 1}}}",
        "loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 0s}}}",
        "loadBalancer: {simple: RANDOM}",
        "loadBalancer: {simple: LEAST_REQUEST}",
        "connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1}}",
    ];
    for policy in policies {
        mesh.apply(&service(&peer, &format!("  trafficPolicy: {{{policy}}}\n")));
        answers(&mesh, &mut peer, policy).await;
    }
    mesh.apply(&service(&peer, ""));
    let regexes = [
        "(?i)ann",
        "(?P<name>a)nn",
        "^ann$",
        "\\\\pL+",
        "[[:alpha:]]+",
        "a{1,1000}",
        "(?s).*",
        "\\\\x{61}nn",
        "(a|b)*?",
        "\\\\Qann\\\\E",
    ];
    let mut accepted = 0;
    for regex in regexes {
        let document = rules(&format!(
            "  - match: [{{headers: {{x-user: {{regex: \"{regex}\"}}}}}}]\n    \
             route: [{{destination: {{host: reviews, subset: v2}}}}]\n  \
             - match: [{{uri: {{regex: \"/shop.*{regex}\"}}}}]\n    \
             retries: {{attempts: 0}}\n    timeout: 0s\n    \
             route: [{{destination: {{host: reviews, subset: v1}}, weight: 1}}]\n  \
             - fault: {{abort: {{httpStatus: 599, percentage: {{value: 0.0001}}}}, delay: {{fixedDelay: 1ms}}}}\n    \
             route: [{{destination: {{host: reviews}}}}]\n"
        ));
        // What is no RE2 is refused before anybody is sent it.
        let applied = mesh.cli_with_input(&["apply", "-f", "-"], &document);
        accepted += usize::from(applied.status == 0);
        answers(&mesh, &mut peer, regex).await;
    }
    assert!(accepted >= 7, "{accepted} of {}", regexes.len());
    nothing_is_refused(&mesh);
    assert!(peer.process().ended().is_none());
}

/// Its agent passes xDS on, so that it needs no port in plain text of the control plane.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_for_node_is_a_member_over_mtls_by_its_agents_relay() {
    let mesh = Mesh::start().await;
    let port = free_port();
    let relay = ("--xds-relay", "127.0.0.1:0");
    let reviews = mesh.agent("reviews").app(port).flag(relay.0, relay.1);
    let reviews = reviews.start().await;
    let server = format!("v1={port}");
    let peer = GrpcPeer::start_node_from(&reviews.bootstrap, &[server.as_str()]).await;
    let Some(_server) = peer else { return };
    mesh.has_healthy("reviews", 1).await;
    let shopper = mesh.agent("shopper").flag(relay.0, relay.1).start().await;
    let Some(mut node) = GrpcPeer::start_node_from(&shopper.bootstrap, &[]).await else {
        return;
    };
    answered(&mut node, "v1").await;
    // Whatever a library is written in.
    let python = mesh.agent("frontend").start().await;
    let Some(mut python) = GrpcPeer::start_from(&python.bootstrap, &[]).await else {
        return;
    };
    answered(&mut python, "v1").await;
    let direct = json!({ "target": format!("127.0.0.1:{port}"), "timeout_s": 2 });
    let seen = python.call(direct).await;
    assert!(seen.names.is_empty(), "plain text gets in: {seen:?}");
    nothing_is_refused(&mesh);
}

async fn answered(peer: &mut GrpcPeer, name: &str) {
    let ask = json!({ "target": TARGET, "count": 5, "timeout_s": 5 });
    eventually("calls arrive over mTLS", async || {
        let seen = peer.call(ask.clone()).await;
        (seen.percent(name) == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
}

/// The newest configuration has arrived, and the process is there to answer calls.
async fn answers(mesh: &Mesh, peer: &mut GrpcPeer, what: &str) {
    mesh.synced().await;
    let ask = json!({ "target": TARGET, "count": 5, "metadata": { "x-user": "ann" } });
    eventually(&format!("calls are answered with {what}"), async || {
        let seen = peer.call(ask.clone()).await;
        seen.errors
            .is_empty()
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
}
