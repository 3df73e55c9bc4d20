//! Who may call whom: what documents allow, refuse and only try, with real sidecars and real identities.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use outrigger_tests::{Caller, Mesh, Reply, TestApp, eventually};

/// Everything is denied, but what `web` reads.
const DENY_BY_DEFAULT: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]
    to: [{operation: {methods: [GET], paths: ['/reviews/*']}}]
";

async fn becomes(caller: &Caller, path: &str, status: u16) -> Reply {
    let mut last = None;
    eventually(&format!("{path} is answered {status}"), async || {
        let reply = caller.get("reviews:9080", path).await;
        let found = reply.status.as_u16();
        let text = format!("{found}: {}", reply.text());
        last = Some(reply);
        (found == status).then_some(()).ok_or(text)
    })
    .await;
    last.unwrap()
}

/// A caller that says of itself what nobody has verified.
async fn with_claims(caller: &Caller) -> Reply {
    let mut request = Request::get("/reviews/1").header("host", "reviews:9080");
    for (name, value) in [
        (
            "x-forwarded-client-cert",
            "URI=spiffe://cluster.local/ns/default/sa/web",
        ),
        (
            "x_forwarded_client_cert",
            "URI=spiffe://cluster.local/ns/default/sa/web",
        ),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        request = request.header(name, value);
    }
    caller
        .send(request.body(Full::new(Bytes::new())).unwrap())
        .await
}

/// Threat 6: a valid identity that is not allowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_no_document_allows_gets_nothing_and_is_told_by_which_line() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let reviews = mesh.service("reviews").label("app", "reviews");
    let _reviews = reviews.app(&app).start().await;
    let (web, thief) = (
        mesh.service("web").start().await,
        mesh.service("thief").start().await,
    );
    let (web, thief) = (web.caller(), thief.caller());
    // Before any document everybody of the mesh may.
    becomes(&web, "/reviews/1", 200).await;
    becomes(&thief, "/reviews/1", 200).await;

    mesh.apply(DENY_BY_DEFAULT);
    becomes(&thief, "/reviews/1", 403).await;
    becomes(&web, "/reviews/1", 200).await;
    app.forget();
    for path in ["/reviews/1", "/", "/reviews/../admin"] {
        assert_eq!(thief.get("reviews:9080", path).await.status, 403, "{path}");
    }
    let reply = with_claims(&thief).await;
    assert_eq!(
        reply.status, 403,
        "what it says of itself counts for nothing"
    );
    assert_eq!(web.get("reviews:9080", "/admin").await.status, 403);
    assert_eq!(
        web.get("reviews:9080", "/reviews/../admin").await.status,
        403
    );
    assert!(app.received().is_empty(), "{:?}", app.received());

    // What it was told is what `outrigger can` says, with the line.
    let denied = mesh.cli(&["can", "thief", "reviews", "GET", "/reviews/1"]);
    assert_eq!(denied.status, 1, "{denied:?}");
    assert!(denied.stdout.starts_with("DENIED"), "{}", denied.stdout);
    let allowed = mesh.cli(&["can", "web", "reviews", "GET", "/reviews/1"]);
    assert_eq!(allowed.status, 0, "{allowed:?}");
    let line = "ns[default]-policy[readers]-rule[0] at -:12:5";
    assert!(allowed.stdout.contains(line), "{}", allowed.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_refuses_nothing_and_is_shown_beside_what_is_in_force() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let reviews = mesh.service("reviews").label("app", "reviews");
    let reviews = reviews.app(&app).start().await;
    let of_web = mesh.service("web").start().await;
    let web = of_web.caller();
    mesh.apply(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {name: tried, annotations: {outrigger.dev/dry-run: 'true'}}\n\
         spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}\n",
    );
    eventually("the dry run counts", async || {
        let reply = web.get("reviews:9080", "/admin").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let page = Caller::through(reviews.metrics)
            .get("metrics", "/stats/prometheus")
            .await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        page.contains("dry_run_denied").then_some(()).ok_or(page)
    })
    .await;
    let said = mesh.cli(&["can", "web", "reviews", "GET", "/admin"]);
    assert_eq!(said.status, 0, "{said:?}");
    let tried = "would refuse: ns[default]-policy[tried]-rule[0]";
    assert!(said.stdout.contains(tried), "{}", said.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_gets_in_where_a_document_says_so_and_nowhere_else() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("reviews").await;
    let reviews = mesh.service("reviews").label("app", "reviews");
    let reviews = reviews.app(&app).start().await;
    let inbound: SocketAddr = reviews.inbound.unwrap();
    let mode = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: reviews}}\n\
             spec: {{selector: {{matchLabels: {{app: reviews}}}}, portLevelMtls: {{9080: {{mode: {mode}}}}}}}\n"
        )
    };
    let plain = || {
        let request = Request::get("/").header("host", "reviews:9080");
        request.body(Full::new(Bytes::new())).unwrap()
    };
    let of_web = mesh.service("web").start().await;
    let web = of_web.caller();
    for (written, gets_in) in [
        ("STRICT", false),
        ("PERMISSIVE", true),
        ("DISABLE", true),
        ("STRICT", false),
    ] {
        mesh.apply(&mode(written));
        eventually(&format!("plain text under {written}"), async || {
            let reply = Caller::through(inbound).try_send(plain()).await;
            let found = reply.as_ref().is_ok_and(|reply| reply.status == 200);
            (found == gets_in)
                .then_some(())
                .ok_or_else(|| format!("{reply:?}"))
        })
        .await;
        // Members of the mesh get in whatever it is, because they are told.
        becomes(&web, "/", 200).await;
        let said = mesh.cli(&["can", "-", "reviews"]);
        assert_eq!(said.status == 0, gets_in, "{said:?}");
        assert!(
            said.stdout.contains(&format!("mTLS      {written}")),
            "{}",
            said.stdout
        );
    }
}
