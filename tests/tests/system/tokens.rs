//! Tokens of requests through our sidecar and through stock Envoy, from the same documents: the same verdicts, the same
//! words, and the application sees the same.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::Full;
use outrigger_tests::{Caller, EnvoyMember, Issuer, Mesh, Reply, TestApp, eventually};
use serde_json::json;

const NAME: &str = "https://issuer.example.com";

/// A token and where it is: header, or query.
struct Case {
    name: &'static str,
    path: String,
    authorization: Option<String>,
}

fn bearing(name: &'static str, token: &str) -> Case {
    Case {
        name,
        path: "/a?b=1".to_owned(),
        authorization: Some(format!("Bearer {token}")),
    }
}

fn cases(issuer: &Issuer, other: &Issuer) -> Vec<Case> {
    let alice = issuer.token_saying(&json!({"sub": "alice", "aud": "shop", "groups": ["staff"]}));
    let saying = |claims| issuer.token_saying(&claims);
    let with_header = |header: &str| {
        let rest = alice.split_once('.').unwrap().1;
        format!("{}.{rest}", BASE64_URL_SAFE_NO_PAD.encode(header))
    };
    let (start, signature) = alice.rsplit_once('.').unwrap();
    let plain = |name, path: String, authorization: Option<&str>| Case {
        name,
        path,
        authorization: authorization.map(str::to_owned),
    };
    vec![
        plain("no token", "/a".to_owned(), None),
        plain("another scheme", "/a".to_owned(), Some("Basic YTpi")),
        bearing("alice", &alice),
        plain(
            "alice in the query",
            format!("/a?b=1&access_token={alice}"),
            None,
        ),
        plain(
            "alice twice",
            format!("/a?access_token={alice}"),
            Some(&format!("Bearer {alice}")),
        ),
        bearing("bob", &saying(json!({"sub": "bob", "aud": "shop"}))),
        bearing(
            "bob of the staff",
            &saying(json!({"sub": "bob", "aud": ["x", "shop"], "groups": ["staff"]})),
        ),
        bearing(
            "somebody who may write",
            &saying(json!({"sub": "eve", "aud": "shop", "scope": "read write"})),
        ),
        bearing(
            "somebody who may read",
            &saying(json!({"sub": "eve", "aud": "shop", "scope": "read"})),
        ),
        bearing(
            "for somebody else",
            &saying(json!({"sub": "alice", "aud": "other"})),
        ),
        bearing("for nobody", &saying(json!({"sub": "alice"}))),
        bearing(
            "expired",
            &saying(json!({"sub": "alice", "aud": "shop", "exp": 1})),
        ),
        bearing(
            "to come",
            &saying(json!({"sub": "alice", "aud": "shop", "nbf": 9_999_999_999_u64})),
        ),
        bearing(
            "exp as text",
            &saying(json!({"sub": "alice", "aud": "shop", "exp": "9999999999"})),
        ),
        bearing(
            "exp below zero",
            &saying(json!({"sub": "alice", "aud": "shop", "exp": -1})),
        ),
        bearing("aud as number", &saying(json!({"sub": "alice", "aud": 7}))),
        bearing("sub as number", &saying(json!({"sub": 7, "aud": "shop"}))),
        bearing(
            "another issuer",
            &saying(json!({"iss": "https://x", "sub": "alice", "aud": "shop"})),
        ),
        bearing(
            "no issuer",
            &saying(json!({"iss": null, "sub": "alice", "aud": "shop"})),
        ),
        bearing(
            "another's key",
            &other.token_saying(&json!({"sub": "alice", "aud": "shop"})),
        ),
        bearing("alg none", &with_header(r#"{"alg":"none"}"#)),
        bearing("alg HS256", &with_header(r#"{"alg":"HS256"}"#)),
        bearing("alg missing", &with_header(r#"{"kid":"first"}"#)),
        bearing(
            "another kid",
            &with_header(r#"{"alg":"ES256","kid":"other"}"#),
        ),
        bearing("kid as number", &with_header(r#"{"alg":"ES256","kid":1}"#)),
        bearing("no signature", &format!("{start}.")),
        bearing("cut", &format!("{start}.{}", &signature[..40])),
        bearing("two parts", start),
        bearing("four parts", &format!("{alice}.x")),
        bearing("no token at all", "nonsense"),
        bearing("spoiled", &alice.replacen('.', ".x", 1)),
        plain(
            "spoiled in the query",
            "/a?access_token=a.b.c".to_owned(),
            None,
        ),
    ]
}

async fn send(caller: &Caller, host: &str, case: &Case) -> Reply {
    let mut request = Request::get(&case.path)
        .header(HOST, host)
        .header("x-user", "forged");
    if let Some(authorization) = &case.authorization {
        request = request.header("authorization", authorization);
    }
    caller
        .send(request.body(Full::<Bytes>::default()).unwrap())
        .await
}

fn documents(keys: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens}}\nspec:\n  \
         jwtRules:\n  - issuer: {NAME}\n    audiences: [shop]\n    {keys}\n    outputPayloadToHeader: x-payload\n    \
         outputClaimToHeaders: [{{header: x-user, claim: sub}}]\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: principals}}\nspec:\n  rules:\n  \
         - from: [{{source: {{requestPrincipals: [\"{NAME}/alice\"]}}}}]\n  \
         - when: [{{key: \"request.auth.claims[groups]\", values: [staff]}}]\n  \
         - when: [{{key: \"request.auth.claims[scope]\", values: [write]}}]\n"
    )
}

/// What the application was told that a filter may have changed.
fn told(app: &TestApp) -> Option<(String, Vec<(String, String)>)> {
    let last = app.received().pop()?;
    let names = ["authorization", "x-user", "x-payload"];
    let headers = names.iter().flat_map(|name| {
        let values = last.headers.get_all(*name).iter();
        values.map(|value| ((*name).to_owned(), value.to_str().unwrap().to_owned()))
    });
    Some((last.path.clone(), headers.collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_and_an_envoy_say_the_same_of_every_token() {
    let mesh = Mesh::start().await;
    let (of_ours, of_envoy) = (TestApp::start("ours").await, TestApp::start("envoys").await);
    let Some(envoy) = EnvoyMember::start(&mesh, "envoys", Some(&of_envoy), &[]).await else {
        return;
    };
    let _ours = mesh.service("ours").app(&of_ours).start().await;
    let web = mesh.service("web").start().await;
    let (issuer, other) = (Issuer::start(NAME).await, Issuer::start(NAME).await);
    let server = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: idp}}\nspec:\n  \
         hosts: [idp.example.com]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
         endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]\n---\n",
        issuer.address().port()
    );
    let inline = documents(&format!("jwks: '{}'", issuer.jwks()));
    let by_url = server + &documents("jwksUri: http://idp.example.com/keys");
    for (documents, what) in [(inline, "inline"), (by_url, "by URL")] {
        mesh.apply(&documents);
        let caller = web.caller();
        let good = issuer.token_saying(&json!({"sub": "alice", "aud": "shop"}));
        for host in ["ours:9080", "envoys:9080"] {
            eventually(&format!("{host} verifies, {what}"), async || {
                let bad = send(&caller, host, &bearing("", "a.b.c")).await;
                let good = send(&caller, host, &bearing("", &good)).await;
                (bad.status == 401 && good.status == 200)
                    .then_some(())
                    .ok_or_else(|| format!("{} {}\n{}", bad.text(), good.text(), envoy.log()))
            })
            .await;
        }
        for case in cases(&issuer, &other) {
            of_ours.forget();
            of_envoy.forget();
            let ours = send(&caller, "ours:9080", &case).await;
            let theirs = send(&caller, "envoys:9080", &case).await;
            let name = format!("{what}, {}", case.name);
            assert_eq!(
                ours.status,
                theirs.status,
                "{name}: {} {}",
                ours.text(),
                theirs.text()
            );
            assert_eq!(told(&of_ours), told(&of_envoy), "{name}");
            if ours.status == 401 {
                assert!(ours.headers.contains_key("www-authenticate"), "{name}");
                assert_eq!(
                    ours.headers.contains_key("www-authenticate"),
                    theirs.headers.contains_key("www-authenticate"),
                    "{name}"
                );
            }
        }
    }
    drop(envoy);
}
