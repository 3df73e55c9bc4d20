//! `connectionPool` limits hold to the last one, over all worker threads, however many clients push against them.

use std::{collections::BTreeMap, time::Duration};

use outrigger_tests::{Mesh, Sidecar, TestApp, eventually};
use tokio::task::JoinSet;

use super::istio_documents::{all, service_entry};

const CLIENTS: usize = 200;

async fn mesh_with(app: &TestApp, pool: &str) -> (Mesh, Sidecar) {
    let mesh = Mesh::start().await;
    // More than one thread, so that a limit for each of them would show.
    let shopper = mesh.service("shopper").flag("--workers", "2").start().await;
    let policy = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: limited}}\nspec:\n  \
         host: limited\n  trafficPolicy: {{connectionPool: {{{pool}}}}}\n"
    );
    mesh.apply(&all(&[&service_entry("limited", &[(app, "v1")]), &policy]));
    mesh.synced().await;
    (mesh, shopper)
}

/// Two hundred clients with a connection of their own, each with this many requests one after the other.
async fn push(shopper: &Sidecar, requests: usize) -> BTreeMap<u16, usize> {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let caller = shopper.caller();
        clients.spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..requests {
                let reply = caller.get_with("limited", "x-app-delay-ms", "3").await;
                statuses.push(reply.status.as_u16());
            }
            statuses
        });
    }
    let mut counts = BTreeMap::new();
    for status in clients.join_all().await.into_iter().flatten() {
        *counts.entry(status).or_insert(0) += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_never_open_an_eleventh_connection() {
    let app = TestApp::start("v1").await;
    let (_mesh, shopper) = mesh_with(&app, "tcp: {maxConnections: 10}").await;

    let answers = push(&shopper, 10).await;

    assert_eq!(answers, BTreeMap::from([(200, CLIENTS * 10)]));
    // Every connection is in use all the time, so that an eleventh would bring an eleventh request. (The application's own
    // count of connections says less: it learns late of one that was closed to make room.)
    assert_eq!(app.most_waiting(), 10);
    eventually("no eleventh is left", async || {
        match app.open_connections() {
            0..=10 => Ok(()),
            open => Err(format!("{open} are open")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_never_have_an_eleventh_request_in_flight() {
    let app = TestApp::start("v1").await;
    let (_mesh, shopper) = mesh_with(&app, "http: {http2MaxRequests: 10}").await;

    let answers = push(&shopper, 10).await;

    let most = app.most_waiting();
    assert!((5..=10).contains(&most), "{most}: {answers:?}");
    let kinds: Vec<_> = answers.keys().collect();
    assert_eq!(kinds, [&200, &503], "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_clients_exactly_as_many_wait_as_may() {
    let app = TestApp::start("v1").await;
    let pool = "tcp: {maxConnections: 3}, http: {http1MaxPendingRequests: 7}";
    let (_mesh, shopper) = mesh_with(&app, pool).await;
    app.hold();

    // Three first, one after the other: while a connection opens, its request waits too.
    let mut first = JoinSet::new();
    for n in 1..=3 {
        let caller = shopper.caller();
        first.spawn(async move { caller.get("limited", "/").await.status });
        eventually("it is in the application", async || match app.waiting() {
            waiting if waiting == n => Ok(()),
            waiting => Err(waiting.to_string()),
        })
        .await;
    }
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let caller = shopper.caller();
        clients.spawn(async move { caller.get("limited", "/").await.status });
    }
    for n in 0..CLIENTS - 7 {
        let answered = tokio::time::timeout(Duration::from_secs(10), clients.join_next()).await;
        let status = answered.unwrap_or_else(|_| panic!("only {n} are refused"));
        assert_eq!(status.unwrap().unwrap(), 503);
    }
    assert_eq!((clients.len(), app.most_waiting()), (7, 3));

    app.release();
    let answered = [clients.join_all().await, first.join_all().await].concat();
    assert_eq!(answered, [http::StatusCode::OK; 10]);
}
