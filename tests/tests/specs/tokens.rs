//! Tokens of requests: who has issued them opens what access rules give to it, keys may be replaced under load, and
//! whoever is refused is told why.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::Full;
use outrigger_tests::{Issuer, Load, Mesh, Reply, Sidecar, TestApp, eventually};
use serde_json::json;

const NAME: &str = "https://issuer.example.com";

fn request(headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get("/orders").header(HOST, "orders");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

async fn with(caller: &Sidecar, headers: &[(&'static str, &str)]) -> Reply {
    caller.caller().send(request(headers)).await
}

async fn bearing(caller: &Sidecar, token: &str) -> Reply {
    with(caller, &[("authorization", &format!("Bearer {token}"))]).await
}

/// Only who has a token of this issuer, for alice, or in the group `staff`, gets in.
fn rules(keys: &str, more: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens}}\nspec:\n  \
         jwtRules:\n  - issuer: {NAME}\n    {keys}\n{more}---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: alice}}\nspec:\n  \
         selector: {{matchLabels: {{app: orders}}}}\n  rules:\n  \
         - from: [{{source: {{requestPrincipals: [\"{NAME}/alice\"]}}}}]\n  \
         - when: [{{key: \"request.auth.claims[groups]\", values: [staff]}}]\n"
    )
}

/// The issuer's server as a service of the mesh, outside of it.
fn server(issuer: &Issuer) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: idp}}\nspec:\n  \
         hosts: [idp.example.com]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
         endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]\n---\n",
        issuer.address().port()
    )
}

async fn pair(mesh: &Mesh, app: &TestApp) -> (Sidecar, Sidecar) {
    let orders = mesh
        .service("orders")
        .label("app", "orders")
        .app(app)
        .start()
        .await;
    let web = mesh.service("web").start().await;
    mesh.synced().await;
    (orders, web)
}

