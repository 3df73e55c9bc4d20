//! One request is one trace: a CLIENT and a SERVER span for each hop, parent and child all the way.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use outrigger_tests::{Caller, Collector, Mesh, Process, Sidecar, Span, eventually};

/// Service and version, in the order of the calls.
const SHOP: [(&str, &str); 4] = [
    ("frontend", "v1"),
    ("productpage", "v1"),
    ("reviews", "v2"),
    ("ratings", "v1"),
];

async fn shop(mesh: &Mesh, collector: &Collector) -> Vec<(Process, Sidecar)> {
    let mut running = Vec::new();
    for (service, version) in SHOP {
        let args = [
            "demo-app",
            service,
            "--version",
            version,
            "--listen",
            "127.0.0.1:0",
        ];
        let args = args
            .into_iter()
            .chain(["--proxy", "-", "--exit-with-parent"]);
        let args: Vec<String> = args.map(str::to_owned).collect();
        let mut app = Process::start(service, &args, &[]).await;
        let listen = app.ready_text("listen").parse().unwrap();
        let sidecar = mesh
            .service(service)
            .label("version", version)
            .app_at(listen)
            .flag("--otlp-endpoint", &collector.endpoint())
            .start()
            .await;
        app.tell(&sidecar.outbound.to_string());
        running.push((app, sidecar));
    }
    mesh.synced().await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_from_frontend_to_ratings_is_one_connected_trace() {
    let mesh = Mesh::start().await;
    let collector = Collector::start().await;
    let shop = shop(&mesh, &collector).await;
    let frontend = Caller::through(shop[0].0.ready_text("listen").parse().unwrap());
    eventually("the shop answers", async || {
        let reply = frontend.get("frontend", "/").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;

    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let caller_span = "b7ad6b7169203331";
    let traceparent = format!("00-{trace_id}-{caller_span}-01");
    let reply = frontend
        .get_with("frontend", "traceparent", &traceparent)
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());

    // Three hops: productpage, reviews, ratings.
    let spans = eventually("six spans arrive", async || {
        match collector.trace(trace_id) {
            spans if spans.len() >= 6 => Ok(spans),
            spans => Err(format!("{spans:#?}")),
        }
    })
    .await;
    assert_eq!(spans.len(), 6, "{spans:#?}");
    let mut parent = caller_span.to_owned();
    for hop in SHOP.windows(2) {
        let ((from, _), (to, _)) = (hop[0], hop[1]);
        for (service, kind) in [(from, SpanKind::Client), (to, SpanKind::Server)] {
            let span = find(&spans, service, kind);
            assert_eq!(
                span.parent_id, parent,
                "{service} {kind:?} hangs below the one before"
            );
            parent.clone_from(&span.span_id);
        }
    }
}

fn find<'a>(spans: &'a [Span], service: &str, kind: SpanKind) -> &'a Span {
    let of = |span: &&Span| span.kind == kind && span.service.split('.').next() == Some(service);
    let found: Vec<&Span> = spans.iter().filter(of).collect();
    assert_eq!(found.len(), 1, "{service} {kind:?} among {spans:#?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_says_what_was_asked_and_answered_in_stable_names() {
    let mesh = Mesh::start().await;
    let collector = Collector::start().await;
    let shop = shop(&mesh, &collector).await;
    let caller = shop[0].1.caller();
    let spans = eventually("a request to ratings is traced", async || {
        caller.get("ratings:9080", "/stars").await;
        let spans = collector.spans();
        let of =
            |span: &&Span| span.kind == SpanKind::Server && span.service.starts_with("ratings");
        let found = spans.iter().find(of).cloned();
        found.ok_or_else(|| format!("{} spans", spans.len()))
    })
    .await;
    let expected = [
        ("http.request.method", "GET"),
        ("url.path", "/stars"),
        ("http.response.status_code", "200"),
    ];
    let seen: BTreeMap<&str, &str> = spans
        .attributes
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    for (name, value) in expected {
        assert_eq!(seen.get(name), Some(&value), "{name} in {seen:#?}");
    }
}
