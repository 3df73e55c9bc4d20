//! `connectionPool`.

use std::{collections::BTreeMap, future::Future, time::Duration};

use futures_util::{FutureExt as _, future::LocalBoxFuture};
use outrigger_tests::{Caller, Reply, eventually, within};
use tokio::task::JoinHandle;

use super::{Behaviour, Stage};
use crate::system::case::{Ask, Case};

pub(super) fn all() -> Vec<Behaviour> {
    [whole(), parts(), protocols()]
        .into_iter()
        .flatten()
        .collect()
}

/// Policies of one port and of one subset.
fn parts() -> Vec<Behaviour> {
    let case = |case: Case| Behaviour {
        case,
        applications: 1,
        run: overflow,
        expected: "4 in the application, the next 503; then 200 x4",
    };
    let subset = [
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: HOST}\nspec:\n  host: HOST\n  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 99}}}\n  subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 4}}}}]",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: HOST}\nspec:\n  hosts: [HOST]\n  http: [{route: $v1}]",
    ];
    vec![
        case(Case::policy(
            "max-requests-of-port",
            "connectionPool: {http: {http2MaxRequests: 99}}\nportLevelSettings: [{port: {number: 80}, connectionPool: {http: {http2MaxRequests: 4}}}]",
        )),
        case(Case::documents("max-requests-of-subset", &subset)),
    ]
}

/// What is spoken, and for how long.
fn protocols() -> Vec<Behaviour> {
    let pool = |host, pool: &str, run, expected| Behaviour {
        case: Case::policy(host, &format!("connectionPool: {{{pool}}}")),
        applications: 1,
        run,
        expected,
    };
    vec![
        pool(
            "upgraded",
            "http: {h2UpgradePolicy: UPGRADE}",
            version,
            "HTTP/2.0",
        ),
        pool(
            "not-upgraded",
            "http: {h2UpgradePolicy: DO_NOT_UPGRADE}",
            version,
            "HTTP/1.1",
        ),
        pool(
            "client-protocol",
            "http: {useClientProtocol: true}",
            version,
            "HTTP/1.1",
        ),
        pool(
            "streams",
            "http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 2}",
            streams,
            "at most 2 at a time on a connection",
        ),
        pool(
            "connection-age",
            "tcp: {maxConnectionDuration: 400ms}",
            aged,
            "a connection is replaced",
        ),
        pool(
            "tcp-keepalive",
            "tcp: {tcpKeepalive: {probes: 3, time: 60s, interval: 10s}}",
            version,
            "HTTP/1.1",
        ),
    ]
}

fn version(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let reply = send(&stage.caller, stage.host).await.unwrap();
        reply.json()["version"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
    .boxed_local()
}

fn streams(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let held = hold(stage, 6).await;
        stage.apps[0].release();
        statuses(held).await;
        let most = stage.apps[0].requests_by_connection().into_values().max();
        match most {
            Some(1..=2) => "at most 2 at a time on a connection".to_owned(),
            most => format!("{most:?}"),
        }
    }
    .boxed_local()
}

fn aged(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        within(
            Duration::from_secs(3),
            "another connection is used",
            async || {
                stage.who(&["GET /"]).await;
                let connections = stage.apps[0].requests_by_connection().len();
                if connections > 1 {
                    Ok(())
                } else {
                    Err("one connection".to_owned())
                }
            },
        )
        .await;
        "a connection is replaced".to_owned()
    }
    .boxed_local()
}

