//! `outrigger agent` beside grpcio: what it writes is all that servers and clients need to be members of the mesh.

use std::time::Duration;

use outrigger_tests::{Agent, GrpcPeer, Mesh, eventually, free_port, within};
use serde_json::json;

const TARGET: &str = "xds:///reviews:9080";

/// Calls until all of them are answered by `name`.
async fn all_answered_by(peer: &mut GrpcPeer, name: &str) {
    let ask = json!({ "target": TARGET, "count": 5, "timeout_s": 5 });
    eventually(&format!("{name} answers"), async || {
        let seen = peer.call(ask.clone()).await;
        (seen.percent(name) == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
}

/// A server called `version` with its agent; registered and healthy.
async fn server(mesh: &Mesh, version: &str, flags: &[(&str, &str)]) -> Option<(Agent, GrpcPeer)> {
    let port = free_port();
    let label = format!("version={version}");
    let mut agent = mesh.agent("reviews").app(port).flag("--label", &label);
    for (flag, value) in flags {
        agent = agent.flag(flag, value);
    }
    let agent = agent.start().await;
    let before = mesh.healthy("reviews");
    let server = format!("{version}={port}");
    let peer = GrpcPeer::start_from(&agent.bootstrap, &[server.as_str()]).await?;
    mesh.has_healthy("reviews", before + 1).await;
    Some((agent, peer))
}

fn nothing_is_refused(mesh: &Mesh) {
    let status = mesh.status();
    for client in status["sidecars"].as_array().into_iter().flatten() {
        for kind in client["types"].as_array().into_iter().flatten() {
            assert_eq!(kind["nacks"], 0, "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_and_a_client_need_nothing_but_what_the_agent_wrote() {
    let mesh = Mesh::start().await;
    let Some((_agent, reviews)) = server(&mesh, "v1", &[]).await else {
        return;
    };
    let shopper = mesh.agent("shopper").start().await;
    let peer = GrpcPeer::start_from(&shopper.bootstrap, &[]).await;
    let Some(mut client) = peer else { return };
    all_answered_by(&mut client, "v1").await;

    // Nobody gets in who is not of the mesh.
    let direct = format!("127.0.0.1:{}", reviews.servers["v1"]);
    let seen = client
        .call(json!({ "target": direct, "timeout_s": 2 }))
        .await;
    assert!(seen.names.is_empty(), "plain text gets in: {seen:?}");

    // Who has a sidecar calls it the same way.
    let frontend = mesh.service("frontend").start().await;
    let ask = json!({
        "target": frontend.outbound.to_string(), "authority": "reviews:9080", "count": 5, "timeout_s": 5
    });
    eventually("calls through a sidecar arrive", async || {
        let seen = client.call(ask.clone()).await;
        (seen.percent("v1") == 100)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    nothing_is_refused(&mesh);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_under_running_calls_and_none_fails() {
    let mesh = Mesh::start().await;
    // As short as they come.
    let short = ("--certificate-ttl", "10s");
    let Some((reviews, _server)) = server(&mesh, "v1", &[short]).await else {
        return;
    };
    let shopper = mesh.agent("shopper").flag(short.0, short.1).start().await;
    let peer = GrpcPeer::start_from(&shopper.bootstrap, &[]).await;
    let Some(mut client) = peer else { return };
    all_answered_by(&mut client, "v1").await;
    // In Node.js, and by a relay, whose way to the control plane is renewed as well.
    let browser = mesh.agent("browser").flag(short.0, short.1);
    let browser = browser.flag("--xds-relay", "127.0.0.1:0").start().await;
    let mut node = GrpcPeer::start_node_from(&browser.bootstrap, &[]).await;
    if let Some(node) = &mut node {
        all_answered_by(node, "v1").await;
        node.hammer(TARGET).await;
    }
    client.hammer(TARGET).await;
    let agents = [
        (&reviews, not_after(&reviews).await),
        (&shopper, not_after(&shopper).await),
    ];
    for (agent, first) in agents {
        within(
            Duration::from_secs(90),
            "the first certificates are over",
            async || {
                let now = not_after(agent).await;
                (now >= first + 11.0)
                    .then_some(())
                    .ok_or_else(|| format!("{} s later", now - first))
            },
        )
        .await;
    }
    // A new connection: both sides have read their files again.
    let Some(mut late) = GrpcPeer::start_from(&shopper.bootstrap, &[]).await else {
        return;
    };
    let seen = late.call(json!({ "target": TARGET, "count": 5 })).await;
    assert_eq!(seen.percent("v1"), 100, "{seen:?}");
    for client in [Some(client), node].iter_mut().flatten() {
        let during = client.stop().await;
        assert!(during.errors.is_empty(), "{during:?}");
        assert!(during.total() > 100, "{during:?}");
    }
}

async fn not_after(agent: &Agent) -> f64 {
    agent
        .metric("outrigger_certificate_not_after_seconds")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_takes_its_server_out_and_no_call_fails() {
    let mesh = Mesh::start().await;
    let Some((mut leaving, server_1)) = server(&mesh, "v1", &[]).await else {
        return;
    };
    let Some((_agent, _server_2)) = server(&mesh, "v2", &[]).await else {
        return;
    };
    let shopper = mesh.agent("shopper").start().await;
    let peer = GrpcPeer::start_from(&shopper.bootstrap, &[]).await;
    let Some(mut client) = peer else { return };
    let ask = json!({ "target": TARGET, "count": 10, "timeout_s": 5 });
    eventually("both answer", async || {
        let seen = client.call(ask.clone()).await;
        (seen.names.len() == 2)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
    client.hammer(TARGET).await;
    leaving.process.terminate();
    assert_eq!(leaving.ended().await, 0);
    assert_eq!(mesh.healthy("reviews"), 1);
    all_answered_by(&mut client, "v2").await;
    drop(server_1);
    all_answered_by(&mut client, "v2").await;
    let during = client.stop().await;
    assert!(during.errors.is_empty(), "{during:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_a_killed_agent_is_gone_with_its_lease() {
    let mesh = Mesh::start().await;
    let short = [("--lease-ttl", "3s"), ("--heartbeat-interval", "500ms")];
    let Some((mut agent, _server)) = server(&mesh, "v1", &short).await else {
        return;
    };
    agent.process.kill();
    mesh.has_healthy("reviews", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_be_started_by_its_agent_and_ends_with_it() {
    let mesh = Mesh::start().await;
    let Some([python, script]) = GrpcPeer::command() else {
        return;
    };
    let port = free_port();
    let server = format!("v1={port}");
    let agent = mesh.agent("reviews").app(port);
    let (process, _dir) = agent.run(&[&python, &script, &server]);
    let mut reviews = GrpcPeer::of(process).await;
    mesh.has_healthy("reviews", 1).await;
    // It is a client as well.
    all_answered_by(&mut reviews, "v1").await;
    reviews.process().terminate();
    let code = outrigger_tests::ended(reviews.process()).await;
    assert_eq!(code, 143, "Python ends by the signal that was passed on");
    assert_eq!(mesh.healthy("reviews"), 0);
}
