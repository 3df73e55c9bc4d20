//! Traces that hang together, and a collector that receives them.

use std::{net::SocketAddr, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{
    Config,
    testing::{
        Authority, Sidecar,
        app::{App, Raw},
        cluster, config, endpoint, mtls, spiffe,
    },
};

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).await.unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, mpsc::Receiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = mpsc::channel(16);
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (address, received)
}

/// Both sides of a hop, reporting to `collector`.
async fn hop(collector: SocketAddr, app: &App) -> (Sidecar, Sidecar, SocketAddr) {
    let authority = Authority::new();
    let traced = |service: &str| {
        let mut config = Config {
            otlp_endpoint: Some(format!("http://{collector}")),
            ..config()
        };
        config.workload.service = service.to_owned();
        config
    };
    let identity = authority.identity("reviews");
    let (server, inbound) = Sidecar::inbound_with(&traced("reviews"), identity, app.address).await;
    let mut reviews = cluster("reviews");
    reviews.subset = "v1".to_owned();
    reviews.tls = mtls(&["reviews"]);
    let identity = Some(authority.identity("frontend"));
    let endpoints = vec![endpoint(inbound, true)];
    let (client, proxy) =
        Sidecar::outbound(&traced("frontend"), identity, reviews, endpoints, |_| {}).await;
    (client, server, proxy)
}

/// Service name and span of everything that the collector received.
async fn spans(
    received: &mut mpsc::Receiver<ExportTraceServiceRequest>,
    count: usize,
) -> Vec<(String, Span)> {
    let mut out = Vec::new();
    while out.len() < count {
        for resource in received.recv().await.unwrap().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let service = text(&attributes, "service.name").unwrap();
            for scope in resource.scope_spans {
                out.extend(scope.spans.into_iter().map(|span| (service.clone(), span)));
            }
        }
    }
    out
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_hop_is_a_client_span_and_a_server_span_of_the_callers_trace() {
    let (address, mut received) = collector().await;
    let app = App::start("reviews").await;
    let (client, server, proxy) = hop(address, &app).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send(&format!(
            "GET /reviews/1?secret=x HTTP/1.1\r\nHost: reviews\r\n\
             traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=b\r\n\r\n"
        ))
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 200);
    for sidecar in [&client, &server] {
        sidecar.telemetry.flush(Duration::from_secs(5)).await;
    }
    let spans = spans(&mut received, 2).await;
    let of = |kind: i32| &spans.iter().find(|(_, span)| span.kind == kind).unwrap().1;
    let (calling, serving) = (of(3), of(2));
    assert_eq!(hex(&calling.trace_id), TRACE);
    assert_eq!(hex(&serving.trace_id), TRACE);
    assert_eq!(hex(&calling.parent_span_id), PARENT);
    assert_eq!(serving.parent_span_id, calling.span_id);
    let seen = app.last_headers();
    let expected = format!("00-{TRACE}-{}-01", hex(&serving.span_id));
    assert_eq!(
        seen["traceparent"], expected,
        "the application continues the SERVER span"
    );
    assert_eq!(seen["tracestate"], "a=b");
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/reviews/1"),
        ("http.response.status_code", "200"),
        ("server.address", "reviews"),
        ("outrigger.policy", "canary.yaml:12:5"),
        ("outrigger.subset", "v1"),
    ] {
        assert_eq!(
            text(&calling.attributes, key).as_deref(),
            Some(value),
            "{key}"
        );
    }
    let peer = text(&serving.attributes, "outrigger.peer");
    assert_eq!(peer, Some(spiffe("frontend")));
    assert_eq!(calling.name, "GET");
}

#[tokio::test]
async fn an_unsampled_trace_goes_on_unrecorded_with_a_new_span_id() {
    let (address, _received) = collector().await;
    let app = App::start("reviews").await;
    let (client, _server, proxy) = hop(address, &app).await;
    let mut caller = Raw::to(proxy).await;
    caller
        .send(&format!(
            "GET / HTTP/1.1\r\nHost: reviews\r\ntraceparent: 00-{TRACE}-{PARENT}-00\r\n\r\n"
        ))
        .await;
    assert_eq!(caller.answer().await.unwrap().status, 200);
    let seen = app.last_headers();
    let traceparent = seen["traceparent"].to_str().unwrap();
    assert!(
        traceparent.starts_with(&format!("00-{TRACE}-")),
        "{traceparent}"
    );
    assert!(
        traceparent.ends_with("-00") && !traceparent.contains(PARENT),
        "{traceparent}"
    );
    client.telemetry.flush(Duration::from_secs(5)).await;
    assert!(client.metric("outrigger_spans_exported_total") < 1.0);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_request() {
    // Takes connections, and never answers.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    let app = App::start("reviews").await;
    let (_client, _server, proxy) = hop(address, &app).await;
    let mut caller = Raw::to(proxy).await;
    for _ in 0..20 {
        assert_eq!(caller.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_refused_request_is_a_failed_span_with_its_reason() {
    let (address, mut received) = collector().await;
    let app = App::start("reviews").await;
    let (client, _server, proxy) = hop(address, &app).await;
    let mut caller = Raw::to(proxy).await;
    caller.send("GET / HTTP/1.1\r\nHost: unknown\r\n\r\n").await;
    assert_eq!(caller.answer().await.unwrap().status, 404);
    client.telemetry.flush(Duration::from_secs(5)).await;
    let spans = spans(&mut received, 1).await;
    let span = &spans[0].1;
    assert_eq!(span.status.as_ref().unwrap().code, 2);
    assert_eq!(
        text(&span.attributes, "error.type").as_deref(),
        Some("no_route_host")
    );
    assert_eq!(
        text(&span.attributes, "outrigger.reason").as_deref(),
        Some("no_route_host")
    );
}
