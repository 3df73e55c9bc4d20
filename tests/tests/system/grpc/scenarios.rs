//! What any gRPC library has to do, whatever it is written in.

use std::time::Duration;

use outrigger_tests::{GrpcPeer, Mesh, eventually, within};
use serde_json::json;

pub(super) const TARGET: &str = "xds:///reviews:9080";

/// `reviews` with a subset for each server, one endpoint a subset.
pub(super) fn service(peer: &GrpcPeer, spec: &str) -> String {
    service_of(peer, &["v1", "v2"], spec)
}

/// The same, with these servers only.
fn service_of(peer: &GrpcPeer, servers: &[&str], spec: &str) -> String {
    let endpoints: String = peer
        .servers
        .iter()
        .filter(|(name, _)| servers.contains(&name.as_str()))
        .map(|(name, port)| {
            format!(
                "  - {{address: 127.0.0.1, ports: {{grpc: {port}}}, labels: {{version: {name}}}}}\n"
            )
        })
        .collect();
    let subsets: Vec<String> = peer
        .servers
        .keys()
        .map(|name| format!("{{name: {name}, labels: {{version: {name}}}}}"))
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: reviews}}\nspec:\n  \
         hosts: [reviews.default.svc.cluster.local]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 9080, name: grpc, protocol: GRPC}}]\n  endpoints:\n{endpoints}---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\nspec:\n  \
         host: reviews\n  subsets: [{}]\n{spec}",
        subsets.join(", ")
    )
}

/// Rules for `reviews`.
pub(super) fn rules(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n  \
         hosts: [reviews]\n  http:\n{http}"
    )
}

pub(super) fn split(v1: u32, v2: u32) -> String {
    rules(&format!(
        "  - route:\n    - {{destination: {{host: reviews, subset: v1}}, weight: {v1}}}\n    \
         - {{destination: {{host: reviews, subset: v2}}, weight: {v2}}}\n"
    ))
}

/// Nothing written: all endpoints, by every way to write the host.
pub(super) async fn every_name(peer: &mut GrpcPeer) {
    for target in [
        TARGET,
        "xds:///reviews.default:9080",
        "xds:///reviews.default.svc.cluster.local",
    ] {
        let seen = peer.call(json!({ "target": target, "count": 20 })).await;
        assert_eq!(seen.errors.len(), 0, "{target}: {seen:?}");
        assert_eq!(seen.names.len(), 2, "{target}: {seen:?}");
    }
}

/// All endpoints are replaced by others under load, and no call fails.
pub(super) async fn swapped_endpoints(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&rules("  - route: [{destination: {host: reviews}}]\n"));
    mesh.apply(&service_of(peer, &["v1"], ""));
    all_answered_by(peer, "v1").await;
    peer.hammer(TARGET).await;
    for (servers, name) in [(["v2"], "v2"), (["v1"], "v1"), (["v2"], "v2")] {
        mesh.apply(&service_of(peer, &servers, ""));
        all_answered_by(peer, name).await;
    }
    let during = peer.stop().await;
    assert!(during.errors.is_empty(), "{during:?}");
    assert_eq!(during.names.len(), 2, "{during:?}");
    mesh.apply(&service(peer, ""));
}

/// The control plane goes and comes back under load, no call fails, and what is written then arrives.
pub(super) async fn restart(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&split(100, 0));
    all_answered_by(peer, "v1").await;
    peer.hammer(TARGET).await;
    mesh.kill_control_plane();
    let seen = peer.call(json!({ "target": TARGET, "count": 20 })).await;
    assert_eq!(seen.percent("v1"), 100, "{seen:?}");
    mesh.restart_control_plane().await;
    mesh.apply(&split(0, 100));
    all_answered_by(peer, "v2").await;
    let during = peer.stop().await;
    assert!(during.errors.is_empty(), "{during:?}");
    assert_eq!(during.names.len(), 2, "{during:?}");
}

/// Calls until one server answers all of them.
pub(super) async fn all_answered_by(peer: &mut GrpcPeer, name: &str) {
    eventually(&format!("all calls go to {name}"), async || {
        let seen = peer.call(json!({ "target": TARGET, "count": 20 })).await;
        (seen.percent(name) == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
}

/// Weights walk from one to the other under load, and no call fails.
pub(super) async fn canary(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&split(100, 0));
    all_answered_by(peer, "v1").await;
    peer.hammer(TARGET).await;
    for weight in [25, 50, 75] {
        mesh.apply(&split(100 - weight, weight));
        eventually("the share of v2 is as written", async || {
            let seen = peer
                .call(json!({ "target": TARGET, "count": 400, "concurrency": 8 }))
                .await;
            let share = seen.percent("v2");
            let close = share.abs_diff(weight.into()) <= 10;
            close
                .then_some(())
                .ok_or_else(|| format!("{share} % at {weight}"))
        })
        .await;
    }
    mesh.apply(&split(0, 100));
    all_answered_by(peer, "v2").await;
    let during = peer.stop().await;
    assert!(during.errors.is_empty(), "{during:?}");
    assert!(during.names.len() == 2 && during.total() > 50, "{during:?}");
}

pub(super) async fn headers_and_methods(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&rules(
        "  - match: [{headers: {x-user: {exact: ann}}}]\n    route: [{destination: {host: reviews, subset: v2}}]\n  \
         - match: [{withoutHeaders: {x-user: {prefix: b}}, uri: {prefix: /shop.Reviews/L}}]\n    \
         route: [{destination: {host: reviews, subset: v2}}]\n  \
         - match: [{method: {exact: GET}}]\n    route: [{destination: {host: reviews, subset: v2}}]\n  \
         - route: [{destination: {host: reviews, subset: v1}}]\n",
    ));
    let list = "/shop.Reviews/List";
    let asks = [
        (json!({ "metadata": {} }), "v1"),
        (json!({ "metadata": { "x-user": "ann" } }), "v2"),
        (json!({ "metadata": { "x-user": "eve" } }), "v1"),
        (json!({ "method": list }), "v2"),
        (
            json!({ "method": list, "metadata": { "x-user": "eve" } }),
            "v2",
        ),
        (
            json!({ "method": list, "metadata": { "x-user": "bob" } }),
            "v1",
        ),
    ];
    for (mut ask, expected) in asks {
        ask["target"] = TARGET.into();
        ask["count"] = 5.into();
        eventually("the call goes where its rule says", async || {
            let seen = peer.call(ask.clone()).await;
            (seen.percent(expected) == 100)
                .then_some(())
                .ok_or_else(|| format!("{ask}: {seen:?}"))
        })
        .await;
    }
}

pub(super) async fn timeouts(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&rules(
        "  - timeout: 0.3s\n    route: [{destination: {host: reviews, subset: v1}}]\n",
    ));
    let ask = json!({ "target": TARGET, "metadata": { "x-delay-s": "5" } });
    within(
        Duration::from_secs(30),
        "the rule's timeout holds",
        async || {
            let seen = peer.call(ask.clone()).await;
            let late = seen
                .errors
                .keys()
                .any(|error| error.starts_with("DEADLINE_EXCEEDED"));
            (late && seen.seconds < 2.0)
                .then_some(())
                .ok_or_else(|| format!("{seen:?}"))
        },
    )
    .await;
}