fn whole() -> Vec<Behaviour> {
    let pool = |host, pool: &str, run, expected| Behaviour {
        case: Case::policy(host, &format!("connectionPool: {{{pool}}}")),
        applications: 1,
        run,
        expected,
    };
    vec![
        pool(
            "max-connections",
            "tcp: {maxConnections: 3}, http: {http1MaxPendingRequests: 2}",
            fill,
            "3 in the application, 2 wait, the next 503; then 200 x5",
        ),
        pool(
            "max-requests",
            "http: {http2MaxRequests: 4}",
            overflow,
            "4 in the application, the next 503; then 200 x4",
        ),
        pool(
            "requests-per-connection",
            "http: {maxRequestsPerConnection: 2}",
            two_each,
            "10 requests on 5 connections",
        ),
        pool(
            "idle-timeout",
            "http: {idleTimeout: 500ms}",
            idle,
            "an idle connection is closed",
        ),
    ]
}

/// A request that is under way.
fn send(caller: &Caller, host: &str) -> JoinHandle<Reply> {
    let (caller, ask) = (caller.clone(), Ask::parse("GET /", host));
    tokio::spawn(async move { ask.send(&caller).await })
}

async fn statuses(held: Vec<JoinHandle<Reply>>) -> String {
    let mut counts = BTreeMap::<u16, usize>::new();
    for one in held {
        *counts
            .entry(one.await.unwrap().status.as_u16())
            .or_default() += 1;
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(status, count)| format!("{status} x{count}"))
        .collect();
    counts.join(", ")
}

/// Holds `count` requests in the application, one after the other.
async fn hold(stage: &Stage, count: usize) -> Vec<JoinHandle<Reply>> {
    stage.apps[0].hold();
    let mut held = Vec::new();
    for n in 1..=count {
        held.push(send(&stage.caller, stage.host));
        reached(stage, n).await;
    }
    held
}

fn reached(stage: &Stage, count: usize) -> impl Future<Output = ()> + '_ {
    within(
        Duration::from_secs(5),
        "the request is in the application",
        async move || {
            let waiting = stage.apps[0].waiting();
            if waiting == count {
                Ok(())
            } else {
                Err(format!("{waiting} of {count}"))
            }
        },
    )
}

fn fill(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let mut held = hold(stage, 3).await;
        // Two of these wait, whichever come first; the others are refused while they do.
        let mut late: Vec<_> = (0..5).map(|_| send(&stage.caller, stage.host)).collect();
        let mut refused = Vec::new();
        eventually("three are refused", async || {
            let mut rest = Vec::new();
            for one in late.drain(..) {
                if one.is_finished() {
                    refused.push(one);
                } else {
                    rest.push(one);
                }
            }
            late = rest;
            if refused.len() >= 3 {
                Ok(())
            } else {
                Err(format!("{}", refused.len()))
            }
        })
        .await;
        let (waits, inside) = (late.len(), stage.apps[0].waiting());
        let next = statuses(vec![send(&stage.caller, stage.host)]).await;
        let refused = statuses(refused).await;
        held.extend(late);
        stage.apps[0].release();
        let then = statuses(held).await;
        let next = if (refused.as_str(), next.as_str()) == ("503 x3", "503 x1") {
            "503"
        } else {
            &refused
        };
        format!("{inside} in the application, {waits} wait, the next {next}; then {then}")
    }
    .boxed_local()
}

fn overflow(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        let held = hold(stage, 4).await;
        let next = stage.who(&["GET /"]).await.remove(0);
        let inside = stage.apps[0].waiting();
        stage.apps[0].release();
        let then = statuses(held).await;
        format!("{inside} in the application, the next {next}; then {then}")
    }
    .boxed_local()
}

fn two_each(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.who(&["GET /"; 10]).await;
        let connections = stage.apps[0].requests_by_connection().len();
        format!("10 requests on {connections} connections")
    }
    .boxed_local()
}

fn idle(stage: &Stage) -> LocalBoxFuture<'_, String> {
    async {
        stage.who(&["GET /"]).await;
        eventually("the connection is closed", async || {
            let open = stage.apps[0].open_connections();
            if open == 0 {
                Ok(())
            } else {
                Err(format!("{open} open"))
            }
        })
        .await;
        "an idle connection is closed".to_owned()
    }
    .boxed_local()
}
