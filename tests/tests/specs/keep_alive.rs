//! Servers that close idle connections: no request is lost in the moment between their decision and our knowledge.
//!
//! `OUTRIGGER_IDLE_MS` says when the server closes, `OUTRIGGER_IDLE_ROUNDS` how often each client asks: 1,000 and 8 by
//! default; 5,000 and 50 (four minutes) for the whole claim.

use std::time::Duration;

use outrigger_tests::{Fault, Mesh, Misbehaving};
use tokio::task::JoinSet;

const CLIENTS: u32 = 200;

fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_the_moment_when_a_server_closes_idle_connections_all_succeed() {
    let idle_ms = setting("OUTRIGGER_IDLE_MS", 1_000);
    let rounds = setting("OUTRIGGER_IDLE_ROUNDS", 8);
    let idle = Duration::from_millis(idle_ms.into());
    let mesh = Mesh::start().await;
    let server = Misbehaving::start(Fault::ClosesIdleAfter(idle)).await;
    let shopper = mesh.service("shopper").start().await;
    mesh.apply(&format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: idle}}\nspec:\n  \
         hosts: [idle.default.svc.cluster.local]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
         endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]\n",
        server.address().port()
    ));
    mesh.synced().await;

    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let caller = shopper.caller();
        clients.spawn(async move {
            let mut failures = Vec::new();
            for round in 0..rounds {
                // From 2 % before the moment to 2 % after it.
                let share = 980 + (client * 7 + round * 13) % 41;
                tokio::time::sleep(idle * share / 1_000).await;
                let reply = caller.get("idle", "/").await;
                if reply.status != 200 {
                    failures.push(reply.text());
                }
            }
            failures
        });
    }
    let failures = clients.join_all().await.concat();

    assert!(
        failures.is_empty(),
        "{} of {}: {failures:?}",
        failures.len(),
        CLIENTS * rounds
    );
}