pub(super) async fn faults_and_retries(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&rules(
        "  - match: [{headers: {x-fault: {exact: abort}}}]\n    \
           fault: {abort: {httpStatus: 503, percentage: {value: 100}}}\n    \
           route: [{destination: {host: reviews, subset: v1}}]\n  \
         - match: [{headers: {x-answer: {exact: direct}}}]\n    directResponse: {status: 403}\n  \
         - retries: {attempts: 3, retryOn: unavailable}\n    route: [{destination: {host: reviews}}]\n",
    ));
    let fails = |metadata: &str, value: &str, code: &'static str| {
        (
            json!({ "target": TARGET, "metadata": { metadata: value } }),
            code,
        )
    };
    for (ask, code) in [
        fails("x-fault", "abort", "UNAVAILABLE"),
        fails("x-answer", "direct", "PERMISSION_DENIED"),
    ] {
        eventually("the call fails as the rule says", async || {
            let seen = peer.call(ask.clone()).await;
            let failed = seen.errors.keys().any(|error| error.starts_with(code));
            failed
                .then_some(())
                .ok_or_else(|| format!("{ask}: {seen:?}"))
        })
        .await;
    }
    // Each endpoint in turn: a retry meets the other one.
    let ask = json!({ "target": TARGET, "count": 20, "metadata": { "x-fail": "v1" } });
    eventually("retries hide a server that fails", async || {
        let seen = peer.call(ask.clone()).await;
        (seen.percent("v2") == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
}

pub(super) async fn ring_hash(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&service(
        peer,
        "  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}\n",
    ));
    mesh.apply(&rules("  - route: [{destination: {host: reviews}}]\n"));
    let ask = |user: usize| json!({ "target": TARGET, "count": 10, "metadata": { "x-user": format!("u{user}") } });
    eventually(
        "a user stays with a server, and not all with one",
        async || {
            let mut servers = std::collections::BTreeSet::new();
            for user in 0..12 {
                let seen = peer.call(ask(user)).await;
                if seen.names.len() != 1 {
                    return Err(format!("user {user}: {seen:?}"));
                }
                servers.extend(seen.names.into_keys());
            }
            (servers.len() == 2)
                .then_some(())
                .ok_or_else(|| format!("{servers:?}"))
        },
    )
    .await;
}

/// What gRPC has no way to do is in `outrigger status` with the line that asks for it.
pub(super) async fn what_it_does_not_do(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&rules(
        "  - route: [{destination: {host: reviews, subset: v1}}]\n    \
         mirrors: [{destination: {host: reviews, subset: v2}}]\n",
    ));
    mesh.apply(&service(
        peer,
        "  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}\n",
    ));
    let notes = eventually("what a client does not do is shown", async || {
        let status = mesh.status();
        let clients = status["sidecars"].as_array().cloned().unwrap_or_default();
        let grpc = clients.iter().find(|client| client["dialect"] == "grpc");
        let notes = grpc
            .map(|client| client["notes"].to_string())
            .unwrap_or_default();
        let shown = ["mirrors", "ISTIO_MUTUAL"]
            .iter()
            .all(|what| notes.contains(what));
        shown.then(|| notes.clone()).ok_or(notes)
    })
    .await;
    assert!(notes.contains(":7:"), "the line of the rule: {notes}");
}

pub(super) async fn its_load_is_known(mesh: &Mesh, peer: &mut GrpcPeer) {
    // Streams of load reports come back on their own, with a backoff of their own.
    let time = Duration::from_secs(90);
    within(time, "its calls are in the registry's view", async || {
        peer.call(json!({ "target": TARGET, "timeout_s": 1 })).await;
        let status = mesh.status();
        let services = status["services"].as_array().into_iter().flatten();
        let mut loads = services.map(|service| &service["load"]["clients"]);
        loads
            .any(|clients| *clients == 1)
            .then_some(())
            .ok_or_else(|| status["services"].to_string())
    })
    .await;
}

pub(super) fn nothing_is_refused(mesh: &Mesh) {
    let status = mesh.status();
    for client in status["sidecars"].as_array().into_iter().flatten() {
        for kind in client["types"].as_array().into_iter().flatten() {
            assert_eq!(kind["nacks"], 0, "{kind}");
        }
    }
}
