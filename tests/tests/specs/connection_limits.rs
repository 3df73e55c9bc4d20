//! `connectionPool` of a DestinationRule found in the wild: 100 connections, 50 requests that wait, 2 requests a
//! connection.

use std::time::{Duration, Instant};

use outrigger_tests::{Mesh, Sidecar, TestApp, eventually};
use tokio::task::JoinSet;

use super::istio_documents::{ORDER_DESTINATION_RULE, all, service_entry};

const CONNECTIONS: usize = 100;
const PENDING: usize = 50;

async fn mesh_with(app: &TestApp) -> (Mesh, Sidecar) {
    let mesh = Mesh::start().await;
    let shopper = mesh.service("shopper").start().await;
    mesh.apply(&all(&[
        &service_entry("order-service", &[(app, "v1")]),
        ORDER_DESTINATION_RULE,
    ]));
    mesh.synced().await;
    (mesh, shopper)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_51st_waiting_request_is_answered_503_at_once_and_no_other() {
    let app = TestApp::start("v1").await;
    let (_mesh, shopper) = mesh_with(&app).await;
    app.hold();
    let caller = shopper.caller();
    let mut held = JoinSet::new();
    let hold = |held: &mut JoinSet<_>, count| {
        for _ in 0..count {
            let caller = caller.clone();
            held.spawn(async move { caller.get("order-service", "/").await });
        }
    };

    hold(&mut held, CONNECTIONS);
    eventually("100 requests are in the application", async || {
        match app.waiting() {
            CONNECTIONS => Ok(()),
            waiting => Err(format!("{waiting}")),
        }
    })
    .await;
    // More than fit: whichever comes too late is refused while the rest waits.
    hold(&mut held, PENDING + 10);
    let mut refused = Vec::new();
    let started = Instant::now();
    while refused.len() < 10 {
        refused.push(held.join_next().await.unwrap().unwrap());
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "took {:?}",
        started.elapsed()
    );
    for reply in &refused {
        assert_eq!(reply.status, 503, "{}", reply.text());
        assert_eq!(reply.reason(), Some("overflow_pending"));
    }

    // The next one: at once, with 50 still waiting.
    let late = caller.get("order-service", "/").await;
    assert_eq!(
        (late.status.as_u16(), late.reason()),
        (503, Some("overflow_pending"))
    );
    // Counted now: after the release a new connection may reach the application before it has read the end of the
    // one that made room.
    assert_eq!(
        (app.waiting(), app.most_connections()),
        (CONNECTIONS, CONNECTIONS)
    );

    app.release();
    let answered = held.join_all().await;
    assert_eq!(answered.len(), CONNECTIONS + PENDING);
    for reply in &answered {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_after_two_requests() {
    let app = TestApp::start("v1").await;
    let (_mesh, shopper) = mesh_with(&app).await;
    let caller = shopper.caller();

    for _ in 0..20 {
        assert_eq!(caller.get("order-service", "/").await.status, 200);
    }

    let counts = app.requests_by_connection();
    assert_eq!(counts.len(), 10, "{counts:?}");
    assert!(counts.values().all(|count| *count == 2), "{counts:?}");
}