async fn answers(web: &Sidecar, token: &str, status: u16) {
    eventually("the rules are in force", async || {
        let reply = bearing(web, token).await;
        (reply.status == status)
            .then_some(())
            .ok_or_else(|| reply.text())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_access_rules_give_to_its_principal_and_whoever_is_refused_is_told_why()
{
    let mesh = Mesh::start().await;
    let app = TestApp::start("orders").await;
    let (orders, web) = pair(&mesh, &app).await;
    let issuer = Issuer::start(NAME).await;
    let more = "    outputPayloadToHeader: x-payload\n    outputClaimToHeaders: [{header: x-user, claim: sub}]\n";
    mesh.apply(&rules(&format!("jwks: '{}'", issuer.jwks()), more));
    answers(&web, "none", 401).await;

    let alice = issuer.token("alice");
    app.forget();
    let forged = [
        ("authorization", &*format!("Bearer {alice}")),
        ("x-user", "admin"),
        ("x_user", "admin"),
        ("x-payload", "e30"),
    ];
    let reply = with(&web, &forged).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = app.received().pop().unwrap().headers;
    assert!(!seen.contains_key("authorization"), "the token ends here");
    assert!(!seen.contains_key("x_user"));
    let users: Vec<_> = seen.get_all("x-user").iter().collect();
    assert_eq!(users, ["alice"]);
    assert_eq!(seen["x-payload"], alice.split('.').nth(1).unwrap());

    let staff = issuer.token_saying(&json!({"sub": "bob", "groups": ["red", "staff"]}));
    assert_eq!(bearing(&web, &staff).await.status, 200);
    for (reply, status, reason) in [
        (with(&web, &[]).await, 403, "rbac_denied"),
        (
            bearing(&web, &issuer.token("bob")).await,
            403,
            "rbac_denied",
        ),
        (bearing(&web, "a.b.c").await, 401, "jwt_malformed"),
        (
            bearing(
                &web,
                &issuer.token_saying(&json!({"sub": "alice", "exp": 1})),
            )
            .await,
            401,
            "jwt_expired",
        ),
        (
            bearing(
                &web,
                &issuer.token_saying(&json!({"sub": "alice", "iss": "x"})),
            )
            .await,
            401,
            "jwt_issuer",
        ),
        (
            bearing(&web, &Issuer::start(NAME).await.token("alice")).await,
            401,
            "jwt_signature",
        ),
    ] {
        assert_eq!(reply.status, status, "{reason}: {}", reply.text());
        assert_eq!(reply.reason(), Some(reason), "{}", reply.text());
        if status == 401 {
            let challenge = reply.headers["www-authenticate"].to_str().unwrap();
            assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
            let policy = reply.headers["x-outrigger-policy"].to_str().unwrap();
            assert!(
                policy.contains("request-authentication[tokens]-rule[0]"),
                "{policy}"
            );
            assert!(policy.contains(":6:5"), "the line of the rule: {policy}");
        }
    }
    assert!(orders.metric("outrigger_jwt_total").await >= 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_under_load_and_go_away_and_no_request_fails() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("orders").await;
    let (orders, web) = pair(&mesh, &app).await;
    let issuer = std::sync::Arc::new(Issuer::start(NAME).await);
    let keys = "jwksUri: http://idp.example.com/keys";
    mesh.apply(&(server(&issuer) + &rules(keys, "")));
    answers(&web, &issuer.token("alice"), 200).await;
    answers(&web, "none", 401).await;

    let signing = std::sync::Arc::clone(&issuer);
    let load = Load::start(&web.caller(), 50, move || {
        request(&[(
            "authorization",
            &format!("Bearer {}", signing.token("alice")),
        )])
    });
    for kid in ["second", "third"] {
        let before = load.succeeded();
        issuer.rotate(kid);
        eventually("requests with the new key are served", async || {
            (load.succeeded() > before + 20)
                .then_some(())
                .ok_or_else(|| format!("{:?}", load.failures()))
        })
        .await;
    }
    // Its server is away: what was fetched serves, and a key that nobody has seen does not.
    issuer.set_away(true);
    let before = load.succeeded();
    eventually("requests go on", async || {
        (load.succeeded() > before + 20)
            .then_some(())
            .ok_or_else(|| format!("{:?}", load.failures()))
    })
    .await;
    let report = load.finish().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(issuer.asked() < 10, "asked {} times", issuer.asked());

    issuer.rotate("unseen");
    let reply = bearing(&web, &issuer.token("alice")).await;
    assert_eq!(reply.reason(), Some("jwt_no_key"), "{}", reply.text());
    assert_eq!(reply.status, 401);
    issuer.set_away(false);
    answers(&web, &issuer.token("alice"), 200).await;
    assert!(orders.metric("outrigger_jwks_fetches_total").await >= 3.0);
    let asked = issuer.asked();
    // Anybody may make up names of keys; the issuer is not asked for each.
    for number in 0..40 {
        let made_up = Issuer::start(NAME).await;
        made_up.rotate(&format!("made-up-{number}"));
        let reply = bearing(&web, &made_up.token("alice")).await;
        assert_eq!(reply.status, 401);
    }
    assert!(
        issuer.asked() <= asked + 5,
        "{} times",
        issuer.asked() - asked
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_nobody_with_a_token_gets_in_and_dry_runs_refuse_nobody() {
    let mesh = Mesh::start().await;
    let app = TestApp::start("orders").await;
    let (orders, web) = pair(&mesh, &app).await;
    let issuer = Issuer::start(NAME).await;
    issuer.set_away(true);
    let keys = "jwksUri: http://idp.example.com/keys\n    timeout: 1s";
    let documents = server(&issuer) + &rules(keys, "");
    let tried = documents.replace(
        "metadata: {name: tokens}",
        "metadata: {name: tokens, annotations: {outrigger.dev/dry-run: \"true\"}}",
    );
    let tried = tried
        .split("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy")
        .next()
        .unwrap();
    mesh.apply(tried);
    eventually("the dry run is counted", async || {
        let reply = bearing(&web, "a.b.c").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let page = orders.admin("/stats/prometheus").await;
        page.contains("verdict=\"dry_run_refused\"")
            .then_some(())
            .ok_or_else(|| "not yet".to_owned())
    })
    .await;
    mesh.apply(&documents);
    let alice = issuer.token("alice");
    answers(&web, &alice, 401).await;
    let reply = bearing(&web, &alice).await;
    assert_eq!(reply.reason(), Some("jwt_keys_away"), "{}", reply.text());
    assert_eq!(with(&web, &[]).await.status, 403);
    issuer.set_away(false);
    tokio::time::timeout(Duration::from_secs(90), answers(&web, &alice, 200))
        .await
        .expect("keys that come are used");
}
