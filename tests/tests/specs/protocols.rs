//! How applications reach others: a port of localhost for each service, the proxy in its several forms, HTTP/2 and
//! gRPC.

use std::net::{SocketAddr, TcpListener};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use outrigger_tests::{Caller, Collector, Mesh, TestApp, eventually};
use tonic::{Code, transport::Endpoint};

async fn answers(caller: &Caller, host: &str) {
    eventually(&format!("{host} answers"), async || {
        let reply = caller.get(host, "/").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_document_gives_a_service_a_port_of_localhost() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    // A document names its port; this one was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    mesh.apply(&format!(
        "\
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata:
  name: default
spec:
  egress:
  - port:
      number: {free}
      protocol: HTTP
      name: reviews
    bind: 127.0.0.1
    hosts:
    - ./reviews.default.svc.cluster.local
"
    ));

    let local = SocketAddr::from(([127, 0, 0, 1], free));
    eventually("the port is open", async || {
        tokio::net::TcpStream::connect(local)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await;
    let reply = Caller::through(local).get(&local.to_string(), "/").await;
    assert_eq!(reply.name(), "reviews", "{}", reply.text());
    drop(shopper);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_takes_a_host_header_and_an_absolute_form_alike() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let _reviews = mesh.service("reviews").app(&app).start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    answers(&caller, "reviews:9080").await;

    for host in [
        "reviews",
        "reviews.default",
        "reviews.default.svc.cluster.local:9080",
    ] {
        assert_eq!(caller.get(host, "/").await.name(), "reviews", "{host}");
    }
    let absolute = Request::get("http://reviews:9080/form").header("host", "other");
    let reply = caller
        .send(absolute.body(Full::<Bytes>::default()).unwrap())
        .await;
    assert_eq!(reply.name(), "reviews", "{}", reply.text());
    assert_eq!(app.received().last().unwrap().path, "/form");
    let reply = caller.get("nobody", "/").await;
    assert_eq!(
        (reply.status.as_u16(), reply.reason()),
        (404, Some("no_route_host"))
    );
}

fn spans() -> ExportTraceServiceRequest {
    let spans = vec![Span {
        name: "over the mesh".to_owned(),
        ..Span::default()
    }];
    let scope_spans = vec![ScopeSpans {
        spans,
        ..ScopeSpans::default()
    }];
    let resource_spans = vec![ResourceSpans {
        scope_spans,
        ..ResourceSpans::default()
    }];
    ExportTraceServiceRequest { resource_spans }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_goes_through_the_mesh_and_its_refusals_are_grpc() {
    let mesh = Mesh::start().await;
    let collector = Collector::start().await;
    let _sidecar = mesh
        .service("collector")
        .grpc_app_at(collector.address())
        .start()
        .await;
    let shopper = mesh.service("shopper").start().await;
    let client = |authority: &str| {
        let endpoint = Endpoint::try_from(format!("http://{}", shopper.outbound)).unwrap();
        let origin = format!("http://{authority}").parse().unwrap();
        TraceServiceClient::new(endpoint.origin(origin).connect_lazy())
    };

    eventually("a call goes through", async || {
        let sent = client("collector:9080").export(spans()).await;
        sent.map(drop).map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(collector.spans()[0].name, "over the mesh");

    let refused = client("nobody:9080").export(spans()).await.unwrap_err();
    assert_ne!(
        refused.code(),
        Code::Unknown,
        "a real gRPC status: {refused}"
    );
    assert!(refused.message().contains("nobody"), "{refused}");
}
