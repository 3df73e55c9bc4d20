//! Authorization servers before our sidecar and before stock Envoy, of the same documents: the same answers, the same
//! edits, and the same questions.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use outrigger_proto::envoy::service::auth::v3::CheckRequest;
use outrigger_tests::{Authorizer, Caller, EnvoyMember, Mesh, TestApp, eventually};

fn documents() -> String {
    let mut text = "\
apiVersion: outrigger.dev/v1
kind: ExtensionProvider
metadata: {name: opa}
spec:
  envoyExtAuthzGrpc:
    service: opa
    port: 9080
    timeout: 1s
    includeRequestBodyInCheck: {maxRequestBytes: 8, allowPartialMessage: true}
---
apiVersion: outrigger.dev/v1
kind: ExtensionProvider
metadata: {name: strict}
spec:
  envoyExtAuthzGrpc:
    {service: opa, port: 9080, timeout: 1s, statusOnError: \"503\", includeRequestBodyInCheck: {maxRequestBytes: 8}}
---
apiVersion: outrigger.dev/v1
kind: ExtensionProvider
metadata: {name: open}
spec:
  envoyExtAuthzGrpc: {service: opa, port: 9080, timeout: 500ms, failOpen: true}
---
apiVersion: outrigger.dev/v1
kind: ExtensionProvider
metadata: {name: sessions}
spec:
  envoyExtAuthzHttp:
    service: sessions
    port: 9080
    timeout: 1s
    pathPrefix: /check
    includeRequestHeadersInCheck: [x-authz, \"x-li*\"]
    includeAdditionalHeadersInCheck: {x-mesh: ours}
    headersToUpstreamOnAllow: [x-user]
    headersToDownstreamOnDeny: [www-authenticate]
    headersToDownstreamOnAllow: [x-checked]
"
    .to_owned();
    for provider in ["opa", "strict", "open", "sessions"] {
        text += &format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {provider}}}\n\
             spec:\n  selector: {{matchLabels: {{checked: \"yes\"}}}}\n  action: CUSTOM\n  provider: {{name: {provider}}}\n  \
             rules:\n  - to: [{{operation: {{paths: [\"/{provider}*\"]}}}}]\n"
        );
    }
    text
}

/// What one request came to: its answer, what the application got, what the server was told.
#[derive(Debug, PartialEq)]
struct Came {
    status: u16,
    answer: BTreeMap<String, String>,
    denial: Option<String>,
    application: Vec<(String, BTreeMap<String, Vec<String>>, usize)>,
    asked: Vec<BTreeMap<String, String>>,
}

const ANSWERED: [&str; 3] = ["www-authenticate", "x-checked", "x-inner"];
const PASSED_ON: [&str; 5] = ["x-user", "x-list", "x-secret", "authorization", "host"];

async fn came(
    caller: &Caller,
    host: &str,
    (app, authorizer): (&TestApp, &Authorizer),
    (path, word, body): (&str, &str, usize),
) -> Came {
    app.forget();
    authorizer.checks();
    authorizer.requests();
    let request = Request::post(path)
        .header("host", format!("{host}:9080"))
        .header("x-authz", word)
        .header("x-list", "a")
        .header("x-list", "c")
        .header("x-secret", "s")
        .header("authorization", "Bearer t")
        .body(Full::new(Bytes::from("b".repeat(body))))
        .unwrap();
    let reply = caller.send(request).await;
    let neutral = |text: &str| text.replace(host, "HOST");
    let answer = ANSWERED.iter().filter_map(|name| {
        let value = reply.headers.get(*name)?.to_str().ok()?;
        Some(((*name).to_owned(), value.to_owned()))
    });
    let application = app.received().into_iter().map(|seen| {
        let headers = PASSED_ON.iter().map(|name| {
            let values = seen.headers.get_all(*name).iter();
            let values = values.map(|value| neutral(value.to_str().unwrap()));
            // Envoy appends to the first of them, our sidecar behind the last.
            let values = values.collect::<Vec<_>>().join(",");
            let mut values: Vec<String> = values.split(',').map(str::to_owned).collect();
            values.sort();
            ((*name).to_owned(), values)
        });
        (seen.path, headers.collect(), seen.body.len())
    });
    let asked = authorizer.checks().into_iter();
    let asked = asked.map(|check| attributes(&check, host));
    let told = authorizer.requests().into_iter();
    let told = told.map(|(method, path, headers, body)| {
        let mut all = BTreeMap::from([
            ("method".to_owned(), method.to_string()),
            ("path".to_owned(), path),
            (
                "body".to_owned(),
                String::from_utf8_lossy(&body).into_owned(),
            ),
        ]);
        for name in [
            "x-authz",
            "x-list",
            "x-secret",
            "authorization",
            "x-mesh",
            "host",
        ] {
            let values = headers.get_all(name).iter();
            let values: Vec<_> = values
                .map(|value| neutral(value.to_str().unwrap()))
                .collect();
            all.insert(name.to_owned(), values.join(","));
        }
        all
    });
    Came {
        status: reply.status.as_u16(),
        denial: (reply.status == 401).then(|| String::from_utf8_lossy(&reply.body).into_owned()),
        answer: answer.collect(),
        application: application.collect(),
        asked: asked.chain(told).collect(),
    }
}

/// Those that do not depend on the time or on chance.
fn attributes(check: &CheckRequest, host: &str) -> BTreeMap<String, String> {
    let all = check.attributes.as_ref().unwrap();
    let http = all.request.as_ref().unwrap().http.as_ref().unwrap();
    let (source, destination) = (
        all.source.as_ref().unwrap(),
        all.destination.as_ref().unwrap(),
    );
    let mut found: BTreeMap<String, String> = [
        ("source", source.principal.clone()),
        ("service", source.service.clone()),
        ("destination", destination.principal.clone()),
        (
            "addresses",
            format!(
                "{} {}",
                source.address.is_some(),
                destination.address.is_some()
            ),
        ),
        (
            "time",
            all.request.as_ref().unwrap().time.is_some().to_string(),
        ),
        ("id", (!http.id.is_empty()).to_string()),
        ("method", http.method.clone()),
        ("path", http.path.clone()),
        ("host", http.host.clone()),
        ("scheme", http.scheme.clone()),
        ("protocol", http.protocol.clone()),
        ("query", http.query.clone()),
        ("size", http.size.to_string()),
        ("body", http.body.clone()),
        ("raw body", format!("{:?}", http.raw_body)),
        ("sni", format!("{:?}", all.tls_session)),
        ("extensions", format!("{:?}", all.context_extensions)),
    ]
    .map(|(name, value)| (name.to_owned(), value.replace(host, "HOST")))
    .into();
    for (name, value) in &http.headers {
        // What Envoy adds to every request, and what names a port.
        let own = [
            "x-request-id",
            "x-forwarded-proto",
            "x-envoy-",
            "traceparent",
            "tracestate",
        ];
        let kept = name == "x-envoy-auth-partial-body";
        if name == "x-forwarded-client-cert" {
            // Envoy adds a hash of the certificate.
            let parts = value.split(';').filter(|part| !part.starts_with("Hash="));
            let parts = parts.collect::<Vec<_>>().join(";");
            found.insert("client".to_owned(), parts.replace(host, "HOST"));
            continue;
        }
        if kept || !own.iter().any(|own| name.starts_with(own)) {
            found.insert(format!("header {name}"), value.replace(host, "HOST"));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn our_sidecar_and_envoy_ask_and_obey_alike() {
    let mesh = Mesh::start().await;
    let authorizer = Authorizer::start().await;
    let (of_sidecar, of_envoy) = (TestApp::start("a").await, TestApp::start("b").await);
    let checked = [("--label", "checked=yes")];
    let Some(envoy) = EnvoyMember::start(&mesh, "ratings", Some(&of_envoy), &checked).await else {
        return;
    };
    let opa = mesh.service("opa").grpc_app_at(authorizer.address());
    let opa = opa.start().await;
    let sessions = mesh.service("sessions").app_at(authorizer.address());
    let sessions = sessions.start().await;
    let reviews = mesh
        .service("reviews")
        .label("checked", "yes")
        .app(&of_sidecar);
    let reviews = reviews.start().await;
    let shopper = mesh.service("shopper").start().await;
    let caller = shopper.caller();
    mesh.apply(&documents());
    for host in ["reviews", "ratings"] {
        for path in ["/opa", "/strict", "/open", "/sessions"] {
            eventually(&format!("{host} asks about {path}"), async || {
                let request = Request::get(path)
                    .header("host", format!("{host}:9080"))
                    .header("x-authz", "deny")
                    .body(Full::default())
                    .unwrap();
                let reply = caller.send(request).await;
                if reply.status == 401 {
                    Ok(())
                } else {
                    Err(format!("{}\n{}", reply.text(), envoy.log()))
                }
            })
            .await;
        }
    }

    let mut differences = Vec::new();
    for wanted in [
        ("/other", "deny", 0),
        ("/opa/1?token=t&a=1", "allow", 0),
        ("/opa/1?token=t&a=1", "edit", 0),
        ("/opa", "deny", 0),
        ("/opa", "fail", 0),
        ("/opa", "hang", 0),
        ("/opa", "allow", 5),
        ("/opa", "allow", 20),
        ("/strict", "allow", 5),
        ("/strict", "allow", 20),
        ("/strict", "fail", 0),
        ("/open", "fail", 0),
        ("/open", "hang", 0),
        ("/open", "deny", 0),
        ("/sessions?a=1", "allow", 5),
        ("/sessions", "edit", 0),
        ("/sessions", "deny", 0),
        ("/sessions", "fail", 0),
    ] {
        let ours = came(&caller, "reviews", (&of_sidecar, &authorizer), wanted).await;
        let theirs = came(&caller, "ratings", (&of_envoy, &authorizer), wanted).await;
        if ours != theirs {
            differences.push((wanted, ours, theirs));
        }
    }
    drop((opa, sessions, reviews, shopper));
    assert!(differences.is_empty(), "{differences:#?}");
}
