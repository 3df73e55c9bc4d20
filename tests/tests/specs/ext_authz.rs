//! Authorization servers: asked over mTLS about what a document selects, believed as far as it says, and never in the
//! way of anything else.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use outrigger_tests::{Authorizer, Caller, Mesh, Reply, Sidecar, TestApp, eventually, free_port};

/// `opa` over gRPC, `sessions` over HTTP, one that may fail, and one that nobody has started.
fn documents(dead: u16) -> String {
    let mut text = format!(
        "\
apiVersion: outrigger.dev/v1
kind: ExtensionProvider
metadata: {{name: opa}}
spec:
  envoyExtAuthzGrpc:
    service: opa.default.svc.cluster.local
    port: 9080
    timeout: 1s
    includeRequestBodyInCheck: {{maxRequestBytes: 64, allowPartialMessage: true}}
---
apiVersion: outrigger.dev/v1
kind: ExtensionProvider
metadata: {{name: sessions}}
spec:
  envoyExtAuthzHttp:
    service: sessions
    port: 9080
    timeout: 1s
    pathPrefix: /check
    includeRequestHeadersInCheck: [x-authz]
    includeAdditionalHeadersInCheck: {{x-mesh: ours}}
    includeRequestBodyInCheck: {{maxRequestBytes: 64}}
    headersToUpstreamOnAllow: [x-user]
    headersToDownstreamOnDeny: [www-authenticate]
    headersToDownstreamOnAllow: [x-checked]
---
apiVersion: outrigger.dev/v1
kind: ExtensionProvider
metadata: {{name: open}}
spec:
  envoyExtAuthzGrpc: {{service: opa, port: 9080, timeout: 500ms, failOpen: true}}
---
apiVersion: outrigger.dev/v1
kind: ExtensionProvider
metadata: {{name: dead}}
spec:
  envoyExtAuthzGrpc: {{service: dead, port: 80, timeout: 2s, statusOnError: \"500\"}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: dead}}
spec:
  hosts: [dead.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: grpc, protocol: GRPC}}]
  endpoints: [{{address: 127.0.0.1, ports: {{grpc: {dead}}}}}]
"
    );
    for (provider, path) in [
        ("opa", "/grpc"),
        ("sessions", "/http"),
        ("open", "/open"),
        ("dead", "/dead"),
    ] {
        text += &format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: ask-{provider}}}\n\
             spec:\n  selector: {{matchLabels: {{app: reviews}}}}\n  action: CUSTOM\n  provider: {{name: {provider}}}\n  \
             rules:\n  - to: [{{operation: {{paths: [\"{path}*\"]}}}}]\n"
        );
    }
    text
}

struct Shop {
    mesh: Mesh,
    app: TestApp,
    authorizer: Authorizer,
    caller: Caller,
    reviews: Sidecar,
    _others: Vec<Sidecar>,
}

impl Shop {
    async fn open() -> Self {
        let mesh = Mesh::start().await;
        let authorizer = Authorizer::start().await;
        let app = TestApp::start("reviews").await;
        let opa = mesh.service("opa").grpc_app_at(authorizer.address());
        let sessions = mesh.service("sessions").app_at(authorizer.address());
        let reviews = mesh.service("reviews").label("app", "reviews").app(&app);
        let (opa, sessions) = (opa.start().await, sessions.start().await);
        let reviews = reviews.start().await;
        let shopper = mesh.service("shopper").start().await;
        let caller = shopper.caller();
        mesh.apply(&documents(free_port()));
        let shop = Self {
            mesh,
            app,
            authorizer,
            caller,
            reviews,
            _others: vec![opa, sessions, shopper],
        };
        eventually("the servers are asked", async || {
            for path in ["/grpc", "/http"] {
                let reply = shop.ask(path, "deny").await;
                if reply.status != 401 {
                    return Err(reply.text());
                }
            }
            Ok(())
        })
        .await;
        shop.app.forget();
        shop.authorizer.checks();
        shop.authorizer.requests();
        shop
    }

    async fn ask(&self, path: &str, word: &str) -> Reply {
        let request = Request::get(path)
            .header("host", "reviews:9080")
            .header("x-authz", word)
            .header("x-list", "a")
            .header("x-secret", "s")
            .header("authorization", "Bearer t");
        let request = request.body(Full::default()).unwrap();
        self.caller.send(request).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_verdict_is_what_the_caller_and_the_application_get() {
    let shop = Shop::open().await;

    let other = shop.ask("/other", "deny").await;
    assert_eq!(
        other.status,
        200,
        "nobody is asked about it: {}",
        other.text()
    );
    assert!(shop.authorizer.checks().is_empty());

    for path in ["/grpc", "/http"] {
        shop.app.forget();
        let allowed = shop.ask(path, "allow").await;
        assert_eq!(allowed.status, 200, "{path}: {}", allowed.text());
        let edited = shop.ask(&format!("{path}?token=t&a=1"), "edit").await;
        assert_eq!(edited.status, 200, "{path}: {}", edited.text());
        assert_eq!(edited.headers["x-checked"], "yes", "{path}");
        assert!(!edited.headers.contains_key("x-inner"), "{path}");
        let received = shop.app.received();
        let seen = &received[1];
        assert_eq!(seen.headers["x-user"], "alice", "{path}");

        let denied = shop.ask(path, "deny").await;
        assert_eq!(denied.status, 401, "{path}");
        assert_eq!(denied.headers["www-authenticate"], "Basic", "{path}");
        assert!(!denied.headers.contains_key("x-inner"), "{path}");
        assert_eq!(denied.body, "who are you?", "{path}");
        assert_eq!(denied.reason(), Some("ext_authz_denied"), "{path}");
        let policy = denied.headers["x-outrigger-policy"].to_str().unwrap();
        assert!(policy.starts_with("ns[default]-policy[ask-"), "{policy}");
        assert!(policy.contains("stdin") || policy.contains(':'), "{policy}");
        assert_eq!(
            shop.app.received().len(),
            2,
            "{path}: {:?}",
            shop.app.received()
        );
    }
    // Only gRPC has words for these.
    shop.app.forget();
    shop.ask("/grpc?token=t&a=1", "edit").await;
    let seen = &shop.app.received()[0];
    assert_eq!(seen.path, "/grpc?a=1&user=alice");
    assert!(!seen.headers.contains_key("x-secret"));
    let list: Vec<_> = seen.headers.get_all("x-list").iter().collect();
    assert_eq!(list, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_verdict_changes_who_sent_a_request_or_where_it_goes() {
    let shop = Shop::open().await;
    let reply = shop.ask("/grpc", "forge").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = &shop.app.received()[0].headers;
    assert_eq!(seen["host"], "reviews:9080");
    let client = seen["x-forwarded-client-cert"].to_str().unwrap();
    assert!(client.contains("sa/shopper"), "{client}");
    assert!(!client.contains("evil"), "{client}");
    assert!(!seen.contains_key("x_forwarded_client_cert"));
    assert!(!seen.contains_key("transfer-encoding"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_verdict_a_request_is_refused_unless_the_document_says_otherwise() {
    let shop = Shop::open().await;
    for (path, word, status) in [
        ("/grpc", "fail", 403),
        ("/grpc", "hang", 403),
        ("/http", "fail", 403),
        ("/http", "hang", 403),
        ("/dead", "allow", 500),
    ] {
        let reply = shop.ask(path, word).await;
        assert_eq!(reply.status, status, "{path} {word}: {}", reply.text());
        assert_eq!(reply.reason(), Some("ext_authz_error"), "{path} {word}");
        assert!(reply.text().contains("no verdict"), "{}", reply.text());
        assert!(shop.app.received().is_empty(), "{path} {word}");
    }
    for word in ["fail", "hang"] {
        let reply = shop.ask("/open", word).await;
        assert_eq!(reply.status, 200, "{word}: {}", reply.text());
    }
    let denied = shop.ask("/open", "deny").await;
    assert_eq!(denied.status, 401, "a verdict is one");
    let counted = shop.reviews.metric("outrigger_ext_authz_total").await;
    assert!(counted >= 8.0, "{counted}");
    assert_eq!(
        shop.reviews.metric("outrigger_ext_authz_waiting").await,
        0.0
    );
    let status = shop.mesh.status().to_string();
    assert!(!status.contains("\"nacks\":1"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_told_who_asks_for_what() {
    let shop = Shop::open().await;
    let body = "x".repeat(100);
    for (path, size, status) in [("/grpc", 100, 200), ("/http", 100, 413), ("/http", 10, 200)] {
        shop.app.forget();
        let request = Request::post(format!("{path}/1?q=2"))
            .header("host", "reviews:9080")
            .header("x-list", "a")
            .header("x-list", "b")
            .header("authorization", "Bearer t")
            .body(Full::new(Bytes::copy_from_slice(&body.as_bytes()[..size])))
            .unwrap();
        let reply = shop.caller.send(request).await;
        assert_eq!(reply.status, status, "{path} {size}: {}", reply.text());
        if status == 200 {
            let received = shop.app.received();
            assert_eq!(received[0].body.len(), size, "{path}: all of it goes on");
        }
    }

    let checks = shop.authorizer.checks();
    let attributes = checks[0].attributes.as_ref().unwrap();
    let source = attributes.source.as_ref().unwrap();
    let destination = attributes.destination.as_ref().unwrap();
    assert_eq!(
        source.principal,
        "spiffe://cluster.local/ns/default/sa/shopper"
    );
    assert_eq!(
        destination.principal,
        "spiffe://cluster.local/ns/default/sa/reviews"
    );
    let http = attributes.request.as_ref().unwrap().http.as_ref().unwrap();
    assert_eq!(http.method, "POST");
    assert_eq!(http.path, "/grpc/1?q=2");
    assert_eq!(http.host, "reviews:9080");
    assert_eq!(http.protocol, "HTTP/1.1");
    assert_eq!(http.size, 100);
    assert_eq!(http.body.as_bytes(), &body.as_bytes()[..64]);
    for (name, value) in [
        ("x-list", "a,b"),
        (":method", "POST"),
        (":path", "/grpc/1?q=2"),
        ("authorization", "Bearer t"),
        ("x-envoy-auth-partial-body", "true"),
    ] {
        assert_eq!(
            http.headers.get(name).map(String::as_str),
            Some(value),
            "{name}"
        );
    }

    let requests = shop.authorizer.requests();
    let [(method, path, headers, body)] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("POST", "/check/http/1?q=2")
    );
    assert_eq!(headers["x-mesh"], "ours");
    assert_eq!(headers["authorization"], "Bearer t");
    assert_eq!(headers["x-envoy-auth-partial-body"], "false");
    assert!(!headers.contains_key("x-list"), "nobody asked for it");
    assert_eq!(body.len(), 10);
    // Over mTLS: the server's own sidecar has seen by whom it is asked.
    let client = headers["x-forwarded-client-cert"].to_str().unwrap();
    assert!(
        client.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"),
        "{client}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_there_is_not_is_refused_with_its_place() {
    let mesh = Mesh::start().await;
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask}\n\
                  spec:\n  action: CUSTOM\n  provider: {name: opa}\n  rules: [{}]\n";
    let output = mesh.cli_with_input(&["apply", "-f", "-"], policy);
    assert_eq!(output.status, 1, "{}", output.stdout);
    assert!(output.stderr.contains("OUT0326"), "{}", output.stderr);
    assert!(output.stderr.contains("6:20"), "{}", output.stderr);
}
