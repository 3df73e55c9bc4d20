//! gRPC's own xDS clients with our control plane and no sidecar: they do what the documents say, or the operator reads
//! what they do not do. Here grpcio; `node` is grpc-js, `limits` what both refuse and eject, `scenarios` what both do.

mod limits;
mod node;
mod scenarios;

use std::{net::SocketAddr, time::Instant};

use outrigger_tests::{GrpcPeer, Mesh, eventually, free_port};
use serde_json::json;

use scenarios::{
    TARGET, canary, every_name, faults_and_retries, headers_and_methods, its_load_is_known,
    nothing_is_refused, restart, ring_hash, service, split, swapped_endpoints, timeouts,
    what_it_does_not_do,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_library_follows_documents_without_a_sidecar() {
    let started = Instant::now();
    let mesh = Mesh::start().await;
    let Some(mut peer) = GrpcPeer::start(&mesh, "shopper", &["v1", "v2"]).await else {
        return;
    };
    mesh.apply(&service(&peer, ""));

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
