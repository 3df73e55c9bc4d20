//! Retries on every hop of a chain do not multiply.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use outrigger_tests::{Mesh, Relay, Sidecar, TestApp, eventually};

const CALLS: usize = 100;

fn retries(service: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {service}}}\nspec:\n  \
         hosts: [{service}]\n  http:\n  - retries: {{attempts: 3, retryOn: 5xx}}\n    \
         route: [{{destination: {{host: {service}}}}}]\n"
    )
}

fn traced(n: usize) -> Request<Full<Bytes>> {
    Request::get("/")
        .header("host", "b:9080")
        .header(
            "traceparent",
            format!("00-{:032x}-00000000000000aa-01", n + 1),
        )
        .body(Full::default())
        .unwrap()
}

/// a calls b, b calls c, c calls d, and d is dead.
#[tokio::test(flavor = "multi_thread")]
async fn the_dead_end_of_a_chain_of_four_sees_at_most_12_calls_for_10() {
    let mesh = Mesh::start().await;
    let documents = ["b", "c", "d"].map(retries).join("---\n");
    let applied = mesh.cli_with_input(&["apply", "-f", "-"], &documents);
    assert_eq!(applied.status, 0, "{}", applied.stderr);
    let dead = TestApp::start("d").await;
    let _d = mesh.service("d").app(&dead).start().await;
    let mut hops: Vec<(Relay, Sidecar)> = Vec::new();
    for (service, next) in [("c", "d:9080"), ("b", "c:9080")] {
        let relay = Relay::start(next).await;
        let sidecar = mesh.service(service).app_at(relay.address()).start().await;
        relay.call_through(sidecar.caller());
        hops.push((relay, sidecar));
    }
    let a = mesh.service("a").start().await;
    let caller = a.caller();
    let mut n = 0;
    eventually("the chain is whole", async || {
        n += 1;
        let reply = caller.send(traced(1_000_000 + n)).await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;
    dead.answer_with(503);
    dead.forget();

    for n in 0..CALLS {
        assert_eq!(caller.send(traced(n)).await.status, 503);
    }

    let calls = dead.received().len();
    eprintln!("{calls} calls for {CALLS}");
    // A fifth more than all calls of the last ten seconds, of which the first ones were answered well.
    let most = CALLS + (CALLS + n) / 5;
    assert!((CALLS..=most).contains(&calls), "{calls} for {CALLS}");
}
