//! gRPC's own xDS client (grpcio) with our control plane and no sidecar: it does what the documents say, or the operator
//! reads what it does not do.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use outrigger_tests::{GrpcPeer, Mesh, eventually, within};
use serde_json::json;

const TARGET: &str = "xds:///reviews:9080";

/// `reviews` with a subset for each server, one endpoint a subset.
fn service(peer: &GrpcPeer, spec: &str) -> String {
    let endpoints: String = peer
        .servers
        .iter()
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
fn rules(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n  \
         hosts: [reviews]\n  http:\n{http}"
    )
}

fn split(v1: u32, v2: u32) -> String {
    rules(&format!(
        "  - route:\n    - {{destination: {{host: reviews, subset: v1}}, weight: {v1}}}\n    \
         - {{destination: {{host: reviews, subset: v2}}, weight: {v2}}}\n"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_library_follows_documents_without_a_sidecar() {
    let started = Instant::now();
    let mesh = Mesh::start().await;
    let Some(mut peer) = GrpcPeer::start(&mesh, "shopper", &["v1", "v2"]).await else {
        return;
    };
    mesh.apply(&service(&peer, ""));

    // Nothing written: all endpoints, by every way to write the host.
    for target in [
        TARGET,
        "xds:///reviews.default:9080",
        "xds:///reviews.default.svc.cluster.local",
    ] {
        let seen = peer.call(json!({ "target": target, "count": 20 })).await;
        assert_eq!(seen.errors.len(), 0, "{target}: {seen:?}");
        assert_eq!(seen.names.len(), 2, "{target}: {seen:?}");
    }

    canary(&mesh, &mut peer).await;
    headers_and_methods(&mesh, &mut peer).await;
    timeouts(&mesh, &mut peer).await;
    faults_and_retries(&mesh, &mut peer).await;
    ring_hash(&mesh, &mut peer).await;
    its_load_is_known(&mesh, &mut peer).await;
    what_it_does_not_do(&mesh, &mut peer).await;
    nothing_is_refused(&mesh);
    eprintln!("{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_library_with_certificates_calls_a_sidecar_over_mtls_if_it_is_who_it_should_be() {
    let mesh = Mesh::start().await;
    let peer = GrpcPeer::start_with_certificates(&mesh, "shopper", &["v1"]).await;
    let Some(mut peer) = peer else { return };
    let app = SocketAddr::from(([127, 0, 0, 1], peer.servers["v1"]));
    let reviews = mesh.service("reviews").grpc_app_at(app).start().await;

    let ask = json!({ "target": TARGET, "count": 5 });
    eventually("calls arrive over mTLS", async || {
        let seen = peer.call(ask.clone()).await;
        (seen.percent("v1") == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    assert!(reviews.inbound.is_some(), "there is no other way to it");

    let other = "spiffe://cluster.local/ns/default/sa/other";
    mesh.apply(&format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\nspec:\n  \
         host: reviews\n  trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, subjectAltNames: ['{other}']}}}}\n"
    ));
    let ask = json!({ "target": TARGET, "timeout_s": 2 });
    eventually("somebody else is not called", async || {
        let seen = peer.call(ask.clone()).await;
        seen.names
            .is_empty()
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    nothing_is_refused(&mesh);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_server_with_certificates_is_called_over_mtls_and_by_nobody_else() {
    let mesh = Mesh::start().await;
    let port = free_port();
    let server = format!("v1={port}");
    let peer = GrpcPeer::start_with_certificates(&mesh, "reviews", &[server.as_str()]).await;
    let Some(mut secure) = peer else { return };
    let Some(mut plain) = GrpcPeer::start(&mesh, "stranger", &[]).await else {
        return;
    };
    mesh.apply(&format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: reviews}}\nspec:\n  \
         hosts: [reviews.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 9080, name: grpc, protocol: GRPC}}]\n  endpoints:\n  \
         - {{address: 127.0.0.1, ports: {{grpc: {port}}}, serviceAccount: reviews}}\n"
    ));
    eventually("calls arrive over mTLS", async || {
        let ask = json!({ "target": TARGET, "count": 5, "timeout_s": 5 });
        let seen = secure.call(ask).await;
        (seen.percent("v1") == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    let direct = json!({ "target": format!("127.0.0.1:{port}"), "timeout_s": 2 });
    let seen = plain.call(direct).await;
    assert!(seen.names.is_empty(), "plain text gets in: {seen:?}");
    nothing_is_refused(&mesh);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_library_with_certificates_calls_each_subset_the_way_that_its_servers_have() {
    let mesh = Mesh::start().await;
    let port = free_port();
    let server = format!("v1={port}");
    let peer = GrpcPeer::start_with_certificates(&mesh, "reviews", &[server.as_str()]).await;
    let Some(mut secure) = peer else { return };
    let Some(plain) = GrpcPeer::start(&mesh, "stranger", &["v2"]).await else {
        return;
    };
    let plain = plain.servers["v2"];
    mesh.apply(&format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: reviews}}\nspec:\n  \
         hosts: [reviews.default.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 9080, name: grpc, protocol: GRPC}}]\n  endpoints:\n  \
         - {{address: 127.0.0.1, ports: {{grpc: {port}}}, labels: {{version: v1}}, serviceAccount: reviews}}\n  \
         - {{address: 127.0.0.1, ports: {{grpc: {plain}}}, labels: {{version: v2}}}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\nspec:\n  \
         host: reviews\n  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]\n"
    ));
    mesh.apply(&split(50, 50));
    eventually("both subsets answer", async || {
        let ask = json!({ "target": TARGET, "count": 40, "timeout_s": 5 });
        let seen = secure.call(ask).await;
        (seen.errors.is_empty() && seen.names.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    nothing_is_refused(&mesh);
}

/// One that was free a moment ago: gRPC asks for its listener by the port, before it binds it.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Weights walk from one to the other under load, and no call fails.
async fn canary(mesh: &Mesh, peer: &mut GrpcPeer) {
    mesh.apply(&split(100, 0));
    eventually("all calls go to v1", async || {
        let seen = peer.call(json!({ "target": TARGET, "count": 20 })).await;
        (seen.percent("v1") == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
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
    eventually("all calls go to v2", async || {
        let seen = peer.call(json!({ "target": TARGET, "count": 20 })).await;
        (seen.percent("v2") == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    let during = peer.stop().await;
    assert!(during.errors.is_empty(), "{during:?}");
    assert!(during.names.len() == 2 && during.total() > 50, "{during:?}");
}

async fn headers_and_methods(mesh: &Mesh, peer: &mut GrpcPeer) {
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

async fn timeouts(mesh: &Mesh, peer: &mut GrpcPeer) {
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

async fn faults_and_retries(mesh: &Mesh, peer: &mut GrpcPeer) {
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

async fn ring_hash(mesh: &Mesh, peer: &mut GrpcPeer) {
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
async fn what_it_does_not_do(mesh: &Mesh, peer: &mut GrpcPeer) {
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

async fn its_load_is_known(mesh: &Mesh, peer: &mut GrpcPeer) {
    eventually("its calls are in the registry's view", async || {
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

fn nothing_is_refused(mesh: &Mesh) {
    let status = mesh.status();
    for client in status["sidecars"].as_array().into_iter().flatten() {
        for kind in client["types"].as_array().into_iter().flatten() {
            assert_eq!(kind["nacks"], 0, "{kind}");
        }
    }
}
